//! `flowguard statements`: who ran what on this project's servers.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Output, Session, output};
use crate::error::{Error, Result};
use crate::interval::Instant;
use crate::statements::log::{self, Outcome, Record};

/// Characters of a statement, and of an error, that the table shows.
const TEXT_CHARS_MAX: usize = 72;

/// Show who ran which statement, with its rows, bytes, seconds and outcome
///
/// Reads the file that servers of this project write (server.statement_log), the newest statement
/// last. JSON has every statement and error whole.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard statements
  flowguard statements --user ana --last 5
  flowguard statements --outcome failed --output json")]
pub struct Arguments {
    /// Only statements of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only statements that ended like this
    #[arg(long, value_enum)]
    outcome: Option<Ended>,
    /// Statements shown at most
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    last: usize,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ended {
    Done,
    Cancelled,
    Failed,
}

pub fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let config = session.config()?;
    let Some(path) = &config.server.statement_log else {
        return Err(Error::invalid("statements are not noted: `server.statement_log` is empty")
            .hint("set it, and start the server again"));
    };
    let outcome = arguments.outcome.map(|ended| match ended {
        Ended::Done => Outcome::Done,
        Ended::Cancelled => Outcome::Cancelled,
        Ended::Failed => Outcome::Failed,
    });
    let is_wanted = |record: &Record| {
        arguments.user.as_ref().is_none_or(|user| *user == record.user)
            && outcome.is_none_or(|outcome| outcome == record.outcome)
    };
    let records = log::read(path, arguments.last, is_wanted)?;
    match arguments.output {
        Output::Text => output::write_text(&table(&records)),
        Output::Json => {
            output::write_json(&serde_json::Value::Array(records.iter().map(described).collect()))
        }
    }
}

fn table(records: &[Record]) -> String {
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            vec![
                Instant(record.started - record.started % 1_000_000).to_string(),
                record.user.clone(),
                outcome_name(record.outcome).to_owned(),
                format!("{:.3}", record.seconds),
                record.rows.to_string(),
                record.bytes.to_string(),
                shortened(&record.sql),
                shortened(record.error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    let headings = ["started", "user", "outcome", "seconds", "rows", "bytes", "statement", "error"];
    output::columns(&headings, &rows)
}

fn described(record: &Record) -> serde_json::Value {
    json!({
        "id": record.id,
        "started": Instant(record.started).to_string(),
        "user": record.user,
        "outcome": outcome_name(record.outcome),
        "seconds": record.seconds,
        "rows": record.rows,
        "bytes": record.bytes,
        "sql": record.sql,
        "error": record.error,
    })
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Cancelled => "cancelled",
        Outcome::Failed => "failed",
    }
}

/// On one line, and without what could steer a terminal.
fn shortened(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
