//! Rows become staged files, which no reader of the table sees: a few rows one after the other into
//! one file, many by a writer for each partition of the plan, side by side.

use std::time::Duration;

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
use crate::engine::{Engine, task_of};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Range;
use crate::lake::Lake;
use crate::lake::damage::scanned_bytes;
use crate::lake::spec::TableSpec;
use crate::lake::stage::{Staged, Stager};
use crate::retry::Retry;

/// Up to so many rows, one file is written as fast as several, and read faster.
const ROWS_TOGETHER_MAX: usize = 1 << 17;
/// They wait in memory until it is known whether there are more.
const BYTES_TOGETHER_MAX: usize = 16 << 20;

/// A long range is built in parts that read about this part of the engine's memory each, as files: in
/// memory rows take several times as much, and so do those that are written.
const READ_PART: u64 = 4;
/// A range with more intervals is not parted.
const INTERVALS_PARTED_MAX: usize = 10_000;
/// The parts of a range may together read this part more than it does as a whole.
const READ_AGAIN_PART: u64 = 4;

/// How often it is looked whether tasks of an attempt that failed have ended and freed its memory, down
/// to this part; others may hold more for longer.
const FREED: Retry = Retry::times(50, Duration::from_millis(10), Duration::from_millis(40));
const FREED_PART: usize = 16;

/// The rows of a build, staged, and what was seen of them.
pub struct Output {
    pub staged: Staged,
    pub observed: Observed,
}

/// Executes the plan's query, once more in a way that spills if it needs more memory than there is.
/// After an error nothing stays but orphans.
pub async fn stage(context: &RunContext, plan: &Plan<'_>) -> Result<Output> {
    let first = staged(context, plan).await;
    let pass = plan.passes.first().copied().flatten();
    match first {
        Err(error) if error.kind == ErrorKind::Exhausted => {
            if !plan.query().spare(pass).await? {
                return Err(error);
            }
            tracing::info!(model = %plan.model.name, %error, "built anew with less memory");
            let (engine, mut looks) = (&context.engine, FREED.begin(context.run.as_u128()));
            let few = engine.memory_bytes_max() / FREED_PART;
            while engine.memory_bytes() > few && looks.wait().await {}
            staged(context, plan).await
        }
        first => first,
    }
}

async fn staged(context: &RunContext, plan: &Plan<'_>) -> Result<Output> {
    let execution = Execution { query: plan.query(), spec: plan.spec().clone() };
    let writing = Writing::of(context, plan.spec());
    let parts = match (plan.passes.as_slice(), plan.model.every()) {
        ([], _) => Vec::new(),
        ([Some(range)], Some(every)) => {
            let bytes_max = context.engine.memory_bytes_max() as u64 / READ_PART;
            let each = every.intervals_in(*range, plan.model.timezone);
            execution.parts(*range, each, bytes_max).await?
        }
        ([pass], _) => vec![*pass],
        (passes, _) => {
            let streams = vec![execution.one_by_one(passes.to_vec())];
            return writing.joined(writing.clone().write_all(streams).await?);
        }
    };
    let mut written = Vec::new();
    for part in parts {
        let more = match execution.streams(part).await {
            Ok(streams) => writing.clone().write_all(streams).await,
            Err(error) => Err(error),
        };
        match more {
            Ok(more) => written.extend(more),
            Err(error) => {
                writing.discard(written).await;
                return Err(error);
            }
        }
    }
    writing.joined(written)
}

type Rows = BoxStream<'static, Result<RecordBatch>>;

/// What all passes of a build share.
#[derive(Clone)]
struct Execution {
    query: Query,
    spec: TableSpec,
}

impl Execution {
    /// `range`, which can be built at once, in parts of whole intervals that read about as much as
    /// `bytes_max` each; as it is if its conditions don't keep a part from reading what others read.
    async fn parts(
        &self,
        range: Range,
        intervals: impl Iterator<Item = Range>,
        bytes_max: u64,
    ) -> Result<Vec<Option<Range>>> {
        let whole = vec![Some(range)];
        let bytes = scanned_bytes(&self.query.physical(Some(range)).await?);
        let count = usize::try_from(bytes.div_ceil(bytes_max.max(1))).unwrap_or(usize::MAX);
        if count <= 1 {
            return Ok(whole);
        }
        let intervals: Vec<Range> = intervals.take(INTERVALS_PARTED_MAX + 1).collect();
        if intervals.len() > INTERVALS_PARTED_MAX {
            return Ok(whole);
        }
        let together = intervals.chunks(intervals.len().div_ceil(count));
        let parts: Vec<Range> =
            together.flat_map(|part| part.iter().copied().reduce(Range::hull)).collect();
        let mut read = 0;
        for part in &parts {
            read += scanned_bytes(&self.query.physical(Some(*part)).await?);
            if read > bytes + bytes / READ_AGAIN_PART {
                return Ok(whole);
            }
        }
        Ok(parts.into_iter().map(Some).collect())
    }

    /// A stream of rows for each partition of the plan.
    async fn streams(&self, pass: Option<Range>) -> Result<Vec<Rows>> {
        let physical = self.query.physical(pass).await?;
        let task = task_of(&self.query.session);
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
    let writing = Writing::of(context, spec);
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
    engine: Engine,
    spec: TableSpec,
    /// Cancelled by the first writer that fails.
    stop: CancellationToken,
}

type Written = (Staged, Option<Observers>);

impl Writing {
    fn of(context: &RunContext, spec: &TableSpec) -> Self {
        let (lake, engine) = (context.lake.clone(), context.engine.clone());
        Self { lake, engine, spec: spec.clone(), stop: CancellationToken::new() }
    }

    async fn write_all(self, streams: Vec<Rows>) -> Result<Vec<Written>> {
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
            None => Ok(written),
            Some(error) => {
                self.discard(written).await;
                Err(error)
            }
        }
    }

    async fn discard(&self, written: Vec<Written>) {
        for (staged, _) in written {
            staged.discard(&self.lake, &self.spec.name).await;
        }
    }

    /// Reads until there are many rows; those that came, and the streams that may have more.
    async fn first_rows(&self, mut streams: Vec<Rows>) -> Result<(Vec<RecordBatch>, Vec<Rows>)> {
        let (mut first, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while !streams.is_empty() && rows < ROWS_TOGETHER_MAX && bytes < BYTES_TOGETHER_MAX {
            let (next, at, _) = select_all(streams.iter_mut().map(StreamExt::next)).await;
            match next {
                Some(batch) => {
                    let batch = batch?;
                    rows += batch.num_rows();
                    bytes += batch.get_array_memory_size();
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
        let memory = self.engine.reservation(&format!("files of {}", self.spec.name));
        let mut stager = Stager::within(&self.lake, &self.spec, memory)?;
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
