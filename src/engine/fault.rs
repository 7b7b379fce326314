//! What DataFusion complains about becomes one clear error, with the position in the SQL.

use datafusion::common::{DataFusionError, SchemaError};

use crate::error::{Error, ErrorKind, did_you_mean};
use crate::lake::store::{is_of_store, store_error};
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
        if INNER_NAMES.iter().any(|begin| field.name.starts_with(begin)) {
            let (message, hint) = UNCOMPUTED;
            return SqlProblem {
                span: None,
                message: message.to_owned(),
                hint: Some(hint.to_owned()),
            };
        }
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
    if root.strip_backtrace().contains(UNPLANNED) {
        hint = Some(UNCOMPUTED.1.to_owned());
    }
    if let Some(unknown) =
        message.strip_prefix("table '").and_then(|m| m.strip_suffix("' not found"))
    {
        // In another layer than the one that a name without a layer is looked for in.
        let unlayered = unknown.split_once('.').map_or(unknown, |(_, bare)| bare);
        let bare = |name: &&String| name.split_once('.').is_some_and(|(_, bare)| bare == unlayered);
        let close = did_you_mean(unknown, tables.iter().map(String::as_str));
        hint = match tables.iter().find(bare).map(String::as_str).or(close) {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None => Some(format!("tables: {}", tables.join(", "))),
        };
        return SqlProblem { span, message: format!("unknown table `{unknown}`"), hint };
    }
    SqlProblem { span, message, hint }
}

/// What DataFusion says of arguments that a function does not take, as if that were a bug.
const NO_SIGNATURE: &str = " failed to match any signature, errors: ";

/// An error's first line without DataFusion's category prefix.
fn plain_text(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    // Expressions are printed over several lines, with what is wrong in the last of them.
    if text.contains("regex parse error")
        && let Some(what) = text.lines().find_map(|line| line.trim().strip_prefix("error: "))
    {
        return format!("the regular expression is not valid: {what}");
    }
    let line = text.lines().next().unwrap_or_default();
    if let Some((function, reasons)) = line.split_once(NO_SIGNATURE) {
        let function = function.rsplit("Function ").next().unwrap_or_default();
        let reasons = reasons.replace(",Error during planning: ", "; ");
        let reasons = reasons.trim_start_matches("Error during planning: ");
        return format!("function {function} does not take these arguments: {reasons}");
    }
    let mut plain = line;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| plain.strip_prefix(prefix)) {
        plain = rest;
    }
    // What follows is the tree of the expression.
    if plain.starts_with(UNPLANNED) {
        return UNCOMPUTED.0.to_owned();
    }
    if let Some(inside) = plain.strip_prefix("Error evaluating filter predicate: ") {
        return of_a_condition(inside);
    }
    let mut characters = plain.chars();
    match (characters.next(), characters.next()) {
        // Not a name, such as NTILE.
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain([second]).chain(characters).collect()
        }
        _ => plain.to_owned(),
    }
}

/// A scan that applies a condition tells its failure in the words of the program: `ArrowError(CastError(
/// "Cannot cast …"), …)`.
fn of_a_condition(inside: &str) -> String {
    let quoted = inside.split('"').nth(1).filter(|quoted| !quoted.is_empty());
    match quoted {
        Some(quoted) => format!("a condition fails: {quoted}"),
        None if inside.contains("DivideByZero") => "a condition fails: divide by zero".to_owned(),
        None => format!("a condition fails: {inside}"),
    }
}

/// What DataFusion says of expressions that no rule of its optimizer took out of the plan.
const UNPLANNED: &str = "Physical plan does not support logical expression";
/// Begin names that rules give, which no statement can miss.
const INNER_NAMES: [&str; 2] = ["__inner_", "__compared_"];
/// What is said of both, and what to do.
const UNCOMPUTED: (&str, &str) = (
    "a subquery or LATERAL uses its outer row where that cannot be computed",
    "join instead, and number the rows to choose among them: FROM a LEFT JOIN (SELECT *, \
     row_number() OVER (PARTITION BY k ORDER BY t) AS rn FROM b) b ON b.k = a.k AND b.rn = 1",
);

const PREFIXES: [&str; 15] = [
    "Error during planning: ",
    "Internal error: ",
    "SQL error: ",
    "Schema error: ",
    "This feature is not implemented: ",
    "Execution error: ",
    "Arrow error: ",
    "Cast error: ",
    "Compute error: ",
    "Parser error: ",
    "Invalid argument error: ",
    "External error: ",
    "External: ",
    "Parquet error: ",
    "Invalid or Unsupported Configuration: ",
];

/// What functions of the engine call a bug of theirs when they are given a type that they do not
/// take.
const NOT_TAKEN: [&str; 3] =
    ["could not cast array of type", "not implemented for type", "not supported for type"];

/// What DataFusion says of whoever spilled as much as it may, as if reading or writing had failed.
const SPILLED_ENOUGH: &str = "The used disk space during the spilling process has exceeded";

/// An error of execution. The kind is that of its deepest layer that says one: ours, which know of
/// data files; the store's; the engine's limits; or else the statement or its values must change.
pub fn engine_error(doing: &str, error: DataFusionError) -> Error {
    if let Some(own) = own_error(&error) {
        let mut known = Error::new(own.kind, format!("{doing}: {}", own.message));
        known.hint.clone_from(&own.hint);
        known.source = own.source.as_ref().map(|source| source.to_string().into());
        return known;
    }
    let root = error.find_root();
    let text = plain_text(root);
    let exhausted = |text: &str| {
        Error::new(ErrorKind::Exhausted, format!("{doing}: {text}"))
            .hint("raise `engine.memory_bytes_max`, or give `engine.spill_dir` more space")
    };
    match root {
        DataFusionError::ResourcesExhausted(_) => {
            // The list of consumers follows on lines of its own.
            exhausted(text.split(" with top memory consumers").next().unwrap_or_default())
        }
        _ if text.contains(SPILLED_ENOUGH) => {
            exhausted("it needs more space beside its memory than it may have")
        }
        DataFusionError::ExecutionJoin(_) => {
            Error::internal(format!("{doing}: it ended abnormally")).source(error)
        }
        DataFusionError::Internal(text) if !text.contains(NO_SIGNATURE) => {
            match NOT_TAKEN.iter().any(|part| text.contains(part)) {
                true => Error::invalid(format!("{doing}: a function does not take this type"))
                    .hint("CAST its argument")
                    .source(text.lines().next().unwrap_or_default().to_owned()),
                false => Error::internal(format!("{doing}: {}", plain_text(root))).source(error),
            }
        }
        _ if is_of_store(&error) => store_error(doing, error),
        _ => {
            let problem = sql_problem(&error, &[]);
            let mut mapped = Error::invalid(format!("{doing}: {}", problem.message));
            mapped.hint = problem.hint;
            mapped
        }
    }
}

/// One that this program made, and the engine handed on.
fn own_error(error: &DataFusionError) -> Option<&Error> {
    let mut layer: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = layer {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own);
        }
        layer = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spilled_as_much_as_it_may_has_exhausted_it() {
        let full = std::io::Error::other(format!("{SPILLED_ENOUGH} the allowable limit of 0.0 B."));
        let arrow = arrow::error::ArrowError::IoError(full.to_string(), full);
        let error = engine_error("the query failed", arrow.into());
        assert_eq!(error.kind, ErrorKind::Exhausted, "{error}");
        assert!(!error.line().contains("datafusion"), "{error}");
    }
}
