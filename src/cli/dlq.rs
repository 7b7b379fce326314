//! `flowguard dlq`: what bronze refused, and the way back.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Output, Session, interrupted, output};
use crate::app::App;
use crate::app::ingest::one_error;
use crate::dlq::letters::{Filter, Group, Letter, Place, list, show};
use crate::dlq::replay::{Mode, Report, replay};
use crate::error::Result;
use crate::ingest::decode::RejectReason;
use crate::kafka::KafkaAccess;
use crate::table::TableName;

/// Characters of an error that a list shows.
const ERROR_CHARS_MAX: usize = 72;
/// Bytes of a payload, key or header that are shown without --full.
const SHOWN_BYTES_MAX: usize = 512;

/// See the messages that bronze refused, and replay them
///
/// A message that cannot become a row (malformed, of a wrong type, without a required field, too
/// large, empty, a tombstone) is kept in bronze.dead_letters with its raw bytes and the reason.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard dlq list
  flowguard dlq show bronze.orders_raw --reason wrong_type --limit 3
  flowguard dlq replay --dry-run
  flowguard dlq replay bronze.orders_raw")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count dead letters by table, topic and reason
    List {
        #[command(flatten)]
        which: Which,
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Show single dead letters, in the order of topic, partition and offset
    Show {
        #[command(flatten)]
        which: Which,
        /// Only this partition
        #[arg(long, value_name = "NUMBER")]
        partition: Option<i32>,
        /// Only this offset
        #[arg(long, value_name = "NUMBER")]
        offset: Option<i64>,
        /// Letters shown at most
        #[arg(long, value_name = "ROWS", default_value_t = 10)]
        limit: usize,
        /// Show payloads, keys and headers whole; JSON always does
        #[arg(long)]
        full: bool,
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Decode dead letters again with today's header; those that fit move into bronze
    ///
    /// Rows keep the topic, partition, offset, timestamp, key and headers of their message. What
    /// still fails stays. Every offset stays accounted for exactly once, also if this is
    /// interrupted: run it again then. Ingestion may go on meanwhile.
    Replay {
        /// Tables to replay into [default: all that have a topic]
        #[arg(value_name = "TABLE")]
        tables: Vec<TableName>,
        /// Say what would move and what still fails, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The table that refused the messages [default: all]
    #[arg(value_name = "TABLE")]
    table: Option<TableName>,
    /// Only messages refused for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(RejectReason::ALL.map(RejectReason::as_str)))]
    reason: Option<String>,
    /// Only messages of this topic
    #[arg(long)]
    topic: Option<String>,
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            table: self.table.clone(),
            topic: self.topic.clone(),
            reason: self.reason.clone(),
            ..Filter::default()
        }
    }

    /// Nothing was found: because there is nothing, or because no such table exists.
    fn explain_nothing(&self, app: &App) -> Result<()> {
        if let Some(table) = &self.table {
            app.models.find(table)?;
        }
        output::say("no dead letters");
        Ok(())
    }
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.app()?;
    match &arguments.command {
        Command::List { which, output } => {
            let groups = list(&app.lake, &app.engine, &which.filter()).await?;
            if groups.is_empty() {
                which.explain_nothing(&app)?;
            }
            match output {
                Output::Json => {
                    output::write_json(&Value::Array(groups.iter().map(group_json).collect()))
                }
                Output::Text if groups.is_empty() => Ok(()),
                Output::Text => output::write_text(&group_table(&groups)),
            }
        }
        Command::Show { which, partition, offset, limit, full, output } => {
            let filter = Filter { partition: *partition, offset: *offset, ..which.filter() };
            let letters = show(&app.lake, &app.engine, &filter, *limit).await?;
            if letters.is_empty() {
                which.explain_nothing(&app)?;
            }
            let bytes_max = if *full { usize::MAX } else { SHOWN_BYTES_MAX };
            match output {
                Output::Json => {
                    output::write_json(&Value::Array(letters.iter().map(letter_json).collect()))
                }
                Output::Text => {
                    let texts: Vec<String> =
                        letters.iter().map(|letter| letter_text(letter, bytes_max)).collect();
                    output::write_page(&texts.join("\n"))
                }
            }
        }
        Command::Replay { tables, dry_run, output } => {
            let mode = if *dry_run { Mode::DryRun } else { Mode::Move };
            replay_tables(session, &app, tables, mode, *output).await
        }
    }
}

async fn replay_tables(
    session: &Session,
    app: &App,
    tables: &[TableName],
    mode: Mode,
    form: Output,
) -> Result<()> {
    let stop = &session.process.stop;
    let typed = app.typed().await?;
    let run = Uuid::now_v7();
    let nowhere = KafkaAccess::default();
    let mut reports: Vec<(TableName, String, Report)> = Vec::new();
    let mut failed = BTreeMap::new();
    for name in app.bronze(tables)? {
        let pipeline = match mode {
            Mode::Move => app.pipeline(&name, &typed, &nowhere, run).await,
            Mode::DryRun => app.untouched_pipeline(&name, &typed, &nowhere, run).map(Arc::new),
        };
        let pipeline = match pipeline {
            Ok(pipeline) => pipeline,
            Err(error) => {
                failed.insert(name, error);
                continue;
            }
        };
        let bar = output::bar(&format!("{name}: dead letters"), "rows");
        let report = replay(&pipeline, mode, stop, |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        })
        .await;
        bar.finish_and_clear();
        match report {
            Ok(report) => reports.push((name, pipeline.topic.clone(), report)),
            Err(error) => drop(failed.insert(name, error)),
        }
        if stop.is_cancelled() {
            break;
        }
    }
    match form {
        Output::Json => {
            let tables: Vec<Value> = reports.iter().map(report_json).collect();
            let dry_run = mode == Mode::DryRun;
            let failed = failed.iter();
            let failed: Vec<Value> = failed
                .map(|(name, error)| json!({"table": name.to_string(), "error": error.message}))
                .collect();
            output::write_json(&json!({
                "run": run, "dry_run": dry_run, "tables": tables, "failed": failed,
            }))?;
        }
        Output::Text => output::write_page(&report_text(&reports, mode))?,
    }
    let total = reports.len() + failed.len();
    if let Some(error) = one_error("replayed", failed, total) {
        return Err(error);
    }
    match reports.iter().any(|(_, _, report)| report.is_stopped) || stop.is_cancelled() {
        true => Err(interrupted("what moved has moved").hint("run it again for the rest")),
        false => Ok(()),
    }
}

fn report_text(reports: &[(TableName, String, Report)], mode: Mode) -> String {
    let moved = if mode == Mode::DryRun { "would replay" } else { "replayed" };
    let headings = ["table", "letters", moved, "in bronze already", "still failing", "held back"];
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|(name, _, report)| {
            let counts = [
                report.letters(),
                report.replayed,
                report.deleted,
                report.failing(),
                report.held_back,
            ];
            [name.to_string()].into_iter().chain(counts.map(output::thousands)).collect()
        })
        .collect();
    let mut text = output::columns(&headings, &rows);
    let failing: Vec<Vec<String>> = reports
        .iter()
        .flat_map(|(name, _, report)| report.failing.iter().map(move |found| (name, found)))
        .map(|(name, (reason, failing))| {
            let (partition, offset) = failing.first;
            vec![
                name.to_string(),
                (*reason).to_owned(),
                output::thousands(failing.count),
                format!("{partition}:{offset}"),
                shortened(&failing.error),
            ]
        })
        .collect();
    if !failing.is_empty() {
        let headings = ["table", "still failing for", "letters", "first", "its error"];
        let table = output::columns(&headings, &failing);
        text.push_str(&format!("\n{table}"));
    }
    text
}

fn report_json((name, topic, report): &(TableName, String, Report)) -> Value {
    let failing: Vec<Value> = report
        .failing
        .iter()
        .map(|(reason, failing)| {
            let (partition, offset) = failing.first;
            json!({
                "reason": reason, "count": failing.count,
                "first": {"partition": partition, "offset": offset}, "error": failing.error,
            })
        })
        .collect();
    json!({
        "table": name.to_string(), "topic": topic, "letters": report.letters(),
        "replayed": report.replayed, "in_bronze_already": report.deleted,
        "held_back": report.held_back, "failing": report.failing(),
        "failing_by_reason": failing, "stopped": report.is_stopped,
    })
}

fn group_table(groups: &[Group]) -> String {
    let place = |place: &Place| format!("{}:{}", place.partition, place.offset);
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            vec![
                group.table.clone(),
                group.topic.clone(),
                group.reason.clone(),
                output::thousands(group.count),
                place(&group.first),
                time(&group.first),
                place(&group.last),
                time(&group.last),
                shortened(&group.error),
            ]
        })
        .collect();
    let headings =
        ["table", "topic", "reason", "letters", "first", "at", "last", "at", "last error"];
    output::columns(&headings, &rows)
}

fn group_json(group: &Group) -> Value {
    json!({
        "table": group.table, "topic": group.topic, "reason": group.reason,
        "count": group.count, "first": place_json(&group.first), "last": place_json(&group.last),
        "error": group.error,
    })
}

fn place_json(place: &Place) -> Value {
    json!({
        "partition": place.partition, "offset": place.offset,
        "timestamp": place.timestamp.map(|instant| instant.to_string()),
    })
}

fn time(place: &Place) -> String {
    place.timestamp.map_or_else(|| "-".to_owned(), |instant| instant.to_string())
}

fn letter_text(letter: &Letter, bytes_max: usize) -> String {
    let Letter { table, topic, place, reason, error, .. } = letter;
    let shown = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => printable(bytes, bytes_max),
        None => "(null)".to_owned(),
    };
    let headers: Vec<String> = letter
        .headers
        .iter()
        .map(|(key, value)| format!("{}={}", printable(key.as_bytes(), bytes_max), shown(value)))
        .collect();
    let headers = if headers.is_empty() { "(none)".to_owned() } else { headers.join("  ") };
    format!(
        "{topic} partition {} offset {}\n  table      {table}\n  timestamp  {}\n  \
         ingested   {}\n  reason     {reason}\n  error      {}\n  key        {}\n  \
         headers    {headers}\n  payload    {}\n",
        place.partition,
        place.offset,
        time(place),
        letter.ingested_at,
        printable(error.as_bytes(), usize::MAX),
        shown(&letter.key),
        shown(&letter.payload),
    )
}

fn letter_json(letter: &Letter) -> Value {
    let headers: Vec<Value> = letter
        .headers
        .iter()
        .map(|(key, value)| {
            let mut header = Map::from_iter([("key".to_owned(), key.as_str().into())]);
            put_bytes(&mut header, "value", value.as_deref());
            Value::Object(header)
        })
        .collect();
    let mut object = json!({
        "table": letter.table, "topic": letter.topic, "partition": letter.place.partition,
        "offset": letter.place.offset,
        "timestamp": letter.place.timestamp.map(|instant| instant.to_string()),
        "ingested_at": letter.ingested_at.to_string(),
        "reason": letter.reason, "error": letter.error, "headers": headers,
    });
    if let Some(object) = object.as_object_mut() {
        put_bytes(object, "key", letter.key.as_deref());
        put_bytes(object, "payload", letter.payload.as_deref());
    }
    object
}

/// Text under `name`; bytes that are no text as Base64 under `name_base64`.
fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => drop(object.insert(name.to_owned(), Value::Null)),
        Some((_, Ok(text))) => drop(object.insert(name.to_owned(), text.into())),
        Some((bytes, Err(_))) => {
            drop(object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()));
        }
    }
}

/// Bytes as one line of text that no terminal acts on: what is not UTF-8 is replaced, what does
/// not print is escaped.
fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let head = &bytes[..bytes.len().min(bytes_max)];
    let mut text = String::with_capacity(head.len());
    for character in String::from_utf8_lossy(head).chars() {
        match character {
            '"' | '\'' | '\\' => text.push(character),
            other => text.extend(other.escape_debug()),
        }
    }
    if head.len() < bytes.len() {
        text.push_str(&format!("… ({} bytes; --full shows all)", bytes.len()));
    }
    text
}

fn shortened(text: &str) -> String {
    let text = printable(text.as_bytes(), usize::MAX);
    match text.char_indices().nth(ERROR_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_print_on_one_line_and_harm_no_terminal() {
        let check = |bytes: &[u8], shown: &str| assert_eq!(printable(bytes, 16), shown);
        check("{\"a\": 'é'}".as_bytes(), "{\"a\": 'é'}");
        check(b"a\n\x1b[2J\\ \xFF", "a\\n\\u{1b}[2J\\ \u{FFFD}");
        check("\u{202E}x".as_bytes(), "\\u{202e}x");
        check(b"12345678901234567", "1234567890123456… (17 bytes; --full shows all)");
    }
}
