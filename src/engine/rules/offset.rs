//! Rows that `OFFSET` passes over are those of the order below it. DataFusion 55 moves a later ORDER
//! BY below the OFFSET, and there takes its LIMIT for all that is needed (apache/datafusion#24958).
//! So while orders are decided, an OFFSET is a node that nothing passes.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan,
    ExecutionPlanProperties, InputDistributionRequirements, PlanProperties, ReplaceChildrenOptions,
};

type Plan = Arc<dyn ExecutionPlan>;

/// The rule, for which no order passes an OFFSET.
#[derive(Debug)]
pub struct AroundOffsets(pub Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for AroundOffsets {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        let fenced = plan.transform_up(|node| {
            Ok(match node.downcast_ref::<GlobalLimitExec>() {
                Some(limit) if limit.skip() > 0 => Transformed::yes(Arc::new(Fence::new(limit))),
                _ => Transformed::no(node),
            })
        });
        let optimized = self.0.optimize(fenced.data()?, config)?;
        let opened = optimized.transform_up(|node| {
            Ok(match node.downcast_ref::<Fence>() {
                Some(fence) => Transformed::yes(Arc::new(fence.limit()) as Plan),
                None => Transformed::no(node),
            })
        });
        opened.data()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Stands for a limit with an offset. Wants its input as it is.
#[derive(Debug)]
struct Fence {
    input: Plan,
    limit: (usize, Option<usize>),
    order: Option<OrderingRequirements>,
    properties: Arc<PlanProperties>,
}

impl Fence {
    fn new(limit: &GlobalLimitExec) -> Self {
        let input = Arc::clone(limit.input());
        Self {
            order: input.output_ordering().cloned().map(OrderingRequirements::from),
            input,
            limit: (limit.skip(), limit.fetch()),
            properties: Arc::clone(limit.properties()),
        }
    }

    fn limit(&self) -> GlobalLimitExec {
        let (skip, fetch) = self.limit;
        GlobalLimitExec::new(Arc::clone(&self.input), skip, fetch)
    }
}

impl DisplayAs for Fence {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fence: skip={}, fetch={:?}", self.limit.0, self.limit.1)
    }
}

impl ExecutionPlan for Fence {
    fn name(&self) -> &'static str {
        "Fence"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.order.clone()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        let input = children.swap_remove(0);
        let order = self.order.clone();
        let (skip, fetch) = self.limit;
        let limit = GlobalLimitExec::new(input, skip, fetch);
        Ok(Arc::new(Self { order, ..Self::new(&limit) }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let mode = ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a fence is gone before anything is executed")
    }
}
