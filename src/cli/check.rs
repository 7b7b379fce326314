//! `flowguard check`: everything that can be known without a broker and without a lake.

use clap::Args;

use super::{Output, Session, output};
use crate::app;
use crate::dag::Dags;
use crate::error::{Error, Result};
use crate::model::Reading;
use crate::table::TableName;
use crate::typecheck::{Intervals, typecheck};

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

/// Fails on any problem, with all of them in the error, or as JSON on stdout.
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
            let checked = checked.ok();
            let one_by_one: Vec<_> =
                checked.iter().flat_map(|checked| &checked.one_by_one).collect();
            let one_by_one: Vec<_> = one_by_one
                .into_iter()
                .map(|(model, because)| {
                    serde_json::json!({"model": model.to_string(), "because": because})
                })
                .collect();
            output::write_json(&serde_json::json!({
                "models": checked.map(|checked| checked.models), "one_by_one": one_by_one,
                "diagnostics": listed,
            }))?;
            if diagnostics.is_empty() {
                Ok(())
            } else {
                Err(Error::invalid(summary(diagnostics.len())))
            }
        }
        (Output::Text, Ok(Checked { models, one_by_one })) => {
            let mut text = String::new();
            for (model, because) in one_by_one {
                text.push_str(&format!("{model} is built one interval at a time: {because}\n"));
            }
            let plural = if models == 1 { "model" } else { "models" };
            output::write_page(&format!("{text}{models} {plural}, no problems\n"))
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

struct Checked {
    models: usize,
    /// Interval models whose query does not provably separate by interval, and why.
    one_by_one: Vec<(TableName, String)>,
}

/// What there is to say of good models; or every diagnostic of models and DAGs. What cannot be judged because of
/// another problem (a model whose input is broken, a selector that may mean a broken file) is not.
async fn check(config: &crate::config::Config) -> Result<Checked> {
    let Reading { good, all, mut diagnostics, .. } = Reading::read(&config.project)?;
    match (Dags::read(&config.project), all) {
        (Ok(dags), all) => {
            diagnostics.extend(all.into_iter().flat_map(|all| dags.check(&all)));
            diagnostics.extend(dags.left_out.into_iter().flat_map(|entry| entry.problems));
        }
        (Err(error), _) if error.diagnostics.is_empty() => return Err(error),
        (Err(error), _) => diagnostics.extend(error.diagnostics),
    }
    let mut one_by_one = Vec::new();
    match typecheck(&app::engine(config)?, &good).await {
        Ok(typed) => one_by_one.extend(good.iter().filter_map(|model| {
            match &typed.get(&model.name)?.intervals {
                Intervals::Together => None,
                Intervals::OneByOne { because } => Some((model.name.clone(), because.clone())),
            }
        })),
        Err(error) if error.diagnostics.is_empty() => return Err(error),
        Err(error) => diagnostics.extend(error.diagnostics),
    }
    if diagnostics.is_empty() {
        return Ok(Checked { models: good.len(), one_by_one });
    }
    diagnostics.sort();
    Err(Error::diagnosed("the project does not check", diagnostics))
}
