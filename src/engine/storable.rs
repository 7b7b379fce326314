//! Which Arrow types of a query become which column types of a table, and the cast between them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::util::display::FormatOptions;

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

/// `batch` with exactly the columns of `schema`, by position, cast where only the form differs.
/// A value that does not fit is an error, never a null.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        cast_with_options(column, field.data_type(), &options).map_err(|source| {
            Error::invalid(format!(
                "a value of `{}` does not fit {}",
                field.name(),
                field.data_type()
            ))
            .source(source)
        })
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|source| {
        Error::invalid("a query gave a row that its table cannot hold").source(source)
    })
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
