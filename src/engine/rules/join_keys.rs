//! Equalities of inner joins that must not be lost. DataFusion 55.2 joins the tables of nested inner
//! joins in an order of its own, by keys of which each side is of tables that are joined already or of
//! the one that follows. A key that is neither it drops: in `a CROSS JOIN b JOIN c ON a.x + b.x = c.x AND
//! a.y = c.y` the first, since `c` follows `a`, and any with a side that became a constant. No issue of
//! theirs was found.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, JoinType, NullEquality, Result};
use datafusion::logical_expr::utils::{can_hash, conjunction};
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan, Operator, binary_expr};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Makes conditions of keys that are not of two tables. What can be a key becomes one again later.
#[derive(Debug)]
pub struct JoinKeys;

impl OptimizerRule for JoinKeys {
    fn name(&self) -> &str {
        "join_keys"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(mut join) = plan else { return Ok(Transformed::no(plan)) };
        if join.join_type != JoinType::Inner || join.on.is_empty() {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let (left, right) = (tables(&join.left), tables(&join.right));
        let is_key = |(one, other): &(Expr, Expr)| {
            is_of_one(one, &left)
                && is_of_one(other, &right)
                && one.get_type(join.left.schema()).is_ok_and(|data_type| can_hash(&data_type))
        };
        let (keys, others): (Vec<_>, Vec<_>) = join.on.iter().cloned().partition(is_key);
        if others.is_empty() {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let same = |(one, other): (Expr, Expr)| match join.null_equality {
            NullEquality::NullEqualsNothing => one.eq(other),
            NullEquality::NullEqualsNull => binary_expr(one, Operator::IsNotDistinctFrom, other),
        };
        join.filter = conjunction(join.filter.into_iter().chain(others.into_iter().map(same)));
        join.on = keys;
        Ok(Transformed::yes(LogicalPlan::Join(join)))
    }
}

/// What nested inner joins join.
fn tables(plan: &LogicalPlan) -> Vec<&Arc<DFSchema>> {
    match plan {
        LogicalPlan::Join(Join { left, right, join_type: JoinType::Inner, .. }) => {
            [tables(left), tables(right)].concat()
        }
        plan => vec![plan.schema()],
    }
}

fn is_of_one(expr: &Expr, tables: &[&Arc<DFSchema>]) -> bool {
    let columns = expr.column_refs();
    let has_all = |table: &&Arc<DFSchema>| columns.iter().all(|c| table.is_column_from_schema(c));
    !columns.is_empty() && tables.iter().any(has_all)
}
