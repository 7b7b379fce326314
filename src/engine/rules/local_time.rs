//! `CAST(t AT TIME ZONE 'Europe/Rome' AS TIMESTAMP)` is what clocks in Rome show. DataFusion 55.2
//! gives what clocks in UTC show.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Casts of times with a zone to times without one give the zone's own.
#[derive(Debug)]
pub struct LocalTimes;

impl AnalyzerRule for LocalTimes {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let local = expr.transform_up(|expr| localized(expr, &schema))?;
                Ok(local.update_data(|expr| name.restore(expr)))
            })
        })
        .map(|local| local.data)
    }

    fn name(&self) -> &str {
        "local_times"
    }
}

fn localized(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (value, target) = match &mut expr {
        Expr::Cast(cast) => (&mut cast.expr, cast.field.data_type()),
        Expr::TryCast(cast) => (&mut cast.expr, cast.field.data_type()),
        _ => return Ok(Transformed::no(expr)),
    };
    if !matches!(target, DataType::Timestamp(_, None)) {
        return Ok(Transformed::no(expr));
    }
    match value.get_type(schema)? {
        DataType::Timestamp(_, Some(zone)) if !matches!(&*zone, "UTC" | "+00:00") => {
            let local = to_local_time().call(vec![std::mem::take(&mut **value)]);
            **value = local;
            Ok(Transformed::yes(expr))
        }
        _ => Ok(Transformed::no(expr)),
    }
}
