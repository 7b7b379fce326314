//! `round(x, 2)` of a decimal has the type that it says before it runs. DataFusion 55.2 looks for the
//! number of places, which its own coercion hides behind a cast until that is computed
//! (apache/datafusion#23232).

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::Expr;

/// Gives a literal number of places the type that the function takes. Before type coercion.
pub fn with_places(mut expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::ScalarFunction(call) = &mut expr
        && call.func.name() == "round"
        && let [_, Expr::Literal(places, _)] = call.args.as_mut_slice()
        && let ScalarValue::Int64(Some(number)) = places
        && let Ok(number) = i32::try_from(*number)
    {
        *places = ScalarValue::Int32(Some(number));
        return Ok(Transformed::yes(expr));
    }
    Ok(Transformed::no(expr))
}
