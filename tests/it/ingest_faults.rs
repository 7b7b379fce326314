//! Ingestion on a store that fails: whatever is lost, repeated, late or dead, every offset arrives
//! once. Says nothing about Kafka, which a list stands in for; the last test runs the worker itself
//! on a mock broker.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use datafusion::prelude::col;
use flowguard::app::ingest::work;
use flowguard::clock::Clock;
use flowguard::error::{ErrorKind, Result};
use flowguard::ingest::Pipeline;
use flowguard::ingest::batch::{Written, take_over, write};
use flowguard::ingest::decode::UnknownFields;
use flowguard::ingest::open::{Batch, Progress, Taken};
use flowguard::ingest::worker::{self, OnTold, Until, WorkerReport};
use flowguard::kafka::{Assignments, Consumer, KafkaAccess, MockBroker, Producer, Record};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::faulty_store::{Fault, FaultyStore, Reply, Verb, death_at, mixed};
use crate::topic_in_memory::{
    End, Header, Random, Reader, Slot, TOPIC, World, engine, ensure_tables, slots, table, topic,
};

const NO_FAULT: fn(&crate::faulty_store::Operation<'_>) -> Fault = |_| Fault::None;
/// Restarts before a scenario is said to make no progress.
const RESTARTS_MAX: u64 = 100;

/// Small enough to stop it at every operation; every kind of message in the first batches.
const SMALL: [&str; 2] = ["gdgm.gtd", "mg.dggdg"];

/// Lives of a worker on a mock broker, where each costs seconds, before its store is well again.
const FAULTY_LIVES: u64 = 3;

/// What a process came to.
#[derive(Debug)]
enum Fate {
    Died,
    Ended(Result<End>),
}

async fn live(world: &World, store: &FaultyStore, header: Header, batch: usize) -> Fate {
    let worker = world.worker(store.clone(), header);
    tokio::select! {
        biased;
        () = store.died() => Fate::Died,
        ended = world.consume(&worker, batch) => {
            if store.is_dead() { Fate::Died } else { Fate::Ended(ended) }
        }
    }
}

/// Starts processes one after the other until one drains the topic.
async fn supervise(world: &World, batch: usize, mut store_of: impl FnMut(u64) -> FaultyStore) {
    let mut last = String::new();
    for life in 0..RESTARTS_MAX {
        let store = store_of(life);
        match live(world, &store, Header::Wide, batch).await {
            Fate::Ended(Ok(End::Drained)) => return,
            fate => last = format!("{fate:?} after\n{}", store.log()),
        }
    }
    panic!("no progress in {RESTARTS_MAX} lives, the last one {last}");
}

async fn assert_exactly_once(world: &World, scenario: &str) {
    if let Err(wrong) = world.verify().await {
        panic!("{scenario}:\n{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_before_any_operation_loses_and_doubles_nothing() {
    let slots = slots(&SMALL);
    let whole = World::new(slots.clone()).await;
    let store = whole.store(NO_FAULT);
    assert!(matches!(live(&whole, &store, Header::Wide, 6).await, Fate::Ended(Ok(End::Drained))));
    assert_exactly_once(&whole, "without faults").await;
    for index in 0..store.operations() {
        let world = World::new(slots.clone()).await;
        let dying = world.store(death_at(index));
        assert!(matches!(live(&world, &dying, Header::Wide, 6).await, Fate::Died), "{index}");
        supervise(&world, 6, |_| world.store(NO_FAULT)).await;
        assert_exactly_once(&world, &format!("death before\n{}", dying.log())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_death_after_another_still_ends_with_every_offset_once() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let world = World::new(topic(3, 40, seed)).await;
        supervise(&world, 13, |_| world.store(death_at(40 + random.below(240)))).await;
        assert_exactly_once(&world, &format!("deaths with seed {seed}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_every_kind_lose_and_double_nothing() {
    for seed in 0..8 {
        let world = World::new(topic(3, 40, seed)).await;
        supervise(&world, 9, |life| world.store(mixed(seed << 32 | life, 15))).await;
        assert_exactly_once(&world, &format!("faults with seed {seed}")).await;
    }
}

/// What landed although its reply was lost is recognised, and not written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_reply_is_lost_is_not_repeated() {
    for reply in
        [Reply::ConnectionReset, Reply::SlowDown, Reply::AlreadyExists, Reply::Precondition]
    {
        let world = World::new(topic(2, 20, 1)).await;
        let store = world.store(move |operation| match operation.is_log_entry() {
            true => Fault::After(reply),
            false => Fault::None,
        });
        let fate = live(&world, &store, Header::Wide, 7).await;
        assert!(matches!(fate, Fate::Ended(Ok(End::Drained))), "{reply:?}: {fate:?}");
        assert_exactly_once(&world, &format!("{reply:?}\n{}", store.log())).await;
    }
}

/// A worker that holds a read batch sleeps through a takeover and writes at every possible moment
/// of its successor's work.
async fn wake_a_zombie_at_every_moment(letters: &[&str], zombie: Header, successor: Header) {
    let slots = slots(letters);
    let counted = World::new(slots.clone()).await;
    let (_worker, _batch) = fall_asleep(&counted, zombie).await;
    let store = counted.store(NO_FAULT);
    live(&counted, &store, successor, 6).await;
    for index in 0..store.operations() {
        let world = World::new(slots.clone()).await;
        let (worker, batch) = fall_asleep(&world, zombie).await;
        let store = world.store(move |operation| match operation.index == index {
            true => Fault::Pause,
            false => Fault::None,
        });
        let wake = async {
            store.paused().await;
            let written = write(&worker, batch).await;
            store.resume();
            written
        };
        let (fate, written) = tokio::join!(live(&world, &store, successor, 6), wake);
        let landed = matches!(written, Ok(Written::Committed(_)));
        match fate {
            Fate::Ended(Ok(End::Drained)) => {}
            // The zombie was first after all; then its successor starts again.
            Fate::Ended(Ok(End::Superseded)) if landed => {
                supervise(&world, 6, |_| world.store(NO_FAULT)).await;
            }
            fate => panic!("woken at {index}: {fate:?}"),
        }
        let scenario = format!("{zombie:?} woken at {index}, landed: {landed}\n{}", store.log());
        assert_exactly_once(&world, &scenario).await;
    }
}

async fn fall_asleep(world: &World, header: Header) -> (Pipeline, Batch) {
    let worker = world.worker(world.store(NO_FAULT), header);
    let mut reader = world.take_over(&worker).await.unwrap();
    let batch = reader.next_batch(world, 9).unwrap().expect("the topic has messages");
    (worker, batch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_of_the_same_release_is_harmless() {
    wake_a_zombie_at_every_moment(&SMALL, Header::Wide, Header::Wide).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_that_rejects_what_its_successor_takes_is_harmless() {
    wake_a_zombie_at_every_moment(&SMALL, Header::Strict, Header::Wide).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_that_takes_what_its_successor_rejects_is_harmless() {
    wake_a_zombie_at_every_moment(&SMALL, Header::Wide, Header::Strict).await;
    // Without a reject of its own, the zombie's batch never meets the dead letters.
    wake_a_zombie_at_every_moment(&["gdggdg", "ggdgg"], Header::Wide, Header::Strict).await;
}

/// Two workers that both believe to own all partitions, as in a rebalance that goes wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_on_the_same_partitions_double_nothing() {
    for seed in 0..4 {
        let world = World::new(topic(3, 60, seed)).await;
        let contend = |header: Header, number: u64| {
            let store = world.store(mixed(seed * 2 + number, 10));
            let world = &world;
            async move {
                let worker = world.worker(store, header);
                for _ in 0..4 {
                    if let Ok(End::Drained) = world.consume(&worker, 7).await {
                        break;
                    }
                }
            }
        };
        tokio::join!(contend(Header::Wide, 0), contend(Header::Strict, 1));
        supervise(&world, 50, |_| world.store(NO_FAULT)).await;
        assert_exactly_once(&world, &format!("two workers with seed {seed}")).await;
    }
}

/// Files large enough to be uploaded in parts, whose parts, completion and abort fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_uploads_leave_nothing_behind_that_counts() {
    for (torn, fault) in [
        (Verb::Begin, Fault::Before(Reply::SlowDown)),
        (Verb::Part, Fault::Before(Reply::ConnectionReset)),
        (Verb::Complete, Fault::Before(Reply::SlowDown)),
        (Verb::Complete, Fault::After(Reply::ConnectionReset)),
    ] {
        let mut random = Random(7);
        let noise: String =
            (0..12 << 20).map(|_| (b' ' + random.below(90) as u8) as char).collect();
        let noise = noise.replace(['"', '\\'], "'");
        let large = format!(r#"{{"id":"large","n":1,"pad":"{noise}"}}"#);
        let mut slots = slots(&["gm"]);
        slots[0].push(Slot::Disputed(large.into_bytes()));
        let world = World::new(slots).await;
        let store = world.store(move |operation| match operation.verb {
            Verb::Abort => Fault::Before(Reply::SlowDown),
            verb if verb == torn => fault,
            _ => Fault::None,
        });
        let fate = live(&world, &store, Header::Wide, 10).await;
        assert!(matches!(fate, Fate::Ended(Err(_))), "{torn:?} {fault:?}: {fate:?}");
        assert!(store.log().contains(&format!("{torn:?}")), "{}", store.log());
        supervise(&world, 10, |_| world.store(NO_FAULT)).await;
        assert_exactly_once(&world, &format!("{torn:?} {fault:?}")).await;
    }
}

/// The checker must see what the faults must not do: here they are done on purpose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_sees_a_batch_committed_twice() {
    let world = World::new(slots(&["ggggg"])).await;
    let worker = world.worker(world.store(NO_FAULT), Header::Wide);
    let batch = |reader: &mut Reader| reader.next_batch(&world, 5).unwrap().unwrap();
    let mut reader = world.take_over(&worker).await.unwrap();
    write(&worker, batch(&mut reader)).await.unwrap();
    // A transaction that was skipped: the batch expects what is found, whatever that is.
    let mut repeated = world.take_over(&worker).await.unwrap();
    let found = repeated.0.partitions()[&0].clone();
    let taken = Taken {
        committed: found.committed,
        dead_committed: found.dead_committed,
        epoch: found.epoch,
        mark: found.mark().0,
        ..Taken::default()
    };
    repeated.0.restart([(0, Progress::at(0, taken))]).unwrap();
    write(&worker, batch(&mut repeated)).await.unwrap();
    let wrong = world.verify().await.unwrap_err();
    let first = "(0, 0) Good: found [\"messages 0-0,0,\", \"messages 0-0,0,\"]";
    assert_eq!(wrong.lines().next(), Some(first));
    let audits = world.audit().await;
    assert_eq!((audits[0].duplicates, audits[0].unaccounted), (5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_sees_a_batch_that_was_skipped() {
    let world = World::new(slots(&["ggmgg"])).await;
    let worker = world.worker(world.store(NO_FAULT), Header::Wide);
    let mut reader = world.take_over(&worker).await.unwrap();
    let mut mark = None;
    for is_lost in [false, true, false] {
        let batch = reader.next_batch(&world, 2).unwrap().unwrap();
        if is_lost {
            // The transaction goes on as if the rows had been committed.
            let lost = reader.0.partitions()[&0].clone();
            let taken = Taken { committed: Some(2), epoch: lost.epoch, mark, ..Taken::default() };
            reader.0.restart([(0, Progress::at(lost.next(), taken))]).unwrap();
        } else {
            mark = Some(batch.partitions[0].1.mark().1);
            write(&worker, batch).await.unwrap();
        }
    }
    let wrong = world.verify().await.unwrap_err();
    assert_eq!(
        wrong.lines().take(2).collect::<Vec<_>>(),
        ["(0, 2) Malformed: found []", "(0, 3) Good: found []"]
    );
    let audits = world.audit().await;
    assert_eq!((audits[0].duplicates, &audits[0].unaccounted_ranges), (0, &vec![[2, 4]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_the_group_without_partitions_commits_nothing() {
    let world = World::new(slots(&["g"])).await;
    let worker = world.worker(world.store(NO_FAULT), Header::Wide);
    ensure_tables(&worker).await.unwrap();
    let taken = take_over(&worker, &[], |_| 0).await.unwrap();
    assert_eq!((taken.len(), newest_version(&world).await), (0, 0));
    take_over(&worker, &[0], |_| 0).await.unwrap();
    assert_eq!(newest_version(&world).await, 1);
}

async fn newest_version(world: &World) -> u64 {
    world.lake().snapshot(&table()).await.unwrap().unwrap().version()
}

/// For several members on a mock broker. It lets a rebalance take as long as a session may, less one
/// second; a member that waits longer, on a slow machine, gets no answer, and asks again when its
/// poll interval is over.
fn group_access(broker: &MockBroker) -> KafkaAccess {
    let mut kafka = broker.access();
    for option in ["session.timeout.ms", "max.poll.interval.ms"] {
        kafka.options.insert(option.to_owned(), "6000".to_owned());
    }
    kafka
}

/// The worker itself, with its batch in flight, its rebalances and its restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_on_a_mock_broker_and_a_failing_store_ingest_every_offset_once() {
    const SEED: u64 = 1;
    // The mock broker writes no control records, so there are no holes.
    let letters: Vec<String> = (0..3).map(|_| "ggmggdgtgg".repeat(30)).collect();
    let world = World::new(slots(&letters.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let broker = MockBroker::start(&[(TOPIC, 3)]).unwrap();
    produce(&broker.access(), &world);
    let work = |worker: u64| {
        let world = &world;
        let kafka = group_access(&broker);
        async move {
            for life in 0..=FAULTY_LIVES {
                let per_mille = if life < FAULTY_LIVES { 20 } else { 0 };
                let store = world.store(mixed(SEED << 32 | worker << 16 | life, per_mille));
                let mut pipeline = world.worker(store, Header::Wide);
                pipeline.kafka = kafka.clone();
                match run_worker(pipeline).await {
                    Ok(_) => return,
                    Err(error) if life == FAULTY_LIVES => panic!("without faults: {error:?}"),
                    Err(_) => {}
                }
            }
        }
    };
    tokio::join!(work(0), work(1));
    assert_exactly_once(&world, &format!("a mock broker with seed {SEED}")).await;
}

/// What a consumer was told about its partitions, which are always read from the beginning.
#[derive(Default)]
struct Told {
    assigned: Mutex<BTreeSet<i32>>,
    revoked: AtomicU64,
}

impl Told {
    fn assigned(&self) -> usize {
        self.assigned.lock().unwrap().len()
    }
}

impl Assignments for Told {
    fn assigned(&self, partitions: &[i32]) -> Vec<(i32, Option<i64>)> {
        self.assigned.lock().unwrap().extend(partitions);
        partitions.iter().map(|partition| (*partition, None)).collect()
    }

    fn revoked(&self, partitions: &[i32]) {
        self.assigned.lock().unwrap().retain(|partition| !partitions.contains(partition));
        self.revoked.fetch_add(1, Ordering::Relaxed);
    }
}

struct Member {
    consumer: Consumer,
    told: Arc<Told>,
}

impl Member {
    fn join(kafka: &KafkaAccess) -> Self {
        let told = Arc::new(Told::default());
        let assignments = Arc::clone(&told) as Arc<dyn Assignments>;
        let consumer = Consumer::subscribe(kafka, TOPIC, "test", 1 << 20, assignments).unwrap();
        Self { consumer, told }
    }

    /// Polls until `is_done`, which sees the partitions heard from since the last revocation.
    fn poll_until(&mut self, is_done: impl Fn(&Told, &BTreeSet<i32>) -> bool) {
        let begun = Instant::now();
        let mut heard = BTreeSet::new();
        let mut revoked = self.told.revoked.load(Ordering::Relaxed);
        while !is_done(&self.told, &heard) {
            let assigned = self.told.assigned();
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(60), "heard {heard:?} of {assigned} partitions");
            let polled = self.consumer.poll(Duration::from_millis(10)).unwrap();
            let now = self.told.revoked.load(Ordering::Relaxed);
            if std::mem::replace(&mut revoked, now) != now {
                heard.clear();
            }
            heard.extend(polled.messages().map(|message| message.partition()));
        }
    }
}

/// Partitions that are taken away during a pause, and come back after its end, are fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pause_ends_with_the_assignment() {
    let world = World::new(slots(&["g", "g", "g"])).await;
    let broker = MockBroker::start(&[(TOPIC, 3)]).unwrap();
    produce(&broker.access(), &world);
    let kafka = group_access(&broker);
    let mut stays = Member::join(&kafka);
    stays.poll_until(|_, heard| heard.len() == 3);
    stays.consumer.set_paused(true).unwrap();
    let visit = std::thread::spawn(move || {
        let mut visitor = Member::join(&kafka);
        visitor.poll_until(|told, _| told.assigned() > 0);
    });
    stays.poll_until(|told, _| told.revoked.load(Ordering::Relaxed) == 1);
    stays.consumer.set_paused(false).unwrap();
    stays.poll_until(|told, heard| {
        let is_alone = visit.is_finished() && told.assigned() == 3;
        is_alone && heard.len() == 3
    });
    visit.join().unwrap();
}

/// The end of a partition that is told counts for a message in librdkafka, which goes on behind it
/// after a pause: what came in meanwhile was passed over, or the offset was not in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_came_in_a_pause_behind_an_end_that_was_told_was_passed_over() {
    let world = World::new(slots(&["g"])).await;
    let broker = MockBroker::start(&[(TOPIC, 1)]).unwrap();
    produce(&broker.access(), &world);
    let told = Arc::new(Positions(Mutex::new(0)));
    let assignments = Arc::clone(&told) as Arc<dyn Assignments>;
    let kafka = group_access(&broker);
    let mut consumer = Consumer::subscribe(&kafka, TOPIC, "test", 1 << 20, assignments).unwrap();
    let poll_until = |consumer: &mut Consumer, next: i64| {
        let begun = Instant::now();
        loop {
            let polled = consumer.poll(Duration::from_millis(10)).unwrap();
            for message in polled.messages() {
                let mut next = told.0.lock().unwrap();
                assert_eq!(message.offset(), *next, "in order, and each once");
                *next += 1;
            }
            if polled.ends.contains(&(0, next)) && *told.0.lock().unwrap() == next {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "not at {next}");
        }
    };
    poll_until(&mut consumer, 1);
    consumer.set_paused(true).unwrap();
    produce(&broker.access(), &world);
    consumer.set_paused(false).unwrap();
    poll_until(&mut consumer, 2);
}

/// An owner of one partition that knows how far it is.
struct Positions(Mutex<i64>);

impl Assignments for Positions {
    fn assigned(&self, partitions: &[i32]) -> Vec<(i32, Option<i64>)> {
        let next = *self.0.lock().unwrap();
        partitions.iter().map(|partition| (*partition, Some(next))).collect()
    }

    fn revoked(&self, _: &[i32]) {}
}

/// A worker whose writes all take too long to wait for without polling pauses and polls on, also
/// while another worker comes and goes; an end that is reached in a pause counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_pauses_ingests_every_offset_once() {
    const SLOW_WRITES: u64 = 8;
    let letters: Vec<String> = (0..3).map(|_| "ggmggdgtgg".repeat(30)).collect();
    let world = World::new(slots(&letters.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let broker = MockBroker::start(&[(TOPIC, 3)]).unwrap();
    produce(&broker.access(), &world);
    let worker = |writes_slow: u64| {
        let slow = AtomicU64::new(0);
        let store = world.store(move |operation| {
            let is_slow =
                operation.is_log_entry() && slow.fetch_add(1, Ordering::Relaxed) < writes_slow;
            if is_slow { Fault::Late(Duration::from_secs(1)) } else { Fault::None }
        });
        let mut pipeline = world.worker(store, Header::Wide);
        pipeline.kafka = group_access(&broker);
        // Every write is too long to wait for without polling.
        pipeline.limits.poll_pause_max = Duration::ZERO;
        pipeline
    };
    let (visiting, assigned) = (CancellationToken::new(), CancellationToken::new());
    let visitor = async {
        assigned.cancelled().await;
        run_worker_until(worker(0), Until::Stopped, &visiting, Arc::new(|_| {})).await
    };
    let on_commit = {
        let (assigned, visiting, commits) = (assigned.clone(), visiting.clone(), AtomicU64::new(0));
        let on_told: OnTold = Arc::new(move |told| {
            if matches!(told, worker::Told::TookOver) {
                return;
            }
            match commits.fetch_add(1, Ordering::Relaxed) {
                0 => assigned.cancel(),
                SLOW_WRITES => visiting.cancel(),
                _ => {}
            }
        });
        on_told
    };
    let stays = async {
        let stop = CancellationToken::new();
        let stayed = worker(SLOW_WRITES);
        let drained = run_worker_until(stayed, Until::Drained, &stop, on_commit).await;
        visiting.cancel();
        drained
    };
    let both = async { tokio::join!(stays, visitor) };
    let ended = tokio::time::timeout(Duration::from_secs(120), both).await;
    let (drained, visited) = ended.expect("the drain did not end");
    assert!(drained.is_ok() && visited.is_ok(), "{drained:?} {visited:?}");
    assert_exactly_once(&world, "a visitor during pauses").await;
}

/// What another worker commits after the broker was asked for its ends was not lost by the topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_topic_that_grows_during_a_take_over_has_not_lost_its_tail() {
    let world = World::new(slots(&["ggg"])).await;
    let broker = MockBroker::start(&[(TOPIC, 1)]).unwrap();
    let worker = |store: FaultyStore, group: &str| {
        let mut pipeline = world.worker(store, Header::Wide);
        pipeline.kafka = group_access(&broker);
        pipeline.group = group.to_owned();
        pipeline
    };
    ensure_tables(&worker(world.store(NO_FAULT), "neither")).await.unwrap();
    let is_first = AtomicBool::new(true);
    let pausing = world.store(move |operation| {
        let is_fence = operation.is_log_entry() && is_first.swap(false, Ordering::Relaxed);
        if is_fence { Fault::Pause } else { Fault::None }
    });
    let stop = CancellationToken::new();
    let one = worker(pausing.clone(), "one");
    let taking_over = run_worker_until(one, Until::Stopped, &stop, Arc::new(|_| {}));
    let overtaking = async {
        pausing.paused().await;
        produce(&broker.access(), &world);
        let drained = run_worker(worker(world.store(NO_FAULT), "other")).await;
        stop.cancel();
        pausing.resume();
        drained
    };
    let (taken_over, drained) = tokio::join!(taking_over, overtaking);
    assert_eq!(drained.unwrap().rows, 3);
    taken_over.unwrap();
    assert_exactly_once(&world, "a topic that grows").await;
}

/// The time was read before the poll that waited for the message: a row was ingested up to 100 ms
/// before its message was produced.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_row_was_ingested_before_its_message_was_produced() {
    const MESSAGES: usize = 12;
    let world = World::new(slots(&["g".repeat(MESSAGES).as_str()])).await;
    let broker = MockBroker::start(&[(TOPIC, 1)]).unwrap();
    let mut pipeline = world.worker(world.store(NO_FAULT), Header::Wide);
    pipeline.kafka = broker.access();
    pipeline.clock = Clock::of_machine();
    pipeline.limits.flush_rows_max = 1;
    let (stop, took_over) = (CancellationToken::new(), CancellationToken::new());
    let on_told: OnTold = {
        let (stop, took_over, rows) = (stop.clone(), took_over.clone(), AtomicU64::new(0));
        Arc::new(move |told| match told {
            worker::Told::TookOver => took_over.cancel(),
            worker::Told::Committed(report) => {
                if rows.fetch_add(report.rows, Ordering::Relaxed) + report.rows == MESSAGES as u64 {
                    stop.cancel();
                }
            }
        })
    };
    let producing = async {
        took_over.cancelled().await;
        let producer = Producer::new(&broker.access()).unwrap();
        for slot in &world.partitions[0] {
            // In the midst of a poll.
            tokio::time::sleep(Duration::from_millis(35)).await;
            let (topic, payload) = (TOPIC, slot.payload());
            let (key, headers, timestamp_ms) = (None, &[][..], None);
            let record = Record { topic, partition: Some(0), key, payload, headers, timestamp_ms };
            producer.send(&record).unwrap();
            producer.flush().unwrap();
        }
    };
    let working = run_worker_until(pipeline, Until::Stopped, &stop, on_told);
    let (ingested, ()) = tokio::join!(working, producing);
    assert_eq!(ingested.unwrap().rows, MESSAGES as u64);
    let snapshot = world.lake().snapshot(&table()).await.unwrap().unwrap();
    let frame = engine().session().read_table(snapshot.provider().await.unwrap()).unwrap();
    let early = col("_ingested_at").lt(col("_timestamp"));
    assert_eq!(frame.filter(early).unwrap().count().await.unwrap(), 0);
}

/// `unknown_fields: fail`: the message that ingestion stopped at was passed over, and the commit at
/// the end of the worker counted it as read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_message_that_ingestion_failed_at_was_lost() {
    // First, last and between others, of a partition and of a batch, which holds 40 messages.
    join_all([0, 1, 40, 59].map(async |at| {
        let mut slots = slots(&[&"g".repeat(60), "gmg"]);
        slots[0][at] = Slot::Good(br#"{"id":"new","n":1,"pad":"","color":"red"}"#.to_vec());
        let world = World::new(slots).await;
        let broker = MockBroker::start(&[(TOPIC, 2)]).unwrap();
        produce(&broker.access(), &world);
        let worker = |unknown_fields| {
            let mut pipeline = world.worker(world.store(NO_FAULT), Header::Wide);
            pipeline.kafka = broker.access();
            // A group of its own need not wait for the one before to be given up.
            pipeline.group = Uuid::new_v4().to_string();
            pipeline.unknown_fields = unknown_fields;
            pipeline
        };
        for _ in 0..2 {
            let error = run_worker(worker(UnknownFields::Fail)).await.unwrap_err();
            let why = "`color`: no column of that name is declared";
            assert_eq!(error.message, format!("`{TOPIC}` partition 0 offset {at}: {why}"));
        }
        run_worker(worker(UnknownFields::Ignore)).await.unwrap();
        assert_exactly_once(&world, &format!("an unknown field at offset {at}")).await;
    }))
    .await;
}

/// Panic injection: a worker that panics fails by itself, and whoever asked for it hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_panics_fails_alone_and_loses_nothing() {
    const STEPS: [(&str, &str); 3] = [
        ("its own thread", "a worker ended abnormally"),
        ("the task that writes", "a write stopped"),
        ("the take-over", "a worker ended abnormally"),
    ];
    join_all(STEPS.map(async |(step, message)| {
        let world = World::new(slots(&["ggm", "gg"])).await;
        let broker = MockBroker::start(&[(TOPIC, 2)]).unwrap();
        produce(&broker.access(), &world);
        let worker = |store: FaultyStore, group: &str| {
            let mut pipeline = world.worker(store, Header::Wide);
            pipeline.kafka = group_access(&broker);
            pipeline.group = group.to_owned();
            // Its clock stands still, so nothing is committed by age.
            pipeline.limits.flush_rows_max = 1;
            pipeline
        };
        ensure_tables(&worker(world.store(NO_FAULT), "neither")).await.unwrap();
        let has_rows = AtomicBool::new(false);
        let planted = world.store(move |operation| {
            has_rows.fetch_or(operation.path.ends_with(".parquet"), Ordering::Relaxed);
            if operation.is_log_entry() {
                let writes = has_rows.load(Ordering::Relaxed);
                assert!(step != "the take-over" && !(writes && step == "the task that writes"));
            }
            Fault::None
        });
        let stop = CancellationToken::new();
        // The other worker runs until somebody stops it.
        let lives = [world.store(NO_FAULT), planted].map(async |store| {
            let on_told: OnTold = Arc::new(move |told| {
                let commits = matches!(told, worker::Told::Committed(_));
                assert!(!(commits && step == "its own thread"), "planted");
            });
            let pipeline = Arc::new(worker(store, "same"));
            let ended = work(pipeline, Until::Stopped, &stop, on_told).await;
            stop.cancel();
            ended
        });
        let ended = tokio::time::timeout(Duration::from_secs(60), join_all(lives)).await;
        let ended = ended.unwrap_or_else(|_| panic!("{step}: it does not end"));
        let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
        assert!(!failed.is_empty(), "{step}");
        for error in failed {
            let found = (error.kind, error.message.as_str());
            assert_eq!(found, (ErrorKind::Internal, message), "{step}");
        }
        run_worker(worker(world.store(NO_FAULT), "later")).await.unwrap();
        assert_exactly_once(&world, step).await;
    }))
    .await;
}

fn produce(kafka: &KafkaAccess, world: &World) {
    let producer = Producer::new(kafka).unwrap();
    for (partition, slots) in world.partitions.iter().enumerate() {
        for slot in slots {
            let partition = Some(partition as i32);
            let (topic, payload) = (TOPIC, slot.payload());
            let record = Record {
                topic,
                partition,
                key: None,
                payload,
                headers: &[],
                timestamp_ms: Some(0),
            };
            producer.send(&record).unwrap();
        }
    }
    producer.flush().unwrap();
}

async fn run_worker(pipeline: Pipeline) -> Result<WorkerReport> {
    let stop = CancellationToken::new();
    run_worker_until(pipeline, Until::Drained, &stop, Arc::new(|_| {})).await
}

async fn run_worker_until(
    pipeline: Pipeline,
    until: Until,
    stop: &CancellationToken,
    on_told: OnTold,
) -> Result<WorkerReport> {
    let runtime = tokio::runtime::Handle::current();
    ensure_tables(&pipeline).await?;
    let stop = stop.clone();
    let run = move || worker::run(&Arc::new(pipeline), &runtime, until, &stop, on_told);
    tokio::task::spawn_blocking(run).await.unwrap()
}
