//! Builds one task: plan, stage, publish. What it writes becomes visible whole or not at all.

use std::time::Instant as Clock;

use super::context::RunContext;
use super::plan::{Extent, Plan};
use super::publish::publish;
use super::stage::stage;
use super::task::Task;
use crate::error::Result;
use crate::interval::Range;
use crate::lake::commit::{check_fits, ensure_table};
use crate::lake::ledger::Ledger;

/// What a build wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub version: u64,
    /// That the query gave, whether they were committed or not.
    pub rows: u64,
    /// Of the files that were committed.
    pub bytes: u64,
    pub seconds: f64,
    pub range: Option<Range>,
    /// The result equals the one before; no data was committed.
    pub unchanged: bool,
}

/// Once: whoever wants to try again calls it again, and nothing is left of a failed attempt but orphans.
pub async fn build(context: &RunContext, task: &Task) -> Result<Built> {
    let began = Clock::now();
    let name = &task.model;
    // Before the inputs are pinned: what is committed from here on may have read newer ones. What is
    // wrong with an input is said first all the same.
    let before = context.lake.snapshot(name).await;
    let known = before.as_ref().ok().and_then(Option::as_ref);
    let plan = Plan::of(context, task, known).await?;
    if let (Some(table), Extent::Range(_) | Extent::Nothing) = (known, plan.extent) {
        check_fits(table, plan.spec())?;
    }
    let since = before?.map(|table| table.version());
    let mut built = Built {
        version: 0,
        rows: 0,
        bytes: 0,
        seconds: 0.0,
        range: plan.covered(),
        unchanged: true,
    };
    if plan.extent == Extent::Nothing {
        let mut ledger = Ledger::new(name.to_string(), context.run);
        ledger.fingerprint = Some(plan.typed.fingerprint.clone());
        built.version = ensure_table(&context.lake, plan.spec(), &ledger).await?.version();
    } else {
        let output = stage(context, &plan).await?;
        let published = publish(context, &plan, since, &output).await?;
        built.version = published.version;
        built.rows = output.staged.rows;
        built.bytes = published.bytes;
        built.unchanged = published.unchanged;
        // After an error they stay: the commit may have landed although nobody can say so now.
        if published.unchanged {
            output.staged.discard(&context.lake, name).await;
        }
    }
    built.seconds = began.elapsed().as_secs_f64();
    let Built { version, rows, bytes, unchanged, .. } = built;
    tracing::info!(model = %name, reason = %task.reason, version, rows, bytes, unchanged, "model built");
    Ok(built)
}
