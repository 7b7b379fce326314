//! All models of a project: reads the folder file by file and collects the problems of all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::left_out::{LeftOut, Why};
use super::order::Draft;
use super::{Model, dead_letters, folder, header, order, sql};
use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::source::{Problems, Source};
use crate::table::TableName;

/// The models of a project that can be used, known to be free of cycles and of unknown tables; and
/// those that are left out, with the reasons.
#[derive(Debug, Clone)]
pub struct ModelSet {
    models: BTreeMap<TableName, Model>,
    order: Vec<TableName>,
    left_out: BTreeMap<TableName, LeftOut>,
    strays: Vec<Diagnostic>,
}

impl ModelSet {
    /// Reads `sql/{bronze,silver,gold}/*.sql`; broken models, and what needs them, are left out.
    /// Fails only where the folder itself cannot be read.
    pub fn read_usable(project: &Path) -> Result<ModelSet> {
        Reading::read(project).map(|reading| reading.usable)
    }

    /// The same, all or nothing: the error carries every problem of every file.
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
        ModelSet { models, order, left_out: BTreeMap::new(), strays: Vec::new() }
    }

    /// Without the models that have problems, beside those that are left out already, and without
    /// what needs them.
    #[must_use]
    pub fn without(mut self, mut broken: BTreeMap<TableName, Vec<Diagnostic>>) -> ModelSet {
        let mut order = Vec::with_capacity(self.order.len());
        for name in std::mem::take(&mut self.order) {
            let model = &self.models[&name];
            let why = match broken.remove(&name) {
                Some(problems) => Some(Why::Broken(problems)),
                None => self.broken_input(model).map(Why::Needs),
            };
            let Some(why) = why else {
                order.push(name);
                continue;
            };
            if let Some(model) = self.models.remove(&name) {
                let file = model.source.file.clone();
                self.left_out.insert(name, LeftOut { file, model: Some(Box::new(model)), why });
            }
        }
        self.order = order;
        self
    }

    /// What is broken that `model` needs; the inputs of its inputs were looked at before.
    fn broken_input(&self, model: &Model) -> Option<TableName> {
        let of_input = |input: &TableName| {
            let left_out = self.left_out.get(input)?;
            Some(left_out.needs().unwrap_or(input).clone())
        };
        model.inputs.iter().find_map(of_input)
    }

    /// With those models of `before` that are left out here: what is left out stays said.
    #[must_use]
    pub fn keeping(mut self, before: &ModelSet) -> ModelSet {
        for name in self.left_out.keys() {
            if let Some(model) = before.models.get(name) {
                self.models.insert(name.clone(), model.clone());
                self.order.push(name.clone());
            }
        }
        self
    }

    /// Models that cannot be used, and why.
    pub fn left_out(&self) -> &BTreeMap<TableName, LeftOut> {
        &self.left_out
    }

    /// Problems of files below `sql/` that are no model of any table.
    pub fn strays(&self) -> &[Diagnostic] {
        &self.strays
    }

    /// The model that statements go by: one that is left out for its inputs' sake alone reads well
    /// what the lake has of them.
    pub fn as_read(&self, table: &TableName) -> Option<&Model> {
        let for_inputs = || {
            let left_out = self.left_out.get(table)?;
            left_out.needs().and(left_out.model.as_deref())
        };
        self.models.get(table).or_else(for_inputs)
    }

    /// All of [`Self::as_read`], by name.
    pub fn iter_as_read(&self) -> impl Iterator<Item = &Model> {
        let names: BTreeSet<&TableName> = self.models.keys().chain(self.left_out.keys()).collect();
        names.into_iter().filter_map(|name| self.as_read(name))
    }

    pub fn get(&self, table: &TableName) -> Option<&Model> {
        self.models.get(table)
    }

    /// Fails with `NotFound` and a hint, or with the problems of a model that is left out.
    pub fn find(&self, table: &TableName) -> Result<&Model> {
        self.models.get(table).ok_or_else(|| {
            if let Some(left_out) = self.left_out.get(table) {
                return left_out.error(table);
            }
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

/// The models that a running server goes by: others from one moment to the next. Cheap to clone;
/// clones see the same.
#[derive(Clone)]
pub struct CurrentModels(Arc<RwLock<Arc<ModelSet>>>);

impl CurrentModels {
    pub fn new(models: Arc<ModelSet>) -> Self {
        Self(Arc::new(RwLock::new(models)))
    }

    /// Those of this moment, which the caller goes by to the end of what it does.
    pub fn get(&self) -> Arc<ModelSet> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set(&self, models: Arc<ModelSet>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = models;
    }
}

/// A project as far as it can be read: for whoever wants all of its problems at once.
pub struct Reading {
    /// Models without a problem of their own. Inputs of theirs may be missing, or read each other
    /// in a cycle; nothing of this can be run.
    pub good: ModelSet,
    /// Every model, if at least the headers of all files could be read.
    pub all: Option<ModelSet>,
    /// What can be used, and what is left out.
    pub usable: ModelSet,
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
        let strays = diagnostics.clone();
        let mut drafts = Vec::new();
        let mut broken: BTreeMap<TableName, Vec<Diagnostic>> = BTreeMap::new();
        let mut unreadable: BTreeMap<TableName, PathBuf> = BTreeMap::new();
        for (table, text) in files {
            let (draft, problems, file) = match text {
                Ok(source) => {
                    let file = source.file.clone();
                    let (draft, problems) = read_model(source, &table, &known);
                    (draft, problems, file)
                }
                Err(problem) => (None, vec![problem.clone()], problem.file),
            };
            diagnostics.extend(problems.iter().cloned());
            if draft.is_none() {
                unreadable.insert(table.clone(), file);
            }
            drafts.extend(draft);
            if !problems.is_empty() {
                broken.insert(table, problems);
            }
        }
        let (order, cycles) = order::sort(&drafts);
        let is_good = |model: &Model| !broken.contains_key(&model.name);
        let models = || drafts.iter().map(|draft| draft.model.clone());
        let good = ModelSet::new(models().filter(is_good), &order);
        let all =
            (unreadable.is_empty() && strays.is_empty()).then(|| ModelSet::new(models(), &order));
        for cycle in cycles {
            for member in cycle.members {
                let problems = broken.entry(member).or_default();
                if !problems.contains(&cycle.problem) {
                    problems.push(cycle.problem.clone());
                }
            }
            diagnostics.push(cycle.problem);
        }
        let mut usable = ModelSet::new(models(), &order);
        usable.strays = strays;
        for (table, file) in unreadable {
            let why = Why::Broken(broken.remove(&table).unwrap_or_default());
            usable.left_out.insert(table, LeftOut { file, model: None, why });
        }
        let usable = usable.without(broken);
        diagnostics.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        Reading { good, all, usable, diagnostics }
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
