//! `flowguard lake`: whether tables are as their logs say.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::{Output, Session, output};
use crate::app::ingest::one_error;
use crate::error::{Error, ErrorKind, Result};
use crate::lake::check::{Checkup, check};
use crate::table::TableName;

/// Look after the lake's tables
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  flowguard lake check")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(CheckArguments),
}

/// Find what is missing or damaged in tables' logs and files, and what no version names
///
/// Reads the whole log of each table and lists its folder; opens no data file and changes nothing.
/// Exits with 4 if a log entry, a checkpoint or a data file is missing, cut or of another size, and
/// says for each what helps. Orphans are files that no version names, such as an interrupted write
/// leaves; younger than an hour they may be of a write under way, and are left out.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard lake check
  flowguard lake check bronze.orders_raw silver.orders_cleaned
  flowguard lake check --output json")]
struct CheckArguments {
    /// Tables to check [default: all of the lake]
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Prints what was found, then fails if anything is wrong.
pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let Command::Check(arguments) = &arguments.command;
    let app = session.unchecked_app()?;
    let tables = match arguments.tables.as_slice() {
        [] => app.lake.tables().await?,
        named => named.to_vec(),
    };
    let bar = output::bar("checking the lake", "tables");
    bar.set_length(tables.len() as u64);
    let (mut checkups, mut failed) = (Vec::new(), BTreeMap::new());
    for name in &tables {
        let checked = check(&app.lake, name, app.clock.now()).await;
        let none = || {
            Error::new(ErrorKind::NotFound, format!("`{name}` is not in the lake"))
                .hint("without a name, `flowguard lake check` looks at every table there is")
        };
        match checked.and_then(|checkup| checkup.ok_or_else(none)) {
            Ok(checkup) => checkups.push(checkup),
            Err(error) => drop(failed.insert(name.clone(), error)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    print(arguments.output, &checkups, &failed)?;
    match one_error("checked", failed, tables.len()) {
        None => verdict(&checkups),
        Some(error) => {
            if let Err(found) = verdict(&checkups) {
                output::say(&found.to_string());
            }
            Err(error)
        }
    }
}

fn print(form: Output, checkups: &[Checkup], failed: &BTreeMap<TableName, Error>) -> Result<()> {
    if form == Output::Json {
        let whole = failed.is_empty() && checkups.iter().all(|checkup| checkup.problems.is_empty());
        let failed = failed.iter().map(
            |(name, error)| serde_json::json!({"table": name.to_string(), "error": error.message}),
        );
        return output::write_json(&serde_json::json!({
            "whole": whole, "tables": checkups, "failed": failed.collect::<Vec<_>>(),
        }));
    }
    let rows: Vec<Vec<String>> = checkups
        .iter()
        .map(|checkup| {
            vec![
                checkup.table.clone(),
                checkup.version.to_string(),
                checkup.entries.to_string(),
                checkup.files.to_string(),
                output::bytes(checkup.bytes),
                checkup.orphans.files.to_string(),
                checkup.problems.len().to_string(),
            ]
        })
        .collect();
    let headings = ["table", "version", "log entries", "files", "size", "orphans", "problems"];
    output::write_page(&output::columns(&headings, &rows))
}

/// Success, or an error with all problems.
fn verdict(checkups: &[Checkup]) -> Result<()> {
    let orphans: usize = checkups.iter().map(|checkup| checkup.orphans.files).sum();
    if orphans > 0 {
        let bytes = checkups.iter().map(|checkup| checkup.orphans.bytes).sum();
        output::say(&format!(
            "{orphans} files ({}) are named by no version, such as interrupted writes leave; they \
             harm nothing, and `--output json` lists them",
            output::bytes(bytes)
        ));
    }
    let broken: Vec<&Checkup> =
        checkups.iter().filter(|checkup| !checkup.problems.is_empty()).collect();
    if broken.is_empty() {
        output::say(&format!("all of {} tables is there as their logs say", checkups.len()));
        return Ok(());
    }
    let lines = broken.iter().flat_map(|checkup| {
        let line = |problem: &crate::lake::check::Problem| {
            format!("\n  {}: {}\n    {}", checkup.table, problem.what, problem.cure)
        };
        checkup.problems.iter().map(line)
    });
    let (count, tables) = (broken.len(), checkups.len());
    let message = format!("{count} of {tables} tables are damaged:{}", lines.collect::<String>());
    Err(Error::new(ErrorKind::DataLoss, message)
        .hint("what is said below each problem helps; other tables can be used meanwhile"))
}
