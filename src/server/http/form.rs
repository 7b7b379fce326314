//! The forms of a result: which one a request accepts, and rows into its bytes, a piece at a time.

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvWriter;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, Writer};
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use crate::engine::json::{json_rows, with_distinct_names};
use crate::engine::storable::check_times;
use crate::error::{Error, Result};

/// Rows made into text without a pause: other requests wait as long.
const TEXT_ROWS_MAX: usize = 1_024;

/// Forms in which a result can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One object per line.
    Json,
    Csv,
    /// The Arrow IPC stream.
    Arrow,
}

impl Form {
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/x-ndjson",
            Form::Csv => "text/csv; charset=utf-8; header=present",
            Form::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The form that the request likes best; JSON if it does not say.
    pub fn accepted(headers: &HeaderMap) -> Result<Self> {
        let mut best: Option<(f32, Form)> = None;
        let mut is_asked = false;
        for value in headers.get_all(ACCEPT) {
            let value = String::from_utf8_lossy(value.as_bytes());
            for range in value.split(',').filter(|range| !range.trim().is_empty()) {
                is_asked = true;
                let (weight, form) = media_range(range);
                if let Some(form) = form
                    && weight > best.map_or(0.0, |(weight, _)| weight)
                {
                    best = Some((weight, form));
                }
            }
        }
        match best {
            Some((_, form)) => Ok(form),
            None if !is_asked => Ok(Form::Json),
            None => Err(Error::invalid("no result has a form that the request accepts").hint(
                "accept application/x-ndjson, text/csv or application/vnd.apache.arrow.stream",
            )),
        }
    }

    /// At most how many rows are encoded in one go.
    pub fn rows_max(self) -> usize {
        match self {
            Form::Json | Form::Csv => TEXT_ROWS_MAX,
            Form::Arrow => usize::MAX,
        }
    }
}

/// The weight of one entry of an `accept` header, and the form that it names, if any.
fn media_range(range: &str) -> (f32, Option<Form>) {
    let mut parts = range.split(';').map(str::trim);
    let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "*/*"
        | "application/*"
        | "application/json"
        | "application/x-ndjson"
        | "application/jsonl" => Some(Form::Json),
        "text/*" | "text/csv" => Some(Form::Csv),
        "application/vnd.apache.arrow.stream" => Some(Form::Arrow),
        _ => None,
    };
    let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
    (weight.unwrap_or(1.0), form)
}

/// Turns batches of one schema into bytes.
pub enum Encoder {
    Json(Box<Writer<Vec<u8>, LineDelimited>>),
    /// What is written and not taken yet.
    Csv(Vec<u8>),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    /// As CSV the header comes at once, so a result without rows has it too. In text a name finds one
    /// column; Arrow keeps the names as they are.
    pub fn new(form: Form, schema: &SchemaRef) -> Result<Self> {
        Ok(match form {
            Form::Json => Encoder::Json(Box::new(json_rows(Vec::new()))),
            Form::Csv => {
                let mut writer = CsvWriter::new().with_header(true).build(Vec::new());
                let heading = RecordBatch::new_empty(with_distinct_names(schema));
                writer.write(&heading).map_err(unwritable)?;
                Encoder::Csv(writer.into_inner())
            }
            Form::Arrow => {
                let writer = StreamWriter::try_new(Vec::new(), schema).map_err(unwritable)?;
                Encoder::Arrow(Box::new(writer))
            }
        })
    }

    /// Fails on times that text cannot hold; [`Self::take`] gives what was written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if matches!(self, Encoder::Json(_) | Encoder::Csv(_)) {
            check_times(batch)?;
        }
        match self {
            Encoder::Json(writer) => writer.write(batch),
            Encoder::Csv(bytes) => {
                let written = std::mem::take(bytes);
                let mut writer = CsvWriter::new().with_header(false).build(written);
                let outcome = writer.write(batch);
                *bytes = writer.into_inner();
                outcome
            }
            Encoder::Arrow(writer) => writer.write(batch),
        }
        .map_err(unwritable)
    }

    /// Writes what marks the end.
    pub fn finish(&mut self) -> Result<()> {
        match self {
            Encoder::Json(writer) => writer.finish(),
            Encoder::Csv(_) => Ok(()),
            Encoder::Arrow(writer) => writer.finish(),
        }
        .map_err(unwritable)
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Encoder::Json(writer) => writer.get_mut(),
            Encoder::Csv(bytes) => bytes,
            Encoder::Arrow(writer) => writer.get_mut(),
        })
    }
}

fn unwritable(error: ArrowError) -> Error {
    if error.to_string().contains("is not supported in CSV") {
        return Error::invalid("a column with values inside of values cannot be written as CSV")
            .hint("select other columns, or accept application/x-ndjson")
            .source(error);
    }
    Error::invalid("the result has no such form").source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_liked_best() {
        let accepted = |accept: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            Form::accepted(&headers).map_err(|error| error.message)
        };
        for (accept, form) in [
            (&[][..], Form::Json),
            (&["*/*"], Form::Json),
            (&["text/html, text/csv;q=0.5, */*;q=0.1"], Form::Csv),
            (&["application/json;q=0.2", "Application/Vnd.Apache.Arrow.Stream"], Form::Arrow),
            (&["text/csv, application/json"], Form::Csv),
        ] {
            assert_eq!(accepted(accept), Ok(form), "{accept:?}");
        }
        for accept in ["text/html", "text/csv;q=0", "nonsense"] {
            let refused = "no result has a form that the request accepts".to_owned();
            assert_eq!(accepted(&[accept]), Err(refused), "{accept}");
        }
    }
}
