//! `flowguard run` on small projects with a bronze table that is filled directly: failures, results
//! that did not change, intervals, time zones, memory limits and views, through the real program.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use chrono_tz::Tz;
use flowguard::error::ErrorKind;
use flowguard::ingest::decode::{Decoder, Message, UnknownFields};
use flowguard::interval::{Every, Instant};
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit, ensure_table};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::stage::Stager;
use flowguard::lake::store::S3Access;
use flowguard::model::ModelSet;
use flowguard::runner::{self, Outcome, RunContext, RunEvent, RunReport, tasks_of};
use flowguard::table::TableName;
use flowguard::typecheck::typecheck;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::faulty_store::{Fault, FaultyStore};
use crate::program::{Project, model};
use crate::topic_in_memory::engine;

const EVENTS: &str = "kind: append
source: {topic: raw.events.v1, format: json, unknown_fields: ignore}
time: at
partition_by: day
columns:
  id: {type: string, not_null: true}
  at: {type: timestamp, not_null: true}
  n: {type: string}";
const DAILY: &str = "kind: interval\nevery: 1d\ntime: at\npartition_by: day";
const IN_RANGE: &str = "FROM bronze.events WHERE at >= $start AND at < $end";

pub fn project(models: &[(&str, &str)]) -> Project {
    let events = model(EVENTS, "SELECT * FROM kafka.events");
    Project::of_models(&[&[("bronze/events", events.as_str())], models].concat())
}

fn full(sql: &str) -> String {
    model("kind: full", sql)
}

fn daily(sql: &str) -> String {
    model(DAILY, sql)
}

fn lake(project: &Project) -> Lake {
    let folder = project.folder().join(".flowguard");
    Lake::open(&Url::from_directory_path(folder).unwrap(), &S3Access::default()).unwrap()
}

/// Adds events as ingestion would: id, time and number.
pub async fn add(project: &Project, events: &[(&str, &str, &str)]) {
    let name: TableName = "bronze.events".parse().unwrap();
    let models = ModelSet::read(project.folder()).unwrap();
    let columns: Vec<_> = models.get(&name).unwrap().columns.iter().map(|c| c.0.clone()).collect();
    let ignore = UnknownFields::Ignore;
    let mut decoder = Decoder::new("raw.events.v1", &columns, Some("at"), ignore, 1 << 20).unwrap();
    for (offset, (id, at, n)) in events.iter().enumerate() {
        let payload = format!(r#"{{"id":"{id}","at":"{at}","n":"{n}"}}"#);
        let message = Message {
            partition: 0,
            offset: offset as i64,
            leader_epoch: None,
            timestamp_ms: None,
            key: None,
            headers: &[],
            payload: Some(payload.as_bytes()),
        };
        decoder.push(&message, 0).unwrap();
    }
    append(project, &name, decoder.finish().unwrap()).await;
}

/// Commits rows to a table of the project, creating it if need be.
async fn append(project: &Project, name: &TableName, rows: RecordBatch) {
    let models = ModelSet::read(project.folder()).unwrap();
    let typed = typecheck(&engine(), &models).await.unwrap();
    let spec = &typed.get(name).unwrap().spec;
    let lake = lake(project);
    let mut stager = Stager::new(&lake, spec).unwrap();
    let rows = RecordBatch::try_new(spec.columns.clone(), rows.columns().to_vec()).unwrap();
    stager.write(&rows).await.unwrap();
    let staged = stager.finish().await.unwrap();
    let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
    commit(&lake, &Commit { spec, staged, removal: None, advances, ledger }).await.unwrap();
}

/// What became of each model: its outcome and whether it was unchanged, or why it was not built.
fn run(project: &Project, arguments: &[&str], code: i32) -> BTreeMap<String, String> {
    let arguments = [&["run", "--output", "json"], arguments].concat();
    let finished = project.run(&arguments);
    assert_eq!(finished.code, Some(code), "{}\n{}", finished.stdout, finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let line = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let outcome = match text("outcome").as_str() {
            "built" if line["unchanged"] == true => format!("{} rows, unchanged", line["rows"]),
            "built" => format!("{} rows", line["rows"]),
            "failed" => format!("failed: {}; hint: {}", text("error"), text("hint")),
            other => format!("{other}: {}", text("because")),
        };
        (text("model"), outcome)
    };
    report["models"].as_array().unwrap().iter().map(line).collect()
}

fn outcomes(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

/// Panic injection: the store panics under one model, on the model's own task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_spun_for_ever_when_a_model_panicked_that_others_read() {
    let project = project(&[
        ("silver/bad", &full("SELECT id FROM bronze.events")),
        ("silver/good", &full("SELECT id FROM bronze.events")),
        ("gold/after_bad", &full("SELECT count(*) AS n FROM silver.bad, silver.good")),
    ]);
    let store = FaultyStore::new(Arc::new(InMemory::new()), |operation| {
        assert!(!operation.path.contains("silver/bad/"), "planted");
        Fault::None
    });
    let lake = Lake::with_store(&Url::parse("memory:///panics/").unwrap(), Arc::new(store));
    let models = Arc::new(ModelSet::read(project.folder()).unwrap());
    let typed = Arc::new(typecheck(&engine(), &models).await.unwrap());
    let events = typed.get(&"bronze.events".parse().unwrap()).unwrap();
    ensure_table(&lake, &events.spec, &Ledger::new("test", Uuid::nil())).await.unwrap();
    let selection: Vec<TableName> = models.in_order().map(|model| model.name.clone()).collect();
    let (run, parallel_models_max) = (Uuid::nil(), 2);
    let context = RunContext { lake, engine: engine(), models, typed, run, parallel_models_max };
    let (stop, mut ended) = (CancellationToken::new(), BTreeMap::new());
    let running = runner::run(Arc::new(context), tasks_of(&selection, None), &stop, |event| {
        if let RunEvent::Finished { task, outcome } = event {
            let outcome = match outcome {
                Outcome::Failed(error) => format!("failed: {}", error.message),
                Outcome::Skipped { because } => format!("skipped: {because}"),
                other => format!("{other:?}").split('(').next().unwrap().to_owned(),
            };
            ended.insert(task.model.to_string(), outcome);
        }
    });
    let report = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends");
    assert_eq!((report.built, report.failed, report.skipped), (1, 1, 1));
    assert_eq!(report.kind, Some(ErrorKind::Internal));
    let expected = [
        ("silver.bad", "failed: building the model ended abnormally"),
        ("silver.good", "Built"),
        ("gold.after_bad", "skipped: silver.bad"),
    ];
    assert_eq!(ended, outcomes(&expected));
}

/// Panic injection into all writers of a build but one, on delta-rs' own tasks: it is tried again
/// like any fault of the store, and nothing is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_one_writer_stops_the_others_and_fails_the_build() {
    // Both sides have rows left when there are enough for several files.
    let side = "SELECT id || CAST(value AS VARCHAR) AS id, value AS n \
                FROM bronze.events, generate_series(1, 300000)";
    let project = project(&[("silver/many", &full(&format!("{side} UNION ALL {side}")))]);
    add(&project, &THREE).await;
    let times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    let store = FaultyStore::new(Arc::new(LocalFileSystem::new()), move |operation| {
        let is_data =
            operation.path.contains("silver/many/") && operation.path.ends_with("parquet");
        assert!(!is_data || counted.fetch_add(1, Ordering::SeqCst) == 0, "planted");
        Fault::None
    });
    let folder = Url::from_directory_path(project.folder().join(".flowguard")).unwrap();
    let lake = Lake::with_store(&folder, Arc::new(store));
    let models = Arc::new(ModelSet::read(project.folder()).unwrap());
    let typed = Arc::new(typecheck(&engine(), &models).await.unwrap());
    let (run, parallel_models_max) = (Uuid::now_v7(), 1);
    let context = RunContext { lake, engine: engine(), models, typed, run, parallel_models_max };
    let tasks = tasks_of(&["silver.many".parse().unwrap()], None);
    let stop = CancellationToken::new();
    let running = runner::run(Arc::new(context), tasks, &stop, |_| {});
    let report = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends");
    assert_eq!((report.built, report.failed), (0, 1));
    assert!(times.load(Ordering::SeqCst) > 1, "no second file was begun");
    let kept = project.run(&["query", "SELECT count(*) FROM silver.many"]);
    assert_eq!(kept.code, Some(1), "{}", kept.stdout);
}

/// A run of one day of `silver.days` in this process, on a store of its own.
async fn build_day(project: &Project, store: Arc<dyn ObjectStore>, day: &str) -> RunReport {
    let folder = project.folder().join(".flowguard");
    let lake = Lake::with_store(&Url::from_directory_path(folder).unwrap(), store);
    let models = Arc::new(ModelSet::read(project.folder()).unwrap());
    let typed = Arc::new(typecheck(&engine(), &models).await.unwrap());
    let start = Instant::parse(day, Tz::UTC).unwrap();
    let range = Some(Every::Day.interval_of(start, Tz::UTC));
    let (run, parallel_models_max) = (Uuid::now_v7(), 1);
    let context = RunContext { lake, engine: engine(), models, typed, run, parallel_models_max };
    let tasks = tasks_of(&["silver.days".parse().unwrap()], range);
    runner::run(Arc::new(context), tasks, &CancellationToken::new(), |_| {}).await
}

/// Of two builds at once the second was refused, and made its rows anew, although they replaced
/// different days.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn builds_of_different_days_were_taken_for_each_other() {
    for (other_day, times_written) in [("2026-01-06", 1), ("2026-01-05", 2)] {
        let project = project(&[("silver/days", &daily(&format!("SELECT id, at, n {IN_RANGE}")))]);
        add(&project, &THREE).await;
        run(&project, &[], 0);
        let late = [("d", "2026-01-05T11:00:00Z", "4"), ("e", "2026-01-06T11:00:00Z", "5")];
        add(&project, &late).await;
        let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        let is_first = AtomicBool::new(true);
        let pausing = FaultyStore::new(Arc::clone(&local), move |operation| {
            let is_commit = operation.is_log_entry() && operation.path.contains("/silver/days/");
            let pauses = is_commit && is_first.swap(false, Ordering::Relaxed);
            if pauses { Fault::Pause } else { Fault::None }
        });
        let slow = build_day(&project, Arc::new(pausing.clone()), "2026-01-05");
        let quick = async {
            pausing.paused().await;
            let report = build_day(&project, local, other_day).await;
            pausing.resume();
            report
        };
        let (slow, quick) = tokio::join!(slow, quick);
        assert_eq!((slow.built, quick.built), (1, 1), "{other_day}");
        let log = pausing.log();
        let written = log.lines().filter(|line| line.contains("Put") && line.contains(".parquet"));
        assert_eq!(written.count(), times_written, "{other_day}:\n{log}");
        let rows = project.query("SELECT id FROM silver.days ORDER BY id").concat();
        let expected = if times_written == 1 { "a b c d e" } else { "a b c d" };
        assert_eq!(rows.join(" "), expected, "{other_day}");
    }
}

/// A table that is replaced whole forgot the hours that rows went from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_build_touches_the_hours_that_it_empties() {
    let project = project(&[]);
    add(&project, &THREE).await;
    let timed = "kind: full\ntime: at";
    let touched = async |condition: &str| {
        let sql = format!("SELECT id, at FROM bronze.events WHERE {condition}");
        project.write("sql/silver/all.sql", &model(timed, &sql));
        run(&project, &[], 0);
        let table = lake(&project).snapshot(&"silver.all".parse().unwrap()).await.unwrap().unwrap();
        let ledgers = table.ledgers(table.version()).await.unwrap();
        let hours = &ledgers[&table.version()].touched;
        hours.iter().map(|[start, _]| Instant(*start).to_string()).collect::<Vec<_>>()
    };
    assert_eq!(touched("id = 'a'").await, ["2026-01-05T10:00:00Z"]);
    assert_eq!(touched("id = 'b'").await, ["2026-01-05T10:00:00Z", "2026-01-06T10:00:00Z"]);
}

/// What places rows in time is part of what a model is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_in_another_zone_had_the_fingerprint_of_the_one_before() {
    let sql = format!("SELECT id, at, at AS seen {IN_RANGE}");
    let mut fingerprints = BTreeSet::new();
    let headers = [
        "kind: interval\nevery: 1d\ntime: at",
        "kind: interval\nevery: 1d\ntime: at\ntimezone: Europe/Rome",
        "kind: interval\nevery: 1h\ntime: at",
        "kind: interval\nevery: 1d\ntime: seen",
    ];
    for header in headers {
        let project = project(&[("silver/t", &model(header, &sql))]);
        let models = ModelSet::read(project.folder()).unwrap();
        let typed = typecheck(&engine(), &models).await.unwrap();
        let name = "silver.t".parse().unwrap();
        fingerprints.insert(typed.get(&name).unwrap().fingerprint.clone());
    }
    assert_eq!(fingerprints.len(), headers.len());
}

const THREE: [(&str, &str, &str); 3] = [
    ("a", "2026-01-05T10:00:00Z", "1"),
    ("b", "2026-01-06T10:00:00Z", "2"),
    ("c", "2026-01-07T10:00:00Z", "x"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_stops_what_depends_on_it_and_nothing_else() {
    let project = project(&[
        ("silver/bad", &full("SELECT id, CAST(n AS BIGINT) AS n FROM bronze.events")),
        ("silver/view", &model("kind: view", "SELECT n FROM silver.bad")),
        ("silver/good", &full("SELECT id FROM bronze.events")),
        ("gold/after_bad", &full("SELECT sum(n) AS n FROM silver.bad")),
        ("gold/after_view", &full("SELECT count(*) AS n FROM silver.view, silver.good")),
        ("gold/after_both", &full("SELECT g.n FROM gold.after_bad g, silver.good")),
        ("gold/after_good", &full("SELECT count(*) AS n FROM silver.good")),
    ]);
    add(&project, &THREE).await;
    let failure = "failed: cannot build `silver.bad`: cannot cast string 'x' to value of Int64 \
                   type; hint: ";
    assert_eq!(
        run(&project, &[], 2),
        outcomes(&[
            ("silver.bad", failure),
            ("silver.good", "3 rows"),
            ("gold.after_bad", "skipped: silver.bad"),
            ("gold.after_view", "skipped: silver.bad"),
            ("gold.after_both", "skipped: gold.after_bad"),
            ("gold.after_good", "1 rows"),
        ])
    );
    let tables: Vec<String> =
        lake(&project).tables().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(tables, ["bronze.events", "silver.good", "gold.after_good"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_result_is_a_commit_without_data() {
    let project = project(&[
        ("silver/days", &daily(&format!("SELECT id, at {IN_RANGE}"))),
        ("gold/count", &full("SELECT count(*) AS n FROM silver.days")),
    ]);
    add(&project, &THREE).await;
    let built = [("silver.days", "3 rows"), ("gold.count", "1 rows")];
    assert_eq!(run(&project, &[], 0), outcomes(&built));
    let same = [("silver.days", "3 rows, unchanged"), ("gold.count", "1 rows, unchanged")];
    assert_eq!(run(&project, &[], 0), outcomes(&same));
    for table in ["silver/days", "gold/count"] {
        let log = project.folder().join(".flowguard").join(table).join("_delta_log");
        assert_eq!(std::fs::read_dir(&log).unwrap().count(), 2, "{table}");
        let entry = std::fs::read_to_string(log.join("00000000000000000001.json")).unwrap();
        let actions = entry.lines().map(|line| {
            let action: Value = serde_json::from_str(line).unwrap();
            action.as_object().unwrap().keys().next().unwrap().clone()
        });
        let mut actions: Vec<String> = actions.collect();
        actions.sort();
        assert_eq!(actions, ["commitInfo", "txn"], "{table}");
    }
    // A change upstream that does not show in a result ends there.
    add(&project, &[("d", "2026-01-07T11:00:00Z", "3")]).await;
    let grown = [("silver.days", "4 rows"), ("gold.count", "1 rows")];
    assert_eq!(run(&project, &[], 0), outcomes(&grown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_a_range_replaces_it_and_nothing_else_and_ends_equal_to_a_full_rebuild() {
    let models: &[(&str, &str)] = &[
        ("silver/days", &daily(&format!("SELECT id, at {IN_RANGE}"))),
        // In files that hold several days each.
        (
            "silver/loose",
            &model("kind: interval\nevery: 1d\ntime: at", &format!("SELECT id, at {IN_RANGE}")),
        ),
    ];
    let late = [("d", "2026-01-05T23:59:59.999999Z", "4"), ("e", "2026-01-07T00:00:00Z", "5")];
    let parts = project(models);
    add(&parts, &THREE).await;
    run(&parts, &[], 0);
    add(&parts, &late).await;
    let ids = |project: &Project, table: &str| {
        let rows = project.query(&format!("SELECT id FROM {table} ORDER BY id"));
        rows.concat().concat()
    };
    for table in ["silver.days", "silver.loose"] {
        let run_of = |start: &str, end: &str, rows: &str| {
            let ran = run(&parts, &[table, "--start", start, "--end", end], 0);
            assert_eq!(ran, outcomes(&[(table, rows)]));
        };
        run_of("2026-01-05", "2026-01-06", "2 rows");
        assert_eq!(ids(&parts, table), "abcd", "{table}");
        run_of("2026-01-06", "2026-01-08", "3 rows");
        assert_eq!(ids(&parts, table), "abcde", "{table}");
        run_of("2026-01-09", "2026-01-10", "0 rows");
        assert_eq!(ids(&parts, table), "abcde", "{table}");
    }
    let whole = project(models);
    add(&whole, &THREE).await;
    add(&whole, &late).await;
    run(&whole, &[], 0);
    for table in ["silver.days", "silver.loose"] {
        let sql = format!("SELECT id, at FROM {table} ORDER BY id");
        assert_eq!(parts.query(&sql), whole.query(&sql), "{table}");
    }

    let table = lake(&parts).snapshot(&"silver.days".parse().unwrap()).await.unwrap().unwrap();
    let ledgers = table.ledgers(0).await.unwrap();
    let day = |day: i64| (20_454 + day) * 86_400_000_000;
    let intervals: Vec<_> = ledgers.values().flat_map(|ledger| ledger.intervals.clone()).collect();
    assert_eq!(intervals, [[day(4), day(7)], [day(4), day(5)], [day(5), day(7)], [day(8), day(9)]]);
    let newest = ledgers.values().next_back().unwrap();
    let inputs: Vec<_> = newest.inputs.iter().map(|i| (i.table.as_str(), i.version)).collect();
    assert_eq!(inputs, [("bronze.events", 1)]);
    assert!(newest.output_hash.is_some() && newest.fingerprint.is_some());
}

/// A row without a time belongs to no interval, so that no replacement may take it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_a_time_outlives_every_replacement() {
    let loose = model("kind: interval\nevery: 1d\ntime: at", &format!("SELECT id, at {IN_RANGE}"));
    let project = project(&[("silver/loose", &loose)]);
    add(&project, &THREE).await;
    let timeless: ArrayRef = Arc::new(StringArray::from(vec!["?", "a", "b"]));
    let first = 1_767_607_200_000_000; // 2026-01-05T10:00Z
    let times = vec![None, Some(first), Some(first + 86_400_000_000)];
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    let rows = RecordBatch::try_from_iter([("id", timeless), ("at", times)]).unwrap();
    append(&project, &"silver.loose".parse().unwrap(), rows).await;
    let range = ["--start", "2026-01-06", "--end", "2026-01-08"];
    assert_eq!(run(&project, &range, 0), outcomes(&[("silver.loose", "2 rows")]));
    let held = project.query("SELECT id, at FROM silver.loose ORDER BY id");
    assert_eq!(
        held,
        [
            ["?", ""],
            ["a", "2026-01-05T10:00:00Z"],
            ["b", "2026-01-06T10:00:00Z"],
            ["c", "2026-01-07T10:00:00Z"]
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_outside_of_the_interval_fail_the_model_and_commit_nothing() {
    let project = project(&[(
        "silver/days",
        &daily(&format!("SELECT id, at + INTERVAL '2 days' AS at {IN_RANGE}")),
    )]);
    add(&project, &THREE[..1]).await;
    let failure = "failed: `silver.days` gave a row at 2026-01-07T10:00:00Z outside of its \
                   interval 2026-01-05T00:00:00Z/2026-01-06T00:00:00Z; hint: filter the inputs by \
                   `$start` and `$end`";
    assert_eq!(run(&project, &[], 2), outcomes(&[("silver.days", failure)]));
    let table = lake(&project).snapshot(&"silver.days".parse().unwrap()).await.unwrap();
    assert!(table.is_none_or(|table| table.size() == (0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_half_intervals_is_refused_with_the_whole_ones() {
    let rome = format!("{DAILY}\ntimezone: Europe/Rome");
    let project = project(&[("silver/days", &model(&rome, &format!("SELECT id, at {IN_RANGE}")))]);
    add(&project, &THREE).await;
    let failure = "failed: 2026-01-05T00:00:00Z/2026-01-06T00:00:00Z is not made of whole \
                   intervals of `silver.days` (every 1d, Europe/Rome); hint: whole intervals \
                   around it: --start 2026-01-04T23:00:00Z --end 2026-01-06T23:00:00Z";
    let range = ["--start", "2026-01-05", "--end", "2026-01-06"];
    assert_eq!(run(&project, &range, 2), outcomes(&[("silver.days", failure)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_in_rome_have_23_and_25_hours() {
    let rome = format!("{DAILY}\ntimezone: Europe/Rome");
    let project = project(&[("silver/days", &model(&rome, &format!("SELECT id, at {IN_RANGE}")))]);
    let hours = |first: &str, count: i64| {
        let first = chrono::DateTime::parse_from_rfc3339(first).unwrap();
        (0..count).map(move |hour| (first + chrono::TimeDelta::hours(hour)).to_rfc3339())
    };
    let times: Vec<String> = hours("2026-03-28T00:00:00+01:00", 24 + 23 + 24)
        .chain(hours("2026-10-24T00:00:00+02:00", 24 + 25 + 24))
        .collect();
    let events: Vec<(&str, &str, &str)> = times.iter().map(|at| ("h", at.as_str(), "1")).collect();
    add(&project, &events).await;
    run(&project, &[], 0);
    let counted = "SELECT _day AS day, count(*) AS hours FROM silver.days GROUP BY 1 ORDER BY 1";
    let expected = [
        ["2026-03-28", "24"],
        ["2026-03-29", "23"],
        ["2026-03-30", "24"],
        ["2026-10-24", "24"],
        ["2026-10-25", "25"],
        ["2026-10-26", "24"],
    ];
    assert_eq!(project.query(counted), expected);
    // The day of 25 hours alone.
    let range = ["--start", "2026-10-24T22:00:00Z", "--end", "2026-10-25T23:00:00Z"];
    assert_eq!(run(&project, &range, 0), outcomes(&[("silver.days", "25 rows")]));
    assert_eq!(project.query(counted), expected);
}

#[test]
fn a_model_beyond_the_memory_limit_spills_or_fails_whole() {
    let numbers = "SELECT value AS id, md5(CAST(value AS VARCHAR)) AS hash \
                   FROM generate_series(1, 2000000)";
    // Twice the limit in memory.
    let grouped = format!("SELECT hash, max(id) AS id FROM ({numbers}) GROUP BY hash");
    let joined = format!("SELECT a.id, b.hash FROM ({numbers}) a JOIN ({numbers}) b USING (hash)");
    let listed = format!("SELECT string_agg(hash, ',') AS hashes FROM ({numbers})");
    let models = [
        ("silver/grouped", full(&grouped)),
        ("silver/joined", full(&joined)),
        ("silver/listed", full(&listed)),
    ];
    let models = models.each_ref().map(|(name, text)| (*name, text.as_str()));
    let project = project(&models).with("FLOWGUARD_ENGINE_MEMORY_BYTES_MAX", "50000000");
    let spilled = run(&project, &["silver.grouped"], 0);
    assert_eq!(spilled, outcomes(&[("silver.grouped", "2000000 rows")]));
    let sums = project.query("SELECT count(*) AS n, sum(id) AS ids FROM silver.grouped");
    assert_eq!(sums, [["2000000", "2000001000000"]]);
    // The first attempt fails, at the table of one side.
    let joined = run(&project, &["silver.joined"], 0);
    assert_eq!(joined, outcomes(&[("silver.joined", "2000000 rows")]));
    let sums = project.query("SELECT count(DISTINCT hash) AS n, sum(id) AS ids FROM silver.joined");
    assert_eq!(sums, [["2000000", "2000001000000"]]);
    // One value does not spill.
    let listed = run(&project, &["silver.listed"], 3).remove("silver.listed").unwrap();
    assert!(
        listed.starts_with("failed: cannot build `silver.listed`: ")
            && listed.ends_with(
                "; hint: raise `engine.memory_bytes_max`, or give `engine.spill_dir` more space"
            ),
        "{listed}"
    );
    assert!(!project.folder().join(".flowguard/silver/listed/_delta_log").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_queried_and_read_by_models_and_stores_nothing() {
    let project = project(&[
        ("silver/good", &full("SELECT id, n FROM bronze.events WHERE n <> 'x'")),
        (
            "silver/numbers",
            &model("kind: view", "SELECT id, CAST(n AS BIGINT) AS n FROM silver.good"),
        ),
        ("silver/doubled", &model("kind: view", "SELECT id, n * 2 AS n FROM silver.numbers")),
        ("gold/total", &full("SELECT sum(n) AS total FROM silver.doubled")),
    ]);
    add(&project, &THREE).await;
    let built = [("silver.good", "2 rows"), ("gold.total", "1 rows")];
    assert_eq!(run(&project, &[], 0), outcomes(&built));
    assert_eq!(project.query("SELECT total FROM gold.total"), [["6"]]);
    assert_eq!(project.query("SELECT n FROM silver.doubled ORDER BY n"), [["2"], ["4"]]);
    assert!(!project.folder().join(".flowguard/silver/doubled").exists());
}
