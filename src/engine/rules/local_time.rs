//! `CAST(t AT TIME ZONE 'Europe/Rome' AS TIMESTAMP)` is what clocks in Rome show. DataFusion 55.2
//! gives what clocks in UTC show.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::{Expr, ExprSchemable};

/// Casts of times with a zone to times without one give the zone's own. After type coercion.
pub fn localized(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
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
