//! The columns of a UNION are called as its first part calls them, also once parts are left out because
//! they have no rows. DataFusion 55.2 then calls them by the next part while they are computed, and ends
//! in an internal error above an aggregate; or finds the one part that is left by the bare name of a
//! column that it has as a table's, and moves a condition on it to another table with such a column. No
//! issue of theirs was found.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Union};
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
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut is_changed = false;
        for input in &mut inputs {
            if let Some(called) = called(input, &names)? {
                *input = Arc::new(called);
                is_changed = true;
            }
        }
        let union = LogicalPlan::Union(Union { inputs, schema });
        Ok(if is_changed { Transformed::yes(union) } else { Transformed::no(union) })
    }
}

/// A part with columns of these names, of no table; `None` if they are called so. What a projection says
/// of its columns is not asked: it is put right when the plan below it changes.
fn called(part: &Arc<LogicalPlan>, names: &[&str]) -> Result<Option<LogicalPlan>> {
    let (columns, input): (Vec<Expr>, _) = match &**part {
        LogicalPlan::Projection(projection) => (projection.expr.clone(), &projection.input),
        plan => (plan.schema().columns().into_iter().map(Expr::Column).collect(), part),
    };
    let is_called = |column: &Expr, name: &str| {
        let (table, own) = column.qualified_name();
        table.is_none() && own == name
    };
    if columns.iter().zip(names).all(|(column, name)| is_called(column, name)) {
        return Ok(None);
    }
    let columns =
        columns.into_iter().zip(names).map(|(column, name)| match is_called(&column, name) {
            true => column,
            false => column.unalias().alias(*name),
        });
    let projection = Projection::try_new(columns.collect(), Arc::clone(input))?;
    Ok(Some(LogicalPlan::Projection(projection)))
}
