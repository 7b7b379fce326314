//! `flowguard dlq` on a lake of its own, filled from a mock broker. Real Kafka adds nothing here:
//! a replay asks no broker.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use std::sync::Arc;

use flowguard::app::App;
use flowguard::app::ingest::work;
use flowguard::audit::{Auditor, PartitionAudit, audit};
use flowguard::config::Config;
use flowguard::dlq::letters::{Filter, Letter, show};
use flowguard::dlq::replay::{Mode, Moving, Prepared, Report, replay};
use flowguard::ingest::Pipeline;
use flowguard::ingest::batch::{dead_letters_spec, take_over};
use flowguard::ingest::decode::{DeadLetters, Message, Reject, RejectReason};
use flowguard::ingest::status::status;
use flowguard::ingest::worker::Until;
use flowguard::kafka::{KafkaAccess, MockBroker, Producer, Record};
use flowguard::lake::commit::{Advance, Commit, Outcome, commit, ensure_table, offsets_id};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::replace::files_holding;
use flowguard::lake::stage::{Staged, Stager};
use flowguard::table::TableName;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TOPIC: &str = "raw.orders";
/// 2026-01-05T10:00:00Z
const TEN_O_CLOCK_MS: i64 = 1_767_607_200_000;

/// The header of yesterday demands a price; that of today does not, and knows a note.
const YESTERDAY: &str = r#"  price: {type: "decimal(10,2)", not_null: true}"#;
const TODAY: &str = "  price: {type: \"decimal(10,2)\"}\n--   note: {type: string}";

struct Project {
    folder: TempDir,
    broker: MockBroker,
}

impl Project {
    fn new(header: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("sql/bronze")).unwrap();
        std::fs::write(folder.path().join("dags.yaml"), "version: 1\ndags: {}\n").unwrap();
        let dlq = format!("{TOPIC}.dlq");
        let broker = MockBroker::start(&[(TOPIC, 2), (&dlq, 1)]).unwrap();
        let project = Self { folder, broker };
        project.write_header(header);
        project
    }

    fn write_header(&self, header: &str) {
        let sql = format!(
            "-- /// flowguard\n-- kind: append\n-- source: {{topic: {TOPIC}, format: json}}\n\
             -- time: ordered_at\n-- columns:\n--   order_id: {{type: string, not_null: true}}\n\
             -- {header}\n--   ordered_at: {{type: timestamp, not_null: true}}\n-- ///\n\
             SELECT * FROM kafka.orders\n"
        );
        std::fs::write(self.folder.path().join("sql/bronze/orders.sql"), sql).unwrap();
    }

    fn app(&self, settings: &[(&str, &str)]) -> App {
        let flags: Vec<(String, String)> =
            settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let environment = BTreeMap::new();
        App::open(Config::load(self.folder.path(), &environment, &flags).unwrap()).unwrap()
    }

    fn send(&self, partition: i32, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let headers = [("source".to_owned(), Some(b"mobile".to_vec())), ("x".to_owned(), None)];
        let producer = Producer::new(&self.broker.access()).unwrap();
        producer
            .send(&Record {
                topic: TOPIC,
                partition: Some(partition),
                key,
                payload,
                headers: if key.is_some() { &headers } else { &[] },
                timestamp_ms: Some(TEN_O_CLOCK_MS),
            })
            .unwrap();
        producer.flush().unwrap();
    }

    /// Three messages without a price, of which the header of today takes two; one that is no
    /// JSON, one that is no text, and two rows.
    fn send_all(&self) {
        self.send(0, None, Some(&order("o-0", r#""price": 1.50"#)));
        self.send(0, Some(b"o-1"), Some(&order("o-1", r#""note": "gift""#)));
        self.send(0, None, Some(b"{\x1b[2J"));
        self.send(0, None, Some(&order("o-3", r#""price": "2.25""#)));
        self.send(1, None, Some(&order("o-4", r#""price": null"#)));
        self.send(1, Some(b"\xFF"), Some(b"\xFF\xFE"));
        self.send(1, None, Some(br#"{"order_id": "o-6"}"#));
    }

    async fn ingest(&self, settings: &[(&str, &str)]) {
        // A group of its own: the mock broker is slow to let a former member go.
        let group = Uuid::now_v7().to_string();
        let app = self.app(&[settings, &[("kafka.group_prefix", &group)]].concat());
        let pipeline = self.pipeline_of(&app).await;
        let stop = CancellationToken::new();
        work(pipeline, Until::Drained, &stop, Arc::new(|_| {})).await.unwrap();
    }

    async fn pipeline_of(&self, app: &App) -> Arc<Pipeline> {
        let typed = app.typed().await.unwrap();
        app.pipeline(&orders(), &typed, &self.broker.access(), Uuid::now_v7()).await.unwrap()
    }

    async fn pipeline(&self) -> Arc<Pipeline> {
        self.pipeline_of(&self.app(&[])).await
    }

    async fn audit(&self) -> Vec<PartitionAudit> {
        let (app, access) = (self.app(&[]), self.broker.access());
        let kafka: Option<&KafkaAccess> = Some(&access);
        let (lake, engine) = (&app.lake, &app.engine);
        let auditor = Auditor { lake, engine, pipeline: "default", kafka, payloads: true };
        audit(&auditor, app.models.find(&orders()).unwrap()).await.unwrap()
    }

    /// Letters between the two commits of a replay.
    async fn moving(&self) -> u64 {
        self.audit().await.iter().map(|audit| audit.moving).sum()
    }

    /// Rows, rejects, duplicates and unaccounted offsets of all partitions.
    async fn counts(&self) -> [u64; 4] {
        self.audit().await.iter().fold([0; 4], |[rows, rejects, doubled, open], audit| {
            [
                rows + audit.rows,
                rejects + audit.rejects,
                doubled + audit.duplicates,
                open + audit.unaccounted,
            ]
        })
    }

    /// Rows and rejects as `flowguard ingest status` sums them up.
    async fn status(&self) -> (u64, u64) {
        let app = self.app(&[]);
        let model = app.models.find(&orders()).unwrap();
        let found = status(&app.lake, model, "default", &self.broker.access()).await.unwrap();
        found.iter().fold((0, 0), |(rows, rejects), s| (rows + s.rows, rejects + s.rejects))
    }

    async fn versions(&self) -> [Option<u64>; 2] {
        let lake = self.app(&[]).lake;
        let mut versions = [None; 2];
        for (version, name) in versions.iter_mut().zip([orders(), dead_letters_spec().name]) {
            *version = lake.snapshot(&name).await.unwrap().map(|table| table.version());
        }
        versions
    }

    async fn letters(&self) -> Vec<Letter> {
        let app = self.app(&[]);
        show(&app.lake, &app.engine, &Filter::default(), 100).await.unwrap()
    }

    /// The program's output; the time of ingestion is replaced.
    fn flowguard(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_flowguard"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let lines = text.lines().map(|line| match line.find("ingested") {
                Some(at) if line.contains("ingested_at") => {
                    format!("{}ingested_at\": …", &line[..at])
                }
                Some(at) => format!("{}ingested   …", &line[..at]),
                None => line.to_owned(),
            });
            lines.map(|line| line + "\n").collect::<String>()
        };
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

fn order(id: &str, field: &str) -> Vec<u8> {
    format!(r#"{{"order_id": "{id}", {field}, "ordered_at": "2026-01-05T09:59:59Z"}}"#).into()
}

fn orders() -> TableName {
    "bronze.orders".parse().unwrap()
}

async fn replay_all(pipeline: &Pipeline, mode: Mode) -> Report {
    replay(pipeline, mode, &CancellationToken::new(), |_| {}).await.unwrap()
}

async fn prepare(pipeline: &Pipeline) -> Box<Moving<'_>> {
    let dead = pipeline.lake.snapshot(&dead_letters_spec().name).await.unwrap().unwrap();
    let files = files_holding(&dead, "_topic", TOPIC);
    let stop = CancellationToken::new();
    match Moving::prepare(pipeline, files, Mode::Move, &stop).await.unwrap() {
        Prepared::Ready(moving) => moving,
        Prepared::Lost | Prepared::Stopped => panic!("nobody else is there"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_shown() {
    let project = Project::new(YESTERDAY);
    let nothing = (0, String::new(), "no dead letters\n".to_owned());
    assert_eq!(project.flowguard(&["dlq", "list"]), nothing);
    project.send_all();
    project.ingest(&[]).await;

    let (code, stdout, stderr) = project.flowguard(&["dlq", "list"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    insta::assert_snapshot!(stdout, @r#"
    table          topic       reason            letters  first  at                    last  at                    last error
    bronze.orders  raw.orders  malformed               2  0:2    2026-01-05T10:00:00Z  1:1   2026-01-05T10:00:00Z  expected value at byte 0
    bronze.orders  raw.orders  missing_required        3  0:1    2026-01-05T10:00:00Z  1:2   2026-01-05T10:00:00Z  `price`: a value is required, but the field is absent
    "#);
    let (_, stdout, _) =
        project.flowguard(&["dlq", "list", "--reason", "malformed", "--output", "json"]);
    insta::assert_snapshot!(stdout, @r#"
    [
      {
        "count": 2,
        "error": "expected value at byte 0",
        "first": {
          "offset": 2,
          "partition": 0,
          "timestamp": "2026-01-05T10:00:00Z"
        },
        "last": {
          "offset": 1,
          "partition": 1,
          "timestamp": "2026-01-05T10:00:00Z"
        },
        "reason": "malformed",
        "table": "bronze.orders",
        "topic": "raw.orders"
      }
    ]
    "#);
    let (_, stdout, _) = project.flowguard(&["dlq", "show", "bronze.orders", "--limit", "2"]);
    insta::assert_snapshot!(stdout, @r#"
    raw.orders partition 0 offset 1
      table      bronze.orders
      timestamp  2026-01-05T10:00:00Z
      ingested   …
      reason     missing_required
      error      `price`: a value is required, but the field is absent
      key        o-1
      headers    source=mobile  x=(null)
      payload    {"order_id": "o-1", "note": "gift", "ordered_at": "2026-01-05T09:59:59Z"}

    raw.orders partition 0 offset 2
      table      bronze.orders
      timestamp  2026-01-05T10:00:00Z
      ingested   …
      reason     malformed
      error      key must be a string at byte 1
      key        (null)
      headers    (none)
      payload    {\u{1b}[2J
    "#);
    let one = ["dlq", "show", "--partition", "1", "--offset", "1", "--output", "json"];
    let (_, stdout, _) = project.flowguard(&one);
    insta::assert_snapshot!(stdout, @r#"
    [
      {
        "error": "expected value at byte 0",
        "headers": [
          {
            "key": "source",
            "value": "mobile"
          },
          {
            "key": "x",
            "value": null
          }
        ],
        "ingested_at": …
        "key_base64": "/w==",
        "offset": 1,
        "partition": 1,
        "payload_base64": "//4=",
        "reason": "malformed",
        "table": "bronze.orders",
        "timestamp": "2026-01-05T10:00:00Z",
        "topic": "raw.orders"
      }
    ]
    "#);
    let (code, stdout, stderr) = project.flowguard(&["dlq", "list", "bronze.odrers"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    insta::assert_snapshot!(stderr, @r#"
    error: no model `bronze.odrers`
    hint: did you mean `bronze.orders`?
    "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_todays_header_reads_moves_into_bronze() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[]).await;
    assert_eq!(project.counts().await, [2, 5, 0, 0]);
    assert_eq!(project.status().await, (2, 5));
    project.write_header(TODAY);

    let before = project.versions().await;
    let (code, stdout, stderr) = project.flowguard(&["dlq", "replay", "--dry-run"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    insta::assert_snapshot!(stdout, @r#"
    table          letters  would replay  in bronze already  still failing  held back
    bronze.orders        5             2                  0              3          0

    table          still failing for  letters  first  its error
    bronze.orders  malformed                2  0:2    key must be a string at byte 1
    bronze.orders  missing_required         1  1:2    `ordered_at`: a value is required, but the field is absent
    "#);
    assert_eq!(project.versions().await, before);

    let (code, stdout, _) = project.flowguard(&["dlq", "replay"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(stdout, @r#"
    table          letters  replayed  in bronze already  still failing  held back
    bronze.orders        5         2                  0              3          0

    table          still failing for  letters  first  its error
    bronze.orders  malformed                2  0:2    key must be a string at byte 1
    bronze.orders  missing_required         1  1:2    `ordered_at`: a value is required, but the field is absent
    "#);
    let sql = "SELECT _partition, _offset, order_id, price, note, ordered_at, _timestamp, \
               arrow_cast(_key, 'Utf8') AS key, _headers FROM bronze.orders ORDER BY 1, 2";
    let (_, stdout, _) = project.flowguard(&["query", "--output", "json", sql]);
    insta::assert_snapshot!(stdout, @r#"
    {"_partition":0,"_offset":0,"order_id":"o-0","price":1.50,"note":null,"ordered_at":"2026-01-05T09:59:59Z","_timestamp":"2026-01-05T10:00:00Z","key":null,"_headers":null}
    {"_partition":0,"_offset":1,"order_id":"o-1","price":null,"note":"gift","ordered_at":"2026-01-05T09:59:59Z","_timestamp":"2026-01-05T10:00:00Z","key":"o-1","_headers":[{"key":"source","value":"6d6f62696c65"},{"key":"x","value":null}]}
    {"_partition":0,"_offset":3,"order_id":"o-3","price":2.25,"note":null,"ordered_at":"2026-01-05T09:59:59Z","_timestamp":"2026-01-05T10:00:00Z","key":null,"_headers":null}
    {"_partition":1,"_offset":0,"order_id":"o-4","price":null,"note":null,"ordered_at":"2026-01-05T09:59:59Z","_timestamp":"2026-01-05T10:00:00Z","key":null,"_headers":null}
    "#);
    assert_eq!(project.counts().await, [4, 3, 0, 0]);
    assert_eq!(project.status().await, (4, 3));
    let (code, _, stderr) = project.flowguard(&["audit", "--offline"]);
    assert_eq!((code, stderr.as_str()), (0, "every offset of 2 partitions is accounted for\n"));

    let after = project.versions().await;
    let (code, stdout, _) = project.flowguard(&["dlq", "replay", "--output", "json"]);
    assert_eq!(code, 0);
    let output: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&output["tables"]).unwrap(), @r#"
    [
      {
        "failing": 3,
        "failing_by_reason": [
          {
            "count": 2,
            "error": "key must be a string at byte 1",
            "first": {
              "offset": 2,
              "partition": 0
            },
            "reason": "malformed"
          },
          {
            "count": 1,
            "error": "`ordered_at`: a value is required, but the field is absent",
            "first": {
              "offset": 2,
              "partition": 1
            },
            "reason": "missing_required"
          }
        ],
        "held_back": 0,
        "in_bronze_already": 0,
        "letters": 3,
        "replayed": 0,
        "stopped": false,
        "table": "bronze.orders",
        "topic": "raw.orders"
      }
    ]
    "#);
    assert_eq!(project.versions().await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_died_between_its_commits_is_finished_by_the_next() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[]).await;
    project.write_header(TODAY);
    let pipeline = project.pipeline().await;
    assert!(prepare(&pipeline).await.append().await.unwrap());
    assert_eq!((project.counts().await, project.moving().await), ([4, 5, 0, 0], 2));

    let report = replay_all(&pipeline, Mode::Move).await;
    assert_eq!((report.replayed, report.deleted, report.failing()), (0, 2, 3));
    assert_eq!(project.counts().await, [4, 3, 0, 0]);
    assert_eq!(project.status().await, (4, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replays_at_once_one_moves_each_letter() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[]).await;
    project.write_header(TODAY);
    let pipeline = project.pipeline().await;
    let (mut first, mut second) = (prepare(&pipeline).await, prepare(&pipeline).await);
    assert!(first.append().await.unwrap());
    assert!(!second.append().await.unwrap());
    assert_eq!((project.counts().await, project.moving().await), ([4, 5, 0, 0], 2));
    assert!(first.delete().await.unwrap().is_some());
    assert_eq!(project.counts().await, [4, 3, 0, 0]);

    // The loser, had it gone on to delete, finds that its files are gone.
    assert!(second.delete().await.unwrap().is_none());
    assert_eq!(project.counts().await, [4, 3, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_that_race_leave_every_offset_once() {
    let project = Project::new(YESTERDAY);
    for _ in 0..2 {
        project.send_all();
        project.ingest(&[]).await;
    }
    project.write_header(TODAY);
    let (one, other) = (project.pipeline().await, project.pipeline().await);
    let (one, other) = tokio::join!(replay_all(&one, Mode::Move), replay_all(&other, Mode::Move));
    assert_eq!(one.replayed + other.replayed, 4);
    assert_eq!(project.counts().await, [8, 6, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ingestion_goes_on_beside_a_replay() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[]).await;
    project.write_header(TODAY);
    let pipeline = project.pipeline().await;
    let mut moving = prepare(&pipeline).await;
    project.send_all();
    project.ingest(&[]).await;
    assert!(moving.append().await.unwrap());
    // Between its two commits a letter is in both tables, and the audit exited with 1.
    assert_eq!((project.counts().await, project.moving().await), ([8, 8, 0, 0], 2));
    project.send_all();
    project.ingest(&[]).await;
    assert!(moving.delete().await.unwrap().is_some());
    // Yesterday's 2 + 5, then twice today's 4 + 3, and the two that moved.
    assert_eq!(project.counts().await, [12, 9, 0, 0]);
    assert_eq!(project.status().await, (12, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_replay_has_moved_nothing_by_half() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[]).await;
    project.write_header(TODAY);
    let pipeline = project.pipeline().await;
    let before = project.versions().await;
    let stop = CancellationToken::new();
    stop.cancel();
    let report = replay(&pipeline, Mode::Move, &stop, |_| {}).await.unwrap();
    assert_eq!(report, Report { is_stopped: true, ..Report::default() });
    assert_eq!(project.versions().await, before);
}

/// Commits one letter as a worker does before its batch's rows.
async fn commit_letter(pipeline: &Pipeline, partition: i32, offset: i64) {
    let spec = dead_letters_spec();
    let mut dead = DeadLetters::new(TOPIC);
    let payload = order("late", r#""note": "fits today""#);
    let message = Message {
        partition,
        offset,
        leader_epoch: None,
        timestamp_ms: Some(TEN_O_CLOCK_MS),
        key: None,
        headers: &[],
        payload: Some(&payload),
    };
    let reject = Reject { reason: RejectReason::MissingRequired, error: "no price".into() };
    dead.push(&message, &reject, "bronze.orders", TEN_O_CLOCK_MS * 1_000);
    let mut stager = Stager::new(&pipeline.lake, &spec).unwrap();
    stager.write(&dead.finish().unwrap()).await.unwrap();
    let app_id = offsets_id("default/dead/bronze.orders", TOPIC, partition);
    let table = pipeline.lake.snapshot(&spec.name).await.unwrap().unwrap();
    let expected = table.transaction(&app_id).await.unwrap();
    let rejected = Commit {
        spec: &spec,
        staged: stager.finish().await.unwrap(),
        removal: None,
        advances: vec![Advance { app_id, expected, next: offset + 1 }],
        ledger: Ledger::new("bronze.dead_letters", Uuid::now_v7()),
    };
    let outcome = commit(&pipeline.lake, &rejected).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_whose_batch_is_not_in_bronze_yet_are_held_back() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[]).await;
    project.write_header(TODAY);
    let pipeline = project.pipeline().await;
    commit_letter(&pipeline, 0, 4).await;
    // A partition that bronze knows nothing of.
    commit_letter(&pipeline, 7, 0).await;

    let dry = replay_all(&pipeline, Mode::DryRun).await;
    let report = replay_all(&pipeline, Mode::Move).await;
    assert_eq!((report.replayed, report.failing(), report.held_back), (2, 3, 2));
    assert_eq!(dry, report);
    let offsets: HashSet<(i32, i64)> = project
        .letters()
        .await
        .iter()
        .map(|letter| (letter.place.partition, letter.place.offset))
        .collect();
    assert_eq!(offsets, HashSet::from([(0, 2), (0, 4), (1, 1), (1, 2), (7, 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_during_a_takeover_makes_no_letter_be_rejected_twice() {
    let project = Project::new(TODAY);
    let pipeline = project.pipeline().await;
    let app = project.app(&[]);
    commit_letter(&pipeline, 0, 0).await;
    let runtime = tokio::runtime::Handle::current();
    // The new owner asks where the partition begins after it has looked at bronze. At that moment
    // the former owner's late commit lands, and a replay moves the letter.
    let meanwhile = |_| {
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                let rows = Commit {
                    spec: &pipeline.spec,
                    staged: Staged::default(),
                    removal: None,
                    advances: vec![Advance {
                        app_id: offsets_id("default", TOPIC, 0),
                        expected: None,
                        next: 1,
                    }],
                    ledger: Ledger::new("bronze.orders", Uuid::now_v7()),
                };
                commit(&app.lake, &rows).await.unwrap();
                assert_eq!(replay_all(&pipeline, Mode::Move).await.replayed, 1);
            })
        });
        0
    };
    let taken = take_over(&pipeline, &[0], meanwhile).await.unwrap();
    assert_eq!(*taken[0].1.known_rejects(), HashSet::from([0]));
    assert_eq!(project.counts().await, [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_no_longer_required_becomes_nullable_in_the_table() {
    let project = Project::new(YESTERDAY);
    let nullable = |table: &flowguard::lake::Snapshot| {
        table.schema().field_with_name("price").unwrap().is_nullable()
    };
    let pipeline = project.pipeline().await;
    let table = pipeline.lake.snapshot(&orders()).await.unwrap().unwrap();
    assert!(!nullable(&table));
    project.write_header(TODAY);
    let pipeline = project.pipeline().await;
    let table = pipeline.lake.snapshot(&orders()).await.unwrap().unwrap();
    assert!(nullable(&table) && table.schema().field_with_name("note").is_ok());
    // Whoever still runs with the old columns does not take it back.
    let ledger = Ledger::new("bronze.orders", Uuid::now_v7());
    let again = ensure_table(&pipeline.lake, &pipeline.spec, &ledger).await.unwrap();
    assert_eq!(again.version(), table.version());
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_are_copied_to_the_dead_letter_topic() {
    let project = Project::new(YESTERDAY);
    project.send_all();
    project.ingest(&[("ingest.dead_letter_topic", "true")]).await;

    // Read back by ingesting the copies as a topic of their own, with everything refused.
    let sql = format!(
        "-- /// flowguard\n-- kind: append\n-- source: {{topic: {TOPIC}.dlq, format: json}}\n\
         -- columns:\n--   never: {{type: int, not_null: true}}\n-- ///\nSELECT * FROM kafka.copies\n"
    );
    std::fs::write(project.folder.path().join("sql/bronze/copies.sql"), sql).unwrap();
    let app = project.app(&[]);
    let typed = app.typed().await.unwrap();
    let name: TableName = "bronze.copies".parse().unwrap();
    let copies =
        app.pipeline(&name, &typed, &project.broker.access(), Uuid::now_v7()).await.unwrap();
    work(copies, Until::Drained, &CancellationToken::new(), Arc::new(|_| {})).await.unwrap();
    let filter = Filter { table: Some(name), ..Filter::default() };
    let copies = show(&app.lake, &app.engine, &filter, 100).await.unwrap();
    let mut lines: Vec<String> = copies
        .iter()
        .map(|copy| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
            let headers: Vec<String> = copy
                .headers
                .iter()
                .map(|(key, value)| format!("{key}={}", text(value.as_deref().unwrap_or(b"-"))))
                .collect();
            let (key, payload) = (copy.key.as_deref(), copy.payload.as_deref());
            let fields = [key, payload].map(|bytes| text(bytes.unwrap_or(b"-")));
            format!("{} | {} | {}", fields[0], fields[1], headers.join(" "))
        })
        .collect();
    lines.sort();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    - | {\"order_id\": \"o-4\", \"price\": null, \"ordered_at\": \"2026-01-05T09:59:59Z\"} | reason=missing_required error=`price`: a value is required, but the field is null topic=raw.orders partition=1 offset=0
    - | {\"order_id\": \"o-6\"} | reason=missing_required error=`price`: a value is required, but the field is absent topic=raw.orders partition=1 offset=2
    - | {\u{1b}[2J | reason=malformed error=key must be a string at byte 1 topic=raw.orders partition=0 offset=2
    o-1 | {\"order_id\": \"o-1\", \"note\": \"gift\", \"ordered_at\": \"2026-01-05T09:59:59Z\"} | source=mobile x=- reason=missing_required error=`price`: a value is required, but the field is absent topic=raw.orders partition=0 offset=1
    � | �� | source=mobile x=- reason=malformed error=expected value at byte 0 topic=raw.orders partition=1 offset=1
    "#);
}
