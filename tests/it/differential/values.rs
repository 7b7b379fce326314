//! Random values and conditions over a scope.

use super::kinds::Kind;
use super::statements::{Generator, Reference, Scope};
use super::tables::random_constant;
use super::tree::{Node, Type, sequence};

impl Generator<'_> {
    /// A value of a type, made of at most `depth` operations inside each other.
    pub fn value(&mut self, scope: &Scope, of: Type, depth: u32) -> Node {
        if depth == 0 || self.chance(35) {
            return self.leaf(scope, of);
        }
        let node = match self.random.below(10) {
            0 => self.case(scope, of, depth - 1),
            1 => {
                let (one, other) =
                    (self.value(scope, of, depth - 1), self.value(scope, of, depth - 1));
                let function = self.one(&["coalesce", "coalesce", "nullif", "greatest", "least"]);
                sequence![function, "(", one, ", ", other, ")"]
            }
            2 => match self.scalar_subquery(scope, of) {
                Some(node) => node,
                None => return self.leaf(scope, of),
            },
            _ => self.computed(scope, of, depth - 1),
        };
        node.value(of)
    }

    /// From here on without subqueries, where an engine does not take them; what was before.
    pub fn flatten(&mut self) -> bool {
        std::mem::replace(&mut self.is_flat, !Kind::SubqueryAnywhere.is_on())
    }

    /// A column, an aggregate, or a constant.
    fn leaf(&mut self, scope: &Scope, of: Type) -> Node {
        let own = |scope: &Scope| -> Vec<Reference> {
            scope.columns.iter().filter(|column| of.takes(column.of)).cloned().collect()
        };
        let of_hundred = self.outer_of_hundred;
        if !self.outer.is_empty() && self.chance(of_hundred) {
            let is_deep = Kind::DeepCorrelation.is_on() && self.chance(10);
            let at = if is_deep {
                self.random.below(self.outer.len() as u64) as usize
            } else {
                self.outer.len() - 1
            };
            let columns: Vec<Reference> =
                own(&self.outer[at]).into_iter().filter(|column| column.is_plain).collect();
            if !columns.is_empty() {
                return self.one(&columns).node.value(of);
            }
        }
        let columns = own(scope);
        if !columns.is_empty() && self.chance(if scope.ungrouped.is_some() { 50 } else { 90 }) {
            return self.one(&columns).node.value(of);
        }
        if let Some(ungrouped) = &scope.ungrouped
            && self.chance(80)
        {
            let ungrouped = ungrouped.clone();
            return self.aggregate(&ungrouped, of);
        }
        self.constant(of).value(of)
    }

    pub fn constant(&mut self, of: Type) -> Node {
        let text = random_constant(self.random, of);
        match of {
            Type::Bigint | Type::WildBigint if self.chance(70) && text.parse::<i32>().is_ok() => {
                Node::from(text)
            }
            Type::Text => Node::from(format!("'{text}'")),
            Type::Boolean if self.chance(70) => Node::from(text),
            Type::Date if self.chance(70) => Node::from(format!("DATE '{text}'")),
            Type::Timestamp if self.chance(70) => Node::from(format!("TIMESTAMP '{text}'")),
            Type::Decimal if Kind::DecimalLiterals.is_on() && self.chance(70) => Node::from(text),
            _ => self.typed_constant(of),
        }
    }

    /// A constant, or a null of no type, where both engines find its type.
    fn constant_or_null(&mut self, of: Type) -> Node {
        match self.chance(12) {
            true => Node::from("NULL"),
            false => self.constant(of),
        }
    }

    fn case(&mut self, scope: &Scope, of: Type, depth: u32) -> Node {
        let one = self.value(scope, of, depth);
        let other = match self.chance(75) {
            true => sequence![" ELSE ", self.value(scope, of, depth)].optional(),
            false => Node::nothing(),
        };
        if self.chance(25) {
            let by = self.random_type();
            let (value, when) = (self.value(scope, by, depth), self.value(scope, by, 0));
            return sequence!["CASE ", value, " WHEN ", when, " THEN ", one, other, " END"];
        }
        let condition = self.value(scope, Type::Boolean, depth);
        sequence!["CASE WHEN ", condition, " THEN ", one, other, " END"]
    }

    fn computed(&mut self, scope: &Scope, of: Type, depth: u32) -> Node {
        match of {
            Type::Boolean => self.predicate(scope, depth),
            Type::Text => self.text(scope, depth),
            Type::Date | Type::Timestamp => self.time(scope, of, depth),
            _ => self.number(scope, of, depth),
        }
    }

    fn number(&mut self, scope: &Scope, of: Type, depth: u32) -> Node {
        let way = self.random.below(8);
        let is_overflowing = Kind::Overflow.is_on() && self.chance(8);
        let mut operand = |of: Type| self.value(scope, of, depth);
        match (of, way) {
            (Type::Int | Type::Bigint | Type::Double | Type::Decimal, 0) => {
                sequence!["(", operand(of), " + ", operand(of), ")"]
            }
            (Type::Int | Type::Bigint | Type::Double | Type::Decimal, 1) => {
                sequence!["(", operand(of), " - ", operand(of), ")"]
            }
            (Type::Decimal, 2) if !Kind::NegatedDecimal.is_on() => {
                sequence!["abs(", operand(of), ")"]
            }
            (Type::Int | Type::Bigint | Type::Double | Type::Decimal, 2) => {
                sequence!["(- ", operand(of), ")"]
            }
            (Type::Int | Type::Bigint | Type::Double | Type::Decimal, 3) => {
                sequence!["abs(", operand(of), ")"]
            }
            (Type::Bigint, 4) => sequence!["(", operand(of), " % 3)"],
            (Type::Bigint, 5) => sequence!["length(", operand(Type::Text), ")"],
            (Type::Bigint, 6) => sequence!["CAST(", operand(Type::Int), " AS BIGINT)"],
            (Type::Bigint, 7) => {
                let time = operand(Type::Timestamp);
                let field = self.one(&["year", "month", "day", "hour", "dow"]);
                sequence![format!("extract({field} FROM "), time, ")"]
            }
            (Type::WildBigint, 0) => {
                sequence!["(", operand(Type::Bigint), " * ", operand(Type::Bigint), ")"]
            }
            (Type::WildBigint, 1 | 2) if is_overflowing => {
                let (one, other) = (operand(of), operand(of));
                let sign = self.one(&[" + ", " - ", " * "]);
                sequence!["(", one, sign, other, ")"]
            }
            (Type::WildBigint, 3) if is_overflowing => sequence!["(- ", operand(of), ")"],
            (Type::Double, 4 | 5) => sequence!["CAST(", operand(Type::Bigint), " AS DOUBLE)"],
            (Type::Double, 6) => sequence!["(", operand(of), " * ", operand(of), ")"],
            (Type::Double, 7) => {
                let value = operand(of);
                let function = self.one(&["floor", "ceil", "abs"]);
                sequence![function, "(", value, ")"]
            }
            (Type::WildDouble, 0) => {
                let divided = operand(Type::Double);
                // 0 / 0 is NaN; DuckDB's −0.0 shows where it divides.
                let zero = "CAST(0 AS DOUBLE)";
                let divisor = match Kind::NotANumber.is_on() {
                    true => sequence![
                        "coalesce(nullif(",
                        operand(Type::Double),
                        format!(", {zero}), {zero})")
                    ],
                    false => Node::from("CAST(3 AS DOUBLE)"),
                };
                sequence!["(", divided, " / ", divisor, ")"]
            }
            (Type::WildDouble, 1) => sequence!["CAST(", operand(Type::Decimal), " AS DOUBLE)"],
            (Type::WildDouble, 2) => sequence!["(- ", operand(of), ")"],
            (Type::WildDouble, 3) => sequence!["sqrt(abs(", operand(Type::Double), "))"],
            (Type::WildDouble, 4) => {
                sequence!["(", operand(of), " + ", operand(Type::Double), ")"]
            }
            (Type::Decimal, 4 | 5) => {
                sequence!["CAST(", operand(Type::Int), " AS DECIMAL(10,2))"]
            }
            (Type::WildDecimal(_), 0) => {
                let (one, other) = (operand(Type::Decimal), operand(Type::Decimal));
                sequence!["CAST((", one, " * ", other, format!(") AS {})", of.sql())]
            }
            (Type::WildDecimal(_), 1 | 2) if is_overflowing => {
                let (one, other) = (operand(of), operand(of));
                let sign = self.one(&[" + ", " - "]);
                sequence!["(", one, sign, other, ")"]
            }
            (Type::WildDecimal(_), 3) => {
                sequence!["CAST(", operand(Type::Decimal), format!(" AS {})", of.sql())]
            }
            _ => self.value(scope, of, depth),
        }
    }

    fn text(&mut self, scope: &Scope, depth: u32) -> Node {
        let value = self.value(scope, Type::Text, depth);
        match self.random.below(9) {
            0 => sequence!["lower(", value, ")"],
            1 => sequence!["upper(", value, ")"],
            2 => sequence!["(", value, " || ", self.value(scope, Type::Text, depth), ")"],
            3 => sequence!["substr(", value, ", 1, 1)"],
            4 => sequence!["trim(", value, ")"],
            5 => sequence!["replace(", value, ", 'a', 'bb')"],
            6 => sequence!["CAST(", self.value(scope, Type::Bigint, depth), " AS VARCHAR)"],
            7 => sequence!["CAST(", self.value(scope, Type::Date, depth), " AS VARCHAR)"],
            _ => sequence!["concat(", value, ", '-')"],
        }
    }

    fn time(&mut self, scope: &Scope, of: Type, depth: u32) -> Node {
        let interval = self.one(&["1 day", "1 month", "-1 month", "3 hours", "1 year"]);
        match (of, self.random.below(4)) {
            (Type::Date, 0) => {
                sequence!["CAST(", self.value(scope, Type::Timestamp, depth), " AS DATE)"]
            }
            (Type::Date, 1) => {
                let date = self.value(scope, of, depth);
                sequence!["CAST((", date, format!(" + INTERVAL '{interval}') AS DATE)")]
            }
            (Type::Date, _) => {
                let unit = self.one(&["month", "year", "week", "quarter"]);
                let date = self.value(scope, of, depth);
                sequence![format!("CAST(date_trunc('{unit}', "), date, ") AS DATE)"]
            }
            (_, 0) => sequence!["CAST(", self.value(scope, Type::Date, depth), " AS TIMESTAMP)"],
            (_, 1) => {
                let time = self.value(scope, of, depth);
                sequence!["(", time, format!(" + INTERVAL '{interval}')")]
            }
            (_, _) => {
                let unit = self.one(&["hour", "day", "month", "year"]);
                sequence![format!("date_trunc('{unit}', "), self.value(scope, of, depth), ")"]
            }
        }
    }

    fn predicate(&mut self, scope: &Scope, depth: u32) -> Node {
        if self.chance(6)
            && Kind::InAsValue.is_on()
            && let Some(predicate) = self.subquery_predicate(scope)
        {
            return predicate;
        }
        let of = self.random_type();
        let value = self.value(scope, of, depth);
        match self.random.below(14) {
            0 => {
                let sign = self.one(&[" AND ", " OR ", " OR "]);
                let one = self.value(scope, Type::Boolean, depth);
                sequence!["(", one, sign, self.value(scope, Type::Boolean, depth), ")"]
            }
            1 => sequence!["(NOT ", self.value(scope, Type::Boolean, depth), ")"],
            2 => {
                let what = self.one(&[" IS NULL", " IS NOT NULL"]);
                sequence!["(", value, what, ")"]
            }
            3 if Kind::IsTrue.is_on() => {
                let what = self.one(&[" IS TRUE", " IS NOT TRUE", " IS FALSE", " IS NOT FALSE"]);
                sequence!["(", self.value(scope, Type::Boolean, depth), what, ")"]
            }
            4 => {
                let not = self.one(&[" IS DISTINCT FROM ", " IS NOT DISTINCT FROM "]);
                sequence!["(", value, not, self.value(scope, of, depth), ")"]
            }
            5 => {
                let not = self.one(&["", "", "NOT "]);
                let (from, to) = (self.value(scope, of, 0), self.value(scope, of, 0));
                sequence!["(", value, format!(" {not}BETWEEN "), from, " AND ", to, ")"]
            }
            6 => {
                let not = self.one(&["", "", "NOT "]);
                let count = 1 + self.random.below(4);
                let list = (0..count).map(|_| self.constant_or_null(of)).collect();
                sequence!["(", value, format!(" {not}IN ("), Node::List(", ", list), "))"]
            }
            7 => {
                let not = self.one(&["", "NOT "]);
                let pattern = self.one(&["a%", "%a", "_", "%", "", "a_b", "A%", "a\\%"]);
                let text = self.value(scope, Type::Text, depth);
                let pattern = pattern.replace('\\', "");
                sequence!["(", text, format!(" {not}LIKE '{pattern}')")]
            }
            8 => {
                // Numbers of different types.
                let kinds = [Type::Int, Type::Bigint, Type::Double, Type::Decimal];
                let (one, other) = (self.one(&kinds), self.one(&kinds));
                let one = self.value(scope, one, depth);
                let sign = self.sign();
                sequence!["(", one, sign, self.value(scope, other, depth), ")"]
            }
            9 => {
                let sign = self.sign();
                sequence!["(", value, sign, self.constant_or_null(of), ")"]
            }
            _ => {
                let sign = self.sign();
                sequence!["(", value, sign, self.value(scope, of, depth), ")"]
            }
        }
    }

    fn sign(&mut self) -> &'static str {
        self.one(&[" = ", " = ", " <> ", " < ", " <= ", " > ", " >= "])
    }

    /// Of one row: an aggregate without groups, or the first of all in an order.
    fn scalar_subquery(&mut self, scope: &Scope, of: Type) -> Option<Node> {
        if self.is_flat || !self.has_block() {
            return None;
        }
        self.is_scalar = true;
        let query = self.inside(scope, |generator| {
            generator.is_scalar = false;
            generator.single(of)
        });
        Some(sequence!["(", query, ")"])
    }

    /// Makes a query that may name the columns of `scope`.
    fn inside(&mut self, scope: &Scope, make: impl FnOnce(&mut Self) -> Node) -> Node {
        self.outer.push(scope.clone());
        let flat = std::mem::take(&mut self.is_flat);
        let before = self.outer_of_hundred;
        let strict = self.is_strict;
        self.is_strict = self.chance(if self.is_scalar { 90 } else { 60 });
        self.outer_of_hundred = if self.chance(60) { 20 } else { 0 };
        let node = make(self);
        self.is_strict = strict;
        self.is_flat = flat;
        self.outer_of_hundred = before;
        self.outer.pop();
        node
    }

    /// A condition on the rows of a query.
    pub fn subquery_predicate(&mut self, scope: &Scope) -> Option<Node> {
        let way = self.random.below(10);
        if way == 9 && !Kind::Quantified.is_on() || self.is_flat || !self.has_block() {
            return None;
        }
        let not = match self.chance(40) {
            true => "NOT ",
            false => "",
        };
        if way < 4 {
            let query = self.inside(scope, |generator| generator.inner_query(None));
            let node = sequence![format!("{not}EXISTS ("), query, ")"];
            return Some(sequence!["(", node, ")"].value(Type::Boolean));
        }
        let of = self.random_type();
        let outer = std::mem::replace(&mut self.outer_of_hundred, 0);
        let value = self.value(scope, of, 1);
        self.outer_of_hundred = outer;
        let query = self.inside(scope, |generator| generator.inner_query(Some(of)));
        let not = if Kind::NotIn.is_on() { not } else { "" };
        let node = match way {
            9 => {
                let sign = self.one(&["=", "<>", "<", ">="]);
                let all = self.one(&["ANY", "ALL"]);
                sequence![value, format!(" {sign} {all} ("), query, ")"]
            }
            _ => sequence![value, format!(" {not}IN ("), query, ")"],
        };
        Some(sequence!["(", node, ")"].value(Type::Boolean))
    }

    fn inner_query(&mut self, of: Option<Type>) -> Node {
        let types = of.map(|of| [of]);
        if self.outer_of_hundred > 0 && !Kind::ExistsOverAggregate.is_on() {
            return self.plain_query(types.as_ref().map(<[Type; 1]>::as_slice));
        }
        self.query(types.as_ref().map(<[Type; 1]>::as_slice), false).node
    }

    /// What an aggregate makes of the rows of one group, or of all.
    pub fn aggregate(&mut self, scope: &Scope, of: Type) -> Node {
        let outer = std::mem::replace(&mut self.outer_of_hundred, 0);
        let flat = self.flatten();
        let node = self.aggregate_call(scope, of);
        let filter = match self.chance(15) {
            true => {
                let condition = self.value(scope, Type::Boolean, 1);
                sequence![" FILTER (WHERE ", condition, ")"].optional()
            }
            false => Node::nothing(),
        };
        self.is_flat = flat;
        self.outer_of_hundred = outer;
        sequence![node, filter].value(of)
    }

    fn aggregate_call(&mut self, scope: &Scope, of: Type) -> Node {
        let distinct = match self.chance(20) {
            true => Node::from("DISTINCT ").optional(),
            false => Node::nothing(),
        };
        let function = self.one(&["min", "max"]);
        match (of, self.random.below(6)) {
            (Type::Bigint, 0) => Node::from("count(*)"),
            (Type::Bigint, 1 | 2) => {
                let of = self.random_type();
                sequence!["count(", distinct, self.value(scope, of, 1), ")"]
            }
            (Type::Bigint, 3 | 4) => {
                let of = self.one(&[Type::Bigint, Type::Int]);
                sequence!["sum(", distinct, self.value(scope, of, 1), ")"]
            }
            (Type::Double | Type::Decimal, 0..=2) => {
                sequence!["sum(", distinct, self.value(scope, of, 1), ")"]
            }
            (Type::WildBigint, 0) if Kind::Overflow.is_on() => {
                sequence!["sum(", distinct, self.value(scope, of, 0), ")"]
            }
            (Type::WildDouble, 0..=2) => {
                let of = self.one(&[Type::Double, Type::Bigint]);
                sequence!["avg(", distinct, self.value(scope, of, 1), ")"]
            }
            (Type::Text, 0) if !self.is_window => {
                let value = self.value(scope, of, 0);
                let order = self.ordered(value.clone());
                sequence!["string_agg(", value, ", ',' ORDER BY ", order, ")"]
            }
            (Type::Boolean, _) => {
                let function = self.one(&["bool_and", "bool_or"]);
                sequence![function, "(", self.value(scope, of, 1), ")"]
            }
            _ => sequence![function, "(", self.value(scope, of, 1), ")"],
        }
    }
}
