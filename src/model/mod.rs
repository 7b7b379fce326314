//! Models: SQL files with a header, read into plain values with every problem of every file
//! reported at once. Pure after reading: nothing here plans a query or opens a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use chrono_tz::Tz;

use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::interval::Every;
use crate::source::{Position, Problems, Source, Spanned};
use crate::table::{Column, Layer, TableName};

mod folder;
mod header;
mod order;
mod sql;

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTopic {
    pub topic: String,
    pub format: MessageFormat,
    pub unknown_fields: UnknownFields,
}

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

/// All models of a project, known to be free of cycles and of unknown tables.
#[derive(Debug, Clone)]
pub struct ModelSet {
    models: BTreeMap<TableName, Model>,
    order: Vec<TableName>,
}

impl ModelSet {
    /// Reads `sql/{bronze,silver,gold}/*.sql`. The error carries every problem of every file.
    pub fn read(project: &Path) -> Result<ModelSet> {
        let (files, mut diagnostics) = folder::list(project)?;
        let mut known: BTreeSet<TableName> = files.iter().map(|file| file.table.clone()).collect();
        known.insert(dead_letters());
        let mut drafts = Vec::new();
        for file in files {
            match folder::read(project, &file.path) {
                Ok(source) => {
                    let (draft, problems) = read_model(source, &file.table, &known);
                    diagnostics.extend(problems);
                    drafts.extend(draft);
                }
                Err(problem) => diagnostics.push(problem),
            }
        }
        let (order, cycles) = order::sort(&drafts);
        diagnostics.extend(cycles);
        if !diagnostics.is_empty() {
            diagnostics
                .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            return Err(Error::diagnosed(counted(diagnostics.len()), diagnostics));
        }
        let models =
            drafts.into_iter().map(|draft| (draft.model.name.clone(), draft.model)).collect();
        Ok(ModelSet { models, order })
    }

    pub fn get(&self, table: &TableName) -> Option<&Model> {
        self.models.get(table)
    }

    /// Fails with `NotFound` and a hint.
    pub fn find(&self, table: &TableName) -> Result<&Model> {
        self.models.get(table).ok_or_else(|| {
            let known = self.models.keys().cloned().collect();
            Error::new(ErrorKind::NotFound, format!("no model `{table}`"))
                .hint(sql::unknown_hint(&table.to_string(), &known))
        })
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// Every model after all of its inputs; by name where that leaves a choice.
    pub fn in_order(&self) -> impl Iterator<Item = &Model> {
        self.order.iter().map(|table| &self.models[table])
    }

    pub fn len(&self) -> usize {
        self.models.len()
    }

    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }
}

/// `bronze.dead_letters`, which no file defines.
pub fn dead_letters() -> TableName {
    TableName::new(Layer::Bronze, DEAD_LETTERS).expect("the name is an identifier")
}

fn counted(problems: usize) -> String {
    match problems {
        1 => "1 problem in the models".into(),
        _ => format!("{problems} problems in the models"),
    }
}

/// A model that read well by itself, and where it mentions its inputs.
struct Draft {
    model: Model,
    mentions: Vec<(TableName, Position)>,
}

fn read_model(
    source: Source,
    table: &TableName,
    known: &BTreeSet<TableName>,
) -> (Option<Draft>, Vec<Diagnostic>) {
    let problems = Problems::new(&source);
    let draft = header::split(&source.text, &problems).and_then(|fenced| {
        let header = header::read(&fenced, table, &problems);
        let context = sql::Context {
            table,
            kind: header.as_ref().and_then(|header| header.kind.as_ref()),
            known,
            lines_before: fenced.sql_lines_before,
            problems: &problems,
        };
        let mentions = sql::read(fenced.sql, &context);
        let header = header?;
        let model = Model {
            name: table.clone(),
            source: source.clone(),
            kind: header.kind?,
            doc: header.doc,
            owner: header.owner,
            tags: header.tags,
            time: header.time,
            timezone: header.timezone,
            partition_by_day: header.partition_by_day,
            key: header.key,
            columns: header.columns,
            sql: fenced.sql.to_owned(),
            sql_lines_before: fenced.sql_lines_before,
            inputs: mentions.iter().map(|(table, _)| table.clone()).collect(),
        };
        Some(Draft { model, mentions })
    });
    (draft, problems.into_diagnostics())
}

/// A file named by its place: `sql/<layer>/<table>.sql`.
struct ModelFile {
    table: TableName,
    path: PathBuf,
}

#[cfg(test)]
mod tests;
