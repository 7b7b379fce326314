//! A task becomes a plan: its inputs pinned at their newest versions, its range decided, its query
//! planned over them. Executes nothing but the question what the inputs and the table hold.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use super::context::RunContext;
use super::range;
use super::task::{Reason, Task};
use crate::engine::catalog::{Pins, Tables, register};
use crate::engine::fault::engine_error;
use crate::engine::frugal::{apart, holds_much, is_frugal, plan_frugally};
use crate::engine::{interval_parameters, planned, read_only};
use crate::error::{Error, Result};
use crate::interval::{Every, Range};
use crate::lake::Snapshot;
use crate::lake::spec::TableSpec;
use crate::model::Model;
use crate::table::TableName;
use crate::typecheck::{Intervals, TypedModel};

/// Passes of one build before it is refused.
const PASSES_MAX: usize = 100_000;

/// One task, ready to be executed.
pub struct Plan<'a> {
    pub model: &'a Model,
    pub typed: &'a TypedModel,
    pub session: SessionContext,
    /// What is read, down to the tables below views.
    pub pins: Pins,
    pub extent: Extent,
    /// Everything anew, by whatever shape and rows the table has.
    pub is_refresh: bool,
    /// Whether what is built is all that the table is to hold.
    pub covers_all: bool,
    /// What the query is executed for, one after the other: intervals, or ranges of several where the
    /// query provably gives the rows of each; once without a range if the model has no intervals.
    pub passes: Vec<Option<Range>>,
}

/// What a build replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    Range(Range),
    /// Neither the inputs nor the table hold a row: the table exists afterwards, and is left as it is.
    Nothing,
}

impl Extent {
    /// `None` also for the whole table.
    pub fn range(self) -> Option<Range> {
        match self {
            Extent::Range(range) => Some(range),
            Extent::Whole | Extent::Nothing => None,
        }
    }
}

impl<'a> Plan<'a> {
    /// Pins every input at its newest version; fails at the first that is not there. `before` is the
    /// model's own table.
    pub async fn of(
        context: &'a RunContext,
        task: &Task,
        before: Option<&Snapshot>,
    ) -> Result<Self> {
        let name = &task.model;
        let (Some(model), Some(typed)) = (context.models.get(name), context.typed.get(name)) else {
            return Err(Error::internal(format!("`{name}` was not checked before the run")));
        };
        let session = context.engine.session();
        let tables = Tables {
            engine: &context.engine,
            lake: &context.lake,
            models: &context.models,
            may_read: &|_| true,
        };
        let pins = register(&session, tables, model.inputs.iter().cloned(), |_| false).await?;
        let is_refresh = task.reason == Reason::Refresh;
        let mut plan = Self {
            model,
            typed,
            session,
            pins,
            extent: Extent::Whole,
            is_refresh,
            covers_all: true,
            passes: vec![None],
        };
        if let Some(every) = model.every() {
            plan.cover(every, task.range, before).await?;
        }
        Ok(plan)
    }

    /// Decides the range of an interval model.
    async fn cover(
        &mut self,
        every: Every,
        asked: Option<Range>,
        before: Option<&Snapshot>,
    ) -> Result<()> {
        let (session, model) = (&self.session, self.model);
        let is_together = self.typed.intervals == Intervals::Together;
        // Which intervals they reach; nobody asks where the range is given and built at once.
        let inputs = match asked.is_some() && is_together {
            true => None,
            false => Some(range::Inputs::of(session, model, every).await?),
        };
        let covered = match (asked, &inputs) {
            (Some(asked), _) => Some(range::whole(asked, model, every)?),
            (None, Some(inputs)) => inputs.range().await?,
            (None, None) => None,
        };
        self.covers_all = asked.is_none();
        let stored = match (before, &self.spec().time) {
            (Some(table), Some(time)) if asked.is_none() && !self.is_refresh => {
                range::of_table(session, table, time, every, model.timezone).await?
            }
            _ => None,
        };
        let hull = covered.into_iter().chain(stored).reduce(Range::hull);
        self.extent = match (self.is_refresh, hull) {
            (true, _) => Extent::Whole,
            (false, Some(range)) => Extent::Range(range),
            (false, None) => Extent::Nothing,
        };
        self.passes = match (hull, &inputs) {
            (None, _) => Vec::new(),
            (Some(range), Some(inputs)) if !is_together => {
                let one_by_one = one_by_one(inputs, range, model, every).await?;
                one_by_one.into_iter().map(Some).collect()
            }
            (Some(range), _) => vec![Some(range)],
        };
        Ok(())
    }

    /// From the first interval that is built to the last.
    pub fn covered(&self) -> Option<Range> {
        self.passes.iter().copied().flatten().reduce(Range::hull)
    }

    /// What the table is to be like.
    pub fn spec(&self) -> &'a TableSpec {
        &self.typed.spec
    }

    /// What is executed, by whoever outlives this plan.
    pub fn query(&self) -> Query {
        let (session, model) = (self.session.clone(), self.model);
        Query { session, name: model.name.clone(), sql: Arc::from(model.sql.as_str()) }
    }
}

/// The intervals of `range`. Where one row is far from the others in time, those that hold none are
/// left out.
async fn one_by_one(
    inputs: &range::Inputs<'_>,
    range: Range,
    model: &Model,
    every: Every,
) -> Result<Vec<Range>> {
    let all = every.intervals_in(range, model.timezone).take(PASSES_MAX + 1);
    let mut passes: Vec<Range> = all.collect();
    if passes.len() > PASSES_MAX
        && let Some(held) = inputs.intervals(range, PASSES_MAX + 1).await?
    {
        passes = held;
    }
    if passes.len() <= PASSES_MAX {
        return Ok(passes);
    }
    let message = format!(
        "`{}` is built one interval at a time, and {range} has more than {PASSES_MAX}",
        model.name
    );
    Err(Error::invalid(message).hint(
        "build parts of it with --start and --end; `flowguard check` says what would let all \
         intervals be built at once",
    ))
}

/// A model's query over what is pinned.
#[derive(Clone)]
pub struct Query {
    pub session: SessionContext,
    name: TableName,
    sql: Arc<str>,
}

impl Query {
    /// For one of the passes.
    pub async fn plan(&self, pass: Option<Range>) -> Result<LogicalPlan> {
        let plan = planned(&self.session.state(), &self.sql).await;
        let plan = plan.map_err(|error| self.failed(error))?;
        read_only().verify_plan(&plan).map_err(|error| self.failed(error))?;
        match pass {
            Some(range) => plan
                .with_param_values(interval_parameters(range))
                .map_err(|error| self.failed(error)),
            None => Ok(plan),
        }
    }

    /// The same as it is executed.
    pub async fn physical(&self, pass: Option<Range>) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plan = self.plan(pass).await?;
        if is_frugal(&self.session) {
            plan = apart(plan).map_err(|error| self.failed(error))?;
        }
        let physical = self.session.state().create_physical_plan(&plan).await;
        physical.map_err(|error| self.failed(error))
    }

    /// Plans it with less memory from now on; false if there is no other way.
    pub async fn spare(&self, pass: Option<Range>) -> Result<bool> {
        let may = !is_frugal(&self.session) && holds_much(&self.physical(pass).await?);
        if may {
            plan_frugally(&self.session);
        }
        Ok(may)
    }

    /// An error of the engine, with the name of the model that it keeps from being built.
    pub fn failed(&self, error: DataFusionError) -> Error {
        engine_error(&format!("cannot build `{}`", self.name), error)
    }
}
