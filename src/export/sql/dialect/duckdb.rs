//! DuckDB: a file, in process.

use arrow::datatypes::{DataType, TimeUnit};

use super::words::{Dialect, literal};
use crate::config::Secret;
use crate::error::Result;
use crate::warehouse::libraries::{DUCKDB, Library};

/// A file of its own, written by this process alone.
pub struct Duckdb;

impl Dialect for Duckdb {
    fn library(&self) -> &'static Library {
        &DUCKDB
    }

    fn entrypoint(&self) -> Option<&'static str> {
        Some("duckdb_adbc_init")
    }

    fn options(&self, place: String) -> Result<Vec<(String, Secret)>> {
        Ok(vec![("path".to_owned(), Secret::new(place))])
    }

    fn column_type(&self, data_type: &DataType) -> Option<String> {
        Some(match data_type {
            DataType::Boolean => "BOOLEAN".to_owned(),
            DataType::Int8 => "TINYINT".to_owned(),
            DataType::Int16 => "SMALLINT".to_owned(),
            DataType::Int32 => "INTEGER".to_owned(),
            DataType::Int64 => "BIGINT".to_owned(),
            DataType::Float32 => "FLOAT".to_owned(),
            DataType::Float64 => "DOUBLE".to_owned(),
            DataType::Utf8 => "VARCHAR".to_owned(),
            DataType::Binary => "BLOB".to_owned(),
            DataType::Date32 => "DATE".to_owned(),
            DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                "TIMESTAMP WITH TIME ZONE".to_owned()
            }
            _ => return None,
        })
    }

    fn columns_of(&self, schema: &str, table: &str) -> String {
        format!(
            "SELECT column_name, data_type FROM duckdb_columns() \
             WHERE database_name = current_database() AND schema_name = {} AND table_name = {} \
             ORDER BY column_index",
            literal(schema),
            literal(table)
        )
    }

    fn text(&self, column: &str, data_type: &DataType) -> String {
        match data_type {
            DataType::Utf8 => column.to_owned(),
            DataType::Binary => format!("lower(hex({column}))"),
            DataType::Date32 => format!("CAST({column} - DATE '1970-01-01' AS VARCHAR)"),
            DataType::Timestamp(_, _) => format!("CAST(epoch_us({column}) AS VARCHAR)"),
            // Without a digit before the point DuckDB writes none.
            DataType::Decimal128(precision, scale)
                if i16::from(*precision) == i16::from(*scale) =>
            {
                let text = format!("CAST({column} AS VARCHAR)");
                format!(
                    "CASE WHEN {column} < 0 THEN '-0' || substr({text}, 2) ELSE '0' || {text} END"
                )
            }
            _ => format!("CAST({column} AS VARCHAR)"),
        }
    }

    fn octets(&self, text: &str) -> String {
        format!("strlen({text})")
    }

    fn hash(&self, text: &str) -> String {
        format!("CAST('0x' || substr(md5({text}), 1, 15) AS BIGINT)")
    }

    fn is_finite(&self, column: &str) -> String {
        format!("isfinite({column})")
    }

    fn instant(&self, micros: i64) -> String {
        format!("make_timestamptz(CAST({micros} AS BIGINT))")
    }

    fn takes_zero_bytes(&self) -> bool {
        true
    }
}
