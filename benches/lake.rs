//! A lake to measure on, written by the library, as everything in a lake is.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono_tz::Tz;
use flowguard::engine::storable::{conform, plain_schema};
use flowguard::engine::{Engine, EngineOptions};
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use flowguard::lake::store::S3Access;
use futures::StreamExt;
use url::Url;
use uuid::Uuid;

pub fn engine() -> Engine {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = EngineOptions { memory_bytes_max: 1 << 30, spill_dir: None, threads };
    Engine::new(&options).expect("an engine")
}

pub fn open(folder: &Path) -> Lake {
    let root = Url::from_directory_path(folder).expect("an absolute path");
    Lake::open(&root, &S3Access::default()).expect("a lake")
}

/// Appends what `sql` gives to a table, which is made if need be.
pub async fn append(lake: &Lake, name: &str, time: Option<&str>, sql: &str) {
    let frame = engine().session().sql(sql).await.expect("the statement is sound");
    let columns = plain_schema(frame.schema().as_arrow());
    let spec = spec(name, time, &columns);
    let mut stager = Stager::new(lake, &spec).expect("a writer");
    let mut batches = frame.execute_stream().await.expect("it begins");
    while let Some(batch) = batches.next().await {
        let batch = conform(&batch.expect("rows"), &columns).expect("the types of the table");
        stager.write(&batch).await.expect("the folder is writable");
    }
    let staged = stager.finish().await.expect("the files are complete");
    let ledger = Ledger::new(name, Uuid::nil());
    let change = Commit { spec: &spec, staged, removal: None, advances: Vec::new(), ledger };
    commit(lake, &change).await.expect("nobody else writes");
}

/// Of a table that is partitioned by day if it has a `time`.
pub fn spec(name: &str, time: Option<&str>, columns: &SchemaRef) -> TableSpec {
    TableSpec {
        name: name.parse().expect("a table name"),
        columns: Arc::clone(columns),
        time: time.map(str::to_owned),
        partition_by_day: time.is_some(),
        timezone: Tz::UTC,
        key: Vec::new(),
        doc: None,
        shape: "`kind: full`".to_owned(),
    }
}
