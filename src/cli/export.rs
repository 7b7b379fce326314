//! `flowguard export` and `flowguard target`: tables kept equal in a warehouse.

use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::metrics_file::MetricsArguments;
use super::progress::TableProgress;
use super::{Output, Session, interrupted, output};
use crate::app::App;
use crate::dag::{Severity, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::export::change::Change;
use crate::export::compare::parity::Parity;
use crate::export::history::Entry;
use crate::export::open::{Surroundings, statements};
use crate::export::run::{Event, run};
use crate::export::sql::{script, zero_copy};
use crate::export::{Destination, Exported};
use crate::interval::Instant;
use crate::table::TableName;
use crate::warehouse::driver::{Driver, Phase};

/// How long a driver may outlive its engine: less than a next export needs to begin.
const ENGINE_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a statement, or a connection that is not there yet, may go on after it was interrupted.
const INTERRUPTED_MAX: Duration = Duration::from_secs(60);
const CONNECTING_MAX: Duration = Duration::from_secs(5);

/// Keep tables of a warehouse equal to tables of the lake
///
/// Targets and exports are written in dags.yaml. What a target holds is read from the target's own
/// ledger, which moves in one transaction with the rows: an export that was killed goes on where it
/// stood, and nothing is doubled.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard export run
  flowguard export run gold.* --target finance
  flowguard export run gold.daily_metrics --full
  flowguard export status --output json
  flowguard export history gold.daily_metrics
  flowguard export sql gold.* --target company --parts upload >export.sql
  flowguard export sql --zero-copy gold.*")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the targets to the newest versions
    Run(RunArguments),
    /// What a run would move
    Status(Selected),
    /// What became of exports, repairs and comparisons
    History(HistoryArguments),
    /// Print statements for somebody else to run
    Sql(SqlArguments),
}

/// By which Snowflake is given what an export would give it, or reads the tables where they are.
/// Nothing is connected to.
///
/// With --parts the rows are written into files of a folder, and the statements upload them from
/// there, prove what arrived, and replace the tables. With --zero-copy nothing is copied; exits with
/// 2 if Snowflake could not read one of the tables.
#[derive(Debug, Args)]
pub struct SqlArguments {
    /// Tables [default: all, or those of the target's exports]
    #[arg(value_name = "SELECTOR")]
    selectors: Vec<String>,
    /// Tables and schemas of this target's exports
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Copies of the tables, as Parquet files in this folder
    #[arg(long, value_name = "FOLDER", requires = "target")]
    parts: Option<PathBuf>,
    /// Over the Delta logs in cloud storage
    #[arg(long, required_unless_present = "parts", conflicts_with = "parts")]
    zero_copy: bool,
}

#[derive(Debug, Args)]
pub struct Selected {
    /// Tables among those of the exports [default: all of them]
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<String>,
    /// Only this target
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    selected: Selected,
    /// Replace everything, whatever the ledger says
    #[arg(long)]
    full: bool,
    /// Say what would be moved, and move nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    metrics: MetricsArguments,
}

#[derive(Debug, Args)]
pub struct HistoryArguments {
    #[command(flatten)]
    selected: Selected,
    /// Of each target, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Run(run) if run.dry_run => status(session, &run.selected, run.full).await,
        Command::Run(run) => export(session, run).await,
        Command::Status(selected) => status(session, selected, false).await,
        Command::History(arguments) => history(session, arguments).await,
        Command::Sql(arguments) => sql(session, arguments).await,
    }
}

async fn export(session: &Session, arguments: &RunArguments) -> Result<()> {
    let app = session.app()?;
    let selected = &arguments.selected;
    let (mut lines, mut failed) = (Vec::new(), 0);
    let exports = app.exports();
    let chosen = exports.chosen(&selected.selectors, selected.target.as_deref())?;
    let surroundings = surroundings(session, &app);
    let mut progress = TableProgress::new(tables_of(&chosen), selected.output);
    let metrics = arguments.metrics.open(session);
    for (target, tables) in chosen {
        let on_event = |event: Event<'_>| {
            match event {
                Event::Unreachable(tables) => {
                    let failed = |name| metrics.exported(&target.name, name, false);
                    tables.iter().try_for_each(failed)?;
                }
                Event::Started(name, rows_read) => progress.begin(name, rows_read),
                Event::Ended { table, outcome, seconds } => {
                    metrics.exported(&target.name, table, outcome.is_ok())?;
                    progress.say(&exported_line(table, target, outcome, seconds));
                    lines.push(exported_json(table, target, outcome, seconds));
                }
                Event::Compared { table, parity, severity } => {
                    let is_equal = parity.differences.is_empty();
                    metrics.compared(&target.name, table, is_equal)?;
                    if !is_equal {
                        progress.say(&difference_line(table, target, severity, parity));
                    }
                    if let Some(line) = lines.last_mut() {
                        line["differences"] = serde_json::json!(parity.differences);
                    }
                }
            }
            Ok(())
        };
        let work = (target, tables.as_slice(), arguments.full);
        let work = run(exports, || app.export_source(), &surroundings, work, on_event);
        failed += stoppable(session, work).await??;
    }
    progress.end();
    if selected.output == Output::Json {
        output::write_json(&serde_json::json!({"exports": lines}))?;
    }
    match failed {
        0 => Ok(()),
        count => Err(Error::new(ErrorKind::RunFailed, format!("{count} exports failed"))),
    }
}

/// How many tables there are to work at.
pub fn tables_of(chosen: &[(&Target, Vec<TableName>)]) -> usize {
    chosen.iter().map(|(_, tables)| tables.len()).sum()
}

/// Prints what another system can do with the tables by itself.
async fn sql(session: &Session, arguments: &SqlArguments) -> Result<()> {
    let app = session.app()?;
    if let (Some(folder), Some(target)) = (&arguments.parts, &arguments.target) {
        return copies(session, &app, arguments, target, folder).await;
    }
    let tables = app.exports().stored(&arguments.selectors, arguments.target.as_deref())?;
    let script = zero_copy::script(&app.lake, app.config.s3.endpoint.as_ref(), &tables).await?;
    output::write_text(&script.text)?;
    match script.refused {
        0 => Ok(()),
        count => Err(Error::new(
            ErrorKind::RunFailed,
            format!("{count} of {} tables cannot be read in place", tables.len()),
        )
        .hint("the script says why; they can be copied: flowguard export run")),
    }
}

/// Prints an export of whole tables, whose rows it writes into a new folder each.
async fn copies(
    session: &Session,
    app: &App,
    arguments: &SqlArguments,
    target: &str,
    folder: &Path,
) -> Result<()> {
    let folder = session.process.current_folder.join(folder);
    let run = Uuid::now_v7();
    for (target, tables) in app.exports().chosen(&arguments.selectors, Some(target))? {
        let statements = statements(target, run)?;
        let mut progress = TableProgress::new(tables.len(), Output::Text);
        output::write_text(&script::preamble(&statements))?;
        for name in &tables {
            let source = app.export_source();
            let folder = folder.join(run.to_string()).join(name.to_string());
            let work = script::table(&source, &statements, name, &folder);
            progress.begin(name, &source.rows_read);
            output::write_text(&stoppable(session, work).await??)?;
        }
    }
    Ok(())
}

async fn status(session: &Session, selected: &Selected, full: bool) -> Result<()> {
    let app = session.app()?;
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    let mut refused = 0;
    for (target, tables) in app.exports().chosen(&selected.selectors, selected.target.as_deref())? {
        let mut to = connect(session, &app, target).await?;
        for name in &tables {
            let planned = app.export_source().plan(&mut to, name, full).await;
            let mut line = serde_json::json!({"table": name.to_string(), "target": target.name});
            let moves = match planned {
                Ok(change) => {
                    line["current"] = (change == Change::None).into();
                    change.to_string()
                }
                Err(error) => {
                    refused += 1;
                    output::say(&format!("{name:<32} {}", failure(&error)));
                    line["error"] = error.message.clone().into();
                    line["hint"] = error.hint.clone().into();
                    "nothing: it fails".to_owned()
                }
            };
            rows.push(vec![name.to_string(), target.name.clone(), moves.clone()]);
            line["moves"] = moves.into();
            lines.push(line);
        }
    }
    match selected.output {
        Output::Json => output::write_json(&serde_json::json!({"exports": lines}))?,
        Output::Text => {
            output::write_text(&output::columns(&["table", "target", "a run moves"], &rows))?;
        }
    }
    match refused {
        0 => Ok(()),
        count => {
            Err(Error::new(ErrorKind::RunFailed, format!("{count} tables cannot be exported")))
        }
    }
}

async fn history(session: &Session, arguments: &HistoryArguments) -> Result<()> {
    let app = session.app()?;
    let selected = &arguments.selected;
    let mut found = Vec::new();
    for (target, tables) in app.exports().chosen(&selected.selectors, selected.target.as_deref())? {
        let mut to = connect(session, &app, target).await?;
        let entries = to.history(&tables, arguments.limit).await?;
        found.extend(entries.into_iter().map(|entry| (target.name.clone(), entry)));
    }
    found.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.at));
    if selected.output == Output::Json {
        let lines = found.iter().map(|(target, entry)| {
            serde_json::json!({
                "when": entry.at.map(|at| at.to_string()), "what": entry.what,
                "table": entry.table, "target": target, "version": entry.version,
                "run": entry.run, "rows": entry.rows, "seconds": entry.seconds,
                "outcome": entry.outcome, "details": entry.details,
            })
        });
        return output::write_json(&serde_json::json!({"history": lines.collect::<Vec<_>>()}));
    }
    let rows: Vec<Vec<String>> = found.into_iter().map(history_line).collect();
    let headings =
        ["when", "what", "table", "target", "version", "rows", "seconds", "outcome", "details"];
    output::write_text(&output::columns(&headings, &rows))
}

fn history_line((target, entry): (String, Entry)) -> Vec<String> {
    let second = |at: Instant| Instant(at.0 - at.0.rem_euclid(1_000_000)).to_string();
    vec![
        entry.at.map_or(String::new(), second),
        entry.what,
        entry.table,
        target,
        entry.version.map_or(String::new(), |version| version.to_string()),
        output::thousands(entry.rows),
        format!("{:.2}", entry.seconds),
        entry.outcome,
        entry.details.replace(char::is_control, " "),
    ]
}

fn exported_line(
    name: &TableName,
    target: &Target,
    outcome: &Result<Exported>,
    seconds: f64,
) -> String {
    let name = name.to_string();
    match outcome {
        Ok(done) if done.change == Change::None => {
            format!("{name:<32} {} is at version {}", target.name, done.version)
        }
        Ok(done) => format!(
            "{name:<32} {:>10} rows {seconds:>7.2} s  to {}, version {}",
            output::thousands(done.rows),
            target.name,
            done.version
        ),
        Err(error) => format!("{name:<32} {}", failure(error)),
    }
}

fn failure(error: &Error) -> String {
    let cause = error.source.as_ref().map_or(String::new(), |source| format!(": {source}"));
    let hint = error.hint.as_ref().map_or(String::new(), |hint| format!("\n  hint: {hint}"));
    format!("failed: {error}{cause}{hint}")
}

/// What the export's own check found.
fn difference_line(
    name: &TableName,
    target: &Target,
    severity: Severity,
    found: &Parity,
) -> String {
    let word = match severity {
        Severity::Error => "error",
        Severity::Warn => "warning",
    };
    format!(
        "{word}: {name} differs in {}: {}\n  hint: flowguard parity {name} --target {} --repair",
        target.name,
        found.differences.join("; "),
        target.name
    )
}

fn exported_json(
    name: &TableName,
    target: &Target,
    outcome: &Result<Exported>,
    seconds: f64,
) -> serde_json::Value {
    match outcome {
        Ok(done) => serde_json::json!({
            "table": name.to_string(), "target": target.name, "outcome": "exported",
            "version": done.version, "rows": done.rows, "moved": done.change.to_string(),
            "seconds": seconds,
        }),
        Err(error) => serde_json::json!({
            "table": name.to_string(), "target": target.name, "outcome": "failed",
            "error": error.message, "hint": error.hint,
        }),
    }
}

/// For a run with an id of its own.
pub async fn connect(session: &Session, app: &App, target: &Target) -> Result<Destination> {
    surroundings(session, app).open(target, Uuid::now_v7()).await
}

pub fn surroundings(session: &Session, app: &App) -> Surroundings {
    app.surroundings(session.process.environment.clone(), session.process.program.clone())
}

/// The work, unless a signal ends it; its transaction is then rolled back.
pub async fn stoppable<T>(session: &Session, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        done = work => Ok(done),
        () = session.process.stop.cancelled() => {
            Err(interrupted("the target is as it was; run again to go on"))
        }
    }
}

/// The process that holds a driver, for this program itself. When the engine is gone or has no more
/// use for it, the statement that runs is interrupted and the session closed in order.
pub async fn drive(session: &Session) -> Result<()> {
    let (engine, driver) = (parent_id(), Driver::default());
    session.process.interrupts.be_patient();
    let (done, mut served) = oneshot::channel();
    let serving = driver.clone();
    // Not a thread of the runtime, whose work a process waits for at its end.
    std::thread::spawn(move || {
        let _ = done.send(serving.serve(std::io::stdin(), std::io::stdout()));
    });
    let gone = |_| Error::internal("the driver stopped");
    tokio::select! {
        served = &mut served => return served.map_err(gone).flatten(),
        () = end_of(engine) => {}
        () = session.process.stop.cancelled() => {}
    }
    let patience = match driver.phase() {
        Phase::Connecting => CONNECTING_MAX,
        Phase::Open | Phase::Closing | Phase::Closed => INTERRUPTED_MAX,
    };
    end_again_and_again(driver.clone());
    let began = std::time::Instant::now();
    loop {
        match driver.phase() {
            Phase::Closed => return Ok(()),
            // A driver that heeds no interruption.
            Phase::Connecting | Phase::Open if began.elapsed() > patience => return Ok(()),
            Phase::Connecting | Phase::Open | Phase::Closing => {}
        }
        tokio::time::sleep(ENGINE_CHECK_INTERVAL).await;
    }
}

/// An interruption that comes before its statement has begun is lost. Not a thread of the runtime:
/// drivers may be slow to answer.
#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn end_again_and_again(driver: Driver) {
    std::thread::spawn(move || {
        loop {
            driver.end();
            std::thread::sleep(ENGINE_CHECK_INTERVAL);
        }
    });
}

/// A process whose parent is gone is given another one.
async fn end_of(engine: u32) {
    while parent_id() == engine {
        tokio::time::sleep(ENGINE_CHECK_INTERVAL).await;
    }
}
