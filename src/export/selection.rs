//! Which tables are kept in which target, as `exports` of `dags.yaml` say.

use std::collections::{BTreeMap, BTreeSet};

use crate::dag::{Dags, EntryKind, Export, Severity, Target, select};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelSet;
use crate::table::TableName;

/// The exports of a project.
#[derive(Clone, Copy)]
pub struct Exports<'a> {
    pub models: &'a ModelSet,
    pub dags: &'a Dags,
}

/// What is exported where, as far as it can be told.
pub struct Chosen<'a> {
    /// Each with its tables in dependency order.
    pub targets: Vec<(&'a Target, Vec<TableName>)>,
    /// Entries of `dags.yaml` that are broken or select nothing, which others do not suffer for.
    pub left_out: Vec<(String, Error)>,
}

impl<'a> Exports<'a> {
    /// The tables of each target: those of the exports, as far as `selectors` select them, in `only`
    /// if it is given.
    pub fn chosen(&self, selectors: &[String], only: Option<&str>) -> Result<Chosen<'a>> {
        let broken = self.dags.left_out.iter().filter(|entry| entry.kind != EntryKind::Dag);
        let mut left_out: Vec<(String, Error)> = broken
            .filter(|entry| only.is_none() || entry.kind == EntryKind::Export)
            .map(|entry| (entry.to_string(), entry.error()))
            .collect();
        if self.dags.exports.is_empty() && left_out.is_empty() {
            return Err(Error::invalid("dags.yaml names no exports")
                .hint("exports: {warehouse: {target: local, select: [gold.*]}}"));
        }
        let only = only.map(|name| self.dags.target(name)).transpose()?;
        let wanted = select(self.models, self.dags, selectors)?;
        let mut tables: BTreeMap<&str, Vec<TableName>> = BTreeMap::new();
        for export in self.dags.exports.values() {
            if only.is_some_and(|only| only.name != export.target.value) {
                continue;
            }
            match self.selected(export) {
                Ok(selected) => tables.entry(&export.target.value).or_default().extend(selected),
                Err(error) => left_out.push((format!("export `{}`", export.name), error)),
            }
        }
        let mut targets = Vec::new();
        for (name, selected) in tables {
            // One that is broken is left out already.
            let Ok(target) = self.dags.target(name) else { continue };
            let names: Vec<TableName> =
                wanted.iter().filter(|name| selected.contains(name)).cloned().collect();
            if !names.is_empty() {
                targets.push((target, names));
            }
        }
        match (targets.is_empty(), left_out.is_empty()) {
            (true, true) => {
                Err(Error::new(ErrorKind::NotFound, "no export holds what was selected")
                    .hint("exports are listed in dags.yaml, under `exports`"))
            }
            (true, false) => Err(left_out.remove(0).1),
            _ => Ok(Chosen { targets, left_out }),
        }
    }

    /// Whether a run must compare the table with what `target` then holds. Of several exports the
    /// strictest counts.
    pub fn gate(&self, target: &Target, name: &TableName) -> Option<Severity> {
        let mut strictest = None;
        for export in self.dags.exports.values().filter(|e| e.target.value == target.name) {
            let holds = || self.selected(export).is_ok_and(|selected| selected.contains(name));
            if export.parity > strictest && holds() {
                strictest = export.parity;
            }
        }
        strictest
    }

    fn selected(&self, export: &Export) -> Result<Vec<TableName>> {
        let selectors: Vec<String> = export.select.iter().map(|text| text.value.clone()).collect();
        select(self.models, self.dags, &selectors)
    }

    /// Every table that an export brings to `target`.
    pub fn exported_to(&self, target: &Target) -> Result<Vec<TableName>> {
        let mut tables = BTreeSet::new();
        for export in self.dags.exports.values().filter(|e| e.target.value == target.name) {
            tables.extend(self.selected(export)?);
        }
        Ok(tables.into_iter().collect())
    }

    /// Tables that are stored, with their schemas and names in a target: those of its exports, or
    /// without a target all that `selectors` select.
    pub fn stored(
        &self,
        selectors: &[String],
        target: Option<&str>,
    ) -> Result<Vec<(TableName, [String; 2])>> {
        if target.is_some() {
            let chosen = self.chosen(selectors, target)?.targets.into_iter();
            let named = chosen.flat_map(|(target, names)| {
                let place =
                    |name: &TableName| [target.schema(name.layer), target.identifier(name.name())];
                names.into_iter().map(move |name| (name.clone(), place(&name)))
            });
            return Ok(named.collect());
        }
        let is_stored =
            |name: &TableName| self.models.get(name).is_some_and(|model| !model.is_view());
        let names = select(self.models, self.dags, selectors)?.into_iter().filter(is_stored);
        let place = |name: &TableName| [name.layer.to_string(), name.name().to_owned()];
        Ok(names.map(|name| (name.clone(), place(&name))).collect())
    }
}
