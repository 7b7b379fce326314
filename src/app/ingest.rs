//! Ingestion of a project's tables, each by itself: one that fails ends none of the others, is begun
//! again later, and is named. Tables that come, change and go while it runs are noticed, where
//! somebody watches the project.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::project::Checked;
use super::{App, bronze_of};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::Pipeline;
use crate::ingest::batch::BatchReport;
use crate::ingest::worker::{self, OnTold, Told, Until, WorkerReport};
use crate::kafka::KafkaAccess;
use crate::retry::{Attempts, Retry};
use crate::table::TableName;

/// Of a worker that lost its broker or store.
const RESTART: Retry = Retry::for_ever(Duration::from_secs(1), Duration::from_secs(60));
/// Of a table that fails for a reason that somebody must cure: each attempt may write an owner's
/// number.
const REFUSED: Retry = Retry::for_ever(Duration::from_secs(10), Duration::from_secs(600));
/// A worker that held its partitions for that long has recovered, whether messages came or not.
const RECOVERED_AFTER: Duration = Duration::from_secs(3);

/// What is told of ingestion as it goes.
pub enum IngestEvent<'a> {
    Committed(&'a BatchReport),
    /// It does not go on; it is begun again later.
    Failed(&'a Error),
    /// Its partitions are taken over.
    Works,
    /// The table is no longer ingested.
    Ended,
}

/// Called for each event of a table, from any thread.
pub type OnEvent = Arc<dyn Fn(&TableName, IngestEvent<'_>) + Send + Sync>;

/// Which tables are ingested.
pub enum Tables {
    /// These, as they are.
    Named(Vec<TableName>, Checked),
    /// All that the project has from one moment to the next.
    Watched(watch::Receiver<Checked>),
}

impl Tables {
    fn checked(&mut self) -> Checked {
        match self {
            Tables::Named(_, checked) => checked.clone(),
            Tables::Watched(checked) => checked.borrow_and_update().clone(),
        }
    }

    fn wanted(&self, checked: &Checked) -> Vec<TableName> {
        match self {
            Tables::Named(names, _) => names.clone(),
            Tables::Watched(_) => bronze_of(&checked.models, &[]).unwrap_or_default(),
        }
    }

    /// Waits for other tables.
    async fn change(&mut self) {
        if let Tables::Watched(checked) = self
            && checked.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// What became of every table.
#[derive(Debug, Default)]
pub struct Ingested {
    pub reports: BTreeMap<TableName, WorkerReport>,
    pub failed: BTreeMap<TableName, Error>,
}

impl Ingested {
    /// The reports, or the one error of all that failed.
    pub fn into_result(self) -> Result<BTreeMap<TableName, WorkerReport>> {
        let total = self.reports.len() + self.failed.len();
        match one_error("ingested", self.failed, total) {
            None => Ok(self.reports),
            Some(error) => Err(error),
        }
    }
}

/// Of several tables, those that were not `done`: the gravest kind of their errors, and what each
/// says; errors that say the same are said once.
pub fn one_error(done: &str, failed: BTreeMap<TableName, Error>, total: usize) -> Option<Error> {
    let gravity = |kind: ErrorKind| match kind {
        ErrorKind::DataLoss => 3,
        ErrorKind::Internal => 2,
        ErrorKind::Interrupted => 0,
        _ => 1,
    };
    let count = failed.len();
    let mut said: Vec<(TableName, Error)> = Vec::new();
    for (name, error) in failed {
        let fault = fault_of(&name, &error);
        if said.iter().all(|(other, said)| fault_of(other, said) != fault) {
            said.push((name, error));
        }
    }
    if said.len() <= 1 {
        return said.pop().map(|(_, error)| error);
    }
    let kind = said.iter().map(|(_, error)| error.kind).max_by_key(|kind| gravity(*kind))?;
    let messages: Vec<String> =
        said.iter().map(|(name, error)| format!("\n  {name}: {}", error.message)).collect();
    let mut hints: Vec<String> = said.iter().filter_map(|(_, error)| error.hint.clone()).collect();
    hints.dedup();
    let message = format!("{count} of {total} tables were not {done}:{}", messages.concat());
    let mut error = Error::new(kind, message);
    if !hints.is_empty() {
        error = error.hint(hints.join("; "));
    }
    error.diagnostics = said.into_iter().flat_map(|(_, error)| error.diagnostics).collect();
    Some(error)
}

/// What is wrong, whichever table it happened to.
fn fault_of(name: &TableName, error: &Error) -> String {
    error.message.replace(&name.to_string(), "")
}

/// What all tables of one process share.
pub struct Setup {
    pub app: Arc<App>,
    pub kafka: KafkaAccess,
    pub run: Uuid,
    pub until: Until,
    /// Whether it goes on although no table can be ingested.
    pub is_patient: bool,
    pub on_event: OnEvent,
}

/// Ingests every table until it is drained, or all until `stop`; then commits what is buffered.
pub async fn ingest(setup: Arc<Setup>, tables: Tables, stop: &CancellationToken) -> Ingested {
    let mut ingesting = Ingesting {
        setup,
        stop: stop.clone(),
        workers: JoinSet::new(),
        tables: BTreeMap::new(),
        ingested: Ingested::default(),
    };
    ingesting.run(tables).await;
    ingesting.ingested
}

struct Ingesting {
    setup: Arc<Setup>,
    stop: CancellationToken,
    workers: JoinSet<(TableName, Outcome)>,
    tables: BTreeMap<TableName, Table>,
    ingested: Ingested,
}

/// One table that is ingested, or will be.
struct Table {
    /// By which a changed model is told from one that stayed.
    text: Option<String>,
    state: State,
    refused: Attempts,
}

impl Table {
    /// How long to wait after a failure: what went well in between has nothing to do with earlier
    /// troubles.
    fn pause_after(&mut self, has_recovered: bool) -> Duration {
        if has_recovered {
            self.refused = REFUSED.begin(0);
        }
        self.refused.pause().unwrap_or_default()
    }
}

/// What watching one table's workers came to.
struct Outcome {
    ended: Result<WorkerReport>,
    /// Whether any of them worked for a while.
    has_recovered: bool,
}

enum State {
    /// With what ends it.
    Runs(CancellationToken),
    /// It failed, and is begun again then.
    Waits(tokio::time::Instant),
    Drained,
}

impl Ingesting {
    async fn run(&mut self, mut tables: Tables) {
        let mut checked = tables.checked();
        let wanted = tables.wanted(&checked);
        self.follow(wanted, &checked);
        loop {
            let is_idle = self.workers.is_empty();
            if is_idle && (self.stop.is_cancelled() || !self.goes_on()) {
                return;
            }
            let next = self.next_begin();
            let stop = self.stop.clone();
            tokio::select! {
                Some(ended) = self.workers.join_next() => self.ended(ended),
                () = tables.change(), if !stop.is_cancelled() => {
                    checked = tables.checked();
                    let wanted = tables.wanted(&checked);
                    self.follow(wanted, &checked);
                }
                () = tokio::time::sleep_until(next), if !stop.is_cancelled() => {
                    self.begin_again(&checked);
                }
                () = stop.cancelled(), if is_idle => {}
            }
        }
    }

    /// Whether there is anything to wait for without a worker.
    fn goes_on(&self) -> bool {
        self.setup.until == Until::Stopped && self.setup.is_patient
    }

    fn next_begin(&self) -> tokio::time::Instant {
        let times = self.tables.values().filter_map(|table| match table.state {
            State::Waits(at) => Some(at),
            State::Runs(_) | State::Drained => None,
        });
        let far = tokio::time::Instant::now() + Duration::from_secs(3600);
        times.min().unwrap_or(far).min(far)
    }

    /// Begins tables that are new, ends those that are gone, and both for those that changed.
    fn follow(&mut self, wanted: Vec<TableName>, checked: &Checked) {
        let gone: Vec<TableName> =
            self.tables.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            if let Some(Table { state: State::Runs(own), .. }) = self.tables.remove(&name) {
                own.cancel();
            }
            self.ingested.failed.remove(&name);
            (self.setup.on_event)(&name, IngestEvent::Ended);
        }
        for name in wanted {
            let text = checked.typed.get(&name).map(|typed| typed.model.source.text.clone());
            match self.tables.entry(name.clone()) {
                Entry::Occupied(mut known) if known.get().text != text => {
                    let table = known.get_mut();
                    table.text = text;
                    table.refused = REFUSED.begin(0);
                    match &table.state {
                        // It is begun again when it has committed what it holds.
                        State::Runs(own) => own.cancel(),
                        State::Waits(_) | State::Drained => self.begin(&name, checked),
                    }
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(place) => {
                    let state = State::Waits(tokio::time::Instant::now());
                    place.insert(Table { text, state, refused: REFUSED.begin(0) });
                    self.begin(&name, checked);
                }
            }
        }
    }

    fn begin_again(&mut self, checked: &Checked) {
        let now = tokio::time::Instant::now();
        let is_due = |table: &Table| matches!(table.state, State::Waits(at) if at <= now);
        let due: Vec<TableName> = self
            .tables
            .iter()
            .filter(|(_, table)| is_due(table))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.begin(&name, checked);
        }
    }

    fn begin(&mut self, name: &TableName, checked: &Checked) {
        let Some(table) = self.tables.get_mut(name) else { return };
        let own = self.stop.child_token();
        table.state = State::Runs(own.clone());
        let (setup, checked, name) = (Arc::clone(&self.setup), checked.clone(), name.clone());
        self.workers.spawn(async move {
            let outcome = supervise(&setup, &name, &checked, &own).await;
            (name, outcome)
        });
    }

    fn ended(&mut self, ended: Ended) {
        let (name, Outcome { ended, has_recovered }) = match ended {
            Ok(ended) => ended,
            Err(source) => {
                // A worker's thread that panics is an error of its table; this is its watcher.
                tracing::error!(error = %source, "what watches a worker ended abnormally");
                return;
            }
        };
        let Some(table) = self.tables.get_mut(&name) else { return };
        let is_watched = self.setup.until == Until::Stopped && !self.stop.is_cancelled();
        match ended {
            Ok(report) => {
                self.ingested.failed.remove(&name);
                self.ingested.reports.insert(name, report);
                // Its model changed.
                table.state = match is_watched {
                    true => State::Waits(tokio::time::Instant::now()),
                    false => State::Drained,
                };
            }
            Err(error) => {
                (self.setup.on_event)(&name, IngestEvent::Failed(&error));
                let pause = table.pause_after(has_recovered);
                table.state = State::Waits(tokio::time::Instant::now() + pause);
                if is_watched {
                    tracing::error!(table = %name, %error, hint = error.hint, "the table is not ingested; it is tried again");
                }
                self.ingested.failed.insert(name, error);
            }
        }
    }
}

type Ended = std::result::Result<(TableName, Outcome), tokio::task::JoinError>;

/// Opens one table and runs its worker. One that loses its broker or store starts again, except
/// when draining once; other failures are for the caller.
async fn supervise(
    setup: &Arc<Setup>,
    name: &TableName,
    checked: &Checked,
    stop: &CancellationToken,
) -> Outcome {
    let mut restarts = RESTART.begin(0);
    let (mut was_lost, mut has_recovered) = (false, false);
    loop {
        let life = Arc::new(Life::default());
        let outcome = match open(setup, name, checked).await {
            Ok(pipeline) => run(setup, pipeline, &life, stop).await,
            Err(error) => Err(error),
        };
        has_recovered |= life.has_recovered();
        let error = match outcome {
            Ok(report) => return Outcome { ended: Ok(report), has_recovered },
            Err(error) => error,
        };
        // A broker that just came back may not know its topics for a moment.
        let may_pass = error.kind.is_retryable() || (was_lost && error.kind == ErrorKind::NotFound);
        if !may_pass || setup.until == Until::Drained || stop.is_cancelled() {
            return Outcome { ended: Err(error), has_recovered };
        }
        if life.has_recovered() {
            restarts = RESTART.begin(0);
        }
        was_lost = true;
        (setup.on_event)(name, IngestEvent::Failed(&error));
        tracing::warn!(table = %name, %error, "ingestion stopped, starting again");
        if stop.run_until_cancelled(restarts.wait()).await.is_none() {
            return Outcome { ended: Ok(WorkerReport::default()), has_recovered };
        }
    }
}

async fn open(setup: &Setup, name: &TableName, checked: &Checked) -> Result<Arc<Pipeline>> {
    setup.app.pipeline(name, &checked.typed, &setup.kafka, setup.run).await
}

/// What one worker came to before it failed.
#[derive(Default)]
struct Life {
    has_committed: AtomicBool,
    took_over: std::sync::Mutex<Option<Instant>>,
}

impl Life {
    /// What went well has nothing to do with earlier troubles.
    fn has_recovered(&self) -> bool {
        let took_over = self.took_over.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.has_committed.load(Ordering::Relaxed)
            || took_over.is_some_and(|at| at.elapsed() >= RECOVERED_AFTER)
    }
}

/// One worker's life under a setup.
async fn run(
    setup: &Arc<Setup>,
    pipeline: Arc<Pipeline>,
    life: &Arc<Life>,
    stop: &CancellationToken,
) -> Result<WorkerReport> {
    let (on_event, life, name) =
        (Arc::clone(&setup.on_event), Arc::clone(life), pipeline.spec.name.clone());
    let on_told: OnTold = Arc::new(move |told: Told<'_>| match told {
        Told::Committed(report) => {
            life.has_committed.store(true, Ordering::Relaxed);
            on_event(&name, IngestEvent::Committed(report));
        }
        Told::TookOver => {
            let mut took_over =
                life.took_over.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            took_over.get_or_insert_with(Instant::now);
            on_event(&name, IngestEvent::Works);
        }
    });
    work(pipeline, setup.until, stop, on_told).await
}

/// One worker's life, on a thread of its own, until it ends or fails.
pub async fn work(
    pipeline: Arc<Pipeline>,
    until: Until,
    stop: &CancellationToken,
    on_told: OnTold,
) -> Result<WorkerReport> {
    let (runtime, stop) = (Handle::current(), stop.clone());
    let worker = tokio::task::spawn_blocking(move || {
        worker::run(&pipeline, &runtime, until, &stop, on_told)
    });
    worker.await.map_err(|source| Error::internal("a worker ended abnormally").source(source))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seven outages of four seconds cost 1, 2, 4 … 60 s, because a life had to last a minute to count.
    #[test]
    fn a_life_that_went_well_forgets_earlier_troubles() {
        let life = Life::default();
        assert!(!life.has_recovered(), "it came to nothing");
        let took_over =
            |ago: Duration| *life.took_over.lock().unwrap() = Instant::now().checked_sub(ago);
        took_over(Duration::ZERO);
        assert!(!life.has_recovered(), "it fails as soon as it has its partitions");
        took_over(RECOVERED_AFTER);
        assert!(life.has_recovered());
        let life = Life::default();
        life.has_committed.store(true, Ordering::Relaxed);
        assert!(life.has_recovered());
    }

    /// It was never forgotten: a table that was refused some days ago waited 10 minutes at once.
    #[test]
    fn a_table_that_worked_in_between_is_tried_again_soon() {
        let state = State::Drained;
        let mut table = Table { text: None, state, refused: REFUSED.begin(0) };
        let pauses = [false, false, false, true, false].map(|worked| table.pause_after(worked));
        assert_eq!(pauses, [10, 20, 40, 10, 20].map(Duration::from_secs));
    }

    fn failed(errors: &[(&str, ErrorKind, &str)]) -> BTreeMap<TableName, Error> {
        let error = |(name, kind, message): &(&str, ErrorKind, &str)| {
            (name.parse().unwrap(), Error::new(*kind, *message).hint(format!("mend {name}")))
        };
        errors.iter().map(error).collect()
    }

    #[test]
    fn of_several_failures_the_gravest_is_the_exit_code_and_all_are_named() {
        let missing = ("bronze.a", ErrorKind::NotFound, "no topic");
        let one = one_error("ingested", failed(&[missing]), 3).unwrap();
        assert_eq!((one.kind, one.message.as_str()), (ErrorKind::NotFound, "no topic"));
        let lost = ("bronze.b", ErrorKind::DataLoss, "offsets are gone");
        let both = one_error("ingested", failed(&[missing, lost]), 3).unwrap();
        assert_eq!(both.kind, ErrorKind::DataLoss);
        let said =
            "2 of 3 tables were not ingested:\n  bronze.a: no topic\n  bronze.b: offsets are gone";
        assert_eq!(both.message, said);
        assert_eq!(both.hint.unwrap(), "mend bronze.a; mend bronze.b");
        let same = failed(&[
            ("bronze.a", ErrorKind::Unavailable, "`bronze.a`: no such bucket"),
            ("bronze.b", ErrorKind::Unavailable, "`bronze.b`: no such bucket"),
        ]);
        assert_eq!(one_error("ingested", same, 2).unwrap().message, "`bronze.a`: no such bucket");
        assert!(one_error("ingested", BTreeMap::new(), 2).is_none());
    }
}
