//! A stream of a running statement: executed apart from the connection that reads it, a few batches
//! ahead and no more, within its limits. A limit, a cancellation or a failure ends it with an error,
//! never with fewer rows.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant as Clock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::ExecutionPlan;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::Statements;
use super::admission::Permit;
use super::log::{Outcome, Record};
use crate::access::Principal;
use crate::engine::fault::engine_error;
use crate::engine::query::Query;
use crate::engine::storable::conform;
use crate::error::{Error, ErrorKind, Result};

/// Batches made before the reader asks for them.
const BATCHES_AHEAD: usize = 2;

/// One run of a statement, shared by its open streams. Noted when the last of them ends.
pub(super) struct Running {
    statements: Statements,
    id: Uuid,
    principal: Arc<Principal>,
    sql: String,
    /// Microseconds since 1970 UTC.
    started: i64,
    began: Clock,
    _permit: Permit,
    bounds: Bounds,
    stop: CancellationToken,
    rows: AtomicU64,
    bytes: AtomicU64,
    reading: Mutex<Reading>,
    ending: Mutex<Ending>,
}

/// How far all runs of a statement may go.
pub(super) struct Bounds {
    pub rows_max: u64,
    pub run_max: Duration,
    /// How long nobody may read on.
    pub unread_max: Duration,
    pub spent: Arc<Spent>,
}

/// What the runs of one statement have taken so far: its parts may be read one after the other.
#[derive(Default)]
pub(super) struct Spent {
    /// By part, what the stream that came furthest gave: one that is read again counts once.
    rows: Mutex<HashMap<usize, u64>>,
    /// While any stream was open.
    run_micros: AtomicU64,
}

impl Spent {
    /// `rows` of `part` were given to one stream; how many of the statement that makes.
    fn count(&self, part: usize, rows: u64) -> u64 {
        let mut parts = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let most = parts.entry(part).or_default();
        *most = rows.max(*most);
        parts.values().sum()
    }

    fn run(&self) -> Duration {
        Duration::from_micros(self.run_micros.load(Ordering::Relaxed))
    }
}

/// Whether anybody reads the streams of a run.
struct Reading {
    /// Streams that make rows, and do not wait for their reader.
    busy: usize,
    /// When the last of them began to wait.
    since: Clock,
}

#[derive(Default)]
struct Ending {
    /// Streams that nobody read to the end.
    cut: usize,
    error: Option<(ErrorKind, String)>,
}

impl Running {
    /// The run can be cancelled from now on, until it is dropped: then it is noted.
    pub(super) fn new(
        statements: Statements,
        principal: Arc<Principal>,
        sql: String,
        permit: Permit,
        bounds: Bounds,
        stop: CancellationToken,
    ) -> Self {
        let id = Uuid::now_v7();
        statements.shared.under_way().insert(id, (Arc::clone(&principal), stop.clone()));
        Self {
            started: statements.shared.clock.micros(),
            statements,
            id,
            principal,
            sql,
            began: Clock::now(),
            _permit: permit,
            bounds,
            stop,
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            reading: Mutex::new(Reading { busy: 0, since: Clock::now() }),
            ending: Mutex::default(),
        }
    }

    /// Counts a batch, after which a stream of `part` has given `so_far` rows; fails past the limit.
    fn count(&self, batch: &RecordBatch, part: usize, so_far: u64) -> Result<()> {
        self.bytes.fetch_add(batch.get_array_memory_size() as u64, Ordering::Relaxed);
        self.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        if self.bounds.spent.count(part, so_far) <= self.bounds.rows_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Exhausted,
            format!("the result has more than {} rows", self.bounds.rows_max),
        )
        .hint("add a LIMIT or a WHERE, or raise `server.statement_rows_max`"))
    }

    /// What is left of the statement's time.
    fn left(&self) -> Duration {
        let spent = self.bounds.spent.run() + self.began.elapsed();
        self.bounds.run_max.saturating_sub(spent)
    }

    fn reading(&self) -> std::sync::MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all streams wait, and have waited for too long.
    fn is_unread(&self) -> bool {
        let reading = self.reading();
        reading.busy == 0 && reading.since.elapsed() >= self.bounds.unread_max
    }

    fn ending(&self) -> std::sync::MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let run = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.bounds.spent.run_micros.fetch_add(run, Ordering::Relaxed);
        let ending = std::mem::take(&mut *self.ending());
        let outcome = match &ending.error {
            Some((ErrorKind::Interrupted, _)) => Outcome::Cancelled,
            Some(_) => Outcome::Failed,
            None if ending.cut > 0 => Outcome::Cancelled,
            None => Outcome::Done,
        };
        let record = Record {
            id: self.id,
            user: self.principal.user.clone(),
            sql: std::mem::take(&mut self.sql),
            started: self.started,
            seconds: self.began.elapsed().as_secs_f64(),
            rows: *self.rows.get_mut(),
            bytes: *self.bytes.get_mut(),
            outcome,
            error: ending.error.map(|(_, message)| message),
        };
        let shared = &self.statements.shared;
        shared.under_way().remove(&self.id);
        shared.figures.add(outcome, record.seconds, record.rows, record.bytes);
        shared.log.write(&record);
    }
}

/// Batches of exactly the statement's schema. Dropping it ends the execution.
pub struct Rows {
    schema: SchemaRef,
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    task: tokio::task::JoinHandle<()>,
    has_ended: bool,
}

impl Rows {
    /// Executes partition `part` of each of `plans`, one after the other.
    pub(super) fn start(
        running: Arc<Running>,
        plans: Vec<Arc<dyn ExecutionPlan>>,
        part: usize,
        schema: &SchemaRef,
        query: Arc<Query>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let executor = running.statements.shared.executor.clone();
        let execution =
            Execution { running, plans, part, schema: Arc::clone(schema), query, sender };
        let task = executor.spawn(execution.run());
        Self { schema: Arc::clone(schema), receiver, task, has_ended: false }
    }

    /// That of every batch, and known before the first.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(item) = ready!(self.receiver.poll_recv(context)) {
            return Poll::Ready(Some(item));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        // An execution that panicked closed its end too, and must not pass for a whole result.
        let ended = ready!(Pin::new(&mut self.task).poll(context));
        self.has_ended = true;
        Poll::Ready(ended.err().map(|source| Err(abnormal(source))))
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Of a task that panicked, which is the statement's own doing where its values are too long: arrow
/// counts the bytes of a batch in 31 bits, and panics.
fn abnormal(ended: JoinError) -> Error {
    if ended.to_string().contains("offset overflow") {
        let message = "texts or lists of one batch of rows have more than 2 GiB together";
        return Error::new(ErrorKind::Exhausted, message)
            .hint("make them shorter, or fewer rows of them");
    }
    Error::internal("the statement ended abnormally").source(ended)
}

pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Interrupted, "the statement was cancelled")
}

struct Execution {
    running: Arc<Running>,
    plans: Vec<Arc<dyn ExecutionPlan>>,
    part: usize,
    schema: SchemaRef,
    query: Arc<Query>,
    sender: mpsc::Sender<Result<RecordBatch>>,
}

/// Counts the stream as cut off unless it is told that it ended.
struct Uncut(Option<Arc<Running>>);

impl Drop for Uncut {
    fn drop(&mut self) {
        let Some(running) = self.0.take() else { return };
        running.ending().cut += 1;
    }
}

impl Execution {
    async fn run(self) {
        let running = Arc::clone(&self.running);
        let sender = self.sender.clone();
        let mut cut = Uncut(Some(Arc::clone(&running)));
        let left = running.left();
        // A task of its own: one that computes for long without giving way must not keep its end from
        // being heard of.
        let execution = AbortOnDropHandle::new(tokio::spawn(self.execute()));
        let outcome = tokio::select! {
            outcome = execution => outcome.unwrap_or_else(|source| Err(abnormal(source))),
            () = running.stop.cancelled() => Err(cancelled()),
            () = tokio::time::sleep(left) => Err(Error::new(
                ErrorKind::Exhausted,
                format!("the statement ran longer than {} s", running.bounds.run_max.as_secs()),
            )
            .hint("narrow it, or raise `server.statement_run_ms_max`")),
        };
        if let Err(error) = &outcome {
            running.ending().error.get_or_insert((error.kind, error.message.clone()));
        }
        if !matches!(outcome, Ok(false)) {
            cut.0 = None;
        }
        // The reader may take its time, or never come; its place goes to others.
        drop((cut, running));
        if let Err(error) = outcome {
            let _ = sender.send(Err(error)).await;
        }
    }

    /// False if the reader went away.
    async fn execute(mut self) -> Result<bool> {
        let plans = std::mem::take(&mut self.plans);
        let failed = |error| {
            let error = engine_error("the statement failed", error);
            // Noted in full, also where its user hears less.
            self.running.ending().error.get_or_insert((error.kind, error.message.clone()));
            self.query.told(error)
        };
        let _busy = Busy::new(&self.running);
        let mut so_far = 0;
        for plan in plans {
            let mut batches = plan.execute(self.part, self.query.task()).map_err(failed)?;
            while let Some(batch) = batches.next().await {
                let batch = conform(&batch.map_err(failed)?, &self.schema)?;
                if batch.num_rows() == 0 {
                    continue;
                }
                so_far += batch.num_rows() as u64;
                self.running.count(&batch, self.part, so_far)?;
                if !self.hand_on(batch).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Waits for the reader, unless nobody reads any stream of the statement. False if it went away.
    async fn hand_on(&self, batch: RecordBatch) -> Result<bool> {
        let _idle = Idle::new(&self.running);
        let unread_max = self.running.bounds.unread_max;
        loop {
            match tokio::time::timeout(unread_max, self.sender.reserve()).await {
                Ok(Ok(place)) => {
                    place.send(Ok(batch));
                    return Ok(true);
                }
                Ok(Err(_)) => return Ok(false),
                Err(_) if self.running.is_unread() => {
                    let message = format!("nobody read on for {} s", unread_max.as_secs());
                    return Err(Error::new(ErrorKind::Exhausted, message).hint(
                        "read results to their end, or raise `server.statement_unread_ms_max`",
                    ));
                }
                Err(_) => {}
            }
        }
    }
}

/// One stream that makes rows.
struct Busy<'a>(&'a Running);

impl<'a> Busy<'a> {
    fn new(running: &'a Running) -> Self {
        running.reading().busy += 1;
        Self(running)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut reading = self.0.reading();
        reading.busy = reading.busy.saturating_sub(1);
        reading.since = Clock::now();
    }
}

/// The same while it waits for its reader.
struct Idle<'a>(&'a Running);

impl<'a> Idle<'a> {
    fn new(running: &'a Running) -> Self {
        drop(Busy(running));
        Self(running)
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.reading().busy += 1;
    }
}
