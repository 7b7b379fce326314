//! `SELECT DISTINCT … LIMIT`: groups end early when there are enough of them. DataFusion 55.2 decides so
//! while their input has no order; where it gets one afterwards, for a window below, the statement ends
//! in an internal error when it is run.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

/// After all rules that decide orders.
#[derive(Debug)]
pub struct WithoutLostLimits;

impl PhysicalOptimizerRule for WithoutLostLimits {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match node.downcast_ref::<AggregateExec>().and_then(without_limit) {
                Some(without) => Transformed::yes(Arc::new(without) as _),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "without_lost_limits"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn without_limit(groups: &AggregateExec) -> Option<AggregateExec> {
    let is_of_distinct =
        groups.aggr_expr().is_empty() && groups.limit_options()?.descending.is_none();
    let runs = groups.is_unordered_unfiltered_group_by_distinct();
    (is_of_distinct && !runs).then(|| groups.with_new_limit_options(None))
}
