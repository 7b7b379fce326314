//! The checkers are checked: faults planted into a lake's own log must be found by the tests'
//! checker and by `flowguard audit`, each for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Decimal128Array, RecordBatch, StringArray};
use arrow::datatypes::{Decimal128Type, Schema};
use chrono_tz::Tz;
use flowguard::demo::events::{Event, Options, history};
use flowguard::engine::storable::conform;
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::replace::{files_holding, replace_files, rows_of_files};
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use flowguard::lake::store::S3Access;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::checker::{Verdict, check};
use crate::program::Project;
use crate::topic_in_memory::engine;
use crate::traffic::{Delivered, as_delivered};

/// The program's default.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

struct Planted {
    project: Project,
    delivered: Delivered,
}

/// A lake that the program made of a small history.
fn made() -> Planted {
    let project = Project::of_demo(&["--days", "2", "--orders", "400", "--clicks", "3000"]);
    let options = Options { days: 2, orders: 400, clicks: 3_000, ..Options::default() };
    let events: Vec<Event> = history(&options).collect();
    Planted { project, delivered: as_delivered(&events) }
}

impl Planted {
    fn table(&self) -> PathBuf {
        self.project.lake().join("bronze/orders_raw")
    }

    fn verdict(&self) -> Verdict {
        check(&self.project, &self.delivered, MESSAGE_BYTES_MAX)
    }

    /// What the audit says on standard error and its exit code.
    fn audit(&self) -> (Option<i32>, String) {
        let audit = self.project.run(&["audit", "--offline"]);
        (audit.code, audit.stderr)
    }

    /// The same with a second look at every value.
    fn audit_values(&self) -> (Option<i32>, String) {
        let audit = self.project.run(&["audit", "--offline", "--payloads"]);
        (audit.code, audit.stderr)
    }

    /// Rewrites the first file of a table that holds rows of the topic, as another engine might;
    /// with `adds`, beside the file.
    async fn rewrite(&self, table: &str, adds: bool, change: impl Fn(RecordBatch) -> RecordBatch) {
        let root = Url::from_directory_path(self.project.lake()).unwrap();
        let lake = Lake::open(&root, &S3Access::default()).unwrap();
        let name = table.parse().unwrap();
        let snapshot = lake.snapshot(&name).await.unwrap().unwrap();
        let files = &files_holding(&snapshot, "_topic", "raw.orders.v1")[..1];
        let rows = engine().session().read_table(rows_of_files(&snapshot, files).await.unwrap());
        let batches = rows.unwrap().collect().await.unwrap();
        let spec = TableSpec {
            name,
            columns: Arc::new(Schema::new(snapshot.schema().fields().clone())),
            time: None,
            partition_by_day: false,
            timezone: Tz::UTC,
            key: Vec::new(),
            doc: None,
            shape: snapshot.shape().unwrap(),
        };
        let mut stager = Stager::new(&lake, &spec).unwrap();
        for (number, batch) in batches.into_iter().enumerate() {
            let batch = conform(&batch, &spec.columns).unwrap();
            let batch = if number == 0 { change(batch) } else { batch };
            stager.write(&batch).await.unwrap();
        }
        let staged = stager.finish().await.unwrap();
        let removal = (!adds).then(|| replace_files(&snapshot, files).unwrap());
        let (advances, ledger) = (Vec::new(), Ledger::new("another engine", Uuid::nil()));
        commit(&lake, &Commit { spec: &spec, staged, removal, advances, ledger }).await.unwrap();
    }
}

fn entry(table: &Path, version: u64) -> PathBuf {
    table.join(format!("_delta_log/{version:020}.json"))
}

fn last_version(table: &Path) -> u64 {
    (0..).take_while(|version| entry(table, *version).exists()).last().unwrap()
}

fn read_entry(table: &Path, version: u64) -> Vec<Value> {
    let text = std::fs::read_to_string(entry(table, version)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write_entry(table: &Path, version: u64, actions: &[Value]) {
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    std::fs::write(entry(table, version), lines.join("\n")).unwrap();
}

/// The newest version that added files.
fn last_data_version(table: &Path) -> u64 {
    let adds = |version: &u64| read_entry(table, *version).iter().any(|a| a.get("add").is_some());
    (0..=last_version(table)).rev().find(adds).unwrap()
}

#[test]
fn a_sound_lake_passes() {
    let planted = made();
    let verdict = planted.verdict();
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.rows + verdict.dead_letters, planted.delivered.len());
    assert!(verdict.dead_letters > 0, "the history has malformed messages");
    let audited = "every offset of 9 partitions is accounted for\n".to_owned();
    assert_eq!(planted.audit(), (Some(0), audited));
}

/// The same rows committed again, as an append that does not compare transactions would.
#[test]
fn a_double_commit_is_found() {
    let planted = made();
    let table = planted.table();
    let version = last_data_version(&table);
    let mut rows = 0;
    let mut again = read_entry(&table, version);
    for action in &mut again {
        let Some(add) = action.get_mut("add") else { continue };
        let path = add["path"].as_str().unwrap().to_owned();
        let copied = path.replace("/part-", "/part-again-");
        std::fs::copy(table.join(&path), table.join(&copied)).unwrap();
        let statistics: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        rows += statistics["numRecords"].as_u64().unwrap() as usize;
        add["path"] = json!(copied);
    }
    write_entry(&table, last_version(&table) + 1, &again);

    let verdict = planted.verdict();
    let counts = (verdict.doubled, verdict.missing, verdict.strange, verdict.changed);
    assert_eq!(counts, (rows, 0, 0, 0), "{verdict:#?}");
    let (code, said) = planted.audit();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("error: not every offset is accounted for: raw.orders.v1[0]: "));
    let doubled: usize = said
        .split(" doubled")
        .filter_map(|before| before.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert_eq!(doubled, rows, "{said}");
}

/// A commit that moves the transaction and carries no rows, as one that lost its files would.
#[test]
fn a_skipped_transaction_is_found() {
    let planted = made();
    let table = planted.table();
    let version = last_data_version(&table);
    let mut actions = read_entry(&table, version);
    let mut rows = 0;
    actions.retain(|action| {
        let Some(add) = action.get("add") else { return true };
        let statistics: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        rows += statistics["numRecords"].as_u64().unwrap() as usize;
        false
    });
    assert!(actions.iter().any(|action| action.get("txn").is_some()), "{actions:?}");
    // Cut between two lines, it would pass for a whole one.
    write_entry(&table, version, &actions);
    let cut = planted.project.run(&["audit", "--offline"]);
    assert_eq!(cut.code, Some(4), "{}", cut.stderr);
    assert!(cut.stderr.contains(".json` was cut: "), "{}", cut.stderr);
    let others = actions.len() - 1;
    *actions[0].pointer_mut("/commitInfo/flowguard/actions").unwrap() = json!(others);
    write_entry(&table, version, &actions);

    let verdict = planted.verdict();
    let counts = (verdict.doubled, verdict.missing, verdict.strange, verdict.changed);
    assert_eq!(counts, (0, rows, 0, 0), "{verdict:#?}");
    let (code, said) = planted.audit();
    assert_eq!(code, Some(1), "{said}");
    let unaccounted: usize = said
        .split(" unaccounted")
        .filter_map(|before| before.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert_eq!(unaccounted, rows, "{said}");
}

/// A transaction beyond the last row: what comes next on the topic would be passed over.
#[test]
fn a_transaction_ahead_of_its_rows_is_found() {
    let planted = made();
    let table = planted.table();
    let next =
        planted.delivered.keys().filter(|(topic, id, _)| topic == "raw.orders.v1" && *id == 0);
    let next = next.count() as i64;
    let ahead = json!({"txn": {"appId": "flowguard/default/raw.orders.v1/0", "version": next + 3}});
    write_entry(&table, last_version(&table) + 1, &[json!({"commitInfo": {}}), ahead]);
    let (code, said) = planted.audit();
    let expected = format!(
        "error: not every offset is accounted for: raw.orders.v1[0]: 0 doubled, 3 unaccounted {next}..{}\n\
         hint: offsets unaccounted for: with the broker reachable, gaps of transactions are told from losses\n",
        next + 3
    );
    assert_eq!((code, said), (Some(1), expected));
}

/// The audit sees it only where a row was replaced: it has no payloads to read again.
#[test]
fn another_value_than_was_delivered_is_found() {
    let mut planted = made();
    let price = |payload: &Vec<u8>| {
        let text = String::from_utf8(payload.clone()).ok()?;
        text.contains("\"price\":").then(|| text.replace("\"price\":", "\"price\":1"))
    };
    let payloads = planted.delivered.values_mut().flatten();
    let (payload, other) = payloads
        .filter_map(|payload| Some((price(payload)?, payload)))
        .map(|(o, p)| (p, o))
        .next()
        .unwrap();
    *payload = other.into_bytes();
    let verdict = planted.verdict();
    let counts = (verdict.doubled, verdict.missing, verdict.strange, verdict.changed);
    assert_eq!(counts, (0, 0, 0, 1), "{verdict:#?}");
}

/// `batch` with one column made anew.
fn with_column(
    batch: &RecordBatch,
    name: &str,
    change: impl Fn(&ArrayRef) -> ArrayRef,
) -> RecordBatch {
    let (at, _) = batch.schema_ref().column_with_name(name).unwrap();
    let mut columns = batch.columns().to_vec();
    columns[at] = change(&columns[at]);
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// Another engine may compact a table; that alters nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewritten_files_are_not_altered_ones() {
    let planted = made();
    planted.rewrite("bronze.orders_raw", false, |batch| batch).await;
    planted.rewrite("bronze.dead_letters", false, |batch| batch).await;
    let audited = "every offset of 9 partitions is accounted for\n".to_owned();
    assert_eq!(planted.audit_values(), (Some(0), audited));
}

/// The audit saw offsets alone, and was clean.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_value_is_found() {
    let planted = made();
    planted
        .rewrite("bronze.orders_raw", false, |batch| {
            with_column(&batch, "price", |prices| {
                let prices = prices.as_primitive::<Decimal128Type>();
                let (precision, scale) = (prices.precision(), prices.scale());
                let others = prices.iter().enumerate();
                let others = others.map(|(row, price)| Some(price? + i128::from(row == 0)));
                let others: Decimal128Array = others.collect();
                Arc::new(others.with_precision_and_scale(precision, scale).unwrap())
            })
        })
        .await;
    assert_eq!(planted.audit().0, Some(0));
    let (code, said) = planted.audit_values();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(": 0 doubled, 0 unaccounted, altered "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_dead_letter_is_found() {
    let planted = made();
    planted
        .rewrite("bronze.dead_letters", false, |batch| {
            with_column(&batch, "payload", |payloads| {
                let payloads = payloads.as_binary::<i32>().iter().enumerate();
                let other =
                    payloads.map(|(row, bytes)| if row == 0 { Some(&b"{}"[..]) } else { bytes });
                Arc::new(other.collect::<BinaryArray>())
            })
        })
        .await;
    assert_eq!(planted.audit().0, Some(0));
    let (code, said) = planted.audit_values();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("altered"), "{said}");
}

/// Rows of a topic that was never ingested were not looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_another_topic_is_found() {
    let planted = made();
    planted
        .rewrite("bronze.orders_raw", true, |batch| {
            let batch = batch.slice(0, 1);
            with_column(&batch, "_topic", |_| Arc::new(StringArray::from(vec!["raw.other.v1"])))
        })
        .await;
    let (code, said) = planted.audit();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("raw.other.v1[") && said.contains(" rows of no message"), "{said}");
}

/// A row at an offset at which ingestion saw no message, as that of an aborted transaction.
#[test]
fn a_row_where_no_message_was_is_found() {
    let planted = made();
    let table = planted.table();
    let version = last_data_version(&table);
    let mut actions = read_entry(&table, version);
    let range = actions
        .iter_mut()
        .find_map(|action| action.pointer_mut("/commitInfo/flowguard/offsets/0"))
        .unwrap();
    let start = range["start"].as_i64().unwrap();
    range["holes"] = json!([[start, start + 1]]);
    write_entry(&table, version, &actions);
    let (code, said) = planted.audit();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 rows of no message"), "{said}");
}

/// After a power cut the newest entry had lost its last lines, and the table its newest rows: queries
/// answered, and ingestion went on, as if nothing had been there.
#[test]
fn a_log_entry_that_was_cut_at_a_line_end_is_found_by_everybody() {
    let planted = made();
    let table = planted.table();
    let version = last_data_version(&table);
    for later in version + 1..=last_version(&table) {
        std::fs::remove_file(entry(&table, later)).unwrap();
    }
    let text = std::fs::read_to_string(entry(&table, version)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(entry(&table, version), lines[..lines.len() - 1].join("\n")).unwrap();
    let count = "SELECT count(*) FROM bronze.orders_raw";
    for arguments in [&["query", count][..], &["run"], &["audit", "--offline"]] {
        let told = planted.project.run(arguments);
        let words = format!("{}{}", told.stdout, told.stderr);
        assert_ne!(told.code, Some(0), "{arguments:?}: {words}");
        assert!(words.contains(&format!("entry `{version:020}.json` was cut: ")), "{words}");
    }
}
