//! What an audit looks at: one topic of one table, in the lake and on the broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::recorded::{Place, Recorded};
use crate::engine::Engine;
use crate::error::Result;
use crate::ingest::refusal;
use crate::kafka::{KafkaAccess, Probe, waiting};
use crate::lake::commit::{mark_id, offsets_id, topic_id_key};
use crate::lake::logs::Logs;
use crate::lake::{Lake, Snapshot};
use crate::model::Model;

/// What the audit works on.
pub struct Auditor<'a> {
    pub lake: &'a Lake,
    pub engine: &'a Engine,
    /// Whose transactions count.
    pub pipeline: &'a str,
    /// Asked for watermarks and about gaps, when given.
    pub kafka: Option<&'a KafkaAccess>,
    /// Whether every row, and with a broker every message, is read again.
    pub payloads: bool,
}

/// The dead letters before and after the table was looked at: none that moves meanwhile is missed.
pub struct Letters {
    pub before: Option<Snapshot>,
    pub after: Option<Snapshot>,
}

/// What the broker says of a topic, and the way to ask for more.
pub struct Broker {
    pub probe: Arc<Probe>,
    /// Low watermark and last stable offset of each partition.
    pub watermarks: BTreeMap<i32, (i64, i64)>,
    pub topic_id: Option<String>,
}

impl Broker {
    /// `is_known` says whether the broker once told the topic's id.
    pub async fn ask(kafka: &KafkaAccess, topic: &str, is_known: bool) -> Result<Self> {
        let (kafka, topic) = (kafka.clone(), topic.to_owned());
        waiting(move || {
            let probe = Arc::new(Probe::open(&kafka)?);
            let watermarks = probe.watermarks(&topic)?;
            let topic_id = probe.topic_id(&topic, is_known)?;
            Ok(Self { probe, watermarks, topic_id })
        })
        .await
    }
}

/// One topic of one table.
pub struct Subject<'a> {
    pub auditor: &'a Auditor<'a>,
    pub model: &'a Model,
    pub topic: &'a str,
    /// `None`: nothing was ingested yet.
    pub bronze: Option<&'a Snapshot>,
    pub dead: &'a Letters,
    /// `None`: it is not asked, or the topic is one of an earlier header.
    pub broker: Option<&'a Broker>,
    pub logs: Logs,
    pub recorded: &'a BTreeMap<Place, Recorded>,
}

impl Subject<'_> {
    /// The offset after the last of a log.
    pub async fn next(&self, (partition, log): Place) -> Result<Option<i64>> {
        let ended = self.logs.of_partition(partition).nth(log as usize);
        match (ended, self.bronze) {
            (Some(accepted), _) => Ok(Some(accepted.end)),
            (None, Some(bronze)) => {
                let id = offsets_id(self.auditor.pipeline, self.topic, partition);
                bronze.transaction(&id).await
            }
            (None, None) => Ok(None),
        }
    }

    /// Why the broker's log is not the one that was ingested.
    pub async fn other_log(
        &self,
        broker: &Broker,
        partition: i32,
        next: Option<i64>,
        bounds: (i64, i64),
    ) -> Result<Option<String>> {
        let Some(bronze) = self.bronze else { return Ok(None) };
        let known = bronze.property(&topic_id_key(self.topic));
        if let (Some(known), Some(found)) = (&known, &broker.topic_id)
            && known != found
        {
            return Ok(Some(refusal::recreated(known, found)));
        }
        let Some(next) = next else { return Ok(None) };
        let id = mark_id(self.auditor.pipeline, self.topic, partition);
        let mark = bronze.transaction(&id).await?;
        if next < bounds.0 {
            // What is missing there is accounted for offset by offset.
            return Ok(None);
        }
        let (probe, topic) = (Arc::clone(&broker.probe), self.topic.to_owned());
        waiting(move || refusal::of_log(&probe, (&topic, partition), (next, mark), bounds)).await
    }
}
