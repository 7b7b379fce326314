//! Which tables are kept in which target, as `exports` of `dags.yaml` say.

use std::collections::{BTreeMap, BTreeSet};

use crate::dag::{Dags, Export, Severity, Target, select};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelSet;
use crate::table::TableName;

/// The exports of a project.
#[derive(Clone, Copy)]
pub struct Exports<'a> {
    pub models: &'a ModelSet,
    pub dags: &'a Dags,
}

impl<'a> Exports<'a> {
    /// The tables of each target, in dependency order: those of the exports, as far as `selectors`
    /// select them, in `only` if it is given.
    pub fn chosen(
        &self,
        selectors: &[String],
        only: Option<&str>,
    ) -> Result<Vec<(&'a Target, Vec<TableName>)>> {
        if self.dags.exports.is_empty() {
            return Err(Error::invalid("dags.yaml names no exports")
                .hint("exports: {warehouse: {target: local, select: [gold.*]}}"));
        }
        let only = only.map(|name| self.dags.target(name)).transpose()?;
        let wanted = select(self.models, self.dags, selectors)?;
        let mut tables: BTreeMap<&str, Vec<TableName>> = BTreeMap::new();
        for export in self.dags.exports.values() {
            tables.entry(&export.target.value).or_default().extend(self.selected(export)?);
        }
        let mut chosen = Vec::new();
        for (name, selected) in tables {
            let target = self.dags.target(name)?;
            if only.is_some_and(|only| only.name != target.name) {
                continue;
            }
            let names: Vec<TableName> =
                wanted.iter().filter(|name| selected.contains(name)).cloned().collect();
            if !names.is_empty() {
                chosen.push((target, names));
            }
        }
        if chosen.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no export holds what was selected")
                .hint("exports are listed in dags.yaml, under `exports`"));
        }
        Ok(chosen)
    }

    /// Whether a run must compare the table with what `target` then holds. Of several exports the
    /// strictest counts.
    pub fn gate(&self, target: &Target, name: &TableName) -> Result<Option<Severity>> {
        let mut strictest = None;
        for export in self.dags.exports.values().filter(|e| e.target.value == target.name) {
            if export.parity > strictest && self.selected(export)?.contains(name) {
                strictest = export.parity;
            }
        }
        Ok(strictest)
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
            let chosen = self.chosen(selectors, target)?.into_iter();
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
