//! Data files that are gone, cut short, damaged or out of reach: named as they lie in the lake, with
//! the kind by which whoever asked knows what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use chrono_tz::Tz;
use flowguard::engine::fault::engine_error;
use flowguard::engine::storable::conform;
use flowguard::engine::{Engine, EngineOptions};
use flowguard::error::ErrorKind;
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::faulty_store::{Fault, FaultyStore, Operation, Reply, Verb};
use crate::program::{Project, SMALL_DEMO};
use crate::served::{Request, Served};

const READS: &str = "SELECT max(user_id), sum(price) FROM silver.orders_cleaned";
/// Its condition is applied by the scan.
const CHOOSES: &str = "SELECT * FROM silver.orders_cleaned WHERE price > 3";

/// Any of the table's files, and its path below the lake.
fn data_file(lake: &Path) -> (PathBuf, String) {
    let mut folders = vec![lake.join("silver/orders_cleaned")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("_delta_log") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                let below = path.strip_prefix(lake).unwrap().to_str().unwrap().to_owned();
                return (path, below);
            }
        }
    }
    panic!("the demo has files");
}

/// All of a Parquet file but its metadata, which end it, changed.
fn with_other_pages(file: &[u8]) -> Vec<u8> {
    let end = file.len() - 8;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().unwrap());
    let pages = 4..end - usize::try_from(length).unwrap();
    let mut other = file.to_vec();
    other[pages].iter_mut().for_each(|byte| *byte ^= 0xA5);
    other
}

#[test]
fn a_data_file_that_is_not_as_it_was_written_is_named() {
    let project = Project::of_demo(&SMALL_DEMO);
    let (file, below) = data_file(project.lake());
    let whole = std::fs::read(&file).unwrap();
    let half = &whole[..whole.len() / 2];
    let without_end = [&whole[..whole.len() - 8], &[0; 8]].concat();
    let is_short = format!("has {} bytes and was written with {}", half.len(), whole.len());
    let damages: [(Option<Vec<u8>>, &str); 4] = [
        (None, "is missing"),
        (Some(half.to_vec()), &is_short),
        (Some(without_end), "is damaged"),
        (Some(with_other_pages(&whole)), "is damaged"),
    ];
    let served = Served::start(&project, &[]);
    for (content, what) in damages {
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let message = format!("a data file of `silver.orders_cleaned` {what}: `{below}`");
        for sql in [READS, CHOOSES] {
            let failed = project.run(&["query", "--output", "csv", sql]);
            assert_eq!(failed.code, Some(4), "{what}: {}", failed.stderr);
            let said = format!("error: the query failed: {message}\n");
            assert!(failed.stderr.starts_with(&said), "{}", failed.stderr);
            let reply = served.ask(&Request {
                method: "POST",
                path: "/api/v1/query",
                headers: &[("content-type", "text/plain")],
                body: sql.as_bytes(),
            });
            let found =
                (reply.status, reply.json()["kind"].clone(), reply.json()["message"].clone());
            let said = json!(format!("the statement failed: {message}"));
            assert_eq!(found, (500, json!("data_loss"), said));
            for said in [failed.stderr, reply.text()] {
                let root = project.lake().to_str().unwrap().trim_start_matches('/');
                assert!(!said.contains(root), "{said}");
            }
        }
        let run = project.run(&["run", "--full-refresh", "gold.daily_metrics"]).without_logs();
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains(&message), "{}", run.stderr);
    }
    std::fs::write(&file, &whole).unwrap();
    project.run(&["query", READS]).succeeded();
}

#[test]
fn a_value_that_a_condition_cannot_take_is_no_damage() {
    let project = Project::of_demo(&SMALL_DEMO);
    let failed = project
        .run(&["query", "SELECT * FROM silver.orders_cleaned WHERE CAST(user_id AS INT) = 1"]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("a condition fails: Cannot cast string"), "{}", failed.stderr);
}

#[tokio::test]
async fn a_store_that_fails_while_files_are_read_is_unavailable() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let root = Url::parse("memory:///lake/").unwrap();
    let lake = Lake::with_store(&root, Arc::clone(&inner));
    let options = EngineOptions { memory_bytes_max: 64 << 20, spill_dir: None, threads: 2 };
    let engine = Engine::new(&options).unwrap();
    let spec = TableSpec {
        name: "silver.t".parse().unwrap(),
        columns: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)])),
        time: None,
        partition_by_day: false,
        timezone: Tz::UTC,
        key: Vec::new(),
        doc: None,
        shape: "`kind: full`".to_owned(),
    };
    let mut stager = Stager::new(&lake, &spec).unwrap();
    let rows = engine.session().sql("SELECT value AS id FROM generate_series(1, 9)").await.unwrap();
    for batch in rows.collect().await.unwrap() {
        stager.write(&conform(&batch, &spec.columns).unwrap()).await.unwrap();
    }
    let staged = stager.finish().await.unwrap();
    let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
    let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
    commit(&lake, &write).await.unwrap();

    for reply in [Reply::ConnectionReset, Reply::SlowDown] {
        let plan = move |operation: &Operation<'_>| {
            let is_data = operation.path.ends_with(".parquet");
            if operation.verb == Verb::Get && is_data { Fault::Before(reply) } else { Fault::None }
        };
        let faulty = Lake::with_store(&root, Arc::new(FaultyStore::new(Arc::clone(&inner), plan)));
        let table = faulty.snapshot(&spec.name).await.unwrap().unwrap().provider().await.unwrap();
        let session = engine.session();
        session.register_table("t", table).unwrap();
        let rows = session.sql("SELECT sum(id) + max(id % 7) FROM t").await.unwrap();
        let error = engine_error("the query failed", rows.collect().await.unwrap_err());
        assert_eq!(error.kind, ErrorKind::Unavailable, "{reply:?}: {}", error.report());
        assert!(error.message.contains("data files of `silver.t`"), "{}", error.message);
    }
}
