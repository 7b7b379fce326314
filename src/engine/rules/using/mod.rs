//! `JOIN … USING (k)` and NATURAL joins: `k` is the value of the side that has the row. DataFusion 55
//! takes the left side's, which is NULL where a RIGHT or FULL join found nothing there
//! (apache/datafusion#22881). `left.k` and `right.k` become the merged value; a statement that names
//! one of them by its table means what is no longer there, and is refused. What `k` and `*` are, it
//! finds out by the names of tables, so that is decided before it plans.

mod from;
mod names;
mod wildcard;

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Join, JoinConstraint, JoinType, LogicalPlan, Projection,
};

pub use self::from::Scope;
pub use self::names::resolve;

/// Merges the columns of USING where one side may be missing.
pub fn merged(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Join(join)
            if join.join_constraint == JoinConstraint::Using
                && matches!(join.join_type, JoinType::Right | JoinType::Full) =>
        {
            Ok(Transformed::yes(projected(join)?))
        }
        node => Ok(Transformed::no(node)),
    }
}

fn projected(join: Join) -> Result<LogicalPlan> {
    let (on, schema) = (join.on.clone(), Arc::clone(&join.schema));
    // Not once more when the plan is analyzed again.
    let join = LogicalPlan::Join(Join { join_constraint: JoinConstraint::On, ..join });
    let columns = schema.iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        let Some((left, right)) =
            on.iter().find(|(left, right)| *left == column || *right == column)
        else {
            return Ok(column);
        };
        let mut value = coalesce(vec![left.clone(), right.clone()]);
        if value.get_type(&schema).ok().as_ref() != Some(field.data_type()) {
            value = cast(value, field.data_type().clone());
        }
        Ok(value.alias_qualified(qualifier.cloned(), field.name()))
    });
    let columns = columns.collect::<Result<Vec<Expr>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(join))?))
}
