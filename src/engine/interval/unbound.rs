//! Plans whose `$start` and `$end` are not known yet, and which parts of them depend on either.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::engine::coerced;

/// `plan` with `$start` and `$end` as instants that are not known yet, and every value cast to the
/// type that it is computed in.
pub fn unbound(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let typed = plan.transform_up_with_subqueries(|plan| {
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let typed = expr.transform_up(|expr| match expr {
                Expr::Placeholder(mut placeholder) => {
                    let field = Field::new(&placeholder.id, instant.clone(), false);
                    placeholder.field = Some(Arc::new(field));
                    Ok(Transformed::yes(Expr::Placeholder(placeholder)))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(typed.update_data(|expr| name.restore(expr)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })?;
    coerced(state, typed.data)
}

/// Whether the value of `expr` depends on `$start` or `$end`, in a subquery also.
pub(super) fn depends(expr: &Expr) -> bool {
    expr.exists(|expr| {
        Ok(match expr {
            Expr::Placeholder(_) => true,
            Expr::ScalarSubquery(subquery) => plan_depends(&subquery.subquery),
            Expr::InSubquery(within) => plan_depends(&within.subquery.subquery),
            Expr::Exists(exists) => plan_depends(&exists.subquery.subquery),
            Expr::SetComparison(compared) => plan_depends(&compared.subquery.subquery),
            _ => false,
        })
    })
    .unwrap_or(true)
}

/// As [`depends`], anywhere in a plan; true also where the plan cannot be looked through.
pub(super) fn plan_depends(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // Each expression looks into its own subqueries.
    let looked = plan.apply(|plan| {
        plan.apply_expressions(|expr| {
            found |= depends(expr);
            Ok(TreeNodeRecursion::Continue)
        })
    });
    found || looked.is_err()
}

/// `expr` over a node's output as an expression over its input, whose columns stand at the same
/// places under other names.
pub(super) fn renamed(expr: &Expr, from: &LogicalPlan, to: &LogicalPlan) -> Option<Expr> {
    replaced(expr, |column| {
        let at = from.schema().maybe_index_of_column(column)?;
        (at < to.schema().fields().len())
            .then(|| Expr::Column(Column::from(to.schema().qualified_field(at))))
    })
}

/// `expr` with each of its columns replaced, if all can be.
pub(super) fn replaced(expr: &Expr, mut by: impl FnMut(&Column) -> Option<Expr>) -> Option<Expr> {
    let mut complete = true;
    let done = expr.clone().transform_up(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        match by(column) {
            Some(other) => Ok(Transformed::yes(other)),
            None => {
                complete = false;
                Ok(Transformed::no(expr))
            }
        }
    });
    done.ok().filter(|_| complete).map(|done| done.data)
}
