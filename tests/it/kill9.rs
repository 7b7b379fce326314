//! Exactly once under `kill -9` on real Kafka and real MinIO, in one of the ways that a group shares
//! partitions out: two workers are killed at random moments and started again, one is stopped until
//! its partitions have another owner and then woken, the broker restarts, a topic grows, and
//! transactions are aborted, while messages of every kind come in. Afterwards the lake must hold what a plain consumer is given.
//!
//! `FLOWGUARD_TEST_SEED` repeats the choices, not the machine's timing; `FLOWGUARD_TEST_MOMENTS` is
//! how often somebody is killed.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flowguard::demo::events::{Event, Options, Topic, history};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;

use crate::checker::check;
use crate::program::{CLICKS, ORDERS, Project, kept_folder};
use crate::services::{Broker, Services, User, say, services};
use crate::traffic::{Outgoing, Sender, read_all};
use crate::workers::{PATIENCE, Worker, held, is_rebalance, says};

const KILLS: u32 = 50;
/// The seed says which: they cannot meet in one group. A member that is silent is soon given up.
const PROTOCOLS: [&str; 3] = [
    "session.timeout.ms=1200;heartbeat.interval.ms=200",
    "session.timeout.ms=1200;heartbeat.interval.ms=200;\
     partition.assignment.strategy=cooperative-sticky",
    "group.protocol=consumer",
];
/// Of the third, where the broker says it.
const SESSIONS: &str = "group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=1200
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=200
";
/// So many kills that no machine would come to the end of the history of events.
const MOMENTS_MAX: u32 = 1_000;
/// At these kills something else happens first.
const ZOMBIES_AT: [u32; 3] = [10, 25, 40];
const ZOMBIES_MORE: u32 = 3;
const SUPERSEDED: &str = "offsets moved";
const GROWTH_AT: u32 = 18;
const BROKER_RESTART_AT: u32 = 32;
/// At these kills the lake is audited while both workers are dead: no moment is an excuse.
const AUDITS_AT: [u32; 5] = [5, 14, 22, 30, 44];
const ORDERS_PARTITIONS: i32 = 3;
const ORDERS_PARTITIONS_GROWN: i32 = 5;
const CLICKS_PARTITIONS: i32 = 6;
/// Small, so that an oversized message is cheap.
const MESSAGE_BYTES_MAX: usize = 2_048;

/// The same choices for the same seed.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(purpose);
        Self(random)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn between_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

pub fn seed() -> u64 {
    let seed = std::env::var("FLOWGUARD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    seed.unwrap_or(20_260_105)
}

/// Another one in each run, unless it is given.
pub fn new_seed() -> u64 {
    match std::env::var("FLOWGUARD_TEST_SEED") {
        Ok(_) => seed(),
        Err(_) => uuid::Uuid::new_v4().as_u128() as u64 % 1_000_000,
    }
}

/// How many moments of death whoever has hours asks for.
pub fn moments() -> Option<u32> {
    let moments = std::env::var("FLOWGUARD_TEST_MOMENTS").ok()?;
    Some(moments.parse().expect("`FLOWGUARD_TEST_MOMENTS` is a number"))
}

#[test]
fn exactly_once_under_kill_9() {
    let Some(services) = services("kill9::exactly_once_under_kill_9") else { return };
    // Nobody else would like its restart.
    let broker = Broker::start_with(SESSIONS);
    let services = Services { kafka: broker.address.clone(), ..services };
    let seed = seed();
    let protocol = PROTOCOLS[(seed % PROTOCOLS.len() as u64) as usize];
    let kills = moments().unwrap_or(KILLS).clamp(KILLS, MOMENTS_MAX);
    let logs = kept_folder("kill9");
    say(&format!("kill9: FLOWGUARD_TEST_SEED={seed}, {protocol}, logs in {}", logs.display()));
    let project = Project::on_services(&services, User::Root, &format!("kill9-{}", services.nonce))
        .with("FLOWGUARD_INGEST_FLUSH_ROWS_MAX", "400")
        .with("FLOWGUARD_INGEST_FLUSH_AGE_MS_MAX", "300ms")
        .with("FLOWGUARD_INGEST_MESSAGE_BYTES_MAX", &MESSAGE_BYTES_MAX.to_string())
        .with("FLOWGUARD_LOG_FORMAT", "json")
        .with(
            "FLOWGUARD_KAFKA_OPTIONS",
            &format!("{protocol};topic.metadata.refresh.interval.ms=1000"),
        );
    let topics = [ORDERS, CLICKS].map(|topic| Project::topic(&services, topic));
    services.create_topic(&topics[0], ORDERS_PARTITIONS);
    services.create_topic(&topics[1], CLICKS_PARTITIONS);

    let traffic = Traffic {
        topics: topics.clone(),
        orders_partitions: AtomicI32::new(ORDERS_PARTITIONS),
        stop: AtomicBool::new(false),
    };
    let began = Instant::now();
    let sent = thread::scope(|scope| {
        let producing = scope.spawn(|| produce(&services, &traffic, seed));
        let stopped = StopOnDrop(&traffic.stop);
        kill_and_restart((&services, &broker), &project, &traffic, &logs, (seed, kills));
        drop(stopped);
        producing.join().expect("the producer's own panic is printed above")
    });
    let drained = project.run(&["ingest", "--once", "--output", "json"]).succeeded();
    let (commits, superseded) = (count(&logs, "batch committed"), count(&logs, SUPERSEDED));
    let left: Value = serde_json::from_str(&drained.stdout).expect("the report is JSON");
    let left: u64 = (0..2).filter_map(|table| left["tables"][table]["rows"].as_u64()).sum();

    let delivered = read_all(&services, &[&topics[0], &topics[1]]);
    let verdict = check(&project, &delivered, MESSAGE_BYTES_MAX);
    say(&format!(
        "kill9: {kills} kills in {:.0} s; {} messages in {} transactions ({} aborted); {commits} \
         batches committed, {superseded} given up to another owner, {left} rows left for the end; \
         {} rows, {} dead letters",
        began.elapsed().as_secs_f64(),
        sent.messages,
        sent.transactions,
        sent.aborted,
        verdict.rows,
        verdict.dead_letters,
    ));
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.rows + verdict.dead_letters, delivered.len());
    // The lake must have been filled under fire, not by the quiet drain at the end.
    assert!((left as usize) < delivered.len() / 2, "{left} of {} rows", delivered.len());
    assert!(commits > u64::from(kills), "{commits} batches");
    assert!(superseded > 0, "no zombie tried to commit what it still held");
    assert!(verdict.dead_letters > 100 && sent.aborted > 10, "{verdict:?} {sent:?}");
    let partitions = (ORDERS_PARTITIONS_GROWN + CLICKS_PARTITIONS).to_string();
    for arguments in [&["audit"][..], &["audit", "--offline"]] {
        let audit = project.run(arguments).succeeded();
        let said = format!("every offset of {partitions} partitions is accounted for\n");
        assert_eq!(audit.stderr, said, "{}", audit.stdout);
    }
}

/// Lines of the workers' logs that hold `text`.
fn count(logs: &Path, text: &str) -> u64 {
    let files = std::fs::read_dir(logs).expect("the workers have logs");
    files
        .map(|file| std::fs::read_to_string(file.expect("a log").path()).unwrap_or_default())
        .map(|log| log.lines().filter(|line| line.contains(text)).count() as u64)
        .sum()
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn kill_and_restart(
    (services, broker): (&Services, &Broker),
    project: &Project,
    traffic: &Traffic,
    logs: &Path,
    (seed, kills): (u64, u32),
) {
    let mut random = Random::new(seed, 1);
    let mut workers = [0, 1].map(|number| Worker::start(project, logs, number));
    let mut restarting = None;
    for kill in 0..kills {
        // Where everything takes longer, so does the time between two kills: it is not the idle
        // who are to die.
        await_batches(logs, u64::from(kill) + 1);
        thread::sleep(random.between_ms(300, 2_700));
        let victim = random.below(2) as usize;
        if ZOMBIES_AT.contains(&kill) {
            let [one, other] = &mut workers;
            let (zombie, heir) = if victim == 0 { (one, other) } else { (other, one) };
            wake_after_reassignment(zombie, heir);
            // One that was stopped between two batches holds nothing.
            for _ in 0..ZOMBIES_MORE {
                if count(logs, SUPERSEDED) == 0 {
                    wake_after_reassignment(zombie, heir);
                }
            }
        }
        if kill == GROWTH_AT {
            services.grow_topic(&traffic.topics[0], ORDERS_PARTITIONS_GROWN as usize);
            traffic.orders_partitions.store(ORDERS_PARTITIONS_GROWN, Ordering::Relaxed);
        }
        if kill == BROKER_RESTART_AT {
            // The kills go on while the broker is away.
            let mut restart = broker.restart();
            restarting = Some(restart.stderr(Stdio::null()).spawn().expect("the script starts"));
        }
        workers[victim].kill();
        let audits = AUDITS_AT.contains(&kill);
        if audits || random.below(8) == 0 {
            workers[1 - victim].kill();
            if audits {
                project.run(&["audit"]).succeeded();
            }
            workers[1 - victim].restart();
        }
        workers[victim].restart();
    }
    if let Some(mut restarting) = restarting {
        assert!(restarting.wait().expect("the script ends").success());
    }
    for worker in &mut workers {
        // The one started last may not listen to signals yet.
        worker.wait_for("partitions", 0, |lines| {
            lines.iter().any(|line| says(line, "partitions assigned"))
        });
        worker.signal("TERM");
    }
    for worker in &mut workers {
        let status = worker.process.wait().expect("the worker ends");
        assert!(status.success(), "{status} after SIGTERM: {}", worker.last_words());
    }
}

/// Waits for so many batches, but not forever: the end of the test counts them.
fn await_batches(logs: &Path, batches: u64) {
    let deadline = Instant::now() + PATIENCE;
    while count(logs, "batch committed") < batches && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
}

/// Stops `zombie` in the midst of its work, waits until `heir` has all partitions and has committed
/// from them, and wakes it up: what it still holds must not count.
fn wake_after_reassignment(zombie: &mut Worker<'_>, heir: &mut Worker<'_>) {
    zombie.wait_for("a commit and partitions of both topics", 0, |lines| {
        let holds = |topic| !held(lines, topic).is_empty();
        holds(ORDERS) && holds(CLICKS) && lines.iter().any(|line| says(line, "batch committed"))
    });
    heir.assert_alive();
    let since = heir.lines();
    zombie.signal("STOP");
    heir.wait_for("all partitions", 0, |lines| {
        let last = |message| lines.iter().rposition(|line| says(line, message));
        let takes = |topic, partitions: i32| {
            let mut new = lines[since..].iter().filter(|line| is_rebalance(line, topic));
            let has_more = new.any(|line| says(line, "partitions assigned"));
            has_more && held(lines, topic).len() >= partitions as usize
        };
        takes(ORDERS, ORDERS_PARTITIONS)
            && takes(CLICKS, CLICKS_PARTITIONS)
            && last("batch committed") > last("partitions assigned")
    });
    let since = zombie.lines();
    zombie.signal("CONT");
    // Giving up partitions comes after the attempt to commit what was held of them.
    zombie.wait_for("another assignment of both topics", since, |lines| {
        [ORDERS, CLICKS].iter().all(|topic| lines.iter().any(|line| is_rebalance(line, topic)))
    });
}

/// What the producer and the test share.
struct Traffic {
    topics: [String; 2],
    orders_partitions: AtomicI32,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Sent {
    messages: u64,
    transactions: u64,
    aborted: u64,
}

/// Sends good, repeated and malformed messages in rounds, until it is stopped: most of them plainly,
/// some in transactions, some of those aborted.
fn produce(services: &Services, traffic: &Traffic, seed: u64) -> Sent {
    let options = Options { days: 7, orders: 400_000, clicks: 600_000, seed, ..Options::default() };
    let mut events = history(&options);
    let mut random = Random::new(seed, 2);
    let plain = Sender::plain(services);
    let transactional = Sender::transactional(services);
    let mut earlier: VecDeque<Outgoing> = VecDeque::new();
    let mut sent = Sent::default();
    while !traffic.stop.load(Ordering::Relaxed) {
        let mut round = Vec::new();
        for _ in 0..20 + random.below(60) {
            let event = events.next().expect("the history is longer than the test");
            let good = outgoing(traffic, &event);
            match random.below(100) {
                0..4 => round.push(malformed(&good, &mut random)),
                4..8 if !earlier.is_empty() => {
                    round.push(earlier[random.below(earlier.len() as u64) as usize].clone());
                }
                _ => {}
            }
            earlier.push_back(good.clone());
            earlier.truncate(1_000);
            round.push(good);
        }
        sent.messages += round.len() as u64;
        match random.below(10) {
            kind @ 0..4 => {
                sent.transactions += 1;
                sent.aborted += u64::from(kind < 2);
                transactional.send_in_transaction(&round, kind >= 2);
            }
            _ => round.iter().for_each(|message| plain.send(message)),
        }
        thread::sleep(random.between_ms(10, 100));
    }
    plain.flush();
    sent
}

fn outgoing(traffic: &Traffic, event: &Event) -> Outgoing {
    let (topic, partitions) = match event.topic {
        Topic::Orders => (&traffic.topics[0], traffic.orders_partitions.load(Ordering::Relaxed)),
        Topic::Clicks => (&traffic.topics[1], CLICKS_PARTITIONS),
    };
    let hash = xxhash_rust::xxh3::xxh3_64(event.key.as_bytes());
    Outgoing {
        topic: topic.clone(),
        partition: (hash % u64::from(partitions.unsigned_abs())) as i32,
        key: event.key.clone(),
        payload: Some(event.payload.clone()),
        timestamp_ms: None,
    }
}

/// Another message like `good` that no row can be made of.
fn malformed(good: &Outgoing, random: &mut Random) -> Outgoing {
    let text = String::from_utf8_lossy(good.payload.as_deref().unwrap_or_default()).into_owned();
    let payload = match random.below(7) {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(text.into_bytes().into_iter().take(40).collect()),
        3 => Some(text.replace("\"user_id\"", "\"uid\"").into_bytes()),
        4 => Some(text.replace("\"user_id\":\"", "\"user_id\":7,\"rest\":\"").into_bytes()),
        5 => Some(vec![0xff, 0xfe, 0x00, random.below(256) as u8]),
        _ => Some(text.replace('{', &format!("{{{}", " ".repeat(MESSAGE_BYTES_MAX))).into_bytes()),
    };
    Outgoing { payload, ..good.clone() }
}
