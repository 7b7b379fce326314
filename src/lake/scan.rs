//! A table as the query engine reads it. delta-rs's scan is trusted to leave out files and rows that
//! a predicate excludes, and with nothing else: which rows pass is decided above it, and so is where
//! a LIMIT ends.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};

/// Predicates with more nodes than this are not shown to the scan, which would write an IN list as a
/// chain of comparisons and walk down it.
const PREDICATE_NODES_MAX: usize = 1_000;

/// `table`, with what its scan claims to have done done again.
pub(super) fn checked(table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
    Arc::new(Checked(table))
}

#[derive(Debug)]
struct Checked(Arc<dyn TableProvider>);

#[async_trait]
impl TableProvider for Checked {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        self.0.table_type()
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = self.0.scan(session, projection, filters, limit).await?;
        // Where no column of the files is read, delta-rs (1.1) says that a limit can be handed on to
        // the scan, which then ignores it.
        let loses_limits = scan.children().is_empty()
            && scan.supports_limit_pushdown()
            && scan.with_fetch(Some(1)).is_none();
        Ok(if loses_limits { Arc::new(UnlimitedExec(scan)) } else { scan })
    }

    /// Nothing is `Exact`: delta-rs (1.1) says so of every predicate that names no column of the
    /// files, and prunes with it at best. `status = NULL` is such a one.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        use TableProviderFilterPushDown::{Inexact, Unsupported};
        let one = |filter: &&Expr| {
            if node_count(filter)? > PREDICATE_NODES_MAX {
                return Ok(Unsupported);
            }
            let claimed = self.0.supports_filters_pushdown(&[filter])?;
            Ok(if claimed == [Unsupported] { Unsupported } else { Inexact })
        };
        filters.iter().map(one).collect()
    }
}

/// Counts up to one more than what is of interest.
fn node_count(predicate: &Expr) -> Result<usize> {
    let mut count = 0;
    predicate.apply(|_| {
        count += 1;
        Ok(match count > PREDICATE_NODES_MAX {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(count)
}

/// Hands on what `0` gives, and lets no limit through to it.
#[derive(Debug)]
struct UnlimitedExec(Arc<dyn ExecutionPlan>);

impl DisplayAs for UnlimitedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlimitedExec")
    }
}

impl ExecutionPlan for UnlimitedExec {
    fn name(&self) -> &'static str {
        "UnlimitedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.0]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match children.pop() {
            Some(child) => Arc::new(Self(child)),
            None => self,
        })
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.0.execute(partition, context)
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
}
