//! Which commands there are: from the arguments to the one that runs.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use futures::future::LocalBoxFuture;

use super::{
    Global, Process, Session, audit, check, completions, config, demo, dlq, export, ingest, lake,
    lineage, output, parity, query, run, schema, serve, sql, statements, target, user,
};
use crate::error::{Error, Result};

const AFTER_HELP: &str = "\
Examples:
  flowguard demo                              see the whole way once, with nothing installed
  flowguard check                             read and type-check every model, offline
  flowguard ingest --once                     drain the topics into bronze
  flowguard run +gold.daily_metrics           build a table and everything it needs
  flowguard query \"SELECT * FROM gold.daily_metrics\"
  flowguard sql                               ask one statement after the other
  flowguard serve                             answer SQL over Flight SQL and HTTP
  flowguard dlq list                          see which messages bronze refused, and why
  flowguard export run                        bring warehouses to the newest versions
  flowguard parity                            prove that they hold what the lake holds
  flowguard audit                             prove that every offset is accounted for
  flowguard lake check                        find what is missing or damaged in the lake

Exit codes: 0 done; 1 wrong input, or something was found; 2 a run failed; 3 the store, the broker
or a limit; 4 data is missing from Kafka or the lake; 130 interrupted.";

/// A lakehouse in one program: Kafka to Delta exactly once, SQL models, queries and lineage.
#[derive(Debug, Parser)]
#[command(name = "flowguard", version, about, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Audit(audit::Arguments),
    Check(check::Arguments),
    Completions(completions::Arguments),
    Config(config::Arguments),
    Demo(demo::Arguments),
    Dlq(dlq::Arguments),
    Export(export::Arguments),
    Ingest(ingest::Arguments),
    Lake(lake::Arguments),
    Lineage(lineage::Arguments),
    Parity(parity::Arguments),
    Query(query::Arguments),
    Run(run::Arguments),
    Schema(schema::Arguments),
    Serve(serve::Arguments),
    Sql(sql::Arguments),
    Statements(statements::Arguments),
    Target(target::Arguments),
    User(user::Arguments),
    /// Holds a driver for another process of this program
    #[command(hide = true)]
    WarehouseDriver,
}

/// Parses and runs one command line. Boxed, so that the program's code is generated once, in this
/// library, and not again in every binary that calls it.
pub fn execute(arguments: Vec<OsString>, process: Process) -> LocalBoxFuture<'static, Result<()>> {
    Box::pin(dispatch(arguments, process))
}

async fn dispatch(arguments: Vec<OsString>, process: Process) -> Result<()> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let reports = matches!(cli.command, Command::Demo(_) | Command::Run(_));
    let session = Session { global: cli.global, process, reports };
    match cli.command {
        Command::Audit(arguments) => audit::execute(&session, &arguments).await,
        Command::Check(arguments) => check::execute(&session, &arguments).await,
        Command::Completions(arguments) => completions::execute(&arguments, Cli::command()),
        Command::Config(arguments) => config::execute(&session, &arguments),
        Command::Demo(arguments) => demo::execute(&session, &arguments).await,
        Command::Dlq(arguments) => dlq::execute(&session, &arguments).await,
        Command::Export(arguments) => export::execute(&session, &arguments).await,
        Command::Ingest(arguments) => ingest::execute(&session, &arguments).await,
        Command::Lake(arguments) => lake::execute(&session, &arguments).await,
        Command::Lineage(arguments) => lineage::execute(&session, &arguments),
        Command::Parity(arguments) => parity::execute(&session, &arguments).await,
        Command::Query(arguments) => query::execute(&session, &arguments).await,
        Command::Run(arguments) => run::execute(&session, &arguments).await,
        Command::Schema(arguments) => schema::execute(&arguments),
        Command::Serve(arguments) => serve::execute(&session, &arguments).await,
        Command::Sql(arguments) => sql::execute(&session, &arguments).await,
        Command::Statements(arguments) => statements::execute(&session, &arguments),
        Command::Target(arguments) => target::execute(&session, &arguments).await,
        Command::User(arguments) => user::execute(&session, &arguments),
        Command::WarehouseDriver => export::drive(&session).await,
    }
}

/// Help and version are data; everything else that clap says is an error.
fn usage(error: &clap::Error) -> Result<()> {
    if error.use_stderr() {
        let text = error.render().to_string();
        let text = text.trim_end().strip_prefix("error: ").unwrap_or(&text).to_owned();
        return Err(Error::invalid(text));
    }
    output::write_text(&error.render().to_string())
}
