//! All models of a project: reads the folder file by file and collects the problems of all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::order::Draft;
use super::{Model, dead_letters, folder, header, order, sql};
use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::source::{Problems, Source};
use crate::table::TableName;

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

fn counted(problems: usize) -> String {
    match problems {
        1 => "1 problem in the models".into(),
        _ => format!("{problems} problems in the models"),
    }
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
