//! How fast one thread turns order events into Arrow rows, alone and chained with Parquet, beside
//! arrow-json on the same bytes. Deterministic events, median of five runs; no broker, no disk.
//! `cargo bench --bench decode [-- EVENTS]`.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::json::ReaderBuilder;
use flowguard::ingest::decode::{UnknownFields, schema_of};

mod order_events;
use order_events::{Encoder, Events, columns, decode};

const EVENTS_DEFAULT: usize = 1_000_000;
const BATCH_ROWS: usize = 100_000;
const RUNS: usize = 5;

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
