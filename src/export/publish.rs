//! Brings a target's table to the lake's newest version.

use super::change::{Change, Held, Reason, change_since};
use super::destination::Destination;
use super::pair::{Pair, Source};
use super::parity::Narrowed;
use crate::error::{Error, Result};
use crate::table::TableName;

/// What became of one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    pub version: u64,
    /// Rows moved; none if the target held them already.
    pub rows: u64,
    pub change: Change,
}

impl Source {
    /// What an export of `name` would move, without moving it.
    pub async fn plan(&self, to: &mut Destination, name: &TableName, full: bool) -> Result<Change> {
        let pair = self.pair(&to.target, to.dialect, name, None).await?;
        to.prepare().await?;
        let held = to.held(&pair).await?;
        if held.is_none() && !full {
            refuse_foreign_rows(to, &pair).await?;
        }
        self.change(&pair, held.as_ref(), full).await
    }

    /// Brings the target's table to the newest version of `name`.
    pub async fn export(
        &self,
        to: &mut Destination,
        name: &TableName,
        full: bool,
    ) -> Result<Exported> {
        let pair = self.pair(&to.target, to.dialect, name, None).await?;
        let version = pair.snapshot.version();
        to.prepare().await?;
        let held = to.held(&pair).await?;
        if held.is_none() && !full {
            refuse_foreign_rows(to, &pair).await?;
        }
        let is_there = to.shape(&pair).await?;
        let change = match self.change(&pair, held.as_ref(), full).await? {
            _ if !is_there && held.is_some() => Change::Whole(Reason::TargetGone),
            change => change,
        };
        let rows = match &change {
            Change::None => 0,
            Change::Ranges(ranges) => to.apply(self, &pair, held.as_ref(), Some(ranges)).await?,
            Change::Whole(_) => to.apply(self, &pair, held.as_ref(), None).await?,
        };
        if let (Change::None, Some(held)) = (&change, &held)
            && held.version != version
        {
            to.transaction(&to.claim(&pair, Some(held), None), &[], &pair).await?;
        }
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
        let held = {
            let pair = self.pair(&to.target, to.dialect, name, None).await?;
            to.held(&pair).await?
        };
        let pair =
            self.pair(&to.target, to.dialect, name, held.as_ref().map(|held| held.version)).await?;
        to.shape(&pair).await?;
        let ranges = narrowed.and_then(Narrowed::ranges);
        let rows = to.apply(self, &pair, held.as_ref(), ranges.as_ref()).await?;
        let change = ranges.map_or(Change::Whole(Reason::Differs), Change::Ranges);
        Ok(Exported { version: pair.snapshot.version(), rows, change })
    }

    async fn change(&self, pair: &Pair<'_>, held: Option<&Held>, full: bool) -> Result<Change> {
        if full {
            return Ok(Change::Whole(Reason::Asked));
        }
        change_since(held, &pair.snapshot, pair.model).await
    }
}

/// A first export replaces everything, and rows that are there already are somebody's. A table that
/// an export of our own made, and did not live to fill, is empty.
async fn refuse_foreign_rows(to: &mut Destination, pair: &Pair<'_>) -> Result<()> {
    if !to.has_rows(pair).await? {
        return Ok(());
    }
    let table = to.dialect.table(&pair.schema, pair.name().name());
    Err(Error::invalid(format!(
        "{table} holds rows in `{}` that were not exported by FlowGuard",
        to.target.name
    ))
    .hint(format!(
        "`flowguard export run {} --target {} --full` replaces them all",
        pair.name(),
        to.target.name
    )))
}
