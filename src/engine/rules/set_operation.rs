//! `EXCEPT ALL` and `INTERSECT ALL` count how often a row is there. DataFusion 55 plans them as anti
//! and semi joins, which only look whether it is (apache/datafusion#12955, #12956). So the rows of
//! both sides are numbered among their likes, and the number is one more column to compare.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{NullEquality, Result};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, Join, JoinType, LogicalPlan, LogicalPlanBuilder,
};
use datafusion::prelude::ident;

/// Of a row among its likes.
const LEFT: &str = "__occurrence_left";
const RIGHT: &str = "__occurrence_right";

/// Makes set operations with ALL count.
pub fn counted(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Join(join) if counts(&join) => Ok(Transformed::yes(numbered(join)?)),
        node => Ok(Transformed::no(node)),
    }
}

/// Whether it is an EXCEPT or INTERSECT: nothing else joins so.
pub fn is_set_operation(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftAnti | JoinType::LeftSemi)
        && join.null_equality == NullEquality::NullEqualsNull
}

/// Without ALL the left side is distinct, and then there is nothing to count, nor is there where it
/// was numbered before.
fn counts(join: &Join) -> bool {
    is_set_operation(join)
        && !matches!(*join.left, LogicalPlan::Distinct(Distinct::All(_)))
        && join.on.last().is_some_and(|(left, _)| *left != ident(LEFT))
}

fn numbered(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let mut on = join.on;
    on.push((ident(LEFT), ident(RIGHT)));
    let joined = LogicalPlan::Join(Join::try_new(
        Arc::new(with_number(&join.left, LEFT)?),
        Arc::new(with_number(&join.right, RIGHT)?),
        on,
        join.filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?);
    LogicalPlanBuilder::from(joined).project(columns)?.build()
}

fn with_number(plan: &Arc<LogicalPlan>, name: &str) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let number = row_number().partition_by(columns.clone()).build()?;
    let numbered = LogicalPlanBuilder::from(Arc::clone(plan)).window([number.clone()])?;
    let number = ident(number.schema_name().to_string()).alias(name);
    numbered.project(columns.into_iter().chain([number]))?.build()
}
