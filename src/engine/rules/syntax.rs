//! What the parser and the planner read differently from SQL: how far `IS [NOT] DISTINCT FROM`
//! reaches, and which numbers are approximate.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, OrderBy, OrderByKind, Query,
    Statement, Value, VisitMut, VisitorMut,
};

/// Makes of the tree what the text says.
pub fn correct(statement: &mut Statement) {
    let _ = statement.visit(&mut Corrector);
}

struct Corrector;

impl VisitorMut for Corrector {
    type Break = ();

    /// The planner of DISTINCT ON ends in a panic where a term of ORDER BY is there twice.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(OrderBy { kind: OrderByKind::Expressions(terms), .. }) = &mut query.order_by {
            let mut seen = Vec::with_capacity(terms.len());
            terms.retain(|term| {
                let is_new = !seen.contains(&term.expr);
                seen.push(term.expr.clone());
                is_new
            });
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => reach_less(expr),
            Expr::Value(value) if matches!(&value.value, Value::Number(text, _) if is_approximate(text)) =>
            {
                make_double(expr);
            }
            Expr::Function(call) => {
                // The rule that answers from statistics looks for the name without it.
                call.filter.take_if(|filter| filter.to_string() == "true");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The parser takes `a IS DISTINCT FROM b AND c` for `a IS DISTINCT FROM (b AND c)`.
fn reach_less(expr: &mut Expr) {
    let right = match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => right,
        _ => return,
    };
    if !is_logical(right) {
        return;
    }
    let mut chain = std::mem::replace(&mut **right, Expr::Value(Value::Null.into()));
    let mut first = &mut chain;
    while is_logical(first) {
        let Expr::BinaryOp { left, .. } = first else { return };
        first = left;
    }
    // `expr` gets its right side back, and then takes the place of that in the chain.
    match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => {
            std::mem::swap(&mut **right, first);
        }
        _ => return,
    }
    std::mem::swap(expr, first);
    *expr = chain;
}

fn is_logical(expr: &Expr) -> bool {
    let ops = [BinaryOperator::And, BinaryOperator::Or, BinaryOperator::Xor];
    matches!(expr, Expr::BinaryOp { op, .. } if ops.contains(op))
}

fn is_approximate(number: &str) -> bool {
    number.contains(['e', 'E']) && !number.starts_with("0x")
}

/// `1e3` is a double, as `1000.0` is a decimal.
fn make_double(expr: &mut Expr) {
    let number = std::mem::replace(expr, Expr::Value(Value::Null.into()));
    let text = number.to_string();
    *expr = Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(Value::SingleQuotedString(text).into())),
        data_type: DataType::Double(ExactNumberInfo::None),
        array: false,
        format: None,
    };
}
