//! Dependency order of models, and the cycles that prevent one. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Model;
use crate::error::Diagnostic;
use crate::source::Position;
use crate::table::TableName;

/// A model that read well by itself, and where it mentions its inputs.
pub struct Draft {
    pub model: Model,
    pub mentions: Vec<(TableName, Position)>,
}

/// Models that read each other, and one problem that shows how.
pub struct Cycle {
    pub members: Vec<TableName>,
    pub problem: Diagnostic,
}

/// Every model after its inputs, by name where that leaves a choice, and the cycles. Inputs that are
/// no draft are left out: they are built in, or broken and reported.
pub fn sort(drafts: &[Draft]) -> (Vec<TableName>, Vec<Cycle>) {
    let by_name: BTreeMap<&TableName, &Draft> =
        drafts.iter().map(|draft| (&draft.model.name, draft)).collect();
    let mut left: BTreeMap<&TableName, BTreeSet<&TableName>> = by_name
        .iter()
        .map(|(name, draft)| {
            let inputs = draft.model.inputs.iter().filter(|input| by_name.contains_key(input));
            (*name, inputs.collect())
        })
        .collect();
    let mut order = Vec::new();
    let mut cycles = Vec::new();
    loop {
        take_ready(&mut left, &mut order);
        let Some(cycle) = find_cycle(&left) else { break };
        cycles.push(Cycle {
            members: cycle.iter().map(|name| (*name).clone()).collect(),
            problem: describe(&cycle, &by_name),
        });
        // Without one of its edges the cycle is gone and the search for others goes on.
        if let Some(inputs) = left.get_mut(cycle[0]) {
            inputs.remove(cycle[1]);
        }
    }
    (order, cycles)
}

/// Moves models without open inputs to `order`, smallest name first.
fn take_ready(left: &mut BTreeMap<&TableName, BTreeSet<&TableName>>, order: &mut Vec<TableName>) {
    let mut readers: BTreeMap<&TableName, Vec<&TableName>> = BTreeMap::new();
    for (name, inputs) in left.iter() {
        for input in inputs {
            readers.entry(*input).or_default().push(*name);
        }
    }
    let mut ready: BTreeSet<&TableName> =
        left.iter().filter(|(_, inputs)| inputs.is_empty()).map(|(name, _)| *name).collect();
    while let Some(name) = ready.pop_first() {
        left.remove(name);
        order.push(name.clone());
        for reader in readers.get(name).into_iter().flatten() {
            if let Some(inputs) = left.get_mut(reader) {
                inputs.remove(name);
                if inputs.is_empty() {
                    ready.insert(*reader);
                }
            }
        }
    }
}

/// The path of a cycle, its first table again at the end. Every model still left has an input that
/// is left too, so walking upstream must meet itself.
fn find_cycle<'a>(
    left: &BTreeMap<&'a TableName, BTreeSet<&'a TableName>>,
) -> Option<Vec<&'a TableName>> {
    let mut path: Vec<&TableName> = vec![*left.keys().next()?];
    loop {
        let inputs = left.get(path.last()?)?;
        let next = *inputs.first()?;
        if let Some(start) = path.iter().position(|table| *table == next) {
            let mut cycle = path.split_off(start);
            let smallest = (0..cycle.len()).min_by_key(|index| cycle[*index])?;
            cycle.rotate_left(smallest);
            cycle.push(cycle[0]);
            return Some(cycle);
        }
        path.push(next);
    }
}

fn describe(cycle: &[&TableName], by_name: &BTreeMap<&TableName, &Draft>) -> Diagnostic {
    let draft = by_name[cycle[0]];
    let mention = draft.mentions.iter().find(|(table, _)| table == cycle[1]);
    let (_, position) = mention.expect("an input is mentioned in the SQL");
    let path: Vec<String> = cycle.iter().map(|table| format!("`{table}`")).collect();
    let message = format!("a cycle: {}", path.join(" reads "));
    draft.model.diagnostic(*position, message, Some("remove one of these reads".into()))
}
