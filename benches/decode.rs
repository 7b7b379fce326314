//! How fast one thread turns order events into Arrow rows, alone and chained with Parquet, beside
//! arrow-json on the same bytes. Deterministic events, median of five runs; no broker, no disk.
//! `cargo bench --bench decode [-- EVENTS]`.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use flowguard::ingest::decode::{Decoder, Message, UnknownFields, schema_of};
use flowguard::table::Column;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const EVENTS_DEFAULT: usize = 1_000_000;
const BATCH_ROWS: usize = 100_000;
const RUNS: usize = 5;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// All events in one run of bytes, one a line, as a log segment would hold them.
struct Events {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Events {
    fn generate(count: usize) -> Self {
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

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|end| end + 1));
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

fn columns() -> Vec<Column> {
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
    })
    .to_vec()
}

fn decode(events: &Events, mut take: impl FnMut(RecordBatch)) {
    let time = Some("event_timestamp");
    let mut decoder =
        Decoder::new("raw.orders.v1", &columns(), time, UnknownFields::Ignore, MESSAGE_BYTES_MAX)
            .expect("the columns are sound");
    for (offset, payload) in events.iter().enumerate() {
        let message = Message {
            partition: 0,
            offset: offset as i64,
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

fn decode_with_arrow_json(events: &Events, mut take: impl FnMut(RecordBatch)) {
    let full = schema_of(&columns(), UnknownFields::Ignore);
    let declared = full.fields().iter().take(columns().len()).cloned().collect::<Vec<_>>();
    let mut decoder = ReaderBuilder::new(Arc::new(Schema::new(declared)))
        .with_batch_size(BATCH_ROWS)
        .build_decoder()
        .expect("arrow-json knows these types");
    let mut rest = events.bytes.as_slice();
    while !rest.is_empty() {
        let read = decoder.decode(rest).expect("every event is sound");
        rest = &rest[read..];
        if let Some(batch) = decoder.flush().expect("every event is sound") {
            take(batch);
        }
    }
}

struct Encoder(ArrowWriter<Vec<u8>>);

impl Encoder {
    fn new(schema: SchemaRef) -> Self {
        let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties));
        Self(writer.expect("Parquet knows these types"))
    }

    fn write(&mut self, batch: &RecordBatch) {
        self.0.write(batch).expect("memory takes every write");
    }

    fn finish(self) -> usize {
        self.0.into_inner().expect("memory takes every write").len()
    }
}

/// Prints and returns the median seconds.
fn measure(name: &str, events: &Events, mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[RUNS / 2];
    let (rows, bytes) = (events.ends.len() as f64, events.bytes.len() as f64);
    println!(
        "{name:<34} {:>9.0} rows/s {:>6.0} MB/s   {:.3} s ({:.3} to {:.3})",
        rows / median,
        bytes / median / 1e6,
        median,
        seconds[0],
        seconds[RUNS - 1],
    );
    median
}

fn main() {
    // Cargo passes `--bench`; a number is the count of events.
    let count = std::env::args().find_map(|argument| argument.parse().ok());
    let events = Events::generate(count.unwrap_or(EVENTS_DEFAULT));
    let rows = events.ends.len();
    println!(
        "{rows} events, {:.0} bytes each, one thread",
        events.bytes.len() as f64 / rows as f64
    );

    let mut batches = Vec::new();
    decode(&events, |batch| batches.push(batch));
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
    let schema = batches[0].schema();

    let ours = measure("decode", &events, || decode(&events, |batch| drop(black_box(batch))));
    let arrow_json = measure("decode by arrow-json", &events, || {
        decode_with_arrow_json(&events, |batch| drop(black_box(batch)));
    });
    measure("Parquet zstd-1", &events, || {
        let mut encoder = Encoder::new(Arc::clone(&schema));
        batches.iter().for_each(|batch| encoder.write(batch));
        black_box(encoder.finish());
    });
    let chained = measure("decode + Parquet zstd-1", &events, || {
        let mut encoder = Encoder::new(Arc::clone(&schema));
        decode(&events, |batch| encoder.write(&batch));
        black_box(encoder.finish());
    });
    let declared = schema_of(&columns(), UnknownFields::Ignore);
    let declared: Vec<_> = declared.fields().iter().take(columns().len()).cloned().collect();
    let arrow_json_chained = measure("arrow-json + Parquet zstd-1", &events, || {
        let mut encoder = Encoder::new(Arc::new(Schema::new(declared.clone())));
        decode_with_arrow_json(&events, |batch| encoder.write(&batch));
        black_box(encoder.finish());
    });
    println!("decode is {:.2} times as fast as arrow-json", arrow_json / ours);
    println!("chained it is {:.2} times as fast", arrow_json_chained / chained);
}
