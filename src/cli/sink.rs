//! Rows of a statement in the form that was asked for, written while they arrive.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::csv::WriterBuilder as CsvWriter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, Writer as JsonWriter};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches;
use clap::ValueEnum;
use parquet::arrow::ArrowWriter;

use super::output;
use crate::engine::json::{json_rows, renamed, with_distinct_names};
use crate::engine::storable::check_times;
use crate::error::{Error, Result, visible};

/// Rows shown of a table on the screen; other outputs are never cut.
const TABLE_ROWS_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Table,
    Csv,
    /// One object per line
    Json,
    Parquet,
    /// The Arrow IPC stream
    Arrow,
}

/// Standard output, or a screen before it.
pub type Out = Box<dyn Write + Send>;

/// A result that is being written.
pub struct Sink {
    writer: Writer,
    /// The columns in forms in which a name finds one of them.
    named: SchemaRef,
    rows: usize,
}

enum Writer {
    Table { schema: SchemaRef, batches: Vec<RecordBatch>, out: Out },
    Csv(Box<arrow::csv::Writer<Out>>),
    Json(Box<JsonWriter<Out, LineDelimited>>),
    Parquet(Box<ArrowWriter<Out>>),
    Arrow(Box<StreamWriter<Out>>),
}

/// How many rows there were, and how many of them a table shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub rows: usize,
    pub shown: usize,
}

impl Sink {
    /// A table is printed by [`Self::finish`], all other forms while rows come. Fails if the form
    /// has no such columns.
    pub fn new(form: Form, schema: &SchemaRef, out: Out) -> Result<Self> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::invalid("this result has no such output form").source(source)
        };
        let named = with_distinct_names(schema);
        let writer = match form {
            Form::Table => Writer::Table { schema: Arc::clone(schema), batches: Vec::new(), out },
            Form::Csv => Writer::Csv(Box::new(CsvWriter::new().with_header(true).build(out))),
            Form::Json => Writer::Json(Box::new(json_rows(out))),
            Form::Parquet => Writer::Parquet(Box::new(
                ArrowWriter::try_new(out, Arc::clone(&named), None)
                    .map_err(|error| failed(error.into()))?,
            )),
            Form::Arrow => Writer::Arrow(Box::new(
                StreamWriter::try_new(out, schema).map_err(|error| failed(error.into()))?,
            )),
        };
        Ok(Self { writer, named, rows: 0 })
    }

    /// False when nobody reads any more.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<bool> {
        if matches!(self.writer, Writer::Csv(_) | Writer::Json(_)) {
            check_times(batch)?;
        }
        let room = TABLE_ROWS_MAX.saturating_sub(self.rows);
        self.rows += batch.num_rows();
        match &mut self.writer {
            Writer::Table { batches, .. } => {
                if room > 0 {
                    batches.push(batch.slice(0, room.min(batch.num_rows())));
                }
                Ok(true)
            }
            Writer::Csv(writer) => {
                open_pipe(renamed(batch, &self.named).and_then(|batch| writer.write(&batch)))
            }
            Writer::Json(writer) => open_pipe(writer.write(batch)),
            Writer::Arrow(writer) => open_pipe(writer.write(batch)),
            Writer::Parquet(writer) => {
                let named = renamed(batch, &self.named);
                open_pipe(named.and_then(|batch| writer.write(&batch).map_err(Into::into)))
            }
        }
    }

    /// Nobody reads: nothing more is written, not even an end.
    pub fn unfinished(self) -> Written {
        Written { rows: self.rows, shown: self.rows }
    }

    /// Completes the form. Whether anybody still reads makes no difference.
    pub fn finish(self) -> Result<Written> {
        let rows = self.rows;
        let written = match self.writer {
            Writer::Table { schema, mut batches, mut out } => {
                batches.insert(0, RecordBatch::new_empty(schema));
                let text = table_of(&batches).map_err(|source| {
                    Error::invalid("the result cannot be shown as a table").source(source)
                })?;
                output::finish(writeln!(out, "{text}").and_then(|()| out.flush()))?;
                let shown = batches.iter().map(RecordBatch::num_rows).sum();
                return Ok(Written { rows, shown });
            }
            Writer::Csv(writer) => writer.into_inner().flush().map_err(Into::into),
            Writer::Json(mut writer) => writer.finish(),
            Writer::Arrow(mut writer) => writer.finish(),
            Writer::Parquet(writer) => writer.close().map(drop).map_err(Into::into),
        };
        open_pipe(written)?;
        Ok(Written { rows, shown: rows })
    }
}

impl Written {
    /// A line for people.
    pub fn summary(&self) -> String {
        let rows = output::thousands(self.rows as u64);
        match self.shown < self.rows {
            true => {
                format!("{rows} rows, the first {} shown; use --output csv for all", self.shown)
            }
            false => format!("{rows} rows"),
        }
    }
}

/// As a terminal may be given it. Line breaks stay, within their cell.
fn table_of(batches: &[RecordBatch]) -> std::result::Result<String, ArrowError> {
    let text = pretty_format_batches(batches)?.to_string();
    if matches!(visible(&text, true), Cow::Borrowed(_)) {
        return Ok(text);
    }
    let shown = batches.iter().map(spelled_out).collect::<std::result::Result<Vec<_>, _>>()?;
    pretty_format_batches(&shown).map(|table| table.to_string())
}

/// The same as texts that command no terminal, so that they are as wide as they are shown.
fn spelled_out(batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let options = FormatOptions::default().with_display_error(true);
    let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        fields.push(Field::new(visible(field.name(), true), DataType::Utf8, true));
        let cells = ArrayFormatter::try_new(column, &options)?;
        let cells = (0..batch.num_rows()).map(|row| cells.value(row).to_string());
        let cells = cells.map(|cell| visible(&cell, true).into_owned());
        columns.push(Arc::new(StringArray::from_iter_values(cells)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Standard output.
pub fn stdout() -> Out {
    Box::new(io::stdout())
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
