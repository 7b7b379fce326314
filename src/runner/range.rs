//! Which range an interval model is built over: the one that was asked for, or the one that its
//! inputs hold. Reads no more than the ends of their times.

use chrono_tz::Tz;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::prelude::{SessionContext, ident};

use crate::engine::catalog::reference;
use crate::engine::fault::engine_error;
use crate::error::{Error, Result};
use crate::interval::{Every, Instant, Range};
use crate::lake::spec::instants_of;
use crate::model::{Model, ModelSet};
use crate::table::TableName;

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
pub async fn held(
    session: &SessionContext,
    models: &ModelSet,
    model: &Model,
    every: Every,
) -> Result<Option<Range>> {
    let mut hull: Option<Range> = None;
    for input in &model.inputs {
        let Some(input_model) = models.get(input) else { continue };
        let Some(time) = &input_model.time else { continue };
        let Some(held) = held_by(session, input, &time.value, input_model.timezone).await? else {
            continue;
        };
        hull = Some(hull.map_or(held, |hull| Range {
            start: hull.start.min(held.start),
            end: hull.end.max(held.end),
        }));
    }
    Ok(hull.map(|hull| every.align(hull, model.timezone)))
}

async fn held_by(
    session: &SessionContext,
    table: &TableName,
    time: &str,
    timezone: Tz,
) -> Result<Option<Range>> {
    let failed = |error| engine_error(&format!("cannot read the range of `{table}`"), error);
    let frame = session.table(reference(table)).await.map_err(failed)?;
    let bounds = vec![min(ident(time)).alias("first"), max(ident(time)).alias("last")];
    let batches =
        frame.aggregate(Vec::new(), bounds).map_err(failed)?.collect().await.map_err(failed)?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let bound = |column: usize| Ok(instants_of(batch.column(column), timezone)?.pop().flatten());
    let (first, last): (Result<_>, Result<_>) = (bound(0), bound(1));
    Ok(match (first?, last?) {
        (Some(first), Some(last)) => Some(Range { start: Instant(first), end: Instant(last + 1) }),
        _ => None,
    })
}
