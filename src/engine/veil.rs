//! What is said of a statement over a view that reads what whoever asks may not read: plans and errors
//! name tables, columns, files and values of it.

use std::collections::HashSet;

use datafusion::common::Result;
use datafusion::logical_expr::LogicalPlan;

use super::rules::renamed;
use crate::error::{Error, ErrorKind};

/// A view's plan without `hidden` words in the names of its columns: one that is computed and was
/// given no name is called by what it is computed from, as in `max(bronze.orders_raw.price)`. It
/// becomes `column_1`, or the number of its place.
pub fn without_words(plan: LogicalPlan, hidden: &HashSet<String>) -> Result<LogicalPlan> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let is_hidden = |name: &str| {
        !name.chars().all(is_of_name)
            && name.split(|c: char| !is_of_name(c)).any(|word| hidden.contains(word))
    };
    if !plan.schema().fields().iter().any(|field| is_hidden(field.name())) {
        return Ok(plan);
    }
    let names = plan.schema().fields().iter().enumerate().map(|(at, field)| {
        match is_hidden(field.name()) {
            true => format!("column_{}", at + 1),
            false => field.name().clone(),
        }
    });
    let names: Vec<String> = names.collect();
    renamed(plan, &names)
}

/// Why EXPLAIN is refused.
pub fn hidden_plan() -> Error {
    let message = "the plan is not shown: a view in it reads what you may not read";
    Error::new(ErrorKind::Denied, message).hint(
        "EXPLAIN shows plans over tables, and over views of which you may read all that they read; \
         ask whoever runs the models of this lake",
    )
}

/// What is known to hold neither a name nor a value.
const SAFE_CAUSES: [(&str, &str); 5] = [
    ("divide by zero", "divide by zero"),
    ("division by zero", "divide by zero"),
    ("verflow", "a number is too large for its type"),
    ("cast", "a value does not fit the type that it is cast to"),
    ("regular expression", "a regular expression is not valid"),
];

/// `error`, of executing the statement, in words that hold nothing of what the view reads.
pub fn veiled_failure(error: &Error) -> Error {
    let cause = match error.kind {
        ErrorKind::Exhausted => "it needs more memory or space than it may have",
        ErrorKind::Invalid => {
            let known = SAFE_CAUSES.iter().find(|(part, _)| error.message.contains(part));
            known.map_or("something is wrong with a value", |(_, cause)| cause)
        }
        ErrorKind::DataLoss => "a data file is missing or damaged",
        ErrorKind::Unavailable => "the lake does not answer",
        _ => "something is wrong with what it reads",
    };
    let message = format!("the statement failed: {cause}");
    Error::new(error.kind, message).hint(
        "a view in it reads what you may not read, so no more is said; whoever runs this server \
         finds it by `flowguard statements`",
    )
}
