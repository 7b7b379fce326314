//! There is one NaN, and it is greater than every number. Processors give `0 / 0` a sign of minus, and
//! DataFusion 55.2 orders by sign first, so that a rate of nothing came before all others. Zero has no
//! sign either: `0 * -1` and `round(-0.4)` are the group of 0.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

const NAME: &str = "unsigned_nan";

/// Functions whose zero may have a sign although no argument is one.
const ROUNDING: [&str; 4] = ["round", "ceil", "floor", "trunc"];

/// Takes the sign from what products, quotients, negation and rounding give.
pub fn unsigned(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    // A plan may be analyzed more than once.
    if let Expr::ScalarFunction(call) = &expr
        && call.name() == NAME
        && let [Expr::ScalarFunction(inner)] = call.args.as_slice()
        && inner.name() == NAME
    {
        return Ok(Transformed::yes(Expr::ScalarFunction(inner.clone())));
    }
    let may_be_signed = match &expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => {
            matches!(op, Operator::Multiply | Operator::Divide | Operator::Modulo)
        }
        Expr::Negative(_) => true,
        Expr::ScalarFunction(call) => ROUNDING.contains(&call.name()),
        _ => false,
    };
    if !may_be_signed || !matches!(expr.get_type(schema)?, DataType::Float32 | DataType::Float64) {
        return Ok(Transformed::no(expr));
    }
    static UNSIGNED: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::from(Unsigned::new())));
    let call = ScalarFunction::new_udf(Arc::clone(&UNSIGNED), vec![expr]);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Unsigned {
    signature: Signature,
}

impl Unsigned {
    fn new() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Unsigned {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// That of the operation.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [of] => Ok(of.clone()),
            _ => internal_err!("{} takes one value", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(without_sign(values)?)),
            [ColumnarValue::Scalar(value)] => {
                let value = without_sign(&value.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?))
            }
            _ => internal_err!("{} takes one value", self.name()),
        }
    }
}

fn without_sign(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Float64 => {
            Arc::new(values.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| {
                if value.is_nan() { f64::NAN } else { value + 0.0 }
            }))
        }
        DataType::Float32 => {
            Arc::new(values.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| {
                if value.is_nan() { f32::NAN } else { value + 0.0 }
            }))
        }
        other => return internal_err!("no NaN of {other}"),
    })
}
