//! How fast one process ingests a topic of a real Kafka into a local lake, end to end, beside what
//! decoding and Parquet encoding alone reach on the same messages in the same run. Needs a broker:
//! `FLOWGUARD_TEST_KAFKA=host:port cargo bench --bench ingest [-- EVENTS]` (`minio/services start`
//! gives one). Ingests EVENTS and ten times as many, to show whether memory grows, and those once
//! more with librdkafka's own wait after a full queue.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono_tz::Tz;
use flowguard::clock::Clock;
use flowguard::engine::{Engine, EngineOptions};
use flowguard::ingest::decode::{UnknownFields, schema_of};
use flowguard::ingest::worker::{Until, run};
use flowguard::ingest::{Limits, Pipeline};
use flowguard::kafka::{KafkaAccess, Producer, Record};
use flowguard::lake::Lake;
use flowguard::lake::commit::ensure_table;
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::store::S3Access;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

mod order_events;
use order_events::{Encoder, Events, columns, decode};

const EVENTS_DEFAULT: usize = 1_000_000;
const PARTITIONS: i32 = 3;
const RUNS: usize = 3;
const CHILD: &str = "--ingest-child";
/// What librdkafka waits after its queue was full, in milliseconds, unless it is told otherwise.
const LIBRDKAFKAS_BACKOFF: &str = "1000";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == CHILD) {
        let [broker, topic, lake, options @ ..] = &arguments[at + 1..] else {
            panic!("a child is told its broker, topic and lake");
        };
        return child(broker, topic, lake, options.first().map(String::as_str));
    }
    let Ok(broker) = std::env::var("FLOWGUARD_TEST_KAFKA") else {
        println!("skipped: FLOWGUARD_TEST_KAFKA names no broker");
        return;
    };
    let count =
        arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(EVENTS_DEFAULT);
    let events = Events::generate(count);
    let megabytes = events.bytes.len() as f64 / 1e6;
    println!("{count} events, {megabytes:.0} MB, {PARTITIONS} partitions");
    let small = topic(&broker, &events, 1);
    let large = topic(&broker, &events, 10);

    let mut chained = Vec::new();
    let mut per_core = Vec::new();
    for _ in 0..RUNS {
        let start = cpu_seconds();
        let mut encoder = Encoder::new(schema_of(&columns(), UnknownFields::Ignore));
        decode(&events, |batch| encoder.write(&batch));
        black_box(encoder.finish());
        chained.push(count as f64 / (cpu_seconds() - start));
        per_core.push(ingest(&broker, &small, count, None));
    }
    ingest(&broker, &large, count * 10, None);
    println!("the same with fetch.queue.backoff.ms = {LIBRDKAFKAS_BACKOFF}:");
    ingest(&broker, &large, count * 10, Some(LIBRDKAFKAS_BACKOFF));
    let (chained, per_core) = (median(chained), median(per_core));
    println!("decode + Parquet alone {chained:>10.0} rows per CPU second");
    println!(
        "ingested and committed {per_core:>10.0} rows per CPU second: {:.2} of it",
        per_core / chained
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A new topic that holds the events `times` over.
fn topic(broker: &str, events: &Events, times: usize) -> String {
    let name = format!("bench.orders.{}", Uuid::new_v4());
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker).create().expect("an admin client");
    let new =
        NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let created = runtime.block_on(admin.create_topics([&new], &AdminOptions::new()));
    created.expect("the broker answers")[0].as_ref().expect("the topic is new");
    let access = KafkaAccess { bootstrap_servers: broker.to_owned(), ..KafkaAccess::default() };
    let producer = Producer::new(&access).expect("a producer");
    for (number, payload) in std::iter::repeat_n((), times).flat_map(|()| events.iter()).enumerate()
    {
        let record = Record {
            topic: &name,
            partition: Some(number as i32 % PARTITIONS),
            key: None,
            payload: Some(payload),
            headers: &[],
            timestamp_ms: Some(1_767_225_600_000),
        };
        producer.send(&record).expect("the broker takes it");
    }
    producer.flush().expect("the broker takes them all");
    name
}

/// Ingests in a process of its own; rows per CPU second.
fn ingest(broker: &str, topic: &str, rows: usize, backoff_ms: Option<&str>) -> f64 {
    let lake = tempfile::tempdir().expect("a folder");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([CHILD, broker, topic, lake.path().to_str().expect("a plain path")])
        .args(backoff_ms)
        .output()
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [committed, wall, cpu, peak_mib] = numbers[..] else { panic!("the child said {text}") };
    assert_eq!(committed as usize, rows);
    println!(
        "ingest {rows:>9} rows: {wall:>6.1} s wall, {cpu:>6.1} s CPU; {:>8.0} rows/s wall, \
         {:>8.0} per CPU second; peak {peak_mib:.0} MiB",
        committed / wall,
        committed / cpu
    );
    committed / cpu
}

fn child(broker: &str, topic: &str, lake: &str, backoff_ms: Option<&str>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut kafka = KafkaAccess { bootstrap_servers: broker.to_owned(), ..KafkaAccess::default() };
    if let Some(backoff_ms) = backoff_ms {
        kafka.options.insert("fetch.queue.backoff.ms".to_owned(), backoff_ms.to_owned());
    }
    let pipeline = pipeline(kafka, topic, lake);
    let ledger = Ledger::new(pipeline.spec.name.to_string(), pipeline.run);
    let created = runtime.block_on(ensure_table(&pipeline.lake, &pipeline.spec, &ledger));
    created.expect("the lake takes a table");
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
    let worker = std::thread::spawn(move || {
        run(&pipeline, &handle, Until::Drained, &stop, Arc::new(|_| {})).expect("it ingests")
    });
    let report = worker.join().expect("the worker ends");
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{} {wall} {cpu} {}", report.rows, peak_mib());
}

fn pipeline(kafka: KafkaAccess, topic: &str, lake: &str) -> Arc<Pipeline> {
    let root = Url::from_directory_path(lake).expect("an absolute path");
    let name = "bronze.bench".parse().expect("a table name");
    Arc::new(Pipeline {
        lake: Lake::open(&root, &S3Access::default()).expect("a lake"),
        engine: Engine::new(&EngineOptions {
            memory_bytes_max: 256 << 20,
            spill_dir: None,
            threads: 2,
        })
        .expect("an engine"),
        kafka,
        name: "bench".to_owned(),
        group: format!("bench-{}", Uuid::new_v4()),
        topic: topic.to_owned(),
        columns: columns(),
        unknown_fields: UnknownFields::Ignore,
        spec: TableSpec {
            name,
            columns: schema_of(&columns(), UnknownFields::Ignore),
            time: Some("event_timestamp".to_owned()),
            partition_by_day: true,
            timezone: Tz::UTC,
            key: vec!["order_id".to_owned()],
            doc: None,
            shape: "`kind: full`".to_owned(),
        },
        limits: Limits {
            flush_rows_max: 500_000,
            flush_bytes_max: 128 << 20,
            flush_age_max: Duration::from_secs(300),
            memory_bytes_max: 512 << 20,
            message_bytes_max: 1 << 20,
            poll_pause_max: Duration::from_secs(5),
        },
        dead_letter_topic: false,
        run: Uuid::now_v7(),
        clock: Clock::of_machine(),
    })
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let after_name = stat.rsplit(')').next().expect("the name is in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("ticks are a number");
    // Linux counts these in hundredths on every architecture.
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("the peak is there");
    let kib: f64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib / 1024.0
}
