//! Kafka topics become bronze tables, exactly once. `decode` is pure; `open` is the batch that is
//! being filled, `batch` holds the protocol, `worker` runs it. `mark` and `values` are what messages
//! and rows are known by, `refusal` is why a log cannot be the one that the lake holds, and `accept`
//! goes on with it all the same. `rewrite` gives a table the columns and layout of a changed header.

pub mod accept;
pub mod batch;
pub mod decode;
pub mod letters;
pub mod mark;
pub mod open;
pub mod refusal;
pub mod rewrite;
pub mod status;
pub mod values;
pub mod worker;

use std::time::Duration;

use uuid::Uuid;

use self::decode::UnknownFields;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::kafka::KafkaAccess;
use crate::lake::Lake;
use crate::lake::spec::TableSpec;
use crate::table::Column;

/// When a batch is closed, and how much may be held in memory.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rejects count as well.
    pub flush_rows_max: u64,
    /// Of rows and rejects in memory; a quarter of `memory_bytes_max` if that is less.
    pub flush_bytes_max: u64,
    pub flush_age_max: Duration,
    /// Of one worker: a quarter each for what is fetched ahead and for the open batch.
    pub memory_bytes_max: u64,
    /// Larger payloads are rejects.
    pub message_bytes_max: u64,
    /// How long a batch in flight may keep the worker from polling; then fetching is paused.
    pub poll_pause_max: Duration,
}

/// Everything one bronze table's ingestion needs.
pub struct Pipeline {
    pub lake: Lake,
    /// Reads the dead letters back after a crash.
    pub engine: Engine,
    pub kafka: KafkaAccess,
    /// Names the owner of the offsets in the lake; two names ingest the same topic twice.
    pub name: String,
    pub group: String,
    pub topic: String,
    pub columns: Vec<Column>,
    pub unknown_fields: UnknownFields,
    pub spec: TableSpec,
    pub limits: Limits,
    /// Whether rejects also go to `<topic>.dlq`.
    pub dead_letter_topic: bool,
    pub run: Uuid,
    /// Microseconds since 1970, for `_ingested_at`.
    pub clock: Clock,
}
