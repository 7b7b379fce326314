//! Which log of a topic a row came from. Offsets name a message only within one log: when a topic
//! was recreated, or lost its tail and grew again, the same offsets come back with other messages,
//! and a person decides where the new log begins. From then on its rows are told by `_ingested_at`,
//! which ingestion keeps after that of every row before.

use super::Snapshot;
use super::ledger::Acceptance;
use crate::error::{Error, Result};

/// Key of the table's property that holds all acceptances of its topics.
pub const ACCEPTED_KEY: &str = "flowguard.accepted";

/// All decisions about one topic of one table, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Logs(Vec<Acceptance>);

impl Logs {
    /// None without a table. Fails if the list that the table keeps cannot be read.
    pub fn of(table: Option<&Snapshot>, topic: &str) -> Result<Self> {
        let mut all = accepted(table)?;
        all.retain(|acceptance| acceptance.topic == topic);
        Ok(Self(all))
    }

    /// Of all partitions, oldest first.
    pub fn all(&self) -> &[Acceptance] {
        &self.0
    }

    /// Decisions about one partition, oldest first. Number `n` begins the log of number `n + 1`.
    pub fn of_partition(&self, partition: i32) -> impl Iterator<Item = &Acceptance> {
        self.0.iter().filter(move |acceptance| acceptance.partition == partition)
    }

    /// The number of the log that a row came from; the first log is 0.
    pub fn number(&self, partition: i32, ingested_at: i64) -> u32 {
        let before = |acceptance: &&Acceptance| acceptance.at < ingested_at;
        u32::try_from(self.of_partition(partition).filter(before).count()).unwrap_or(u32::MAX)
    }

    /// The number of the log that is ingested now.
    pub fn newest(&self, partition: i32) -> u32 {
        self.number(partition, i64::MAX)
    }

    /// What every row of the log that is ingested now is later than, if it is not the first.
    pub fn begin(&self, partition: i32) -> Option<i64> {
        self.of_partition(partition).last().map(|acceptance| acceptance.at)
    }
}

/// All acceptances of a table, oldest first.
pub fn accepted(table: Option<&Snapshot>) -> Result<Vec<Acceptance>> {
    let Some(text) = table.and_then(|table| table.property(ACCEPTED_KEY)) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(&text).map_err(|source| {
        Error::invalid(format!("the table's property `{ACCEPTED_KEY}` is not readable"))
            .source(source)
    })
}
