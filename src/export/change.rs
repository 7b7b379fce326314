//! What an export must move: the difference between the version that a target holds and the newest,
//! as the lake's own log tells it. When the log doesn't, everything.

use std::fmt;
use std::time::Instant as Clock;

use crate::error::Result;
use crate::interval::RangeSet;
use crate::lake::ledger::ranges_of;
use crate::lake::{self, Snapshot};
use crate::model::Model;

/// What a target says that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The table's identity in the lake: one that was made anew has another.
    pub table_id: String,
    pub version: u64,
}

/// What an export must move.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The rows are the same.
    None,
    /// Rows within these ranges of the table's time.
    Ranges(RangeSet),
    /// All rows, whatever the target has.
    Whole(Reason),
}

/// What one transaction brings to a target.
pub struct Move<'a> {
    /// What the ledger must still say for the transaction to go through.
    pub held: Option<&'a Held>,
    pub change: &'a Change,
    /// As the history calls it.
    pub what: &'static str,
    pub began: Clock,
}

impl Move<'_> {
    /// `None` replaces everything.
    pub fn ranges(&self) -> Option<&RangeSet> {
        match self.change {
            Change::Ranges(ranges) => Some(ranges),
            Change::None | Change::Whole(_) => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::None => f.write_str("nothing"),
            Change::Ranges(ranges) => {
                let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                f.write_str(&ranges.join(", "))
            }
            Change::Whole(reason) => write!(f, "everything: {}", reason.as_str()),
        }
    }
}

/// Why everything is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Asked,
    First,
    /// The table was dropped and made again, or goes back to an older version.
    Recreated,
    /// Log entries are gone, or not FlowGuard's.
    LogUnknown,
    /// Somebody dropped it.
    TargetGone,
    /// It has other columns than the lake's, and cannot be altered.
    Columns,
    /// The table's kind is always replaced or appended as a whole.
    Kind,
    /// Rows were replaced otherwise than by intervals.
    Rebuilt,
    /// The header says otherwise than the table's rows are laid out.
    Shape,
    /// Parity found a difference that no intervals hold.
    Differs,
}

impl Reason {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Asked => "asked for",
            Reason::First => "first export",
            Reason::Recreated => "the table was made anew",
            Reason::LogUnknown => "the log does not tell what changed",
            Reason::TargetGone => "the target has lost the table",
            Reason::Columns => "its columns changed",
            Reason::Kind => "the table is replaced whole",
            Reason::Rebuilt => "the table was rebuilt",
            Reason::Shape => "its header changed",
            Reason::Differs => "the table differed",
        }
    }
}

/// What was committed to the table since the version that a target holds.
pub async fn change_since(held: Option<&Held>, newest: &Snapshot, model: &Model) -> Result<Change> {
    let Some(held) = held else { return Ok(Change::Whole(Reason::First)) };
    if held.table_id != newest.id() || held.version > newest.version() {
        return Ok(Change::Whole(Reason::Recreated));
    }
    if held.version == newest.version() {
        return Ok(Change::None);
    }
    let since = held.version + 1;
    let ledgers = newest.ledgers(since).await?;
    if ledgers.len() as u64 != newest.version() + 1 - since {
        return Ok(Change::Whole(Reason::LogUnknown));
    }
    if model.every().is_some() {
        if newest.shape().is_some_and(|shape| shape != model.shape()) {
            return Ok(Change::Whole(Reason::Shape));
        }
        let changes = newest.changes(since).await?;
        let moving = || changes.values().filter(|change| change.moves_rows);
        let intervals = |change: &lake::entries::Change| {
            change.ledger.as_ref().map(|ledger| ledger.intervals.clone()).unwrap_or_default()
        };
        if moving().any(|change| intervals(change).is_empty()) {
            return Ok(Change::Whole(Reason::Rebuilt));
        }
        let moved: Vec<[i64; 2]> = moving().flat_map(intervals).collect();
        let is_none = moved.is_empty();
        return Ok(if is_none { Change::None } else { Change::Ranges(ranges_of(&moved)) });
    }
    let is_same = match model.topic() {
        Some(_) => ledgers.values().all(|ledger| ledger.rows == 0),
        None => model.is_replaced_whole() && is_same(newest, held.version).await?,
    };
    Ok(if is_same { Change::None } else { Change::Whole(Reason::Kind) })
}

/// Whether two versions of a table that is replaced whole hold the same rows.
async fn is_same(newest: &Snapshot, version: u64) -> Result<bool> {
    let ledgers = newest.ledgers(version).await?;
    // That of a build of some intervals says nothing of the other rows.
    let hash = |version: u64| {
        let ledger = ledgers.get(&version).filter(|ledger| ledger.intervals.is_empty());
        ledger.and_then(|ledger| ledger.output_hash.as_ref())
    };
    Ok(hash(version).is_some() && hash(version) == hash(newest.version()))
}
