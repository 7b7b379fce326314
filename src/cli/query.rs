//! `flowguard query`: one read-only statement over the lake, or over a server's.

use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use futures::{StreamExt, TryStreamExt};

use super::backend::{Backend, RemoteArguments, write};
use super::sink::{Form, Sink, stdout};
use super::{RangeArguments, Session, output};
use crate::app::App;
use crate::engine::fault::engine_error;
use crate::engine::query::Query;
use crate::engine::storable::plain_schema;
use crate::error::{Error, Result};
use crate::source::Source;
use crate::table::TableName;

/// Run one read-only SQL statement over the lake, or on a server
///
/// Tables are named layer.table. The statement sees one version of each; an older one is read by
/// table_at('layer.table', version). SHOW TABLES, DESCRIBE and EXPLAIN work too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard query \"SELECT * FROM gold.daily_metrics ORDER BY order_date\"
  flowguard query --file report.sql --output csv > report.csv
  echo 'SHOW TABLES' | flowguard query -
  flowguard query \"SELECT count(*) FROM table_at('silver.orders_cleaned', 1)\"
  flowguard query --remote grpc+tls://lake.example.org:31337 --user ana \"SHOW TABLES\"")]
pub struct Arguments {
    /// The statement, or - to read it from standard input
    #[arg(value_name = "SQL", required_unless_present = "file", conflicts_with = "file")]
    sql: Option<String>,
    /// Read the statement from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    output: Form,
    #[command(flatten)]
    range: RangeArguments,
    #[command(flatten)]
    remote: RemoteArguments,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let source = source(arguments)?;
    let backend = Backend::open(session, &arguments.remote, arguments.range.range()?).await?;
    let open = |schema: &_| Sink::new(arguments.output, schema, stdout());
    let written = backend.print(&source, open, &session.process.stop).await?;
    if arguments.output == Form::Table {
        output::say(&written.summary());
    }
    Ok(())
}

/// Prints the first rows of a table, in the order of its columns.
pub async fn show_table(app: &App, name: &TableName, rows_max: usize) -> Result<()> {
    // The name is an identifier; nothing else goes into the text.
    let sql = Source::new("query", format!("SELECT * FROM {name}"));
    let query = Query::plan(&app.engine, &app.lake, &app.models, &sql, None).await?;
    let rows = query.first_rows(rows_max).await?;
    let schema = plain_schema(&rows.schema());
    let rows = rows.map_err(|error| engine_error("the query failed", error)).boxed();
    let written = write(rows, &schema, Sink::new(Form::Table, &schema, stdout())?).await?;
    output::say(&written.summary());
    Ok(())
}

fn source(arguments: &Arguments) -> Result<Source> {
    match (&arguments.file, arguments.sql.as_deref()) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(|source| {
                Error::invalid(format!("cannot read `{}`", file.display())).source(source)
            })?;
            Ok(Source::new(file, text))
        }
        (None, Some("-")) => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(|source| {
                Error::invalid("cannot read the statement from standard input").source(source)
            })?;
            Ok(Source::new("stdin", text))
        }
        (None, sql) => Ok(Source::new("query", sql.unwrap_or_default())),
    }
}
