//! Differences of times, and intervals. DataFusion 55 compares them by months first, then days, then
//! the rest: 300 days between two times, which have no days of an interval, are then less than
//! `INTERVAL '1 day'`, and so are 25 hours. And parts that have no place in 32 bits are NULL.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::datetime::date_part;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, binary_expr, lit};

use super::far_times::sides;

const NANOS_A_SECOND: i64 = 1_000_000_000;
const NANOS_A_DAY: i64 = 86_400 * NANOS_A_SECOND;

/// Compares and takes apart durations exactly. Before type coercion, which makes intervals of them.
pub fn exact(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::ScalarFunction(call) = &expr {
        let part = part_of(call, schema);
        return Ok(part.map_or_else(|| Transformed::no(expr), Transformed::yes));
    }
    let sides: Vec<&mut Expr> = match &mut expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::IsDistinctFrom | Operator::IsNotDistinctFrom,
            right,
        }) => vec![&mut **left, &mut **right],
        other => match sides(other) {
            Some(sides) => sides,
            None => return Ok(Transformed::no(expr)),
        },
    };
    // A parameter has no type yet.
    let types = sides.iter().map(|side| side.get_type(schema).unwrap_or(DataType::Null));
    let types: Vec<DataType> = types.collect();
    let unit = types.iter().find_map(|of| match of {
        DataType::Duration(unit) => Some(*unit),
        _ => None,
    });
    if !types.iter().any(|of| matches!(of, DataType::Interval(_))) {
        return Ok(Transformed::no(expr));
    }
    let as_durations = unit.and_then(|unit| {
        sides
            .iter()
            .zip(&types)
            .map(|(side, of)| match of {
                DataType::Interval(_) => duration(side, unit),
                DataType::Duration(own) if *own != unit => None,
                _ => Some((**side).clone()),
            })
            .collect::<Option<Vec<Expr>>>()
    });
    match as_durations {
        Some(durations) => sides.into_iter().zip(durations).for_each(|(side, of)| *side = of),
        None => sides.into_iter().zip(&types).for_each(|(side, of)| *side = seconds(side, of)),
    }
    Ok(Transformed::yes(expr))
}

/// A literal interval of whole days and less.
fn duration(interval: &Expr, unit: TimeUnit) -> Option<Expr> {
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) = interval else {
        return None;
    };
    let nanos = i64::from(interval.days).checked_mul(NANOS_A_DAY)?;
    let nanos = nanos.checked_add(interval.nanoseconds)?;
    if interval.months != 0 || nanos % nanos_each(unit) != 0 {
        return None;
    }
    let count = Some(nanos / nanos_each(unit));
    Some(lit(match unit {
        TimeUnit::Second => ScalarValue::DurationSecond(count),
        TimeUnit::Millisecond => ScalarValue::DurationMillisecond(count),
        TimeUnit::Microsecond => ScalarValue::DurationMicrosecond(count),
        TimeUnit::Nanosecond => ScalarValue::DurationNanosecond(count),
    }))
}

fn nanos_each(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => NANOS_A_SECOND,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// As a double; a month of an interval has 30 days, as in PostgreSQL.
fn seconds(side: &Expr, of: &DataType) -> Expr {
    match of {
        DataType::Duration(unit) => {
            #[expect(clippy::cast_precision_loss, reason = "at most 10^9")]
            let each = (NANOS_A_SECOND / nanos_each(*unit)) as f64;
            cast(cast(side.clone(), DataType::Int64), DataType::Float64) / lit(each)
        }
        DataType::Interval(_) => date_part().call(vec![lit("epoch"), side.clone()]),
        _ => side.clone(),
    }
}

/// `extract(… FROM duration)`.
fn part_of(call: &ScalarFunction, schema: &DFSchema) -> Option<Expr> {
    if call.func.name() != date_part().name() {
        return None;
    }
    let [Expr::Literal(part, _), of] = call.args.as_slice() else { return None };
    let data_type = of.get_type(schema).ok()?;
    let DataType::Duration(unit) = &data_type else { return None };
    let part = part.try_as_str()??.to_ascii_lowercase();
    let (nanos, result) = match part.trim_end_matches('s') {
        "epoch" => return Some(seconds(of, &data_type)),
        "week" => (7 * NANOS_A_DAY, DataType::Int32),
        "day" => (NANOS_A_DAY, DataType::Int32),
        "hour" => (3_600 * NANOS_A_SECOND, DataType::Int32),
        "minute" => (60 * NANOS_A_SECOND, DataType::Int32),
        "second" => (NANOS_A_SECOND, DataType::Int64),
        "millisecond" => (1_000_000, DataType::Int64),
        "microsecond" => (1_000, DataType::Int64),
        "nanosecond" => (1, DataType::Int64),
        _ => return None,
    };
    let (count, each) = (cast(of.clone(), DataType::Int64), nanos_each(*unit));
    let parts = match nanos >= each {
        true => binary_expr(count, Operator::Divide, lit(nanos / each)),
        false => binary_expr(count, Operator::Multiply, lit(each / nanos)),
    };
    Some(cast(parts, result))
}
