//! What every commit says about itself, under `commitInfo.flowguard` in the Delta log. The lake is
//! the truth: whatever a state database knows can be rebuilt from these records.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::interval::{Instant, Range, RangeSet};

/// Key of the record inside `commitInfo`.
pub const LEDGER_KEY: &str = "flowguard";
/// Key within it of the number of actions beside `commitInfo`: a log entry that was cut between two
/// lines reads as a whole one.
pub const ACTIONS_KEY: &str = "actions";
/// Version of this record's form; a reader refuses none, and ignores fields it does not know.
pub const LEDGER_FORMAT: u32 = 1;

/// What a commit says about itself in the log; documented in `docs/ARCHITECTURE.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub format: u32,
    /// Identifies this commit, so that a writer whose reply was lost can recognise its own.
    pub commit: Uuid,
    /// The model, or for bronze the ingesting pipeline's table.
    pub model: String,
    pub run: Uuid,
    /// Hash of the resolved logical plan; absent for ingestion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What this commit replaced, as [start, end) in microseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<[i64; 2]>,
    /// Which event-time hours rows were added to or removed from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub touched: Vec<[i64; 2]>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputVersion>,
    /// Order-independent hash over the written rows; absent for ingestion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_hash: Option<String>,
    /// Kafka offsets accounted for by this commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<OffsetRange>,
    /// Decisions of people about topics whose log is another than the one that was ingested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<Acceptance>,
    /// What a replay moved from the dead letters into bronze: `rows` messages within the range,
    /// which an earlier commit counted among its rejects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replayed: Vec<OffsetRange>,
    /// What a table that was written anew holds, instead of the values that earlier commits noted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewritten: Vec<OffsetRange>,
    pub rows: u64,
    /// From the start of the write to this commit, encoding included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_ms: Option<u64>,
}

/// A table as it was read: the id tells a recreated table from its namesake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputVersion {
    pub table: String,
    pub id: String,
    pub version: u64,
}

/// `[start, end)` of one partition: rows and rejects are what became of the messages in it, and
/// `holes` are the offsets at which the broker had none (control records, compaction).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// In the dead letters, the table that rejected them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    pub topic: String,
    pub partition: i32,
    /// Which log of the topic; see [`Acceptance`]. The first one is 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub log: u32,
    pub start: i64,
    pub end: i64,
    pub rows: u64,
    pub rejects: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<[i64; 2]>,
    /// Kafka's leader epoch of the last message, where the broker tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_epoch: Option<i32>,
    /// Over the messages as the broker had them, rows and rejects alike; absent for replays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Sum>,
    /// Over the rows, or in the dead letters the letters, as this commit wrote them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Sum>,
}

fn is_first(log: &u32) -> bool {
    *log == 0
}

/// A sum of hashes, whatever the order: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum(pub u64);

impl Sum {
    /// The sum wraps around, so the same hashes give the same sum in any order.
    pub fn add(&mut self, hash: u64) {
        self.0 = self.0.wrapping_add(hash);
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        format!("{:016x}", sum.0)
    }
}

impl TryFrom<String> for Sum {
    type Error = std::num::ParseIntError;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&digits, 16).map(Self)
    }
}

/// A person's decision that another log follows the one that was ingested: offsets name a message
/// within one log only. Noted with the table and in the ledger of the commit that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    pub topic: String,
    pub partition: i32,
    /// Rows of the new log were ingested after this, in microseconds since 1970 UTC.
    pub at: i64,
    /// The offset after the last of the old log in the lake.
    pub end: i64,
    /// The first offset of the new log that is ingested.
    pub start: i64,
    /// The broker's id of the topic, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Why ingestion refused.
    pub reason: String,
}

impl Ledger {
    /// With an id of its own; everything else is empty.
    pub fn new(model: impl Into<String>, run: Uuid) -> Self {
        Self {
            format: LEDGER_FORMAT,
            commit: Uuid::now_v7(),
            model: model.into(),
            run,
            fingerprint: None,
            intervals: Vec::new(),
            touched: Vec::new(),
            inputs: Vec::new(),
            output_hash: None,
            offsets: Vec::new(),
            accepted: Vec::new(),
            replayed: Vec::new(),
            rewritten: Vec::new(),
            rows: 0,
            write_ms: None,
        }
    }
}

/// Ranges in the ledger's form.
pub fn range_pairs(ranges: &RangeSet) -> Vec<[i64; 2]> {
    ranges.iter().map(|range| [range.start.0, range.end.0]).collect()
}

/// The inverse of [`range_pairs`].
pub fn ranges_of(pairs: &[[i64; 2]]) -> RangeSet {
    pairs.iter().map(|[start, end]| Range { start: Instant(*start), end: Instant(*end) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_survives_the_log_and_fields_of_the_future() {
        let mut ledger = Ledger::new("gold.daily_metrics", Uuid::nil());
        ledger.touched = vec![[0, 3_600_000_000]];
        let mut json = serde_json::to_value(&ledger).unwrap();
        json["of_tomorrow"] = serde_json::json!(1);
        assert_eq!(serde_json::from_value::<Ledger>(json).unwrap(), ledger);
    }
}
