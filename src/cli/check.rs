//! `flowguard check`: everything that can be known without a broker and without a lake.

use clap::Args;

use super::{Output, Session, output};
use crate::app;
use crate::dag::Dags;
use crate::error::{Error, Result};
use crate::model::Reading;
use crate::typecheck::typecheck;

/// Read, resolve and type-check every model and DAG, offline
///
/// Reports all problems at once, each with file, line and column. Needs no broker and no lake:
/// schemas come from headers and query plans.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  flowguard check --output json | jq '.diagnostics[].message'")]
pub struct Arguments {
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let config = session.config()?;
    let checked = check(&config).await;
    let diagnostics = match &checked {
        Ok(_) => Vec::new(),
        Err(error) if !error.diagnostics.is_empty() => error.diagnostics.clone(),
        Err(_) => return checked.map(drop),
    };
    match (arguments.output, checked) {
        (Output::Json, checked) => {
            let listed: Vec<_> = diagnostics
                .iter()
                .map(|found| {
                    serde_json::json!({
                        "file": found.file, "line": found.line, "column": found.column,
                        "message": found.message, "hint": found.hint,
                    })
                })
                .collect();
            output::write_json(&serde_json::json!({
                "models": checked.as_ref().ok(), "diagnostics": listed,
            }))?;
            if diagnostics.is_empty() {
                Ok(())
            } else {
                Err(Error::invalid(summary(diagnostics.len())))
            }
        }
        (Output::Text, Ok(models)) => {
            let plural = if models == 1 { "model" } else { "models" };
            output::write_text(&format!("{models} {plural}, no problems\n"))
        }
        (Output::Text, Err(mut error)) => {
            error.message = summary(diagnostics.len());
            Err(error)
        }
    }
}

fn summary(problems: usize) -> String {
    let plural = if problems == 1 { "problem" } else { "problems" };
    format!("{problems} {plural} found")
}

/// The number of models; or every diagnostic of models and DAGs. What cannot be judged because of
/// another problem (a model whose input is broken, a selector that may mean a broken file) is not.
async fn check(config: &crate::config::Config) -> Result<usize> {
    let Reading { good, all, mut diagnostics } = Reading::read(&config.project)?;
    match (Dags::read(&config.project), all) {
        (Ok(dags), Some(all)) => diagnostics.extend(dags.check(&all)),
        (Ok(_), None) => {}
        (Err(error), _) if error.diagnostics.is_empty() => return Err(error),
        (Err(error), _) => diagnostics.extend(error.diagnostics),
    }
    match typecheck(&app::engine(config)?, &good).await {
        Ok(_) => {}
        Err(error) if error.diagnostics.is_empty() => return Err(error),
        Err(error) => diagnostics.extend(error.diagnostics),
    }
    if diagnostics.is_empty() {
        return Ok(good.len());
    }
    diagnostics.sort();
    Err(Error::diagnosed("the project does not check", diagnostics))
}
