//! What an audit says of a partition.

use serde::Serialize;

/// One log of one partition of one topic. Ranges are `[first, after the last)`.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct PartitionAudit {
    pub table: String,
    pub topic: String,
    pub partition: i32,
    /// Counts up with each log that `flowguard ingest accept` went on with.
    pub log: u32,
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
    /// Rows that no message can have become: at an offset without one, or of a topic that was never
    /// ingested into the table.
    pub foreign: u64,
    /// Offsets between the first and the next at which there is nothing.
    pub gaps: u64,
    /// Those of them that the broker had no message at: control records, or compacted ones.
    pub explained: u64,
    /// Those of them that nothing explains, and offsets that the broker holds below the first.
    pub unaccounted: u64,
    pub unaccounted_ranges: Vec<[i64; 2]>,
    /// With payloads: ranges whose rows, letters or messages are not those that were ingested.
    pub altered_ranges: Vec<[i64; 2]>,
    /// With payloads: rows and letters that no sum covers, since older versions wrote them or their
    /// commits are gone from the log.
    pub unchecked_rows: u64,
    /// With payloads and a broker: offsets of which it no longer has what was ingested.
    pub unchecked_offsets: u64,
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
    /// Whether nothing is lost, doubled, foreign or altered. Lag, gaps that are explained, and what
    /// could not be checked are no faults.
    pub fn is_clean(&self) -> bool {
        self.duplicates == 0
            && self.unaccounted == 0
            && self.foreign == 0
            && self.altered_ranges.is_empty()
            && self.other_log.is_none()
    }
}
