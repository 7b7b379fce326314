//! A list of a table is a list like any other. Delta names its values `element`, DataFusion's functions
//! name them `item`, and those of 55.2 panic or fail where both meet: `array_concat(tags, ['x'])`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::{Expr, ExprSchemable};

/// Gives lists that go into functions the names that come out of functions. Before type coercion.
pub fn with_items(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &mut expr else { return Ok(Transformed::no(expr)) };
    let mut is_changed = false;
    for arg in &mut call.args {
        let of = arg.get_type(schema).unwrap_or(DataType::Null);
        let wanted = with_item(&of);
        if wanted != of {
            *arg = cast(std::mem::take(arg), wanted);
            is_changed = true;
        }
    }
    Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}

fn with_item(of: &DataType) -> DataType {
    let item = |field: &FieldRef| {
        Arc::new(Field::new_list_field(with_item(field.data_type()), field.is_nullable()))
    };
    match of {
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(item(field), *length),
        other => other.clone(),
    }
}
