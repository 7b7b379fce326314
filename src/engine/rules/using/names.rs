//! The columns that USING and NATURAL merge, as a statement names them. Without its table's name,
//! DataFusion 55.2 takes such a column for one of the query outside if that has one of that name, and
//! for an ambiguous one where more than two tables are joined by it: it gets a table's name. With
//! one, it means what the merge has left nothing of.

use std::ops::ControlFlow;

use datafusion::common::{DataFusionError, Result, Span};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, Statement, Visit, VisitMut, Visitor, VisitorMut,
};

use super::from::{Scope, constraint, is_inner, is_left, is_natural, qualifier, using};
use super::wildcard;
use crate::engine::ast::text;
use crate::engine::rules::refusal::refused;

/// Says for each merged column, and each `*`, whose it is, or refuses the statement.
pub fn resolve(statement: &mut Statement) -> Result<()> {
    if Visit::visit(statement, &mut AnyUsing).is_continue() {
        return Ok(());
    }
    match VisitMut::visit(statement, &mut Names::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal.error()),
    }
}

struct AnyUsing;

impl Visitor for AnyUsing {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let mut joins = select.from.iter().flat_map(|from| &from.joins);
        match joins.any(|join| is_natural(join) || !using(join).is_empty()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// The SELECTs of the queries that are being read, innermost last.
#[derive(Default)]
struct Names {
    queries: Vec<Level>,
    /// The next query is a value of an expression.
    is_value: bool,
}

#[derive(Default)]
struct Level {
    scopes: Vec<Scope>,
    /// Else what is read is its ORDER BY.
    is_in_select: bool,
    is_value: bool,
    /// Names of its columns.
    outputs: Vec<String>,
}

struct Refusal {
    what: Vec<Ident>,
    message: &'static str,
    hint: &'static str,
}

impl Refusal {
    fn named_by_table(what: Vec<Ident>) -> Self {
        let message = "names a table's column that USING or NATURAL merges";
        let hint =
            "name the merged column without its table, or write JOIN … ON left.key = right.key";
        Self { what, message, hint }
    }

    fn error(self) -> DataFusionError {
        let span = self.what.iter().map(|part| part.span).reduce(|a, b| a.union(&b));
        let span = span.and_then(Span::try_from_sqlparser_span);
        let what = self.what.iter().map(ToString::to_string).collect::<Vec<String>>().join(".");
        refused(format!("`{what}` {}", self.message), span, self.hint)
    }
}

impl VisitorMut for Names {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        let is_value = std::mem::take(&mut self.is_value)
            || self.queries.last().is_some_and(|outer| outer.is_value);
        let outputs = match &*query.body {
            SetExpr::Select(select) => outputs(select),
            _ => Vec::new(),
        };
        self.queries.push(Level { is_value, outputs, ..Level::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        let scope = Scope::of(select);
        for item in &select.projection {
            if let SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                _,
            ) = item
                && let Some(table) = name.0.last().and_then(|part| part.as_ident())
                && scope.tables.contains(&text(table))
                && (scope.is_natural_outside || !scope.merged_outside.is_empty())
            {
                let what = vec![table.clone(), Ident::new("*")];
                return ControlFlow::Break(Refusal::named_by_table(what));
            }
        }
        if scope.tables.len() > 1 && !wildcard::expand(select) {
            return ControlFlow::Break(Refusal {
                what: vec![Ident::new("*")],
                message: "over a LEFT JOIN by USING or NATURAL would not say which side's column it is",
                hint: "name the columns, or write: SELECT a.*, b.* EXCLUDE (key) FROM a LEFT JOIN b \
                       USING (key)",
            });
        }
        if let Some(query) = self.queries.last_mut() {
            query.is_in_select = true;
            query.scopes.push(scope);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        if let Some(query) = self.queries.last_mut() {
            query.is_in_select = false;
            let has_wildcard =
                select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
            if let Some(scope) = query.scopes.last().filter(|_| !has_wildcard) {
                for from in &mut select.from {
                    name_sides(&mut from.joins, scope);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        match expr {
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                self.is_value = true;
                ControlFlow::Continue(())
            }
            Expr::CompoundIdentifier(parts) => self.by_table(parts),
            Expr::Identifier(name) => match self.owned(name)? {
                Some(parts) => {
                    *expr = Expr::CompoundIdentifier(parts);
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Names {
    fn by_table(&self, parts: &[Ident]) -> ControlFlow<Refusal> {
        let [.., table, column] = parts else { return ControlFlow::Continue(()) };
        let (table, column) = (text(table), text(column));
        let mut scopes = self.queries.iter().rev().flat_map(|query| query.scopes.iter().rev());
        match scopes.find(|scope| scope.tables.contains(&table)) {
            Some(scope) if scope.is_natural_outside || scope.merged_outside.contains(&column) => {
                ControlFlow::Break(Refusal::named_by_table(parts.to_vec()))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    /// `name` with its table's, where it must have that.
    fn owned(&self, name: &Ident) -> ControlFlow<Refusal, Option<Vec<Ident>>> {
        let column = text(name);
        let found = self.queries.last().and_then(|query| {
            let merged = query.scopes.last()?.merged.get(&column)?;
            let is_output = !query.is_in_select && query.outputs.contains(&column);
            (!is_output && (query.is_value || merged.joins > 1)).then_some((query, merged))
        });
        match found {
            None => ControlFlow::Continue(None),
            Some((_, merged)) if merged.owner.is_some() => {
                let parts = merged.owner.iter().flatten().chain([name]).cloned();
                ControlFlow::Continue(Some(parts.collect()))
            }
            Some((query, _)) if query.is_value => ControlFlow::Break(Refusal {
                what: vec![name.clone()],
                message: "in a subquery is a column that USING merges, of one of several tables",
                hint: "write its table's name before it",
            }),
            Some(_) => ControlFlow::Continue(None),
        }
    }
}

/// Names of a query's columns that are known without its tables.
fn outputs(select: &Select) -> Vec<String> {
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(text(alias)),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(text(name)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(text),
        _ => None,
    };
    select.projection.iter().filter_map(name).collect()
}

/// DataFusion 55.2 knows of two columns of one name which it is that USING names, not of three.
fn name_sides(joins: &mut [Join], scope: &Scope) {
    let mut seen: Vec<String> = Vec::new();
    for join in joins {
        let names = using(join);
        let times = |name: &String| seen.iter().filter(|other| *other == name).count();
        let is_ambiguous = names.iter().any(|name| times(name) > 1);
        seen.extend(names.clone());
        let kind: fn(JoinConstraint) -> JoinOperator = match &join.join_operator {
            operator if !is_ambiguous || constraint(operator).is_none() => continue,
            operator if is_inner(operator) => JoinOperator::Inner,
            operator if is_left(operator) => JoinOperator::LeftOuter,
            _ => continue,
        };
        let right = qualifier(&join.relation);
        let equal = names.iter().map(|name| {
            let column = Ident::with_quote('"', name);
            let side = |table: &[Ident]| {
                let parts = table.iter().cloned().chain([column.clone()]);
                Box::new(Expr::CompoundIdentifier(parts.collect()))
            };
            let left = scope.merged.get(name)?.owner.as_ref()?;
            Some(Expr::BinaryOp {
                left: side(left),
                op: BinaryOperator::Eq,
                right: side(right.as_ref()?),
            })
        });
        let Some(equal) = equal.collect::<Option<Vec<Expr>>>() else { continue };
        let both = |left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        };
        if let Some(condition) = equal.into_iter().reduce(both) {
            join.join_operator = kind(JoinConstraint::On(condition));
        }
    }
}
