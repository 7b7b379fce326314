//! Random queries in words that FlowGuard and DuckDB both read. A query is made from the inside: first
//! what it reads, which is the scope that its values are made of, then its clauses.

use super::kinds::Kind;
use super::tables::{Table, random_constant};
use super::tree::{Dialect, Node, Type, sequence};
use crate::topic_in_memory::Random;

/// Query blocks of one statement.
const BLOCKS_MAX: u64 = 4;

/// A column that values can be made of.
#[derive(Debug, Clone)]
pub struct Reference {
    pub node: Node,
    /// Under which `USING` finds it; empty if it does not.
    pub name: String,
    pub of: Type,
    /// Whether it is a name and not something computed.
    pub is_plain: bool,
}

/// What a clause can name.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    pub columns: Vec<Reference>,
    /// What tells any two rows apart, unless they are the same.
    pub order: Option<Vec<Node>>,
    /// Of what aggregates are made, where there are groups.
    pub ungrouped: Option<Box<Scope>>,
}

impl Scope {
    /// The same, for values that do not depend on other rows.
    fn without_order(&self) -> Self {
        Self { order: None, ..self.clone() }
    }
}

/// Something with rows: a query, or a table under a name.
#[derive(Debug, Clone)]
pub struct Made {
    pub node: Node,
    pub columns: Vec<(String, Type)>,
    /// The columns that tell any two rows apart.
    pub key: Vec<String>,
}

pub struct Generator<'a> {
    pub random: &'a mut Random,
    pub tables: &'a [Table],
    names: usize,
    blocks: u64,
    pub shared: Vec<Made>,
    pub outer: Vec<Scope>,
    /// How often of a hundred a column is one of the query outside.
    pub outer_of_hundred: u64,
    /// Whether values are made without subqueries.
    pub is_flat: bool,
    /// Whether what is made is of a window, which takes fewer aggregates.
    pub is_window: bool,
    /// Whether the query, or one around it, has a window. Rows that are the same come in any order, in
    /// each window in another: two of them decide nothing together.
    pub has_window: bool,
    /// Whether the row outside is named in equalities alone, as every engine can.
    pub is_strict: bool,
    /// Whether the next subquery is one value.
    pub is_scalar: bool,
    /// Queries around.
    depth: usize,
}

/// A random statement over `tables`.
pub fn random_statement(random: &mut Random, tables: &[Table]) -> Node {
    generator(random, tables).query(None, true).node
}

/// The items, the `FROM` and a condition of a statement that can be taken apart.
pub fn random_partition(random: &mut Random, tables: &[Table]) -> Node {
    let mut generator = generator(random, tables);
    let (from, scope) = generator.from();
    let (items, _) = generator.items(None, &scope.without_order());
    sequence![items, from, generator.condition(&scope)]
}

fn generator<'a>(random: &'a mut Random, tables: &'a [Table]) -> Generator<'a> {
    let blocks = 1 + random.below(BLOCKS_MAX);
    let (shared, outer) = (Vec::new(), Vec::new());
    Generator {
        random,
        tables,
        names: 0,
        blocks,
        shared,
        outer,
        outer_of_hundred: 0,
        is_flat: false,
        is_window: false,
        has_window: false,
        is_strict: false,
        is_scalar: false,
        depth: 0,
    }
}

impl Generator<'_> {
    pub fn chance(&mut self, of_hundred: u64) -> bool {
        self.random.below(100) < of_hundred
    }

    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len() as u64) as usize].clone()
    }

    pub fn name(&mut self, letter: &str) -> String {
        self.names += 1;
        format!("{letter}{}", self.names)
    }

    /// Takes one of the query blocks that the statement may still have.
    pub fn has_block(&mut self) -> bool {
        let has = self.blocks > 0;
        self.blocks = self.blocks.saturating_sub(1);
        has
    }

    pub fn random_type(&mut self) -> Type {
        let scale = self.scale();
        self.one(&[
            Type::Int,
            Type::Bigint,
            Type::Bigint,
            Type::Bigint,
            Type::WildBigint,
            Type::Double,
            Type::WildDouble,
            Type::Decimal,
            Type::WildDecimal(scale),
            Type::Text,
            Type::Text,
            Type::Boolean,
            Type::Date,
            Type::Timestamp,
        ])
    }

    fn scale(&self) -> u8 {
        let columns = self.tables.iter().flat_map(|table| &table.columns);
        let scale = columns.into_iter().find_map(|column| match column.of {
            Type::WildDecimal(scale) => Some(scale),
            _ => None,
        });
        scale.unwrap_or(4)
    }

    /// A query whose columns are of the types `wanted`, if any are, and otherwise of some.
    pub fn query(&mut self, wanted: Option<&[Type]>, is_whole: bool) -> Made {
        self.depth += 1;
        let shared = self.shared.len();
        let mut before = Vec::new();
        while self.chance(12) && self.has_block() {
            let outer = std::mem::take(&mut self.outer_of_hundred);
            let made = self.query(None, false);
            self.outer_of_hundred = outer;
            let name = self.name("w");
            before.push(sequence![name.as_str(), " AS (", made.node, ")"]);
            self.shared.push(Made { node: Node::from(name), ..made });
        }
        let mut made = match self.random.below(20) {
            0..=2 if self.has_block() => self.set_operation(wanted),
            3 if !is_whole => self.values(wanted),
            4 if Kind::DistinctOn.is_on() => self.first_of_each(wanted),
            _ => self.select(wanted),
        };
        self.shared.truncate(shared);
        let text = made.node.text(Dialect::Duckdb);
        let is_distinct = text.contains("DISTINCT ") || text.contains("UNION ");
        if self.chance(20) && (!is_distinct || Kind::LimitedDistinct.is_on()) {
            made.node = self.limited(made.node, &made.columns, is_whole);
        }
        if !before.is_empty() {
            made.node = sequence!["WITH ", Node::List(", ", before), " ", made.node];
        }
        self.depth -= 1;
        made.node = made.node.query();
        made
    }

    /// Whether another query reads what is made now.
    pub fn is_below(&self) -> bool {
        self.depth > 1 || !self.outer.is_empty()
    }

    /// Ordered by every column, so that it is determined which rows are left.
    fn limited(&mut self, query: Node, columns: &[(String, Type)], is_whole: bool) -> Node {
        let mut names: Vec<Node> =
            columns.iter().map(|(name, _)| Node::from(name.as_str())).collect();
        let mut terms = Vec::new();
        while !names.is_empty() {
            let at = self.random.below(names.len() as u64) as usize;
            terms.push(self.ordered(names.swap_remove(at)));
        }
        let order = sequence![" ORDER BY ", joined(", ", terms)];
        let has_offset = self.chance(40) && (is_whole || Kind::OffsetBelow.is_on());
        let offset = match has_offset {
            true => sequence![" OFFSET ", self.random.below(5).to_string()].optional(),
            false => Node::nothing(),
        };
        let limit = sequence![" LIMIT ", (self.random.below(8)).to_string()];
        sequence![query, sequence![order, limit, offset].optional()]
    }

    /// A term of `ORDER BY`.
    pub fn ordered(&mut self, value: Node) -> Node {
        let way = self.one(&[
            " ASC NULLS FIRST",
            " ASC NULLS LAST",
            " DESC NULLS FIRST",
            " DESC NULLS LAST",
        ]);
        sequence![value, way]
    }

    fn types(&mut self, wanted: Option<&[Type]>) -> Vec<Type> {
        match wanted {
            Some(types) => types.to_vec(),
            None => (0..1 + self.random.below(4)).map(|_| self.random_type()).collect(),
        }
    }

    fn set_operation(&mut self, wanted: Option<&[Type]>) -> Made {
        let types = self.types(wanted);
        let left = self.query(Some(&types), false);
        let right = self.query(Some(&types), false);
        let mut words = vec!["UNION", "UNION ALL", "UNION ALL", "INTERSECT", "EXCEPT"];
        if Kind::SetOperationsAll.is_on() {
            words.extend(["INTERSECT ALL", "EXCEPT ALL"]);
        }
        let word = self.one(&words);
        let node = sequence!["(", left.node, ") ", word, " (", right.node, ")"];
        Made { node, key: left.columns.iter().map(|(name, _)| name.clone()).collect(), ..left }
    }

    pub fn values(&mut self, wanted: Option<&[Type]>) -> Made {
        let types = self.types(wanted);
        let columns: Vec<(String, Type)> = types.iter().map(|of| (self.name("c"), *of)).collect();
        let mut rows = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let row = types.iter().map(|of| self.typed_constant(*of)).collect();
            rows.push(sequence!["(", joined(", ", row), ")"]);
        }
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let node = sequence![
            "SELECT * FROM (VALUES ",
            Node::List(", ", rows),
            ") AS ",
            self.name("v"),
            format!("({})", names.join(", "))
        ];
        let key = names.iter().map(|name| (*name).to_owned()).collect();
        Made { node, columns: columns.clone(), key }
    }

    pub fn typed_constant(&mut self, of: Type) -> Node {
        let text = match self.chance(15) {
            true => "NULL".to_owned(),
            false => format!("'{}'", random_constant(self.random, of)),
        };
        Node::from(format!("CAST({text} AS {})", of.sql()))
    }

    /// `DISTINCT ON`.
    fn first_of_each(&mut self, wanted: Option<&[Type]>) -> Made {
        let (from, scope) = self.from();
        let Some(order) = scope.order.clone().filter(|order| !order.is_empty()) else {
            return self.select(wanted);
        };
        let condition = self.where_clause(&scope);
        // Which of two rows that are the same is kept is open, and windows give them different values.
        let (items, columns) = self.items(wanted, &scope.without_order());
        let plain = scope.columns.iter().filter(|column| column.is_plain);
        let plain: Vec<Node> = plain.map(|column| column.node.clone()).collect();
        let on: Vec<Node> = (0..1 + self.random.below(2)).map(|_| self.one(&plain)).collect();
        let mut all = on.clone();
        all.dedup();
        let on = all.clone();
        all.extend(order.into_iter().filter(|node| !on.contains(node)));
        let terms = all.into_iter().map(|node| self.ordered(node)).collect();
        let node = sequence![
            "SELECT DISTINCT ON (",
            joined(", ", on),
            ") ",
            items,
            from,
            condition,
            " ORDER BY ",
            joined(", ", terms)
        ];
        let name = self.name("q");
        let key = columns.iter().map(|(name, _)| name.clone()).collect();
        let node = sequence!["SELECT * FROM (", node.query(), ") AS ", name];
        Made { node, columns, key }
    }

    fn items(&mut self, wanted: Option<&[Type]>, scope: &Scope) -> (Node, Vec<(String, Type)>) {
        let types = self.types(wanted);
        let around = std::mem::replace(&mut self.has_window, false);
        let mut columns: Vec<(String, Type)> = Vec::new();
        let mut items = Vec::new();
        for of in types {
            // A column under its own name, for joins that look for it.
            let plain = scope.columns.iter().filter(|column| {
                column.is_plain
                    && !column.name.is_empty()
                    && of.takes(column.of)
                    && !columns.iter().any(|(name, _)| *name == column.name)
            });
            let plain: Vec<Reference> = plain.cloned().collect();
            if !plain.is_empty() && self.chance(40) {
                let column = self.one(&plain);
                items.push(sequence![column.node.clone(), format!(" AS {}", column.name)]);
                columns.push((column.name, column.of));
                continue;
            }
            let some = if self.outer_of_hundred > 0 && !self.is_strict { 3 } else { 0 };
            let outer = std::mem::replace(&mut self.outer_of_hundred, some);
            let value = match self.chance(15) {
                true => self.window(scope, of),
                false => self.value(scope, of, 2),
            };
            self.outer_of_hundred = outer;
            let value = self.varying(scope, value, of);
            let name = self.name("c");
            items.push(sequence![value, format!(" AS {name}")]);
            columns.push((name, of));
        }
        self.has_window |= around;
        (Node::List(", ", items), columns)
    }

    /// The value, in words that hide that it is always the same, where that must not be seen.
    fn varying(&mut self, scope: &Scope, value: Node, of: Type) -> Node {
        let text = value.text(Dialect::Duckdb);
        let plain: Vec<&Reference> =
            scope.columns.iter().filter(|column| column.is_plain).collect();
        let varies = plain.iter().any(|column| text.contains(&column.node.text(Dialect::Duckdb)));
        let Some(column) = plain.first() else { return value };
        if varies || !self.is_below() || Kind::ConstantBelow.is_on() {
            return value;
        }
        let column = column.node.clone();
        let other = value.clone();
        sequence!["CASE WHEN ", column, " IS NULL THEN ", value, " ELSE ", other, " END"].value(of)
    }

    fn where_clause(&mut self, scope: &Scope) -> Node {
        let is_inner = !self.outer.is_empty() && self.outer_of_hundred > 0;
        if !is_inner && !self.chance(45) {
            return Node::nothing();
        }
        let outer = self.outer_of_hundred;
        self.outer_of_hundred = if is_inner && !self.is_strict { 20 } else { 0 };
        let mut terms = Vec::new();
        if is_inner && self.chance(85) {
            terms.extend(self.correlation(scope));
        }
        if terms.is_empty() || self.chance(35) {
            terms.push(self.condition(scope));
        }
        if self.chance(10) {
            terms.push(self.condition(scope));
        }
        self.outer_of_hundred = outer;
        sequence![" WHERE ", Node::List(" AND ", terms)].optional()
    }

    /// A row inside matched with the row outside.
    fn correlation(&mut self, scope: &Scope) -> Option<Node> {
        let outer = self.outer.last()?.columns.clone();
        let mut pairs = Vec::new();
        for inner in scope.columns.iter().filter(|column| column.is_plain) {
            for outer in outer.iter().filter(|outer| outer.of == inner.of && outer.is_plain) {
                pairs.push((inner.node.clone(), outer.node.clone()));
            }
        }
        if pairs.is_empty() {
            return None;
        }
        let (inner, outer) = self.one(&pairs);
        let sign = match self.is_strict {
            true => " = ",
            false => self.one(&[" = ", " = ", " = ", " = ", " <> ", " < ", " >= "]),
        };
        Some(sequence![inner, sign, outer].value(Type::Boolean))
    }

    /// A term of `WHERE`, `HAVING` or `QUALIFY`.
    fn condition(&mut self, scope: &Scope) -> Node {
        if self.chance(25)
            && let Some(predicate) = self.subquery_predicate(scope)
        {
            return predicate;
        }
        let value = self.value(scope, Type::Boolean, 2);
        sequence!["(", value, ")"].value(Type::Boolean)
    }

    fn select(&mut self, wanted: Option<&[Type]>) -> Made {
        let (from, scope) = self.from();
        let condition = self.where_clause(&scope);
        if wanted.is_none() && self.chance(6) && scope.columns.len() < 16 {
            return self.everything(from, &scope, condition);
        }
        let has_groups = self.chance(30);
        let (scope, groups) = match has_groups {
            true => self.grouped(scope),
            false => (scope, Node::nothing()),
        };
        let may_be_distinct = self.outer.is_empty() || Kind::CorrelatedDistinct.is_on();
        let distinct = match may_be_distinct && self.chance(12) {
            true => Node::from("DISTINCT ").optional(),
            false => Node::nothing(),
        };
        let (items, columns) = self.items(wanted, &scope);
        let has_having = has_groups
            && self.chance(30)
            && (Kind::GlobalAggregateBelow.is_on() || scope.order.is_some());
        let having = match has_having {
            true => {
                let outer = self.outer_of_hundred;
                self.outer_of_hundred = if Kind::CorrelatedHaving.is_on() { outer / 2 } else { 0 };
                let condition = self.condition(&scope);
                self.outer_of_hundred = outer;
                sequence![" HAVING ", condition].optional()
            }
            false => Node::nothing(),
        };
        let has_windows = self.outer.is_empty() || Kind::CorrelatedWindow.is_on();
        let has_order = scope.order.as_ref().is_some_and(|order| !order.is_empty());
        let qualify = match self.chance(5) && has_windows && has_order && !self.has_window {
            true => {
                let rank = self.window(&scope, Type::Bigint);
                let sign = self.one(&[" = ", " <= ", " > "]);
                sequence![" QUALIFY ", rank, sign, self.random.below(4).to_string()].optional()
            }
            false => Node::nothing(),
        };
        let node = sequence!["SELECT ", distinct, items, from, condition, groups, having, qualify];
        let key = columns.iter().map(|(name, _)| name.clone()).collect();
        Made { node, columns, key }
    }

    /// `SELECT *`, with its columns counted and not named.
    fn everything(&mut self, from: Node, scope: &Scope, condition: Node) -> Made {
        let node = sequence!["SELECT *", from, condition];
        let inner = self.name("q");
        let name = self.name("c");
        // Names may be there twice, so nothing outside can use them.
        let counted = sequence![
            "SELECT count(*) AS ",
            name.as_str(),
            " FROM (",
            node.clone(),
            ") AS ",
            inner
        ];
        let names: Vec<String> = scope
            .columns
            .iter()
            .filter(|column| !column.name.is_empty())
            .map(|column| column.name.clone())
            .collect();
        let mut distinct = names.clone();
        distinct.sort();
        distinct.dedup();
        let is_outermost = self.outer.is_empty() && distinct.len() == names.len();
        match is_outermost {
            true => {
                let columns = scope.columns.iter().filter(|column| !column.name.is_empty());
                let columns: Vec<_> =
                    columns.map(|column| (column.name.clone(), column.of)).collect();
                Made { node, key: names, columns }
            }
            false => {
                Made { node: counted, columns: vec![(name.clone(), Type::Bigint)], key: vec![name] }
            }
        }
    }

    fn grouped(&mut self, scope: Scope) -> (Scope, Node) {
        let mut keys = Vec::new();
        let mut columns = Vec::new();
        let must_group = self.is_below() && !Kind::GlobalAggregateBelow.is_on();
        for _ in 0..self.random.below(4).max(u64::from(must_group)) {
            let plain = scope.columns.iter().filter(|column| column.is_plain).cloned();
            let plain: Vec<Reference> = plain.collect();
            let key = match plain.is_empty() || (!must_group && self.chance(20)) {
                true => {
                    let of = self.random_type();
                    let outer = std::mem::replace(&mut self.outer_of_hundred, 0);
                    let flat = self.flatten();
                    let node = self.value(&scope, of, 1);
                    self.is_flat = flat;
                    self.outer_of_hundred = outer;
                    // A constant would be the number of a column.
                    let text = node.text(Dialect::Duckdb);
                    if !scope
                        .columns
                        .iter()
                        .any(|column| text.contains(&column.node.text(Dialect::Duckdb)))
                        || text.contains("SELECT")
                    {
                        continue;
                    }
                    Reference { node, name: String::new(), of, is_plain: false }
                }
                false => self.one(&plain),
            };
            let text = key.node.text(Dialect::Duckdb);
            let is_new = !keys.iter().any(|known: &Node| known.text(Dialect::Duckdb) == text);
            if is_new || (Kind::RepeatedGroup.is_on() && self.chance(10)) {
                keys.push(key.node.clone());
                columns.push(key);
            }
        }
        let may_set = !self.is_below() || Kind::GroupingSetsBelow.is_on();
        let sets = may_set && !keys.is_empty() && self.chance(if keys.len() > 1 { 20 } else { 5 });
        let list = joined(", ", keys.clone());
        let clause = match (keys.is_empty(), sets) {
            (true, _) => Node::nothing(),
            (_, false) => sequence![" GROUP BY ", list],
            (_, true) => match self.random.below(3) {
                0 => sequence![" GROUP BY ROLLUP (", list, ")"],
                1 => sequence![" GROUP BY CUBE (", list, ")"],
                _ => {
                    let first = keys[0].clone();
                    sequence![" GROUP BY GROUPING SETS ((", list, "), (", first, "), ())"]
                }
            },
        };
        if sets {
            for key in &keys {
                let node = sequence!["grouping(", key.clone(), ")"].value(Type::Bigint);
                let name = String::new();
                columns.push(Reference { node, name, of: Type::Bigint, is_plain: false });
            }
        }
        let order = (!sets && !keys.is_empty()).then_some(keys);
        (Scope { columns, order, ungrouped: Some(Box::new(scope)) }, clause)
    }
}

/// Nodes of which none can be left out.
pub fn joined(between: &str, nodes: Vec<Node>) -> Node {
    let mut parts = Vec::new();
    for (at, node) in nodes.into_iter().enumerate() {
        if at > 0 {
            parts.push(Node::from(between));
        }
        parts.push(node);
    }
    Node::Sequence(parts)
}

impl Generator<'_> {
    /// A query of one row and one column.
    pub fn single(&mut self, of: Type) -> Node {
        let (from, scope) = self.from();
        let condition = self.where_clause(&scope);
        let name = self.name("c");
        if self.chance(80) || self.outer_of_hundred > 0 || !Kind::EmptyScalar.is_on() {
            let value = self.aggregate(&scope, of);
            return sequence!["SELECT ", value, format!(" AS {name}"), from, condition].query();
        }
        let value = self.value(&scope, of, 1);
        let order = self.ordered(Node::from(name.as_str()));
        let query = sequence!["SELECT ", value, format!(" AS {name}"), from, condition];
        sequence![query, " ORDER BY ", order, " LIMIT 1"].query()
    }

    /// A query without groups.
    pub fn plain_query(&mut self, wanted: Option<&[Type]>) -> Node {
        let (from, scope) = self.from();
        let condition = self.where_clause(&scope);
        let (items, _) = self.items(wanted, &scope);
        sequence!["SELECT ", items, from, condition].query()
    }
}
