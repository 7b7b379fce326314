//! How fast the server is, beside what it is made of: the same rows through arrow-flight alone, the
//! same statement in this process, a bare call of gRPC, and Sail's Flight SQL server if
//! `FLOWGUARD_BENCH_SAIL` names its program. Every pair is measured by turns; figures are medians.
//! `cargo bench --bench serve [-- ROWS]`.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::path::Path;
use std::time::{Duration, Instant};

use arrow_flight::sql::client::FlightSqlServiceClient;
use flowguard::engine::Engine;
use flowguard::engine::query::Query;
use flowguard::lake::Lake;
use flowguard::model::ModelSet;
use flowguard::source::Source;
use futures::StreamExt;
use tempfile::TempDir;

mod client;
#[path = "../lake.rs"]
mod lake;
mod processes;
mod raw;
mod tables;

use client::{Client, Fetched, connect, fetch, read_all, statement};
use processes::{PROJECT, RAW_CHILD, Running, SAIL_VARIABLE, make_demo};

const ROWS_DEFAULT: usize = 10_000_000;
const FETCHES: usize = 5;
const CALLS: usize = 2_000;
const STARTS: usize = 9;
const TABLES: usize = 500;
const LOAD_TIME: Duration = Duration::from_secs(3);
const CLIENTS: usize = 32;
const ONE: &str = "SELECT 1";
const DAILY: &str = "SELECT order_date, sum(orders) AS orders, sum(gmv) AS gmv \
                     FROM gold.daily_metrics GROUP BY order_date ORDER BY order_date";
const SMALL: &str = "SELECT * FROM gold.daily_metrics WHERE order_date = DATE '2026-01-06'";
const CLICKS: &str = "SELECT * FROM silver.clicks";
const CLICKS_DAILY: &str = "SELECT event_date, event_type, count(*) AS n FROM silver.clicks \
                            GROUP BY event_date, event_type ORDER BY event_date, event_type";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // Cargo passes `--bench`; a number is the count of rows.
    let rows = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(ROWS_DEFAULT);
    if arguments.iter().any(|argument| argument == RAW_CHILD) {
        return runtime.block_on(raw::serve(rows));
    }
    let folder = TempDir::new().expect("a folder");
    make_demo(folder.path());
    let lake = lake::open(folder.path());
    runtime.block_on(tables::write_clicks(&lake, rows));
    println!("{rows} rows; ours, what it is measured against, and the ratio");
    let sail = std::env::var(SAIL_VARIABLE).ok();
    runtime.block_on(async {
        let bench = Bench::start(folder.path(), lake, rows).await;
        bench.fetches().await;
        bench.latencies().await;
        bench.load().await;
        match sail {
            Some(program) => bench.beside_sail(&program, folder.path()).await,
            None => println!("(d) SKIPPED: {SAIL_VARIABLE} does not name the program `sail`"),
        }
    });
    runtime.block_on(starts(folder.path()));
}

struct Bench {
    rows: usize,
    lake: Lake,
    engine: Engine,
    models: ModelSet,
    ours: Client,
    raw: Client,
    servers: [Running; 2],
}

impl Bench {
    async fn start(folder: &Path, lake: Lake, rows: usize) -> Self {
        let servers = [Running::flowguard(folder), Running::raw(rows)];
        let ours = connect(&servers[0].flight).await;
        let raw = connect(&servers[1].flight).await;
        let models = ModelSet::read(Path::new(PROJECT)).expect("the shipped models");
        Self { rows, lake, engine: lake::engine(), models, ours, raw, servers }
    }

    /// The statement planned and run in this process; rows and seconds.
    async fn in_process(&self, sql: &str) -> (u64, f64) {
        let start = Instant::now();
        let source = Source::new("query", sql);
        let query = Query::plan(&self.engine, &self.lake, &self.models, &source, None).await;
        let mut batches = query.expect("a plan").stream().await.expect("it begins");
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            rows += batch.expect("rows").num_rows() as u64;
        }
        (rows, start.elapsed().as_secs_f64())
    }

    async fn fetches(&self) {
        let same = raw::same_rows(self.rows);
        let (mut memory, mut delta, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = (0.0, 0.0);
        for _ in 0..FETCHES {
            let (ours, raw) = (fetch(&self.ours, &same).await, fetch(&self.raw, &same).await);
            assert_eq!((ours.rows, raw.rows), (self.rows as u64, self.rows as u64));
            memory.push((self.speed(ours.seconds), self.speed(raw.seconds)));
            let (clicks, (scanned, seconds)) =
                (fetch(&self.ours, CLICKS).await, self.in_process(CLICKS).await);
            assert_eq!((clicks.rows, scanned), (self.rows as u64, self.rows as u64));
            delta.push((self.speed(clicks.seconds), self.speed(seconds)));
            moved.push((data_speed(&clicks), data_speed(&raw)));
            bytes = (mega(clicks.wire_bytes), mega(clicks.data_bytes));
        }
        line("(a) memory, M rows/s; raw do_get", memory, "at least 0.9");
        line("(b) Delta, M rows/s; scan in process", delta, "at least 0.7");
        line("    MB/s of data; raw do_get from memory", moved, "");
        line("    MB on the wire; MB of data", vec![bytes], "at most 1.1");
    }

    fn speed(&self, seconds: f64) -> f64 {
        self.rows as f64 / seconds / 1e6
    }

    async fn latencies(&self) {
        let mut prepared = FlightSqlServiceClient::new_from_inner(self.ours.clone());
        let mut prepared = prepared.prepare(ONE.to_owned(), None).await.expect("it is prepared");
        let (mut ours, mut again, mut raw, mut daily) = (vec![], vec![], vec![], vec![]);
        for _ in 0..CALLS {
            ours.push(fetch(&self.ours, ONE).await.seconds);
            let start = Instant::now();
            let info = prepared.execute().await.expect("a plan");
            read_all(&self.ours, info).await;
            again.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            self.raw.clone().get_flight_info(statement(ONE)).await.expect("an answer");
            raw.push(start.elapsed().as_secs_f64());
            daily.push(fetch(&self.ours, DAILY).await.seconds);
        }
        for (what, seconds) in
            [("SELECT 1", ours), ("SELECT 1, prepared", again), ("day's sums of gold", daily)]
        {
            let half = (milli(quantile(&seconds, 0.5)), milli(quantile(&raw, 0.5)));
            let last = (milli(quantile(&seconds, 0.99)), milli(quantile(&raw, 0.99)));
            line(&format!("(c) {what}, ms p50; one call of gRPC"), vec![half], "");
            line("    ms p99", vec![last], "");
        }
        let mut clicks = Vec::new();
        for _ in 0..FETCHES {
            let ours = fetch(&self.ours, CLICKS_DAILY).await.seconds;
            clicks.push((milli(ours), milli(self.in_process(CLICKS_DAILY).await.1)));
        }
        line("(c) day's sums of clicks, ms; in process", clicks, "at most 1.2");
    }

    async fn load(&self) {
        let alone = self.per_second(1).await;
        let many = self.per_second(CLIENTS).await;
        let what = format!("(e) statements/s of {CLIENTS} clients; of one");
        line(&what, vec![(many, alone)], "");
    }

    async fn per_second(&self, clients: usize) -> f64 {
        let address = &self.servers[0].flight;
        let mut asking = Vec::new();
        for _ in 0..clients {
            let client = connect(address).await;
            asking.push(tokio::spawn(async move {
                let (start, mut count) = (Instant::now(), 0.0);
                while start.elapsed() < LOAD_TIME {
                    assert_eq!(fetch(&client, SMALL).await.rows, 1);
                    count += 1.0;
                }
                count / start.elapsed().as_secs_f64()
            }));
        }
        let mut sum = 0.0;
        for client in asking {
            sum += client.await.expect("a client ends");
        }
        sum
    }

    /// The same files, without Delta's log.
    async fn beside_sail(&self, program: &str, folder: &Path) {
        let server = Running::sail(program);
        let sail = connect(&server.flight).await;
        let of_files = |sql: &str, table: &str| {
            let files = format!("parquet.`{}/{}`", folder.display(), table.replace('.', "/"));
            sql.replace(table, &files)
        };
        let clicks = of_files(CLICKS, "silver.clicks");
        let daily = of_files(DAILY, "gold.daily_metrics");
        let clicks_daily = of_files(CLICKS_DAILY, "silver.clicks");
        let mut fetches = Vec::new();
        for _ in 0..FETCHES {
            let (ours, theirs) = (fetch(&self.ours, CLICKS).await, fetch(&sail, &clicks).await);
            assert_eq!((ours.rows, theirs.rows), (self.rows as u64, self.rows as u64));
            fetches.push((self.speed(ours.seconds), self.speed(theirs.seconds)));
        }
        line("(d) Delta, M rows/s; Sail over Parquet", fetches, "at least 1.5");
        for (what, ours, theirs, count) in [
            ("SELECT 1", ONE, ONE, CALLS / 10),
            ("day's sums of gold", DAILY, &daily, CALLS / 10),
            ("day's sums of clicks", CLICKS_DAILY, &clicks_daily, FETCHES),
        ] {
            let mut pairs = Vec::new();
            for _ in 0..count {
                let ours = milli(fetch(&self.ours, ours).await.seconds);
                pairs.push((ours, milli(fetch(&sail, theirs).await.seconds)));
            }
            line(&format!("(d) {what}, ms; Sail"), pairs, "at most 0.5");
        }
    }
}

/// From nothing to the first result, to a lake of many tables that answers, and what that holds.
async fn starts(demo: &Path) {
    let (mut first, mut ready) = (Vec::new(), Vec::new());
    let (mut idle, mut asked, mut own) = (Vec::new(), Vec::new(), Vec::new());
    let many = TempDir::new().expect("a folder");
    tables::write_tables(&lake::open(many.path()), TABLES).await;
    for _ in 0..STARTS {
        let start = Instant::now();
        let server = Running::flowguard(demo);
        fetch(&connect(&server.flight).await, DAILY).await;
        first.push(milli(start.elapsed().as_secs_f64()));
        asked.push(server.memory_mib("VmRSS"));
        own.push(server.memory_mib("RssAnon"));
        drop(server);
        let start = Instant::now();
        let server = Running::flowguard(many.path());
        server.wait_until_ready();
        ready.push(milli(start.elapsed().as_secs_f64()));
        idle.push(server.memory_mib("VmRSS"));
    }
    for (what, values, aim) in [
        ("(f) start to first result, ms".to_owned(), first, "at most 100"),
        (format!("(f) start to ready with {TABLES} tables, ms"), ready, "at most 1000"),
        ("(f) resident, idle, MiB".to_owned(), idle, "at most 60"),
        ("    after a first statement, MiB".to_owned(), asked, ""),
        ("    of it not the program's file, MiB".to_owned(), own, ""),
    ] {
        println!("{what:<50} {:>9.2} {:>9} {:>7}  {aim}", quantile(&values, 0.5), "", "");
    }
}

/// Prints the median of each side and of their ratio.
fn line(what: &str, pairs: Vec<(f64, f64)>, aim: &str) {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    let [ours, theirs, ratio] = [ours, theirs, ratios].map(|values| quantile(&values, 0.5));
    println!("{what:<50} {ours:>9.2} {theirs:>9.2} {ratio:>7.2}  {aim}");
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn data_speed(fetched: &Fetched) -> f64 {
    mega(fetched.data_bytes) / fetched.seconds
}

fn milli(seconds: f64) -> f64 {
    seconds * 1e3
}
