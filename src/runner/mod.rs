//! Runs selected models in dependency order, independent ones side by side. One failure stops
//! what depends on it and nothing else. Decides no schedule and prints nothing.

mod build;
mod context;
mod observe;
mod plan;
mod publish;
mod range;
mod stage;
mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::build::Built;
pub use self::context::RunContext;
pub use self::task::{Reason, Task, refreshes_of, tasks_of};

use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelSet;
use crate::retry::Retry;
use crate::table::TableName;

/// Times a model is tried again after a conflict or an unavailable store.
const RETRY: Retry = Retry::times(4, Duration::from_millis(500), Duration::from_secs(2));

/// What happens while a run goes on, in order.
#[derive(Debug)]
pub enum RunEvent {
    Started { task: Task },
    Finished { task: Task, outcome: Outcome },
}

/// What became of one task.
#[derive(Debug)]
pub enum Outcome {
    Built(Built),
    Failed(Error),
    /// An input failed or was itself skipped.
    Skipped {
        because: TableName,
    },
    /// The run was stopped before this model began.
    Cancelled,
}

/// Totals by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunReport {
    pub built: usize,
    pub failed: usize,
    pub skipped: usize,
    pub cancelled: usize,
    /// The kind of all failures, if they have one in common.
    pub kind: Option<ErrorKind>,
}

impl RunReport {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Built(_) => self.built += 1,
            Outcome::Failed(error) => {
                let agree = self.failed == 0 || self.kind == Some(error.kind);
                self.kind = agree.then_some(error.kind);
                self.failed += 1;
            }
            Outcome::Skipped { .. } => self.skipped += 1,
            Outcome::Cancelled => self.cancelled += 1,
        }
    }

    /// Success, or the error that the whole run ends with.
    pub fn into_result(self) -> Result<RunReport> {
        if self.failed > 0 {
            let message = format!("{} of {} models failed", self.failed, self.total());
            // Where the store refused everything, the fault is not the run's.
            let kind = self.kind.filter(|kind| {
                use ErrorKind::{Denied, Exhausted, Unavailable};
                self.built == 0 && matches!(kind, Denied | Exhausted | Unavailable)
            });
            return Err(Error::new(kind.unwrap_or(ErrorKind::RunFailed), message));
        }
        // What needs a model that is left out, and was asked for without it.
        if self.skipped > 0 && self.cancelled == 0 {
            let message = format!("{} of {} models were skipped", self.skipped, self.total());
            return Err(Error::new(ErrorKind::RunFailed, message).hint("flowguard check"));
        }
        if self.cancelled > 0 {
            let message = format!("stopped with {} models left", self.cancelled);
            return Err(Error::new(ErrorKind::Interrupted, message)
                .hint("what was built is committed; run again for the rest"));
        }
        Ok(self)
    }

    fn total(&self) -> usize {
        self.built + self.failed + self.skipped + self.cancelled
    }
}

/// Runs `tasks`, whose models must be in dependency order: one begins when all those of its model's
/// inputs are done. Tasks of bronze tables and views have nothing to build and are passed over. Of
/// models that are left out, the broken ones fail and those that need them are skipped.
pub async fn run(
    context: Arc<RunContext>,
    tasks: Vec<Task>,
    stop: &CancellationToken,
    on_event: impl FnMut(&RunEvent),
) -> RunReport {
    let is_left_out = |task: &Task| context.models.left_out().contains_key(&task.model);
    let (left_out, tasks): (Vec<Task>, _) = tasks.into_iter().partition(is_left_out);
    let mut waiting = buildable(&context.models, tasks);
    let mut running: JoinSet<Outcome> = JoinSet::new();
    let mut started: HashMap<Id, Task> = HashMap::new();
    let mut tally = Tally::new(&waiting, on_event);
    for task in left_out {
        if let Some(outcome) = outcome_of(&context.models, &task.model) {
            tally.settle(task, outcome);
        }
    }
    loop {
        if stop.is_cancelled() {
            for (task, _) in std::mem::take(&mut waiting) {
                tally.settle(task, Outcome::Cancelled);
            }
        }
        while let Some((at, because)) = tally.blocked(&waiting) {
            let (task, _) = waiting.remove(at);
            tally.settle(task, Outcome::Skipped { because });
        }
        while running.len() < context.parallel_models_max.max(1)
            && let Some(at) = tally.ready(&waiting)
        {
            let (task, _) = waiting.remove(at);
            (tally.on_event)(&RunEvent::Started { task: task.clone() });
            let (context, own) = (Arc::clone(&context), task.clone());
            let handle = running.spawn(async move {
                match build_with_retries(&context, &own).await {
                    Ok(built) => Outcome::Built(built),
                    Err(error) => Outcome::Failed(error),
                }
            });
            started.insert(handle.id(), task);
        }
        let Some(joined) = running.join_next_with_id().await else {
            // Inputs come before what reads them, so what waits could only wait for what runs.
            debug_assert!(waiting.is_empty(), "{waiting:?} would wait forever");
            return tally.report;
        };
        let (id, outcome) = joined.unwrap_or_else(|panicked| {
            let message = "building the model ended abnormally";
            (panicked.id(), Outcome::Failed(Error::internal(message).source(panicked)))
        });
        let task = started.remove(&id).expect("a task is noted as it is spawned");
        tally.settle(task, outcome);
    }
}

/// What becomes of a model that is left out; `None` where nothing would have been built.
fn outcome_of(models: &ModelSet, name: &TableName) -> Option<Outcome> {
    let left_out = models.left_out().get(name)?;
    match left_out.needs() {
        None => Some(Outcome::Failed(left_out.error(name))),
        Some(because) if left_out.model.as_ref().is_some_and(|model| model.is_built()) => {
            Some(Outcome::Skipped { because: because.clone() })
        }
        Some(_) => None,
    }
}

/// A task, and the models with tasks in the same run that it waits for.
type Waiting = (Task, BTreeSet<TableName>);

/// What has ended in a run, and how.
struct Tally<E> {
    /// How many tasks of each model have not ended.
    left: BTreeMap<TableName, usize>,
    /// Models with a task that was not built.
    unbuilt: BTreeSet<TableName>,
    report: RunReport,
    on_event: E,
}

impl<E: FnMut(&RunEvent)> Tally<E> {
    fn new(waiting: &[Waiting], on_event: E) -> Self {
        let mut left = BTreeMap::new();
        for (task, _) in waiting {
            *left.entry(task.model.clone()).or_default() += 1;
        }
        Self { left, unbuilt: BTreeSet::new(), report: RunReport::default(), on_event }
    }

    fn settle(&mut self, task: Task, outcome: Outcome) {
        if let Some(left) = self.left.get_mut(&task.model) {
            *left -= 1;
        }
        if !matches!(outcome, Outcome::Built(_)) {
            self.unbuilt.insert(task.model.clone());
        }
        self.report.count(&outcome);
        (self.on_event)(&RunEvent::Finished { task, outcome });
    }

    /// A task that waits for a model that will not be built.
    fn blocked(&self, waiting: &[Waiting]) -> Option<(usize, TableName)> {
        waiting.iter().enumerate().find_map(|(at, (_, inputs))| {
            let because = inputs.iter().find(|input| self.unbuilt.contains(*input))?;
            Some((at, because.clone()))
        })
    }

    /// The first task whose inputs are all done.
    fn ready(&self, waiting: &[Waiting]) -> Option<usize> {
        let is_done = |input: &TableName| self.left.get(input).is_none_or(|left| *left == 0);
        waiting.iter().position(|(_, inputs)| inputs.iter().all(is_done))
    }
}

/// The tasks to build, each with those inputs that have tasks in the same run; views hand their
/// inputs on.
fn buildable(models: &ModelSet, tasks: Vec<Task>) -> Vec<Waiting> {
    let is_built = |name: &TableName| models.get(name).is_some_and(|model| model.is_built());
    let tasks: Vec<Task> = tasks.into_iter().filter(|task| is_built(&task.model)).collect();
    let built: BTreeSet<TableName> = tasks.iter().map(|task| task.model.clone()).collect();
    let inputs_of = |name: &TableName| {
        let mut inputs = BTreeSet::new();
        let mut open: Vec<&TableName> = models.get(name).iter().flat_map(|m| &m.inputs).collect();
        while let Some(input) = open.pop() {
            match models.get(input) {
                Some(view) if view.is_view() => open.extend(&view.inputs),
                _ if built.contains(input) => drop(inputs.insert(input.clone())),
                _ => {}
            }
        }
        inputs
    };
    tasks
        .into_iter()
        .map(|task| {
            let inputs = inputs_of(&task.model);
            (task, inputs)
        })
        .collect()
}

async fn build_with_retries(context: &RunContext, task: &Task) -> Result<Built> {
    let (mut attempts, what) = (RETRY.begin(0), task.model.to_string());
    loop {
        match build::build(context, task).await {
            Err(error) if attempts.wait_after(&what, &error).await => {}
            outcome => return outcome,
        }
    }
}
