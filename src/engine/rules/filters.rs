//! A condition over a total says whether there is the total's one row, also where it names no column.
//! DataFusion 55.2 moves such conditions below the aggregate, which then has one row all the same; it
//! does so in HAVING, above subqueries, and in joins whose ON can be decided early.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// The rule, which stops above totals.
#[derive(Debug, Default)]
pub struct AboveTotals(PushDownFilter);

impl OptimizerRule for AboveTotals {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if is_over_total(&plan) { Ok(Transformed::no(plan)) } else { self.0.rewrite(plan, config) }
    }
}

fn is_over_total(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    let mut input = &*filter.input;
    // The rule makes one of several filters before it goes on.
    while let LogicalPlan::Filter(filter) = input {
        input = &filter.input;
    }
    match input {
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) => {
            group_expr.is_empty() || matches!(group_expr.as_slice(), [Expr::GroupingSet(_)])
        }
        _ => false,
    }
}
