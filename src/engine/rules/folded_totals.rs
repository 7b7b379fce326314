//! A subquery's total has one row for every outer row. DataFusion 55.2 makes it a join, and puts what the
//! total is of no rows beside those that find nothing, unless its value turns out not to depend on the
//! rows at all: `(SELECT count(*) >= 0 OR true FROM b WHERE b.k = a.k)` is NULL for them. No issue of
//! theirs was found. What comes out constant is put in the place of the subquery here.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, BinaryExpr, Distinct, Expr, LogicalPlan, Operator, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

/// Puts constants in the place of subqueries that have no other value.
pub fn constant(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarSubquery(subquery) = &expr else { return Ok(Transformed::no(expr)) };
    if subquery.outer_ref_columns.is_empty() {
        return Ok(Transformed::no(expr));
    }
    let Some(total) = Total::of(&subquery.subquery)? else { return Ok(Transformed::no(expr)) };
    let [value] = total.values.as_slice() else { return Ok(Transformed::no(expr)) };
    Ok(match simplified(value.clone().unalias(), &total.schema) {
        Some(value @ Expr::Literal(..)) => Transformed::yes(value),
        _ => Transformed::no(expr),
    })
}

/// What a subquery makes of the one row of an aggregate.
struct Total {
    /// Over the aggregate's columns.
    values: Vec<Expr>,
    schema: DFSchemaRef,
}

impl Total {
    fn of(plan: &Arc<LogicalPlan>) -> Result<Option<Self>> {
        match &**plan {
            LogicalPlan::Aggregate(Aggregate { group_expr, schema, .. })
                if group_expr.is_empty() =>
            {
                let values = schema.columns().into_iter().map(Expr::Column).collect();
                Ok(Some(Self { values, schema: Arc::clone(schema) }))
            }
            LogicalPlan::Projection(node) => {
                let Some(inner) = Self::of(&node.input)? else { return Ok(None) };
                let inputs = inner.under(&node.input);
                let values = node.expr.iter().map(|expr| over(expr.clone(), &inputs));
                Ok(Some(Self { values: values.collect::<Result<_>>()?, ..inner }))
            }
            LogicalPlan::Filter(node) => {
                let Some(inner) = Self::of(&node.input)? else { return Ok(None) };
                let kept = over(node.predicate.clone(), &inner.under(&node.input))?;
                let kept = simplified(kept, &inner.schema);
                Ok(kept.is_some_and(|kept| is_always_true(&kept)).then_some(inner))
            }
            LogicalPlan::SubqueryAlias(node) => Self::of(&node.input),
            LogicalPlan::Distinct(Distinct::All(input)) => Self::of(input),
            LogicalPlan::Sort(node) if node.fetch.is_none() => Self::of(&node.input),
            _ => Ok(None),
        }
    }

    /// The values, under the names of the columns of `plan` that they are.
    fn under(&self, plan: &LogicalPlan) -> HashMap<Column, Expr> {
        plan.schema().columns().into_iter().zip(self.values.clone()).collect()
    }
}

/// A HAVING without totals is parsed as one of a count, which is never negative.
fn is_always_true(condition: &Expr) -> bool {
    split_conjunction(condition).into_iter().all(|part| match part {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::GtEq, right }) => {
            matches!(&**left, Expr::Column(column) if column.name.starts_with("count("))
                && **right == lit(0_i64)
        }
        part => *part == lit(true),
    })
}

/// `expr` with what its columns are.
fn over(expr: Expr, inputs: &HashMap<Column, Expr>) -> Result<Expr> {
    let put = expr.transform_up(|part| match &part {
        Expr::Column(column) => Ok(match inputs.get(column) {
            Some(value) => Transformed::yes(value.clone().unalias()),
            None => Transformed::no(part),
        }),
        _ => Ok(Transformed::no(part)),
    })?;
    Ok(put.data)
}

/// None where it cannot be said yet.
fn simplified(expr: Expr, schema: &DFSchemaRef) -> Option<Expr> {
    let context = SimplifyContext::builder().with_schema(Arc::clone(schema)).build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(expr, schema).ok()?;
    simplifier.simplify(coerced).ok()
}
