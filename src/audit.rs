//! Proves from the tables alone that every offset is accounted for exactly once, in bronze or in
//! the dead letters; with a broker at hand, also that nothing below its watermarks is missing.
//! Changes nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::logical_expr::JoinType;
use datafusion::prelude::{DataFrame, SessionContext, col, lit};
use futures::StreamExt;
use serde::Serialize;

use crate::engine::Engine;
use crate::engine::fault::engine_error;
use crate::error::{Error, Result};
use crate::kafka::KafkaAccess;
use crate::lake::commit::{offsets_id, topic_id_key};
use crate::lake::{Lake, Snapshot};
use crate::model::{Model, dead_letters};

/// Ranges listed per partition; the counts cover all of them.
const RANGES_SHOWN_MAX: usize = 20;

/// One partition of one topic. Ranges are `[first, after the last)`.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct PartitionAudit {
    pub table: String,
    pub topic: String,
    pub partition: i32,
    /// First and last offset found in bronze or the dead letters.
    pub first: Option<i64>,
    pub last: Option<i64>,
    pub rows: u64,
    pub rejects: u64,
    /// Rejects at or after `next`: the rows beside them have not landed yet, and whoever reads those
    /// offsets passes over these.
    pub early: u64,
    /// Dead letters that a replay put into bronze and has not deleted yet; the next one does.
    pub moving: u64,
    /// Offsets found more than once, counted for each time too many.
    pub duplicates: u64,
    /// Offsets between the first and the next at which there is nothing.
    pub gaps: u64,
    /// Those of them that the broker had no message at: control records, or compacted ones.
    pub explained: u64,
    /// Those of them that nothing explains, and offsets that the broker holds below the first.
    pub unaccounted: u64,
    pub unaccounted_ranges: Vec<[i64; 2]>,
    /// The next offset that the table's transaction names.
    pub next: Option<i64>,
    /// The broker's watermarks, when it was asked.
    pub low: Option<i64>,
    pub high: Option<i64>,
    /// Offsets up to the high watermark that are still to be ingested.
    pub lag: Option<i64>,
    /// Why the broker's log is not the one that was ingested; ingestion refuses it too.
    pub other_log: Option<String>,
}

impl PartitionAudit {
    pub fn is_clean(&self) -> bool {
        self.duplicates == 0 && self.unaccounted == 0 && self.other_log.is_none()
    }
}

/// What the audit works on.
pub struct Auditor<'a> {
    pub lake: &'a Lake,
    pub engine: &'a Engine,
    /// Whose transactions count.
    pub pipeline: &'a str,
    /// Asked for watermarks and about gaps, when given.
    pub kafka: Option<&'a KafkaAccess>,
}

/// Every partition of the model's topic that the lake or the broker knows.
pub async fn audit(auditor: &Auditor<'_>, model: &Model) -> Result<Vec<PartitionAudit>> {
    let Some(source) = model.topic() else { return Ok(Vec::new()) };
    // Letters are committed before the rows of their batch, and deleted after their own row: seen
    // before and after the table, none is missed whatever ends in between.
    let dead_before = auditor.lake.snapshot(&dead_letters()).await?;
    let bronze = auditor.lake.snapshot(&model.name).await?;
    let dead =
        Letters { before: dead_before, after: auditor.lake.snapshot(&dead_letters()).await? };
    // After the table: a log that goes on growing ends at least where the table does.
    let (watermarks, id) = match auditor.kafka {
        Some(kafka) => {
            let (kafka, topic) = (kafka.clone(), source.topic.clone());
            blocking(move || Ok((kafka.watermarks(&topic)?, kafka.topic_id(&topic)?))).await?
        }
        None => (BTreeMap::new(), None),
    };
    let known = bronze.as_ref().and_then(|bronze| bronze.property(&topic_id_key(&source.topic)));
    let recreated = id.zip(known).filter(|(id, known)| id != known).map(|(id, known)| {
        format!("the topic was recreated: its id is {id}, and the table was ingested from {known}")
    });
    let recorded = match &bronze {
        Some(bronze) => recorded(bronze, &source.topic).await?,
        None => BTreeMap::new(),
    };
    let mut found =
        read_offsets(auditor, model, &source.topic, bronze.as_ref(), &dead, &recorded).await?;
    for partition in watermarks.keys() {
        found.entry(*partition).or_default();
    }
    // A partition of which nothing is left must not pass for one that was never read.
    for partition in recorded.keys() {
        found.entry(*partition).or_default();
    }
    let mut audits = Vec::new();
    for (partition, offsets) in found {
        let mut audit = PartitionAudit {
            table: model.name.to_string(),
            topic: source.topic.clone(),
            partition,
            first: offsets.first,
            last: offsets.last,
            rows: offsets.rows,
            rejects: offsets.rejects,
            early: offsets.early,
            moving: offsets.moving,
            duplicates: offsets.duplicates,
            low: watermarks.get(&partition).map(|(low, _)| *low),
            high: watermarks.get(&partition).map(|(_, high)| *high),
            ..PartitionAudit::default()
        };
        if let Some(bronze) = &bronze {
            audit.next = next_offset(auditor, bronze, &source.topic, partition).await?;
        }
        let beyond = audit.next.zip(audit.high).filter(|(next, high)| next > high);
        audit.other_log = recreated.clone().or_else(|| {
            let (next, high) = beyond?;
            Some(format!("the topic ends at {high}, and the lake holds it up to {next}"))
        });
        account(auditor, &mut audit, offsets.gaps, recorded.get(&partition)).await?;
        audits.push(audit);
    }
    Ok(audits)
}

async fn next_offset(
    auditor: &Auditor<'_>,
    bronze: &Snapshot,
    topic: &str,
    partition: i32,
) -> Result<Option<i64>> {
    bronze.transaction(&offsets_id(auditor.pipeline, topic, partition)).await
}

/// Decides about every gap: inside, at the tail up to the recorded next offset, and before the
/// first offset down to where ingestion began and to the broker's low watermark.
async fn account(
    auditor: &Auditor<'_>,
    audit: &mut PartitionAudit,
    mut gaps: Vec<[i64; 2]>,
    recorded: Option<&Recorded>,
) -> Result<()> {
    let after_last = audit.last.map(|last| last + 1);
    match (after_last, audit.next) {
        (Some(after), Some(next)) if next > after => gaps.push([after, next]),
        // Rows beyond the recorded offset would be ingested again.
        (Some(after), next) if next.unwrap_or(0) < after => {
            audit.unaccounted_ranges.push([next.unwrap_or(0), after]);
            audit.unaccounted += (after - next.unwrap_or(0)).unsigned_abs();
        }
        _ => {}
    }
    let begin = [audit.low, recorded.map(|recorded| recorded.begin)].into_iter().flatten().min();
    if let (Some(begin), Some(first)) = (begin, audit.first.or(audit.next))
        && begin < first
    {
        gaps.push([begin, first]);
    }
    // What the broker deleted before it was ingested.
    if let (Some(low), Some(next)) = (audit.low, audit.next)
        && next < low
    {
        gaps.push([next, low]);
    }
    let holes = recorded.map_or(&[] as &[[i64; 2]], |recorded| &recorded.holes);
    audit.gaps = gaps.iter().map(|[start, end]| (end - start).unsigned_abs()).sum();
    for gap in gaps {
        for open in subtract(gap, holes) {
            if !is_empty_on_broker(auditor, audit, open).await? {
                audit.unaccounted += (open[1] - open[0]).unsigned_abs();
                audit.unaccounted_ranges.push(open);
            }
        }
    }
    audit.explained = audit.gaps.saturating_sub(audit.unaccounted);
    audit.unaccounted_ranges.sort_unstable();
    audit.unaccounted_ranges.truncate(RANGES_SHOWN_MAX);
    audit.lag = audit.high.map(|high| {
        let next = audit.next.or(audit.low).unwrap_or(0);
        (high - next).max(0)
    });
    Ok(())
}

/// Whether the broker still holds the range and has no message in it.
async fn is_empty_on_broker(
    auditor: &Auditor<'_>,
    audit: &PartitionAudit,
    [start, end]: [i64; 2],
) -> Result<bool> {
    let (Some(kafka), Some(low)) = (auditor.kafka, audit.low) else { return Ok(false) };
    if start < low {
        return Ok(false);
    }
    let (kafka, topic, partition) = (kafka.clone(), audit.topic.clone(), audit.partition);
    let next = blocking(move || kafka.next_offset(&topic, partition, start)).await?;
    Ok(next.is_none_or(|next| next >= end))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::internal("asking Kafka stopped").source(source))?
}

/// The parts of `gap` that no hole covers. `holes` are sorted.
fn subtract(gap: [i64; 2], holes: &[[i64; 2]]) -> Vec<[i64; 2]> {
    let mut open = Vec::new();
    let mut start = gap[0];
    for hole in holes {
        if hole[1] <= start {
            continue;
        }
        if hole[0] >= gap[1] {
            break;
        }
        if hole[0] > start {
            open.push([start, hole[0]]);
        }
        start = start.max(hole[1]);
    }
    if start < gap[1] {
        open.push([start, gap[1]]);
    }
    open
}

/// What the commits' ledgers say of one partition.
struct Recorded {
    /// The first offset of the earliest commit that the log still holds.
    begin: i64,
    /// Offsets at which ingestion saw that the broker had no message; sorted.
    holes: Vec<[i64; 2]>,
    /// Within which dead letters were replayed.
    replayed: Vec<[i64; 2]>,
}

impl Recorded {
    fn beginning(offset: i64) -> Self {
        Self { begin: offset, holes: Vec::new(), replayed: Vec::new() }
    }

    fn has_replayed(&self, offset: i64) -> bool {
        self.replayed.iter().any(|[start, end]| (*start..*end).contains(&offset))
    }
}

async fn recorded(bronze: &Snapshot, topic: &str) -> Result<BTreeMap<i32, Recorded>> {
    let mut recorded: BTreeMap<i32, Recorded> = BTreeMap::new();
    let mut replayed: BTreeMap<i32, Vec<[i64; 2]>> = BTreeMap::new();
    for ledger in bronze.ledgers(0).await?.into_values() {
        for range in ledger.offsets.into_iter().filter(|range| range.topic == topic) {
            let partition =
                recorded.entry(range.partition).or_insert_with(|| Recorded::beginning(range.start));
            partition.begin = partition.begin.min(range.start);
            partition.holes.extend(range.holes);
        }
        for range in ledger.replayed.into_iter().filter(|range| range.topic == topic) {
            replayed.entry(range.partition).or_default().push([range.start, range.end]);
        }
    }
    for (id, partition) in &mut recorded {
        partition.holes.sort_unstable();
        partition.replayed = replayed.remove(id).unwrap_or_default();
    }
    Ok(recorded)
}

/// What the tables hold of one partition.
#[derive(Debug, Default)]
struct Offsets {
    first: Option<i64>,
    last: Option<i64>,
    rows: u64,
    rejects: u64,
    early: u64,
    last_early: Option<i64>,
    /// Whether the last offset was found in bronze, in the dead letters or in both.
    last_in: [bool; 2],
    moving: u64,
    duplicates: u64,
    gaps: Vec<[i64; 2]>,
}

impl Offsets {
    /// Takes offsets in ascending order. Dead letters are committed before the rows of their batch,
    /// so from `next` on they may be alone: they belong to a batch that is under way, or will be
    /// read again after a crash.
    /// A replay moves a letter by a row, and then deletes it: in between it is in both.
    fn take(&mut self, offset: i64, is_reject: bool, next: Option<i64>, is_replayed: bool) {
        if is_reject && next.is_none_or(|next| offset >= next) {
            self.duplicates += u64::from(self.last_early == Some(offset));
            self.last_early = Some(offset);
            self.early += 1;
            self.rejects += 1;
            return;
        }
        let is_again = self.last == Some(offset);
        match self.last {
            Some(_) if is_again && is_replayed && !self.last_in[usize::from(is_reject)] => {
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
async fn read_offsets(
    auditor: &Auditor<'_>,
    model: &Model,
    topic: &str,
    bronze: Option<&Snapshot>,
    dead: &Letters,
    recorded: &BTreeMap<i32, Recorded>,
) -> Result<BTreeMap<i32, Offsets>> {
    let doing = format!("cannot audit `{}`", model.name);
    let failed = |error| engine_error(&doing, error);
    let session = auditor.engine.session();
    let mut union: Option<DataFrame> = None;
    let rows = match bronze {
        Some(bronze) => Some(offsets_of(&session, bronze, topic).await.map_err(failed)?),
        None => None,
    };
    let letters = dead.offsets(&session, topic, model).await.map_err(failed)?;
    for (frame, is_reject) in [(rows, false), (letters, true)] {
        let Some(frame) = frame else { continue };
        let frame = frame
            .select(vec![col("_partition"), col("_offset"), lit(is_reject).alias("is_reject")])
            .map_err(failed)?;
        union = Some(match union {
            Some(union) => union.union(frame).map_err(failed)?,
            None => frame,
        });
    }
    let mut found: BTreeMap<i32, Offsets> = BTreeMap::new();
    let mut next: BTreeMap<i32, Option<i64>> = BTreeMap::new();
    let Some(union) = union else { return Ok(found) };
    let order = vec![col("_partition").sort(true, false), col("_offset").sort(true, false)];
    let mut rows = union.sort(order).map_err(failed)?.execute_stream().await.map_err(failed)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        let partitions = batch.column(0).as_primitive::<Int32Type>().values();
        let offsets = batch.column(1).as_primitive::<Int64Type>().values();
        let rejects = batch.column(2).as_boolean();
        for row in 0..batch.num_rows() {
            let partition = partitions[row];
            if let (Some(bronze), Entry::Vacant(entry)) = (bronze, next.entry(partition)) {
                entry.insert(next_offset(auditor, bronze, topic, partition).await?);
            }
            let next = next.get(&partition).copied().flatten();
            let offset = offsets[row];
            let is_replayed = recorded.get(&partition).is_some_and(|r| r.has_replayed(offset));
            let offsets = found.entry(partition).or_default();
            offsets.take(offset, rejects.value(row), next, is_replayed);
        }
    }
    Ok(found)
}

async fn offsets_of(
    session: &SessionContext,
    table: &Snapshot,
    topic: &str,
) -> datafusion::common::Result<DataFrame> {
    let provider = table
        .provider()
        .await
        .map_err(|error| datafusion::common::DataFusionError::External(Box::new(error)))?;
    session.read_table(provider)?.filter(col("_topic").eq(lit(topic)))
}

/// The dead letters at two moments.
struct Letters {
    before: Option<Snapshot>,
    after: Option<Snapshot>,
}

impl Letters {
    /// Where those of one table are that are there after, and those that were there only before.
    async fn offsets(
        &self,
        session: &SessionContext,
        topic: &str,
        model: &Model,
    ) -> datafusion::common::Result<Option<DataFrame>> {
        let columns = ["_partition", "_offset"];
        let name = model.name.to_string();
        let of = async |table: &Snapshot| {
            let letters = offsets_of(session, table, topic).await?;
            letters.filter(col("pipeline").eq(lit(name.as_str())))?.select_columns(&columns)
        };
        let Some(after) = &self.after else { return Ok(None) };
        let later = of(after).await?;
        Ok(Some(match &self.before {
            Some(before) if before.version() != after.version() => {
                let gone = of(before).await?;
                let gone =
                    gone.join(later.clone(), JoinType::LeftAnti, &columns, &columns, None)?;
                later.union(gone)?
            }
            _ => later,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_in_order_show_gaps_and_duplicates() {
        let mut offsets = Offsets::default();
        for (offset, is_reject) in [(3, false), (4, true), (4, false), (7, false)] {
            offsets.take(offset, is_reject, Some(8), false);
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
            offsets.take(offset, is_reject, Some(3), true);
        }
        assert_eq!((offsets.moving, offsets.duplicates), (1, 1));
    }

    #[test]
    fn dead_letters_ahead_of_their_rows_are_no_loss() {
        let mut offsets = Offsets::default();
        for (offset, is_reject) in [(0, false), (1, false), (5, true), (9, true), (9, true)] {
            offsets.take(offset, is_reject, Some(2), false);
        }
        assert_eq!((offsets.last, offsets.early, offsets.duplicates), (Some(1), 3, 1));
        assert_eq!(offsets.gaps, [[0_i64; 2]; 0]);
        // Before the first commit of rows there is no next offset.
        let mut offsets = Offsets::default();
        offsets.take(7, true, None, false);
        assert_eq!((offsets.first, offsets.early), (None, 1));
    }

    #[tokio::test]
    async fn messages_deleted_before_they_were_ingested_passed_the_audit() {
        let folder = tempfile::tempdir().unwrap();
        let root = url::Url::from_directory_path(folder.path()).unwrap();
        let lake = Lake::open(&root, &Default::default()).unwrap();
        let options =
            crate::engine::EngineOptions { memory_bytes_max: 1 << 20, spill_dir: None, threads: 1 };
        let engine = Engine::new(&options).unwrap();
        let auditor = Auditor { lake: &lake, engine: &engine, pipeline: "default", kafka: None };
        let mut audit = PartitionAudit {
            first: Some(0),
            last: Some(4),
            next: Some(5),
            low: Some(7),
            high: Some(8),
            ..PartitionAudit::default()
        };
        account(&auditor, &mut audit, Vec::new(), None).await.unwrap();
        assert_eq!((audit.unaccounted_ranges, audit.unaccounted), (vec![[5, 7]], 2));
    }

    #[test]
    fn holes_explain_only_what_they_cover() {
        assert_eq!(subtract([0, 10], &[[2, 3], [5, 20]]), [[0, 2], [3, 5]]);
        assert_eq!(subtract([0, 10], &[[0, 10]]), [[0_i64; 2]; 0]);
        assert_eq!(subtract([4, 6], &[[0, 2], [8, 9]]), [[4, 6]]);
    }
}
