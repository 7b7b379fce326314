//! Runs selected models in dependency order, independent ones side by side. One failure stops
//! what depends on it and nothing else. Decides no schedule and prints nothing.

mod build;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::build::{Built, RunContext};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Kind, ModelSet};
use crate::table::TableName;

/// Times a model is tried again after a conflict or an unavailable store.
const RETRIES_MAX: u32 = 3;
const RETRY_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// What happens while a run goes on, in order.
#[derive(Debug)]
pub enum RunEvent {
    Started { model: TableName },
    Finished { model: TableName, outcome: Outcome },
}

/// What became of one model.
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

/// Runs `selection`, which must be in dependency order. Bronze tables and views in it have
/// nothing to build and are passed over.
pub async fn run(
    context: Arc<RunContext>,
    selection: &[TableName],
    stop: &CancellationToken,
    on_event: impl FnMut(&RunEvent),
) -> RunReport {
    let mut waiting = buildable(&context.models, selection);
    let mut running: JoinSet<Outcome> = JoinSet::new();
    let mut models: HashMap<Id, TableName> = HashMap::new();
    let mut tally = Tally { ended: BTreeMap::new(), report: RunReport::default(), on_event };
    loop {
        if stop.is_cancelled() {
            for (model, _) in std::mem::take(&mut waiting) {
                tally.settle(model, Outcome::Cancelled);
            }
        }
        while let Some((model, because)) = blocked(&waiting, &tally.ended) {
            waiting.retain(|(waiting, _)| *waiting != model);
            tally.settle(model, Outcome::Skipped { because });
        }
        let ready: Vec<TableName> = waiting
            .iter()
            .filter(|(_, inputs)| inputs.iter().all(|input| tally.ended.contains_key(input)))
            .map(|(model, _)| model.clone())
            .take(context.parallel_models_max.max(1).saturating_sub(running.len()))
            .collect();
        for model in ready {
            waiting.retain(|(waiting, _)| *waiting != model);
            (tally.on_event)(&RunEvent::Started { model: model.clone() });
            let (context, name) = (Arc::clone(&context), model.clone());
            let task = running.spawn(async move {
                match build_with_retries(&context, &name).await {
                    Ok(built) => Outcome::Built(built),
                    Err(error) => Outcome::Failed(error),
                }
            });
            models.insert(task.id(), model);
        }
        let Some(joined) = running.join_next_with_id().await else {
            // Inputs come before what reads them, so what waits could only wait for what runs.
            debug_assert!(waiting.is_empty(), "{waiting:?} would wait forever");
            return tally.report;
        };
        let (task, outcome) = joined.unwrap_or_else(|panicked| {
            let message = "building the model ended abnormally";
            (panicked.id(), Outcome::Failed(Error::internal(message).source(panicked)))
        });
        let model = models.remove(&task).expect("a task is noted as it is spawned");
        tally.settle(model, outcome);
    }
}

/// What has ended in a run, and whether it was built.
struct Tally<E> {
    ended: BTreeMap<TableName, bool>,
    report: RunReport,
    on_event: E,
}

impl<E: FnMut(&RunEvent)> Tally<E> {
    fn settle(&mut self, model: TableName, outcome: Outcome) {
        self.ended.insert(model.clone(), matches!(outcome, Outcome::Built(_)));
        self.report.count(&outcome);
        (self.on_event)(&RunEvent::Finished { model, outcome });
    }
}

/// The models to build, each with those inputs that are built in the same run; views hand their
/// inputs on.
fn buildable(models: &ModelSet, selection: &[TableName]) -> Vec<(TableName, BTreeSet<TableName>)> {
    let stores = |name: &TableName| {
        models
            .get(name)
            .is_some_and(|model| matches!(model.kind, Kind::Interval { .. } | Kind::Full))
    };
    let selected: BTreeSet<&TableName> = selection.iter().filter(|name| stores(name)).collect();
    selection
        .iter()
        .filter(|name| stores(name))
        .map(|name| {
            let mut inputs = BTreeSet::new();
            let mut open: Vec<&TableName> =
                models.get(name).iter().flat_map(|m| &m.inputs).collect();
            while let Some(input) = open.pop() {
                match models.get(input) {
                    Some(view) if matches!(view.kind, Kind::View) => open.extend(&view.inputs),
                    _ if selected.contains(input) => drop(inputs.insert(input.clone())),
                    _ => {}
                }
            }
            (name.clone(), inputs)
        })
        .collect()
}

/// A waiting model one of whose inputs ended without being built.
fn blocked(
    waiting: &[(TableName, BTreeSet<TableName>)],
    ended: &BTreeMap<TableName, bool>,
) -> Option<(TableName, TableName)> {
    waiting.iter().find_map(|(model, inputs)| {
        let because = inputs.iter().find(|input| ended.get(*input) == Some(&false))?;
        Some((model.clone(), because.clone()))
    })
}

async fn build_with_retries(context: &RunContext, model: &TableName) -> Result<Built> {
    let mut retries = 0;
    loop {
        match build::build(context, model).await {
            Err(error) if error.kind.is_retryable() && retries < RETRIES_MAX => {
                retries += 1;
                tracing::warn!(%model, %error, retries, "model failed, trying again");
                tokio::time::sleep(RETRY_DELAY * retries).await;
            }
            outcome => return outcome,
        }
    }
}
