//! `flowguard ingest`: topics into bronze; and where each partition stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{Output, Session, interrupted, output};
use crate::app::{self, App};
use crate::error::Result;
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
  flowguard ingest status --output json"
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
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.app()?;
    if let Some(Command::Status { tables, output }) = &arguments.command {
        return show_status(&app, tables, *output).await;
    }
    let kafka = app.kafka()?;
    let typed = app.typed().await?;
    let run = Uuid::now_v7();
    let mut pipelines = Vec::new();
    for name in app.bronze(&arguments.tables)? {
        pipelines.push(app.pipeline(&name, &typed, &kafka, run).await?);
    }
    let until = if arguments.once { Until::Drained } else { Until::Stopped };
    let on_commit: app::OnCommit = Arc::new(|_, _| {});
    let reports = app::ingest(pipelines, until, &session.process.stop, on_commit).await?;
    report(arguments.output, run, &reports)?;
    if arguments.once && session.process.stop.is_cancelled() {
        return Err(interrupted("what was read is committed; run again for the rest"));
    }
    Ok(())
}

fn report(form: Output, run: Uuid, reports: &BTreeMap<TableName, WorkerReport>) -> Result<()> {
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
        return output::write_json(&serde_json::json!({"run": run, "tables": tables}));
    }
    say_totals(reports);
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

async fn show_status(app: &App, tables: &[TableName], form: Output) -> Result<()> {
    let kafka = app.kafka()?;
    let mut found = Vec::new();
    for name in app.bronze(tables)? {
        found.extend(
            status(&app.lake, app.models.find(&name)?, &app.config.ingest.pipeline, &kafka).await?,
        );
    }
    match form {
        Output::Json => {
            let rows = serde_json::to_value(&found).map_err(|source| {
                crate::error::Error::internal("cannot print JSON").source(source)
            })?;
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
