//! Constants that are long, such as `repeat('x', 1000000)` once it was computed. DataFusion repeats one
//! for every row of a batch, which counts to no statement's memory.

use std::sync::{Arc, LazyLock};

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::itself::itself;

/// Shorter ones may be in every row of a batch.
const BYTES_MIN: usize = 16 << 10;

/// Refuses columns of them that are too much for one batch, when it is there.
#[derive(Debug)]
pub struct LongConstants;

impl OptimizerRule for LongConstants {
    fn name(&self) -> &str {
        "long_constants"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if !matches!(
            plan,
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)
        ) {
            return Ok(Transformed::no(plan));
        }
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(bounded(expr).update_data(|expr| name.restore(expr)))
        })
    }
}

/// Whatever is a value of its own, or what a total is of; any other argument stays one value.
fn bounded(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::Alias(mut alias) => {
            let is_changed = bound(&mut alias.expr);
            Transformed::new_transformed(Expr::Alias(alias), is_changed)
        }
        Expr::Case(mut case) => {
            let mut is_changed = case.else_expr.as_deref_mut().is_some_and(bound);
            for (_, then) in &mut case.when_then_expr {
                is_changed |= bound(then);
            }
            Transformed::new_transformed(Expr::Case(case), is_changed)
        }
        Expr::AggregateFunction(mut total) => {
            let is_changed = total.params.args.first_mut().is_some_and(bound);
            Transformed::new_transformed(Expr::AggregateFunction(total), is_changed)
        }
        Expr::WindowFunction(mut total) => {
            let is_changed = total.params.args.first_mut().is_some_and(bound);
            Transformed::new_transformed(Expr::WindowFunction(total), is_changed)
        }
        Expr::Literal(value, metadata) if is_long(&value) => {
            static BOUNDED: LazyLock<Arc<ScalarUDF>> =
                LazyLock::new(|| Arc::new(itself("constant")));
            Transformed::yes(BOUNDED.call(vec![Expr::Literal(value, metadata)]))
        }
        expr => Transformed::no(expr),
    }
}

/// The same in its place; whether it changed.
fn bound(expr: &mut Expr) -> bool {
    let value = bounded(std::mem::take(expr));
    *expr = value.data;
    value.transformed
}

fn is_long(value: &ScalarValue) -> bool {
    let may_be = !value.data_type().is_primitive();
    may_be && value.size() > BYTES_MIN
}
