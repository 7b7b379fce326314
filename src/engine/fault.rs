//! What DataFusion complains about becomes one clear error, with the position in the SQL.

use datafusion::common::{DataFusionError, SchemaError};

use crate::error::{Error, ErrorKind, did_you_mean};
use crate::model::syntax_problem;

/// A position in SQL text, both from 1, and how many characters are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlSpan {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

/// One problem in SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlProblem {
    pub span: Option<SqlSpan>,
    pub message: String,
    pub hint: Option<String>,
}

/// The problem behind a planning error; `tables` are the names that exist.
pub fn sql_problem(error: &DataFusionError, tables: &[String]) -> SqlProblem {
    let root = error.find_root();
    let diagnostic = error.diagnostic();
    let span = diagnostic.and_then(|d| d.span).map(|span| SqlSpan {
        line: usize::try_from(span.start.line).unwrap_or(1).max(1),
        column: usize::try_from(span.start.column).unwrap_or(1).max(1),
        width: if span.start.line == span.end.line {
            usize::try_from(span.end.column.saturating_sub(span.start.column)).unwrap_or(1).max(1)
        } else {
            1
        },
    });
    if let DataFusionError::SQL(..) = root {
        let (message, location) = syntax_problem(error);
        let span = location.map(|at| SqlSpan {
            line: usize::try_from(at.line).unwrap_or(1),
            column: usize::try_from(at.column).unwrap_or(1),
            width: 1,
        });
        return SqlProblem { span, message, hint: None };
    }
    if let DataFusionError::SchemaError(schema_error, _) = root
        && let SchemaError::FieldNotFound { field, valid_fields } = schema_error.as_ref()
    {
        let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
        let hint = match did_you_mean(&field.name, names.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("columns here: {}", names.join(", ")),
        };
        let message = format!("unknown column `{}`", field.flat_name());
        return SqlProblem { span, message, hint: Some(hint) };
    }
    let message = match diagnostic {
        Some(diagnostic) => diagnostic.message.clone(),
        None => plain_text(root),
    };
    let message = message.replace("lake.", "");
    let mut hint = diagnostic.and_then(|d| d.helps.first()).map(|help| help.message.clone());
    if let Some(unknown) =
        message.strip_prefix("table '").and_then(|m| m.strip_suffix("' not found"))
    {
        let bare = |name: &&String| name.split_once('.').is_some_and(|(_, bare)| bare == unknown);
        let close = did_you_mean(unknown, tables.iter().map(String::as_str));
        hint = match close.or(tables.iter().find(bare).map(String::as_str)) {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None => Some(format!("tables: {}", tables.join(", "))),
        };
        return SqlProblem { span, message: format!("unknown table `{unknown}`"), hint };
    }
    SqlProblem { span, message, hint }
}

/// What DataFusion says of arguments that a function does not take, as if that were a bug.
const NO_SIGNATURE: &str = " failed to match any signature, errors: ";

/// The first line of an error without DataFusion's category prefix.
fn plain_text(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let line = text.lines().next().unwrap_or_default();
    if let Some((function, reasons)) = line.split_once(NO_SIGNATURE) {
        let function = function.rsplit("Function ").next().unwrap_or_default();
        let reasons = reasons.replace(",Error during planning: ", "; ");
        let reasons = reasons.trim_start_matches("Error during planning: ");
        return format!("function {function} does not take these arguments: {reasons}");
    }
    let plain = [
        "Error during planning: ",
        "SQL error: ",
        "Schema error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Invalid or Unsupported Configuration: ",
    ]
    .iter()
    .fold(line, |line, prefix| line.strip_prefix(prefix).unwrap_or(line));
    let mut characters = plain.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().collect::<String>() + characters.as_str(),
        None => String::new(),
    }
}

/// An error of execution, by kind: memory and disk limits, the store, or the data itself.
pub fn engine_error(doing: &str, error: DataFusionError) -> Error {
    let text = plain_text(error.find_root());
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            // The list of consumers follows on lines of its own.
            let text = text.split(" with top memory consumers").next().unwrap_or_default();
            Error::new(ErrorKind::Exhausted, format!("{doing}: {text}"))
                .hint("raise `engine.memory_bytes_max`, or give `engine.spill_dir` more space")
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            crate::lake::store::store_error(doing, error)
        }
        DataFusionError::External(_) => crate::lake::store::store_error(doing, error),
        DataFusionError::Internal(said) if !said.contains(NO_SIGNATURE) => {
            Error::internal(format!("{doing}: {text}")).source(error)
        }
        _ => {
            let problem = sql_problem(&error, &[]);
            let mut mapped = Error::invalid(format!("{doing}: {}", problem.message));
            mapped.hint = problem.hint;
            mapped
        }
    }
}
