//! `+`, `-` and `*` on integers and decimals fail where the result has no place in its type. Those of
//! DataFusion 55 wrap around (apache/datafusion#3520, #17539).

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

/// Puts a function that fails in the place of the operators that wrap. After type coercion: both
/// sides have the types that they are computed in.
#[derive(Debug)]
pub struct CheckArithmetic;

impl AnalyzerRule for CheckArithmetic {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let checked = expr.transform_down(|expr| checked(expr, &schema))?;
                Ok(checked.update_data(|expr| name.restore(expr)))
            })
        })
        .map(|checked| checked.data)
    }

    fn name(&self) -> &str {
        "check_arithmetic"
    }
}

/// A chain such as `a + b - c` becomes one function, however long it is.
fn checked(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::Negative(of) = expr {
        return Ok(match is_exact(&of.get_type(schema)?) {
            true => Transformed::yes(call(vec![Operator::Minus], vec![*of])),
            false => Transformed::no(Expr::Negative(of)),
        });
    }
    if !matches!(&expr, Expr::BinaryExpr(both) if may_overflow(both.op)) {
        return Ok(Transformed::no(expr));
    }
    let (mut first, mut steps) = (&expr, Vec::new());
    while let Expr::BinaryExpr(BinaryExpr { left, op, right }) = first
        && may_overflow(*op)
    {
        steps.push((*op, &**right));
        first = left;
    }
    steps.reverse();
    let mut result = first.get_type(schema)?;
    for (op, right) in &steps {
        result = BinaryTypeCoercer::new(&result, op, &right.get_type(schema)?).get_result_type()?;
        if !is_exact(&result) {
            return Ok(Transformed::no(expr));
        }
    }
    let ops = steps.iter().map(|(op, _)| *op).collect();
    let args = [first].into_iter().chain(steps.iter().map(|(_, right)| *right)).cloned();
    Ok(Transformed::yes(call(ops, args.collect())))
}

fn may_overflow(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply)
}

fn is_exact(of: &DataType) -> bool {
    of.is_integer() || of.is_decimal()
}

fn call(ops: Vec<Operator>, args: Vec<Expr>) -> Expr {
    let signature = Signature::variadic_any(Volatility::Immutable);
    let function = ScalarUDF::from(Checked { ops, signature });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args))
}

/// The operators between its arguments, from left to right; of one argument, its negative.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    ops: Vec<Operator>,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// That of the operators.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let mut text = String::new();
        for (at, arg) in args.iter().enumerate() {
            match at.checked_sub(1) {
                None if args.len() == 1 => write!(text, "(- {})", arg.schema_name())?,
                None => write!(text, "{}", arg.schema_name())?,
                Some(before) => write!(text, " {} {}", self.ops[before], arg.schema_name())?,
            }
        }
        Ok(text)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [first, others @ ..] = types else { return internal_err!("arithmetic on nothing") };
        self.ops.iter().zip(others).try_fold(first.clone(), |left, (op, right)| {
            BinaryTypeCoercer::new(&left, op, right).get_result_type()
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut args = args.args.into_iter();
        let Some(mut result) = args.next() else { return internal_err!("arithmetic on nothing") };
        if args.len() == 0 {
            return Ok(match &result {
                ColumnarValue::Scalar(value) => {
                    let value = within(neg(&value.to_array()?)?)?;
                    ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?)
                }
                ColumnarValue::Array(values) => ColumnarValue::Array(within(neg(values)?)?),
            });
        }
        for (op, right) in self.ops.iter().zip(args) {
            result = apply(&result, &right, |left, right| {
                within(match op {
                    Operator::Plus => add(left, right)?,
                    Operator::Minus => sub(left, right)?,
                    _ => mul(left, right)?,
                })
            })?;
        }
        Ok(result)
    }
}

/// The kernels look whether a decimal fits into its bits, not into its digits.
fn within(array: ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Decimal128(precision, _) => {
            array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)?;
        }
        DataType::Decimal256(precision, _) => {
            array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)?;
        }
        _ => {}
    }
    Ok(array)
}
