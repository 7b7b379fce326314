//! `flowguard audit`: proof that every offset is accounted for.

use clap::Args;

use std::collections::BTreeMap;

use super::{Output, Session, output};
use crate::app::App;
use crate::app::ingest::one_error;
use crate::audit::{Auditor, PartitionAudit, audit};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::KafkaAccess;
use crate::table::TableName;

/// Prove that every Kafka offset is in bronze or in the dead letters, exactly once
///
/// Reads the tables alone; with `kafka.bootstrap_servers` set, the broker's watermarks too, and it
/// asks the broker about every gap, also those that commits explain, and whether its log is the one
/// that was ingested. Exits with 1 if an offset is unaccounted for or doubled, a row came from no
/// message, or the log is another. With --payloads it reads every row again, and every message that
/// the broker still has, and says which are not those that were ingested.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard audit
  flowguard audit bronze.orders_raw --output json
  flowguard audit --payloads
  flowguard audit --offline")]
pub struct Arguments {
    /// Tables to audit [default: all that have a topic]
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Do not ask the broker, even if one is configured
    #[arg(long)]
    offline: bool,
    /// Also compare the values of all rows, and the messages that the broker still has
    #[arg(long)]
    payloads: bool,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Prints the table first, then fails if a partition is not clean.
pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.app()?;
    let kafka = match &app.config.kafka.bootstrap_servers {
        Some(_) if !arguments.offline => Some(app.kafka()?),
        _ => None,
    };
    let (audits, failed) = run(&app, &arguments.tables, kafka.as_ref(), arguments.payloads).await?;
    match arguments.output {
        Output::Json => {
            let clean = failed.is_empty() && audits.iter().all(PartitionAudit::is_clean);
            let failed: Vec<_> = failed
                .iter()
                .map(|(name, error)| {
                    serde_json::json!({"table": name.to_string(), "error": error.message})
                })
                .collect();
            output::write_json(&serde_json::json!({
                "clean": clean, "partitions": audits, "failed": failed,
            }))?;
        }
        Output::Text => output::write_text(&table(&audits))?,
    }
    let total = failed.len() + audited(&audits);
    match one_error("audited", failed, total) {
        None => verdict(&audits),
        Some(error) => {
            if let Err(found) = verdict(&audits) {
                output::say(&found.to_string());
            }
            Err(error)
        }
    }
}

/// How many tables the audits are of.
fn audited(audits: &[PartitionAudit]) -> usize {
    audits.iter().map(|audit| &audit.table).collect::<std::collections::BTreeSet<_>>().len()
}

/// The audits of `tables`, or of all tables with a topic; and why some could not be audited.
pub async fn run(
    app: &App,
    tables: &[TableName],
    kafka: Option<&KafkaAccess>,
    payloads: bool,
) -> Result<(Vec<PartitionAudit>, BTreeMap<TableName, Error>)> {
    let pipeline = &app.config.ingest.pipeline;
    let auditor = Auditor { lake: &app.lake, engine: &app.engine, pipeline, kafka, payloads };
    let (mut audits, mut failed) = (Vec::new(), BTreeMap::new());
    for name in app.bronze(tables)? {
        let audited = match app.models.find(&name) {
            Ok(model) => audit(&auditor, model).await,
            Err(error) => Err(error),
        };
        match audited {
            Ok(audited) => audits.extend(audited),
            Err(error) => drop(failed.insert(name, error)),
        }
    }
    Ok((audits, failed))
}

pub fn table(audits: &[PartitionAudit]) -> String {
    let number =
        |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let rows: Vec<Vec<String>> = audits
        .iter()
        .map(|audit| {
            vec![
                audit.table.clone(),
                audit.partition.to_string(),
                number(audit.first),
                number(audit.last),
                audit.rows.to_string(),
                audit.rejects.to_string(),
                audit.gaps.to_string(),
                audit.explained.to_string(),
                audit.duplicates.to_string(),
                audit.unaccounted.to_string(),
                number(audit.lag),
            ]
        })
        .collect();
    let headings = [
        "table",
        "partition",
        "first",
        "last",
        "rows",
        "rejects",
        "gaps",
        "explained",
        "duplicates",
        "unaccounted",
        "lag",
    ];
    output::columns(&headings, &rows)
}

/// Success, or an error that names the first places.
pub fn verdict(audits: &[PartitionAudit]) -> Result<()> {
    let dirty: Vec<&PartitionAudit> = audits.iter().filter(|audit| !audit.is_clean()).collect();
    if dirty.is_empty() {
        let moving: u64 = audits.iter().map(|audit| audit.moving).sum();
        if moving > 0 {
            output::say(&format!(
                "{moving} dead letters are in bronze as well: a replay is moving them, or was \
                 stopped; `flowguard dlq replay` ends it"
            ));
        }
        let sum = |count: fn(&PartitionAudit) -> u64| audits.iter().map(count).sum::<u64>();
        let (rows, offsets) = (sum(|a| a.unchecked_rows), sum(|a| a.unchecked_offsets));
        if rows + offsets > 0 {
            output::say(&format!(
                "not compared: {rows} rows without a sum, and {offsets} offsets without a sum or whose \
                 messages the broker no longer has"
            ));
        }
        output::say(&format!("every offset of {} partitions is accounted for", audits.len()));
        return Ok(());
    }
    let places: Vec<String> = dirty
        .iter()
        .map(|audit| {
            let log = if audit.log > 0 { format!(" log {}", audit.log) } else { String::new() };
            let place = format!("{}[{}]{log}", audit.topic, audit.partition);
            if let Some(other) = &audit.other_log {
                return format!("{place} {other}");
            }
            let ranges = |ranges: &[[i64; 2]]| -> String {
                ranges.iter().map(|[start, end]| format!(" {start}..{end}")).collect()
            };
            let mut found = vec![
                format!("{} doubled", audit.duplicates),
                format!("{} unaccounted{}", audit.unaccounted, ranges(&audit.unaccounted_ranges)),
            ];
            if audit.foreign > 0 {
                found.push(format!("{} rows of no message", audit.foreign));
            }
            if !audit.altered_ranges.is_empty() {
                found.push(format!("altered{}", ranges(&audit.altered_ranges)));
            }
            format!("{place}: {}", found.join(", "))
        })
        .collect();
    let is_offsets = dirty.iter().any(|audit| audit.duplicates + audit.unaccounted > 0);
    let found = match is_offsets {
        true => "not every offset is accounted for",
        false => "not everything is as it was ingested",
    };
    Err(Error::new(ErrorKind::Invalid, format!("{found}: {}", places.join("; ")))
        .hint("offsets unaccounted for: with the broker reachable, gaps of transactions are told from losses"))
}
