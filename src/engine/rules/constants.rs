//! Columns that are constant below a node and not above it. DataFusion 55.2 knows by a condition or a
//! literal that a column is constant, and takes it for constant also where an outer join fills it with
//! NULL, where a UNION ALL has another constant in its other parts, and where a grouping set is without
//! it: an ORDER BY leaves it out, and groups of it end too early and come twice. Behind `k + k = k` it
//! orders by `k + k` what it says to be ordered by `k`, and a window ends in an internal error. (No issue
//! of theirs was found.) So a node above forgets what was known.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, Literal};
use datafusion::physical_expr::{AcrossPartitions, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};

type Plan = Arc<dyn ExecutionPlan>;

/// Before all other rules: nodes above a join look at its properties when they are made anew.
#[derive(Debug)]
pub struct ForgetConstants;

impl PhysicalOptimizerRule for ForgetConstants {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| {
            let node = match has_grouping_sets(&node) {
                true => over_any_order(node)?,
                false => node,
            };
            Ok(match misleads(&node) {
                true => Transformed::yes(unknown(node)),
                false => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "forget_constants"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether what is constant below is not in all rows of `node`, or a column equals what is computed.
fn misleads(node: &Plan) -> bool {
    if node.is::<UnionExec>() || node.is::<InterleaveExec>() {
        let constants = node.equivalence_properties().constants();
        return constants
            .iter()
            .any(|constant| matches!(constant.across_partitions, AcrossPartitions::Heterogeneous));
    }
    if node.is::<FilterExec>() {
        return node.equivalence_properties().eq_group().iter().any(|class| {
            class.iter().any(|one| one.is::<PhysicalColumn>())
                && class.iter().any(|one| !one.is::<PhysicalColumn>() && !one.is::<Literal>())
        });
    }
    // Of a column that is not in the set there is NULL, whatever it was.
    if has_grouping_sets(node) {
        return true;
    }
    let (left, right, kind) = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        (join.left(), join.right(), *join.join_type())
    } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        (join.left(), join.right(), *join.join_type())
    } else if let Some(join) = node.downcast_ref::<SortMergeJoinExec>() {
        // A projection that is moved below leaves the numbers of the condition's columns as they were
        // (apache/datafusion#24414, mended after 55.2). It stays above what it doesn't know.
        if join.filter().is_some() {
            return true;
        }
        (join.left(), join.right(), join.join_type())
    } else {
        return false;
    };
    let knows = |side: &Plan| !side.equivalence_properties().constants().is_empty();
    match kind {
        JoinType::Left => knows(right),
        JoinType::Right => knows(left),
        JoinType::Full => knows(left) || knows(right),
        _ => false,
    }
}

fn has_grouping_sets(node: &Plan) -> bool {
    let aggregate = node.downcast_ref::<AggregateExec>();
    aggregate.is_some_and(|aggregate| !aggregate.group_expr().is_single())
}

/// Where a key of all sets is ordered, or constant, it would end the groups of a set when that changes,
/// and go through them set by set (apache/datafusion#24421, mended after 55.2, and #16965).
fn over_any_order(aggregate: Plan) -> Result<Plan> {
    let inputs = aggregate.children().into_iter().cloned().map(unknown).collect();
    let mode = ChildrenPropertiesMode::Recompute;
    aggregate.replace_children(inputs, ReplaceChildrenOptions::new(mode))
}

fn unknown(node: Plan) -> Plan {
    Arc::new(Unknown::new(node))
}

/// Passes everything on, and knows nothing of it.
#[derive(Debug, Clone)]
struct Unknown {
    input: Plan,
    properties: Arc<PlanProperties>,
}

impl Unknown {
    fn new(input: Plan) -> Self {
        let nothing = EquivalenceProperties::new(input.schema());
        let properties = PlanProperties::clone(input.properties()).with_eq_properties(nothing);
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Unknown {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ForgetExec")
    }
}

impl ExecutionPlan for Unknown {
    fn name(&self) -> &'static str {
        "ForgetExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
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
        Ok(Arc::new(Self::new(children.swap_remove(0))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let mode = ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, at: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(at, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(filters, &self.children())
    }
}
