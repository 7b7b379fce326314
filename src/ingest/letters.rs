//! Dead letters as they are stored, message by message: the way back from what
//! [`super::decode::DeadLetters`] writes. Reads no table.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};

use super::decode::{DeadLetters, METADATA_COLUMNS};
use crate::engine::storable::conform;
use crate::error::Result;
use crate::interval::Instant;
use crate::kafka::HeaderList;

/// All columns of the dead letters.
pub fn all_columns() -> Vec<&'static str> {
    let own = ["pipeline", "reason", "error", "payload"];
    own.into_iter().chain(METADATA_COLUMNS).collect()
}

/// Some columns of dead letters, in the types they are stored in. A value is asked for by its
/// column's name, which must be among those that were read.
pub struct Letters(RecordBatch);

impl Letters {
    /// `batch` holds `columns` in this order, in whatever form the engine gives them.
    pub fn new(batch: &RecordBatch, columns: &[&str]) -> Result<Self> {
        conform(batch, &schema_of(columns)).map(Self)
    }

    pub fn batch(&self) -> &RecordBatch {
        &self.0
    }

    pub fn rows(&self) -> usize {
        self.0.num_rows()
    }

    fn column(&self, name: &str) -> &ArrayRef {
        self.0.column_by_name(name).expect("only columns that were read are asked for")
    }

    pub fn text(&self, name: &str, row: usize) -> &str {
        self.column(name).as_string::<i32>().value(row)
    }

    /// `None` where the message had none, which is not the same as an empty one.
    pub fn bytes(&self, name: &str, row: usize) -> Option<&[u8]> {
        let column = self.column(name).as_binary::<i32>();
        column.is_valid(row).then(|| column.value(row))
    }

    fn instant(&self, name: &str, row: usize) -> Option<Instant> {
        let column = self.column(name).as_primitive::<TimestampMicrosecondType>();
        column.is_valid(row).then(|| Instant(column.value(row)))
    }

    pub fn partition(&self, row: usize) -> i32 {
        self.column("_partition").as_primitive::<Int32Type>().value(row)
    }

    pub fn offset(&self, row: usize) -> i64 {
        self.column("_offset").as_primitive::<Int64Type>().value(row)
    }

    /// Kafka's timestamp of the message; `None` where it had none.
    pub fn timestamp(&self, row: usize) -> Option<Instant> {
        self.instant("_timestamp", row)
    }

    /// When the message was rejected.
    pub fn ingested_at(&self, row: usize) -> Instant {
        self.instant("_ingested_at", row).expect("the column is not nullable")
    }

    /// Keys may repeat; a value may be null.
    pub fn headers(&self, row: usize) -> HeaderList {
        let lists = self.column("_headers").as_list::<i32>();
        if lists.is_null(row) {
            return Vec::new();
        }
        let headers = lists.value(row);
        let headers = headers.as_struct();
        let keys = headers.column(0).as_string::<i32>();
        let values = headers.column(1).as_binary::<i32>();
        (0..headers.len())
            .map(|index| {
                let value = values.is_valid(index).then(|| values.value(index).to_vec());
                (keys.value(index).to_owned(), value)
            })
            .collect()
    }
}

fn schema_of(columns: &[&str]) -> SchemaRef {
    let stored = DeadLetters::schema();
    let fields = columns.iter().map(|name| {
        let (_, field) =
            stored.fields().find(name).expect("only columns of the dead letters are asked for");
        field.clone()
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
