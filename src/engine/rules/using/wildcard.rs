//! `*` over USING and NATURAL. DataFusion 55.2 leaves out of two merged columns the one whose table's
//! name sorts last, which behind a LEFT JOIN may be the one that has the value, and stands at the
//! other's place; and it looks for them in subqueries as well.

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, JoinOperator, ObjectName, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableFactor, TableWithJoins, WildcardAdditionalOptions,
};

use super::from::{Qualifier, Scope, is_left, is_natural, qualifier, using};
use crate::engine::ast::text;

/// A table, and the columns of it that stand at another's place already.
type Side = (Qualifier, Vec<String>);

/// Writes `*` as the tables' own, each merged column where it comes first. Gives back false where
/// that cannot be told from the text, and it matters.
pub fn expand(select: &mut Select) -> bool {
    let Some(at) =
        select.projection.iter().position(|item| matches!(item, SelectItem::Wildcard(_)))
    else {
        return true;
    };
    let sides: Option<Vec<Vec<Side>>> = select.from.iter().map(sides).collect();
    let is_plain = select.projection[at].to_string() == "*";
    match sides {
        Some(sides) if is_plain => {
            let items: Vec<SelectItem> = sides.into_iter().flatten().map(all_of).collect();
            select.projection.splice(at..=at, items);
            true
        }
        _ => {
            let scope = Scope::of(select);
            select.from.iter().all(|from| keeps_left(from, &scope))
        }
    }
}

fn all_of((table, merged): Side) -> SelectItem {
    let mut options = WildcardAdditionalOptions::default();
    let merged: Vec<ObjectName> = merged
        .into_iter()
        .map(|name| ObjectName::from(vec![Ident::with_quote('"', name)]))
        .collect();
    options.opt_exclude = (!merged.is_empty()).then_some(ExcludeSelectItem::Multiple(merged));
    let table = SelectItemQualifiedWildcardKind::ObjectName(ObjectName::from(table));
    SelectItem::QualifiedWildcard(table, options)
}

fn sides(from: &TableWithJoins) -> Option<Vec<Side>> {
    let mut all = sides_of(&from.relation)?;
    for join in &from.joins {
        let mut right = sides_of(&join.relation)?;
        match &join.join_operator {
            JoinOperator::Semi(_)
            | JoinOperator::LeftSemi(_)
            | JoinOperator::Anti(_)
            | JoinOperator::LeftAnti(_) => continue,
            JoinOperator::RightSemi(_) | JoinOperator::RightAnti(_) => return None,
            _ if is_natural(join) => return None,
            _ => {}
        }
        let merged = using(join);
        if !merged.is_empty() {
            let [(_, excluded)] = right.as_mut_slice() else { return None };
            excluded.extend(merged);
        }
        all.extend(right);
    }
    Some(all)
}

fn sides_of(factor: &TableFactor) -> Option<Vec<Side>> {
    match factor {
        TableFactor::NestedJoin { table_with_joins, alias: None } => sides(table_with_joins),
        factor => Some(vec![(qualifier(factor)?, Vec::new())]),
    }
}

/// Whether DataFusion takes the left side's column of each LEFT JOIN.
fn keeps_left(from: &TableWithJoins, scope: &Scope) -> bool {
    let first = qualifier(&from.relation);
    let nested = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => keeps_left(table_with_joins, scope),
        _ => true,
    };
    let mut joins = from.joins.iter().enumerate();
    nested(&from.relation)
        && joins.all(|(at, join)| {
            let right = qualifier(&join.relation);
            let is_before = |left: Option<&Qualifier>| {
                left.zip(right.as_ref()).is_some_and(|(left, right)| order(left) < order(right))
            };
            let owner = |name| scope.merged.get(name).and_then(|merged| merged.owner.as_ref());
            nested(&join.relation)
                && (!is_left(&join.join_operator)
                    || using(join).iter().all(|name| is_before(owner(name)))
                        && (!is_natural(join) || at == 0 && is_before(first.as_ref())))
        })
}

/// As table references are compared.
fn order(table: &Qualifier) -> (usize, Vec<String>) {
    (table.len(), table.iter().map(text).collect())
}
