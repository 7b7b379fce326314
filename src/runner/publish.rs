//! Staged rows become a version of their table, with the rows that they replace, or not at all. What
//! others committed while the rows were made is compared with what this build replaces: builds of
//! other intervals may come in between, and are built upon.

use std::time::Duration;

use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;

use super::context::RunContext;
use super::plan::{Extent, Plan};
use super::stage::{Output, restage};
use crate::engine::fault::engine_error;
use crate::error::{Error, ErrorKind, Result};
use crate::interval::{Instant, Range, RangeSet, TouchedHours};
use crate::lake::Snapshot;
use crate::lake::commit::{Advance, Commit, Outcome, commit, ensure_table, is_made_by, model_id};
use crate::lake::entries::Change;
use crate::lake::ledger::{InputVersion, Ledger, range_pairs, ranges_of};
use crate::lake::replace::{Removal, replace_all, replace_range};
use crate::lake::spec::{TableSpec, has_times, instants_of};
use crate::lake::stage::Staged;
use crate::retry::Retry;

/// Builds of other intervals that may come in between before this one gives up.
const RETRY: Retry = Retry::times(60, Duration::from_millis(10), Duration::from_millis(80));

/// What became visible.
pub struct Published {
    pub version: u64,
    pub bytes: u64,
    /// The result equals the one before; no data was committed.
    pub unchanged: bool,
}

/// Publishes `output`. `since` is the table's version before the inputs were pinned, if there was a
/// table: what came after it must not be of the same intervals.
pub async fn publish(
    context: &RunContext,
    plan: &Plan<'_>,
    since: Option<u64>,
    output: &Output,
) -> Result<Published> {
    let ledger = ledger_of(context, plan, output);
    let mut attempts = RETRY.begin(ledger.commit.as_u128());
    loop {
        let before = current(context, plan, &ledger).await?;
        if let Some(table) = &before {
            check_others(table, since, plan).await?;
        }
        let unchanged = is_unchanged(plan, before.as_ref(), &ledger).await?;
        let change = match (&before, unchanged) {
            (Some(table), false) => replacement(context, plan, table, output).await?,
            (None, false) => Replacement::nothing(output),
            (_, true) => Replacement::default(),
        };
        let staged = if unchanged { Staged::default() } else { change.staged(output) };
        let bytes = staged.bytes;
        let ledger = Ledger { touched: range_pairs(&change.touched), ..ledger.clone() };
        let app_id = model_id(&plan.model.name);
        let expected = match &before {
            Some(table) => table.transaction(&app_id).await?,
            None => None,
        };
        let advances = vec![Advance { app_id, expected, next: expected.unwrap_or(0) + 1 }];
        let removal = change.removal.clone();
        let write = Commit { spec: plan.spec(), staged, removal, advances, ledger };
        match commit(&context.lake, &write).await {
            Ok(Outcome::Committed { version }) => {
                return Ok(Published { version, bytes, unchanged });
            }
            // Another build came between the look and the commit.
            Ok(Outcome::Superseded { .. }) => {
                if let Some(kept) = change.kept {
                    kept.discard(&context.lake, &plan.model.name).await;
                }
            }
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        if !attempts.wait().await {
            return Err(conflict(plan));
        }
    }
}

fn conflict(plan: &Plan<'_>) -> Error {
    let message = format!("another run built `{}` at the same time", plan.model.name);
    Error::new(ErrorKind::Conflict, message)
}

/// All that a build says about itself, but which hours it touches: that depends on what it replaces.
fn ledger_of(context: &RunContext, plan: &Plan<'_>, output: &Output) -> Ledger {
    let mut ledger = Ledger::new(plan.model.name.to_string(), context.run);
    ledger.fingerprint = Some(plan.typed.fingerprint.clone());
    ledger.intervals = plan.extent.range().iter().map(|r| [r.start.0, r.end.0]).collect();
    ledger.output_hash = Some(output.observed.hash.clone());
    ledger.rows = output.staged.rows;
    let input = |snapshot: &Snapshot| InputVersion {
        table: snapshot.name().to_string(),
        id: snapshot.id().to_owned(),
        version: snapshot.version(),
    };
    ledger.inputs = plan.pins.values().map(input).collect();
    ledger
}

/// The table as it is, with new nullable columns added if it is written in parts. A table that is
/// replaced whole takes its new schema in the same commit.
async fn current(
    context: &RunContext,
    plan: &Plan<'_>,
    ledger: &Ledger,
) -> Result<Option<Snapshot>> {
    let table = context.lake.snapshot(&plan.model.name).await?;
    if table.is_none() || plan.extent.range().is_none() {
        return Ok(table);
    }
    let mut evolving = Ledger::new(ledger.model.clone(), ledger.run);
    evolving.fingerprint.clone_from(&ledger.fingerprint);
    ensure_table(&context.lake, plan.spec(), &evolving).await.map(Some)
}

/// Fails unless everything that was committed since this build began is of other intervals.
async fn check_others(table: &Snapshot, since: Option<u64>, plan: &Plan<'_>) -> Result<()> {
    let from = since.map_or(0, |version| version + 1);
    if from > table.version() {
        return Ok(());
    }
    let changes = table.changes(from).await?;
    let is_apart =
        |version| changes.get(&version).is_some_and(|change| is_apart(change, plan.extent.range()));
    if (from..=table.version()).all(is_apart) { Ok(()) } else { Err(conflict(plan)) }
}

/// Whether a commit leaves the rows of `range`, or without one of the table, as they were, and says
/// nothing newer of them.
fn is_apart(change: &Change, range: Option<Range>) -> bool {
    let Some(ledger) = &change.ledger else { return !change.moves_rows };
    let is_build = change.moves_rows || ledger.output_hash.is_some();
    let replaced = ranges_of(&ledger.intervals);
    let is_elsewhere = |range: Range| {
        !replaced.is_empty()
            && replaced.iter().all(|other| other.end <= range.start || range.end <= other.start)
    };
    !is_build || range.is_some_and(is_elsewhere)
}

/// Whether the newest commit wrote the same rows of the same intervals by the same model.
async fn is_unchanged(plan: &Plan<'_>, before: Option<&Snapshot>, ledger: &Ledger) -> Result<bool> {
    let Some(table) = before else { return Ok(false) };
    if plan.is_refresh || plan.extent == Extent::Whole && !is_made_by(table, plan.spec())? {
        return Ok(false);
    }
    let last = table.ledgers(table.version()).await?.into_values().next();
    Ok(last.is_some_and(|last| {
        // What was made anew was made whole.
        let is_of_all = plan.covers_all && last.intervals.is_empty();
        last.output_hash == ledger.output_hash
            && (is_of_all || last.intervals == ledger.intervals)
            && last.fingerprint == ledger.fingerprint
    }))
}

/// What goes and what stays when rows are published.
#[derive(Default)]
struct Replacement {
    removal: Option<Removal>,
    /// Rows of rewritten files that stay as they were.
    kept: Option<Staged>,
    /// Hours in which rows come or go.
    touched: RangeSet,
}

impl Replacement {
    /// Of a table that does not exist yet.
    fn nothing(output: &Output) -> Self {
        Self { touched: output.observed.touched.clone(), ..Self::default() }
    }

    fn staged(&self, output: &Output) -> Staged {
        let mut staged = output.staged.clone();
        staged.adds_from(self.kept.clone());
        staged
    }
}

async fn replacement(
    context: &RunContext,
    plan: &Plan<'_>,
    table: &Snapshot,
    output: &Output,
) -> Result<Replacement> {
    let (spec, came) = (plan.spec(), &output.observed.touched);
    let (Some(range), Some(time)) = (plan.extent.range(), spec.time.as_deref()) else {
        let went = hours_of(plan, table).await?;
        let touched = came.iter().chain(went.iter()).copied().collect();
        return Ok(Replacement { removal: Some(replace_all(table)), kept: None, touched });
    };
    let found = replace_range(table, time, range, spec.timezone).await?;
    let kept = match found.straddling {
        Some(straddling) => {
            let doing = format!("cannot rewrite files of `{}`", spec.name);
            let failed = |error| engine_error(&doing, error);
            let names: Vec<&str> =
                spec.columns.fields().iter().map(|f| f.name().as_str()).collect();
            let frame = plan
                .session
                .read_table(straddling)
                .and_then(|frame| frame.filter(outside(spec, time, range)))
                .and_then(|frame| frame.select_columns(&names))
                .map_err(failed)?;
            let rows = frame.execute_stream().await.map_err(failed)?;
            Some(restage(context, spec, rows).await?)
        }
        None => None,
    };
    let touched = match found.removal.is_empty() {
        true => came.clone(),
        false => [range].into_iter().collect(),
    };
    Ok(Replacement { removal: Some(found.removal), kept, touched })
}

/// The hours of all rows of a table that is about to be replaced whole.
async fn hours_of(plan: &Plan<'_>, table: &Snapshot) -> Result<RangeSet> {
    let spec = plan.spec();
    let time = spec.time.as_deref().filter(|time| has_times(&table.schema(), time));
    let Some(time) = time else { return Ok(RangeSet::default()) };
    let failed = |error| engine_error(&format!("cannot read the times of `{}`", spec.name), error);
    let frame = plan.session.read_table(table.provider().await?).map_err(failed)?;
    let frame = frame.select_columns(&[time]).map_err(failed)?;
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    let mut hours = TouchedHours::default();
    while let Some(batch) = rows.next().await {
        let instants = instants_of(batch.map_err(failed)?.column(0), spec.timezone)?;
        instants.into_iter().flatten().for_each(|micros| hours.touch(micros));
    }
    Ok(hours.ranges())
}

/// Rows that a replacement of `range` must keep.
fn outside(spec: &TableSpec, time: &str, range: Range) -> Expr {
    use arrow::datatypes::DataType;
    let is_date = spec
        .columns
        .field_with_name(time)
        .is_ok_and(|field| matches!(field.data_type(), DataType::Date32));
    let bound = |instant: Instant| {
        if is_date {
            lit(ScalarValue::Date32(instant.day_in(spec.timezone)))
        } else {
            lit(ScalarValue::TimestampMicrosecond(Some(instant.0), Some("UTC".into())))
        }
    };
    let column = || col(datafusion::common::Column::from_name(time));
    column().lt(bound(range.start)).or(column().gt_eq(bound(range.end))).or(column().is_null())
}
