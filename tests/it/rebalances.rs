//! Workers that come and go on a real broker, in each of the ways that a group shares partitions
//! out: as a whole, step by step, and by the broker (KIP-848). Every partition goes on, whoever has
//! it, and nothing is lost, doubled or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Project, kept_folder, model};
use crate::services::{Services, services};
use crate::traffic::{Outgoing, Sender};
use crate::workers::{PATIENCE, Worker, held, is_rebalance, partitions_of, says};

const PARTITIONS: i32 = 6;
/// Partitions come to their ends between two messages, which is where a rebalance once lost the
/// next one.
const PAUSE: Duration = Duration::from_millis(30);

#[test]
fn a_group_that_rebalances_as_a_whole_loses_nothing() {
    check("eager", "session.timeout.ms=6000");
}

/// The first worker took the partitions that were new for all that it had, and ended with "the next
/// offset is not in the log", or fetched no more of the others.
#[test]
fn a_group_that_rebalances_step_by_step_keeps_what_stays() {
    check("cooperative-sticky", "partition.assignment.strategy=cooperative-sticky");
}

#[test]
fn a_group_that_the_broker_rebalances_keeps_what_stays() {
    check("consumer", "group.protocol=consumer");
}

/// The broker tells a member of nothing if it gets no partitions: it waited to be told, and passed
/// for one that does not work.
#[test]
fn a_worker_without_partitions_works() {
    let Some(services) = services("rebalances::a_worker_without_partitions_works") else { return };
    for (way, options) in [("eager", ""), ("consumer", "group.protocol=consumer")] {
        let topic = format!("standby-{way}-{}", services.nonce);
        services.create_topic(&topic, 1);
        let project = project(&services, &topic, options);
        let logs = kept_folder(&format!("standby-{way}"));
        let mut workers = [0, 1].map(|number| Worker::start(&project, &logs, number));
        for worker in &mut workers {
            worker.wait_for("standing", 0, |lines| {
                lines.iter().any(|line| says(line, "partitions taken over"))
            });
        }
        workers.iter_mut().for_each(|worker| drop(end(worker)));
    }
}

fn project(services: &Services, topic: &str, options: &str) -> Project {
    let header = format!(
        "kind: append\nsource: {{topic: {topic}, format: json}}\ncolumns:\n  \
         id: {{type: bigint, not_null: true}}"
    );
    Project::of_models(&[("bronze/t", &model(&header, "SELECT * FROM kafka.t"))])
        .with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", &services.kafka)
        .with("FLOWGUARD_KAFKA_OPTIONS", options)
        .with("FLOWGUARD_KAFKA_GROUP_PREFIX", topic)
        .with("FLOWGUARD_INGEST_FLUSH_AGE_MS_MAX", "200ms")
        .with("FLOWGUARD_LOG_FORMAT", "json")
}

fn check(way: &str, options: &str) {
    let Some(services) = services(&format!("rebalances::{way}")) else { return };
    let topic = format!("rebalances-{way}-{}", services.nonce);
    services.create_topic(&topic, PARTITIONS);
    let project = project(&services, &topic, options);
    let logs = kept_folder(&format!("rebalances-{way}"));
    let stop = AtomicBool::new(false);
    let (sent, said) = thread::scope(|scope| {
        let producing = scope.spawn(|| produce(&services, &topic, &stop));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            come_and_go(&project, &topic, &logs)
        }));
        stop.store(true, Ordering::Relaxed);
        let sent = producing.join().expect("the producer's own panic is printed above");
        (sent, ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    project.run(&["ingest", "--once"]).succeeded();

    let counted = project.query("SELECT count(*) AS n, count(DISTINCT id) AS d FROM bronze.t");
    assert_eq!(counted, [[sent.to_string(), sent.to_string()]]);
    project.run(&["audit", "--payloads"]).succeeded();
    let lines = said.iter().flatten();
    // Of the group's own troubles librdkafka makes nothing.
    let is_trouble = |line: &&Value| {
        (line["level"] == "ERROR" || line["level"] == "WARN")
            && !says(line, "kafka error, librdkafka goes on")
    };
    let trouble: Vec<&Value> = lines.clone().filter(is_trouble).collect();
    assert!(trouble.is_empty(), "{trouble:#?}");
    let moves = |message: &str| -> Vec<BTreeSet<i32>> {
        let about = lines.clone().filter(|line| is_rebalance(line, &topic) && says(line, message));
        about.map(partitions_of).collect()
    };
    // What stays is not taken over again: its owner's number is what it was.
    let (assigned, revoked) = (moves("partitions assigned"), moves("partitions revoked"));
    let taken_over =
        assigned.iter().map(BTreeSet::len).sum::<usize>() as i64 + i64::from(PARTITIONS);
    assert_eq!(owners(&project).values().sum::<i64>(), taken_over, "{assigned:?}");
    let is_whole = |partitions: &BTreeSet<i32>| partitions.len() == PARTITIONS as usize;
    assert_eq!(revoked.iter().filter(|given| is_whole(given)).count() > 1, way == "eager");
}

/// Numbered messages, one after the other, round the partitions; how many.
fn produce(services: &Services, topic: &str, stop: &AtomicBool) -> i64 {
    let sender = Sender::plain(services);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        sender.send(&Outgoing {
            topic: topic.to_owned(),
            partition: (sent % i64::from(PARTITIONS)) as i32,
            key: String::new(),
            payload: Some(format!(r#"{{"id":{sent}}}"#).into_bytes()),
            timestamp_ms: None,
        });
        sent += 1;
        thread::sleep(PAUSE);
    }
    sender.flush();
    sent
}

/// Three workers, of which one is there first, two work side by side, and another one stays last;
/// what they logged.
fn come_and_go(project: &Project, topic: &str, logs: &std::path::Path) -> Vec<Vec<Value>> {
    let start = |number| Worker::start(project, logs, number);
    let mut workers = vec![start(0)];
    share(&mut workers, project, topic);
    workers.push(start(1));
    share(&mut workers, project, topic);
    workers.push(start(2));
    share(&mut workers, project, topic);
    let mut said = Vec::new();
    for left in [1, 0] {
        let mut worker = workers.remove(left);
        said.push(end(&mut worker));
        share(&mut workers, project, topic);
    }
    said.push(end(&mut workers[0]));
    said
}

/// Waits until the workers have all partitions between them, each some, and each partition goes on.
fn share(workers: &mut [Worker<'_>], project: &Project, topic: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shares: Vec<BTreeSet<i32>> =
            workers.iter().map(|worker| held(&worker.said_lines(), topic)).collect();
        let all: BTreeSet<i32> = shares.iter().flatten().copied().collect();
        let count: usize = shares.iter().map(BTreeSet::len).sum();
        let is_whole = all.len() == PARTITIONS as usize && count == all.len();
        if is_whole && shares.iter().all(|share| !share.is_empty()) {
            break;
        }
        workers.iter_mut().for_each(Worker::assert_alive);
        assert!(Instant::now() < deadline, "{shares:?}");
        thread::sleep(Duration::from_millis(50));
    }
    let before = next_offsets(project);
    loop {
        let now = next_offsets(project);
        let moved = now
            .iter()
            .filter(|(partition, next)| **next > before.get(*partition).copied().unwrap_or(-1));
        if moved.count() == PARTITIONS as usize {
            return;
        }
        workers.iter_mut().for_each(Worker::assert_alive);
        assert!(Instant::now() < deadline, "{before:?} {now:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn end(worker: &mut Worker<'_>) -> Vec<Value> {
    worker.signal("TERM");
    let status = worker.process.wait().expect("the worker ends");
    assert!(status.success(), "{status}: {}", worker.last_words());
    worker.said_lines()
}

/// Transactions of the bronze table by partition, of those whose name has `kind`.
fn transactions(project: &Project, is_meant: impl Fn(&str) -> bool) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    let log = project.folder().join(".flowguard/bronze/t/_delta_log");
    let Ok(entries) = std::fs::read_dir(log) else { return found };
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        for line in std::fs::read_to_string(entry).unwrap().lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            let Some(id) = action["txn"]["appId"].as_str().filter(|id| is_meant(id)) else {
                continue;
            };
            let partition = id.rsplit('/').next().unwrap().to_owned();
            found.insert(partition, action["txn"]["version"].as_i64().unwrap());
        }
    }
    found
}

fn next_offsets(project: &Project) -> BTreeMap<String, i64> {
    transactions(project, |id| id.split('/').count() == 4)
}

/// How many owners each partition has had.
fn owners(project: &Project) -> BTreeMap<String, i64> {
    transactions(project, |id| id.contains("/epoch/"))
}
