//! Bounds in the log that are certainly bounds. The writer below puts every value through JSON and
//! some through narrower types; a bound that may have changed on the way is left out, since a reader
//! that trusts it loses rows. Computes no statistics.

use arrow::datatypes::{DataType, Schema};
use serde_json::Value;

/// Numbers below it survive a double and its text with all their digits.
const EXACT_MAX: f64 = 1e15;

/// A file's `stats` without the bounds of `columns` that are not certain.
pub fn certain(stats: &str, columns: &Schema) -> String {
    let Ok(mut parsed) = serde_json::from_str::<Value>(stats) else { return stats.to_owned() };
    for bounds in ["minValues", "maxValues"] {
        let Some(bounds) = parsed.get_mut(bounds).and_then(Value::as_object_mut) else { continue };
        bounds.retain(|name, bound| match columns.field_with_name(name) {
            Ok(field) => is_certain(bound, field.data_type()),
            Err(_) => true,
        });
    }
    parsed.to_string()
}

fn is_certain(bound: &Value, data_type: &DataType) -> bool {
    match data_type {
        // Computed as a double, or where nothing is behind the point as 64 bits that saturate.
        DataType::Decimal128(_, scale) => bound.as_f64().is_some_and(|number| {
            number.abs() * 10_f64.powi(i32::from((*scale).max(0))) < EXACT_MAX
        }),
        // Not a number is above every number, and in no bound.
        DataType::Float16 | DataType::Float32 | DataType::Float64 => false,
        // Years beyond four digits have a sign, which not every reader knows.
        DataType::Date32 | DataType::Timestamp(..) => bound
            .as_str()
            .is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit())),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, TimeUnit};

    #[test]
    fn a_bound_that_went_through_a_narrower_type_is_left_out() {
        let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = Schema::new(vec![
            Field::new("wide", DataType::Decimal128(18, 2), true),
            Field::new("whole", DataType::Decimal128(38, 0), true),
            Field::new("short", DataType::Decimal128(18, 2), true),
            Field::new("real", DataType::Float64, true),
            Field::new("at", at, true),
            Field::new("n", DataType::Int64, true),
        ]);
        let stats = r#"{"numRecords":2,"minValues":{"wide":90071992547409.92,"whole":9223372036854775807,"short":-12.5,"real":1.0,"at":"+10000-01-01T00:00:00.000Z","n":9223372036854775807},"maxValues":{"n":1},"nullCount":{"wide":0}}"#;
        assert_eq!(
            certain(stats, &columns),
            r#"{"maxValues":{"n":1},"minValues":{"n":9223372036854775807,"short":-12.5},"nullCount":{"wide":0},"numRecords":2}"#
        );
    }
}
