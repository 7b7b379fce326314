//! A time beside a text or a date is compared in microseconds. DataFusion 55.2 compares all three in
//! nanoseconds, which end in 2262: `valid_to < '9999-12-31'` could not be asked.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable};

/// What a comparison, BETWEEN or IN compares.
pub fn sides(expr: &mut Expr) -> Option<Vec<&mut Expr>> {
    Some(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            vec![&mut **left, &mut **right]
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            vec![&mut **expr, &mut **low, &mut **high]
        }
        Expr::InList(InList { expr, list, .. }) => {
            std::iter::once(&mut **expr).chain(list.iter_mut()).collect()
        }
        _ => return None,
    })
}

/// Casts texts and dates beside times. Before type coercion, which then has nothing left to do.
pub fn compared(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Some(mut sides) = sides(&mut expr) else { return Ok(Transformed::no(expr)) };
    // A parameter has no type yet.
    let types = sides.iter().map(|side| side.get_type(schema).unwrap_or(DataType::Null));
    let types: Vec<DataType> = types.collect();
    let zones = types.iter().filter_map(|of| match of {
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Nanosecond => Some(zone.clone()),
        _ => None,
    });
    let Some(zone) = zones.into_iter().next() else { return Ok(Transformed::no(expr)) };
    let is_other = |of: &DataType| matches!(of, DataType::Date32) || of.is_string();
    let mut is_changed = false;
    for (side, _) in sides.iter_mut().zip(&types).filter(|(_, of)| is_other(of)) {
        let target = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
        **side = cast(std::mem::take(&mut **side), target);
        is_changed = true;
    }
    Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}
