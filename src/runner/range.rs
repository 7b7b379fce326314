//! Which range an interval model is built over: the one that was asked for, or the one that its
//! inputs and the table itself hold. Reads no more than the ends of their times.

use std::collections::BTreeSet;

use chrono_tz::Tz;
use datafusion::common::DataFusionError;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionContext, ident};

use crate::engine::fault::engine_error;
use crate::engine::interval::{reached, reached_days, unbound};
use crate::engine::planned;
use crate::error::{Error, Result};
use crate::interval::{Every, Instant, Range};
use crate::lake::Snapshot;
use crate::lake::spec::{has_times, instants_of};
use crate::model::Model;

/// `asked`, which must be made of whole intervals of the model.
pub fn whole(asked: Range, model: &Model, every: Every) -> Result<Range> {
    let aligned = every.align(asked, model.timezone);
    if aligned == asked {
        return Ok(asked);
    }
    Err(Error::invalid(format!(
        "{asked} is not made of whole intervals of `{}` (every {every}, {})",
        model.name, model.timezone
    ))
    .hint(format!("whole intervals around it: --start {} --end {}", aligned.start, aligned.end)))
}

/// What a model's query says about its intervals, over the inputs in `session`.
pub struct Inputs<'a> {
    session: &'a SessionContext,
    model: &'a Model,
    every: Every,
    plan: LogicalPlan,
}

impl<'a> Inputs<'a> {
    /// Plans the model's query, whose inputs `session` must already have as tables.
    pub async fn of(session: &'a SessionContext, model: &'a Model, every: Every) -> Result<Self> {
        let state = session.state();
        let plan = planned(&state, &model.sql).await;
        let plan = plan.and_then(|plan| unbound(&state, plan)).map_err(|e| failed(model, e))?;
        Ok(Self { session, model, every, plan })
    }

    /// Whole intervals around everything that they hold; `None` if they hold nothing.
    pub async fn range(&self) -> Result<Option<Range>> {
        let reached = reached(self.session, &self.plan, self.every, self.model.timezone).await;
        reached.map_err(|error| failed(self.model, error))
    }

    /// The intervals within `range` in which they may hold something, up to `max` of them; `None` if
    /// nobody can say.
    pub async fn intervals(&self, range: Range, max: usize) -> Result<Option<Vec<Range>>> {
        let days = reached_days(self.session, &self.plan).await;
        let Some(days) = days.map_err(|error| failed(self.model, error))? else { return Ok(None) };
        let zone = self.model.timezone;
        let within = days.iter().filter_map(|days| {
            let (start, end) = (days.start.max(range.start), days.end.min(range.end));
            (start < end).then_some(Range { start, end })
        });
        let each = within.flat_map(|days| self.every.intervals_in(days, zone)).take(max);
        let distinct: BTreeSet<Range> = each.collect();
        Ok(Some(distinct.into_iter().collect()))
    }
}

fn failed(model: &Model, error: DataFusionError) -> Error {
    engine_error(&format!("cannot read what `{}` reads", model.name), error)
}

/// Whole intervals around every row of the model's table: what left the inputs leaves it too.
pub async fn of_table(
    session: &SessionContext,
    table: &Snapshot,
    time: &str,
    every: Every,
    timezone: Tz,
) -> Result<Option<Range>> {
    if !has_times(&table.schema(), time) {
        return Ok(None);
    }
    let failed =
        |error| engine_error(&format!("cannot read the range of `{}`", table.name()), error);
    let frame = session.read_table(table.provider().await?).map_err(failed)?;
    let bounds = vec![min(ident(time)).alias("first"), max(ident(time)).alias("last")];
    let batches =
        frame.aggregate(Vec::new(), bounds).map_err(failed)?.collect().await.map_err(failed)?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let bound = |column: usize| -> Result<Option<Range>> {
        let instant = instants_of(batch.column(column), timezone)?.pop().flatten();
        Ok(instant.map(|instant| every.interval_of(Instant(instant), timezone)))
    };
    let ends = bound(0)?.zip(bound(1)?);
    Ok(ends.map(|(first, last)| Range { start: first.start, end: last.end }))
}
