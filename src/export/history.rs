//! What became of exports and comparisons: a table beside the target's ledger, so that everybody
//! who exports to the target or compares it reads and writes the same. An export's entry is
//! published in one transaction with its rows. Targets of files write entries as JSON.

use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::interval::Instant;

/// The table of entries, beside the ledger.
pub const HISTORY: &str = "history";
/// Entries are kept for so long.
pub const DAYS_MAX: i64 = 400;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// As the target's clock has it; none before it is written.
    #[serde(serialize_with = "write_instant", deserialize_with = "read_instant")]
    pub at: Option<Instant>,
    /// [`EXPORT`], [`REPAIR`] or [`PARITY`].
    pub what: String,
    /// In the lake.
    pub table: String,
    pub version: Option<u64>,
    /// Of the process that did it.
    pub run: String,
    /// Moved or compared.
    pub rows: u64,
    pub seconds: f64,
    /// [`DONE`] or [`FAILED`]; of a comparison [`EQUAL`] or [`DIFFERENT`].
    pub outcome: String,
    /// What was moved, what differed, or why it failed.
    pub details: String,
}

/// What was done: an export, a repair of differences, or a comparison.
pub const EXPORT: &str = "export";
pub const REPAIR: &str = "repair";
pub const PARITY: &str = "parity";

/// What became of it: an export is done or has failed, what a comparison found is equal or
/// different.
pub const DONE: &str = "done";
pub const FAILED: &str = "failed";
pub const EQUAL: &str = "equal";
pub const DIFFERENT: &str = "different";

fn write_instant<S: Serializer>(at: &Option<Instant>, into: S) -> Result<S::Ok, S::Error> {
    at.map(|at| at.to_string()).serialize(into)
}

fn read_instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Instant>, D::Error> {
    let text = String::deserialize(from)?;
    Ok(Instant::parse(&text, Tz::UTC).ok())
}
