//! A task becomes a plan: its inputs pinned at their newest versions, its range decided, its query
//! planned over them. Executes nothing but the question what the inputs hold.

use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;

use super::context::RunContext;
use super::range;
use super::task::Task;
use crate::engine::catalog::{Pins, Tables, register};
use crate::engine::fault::engine_error;
use crate::engine::{interval_parameters, read_only};
use crate::error::{Error, Result};
use crate::interval::Range;
use crate::lake::spec::TableSpec;
use crate::model::Model;
use crate::typecheck::TypedModel;

/// One task, ready to be executed.
pub struct Plan<'a> {
    pub model: &'a Model,
    pub typed: &'a TypedModel,
    pub session: SessionContext,
    /// What is read, down to the tables below views.
    pub pins: Pins,
    pub extent: Extent,
}

/// What a build replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    Range(Range),
    /// No input holds a row: the table exists afterwards, and is left as it is.
    Nothing,
}

impl Extent {
    pub fn range(self) -> Option<Range> {
        match self {
            Extent::Range(range) => Some(range),
            Extent::Whole | Extent::Nothing => None,
        }
    }
}

impl<'a> Plan<'a> {
    /// Pins every input at its newest version; fails at the first that is not there.
    pub async fn of(context: &'a RunContext, task: &Task) -> Result<Self> {
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
        let pins = register(&session, tables, model.inputs.iter().cloned()).await?;
        let extent = match (model.every(), task.range) {
            (None, _) => Extent::Whole,
            (Some(every), Some(asked)) => Extent::Range(range::whole(asked, model, every)?),
            (Some(every), None) => range::held(&session, &context.models, model, every)
                .await?
                .map_or(Extent::Nothing, Extent::Range),
        };
        Ok(Self { model, typed, session, pins, extent })
    }

    /// What the table is to be like.
    pub fn spec(&self) -> &'a TableSpec {
        &self.typed.spec
    }

    /// The model's query over what is pinned, with its range bound.
    pub async fn query(&self) -> Result<LogicalPlan> {
        let failed = |error| engine_error(&format!("cannot build `{}`", self.model.name), error);
        let plan = self.session.state().create_logical_plan(&self.model.sql).await;
        let plan = plan.map_err(failed)?;
        read_only().verify_plan(&plan).map_err(failed)?;
        match self.extent.range() {
            Some(range) => plan.with_param_values(interval_parameters(range)).map_err(failed),
            None => Ok(plan),
        }
    }
}
