//! The tables that are asked: clicks as the demo's, but more of them, and many small tables. Written
//! by the library, as everything in a lake is.

use std::path::Path;
use std::sync::Arc;

use chrono_tz::Tz;
use flowguard::engine::storable::{conform, plain_schema};
use flowguard::engine::{Engine, EngineOptions};
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit, ensure_table};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use flowguard::lake::store::S3Access;
use futures::StreamExt;
use url::Url;
use uuid::Uuid;

/// Seven days, as many rows in each.
const WEEK_MICROS: usize = 7 * 86_400 * 1_000_000;

pub fn engine() -> Engine {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = EngineOptions { memory_bytes_max: 1 << 30, spill_dir: None, threads };
    Engine::new(&options).expect("an engine")
}

pub fn open(folder: &Path) -> Lake {
    let root = Url::from_directory_path(folder).expect("an absolute path");
    Lake::open(&root, &S3Access::default()).expect("a lake")
}

/// `silver.clicks`, with the columns of the demo's `silver.clicks_cleaned`.
pub async fn write_clicks(lake: &Lake, rows: usize) {
    let step = WEEK_MICROS / rows;
    let sql = format!(
        "SELECT event_id, event_type, user_id, session_id, item_id, item_name, category,
           event_timestamp, CAST(event_timestamp AS DATE) AS event_date
         FROM (SELECT
           md5(CAST(value AS VARCHAR)) AS event_id,
           CASE WHEN value % 5 = 0 THEN 'click' ELSE 'impression' END AS event_type,
           concat('user_', value * 7919 % 50000) AS user_id,
           concat('session_', value / 20) AS session_id,
           concat('item_', value * 31 % 500) AS item_id,
           ['Margherita', 'Pad Thai', 'Tagliatelle', 'Bibimbap', 'Falafel'][value * 31 % 5 + 1]
             AS item_name,
           ['Pizza', 'Thai', 'Pasta', 'Korean', 'Wraps'][value * 31 % 5 + 1] AS category,
           arrow_cast(1767571200000000 + value * {step}, 'Timestamp(Microsecond, Some(\"UTC\"))')
             AS event_timestamp
         FROM generate_series(0, {rows} - 1))"
    );
    let frame = engine().session().sql(&sql).await.expect("the statement is sound");
    let columns = plain_schema(frame.schema().as_arrow());
    let spec = TableSpec {
        name: "silver.clicks".parse().expect("a table name"),
        columns: Arc::clone(&columns),
        time: Some("event_timestamp".to_owned()),
        partition_by_day: true,
        timezone: Tz::UTC,
        key: vec!["event_id".to_owned()],
        doc: None,
    };
    let mut stager = Stager::new(lake, &spec).expect("a writer");
    let mut batches = frame.execute_stream().await.expect("it begins");
    while let Some(batch) = batches.next().await {
        let batch = conform(&batch.expect("rows"), &columns).expect("the types of the table");
        stager.write(&batch).await.expect("the folder is writable");
    }
    let staged = stager.finish().await.expect("the files are complete");
    let ledger = Ledger::new(spec.name.to_string(), Uuid::nil());
    let change = Commit { spec: &spec, staged, removal: None, advances: Vec::new(), ledger };
    commit(lake, &change).await.expect("nobody else writes");
}

/// `count` tables without rows.
pub async fn write_tables(lake: &Lake, count: usize) {
    let frame = engine().session().sql("SELECT 1 AS n").await.expect("the statement is sound");
    let columns = plain_schema(frame.schema().as_arrow());
    for number in 0..count {
        let spec = TableSpec {
            name: format!("silver.t{number}").parse().expect("a table name"),
            columns: Arc::clone(&columns),
            time: None,
            partition_by_day: false,
            timezone: Tz::UTC,
            key: Vec::new(),
            doc: None,
        };
        let ledger = Ledger::new(spec.name.to_string(), Uuid::nil());
        ensure_table(lake, &spec, &ledger).await.expect("the folder is writable");
    }
}
