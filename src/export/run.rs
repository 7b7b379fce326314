//! A run of exports: every chosen table is brought to its target, compared there where the project
//! asks for it, and told of as it goes. Prints nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::compare::parity::Parity;
use super::open::Surroundings;
use super::pair::Source;
use super::publish::Exported;
use super::selection::Exports;
use super::side::Destination;
use crate::dag::{Severity, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Retry;
use crate::table::TableName;

/// Of what failed for a reason that may pass: a target that restarts or has no more room for
/// connections, another export at the same time.
const RETRY: Retry = Retry::times(5, Duration::from_secs(1), Duration::from_secs(8));

/// What happens in a run, as it happens.
pub enum Event<'a> {
    /// The target could not be opened; the run ends.
    Unreachable(&'a [TableName], &'a Error),
    /// With the number of rows read so far, which goes on to grow.
    Started(&'a TableName, &'a Arc<AtomicU64>),
    Ended {
        table: &'a TableName,
        outcome: &'a Result<Exported>,
        seconds: f64,
    },
    /// The table that ended was compared; by the project's word a difference is an error or not.
    Compared {
        table: &'a TableName,
        parity: &'a Parity,
        severity: Severity,
    },
    /// The table that ended could not be compared.
    Uncompared {
        table: &'a TableName,
        error: &'a Error,
    },
}

/// Brings `tables` of one target to their newest versions, everything of them if `full`. Returns how
/// many failed or differ; an error is one of the whole run.
pub async fn run(
    exports: Exports<'_>,
    source: impl Fn() -> Source,
    surroundings: &Surroundings,
    (target, tables, full): (&Target, &[TableName], bool),
    mut on_event: impl FnMut(Event<'_>) -> Result<()>,
) -> Result<usize> {
    let opened = opened(target, surroundings).await;
    if let Err(error) = &opened {
        on_event(Event::Unreachable(tables, error))?;
    }
    let (mut to, mut failed) = (Some(opened?), 0);
    for table in tables {
        let (began, source) = (Instant::now(), source());
        on_event(Event::Started(table, &source.rows_read))?;
        let outcome = export_table(&source, target, surroundings, &mut to, (table, full)).await;
        failed += usize::from(outcome.is_err());
        let seconds = began.elapsed().as_secs_f64();
        on_event(Event::Ended { table, outcome: &outcome, seconds })?;
        if let Err(error) = outcome
            && error.kind == ErrorKind::Interrupted
        {
            return Err(error);
        }
        let Some(severity) = exports.gate(target, table) else { continue };
        let Some(mut connected) = to.take() else { continue };
        match source.parity(&mut connected, table).await {
            Ok(parity) => {
                let differs = !parity.differences.is_empty();
                failed += usize::from(differs && severity == Severity::Error);
                on_event(Event::Compared { table, parity: &parity, severity })?;
                to = Some(connected);
            }
            // The next table gets a connection of its own: this one may be in any state.
            Err(error) => {
                failed += 1;
                on_event(Event::Uncompared { table, error: &error })?;
            }
        }
    }
    Ok(failed)
}

/// Connects, and tries again while the target cannot be reached.
async fn opened(target: &Target, surroundings: &Surroundings) -> Result<Destination> {
    let mut attempts = RETRY.begin(0);
    loop {
        match surroundings.open(target, Uuid::now_v7()).await {
            Err(error) if attempts.wait_after(&target.name, &error).await => {}
            outcome => return outcome,
        }
    }
}

/// Brings one table to its newest version. After a failure that may pass it connects anew and begins
/// again, which is safe: what is left to do is read from the target's ledger. `to` is left empty by
/// an error.
async fn export_table(
    source: &Source,
    target: &Target,
    surroundings: &Surroundings,
    to: &mut Option<Destination>,
    (name, full): (&TableName, bool),
) -> Result<Exported> {
    let mut export = async || {
        let mut connected = match to.take() {
            Some(connected) => connected,
            None => surroundings.open(target, Uuid::now_v7()).await?,
        };
        let exported = source.export(&mut connected, name, full).await?;
        *to = Some(connected);
        Ok(exported)
    };
    let (mut attempts, what) = (RETRY.begin(0), name.to_string());
    loop {
        match export().await {
            Err(error) if attempts.wait_after(&what, &error).await => {}
            outcome => return outcome,
        }
    }
}
