//! Random tables, and joins of them.

use super::kinds::Kind;
use super::statements::{Generator, Made, Reference, Scope};
use super::tree::{Dialect, Node, Type, sequence};

impl Generator<'_> {
    /// ` FROM …` with its joins.
    pub fn from(&mut self) -> (Node, Scope) {
        if self.chance(2) {
            return (Node::nothing(), Scope { order: Some(Vec::new()), ..Scope::default() });
        }
        let outer = std::mem::replace(&mut self.outer_of_hundred, 0);
        let (mut node, mut scope) = self.relation();
        let joins = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2][self.random.below(10) as usize];
        let is_correlated = outer > 0 && !self.outer.is_empty();
        let joins = if is_correlated && !Kind::CorrelatedJoin.is_on() { 0 } else { joins };
        for _ in 0..joins {
            (node, scope) = self.joined(node, scope);
        }
        self.outer_of_hundred = outer;
        (sequence![" FROM ", node.table()], scope)
    }

    fn relation(&mut self) -> (Node, Scope) {
        let alias = self.name("a");
        let made = match self.random.below(20) {
            0..=3 if self.has_block() => {
                let made = self.query(None, false);
                Made { node: sequence!["(", made.node, ")"], ..made }
            }
            4..=6 if !self.shared.is_empty() => {
                let shared = self.shared.clone();
                self.one(&shared)
            }
            7 => {
                let made = self.values(None);
                Made { node: sequence!["(", made.node, ")"], ..made }
            }
            _ => {
                let table = self.one(self.tables);
                let columns = table.columns.iter().map(|column| (column.name.clone(), column.of));
                let columns: Vec<_> = columns.collect();
                let key = vec![columns[0].0.clone()];
                Made { node: Node::from(format!("silver.{}", table.name)), columns, key }
            }
        };
        let qualified = |name: &str| Node::from(format!("{alias}.{name}"));
        let columns = made.columns.iter().map(|(name, of)| Reference {
            node: qualified(name),
            name: name.clone(),
            of: *of,
            is_plain: true,
        });
        let columns = columns.collect();
        let order = Some(made.key.iter().map(|name| qualified(name)).collect());
        let node = sequence![made.node, format!(" AS {alias}")].table();
        (node, Scope { columns, order, ungrouped: None })
    }

    fn joined(&mut self, left: Node, left_scope: Scope) -> (Node, Scope) {
        let (right, right_scope) = self.relation();
        let mut scope = Scope {
            columns: [left_scope.columns.clone(), right_scope.columns.clone()].concat(),
            order: Some(
                [left_scope.order.clone(), right_scope.order.clone()]
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect(),
            ),
            ungrouped: None,
        };
        let common = common_names(&left_scope, &right_scope);
        let kind = self.one(&["INNER", "INNER", "INNER", "LEFT", "LEFT", "LEFT", "RIGHT", "FULL"]);
        let is_open = (matches!(kind, "INNER" | "LEFT") || Kind::OuterUsing.is_on())
            && (self.outer.is_empty() || Kind::UsingInSubquery.is_on());
        let natural = common.as_ref().is_some_and(|common| !common.is_empty() && common.len() < 3);
        if let Some(common) = common.filter(|common| !common.is_empty())
            && is_open
            && self.chance(30)
        {
            let is_natural = natural && self.chance(30);
            let mut names = common;
            if !is_natural {
                while names.len() > 1 && self.chance(85) {
                    let at = self.random.below(names.len() as u64) as usize;
                    names.remove(at);
                }
            }
            if has_bare(&left_scope, &right_scope, &names) {
                return (left, left_scope);
            }
            merge(&mut scope, &names);
            if kind == "FULL" {
                order_by_all(&mut scope);
            }
            let list = names.iter().map(|name| Node::from(name.as_str())).collect();
            let node = match is_natural {
                true => sequence![left.table(), format!(" NATURAL {kind} JOIN "), right],
                false => sequence![
                    left.table(),
                    format!(" {kind} JOIN "),
                    right,
                    " USING (",
                    Node::List(", ", list),
                    ")"
                ],
            };
            return (node, scope);
        }
        if has_bare(&left_scope, &right_scope, &[]) {
            return (left, left_scope);
        }
        if self.chance(8) {
            return (sequence![left.table(), " CROSS JOIN ", right], scope);
        }
        let mut terms = Vec::new();
        if self.chance(85) {
            terms.extend(self.match_of(&left_scope, &right_scope));
        }
        if self.chance(15) {
            // Of more tables than one, where the left has more.
            let of = self.one(&[Type::Bigint, Type::Text, Type::Boolean]);
            let flat = self.flatten();
            let sides = (self.value(&left_scope, of, 2), self.value(&right_scope, of, 1));
            self.is_flat = flat;
            terms.push(sequence!["(", sides.0, " = ", sides.1, ")"].value(Type::Boolean));
        }
        if terms.is_empty() || self.chance(25) {
            let flat = self.flatten();
            let value = self.value(&scope, Type::Boolean, 1);
            self.is_flat = flat;
            terms.push(sequence!["(", value, ")"].value(Type::Boolean));
        }
        let on = Node::List(" AND ", terms);
        (sequence![left.table(), format!(" {kind} JOIN "), right, " ON ", on], scope)
    }

    fn match_of(&mut self, left: &Scope, right: &Scope) -> Option<Node> {
        let mut pairs = Vec::new();
        for one in &left.columns {
            for other in right.columns.iter().filter(|other| other.of == one.of) {
                let pair = (one.node.clone(), other.node.clone());
                // Names that are the same mean the same more often.
                let times = if one.name == other.name { 3 } else { 1 };
                pairs.extend(std::iter::repeat_n(pair, times));
            }
        }
        if pairs.is_empty() {
            return None;
        }
        let (one, other) = self.one(&pairs);
        let mut signs = vec![" = ", " = ", " = ", " = ", " = ", " < ", " >= ", " <> "];
        if Kind::NullSafeJoin.is_on() {
            signs.push(" IS NOT DISTINCT FROM ");
        }
        let sign = self.one(&signs);
        Some(sequence![one, sign, other].value(Type::Boolean))
    }
}

/// Names that each side has once, and of the same type; `None` where one has a common name twice.
fn common_names(left: &Scope, right: &Scope) -> Option<Vec<String>> {
    let mut common = Vec::new();
    for column in right.columns.iter().filter(|column| !column.name.is_empty()) {
        let same: Vec<&Reference> =
            left.columns.iter().filter(|other| other.name == column.name).collect();
        match same.as_slice() {
            [] => {}
            [one]
                if one.of == column.of
                    && (Kind::ChainedUsing.is_on()
                        || one.node.text(Dialect::Duckdb).contains('.')) =>
            {
                common.push(column.name.clone())
            }
            _ => return None,
        }
    }
    Some(common)
}

/// Whether a merged column on the left has another of its name on the right, so that neither could be
/// named any more.
fn has_bare(left: &Scope, right: &Scope, merged: &[String]) -> bool {
    left.columns.iter().any(|column| {
        !column.node.text(Dialect::Duckdb).contains('.')
            && !merged.contains(&column.name)
            && right.columns.iter().any(|other| other.name == column.name)
    })
}

/// Two rows without a match, one of each side, may have the same keys where these are merged.
fn order_by_all(scope: &mut Scope) {
    let Some(order) = &mut scope.order else { return };
    for column in scope.columns.iter().filter(|column| column.is_plain) {
        if !order.contains(&column.node) {
            order.push(column.node.clone());
        }
    }
}

/// The columns `names` of both sides become one each, under its bare name.
fn merge(scope: &mut Scope, names: &[String]) {
    for name in names {
        let (merged, mut others): (Vec<Reference>, Vec<Reference>) =
            scope.columns.drain(..).partition(|column| column.name == *name);
        let of = merged.first().expect("a common column").of;
        let node = Node::from(name.as_str());
        for term in scope.order.iter_mut().flatten() {
            if merged.iter().any(|column| column.node == *term) {
                *term = node.clone();
            }
        }
        // Once is enough.
        if let Some(order) = &mut scope.order {
            let all = std::mem::take(order);
            for term in all {
                if !order.contains(&term) {
                    order.push(term);
                }
            }
        }
        if Kind::NamedByTable.is_on() {
            let by_table = merged.into_iter().filter(|column| column.node != node);
            others.extend(by_table.map(|column| Reference { name: String::new(), ..column }));
        }
        others.push(Reference { node, name: name.clone(), of, is_plain: true });
        scope.columns = others;
    }
}
