//! Which range an interval model is built over: the one that was asked for, or the one that its
//! inputs and the table itself hold. Reads no more than the ends of their times.

use chrono_tz::Tz;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::prelude::{SessionContext, ident};

use crate::engine::fault::engine_error;
use crate::engine::interval::{is_bound, reached, unbound};
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

/// Whole intervals around everything that the inputs hold in `session`; `None` if they hold nothing.
pub async fn of_inputs(
    session: &SessionContext,
    model: &Model,
    every: Every,
) -> Result<Option<Range>> {
    let failed = |error| engine_error(&format!("cannot read what `{}` reads", model.name), error);
    let state = session.state();
    let plan = state.create_logical_plan(&model.sql).await.map_err(failed)?;
    let plan = unbound(&state, plan).map_err(failed)?;
    if !is_bound(&plan) {
        return Err(Error::internal(format!("`{}` was not checked before the run", model.name)));
    }
    reached(session, &plan, every, model.timezone).await.map_err(failed)
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
