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
        let Reading { good, diagnostics, .. } = Reading::read(project)?;
        if diagnostics.is_empty() {
            return Ok(good);
        }
        Err(Error::diagnosed(counted(diagnostics.len()), diagnostics))
    }

    fn new(models: impl Iterator<Item = Model>, order: &[TableName]) -> ModelSet {
        let models: BTreeMap<TableName, Model> =
            models.map(|model| (model.name.clone(), model)).collect();
        let order = order.iter().filter(|name| models.contains_key(name)).cloned().collect();
        ModelSet { models, order }
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

/// A project as far as it can be read: for whoever wants all of its problems at once.
pub struct Reading {
    /// Models without a problem of their own. Inputs of theirs may be missing, or read each other
    /// in a cycle; nothing of this can be run.
    pub good: ModelSet,
    /// Every model, if at least the headers of all files could be read.
    pub all: Option<ModelSet>,
    /// Every problem of every file, by place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Reading {
    /// Fails only where the folder itself cannot be read.
    pub fn read(project: &Path) -> Result<Reading> {
        let (files, problems) = folder::list(project)?;
        let texts = files.into_iter().map(|file| (file.table, folder::read(project, &file.path)));
        Ok(Self::of_texts(texts.collect(), problems))
    }

    /// The same of texts, or of what is wrong instead of one; `diagnostics` were found before.
    pub fn of_texts(
        files: Vec<(TableName, Result<Source, Diagnostic>)>,
        mut diagnostics: Vec<Diagnostic>,
    ) -> Reading {
        let mut known: BTreeSet<TableName> = files.iter().map(|(table, _)| table.clone()).collect();
        known.insert(dead_letters());
        let mut drafts = Vec::new();
        let mut broken = BTreeSet::new();
        let mut are_all_drafted = diagnostics.is_empty();
        for (table, text) in files {
            let (draft, problems) = match text {
                Ok(source) => read_model(source, &table, &known),
                Err(problem) => (None, vec![problem]),
            };
            are_all_drafted &= draft.is_some();
            if !problems.is_empty() {
                broken.insert(table);
            }
            diagnostics.extend(problems);
            drafts.extend(draft);
        }
        let (order, cycles) = order::sort(&drafts);
        diagnostics.extend(cycles);
        diagnostics.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        let models = || drafts.iter().map(|draft| draft.model.clone());
        let good = ModelSet::new(models().filter(|model| !broken.contains(&model.name)), &order);
        let all = are_all_drafted.then(|| ModelSet::new(models(), &order));
        Reading { good, all, diagnostics }
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
