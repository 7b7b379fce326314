//! `flowguard ingest`: topics into bronze; and where each partition stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{Output, Session, interrupted, left_out, output};
use crate::app::App;
use crate::app::ingest::{Ingested, OnEvent, Setup, Tables, ingest, one_error};
use crate::app::project::Checked;
use crate::error::{Error, Result};
use crate::ingest::Pipeline;
use crate::ingest::accept::{Request, accept};
use crate::ingest::rewrite::rewrite;
use crate::ingest::status::{PartitionStatus, status};
use crate::ingest::worker::{Until, WorkerReport};
use crate::table::TableName;

/// Read Kafka topics into bronze tables, exactly once
///
/// Runs until stopped; SIGTERM and Ctrl-C commit what is buffered first. Any number of these
/// processes share the topics. With --once it drains to the end offsets seen at the start.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  flowguard ingest
  flowguard ingest bronze.orders_raw --once
  flowguard ingest bronze.orders_raw --full-refresh --once
  flowguard ingest status --output json
  flowguard ingest accept bronze.orders_raw --dry-run"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Tables to ingest [default: all that have a topic]
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Stop at the end offsets seen at the start
    #[arg(long)]
    once: bool,
    /// First write the named tables anew, where a changed header asks for that; their rows stay
    #[arg(long, requires = "tables")]
    full_refresh: bool,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show lag, rows and rejects per partition
    Status {
        #[arg(value_name = "TABLE")]
        tables: Vec<TableName>,
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    Accept(Accept),
}

/// Go on with a topic whose log is not the one that was ingested
///
/// Ingestion refuses (exit code 4) a topic that was recreated, a log that lost its tail, and one that
/// dropped messages before they were ingested, until a person decides. This decides, for all
/// partitions that are refused: what the lake holds stays, and the log that is there is ingested
/// beside it, from the first message that the lake does not hold. The decision is noted with the
/// table, and the audit goes by it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard ingest accept bronze.orders_raw --dry-run
  flowguard ingest accept bronze.orders_raw
  flowguard ingest accept bronze.orders_raw --partition 2 --from 1200")]
struct Accept {
    table: TableName,
    /// Only this partition; may be given several times [default: all that are refused]
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,
    /// The first offset to ingest of the log that is there [default: the first message that the lake
    /// does not hold]
    #[arg(long, value_name = "OFFSET", requires = "partitions", value_parser = clap::value_parser!(i64).range(0..))]
    from: Option<i64>,
    /// Show what would be decided
    #[arg(long)]
    dry_run: bool,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Goes on until the stop signal, or with `--once` to the ends seen at the start: stopped before,
/// it fails.
pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.unchecked_app()?;
    let checked = app.checked().await?;
    left_out::say(&app, &checked.models);
    match &arguments.command {
        Some(Command::Status { tables, output }) => {
            return show_status(&app, tables, *output).await;
        }
        Some(Command::Accept(arguments)) => return accept_logs(&app, &checked, arguments).await,
        None => {}
    }
    let (kafka, run) = (app.kafka()?, Uuid::now_v7());
    let mut names = app.bronze(&arguments.tables)?;
    let mut refused = BTreeMap::new();
    if arguments.full_refresh {
        for name in std::mem::take(&mut names) {
            let refreshed = match app.untouched_pipeline(&name, &checked.typed, &kafka, run) {
                Ok(pipeline) => refresh(session, &pipeline).await,
                Err(error) => Err(error),
            };
            match refreshed {
                Ok(()) => names.push(name),
                Err(error) => drop(refused.insert(name, error)),
            }
        }
    }
    let until = if arguments.once { Until::Drained } else { Until::Stopped };
    let on_event: OnEvent = Arc::new(|_, _| {});
    let setup = Setup { app: Arc::new(app), kafka, run, until, is_patient: false, on_event };
    let stop = &session.process.stop;
    let tables = Tables::Named(names, checked);
    let Ingested { reports, mut failed } = ingest(Arc::new(setup), tables, stop).await;
    failed.extend(refused);
    report(arguments.output, run, &reports, &failed)?;
    let total = reports.len() + failed.len();
    if let Some(error) = one_error("ingested", failed, total) {
        return Err(error);
    }
    if arguments.once && stop.is_cancelled() {
        return Err(interrupted("what was read is committed; run again for the rest"));
    }
    Ok(())
}

async fn refresh(session: &Session, pipeline: &Pipeline) -> Result<()> {
    let name = &pipeline.spec.name;
    let bar = output::bar(&format!("{name} is written anew"), "rows");
    let rewritten = rewrite(pipeline, &session.process.stop, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    output::say(&match rewritten? {
        Some(rows) => format!("{name}: {} rows were written anew", output::thousands(rows)),
        None => format!("{name} is as its header says"),
    });
    Ok(())
}

fn report(
    form: Output,
    run: Uuid,
    reports: &BTreeMap<TableName, WorkerReport>,
    failed: &BTreeMap<TableName, Error>,
) -> Result<()> {
    if form == Output::Json {
        let tables: Vec<_> = reports
            .iter()
            .map(|(name, report)| {
                serde_json::json!({
                    "table": name.to_string(), "rows": report.rows, "rejects": report.rejects,
                    "payload_bytes": report.payload_bytes, "file_bytes": report.file_bytes,
                    "commits": report.commits,
                })
            })
            .collect();
        let failed: Vec<_> = failed
            .iter()
            .map(|(name, error)| {
                serde_json::json!({
                    "table": name.to_string(), "error": error.message, "hint": error.hint,
                })
            })
            .collect();
        return output::write_json(
            &serde_json::json!({"run": run, "tables": tables, "failed": failed}),
        );
    }
    say_totals(reports);
    // Without a table that was ingested, the error at the end says all there is.
    for (name, error) in failed.iter().filter(|_| !reports.is_empty()) {
        output::say(&format!("{:<32} failed: {error}", name.to_string()));
    }
    Ok(())
}

/// A line per table, for people.
pub fn say_totals(reports: &BTreeMap<TableName, WorkerReport>) {
    for (name, report) in reports {
        output::say(&format!(
            "{:<32} {:>10} rows {:>7} rejects {:>5} commits",
            name.to_string(),
            output::thousands(report.rows),
            output::thousands(report.rejects),
            report.commits
        ));
    }
}

async fn accept_logs(app: &App, checked: &Checked, arguments: &Accept) -> Result<()> {
    if arguments.from.is_some() && arguments.partitions.len() > 1 {
        return Err(Error::invalid("`--from` is an offset of one partition")
            .hint("name one `--partition`, and run it once for each"));
    }
    let kafka = app.kafka()?;
    let names = app.bronze(std::slice::from_ref(&arguments.table))?;
    let pipeline = app.untouched_pipeline(&names[0], &checked.typed, &kafka, Uuid::now_v7())?;
    let request = Request {
        partitions: arguments.partitions.clone(),
        from: arguments.from,
        dry_run: arguments.dry_run,
    };
    let found = accept(&pipeline, &request).await?;
    if arguments.output == Output::Json {
        return output::write_json(
            &serde_json::json!({"dry_run": arguments.dry_run, "accepted": found}),
        );
    }
    if found.is_empty() {
        output::say("nothing to accept: ingestion refuses no partition");
        return Ok(());
    }
    for accepted in &found {
        output::say(&format!(
            "{} partition {}: {}",
            accepted.topic, accepted.partition, accepted.reason
        ));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|accepted| {
            let numbers = [i64::from(accepted.partition), accepted.end, accepted.start];
            let numbers = numbers.map(|number| number.to_string());
            [vec![accepted.topic.clone()], numbers.to_vec()].concat()
        })
        .collect();
    output::write_text(&output::columns(&["topic", "partition", "lake until", "go on at"], &rows))?;
    if arguments.dry_run {
        output::say("nothing was changed; without --dry-run this is decided");
    }
    Ok(())
}

async fn show_status(app: &App, tables: &[TableName], form: Output) -> Result<()> {
    let kafka = app.kafka()?;
    let (mut found, mut failed) = (Vec::new(), BTreeMap::new());
    let names = app.bronze(tables)?;
    let total = names.len();
    for name in names {
        let look = async {
            let model = app.models.find(&name)?;
            status(&app.lake, model, &app.config.ingest.pipeline, &kafka).await
        };
        match look.await {
            Ok(rows) => found.extend(rows),
            Err(error) => drop(failed.insert(name, error)),
        }
    }
    show_rows(&found, form)?;
    one_error("looked at", failed, total).map_or(Ok(()), Err)
}

fn show_rows(found: &[PartitionStatus], form: Output) -> Result<()> {
    match form {
        Output::Json => {
            let rows = serde_json::to_value(found)
                .map_err(|source| Error::internal("cannot print JSON").source(source))?;
            output::write_json(&rows)
        }
        Output::Text => {
            let headings =
                ["table", "partition", "next", "end", "lag", "rows", "rejects", "commit ms"];
            output::write_text(&output::columns(
                &headings,
                &found.iter().map(row).collect::<Vec<_>>(),
            ))
        }
    }
}

fn row(status: &PartitionStatus) -> Vec<String> {
    let shown =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let position = &status.position;
    vec![
        position.table.clone(),
        position.partition.to_string(),
        position.next_offset.map_or_else(|| "-".to_owned(), |next| next.to_string()),
        position.end_offset.to_string(),
        position.lag.to_string(),
        status.rows.to_string(),
        status.rejects.to_string(),
        shown(status.last_commit_ms),
    ]
}
