//! Selectors: words for sets of models. `gold.daily_metrics`, `gold.*`, `+gold.daily_metrics` (with
//! everything upstream), `gold.daily_metrics+` (with everything downstream), `tag:word`,
//! `path:sql/gold`, or the name of a DAG.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Dags, EntryKind};
use crate::error::{Diagnostic, Error, ErrorKind, Result, did_you_mean};
use crate::lineage;
use crate::model::{self, ModelSet};
use crate::table::TableName;

impl Dags {
    /// Selectors that name nothing in `models`, at their places in the file.
    pub fn check(&self, models: &ModelSet) -> Vec<Diagnostic> {
        let exported = self.exports.values().flat_map(|export| &export.select);
        let selectors = self.dags.values().flat_map(|dag| &dag.select).chain(exported);
        let mut problems: Vec<Diagnostic> = selectors
            .filter_map(|selector| {
                let error = tables(models, &selector.value).err()?;
                Some(self.source.diagnostic(selector.position, error.message, error.hint))
            })
            .collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

/// The selected models, each after its inputs; all models when there is no selector. Append models
/// are among them: whoever runs models decides what that means. So are models that are left out, at
/// the end. The error names every selector that selects nothing.
pub fn select(models: &ModelSet, dags: &Dags, selectors: &[String]) -> Result<Vec<TableName>> {
    let mut chosen: BTreeSet<TableName> = BTreeSet::new();
    let mut errors = Vec::new();
    if selectors.is_empty() {
        chosen.extend(models.iter().map(|model| model.name.clone()));
        chosen.extend(models.left_out().keys().cloned());
    }
    for selector in selectors {
        let (before, core, after) = parts(selector);
        let found = match dags.dags.get(core) {
            Some(dag) => {
                let mut union = BTreeSet::new();
                for inner in &dag.select {
                    match tables(models, &inner.value) {
                        Ok(found) => union.extend(found),
                        Err(error) => errors.push(error),
                    }
                }
                Ok(widen(models, union, before, after))
            }
            None => match dags.left_out(EntryKind::Dag, core) {
                Some(entry) => tables(models, selector).map_err(|_| entry.error()),
                None => tables_or_dag(models, selector, dags),
            },
        };
        match found {
            Ok(found) => chosen.extend(found),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(models
            .in_order()
            .map(|model| &model.name)
            .chain(models.left_out().keys())
            .filter(|name| chosen.contains(*name))
            .cloned()
            .collect()),
        1 => Err(errors.remove(0)),
        _ => {
            let messages: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
            let hints: Vec<String> = errors.into_iter().filter_map(|error| error.hint).collect();
            Err(Error::new(ErrorKind::NotFound, messages.join("; ")).hint(hints.join("; ")))
        }
    }
}

/// What a selector other than a DAG's name selects; never nothing.
pub(super) fn tables(models: &ModelSet, selector: &str) -> Result<BTreeSet<TableName>> {
    let (before, core, after) = parts(selector);
    let is_meant = |name: &TableName, file: &Path, tags: &[String]| match core.split_once(':') {
        Some(("tag", tag)) => tags.iter().any(|given| given == tag),
        Some(("path", path)) => is_at(file, path),
        _ => matches(core, &name.to_string()),
    };
    let of_models = models
        .iter()
        .filter(|model| is_meant(&model.name, &model.source.file, &model.tags))
        .map(|model| &model.name);
    let left_out = models.left_out().iter().filter(|(name, left_out)| {
        let tags = left_out.model.as_ref().map_or(&[] as &[String], |model| &model.tags);
        is_meant(name, &left_out.file, tags)
    });
    let found: BTreeSet<TableName> =
        of_models.chain(left_out.map(|(name, _)| name)).cloned().collect();
    if found.is_empty() {
        return Err(nothing(models, core, &[]));
    }
    Ok(widen(models, found, before, after))
}

fn tables_or_dag(models: &ModelSet, selector: &str, dags: &Dags) -> Result<BTreeSet<TableName>> {
    tables(models, selector).map_err(|_| {
        let names: Vec<&str> = dags.dags.keys().map(String::as_str).collect();
        nothing(models, parts(selector).1, &names)
    })
}

/// `+core+` in its parts.
fn parts(selector: &str) -> (bool, &str, bool) {
    let (before, rest) = match selector.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, selector),
    };
    match rest.strip_suffix('+') {
        Some(core) => (before, core, true),
        None => (before, rest, false),
    }
}

/// `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

/// The file itself or a folder above it.
fn is_at(file: &Path, path: &str) -> bool {
    let path = path.strip_prefix("./").unwrap_or(path);
    !path.is_empty() && file.starts_with(path)
}

fn widen(
    models: &ModelSet,
    mut tables: BTreeSet<TableName>,
    before: bool,
    after: bool,
) -> BTreeSet<TableName> {
    let upstream = if before { lineage::upstream(models, &tables) } else { BTreeSet::new() };
    let downstream = if after { lineage::downstream(models, &tables) } else { BTreeSet::new() };
    tables.extend(upstream);
    tables.extend(downstream);
    tables
}

fn nothing(models: &ModelSet, core: &str, dags: &[&str]) -> Error {
    let error = Error::new(ErrorKind::NotFound, format!("`{core}` selects nothing"));
    if core == model::dead_letters().to_string() {
        return error.hint("it is built in and has no model; `flowguard ingest` writes it");
    }
    if let Some(tag) = core.strip_prefix("tag:") {
        let tags: BTreeSet<&str> =
            models.iter().flat_map(|model| &model.tags).map(String::as_str).collect();
        return match did_you_mean(tag, tags.iter().copied()) {
            Some(tag) => error.hint(format!("did you mean `tag:{tag}`?")),
            None if tags.is_empty() => error.hint("no model has tags"),
            None => {
                let tags: Vec<&str> = tags.into_iter().collect();
                error.hint(format!("tags are {}", tags.join(", ")))
            }
        };
    }
    if core.starts_with("path:") {
        return error.hint("a path is relative to the project, such as path:sql/gold");
    }
    let names: Vec<String> = models.iter().map(|model| model.name.to_string()).collect();
    let bare = names.iter().find(|name| name.split_once('.').is_some_and(|(_, bare)| bare == core));
    let near = did_you_mean(core, names.iter().map(String::as_str).chain(dags.iter().copied()));
    match near.or(bare.map(String::as_str)) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => {
            error.hint("write layer.table, layer.*, tag:word, path:folder or the name of a DAG")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelSet;

    const FILES: [(&str, &str); 5] = [
        (
            "bronze/orders_raw",
            "kind: append\n-- source: {topic: o, format: json}\n-- columns: {id: {type: string}}\n-- ///\nSELECT * FROM kafka.orders_raw",
        ),
        ("silver/orders", "kind: full\n-- tags: [daily]\n-- ///\nSELECT id FROM bronze.orders_raw"),
        ("silver/rejects", "kind: view\n-- ///\nSELECT * FROM bronze.dead_letters"),
        ("gold/daily_items", "kind: full\n-- tags: [daily]\n-- ///\nSELECT id FROM silver.orders"),
        (
            "gold/daily_metrics",
            "kind: full\n-- ///\nSELECT id FROM silver.orders JOIN gold.daily_items USING (id)",
        ),
    ];
    const DAGS: &str = "version: 1\ndags:\n  nightly: {select: [\"+gold.daily_items\"]}\n  broken: {select: [gold.weekly, nightly]}\n";

    fn project() -> (tempfile::TempDir, ModelSet, Dags) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in FILES {
            let file = folder.path().join("sql").join(format!("{path}.sql"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, format!("-- /// flowguard\n-- {text}\n")).unwrap();
        }
        std::fs::write(folder.path().join("dags.yaml"), DAGS).unwrap();
        let models = ModelSet::read(folder.path()).unwrap();
        let dags = Dags::read(folder.path()).unwrap();
        (folder, models, dags)
    }

    fn check(selectors: &[&str], expect: &str) {
        let (_folder, models, dags) = project();
        let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        let found = match select(&models, &dags, &selectors) {
            Ok(tables) => tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("{}; {}", error.message, error.hint.unwrap()),
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn selectors_select_in_dependency_order() {
        check(
            &[],
            "bronze.orders_raw silver.orders silver.rejects gold.daily_items gold.daily_metrics",
        );
        check(&["gold.*"], "gold.daily_items gold.daily_metrics");
        check(&["gold.daily_*s"], "gold.daily_items gold.daily_metrics");
        check(&["gold.daily_metrics", "silver.orders"], "silver.orders gold.daily_metrics");
        check(&["+gold.daily_items"], "bronze.orders_raw silver.orders gold.daily_items");
        check(&["gold.daily_items+"], "gold.daily_items gold.daily_metrics");
        check(&["tag:daily"], "silver.orders gold.daily_items");
        check(&["path:sql/silver"], "silver.orders silver.rejects");
        check(&["path:./sql/gold/daily_items.sql"], "gold.daily_items");
        check(&["nightly"], "bronze.orders_raw silver.orders gold.daily_items");
        check(&["nightly+"], "bronze.orders_raw silver.orders gold.daily_items gold.daily_metrics");
    }

    #[test]
    fn what_selects_nothing_is_named_with_a_hint() {
        check(
            &["gold.daily_metric"],
            "`gold.daily_metric` selects nothing; did you mean `gold.daily_metrics`?",
        );
        check(&["daily_items"], "`daily_items` selects nothing; did you mean `gold.daily_items`?");
        check(&["nightli"], "`nightli` selects nothing; did you mean `nightly`?");
        check(&["tag:dayly"], "`tag:dayly` selects nothing; did you mean `tag:daily`?");
        check(
            &["path:gold"],
            "`path:gold` selects nothing; a path is relative to the project, such as path:sql/gold",
        );
        check(
            &["bronze.dead_letters"],
            "`bronze.dead_letters` selects nothing; it is built in and has no model; `flowguard ingest` writes it",
        );
        check(
            &["tag:x", "gold.daily_metric"],
            "`tag:x` selects nothing; `gold.daily_metric` selects nothing; tags are daily; did you mean `gold.daily_metrics`?",
        );
    }

    #[test]
    fn selectors_of_dags_are_checked_at_their_place() {
        let (_folder, models, dags) = project();
        assert_eq!(
            crate::source::printed(&dags.check(&models)),
            "dags.yaml:4:21: `gold.weekly` selects nothing
      broken: {select: [gold.weekly, nightly]}
                        ^^^^^^^^^^^
    hint: write layer.table, layer.*, tag:word, path:folder or the name of a DAG
dags.yaml:4:34: `nightly` selects nothing
      broken: {select: [gold.weekly, nightly]}
                                     ^^^^^^^
    hint: write layer.table, layer.*, tag:word, path:folder or the name of a DAG"
        );
    }
}
