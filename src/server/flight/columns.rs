//! What schemas tell clients beside Arrow's types: SQL's name of a type, precision and scale, and
//! for columns of tables where they belong and what their model says of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow_flight::{IpcMessage, SchemaAsIpc};
use bytes::Bytes;

use crate::engine::CATALOG;
use crate::error::{Error, Result};
use crate::statements::{COMMENT_KEY, Parameter, TableEntry};

const CATALOG_NAME: &str = "ARROW:FLIGHT:SQL:CATALOG_NAME";
const SCHEMA_NAME: &str = "ARROW:FLIGHT:SQL:SCHEMA_NAME";
const TABLE_NAME: &str = "ARROW:FLIGHT:SQL:TABLE_NAME";
const TYPE_NAME: &str = "ARROW:FLIGHT:SQL:TYPE_NAME";
const PRECISION: &str = "ARROW:FLIGHT:SQL:PRECISION";
const SCALE: &str = "ARROW:FLIGHT:SQL:SCALE";
const IS_AUTO_INCREMENT: &str = "ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT";
const IS_READ_ONLY: &str = "ARROW:FLIGHT:SQL:IS_READ_ONLY";
/// The JDBC driver shows it instead of the name where a result has it, so only tables do.
const REMARKS: &str = "ARROW:FLIGHT:SQL:REMARKS";

/// The schema of a result as it is promised and streamed.
pub fn result_schema(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_metadata(type_metadata(field.data_type())));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The schema of a table in the catalog.
pub fn table_schema(table: &TableEntry, schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let mut metadata = type_metadata(field.data_type());
        metadata.insert(CATALOG_NAME.to_owned(), CATALOG.to_owned());
        metadata.insert(SCHEMA_NAME.to_owned(), table.name.layer.to_string());
        metadata.insert(TABLE_NAME.to_owned(), table.name.name().to_owned());
        metadata.insert(IS_AUTO_INCREMENT.to_owned(), "0".to_owned());
        metadata.insert(IS_READ_ONLY.to_owned(), "1".to_owned());
        if let Some(comment) = field.metadata().get(COMMENT_KEY) {
            metadata.insert(COMMENT_KEY.to_owned(), comment.clone());
            metadata.insert(REMARKS.to_owned(), comment.clone());
        }
        field.as_ref().clone().with_metadata(metadata)
    });
    let of_table: HashMap<String, String> =
        table.doc.iter().map(|doc| (COMMENT_KEY.to_owned(), doc.clone())).collect();
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), of_table)
}

/// A parameter that may be of any type is told to be text, which every client can send.
pub fn parameter_schema(parameters: &[Parameter]) -> Schema {
    let fields = parameters.iter().map(|parameter| {
        let data_type = parameter.data_type.clone().unwrap_or(DataType::Utf8);
        let plain = match data_type {
            DataType::Utf8View => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            DataType::Dictionary(_, value) => *value,
            // The JDBC driver writes milliseconds, whatever unit it is told.
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone),
            other => other,
        };
        Field::new(&parameter.name, plain, true)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// As messages of Flight carry a schema.
pub fn ipc_schema(schema: &Schema) -> Result<Bytes> {
    let options = arrow::ipc::writer::IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|source| Error::internal("a schema cannot be encoded").source(source))?;
    Ok(bytes)
}

fn type_metadata(data_type: &DataType) -> HashMap<String, String> {
    let mut metadata = HashMap::from([(TYPE_NAME.to_owned(), type_name(data_type).to_owned())]);
    if let DataType::Decimal32(precision, scale)
    | DataType::Decimal64(precision, scale)
    | DataType::Decimal128(precision, scale)
    | DataType::Decimal256(precision, scale) = data_type
    {
        metadata.insert(PRECISION.to_owned(), precision.to_string());
        metadata.insert(SCALE.to_owned(), scale.to_string());
    }
    metadata
}

/// SQL's name of a type, as the list of types has it.
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INTEGER UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "VARBINARY",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL",
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "DECIMAL",
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => "ARRAY",
        DataType::Struct(_) => "STRUCT",
        DataType::Map(..) => "MAP",
        DataType::Union(..) => "UNION",
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
    }
}
