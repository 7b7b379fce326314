//! One bad thing blocks nothing else: every part of a project and of its lake is broken in turn, and
//! every command is run beside it. The rest goes on, and the broken part is named: in what the
//! command says, by its exit code, by `/readyz?verbose` and by a metric.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowguard::app::App;
use flowguard::app::ingest::{Ingested, OnEvent, Setup, Tables, ingest};
use flowguard::app::project::Watched;
use flowguard::audit::{Auditor, PartitionAudit, audit};
use flowguard::config::Config;
use flowguard::error::ErrorKind;
use flowguard::ingest::worker::Until;
use flowguard::kafka::{KafkaAccess, MockBroker, Producer, Record};
use flowguard::server::health::Health;
use flowguard::table::TableName;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::program::{Finished, Project, finish, model};
use crate::runs::project;
use crate::served::{PATIENCE, Served};
use crate::services::services;

const DAGS: &str = "version: 1
targets:
  here: {driver: files, path: exports}
exports:
  nightly: {target: here, select: [silver.*]}
";
/// Its name comes before that of the other one.
const FAR: &str = "version: 1
targets:
  far: {driver: postgresql, uri: \"postgresql://me@127.0.0.1:1/warehouse?connect_timeout=2\"}
  here: {driver: files, path: exports}
exports:
  away: {target: far, select: [silver.good]}
  nightly: {target: here, select: [silver.*]}
";

/// A broken target, and an export that waits for it.
const BROKEN_ENTRY: &str = "version: 1
targets:
  far: {driver: fil, path: exports}
  here: {driver: files, path: exports}
exports:
  away: {target: far, select: [silver.good]}
  nightly: {target: here, select: [silver.*]}
";
/// An export of tables that are no longer there.
const OF_NOTHING: &str = "version: 1
targets:
  here: {driver: files, path: exports}
exports:
  away: {target: here, select: [gold.weekly]}
  nightly: {target: here, select: [silver.*]}
";

const EVENTS: [&str; 3] = [
    r#"{"id": "a", "at": "2026-01-05T10:00:00Z", "n": "1"}"#,
    r#"{"id": "b", "at": "2026-01-06T10:00:00Z", "n": "2"}"#,
    r#"{"id": "c", "at": "2026-01-07T10:00:00Z", "n": "3"}"#,
];
/// The second is rejected.
const OTHERS: [&str; 2] = [r#"{"id": "a"}"#, r#"{"id": null}"#];

fn full(sql: &str) -> String {
    model("kind: full", sql)
}

fn view(sql: &str) -> String {
    model("kind: view", sql)
}

fn raw(table: &str, topic: &str) -> String {
    let header = format!(
        "kind: append\nsource: {{topic: {topic}, format: json}}\ncolumns:\n  \
         id: {{type: string, not_null: true}}"
    );
    model(&header, &format!("SELECT * FROM kafka.{table}"))
}

/// Everything ingested, built and exported once.
async fn sound(broker: &MockBroker) -> Project {
    let project = project(&[
        ("bronze/others", &raw("others", "raw.others.v1")),
        ("silver/good", &full("SELECT id FROM bronze.events")),
        ("silver/other", &full("SELECT id FROM bronze.events")),
        ("silver/bad", &full("SELECT id FROM bronze.events")),
        ("gold/after_bad", &full("SELECT count(*) AS n FROM silver.bad")),
        ("gold/seen", &view("SELECT id FROM silver.good")),
    ]);
    project.write("dags.yaml", DAGS);
    let Ingested { failed, .. } = drain(&project, &broker.access()).await;
    assert!(failed.is_empty(), "{failed:?}");
    project.run(&["run"]).succeeded();
    project.run(&["export", "run"]).succeeded();
    project
}

/// With the messages of [`sound`].
fn broker() -> MockBroker {
    let broker = MockBroker::start(&[("raw.events.v1", 1), ("raw.others.v1", 1)]).unwrap();
    send(&broker.access(), "raw.events.v1", &EVENTS);
    send(&broker.access(), "raw.others.v1", &OTHERS);
    broker
}

fn log_of(project: &Project, table: &str) -> PathBuf {
    project.folder().join(".flowguard").join(table).join("_delta_log")
}

fn entry(log: &Path, version: u64) -> PathBuf {
    log.join(format!("{version:020}.json"))
}

fn newest(log: &Path) -> u64 {
    (0..).take_while(|version| entry(log, *version).exists()).last().expect("a table")
}

/// A part, how it is broken, and how the commands that it concerns end; all others end with 0.
struct Part {
    name: &'static str,
    break_it: fn(&Project),
    /// What names it, in text; in `/readyz?verbose`; as labels of the metric.
    named: [&'static str; 3],
    codes: &'static [(&'static str, i32)],
}

/// An exit code other than 0.
const ANY_FAILURE: i32 = -1;

/// Of a table whose log is damaged.
const TORN: &[(&str, i32)] = &[
    ("run all", 2),
    ("list", 4),
    ("list columns", 4),
    ("export", 2),
    ("status", 2),
    ("parity", 2),
    ("lake check", 4),
];

/// Commands, and what of the rest they must say all the same.
const COMMANDS: [(&str, &[&str], &str); 14] = [
    ("check", &["check"], ""),
    ("run another", &["run", "silver.other"], "silver.other "),
    ("run all", &["run"], "silver.good "),
    ("query", &["query", "SELECT count(*) AS n FROM silver.good"], "| 3 |"),
    ("query a view", &["query", "SELECT count(*) AS n FROM gold.seen"], "| 3 |"),
    ("list", &["query", "SHOW TABLES"], "| good "),
    (
        "list columns",
        &["query", "SELECT * FROM information_schema.columns WHERE table_name = 'good'"],
        "| id ",
    ),
    ("lineage", &["lineage"], "silver.good"),
    ("letters", &["dlq", "list"], "bronze.others"),
    ("audit", &["audit", "--offline"], "bronze.events"),
    ("lake check", &["lake", "check"], "silver.good "),
    ("export", &["export", "run"], "silver.good "),
    ("status", &["export", "status"], "silver.good "),
    ("history", &["export", "history"], "silver.good "),
];
const PARITY: (&str, &[&str], &str) = ("parity", &["parity"], "silver.good ");

const BAD: [&str; 3] = ["silver.bad", "model silver.bad: ", "part=\"model\",name=\"silver.bad\""];
const BAD_TABLE: [&str; 3] =
    ["silver.bad", "table silver.bad: ", "part=\"table\",name=\"silver.bad\""];
/// Of a model whose file cannot be read.
const LEFT_OUT: &[(&str, i32)] =
    &[("check", 1), ("run all", 2), ("lineage", 1), ("export", 2), ("status", 2), ("parity", 2)];

const PARTS: [Part; 15] = [
    Part {
        name: "a model of an unknown column",
        break_it: |project| {
            project.write("sql/silver/bad.sql", &full("SELECT ix FROM bronze.events"))
        },
        named: BAD,
        codes: &[("check", 1), ("run all", 2)],
    },
    Part {
        name: "a model with an unknown key",
        break_it: |project| {
            project.write("sql/silver/bad.sql", &model("kind: full\nkeyy: 1", "SELECT 1 AS a"));
        },
        named: BAD,
        codes: LEFT_OUT,
    },
    Part {
        name: "a model that is no text",
        break_it: |project| {
            std::fs::write(project.folder().join("sql/silver/bad.sql"), b"\xFF\xFE").unwrap();
        },
        named: BAD,
        codes: LEFT_OUT,
    },
    Part {
        name: "models that read each other",
        break_it: |project| {
            project.write("sql/silver/bad.sql", &full("SELECT n FROM gold.after_bad"));
        },
        named: BAD,
        codes: LEFT_OUT,
    },
    Part {
        name: "a file that is no model",
        break_it: |project| project.write("sql/silver/Not a table.sql", "SELECT 1"),
        named: [
            "sql/silver/Not a table.sql",
            "file sql/silver/Not a table.sql: ",
            "part=\"file\",name=\"sql/silver/Not a table.sql\"",
        ],
        codes: &[("check", 1), ("run all", 2), ("lineage", 1)],
    },
    Part {
        name: "a model of a topic",
        break_it: |project| {
            project.write("sql/bronze/others.sql", &model("kind: append", "SELECT 1"));
        },
        named: ["bronze.others", "model bronze.others: ", "part=\"model\",name=\"bronze.others\""],
        codes: &[("check", 1), ("run all", 2), ("lineage", 1), ("audit", 1)],
    },
    Part {
        name: "dags.yaml",
        break_it: |project| project.write("dags.yaml", &DAGS.replace("exports:", "export:")),
        named: ["dags.yaml", "dags dags.yaml: ", "part=\"dags\",name=\"dags.yaml\""],
        codes: &[("check", 1), ("export", 1), ("status", 1), ("history", 1), ("parity", 1)],
    },
    Part {
        name: "an entry of dags.yaml",
        break_it: |project| project.write("dags.yaml", BROKEN_ENTRY),
        named: ["far", "dags dags.yaml: target `far`: ", "part=\"dags\",name=\"dags.yaml\""],
        codes: &[("check", 1), ("export", 2), ("status", 2), ("history", 2), ("parity", 2)],
    },
    Part {
        name: "an export of tables that are not there",
        break_it: |project| project.write("dags.yaml", OF_NOTHING),
        named: ["gold.weekly", "", ""],
        codes: &[("check", 1), ("export", 2), ("status", 2), ("history", 2), ("parity", 2)],
    },
    Part {
        name: "a log without an entry",
        break_it: |project| {
            project.run(&["run", "silver.bad", "--full-refresh"]).succeeded();
            std::fs::remove_file(entry(&log_of(project, "silver/bad"), 0)).unwrap();
        },
        named: BAD_TABLE,
        codes: TORN,
    },
    Part {
        name: "a log whose newest entry was cut between two lines",
        break_it: |project| {
            let log = log_of(project, "silver/bad");
            let newest = entry(&log, newest(&log));
            let text = std::fs::read_to_string(&newest).unwrap();
            std::fs::write(newest, text.split_inclusive('\n').next().unwrap()).unwrap();
        },
        named: BAD_TABLE,
        codes: TORN,
    },
    Part {
        name: "a torn log",
        break_it: |project| {
            let log = log_of(project, "silver/bad");
            let newest = entry(&log, newest(&log));
            let text = std::fs::read(&newest).unwrap();
            std::fs::write(newest, &text[..text.len() / 2]).unwrap();
        },
        named: BAD_TABLE,
        codes: TORN,
    },
    Part {
        name: "a table of a feature that is not read",
        break_it: |project| {
            let log = log_of(project, "silver/bad");
            let widened = "{\"protocol\":{\"minReaderVersion\":3,\"minWriterVersion\":7,\
                           \"readerFeatures\":[\"typeWidening\"],\
                           \"writerFeatures\":[\"typeWidening\"]}}\n";
            std::fs::write(entry(&log, newest(&log) + 1), widened).unwrap();
        },
        named: BAD_TABLE,
        codes: &[("run all", 2), ("list", 1), ("list columns", 1), ("export", 2)],
    },
    Part {
        name: "a table whose columns differ in case only",
        break_it: |project| {
            let log = log_of(project, "silver/cased");
            std::fs::create_dir_all(&log).unwrap();
            let field = |name: &str| {
                format!(
                    "{{\\\"name\\\":\\\"{name}\\\",\\\"type\\\":\\\"string\\\",\
                     \\\"nullable\\\":true,\\\"metadata\\\":{{}}}}"
                )
            };
            let text = format!(
                "{{\"protocol\":{{\"minReaderVersion\":1,\"minWriterVersion\":2}}}}\n\
                 {{\"metaData\":{{\"id\":\"5fba94ed-9794-4965-ba6e-6ee3c0d22af9\",\
                 \"format\":{{\"provider\":\"parquet\",\"options\":{{}}}},\"schemaString\":\
                 \"{{\\\"type\\\":\\\"struct\\\",\\\"fields\\\":[{},{}]}}\",\
                 \"partitionColumns\":[],\"configuration\":{{}},\"createdTime\":1}}}}\n",
                field("id"),
                field("ID")
            );
            std::fs::write(entry(&log, 0), text).unwrap();
        },
        named: ["silver.cased", "table silver.cased: ", "part=\"table\",name=\"silver.cased\""],
        codes: &[("list", 1), ("list columns", 1), ("lake check", 4)],
    },
    Part {
        name: "a target that cannot be reached",
        break_it: |project| project.write("dags.yaml", FAR),
        named: ["far", "", ""],
        codes: &[("export", 2), ("status", 2), ("history", 2), ("parity", 2)],
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_broken_and_every_command() {
    let broker = broker();
    let (mut wrong, whole) = (Vec::new(), sound(&broker).await);
    for part in PARTS {
        let project = copy_of(&whole);
        (part.break_it)(&project);
        for command in COMMANDS.into_iter().chain([PARITY]) {
            wrong.extend(judged(&part, &project, command));
        }
        if INGESTED.contains(&part.name) {
            wrong.extend(ingested_beside(&part, &project, &broker).await);
        }
        wrong.extend(served_beside(&part, &project));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong about a command beside a broken part.
fn judged(
    part: &Part,
    project: &Project,
    (command, arguments, rest): (&str, &[&str], &str),
) -> Option<String> {
    let Finished { code, stdout, stderr } = project.run(arguments);
    let expected =
        part.codes.iter().find(|(name, _)| *name == command).map_or(0, |(_, code)| *code);
    let says = |word: &str| stdout.contains(word) || stderr.contains(word);
    let is_all_of_it = part.name == "dags.yaml" && expected == 1;
    let is_expected = match expected {
        ANY_FAILURE => code.is_some_and(|code| code != 0),
        _ => code == Some(expected),
    };
    let problem = if !is_expected {
        format!("ends with {code:?} and not {expected}")
    } else if expected != 0 && !says(part.named[0]) && !says(&part.named[0].replace('.', "/")) {
        "does not name it".to_owned()
    } else if !says(rest) && !is_all_of_it {
        format!("does not say `{rest}`")
    } else {
        return None;
    };
    Some(format!("{}: {command} {problem}:\n{stdout}\n{stderr}", part.name))
}

fn copy_of(project: &Project) -> Project {
    let copy = Project::of_models(&[]);
    let mut command = std::process::Command::new("cp");
    finish(command.arg("-a").arg(project.folder().join(".")).arg(copy.folder())).succeeded();
    copy
}

/// Parts beside which ingestion is tried too, which takes some seconds each.
const INGESTED: [&str; 2] = ["a model of a topic", "a torn log"];

/// The same of ingestion: nothing but a table that is itself broken is left out.
async fn ingested_beside(part: &Part, project: &Project, broker: &MockBroker) -> Option<String> {
    let Ingested { reports, failed } = drain(project, &broker.access()).await;
    let said: Vec<String> = failed.values().map(ToString::to_string).collect();
    let failed: Vec<String> = failed.keys().map(ToString::to_string).collect();
    let expected: Vec<&str> =
        [part.named[0]].into_iter().filter(|name| name.starts_with("bronze.")).collect();
    let is_right = failed == expected && reports.iter().any(|(name, _)| name.name() == "events");
    (!is_right).then(|| format!("{}: ingestion leaves out {failed:?}: {said:?}", part.name))
}

/// The same of a server.
fn served_beside(part: &Part, project: &Project) -> Option<String> {
    let [_, line, labels] = part.named;
    let served = Served::start(project, &[]);
    let problem = |what: String| Some(format!("{}: serve {what}:\n{}", part.name, served.said()));
    for table in ["silver.good", "gold.seen"] {
        let answer = served.get(&format!("/api/v1/query?sql=SELECT+count(*)+AS+n+FROM+{table}"));
        if answer.text() != "{\"n\":3}\n" {
            return problem(format!("answers {}", answer.text()));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (verbose, metrics) = (served.get("/readyz?verbose"), served.get("/metrics"));
        let is_ready = served.get("/readyz").status == 200 && verbose.status == 200;
        let metric = format!("flowguard_broken{{{labels}}} 1\n");
        if is_ready
            && verbose.text().contains(line)
            && (labels.is_empty() || metrics.text().contains(&metric))
        {
            return None;
        }
        if Instant::now() > deadline {
            return problem(format!("says {}", verbose.text()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks until the answer is as expected. What a server notices it notices within a second; machines
/// under tests are slower.
#[track_caller]
fn becomes(served: &Served, path: &str, expected: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = served.get(path).text();
        if expected(&found) {
            return;
        }
        assert!(Instant::now() < deadline, "{path} stays {found}\n{}", served.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_notices_models_that_come_change_break_and_go() {
    let broker = broker();
    let project = sound(&broker).await;
    let served = Served::start(&project, &[]);
    let ask = "/api/v1/query?sql=SELECT+*+FROM+gold.news+ORDER+BY+1+LIMIT+1";
    let answers = |row: &'static str| move |found: &str| found == row;
    becomes(&served, ask, |found| found.contains("there is no table `gold.news`"));
    project.write("sql/gold/news.sql", &view("SELECT id FROM silver.good"));
    becomes(&served, ask, answers("{\"id\":\"a\"}\n"));
    project.write("sql/gold/news.sql", &view("SELECT id AS name FROM silver.good"));
    becomes(&served, ask, answers("{\"name\":\"a\"}\n"));
    // A broken edit is said, and the last good one stays, whatever else changes.
    project.write("sql/gold/news.sql", &view("SELECT ix FROM silver.good"));
    let verbose = "/readyz?verbose";
    becomes(&served, verbose, |found| {
        found.contains("model gold.news: sql/gold/news.sql:4:8: unknown column `ix`")
    });
    assert_eq!(served.get("/readyz").succeeded(), "ready, but for 1 part: /readyz?verbose\n");
    project.write("sql/gold/more.sql", &view("SELECT 7 AS seven"));
    becomes(&served, "/api/v1/query?sql=SELECT+*+FROM+gold.more", answers("{\"seven\":7}\n"));
    assert_eq!(served.get(ask).succeeded(), "{\"name\":\"a\"}\n");
    project.write("sql/gold/news.sql", &view("SELECT id AS last FROM silver.good"));
    becomes(&served, ask, answers("{\"last\":\"a\"}\n"));
    assert_eq!(served.get(verbose).succeeded(), "ready\n");
    std::fs::remove_file(project.folder().join("sql/gold/news.sql")).unwrap();
    becomes(&served, ask, |found| found.contains("there is no table `gold.news`"));
    project.write("dags.yaml", "version: 2\n");
    becomes(&served, verbose, |found| found.contains("dags dags.yaml: dags.yaml:1:10: version 2"));
    project.write("dags.yaml", DAGS);
    becomes(&served, verbose, |found| found == "ready\n");
    let folder = project.folder().join("sql");
    std::fs::rename(&folder, project.folder().join("away")).unwrap();
    becomes(&served, verbose, |found| found.contains("project sql: "));
    assert_eq!(
        served.get("/api/v1/query?sql=SELECT+*+FROM+gold.more").succeeded(),
        "{\"seven\":7}\n"
    );
    std::fs::rename(project.folder().join("away"), folder).unwrap();
    becomes(&served, verbose, |found| found == "ready\n");
    assert_eq!(served.stop(), Some(0));
}

/// A table that was dropped and made again under a running server was not found for good, or its old
/// and new rows were mixed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_anew_under_a_server_is_the_new_one() {
    let broker = broker();
    let project = sound(&broker).await;
    let served = Served::start(&project, &[]);
    let rows = "/api/v1/query?sql=SELECT+*+FROM+silver.good+ORDER+BY+1";
    let is = |ids: &[&str]| {
        let lines: String = ids.iter().map(|id| format!("{{\"id\":\"{id}\"}}\n")).collect();
        assert_eq!(served.get(rows).succeeded(), lines, "{}", served.said());
    };
    is(&["a", "b", "c"]);
    let folder = project.folder().join(".flowguard/silver/good");
    for (ids, versions) in [(["d", "e"], 1), (["f", "g"], 4), (["h", "i"], 2), (["j", "k"], 3)] {
        std::fs::remove_dir_all(&folder).unwrap();
        let [first, second] = ids;
        let last = format!("SELECT '{first}' AS id UNION ALL SELECT '{second}'");
        for version in 1..=versions {
            let older = format!("SELECT 'older {version}' AS id");
            let sql = if version == versions { &last } else { &older };
            project.write("sql/silver/good.sql", &full(sql));
            project.run(&["run", "silver.good"]).succeeded();
        }
        is(&ids);
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(served.get(rows).status, 404);
    project.run(&["run", "silver.good"]).succeeded();
    is(&["j", "k"]);
}

fn open(project: &Project) -> App {
    // A batch is a commit as soon as it has a message.
    let flags = [("ingest.flush_rows_max".to_owned(), "1".to_owned())];
    App::open(Config::load(project.folder(), &Default::default(), &flags).unwrap()).unwrap()
}

fn send(kafka: &KafkaAccess, topic: &str, payloads: &[&str]) {
    let producer = Producer::new(kafka).unwrap();
    for payload in payloads {
        let payload = Some(payload.as_bytes());
        let (partition, headers) = (Some(0), &[] as &[_]);
        let record =
            Record { topic, partition, key: None, payload, headers, timestamp_ms: Some(0) };
        producer.send(&record).unwrap();
    }
    producer.flush().unwrap();
}

/// All tables of the project, to the ends of their topics.
async fn drain(project: &Project, kafka: &KafkaAccess) -> Ingested {
    let app = open(project);
    let tables = Tables::Named(app.bronze(&[]).unwrap(), app.checked().await.unwrap());
    let (run, until) = (Uuid::now_v7(), Until::Drained);
    let on_event: OnEvent = Arc::new(|_, _| {});
    let app = Arc::new(app);
    let setup = Setup { app, kafka: kafka.clone(), run, until, is_patient: false, on_event };
    ingest(Arc::new(setup), tables, &CancellationToken::new()).await
}

async fn audited(project: &Project, table: &str, kafka: &KafkaAccess) -> Vec<PartitionAudit> {
    let app = open(project);
    let (pipeline, kafka) = ("default", Some(kafka));
    let (lake, engine) = (&app.lake, &app.engine);
    let auditor = Auditor { lake, engine, pipeline, kafka, payloads: true };
    let name: TableName = table.parse().unwrap();
    audit(&auditor, app.models.find(&name).unwrap()).await.unwrap()
}

fn count(project: &Project, sql: &str) -> String {
    project.query(sql)[0][0].clone()
}

/// What the tables of the project hold, as soon as it is that.
#[track_caller]
fn holds(project: &Project, table: &str, rows: usize) {
    let deadline = Instant::now() + PATIENCE;
    let sql = format!("SELECT count(*) AS n FROM {table}");
    loop {
        let found = project.run(&["query", "--output", "csv", &sql]);
        if found.stdout == format!("n\n{rows}\n") {
            return;
        }
        assert!(Instant::now() < deadline, "{table}: {}{}", found.stdout, found.stderr);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ingestion_follows_the_project() {
    let broker = MockBroker::start(&[("one", 1), ("two", 1)]).unwrap();
    let kafka = broker.access();
    let project = Project::of_models(&[("bronze/one", &raw("one", "one"))]);
    let (app, health) = (Arc::new(open(&project)), Health::default());
    let mut watched = Watched::open(project.folder(), &app.engine, &health).await.unwrap();
    let (run, until) = (Uuid::now_v7(), Until::Stopped);
    let on_event: OnEvent = Arc::new(|_, _| {});
    let setup = Setup { app, kafka: kafka.clone(), run, until, is_patient: true, on_event };
    let (tables, stop) = (Tables::Watched(watched.checked()), CancellationToken::new());
    let stopped = stop.clone();
    let ingesting = tokio::spawn(async move { ingest(Arc::new(setup), tables, &stopped).await });
    send(&kafka, "one", &[r#"{"id": "a"}"#]);
    holds(&project, "bronze.one", 1);
    project.write("sql/bronze/two.sql", &raw("two", "two"));
    watched.look_again().await;
    send(&kafka, "two", &[r#"{"id": "a"}"#]);
    holds(&project, "bronze.two", 1);
    // The last good header stays, and the other table has nothing to do with it.
    project.write("sql/bronze/two.sql", &model("kind: append", "SELECT 1"));
    watched.look_again().await;
    let broken = health.broken(Default::default());
    let named: Vec<String> = broken.keys().map(ToString::to_string).collect();
    assert_eq!(named, ["model bronze.two"]);
    for topic in ["one", "two"] {
        send(&kafka, topic, &[r#"{"id": "b"}"#]);
        holds(&project, &format!("bronze.{topic}"), 2);
    }
    std::fs::remove_file(project.folder().join("sql/bronze/two.sql")).unwrap();
    watched.look_again().await;
    assert!(health.broken(Default::default()).is_empty());
    for topic in ["one", "two"] {
        send(&kafka, topic, &[r#"{"id": "c"}"#]);
    }
    holds(&project, "bronze.one", 3);
    holds(&project, "bronze.two", 2);
    stop.cancel();
    let Ingested { failed, .. } = ingesting.await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_stops_its_own_table_only() {
    let broker = MockBroker::start(&[("there", 1)]).unwrap();
    let project = Project::of_models(&[
        ("bronze/absent", &raw("absent", "absent")),
        ("bronze/broken", &model("kind: append", "SELECT 1")),
        ("bronze/there", &raw("there", "there")),
        ("silver/bad", &full("SELECT ix FROM bronze.there")),
    ]);
    send(&broker.access(), "there", &[r#"{"id": "a"}"#]);
    let Ingested { reports, failed } = drain(&project, &broker.access()).await;
    let reports: Vec<_> = reports.iter().map(|(name, r)| (name.to_string(), r.rows)).collect();
    assert_eq!(reports, [("bronze.there".to_owned(), 1)]);
    let failed: Vec<_> = failed
        .iter()
        .map(|(name, error)| (name.to_string(), error.kind, error.message.clone()))
        .collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert_eq!(failed[0].0, "bronze.absent");
    assert_eq!(failed[0].1, ErrorKind::NotFound);
    assert!(failed[0].2.contains("`absent`"), "{}", failed[0].2);
    assert_eq!(failed[1].2, "`bronze.broken` is left out: its model has problems");
    assert_eq!(count(&project, "SELECT count(*) AS n FROM bronze.there"), "1");
}

#[test]
fn a_missing_topic_on_a_real_broker_is_named_and_ingested_once_it_is_there() {
    let Some(services) = services("blast_radius::a_missing_topic") else { return };
    let topic = |name: &str| format!("test.{}.{name}", services.nonce);
    let (here, gone) = (topic("here"), topic("gone"));
    services.create_topic(&here, 1);
    let project = Project::of_models(&[
        ("bronze/gone", &raw("gone", &gone)),
        ("bronze/here", &raw("here", &here)),
        ("silver/bad", &full("SELECT ix FROM bronze.here")),
    ]);
    let project = project
        .with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", &services.kafka)
        .with("FLOWGUARD_INGEST_FLUSH_ROWS_MAX", "1");
    let kafka = KafkaAccess { bootstrap_servers: services.kafka.clone(), ..KafkaAccess::default() };
    send(&kafka, &here, &[r#"{"id": "a"}"#]);
    let once = project.run(&["ingest", "--once", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&once.stdout).unwrap();
    let found = (once.code, &report["tables"][0]["table"], &report["failed"][0]["table"]);
    assert_eq!(found, (Some(1), &"bronze.here".into(), &"bronze.gone".into()), "{}", once.stderr);
    assert!(once.stderr.contains(&format!("`{gone}`")), "{}", once.stderr);
    assert!(once.stderr.contains("warning: `silver.bad` is left out: "), "{}", once.stderr);
    let served = Served::start(&project, &[]);
    let verbose = "/readyz?verbose";
    becomes(&served, verbose, |found| found.contains("ingestion bronze.gone: "));
    send(&kafka, &here, &[r#"{"id": "b"}"#]);
    holds(&project, "bronze.here", 2);
    services.create_topic(&gone, 1);
    send(&kafka, &gone, &[r#"{"id": "c"}"#]);
    holds(&project, "bronze.gone", 1);
    becomes(&served, verbose, |found| !found.contains("ingestion"));
    assert_eq!(served.stop(), Some(0));
}

/// Each raised the owner's number that the other one went by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tables_of_one_topic_that_both_reject_fenced_each_other_off() {
    let broker = MockBroker::start(&[("both", 1)]).unwrap();
    let project = Project::of_models(&[
        ("bronze/one", &raw("one", "both")),
        ("bronze/two", &raw("two", "both")),
    ]);
    for round in 1..=2 {
        send(&broker.access(), "both", &[r#"{"id": "a"}"#, "{}", r#"{"id": "b"}"#, "no json"]);
        let drained = tokio::time::timeout(PATIENCE, drain(&project, &broker.access())).await;
        let Ingested { reports, failed } = drained.expect("they fence each other off");
        assert!(failed.is_empty(), "{failed:?}");
        for report in reports.values() {
            assert_eq!((report.rows, report.rejects), (2, 2));
        }
        for table in ["bronze.one", "bronze.two"] {
            let audits = audited(&project, table, &broker.access()).await;
            let found: Vec<_> = audits.iter().map(|a| (a.is_clean(), a.rows, a.rejects)).collect();
            assert_eq!(found, [(true, 2 * round, 2 * round)], "{audits:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_moves_in_a_header_stays_in_the_audit() {
    let broker = MockBroker::start(&[("before", 1), ("after", 1)]).unwrap();
    let project = Project::of_models(&[("bronze/t", &raw("t", "before"))]);
    send(&broker.access(), "before", &[r#"{"id": "a"}"#, "{}"]);
    send(&broker.access(), "after", &[r#"{"id": "b"}"#, "{}", "{}"]);
    for topic in ["before", "after"] {
        project.write("sql/bronze/t.sql", &raw("t", topic));
        assert!(drain(&project, &broker.access()).await.failed.is_empty());
    }
    let audits = audited(&project, "bronze.t", &broker.access()).await;
    let mut found: Vec<_> = audits
        .iter()
        .map(|audit| (audit.topic.as_str(), audit.is_clean(), audit.rows, audit.rejects))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("after", true, 1, 2), ("before", true, 1, 1)], "{audits:?}");
}
