//! `IS NOT DISTINCT FROM` between columns, and equality of floats. DataFusion 55.2 makes the first the
//! null equality of a whole join, whatever else the join compares, and its joins and windows take
//! -0.0 and 0.0 for two values.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

/// Puts equalities that joins know in the place of those that they mistake. After type coercion:
/// both sides have one type.
pub fn known(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Filter(_) | LogicalPlan::Join(_) => rewrite_conditions(node),
        LogicalPlan::Window(_) => rewrite_partitions(node),
        node => Ok(Transformed::no(node)),
    }
}

fn rewrite_conditions(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&node.inputs());
    node.map_expressions(|expr| {
        expr.transform_up(|expr| match expr {
            Expr::BinaryExpr(both) => equality(both, &schema),
            expr => Ok(Transformed::no(expr)),
        })
    })
}

fn equality(both: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_of_rows = both.left.any_column_refs() && both.right.any_column_refs();
    let data_type = both.left.get_type(schema);
    let (BinaryExpr { op, .. }, Ok(data_type), true) = (&both, data_type, is_of_rows) else {
        return Ok(Transformed::no(Expr::BinaryExpr(both)));
    };
    let is_float = data_type.is_floating();
    let (left, right) = match op {
        Operator::IsNotDistinctFrom => (*both.left, *both.right),
        // Once is enough: an analyzed plan may be analyzed again.
        Operator::Eq if is_float && !is_unsigned_zero(&both.left) => {
            let (left, right) = (*both.left, *both.right);
            return Ok(Transformed::yes(
                unsigned_zero(left, &data_type)?.eq(unsigned_zero(right, &data_type)?),
            ));
        }
        _ => return Ok(Transformed::no(Expr::BinaryExpr(both))),
    };
    let Ok(default) = ScalarValue::new_default(&data_type) else {
        let none = left.clone().is_null().and(right.clone().is_null());
        return Ok(Transformed::yes(left.eq(right).is_true().or(none)));
    };
    let value = |side: Expr| {
        let side = coalesce(vec![side, Expr::Literal(default.clone(), None)]);
        if is_float { unsigned_zero(side, &data_type) } else { Ok(side) }
    };
    let same = left.clone().is_null().eq(right.clone().is_null());
    Ok(Transformed::yes(same.and(value(left)?.eq(value(right)?))))
}

fn rewrite_partitions(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&node.inputs());
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| {
            let Expr::WindowFunction(mut window) = expr else { return Ok(Transformed::no(expr)) };
            let mut is_changed = false;
            for key in &mut window.params.partition_by {
                let data_type = key.get_type(&schema)?;
                if data_type.is_floating() && !is_unsigned_zero(key) {
                    *key = unsigned_zero(std::mem::take(key), &data_type)?;
                    is_changed = true;
                }
            }
            let window = Expr::WindowFunction(window);
            Ok(if is_changed { Transformed::yes(window) } else { Transformed::no(window) })
        })?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })
}

/// -0.0 and 0.0 add up to 0.0.
fn unsigned_zero(value: Expr, data_type: &DataType) -> Result<Expr> {
    let zero = Expr::Literal(ScalarValue::new_zero(data_type)?, None);
    Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(value), Operator::Plus, Box::new(zero))))
}

fn is_unsigned_zero(value: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { op: Operator::Plus, right, .. }) = value else {
        return false;
    };
    let Expr::Literal(right, _) = &**right else { return false };
    ScalarValue::new_zero(&right.data_type()).is_ok_and(|zero| zero == *right)
}
