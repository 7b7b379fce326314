//! Filters that put out some of their columns only. DataFusion 55.2 moves a projection above such a
//! filter below it as if the filter put out all: the condition then looks at other columns, or the plan
//! ends in an internal error. No issue of theirs was found.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// The rule, on plans where such filters have a projection of their own above them, with which it makes
/// one of several.
#[derive(Debug)]
pub struct WholeFilters(pub Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for WholeFilters {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = plan.transform_up(|node| {
            let input = node.downcast_ref::<ProjectionExec>().map(|node| node.input());
            let filter = input.and_then(|input| input.downcast_ref::<FilterExec>());
            match filter.map(apart).transpose()?.flatten() {
                Some(apart) => {
                    Ok(Transformed::yes(replace_children_if_necessary(node, vec![apart])?))
                }
                None => Ok(Transformed::no(node)),
            }
        });
        self.0.optimize(whole.data()?, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// What the filter puts out, as a projection of all that it reads.
fn apart(filter: &FilterExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(columns) = filter.projection() else { return Ok(None) };
    let schema = filter.input().schema();
    let columns = columns.iter().map(|at| {
        let name = schema.field(*at).name();
        ProjectionExpr { expr: Arc::new(Column::new(name, *at)), alias: name.clone() }
    });
    let columns: Vec<ProjectionExpr> = columns.collect();
    let whole = FilterExecBuilder::from(filter).apply_projection(None)?.build()?;
    Ok(Some(Arc::new(ProjectionExec::try_new(columns, Arc::new(whole))?)))
}
