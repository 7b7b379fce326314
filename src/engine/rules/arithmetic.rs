//! `+`, `-` and `*` on integers and decimals fail where the result has no place in its type. Those of
//! DataFusion 55 wrap around (apache/datafusion#3520, #17539).

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Datum, Scalar};
use arrow::compute::kernels::numeric::{add, div, mul, neg, sub};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type,
};
use arrow::error::ArrowError;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr_common::datum::apply;

/// As many as Snowflake gives; the engine adds four to the dividend's.
const QUOTIENT_SCALE: i8 = 6;
const ENGINE_ADDS: i8 = 4;

/// Gives quotients of decimals and integers at least [`QUOTIENT_SCALE`] places: `1 / 3.0` would have
/// four. Before type coercion, which takes up the new types.
pub fn divided(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }) = &mut expr else {
        return Ok(Transformed::no(expr));
    };
    // A parameter has no type yet.
    let types = (left.get_type(schema), right.get_type(schema));
    let (precision, scale) = match types {
        (Ok(DataType::Decimal128(precision, scale)), Ok(by)) if is_exact(&by) => (precision, scale),
        (Ok(of), Ok(DataType::Decimal128(..))) if of.is_integer() => (20, 0),
        _ => return Ok(Transformed::no(expr)),
    };
    let more = QUOTIENT_SCALE - ENGINE_ADDS - scale;
    let Ok(digits) = u8::try_from(more) else { return Ok(Transformed::no(expr)) };
    if digits == 0 || precision + digits > DECIMAL128_MAX_PRECISION {
        return Ok(Transformed::no(expr));
    }
    let dividend = std::mem::take(&mut **left);
    **left = cast(dividend, DataType::Decimal128(precision + digits, scale + more));
    Ok(Transformed::yes(expr))
}

/// Puts a function that fails in the place of the operators that wrap. A chain such as `a + b - c`
/// becomes one function, however long it is. After type coercion: both sides have the types that they
/// are computed in.
pub fn checked(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::Negative(of) = expr {
        return Ok(match is_exact(&of.get_type(schema)?) {
            true => Transformed::yes(call(vec![Operator::Minus], vec![*of])),
            false => Transformed::no(Expr::Negative(of)),
        });
    }
    if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }) = &expr
        && let (DataType::Decimal128(..), DataType::Decimal128(..)) =
            (left.get_type(schema)?, right.get_type(schema)?)
    {
        let args = vec![(**left).clone(), (**right).clone()];
        return Ok(Transformed::yes(call(vec![Operator::Divide], args)));
    }
    if !matches!(&expr, Expr::BinaryExpr(both) if may_overflow(both.op)) {
        return Ok(Transformed::no(expr));
    }
    let (mut first, mut steps) = (&expr, Vec::new());
    while let Expr::BinaryExpr(BinaryExpr { left, op, right }) = first
        && may_overflow(*op)
    {
        steps.push((first, *op, &**right));
        first = left;
    }
    steps.reverse();
    // The chain begins behind what is computed otherwise, such as the days between two dates.
    let (mut result, mut begin) = (first.get_type(schema)?, 0);
    for (at, (step, op, right)) in steps.iter().enumerate() {
        let of_right = right.get_type(schema)?;
        if !is_exact(&result) || !is_exact(&of_right) {
            (first, begin) = (*step, at + 1);
        }
        result = BinaryTypeCoercer::new(&result, op, &of_right).get_result_type()?;
    }
    let chain = &steps[begin..];
    if chain.is_empty() || !is_exact(&result) {
        return Ok(Transformed::no(expr));
    }
    let ops = chain.iter().map(|(_, op, _)| *op).collect();
    let args = [first].into_iter().chain(chain.iter().map(|(_, _, right)| *right)).cloned();
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
                    Operator::Divide => rounded_quotient(left, right)?,
                    _ => mul(left, right)?,
                })
            })?;
        }
        Ok(result)
    }
}

/// The kernel cuts the last digit off: one more is computed, and rounded.
fn rounded_quotient(
    left: &dyn Datum,
    right: &dyn Datum,
) -> std::result::Result<ArrayRef, ArrowError> {
    let ((dividend, is_scalar), divisor) = (left.get(), right.get().0.data_type());
    let DataType::Decimal128(precision, scale) = dividend.data_type() else {
        return div(left, right);
    };
    if *precision >= DECIMAL128_MAX_PRECISION {
        return div(left, right);
    }
    let result = BinaryTypeCoercer::new(dividend.data_type(), &Operator::Divide, divisor)
        .get_result_type()
        .map_err(|error| ArrowError::ComputeError(error.to_string()))?;
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let wide = DataType::Decimal128(precision + 1, scale + 1);
    let dividend = cast_with_options(dividend, &wide, &options)?;
    let quotient = match is_scalar {
        true => div(&Scalar::new(dividend), right)?,
        false => div(&dividend, right)?,
    };
    cast_with_options(&quotient, &result, &options)
}

/// The kernels look whether a decimal fits into its bits, not into its digits. Only of the most digits
/// there may be can there be too few: any other type has one more than its operands need.
fn within(array: ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Decimal128(precision @ DECIMAL128_MAX_PRECISION, _) => {
            array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)?;
        }
        DataType::Decimal256(precision @ DECIMAL256_MAX_PRECISION, _) => {
            array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)?;
        }
        _ => {}
    }
    Ok(array)
}
