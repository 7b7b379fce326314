//! A number that is cast to a time counts seconds since 1970, whatever its type. DataFusion 55.2 counts
//! seconds of a BIGINT, and of other numbers the parts of a second that the time has; and it does not
//! know SQL's TIMESTAMP of [`super::types`] for one that it should count seconds for. `to_timestamp` of a
//! double that no time can be gives the nearest one, and 1970 of NaN: it is an error like a cast's.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::functions::datetime::to_timestamp_micros;
use datafusion::logical_expr::expr_fn::{cast, try_cast};
use datafusion::logical_expr::{Expr, ExprSchemable, lit};

/// As many places as microseconds need.
const SECONDS: DataType = DataType::Decimal128(38, 6);

/// Says of casts of numbers to times what they count. Before type coercion.
pub fn counted(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::ScalarFunction(call) = &mut expr
        && call.func.name() == "to_timestamp"
        && let [value] = call.args.as_mut_slice()
        && value.get_type(schema).is_ok_and(|of| of.is_floating())
    {
        *value = cast(std::mem::take(value), SECONDS);
        return Ok(Transformed::yes(expr));
    }
    let (value, target, convert): (_, _, fn(Expr, DataType) -> Expr) = match &mut expr {
        Expr::Cast(of) => (&mut of.expr, of.field.data_type().clone(), cast),
        Expr::TryCast(of) => (&mut of.expr, of.field.data_type().clone(), try_cast),
        _ => return Ok(Transformed::no(expr)),
    };
    let DataType::Timestamp(unit, zone) = target else { return Ok(Transformed::no(expr)) };
    // A parameter has no type yet.
    let of = value.get_type(schema).unwrap_or(DataType::Null);
    if of.is_integer() && unit != TimeUnit::Second {
        let seconds = DataType::Timestamp(TimeUnit::Second, zone);
        **value = convert(std::mem::take(&mut **value), seconds);
    } else if of.is_decimal() || of.is_floating() {
        let micros = convert(std::mem::take(&mut **value), SECONDS) * lit(1_000_000_i64);
        **value = to_timestamp_micros(&ConfigOptions::default())
            .call(vec![convert(micros, DataType::Int64)]);
    } else {
        return Ok(Transformed::no(expr));
    }
    Ok(Transformed::yes(expr))
}
