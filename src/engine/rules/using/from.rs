//! What the text of a FROM says of the columns that its joins merge.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::{
    Ident, Join, JoinConstraint, JoinOperator, Select, TableAlias, TableFactor, TableWithJoins,
};

use crate::engine::ast::text;

/// How a table is named by its columns: by its alias, or as it was written.
pub type Qualifier = Vec<Ident>;

/// The tables of one SELECT, and the columns that its joins merge.
#[derive(Debug, Default)]
pub struct Scope {
    /// By the last part of their names.
    pub tables: BTreeSet<String>,
    /// By RIGHT and FULL joins.
    pub merged_outside: BTreeSet<String>,
    /// NATURAL RIGHT or FULL.
    pub is_natural_outside: bool,
    pub merged: BTreeMap<String, Merged>,
}

/// A column of USING.
#[derive(Debug)]
pub struct Merged {
    /// The table whose column has the merged value, if the text tells.
    pub owner: Option<Qualifier>,
    pub joins: usize,
}

impl Scope {
    pub fn of(select: &Select) -> Self {
        let mut scope = Self::default();
        select.from.iter().for_each(|from| scope.read(from));
        scope
    }

    fn read(&mut self, from: &TableWithJoins) {
        self.add(&from.relation);
        let mut left = qualifier(&from.relation);
        for join in &from.joins {
            for name in using(join) {
                let owner = left.clone().or_else(|| {
                    is_inner(&join.join_operator).then(|| qualifier(&join.relation)).flatten()
                });
                let merged = self.merged.entry(name.clone());
                merged.or_insert(Merged { owner, joins: 0 }).joins += 1;
                if is_outside(&join.join_operator) {
                    self.merged_outside.insert(name);
                }
            }
            self.is_natural_outside |= is_natural(join) && is_outside(&join.join_operator);
            self.add(&join.relation);
            // Which of several tables has the column, the text does not tell.
            left = None;
        }
    }

    fn add(&mut self, factor: &TableFactor) {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            let mut inner = Self::default();
            inner.read(table_with_joins);
            self.tables.extend(inner.tables);
            self.merged_outside.extend(inner.merged_outside);
            self.is_natural_outside |= inner.is_natural_outside;
            for (name, merged) in inner.merged {
                self.merged.entry(name).or_insert(Merged { joins: 0, ..merged }).joins +=
                    merged.joins;
            }
        }
        self.tables.extend(qualifier(factor).as_ref().and_then(|parts| Some(text(parts.last()?))));
    }
}

/// How the columns of `factor` are named.
pub fn qualifier(factor: &TableFactor) -> Option<Qualifier> {
    let (name, alias) = match factor {
        TableFactor::Table { name, alias, args: None, .. } => (Some(name), alias),
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => (None, alias),
        _ => return None,
    };
    match (alias, name) {
        (Some(TableAlias { name, .. }), _) => Some(vec![name.clone()]),
        (None, Some(name)) => name.0.iter().map(|part| part.as_ident().cloned()).collect(),
        (None, None) => None,
    }
}

pub fn constraint(join: &JoinOperator) -> Option<&JoinConstraint> {
    match join {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::Semi(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::RightSemi(constraint)
        | JoinOperator::Anti(constraint)
        | JoinOperator::LeftAnti(constraint)
        | JoinOperator::RightAnti(constraint) => Some(constraint),
        _ => None,
    }
}

/// The columns that a join merges by their names.
pub fn using(join: &Join) -> Vec<String> {
    match constraint(&join.join_operator) {
        Some(JoinConstraint::Using(names)) => {
            names.iter().filter_map(|name| name.0.last()?.as_ident()).map(text).collect()
        }
        _ => Vec::new(),
    }
}

pub fn is_natural(join: &Join) -> bool {
    matches!(constraint(&join.join_operator), Some(JoinConstraint::Natural))
}

pub fn is_inner(join: &JoinOperator) -> bool {
    matches!(join, JoinOperator::Join(_) | JoinOperator::Inner(_))
}

pub fn is_left(join: &JoinOperator) -> bool {
    matches!(join, JoinOperator::Left(_) | JoinOperator::LeftOuter(_))
}

/// Whether rows of the right side alone are kept.
fn is_outside(join: &JoinOperator) -> bool {
    matches!(
        join,
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
    )
}
