//! `flowguard audit`: proof that every offset is accounted for.

use clap::Args;

use super::{Output, Session, output};
use crate::app::App;
use crate::audit::{Auditor, PartitionAudit, audit};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::KafkaAccess;
use crate::table::TableName;

/// Prove that every Kafka offset is in bronze or in the dead letters, exactly once
///
/// Reads the tables alone; with `kafka.bootstrap_servers` set, the broker's watermarks too, and it
/// asks the broker about every gap that the commits do not explain, and whether its log is the one that
/// was ingested. Exits with 1 if an offset is unaccounted for or doubled, or the log is another.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard audit
  flowguard audit bronze.orders_raw --output json
  flowguard audit --offline")]
pub struct Arguments {
    /// Tables to audit [default: all that have a topic]
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Do not ask the broker, even if one is configured
    #[arg(long)]
    offline: bool,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.app()?;
    let kafka = match &app.config.kafka.bootstrap_servers {
        Some(_) if !arguments.offline => Some(app.kafka()?),
        _ => None,
    };
    let audits = run(&app, &arguments.tables, kafka.as_ref()).await?;
    match arguments.output {
        Output::Json => {
            let clean = audits.iter().all(PartitionAudit::is_clean);
            output::write_json(&serde_json::json!({"clean": clean, "partitions": audits}))?;
        }
        Output::Text => output::write_text(&table(&audits))?,
    }
    verdict(&audits)
}

/// The audits of `tables`, or of all tables with a topic.
pub async fn run(
    app: &App,
    tables: &[TableName],
    kafka: Option<&KafkaAccess>,
) -> Result<Vec<PartitionAudit>> {
    let pipeline = &app.config.ingest.pipeline;
    let auditor = Auditor { lake: &app.lake, engine: &app.engine, pipeline, kafka };
    let mut audits = Vec::new();
    for name in app.bronze(tables)? {
        audits.extend(audit(&auditor, app.models.find(&name)?).await?);
    }
    Ok(audits)
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
        output::say(&format!("every offset of {} partitions is accounted for", audits.len()));
        return Ok(());
    }
    let places: Vec<String> = dirty
        .iter()
        .map(|audit| {
            if let Some(other) = &audit.other_log {
                return format!("{}[{}]: {other}", audit.topic, audit.partition);
            }
            let ranges =
                audit.unaccounted_ranges.iter().map(|[start, end]| format!("{start}..{end}"));
            format!(
                "{}[{}]: {} doubled, {} unaccounted {}",
                audit.topic,
                audit.partition,
                audit.duplicates,
                audit.unaccounted,
                ranges.collect::<Vec<_>>().join(" ")
            )
        })
        .collect();
    Err(Error::new(ErrorKind::Invalid, format!("not every offset is accounted for: {}", places.join("; ")))
        .hint("offsets unaccounted for: with the broker reachable, gaps of transactions are told from losses"))
}
