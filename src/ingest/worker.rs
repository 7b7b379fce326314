//! One worker of one bronze table: polls and decodes on its own thread while the batch before is
//! encoded and committed on the runtime. Any number of workers share a topic; the lake's
//! transactions, not the consumer group, decide what counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Clock};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::batch::{BatchReport, Written, take_over, write};
use super::mark::message_of;
use super::open::OpenBatch;
use super::refusal;
use crate::error::{Error, Result};
use crate::kafka::{Assignments, Consumer, Probe, Received};
use crate::lake::commit::{claim_property, mark_id, offsets_id, topic_id_key};
use crate::lake::ledger::Ledger;

/// Between two looks at limits and signals.
const POLL_TIMEOUT_MAX: Duration = Duration::from_millis(100);
/// Of a worker that waits for the first message of a batch.
const POLL_TIMEOUT_MIN: Duration = Duration::from_millis(10);
const PAUSED_POLL_TIMEOUT: Duration = Duration::from_millis(10);
/// Holes and touched hours after which a batch is committed: each is a range in the ledger of its
/// commit, which every later reader of the log reads. A poll may bring a few hundred more.
const LEDGER_RANGES_MAX: usize = 4_096;
/// Silence after which a draining worker asks whether the brokers are still there.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often a worker without partitions looks whether the others are done.
const OTHERS_CHECK_EVERY: Duration = Duration::from_millis(500);

/// What ends a worker that nobody stops and no failure ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The end offsets seen at the start.
    Drained,
    /// Nothing: it goes on.
    Stopped,
}

/// Totals of one worker's life.
#[derive(Debug, Clone, Default)]
pub struct WorkerReport {
    pub rows: u64,
    pub rejects: u64,
    pub payload_bytes: u64,
    pub file_bytes: u64,
    pub commits: u64,
}

impl WorkerReport {
    pub fn add(&mut self, batch: &BatchReport) {
        self.rows += batch.rows;
        self.rejects += batch.rejects;
        self.payload_bytes += batch.payload_bytes;
        self.file_bytes += batch.file_bytes;
        self.commits += 1;
    }
}

/// What a worker tells as it goes.
pub enum Told<'a> {
    /// Partitions are its own, and their positions known.
    TookOver,
    Committed(&'a BatchReport),
}

/// Called from the worker's own thread.
pub type OnTold = Arc<dyn Fn(Told<'_>) + Send + Sync>;

/// Runs until `until` or `stop`, then commits what is buffered. Blocks its thread.
pub fn run(
    pipeline: &Arc<Pipeline>,
    runtime: &Handle,
    until: Until,
    stop: &CancellationToken,
    on_told: OnTold,
) -> Result<WorkerReport> {
    let shared = Arc::new(Shared {
        pipeline: Arc::clone(pipeline),
        runtime: runtime.clone(),
        probe: Probe::open(&pipeline.kafka)?,
        lows: Mutex::default(),
        state: Mutex::new(State::new(pipeline)?),
        on_told,
    });
    let consumer = Consumer::subscribe(
        &pipeline.kafka,
        &pipeline.topic,
        &pipeline.group,
        pipeline.limits.memory_bytes_max / 8,
        Arc::clone(&shared) as Arc<dyn Assignments>,
    )?;
    let watermarks = consumer.watermarks()?;
    *lock(&shared.lows) = watermarks.iter().map(|(id, (low, high))| (*id, (*low, *high))).collect();
    let ends = watermarks.iter().map(|(id, (_, high))| (*id, *high)).collect();
    let mut worker = Worker { shared, consumer, until, ends, others_checked: Clock::now() };
    worker.consume(stop)?;
    // A batch given up to another owner is that owner's to finish; whether it does, only another
    // look at the lake can tell.
    while worker.shared.settle()? == Collected::Superseded && !stop.is_cancelled() {
        worker.consumer.restart()?;
        worker.consume(stop)?;
    }
    let state = worker.shared.state();
    worker.consumer.show_progress(&state.next_offsets());
    Ok(state.report.clone())
}

/// How long to wait for messages beside a batch of that `age`, or without one: a poll that has
/// brought few messages lasts until its timeout.
fn poll_timeout(age: Option<Duration>, age_max: Duration) -> Duration {
    let left = age.map_or(age_max.max(POLL_TIMEOUT_MIN), |age| age_max.saturating_sub(age));
    left.min(POLL_TIMEOUT_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    shared: Arc<Shared>,
    consumer: Consumer,
    until: Until,
    /// End offsets at the start, for [`Until::Drained`].
    ends: BTreeMap<i32, i64>,
    others_checked: Clock,
}

impl Worker {
    fn consume(&mut self, stop: &CancellationToken) -> Result<()> {
        let limits = self.shared.pipeline.limits.clone();
        let mut heard = Clock::now();
        while !stop.is_cancelled() {
            let timeout = poll_timeout(self.shared.state().age(), limits.flush_age_max);
            if self.take_some(timeout)? {
                heard = Clock::now();
            } else if !self.shared.state().has_joined && self.consumer.has_joined() {
                self.shared.assigned(&[]);
            } else if self.until == Until::Drained && heard.elapsed() > SILENCE_MAX {
                self.consumer.watermarks()?;
                heard = Clock::now();
            }
            self.shared.check_failure()?;
            if self.shared.state().is_due(&limits) {
                self.flush()?;
            } else if self.shared.state().landed() {
                self.collect()?;
            }
            if self.until == Until::Drained && self.is_drained()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes what comes within `timeout`; says whether anything did.
    fn take_some(&mut self, timeout: Duration) -> Result<bool> {
        let asked = Clock::now();
        let polled = self.consumer.poll(timeout)?;
        // Not before: what came meanwhile was produced later than that.
        let ingested_at = self.shared.pipeline.clock.micros();
        let state = &mut *self.shared.state();
        let mut is_any = !polled.ends.is_empty();
        for message in polled.messages() {
            state.take(&message, ingested_at, asked)?;
            is_any = true;
        }
        // Said once per end, and after the messages before it: what was fetched up to there.
        for (partition, reached) in &polled.ends {
            let end = match self.until {
                Until::Stopped => *reached,
                // A broker that lags behind the one that told the end has not reached it yet.
                Until::Drained => self.ends.get(partition).map_or(0, |end| *end.min(reached)),
            };
            state.open.reach_end(*partition, end);
        }
        Ok(is_any)
    }

    /// Hands the open batch to the runtime, after the one before has landed. Meanwhile nothing is
    /// polled, and librdkafka stops fetching where its queue is full. If it takes long, fetching
    /// is paused, which throws the queue away, and polling goes on: the group keeps its member.
    fn flush(&mut self) -> Result<()> {
        if !self.shared.wait_for_write(self.shared.pipeline.limits.poll_pause_max) {
            self.consumer.set_paused(true)?;
            while self.shared.state().is_writing() && !self.shared.state().landed() {
                self.take_some(PAUSED_POLL_TIMEOUT)?;
            }
            self.consumer.set_paused(false)?;
        }
        if self.collect()? == Collected::Superseded {
            return Ok(());
        }
        self.shared.begin_write()
    }

    /// Takes the outcome of the batch in flight, if it has landed.
    fn collect(&mut self) -> Result<Collected> {
        match self.shared.collect()? {
            Some(Written::Superseded) => {
                self.consumer.restart()?;
                self.shared.check_failure()?;
                Ok(Collected::Superseded)
            }
            Some(Written::Committed(report)) => {
                self.consumer.show_progress(&report.next_offsets);
                Ok(Collected::Done)
            }
            None => Ok(Collected::Done),
        }
    }

    /// Own partitions have reached their ends; those of others are judged by the lake.
    fn is_drained(&mut self) -> Result<bool> {
        let others: Vec<i32> = {
            let state = self.shared.state();
            let own = |id: &i32| state.open.partitions().get(id);
            if self
                .ends
                .iter()
                .any(|(id, end)| own(id).is_some_and(|p| p.next() < *end || p.is_unknown()))
            {
                return Ok(false);
            }
            let lows = lock(&self.shared.lows);
            let has_messages = |id: &i32, end: i64| lows.get(id).is_none_or(|(low, _)| *low < end);
            let others =
                self.ends.iter().filter(|(id, end)| own(id).is_none() && has_messages(id, **end));
            others.map(|(id, _)| *id).collect()
        };
        if others.is_empty() {
            return Ok(true);
        }
        if self.others_checked.elapsed() < OTHERS_CHECK_EVERY {
            return Ok(false);
        }
        // The others may be waiting for what is buffered here.
        self.flush()?;
        self.others_checked = Clock::now();
        self.are_ingested(&others)
    }

    /// Whether the lake holds partitions that are not this worker's up to their ends; then it also
    /// looks whether their logs are the ones that it holds, as their owner would have.
    fn are_ingested(&self, partitions: &[i32]) -> Result<bool> {
        let (shared, pipeline) = (&self.shared, &self.shared.pipeline);
        let topic = &pipeline.topic;
        let Some(table) = shared.runtime.block_on(pipeline.lake.snapshot(&pipeline.spec.name))?
        else {
            return Ok(false);
        };
        let transaction = |id: &str| shared.runtime.block_on(table.transaction(id));
        let mut held = BTreeMap::new();
        for partition in partitions {
            let (low, _) = lock(&shared.lows).get(partition).copied().unwrap_or_default();
            let next = transaction(&offsets_id(&pipeline.name, topic, *partition))?;
            if next.unwrap_or(low) < self.ends[partition] {
                return Ok(false);
            }
            let mark = transaction(&mark_id(&pipeline.name, topic, *partition))?;
            held.extend(next.map(|next| (*partition, (next, mark))));
        }
        checked_topic(pipeline, &shared.runtime, &shared.probe)?;
        let bounds = shared.probe.watermarks(topic)?;
        let logs = held
            .into_iter()
            .filter_map(|(partition, known)| Some((partition, (known, *bounds.get(&partition)?))));
        match refusal::of_logs(&shared.probe, topic, &logs.collect())? {
            Some((partition, why)) => {
                let table = pipeline.spec.name.to_string();
                Err(refusal::error(topic, partition, &table, &why))
            }
            None => Ok(true),
        }
    }
}

#[derive(PartialEq)]
enum Collected {
    Done,
    Superseded,
}

/// What the polling thread and its rebalance callbacks share.
struct Shared {
    pipeline: Arc<Pipeline>,
    runtime: Handle,
    /// Asks about the topic; the consumer belongs to the thread that polls.
    probe: Probe,
    /// Low and high watermarks as last seen.
    lows: Mutex<BTreeMap<i32, (i64, i64)>>,
    state: Mutex<State>,
    on_told: OnTold,
}

struct State {
    open: OpenBatch,
    /// When the poll began that brought the open batch's first message.
    opened: Option<Clock>,
    writing: Option<Writing>,
    /// The group has said what is this worker's, if only nothing.
    has_joined: bool,
    /// The topic's id when its partitions were taken over; `None` where the broker does not tell.
    topic_id: Option<String>,
    /// An error of a callback, raised by the next look.
    failure: Option<Error>,
    report: WorkerReport,
}

/// A batch on its way into the lake.
struct Writing {
    task: JoinHandle<Result<Written>>,
    /// Cancelled when the task has an outcome.
    ended: CancellationToken,
}

impl State {
    fn new(pipeline: &Pipeline) -> Result<Self> {
        Ok(Self {
            open: OpenBatch::new(pipeline)?,
            opened: None,
            writing: None,
            has_joined: false,
            topic_id: None,
            failure: None,
            report: WorkerReport::default(),
        })
    }

    fn is_due(&self, limits: &super::Limits) -> bool {
        self.open.messages() as u64 >= limits.flush_rows_max
            || self.open.bytes() as u64 >= limits.flush_bytes_max.min(limits.memory_bytes_max / 4)
            || self.open.ledger_ranges() >= LEDGER_RANGES_MAX
            || self.age().is_some_and(|age| age >= limits.flush_age_max)
    }

    /// Of the open batch's first message; `None` without one.
    fn age(&self) -> Option<Duration> {
        self.opened.map(|opened| opened.elapsed())
    }

    fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The batch in flight has an outcome.
    fn landed(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.ended.is_cancelled())
    }

    fn take(&mut self, received: &Received<'_>, ingested_at: i64, asked: Clock) -> Result<()> {
        let headers = received.headers();
        let message = message_of(received, &headers);
        if self.open.take(&message, ingested_at)? {
            self.opened.get_or_insert(asked);
        }
        Ok(())
    }

    /// Forgets everything that is not committed, and all partitions.
    fn forget(&mut self) -> Result<()> {
        self.opened = None;
        self.open.restart([])
    }

    fn next_offsets(&self) -> Vec<(i32, i64)> {
        let partitions = self.open.partitions().iter();
        partitions.filter_map(|(id, progress)| Some((*id, progress.committed?))).collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn check_failure(&self) -> Result<()> {
        self.state().failure.take().map_or(Ok(()), Err)
    }

    /// What was fetched is of the topic that the lake's offsets are of, or nothing is written.
    fn check_topic_stays(&self) -> Result<()> {
        let pipeline = &self.pipeline;
        let Some(known) = self.state().topic_id.clone() else { return Ok(()) };
        match self.probe.topic_id(&pipeline.topic, true)? {
            Some(id) if id != known => Err(recreated(pipeline, &known, &id)),
            Some(_) | None => Ok(()),
        }
    }

    fn begin_write(&self) -> Result<()> {
        let is_any = self.state().open.has_moved();
        if is_any {
            self.check_topic_stays()?;
        }
        let state = &mut *self.state();
        state.opened = None;
        if let Some(batch) = state.open.close()? {
            let pipeline = Arc::clone(&self.pipeline);
            let ended = CancellationToken::new();
            let end = ended.clone().drop_guard();
            let task = self.runtime.spawn(async move {
                let _end = end;
                write(&pipeline, batch).await
            });
            state.writing = Some(Writing { task, ended });
        }
        Ok(())
    }

    /// Waits for the batch in flight; false if that takes longer than `wait_max`.
    fn wait_for_write(&self, wait_max: Duration) -> bool {
        let ended = self.state().writing.as_ref().map(|writing| writing.ended.clone());
        let Some(ended) = ended else { return true };
        let wait = async { tokio::time::timeout(wait_max, ended.cancelled()).await.is_ok() };
        self.runtime.block_on(wait)
    }

    /// The outcome of the batch in flight, waiting for it if there is one. A superseded batch
    /// takes the open one with it, since that continues the same offsets.
    fn collect(&self) -> Result<Option<Written>> {
        let Some(writing) = self.state().writing.take() else { return Ok(None) };
        let written = self
            .runtime
            .block_on(writing.task)
            .map_err(|source| Error::internal("a write stopped").source(source))??;
        let state = &mut *self.state();
        match &written {
            Written::Committed(report) => {
                state.report.add(report);
                tracing::info!(
                    table = %self.pipeline.spec.name,
                    version = report.version,
                    rows = report.rows,
                    rejects = report.rejects,
                    bytes = report.payload_bytes,
                    commit_ms = report.commit_ms,
                    next_offsets = ?report.next_offsets,
                    "batch committed"
                );
                (self.on_told)(Told::Committed(report));
            }
            Written::Superseded => state.forget()?,
        }
        Ok(Some(written))
    }

    /// Commits everything that is buffered, unless it now belongs to another owner.
    fn settle(&self) -> Result<Collected> {
        if !matches!(self.collect()?, Some(Written::Superseded)) {
            self.begin_write()?;
            if !matches!(self.collect()?, Some(Written::Superseded)) {
                return Ok(Collected::Done);
            }
        }
        Ok(Collected::Superseded)
    }

    /// Takes `partitions` over, beside those that are owned already.
    fn start_partitions(&self, partitions: &[i32]) -> Result<()> {
        let (pipeline, began) = (&self.pipeline, Clock::now());
        let mut bounds = self.probe.watermarks(&pipeline.topic)?;
        let topic_id = checked_topic(pipeline, &self.runtime, &self.probe)?;
        let low = |partition: i32| bounds.get(&partition).map_or(0, |(low, _)| *low);
        let mut taken = self.runtime.block_on(take_over(pipeline, partitions, low))?;
        let ends_behind = taken.iter().any(|(partition, progress)| {
            bounds.get(partition).is_some_and(|(_, high)| progress.start() > *high)
        });
        if ends_behind {
            // The former owner may have committed what came after the broker was asked.
            bounds = self.probe.watermarks(&pipeline.topic)?;
        }
        for (partition, progress) in &mut taken {
            let bounds = bounds.get(partition).copied();
            if let Some(why) = bounds.and_then(|found| refusal::bounds(progress.start(), found)) {
                let table = pipeline.spec.name.to_string();
                return Err(refusal::error(&pipeline.topic, *partition, &table, &why));
            }
            progress.begin_in(bounds.map_or(0, |(low, _)| low));
        }
        tracing::info!(
            table = %pipeline.spec.name,
            partitions = taken.len(),
            took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "partitions taken over"
        );
        let state = &mut *self.state();
        state.open.take_over(taken);
        state.topic_id = topic_id;
        *lock(&self.lows) = bounds;
        Ok(())
    }

    /// Commits what is buffered. What cannot be committed is forgotten with all partitions, those
    /// that are kept as well: they are taken over anew, from the lake.
    fn settle_or_forget(&self) {
        let settled = self.settle();
        if let Err(error) = &settled {
            tracing::warn!(table = %self.pipeline.spec.name, %error, "could not commit before giving up partitions");
        }
        if !matches!(settled, Ok(Collected::Done)) {
            let state = &mut *self.state();
            if let Err(error) = state.forget() {
                state.failure = Some(error);
            }
        }
    }
}

/// The first ingestion of a topic notes its id with the table; under another id, the offsets in
/// the lake are those of another topic. `None` where the broker does not tell.
fn checked_topic(pipeline: &Pipeline, runtime: &Handle, probe: &Probe) -> Result<Option<String>> {
    let (key, name) = (topic_id_key(&pipeline.topic), &pipeline.spec.name);
    let table = runtime.block_on(pipeline.lake.snapshot(name))?;
    let is_known = table.is_some_and(|table| table.property(&key).is_some());
    let id = probe.topic_id(&pipeline.topic, is_known)?;
    if let Some(id) = &id {
        let ledger = Ledger::new(name.to_string(), pipeline.run);
        let claim = claim_property(&pipeline.lake, name, &key, id, &ledger);
        let known = runtime.block_on(claim)?;
        if known != *id {
            return Err(recreated(pipeline, &known, id));
        }
    }
    Ok(id)
}

fn recreated(pipeline: &Pipeline, known: &str, found: &str) -> Error {
    let why = refusal::recreated(known, found);
    refusal::error(&pipeline.topic, None, &pipeline.spec.name.to_string(), &why)
}

impl Assignments for Shared {
    fn assigned(&self, partitions: &[i32]) -> Vec<(i32, Option<i64>)> {
        let is_new = |partition: &i32| !self.state().open.partitions().contains_key(partition);
        let new: Vec<i32> = partitions.iter().copied().filter(is_new).collect();
        if !new.is_empty() || partitions.is_empty() {
            if let Err(error) = self.start_partitions(&new) {
                self.state().failure = Some(error);
                return Vec::new();
            }
            self.state().has_joined = true;
            (self.on_told)(Told::TookOver);
        }
        let state = self.state();
        let position = |partition: &i32| {
            let progress = state.open.partitions().get(partition)?;
            Some((*partition, Some(progress.position())))
        };
        partitions.iter().filter_map(position).collect()
    }

    fn revoked(&self, partitions: &[i32]) {
        self.settle_or_forget();
        self.state().open.give_up(partitions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch that was to be 250 ms old became 404.
    #[test]
    fn a_poll_lasts_no_longer_than_its_batch_may_grow_old() {
        let timeout = |age: Option<u64>, age_max| {
            let age = age.map(Duration::from_millis);
            poll_timeout(age, Duration::from_millis(age_max)).as_millis()
        };
        assert_eq!([timeout(None, 250), timeout(Some(0), 250), timeout(Some(100), 250)], [100; 3]);
        assert_eq!((timeout(Some(200), 250), timeout(Some(300), 250)), (50, 0));
        // However short a batch may live, nobody spins for its first message.
        assert_eq!((timeout(None, 60), timeout(None, 1), timeout(Some(0), 1)), (60, 10, 1));
    }
}
