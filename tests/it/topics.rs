//! Topics whose log changes under the lake, on a real broker: messages that cannot be ingested any
//! more are said to be lost, by every ingestion until a person decides.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::program::{Project, model};
use crate::services::{Services, User, services};

const PARTITIONS: i32 = 2;
const BEFORE: usize = 150;
const AFTER: usize = 400;
const PATIENCE: Duration = Duration::from_secs(60);

fn project(services: &Services, topic: &str) -> Project {
    let header = format!(
        "kind: append\nsource: {{topic: {topic}, format: json}}\ncolumns:\n  id: {{type: bigint, not_null: true}}"
    );
    let project = Project::on_services(services, User::Root, &format!("topics-{}", services.nonce));
    std::fs::remove_dir_all(project.folder().join("sql")).unwrap();
    project.write("dags.yaml", "version: 1\n");
    project.write("sql/bronze/t.sql", &model(&header, "SELECT * FROM kafka.t"));
    project
}

fn produce(services: &Services, topic: &str, count: usize) {
    let producer: BaseProducer = services.client().create().unwrap();
    let deadline = Instant::now() + PATIENCE;
    for partition in 0..PARTITIONS {
        for id in 0..count {
            let payload = format!(r#"{{"id":{id}}}"#);
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

fn rows(project: &Project) -> String {
    let sql = "SELECT count(*) AS n FROM bronze.t";
    project.run(&["query", "--output", "csv", sql]).stdout
}

/// The worker went on at offset 150 of the new topic, and 300 messages never arrived.
#[test]
fn a_topic_recreated_under_a_running_worker_is_not_ingested_as_the_old_one() {
    let name = "topics::a_topic_recreated_under_a_running_worker_is_not_ingested_as_the_old_one";
    let Some(services) = services(name) else { return };
    let topic = format!("recreated-{}", services.nonce);
    services.create_topic(&topic, PARTITIONS);
    let project = project(&services, &topic);
    produce(&services, &topic, BEFORE);
    let mut command = project.command(&["ingest", "--set", "ingest.flush_age_ms_max=300"]);
    let mut worker = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while rows(&project) != format!("n\n{}\n", 2 * BEFORE) {
        assert!(began.elapsed() < PATIENCE, "{}", rows(&project));
        std::thread::sleep(Duration::from_millis(200));
    }
    services.delete_topic(&topic);
    services.create_topic(&topic, PARTITIONS);
    produce(&services, &topic, AFTER);
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
    let again = project.run(&["ingest", "--once"]);
    assert_eq!(again.code, Some(4), "{}", again.stderr);
    assert_eq!(rows(&project), format!("n\n{}\n", 2 * BEFORE));
    // The audit was clean.
    let audit = project.run(&["audit"]);
    assert_eq!(audit.code, Some(1), "{}", audit.stdout);
    assert!(audit.stderr.contains("the topic was recreated"), "{}", audit.stderr);
}
