//! What is to be built, and why. Decides nothing and builds nothing.

use std::fmt;

use crate::interval::Range;
use crate::table::TableName;

/// One model to build, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub model: TableName,
    /// Whole intervals of an interval model, or `None` for all that its inputs hold. Of no meaning
    /// for a model that is replaced whole.
    pub range: Option<Range>,
    pub reason: Reason,
}

/// Why a task is there, as logs say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody named the model.
    Selected,
    /// Somebody named the model and a range.
    Range,
    /// Somebody wants the whole table made anew.
    Refresh,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Selected => "selected",
            Reason::Range => "selected with a range",
            Reason::Refresh => "to be made anew",
        })
    }
}

/// A task for each of `models`, over `range` if there is one.
pub fn tasks_of(models: &[TableName], range: Option<Range>) -> Vec<Task> {
    let reason = if range.is_some() { Reason::Range } else { Reason::Selected };
    models.iter().map(|model| Task { model: model.clone(), range, reason }).collect()
}

/// A task for each of `models` that makes its whole table anew.
pub fn refreshes_of(models: &[TableName]) -> Vec<Task> {
    let refresh =
        |model: &TableName| Task { model: model.clone(), range: None, reason: Reason::Refresh };
    models.iter().map(refresh).collect()
}
