//! `JOIN … USING (k)` and NATURAL joins: `k` is the value of the side that has the row. DataFusion 55
//! takes the left side's, which is NULL where a RIGHT or FULL join found nothing there
//! (apache/datafusion#22881). `left.k` and `right.k` become the merged value; a statement that names
//! one of them by its table means what is no longer there, and is refused.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DataFusionError, Diagnostic, Result, Span};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Join, JoinConstraint, JoinType, LogicalPlan, Projection,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Ident, JoinConstraint as SqlConstraint, JoinOperator, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, Statement, TableFactor, TableWithJoins, Visit,
    Visitor,
};

/// Merges the columns of USING where one side may be missing.
#[derive(Debug)]
pub struct MergeUsing;

impl AnalyzerRule for MergeUsing {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join)
                if join.join_constraint == JoinConstraint::Using
                    && matches!(join.join_type, JoinType::Right | JoinType::Full) =>
            {
                Ok(Transformed::yes(merged(join)?))
            }
            node => Ok(Transformed::no(node)),
        })
        .map(|merged| merged.data)
    }

    fn name(&self) -> &str {
        "merge_using"
    }
}

fn merged(join: Join) -> Result<LogicalPlan> {
    let (on, schema) = (join.on.clone(), Arc::clone(&join.schema));
    // Not once more when the plan is analyzed again.
    let join = LogicalPlan::Join(Join { join_constraint: JoinConstraint::On, ..join });
    let columns = schema.iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        let Some((left, right)) =
            on.iter().find(|(left, right)| *left == column || *right == column)
        else {
            return Ok(column);
        };
        let mut value = coalesce(vec![left.clone(), right.clone()]);
        if value.get_type(&schema).ok().as_ref() != Some(field.data_type()) {
            value = cast(value, field.data_type().clone());
        }
        Ok(value.alias_qualified(qualifier.cloned(), field.name()))
    });
    let columns = columns.collect::<Result<Vec<Expr>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(join))?))
}

/// Refuses a statement that names a merged column by its table.
pub fn refuse_named_by_table(statement: &Statement) -> Result<()> {
    let ControlFlow::Break(found) = statement.visit(&mut Finder::default()) else { return Ok(()) };
    let span = found.iter().map(|part| part.span).reduce(|a, b| a.union(&b));
    let span = span.and_then(Span::try_from_sqlparser_span);
    let found = found.iter().map(ToString::to_string).collect::<Vec<String>>().join(".");
    let message = format!("`{found}` names a table's column that USING or NATURAL merges");
    let mut diagnostic = Diagnostic::new_error(message.clone(), span);
    diagnostic.add_help(
        "name the merged column without its table, or write JOIN … ON left.key = right.key",
        None,
    );
    Err(DataFusionError::Plan(message).with_diagnostic(diagnostic))
}

/// The tables of one SELECT, and the columns that its joins merge.
#[derive(Default)]
struct Scope {
    tables: BTreeSet<String>,
    merged: BTreeSet<String>,
    is_natural: bool,
}

/// The SELECTs of the queries that are being read, innermost last.
#[derive(Default)]
struct Finder {
    queries: Vec<Vec<Scope>>,
}

impl Visitor for Finder {
    type Break = Vec<Ident>;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Self::Break> {
        self.queries.push(Vec::new());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Self::Break> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        let mut scope = Scope::default();
        select.from.iter().for_each(|from| scope.read(from));
        for item in &select.projection {
            if let SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                _,
            ) = item
                && let Some(table) = name.0.last().and_then(|part| part.as_ident())
                && scope.tables.contains(&text(table))
                && (scope.is_natural || !scope.merged.is_empty())
            {
                return ControlFlow::Break(vec![table.clone(), Ident::new("*")]);
            }
        }
        if let Some(query) = self.queries.last_mut() {
            query.push(scope);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<Self::Break> {
        let SqlExpr::CompoundIdentifier(parts) = expr else { return ControlFlow::Continue(()) };
        let [.., table, column] = parts.as_slice() else { return ControlFlow::Continue(()) };
        let (table, column) = (text(table), text(column));
        let mut scopes = self.queries.iter().rev().flat_map(|query| query.iter().rev());
        match scopes.find(|scope| scope.tables.contains(&table)) {
            Some(scope) if scope.is_natural || scope.merged.contains(&column) => {
                ControlFlow::Break(parts.clone())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Scope {
    fn read(&mut self, from: &TableWithJoins) {
        self.add(&from.relation);
        for join in &from.joins {
            self.add(&join.relation);
            let (JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint)) = &join.join_operator
            else {
                continue;
            };
            match constraint {
                SqlConstraint::Using(columns) => {
                    let names = columns.iter().filter_map(|name| name.0.last()?.as_ident());
                    self.merged.extend(names.map(text));
                }
                SqlConstraint::Natural => self.is_natural = true,
                SqlConstraint::On(_) | SqlConstraint::None => {}
            }
        }
    }

    fn add(&mut self, factor: &TableFactor) {
        let (name, alias) = match factor {
            TableFactor::Table { name, alias, .. } => (name.0.last(), alias),
            TableFactor::Derived { alias, .. } => (None, alias),
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.read(table_with_joins);
                (None, alias)
            }
            _ => return,
        };
        let alias = alias.as_ref().map(|alias| &alias.name);
        self.tables.extend(alias.or_else(|| name?.as_ident()).map(text));
    }
}

/// As the planner reads a name.
fn text(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}
