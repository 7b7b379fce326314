//! Topics of very many partitions, which are taken over together, and batches that would have long
//! ledgers, which are committed before.

use std::sync::atomic::{AtomicBool, Ordering};

use flowguard::ingest::batch::take_over;
use serde_json::Value;

use crate::faulty_store::{Fault, FaultyStore};
use crate::program::{Project, model};
use crate::services::{say, services};
use crate::topic_in_memory::{Header, World, slots};
use crate::traffic::{Outgoing, Sender};

const PARTITIONS: usize = 1_000;

/// What taking `partitions` over takes, after a worker died between its dead letters and its rows.
async fn taken_over(partitions: usize) -> FaultyStore {
    let world = World::new(slots(&vec!["gmg"; partitions])).await;
    let has_rows = AtomicBool::new(false);
    let dying = world.store(move |operation| {
        let is_of_rows = operation.path.contains("bronze/messages/");
        has_rows.fetch_or(is_of_rows && operation.path.ends_with(".parquet"), Ordering::Relaxed);
        match is_of_rows && operation.is_log_entry() && has_rows.load(Ordering::Relaxed) {
            true => Fault::Death,
            false => Fault::None,
        }
    });
    let dead = world.worker(dying.clone(), Header::Wide);
    world.consume(&dead, 10 * PARTITIONS).await.unwrap_err();
    let store = world.store(|_| Fault::None);
    let ids: Vec<i32> = (0..partitions as i32).collect();
    let taken = take_over(&world.worker(store.clone(), Header::Wide), &ids, |_| 0).await.unwrap();
    for (partition, progress) in &taken {
        let rejected: Vec<i64> = progress.known_rejects().iter().copied().collect();
        assert_eq!((progress.next(), progress.epoch, rejected), (0, 2, vec![1]), "{partition}");
    }
    assert_eq!(taken.len(), partitions);
    store
}

/// Each of them had a replay of both logs, and a query of the dead letters, for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_partitions_are_taken_over_as_few_are() {
    let (few, many) = (taken_over(2).await, taken_over(PARTITIONS).await);
    for store in [&few, &many] {
        let log = store.log();
        let commits = log.lines().filter(|line| {
            let put = line.split_whitespace().nth(1) == Some("Put");
            put && line.contains("/_delta_log/") && line.contains(".json ")
        });
        assert_eq!(commits.count(), 2, "the owners' numbers of both tables\n{log}");
    }
    assert_eq!(many.operations(), few.operations(), "{}\n\n{}", few.log(), many.log());
}

fn project(broker: &str, topic: &str) -> Project {
    let header = format!(
        "kind: append\ntime: at\nsource: {{topic: {topic}, format: json}}\n\
         columns:\n  at: {{type: timestamp, not_null: true}}"
    );
    Project::of_models(&[("bronze/t", &model(&header, "SELECT * FROM kafka.t"))])
        .with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", broker)
        .with("FLOWGUARD_KAFKA_GROUP_PREFIX", topic)
        .with("FLOWGUARD_LOG_FORMAT", "json")
}

fn send(sender: &Sender, topic: &str, partition: usize, hour: usize) {
    let at = chrono::DateTime::from_timestamp(hour as i64 * 3_600, 0).unwrap();
    sender.send(&Outgoing {
        topic: topic.to_owned(),
        partition: partition as i32,
        key: String::new(),
        payload: Some(format!(r#"{{"at":"{}"}}"#, at.to_rfc3339()).into_bytes()),
        timestamp_ms: None,
    });
}

/// The ledgers of bronze, oldest first.
fn ledgers(project: &Project) -> Vec<Value> {
    let log = project.folder().join(".flowguard/bronze/t/_delta_log");
    let entries = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let mut entries: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    entries.sort();
    let ledger = |entry: &std::path::PathBuf| {
        let text = std::fs::read_to_string(entry).unwrap();
        let actions = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        actions.into_iter().find_map(|action| action["commitInfo"].get("flowguard").cloned())
    };
    entries.iter().filter_map(ledger).collect()
}

#[test]
fn a_thousand_partitions_are_taken_over_in_two_commits() {
    let name = "partitions::a_thousand_partitions_are_taken_over_in_two_commits";
    let Some(services) = services(name) else { return };
    let topic = format!("many-{}", services.nonce);
    services.create_topic(&topic, PARTITIONS as i32);
    let sender = Sender::plain(&services);
    let project = project(&services.kafka, &topic);
    let mut commits = Vec::new();
    for round in 0..2 {
        (0..PARTITIONS).for_each(|partition| send(&sender, &topic, partition, round));
        sender.flush();
        let ingested = project.run(&["ingest", "--once"]).succeeded();
        let lines = ingested.stderr.lines();
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_meant =
            |line: &Value| line["message"] == "partitions taken over" && line["partitions"] != 0;
        let took_over: Vec<Value> = lines.filter(is_meant).collect();
        let [took_over] = took_over.as_slice() else { panic!("{}", ingested.stderr) };
        assert_eq!(took_over["partitions"], PARTITIONS, "{took_over}");
        say(&format!("{PARTITIONS} partitions were taken over in {} ms", took_over["took_ms"]));
        commits.push(ledgers(&project).len());
    }
    let rows = (2 * PARTITIONS).to_string();
    assert_eq!(project.query("SELECT count(*) AS n FROM bronze.t"), [[rows]]);
    // The owners' numbers, and the rows.
    assert_eq!(commits[1] - commits[0], 2);
}

/// A batch of messages that are years apart had an hour in its ledger for each of them.
#[test]
fn a_batch_ends_before_its_ledger_is_long() {
    const HOURS: usize = 10_000;
    /// Of a poll.
    const MORE: usize = 512;
    let Some(services) = services("partitions::a_batch_ends_before_its_ledger_is_long") else {
        return;
    };
    let topic = format!("years-{}", services.nonce);
    services.create_topic(&topic, 1);
    let sender = Sender::plain(&services);
    (0..HOURS).for_each(|hour| send(&sender, &topic, 0, 2 * hour));
    sender.flush();
    let project = project(&services.kafka, &topic);
    project.run(&["ingest", "--once"]).succeeded();
    let touched: Vec<usize> = ledgers(&project)
        .iter()
        .filter_map(|ledger| Some(ledger.get("touched")?.as_array()?.len()))
        .collect();
    assert_eq!(touched.iter().sum::<usize>(), HOURS, "{touched:?}");
    assert!(touched.iter().all(|hours| *hours < 4_096 + MORE), "{touched:?}");
    project.run(&["audit"]).succeeded();
}
