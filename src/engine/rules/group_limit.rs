//! Groups below a LIMIT end early when there are enough of them. DataFusion 55.2 decides so while their
//! input has no order; where it gets one afterwards, for a window below, the statement ends in an
//! internal error when it is run. And where a LIMIT keeps the first by order, it does not find a NaN
//! again that it keeps, and panics; so does an ORDER BY of which LIMIT 0 keeps nothing.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// After all rules that decide orders.
#[derive(Debug)]
pub struct WithoutFaultyLimits;

impl PhysicalOptimizerRule for WithoutFaultyLimits {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if let Some(without) = node.downcast_ref::<AggregateExec>().and_then(without_limit) {
                return Ok(Transformed::yes(Arc::new(without) as Arc<dyn ExecutionPlan>));
            }
            if node.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch() == Some(0)) {
                let partitions = node.output_partitioning().partition_count();
                let nothing = EmptyExec::new(node.schema()).with_partitions(partitions);
                return Ok(Transformed::yes(Arc::new(nothing) as _));
            }
            Ok(Transformed::no(node))
        })
        .data()
    }

    fn name(&self) -> &str {
        "without_faulty_limits"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn without_limit(groups: &AggregateExec) -> Option<AggregateExec> {
    let limit = groups.limit_options()?;
    let is_of_distinct = groups.aggr_expr().is_empty() && limit.descending.is_none();
    let runs = groups.is_unordered_unfiltered_group_by_distinct();
    let schema = groups.schema();
    let has_floats = schema.fields().iter().any(|field| field.data_type().is_floating());
    let keeps_floats = limit.descending.is_some() && has_floats;
    (keeps_floats || is_of_distinct && !runs).then(|| groups.with_new_limit_options(None))
}
