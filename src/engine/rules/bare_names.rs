//! A column that a subquery names without its table, where several of its own tables have it, is
//! ambiguous. DataFusion 55.2 takes it for one of the query outside if that has one of the name, and
//! says nothing; what NATURAL merges too, because only `using` knows whose that is, by its text.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, Span};
use datafusion::logical_expr::{Expr as PlanExpr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, Statement, TableFactor, Visit, Visitor,
};

use super::refusal::refused;
use super::using::Scope;
use crate::engine::ast::text;

/// The bare names of the subqueries that have several tables.
#[derive(Default)]
pub struct BareNames {
    names: Vec<Bare>,
    /// The SELECTs of the queries that are being read, innermost last.
    queries: Vec<Vec<Option<BTreeSet<String>>>>,
}

struct Bare {
    name: Ident,
    /// Those of its subquery.
    tables: BTreeSet<String>,
}

impl BareNames {
    pub fn of(statement: &Statement) -> Self {
        let mut names = Self::default();
        // It goes through to the end.
        let _ = Visit::visit(statement, &mut names);
        names
    }

    /// Refuses the plan of the statement if one of them was taken for a column of another query.
    pub fn check(&self, plan: &LogicalPlan) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                expr.apply(|expr| match expr {
                    PlanExpr::OuterReferenceColumn(_, column) => {
                        self.check_column(node, column).map(|()| TreeNodeRecursion::Continue)
                    }
                    _ => Ok(TreeNodeRecursion::Continue),
                })
            })
        })
        .map(drop)
    }

    fn check_column(&self, node: &LogicalPlan, column: &Column) -> Result<()> {
        let inputs = node.inputs();
        let fields = inputs.iter().flat_map(|input| input.schema().iter());
        let owners: Vec<Option<&str>> = fields
            .filter(|(_, field)| *field.name() == column.name)
            .map(|(owner, _)| owner.map(|owner| owner.table()))
            .collect();
        let is_meant = |bare: &&Bare| {
            text(&bare.name) == column.name
                && owners.iter().all(|owner| owner.is_none_or(|owner| bare.tables.contains(owner)))
        };
        match self.names.iter().find(is_meant) {
            Some(Bare { name, .. }) if owners.len() > 1 => Err(refused(
                format!("`{name}` in a subquery is a column of several of its tables"),
                Span::try_from_sqlparser_span(name.span),
                "write its table's name before it",
            )),
            _ => Ok(()),
        }
    }
}

impl Visitor for BareNames {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries.push(Vec::new());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let has_several = match select.from.as_slice() {
            [] => false,
            [from] => {
                !from.joins.is_empty() || matches!(from.relation, TableFactor::NestedJoin { .. })
            }
            _ => true,
        };
        let is_within = self.queries.len() > 1;
        let tables = (has_several && is_within).then(|| Scope::of(select).tables);
        self.queries.last_mut().into_iter().for_each(|query| query.push(tables.clone()));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let select = self.queries.last().and_then(|query| query.last());
        if let (Expr::Identifier(name), Some(Some(tables))) = (expr, select) {
            self.names.push(Bare { name: name.clone(), tables: tables.clone() });
        }
        ControlFlow::Continue(())
    }
}
