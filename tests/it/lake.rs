//! Commits, replacements, evolution and removal of tables through the lake's own functions, on a
//! store in memory: races, lost replies, and what the log says afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::array_value_to_string;
use chrono_tz::Tz;
use flowguard::error::{ErrorKind, Result};
use flowguard::interval::{Instant, Range};
use flowguard::lake::Lake;
use flowguard::lake::commit::{Advance, Commit, Outcome, commit, ensure_table};
use flowguard::lake::ledger::{InputVersion, Ledger, OffsetRange, Sum};
use flowguard::lake::replace::{Removal, replace_range};
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::{Staged, Stager};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;
use uuid::Uuid;

use crate::faulty_store::{Fault, FaultyStore, Operation, Reply};
use crate::topic_in_memory::engine;

const DAY_MICROS: i64 = 86_400_000_000;

fn columns(names: &[&str]) -> SchemaRef {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = |name: &&str| match *name {
        "id" => Field::new("id", DataType::Int64, false),
        "at" => Field::new("at", at.clone(), true),
        other => Field::new(other, DataType::Utf8, true),
    };
    Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}

fn spec(partition_by_day: bool) -> TableSpec {
    TableSpec {
        name: "silver.t".parse().unwrap(),
        columns: columns(&["id", "at"]),
        time: Some("at".to_owned()),
        partition_by_day,
        timezone: Tz::UTC,
        key: vec!["id".to_owned()],
        doc: None,
        shape: "`kind: full`".to_owned(),
    }
}

fn root() -> Url {
    // Sessions find a table's store by its place, so every test has an engine of its own.
    Url::parse("memory:///lake/").unwrap()
}

fn open(store: &Arc<dyn ObjectStore>) -> Lake {
    Lake::with_store(&root(), Arc::clone(store))
}

fn store() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// A row per id, at the given days since 1970, or without a time.
async fn stage(lake: &Lake, spec: &TableSpec, rows: &[(i64, Option<f64>)]) -> Staged {
    let ids: ArrayRef = Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>());
    let micros = rows.iter().map(|(_, day)| day.map(|day| (day * DAY_MICROS as f64) as i64));
    let times: ArrayRef =
        Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"));
    let mut arrays = vec![ids, times];
    for _ in 2..spec.columns.fields().len() {
        arrays.push(Arc::new(StringArray::from(vec!["new"; rows.len()])));
    }
    let mut stager = Stager::new(lake, spec).unwrap();
    stager.write(&RecordBatch::try_new(spec.columns.clone(), arrays).unwrap()).await.unwrap();
    stager.finish().await.unwrap()
}

fn ledger() -> Ledger {
    Ledger::new("silver.t", Uuid::nil())
}

async fn append(
    lake: &Lake,
    spec: &TableSpec,
    rows: &[(i64, Option<f64>)],
    advance: Option<(Option<i64>, i64)>,
) -> Result<Outcome> {
    let staged = stage(lake, spec, rows).await;
    let advances = advance.into_iter().map(|(expected, next)| Advance {
        app_id: "flowguard/test".to_owned(),
        expected,
        next,
    });
    let advances = advances.collect();
    commit(lake, &Commit { spec, staged, removal: None, advances, ledger: ledger() }).await
}

/// All rows as text, sorted.
async fn rows(lake: &Lake, columns: &[&str]) -> Vec<String> {
    let table = lake.snapshot(&spec(false).name).await.unwrap().unwrap();
    rows_of(table.provider().await.unwrap(), columns).await
}

async fn rows_of(
    table: Arc<dyn datafusion::catalog::TableProvider>,
    columns: &[&str],
) -> Vec<String> {
    let frame = engine().session().read_table(table).unwrap();
    let batches = frame.select_columns(columns).unwrap().collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|c| array_value_to_string(c, row).unwrap());
            rows.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    rows.sort();
    rows
}

async fn objects(store: &Arc<dyn ObjectStore>, ending: &str) -> usize {
    use futures::TryStreamExt;
    let all: Vec<_> = store.list(Some(&Path::from("lake/silver/t"))).try_collect().await.unwrap();
    all.iter().filter(|object| object.location.as_ref().ends_with(ending)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_with_the_same_expectation_one_commits_and_one_is_superseded() {
    let (store, spec) = (store(), spec(false));
    for round in 0..10 {
        let expected = (round > 0).then_some(round);
        let write = |id: i64| {
            let (lake, spec) = (open(&store), &spec);
            async move { append(&lake, spec, &[(id, None)], Some((expected, round + 1))).await }
        };
        let (a, b) = tokio::join!(write(round * 2), write(round * 2 + 1));
        let mut outcomes = [a.unwrap(), b.unwrap()];
        outcomes.sort_by_key(|outcome| matches!(outcome, Outcome::Superseded { .. }));
        let found = vec![("flowguard/test".to_owned(), Some(round + 1))];
        let version = round.unsigned_abs();
        assert_eq!(outcomes, [Outcome::Committed { version }, Outcome::Superseded { found }]);
    }
    assert_eq!(rows(&open(&store), &["id"]).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_landed_without_a_reply_is_committed_once() {
    for reply in [Reply::ConnectionReset, Reply::AlreadyExists] {
        let (store, spec) = (store(), spec(false));
        let lose = move |operation: &Operation<'_>| match operation.is_log_entry() {
            true => Fault::After(reply),
            false => Fault::None,
        };
        let lake = Lake::with_store(&root(), Arc::new(FaultyStore::new(Arc::clone(&store), lose)));
        for id in 0..3 {
            let advance = Some(((id > 0).then_some(id), id + 1));
            let outcome = append(&lake, &spec, &[(id, None)], advance).await.unwrap();
            assert_eq!(outcome, Outcome::Committed { version: id.unsigned_abs() }, "{reply:?}");
        }
        assert_eq!(rows(&open(&store), &["id"]).await, ["0", "1", "2"], "{reply:?}");
    }
}

/// The bug: the table's creation carried the commit's ledger, and the retry of a commit that never
/// landed found that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_commit_is_not_taken_for_the_creation_that_shares_its_ledger() {
    let (store, spec) = (store(), spec(false));
    let has_failed = AtomicBool::new(false);
    let fail_once = move |operation: &Operation<'_>| {
        let is_commit = operation.is_log_entry() && operation.path.ends_with("1.json");
        match is_commit && !has_failed.swap(true, Ordering::SeqCst) {
            true => Fault::Before(Reply::AlreadyExists),
            false => Fault::None,
        }
    };
    let faulty = FaultyStore::new(Arc::clone(&store), fail_once);
    let lake = Lake::with_store(&root(), Arc::new(faulty.clone()));
    let ledger = ledger();
    ensure_table(&lake, &spec, &ledger).await.unwrap();
    let staged = stage(&lake, &spec, &[(7, None)]).await;
    let write = Commit { spec: &spec, staged, removal: None, advances: Vec::new(), ledger };
    let outcome = commit(&lake, &write).await.unwrap();
    assert!(faulty.log().contains("AlreadyExists"), "{}", faulty.log());
    assert_eq!(outcome, Outcome::Committed { version: 1 });
    assert_eq!(rows(&open(&store), &["id"]).await, ["7"]);
}

/// Three days of one row each, and one row without a time.
async fn three_days(lake: &Lake, spec: &TableSpec) {
    let written = [(1, Some(1.5)), (2, Some(2.0)), (3, Some(3.9)), (4, None)];
    append(lake, spec, &written, None).await.unwrap();
}

fn days(start: i64, end: i64) -> Range {
    Range { start: Instant(start * DAY_MICROS), end: Instant(end * DAY_MICROS) }
}

async fn replace(
    lake: &Lake,
    spec: &TableSpec,
    removal: Removal,
    rows: &[(i64, Option<f64>)],
) -> Result<Outcome> {
    let staged = stage(lake, spec, rows).await;
    let removal = Some(removal);
    commit(lake, &Commit { spec, staged, removal, advances: Vec::new(), ledger: ledger() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_whole_partitions_touches_no_other_file() {
    let (store, spec) = (store(), spec(true));
    let lake = open(&store);
    three_days(&lake, &spec).await;
    let before = lake.snapshot(&spec.name).await.unwrap().unwrap();
    let plan = replace_range(&before, "at", days(2, 3), Tz::UTC).await.unwrap();
    // The file without a day is read too: nothing says where its row belongs.
    let straddling = rows_of(plan.straddling.unwrap(), &["id"]).await;
    assert_eq!(straddling, ["4"]);
    replace(&lake, &spec, plan.removal, &[(20, Some(2.5)), (4, None)]).await.unwrap();
    assert_eq!(
        rows(&lake, &["id", "_day"]).await,
        ["1 1970-01-02", "20 1970-01-03", "3 1970-01-04", "4 "]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_straddles_the_range_gives_back_all_of_its_rows() {
    let (store, spec) = (store(), spec(false));
    let lake = open(&store);
    three_days(&lake, &spec).await;
    append(&lake, &spec, &[(5, Some(5.1)), (6, Some(5.2))], None).await.unwrap();
    let before = lake.snapshot(&spec.name).await.unwrap().unwrap();
    let plan = replace_range(&before, "at", days(5, 6), Tz::UTC).await.unwrap();
    // The second file lies within the range; the first holds a null, so that its hull is open.
    assert_eq!(rows_of(plan.straddling.unwrap(), &["id"]).await, ["1", "2", "3", "4"]);
    let plan = replace_range(&before, "at", days(7, 8), Tz::UTC).await.unwrap();
    assert_eq!(rows_of(plan.straddling.unwrap(), &["id"]).await, ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_of_a_table_that_has_moved_is_a_conflict() {
    let (store, spec) = (store(), spec(true));
    let lake = open(&store);
    three_days(&lake, &spec).await;
    let before = lake.snapshot(&spec.name).await.unwrap().unwrap();
    let plan = replace_range(&before, "at", days(1, 4), Tz::UTC).await.unwrap();
    append(&open(&store), &spec, &[(9, Some(2.1))], None).await.unwrap();
    let error = replace(&lake, &spec, plan.removal, &[(20, Some(2.5))]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(error.message, "`silver.t` was changed by another writer during the run");
    assert_eq!(rows(&lake, &["id"]).await, ["1", "2", "3", "4", "9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_tasks_create_a_table_once() {
    let (store, spec) = (store(), spec(true));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (lake, spec) = (open(&store), spec.clone());
            tokio::spawn(async move { ensure_table(&lake, &spec, &ledger()).await.unwrap() })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        let table = task.await.unwrap();
        assert_eq!(table.version(), 0);
        ids.insert(table.id().to_owned());
    }
    assert_eq!((ids.len(), objects(&store, ".json").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_nullable_column_is_a_commit_of_its_own_and_old_rows_read_null() {
    let (store, old) = (store(), spec(true));
    let lake = open(&store);
    append(&lake, &old, &[(1, Some(1.0))], None).await.unwrap();
    let new = TableSpec { columns: columns(&["id", "at", "note"]), ..old };
    assert_eq!(ensure_table(&lake, &new, &ledger()).await.unwrap().version(), 1);
    assert_eq!(ensure_table(&lake, &new, &ledger()).await.unwrap().version(), 1);
    append(&lake, &new, &[(2, Some(1.0))], None).await.unwrap();
    assert_eq!(rows(&lake, &["id", "note"]).await, ["1 ", "2 new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_reads_the_same_across_its_checkpoint() {
    let (store, spec) = (store(), spec(false));
    let lake = open(&store);
    for next in 1..=25 {
        let expected = (next > 1).then_some(next - 1);
        append(&lake, &spec, &[(next, None)], Some((expected, next))).await.unwrap();
        let count = rows(&open(&store), &["id"]).await.len();
        assert_eq!(count as i64, next);
    }
    let checkpoint = Path::from("lake/silver/t/_delta_log/00000000000000000020.checkpoint.parquet");
    store.head(&checkpoint).await.unwrap();
    let table = open(&store).snapshot(&spec.name).await.unwrap().unwrap();
    assert_eq!(table.version(), 24);
    assert_eq!(table.transaction("flowguard/test").await.unwrap(), Some(25));
    assert_eq!(table.transaction("flowguard/other").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_carries_its_ledger() {
    let (store, spec) = (store(), spec(false));
    let lake = open(&store);
    let mut written = BTreeMap::new();
    let created = ledger();
    ensure_table(&lake, &spec, &created).await.unwrap();
    written.insert(0, created);
    let full = Ledger {
        fingerprint: Some("f".to_owned()),
        intervals: vec![[0, DAY_MICROS]],
        touched: vec![[0, 3_600_000_000]],
        inputs: vec![InputVersion { table: "bronze.a".into(), id: "i".into(), version: 4 }],
        output_hash: Some("h".to_owned()),
        offsets: vec![OffsetRange {
            table: Some("bronze.t".into()),
            topic: "t".into(),
            partition: 1,
            log: 1,
            start: 2,
            end: 9,
            rows: 5,
            rejects: 1,
            holes: vec![[7, 8]],
            leader_epoch: Some(3),
            messages: Some(Sum(u64::MAX)),
            values: Some(Sum(1)),
        }],
        rows: 1,
        write_ms: Some(3),
        ..ledger()
    };
    let staged = stage(&lake, &spec, &[(1, None)]).await;
    let advances = Vec::new();
    let write = Commit { spec: &spec, staged, removal: None, advances, ledger: full.clone() };
    commit(&lake, &write).await.unwrap();
    written.insert(1, full);
    let table = open(&store).snapshot(&spec.name).await.unwrap().unwrap();
    assert_eq!(table.ledgers(0).await.unwrap(), written);
    let ids: std::collections::BTreeSet<_> = written.values().map(|ledger| ledger.commit).collect();
    assert_eq!(ids.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_table_is_gone_and_its_name_is_free() {
    let (store, spec) = (store(), spec(true));
    let lake = open(&store);
    three_days(&lake, &spec).await;
    let id = lake.snapshot(&spec.name).await.unwrap().unwrap().id().to_owned();
    lake.remove_table(&spec.name).await.unwrap();
    assert!(lake.snapshot(&spec.name).await.unwrap().is_none());
    assert_eq!((lake.tables().await.unwrap(), objects(&store, "").await), (Vec::new(), 0));
    append(&lake, &spec, &[(1, None)], None).await.unwrap();
    let table = lake.snapshot(&spec.name).await.unwrap().unwrap();
    assert_ne!(table.id(), id);
    assert_eq!(rows(&lake, &["id"]).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staged_rows_are_read_before_anybody_else_sees_them() {
    let lake = open(&store());
    for partition_by_day in [true, false] {
        let mut spec = spec(partition_by_day);
        spec.name = format!("silver.by_day_{partition_by_day}").parse().unwrap();
        // Several days, one of them none, in files of two writers.
        let mut staged = stage(&lake, &spec, &[(1, Some(0.5)), (2, Some(1.5)), (3, None)]).await;
        staged.join(stage(&lake, &spec, &[(4, Some(1.6))]).await);
        assert_eq!(staged.rows, 4);
        let session = engine().session();
        let rows = async |table| {
            let rows = session.read_table(table).unwrap().select_columns(&["id", "at"]).unwrap();
            let sorted = rows.sort_by(vec![datafusion::prelude::col("id")]).unwrap();
            let batches = sorted.collect().await.unwrap();
            arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string()
        };
        let before = rows(staged.table(&lake, &session, &spec).unwrap()).await;
        assert_eq!(lake.snapshot(&spec.name).await.unwrap().map(|table| table.version()), None);
        let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
        let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
        commit(&lake, &write).await.unwrap();
        let published = lake.snapshot(&spec.name).await.unwrap().unwrap();
        assert_eq!(before, rows(published.provider().await.unwrap()).await);
        assert_eq!(before.lines().count(), 8, "{before}");
        let none = Staged::default().table(&lake, &session, &spec).unwrap();
        assert!(!rows(none).await.contains('1'));
    }
}
