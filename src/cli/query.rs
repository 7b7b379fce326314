//! `flowguard query`: one read-only statement over the lake.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvWriter;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use arrow::json::LineDelimitedWriter;
use arrow::util::pretty::pretty_format_batches;
use clap::{Args, ValueEnum};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use parquet::arrow::ArrowWriter;

use super::{RangeArguments, Session, interrupted, output};
use crate::app::App;
use crate::engine::fault::engine_error;
use crate::engine::query::Query;
use crate::engine::storable::{conform, plain_schema};
use crate::error::{Error, Result};
use crate::source::Source;
use crate::table::TableName;

/// Rows shown of a table on the screen; other outputs are never cut.
const TABLE_ROWS_MAX: usize = 10_000;

/// Run one read-only SQL statement over the lake
///
/// Tables are named layer.table. The statement sees one version of each; an older one is read by
/// table_at('layer.table', version). SHOW TABLES, DESCRIBE and EXPLAIN work too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard query \"SELECT * FROM gold.daily_metrics ORDER BY order_date\"
  flowguard query --file report.sql --output csv > report.csv
  echo 'SHOW TABLES' | flowguard query -
  flowguard query \"SELECT count(*) FROM table_at('silver.orders_cleaned', 1)\"")]
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Csv,
    /// One object per line
    Json,
    Parquet,
    /// The Arrow IPC stream
    Arrow,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let source = source(arguments)?;
    let range = arguments.range.range()?;
    let app = session.app()?;
    let query = Query::plan(&app.engine, &app.lake, &app.models, &source, range).await?;
    let rows = query.stream().await?;
    let stop = session.process.stop.clone();
    tokio::select! {
        written = write(rows, arguments.output) => written,
        () = stop.cancelled() => Err(interrupted("the query was cancelled")),
    }
}

/// Prints the first rows of a table, in the order of its columns.
pub async fn show_table(app: &App, name: &TableName, rows_max: usize) -> Result<()> {
    // The name is an identifier; nothing else goes into the text.
    let sql = Source::new("query", format!("SELECT * FROM {name}"));
    let query = Query::plan(&app.engine, &app.lake, &app.models, &sql, None).await?;
    write(query.first_rows(rows_max).await?, Form::Table).await
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

async fn write(mut rows: SendableRecordBatchStream, form: Form) -> Result<()> {
    let schema = plain_schema(&rows.schema());
    let mut sink = Sink::new(form, &schema)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| engine_error("the query failed", error))?;
        if !sink.write(&conform(&batch, &schema)?)? {
            return Ok(());
        }
    }
    sink.finish()
}

/// Where rows go; `write` answers false when nobody reads any more.
enum Sink {
    Table { schema: SchemaRef, batches: Vec<RecordBatch>, rows: usize },
    Csv(Box<arrow::csv::Writer<io::Stdout>>),
    Json(LineDelimitedWriter<io::Stdout>),
    Parquet(Box<ArrowWriter<io::Stdout>>),
    Arrow(StreamWriter<io::Stdout>),
}

impl Sink {
    fn new(form: Form, schema: &SchemaRef) -> Result<Self> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::invalid("this result has no such output form").source(source)
        };
        Ok(match form {
            Form::Table => Sink::Table { schema: Arc::clone(schema), batches: Vec::new(), rows: 0 },
            Form::Csv => {
                Sink::Csv(Box::new(CsvWriter::new().with_header(true).build(io::stdout())))
            }
            Form::Json => Sink::Json(LineDelimitedWriter::new(io::stdout())),
            Form::Parquet => Sink::Parquet(Box::new(
                ArrowWriter::try_new(io::stdout(), Arc::clone(schema), None)
                    .map_err(|error| failed(error.into()))?,
            )),
            Form::Arrow => Sink::Arrow(
                StreamWriter::try_new(io::stdout(), schema)
                    .map_err(|error| failed(error.into()))?,
            ),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<bool> {
        match self {
            Sink::Table { batches, rows, .. } => {
                *rows += batch.num_rows();
                if *rows <= TABLE_ROWS_MAX {
                    batches.push(batch.clone());
                }
                Ok(true)
            }
            Sink::Csv(writer) => open_pipe(writer.write(batch)),
            Sink::Json(writer) => open_pipe(writer.write(batch)),
            Sink::Arrow(writer) => open_pipe(writer.write(batch)),
            Sink::Parquet(writer) => open_pipe(writer.write(batch).map_err(Into::into)),
        }
    }

    fn finish(self) -> Result<()> {
        let written = match self {
            Sink::Table { schema, mut batches, rows } => {
                batches.insert(0, RecordBatch::new_empty(schema));
                let text = pretty_format_batches(&batches).map_err(|source| {
                    Error::invalid("the result cannot be shown as a table").source(source)
                })?;
                output::write_text(&format!("{text}\n"))?;
                let shown: usize = batches.iter().map(RecordBatch::num_rows).sum();
                let cut = if shown < rows {
                    format!(", the first {shown} shown; use --output csv for all")
                } else {
                    String::new()
                };
                output::say(&format!("{} rows{cut}", output::thousands(rows as u64)));
                return Ok(());
            }
            Sink::Csv(writer) => writer.into_inner().flush().map_err(Into::into),
            Sink::Json(mut writer) => writer.finish(),
            Sink::Arrow(mut writer) => writer.finish(),
            Sink::Parquet(writer) => writer.close().map(drop).map_err(Into::into),
        };
        open_pipe(written).map(drop)
    }
}

/// False if the reader went away; that is its right.
fn open_pipe(written: std::result::Result<(), arrow::error::ArrowError>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.to_string().contains("Broken pipe") => Ok(false),
        Err(error) if error.to_string().contains("is not supported in CSV") => {
            Err(Error::invalid("a column with values inside of values cannot be written as CSV")
                .hint("select other columns, or use --output json")
                .source(error))
        }
        Err(error) => Err(Error::invalid("cannot write the result").source(error)),
    }
}
