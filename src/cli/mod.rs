//! The command line: one file per command, and here what they share. Stdout is data, stderr is
//! talk; a command returns its error and `main` prints it.

mod audit;
mod backend;
mod check;
mod commands;
mod completions;
mod config;
mod demo;
mod dlq;
mod export;
mod ingest;
mod lake;
mod left_out;
mod lineage;
mod metrics_file;
mod output;
mod parity;
mod progress;
mod query;
mod run;
mod schema;
mod serve;
mod sink;
mod sql;
mod statements;
mod target;
mod user;

pub use commands::execute;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::app::{App, project_folder};
use crate::clock::Clock;
use crate::config::{Config, LogFormat};
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Args)]
pub struct Global {
    /// Folder that holds dags.yaml and sql/ [default: the nearest one above the current folder]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    project: Option<PathBuf>,
    /// Where the lake is: a folder, file:///path or s3://bucket/prefix
    #[arg(long, global = true, value_name = "URI", help_heading = "Global options")]
    lake: Option<String>,
    /// Overrides one setting of flowguard.toml, such as `ingest.flush_age_ms_max=10s`; repeatable
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Global options")]
    set: Vec<String>,
}

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// What the process was started with; nothing below reads the environment by itself.
pub struct Process {
    /// The file of this program.
    pub program: PathBuf,
    pub environment: BTreeMap<String, String>,
    pub current_folder: PathBuf,
    pub clock: Clock,
    /// Cancelled by the first SIGINT or SIGTERM.
    pub stop: CancellationToken,
    pub interrupts: Interrupts,
}

/// Whose a SIGINT is: the process's, or a statement's that a shell runs; and what a second signal does.
#[derive(Clone, Default)]
pub struct Interrupts {
    statement: Arc<Mutex<Option<CancellationToken>>>,
    is_patient: Arc<AtomicBool>,
}

impl Interrupts {
    /// From now on a SIGINT cancels `statement`, and nothing else.
    pub fn divert(&self, statement: CancellationToken) {
        *self.statement.lock().unwrap_or_else(PoisonError::into_inner) = Some(statement);
    }

    /// Hands a SIGINT over; false if nobody but the process takes it.
    pub fn is_taken(&self) -> bool {
        let statement = self.statement.lock().unwrap_or_else(PoisonError::into_inner);
        statement.as_ref().map(CancellationToken::cancel).is_some()
    }

    /// From now on no number of signals ends the process out of order.
    pub fn be_patient(&self) {
        self.is_patient.store(true, Ordering::Relaxed);
    }

    pub fn is_patient(&self) -> bool {
        self.is_patient.load(Ordering::Relaxed)
    }
}

/// The global flags and the process, as commands use them.
pub struct Session {
    global: Global,
    pub process: Process,
    /// The command says itself what it does; the log then begins at warnings, unless set.
    reports: bool,
}

impl Session {
    /// Given by `--project`, or else the nearest folder above that has `dags.yaml`.
    pub fn project(&self) -> Result<PathBuf> {
        project_folder(self.global.project.clone(), &self.process.current_folder)
    }

    /// Read anew, and logging set up as it says.
    pub fn config(&self) -> Result<Config> {
        self.config_of(&self.project()?)
    }

    /// The configuration of the project in `folder`, and logging as it says.
    pub fn config_of(&self, folder: &Path) -> Result<Config> {
        self.config_with(folder, Vec::new())
    }

    /// The same, with settings that have flags of their own.
    pub fn config_with(&self, folder: &Path, mut flags: Vec<(String, String)>) -> Result<Config> {
        for setting in &self.global.set {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                Error::invalid(format!("`--set {setting}` has no `=`"))
                    .hint("write --set ingest.flush_age_ms_max=10s")
            })?;
            flags.push((key.trim().to_owned(), value.to_owned()));
        }
        if let Some(lake) = &self.global.lake {
            flags.push(("lake".to_owned(), lake.clone()));
        }
        let config = Config::load(folder, &self.process.environment, &flags)?;
        start_logging(&config, self.reports)?;
        Ok(config)
    }

    /// Opened anew with each call. Says what of the project is left out.
    pub fn app(&self) -> Result<App> {
        let app = self.unchecked_app()?;
        left_out::say(&app, &app.models);
        Ok(app)
    }

    /// The same for a command that plans the models, and says then what is left out.
    pub fn unchecked_app(&self) -> Result<App> {
        App::open(self.config()?)
    }
}

/// Logs go to stderr, as lines or as JSON. A second call changes nothing.
fn start_logging(config: &Config, reports: bool) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let level = if reports && !config.is_given("log.level") { "warn" } else { &config.log.level };
    // Libraries below are only heard when they warn; their conflicts and retries are our values.
    let filter =
        format!("warn,flowguard={level},deltalake_core=off,buoyant_kernel=off,object_store=error");
    let filter = EnvFilter::try_new(filter).map_err(|source| {
        Error::invalid(format!("`log.level` is `{}`", config.log.level))
            .hint("use error, warn, info, debug or trace")
            .source(source)
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(output::is_terminal())
        .with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    drop(started);
    Ok(())
}

/// `--start` and `--end`, both or neither.
#[derive(Debug, Args)]
pub struct RangeArguments {
    /// First instant of the range, such as 2026-01-05 or 2026-01-05T12:00:00Z
    #[arg(long, value_name = "TIME", requires = "end")]
    start: Option<String>,
    /// The instant after the range; exclusive
    #[arg(long, value_name = "TIME", requires = "start")]
    end: Option<String>,
}

impl RangeArguments {
    /// Times without an offset are in UTC.
    pub fn range(&self) -> Result<Option<crate::interval::Range>> {
        let (Some(start), Some(end)) = (&self.start, &self.end) else { return Ok(None) };
        let instant = |text: &str| crate::interval::Instant::parse(text, chrono_tz::Tz::UTC);
        crate::interval::Range::new(instant(start)?, instant(end)?).map(Some)
    }
}

/// A command stopped by a signal before it was done.
pub fn interrupted(what: &str) -> Error {
    Error::new(ErrorKind::Interrupted, format!("interrupted: {what}"))
}
