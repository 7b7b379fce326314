//! `flowguard run`: builds selected models.

use std::sync::Arc;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Output, RangeArguments, Session, left_out, output};
use crate::app::App;
use crate::dag::{Dags, select};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelSet;
use crate::runner::{self, Built, Outcome, RunEvent, RunReport, refreshes_of, tasks_of};
use crate::table::TableName;

/// Build models in dependency order
///
/// Without a selector every model is built. Selectors: a table (gold.daily_metrics), a layer
/// (gold.*), a table with everything it needs (+gold.daily_metrics) or feeds (silver.x+), tag:NAME,
/// path:sql/gold, or the name of a DAG. Interval models are built for --start to --end, or for the
/// whole range that their inputs and the tables themselves hold: what left the inputs leaves them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard run
  flowguard run +gold.daily_metrics
  flowguard run silver.* --start 2026-01-05 --end 2026-01-07
  flowguard run silver.orders_cleaned+ --full-refresh")]
pub struct Arguments {
    /// What to build [default: everything]
    #[arg(value_name = "SELECTOR")]
    selectors: Vec<String>,
    #[command(flatten)]
    range: RangeArguments,
    /// Make the whole tables anew, whatever they hold and however their headers changed
    #[arg(long, conflicts_with_all = ["start", "end"])]
    full_refresh: bool,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let range = arguments.range.range()?;
    let app = session.unchecked_app()?;
    let context = app.run_context().await?;
    left_out::say(&app, &context.models);
    let selection = selected(&app, &context.models, &arguments.selectors)?;
    let tasks = match arguments.full_refresh {
        true => refreshes_of(&selection),
        false => tasks_of(&selection, range),
    };
    let mut lines = Vec::new();
    let mut progress = Progress::new();
    let report = runner::run(Arc::clone(&context), tasks, &session.process.stop, |event| {
        progress.show(event);
        if let RunEvent::Finished { task, outcome } = event {
            lines.push(json_line(&task.model, outcome));
        }
    })
    .await;
    progress.end();
    if arguments.output == Output::Json {
        output::write_json(&serde_json::json!({"run": context.run, "models": lines}))?;
    }
    finish(report)?;
    match context.models.strays().len() {
        count if count > 0 && arguments.selectors.is_empty() => {
            let message = format!("{count} files below `sql/` are no models");
            Err(Error::new(ErrorKind::RunFailed, message).hint("flowguard check"))
        }
        _ => Ok(()),
    }
}

/// A broken `dags.yaml` is wrong only for whoever names one of its DAGs.
pub fn selected(app: &App, models: &ModelSet, selectors: &[String]) -> Result<Vec<TableName>> {
    match app.dags() {
        Ok(dags) => select(models, dags, selectors),
        Err(broken) => select(models, &Dags::none(), selectors).map_err(|_| broken),
    }
}

/// Says what was built and what not; fails if a task did.
pub fn finish(report: RunReport) -> Result<()> {
    let RunReport { built, failed, skipped, cancelled, .. } = report;
    output::say(&format!(
        "{built} built, {failed} failed, {skipped} skipped, {cancelled} cancelled"
    ));
    report.into_result().map(drop)
}

fn json_line(model: &TableName, outcome: &Outcome) -> serde_json::Value {
    let mut line = serde_json::json!({"model": model.to_string()});
    let more = match outcome {
        Outcome::Built(built) => serde_json::json!({
            "outcome": "built", "version": built.version, "rows": built.rows,
            "bytes": built.bytes, "seconds": built.seconds, "unchanged": built.unchanged,
            "start": built.range.map(|range| range.start.to_string()),
            "end": built.range.map(|range| range.end.to_string()),
        }),
        Outcome::Failed(error) => serde_json::json!({
            "outcome": "failed", "error": error.message, "hint": error.hint,
        }),
        Outcome::Skipped { because } => serde_json::json!({
            "outcome": "skipped", "because": because.to_string(),
        }),
        Outcome::Cancelled => serde_json::json!({"outcome": "cancelled"}),
    };
    if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}

/// A spinner per running model on a terminal; a line per finished one everywhere.
pub struct Progress {
    bars: Option<MultiProgress>,
    running: Vec<(TableName, ProgressBar)>,
}

impl Progress {
    pub fn new() -> Self {
        Self { bars: output::is_terminal().then(MultiProgress::new), running: Vec::new() }
    }

    pub fn show(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Started { task } => {
                if let Some(bars) = &self.bars {
                    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                        .unwrap_or_else(|_| ProgressStyle::default_spinner());
                    let bar = bars.add(ProgressBar::new_spinner().with_style(style));
                    bar.set_message(task.model.to_string());
                    bar.enable_steady_tick(std::time::Duration::from_millis(100));
                    self.running.push((task.model.clone(), bar));
                }
            }
            RunEvent::Finished { task, outcome } => {
                let model = &task.model;
                if let Some(index) = self.running.iter().position(|(running, _)| running == model) {
                    self.running.remove(index).1.finish_and_clear();
                }
                let line = text_line(model, outcome);
                match &self.bars {
                    Some(bars) => bars.suspend(|| output::say(&line)),
                    None => output::say(&line),
                }
            }
        }
    }

    pub fn end(self) {
        if let Some(bars) = self.bars {
            let _ = bars.clear();
        }
    }
}

fn text_line(model: &TableName, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Built(built) => built_line(model, built),
        Outcome::Failed(error) => {
            let mut line = format!("{model:<32} failed: {error}");
            for diagnostic in &error.diagnostics {
                line.push_str(&format!("\n{diagnostic}"));
            }
            if let Some(hint) = &error.hint {
                line.push_str(&format!("\n  hint: {hint}"));
            }
            line
        }
        Outcome::Skipped { because } => format!("{model:<32} skipped: `{because}` was not built"),
        Outcome::Cancelled => format!("{model:<32} cancelled"),
    }
}

fn built_line(model: &TableName, built: &Built) -> String {
    let name = model.to_string();
    let unchanged = if built.unchanged { ", unchanged" } else { "" };
    format!(
        "{name:<32} {:>10} rows {:>10} {:>7.2} s  version {}{unchanged}",
        output::thousands(built.rows),
        output::bytes(built.bytes),
        built.seconds,
        built.version,
    )
}
