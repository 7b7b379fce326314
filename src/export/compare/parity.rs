//! Whether a target holds exactly what the version that it names holds; asked of both sides anew.

use std::time::Instant as Clock;

use futures::StreamExt;

use super::canonical::Proof;
use super::differing::{DifferingRows, ROWS_COMPARED_MAX, differing_rows};
use super::narrow::{DifferingInterval, differing_intervals};
use crate::error::{Error, ErrorKind, Result};
use crate::export::history::{self, Entry};
use crate::export::pair::{Pair, Source};
use crate::export::rows::RowSource;
use crate::export::side::Destination;
use crate::interval::{Range, RangeSet};
use crate::table::TableName;

/// At once, each by a thread of its own.
const BATCHES_HASHED_MAX: usize = 4;

/// What was found about one table.
#[derive(Debug, Clone)]
pub struct Parity {
    pub table: TableName,
    /// Of the lake's table, as the target's ledger names it.
    pub version: u64,
    /// In the lake at that version.
    pub rows: u64,
    /// In words; none if both sides are equal.
    pub differences: Vec<String>,
    /// Where they are; none if both sides are equal or their columns differ.
    pub narrowed: Option<Narrowed>,
}

/// Where two sides differ.
#[derive(Debug, Clone)]
pub struct Narrowed {
    /// `None` if the table has no intervals.
    pub intervals: Option<Vec<DifferingInterval>>,
    pub rows: DifferingRows,
    /// What was not compared row by row, in words.
    pub left_out: Option<String>,
}

impl Narrowed {
    /// The intervals, if they hold all that differs.
    pub fn ranges(&self) -> Option<RangeSet> {
        let ranges = self.intervals.as_ref()?.iter().map(|interval| interval.range);
        ranges.collect::<Option<RangeSet>>().filter(|ranges| !ranges.is_empty())
    }
}

impl Source {
    /// Compares `name` in the target with the lake, at the version that the target's ledger names.
    pub async fn parity(&self, to: &mut Destination, name: &TableName) -> Result<Parity> {
        let began = Clock::now();
        let newest = self.pair(to.keeper(), name, None).await?;
        let held = to.held(&newest).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("`{name}` was never exported to `{}`", to.keeper().target().name),
            )
            .hint(format!("flowguard export run {name}"))
        })?;
        if held.table_id != newest.snapshot.id() {
            return Err(Error::invalid(format!(
                "`{name}` was made anew since it was exported to `{}`",
                to.keeper().target().name
            ))
            .hint(format!("flowguard export run {name} --full")));
        }
        let pair = match newest.snapshot.version() == held.version {
            true => newest,
            false => self.pair(to.keeper(), name, Some(held.version)).await?,
        };
        let theirs = to.holding(&pair).await?;
        let mut differences = theirs.faults;
        let own = self.prove(&pair).await?;
        let mut narrowed = None;
        if let Some(theirs) = theirs.proof {
            differences.extend(own.differences(&theirs, &pair.columns));
            if !differences.is_empty() {
                narrowed = Some(self.narrow(to, &pair, own.rows.max(theirs.rows)).await?);
            }
        }
        let outcome = if differences.is_empty() { history::EQUAL } else { history::DIFFERENT };
        to.note(&Entry {
            version: Some(held.version),
            rows: own.rows,
            details: differences.join("; "),
            ..to.entry(history::PARITY, name, began, outcome)
        })
        .await?;
        let (table, version) = (name.clone(), held.version);
        Ok(Parity { table, version, rows: own.rows, differences, narrowed })
    }

    /// Where the two sides differ; `rows` are in the larger one.
    async fn narrow(&self, to: &mut Destination, pair: &Pair<'_>, rows: u64) -> Result<Narrowed> {
        let intervals = differing_intervals(self, to, pair).await?;
        let mut narrowed = Narrowed { intervals, rows: DifferingRows::default(), left_out: None };
        if narrowed.ranges().is_none() {
            if rows > ROWS_COMPARED_MAX {
                let word =
                    format!("more than {ROWS_COMPARED_MAX} rows are not compared one by one");
                narrowed.left_out = Some(word);
            } else {
                narrowed.rows = differing_rows(self, to, pair, None).await?;
            }
            return Ok(narrowed);
        }
        let mut left = ROWS_COMPARED_MAX;
        let fitting = narrowed.intervals.iter().flatten().map_while(|interval| {
            left = left.checked_sub(interval.rows)?;
            interval.range
        });
        let fitting: Vec<Range> = fitting.collect();
        let all = narrowed.intervals.as_ref().map_or(0, Vec::len);
        if fitting.len() < all {
            narrowed.left_out = Some(format!(
                "rows of {} intervals are not compared one by one: more than {ROWS_COMPARED_MAX}",
                all - fitting.len()
            ));
        }
        if !fitting.is_empty() {
            let ranges = fitting.into_iter().collect();
            narrowed.rows = differing_rows(self, to, pair, Some(&ranges)).await?;
        }
        Ok(narrowed)
    }

    /// What the lake holds. Rows are hashed beside the scan, so that neither waits for the other.
    pub async fn prove(&self, pair: &Pair<'_>) -> Result<Proof> {
        let mut rows = RowSource::open(self, pair, None).await?;
        let hashed = rows.batches().map(|batch| async {
            let batch = batch?;
            let work = tokio::spawn(async move {
                let mut proof = Proof::new(&batch.schema());
                proof.update(&batch).map(|()| proof)
            });
            work.await.map_err(|source| Error::internal("hashing stopped").source(source))?
        });
        let mut hashed = std::pin::pin!(hashed.buffered(BATCHES_HASHED_MAX));
        let mut all = Proof::new(&pair.columns);
        while let Some(proof) = hashed.next().await {
            all.add(&proof?);
        }
        Ok(all)
    }
}
