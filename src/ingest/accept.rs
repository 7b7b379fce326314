//! Going on with a log that ingestion refuses, because a person says so: what the lake holds stays,
//! and the messages of the new log are ingested beside it, from the first that is not in the lake.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use datafusion::functions_aggregate::min_max::max;
use datafusion::prelude::{DataFrame, col, lit};

use super::Pipeline;
use super::batch::{epoch_id, fence, later_than};
use super::decode::timestamp_of;
use super::letters::Letters;
use super::mark::Mark;
use super::refusal;
use crate::engine::fault::engine_error;
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Instant;
use crate::kafka::{Probe, waiting};
use crate::lake::Snapshot;
use crate::lake::commit::{
    Advance, Commit, Outcome, commit, mark_id, offsets_id, replay_id, topic_id_key,
};
use crate::lake::ledger::{Acceptance, Ledger};
use crate::lake::logs::Logs;
use crate::lake::stage::Staged;
use crate::model::dead_letters;

const DOING: &str = "cannot read what was ingested";

/// What a person decides about.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// All that ingestion refuses, if empty.
    pub partitions: Vec<i32>,
    /// The first offset of the new log to be ingested, instead of the one that is found.
    pub from: Option<i64>,
    /// Decide everything, write nothing.
    pub dry_run: bool,
}

/// Accepts the log of every partition that ingestion refuses. Running workers lose those partitions
/// first, so that nothing of the old log lands behind the decision.
pub async fn accept(pipeline: &Pipeline, request: &Request) -> Result<Vec<Acceptance>> {
    let found = decide(pipeline, request).await?;
    if found.is_empty() || request.dry_run {
        return Ok(found);
    }
    let partitions: Vec<i32> = found.iter().map(|accepted| accepted.partition).collect();
    let epochs = fence(pipeline, &partitions).await?;
    let epochs: BTreeMap<i32, i64> = partitions.into_iter().zip(epochs).collect();
    // Their owner may have committed until then.
    let mut found = decide(pipeline, request).await?;
    found.retain(|accepted| epochs.contains_key(&accepted.partition));
    let table = existing(pipeline).await?;
    let mut advances = Vec::new();
    for accepted in &found {
        let partition = accepted.partition;
        let epoch = epochs[&partition];
        let owner = epoch_id(pipeline, partition);
        advances.push(Advance { app_id: owner, expected: Some(epoch), next: epoch });
        for (app_id, next) in [
            (offsets_id(&pipeline.name, &pipeline.topic, partition), accepted.start),
            (mark_id(&pipeline.name, &pipeline.topic, partition), Mark::pack(None, accepted.start)),
        ] {
            let expected = table.transaction(&app_id).await?;
            advances.push(Advance { app_id, expected, next });
        }
    }
    // A replay that is under way has decided by the old logs which row its letters become.
    let app_id = replay_id(&pipeline.spec.name);
    let expected = table.transaction(&app_id).await?;
    advances.push(Advance { app_id, expected, next: expected.unwrap_or(0) + 1 });
    let mut ledger = Ledger::new(pipeline.spec.name.to_string(), pipeline.run);
    ledger.accepted.clone_from(&found);
    let staged = Staged::default();
    let decision = Commit { spec: &pipeline.spec, staged, removal: None, advances, ledger };
    match commit(&pipeline.lake, &decision).await? {
        Outcome::Committed { .. } => Ok(found),
        Outcome::Superseded { .. } => {
            let message = format!("`{}` was taken over by a worker meanwhile", pipeline.topic);
            Err(Error::new(ErrorKind::Conflict, message).hint("nothing was decided; run again"))
        }
    }
}

async fn existing(pipeline: &Pipeline) -> Result<Snapshot> {
    pipeline.lake.snapshot(&pipeline.spec.name).await?.ok_or_else(|| {
        let message = format!("nothing was ingested into `{}` yet", pipeline.spec.name);
        Error::new(ErrorKind::NotFound, message)
    })
}

/// The partitions whose log ingestion refuses, and where the new one begins.
async fn decide(pipeline: &Pipeline, request: &Request) -> Result<Vec<Acceptance>> {
    let bronze = existing(pipeline).await?;
    let dead = pipeline.lake.snapshot(&dead_letters()).await?;
    let (kafka, topic) = (pipeline.kafka.clone(), pipeline.topic.clone());
    let known_id = bronze.property(&topic_id_key(&pipeline.topic));
    let is_known = known_id.is_some();
    let (probe, bounds, found_id) = waiting(move || {
        let probe = Arc::new(Probe::open(&kafka)?);
        let bounds = probe.watermarks(&topic)?;
        let id = probe.topic_id(&topic, is_known)?;
        Ok((probe, bounds, id))
    })
    .await?;
    let ids = known_id.as_deref().zip(found_id.as_deref()).filter(|(known, found)| known != found);
    let logs = Logs::of(Some(&bronze), &pipeline.topic)?;
    let held = Held { pipeline, bronze, dead, logs };
    let mut newest = held.newest().await?;
    for partition in bounds.keys().chain(&request.partitions) {
        newest.entry(*partition).or_insert(i64::MIN);
    }
    if ids.is_some() && !(request.partitions.is_empty() && request.from.is_none()) {
        let message = format!("`{}` was recreated", pipeline.topic);
        return Err(Error::invalid(message).hint(
            "it is accepted whole, from its beginning: leave out `--partition` and `--from`",
        ));
    }
    let mut decided = Vec::new();
    for (partition, newest) in newest {
        if !request.partitions.is_empty() && !request.partitions.contains(&partition) {
            continue;
        }
        let id = offsets_id(&pipeline.name, &pipeline.topic, partition);
        let next = held.bronze.transaction(&id).await?;
        let mark = mark_id(&pipeline.name, &pipeline.topic, partition);
        let mark = held.bronze.transaction(&mark).await?;
        let (reason, start) = match (ids, next, bounds.get(&partition).copied()) {
            // Also a partition of which nothing was committed: its letters may have been.
            (Some((known, found)), _, bounds) => {
                (refusal::recreated(known, found), Some(bounds.map_or(0, |(low, _)| low)))
            }
            (None, Some(next), Some(bounds)) => {
                let search = Search { held: &held, probe: &probe, partition, next };
                let Some(reason) = search.refused(mark, bounds).await? else { continue };
                (reason, search.start(request.from, bounds).await?)
            }
            (None, _, _) => continue,
        };
        let Some(start) = start else {
            let message = format!(
                "`{}` partition {partition} {reason}, but nothing tells where",
                pipeline.topic
            );
            return Err(Error::invalid(message)
                .hint("name the first offset to ingest: `--partition N --from OFFSET`"));
        };
        decided.push(Acceptance {
            topic: pipeline.topic.clone(),
            partition,
            at: pipeline.clock.micros().max(newest).max(held.logs.begin(partition).unwrap_or(0)),
            end: next.unwrap_or(0),
            start,
            topic_id: found_id.clone(),
            reason,
        });
    }
    Ok(decided)
}

/// What the lake holds of the topic.
struct Held<'a> {
    pipeline: &'a Pipeline,
    bronze: Snapshot,
    dead: Option<Snapshot>,
    logs: Logs,
}

impl Held<'_> {
    /// Rows and letters, each with the columns that both have.
    async fn frames(&self) -> Result<Vec<DataFrame>> {
        let failed = |error| engine_error(DOING, error);
        let session = self.pipeline.engine.session();
        let topic = col("_topic").eq(lit(self.pipeline.topic.as_str()));
        let bronze = session.read_table(self.bronze.provider().await?).map_err(failed)?;
        let mut frames = vec![bronze.filter(topic.clone()).map_err(failed)?];
        if let Some(dead) = &self.dead {
            let own = col("pipeline").eq(lit(self.pipeline.spec.name.to_string()));
            let letters = session.read_table(dead.provider().await?).map_err(failed)?;
            frames.push(letters.filter(topic.and(own)).map_err(failed)?);
        }
        Ok(frames)
    }

    /// When the last row of each partition was ingested.
    async fn newest(&self) -> Result<BTreeMap<i32, i64>> {
        let failed = |error| engine_error(DOING, error);
        let mut newest = BTreeMap::new();
        for frame in self.frames().await? {
            let latest = vec![max(col("_ingested_at"))];
            let frame = frame.aggregate(vec![col("_partition")], latest).map_err(failed)?;
            for batch in frame.collect().await.map_err(failed)? {
                let partitions = batch.column(0).as_primitive::<Int32Type>().values();
                let latest = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
                for (partition, latest) in partitions.iter().zip(latest) {
                    let known = newest.entry(*partition).or_insert(*latest);
                    *known = (*known).max(*latest);
                }
            }
        }
        Ok(newest)
    }

    /// When the message was produced that the lake holds at an offset of the log as it was last, and its
    /// key; `None` if it holds none there.
    async fn message(&self, partition: i32, offset: i64) -> Result<Option<Identity>> {
        let failed = |error| engine_error(DOING, error);
        // Logs that were accepted later share what comes before their beginnings.
        let before = self.logs.of_partition(partition).filter(|accepted| accepted.start <= offset);
        let begin = before.last().map(|accepted| accepted.at);
        for frame in self.frames().await? {
            let place = col("_partition").eq(lit(partition)).and(col("_offset").eq(lit(offset)));
            let frame = frame
                .filter(place.and(later_than(begin)))
                .and_then(|frame| frame.select_columns(&["_timestamp", "_key"]))
                .map_err(failed)?;
            for batch in frame.collect().await.map_err(failed)? {
                let letters = Letters::new(&batch, &["_timestamp", "_key"])?;
                if letters.rows() > 0 {
                    let key = letters.bytes("_key", 0).map(<[u8]>::to_vec);
                    return Ok(Some((letters.timestamp(0), key)));
                }
            }
        }
        Ok(None)
    }
}

/// When a message was produced, and its key.
type Identity = (Option<Instant>, Option<Vec<u8>>);

/// Looks in one partition for the first message that the lake does not hold.
struct Search<'a> {
    held: &'a Held<'a>,
    probe: &'a Arc<Probe>,
    partition: i32,
    next: i64,
}

impl Search<'_> {
    async fn refused(&self, mark: Option<i64>, bounds: (i64, i64)) -> Result<Option<String>> {
        let Search { partition, next, .. } = *self;
        let (probe, topic) = (Arc::clone(self.probe), self.held.pipeline.topic.clone());
        waiting(move || refusal::of_log(&probe, (&topic, partition), (next, mark), bounds)).await
    }

    /// Where to go on; `None` if nothing tells.
    async fn start(&self, asked: Option<i64>, bounds: (i64, i64)) -> Result<Option<i64>> {
        let (low, high) = bounds;
        match asked {
            Some(from) if (low..=high).contains(&from) => Ok(Some(from)),
            Some(from) => {
                let message = format!("`--from {from}` is not within {low} to {high}");
                Err(Error::invalid(message).hint("name an offset that the log has now, or its end"))
            }
            None if self.next < low => Ok(Some(low)),
            None => self.first_other(bounds).await,
        }
    }

    /// Bisects: up to where the log was cut, its messages are those of the lake, and from there on
    /// others. `None` if they look the same everywhere.
    async fn first_other(&self, (low, high): (i64, i64)) -> Result<Option<i64>> {
        let end = self.next.min(high);
        let (mut same, mut other) = (low, end);
        let mut is_found = self.next > high;
        while same < other {
            let middle = same + (other - same) / 2;
            match self.message_from(middle, other).await? {
                // Nothing is there, so what is looked for is before it or at its end.
                None => other = middle,
                Some((offset, found)) => {
                    let held = self.held.message(self.partition, offset).await?;
                    if held.as_ref() == Some(&found) {
                        same = offset + 1;
                    } else {
                        (other, is_found) = (middle, true);
                    }
                }
            }
        }
        Ok(is_found.then_some(other))
    }

    /// The first message of the log in `[from, to)`.
    async fn message_from(&self, from: i64, to: i64) -> Result<Option<(i64, Identity)>> {
        let (probe, topic) = (Arc::clone(self.probe), self.held.pipeline.topic.clone());
        let partition = self.partition;
        waiting(move || {
            let mut found = None;
            probe.read((&topic, partition), [from, to], |received| {
                let time = received.timestamp_ms().and_then(timestamp_of);
                found = Some((received.offset(), (time, received.key().map(<[u8]>::to_vec))));
                ControlFlow::Break(())
            })?;
            Ok(found)
        })
        .await
    }
}
