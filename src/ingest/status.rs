//! Where each partition stands: the lake's next offset against the broker's end, and what the
//! commits so far say of rows and rejects.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::kafka::{KafkaAccess, Probe};
use crate::lake::commit::offsets_id;
use crate::lake::ledger::OffsetRange;
use crate::lake::{Lake, Snapshot};
use crate::model::Model;

/// How far the lake has come in one partition.
#[derive(Debug, Clone, Serialize)]
pub struct Position {
    pub table: String,
    pub topic: String,
    pub partition: i32,
    /// The next offset to be committed; absent before the first commit.
    pub next_offset: Option<i64>,
    /// The last stable offset.
    pub end_offset: i64,
    /// Offsets between the two, control records included.
    pub lag: i64,
}

/// One partition with what its commits add up to.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    #[serde(flatten)]
    pub position: Position,
    /// Totals over the commits whose log entries remain; a replayed reject counts as a row.
    pub rows: u64,
    pub rejects: u64,
    /// From the start of the last write of this partition to its commit.
    pub last_commit_ms: Option<u64>,
}

/// One entry per partition of the model's topic. Needs the broker; reads no log entry twice, so it
/// may be asked often.
pub async fn positions(
    lake: &Lake,
    model: &Model,
    pipeline: &str,
    kafka: &KafkaAccess,
) -> Result<Vec<Position>> {
    look(lake, model, pipeline, kafka).await.map(|(positions, _)| positions)
}

/// The same with totals, for which the whole log is read.
pub async fn status(
    lake: &Lake,
    model: &Model,
    pipeline: &str,
    kafka: &KafkaAccess,
) -> Result<Vec<PartitionStatus>> {
    let (positions, snapshot) = look(lake, model, pipeline, kafka).await?;
    let ledgers = match &snapshot {
        Some(snapshot) => snapshot.ledgers(0).await?,
        None => Default::default(),
    };
    let mut found = Vec::with_capacity(positions.len());
    for position in positions {
        let mut status = PartitionStatus { position, rows: 0, rejects: 0, last_commit_ms: None };
        let position = &status.position;
        let of_partition = |range: &&OffsetRange| {
            range.topic == position.topic && range.partition == position.partition
        };
        for ledger in ledgers.values() {
            for range in ledger.offsets.iter().filter(of_partition) {
                status.rows += range.rows;
                status.rejects += range.rejects;
                status.last_commit_ms = ledger.write_ms.or(status.last_commit_ms);
            }
            for range in ledger.replayed.iter().filter(of_partition) {
                status.rows += range.rows;
                status.rejects = status.rejects.saturating_sub(range.rows);
            }
        }
        found.push(status);
    }
    Ok(found)
}

/// The positions, and the version of the table that they were read from.
async fn look(
    lake: &Lake,
    model: &Model,
    pipeline: &str,
    kafka: &KafkaAccess,
) -> Result<(Vec<Position>, Option<Snapshot>)> {
    let Some(source) = model.topic() else { return Ok((Vec::new(), None)) };
    let (access, topic) = (kafka.clone(), source.topic.clone());
    let watermarks = tokio::task::spawn_blocking(move || Probe::open(&access)?.watermarks(&topic))
        .await
        .map_err(|source| Error::internal("asking Kafka stopped").source(source))??;
    let snapshot = lake.snapshot(&model.name).await?;
    let mut positions = Vec::with_capacity(watermarks.len());
    for (partition, (low, high)) in watermarks {
        let next_offset = match &snapshot {
            Some(snapshot) => {
                snapshot.transaction(&offsets_id(pipeline, &source.topic, partition)).await?
            }
            None => None,
        };
        positions.push(Position {
            table: model.name.to_string(),
            topic: source.topic.clone(),
            partition,
            next_offset,
            end_offset: high,
            lag: (high - next_offset.unwrap_or(low)).max(0),
        });
    }
    Ok((positions, snapshot))
}
