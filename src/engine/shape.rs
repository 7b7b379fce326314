//! What a statement may be before it is planned. Planning takes time and stack by the depth of the
//! tree, some of it by the square, so long chains of what is associative are made balanced trees; and
//! what multiplies while it is planned is refused by its number.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::{DataFusionError, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, GroupByWithModifier, Query, Select, SetExpr, SetOperator,
    SetQuantifier, TableFactor, Value, ValueWithSpan, Values, VisitMut, VisitorMut,
};

use super::ast::{explained, text};

/// Chains that are shorter stay as they were written: the order of additions decides what rounds and
/// what overflows.
const CHAIN_MIN: usize = 64;
/// Tables that the uses of common table expressions may add to those in the text.
const COPIES_MAX: u64 = 4_096;
/// As in PostgreSQL.
const GROUPING_SETS_MAX: u64 = 4_096;
/// As in PostgreSQL's protocol.
const PLACEHOLDERS_MAX: usize = 65_535;
/// Of a value of fixed length, in bytes or items.
const FIXED_LENGTH_MAX: u64 = 1 << 24;

/// Balances the statement's chains, and refuses what would multiply.
pub fn bound(statement: &mut Statement) -> Result<()> {
    let Some(statement) = explained(statement) else { return Ok(()) };
    match VisitMut::visit(statement, &mut Shape::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// What was read of the queries around the place that is read, innermost last.
#[derive(Default)]
struct Shape {
    levels: Vec<Level>,
    placeholders: usize,
}

#[derive(Default)]
struct Level {
    /// Common table expressions that are read before the query itself, the next one last.
    to_come: Vec<String>,
    /// How many tables each of them stands for.
    common: HashMap<String, u64>,
    /// Tables of the query so far, and of them such as are in the text.
    tables: u64,
    written: u64,
}

impl VisitorMut for Shape {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        balance_sets(&mut query.body);
        let common = query.with.iter().flat_map(|with| with.cte_tables.iter().rev());
        let to_come = common.map(|common| text(&common.alias.name)).collect();
        self.levels.push(Level { to_come, ..Level::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        let Level { tables, written, .. } = self.levels.pop().unwrap_or_default();
        if tables.saturating_sub(written) > COPIES_MAX {
            return refuse(format!(
                "common table expressions that are used again and again make {tables} tables of \
                 {written}, and may add {COPIES_MAX}"
            ));
        }
        if let Some(outer) = self.levels.last_mut() {
            outer.written = outer.written.saturating_add(written);
            match outer.to_come.pop() {
                // A query without tables is planned too.
                Some(name) => drop(outer.common.insert(name, tables.max(1))),
                None => outer.tables = outer.tables.saturating_add(tables),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<DataFusionError> {
        let TableFactor::Table { name, .. } = factor else { return ControlFlow::Continue(()) };
        let bare = match name.0.as_slice() {
            [part] => part.as_ident().map(text),
            _ => None,
        };
        let mut levels = self.levels.iter().rev();
        let tables =
            bare.and_then(|name| levels.find_map(|level| level.common.get(&name).copied()));
        if let Some(level) = self.levels.last_mut() {
            level.tables = level.tables.saturating_add(tables.unwrap_or(1));
            level.written += 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataFusionError> {
        let sets = grouping_sets(&select.group_by);
        if sets > GROUPING_SETS_MAX {
            return refuse(format!(
                "GROUP BY makes {sets} grouping sets, and may make {GROUPING_SETS_MAX}"
            ));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        match expr {
            Expr::BinaryOp { .. } => balance(expr),
            Expr::Function(call) if call.name.to_string().to_lowercase().starts_with("arrow_") => {
                if let Some(length) = fixed_length(&call.args.to_string()) {
                    return refuse(format!(
                        "a value of fixed length has {length} bytes or items, and may have \
                         {FIXED_LENGTH_MAX}"
                    ));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<DataFusionError> {
        self.placeholders += usize::from(matches!(value.value, Value::Placeholder(_)));
        if self.placeholders > PLACEHOLDERS_MAX {
            return refuse(format!("the statement has more than {PLACEHOLDERS_MAX} placeholders"));
        }
        ControlFlow::Continue(())
    }
}

fn refuse<T>(message: String) -> ControlFlow<DataFusionError, T> {
    ControlFlow::Break(DataFusionError::Plan(message))
}

/// How many groupings a GROUP BY asks for.
fn grouping_sets(group_by: &GroupByExpr) -> u64 {
    let (exprs, modifiers): (&[Expr], _) = match group_by {
        GroupByExpr::All(modifiers) => (&[], modifiers),
        GroupByExpr::Expressions(exprs, modifiers) => (exprs, modifiers),
    };
    let cube = |count: usize| u32::try_from(count).ok().and_then(|count| 2_u64.checked_pow(count));
    let sets = |expr: &Expr| match expr {
        Expr::Cube(sets) => cube(sets.len()).unwrap_or(u64::MAX),
        Expr::Rollup(sets) => sets.len() as u64 + 1,
        Expr::GroupingSets(sets) => sets.len() as u64,
        _ => 1,
    };
    let of_exprs = exprs.iter().map(sets).fold(1, u64::saturating_mul);
    let of_modifiers = modifiers.iter().map(|modifier| match modifier {
        GroupByWithModifier::Cube => cube(exprs.len()).unwrap_or(u64::MAX),
        GroupByWithModifier::Rollup => exprs.len() as u64 + 1,
        _ => 1,
    });
    of_modifiers.fold(of_exprs, u64::saturating_mul)
}

/// The length in the name of a type such as `FixedSizeBinary(16)`, if it is too great.
fn fixed_length(arguments: &str) -> Option<&str> {
    let mut types = arguments.split("FixedSize").skip(1);
    types.find_map(|named| {
        let mut numbers = named.split(|sign: char| !sign.is_ascii_digit());
        numbers
            .find(|digits| digits.parse().map_or(!digits.is_empty(), |n: u64| n > FIXED_LENGTH_MAX))
    })
}

/// Makes a balanced tree of a chain of one associative operator.
fn balance(expr: &mut Expr) {
    let Expr::BinaryOp { op, .. } = &*expr else { return };
    let op = op.clone();
    let is_link = |expr: &Expr| matches!(expr, Expr::BinaryOp { op: other, .. } if *other == op);
    let associative = [
        BinaryOperator::And,
        BinaryOperator::Or,
        BinaryOperator::Plus,
        BinaryOperator::Multiply,
        BinaryOperator::StringConcat,
    ];
    let mut links = 0;
    let mut left = &*expr;
    while let Expr::BinaryOp { left: next, .. } = left
        && is_link(left)
    {
        links += 1;
        left = next;
    }
    if links < CHAIN_MIN || !associative.contains(&op) {
        return;
    }
    let mut operands = Vec::with_capacity(links + 1);
    let mut chain = std::mem::replace(expr, Expr::Value(Value::Null.into()));
    loop {
        match chain {
            Expr::BinaryOp { left, op: other, right } if other == op => {
                operands.push(*right);
                chain = *left;
            }
            first => {
                operands.push(first);
                break;
            }
        }
    }
    operands.reverse();
    let both = |left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: op.clone(),
        right: Box::new(right),
    };
    if let Some(balanced) = in_pairs(operands, both) {
        *expr = balanced;
    }
}

/// The same for UNION and INTERSECT; what EXCEPT takes away one after the other is taken away at once.
fn balance_sets(body: &mut SetExpr) {
    let SetExpr::SetOperation { op, set_quantifier, .. } = &*body else { return };
    let (op, quantifier) = (*op, *set_quantifier);
    let is_all = quantifier == SetQuantifier::All;
    let is_known = is_all || matches!(quantifier, SetQuantifier::None | SetQuantifier::Distinct);
    let is_link = |body: &SetExpr| {
        matches!(body, SetExpr::SetOperation { op: other, set_quantifier, .. }
            if *other == op && *set_quantifier == quantifier)
    };
    let mut links = 0;
    let mut left = &*body;
    while let SetExpr::SetOperation { left: next, .. } = left
        && is_link(left)
    {
        links += 1;
        left = next;
    }
    if links < CHAIN_MIN || !is_known || (op == SetOperator::Except && is_all) {
        if let SetExpr::SetOperation { left, right, .. } = body {
            balance_sets(left);
            balance_sets(right);
        }
        return;
    }
    let nothing =
        || SetExpr::Values(Values { explicit_row: false, value_keyword: false, rows: Vec::new() });
    let mut operands = Vec::with_capacity(links + 1);
    let mut chain = std::mem::replace(body, nothing());
    while is_link(&chain) {
        let SetExpr::SetOperation { left, right, .. } = chain else { return };
        operands.push(*right);
        chain = *left;
    }
    let all = |op: SetOperator, set_quantifier: SetQuantifier| {
        move |left: SetExpr, right: SetExpr| SetExpr::SetOperation {
            left: Box::new(left),
            op,
            set_quantifier,
            right: Box::new(right),
        }
    };
    operands.iter_mut().for_each(balance_sets);
    balance_sets(&mut chain);
    let union_all = all(SetOperator::Union, SetQuantifier::All);
    if op == SetOperator::Except {
        operands.reverse();
        let Some(taken) = in_pairs(operands, union_all) else { return };
        *body = all(op, quantifier)(chain, taken);
        return;
    }
    operands.push(chain);
    operands.reverse();
    let balanced = match op {
        // Once at the end is enough.
        SetOperator::Union if !is_all => {
            in_pairs(operands, union_all).map(|all_rows| match all_rows {
                SetExpr::SetOperation { left, op, right, .. } => {
                    SetExpr::SetOperation { left, op, set_quantifier: quantifier, right }
                }
                one => one,
            })
        }
        _ => in_pairs(operands, all(op, quantifier)),
    };
    if let Some(balanced) = balanced {
        *body = balanced;
    }
}

/// Neighbours are joined until one is left.
fn in_pairs<T>(mut operands: Vec<T>, both: impl Fn(T, T) -> T) -> Option<T> {
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut singles = operands.into_iter();
        while let Some(left) = singles.next() {
            pairs.push(match singles.next() {
                Some(right) => both(left, right),
                None => left,
            });
        }
        operands = pairs;
    }
    operands.pop()
}
