//! Which table is made from which: edges between tables, as the models' SQL states them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::model::ModelSet;
use crate::table::TableName;

/// `from` is read to make `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: TableName,
    pub to: TableName,
}

/// Every edge once, sorted; also those of models that are left out, as far as they can be read.
pub fn edges(models: &ModelSet) -> BTreeSet<Edge> {
    let left_out = models.left_out().values().filter_map(|left_out| left_out.model.as_deref());
    models
        .iter()
        .chain(left_out)
        .flat_map(|model| {
            let to = &model.name;
            model.inputs.iter().map(|from| Edge { from: from.clone(), to: to.clone() })
        })
        .collect()
}

/// Models that any of `tables` is made from, directly or not.
pub fn upstream(models: &ModelSet, tables: &BTreeSet<TableName>) -> BTreeSet<TableName> {
    let mut inputs: BTreeMap<TableName, Vec<TableName>> = BTreeMap::new();
    for edge in edges(models) {
        if models.get(&edge.from).is_some() || models.left_out().contains_key(&edge.from) {
            inputs.entry(edge.to).or_default().push(edge.from);
        }
    }
    reachable(&inputs, tables)
}

/// Models made from any of `tables`, directly or not.
pub fn downstream(models: &ModelSet, tables: &BTreeSet<TableName>) -> BTreeSet<TableName> {
    let mut readers: BTreeMap<TableName, Vec<TableName>> = BTreeMap::new();
    for edge in edges(models) {
        readers.entry(edge.from).or_default().push(edge.to);
    }
    reachable(&readers, tables)
}

fn reachable(
    next: &BTreeMap<TableName, Vec<TableName>>,
    tables: &BTreeSet<TableName>,
) -> BTreeSet<TableName> {
    let mut open: Vec<&TableName> = tables.iter().collect();
    let mut found = BTreeSet::new();
    while let Some(table) = open.pop() {
        for neighbour in next.get(table).into_iter().flatten() {
            if found.insert(neighbour.clone()) {
                open.push(neighbour);
            }
        }
    }
    found
}

/// `{"tables": [{"name", "kind", "file", "topic"}], "edges": [{"from", "to"}]}`, by name. A built-in
/// table that a model reads has the kind `builtin` and no file; a model that is left out has
/// `left_out`, the reason, and no kind if its header cannot be read.
pub fn to_json(models: &ModelSet) -> serde_json::Value {
    let edges = edges(models);
    let tables: Vec<serde_json::Value> = names(models, &edges)
        .into_iter()
        .map(|name| {
            if let Some(left_out) = models.left_out().get(&name) {
                return serde_json::json!({
                    "name": name.to_string(),
                    "kind": left_out.model.as_ref().map(|model| model.kind.to_string()),
                    "file": left_out.file.display().to_string(),
                    "left_out": left_out.reason(),
                });
            }
            let Some(model) = models.get(&name) else {
                return serde_json::json!({"name": name.to_string(), "kind": "builtin"});
            };
            let mut table = serde_json::json!({
                "name": name.to_string(),
                "kind": model.kind.to_string(),
                "file": model.source.file.display().to_string(),
            });
            if let Some(source) = model.topic() {
                table["topic"] = source.topic.clone().into();
            }
            table
        })
        .collect();
    let edges: Vec<serde_json::Value> = edges
        .iter()
        .map(|edge| serde_json::json!({"from": edge.from.to_string(), "to": edge.to.to_string()}))
        .collect();
    serde_json::json!({"tables": tables, "edges": edges})
}

/// A Graphviz graph, left to right. Names need no escaping: they are identifiers.
pub fn to_dot(models: &ModelSet) -> String {
    let edges = edges(models);
    let mut dot = String::from("digraph lineage {\n  rankdir=LR;\n  node [shape=box];\n");
    for name in names(models, &edges) {
        writeln!(dot, "  \"{name}\";").expect("a String takes everything");
    }
    for Edge { from, to } in edges {
        writeln!(dot, "  \"{from}\" -> \"{to}\";").expect("a String takes everything");
    }
    dot.push_str("}\n");
    dot
}

fn names(models: &ModelSet, edges: &BTreeSet<Edge>) -> BTreeSet<TableName> {
    let modelled = models.iter().map(|model| model.name.clone());
    let modelled = modelled.chain(models.left_out().keys().cloned());
    modelled.chain(edges.iter().map(|edge| edge.from.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> ModelSet {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            (
                "bronze/orders_raw",
                "kind: append\n-- source: {topic: raw.orders.v1, format: json}\n-- columns: {id: {type: string}}\n-- ///\nSELECT * FROM kafka.orders_raw",
            ),
            (
                "gold/a",
                "kind: full\n-- ///\nSELECT id FROM bronze.orders_raw UNION ALL SELECT _key FROM bronze.dead_letters",
            ),
        ] {
            let file = folder.path().join("sql").join(format!("{path}.sql"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, format!("-- /// flowguard\n-- {text}\n")).unwrap();
        }
        ModelSet::read(folder.path()).unwrap()
    }

    #[test]
    fn lineage_prints_tables_and_edges_by_name() {
        assert_eq!(
            to_json(&models()),
            serde_json::json!({
                "tables": [
                    {"name": "bronze.dead_letters", "kind": "builtin"},
                    {"name": "bronze.orders_raw", "kind": "append", "file": "sql/bronze/orders_raw.sql", "topic": "raw.orders.v1"},
                    {"name": "gold.a", "kind": "full", "file": "sql/gold/a.sql"}
                ],
                "edges": [
                    {"from": "bronze.dead_letters", "to": "gold.a"},
                    {"from": "bronze.orders_raw", "to": "gold.a"}
                ]
            })
        );
        assert_eq!(
            to_dot(&models()),
            "digraph lineage {\n  rankdir=LR;\n  node [shape=box];\n  \"bronze.dead_letters\";\n  \"bronze.orders_raw\";\n  \"gold.a\";\n  \"bronze.dead_letters\" -> \"gold.a\";\n  \"bronze.orders_raw\" -> \"gold.a\";\n}\n"
        );
    }
}
