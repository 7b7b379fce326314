//! What every warehouse must be able to say, and what all say alike.

use std::path::Path;

use arrow::datatypes::DataType;
use uuid::Uuid;

use crate::config::Secret;
use crate::error::Result;
use crate::warehouse::libraries::Library;

/// How one warehouse says what all of them are told.
pub trait Dialect: Send + Sync {
    fn library(&self) -> &'static Library;

    /// The driver's first function, where its file's name doesn't tell.
    fn entrypoint(&self) -> Option<&'static str>;

    /// What the driver is given to connect with. `place` is the target's, with its variables
    /// replaced.
    fn options(&self, place: String) -> Result<Vec<(String, Secret)>>;

    /// What a session begins with, beyond what the driver does. `run` marks what it writes.
    fn greetings(&self, _run: Uuid) -> Vec<String> {
        Vec::new()
    }

    /// The warehouse's version, an expression.
    fn version(&self) -> &'static str {
        "version()"
    }

    /// Type of a column, as the warehouse itself spells it; `None` if it has none of this kind.
    fn column_type(&self, data_type: &DataType) -> Option<String>;

    /// The same in a new table, where more may be said.
    fn declared(&self, data_type: &DataType) -> Option<String> {
        self.column_type(data_type)
    }

    /// Whether a column of decimals can be given more digits after the point.
    fn widens_scale(&self) -> bool {
        true
    }

    /// Query for the names and types of a table's columns, in order.
    fn columns_of(&self, schema: &str, table: &str) -> String;

    /// Query for the statement by which rows of a time are found without a look at all of them:
    /// none where the target does that by itself, no row where nothing is missing or may be made.
    fn index_of(&self, _schema: &str, _table: &str, _column: &str) -> Option<String> {
        None
    }

    /// The canonical text of a value that isn't null.
    fn text(&self, column: &str, data_type: &DataType) -> String;

    /// A column as it is fetched.
    fn fetched(&self, column: &str, _data_type: &DataType) -> String {
        column.to_owned()
    }

    /// The length of a text in bytes of UTF-8.
    fn octets(&self, text: &str) -> String;

    /// The first 60 bits of the text's MD5, as an integer.
    fn hash(&self, text: &str) -> String;

    /// Whether a value of floating point is neither infinite nor NaN; null of null.
    fn is_finite(&self, column: &str) -> String;

    /// A literal of a time zone's instant.
    fn instant(&self, micros: i64) -> String;

    /// Whether text may hold zero bytes.
    fn takes_zero_bytes(&self) -> bool;

    /// Query for what this user may not do and an export to these tables, of a schema each, must:
    /// the right in words, and the statement that gives it. The one named `updated` is updated, too.
    /// `None` where there are no such rights.
    fn missing_rights(&self, _tables: &[(String, String)], _updated: &str) -> Option<String> {
        None
    }

    /// Longer names are cut; `None` if there is no such end.
    fn name_bytes_max(&self) -> Option<usize> {
        None
    }

    /// How rows are loaded, unless the driver does it.
    fn copying(&self) -> Option<&dyn Copying> {
        None
    }

    /// A text literal.
    fn literal(&self, text: &str) -> String {
        literal(text)
    }

    /// A table's name within its schema.
    fn table(&self, schema: &str, table: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(table))
    }
}

/// Loading by Parquet files that the warehouse copies from a stage. Both are named within their
/// schema.
pub trait Copying: Sync {
    /// How a table of rows on their way begins.
    fn create_table(&self) -> &'static str;

    fn create_stage(&self, stage: &str) -> String;

    fn put(&self, file: &Path, stage: &str) -> String;

    /// Its result has a row per file: name, status, rows parsed, rows loaded.
    fn copy(&self, table: &str, stage: &str, files: &[&str]) -> String;

    fn drop_stage(&self, stage: &str) -> String;
}

/// An identifier exactly as it is, in standard SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal in standard SQL, in which a backslash is one.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A date literal of days since 1970.
pub fn date(day: i32) -> String {
    format!("(DATE '1970-01-01' + {day})")
}
