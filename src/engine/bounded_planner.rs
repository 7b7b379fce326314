//! Plans what SQL has signs for, such as `[a, b]` and `{'a': b}`, as DataFusion does, by functions that
//! are within bounds: those that are looked up by their names are already.

use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::common::{DFSchema, Result, TableReference};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawBinaryExpr, RawDictionaryExpr,
    RawFieldAccessExpr, RawWindowExpr,
};

use super::growth::bounded;

#[derive(Debug)]
pub struct BoundedPlanner(pub Arc<dyn ExprPlanner>);

/// The function of what was planned, if it grows, within bounds.
fn within<T>(planned: Result<PlannerResult<T>>) -> Result<PlannerResult<T>> {
    Ok(match planned? {
        PlannerResult::Planned(Expr::ScalarFunction(mut call)) => {
            if let Some(bounded) = bounded(&call.func) {
                call.func = Arc::new(bounded);
            }
            PlannerResult::Planned(Expr::ScalarFunction(call))
        }
        planned => planned,
    })
}

impl ExprPlanner for BoundedPlanner {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        within(self.0.plan_binary_op(expr, schema))
    }

    fn plan_field_access(
        &self,
        expr: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        within(self.0.plan_field_access(expr, schema))
    }

    fn plan_array_literal(
        &self,
        items: Vec<Expr>,
        schema: &DFSchema,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_array_literal(items, schema))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_position(args))
    }

    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        within(self.0.plan_dictionary_literal(expr, schema))
    }

    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_extract(args))
    }

    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_substring(args))
    }

    fn plan_struct_literal(
        &self,
        args: Vec<Expr>,
        is_named: bool,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_struct_literal(args, is_named))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_overlay(args))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_make_map(args))
    }

    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested_names: &[String],
    ) -> Result<PlannerResult<Vec<Expr>>> {
        within(self.0.plan_compound_identifier(field, qualifier, nested_names))
    }

    fn plan_aggregate(&self, expr: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        within(self.0.plan_aggregate(expr))
    }

    fn plan_window(&self, expr: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        within(self.0.plan_window(expr))
    }
}
