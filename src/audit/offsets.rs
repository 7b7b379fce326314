//! Where the rows of bronze and the dead letters came from, in order.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::{Expr, JoinType, when};
use datafusion::prelude::{DataFrame, SessionContext, col, lit};
use futures::StreamExt;

use super::recorded::Place;
use super::report::PartitionAudit;
use super::subject::{Auditor, Subject};
use crate::engine::fault::engine_error;
use crate::error::Result;
use crate::ingest::batch::later_than;
use crate::lake::Snapshot;
use crate::lake::logs::Logs;
use crate::model::Model;

type Frame = datafusion::common::Result<DataFrame>;

/// What the tables hold of one log of a partition, counted as a `PartitionAudit` does.
#[derive(Debug, Default)]
pub struct Offsets {
    pub first: Option<i64>,
    pub last: Option<i64>,
    pub rows: u64,
    pub rejects: u64,
    pub early: u64,
    last_early: Option<i64>,
    /// Whether the last offset was found in bronze, in the dead letters or in both.
    last_in: [bool; 2],
    pub moving: u64,
    pub duplicates: u64,
    pub foreign: u64,
    pub gaps: Vec<[i64; 2]>,
}

/// What the commits say of an offset.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The offset after the last that is ingested.
    next: Option<i64>,
    is_replayed: bool,
    is_hole: bool,
}

impl Offsets {
    /// Takes offsets in ascending order. Dead letters are committed before the rows of their batch,
    /// so from `next` on they may be alone: they belong to a batch that is under way, or will be
    /// read again after a crash.
    /// A replay moves a letter by a row, and then deletes it: in between it is in both.
    fn take(&mut self, offset: i64, is_reject: bool, known: Known) {
        self.foreign += u64::from(known.is_hole);
        if is_reject && known.next.is_none_or(|next| offset >= next) {
            self.duplicates += u64::from(self.last_early == Some(offset));
            self.last_early = Some(offset);
            self.early += 1;
            self.rejects += 1;
            return;
        }
        let is_again = self.last == Some(offset);
        match self.last {
            Some(_) if is_again && known.is_replayed && !self.last_in[usize::from(is_reject)] => {
                self.moving += 1;
            }
            Some(_) if is_again => self.duplicates += 1,
            Some(last) if offset > last + 1 => self.gaps.push([last + 1, offset]),
            _ => {}
        }
        if !is_again {
            self.last_in = [false; 2];
        }
        self.last_in[usize::from(is_reject)] = true;
        self.first.get_or_insert(offset);
        self.last = Some(offset);
        if is_reject {
            self.rejects += 1;
        } else {
            self.rows += 1;
        }
    }
}

/// Reads bronze and dead letters in offset order; the sort spills, so memory stays bounded.
pub async fn read_offsets(subject: &Subject<'_>) -> Result<BTreeMap<Place, Offsets>> {
    let doing = format!("cannot audit `{}`", subject.model.name);
    let failed = |error| engine_error(&doing, error);
    let session = subject.auditor.engine.session();
    let mut union: Option<DataFrame> = None;
    let rows = match subject.bronze {
        Some(bronze) => Some(rows_of(&session, bronze, subject.topic).await.map_err(failed)?),
        None => None,
    };
    let letters = letters_of(&session, subject).await.map_err(failed)?;
    for (frame, is_reject) in [(rows, false), (letters, true)] {
        let Some(frame) = frame else { continue };
        let log = log_of(&subject.logs).map_err(failed)?.alias("log");
        let frame = frame
            .select(vec![col("_partition"), col("_offset"), log, lit(is_reject).alias("is_reject")])
            .map_err(failed)?;
        union = Some(match union {
            Some(union) => union.union(frame).map_err(failed)?,
            None => frame,
        });
    }
    let mut found: BTreeMap<Place, Offsets> = BTreeMap::new();
    let mut next: BTreeMap<Place, Option<i64>> = BTreeMap::new();
    let Some(union) = union else { return Ok(found) };
    let order = ["_partition", "log", "_offset"].map(|name| col(name).sort(true, false));
    let sorted = union.sort(order.to_vec()).map_err(failed)?;
    let mut rows = sorted.execute_stream().await.map_err(failed)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        let partitions = batch.column(0).as_primitive::<Int32Type>().values();
        let offsets = batch.column(1).as_primitive::<Int64Type>().values();
        let logs = batch.column(2).as_primitive::<Int64Type>().values();
        let rejects = batch.column(3).as_boolean();
        for row in 0..batch.num_rows() {
            let place = (partitions[row], u32::try_from(logs[row]).unwrap_or(u32::MAX));
            if let Entry::Vacant(entry) = next.entry(place) {
                entry.insert(subject.next(place).await?);
            }
            let offset = offsets[row];
            let recorded = subject.recorded.get(&place);
            let known = Known {
                next: next.get(&place).copied().flatten(),
                is_replayed: recorded.is_some_and(|recorded| recorded.has_replayed(offset)),
                is_hole: recorded.is_some_and(|recorded| recorded.is_hole(offset)),
            };
            found.entry(place).or_default().take(offset, rejects.value(row), known);
        }
    }
    Ok(found)
}

/// The number of the log that a row came from, as [`Logs::number`] says it.
pub fn log_of(logs: &Logs) -> datafusion::common::Result<Expr> {
    let mut number = lit(0_i64);
    for accepted in logs.all() {
        let is_later =
            col("_partition").eq(lit(accepted.partition)).and(later_than(Some(accepted.at)));
        number = number + when(is_later, lit(1_i64)).otherwise(lit(0_i64))?;
    }
    Ok(number)
}

/// The rows of one topic.
pub async fn rows_of(session: &SessionContext, table: &Snapshot, topic: &str) -> Frame {
    let provider = table
        .provider()
        .await
        .map_err(|error| datafusion::common::DataFusionError::External(Box::new(error)))?;
    session.read_table(provider)?.filter(col("_topic").eq(lit(topic)))
}

/// Rows of topics that were never ingested into the table.
pub async fn foreign_rows(
    auditor: &Auditor<'_>,
    model: &Model,
    bronze: &Snapshot,
    topics: &BTreeSet<String>,
) -> Result<Vec<PartitionAudit>> {
    let doing = format!("cannot audit `{}`", model.name);
    let failed = |error| engine_error(&doing, error);
    let known = topics.iter().map(|topic| lit(topic.as_str())).collect();
    let found = auditor
        .engine
        .session()
        .read_table(bronze.provider().await?)
        .and_then(|frame| frame.filter(col("_topic").in_list(known, true)))
        .and_then(|frame| {
            let place = vec![col("_topic"), col("_partition")];
            frame.aggregate(place, vec![count_all().alias("rows")])
        })
        .and_then(|frame| {
            let topic =
                datafusion::logical_expr::cast(col("_topic"), arrow::datatypes::DataType::Utf8);
            frame.select(vec![topic.alias("_topic"), col("_partition"), col("rows")])
        })
        .map_err(failed)?
        .collect()
        .await
        .map_err(failed)?;
    let mut audits = Vec::new();
    for batch in found {
        let topics = batch.column(0).as_string::<i32>();
        let partitions = batch.column(1).as_primitive::<Int32Type>();
        let rows = batch.column(2).as_primitive::<Int64Type>();
        audits.extend((0..batch.num_rows()).map(|row| PartitionAudit {
            table: model.name.to_string(),
            topic: topics.value(row).to_owned(),
            partition: partitions.value(row),
            rows: rows.value(row).unsigned_abs(),
            foreign: rows.value(row).unsigned_abs(),
            ..PartitionAudit::default()
        }));
    }
    audits.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(audits)
}

/// The letters of one table that are there after, and those that were there only before, with the
/// columns that say where they came from.
async fn letters_of(
    session: &SessionContext,
    subject: &Subject<'_>,
) -> datafusion::common::Result<Option<DataFrame>> {
    let columns = ["_partition", "_offset", "_ingested_at"];
    let name = subject.model.name.to_string();
    let of = async |table: &Snapshot| {
        let letters = rows_of(session, table, subject.topic).await?;
        letters.filter(col("pipeline").eq(lit(name.as_str())))?.select_columns(&columns)
    };
    let Some(after) = &subject.dead.after else { return Ok(None) };
    let later = of(after).await?;
    Ok(Some(match &subject.dead.before {
        Some(before) if before.version() != after.version() => {
            let gone = of(before).await?;
            let gone = gone.join(later.clone(), JoinType::LeftAnti, &columns, &columns, None)?;
            later.union(gone)?
        }
        _ => later,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_in_order_show_gaps_and_duplicates() {
        let mut offsets = Offsets::default();
        for (offset, is_reject) in [(3, false), (4, true), (4, false), (7, false)] {
            offsets.take(offset, is_reject, known(Some(8), false));
        }
        assert_eq!(
            (offsets.first, offsets.last, offsets.rows, offsets.rejects, offsets.duplicates),
            (Some(3), Some(7), 3, 1, 1)
        );
        assert_eq!(offsets.gaps, [[5, 7]]);
    }

    #[test]
    fn a_letter_that_a_replay_is_moving_is_no_duplicate() {
        let mut offsets = Offsets::default();
        for (offset, is_reject) in [(0, false), (0, true), (1, true), (2, false), (2, false)] {
            offsets.take(offset, is_reject, known(Some(3), true));
        }
        assert_eq!((offsets.moving, offsets.duplicates), (1, 1));
    }

    #[test]
    fn dead_letters_ahead_of_their_rows_are_no_loss() {
        let mut offsets = Offsets::default();
        for (offset, is_reject) in [(0, false), (1, false), (5, true), (9, true), (9, true)] {
            offsets.take(offset, is_reject, known(Some(2), false));
        }
        assert_eq!((offsets.last, offsets.early, offsets.duplicates), (Some(1), 3, 1));
        assert_eq!(offsets.gaps, [[0_i64; 2]; 0]);
        // Before the first commit of rows there is no next offset.
        let mut offsets = Offsets::default();
        offsets.take(7, true, Known::default());
        assert_eq!((offsets.first, offsets.early), (None, 1));
    }

    fn known(next: Option<i64>, is_replayed: bool) -> Known {
        Known { next, is_replayed, is_hole: false }
    }
}
