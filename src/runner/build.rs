//! Builds one model: pin its inputs, plan, execute, stage, commit. What it writes becomes visible
//! whole or not at all.

use std::sync::Arc;
use std::time::Instant as Clock;

use arrow::array::RecordBatch;
use chrono_tz::Tz;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::Expr;
use datafusion::prelude::{SessionContext, col, ident, lit};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use uuid::Uuid;

use crate::engine::catalog::{Pins, Tables, reference, register};
use crate::engine::fault::engine_error;
use crate::engine::hash::RowsHash;
use crate::engine::storable::conform;
use crate::engine::{Engine, interval_parameters, read_only};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::{Every, Instant, Range, TouchedHours};
use crate::lake::commit::{Advance, Commit, Outcome, commit, ensure_table, model_id};
use crate::lake::ledger::{InputVersion, Ledger, range_pairs};
use crate::lake::replace::{Removal, replace_all, replace_range};
use crate::lake::spec::{TableSpec, instants_of};
use crate::lake::stage::{Staged, Stager};
use crate::lake::{Lake, Snapshot};
use crate::model::{Kind, Model, ModelSet};
use crate::table::TableName;
use crate::typecheck::{Typed, TypedModel};

/// What every task of a run shares.
pub struct RunContext {
    pub lake: Lake,
    pub engine: Engine,
    pub models: Arc<ModelSet>,
    pub typed: Arc<Typed>,
    pub run: Uuid,
    /// Bound to `$start` and `$end`; without it, the whole range that the inputs hold.
    pub range: Option<Range>,
    pub parallel_models_max: usize,
}

/// What a build wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub version: u64,
    pub rows: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub range: Option<Range>,
    /// The result equals the one before; no data was committed.
    pub unchanged: bool,
}

pub async fn build(context: &RunContext, name: &TableName) -> Result<Built> {
    let began = Clock::now();
    let (model, typed) = match (context.models.get(name), context.typed.get(name)) {
        (Some(model), Some(typed)) => (model, typed),
        _ => return Err(Error::internal(format!("`{name}` was not checked before the run"))),
    };
    let session = context.engine.session();
    let inputs = model.inputs.iter().cloned();
    let tables = Tables {
        engine: &context.engine,
        lake: &context.lake,
        models: &context.models,
        may_read: &|_| true,
    };
    let pins = register(&session, tables, inputs).await?;
    let range = match &model.kind {
        Kind::Interval { every } => Some(range_of(context, &session, model, *every).await?),
        _ => None,
    };
    let mut ledger = ledger_of(context, typed, &pins);
    let range = match range {
        Some(Some(range)) => Some(range),
        // No input holds a row: the table exists, and is left as it is.
        Some(None) => {
            let table = ensure_table(&context.lake, &typed.spec, &ledger).await?;
            return Ok(report(began, table.version(), &Staged::default(), None, true));
        }
        None => None,
    };
    ledger.intervals = range.iter().map(|range| [range.start.0, range.end.0]).collect();
    let before = current(context, typed, range.is_some(), &ledger).await?;
    let mut output = write_rows(context, &session, model, typed, range).await?;
    ledger.output_hash = Some(output.hash.clone());
    ledger.rows = output.staged.rows;

    let unchanged = is_unchanged(before.as_ref(), &ledger).await?;
    let rows = output.staged.rows;
    let removal = if unchanged {
        std::mem::take(&mut output.staged).discard(&context.lake, name).await;
        None
    } else {
        let removal =
            removal_of(context, &session, before.as_ref(), typed, range, &mut output).await?;
        let removes_rows = removal.as_ref().is_some_and(|removal| !removal.is_empty());
        ledger.touched = match range {
            Some(range) if removes_rows => vec![[range.start.0, range.end.0]],
            _ => range_pairs(&output.touched.ranges()),
        };
        removal
    };
    let mut staged = output.staged;
    staged.adds_from(output.kept);
    let app_id = model_id(name);
    let expected = match &before {
        Some(table) => table.transaction(&app_id).await?,
        None => None,
    };
    let advances = vec![Advance { app_id, expected, next: expected.unwrap_or(0) + 1 }];
    let write = Commit { spec: &typed.spec, staged, removal, advances, ledger };
    match commit(&context.lake, &write).await? {
        Outcome::Committed { version } => {
            let mut built = report(began, version, &write.staged, range, unchanged);
            built.rows = rows;
            tracing::info!(model = %name, version, rows, bytes = built.bytes, unchanged, "model built");
            Ok(built)
        }
        Outcome::Superseded { .. } => Err(Error::new(
            ErrorKind::Conflict,
            format!("another run built `{name}` at the same time"),
        )),
    }
}

/// Whether the newest commit wrote the same rows of the same intervals by the same model.
async fn is_unchanged(before: Option<&Snapshot>, ledger: &Ledger) -> Result<bool> {
    let Some(table) = before else { return Ok(false) };
    let last = table.ledgers(table.version()).await?.into_values().next();
    Ok(last.is_some_and(|last| {
        last.output_hash == ledger.output_hash
            && last.intervals == ledger.intervals
            && last.fingerprint == ledger.fingerprint
    }))
}

fn report(
    began: Clock,
    version: u64,
    staged: &Staged,
    range: Option<Range>,
    unchanged: bool,
) -> Built {
    Built {
        version,
        rows: staged.rows,
        bytes: staged.bytes,
        seconds: began.elapsed().as_secs_f64(),
        range,
        unchanged,
    }
}

fn ledger_of(context: &RunContext, typed: &TypedModel, pins: &Pins) -> Ledger {
    let mut ledger = Ledger::new(typed.spec.name.to_string(), context.run);
    ledger.fingerprint = Some(typed.fingerprint.clone());
    ledger.inputs = pins
        .iter()
        .map(|(name, snapshot)| InputVersion {
            table: name.to_string(),
            id: snapshot.id().to_owned(),
            version: snapshot.version(),
        })
        .collect();
    ledger
}

/// The table as it is, with new nullable columns added if it is written in parts. A table that is
/// replaced whole takes its new schema in the same commit.
async fn current(
    context: &RunContext,
    typed: &TypedModel,
    in_parts: bool,
    ledger: &Ledger,
) -> Result<Option<Snapshot>> {
    let table = context.lake.snapshot(&typed.spec.name).await?;
    if table.is_none() || !in_parts {
        return Ok(table);
    }
    let mut evolving = Ledger::new(ledger.model.clone(), ledger.run);
    evolving.fingerprint.clone_from(&ledger.fingerprint);
    ensure_table(&context.lake, &typed.spec, &evolving).await.map(Some)
}

/// The range asked for, or the one that the inputs hold, in whole intervals.
async fn range_of(
    context: &RunContext,
    session: &SessionContext,
    model: &Model,
    every: Every,
) -> Result<Option<Range>> {
    if let Some(range) = context.range {
        let aligned = every.align(range, model.timezone);
        if aligned != range {
            return Err(Error::invalid(format!(
                "{range} is not made of whole intervals of `{}` (every {every}, {})",
                model.name, model.timezone
            ))
            .hint(format!(
                "whole intervals around it: --start {} --end {}",
                aligned.start, aligned.end
            )));
        }
        return Ok(Some(range));
    }
    let mut hull: Option<Range> = None;
    for input in &model.inputs {
        let Some(input_model) = context.models.get(input) else { continue };
        let Some(time) = &input_model.time else { continue };
        if let Some(held) = held_by(session, input, &time.value, input_model.timezone).await? {
            hull = Some(match hull {
                None => held,
                Some(hull) => {
                    Range { start: hull.start.min(held.start), end: hull.end.max(held.end) }
                }
            });
        }
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

/// Rows of the model, staged.
struct Output {
    staged: Staged,
    /// Rows of rewritten files that stay as they were.
    kept: Option<Staged>,
    hash: String,
    touched: TouchedHours,
}

async fn write_rows(
    context: &RunContext,
    session: &SessionContext,
    model: &Model,
    typed: &TypedModel,
    range: Option<Range>,
) -> Result<Output> {
    let doing = format!("cannot build `{}`", model.name);
    let failed = |error| engine_error(&doing, error);
    let state = session.state();
    let mut plan = state.create_logical_plan(&model.sql).await.map_err(failed)?;
    read_only().verify_plan(&plan).map_err(failed)?;
    if let Some(range) = range {
        plan = plan.with_param_values(interval_parameters(range)).map_err(failed)?;
    }
    let frame = session.execute_logical_plan(plan).await.map_err(failed)?;
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    let mut stager = Stager::new(&context.lake, &typed.spec)?;
    let mut hash = RowsHash::new(&typed.spec.columns)?;
    let mut touched = TouchedHours::default();
    while let Some(batch) = rows.next().await {
        let written = match batch.map_err(failed).and_then(|b| conform(&b, &typed.spec.columns)) {
            Ok(batch) => match note(&typed.spec, &batch, range, &mut hash, &mut touched) {
                Ok(()) => stager.write(&batch).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            stager.abort().await;
            return Err(error);
        }
    }
    let staged = stager.finish().await?;
    Ok(Output { staged, kept: None, hash: hash.finish(), touched })
}

/// Hashes the rows and refuses those outside the interval that is being replaced: they would be
/// doubled by the next run.
fn note(
    spec: &TableSpec,
    batch: &RecordBatch,
    range: Option<Range>,
    hash: &mut RowsHash,
    touched: &mut TouchedHours,
) -> Result<()> {
    hash.update(batch)?;
    let Some(time) = spec.time.as_deref() else { return Ok(()) };
    let Some(column) = batch.column_by_name(time) else { return Ok(()) };
    for micros in instants_of(column, spec.timezone)? {
        match (micros, range) {
            (Some(micros), Some(range)) if !range.contains(Instant(micros)) => {
                return Err(Error::invalid(format!(
                    "`{}` gave a row at {} outside of its interval {range}",
                    spec.name,
                    Instant(micros)
                ))
                .hint("filter the inputs by `$start` and `$end`"));
            }
            (None, Some(_)) => {
                return Err(Error::invalid(format!(
                    "`{}` gave a row whose time `{time}` is null",
                    spec.name
                ))
                .hint("an interval model's rows need a time"));
            }
            (Some(micros), _) => touched.touch(micros),
            (None, None) => {}
        }
    }
    Ok(())
}

/// What goes; rows of files that straddle the range are staged again beside the new ones.
async fn removal_of(
    context: &RunContext,
    session: &SessionContext,
    before: Option<&Snapshot>,
    typed: &TypedModel,
    range: Option<Range>,
    output: &mut Output,
) -> Result<Option<Removal>> {
    let Some(table) = before else { return Ok(None) };
    let (Some(range), Some(time)) = (range, typed.spec.time.as_deref()) else {
        return Ok(Some(replace_all(table)));
    };
    let plan = replace_range(table, time, range, typed.spec.timezone).await?;
    if let Some(straddling) = plan.straddling {
        let doing = format!("cannot rewrite files of `{}`", typed.spec.name);
        let failed = |error| engine_error(&doing, error);
        let names: Vec<&str> =
            typed.spec.columns.fields().iter().map(|field| field.name().as_str()).collect();
        let frame = session
            .read_table(straddling)
            .and_then(|frame| frame.filter(outside(&typed.spec, time, range)))
            .and_then(|frame| frame.select_columns(&names))
            .map_err(failed)?;
        let mut rows = frame.execute_stream().await.map_err(failed)?;
        let mut stager = Stager::new(&context.lake, &typed.spec)?;
        while let Some(batch) = rows.next().await {
            stager.write(&conform(&batch.map_err(failed)?, &typed.spec.columns)?).await?;
        }
        output.kept = Some(stager.finish().await?);
    }
    Ok(Some(plan.removal))
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
