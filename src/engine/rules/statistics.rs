//! Totals that are known from a table's statistics. DataFusion 55.2 looks for the partial aggregate of
//! a total through everything below it, and passes over one with a FILTER: in `SELECT bool_or(x) FILTER
//! (…) FROM (SELECT count(*) AS x FROM t)` it finds the count, and puts it in place of both. No issue of
//! theirs was found.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

/// The rule, on those parts of a plan where nothing is filtered.
#[derive(Debug)]
pub struct Unfiltered(pub Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for Unfiltered {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let optimized = plan.transform_down(|node| {
            if has_filter(&node)? {
                return Ok(Transformed::no(node));
            }
            let node = self.0.optimize(node, config)?;
            Ok(Transformed::new(node, true, TreeNodeRecursion::Jump))
        })?;
        Ok(optimized.data)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Whether an aggregate of the plan has a FILTER.
fn has_filter(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| {
        let aggregate = node.downcast_ref::<AggregateExec>();
        Ok(aggregate.is_some_and(|node| node.filter_expr().iter().any(Option::is_some)))
    })
}
