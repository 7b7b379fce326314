//! Models that cannot be used while the rest of the project can: why, and the error that says so.

use std::path::PathBuf;

use super::Model;
use crate::error::{Diagnostic, Error};
use crate::table::TableName;

/// A model that is left out of what can be used.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Relative to the project.
    pub file: PathBuf,
    /// If at least its header could be read.
    pub model: Option<Box<Model>>,
    pub why: Why,
}

/// Why a model is left out.
#[derive(Debug, Clone)]
pub enum Why {
    /// Its own file has these problems; never empty.
    Broken(Vec<Diagnostic>),
    /// It reads this broken model, directly or not.
    Needs(TableName),
}

impl LeftOut {
    /// What whoever asks for `table` is told.
    pub fn error(&self, table: &TableName) -> Error {
        match &self.why {
            Why::Broken(problems) => {
                let plural = if problems.len() == 1 { "a problem" } else { "problems" };
                let message = format!("`{table}` is left out: its model has {plural}");
                Error::diagnosed(message, problems.clone())
            }
            Why::Needs(broken) => Error::invalid(format!(
                "`{table}` is left out: it needs `{broken}`, which is broken"
            ))
            .hint("`flowguard check` says what is wrong with it"),
        }
    }

    /// The same on one line.
    pub fn reason(&self) -> String {
        match &self.why {
            Why::Broken(problems) => {
                let first = problems.first().map(Diagnostic::place).unwrap_or_default();
                match problems.len() {
                    0 | 1 => first,
                    count => format!("{first} ({} more)", count - 1),
                }
            }
            Why::Needs(broken) => format!("it needs `{broken}`, which is broken"),
        }
    }

    /// The model itself is good.
    pub fn needs(&self) -> Option<&TableName> {
        match &self.why {
            Why::Broken(_) => None,
            Why::Needs(broken) => Some(broken),
        }
    }
}
