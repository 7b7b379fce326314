//! Decides about each dead letter of some files: a row of today, a row already, or to be kept; and
//! stages rows and what is kept. Commits nothing.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{DataFrame, col, lit};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::letters::{DOING, Filter};
use crate::engine::fault::engine_error;
use crate::error::Result;
use crate::ingest::Pipeline;
use crate::ingest::batch::dead_letters_spec;
use crate::ingest::decode::{Decoder, Message};
use crate::ingest::letters::{Letters, all_columns};
use crate::ingest::values::sums_by;
use crate::interval::RangeSet;
use crate::lake::Snapshot;
use crate::lake::commit::offsets_id;
use crate::lake::ledger::{OffsetRange, Sum};
use crate::lake::logs::Logs;
use crate::lake::replace::{DataFile, rows_of_files};
use crate::lake::stage::{Staged, Stager};

/// Decoded rows are handed to the writer at this size.
const DECODED_BYTES_MAX: usize = 16 << 20;

/// A place in a topic: partition, log and offset.
type Key = (i32, u32, i64);

/// Places by partition and log: the hull of each, and how many.
#[derive(Debug, Default)]
pub struct Spans(BTreeMap<(i32, u32), (i64, i64, u64)>);

impl Spans {
    fn note(&mut self, (partition, log, offset): Key) {
        let (start, end, count) = self.0.entry((partition, log)).or_insert((offset, offset + 1, 0));
        *start = (*start).min(offset);
        *end = (*end).max(offset + 1);
        *count += 1;
    }

    /// Of the places that were noted, which may be fewer than those within the hulls.
    pub fn count(&self) -> u64 {
        self.0.values().map(|(_, _, count)| count).sum()
    }

    /// `values` are the sums of the rows, where they were written.
    pub fn ranges(&self, topic: &str, values: &BTreeMap<(i32, u32), Sum>) -> Vec<OffsetRange> {
        let ranges = self.0.iter().map(|(place, (start, end, count))| OffsetRange {
            topic: topic.to_owned(),
            partition: place.0,
            log: place.1,
            start: *start,
            end: *end,
            rows: *count,
            values: values.get(place).copied(),
            ..OffsetRange::default()
        });
        ranges.collect()
    }
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Tally {
    /// Letters that became rows.
    pub replayed: Spans,
    /// The sums of those rows by partition and log, as far as they were staged.
    pub values: BTreeMap<(i32, u32), Sum>,
    /// Those and letters that were rows already: all that leave the dead letters.
    pub gone: Spans,
    pub held_back: u64,
    pub failing: BTreeMap<&'static str, Failing>,
}

/// Letters that fail for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    pub count: u64,
    /// Partition and offset of the first of them, and its error.
    pub first: (i32, i64),
    pub error: String,
}

impl Failing {
    /// Both together.
    fn add(self, other: Failing) -> Failing {
        let count = self.count + other.count;
        let first = if other.first < self.first { other } else { self };
        Failing { count, ..first }
    }
}

/// Adds `found` to what failed for the same reason.
pub fn add_failing(
    all: &mut BTreeMap<&'static str, Failing>,
    reason: &'static str,
    found: Failing,
) {
    let sum = match all.remove(reason) {
        Some(known) => known.add(found),
        None => found,
    };
    all.insert(reason, sum);
}

/// What some files come to: rows for bronze, and what stays of them. Staged, in no table yet.
pub struct Sifted {
    pub rows: Staged,
    /// All other rows of the files.
    pub kept: Staged,
    /// The event-time hours of the rows.
    pub touched: RangeSet,
    pub tally: Tally,
}

/// What is looked at: files of one version of the dead letters, and one version of bronze.
pub struct Sifting<'a> {
    pub pipeline: &'a Pipeline,
    pub dead: &'a Snapshot,
    pub bronze: Option<&'a Snapshot>,
    pub files: &'a [DataFile],
}

impl Sifting<'_> {
    /// `None` if `stop` came first. Nothing is staged unless `stages`, or if no letter leaves.
    pub async fn run(&self, stages: bool, stop: &CancellationToken) -> Result<Option<Sifted>> {
        let logs = Logs::of(self.bronze, &self.pipeline.topic)?;
        let candidates = self.candidates(&logs).await?;
        let next_offsets = self.next_offsets(&candidates).await?;
        let in_bronze = self.in_bronze(&logs, &candidates).await?;
        let pipeline = self.pipeline;
        let mut sieve = Sieve {
            pipeline,
            table: pipeline.spec.name.to_string(),
            decoder: Decoder::new(
                &pipeline.topic,
                &pipeline.columns,
                pipeline.spec.time.as_deref(),
                pipeline.unknown_fields,
                usize::try_from(pipeline.limits.message_bytes_max).unwrap_or(usize::MAX),
            )?,
            logs,
            next_offsets,
            in_bronze,
            touched: RangeSet::default(),
            tally: Tally::default(),
        };
        let mut sinks = if stages && !candidates.is_empty() {
            Some(Sinks {
                rows: Stager::new(&pipeline.lake, &pipeline.spec)?,
                kept: Stager::new(&pipeline.lake, &dead_letters_spec())?,
            })
        } else {
            None
        };
        let done = match candidates.is_empty() {
            true => Ok(true),
            false => self.pour(&mut sieve, sinks.as_mut(), stop).await,
        };
        let (mut rows, mut kept) = Default::default();
        if let Some(sinks) = sinks {
            if matches!(done, Ok(true)) && sieve.tally.gone.count() > 0 {
                (rows, kept) = (sinks.rows.finish().await?, sinks.kept.finish().await?);
            } else {
                sinks.rows.abort().await;
                sinks.kept.abort().await;
            }
        }
        let Sieve { touched, tally, .. } = sieve;
        Ok(done?.then_some(Sifted { rows, kept, touched, tally }))
    }

    /// Sends every letter of the files through the sieve; false if `stop` came first.
    async fn pour(
        &self,
        sieve: &mut Sieve<'_>,
        mut sinks: Option<&mut Sinks>,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let failed = |error| engine_error(DOING, error);
        let columns = all_columns();
        let frame = self.letters().await?.select_columns(&columns).map_err(failed)?;
        let mut batches = frame.execute_stream().await.map_err(failed)?;
        while let Some(batch) = batches.next().await {
            if stop.is_cancelled() {
                return Ok(false);
            }
            let letters = Letters::new(&batch.map_err(failed)?, &columns)?;
            let stays = BooleanArray::from_iter(
                (0..letters.rows()).map(|row| Some(sieve.stays(&letters, row))),
            );
            if let Some(sinks) = sinks.as_deref_mut() {
                let kept = filter_record_batch(letters.batch(), &stays).map_err(arrow_failed)?;
                sinks.kept.write(&kept).await?;
            }
            if sieve.decoder.buffered_bytes() >= DECODED_BYTES_MAX {
                sieve.flush(sinks.as_deref_mut()).await?;
            }
        }
        sieve.flush(sinks).await?;
        Ok(true)
    }

    async fn letters(&self) -> Result<DataFrame> {
        let rows = rows_of_files(self.dead, self.files).await?;
        let session = self.pipeline.engine.session();
        session.read_table(rows).map_err(|error| engine_error(DOING, error))
    }

    /// The sorted offsets of the files' letters that are this table's.
    async fn candidates(&self, logs: &Logs) -> Result<Vec<Key>> {
        let own = own_letters(self.pipeline).condition().expect("it names a table");
        keys(self.letters().await?, own, logs, |_| true).await
    }

    async fn next_offsets(&self, candidates: &[Key]) -> Result<BTreeMap<i32, i64>> {
        let mut next_offsets = BTreeMap::new();
        let Some(bronze) = self.bronze else { return Ok(next_offsets) };
        for group in candidates.chunk_by(|a, b| a.0 == b.0) {
            let partition = group[0].0;
            let id = offsets_id(&self.pipeline.name, &self.pipeline.topic, partition);
            if let Some(next) = bronze.transaction(&id).await? {
                next_offsets.insert(partition, next);
            }
        }
        Ok(next_offsets)
    }

    /// Which of the candidates bronze holds.
    async fn in_bronze(&self, logs: &Logs, candidates: &[Key]) -> Result<HashSet<Key>> {
        let hull = |group: &[Key]| {
            let (partition, _, first) = group[0];
            let (.., last) = group[group.len() - 1];
            let of_partition = col("_partition").eq(lit(partition));
            of_partition.and(col("_offset").between(lit(first), lit(last)))
        };
        let hulls = candidates.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).map(hull);
        let (Some(bronze), Some(hulls)) = (self.bronze, hulls.reduce(Expr::or)) else {
            return Ok(HashSet::new());
        };
        let frame = self.pipeline.engine.session().read_table(bronze.provider().await?);
        let frame = frame.map_err(|error| engine_error(DOING, error))?;
        let condition = col("_topic").eq(lit(self.pipeline.topic.as_str())).and(hulls);
        let found =
            keys(frame, condition, logs, |key| candidates.binary_search(key).is_ok()).await?;
        Ok(found.into_iter().collect())
    }
}

fn own_letters(pipeline: &Pipeline) -> Filter {
    Filter {
        table: Some(pipeline.spec.name.clone()),
        topic: Some(pipeline.topic.clone()),
        ..Filter::default()
    }
}

/// The sorted places that `condition` and `wanted` let through.
async fn keys(
    frame: DataFrame,
    condition: Expr,
    logs: &Logs,
    wanted: impl Fn(&Key) -> bool,
) -> Result<Vec<Key>> {
    let failed = |error| engine_error("cannot read offsets", error);
    let mut batches = frame
        .filter(condition)
        .and_then(|frame| frame.select_columns(&PLACE))
        .map_err(failed)?
        .execute_stream()
        .await
        .map_err(failed)?;
    let mut keys = Vec::new();
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(failed)?;
        let letters = Letters::new(&batch, &PLACE)?;
        keys.extend((0..letters.rows()).map(|row| place(&letters, row, logs)).filter(&wanted));
    }
    keys.sort_unstable();
    Ok(keys)
}

/// The columns that say where a row came from.
const PLACE: [&str; 3] = ["_partition", "_offset", "_ingested_at"];

fn place(letters: &Letters, row: usize, logs: &Logs) -> Key {
    let partition = letters.partition(row);
    (partition, logs.number(partition, letters.ingested_at(row).0), letters.offset(row))
}

fn arrow_failed(source: arrow::error::ArrowError) -> crate::error::Error {
    crate::error::Error::internal("cannot split a batch of dead letters").source(source)
}

struct Sinks {
    rows: Stager,
    kept: Stager,
}

struct Sieve<'a> {
    pipeline: &'a Pipeline,
    table: String,
    decoder: Decoder,
    logs: Logs,
    next_offsets: BTreeMap<i32, i64>,
    /// Grows by what becomes a row, so that a letter that is there twice becomes one.
    in_bronze: HashSet<Key>,
    touched: RangeSet,
    tally: Tally,
}

impl Sieve<'_> {
    /// Whether a letter stays; if not, it is a row already or is one of the decoder now.
    fn stays(&mut self, letters: &Letters, row: usize) -> bool {
        let is_own = letters.text("pipeline", row) == self.table
            && letters.text("_topic", row) == self.pipeline.topic;
        if !is_own {
            return true;
        }
        let key = place(letters, row, &self.logs);
        let (partition, log, offset) = key;
        let is_newest = log == self.logs.newest(partition);
        // Of a log that ended, the rest of that batch never came.
        let next = match is_newest {
            true => self.next_offsets.get(&partition).copied(),
            false => self.logs.of_partition(partition).nth(log as usize).map(|ended| ended.end),
        };
        if next.is_none_or(|next| next <= offset) {
            self.tally.held_back += 1;
            return true;
        }
        if self.in_bronze.contains(&key) {
            self.tally.gone.note(key);
            return false;
        }
        let headers = letters.headers(row);
        let message = Message {
            partition,
            offset,
            leader_epoch: None,
            timestamp_ms: letters.timestamp(row).map(|instant| instant.0.div_euclid(1_000)),
            key: letters.bytes("_key", row),
            headers: &headers,
            payload: letters.bytes("payload", row),
        };
        let ingested_at = if is_newest {
            let begin = self.logs.begin(partition).map_or(i64::MIN, |begin| begin + 1);
            self.pipeline.clock.micros().max(begin)
        } else {
            // Later, and it would be one of the newest log.
            letters.ingested_at(row).0
        };
        match self.decoder.push(&message, ingested_at) {
            Ok(()) => {
                self.in_bronze.insert(key);
                self.tally.replayed.note(key);
                self.tally.gone.note(key);
                false
            }
            Err(reject) => {
                let failing = Failing { count: 1, first: (partition, offset), error: reject.error };
                add_failing(&mut self.tally.failing, reject.reason.as_str(), failing);
                true
            }
        }
    }

    /// Hands decoded rows on, or forgets them where nothing is staged.
    async fn flush(&mut self, sinks: Option<&mut Sinks>) -> Result<()> {
        let touched = self.decoder.touched();
        self.touched = self.touched.iter().chain(touched.iter()).copied().collect();
        let rows: RecordBatch = self.decoder.finish()?;
        let Some(sinks) = sinks else { return Ok(()) };
        let place = |partition, at| (partition, self.logs.number(partition, at));
        for (place, sum) in sums_by(&rows, place)? {
            self.tally.values.entry(place).or_default().add(sum.0);
        }
        sinks.rows.write(&rows).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_hulls_with_counts() {
        let mut spans = Spans::default();
        for key in [(1, 0, 7), (0, 0, 3), (1, 0, 2), (1, 1, 2)] {
            spans.note(key);
        }
        let range = |partition, log, start, end, rows| OffsetRange {
            topic: "t".into(),
            partition,
            log,
            start,
            end,
            rows,
            ..OffsetRange::default()
        };
        assert_eq!(spans.count(), 4);
        let expected = [range(0, 0, 3, 4, 1), range(1, 0, 2, 8, 2), range(1, 1, 2, 3, 1)];
        assert_eq!(spans.ranges("t", &BTreeMap::new()), expected);
    }
}
