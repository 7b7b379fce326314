//! Casts without an alias. DataFusion 55 calls a cast as it calls what is cast, and takes the one for the
//! other: `SELECT CAST(n AS TEXT) FROM t ORDER BY n` is refused (apache/datafusion#13558), and
//! `SELECT CAST(max(n) AS TEXT) … ORDER BY max(n)` is sorted as text. Here the cast of a column `n` is
//! called `n`, as in PostgreSQL; where another clause names `n` it means the table's, as in DuckDB and
//! Snowflake, so that numbers are sorted as numbers.

use std::ops::ControlFlow;

use datafusion::common::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Ident, OrderBy, Query, Select, SelectItem, SetExpr, Statement, Value, Visit,
    VisitMut, Visitor, VisitorMut,
};

use super::rewrites::renamed;
use crate::engine::ast::{for_now, given, text};

/// Gives the casts that a statement selects names of their own.
pub fn name(statement: &mut Statement) {
    struct Namer;
    impl VisitorMut for Namer {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            name_in(&mut query.body, query.order_by.as_ref());
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(statement, &mut Namer);
}

/// `plan` with the columns of its rows called as the statement says, unless it calls two the same.
pub fn restored(plan: LogicalPlan) -> Result<LogicalPlan> {
    let names: Vec<&str> =
        plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
    let shown: Vec<&str> = names.iter().map(|name| given(name).unwrap_or(name)).collect();
    let is_doubled = shown.iter().enumerate().any(|(at, name)| shown[..at].contains(name));
    if names == shown || is_doubled {
        return Ok(plan);
    }
    let shown: Vec<String> = shown.into_iter().map(str::to_owned).collect();
    renamed(plan, &shown)
}

fn name_in(body: &mut SetExpr, order: Option<&OrderBy>) {
    match body {
        SetExpr::Select(select) => name_casts(select, order),
        // The ORDER BY of all of them names what is selected.
        SetExpr::SetOperation { left, right, .. } => {
            name_in(left, None);
            name_in(right, None);
        }
        _ => {}
    }
}

fn name_casts(select: &mut Select, order: Option<&OrderBy>) {
    let casts: Vec<(usize, Named)> = (select.projection.iter().enumerate())
        .filter_map(|(at, item)| Some((at, Named::of(item)?)))
        .collect();
    for (at, named) in casts {
        let alias = match &named {
            // Nothing else can be meant where each row is to be there once.
            Named::Column(name) if is_distinct(select) && !is_taken(select, at, name) => {
                Ident::with_quote('"', name)
            }
            Named::Column(name) if !is_named(select, order, at, name) => {
                Ident::with_quote('"', name)
            }
            Named::Column(name) => for_now(at, name),
            Named::Computed(_) if order.is_none() => continue,
            Named::Computed(name) => for_now(at, name),
        };
        let item = &mut select.projection[at];
        if let SelectItem::UnnamedExpr(expr) = item {
            let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
}

/// What a cast is called by.
enum Named {
    Column(String),
    Computed(String),
}

impl Named {
    /// None where nothing is cast.
    fn of(item: &SelectItem) -> Option<Self> {
        let SelectItem::UnnamedExpr(expr) = item else { return None };
        let (mut of, mut is_cast) = (expr, false);
        loop {
            match of {
                Expr::Nested(inner) => of = inner,
                Expr::Cast { expr: inner, .. } => (of, is_cast) = (inner, true),
                _ => break,
            }
        }
        is_cast.then(|| match of {
            Expr::Identifier(name) => Self::Column(text(name)),
            Expr::CompoundIdentifier(parts) => {
                Self::Column(parts.last().map(text).unwrap_or_default())
            }
            of => Self::Computed(of.to_string()),
        })
    }
}

fn is_distinct(select: &Select) -> bool {
    matches!(select.distinct, Some(Distinct::Distinct))
}

/// Whether another column is, or may be, called `name`.
fn is_taken(select: &Select, at: usize, name: &str) -> bool {
    let others = select.projection.iter().enumerate().filter(|(other, _)| *other != at);
    others.map(|(_, item)| item).any(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => text(alias) == name,
        SelectItem::UnnamedExpr(Expr::Identifier(column)) => text(column) == name,
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            parts.last().is_some_and(|column| text(column) == name)
        }
        SelectItem::UnnamedExpr(_) => {
            matches!(Named::of(item), Some(Named::Column(column)) if column == name)
        }
        _ => true,
    })
}

/// Whether anything but the cast at the place `at` names `name`, or a column that may be called so.
fn is_named(select: &Select, order: Option<&OrderBy>, at: usize, name: &str) -> bool {
    let mut finder = Finder { name };
    is_taken(select, at, name)
        || order.is_some_and(|order| order.visit(&mut finder).is_break())
        || select.distinct.visit(&mut finder).is_break()
        || select.group_by.visit(&mut finder).is_break()
        || select.having.visit(&mut finder).is_break()
        || select.qualify.visit(&mut finder).is_break()
        || select.named_window.visit(&mut finder).is_break()
}

struct Finder<'a> {
    name: &'a str,
}

impl Visitor for Finder<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let name = match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        match name {
            Some(name) if text(name) == self.name => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}
