//! `flowguard parity`: whether a warehouse holds what the lake holds, and where it does not.

use std::cell::RefCell;

use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};

use super::export::{Selected, TargetsOutcome, connect, failure, stoppable, tables_of};
use super::metrics_file::MetricsArguments;
use super::progress::TableProgress;
use super::{Output, Session, output};
use crate::dag::Target;
use crate::error::{Error, Result};
use crate::export::compare::differing::DifferingRow;
use crate::export::compare::keys::Values;
use crate::export::compare::narrow::DifferingInterval;
use crate::export::compare::parity::{Narrowed, Parity};
use crate::export::selection::Chosen;
use crate::export::{Destination, Exported, Source};
use crate::table::TableName;

/// Intervals that are printed; JSON has all.
const INTERVALS_SHOWN_MAX: usize = 10;

/// Prove that a warehouse holds exactly what the lake holds
///
/// Both sides are read anew: the lake at the version that the target's ledger names, the target by
/// one statement. Compared are rows, nulls of every column, and a hash over whole rows; sums of
/// floating point within a tolerance. What differs is narrowed to intervals and rows. Exits with 1
/// if anything differs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard parity
  flowguard parity gold.daily_metrics --target finance
  flowguard parity --repair")]
pub struct Arguments {
    #[command(flatten)]
    selected: Selected,
    /// Export again the intervals that differ, or the tables that have none
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    metrics: MetricsArguments,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.app()?;
    let selected = &arguments.selected;
    let Chosen { targets: chosen, left_out } =
        app.exports()?.chosen(&selected.selectors, selected.target.as_deref())?;
    let metrics = arguments.metrics.open(session);
    let progress = RefCell::new(TableProgress::new(tables_of(&chosen), selected.output));
    let each = chosen.iter().map(async |(target, tables)| {
        let mut open = async || connect(session, &app, target).await;
        let mut verdicts = Vec::with_capacity(tables.len());
        let mut to = Some(open().await?);
        for name in tables {
            let source = app.export_source();
            progress.borrow_mut().begin(name, &source.rows_read);
            let compared = compare(&source, &mut open, &mut to, name, arguments.repair).await;
            let found = compared.map(|(parity, repaired)| {
                if let Some(repaired) = repaired {
                    progress.borrow().say(&repaired_line(name, target, &repaired));
                }
                parity
            });
            let is_equal = found.as_ref().is_ok_and(|found| found.differences.is_empty());
            metrics.compared(&target.name, name, is_equal)?;
            verdicts.push(Verdict { target: target.name.clone(), table: name.clone(), found });
        }
        Ok(verdicts)
    });
    let ended = stoppable(session, join_all(each)).await?;
    progress.borrow_mut().end();
    let (mut found, mut outcome) = (Vec::new(), TargetsOutcome::without(left_out));
    for ((target, tables), verdicts) in chosen.iter().zip(ended) {
        let failed = verdicts.map(|verdicts: Vec<Verdict>| {
            let failed = verdicts.iter().filter(|verdict| verdict.found.is_err()).count();
            found.extend(verdicts);
            failed
        });
        outcome.add(target, tables.len(), failed)?;
    }
    show(&found, selected.output)?;
    let judged = judge(&found);
    outcome.into_result(|count| format!("{count} tables could not be compared"))?;
    judged
}

fn repaired_line(name: &TableName, target: &Target, repaired: &Exported) -> String {
    let (rows, change) = (output::thousands(repaired.rows), &repaired.change);
    format!("{name} was repaired in {} with {rows} rows: {change}", target.name)
}

fn show(found: &[Verdict], form: Output) -> Result<()> {
    for verdict in found {
        if let Err(error) = &verdict.found {
            output::say(&format!("{:<32} {}", verdict.table.to_string(), failure(error)));
        }
    }
    match form {
        Output::Json => {
            let lines: Vec<Value> = found.iter().map(verdict_json).collect();
            output::write_json(&json!({"parity": lines}))
        }
        Output::Text => {
            let mut text = verdicts(found);
            for Verdict { target, table, found } in found {
                if let Ok(Parity { narrowed: Some(narrowed), .. }) = found {
                    text.push_str(&format!("\n{table} in {target}\n"));
                    text.push_str(&narrowed_text(narrowed));
                }
            }
            output::write_page(&text)
        }
    }
}

/// What was found of one table in one target, or why nothing was.
pub struct Verdict {
    pub target: String,
    pub table: TableName,
    pub found: Result<Parity>,
}

/// The verdict on one table, after a repair if there was something to repair. A failure leaves `to`
/// empty, because the connection may be in any state; the next table opens another one.
async fn compare(
    source: &Source,
    open: &mut impl AsyncFnMut() -> Result<Destination>,
    to: &mut Option<Destination>,
    name: &TableName,
    repair: bool,
) -> Result<(Parity, Option<Exported>)> {
    let mut connected = match to.take() {
        Some(connected) => connected,
        None => open().await?,
    };
    let mut found = source.parity(&mut connected, name).await?;
    let mut repaired = None;
    if repair && !found.differences.is_empty() {
        let narrowed = found.narrowed.as_ref();
        repaired = Some(source.repair(&mut connected, name, narrowed).await?);
        found = source.parity(&mut connected, name).await?;
    }
    *to = Some(connected);
    Ok((found, repaired))
}

/// A line per table.
pub fn verdicts(found: &[Verdict]) -> String {
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|Verdict { target, table, found }| {
            let (version, rows, verdict) = match found {
                Err(_) => (String::new(), String::new(), "not compared: it fails".to_owned()),
                Ok(parity) => {
                    let verdict = match parity.differences.as_slice() {
                        [] => "equal".to_owned(),
                        differences => differences.join("; "),
                    };
                    (parity.version.to_string(), output::thousands(parity.rows), verdict)
                }
            };
            vec![table.to_string(), target.clone(), version, rows, verdict]
        })
        .collect();
    output::columns(&["table", "target", "version", "rows", "parity"], &rows)
}

/// Fails if tables differ, and tells how to repair them.
pub fn judge(found: &[Verdict]) -> Result<()> {
    let differs = |verdict: &&Verdict| {
        verdict.found.as_ref().is_ok_and(|found| !found.differences.is_empty())
    };
    match found.iter().filter(differs).count() {
        0 => Ok(()),
        count => Err(Error::invalid(format!("{count} of {} tables differ", found.len()))
            .hint("flowguard parity --repair")),
    }
}

fn narrowed_text(narrowed: &Narrowed) -> String {
    let mut text = String::new();
    if let Some(intervals) = &narrowed.intervals {
        let lines: Vec<Vec<String>> = intervals
            .iter()
            .take(INTERVALS_SHOWN_MAX)
            .map(|interval| {
                let range = interval.range.map_or("no time".to_owned(), |range| range.to_string());
                vec![range, interval.differences.join("; ")]
            })
            .collect();
        text.push_str(&output::columns(&["interval", "parity"], &lines));
        if intervals.len() > lines.len() {
            text.push_str(&format!("and {} more intervals\n", intervals.len() - lines.len()));
        }
    }
    if !narrowed.rows.shown.is_empty() {
        let lines: Vec<Vec<String>> = narrowed.rows.shown.iter().flat_map(row_lines).collect();
        text.push_str(&output::columns(&["row", "column", "lake", "target"], &lines));
        let left = narrowed.rows.count.saturating_sub(narrowed.rows.shown.len() as u64);
        if left > 0 {
            text.push_str(&format!("and {} more\n", output::thousands(left)));
        }
    }
    if let Some(word) = &narrowed.left_out {
        text.push_str(&format!("{word}\n"));
    }
    text
}

/// One row against one row by column; otherwise a line per row.
fn row_lines(row: &DifferingRow) -> Vec<Vec<String>> {
    let key = pairs(&row.key);
    if let ([own], [theirs]) = (row.lake.as_slice(), row.target.as_slice()) {
        let differing = own.iter().zip(theirs).filter(|(own, theirs)| own.1 != theirs.1);
        let line = |(own, theirs): (&(String, _), &(String, _))| {
            vec![key.clone(), own.0.clone(), shown(&own.1), shown(&theirs.1)]
        };
        return differing.map(line).collect();
    }
    let line = |lake: String, target: String| vec![key.clone(), String::new(), lake, target];
    let only_in_lake = row.lake.iter().map(|row| line(pairs(row), "-".to_owned()));
    let only_in_target = row.target.iter().map(|row| line("-".to_owned(), pairs(row)));
    only_in_lake.chain(only_in_target).collect()
}

fn pairs(values: &Values) -> String {
    let pairs = values.iter().map(|(name, value)| format!("{name}={}", shown(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// A value on one line that is no other value's.
fn shown(value: &Option<String>) -> String {
    match value {
        None => "null".to_owned(),
        Some(text) if text.is_empty() || text == "null" || text == "-" => format!("{text:?}"),
        Some(text) if text.contains(|c: char| c.is_control() || c == ' ' || c == '"') => {
            format!("{text:?}")
        }
        Some(text) => text.clone(),
    }
}

fn verdict_json(Verdict { target, table, found }: &Verdict) -> Value {
    let parity = match found {
        Ok(parity) => parity,
        Err(error) => {
            return json!({
                "table": table.to_string(), "target": target, "equal": null,
                "error": error.message, "hint": error.hint,
            });
        }
    };
    let narrowed = parity.narrowed.as_ref();
    let intervals = narrowed.and_then(|narrowed| narrowed.intervals.as_ref()).map(|intervals| {
        let line = |interval: &DifferingInterval| {
            json!({
                "start": interval.range.map(|range| range.start.to_string()),
                "end": interval.range.map(|range| range.end.to_string()),
                "differences": interval.differences,
            })
        };
        intervals.iter().map(line).collect::<Vec<Value>>()
    });
    let rows = narrowed.map(|narrowed| {
        let rows = |rows: &[Values]| rows.iter().map(values_json).collect::<Vec<Value>>();
        let line = |row: &DifferingRow| {
            json!({
                "key": values_json(&row.key), "lake": rows(&row.lake), "target": rows(&row.target),
            })
        };
        narrowed.rows.shown.iter().map(line).collect::<Vec<Value>>()
    });
    json!({
        "table": parity.table.to_string(), "target": target,
        "version": parity.version, "rows": parity.rows,
        "equal": parity.differences.is_empty(), "differences": parity.differences,
        "intervals": intervals, "differing_rows": rows,
        "differing_rows_count": narrowed.map(|narrowed| narrowed.rows.count),
        "left_out": narrowed.and_then(|narrowed| narrowed.left_out.as_ref()),
    })
}

fn values_json(values: &Values) -> Value {
    values.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}
