//! Where a message came from: the metadata columns that bronze and its dead letters share.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, NullBufferBuilder, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type, Int64Type};

use super::columns::{self, ColumnBuffer, Spans};
use crate::error::Result;
use crate::interval::{CALENDAR, Instant};
use crate::table::ColumnType;

/// Columns that every bronze table has after the declared ones; their names are reserved.
pub const METADATA_COLUMNS: [&str; 7] =
    ["_topic", "_partition", "_offset", "_timestamp", "_key", "_headers", "_ingested_at"];

/// One message as the broker handed it over.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub partition: i32,
    pub offset: i64,
    /// That of the leader which appended it; `None` where the broker does not tell.
    pub leader_epoch: Option<i32>,
    /// Since 1970 UTC, as the producer or the broker set it; `None` where there is none.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub headers: &'a [(String, Option<Vec<u8>>)],
    /// `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
}

/// What a broker's milliseconds are as `_timestamp`. A producer may write anything, nanoseconds for
/// instance; what no calendar holds is no time.
pub fn timestamp_of(millis: i64) -> Option<Instant> {
    let micros = Instant(millis.checked_mul(1_000)?);
    CALENDAR.contains(micros).then_some(micros)
}

/// The metadata columns of an open batch; all have as many values as there were messages.
pub(super) struct Envelope {
    topic: String,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    timestamps_micros: Vec<i64>,
    timestamp_nulls: NullBufferBuilder,
    keys: ColumnBuffer,
    headers: Headers,
    ingested_at_micros: Vec<i64>,
}

impl Envelope {
    pub(super) fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            partitions: Vec::new(),
            offsets: Vec::new(),
            timestamps_micros: Vec::new(),
            timestamp_nulls: NullBufferBuilder::new(0),
            keys: ColumnBuffer::new(ColumnType::Binary, false),
            headers: Headers::new(),
            ingested_at_micros: Vec::new(),
        }
    }

    /// A time that microseconds cannot hold is taken as none.
    pub(super) fn push(&mut self, message: &Message<'_>, ingested_at_micros: i64) {
        self.partitions.push(message.partition);
        self.offsets.push(message.offset);
        let micros = message.timestamp_ms.and_then(timestamp_of).map(|at| at.0);
        self.timestamps_micros.push(micros.unwrap_or(0));
        self.timestamp_nulls.append(micros.is_some());
        self.keys.push_bytes_or_null(message.key);
        self.headers.push(message.headers);
        self.ingested_at_micros.push(ingested_at_micros);
    }

    pub(super) fn rows(&self) -> usize {
        self.partitions.len()
    }

    /// About what the rows take, the topic with each, since it is written out row by row.
    pub(super) fn bytes(&self) -> usize {
        let fixed = 4 + 8 + 8 + 8 + self.topic.len() + size_of::<i32>();
        self.rows() * fixed + self.keys.bytes() + self.headers.bytes()
    }

    /// The arrays in the order of [`METADATA_COLUMNS`]; empty afterwards.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        let rows = self.rows();
        columns::check_32_bits(rows.saturating_mul(self.topic.len()))?;
        let topics = StringArray::from_iter_values(std::iter::repeat_n(&self.topic, rows));
        Ok(vec![
            Arc::new(topics),
            columns::primitive::<Int32Type>(&mut self.partitions),
            columns::primitive::<Int64Type>(&mut self.offsets),
            Arc::new(columns::instants(&mut self.timestamps_micros, self.timestamp_nulls.finish())),
            self.keys.finish()?,
            Arc::new(self.headers.finish()?),
            Arc::new(columns::instants(&mut self.ingested_at_micros, None)),
        ])
    }
}

/// The fields of the metadata columns, in order.
pub(super) fn fields() -> Vec<FieldRef> {
    let instant = columns::arrow_type(ColumnType::Timestamp);
    let types = [
        (DataType::Utf8, false),
        (DataType::Int32, false),
        (DataType::Int64, false),
        (instant.clone(), true),
        (DataType::Binary, true),
        (DataType::List(header_item()), true),
        (instant, false),
    ];
    METADATA_COLUMNS
        .iter()
        .zip(types)
        .map(|(name, (data_type, nullable))| Arc::new(Field::new(*name, data_type, nullable)))
        .collect()
}

/// Everything inside the list is nullable, as Spark's Kafka source has it: Delta's Spark writer
/// refuses a NOT NULL nested in an array.
fn header_item() -> FieldRef {
    Arc::new(Field::new("element", DataType::Struct(header_fields()), true))
}

fn header_fields() -> Fields {
    vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)]
        .into()
}

/// Headers of all messages in one run; a message without any has a null list.
struct Headers {
    keys: Spans,
    values: ColumnBuffer,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    count: usize,
}

impl Headers {
    fn new() -> Self {
        Self {
            keys: Spans::default(),
            values: ColumnBuffer::new(ColumnType::Binary, false),
            offsets: vec![0],
            nulls: NullBufferBuilder::new(0),
            count: 0,
        }
    }

    fn push(&mut self, headers: &[(String, Option<Vec<u8>>)]) {
        for (key, value) in headers {
            self.keys.push(key.as_bytes());
            self.values.push_bytes_or_null(value.as_deref());
        }
        self.count += headers.len();
        // An end beyond 32 bits is saturated here and refused by `finish`.
        self.offsets.push(i32::try_from(self.count).unwrap_or(i32::MAX));
        self.nulls.append(!headers.is_empty());
    }

    fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes() + size_of_val(self.offsets.as_slice())
    }

    fn finish(&mut self) -> Result<ListArray> {
        let mut drained = std::mem::replace(self, Self::new());
        columns::check_32_bits(drained.count)?;
        let children: Vec<ArrayRef> =
            vec![Arc::new(drained.keys.finish_text(None)?), drained.values.finish()?];
        let length = children[0].len();
        let structs = StructArray::try_new_with_length(header_fields(), children, None, length)
            .map_err(columns::internal)?;
        let offsets = OffsetBuffer::new(drained.offsets.into());
        ListArray::try_new(header_item(), offsets, Arc::new(structs), drained.nulls.finish())
            .map_err(columns::internal)
    }
}
