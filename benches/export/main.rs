//! How fast exports are, beside what they are made of: the same batches through the same driver
//! alone, PostgreSQL's own client, a plain scan; and one day of many beside the same day of few.
//! Needs the drivers and servers of the tests: `tests/warehouses/install`, then
//! `cargo bench --bench export [-- ROWS]`. Every pair is measured by turns; figures are medians.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use arrow::array::RecordBatch;
use flowguard::app::App;
use flowguard::config::Config;
use flowguard::engine::query::Query;
use flowguard::engine::storable::{conform, plain_schema};
use flowguard::export::open::statements;
use flowguard::model::ModelSet;
use flowguard::source::Source;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

#[path = "../lake.rs"]
mod lake;
mod program;
mod warehouses;

use program::{export, run};
use warehouses::{Installed, Warehouse};

const ROWS_DEFAULT: usize = 2_000_000;
const DAYS: usize = 1_000;
const FEW_DAYS: usize = 10;
const ROUNDS: usize = 5;
/// The first day is 2023-01-01.
const BEGIN_MICROS: u64 = 1_672_531_200_000_000;
const DAY_MICROS: u64 = 86_400_000_000;
/// What is changed: the fifth.
const DAY: [&str; 2] = ["2023-01-05", "2023-01-06"];

const EVENTS: &str = "-- /// flowguard
-- kind: append
-- source: {topic: raw.events.v1, format: json}
-- time: at
-- partition_by: day
-- columns:
--   id: {type: string}
--   user_id: {type: string}
--   item: {type: bigint}
--   price: {type: \"decimal(10,2)\"}
--   quantity: {type: int}
--   score: {type: double}
--   at: {type: timestamp}
-- ///
SELECT * FROM kafka.events
";
const MANY: &str = "-- /// flowguard
-- kind: interval
-- every: 1d
-- time: at
-- partition_by: day
-- ///
SELECT id, user_id, item, price, quantity, score, at
FROM bronze.events WHERE at >= $start AND at < $end
";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // Cargo passes `--bench`; a number is the count of rows.
    let rows = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(ROWS_DEFAULT);
    let installed = Installed::find();
    let project = TempDir::new().expect("a folder");
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(make(project.path(), rows));
    println!("{rows} rows of 7 columns, {DAYS} days; ours, what it is measured against, the ratio");
    let warehouses = [installed.duckdb(), installed.postgresql()];
    warehouses[0].configure(project.path());
    let batches = runtime.block_on(scans(project.path()));
    for warehouse in warehouses {
        warehouse.configure(project.path());
        whole(&warehouse, project.path(), &batches);
        runtime.block_on(one_day(&warehouse, project.path()));
    }
}

/// A project with one table of many days, and one of the first few of them.
async fn make(project: &Path, rows: usize) {
    for (file, text) in [("bronze/events", EVENTS), ("silver/many", MANY), ("silver/few", MANY)] {
        let file = project.join(format!("sql/{file}.sql"));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(file, text).expect("a model");
    }
    std::fs::write(project.join("dags.yaml"), "version: 1\n").expect("a file");
    add(project, 0, rows, DAYS as u64 * DAY_MICROS / rows as u64).await;
    let begin = "2023-01-01";
    run(project, &["run", "silver.many"]);
    run(project, &["run", "silver.few", "--start", begin, "--end", "2023-01-11"]);
    assert_eq!(FEW_DAYS, 10, "what the line above names");
}

/// Appends `rows` events, a `step` of microseconds between them.
async fn add(project: &Path, first: usize, rows: usize, step: u64) {
    let last = first + rows - 1;
    let sql = format!(
        "SELECT md5(CAST(value AS VARCHAR)) AS id,
           concat('user_', value * 7919 % 50000) AS user_id,
           value * 31 % 500 AS item,
           CAST(value % 10000 AS DECIMAL(10,2)) / 100 * 1.00 AS price,
           CAST(value % 5 AS INT) AS quantity,
           CAST(value AS DOUBLE) / 7 AS score,
           arrow_cast({BEGIN_MICROS} + (value - {first}) * {step},
             'Timestamp(Microsecond, Some(\"UTC\"))') AS at
         FROM generate_series({first}, {last})"
    );
    let sql = format!(
        "SELECT id, user_id, item, CAST(price AS DECIMAL(10,2)) AS price, quantity, score, at FROM ({sql})"
    );
    lake::append(&lake::open(&project.join(".flowguard")), "bronze.events", Some("at"), &sql).await;
}

/// The table's rows; prints what a scan costs, and what parity's pass over the same rows does.
async fn scans(project: &Path) -> Vec<RecordBatch> {
    let config = Config::load(project, &BTreeMap::new(), &[]).expect("a project");
    let app = App::open(config).expect("a project");
    let target = app.dags().expect("it is right").target("here").expect("it is configured");
    let keeper = statements(target, Uuid::nil()).expect("a target of SQL");
    let source = app.export_source();
    let name = "silver.many".parse().expect("a table name");
    let pair = source.pair(&keeper, &name, None).await.expect("it was built");
    let mut proving = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        source.prove(&pair).await.expect("comparable types");
        let proved = start.elapsed().as_secs_f64();
        let start = Instant::now();
        scan(project, drop).await;
        proving.push((proved, start.elapsed().as_secs_f64()));
    }
    line("parity's pass over the lake, s; plain scan", &proving, "at most 2");
    let mut rows = Vec::new();
    scan(project, |batch| rows.push(plain(&batch))).await;
    rows
}

/// Of the types that are sent.
fn plain(batch: &RecordBatch) -> RecordBatch {
    conform(batch, &plain_schema(&batch.schema())).expect("types of the lake")
}

async fn scan(project: &Path, mut each: impl FnMut(RecordBatch)) {
    let lake = lake::open(&project.join(".flowguard"));
    let models = ModelSet::read(project).expect("models");
    let source = Source::new(
        "query",
        "SELECT id, user_id, item, price, quantity, score, at FROM silver.many",
    );
    let query = Query::plan(&lake::engine(), &lake, &models, &source, None).await;
    let mut batches = query.expect("a plan").stream().await.expect("it begins");
    while let Some(batch) = batches.next().await {
        each(batch.expect("rows"));
    }
}

/// Everything into a new table.
fn whole(warehouse: &Warehouse, project: &Path, batches: &[RecordBatch]) {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let speed = |seconds: f64| rows as f64 / seconds / 1e6;
    let (mut bare, mut client, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        warehouse.clear();
        let exported = export(project, "silver.many");
        assert!(exported.rows >= rows as u64, "all of them");
        let ours = speed(exported.seconds);
        bare.push((ours, speed(warehouse.ingest(batches.to_vec()))));
        if let Some(seconds) = warehouse.copy(batches) {
            client.push((ours, speed(seconds)));
        }
        memory.push((exported.engine_mib, exported.driver_mib));
    }
    let name = warehouse.name();
    line(&format!("{name}, M rows/s; the driver alone"), &bare, "at least 0.9");
    if !client.is_empty() {
        line(&format!("{name}, M rows/s; \\copy of CSV"), &client, "");
    }
    line("    most memory, MiB: engine; driver", &memory, "");
}

/// The same change of one day, in the table of many days and in that of few.
async fn one_day(warehouse: &Warehouse, project: &Path) {
    warehouse.clear();
    export(project, "silver.many");
    export(project, "silver.few");
    let mut pairs = Vec::new();
    for round in 0..ROUNDS {
        add_to_day(project, round).await;
        let [many, few] = ["silver.many", "silver.few"].map(|table| {
            let exported = export(project, table);
            assert!(exported.rows > 0, "a changed day");
            (exported.rows, exported.seconds * 1e3)
        });
        assert_eq!(many.0, few.0, "the same day");
        pairs.push((many.1, few.1));
    }
    let what = format!("{}, one day of {DAYS}, ms; of {FEW_DAYS}", warehouse.name());
    line(&what, &pairs, "at most 1.2");
}

async fn add_to_day(project: &Path, round: usize) {
    let lake = lake::open(&project.join(".flowguard"));
    let sql = format!(
        "SELECT 'one more {round}' AS id, 'user' AS user_id, arrow_cast(1, 'Int64') AS item,
           CAST(1 AS DECIMAL(10,2)) AS price, CAST(1 AS INT) AS quantity,
           CAST(1 AS DOUBLE) AS score,
           arrow_cast('{}T12:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))') AS at",
        DAY[0]
    );
    lake::append(&lake, "bronze.events", Some("at"), &sql).await;
    let range = ["--start", DAY[0], "--end", DAY[1]];
    run(project, &[&["run", "silver.many", "silver.few"], &range[..]].concat());
}

/// Prints the median of each side and of their ratio.
fn line(what: &str, pairs: &[(f64, f64)], aim: &str) {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    let [ours, theirs, ratio] = [ours, theirs, ratios].map(|mut values| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    });
    println!("{what:<45} {ours:>9.2} {theirs:>9.2} {ratio:>7.2}  {aim}");
}
