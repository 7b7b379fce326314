//! Bronze tables whose header changed in a way that cannot be carried out in place: refused before
//! anything moves, and then written anew, every row as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowguard::app::App;
use flowguard::config::Config;
use flowguard::error::ErrorKind;
use flowguard::ingest::Pipeline;
use flowguard::ingest::batch::{take_over, write};
use flowguard::ingest::decode::Message;
use flowguard::ingest::open::OpenBatch;
use flowguard::ingest::rewrite::rewrite;
use flowguard::kafka::KafkaAccess;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::program::{Project, model};

const PAYLOADS: [&str; 3] = [
    r#"{"id":1,"at":"2026-03-01T23:30:00Z","day":"2026-03-01","price":12345.125,"text":"7"}"#,
    r#"{"id":-2,"at":"2026-03-02T00:30:00Z","day":"1969-12-31","price":0.5,"text":"x"}"#,
    r#"{"id":null,"at":"2026-03-02T10:00:00Z"}"#,
];
const OLD: &str =
    "id int; at timestamp not_null; day date; price decimal(8,3); text string; gone string";

/// `"a int; b string not_null was c"`, and what lays out the rows.
fn header(columns: &str, layout: &str) -> String {
    let mut header = format!(
        "kind: append\nsource: {{topic: raw.t.v1, format: json, unknown_fields: ignore}}\n{layout}\ncolumns:"
    );
    for column in columns.split("; ") {
        let words: Vec<&str> = column.split(' ').collect();
        let mut keys = format!("type: \"{}\"", words[1]);
        if words.contains(&"not_null") {
            keys.push_str(", not_null: true");
        }
        if let Some(was) = words.iter().position(|word| *word == "was") {
            keys.push_str(&format!(", was: {}", words[was + 1]));
        }
        header.push_str(&format!("\n  {}: {{{keys}}}", words[0]));
    }
    model(&header, "SELECT * FROM kafka.t")
}

fn app(project: &Project) -> App {
    let config = Config::load(project.folder(), &BTreeMap::new(), &[]).unwrap();
    App::open(config).unwrap()
}

async fn pipeline(project: &Project) -> Pipeline {
    let app = app(project);
    let typed = app.typed().await.unwrap_or_else(|error| panic!("{}", error.report()));
    let nowhere = KafkaAccess::default();
    app.untouched_pipeline(&"bronze.t".parse().unwrap(), &typed, &nowhere, Uuid::now_v7()).unwrap()
}

/// Adds the messages as ingestion does, behind what is there.
async fn ingest(project: &Project) {
    let app = app(project);
    let typed = app.typed().await.unwrap();
    let name = "bronze.t".parse().unwrap();
    let nowhere = KafkaAccess::default();
    let pipeline = app.pipeline(&name, &typed, &nowhere, Uuid::now_v7()).await.unwrap();
    let mut open = OpenBatch::new(&pipeline).unwrap();
    open.restart(take_over(&pipeline, &[0], |_| 0).await.unwrap()).unwrap();
    let next = open.partitions()[&0].next();
    for (offset, payload) in (next..).zip(PAYLOADS) {
        let message = Message {
            partition: 0,
            offset,
            leader_epoch: None,
            timestamp_ms: Some(0),
            key: None,
            headers: &[],
            payload: Some(payload.as_bytes()),
        };
        open.take(&message, 1).unwrap();
    }
    write(&pipeline, open.close().unwrap().unwrap()).await.unwrap();
}

async fn version(project: &Project) -> u64 {
    app(project).lake.snapshot(&"bronze.t".parse().unwrap()).await.unwrap().unwrap().version()
}

/// A change, and then the rows as text, in the order of their offsets; or the words of the refusal.
struct Case {
    layout: &'static str,
    columns: &'static str,
    new_layout: &'static str,
    select: &'static str,
    found: Result<[&'static str; 3], &'static str>,
}

const BY_DAY: &str = "time: at\npartition_by: day\ntimezone: UTC";

fn case(
    columns: &'static str,
    select: &'static str,
    found: Result<[&'static str; 3], &'static str>,
) -> Case {
    Case { layout: "time: at", columns, new_layout: "time: at", select, found }
}

fn cases() -> Vec<Case> {
    let layout = |layout, new_layout| Case {
        layout,
        columns: OLD,
        new_layout,
        select: "id",
        found: Ok(["1", "-2", ""]),
    };
    vec![
        case(
            "id bigint; at timestamp not_null; day date; price decimal(9,4); text string; gone string",
            "arrow_typeof(id), id, arrow_typeof(price), price",
            Ok([
                "Int64,1,\"Decimal128(9, 4)\",12345.1250",
                "Int64,-2,\"Decimal128(9, 4)\",0.5000",
                "Int64,,\"Decimal128(9, 4)\",",
            ]),
        ),
        case(
            "id decimal(12,2); at timestamp not_null; day timestamp; price decimal(8,3); text string; gone string",
            "id, day",
            Ok(["1.00,2026-03-01T00:00:00Z", "-2.00,1969-12-31T00:00:00Z", ","]),
        ),
        case(
            "number int was id; at timestamp not_null; day date; price decimal(8,3); text string; gone string",
            "number",
            Ok(["1", "-2", ""]),
        ),
        case(
            "number bigint was id; at timestamp not_null; more string",
            "number, more",
            Ok(["1,", "-2,", ","]),
        ),
        case(
            "id int; moment timestamp not_null was at; day date; price decimal(8,3); text string; gone string",
            "moment",
            Err("has no column `at`"),
        ),
        case(
            "id int; at timestamp not_null; day date; price decimal(8,3); text int; gone string",
            "text",
            Err("a value of `text`, which is"),
        ),
        case(
            "id int; at timestamp not_null; day date; price decimal(6,3); text string; gone string",
            "price",
            Err("a value of `price`, which is"),
        ),
        case(
            "id int; at timestamp not_null; day date; price decimal(8,3); gone string; new int not_null",
            "new",
            Err("`new` is not_null, and the rows of `bronze.t` have none"),
        ),
        case(
            "number int not_null was id; at timestamp not_null; day date; price decimal(8,3); text string",
            "number",
            Err("a row that its table cannot hold"),
        ),
        layout(BY_DAY, "time: at\ntimezone: UTC"),
        layout("time: at", BY_DAY),
        layout(BY_DAY, "time: at\npartition_by: day\ntimezone: Europe/Rome"),
        layout(BY_DAY, "time: _timestamp\npartition_by: day\ntimezone: UTC"),
        layout("time: _ingested_at\npartition_by: day", BY_DAY),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_bronze_table_is_refused_and_then_written_anew() {
    for Case { layout, columns, new_layout, select, found } in cases() {
        let told = format!("{layout:?} -> {new_layout:?} {columns:?}");
        let project = Project::of_models(&[("bronze/t", &header(OLD, layout))]);
        ingest(&project).await;
        ingest(&project).await;
        let before = version(&project).await;
        project.write("sql/bronze/t.sql", &header(columns, new_layout));
        let stop = CancellationToken::new();
        if let Err(words) = found
            && words.contains("no column")
        {
            let checked = project.run(&["check"]);
            assert_eq!(checked.code, Some(1), "{told}: {}", checked.stdout);
            continue;
        }
        let pipeline = pipeline(&project).await;
        let refused = app(&project)
            .pipeline(
                &pipeline.spec.name,
                &app(&project).typed().await.unwrap(),
                &KafkaAccess::default(),
                Uuid::now_v7(),
            )
            .await
            .err()
            .unwrap_or_else(|| panic!("{told} was carried out"));
        let hint = "`flowguard ingest bronze.t --full-refresh` writes the table anew";
        assert!(refused.report().contains(hint), "{told}: {}", refused.report());
        assert_eq!(version(&project).await, before, "{told}");
        match (rewrite(&pipeline, &stop, |_, _| {}).await, found) {
            (Ok(rows), Ok(expected)) => {
                assert_eq!(rows, Some(6), "{told}");
                assert_eq!(version(&project).await, before + 1, "{told}");
                let sql = format!("SELECT {select} FROM bronze.t ORDER BY _offset");
                let answer = project.run(&["query", "--output", "csv", &sql]).succeeded().stdout;
                // A null alone on its line is written so that the line is not empty.
                let lines = answer.split_terminator('\n').skip(1);
                let lines: Vec<&str> = lines.map(|line| line.trim_matches('"')).collect();
                assert_eq!(lines, [expected, expected].concat(), "{told}");
            }
            (Err(error), Err(words)) => {
                assert!(error.report().contains(words), "{told}: {}", error.report());
                assert_eq!(version(&project).await, before, "{told}");
                continue;
            }
            (rewritten, _) => panic!("{told}: {rewritten:?}"),
        }
        assert_eq!(rewrite(&pipeline, &stop, |_, _| {}).await.unwrap(), None, "{told}");
        ingest(&project).await;
        // A date is no timestamp in a message, and becomes a dead letter.
        let count = project.query(
            "SELECT count(*) AS n FROM (SELECT _offset FROM bronze.t
             UNION ALL SELECT _offset FROM bronze.dead_letters)",
        );
        assert_eq!(count, [["9"]], "{told}");
        project.run(&["audit", "--offline", "--payloads"]).succeeded();
    }
}

/// A worker that still has the old header, and whose batch was under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_worker_adds_nothing_to_a_table_that_was_written_anew() {
    let project = Project::of_models(&[("bronze/t", &header(OLD, BY_DAY))]);
    ingest(&project).await;
    let old = Arc::new(pipeline(&project).await);
    let mut open = OpenBatch::new(&old).unwrap();
    open.restart(take_over(&old, &[0], |_| 0).await.unwrap()).unwrap();
    let message = Message {
        partition: 0,
        offset: 3,
        leader_epoch: None,
        timestamp_ms: None,
        key: None,
        headers: &[],
        payload: Some(PAYLOADS[0].as_bytes()),
    };
    open.take(&message, 1).unwrap();
    project.write("sql/bronze/t.sql", &header(OLD, "time: at\ntimezone: UTC"));
    let stop = CancellationToken::new();
    assert_eq!(rewrite(&pipeline(&project).await, &stop, |_, _| {}).await.unwrap(), Some(3));
    let refused = write(&old, open.close().unwrap().unwrap()).await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Invalid, "{}", refused.report());
    assert_eq!(project.query("SELECT count(*) AS n FROM bronze.t"), [["3"]]);
}

/// Rows that come while others are written anew are written anew as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingestion_beside_a_rewrite_loses_nothing() {
    let project = Project::of_models(&[("bronze/t", &header(OLD, "time: at"))]);
    ingest(&project).await;
    let new = OLD.replace("id int", "id bigint");
    let old = project.folder().join("sql/bronze/t.sql");
    let kept = std::fs::read_to_string(&old).unwrap();
    project.write("sql/bronze/t.sql", &header(&new, "time: at"));
    let pipeline = pipeline(&project).await;
    project.write("sql/bronze/t.sql", &kept);
    let (mut added, stop) = (false, CancellationToken::new());
    let rewritten = rewrite(&pipeline, &stop, |_, _| {
        if !std::mem::replace(&mut added, true) {
            let handle = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| handle.block_on(ingest(&project)));
        }
    });
    assert_eq!(rewritten.await.unwrap(), Some(6));
    project.write("sql/bronze/t.sql", &header(&new, "time: at"));
    ingest(&project).await;
    assert_eq!(project.query("SELECT count(*) AS n, sum(id) AS s FROM bronze.t"), [["9", "-3"]]);
    project.run(&["audit", "--offline", "--payloads"]).succeeded();
}
