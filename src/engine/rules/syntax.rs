//! What the parser and the planner read differently from SQL: how far `IS [NOT] DISTINCT FROM`
//! reaches, which numbers are approximate, that HAVING makes one group of all rows, and that numbers in
//! GROUP BY are positions.

use std::ops::ControlFlow;

use datafusion::common::Result;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, FunctionArguments, GroupByExpr,
    OrderBy, OrderByKind, Query, Select, SelectItem, Statement, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::refusal::refused;

/// Makes of the tree what the text says. Fails where the planner would panic.
pub fn correct(statement: &mut Statement) -> Result<()> {
    match statement.visit(&mut Corrector) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(refused(message, None, "name the column that it takes")),
    }
}

/// Window functions that look at their first argument without asking whether it is there.
const OF_AN_ARGUMENT: [&str; 6] =
    ["first_value", "last_value", "nth_value", "lag", "lead", "ntile"];

struct Corrector;

impl VisitorMut for Corrector {
    type Break = String;

    /// DataFusion 55 knows of the one group by the aggregates that it finds only.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<String> {
        let groups_nothing = matches!(&select.group_by, GroupByExpr::Expressions(by, with) if by.is_empty() && with.is_empty());
        if let Some(having) = select.having.take_if(|_| groups_nothing) {
            let counts = Parser::new(&GenericDialect {})
                .try_with_sql("count(*) >= 0")
                .and_then(|mut parser| parser.parse_expr())
                .expect("this is an expression");
            let (left, right) = (Box::new(counts), Box::new(Expr::Nested(Box::new(having))));
            select.having = Some(Expr::BinaryOp { left, op: BinaryOperator::And, right });
        }
        match &mut select.group_by {
            GroupByExpr::Expressions(by, _) => {
                by.iter_mut().flat_map(sets_of).try_for_each(|set| {
                    set.iter_mut().try_for_each(|by| placed(by, &select.projection))
                })
            }
            GroupByExpr::All(_) => ControlFlow::Continue(()),
        }
    }

    /// The planner of DISTINCT ON ends in a panic where a term of ORDER BY is there twice.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<String> {
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

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<String> {
        match expr {
            Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => reach_less(expr),
            Expr::Value(value) if matches!(&value.value, Value::Number(text, _) if is_approximate(text)) =>
            {
                make_double(expr);
            }
            Expr::Function(call) => {
                // The rule that answers from statistics looks for the name without it.
                call.filter.take_if(|filter| filter.to_string() == "true");
                let name = call.name.0.last().and_then(|part| part.as_ident());
                let name = name.map(|name| name.value.to_ascii_lowercase()).unwrap_or_default();
                let takes_nothing = match &call.args {
                    FunctionArguments::List(list) => list.args.is_empty(),
                    _ => true,
                };
                if takes_nothing && OF_AN_ARGUMENT.contains(&name.as_str()) {
                    return ControlFlow::Break(format!("`{name}` needs an argument"));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// What ROLLUP, CUBE and GROUPING SETS group by.
fn sets_of(by: &mut Expr) -> &mut [Vec<Expr>] {
    match by {
        Expr::Rollup(sets) | Expr::Cube(sets) | Expr::GroupingSets(sets) => sets,
        _ => &mut [],
    }
}

/// The second column that is selected in place of `2`, which DataFusion 55 takes for a number there, and
/// for a position elsewhere. No issue of theirs was found.
fn placed(by: &mut Expr, selected: &[SelectItem]) -> ControlFlow<String> {
    let Expr::Value(value) = &*by else { return ControlFlow::Continue(()) };
    let Value::Number(text, _) = &value.value else { return ControlFlow::Continue(()) };
    let is_open = |item: &SelectItem| {
        matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
    };
    let position = text.parse::<usize>().ok().and_then(|position| position.checked_sub(1));
    let item = position.and_then(|position| selected.get(position));
    match item {
        _ if selected.iter().any(is_open) => {
            ControlFlow::Break(format!("`{text}` in GROUP BY cannot be a position beside `*`"))
        }
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => {
            *by = expr.clone();
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Break(format!("`{text}` in GROUP BY is no position of what is selected")),
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

/// `= ANY ((SELECT …) UNION (SELECT …))`, which the parser ends at the first of them, with a SELECT
/// around it. `None` where there is none such. What stands behind it is farther to the right.
pub fn with_whole_sets(sql: &str) -> Option<String> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().ok()?;
    let mut text = String::with_capacity(sql.len() + 64);
    // How many parentheses are open, and at which numbers of them one of ours has to be closed.
    let (mut open, mut ours) = (0_usize, Vec::new());
    let solid =
        |from: usize| tokens[from..].iter().filter(|token| !matches!(token, Token::Whitespace(_)));
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::LParen => {
                open += 1;
                let of_a_set = tokens[..at]
                    .iter()
                    .rfind(|token| !matches!(token, Token::Whitespace(_)))
                    .is_some_and(is_quantifier);
                if of_a_set && matches!(solid(at + 1).next(), Some(Token::LParen)) {
                    ours.push(open);
                    text.push_str("(SELECT * FROM ");
                }
            }
            Token::RParen => {
                if ours.last() == Some(&open) {
                    ours.pop();
                    text.push(')');
                }
                open = open.saturating_sub(1);
            }
            _ => {}
        }
        text.push_str(&token.to_string());
    }
    (text.len() > sql.len()).then_some(text)
}

fn is_quantifier(token: &Token) -> bool {
    let Token::Word(word) = token else { return false };
    matches!(word.keyword, Keyword::ANY | Keyword::ALL | Keyword::SOME)
}
