//! Batches for `bronze.dead_letters`: what could not become a row, with its raw bytes and why.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::columns::{self, ColumnBuffer};
use super::envelope::{self, Envelope, Message};
use super::reject::Reject;
use crate::error::Result;
use crate::table::ColumnType;

/// Collects the rejects of one topic.
pub struct DeadLetters {
    schema: SchemaRef,
    pipelines: ColumnBuffer,
    reasons: ColumnBuffer,
    errors: ColumnBuffer,
    payloads: ColumnBuffer,
    envelope: Envelope,
}

impl DeadLetters {
    pub fn new(topic: &str) -> Self {
        let text = || ColumnBuffer::new(ColumnType::String, true);
        Self {
            schema: Self::schema(),
            pipelines: text(),
            reasons: text(),
            errors: text(),
            payloads: ColumnBuffer::new(ColumnType::Binary, false),
            envelope: Envelope::new(topic),
        }
    }

    /// `pipeline`, `reason`, `error`, `payload` (null only for a tombstone), then the metadata.
    pub fn schema() -> SchemaRef {
        let own = [
            ("pipeline", DataType::Utf8, false),
            ("reason", DataType::Utf8, false),
            ("error", DataType::Utf8, false),
            ("payload", DataType::Binary, true),
        ];
        let mut fields: Vec<FieldRef> = own
            .into_iter()
            .map(|(name, data_type, nullable)| Arc::new(Field::new(name, data_type, nullable)))
            .collect();
        fields.extend(envelope::fields());
        Arc::new(Schema::new(fields))
    }

    /// Keeps the whole payload, whatever its size. `pipeline` is the one that rejected the message.
    pub fn push(
        &mut self,
        message: &Message<'_>,
        reject: &Reject,
        pipeline: &str,
        ingested_at_micros: i64,
    ) {
        self.pipelines.push_bytes(pipeline.as_bytes());
        self.reasons.push_bytes(reject.reason.as_str().as_bytes());
        self.errors.push_bytes(reject.error.as_bytes());
        self.payloads.push_bytes_or_null(message.payload);
        self.envelope.push(message, ingested_at_micros);
    }

    pub fn rows(&self) -> usize {
        self.envelope.rows()
    }

    /// Bytes in use; the buffers' capacity may be up to twice that.
    pub fn buffered_bytes(&self) -> usize {
        let own = [&self.pipelines, &self.reasons, &self.errors, &self.payloads];
        own.iter().map(|column| column.bytes()).sum::<usize>() + self.envelope.bytes()
    }

    /// All letters since the last call; empty afterwards. Fails as `Decoder::finish` does.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = vec![
            self.pipelines.finish()?,
            self.reasons.finish()?,
            self.errors.finish()?,
            self.payloads.finish()?,
        ];
        arrays.extend(self.envelope.finish()?);
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(columns::internal)
    }
}
