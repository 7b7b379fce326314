//! Models: SQL files with a header, read into plain values with every problem of every file
//! reported at once. Pure after reading: nothing here plans a query or opens a table.

use std::collections::BTreeSet;
use std::fmt;

use chrono_tz::Tz;

use crate::error::Diagnostic;
use crate::interval::Every;
use crate::source::{Position, Source, Spanned};
use crate::table::{Column, Layer, TableName};

pub mod depth;
mod folder;
mod header;
mod left_out;
mod order;
mod set;
mod sql;

pub use folder::files;
pub use left_out::{LeftOut, Why};
pub use set::{CurrentModels, ModelSet, Reading};
pub use sql::syntax_problem;

/// JSON Schema of a model header.
pub const HEADER_SCHEMA: &str = include_str!("header.schema.json");
/// The name, in bronze, of the built-in table of rejected messages.
pub const DEAD_LETTERS: &str = "dead_letters";

/// One table: its header, its query and where they stand.
#[derive(Debug, Clone)]
pub struct Model {
    pub name: TableName,
    /// The whole file, with its path relative to the project folder.
    pub source: Source,
    pub kind: Kind,
    pub doc: Option<String>,
    pub owner: Option<String>,
    pub tags: Vec<String>,
    /// Column of the event's time.
    pub time: Option<Spanned<String>>,
    /// Of day boundaries.
    pub timezone: Tz,
    pub partition_by_day: bool,
    pub key: Vec<Spanned<String>>,
    pub columns: Vec<(Column, Position)>,
    /// Everything below the header.
    pub sql: String,
    /// Lines of the file above `sql`, which starts in column 1.
    pub sql_lines_before: usize,
    /// Tables the SQL reads; empty for append models.
    pub inputs: BTreeSet<TableName>,
}

/// How a table comes to its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One row per message of a topic, never rewritten.
    Append(SourceTopic),
    /// Replaces the rows of `[$start, $end)`.
    Interval { every: Every },
    /// Rebuilt as a whole.
    Full,
    /// Stores nothing.
    View,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Append(_) => "append",
            Kind::Interval { .. } => "interval",
            Kind::Full => "full",
            Kind::View => "view",
        })
    }
}

/// Where the rows of an append model come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTopic {
    pub topic: String,
    pub format: MessageFormat,
    pub unknown_fields: UnknownFields,
}

/// How the payload of a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageFormat {
    /// One JSON object per message.
    Json,
}

/// What becomes of fields that no column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// Kept as JSON in one column.
    Rescue,
    Ignore,
    /// The message is rejected.
    Fail,
}

impl Model {
    /// The topic that ingestion fills the table from.
    pub fn topic(&self) -> Option<&SourceTopic> {
        match &self.kind {
            Kind::Append(topic) => Some(topic),
            Kind::Interval { .. } | Kind::Full | Kind::View => None,
        }
    }

    /// The calendar whose intervals a run replaces.
    pub fn every(&self) -> Option<Every> {
        match self.kind {
            Kind::Interval { every } => Some(every),
            Kind::Append(_) | Kind::Full | Kind::View => None,
        }
    }

    /// Put in wherever it is read, and stored nowhere.
    pub fn is_view(&self) -> bool {
        matches!(self.kind, Kind::View)
    }

    /// A run makes its rows.
    pub fn is_built(&self) -> bool {
        matches!(self.kind, Kind::Interval { .. } | Kind::Full)
    }

    /// Each run makes all of its rows.
    pub fn is_replaced_whole(&self) -> bool {
        matches!(self.kind, Kind::Full)
    }

    /// What of the header lays out the rows that a table holds; recorded with the table.
    pub fn shape(&self) -> String {
        let time = self.time.as_ref().map_or("", |time| &time.value);
        let placed = format!("`time: {time}`, `timezone: {}`", self.timezone);
        let days = if self.partition_by_day { "`partition_by: day`" } else { "no `partition_by`" };
        match &self.kind {
            Kind::Append(_) if self.partition_by_day => format!("`kind: append`, {placed}, {days}"),
            Kind::Append(_) => format!("`kind: append`, {days}"),
            Kind::Interval { every } => {
                format!("`kind: interval`, `every: {every}`, {placed}, {days}")
            }
            Kind::Full | Kind::View => format!("`kind: {}`", self.kind),
        }
    }

    /// A problem at a place in the file.
    pub fn diagnostic(
        &self,
        position: Position,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        self.source.diagnostic(position, message, hint)
    }

    /// The place in the file of a line and column of `sql`, both counted from 1.
    pub fn sql_position(&self, line: usize, column: usize, width: usize) -> Position {
        Position { line: line + self.sql_lines_before, column, width }
    }
}

/// `bronze.dead_letters`, which no file defines.
pub fn dead_letters() -> TableName {
    TableName::new(Layer::Bronze, DEAD_LETTERS).expect("the name is an identifier")
}

#[cfg(test)]
mod tests;
