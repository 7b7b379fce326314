//! Rows become staged files, which no reader of the table sees: a few rows one after the other into
//! one file, many by a writer for each partition of the plan, side by side.

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlanProperties;
use futures::future::select_all;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::context::RunContext;
use super::observe::{Observed, Observers, check_within};
use super::plan::{Plan, Query};
use crate::engine::fault::engine_error;
use crate::engine::storable::conform;
use crate::engine::task_of;
use crate::error::{Error, Result};
use crate::interval::Range;
use crate::lake::Lake;
use crate::lake::spec::TableSpec;
use crate::lake::stage::{Staged, Stager};

/// Up to so many rows, one file is written as fast as several, and read faster.
const ROWS_TOGETHER_MAX: usize = 1 << 17;

/// The rows of a build, staged, and what was seen of them.
pub struct Output {
    pub staged: Staged,
    pub observed: Observed,
}

/// Executes the plan's query. After an error nothing stays but orphans.
pub async fn stage(context: &RunContext, plan: &Plan<'_>) -> Result<Output> {
    let execution = Execution { query: plan.query(), spec: plan.spec().clone() };
    let streams = match plan.passes.as_slice() {
        [] => Vec::new(),
        [pass] => execution.streams(*pass).await?,
        passes => vec![execution.one_by_one(passes.to_vec())],
    };
    let writing = Writing {
        lake: context.lake.clone(),
        spec: plan.spec().clone(),
        stop: CancellationToken::new(),
    };
    writing.write_all(streams).await
}

type Rows = BoxStream<'static, Result<RecordBatch>>;

/// What all passes of a build share.
#[derive(Clone)]
struct Execution {
    query: Query,
    spec: TableSpec,
}

impl Execution {
    /// A stream of rows for each partition of the plan.
    async fn streams(&self, pass: Option<Range>) -> Result<Vec<Rows>> {
        let plan = self.query.plan(pass).await?;
        let session = &self.query.session;
        let physical = session.state().create_physical_plan(&plan).await;
        let physical = physical.map_err(|error| self.query.failed(error))?;
        let task = task_of(session);
        let mut streams = Vec::new();
        for at in 0..physical.output_partitioning().partition_count() {
            let rows = physical.execute(at, task.clone()).map_err(|error| self.query.failed(error));
            let own = self.clone();
            let rows = rows?.map(move |batch| {
                let batch = batch.map_err(|error| own.query.failed(error))?;
                if let Some(range) = pass {
                    check_within(&batch, &own.spec, range)?;
                }
                Ok(batch)
            });
            streams.push(rows.boxed());
        }
        Ok(streams)
    }

    /// The rows of all passes; one begins when the one before has ended.
    fn one_by_one(self, passes: Vec<Option<Range>>) -> Rows {
        let each = stream::iter(passes).then(move |pass| {
            let own = self.clone();
            async move { own.streams(pass).await }
        });
        let rows = each.flat_map(|streams| match streams {
            Ok(streams) => stream::select_all(streams).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        rows.boxed()
    }
}

/// Stages rows of files that are rewritten, which nobody needs to look at once more.
pub async fn restage(
    context: &RunContext,
    spec: &TableSpec,
    rows: SendableRecordBatchStream,
) -> Result<Staged> {
    let writing =
        Writing { lake: context.lake.clone(), spec: spec.clone(), stop: CancellationToken::new() };
    let doing = format!("cannot rewrite files of `{}`", spec.name);
    let rows = rows.map(move |batch| batch.map_err(|error| engine_error(&doing, error)));
    let written = writing.write(Vec::new(), Some(rows.boxed()), None).await?;
    let (staged, _) = written.ok_or_else(|| Error::internal("a writer without others stopped"))?;
    Ok(staged)
}

/// What the writers of one build share.
#[derive(Clone)]
struct Writing {
    lake: Lake,
    spec: TableSpec,
    /// Cancelled by the first writer that fails.
    stop: CancellationToken,
}

type Written = (Staged, Option<Observers>);

impl Writing {
    async fn write_all(self, streams: Vec<Rows>) -> Result<Output> {
        let (first, rest) = self.first_rows(streams).await?;
        let mut writers = JoinSet::new();
        if rest.is_empty() {
            writers.spawn(self.clone().write(first, None, Some(self.observers()?)));
        } else {
            // What was read already is shared out.
            let mut shares: Vec<Vec<RecordBatch>> = rest.iter().map(|_| Vec::new()).collect();
            let count = shares.len();
            first.into_iter().enumerate().for_each(|(at, batch)| shares[at % count].push(batch));
            for (share, stream) in shares.into_iter().zip(rest) {
                let observers = Some(self.observers()?);
                writers.spawn(self.clone().write(share, Some(stream), observers));
            }
        }
        let (mut written, mut failure) = (Vec::new(), None);
        while let Some(ended) = writers.join_next().await {
            let ended = ended.unwrap_or_else(|source| {
                self.stop.cancel();
                Err(Error::internal("a writer ended abnormally").source(source))
            });
            match ended {
                Ok(one) => written.extend(one),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        match failure {
            None => self.joined(written),
            Some(error) => {
                for (staged, _) in written {
                    staged.discard(&self.lake, &self.spec.name).await;
                }
                Err(error)
            }
        }
    }

    /// Reads until there are many rows; those that came, and the streams that may have more.
    async fn first_rows(&self, mut streams: Vec<Rows>) -> Result<(Vec<RecordBatch>, Vec<Rows>)> {
        let (mut first, mut rows) = (Vec::new(), 0);
        while !streams.is_empty() && rows < ROWS_TOGETHER_MAX {
            let (next, at, _) = select_all(streams.iter_mut().map(StreamExt::next)).await;
            match next {
                Some(batch) => {
                    let batch = batch?;
                    rows += batch.num_rows();
                    first.push(batch);
                }
                None => drop(streams.swap_remove(at)),
            }
        }
        Ok((first, streams))
    }

    /// One writer's work; `None` if another failed meanwhile.
    async fn write(
        self,
        first: Vec<RecordBatch>,
        rest: Option<Rows>,
        mut observers: Option<Observers>,
    ) -> Result<Option<Written>> {
        // The others stop also if this one panics.
        let alarm = self.stop.clone().drop_guard();
        let mut stager = Stager::new(&self.lake, &self.spec)?;
        let rest = stream::iter(rest).flatten();
        let mut rows = stream::iter(first.into_iter().map(Ok)).chain(rest);
        let ended = loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => break Ok(false),
                next = rows.next() => next,
            };
            let Some(batch) = next else { break Ok(true) };
            let batch = batch.and_then(|batch| conform(&batch, &self.spec.columns));
            let seen = batch.and_then(|batch| {
                observers.as_mut().map_or(Ok(()), |observers| observers.see(&batch))?;
                Ok(batch)
            });
            let written = match seen {
                Ok(batch) => stager.write(&batch).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                break Err(error);
            }
        };
        if !matches!(ended, Ok(true)) {
            stager.abort().await;
            return ended.map(|_| None);
        }
        let staged = stager.finish().await?;
        alarm.disarm();
        Ok(Some((staged, observers)))
    }

    fn joined(&self, written: Vec<Written>) -> Result<Output> {
        let mut staged = Staged::default();
        let mut observers = self.observers()?;
        for (one, seen) in written {
            staged.join(one);
            seen.into_iter().for_each(|seen| observers.join(seen));
        }
        Ok(Output { staged, observed: observers.finish() })
    }

    fn observers(&self) -> Result<Observers> {
        Observers::new(&self.spec)
    }
}
