//! `flowguard export` and `flowguard target`: tables kept equal in a warehouse.

use std::cell::RefCell;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::future::join_all;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::metrics_file::{Metrics, MetricsArguments};
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
use crate::export::selection::Chosen;
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
    let exports = app.exports()?;
    let Chosen { targets: chosen, left_out } =
        exports.chosen(&selected.selectors, selected.target.as_deref())?;
    let metrics = arguments.metrics.open(session);
    let progress = RefCell::new(TableProgress::new(tables_of(&chosen), selected.output));
    let surroundings = surroundings(session, &app);
    let each = chosen.iter().map(async |(target, tables)| {
        let mut lines = Vec::new();
        let on_event = |event: Event<'_>| noted(&event, target, &metrics, &progress, &mut lines);
        let work = (*target, tables.as_slice(), arguments.full);
        let failed = run(exports, || app.export_source(), &surroundings, work, on_event).await;
        (lines, failed)
    });
    let ended = stoppable(session, join_all(each)).await?;
    progress.borrow_mut().end();
    let (mut lines, mut outcome) = (Vec::new(), TargetsOutcome::without(left_out));
    for ((target, tables), (own, failed)) in chosen.iter().zip(ended) {
        lines.extend(own);
        outcome.add(target, tables.len(), failed)?;
    }
    if selected.output == Output::Json {
        output::write_json(&serde_json::json!({"exports": lines}))?;
    }
    outcome.into_result(|count| format!("{count} exports failed"))
}

/// Says what happened, and keeps a line of it for JSON.
fn noted(
    event: &Event<'_>,
    target: &Target,
    metrics: &Metrics,
    progress: &RefCell<TableProgress>,
    lines: &mut Vec<serde_json::Value>,
) -> Result<()> {
    let mut progress = progress.borrow_mut();
    match event {
        Event::Unreachable(tables, error) => {
            for name in *tables {
                metrics.exported(&target.name, name, false)?;
                lines.push(failed_json(name, target, error));
            }
        }
        Event::Started(name, rows_read) => progress.begin(name, rows_read),
        Event::Ended { table, outcome, seconds } => {
            metrics.exported(&target.name, table, outcome.is_ok())?;
            progress.say(&exported_line(table, target, outcome, *seconds));
            lines.push(exported_json(table, target, outcome, *seconds));
        }
        Event::Compared { table, parity, severity } => {
            let is_equal = parity.differences.is_empty();
            metrics.compared(&target.name, table, is_equal)?;
            if !is_equal {
                progress.say(&difference_line(table, target, *severity, parity));
            }
            if let Some(line) = lines.last_mut() {
                line["differences"] = serde_json::json!(parity.differences);
            }
        }
        Event::Uncompared { table, error } => {
            metrics.compared(&target.name, table, false)?;
            let word = failure(error);
            progress.say(&format!("{table} was not compared in {}, it {word}", target.name));
            if let Some(line) = lines.last_mut() {
                line["uncompared"] = error.message.clone().into();
            }
        }
    }
    Ok(())
}

/// What became of several targets, each by itself.
#[derive(Default)]
pub struct TargetsOutcome {
    /// Targets that could be asked.
    asked: usize,
    /// Tables that failed, those of targets that could not be asked among them.
    failed: usize,
    /// By their names.
    unreachable: Vec<(String, Error)>,
    /// Entries of `dags.yaml` that nothing was done for.
    left_out: Vec<(String, Error)>,
}

impl TargetsOutcome {
    /// For targets that are worked at without these entries of `dags.yaml`.
    pub fn without(left_out: Vec<(String, Error)>) -> Self {
        Self { left_out, ..Self::default() }
    }

    /// `outcome` is how many of `tables` failed, or why the target could not be asked. Fails where
    /// the whole command was interrupted.
    pub fn add(&mut self, target: &Target, tables: usize, outcome: Result<usize>) -> Result<()> {
        match outcome {
            Ok(failed) => {
                self.asked += 1;
                self.failed += failed;
            }
            Err(error) if error.kind == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.failed += tables;
                self.unreachable.push((target.name.clone(), error));
            }
        }
        Ok(())
    }

    /// Where no target could be asked, the fault is not the run's.
    pub fn into_result(mut self, message: impl Fn(usize) -> String) -> Result<()> {
        // The only one is named by the error itself.
        if self.asked + self.unreachable.len() > 1 {
            for (target, error) in &self.unreachable {
                output::say(&format!("{target:<32} {}", failure(error)));
            }
        }
        if self.asked == 0 && !self.unreachable.is_empty() {
            return Err(self.unreachable.remove(0).1);
        }
        for (entry, error) in &self.left_out {
            output::say(&format!("{entry} is left out: {}", error.line()));
        }
        let said = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {many}")),
        };
        let failed = (self.failed > 0).then(|| message(self.failed));
        let unreachable = self.unreachable.len();
        let unreachable =
            said(unreachable, "target could not be asked", "targets could not be asked");
        let left_out = self.left_out.len();
        let left_out =
            said(left_out, "entry of dags.yaml is left out", "entries of dags.yaml are left out");
        let found: Vec<String> = [failed, unreachable, left_out].into_iter().flatten().collect();
        match found.is_empty() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::RunFailed, found.join("; "))),
        }
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
    let tables = app.exports()?.stored(&arguments.selectors, arguments.target.as_deref())?;
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
    for (target, tables) in app.exports()?.chosen(&arguments.selectors, Some(target))?.targets {
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
    let Chosen { targets: chosen, left_out } =
        app.exports()?.chosen(&selected.selectors, selected.target.as_deref())?;
    let each = chosen.iter().map(async |(target, tables)| {
        let mut found = Vec::new();
        let mut to = match connect(session, &app, target).await {
            Ok(to) => to,
            Err(error) => {
                found.extend(tables.iter().map(|name| unasked(name, target, &error)));
                return (found, Err(error));
            }
        };
        let mut refused = 0;
        for name in tables {
            let planned = app.export_source().plan(&mut to, name, full).await;
            if let Err(error) = &planned {
                refused += 1;
                output::say(&format!("{name:<32} {}", failure(error)));
            }
            found.push(moves(name, target, &planned));
        }
        (found, Ok(refused))
    });
    let ended = stoppable(session, join_all(each)).await?;
    let (mut rows, mut lines, mut outcome) =
        (Vec::new(), Vec::new(), TargetsOutcome::without(left_out));
    for ((target, tables), (found, refused)) in chosen.iter().zip(ended) {
        for (row, line) in found {
            rows.push(row);
            lines.push(line);
        }
        outcome.add(target, tables.len(), refused)?;
    }
    match selected.output {
        Output::Json => output::write_json(&serde_json::json!({"exports": lines}))?,
        Output::Text => {
            output::write_text(&output::columns(&["table", "target", "a run moves"], &rows))?;
        }
    }
    outcome.into_result(|count| format!("{count} tables cannot be exported"))
}

/// A row for people and a line of JSON.
type Shown = (Vec<String>, serde_json::Value);

fn moves(name: &TableName, target: &Target, planned: &Result<Change>) -> Shown {
    let mut line = serde_json::json!({"table": name.to_string(), "target": target.name});
    let moves = match planned {
        Ok(change) => {
            line["current"] = (*change == Change::None).into();
            change.to_string()
        }
        Err(error) => {
            line["error"] = error.message.clone().into();
            line["hint"] = error.hint.clone().into();
            "nothing: it fails".to_owned()
        }
    };
    let row = vec![name.to_string(), target.name.clone(), moves.clone()];
    line["moves"] = moves.into();
    (row, line)
}

/// Of a table whose target could not be asked.
fn unasked(name: &TableName, target: &Target, error: &Error) -> Shown {
    let moves = "unknown: the target cannot be asked";
    let row = vec![name.to_string(), target.name.clone(), moves.to_owned()];
    let mut line = failed_json(name, target, error);
    line["moves"] = moves.into();
    (row, line)
}

async fn history(session: &Session, arguments: &HistoryArguments) -> Result<()> {
    let app = session.app()?;
    let selected = &arguments.selected;
    let Chosen { targets: chosen, left_out } =
        app.exports()?.chosen(&selected.selectors, selected.target.as_deref())?;
    let each = chosen.iter().map(async |(target, tables)| {
        let mut to = connect(session, &app, target).await?;
        to.history(tables, arguments.limit).await
    });
    let ended = stoppable(session, join_all(each)).await?;
    let (mut found, mut outcome) = (Vec::new(), TargetsOutcome::without(left_out));
    for ((target, tables), entries) in chosen.iter().zip(ended) {
        let entries = entries.map(|entries| {
            found.extend(entries.into_iter().map(|entry| (target.name.clone(), entry)));
            0
        });
        outcome.add(target, tables.len(), entries)?;
    }
    found.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.at));
    show_history(found, selected.output)?;
    outcome.into_result(|count| format!("the history of {count} tables is not shown"))
}

fn show_history(found: Vec<(String, Entry)>, form: Output) -> Result<()> {
    if form == Output::Json {
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

pub fn failure(error: &Error) -> String {
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
        Err(error) => failed_json(name, target, error),
    }
}

fn failed_json(name: &TableName, target: &Target, error: &Error) -> serde_json::Value {
    serde_json::json!({
        "table": name.to_string(), "target": target.name, "outcome": "failed",
        "error": error.message, "hint": error.hint,
    })
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
