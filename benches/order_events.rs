//! Order events and the two steps that every ingestion of them needs, shared by the benchmarks.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use flowguard::ingest::decode::{Decoder, Message, UnknownFields};
use flowguard::table::Column;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const BATCH_ROWS: usize = 100_000;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// All events in one run of bytes, one a line, as a log segment would hold them.
pub struct Events {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
}

impl Events {
    pub fn generate(count: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(42);
        let mut events = Events { bytes: Vec::with_capacity(count * 230), ends: Vec::new() };
        let dishes = ["Margherita", "Pad Thai", "Tagliatelle al ragù", "Bibimbap", "Falafel Wrap"];
        let statuses = ["placed", "paid", "delivered"];
        for n in 0..count {
            let (high, low) = (random.next_u64(), random.next_u64());
            let seconds = n / 20;
            let event = format!(
                r#"{{"order_id":"{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}","user_id":"user_{:06}","item_id":"item_{:04}","item_name":"{}","price":{}.{:02},"quantity":{},"status":"{}","event_timestamp":"2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z"}}"#,
                high >> 32,
                (high >> 16) & 0xffff,
                (high >> 4) & 0xfff,
                low & 0xfff,
                (low >> 16) & 0xffff_ffff_ffff,
                high % 50_000,
                low % 500,
                dishes[(high % 5) as usize],
                5 + low % 30,
                high % 100,
                1 + low % 4,
                statuses[(low % 3) as usize],
                1 + seconds / 86_400,
                seconds / 3_600 % 24,
                seconds / 60 % 60,
                seconds % 60,
                high % 1_000,
            );
            events.bytes.extend_from_slice(event.as_bytes());
            events.ends.push(events.bytes.len());
            events.bytes.push(b'\n');
        }
        events
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|end| end + 1));
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

pub fn columns() -> Vec<Column> {
    [
        ("order_id", "string", true),
        ("user_id", "string", true),
        ("item_id", "string", false),
        ("item_name", "string", false),
        ("price", "decimal(10,2)", false),
        ("quantity", "int", false),
        ("status", "string", false),
        ("event_timestamp", "timestamp", true),
    ]
    .map(|(name, column_type, not_null)| Column {
        name: name.to_owned(),
        column_type: column_type.parse().expect("the type is spelled right"),
        not_null,
        doc: None,
        was: None,
    })
    .to_vec()
}

pub fn decode(events: &Events, mut take: impl FnMut(RecordBatch)) {
    let time = Some("event_timestamp");
    let mut decoder =
        Decoder::new("raw.orders.v1", &columns(), time, UnknownFields::Ignore, MESSAGE_BYTES_MAX)
            .expect("the columns are sound");
    for (offset, payload) in events.iter().enumerate() {
        let message = Message {
            partition: 0,
            offset: offset as i64,
            leader_epoch: None,
            timestamp_ms: Some(1_767_225_600_000),
            key: None,
            headers: &[],
            payload: Some(payload),
        };
        decoder.push(&message, 1_767_225_600_000_000).expect("every event is sound");
        if decoder.rows() == BATCH_ROWS {
            take(decoder.finish().expect("the batch is small"));
        }
    }
    take(decoder.finish().expect("the batch is small"));
}

/// A Parquet file in memory, as ingestion writes them.
pub struct Encoder(ArrowWriter<Vec<u8>>);

impl Encoder {
    pub fn new(schema: SchemaRef) -> Self {
        let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties));
        Self(writer.expect("Parquet knows these types"))
    }

    pub fn write(&mut self, batch: &RecordBatch) {
        self.0.write(batch).expect("memory takes every write");
    }

    pub fn finish(self) -> usize {
        self.0.into_inner().expect("memory takes every write").len()
    }
}
