//! The columns of a UNION are called as its first part calls them, also once that part is left out
//! because it has no rows. DataFusion 55.2 then calls them by the next part while they are computed,
//! and ends in an internal error above an aggregate; no issue of theirs was found.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

#[derive(Debug)]
pub struct UnionNames;

impl OptimizerRule for UnionNames {
    fn name(&self) -> &str {
        "union_names"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Union(Union { mut inputs, schema }) = plan else {
            return Ok(Transformed::no(plan));
        };
        let first = Arc::clone(&inputs[0]);
        let names = schema.fields().iter().map(|field| field.name());
        if first.schema().fields().iter().map(|field| field.name()).eq(names.clone()) {
            return Ok(Transformed::no(LogicalPlan::Union(Union { inputs, schema })));
        }
        let columns: Vec<Expr> = (first.schema().columns().into_iter().zip(names))
            .map(|(column, name): (Column, _)| Expr::Column(column).alias(name))
            .collect();
        let named = LogicalPlanBuilder::from(first).project(columns)?.build()?;
        inputs[0] = Arc::new(named);
        Ok(Transformed::yes(LogicalPlan::Union(Union { inputs, schema })))
    }
}
