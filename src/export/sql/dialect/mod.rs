//! What warehouses write differently. Everything else about an export is the same for all.

mod duckdb;
mod postgresql;
mod snowflake;
mod words;

pub use snowflake::literal as snowflake_literal;
pub use words::{Copying, Dialect, date, quoted};

use arrow::datatypes::SchemaRef;

use crate::dag::DriverKind;
use crate::export::compare::canonical::is_float;

/// `None` for a target that is not asked by SQL.
pub fn dialect(driver: DriverKind) -> Option<&'static dyn Dialect> {
    match driver {
        DriverKind::Duckdb => Some(&duckdb::Duckdb),
        DriverKind::Postgresql => Some(&postgresql::Postgresql),
        DriverKind::Snowflake => Some(&snowflake::Snowflake),
        DriverKind::Files => None,
    }
}

/// Stands between the parts of a proof.
const BETWEEN: &str = " || ' ' || ";
/// Operands that stand side by side. More are nested: parsers go down a step for each, and have
/// an end.
const OPERANDS_MAX: usize = 100;

/// One text, of which the parts are separated by a space: rows, hash, nulls of every column, and of
/// floating point its sum, the sum of its sizes, and how many are not finite. See
/// [`crate::export::compare::canonical`]. One, because warehouses have an end of columns.
pub fn proof_query(dialect: &dyn Dialect, table: &str, schema: &SchemaRef) -> String {
    format!("SELECT {} FROM {table}", proof_outputs(dialect, schema))
}

/// The same for every value of `group`, which goes first, as a column of its own.
pub fn grouped_proof_query(
    dialect: &dyn Dialect,
    table: &str,
    schema: &SchemaRef,
    group: &str,
) -> String {
    format!("SELECT {group}, {} FROM {table} GROUP BY 1", proof_outputs(dialect, schema))
}

/// As [`proof_query`] without floating point, so that the text is the same on both sides.
pub fn exact_proof_query(dialect: &dyn Dialect, table: &str, schema: &SchemaRef) -> String {
    let outputs = concatenated(&exact_outputs(dialect, schema), BETWEEN);
    format!("SELECT {outputs} FROM {table}")
}

fn text(expression: &str) -> String {
    format!("CAST({expression} AS VARCHAR)")
}

fn exact_outputs(dialect: &dyn Dialect, schema: &SchemaRef) -> Vec<String> {
    let hash = dialect.hash(&row_text(dialect, schema));
    let mut outputs = vec![text("count(*)"), text(&format!("coalesce(sum({hash}), 0)"))];
    for field in schema.fields() {
        outputs.push(text(&format!("count(*) - count({})", quoted(field.name()))));
    }
    outputs
}

fn proof_outputs(dialect: &dyn Dialect, schema: &SchemaRef) -> String {
    let mut outputs = exact_outputs(dialect, schema);
    for field in schema.fields().iter().filter(|field| is_float(field.data_type())) {
        let column = quoted(field.name());
        let finite = dialect.is_finite(&column);
        let value = format!("CAST({column} AS DOUBLE PRECISION)");
        outputs.push(text(&format!("coalesce(sum(CASE WHEN {finite} THEN {value} END), 0)")));
        outputs.push(text(&format!("coalesce(sum(CASE WHEN {finite} THEN abs({value}) END), 0)")));
        outputs.push(text(&format!("count(CASE WHEN NOT ({finite}) THEN 1 END)")));
    }
    concatenated(&outputs, BETWEEN)
}

fn concatenated(parts: &[String], between: &str) -> String {
    if parts.len() <= OPERANDS_MAX {
        return parts.join(between);
    }
    let groups = parts.chunks(OPERANDS_MAX).map(|group| format!("({})", group.join(between)));
    concatenated(&groups.collect::<Vec<_>>(), between)
}

/// The whole row's text.
pub fn row_text(dialect: &dyn Dialect, schema: &SchemaRef) -> String {
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
    if parts.is_empty() { "''".to_owned() } else { concatenated(&parts, " || ") }
}
