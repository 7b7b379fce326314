//! A target's side of an export: what every kind of target does in its own way. Publishing,
//! comparing and narrowing are written once, above it.

use std::path::Path;
use std::time::Instant as Clock;

use async_trait::async_trait;
use uuid::Uuid;

use super::change::{Held, Move, Reason};
use super::compare::calendar::{Calendar, Proofs};
use super::compare::canonical::Proof;
use super::compare::keys::{Key, Row, Wanted};
use super::history::Entry;
use super::pair::{Keeper, Pair, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::RangeSet;
use crate::table::TableName;

/// A target of any kind, opened.
pub type Destination = Box<dyn Side>;

/// What a user may not do and an export must.
#[derive(Debug, Clone)]
pub struct MissingRight {
    pub right: String,
    /// The statement that cures it.
    pub given_by: String,
}

/// What a target holds of one table.
pub struct Holding {
    /// What is wrong with it as a whole, in words: other columns, a table or files that are gone.
    pub faults: Vec<String>,
    /// Of its rows; none if its columns are not those of the lake.
    pub proof: Option<Proof>,
}

impl Holding {
    /// Of a table whose rows are not to be looked at.
    pub fn faulty(faults: Vec<String>) -> Self {
        Self { faults, proof: None }
    }

    pub fn gone() -> Self {
        Self::faulty(vec!["the table is gone from the target".to_owned()])
    }
}

/// Columns that are not there as they should be, in words; names with types as the target spells
/// them.
pub fn column_faults<'a>(
    wanted: impl Iterator<Item = (&'a str, &'a str)>,
    found: impl Fn(&str) -> Option<&'a str>,
) -> Vec<String> {
    let others = wanted.filter_map(|(name, data_type)| {
        let other = found(name).unwrap_or("absent");
        (other != data_type).then(|| format!("column `{name}` is {other} in the target"))
    });
    others.collect()
}

/// What the second of two exports is told.
pub fn conflict(pair: &Pair<'_>) -> Error {
    let message = format!("another export wrote `{}` at the same time", pair.name());
    Error::new(ErrorKind::Conflict, message).hint("nothing was written; run again")
}

/// What each kind of target does in its own way; what is the same for all stands above it.
#[async_trait]
pub trait Side: Send + Sync {
    fn keeper(&self) -> &dyn Keeper;

    /// Of this process; marks what it writes.
    fn run(&self) -> Uuid;

    /// Makes what FlowGuard needs there, and drops what an earlier process abandoned.
    async fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// What is missing for exports of `tables`, as far as the target can tell beforehand.
    async fn missing_rights(&mut self, _tables: &[TableName]) -> Result<Vec<MissingRight>> {
        Ok(Vec::new())
    }

    /// The driver's file, if there is one.
    fn driver(&self) -> Option<&Path> {
        None
    }

    /// Does everything that an export does, to something of its own; the target's version.
    async fn test(&mut self) -> Result<String>;

    /// What the target's ledger says.
    async fn held(&mut self, pair: &Pair<'_>) -> Result<Option<Held>>;

    /// The place of rows, as the target calls it, that an export would replace although it did not
    /// put them there.
    async fn foreign_rows(&mut self, pair: &Pair<'_>) -> Result<Option<String>>;

    /// Makes the table fit the lake's columns; why it must be filled anew, if it must.
    async fn fit(&mut self, pair: &Pair<'_>) -> Result<Option<Reason>>;

    /// Moves the ledger to a version that brings no other rows.
    async fn advance(&mut self, pair: &Pair<'_>, moving: &Move<'_>) -> Result<()>;

    /// Loads rows aside, proves them, and puts them in place of the old ones together with the
    /// ledger and the history; how many.
    async fn apply(&mut self, source: &Source, pair: &Pair<'_>, moving: &Move<'_>) -> Result<u64>;

    /// Whether the table has the lake's columns, and then a proof of all its rows.
    async fn holding(&mut self, pair: &Pair<'_>) -> Result<Holding>;

    /// Proofs of the intervals that have rows, none if there are too many. No interval of the lake
    /// is straddled by a step of `width` microseconds.
    async fn interval_proofs(
        &mut self,
        pair: &Pair<'_>,
        calendar: &Calendar<'_>,
        width: i64,
    ) -> Result<Option<Proofs>>;

    /// Key and digest of every row within `ranges`.
    async fn digests(
        &mut self,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        key: &Key,
    ) -> Result<Vec<(u64, u64)>>;

    async fn rows(
        &mut self,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Row>>;

    /// Adds an entry to the history, beside any transaction of an export.
    async fn note(&mut self, entry: &Entry) -> Result<()>;

    /// The newest entries about `tables`, newest first.
    async fn history(&mut self, tables: &[TableName], limit: usize) -> Result<Vec<Entry>>;

    /// An entry of this process that holds no more than it must.
    fn entry(&self, what: &str, name: &TableName, began: Clock, outcome: &str) -> Entry {
        Entry {
            at: None,
            what: what.to_owned(),
            table: name.to_string(),
            version: None,
            run: self.run().to_string(),
            rows: 0,
            seconds: began.elapsed().as_secs_f64(),
            outcome: outcome.to_owned(),
            details: String::new(),
        }
    }

    /// The entry of an export that moved `rows`.
    fn done(&self, pair: &Pair<'_>, moving: &Move<'_>, rows: u64) -> Entry {
        Entry {
            version: Some(pair.snapshot.version()),
            rows,
            details: moving.change.to_string(),
            ..self.entry(moving.what, pair.name(), moving.began, super::history::DONE)
        }
    }
}
