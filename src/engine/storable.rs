//! Which Arrow types of a query become which column types of a table, and the cast between them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast, cast_with_options, max, min};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{FormatOptions, array_value_to_string};

use crate::error::{Error, Result};

/// The type a query's column is stored as, or why it cannot be.
pub fn storable_type(data_type: &DataType) -> std::result::Result<DataType, &'static str> {
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(_, _) => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Date64 => DataType::Date32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Dictionary(_, value) => storable_type(value)?,
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        DataType::Timestamp(_, None) => {
            return Err(
                "is a time without a zone; use a column or `$start`, which are UTC instants",
            );
        }
        DataType::Null => return Err("is always null; write CAST(NULL AS the type you mean)"),
        DataType::List(item) => DataType::List(Arc::new(Field::new(
            "element",
            storable_type(item.data_type())?,
            item.is_nullable(),
        ))),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| {
                let stored = storable_type(field.data_type())?;
                Ok(Field::new(field.name(), stored, field.is_nullable()))
            });
            let fields: std::result::Result<Vec<Field>, &'static str> = fields.collect();
            DataType::Struct(fields?.into())
        }
        _ => return Err("has a type that Delta tables do not have; CAST it"),
    })
}

/// `batch` with exactly the columns of `schema`, by position. Where a type differs in more than its
/// form, every value must come back from it as it was; one that does not is an error, never a null
/// and never another value.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        let wanted = field.data_type();
        if column.data_type() == wanted {
            return Ok(Arc::clone(column));
        }
        let cast = match is_same_value(column.data_type(), wanted) {
            true => cast_or_fail(column, wanted),
            false => cast_exactly(column, wanted),
        };
        cast.map_err(|source| {
            let (name, found) = (field.name(), column.data_type());
            Error::invalid(format!("a value of `{name}`, which is {found}, does not fit {wanted}"))
                .hint("CAST it in the query, to the type that it should have")
                .source(source)
        })
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    // Rows may have no columns at all.
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|source| {
        Error::invalid("a query gave a row that its table cannot hold").source(source)
    })
}

/// Whether two types hold the same values, in another form or range. Times are kept to the
/// microsecond, which is what a timestamp is here.
fn is_same_value(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct};
    let same = |one: &FieldRef, other: &FieldRef| is_same_value(one.data_type(), other.data_type());
    match (plain_type(found), plain_type(wanted)) {
        (List(one), List(other)) | (LargeList(one), LargeList(other)) => same(&one, &other),
        (FixedSizeList(one, n), FixedSizeList(other, m)) => n == m && same(&one, &other),
        (Map(one, _), Map(other, _)) => same(&one, &other),
        (Struct(one), Struct(other)) => {
            one.len() == other.len() && one.iter().zip(&other).all(|(a, b)| same(a, b))
        }
        (one, other) => {
            let stored = |plain| storable_type(&plain).unwrap_or(plain);
            stored(one) == stored(other)
        }
    }
}

fn cast_or_fail(column: &ArrayRef, to: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    cast_with_options(column, to, &options)
}

fn cast_exactly(column: &ArrayRef, to: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    let cast = cast_or_fail(column, to)?;
    let back = cast_or_fail(&cast, column.data_type())?;
    match distinct(column, &back)?.values().set_indices().next() {
        None => Ok(cast),
        Some(row) => {
            let value = array_value_to_string(column, row)?;
            Err(ArrowError::CastError(format!("{value} would be changed")))
        }
    }
}

/// The plain form of a query's result, for people, files and clients: dictionaries and views
/// unpacked, inside of lists and structs too.
pub fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|field| plain_field(field)).collect::<Vec<_>>(),
    ))
}

fn plain_field(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), field.is_nullable())
}

fn plain_type(data_type: &DataType) -> DataType {
    let item = |field: &FieldRef| Arc::new(plain_field(field));
    match data_type {
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, value) => plain_type(value.data_type()),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) | DataType::ListView(field) => DataType::List(item(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => {
            DataType::LargeList(item(field))
        }
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(item(field), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        DataType::Map(entries, sorted) => DataType::Map(item(entries), *sorted),
        other => other.clone(),
    }
}

/// Fails at a time that text cannot say: beyond about ±262,000 years, which integers can hold.
pub fn check_times(batch: &RecordBatch) -> Result<()> {
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        check_times_of(column).map_err(|what| {
            Error::invalid(format!("column `{}` holds {what}, which is no time", field.name()))
                .hint("leave it out, or write it to Parquet or Arrow, where it stays a number")
        })?;
    }
    Ok(())
}

fn check_times_of(column: &ArrayRef) -> std::result::Result<(), String> {
    use arrow::array::make_array;
    let seconds_each = match column.data_type() {
        DataType::Timestamp(unit, _) => Ratio::Per(match unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        }),
        DataType::Date32 => Ratio::Times(86_400),
        DataType::Date64 => Ratio::Per(1_000),
        _ => {
            let data = column.to_data();
            let mut children = data.child_data().iter();
            return children.try_for_each(|child| check_times_of(&make_array(child.clone())));
        }
    };
    let numbers = match column.data_type() {
        DataType::Date32 => {
            cast(column, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64))
        }
        _ => cast(column, &DataType::Int64),
    };
    let numbers = numbers.map_err(|error| error.to_string())?;
    let numbers = numbers.as_primitive::<Int64Type>();
    let is_told = |number: i64| {
        let seconds = match seconds_each {
            Ratio::Per(parts) => number.div_euclid(parts),
            Ratio::Times(seconds) => number.saturating_mul(seconds),
        };
        chrono::DateTime::from_timestamp(seconds, 0).is_some()
    };
    let ends = [min(numbers), max(numbers)];
    match ends.into_iter().flatten().find(|number| !is_told(*number)) {
        Some(number) => Err(format!("{number} ({})", column.data_type())),
        None => Ok(()),
    }
}

/// How many of a number make a second, or the other way round.
enum Ratio {
    Per(i64),
    Times(i64),
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, DictionaryArray, Float64Array, Int64Array, StringArray, StringViewArray,
        UInt64Array,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    fn conformed(column: ArrayRef, wanted: DataType) -> std::result::Result<ArrayRef, String> {
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("a", wanted, true)]));
        let conformed = conform(&batch, &schema).map_err(|error| error.message)?;
        Ok(Arc::clone(conformed.column(0)))
    }

    fn int(values: impl Into<Int64Array>) -> ArrayRef {
        Arc::new(values.into())
    }

    fn double(values: impl Into<Float64Array>) -> ArrayRef {
        Arc::new(values.into())
    }

    #[test]
    fn only_the_form_of_a_value_changes() {
        let texts = ["a", "b"];
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let views = Arc::new(StringViewArray::from_iter_values(texts));
        let dictionary: DictionaryArray<Int32Type> = texts.into_iter().collect();
        assert_eq!(&conformed(views, DataType::Utf8).unwrap(), &text);
        assert_eq!(&conformed(Arc::new(dictionary), DataType::Utf8).unwrap(), &text);
        let unsigned = Arc::new(UInt64Array::from(vec![Some(7), None]));
        assert_eq!(&conformed(unsigned, DataType::Int64).unwrap(), &int(vec![Some(7), None]));
    }

    #[test]
    fn a_value_that_survives_another_type_may_take_it() {
        let whole = double(vec![Some(2.0), None]);
        assert_eq!(&conformed(whole.clone(), DataType::Int64).unwrap(), &int(vec![Some(2), None]));
        assert_eq!(&conformed(int(vec![Some(2), None]), DataType::Float64).unwrap(), &whole);
    }

    #[test]
    fn a_fraction_was_cut_off() {
        let decimal = Decimal128Array::from(vec![250]).with_precision_and_scale(3, 2).unwrap();
        let cases: [(ArrayRef, DataType); 8] = [
            (double(vec![2.0, 2.5]), DataType::Int64),
            (double(vec![f64::NAN]), DataType::Int64),
            (double(vec![0.1]), DataType::Float32),
            (double(vec![0.125]), DataType::Decimal128(10, 2)),
            (Arc::new(decimal), DataType::Int64),
            (int(vec![(1 << 53) + 1]), DataType::Float64),
            (int(vec![1 << 40]), DataType::Int32),
            (Arc::new(UInt64Array::from(vec![u64::MAX])), DataType::Int64),
        ];
        for (column, wanted) in cases {
            let found = column.data_type().clone();
            let error = conformed(column, wanted.clone()).unwrap_err();
            let expected = format!("a value of `a`, which is {found}, does not fit {wanted}");
            assert_eq!(error, expected);
        }
    }
}
