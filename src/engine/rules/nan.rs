//! There is one NaN, and it is greater than every number. Processors give `0 / 0` a sign of minus, and
//! DataFusion 55.2 orders by sign first, so that a rate of nothing came before all others. Zero has no
//! sign either.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

const NAME: &str = "unsigned_nan";

/// Takes the sign from what division and negation give.
#[derive(Debug)]
pub struct OneNan;

impl AnalyzerRule for OneNan {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let unsigned = expr.transform_up(|expr| unsigned(expr, &schema))?;
                Ok(unsigned.update_data(|expr| name.restore(expr)))
            })
        })
        .map(|unsigned| unsigned.data)
    }

    fn name(&self) -> &str {
        "one_nan"
    }
}

fn unsigned(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
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
            matches!(op, Operator::Divide | Operator::Modulo)
        }
        Expr::Negative(_) => true,
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
