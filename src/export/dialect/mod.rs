//! What warehouses write differently. Everything else about an export is the same for all.

mod duckdb;
mod postgresql;

use arrow::datatypes::{DataType, SchemaRef};

use super::canonical::is_float;
use crate::dag::DriverKind;
use crate::warehouse::libraries::Library;

pub trait Dialect: Send + Sync {
    fn library(&self) -> &'static Library;

    /// The driver's first function, where its file's name doesn't tell.
    fn entrypoint(&self) -> Option<&'static str>;

    /// The option under which the driver takes a target's place.
    fn place_option(&self) -> &'static str;

    /// Type of a column, as the warehouse itself spells it; `None` if it has none of this kind.
    fn column_type(&self, data_type: &DataType) -> Option<String>;

    /// Query for the names and types of a table's columns, in order.
    fn columns_of(&self, schema: &str, table: &str) -> String;

    /// The canonical text of a value that isn't null.
    fn text(&self, column: &str, data_type: &DataType) -> String;

    fn octets(&self, text: &str) -> String;

    /// The first 60 bits of the text's MD5, as an integer.
    fn hash(&self, text: &str) -> String;

    fn is_finite(&self, column: &str) -> String;

    /// A literal of a time zone's instant.
    fn instant(&self, micros: i64) -> String;

    /// Whether text may hold zero bytes.
    fn takes_zero_bytes(&self) -> bool;

    /// A table's name within its schema.
    fn table(&self, schema: &str, table: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(table))
    }
}

pub fn dialect(driver: DriverKind) -> &'static dyn Dialect {
    match driver {
        DriverKind::Duckdb => &duckdb::Duckdb,
        DriverKind::Postgresql => &postgresql::Postgresql,
    }
}

/// An identifier exactly as it is, in standard SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal in standard SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A date literal of days since 1970.
pub fn date(days: i64) -> String {
    format!("(DATE '1970-01-01' + {days})")
}

/// One row of texts: rows, hash, nulls of every column, and of floating point its sum, the sum of
/// its sizes, and how many are not finite. See [`super::canonical`].
pub fn proof_query(dialect: &dyn Dialect, table: &str, schema: &SchemaRef) -> String {
    let text = |expression: String| format!("CAST({expression} AS VARCHAR)");
    let mut outputs = vec![
        text("count(*)".to_owned()),
        text(format!("coalesce(sum({}), 0)", dialect.hash(&row_text(dialect, schema)))),
    ];
    for field in schema.fields() {
        outputs.push(text(format!("count(*) - count({})", quoted(field.name()))));
    }
    for field in schema.fields().iter().filter(|field| is_float(field.data_type())) {
        let column = quoted(field.name());
        let finite = dialect.is_finite(&column);
        let value = format!("CAST({column} AS DOUBLE PRECISION)");
        outputs.push(text(format!("coalesce(sum(CASE WHEN {finite} THEN {value} END), 0)")));
        outputs.push(text(format!("coalesce(sum(CASE WHEN {finite} THEN abs({value}) END), 0)")));
        outputs.push(text(format!("count(CASE WHEN NOT ({finite}) THEN 1 END)")));
    }
    format!("SELECT {} FROM {table}", outputs.join(", "))
}

/// The whole row's text.
fn row_text(dialect: &dyn Dialect, schema: &SchemaRef) -> String {
    let fields = schema.fields().iter().filter(|field| !is_float(field.data_type()));
    let parts: Vec<String> = fields
        .map(|field| {
            let column = quoted(field.name());
            let text = dialect.text(&column, field.data_type());
            let octets = dialect.octets(&text);
            format!(
                "CASE WHEN {column} IS NULL THEN 'N' ELSE CAST({octets} AS VARCHAR) || ':' || {text} END"
            )
        })
        .collect();
    if parts.is_empty() { "''".to_owned() } else { parts.join(" || ") }
}
