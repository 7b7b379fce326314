//! Joins that let others have their thread. DataFusion makes the sources of a plan give way; a join
//! that makes thousands of batches out of one is between them and whoever polls, and would neither
//! be cancelled nor leave the thread to another statement before all are made.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// The same plan, giving way above everything that multiplies rows.
pub fn taking_turns(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let wrapped = plan.transform_up(|node| {
        let multiplies = node.name().ends_with("JoinExec") || node.name() == "UnnestExec";
        Ok(match multiplies {
            true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<_>),
            false => Transformed::no(node),
        })
    })?;
    Ok(wrapped.data)
}
