//! One micro-batch on its way into the lake: rejects first, then rows, each with the offsets that
//! it accounts for. The protocol is in `docs/ARCHITECTURE.md`, "Exactly once".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant as Clock;

use arrow::array::RecordBatch;
use chrono_tz::Tz;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;

use super::Pipeline;
use super::decode::DeadLetters;
use super::letters::{Letters, all_columns};
use super::open::{Batch, Progress, Taken};
use super::values::sums_by;
use crate::engine::fault::engine_error;
use crate::error::{Error, Result};
use crate::kafka::{Producer, Record};
use crate::lake::Snapshot;
use crate::lake::commit::{Advance, Commit, Outcome, commit, ensure_table, mark_id, offsets_id};
use crate::lake::ledger::{Ledger, OffsetRange, range_pairs};
use crate::lake::logs::Logs;
use crate::lake::spec::TableSpec;
use crate::lake::stage::{Staged, Stager};
use crate::model::dead_letters;

/// The table of rejected messages of all topics.
pub fn dead_letters_spec() -> TableSpec {
    TableSpec {
        name: dead_letters(),
        columns: DeadLetters::schema(),
        time: Some("_ingested_at".to_owned()),
        partition_by_day: false,
        timezone: Tz::UTC,
        key: vec!["_topic".to_owned()],
        doc: Some("messages that no table could take, with their raw bytes and the reason".into()),
        shape: "`kind: append`, no `partition_by`".to_owned(),
    }
}

/// What a batch became.
pub enum Written {
    Committed(BatchReport),
    /// Another worker owns these offsets now; nothing of this batch counts.
    Superseded,
}

/// What one committed batch brought to the bronze table.
#[derive(Debug, Clone, Default)]
pub struct BatchReport {
    pub rows: u64,
    pub rejects: u64,
    /// Of the messages behind rows and rejects.
    pub payload_bytes: u64,
    /// Of the rows' files; those of dead letters do not count.
    pub file_bytes: u64,
    pub version: u64,
    /// From the start of the write until the commit was done.
    pub commit_ms: u64,
    /// By partition, for those that the batch moved.
    pub next_offsets: Vec<(i32, i64)>,
}

/// In the dead letters, where tables of one topic stand beside each other.
fn dead_id(pipeline: &Pipeline, partition: i32) -> String {
    let own = format!("{}/dead/{}", pipeline.name, pipeline.spec.name);
    offsets_id(&own, &pipeline.topic, partition)
}

/// The same as earlier versions wrote it, for all tables of a topic together.
fn shared_dead_id(pipeline: &Pipeline, partition: i32) -> String {
    offsets_id(&format!("{}/dead", pipeline.name), &pipeline.topic, partition)
}

/// Counts the owners that a partition has had, in the table of the rows; see [`Progress::epoch`]. The
/// dead letters have it too, where earlier versions counted for all tables of a topic together.
pub fn epoch_id(pipeline: &Pipeline, partition: i32) -> String {
    offsets_id(&format!("{}/epoch", pipeline.name), &pipeline.topic, partition)
}

/// The same in the dead letters.
fn dead_epoch_id(pipeline: &Pipeline, partition: i32) -> String {
    let own = format!("{}/epoch/{}", pipeline.name, pipeline.spec.name);
    offsets_id(&own, &pipeline.topic, partition)
}

/// Holds as long as nobody else has taken the partition over.
fn still_owned(app_id: String, progress: &Progress) -> Advance {
    Advance { app_id, expected: Some(progress.epoch), next: progress.epoch }
}

/// Writes the batch: dead-letter topic, dead letters, rows. After an error at any point, the same
/// offsets can be read and written again.
pub async fn write(pipeline: &Pipeline, batch: Batch) -> Result<Written> {
    let began = Clock::now();
    let moved: Vec<&(i32, Progress)> =
        batch.partitions.iter().filter(|(_, progress)| progress.has_moved()).collect();
    let rejects: u64 = moved.iter().map(|(_, progress)| progress.rejects()).sum();
    if let Some(dead) = &batch.dead {
        if pipeline.dead_letter_topic {
            send_dead_letters(pipeline, dead).await?;
        }
        if write_dead(pipeline, dead, &moved).await? == Flow::Superseded {
            return Ok(Written::Superseded);
        }
    }
    let bytes_max = usize::try_from(pipeline.limits.memory_bytes_max / 4).unwrap_or(usize::MAX);
    let mut stager = Stager::bounded(&pipeline.lake, &pipeline.spec, bytes_max)?;
    if let Err(error) = stager.write(&batch.rows).await {
        stager.abort().await;
        return Err(error);
    }
    let staged = stager.finish().await?;
    let file_bytes = staged.bytes;
    let mut ledger = Ledger::new(pipeline.spec.name.to_string(), pipeline.run);
    ledger.rows = staged.rows;
    ledger.touched = range_pairs(&batch.touched);
    let values = sums_by(&batch.rows, |partition, _| partition)?;
    ledger.offsets = moved
        .iter()
        .map(|(id, progress)| OffsetRange {
            values: Some(values.get(id).copied().unwrap_or_default()),
            ..range_of(pipeline, *id, progress)
        })
        .collect();
    let elapsed_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    ledger.write_ms = Some(elapsed_ms());
    let mut advances = Vec::new();
    for (partition, progress) in &moved {
        advances.push(still_owned(epoch_id(pipeline, *partition), progress));
        advances.push(Advance {
            app_id: offsets_id(&pipeline.name, &pipeline.topic, *partition),
            expected: progress.committed,
            next: progress.next(),
        });
        let (expected, next) = progress.mark();
        advances.push(Advance {
            app_id: mark_id(&pipeline.name, &pipeline.topic, *partition),
            expected,
            next,
        });
    }
    let commit_of_rows = Commit { spec: &pipeline.spec, staged, removal: None, advances, ledger };
    match commit(&pipeline.lake, &commit_of_rows).await? {
        Outcome::Superseded { found } => {
            warn_superseded(pipeline, &found);
            Ok(Written::Superseded)
        }
        Outcome::Committed { version } => Ok(Written::Committed(BatchReport {
            rows: batch.rows.num_rows() as u64,
            rejects,
            payload_bytes: batch.payload_bytes,
            file_bytes,
            version,
            commit_ms: elapsed_ms(),
            next_offsets: moved.iter().map(|(id, progress)| (*id, progress.next())).collect(),
        })),
    }
}

fn range_of(pipeline: &Pipeline, partition: i32, progress: &Progress) -> OffsetRange {
    OffsetRange {
        table: None,
        topic: pipeline.topic.clone(),
        partition,
        log: progress.log(),
        start: progress.start(),
        end: progress.next(),
        rows: progress.rows(),
        rejects: progress.rejects(),
        holes: progress.holes().to_vec(),
        leader_epoch: progress.leader_epoch(),
        messages: Some(progress.messages()),
        values: None,
    }
}

#[derive(PartialEq)]
enum Flow {
    Done,
    Superseded,
}

async fn write_dead(
    pipeline: &Pipeline,
    dead: &RecordBatch,
    moved: &[&(i32, Progress)],
) -> Result<Flow> {
    let spec = dead_letters_spec();
    let mut stager = Stager::new(&pipeline.lake, &spec)?;
    stager.write(dead).await?;
    let mut ledger = Ledger::new(spec.name.to_string(), pipeline.run);
    ledger.rows = dead.num_rows() as u64;
    let values = sums_by(dead, |partition, _| partition)?;
    let mut advances = Vec::new();
    for (partition, progress) in moved {
        advances.push(still_owned(dead_epoch_id(pipeline, *partition), progress));
        if progress.rejects() > 0 {
            let values = values.get(partition).copied();
            let table = Some(pipeline.spec.name.to_string());
            let range = range_of(pipeline, *partition, progress);
            ledger.offsets.push(OffsetRange { table, values, ..range });
            advances.push(Advance {
                app_id: dead_id(pipeline, *partition),
                expected: progress.dead_committed,
                next: progress.dead_next(),
            });
        }
    }
    let staged = stager.finish().await?;
    let commit_of_dead = Commit { spec: &spec, staged, removal: None, advances, ledger };
    match commit(&pipeline.lake, &commit_of_dead).await? {
        Outcome::Committed { .. } => Ok(Flow::Done),
        Outcome::Superseded { found } => {
            warn_superseded(pipeline, &found);
            Ok(Flow::Superseded)
        }
    }
}

fn warn_superseded(pipeline: &Pipeline, found: &[(String, Option<i64>)]) {
    tracing::warn!(table = %pipeline.spec.name, ?found, "offsets moved by another worker");
}

/// Copies the rejects to `<topic>.dlq`, at least once, with the message's own headers and where it
/// came from and why.
async fn send_dead_letters(pipeline: &Pipeline, dead: &RecordBatch) -> Result<()> {
    let access = pipeline.kafka.clone();
    let topic = format!("{}.dlq", pipeline.topic);
    let letters = Letters::new(dead, &all_columns())?;
    let sent = tokio::task::spawn_blocking(move || {
        let producer = Producer::new(&access)?;
        for row in 0..letters.rows() {
            let mut headers = letters.headers(row);
            let own = [
                ("reason", letters.text("reason", row).to_owned()),
                ("error", letters.text("error", row).to_owned()),
                ("topic", letters.text("_topic", row).to_owned()),
                ("partition", letters.partition(row).to_string()),
                ("offset", letters.offset(row).to_string()),
            ];
            headers.extend(own.map(|(key, value)| (key.to_owned(), Some(value.into_bytes()))));
            producer.send(&Record {
                topic: &topic,
                partition: None,
                key: letters.bytes("_key", row),
                payload: letters.bytes("payload", row),
                headers: &headers,
                // The broker's own time: an old message must not fall to the topic's retention.
                timestamp_ms: None,
            })?;
        }
        producer.flush()
    });
    sent.await.map_err(|source| Error::internal("a sender stopped").source(source))?
}

/// Takes over `partitions`: fences their former owner off both tables, then reads where the lake
/// stands. `beginning` gives the first offset of partitions that were never committed.
pub async fn take_over(
    pipeline: &Pipeline,
    partitions: &[i32],
    beginning: impl Fn(i32) -> i64,
) -> Result<Vec<(i32, Progress)>> {
    // A group has members without partitions as soon as it has more members than those.
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let epochs = fence(pipeline, partitions).await?;
    // The dead letters first, and that look at them alone: a replay deletes what lies before the
    // next offset of bronze, which a late commit of the former owner may still raise.
    let dead = pipeline.lake.snapshot(&dead_letters()).await?;
    let bronze = pipeline.lake.snapshot(&pipeline.spec.name).await?;
    let logs = Logs::of(bronze.as_ref(), &pipeline.topic)?;
    let mut taken = Vec::with_capacity(partitions.len());
    let mut ahead = BTreeMap::new();
    for (partition, epoch) in partitions.iter().zip(epochs) {
        let (mut committed, mut mark) = (None, None);
        if let Some(table) = &bronze {
            let id = offsets_id(&pipeline.name, &pipeline.topic, *partition);
            committed = table.transaction(&id).await?;
            mark = table.transaction(&mark_id(&pipeline.name, &pipeline.topic, *partition)).await?;
        }
        let (mut dead_committed, mut dead_shared) = (None, None);
        if let Some(table) = &dead {
            dead_committed = table.transaction(&dead_id(pipeline, *partition)).await?;
            dead_shared = table.transaction(&shared_dead_id(pipeline, *partition)).await?;
        }
        let start = committed.unwrap_or_else(|| beginning(*partition));
        let (log, log_begin) = (logs.newest(*partition), logs.begin(*partition));
        if dead_committed.max(dead_shared) > Some(start) {
            ahead.insert(*partition, (start, log_begin));
        }
        let known_rejects = HashSet::new();
        let state = Taken { committed, dead_committed, epoch, known_rejects, log, log_begin, mark };
        taken.push((*partition, start, state));
    }
    let mut rejects = match &dead {
        Some(table) if !ahead.is_empty() => rejected_offsets(pipeline, table, &ahead).await?,
        _ => HashMap::new(),
    };
    let progress = |(partition, start, state): (i32, i64, Taken)| {
        let known_rejects = rejects.remove(&partition).unwrap_or_default();
        (partition, Progress::at(start, Taken { known_rejects, ..state }))
    };
    Ok(taken.into_iter().map(progress).collect())
}

/// Races of takers-over before giving up; each loser sees a winner.
const FENCE_ATTEMPTS_MAX: u32 = 20;

/// Writes a new owner's number to the dead letters and then to the rows' table; of two owners at
/// once, only one gets its number into the first, and a lower one is refused by the second. Without
/// the second fence, a former owner whose settings take a message that the new ones reject could
/// add its row after the reject.
pub async fn fence(pipeline: &Pipeline, partitions: &[i32]) -> Result<Vec<i64>> {
    let letters = dead_letters_spec();
    for _ in 0..FENCE_ATTEMPTS_MAX {
        let ledger = Ledger::new(letters.name.to_string(), pipeline.run);
        let table = ensure_table(&pipeline.lake, &letters, &ledger).await?;
        let rows = pipeline.lake.snapshot(&pipeline.spec.name).await?;
        let mut epochs = Vec::with_capacity(partitions.len());
        let (mut in_letters, mut in_rows) = (Vec::new(), Vec::new());
        for partition in partitions {
            let own = dead_epoch_id(pipeline, *partition);
            let mut highest = table.transaction(&own).await?;
            let shared = epoch_id(pipeline, *partition);
            let found = table.transaction(&shared).await?;
            highest = highest.max(found);
            if let Some(rows) = &rows {
                highest = highest.max(rows.transaction(&shared).await?);
            }
            let epoch = highest.unwrap_or(0) + 1;
            in_letters.push((own, epoch));
            // A worker of such a version would go by this one.
            in_letters.extend(found.map(|_| (shared.clone(), epoch)));
            in_rows.push((shared, epoch));
            epochs.push(epoch);
        }
        if raise(pipeline, &letters, &in_letters).await?
            && raise(pipeline, &pipeline.spec, &in_rows).await?
        {
            return Ok(epochs);
        }
    }
    Err(Error::new(crate::error::ErrorKind::Conflict, "partitions change hands too fast"))
}

/// Raises the owners' numbers in one table; false if another owner's are as high, or came between.
async fn raise(pipeline: &Pipeline, spec: &TableSpec, epochs: &[(String, i64)]) -> Result<bool> {
    let ledger = Ledger::new(spec.name.to_string(), pipeline.run);
    let table = ensure_table(&pipeline.lake, spec, &ledger).await?;
    let mut advances = Vec::with_capacity(epochs.len());
    for (app_id, epoch) in epochs.iter().cloned() {
        let expected = table.transaction(&app_id).await?;
        if expected.is_some_and(|found| found >= epoch) {
            return Ok(false);
        }
        advances.push(Advance { app_id, expected, next: epoch });
    }
    let fencing = Commit { spec, staged: Staged::default(), removal: None, advances, ledger };
    Ok(matches!(commit(&pipeline.lake, &fencing).await?, Outcome::Committed { .. }))
}

/// Rows that were ingested after `begin`; all of them without one.
pub fn later_than(begin: Option<i64>) -> Expr {
    begin.map_or(lit(true), |begin| {
        let begin = ScalarValue::TimestampMicrosecond(Some(begin), Some("UTC".into()));
        col("_ingested_at").gt(lit(begin))
    })
}

/// Offsets that the dead letters already hold of the logs that are ingested now: of each partition
/// from an offset on, and later than its log began. Reads the letters once for all partitions.
async fn rejected_offsets(
    pipeline: &Pipeline,
    table: &Snapshot,
    ahead: &BTreeMap<i32, (i64, Option<i64>)>,
) -> Result<HashMap<i32, HashSet<i64>>> {
    const COLUMNS: [&str; 3] = ["_partition", "_offset", "_ingested_at"];
    let failed = |error| engine_error("cannot read `bronze.dead_letters`", error);
    let first = ahead.values().map(|(start, _)| *start).min().unwrap_or(0);
    let session = pipeline.engine.session();
    let batches = session
        .read_table(table.provider().await?)
        .and_then(|frame| {
            frame.filter(
                col("_topic")
                    .eq(lit(pipeline.topic.as_str()))
                    .and(col("pipeline").eq(lit(pipeline.spec.name.to_string())))
                    .and(col("_offset").gt_eq(lit(first))),
            )
        })
        .and_then(|frame| frame.select_columns(&COLUMNS))
        .map_err(failed)?
        .collect()
        .await
        .map_err(failed)?;
    let mut offsets: HashMap<i32, HashSet<i64>> = HashMap::new();
    for batch in &batches {
        let letters = Letters::new(batch, &COLUMNS)?;
        for row in 0..letters.rows() {
            let (partition, offset) = (letters.partition(row), letters.offset(row));
            let Some((start, log_begin)) = ahead.get(&partition) else { continue };
            let is_of_log = log_begin.is_none_or(|begin| letters.ingested_at(row).0 > begin);
            if offset >= *start && is_of_log {
                offsets.entry(partition).or_default().insert(offset);
            }
        }
    }
    Ok(offsets)
}
