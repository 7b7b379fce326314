//! A statement as a tree that knows which of its parts can go, so that one that fails can be made
//! smaller without knowing any SQL: whether the rest is still valid, the engines say.

/// What a value is, as far as the generator keeps values apart. Those called wild hold extremes:
/// they are compared and aggregated, but rarely computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    Int,
    Bigint,
    WildBigint,
    Double,
    WildDouble,
    Decimal,
    /// With as many decimal places.
    WildDecimal(u8),
    Text,
    Boolean,
    Date,
    Timestamp,
}

impl Type {
    pub fn sql(self) -> String {
        match self {
            Type::Int => "INT".to_owned(),
            Type::Bigint | Type::WildBigint => "BIGINT".to_owned(),
            Type::Double | Type::WildDouble => "DOUBLE".to_owned(),
            Type::Decimal => "DECIMAL(10,2)".to_owned(),
            Type::WildDecimal(scale) => format!("DECIMAL(38,{scale})"),
            Type::Text => "VARCHAR".to_owned(),
            Type::Boolean => "BOOLEAN".to_owned(),
            Type::Date => "DATE".to_owned(),
            Type::Timestamp => "TIMESTAMP".to_owned(),
        }
    }

    /// Whether a value of `other` can stand where one of this type is wanted. Not decimals: a sum has
    /// 38 digits, and where it meets one of other places, DuckDB rounds.
    pub fn takes(self, other: Type) -> bool {
        self == other
            || match self {
                Type::WildBigint => matches!(other, Type::Int | Type::Bigint),
                Type::WildDouble => other == Type::Double,
                _ => false,
            }
    }
}

/// Who reads a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Flowguard,
    Duckdb,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Text(String),
    /// The same in the words of FlowGuard and of DuckDB.
    Said(&'static str, &'static str),
    Sequence(Vec<Node>),
    /// What can be left out.
    Optional(Box<Node>),
    /// One or more, with something between them.
    List(&'static str, Vec<Node>),
    /// Any part of the same type can stand in its place.
    Value(Type, Box<Node>),
    /// Any query inside can stand in its place.
    Query(Box<Node>),
    /// Any table inside can stand in its place.
    Table(Box<Node>),
}

/// A sequence of texts and nodes.
macro_rules! sequence {
    ($($part:expr),* $(,)?) => {
        $crate::differential::tree::Node::Sequence(vec![
            $($crate::differential::tree::Node::from($part)),*
        ])
    };
}
pub(crate) use sequence;

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Node::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Node::Text(text)
    }
}

impl Node {
    pub fn nothing() -> Self {
        Node::Sequence(Vec::new())
    }

    pub fn optional(self) -> Self {
        Node::Optional(Box::new(self))
    }

    pub fn value(self, of: Type) -> Self {
        Node::Value(of, Box::new(self))
    }

    pub fn query(self) -> Self {
        Node::Query(Box::new(self))
    }

    pub fn table(self) -> Self {
        Node::Table(Box::new(self))
    }

    pub fn text(&self, dialect: Dialect) -> String {
        let mut text = String::new();
        self.write(dialect, &mut text);
        text
    }

    fn write(&self, dialect: Dialect, text: &mut String) {
        match self {
            Node::Text(own) => text.push_str(own),
            Node::Said(flowguard, duckdb) => text.push_str(match dialect {
                Dialect::Flowguard => flowguard,
                Dialect::Duckdb => duckdb,
            }),
            Node::Sequence(parts) => parts.iter().for_each(|part| part.write(dialect, text)),
            Node::List(between, parts) => {
                for (at, part) in parts.iter().enumerate() {
                    if at > 0 {
                        text.push_str(between);
                    }
                    part.write(dialect, text);
                }
            }
            Node::Optional(inner)
            | Node::Value(_, inner)
            | Node::Query(inner)
            | Node::Table(inner) => inner.write(dialect, text),
        }
    }

    /// Every tree with one part less or simpler, those first that lose most.
    pub fn smaller(&self) -> Vec<Node> {
        let mut found = Vec::new();
        match self {
            Node::Text(_) | Node::Said(..) => {}
            Node::Optional(inner) => {
                found.push(Node::nothing());
                found.extend(inner.smaller().into_iter().map(Node::optional));
            }
            Node::Sequence(parts) => {
                found.extend(self.each_smaller(parts, Node::Sequence));
            }
            Node::List(between, parts) => {
                if parts.len() > 1 {
                    for at in 0..parts.len() {
                        let mut fewer = parts.clone();
                        fewer.remove(at);
                        found.push(Node::List(between, fewer));
                    }
                }
                found.extend(self.each_smaller(parts, |parts| Node::List(between, parts)));
            }
            Node::Value(of, inner) => {
                let of = *of;
                let mut inside = Vec::new();
                inner.collect(
                    &mut inside,
                    &|node| matches!(node, Node::Value(other, _) if of.takes(*other)),
                );
                found.extend(inside);
                let text = self.text(Dialect::Duckdb);
                for simple in simplest(of) {
                    if text.len() > simple.len() {
                        found.push(Node::from(simple));
                    }
                }
                found.extend(inner.smaller().into_iter().map(|node| node.value(of)));
            }
            Node::Query(inner) => {
                inner.collect(&mut found, &|node| matches!(node, Node::Query(_)));
                found.extend(inner.smaller().into_iter().map(Node::query));
            }
            Node::Table(inner) => {
                inner.collect(&mut found, &|node| matches!(node, Node::Table(_)));
                found.extend(inner.smaller().into_iter().map(Node::table));
            }
        }
        found
    }

    fn each_smaller(&self, parts: &[Node], whole: impl Fn(Vec<Node>) -> Node) -> Vec<Node> {
        let mut found = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            for smaller in part.smaller() {
                let mut parts = parts.to_vec();
                parts[at] = smaller;
                found.push(whole(parts));
            }
        }
        found
    }

    /// The outermost nodes of a kind below, and those inside them.
    fn collect(&self, found: &mut Vec<Node>, wanted: &impl Fn(&Node) -> bool) {
        if wanted(self) {
            found.push(self.clone());
        }
        match self {
            Node::Text(_) | Node::Said(..) => {}
            Node::Sequence(parts) | Node::List(_, parts) => {
                parts.iter().for_each(|part| part.collect(found, wanted));
            }
            Node::Optional(inner)
            | Node::Value(_, inner)
            | Node::Query(inner)
            | Node::Table(inner) => inner.collect(found, wanted),
        }
    }
}

/// Constants that say as little as possible.
fn simplest(of: Type) -> Vec<String> {
    let null = format!("CAST(NULL AS {})", of.sql());
    let constant = match of {
        Type::Boolean => "true".to_owned(),
        Type::Text => "'a'".to_owned(),
        Type::Date => "DATE '2024-02-29'".to_owned(),
        Type::Timestamp => "TIMESTAMP '2024-02-29 00:00:00'".to_owned(),
        Type::Bigint | Type::WildBigint => "1".to_owned(),
        _ => format!("CAST(1 AS {})", of.sql()),
    };
    vec![constant, null]
}
