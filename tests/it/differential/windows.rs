//! Random values of the rows around a row.

use super::kinds::Kind;
use super::statements::{Generator, Scope, joined};
use super::tree::{Dialect, Node, Type, sequence};

impl Generator<'_> {
    /// A value of the rows around.
    pub fn window(&mut self, scope: &Scope, of: Type) -> Node {
        let Some(order) = scope.order.clone().filter(|order| !order.is_empty()) else {
            return self.value(scope, of, 1);
        };
        if self.has_window || (!self.outer.is_empty() && !Kind::CorrelatedWindow.is_on()) {
            return self.value(scope, of, 1);
        }
        self.has_window = true;
        let outer = std::mem::replace(&mut self.outer_of_hundred, 0);
        let flat = self.flatten();
        self.is_window = true;
        let node = self.window_call(scope, of, order);
        self.is_window = false;
        self.is_flat = flat;
        self.outer_of_hundred = outer;
        node.value(of)
    }

    fn window_call(&mut self, scope: &Scope, of: Type, total: Vec<Node>) -> Node {
        let partition = match self.chance(50) {
            true => {
                let by = self.random_type();
                sequence!["PARTITION BY ", self.value(scope, by, 0), " "].optional()
            }
            false => Node::nothing(),
        };
        let by = self.random_type();
        let first = self.value(scope, by, 0);
        let has_column = first.text(Dialect::Duckdb).contains('.');
        let first = match has_column {
            true => first,
            false => total[0].clone(),
        };
        let is_number = has_column && matches!(by, Type::Int | Type::Bigint);
        let first = self.ordered(first);
        let rest = total.into_iter().map(|node| self.ordered(node)).collect::<Vec<_>>();
        let total = match self.chance(60) {
            true => joined(", ", [vec![first.clone()], rest].concat()),
            false => joined(", ", rest),
        };
        let over = |order: Node, frame: Node| {
            sequence![" OVER (", partition.clone(), "ORDER BY ", order, frame, ")"]
        };
        if of == Type::Bigint && self.chance(40) {
            return match self.random.below(4) {
                0 => sequence!["row_number()", over(total, Node::nothing())],
                1 => sequence!["rank()", over(first, Node::nothing())],
                2 => sequence!["dense_rank()", over(first, Node::nothing())],
                _ => sequence!["ntile(3)", over(total, Node::nothing())],
            };
        }
        if of == Type::WildDouble && self.chance(30) {
            let function = self.one(&["percent_rank()", "cume_dist()"]);
            return sequence![function, over(first, Node::nothing())];
        }
        match self.random.below(5) {
            0 | 1 => {
                let (call, takes_frame) = self.place_call(scope, of);
                let frame = if takes_frame { self.frame("ROWS", true) } else { Node::nothing() };
                sequence![call, over(total, frame)]
            }
            2 => {
                let call = self.aggregate(scope, of);
                let frame = self.frame("ROWS", true);
                sequence![call, over(total, frame)]
            }
            3 => {
                let call = self.aggregate(scope, of);
                let kind = self.one(&["RANGE", "GROUPS"]);
                let frame = self.frame(kind, kind == "GROUPS" || is_number);
                sequence![call, over(first, frame)]
            }
            _ => {
                let call = self.aggregate(scope, of);
                sequence![call, " OVER (", partition, ")"]
            }
        }
    }

    /// A function that picks a row by its place; whether it looks at a frame.
    fn place_call(&mut self, scope: &Scope, of: Type) -> (Node, bool) {
        let value = self.value(scope, of, 1);
        let nulls = match Kind::IgnoreNulls.is_on() && self.chance(35) {
            true => (
                Node::Said("", " IGNORE NULLS").optional(),
                Node::Said(" IGNORE NULLS", "").optional(),
            ),
            false => (Node::nothing(), Node::nothing()),
        };
        let way = self.random.below(5);
        let (inside, after) = nulls;
        match way {
            0 | 1 => {
                let function = self.one(&["lag", "lead"]);
                // The row itself, where nulls are passed over, is one thing or the other.
                let has_nulls = inside == Node::nothing();
                let offset =
                    self.one(&["", ", 1", ", 2", ", 3", if has_nulls { ", 0" } else { "" }]);
                let default = match offset.is_empty() || self.chance(60) {
                    true => Node::nothing(),
                    false => sequence![", ", self.typed_constant(of)].optional(),
                };
                (sequence![function, "(", value, offset, default, inside, ")", after], false)
            }
            2 => {
                let at = 1 + self.random.below(3);
                let call = sequence!["nth_value(", value, format!(", {at}"), inside, ")", after];
                (call, true)
            }
            _ => {
                let function = self.one(&["first_value", "last_value"]);
                (sequence![function, "(", value, inside, ")", after], true)
            }
        }
    }

    /// A frame, with distances from the row if `has_distance`.
    fn frame(&mut self, kind: &str, has_distance: bool) -> Node {
        if self.chance(30) {
            return Node::nothing();
        }
        let (near, far) = (self.random.below(2), 1 + self.random.below(2));
        let bounds = match self.random.below(if has_distance { 9 } else { 4 }) {
            0 => "UNBOUNDED PRECEDING AND CURRENT ROW".to_owned(),
            1 => "UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING".to_owned(),
            2 => "CURRENT ROW AND UNBOUNDED FOLLOWING".to_owned(),
            3 => "CURRENT ROW AND CURRENT ROW".to_owned(),
            4 => format!("{far} PRECEDING AND CURRENT ROW"),
            5 => format!("{near} PRECEDING AND {far} FOLLOWING"),
            6 => format!("{} PRECEDING AND {near} PRECEDING", near + far),
            7 => format!("{near} FOLLOWING AND {} FOLLOWING", near + far),
            _ => format!("UNBOUNDED PRECEDING AND {far} FOLLOWING"),
        };
        Node::from(format!(" {kind} BETWEEN {bounds}")).optional()
    }
}
