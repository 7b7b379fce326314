//! Brings a target's table to the lake's newest version.

use std::time::Instant as Clock;

use super::change::{Change, Held, Move, Reason, change_since};
use super::compare::parity::Narrowed;
use super::history::{self, Entry};
use super::pair::{Pair, Source};
use super::side::Destination;
use crate::error::{Error, Result};
use crate::table::TableName;

/// What became of one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// Of the lake's table, which the target now holds.
    pub version: u64,
    /// Rows moved; none if the target held them already.
    pub rows: u64,
    pub change: Change,
}

impl Source {
    /// What an export of `name` would move, without moving it.
    pub async fn plan(&self, to: &mut Destination, name: &TableName, full: bool) -> Result<Change> {
        let pair = self.pair(to.keeper(), name, None).await?;
        let held = held_by(to, &pair, full).await?;
        self.change(&pair, held.as_ref(), full).await
    }

    /// Brings the target's table to the newest version of `name`.
    pub async fn export(
        &self,
        to: &mut Destination,
        name: &TableName,
        full: bool,
    ) -> Result<Exported> {
        let began = Clock::now();
        let exported = self.bring(to, name, full, began).await;
        note_failure(to, history::EXPORT, name, began, &exported).await;
        exported
    }

    async fn bring(
        &self,
        to: &mut Destination,
        name: &TableName,
        full: bool,
        began: Clock,
    ) -> Result<Exported> {
        let pair = self.pair(to.keeper(), name, None).await?;
        let version = pair.snapshot.version();
        let held = held_by(to, &pair, full).await?;
        let change = match (to.fit(&pair).await?, &held) {
            (Some(reason), Some(_)) => Change::Whole(reason),
            (_, held) => self.change(&pair, held.as_ref(), full).await?,
        };
        let moving = Move { held: held.as_ref(), change: &change, what: history::EXPORT, began };
        let rows = match (&change, &held) {
            (Change::None, Some(held)) if held.version == version => 0,
            (Change::None, _) => {
                to.advance(&pair, &moving).await?;
                0
            }
            _ => to.apply(self, &pair, &moving).await?,
        };
        Ok(Exported { version, rows, change })
    }

    /// Replaces what a comparison found to differ, at the version that the target's ledger names:
    /// the intervals, or the whole table where there are none.
    pub async fn repair(
        &self,
        to: &mut Destination,
        name: &TableName,
        narrowed: Option<&Narrowed>,
    ) -> Result<Exported> {
        let began = Clock::now();
        let repaired = self.bring_again(to, name, narrowed, began).await;
        note_failure(to, history::REPAIR, name, began, &repaired).await;
        repaired
    }

    async fn bring_again(
        &self,
        to: &mut Destination,
        name: &TableName,
        narrowed: Option<&Narrowed>,
        began: Clock,
    ) -> Result<Exported> {
        let held = {
            let pair = self.pair(to.keeper(), name, None).await?;
            to.held(&pair).await?
        };
        let pair = self.pair(to.keeper(), name, held.as_ref().map(|held| held.version)).await?;
        to.fit(&pair).await?;
        let ranges = narrowed.and_then(Narrowed::ranges);
        let change = ranges.map_or(Change::Whole(Reason::Differs), Change::Ranges);
        let moving = Move { held: held.as_ref(), change: &change, what: history::REPAIR, began };
        let rows = to.apply(self, &pair, &moving).await?;
        Ok(Exported { version: pair.snapshot.version(), rows, change })
    }

    async fn change(&self, pair: &Pair<'_>, held: Option<&Held>, full: bool) -> Result<Change> {
        if full {
            return Ok(Change::Whole(Reason::Asked));
        }
        change_since(held, &pair.snapshot, pair.model).await
    }
}

/// What the target holds. A first export replaces everything, and rows that are there already are
/// somebody's: refused unless all are to be replaced. A table that an export of our own made, and
/// did not live to fill, is empty.
async fn held_by(to: &mut Destination, pair: &Pair<'_>, full: bool) -> Result<Option<Held>> {
    let held = to.held(pair).await?;
    if held.is_some() || full {
        return Ok(held);
    }
    let Some(table) = to.foreign_rows(pair).await? else { return Ok(held) };
    Err(Error::invalid(format!(
        "{table} holds rows in `{}` that were not exported by FlowGuard",
        to.keeper().target().name
    ))
    .hint(format!(
        "`flowguard export run {} --target {} --full` replaces them all",
        pair.name(),
        to.keeper().target().name
    )))
}

/// Says in the history that nothing came of it, as far as the target can still be told; the failure
/// itself is what counts.
async fn note_failure(
    to: &mut Destination,
    what: &str,
    name: &TableName,
    began: Clock,
    outcome: &Result<Exported>,
) {
    if let Err(error) = outcome {
        let entry = to.entry(what, name, began, history::FAILED);
        let _ = to.note(&Entry { details: error.message.clone(), ..entry }).await;
    }
}
