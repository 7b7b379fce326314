//! The table of the target's history: statements that make, fill, prune and read it. Runs none.

use arrow::datatypes::{DataType, TimeUnit};

use super::dialect::Dialect;
use crate::export::history::{DAYS_MAX, Entry};
use crate::interval::{Instant, MICROS_PER_DAY};

/// Longer details are cut.
const DETAILS_CHARS_MAX: usize = 1_000;

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Of an instant, in the target's words.
pub fn time_type(dialect: &dyn Dialect) -> String {
    dialect.declared(&instant()).unwrap_or_default()
}

/// Makes the table, if it is not there.
pub fn create(dialect: &dyn Dialect, table: &str) -> String {
    let text = dialect.declared(&DataType::Utf8).unwrap_or_default();
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (happened_at {} NOT NULL, \
         what {text} NOT NULL, table_name {text} NOT NULL, version BIGINT, run {text} NOT NULL, \
         row_count BIGINT NOT NULL, seconds DOUBLE PRECISION NOT NULL, outcome {text} NOT NULL, \
         details {text} NOT NULL)",
        time_type(dialect)
    )
}

/// Forgets what is too old for a run that began at `now`.
pub fn prune(dialect: &dyn Dialect, table: &str, now: Instant) -> String {
    let oldest = dialect.instant(now.0.saturating_sub(DAYS_MAX * MICROS_PER_DAY));
    format!("DELETE FROM {table} WHERE happened_at < {oldest}")
}

/// Adds an entry, at the time of the target.
pub fn insert(dialect: &dyn Dialect, table: &str, entry: &Entry) -> String {
    // Some warehouses keep no zero bytes, which a driver's words may hold.
    let details = entry.details.chars().filter(|c| *c != '\0').take(DETAILS_CHARS_MAX);
    let version = entry.version.map_or("NULL".to_owned(), |version| version.to_string());
    format!(
        "INSERT INTO {table} VALUES (CURRENT_TIMESTAMP, {}, {}, {version}, {}, {}, {:.3}, {}, {})",
        dialect.literal(&entry.what),
        dialect.literal(&entry.table),
        dialect.literal(&entry.run),
        entry.rows,
        entry.seconds,
        dialect.literal(&entry.outcome),
        dialect.literal(&details.collect::<String>())
    )
}

/// The newest entries about `tables`, newest first, as [`entry`] reads them.
pub fn query(dialect: &dyn Dialect, table: &str, tables: &[String], limit: usize) -> String {
    let names: Vec<String> = tables.iter().map(|name| dialect.literal(name)).collect();
    format!(
        "SELECT {}, what, table_name, CAST(version AS VARCHAR), run, CAST(row_count AS VARCHAR), \
         CAST(seconds AS VARCHAR), outcome, details FROM {table} WHERE table_name IN ({}) \
         ORDER BY happened_at DESC LIMIT {limit}",
        dialect.text("happened_at", &instant()),
        names.join(", ")
    )
}

/// A row of [`query`]; `None` if it is none.
pub fn entry(row: &[Option<String>]) -> Option<Entry> {
    let [at, what, table, version, run, rows, seconds, outcome, details] = row else { return None };
    Some(Entry {
        at: Some(Instant(at.as_ref()?.parse().ok()?)),
        what: what.clone()?,
        table: table.clone()?,
        version: version.as_ref().map(|text| text.parse()).transpose().ok()?,
        run: run.clone()?,
        rows: rows.as_ref()?.parse().ok()?,
        seconds: seconds.as_ref()?.parse().ok()?,
        outcome: outcome.clone()?,
        details: details.clone()?,
    })
}
