//! The last rule over every plan: scans say which data file they failed at.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::lake::damage::watched;

/// Comes last: other rules look into scans.
#[derive(Debug)]
pub struct NameDataFiles;

impl PhysicalOptimizerRule for NameDataFiles {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| Ok(watched(node))).map(|watched| watched.data)
    }

    fn name(&self) -> &str {
        "name_data_files"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
