//! Rules that look at one node after the other, or at one expression after the other, in whatever node
//! it stands; in subqueries too, inner ones first.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use crate::engine::patience::check;

/// `plan` with its columns called by `names`, one each.
pub fn renamed<N: AsRef<str>>(plan: LogicalPlan, names: &[N]) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = (plan.schema().iter().zip(names))
        .map(|((table, field), name)| {
            let column = Expr::Column(Column::new(table.cloned(), field.name()));
            match field.name() == name.as_ref() {
                true => column,
                false => column.alias(name.as_ref()),
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// What a rule makes of one expression over columns of a schema.
pub type Rewrite = fn(Expr, &DFSchema) -> Result<Transformed<Expr>>;

/// Rewrites every part of every expression, and keeps the names of columns.
#[derive(Debug)]
pub struct Expressions {
    name: &'static str,
    rewrite: Rewrite,
    order: Order,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    /// The whole before its parts.
    Down,
    Up,
}

impl Expressions {
    /// Looks at parts first.
    pub fn up(name: &'static str, rewrite: Rewrite) -> Self {
        Self { name, rewrite, order: Order::Up }
    }

    /// Looks at the whole first.
    pub fn down(name: &'static str, rewrite: Rewrite) -> Self {
        Self { name, rewrite, order: Order::Down }
    }
}

impl AnalyzerRule for Expressions {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            check()?;
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = match self.order {
                    Order::Down => expr.transform_down(|part| (self.rewrite)(part, &schema))?,
                    Order::Up => expr.transform_up(|part| (self.rewrite)(part, &schema))?,
                };
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &str {
        self.name
    }
}

/// Rewrites nodes of a plan.
#[derive(Debug)]
pub struct Nodes {
    name: &'static str,
    rewrite: fn(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
}

impl Nodes {
    pub fn new(
        name: &'static str,
        rewrite: fn(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
    ) -> Self {
        Self { name, rewrite }
    }
}

impl AnalyzerRule for Nodes {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            check()?;
            (self.rewrite)(node)
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &str {
        self.name
    }
}
