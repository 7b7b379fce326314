//! A subquery without a row is NULL, whatever its column may be. DataFusion 55.2 takes the value of
//! `(SELECT true FROM t WHERE …)` for one that is never NULL, because its column is not, and so
//! `… IS NULL` for false.

use std::sync::{Arc, LazyLock};

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, Subquery};

use super::itself::itself;

/// Says of the value of a subquery that it may be NULL.
pub fn nullable(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarSubquery(subquery) = expr else { return Ok(Transformed::no(expr)) };
    let fields = subquery.subquery.schema().fields();
    if fields.iter().any(|field| field.is_nullable()) || always_has_row(&subquery) {
        return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
    }
    static OR_NULL: LazyLock<ScalarUDF> = LazyLock::new(|| itself("or_null"));
    let columns = subquery.subquery.schema().iter().map(|(table, field)| {
        let column = Expr::Column(Column::new(table.cloned(), field.name()));
        OR_NULL.call(vec![column]).alias_qualified(table.cloned(), field.name())
    });
    let columns = columns.collect::<Vec<Expr>>();
    let plan =
        LogicalPlanBuilder::from(Arc::clone(&subquery.subquery)).project(columns)?.build()?;
    Ok(Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), ..subquery })))
}

/// A total has its row; how a correlated one is counted over no rows, the optimizer finds out by the
/// shape that it has.
fn always_has_row(subquery: &Subquery) -> bool {
    let mut plan = &*subquery.subquery;
    loop {
        match plan {
            LogicalPlan::Projection(node) => plan = &node.input,
            LogicalPlan::SubqueryAlias(node) => plan = &node.input,
            LogicalPlan::Aggregate(node) => return node.group_expr.is_empty(),
            _ => return false,
        }
    }
}
