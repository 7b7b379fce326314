//! Topics whose log changes under the lake, on real brokers: messages that cannot be ingested any
//! more are said to be lost, by every ingestion until a person decides, and then the log that is
//! there is ingested beside the old one.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use crate::program::{Project, finish, model};
use crate::services::{Broker, client, services};

const PARTITIONS: i32 = 2;
const BEFORE: usize = 150;
const AFTER: usize = 400;
const PATIENCE: Duration = Duration::from_secs(60);

fn header(topic: &str, id: &str) -> String {
    let header =
        format!("kind: append\nsource: {{topic: {topic}, format: json}}\ncolumns:\n  id: {id}");
    model(&header, "SELECT * FROM kafka.t")
}

fn project(broker: &str, topic: &str) -> Project {
    let project =
        Project::of_models(&[("bronze/t", &header(topic, "{type: bigint, not_null: true}"))]);
    project.with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", broker)
}

/// Every tenth message has no id, and is rejected as long as the header requires one.
fn produce(broker: &str, topic: &str, count: usize) {
    let producer: BaseProducer = client(broker).create().unwrap();
    let deadline = Instant::now() + PATIENCE;
    for partition in 0..PARTITIONS {
        for id in 0..count {
            let payload = if id % 10 == 9 { "{}".to_owned() } else { format!(r#"{{"id":{id}}}"#) };
            let record = BaseRecord::<(), str>::to(topic).partition(partition).payload(&payload);
            let mut sent = producer.send(record);
            // A topic that was just made may not be known yet.
            while let Err((error, record)) = sent {
                assert!(Instant::now() < deadline, "{error}");
                producer.poll(Duration::from_millis(100));
                sent = producer.send(record);
            }
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Rows and dead letters in the lake.
fn held(project: &Project) -> (usize, usize) {
    let count = |table: &str| {
        let sql = format!("SELECT count(*) AS n FROM bronze.{table}");
        let found = project.run(&["query", "--output", "csv", &sql]).stdout;
        found.trim_start_matches("n\n").trim().parse().unwrap_or(0)
    };
    (count("t"), count("dead_letters"))
}

/// Of so many messages per partition.
fn of(messages: usize) -> (usize, usize) {
    let partitions = PARTITIONS as usize;
    (partitions * messages * 9 / 10, partitions * messages / 10)
}

/// Ingestion ends with 4 and these words, and so does the audit with 1.
fn is_refused(project: &Project, why: &str) {
    let ingested = project.run(&["ingest", "--once"]);
    assert_eq!(ingested.code, Some(4), "{}", ingested.stderr);
    assert!(ingested.stderr.contains(why), "{}", ingested.stderr);
    assert!(ingested.stderr.contains("flowguard ingest accept bronze.t"), "{}", ingested.stderr);
    let audit = project.run(&["audit"]);
    assert_eq!(audit.code, Some(1), "{}", audit.stdout);
    assert!(audit.stderr.contains(why), "{}", audit.stderr);
}

/// Where `ingest accept` goes on in each partition.
fn accepted(project: &Project, arguments: &[&str]) -> Vec<(i64, i64)> {
    let arguments = [&["ingest", "accept", "bronze.t", "--output", "json"], arguments].concat();
    let answer: Value = serde_json::from_str(&project.run(&arguments).succeeded().stdout).unwrap();
    let accepted = answer["accepted"].as_array().unwrap();
    let number = |accepted: &Value, key: &str| accepted[key].as_i64().unwrap();
    accepted.iter().map(|one| (number(one, "end"), number(one, "start"))).collect()
}

/// The worker went on at offset 150 of the new topic, and 300 messages never arrived.
#[test]
fn a_topic_recreated_under_a_running_worker_is_not_ingested_as_the_old_one() {
    let name = "topics::a_topic_recreated_under_a_running_worker_is_not_ingested_as_the_old_one";
    let Some(services) = services(name) else { return };
    let topic = format!("recreated-{}", services.nonce);
    services.create_topic(&topic, PARTITIONS);
    let project = project(&services.kafka, &topic);
    produce(&services.kafka, &topic, BEFORE);
    let mut command = project.command(&["ingest", "--set", "ingest.flush_age_ms_max=300"]);
    let mut worker = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while held(&project) != of(BEFORE) {
        assert!(began.elapsed() < PATIENCE, "{:?}", held(&project));
        std::thread::sleep(Duration::from_millis(200));
    }
    services.delete_topic(&topic);
    services.create_topic(&topic, PARTITIONS);
    produce(&services.kafka, &topic, AFTER);
    let began = Instant::now();
    while worker.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = worker.kill();
    let ended = worker.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("`{topic}` was recreated")), "{said}");
    // However far the new log has grown, nothing of it is taken for the old one's.
    is_refused(&project, "was recreated");
    assert_eq!(held(&project), of(BEFORE));

    let before = BEFORE as i64;
    assert_eq!(accepted(&project, &["--dry-run"]), [(before, 0); 2]);
    is_refused(&project, "was recreated");
    assert_eq!(accepted(&project, &[]), [(before, 0); 2]);
    project.run(&["ingest", "--once"]).succeeded();
    assert_eq!(held(&project), of(BEFORE + AFTER));
    project.run(&["audit", "--payloads"]).succeeded();
    assert_eq!(accepted(&project, &[]), []);
    // Letters of both logs stand at the same offsets; each of them becomes a row.
    project.write("sql/bronze/t.sql", &header(&topic, "{type: bigint}"));
    project.run(&["dlq", "replay", "bronze.t"]).succeeded();
    let (rows, letters) = of(BEFORE + AFTER);
    assert_eq!(held(&project), (rows + letters, 0));
    project.run(&["audit", "--payloads"]).succeeded();
}

/// The lake was at 200 and the log back at 100: exit code 4, until the log had grown to 300, and
/// then 0 with 100 messages missing.
#[test]
fn a_log_that_lost_its_tail_and_grew_again_is_refused_until_it_is_accepted() {
    let name = "topics::a_log_that_lost_its_tail_and_grew_again_is_refused_until_it_is_accepted";
    if services(name).is_none() {
        return;
    }
    let (broker, topic) = (Broker::start(), "regrown");
    let admin: AdminClient<DefaultClientContext> = client(&broker.address).create().unwrap();
    let made = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    futures::executor::block_on(admin.create_topics([&made], &AdminOptions::new())).unwrap();
    drop(admin);
    produce(&broker.address, topic, 100);
    let saved = broker.saved();
    finish(&mut broker.restart()).succeeded();
    produce(&broker.address, topic, 100);
    let project = project(&broker.address, topic);
    project.run(&["ingest", "--once"]).succeeded();
    project.run(&["audit", "--payloads"]).succeeded();

    broker.rolled_back(&saved);
    is_refused(&project, "ends at offset 100, but the lake holds it up to 200");
    // Just as long as it was: nothing is to be fetched, and still it is another log.
    produce(&broker.address, topic, 100);
    is_refused(&project, "has another message at offset 199");
    produce(&broker.address, topic, 100);
    is_refused(&project, "has another message at offset 199");
    assert_eq!(held(&project), of(200));

    assert_eq!(accepted(&project, &[]), [(200, 100); 2]);
    project.run(&["ingest", "--once"]).succeeded();
    assert_eq!(held(&project), of(200 + 200));
    project.run(&["audit", "--payloads"]).succeeded();

    // Once more: what comes before the first loss is in the lake as it ever was.
    broker.rolled_back(&saved);
    produce(&broker.address, topic, 100);
    is_refused(&project, "ends at offset 200, but the lake holds it up to 300");
    assert_eq!(
        accepted(&project, &["--dry-run", "--partition", "1", "--from", "150"]),
        [(300, 150)]
    );
    assert_eq!(accepted(&project, &[]), [(300, 100); 2]);
    project.run(&["ingest", "--once"]).succeeded();
    assert_eq!(held(&project), of(200 + 200 + 100));
    project.run(&["audit", "--payloads"]).succeeded();
}

/// The id of an empty topic was noted, and nothing was there that could have been accepted.
#[test]
fn a_topic_recreated_before_it_had_a_message_is_accepted() {
    let name = "topics::a_topic_recreated_before_it_had_a_message_is_accepted";
    let Some(services) = services(name) else { return };
    let topic = format!("empty-{}", services.nonce);
    services.create_topic(&topic, PARTITIONS);
    let project = project(&services.kafka, &topic);
    let mut worker = project.command(&["ingest"]).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let log = project.folder().join(".flowguard/bronze/t/_delta_log");
    let is_noted = || {
        std::fs::read_dir(&log).is_ok_and(|mut entries| {
            entries.any(|entry| {
                let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
                text.contains("flowguard.topic_id.")
            })
        })
    };
    while !is_noted() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
    }
    finish(std::process::Command::new("kill").arg(worker.id().to_string())).succeeded();
    worker.wait().unwrap();
    services.delete_topic(&topic);
    services.create_topic(&topic, PARTITIONS);
    produce(&services.kafka, &topic, 20);
    is_refused(&project, "was recreated");
    let refused = project.run(&["ingest", "accept", "bronze.t", "--partition", "0"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert_eq!(accepted(&project, &[]), [(0, 0); 2]);
    project.run(&["ingest", "--once"]).succeeded();
    assert_eq!(held(&project), of(20));
    project.run(&["audit", "--payloads"]).succeeded();
}

/// The audit believed a hole in a ledger, although the broker has the message.
#[test]
fn a_message_where_the_ledger_has_a_hole_is_found() {
    let Some(services) = services("topics::a_message_where_the_ledger_has_a_hole_is_found") else {
        return;
    };
    let topic = format!("hole-{}", services.nonce);
    services.create_topic(&topic, PARTITIONS);
    produce(&services.kafka, &topic, 20);
    let project = project(&services.kafka, &topic);
    project.run(&["ingest", "--once"]).succeeded();
    project.run(&["audit"]).succeeded();
    // A ledger that says it saw nothing at the first offsets.
    let log = project.folder().join(".flowguard/bronze/t/_delta_log");
    let entries = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
    let mut entries: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    entries.sort();
    let mut holes = 0;
    for entry in entries {
        let text = std::fs::read_to_string(&entry).unwrap();
        let mut actions: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for action in &mut actions {
            let ranges = action.pointer_mut("/commitInfo/flowguard/offsets");
            for range in ranges.and_then(Value::as_array_mut).into_iter().flatten() {
                range["holes"] = serde_json::json!([[range["start"], 3]]);
                holes += 1;
            }
        }
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        std::fs::write(&entry, lines.join("\n")).unwrap();
    }
    assert_eq!(holes, PARTITIONS);
    let audit = project.run(&["audit"]);
    assert_eq!(audit.code, Some(1), "{}", audit.stdout);
    assert!(
        audit.stderr.contains("3 unaccounted 0..1 1..2 2..3, 3 rows of no message"),
        "{}",
        audit.stderr
    );
}
