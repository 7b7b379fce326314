//! What is said of a statement over a view that reads what whoever asks may not read: plans and errors
//! name tables, columns, files and values of it.

use crate::error::{Error, ErrorKind};

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
