//! Constants that are long, such as `repeat('x', 1000000)` once it was computed. DataFusion repeats one
//! for every row of a batch, which counts to no statement's memory.

use std::sync::{Arc, LazyLock};

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Case, Expr, LogicalPlan, ScalarUDF};
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
        let is_column = match plan {
            LogicalPlan::Projection(_) => |_: &Expr| true,
            // Of a total, what it is of.
            LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => |expr: &Expr| !is_call(expr),
            _ => return Ok(Transformed::no(plan)),
        };
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = if is_column(&expr) { bounded(expr) } else { of_total(expr)? };
            Ok(rewritten.update_data(|expr| name.restore(expr)))
        })
    }
}

fn is_call(expr: &Expr) -> bool {
    let mut expr = expr;
    while let Expr::Alias(alias) = expr {
        expr = &alias.expr;
    }
    matches!(expr, Expr::AggregateFunction(_) | Expr::WindowFunction(_))
}

fn of_total(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_down(|part| {
        let (mut part, mut is_changed) = (part, false);
        let args = match &mut part {
            Expr::AggregateFunction(total) => total.params.args.first_mut(),
            Expr::WindowFunction(total) => total.params.args.first_mut(),
            _ => None,
        };
        if let Some(arg) = args {
            let value = bounded(std::mem::take(arg));
            is_changed = value.transformed;
            *arg = value.data;
        }
        Ok(if is_changed { Transformed::yes(part) } else { Transformed::no(part) })
    })
}

/// Whatever is a value of its own; an argument stays one value.
fn bounded(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::Alias(mut alias) => {
            let expr = bounded(*alias.expr);
            alias.expr = Box::new(expr.data);
            Transformed::new(Expr::Alias(alias), expr.transformed, expr.tnr)
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let mut is_changed = false;
            let mut each = |value: Box<Expr>| {
                let value = bounded(*value);
                is_changed |= value.transformed;
                Box::new(value.data)
            };
            let when_then_expr =
                when_then_expr.into_iter().map(|(when, then)| (when, each(then))).collect();
            let else_expr = else_expr.map(&mut each);
            let case = Expr::Case(Case { expr, when_then_expr, else_expr });
            if is_changed { Transformed::yes(case) } else { Transformed::no(case) }
        }
        Expr::Literal(value, metadata) if is_long(&value) => {
            static BOUNDED: LazyLock<Arc<ScalarUDF>> =
                LazyLock::new(|| Arc::new(itself("constant")));
            Transformed::yes(BOUNDED.call(vec![Expr::Literal(value, metadata)]))
        }
        expr => Transformed::no(expr),
    }
}

fn is_long(value: &ScalarValue) -> bool {
    let may_be = !value.data_type().is_primitive();
    may_be && value.size() > BYTES_MIN
}
