//! `a || b || c` at once, and within bounds: DataFusion's operator puts two together at a time, without
//! asking how long the text becomes.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

use crate::engine::growth::check_given;

/// One function in the place of a chain of operators. After type coercion: all have one type.
pub fn at_once(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if !is_concatenation(&expr) {
        return Ok(Transformed::no(expr));
    }
    let result = expr.get_type(schema)?;
    if !matches!(result, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Ok(Transformed::no(expr));
    }
    let (mut args, mut left) = (Vec::new(), vec![expr]);
    while let Some(expr) = left.pop() {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left: first, op: Operator::StringConcat, right }) => {
                left.extend([*right, *first]);
            }
            arg => args.push(arg),
        }
    }
    let signature = Signature::variadic_any(Volatility::Immutable);
    let function = Arc::new(ScalarUDF::from(Concatenation { result, signature }));
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, args))))
}

fn is_concatenation(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(both) if both.op == Operator::StringConcat)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Concatenation {
    result: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for Concatenation {
    fn name(&self) -> &str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// That of the operators.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.result.clone())
    }

    /// NULL if one of them is.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_one = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_one { 1 } else { args.number_rows };
        check_given(self.name(), &args.args, rows)?;
        // A constant has one row.
        let texts = args.args.iter().map(|arg| Ok(cast(&arg.to_array(1)?, &DataType::Utf8)?));
        let texts = texts.collect::<Result<Vec<ArrayRef>>>()?;
        let parts: Vec<_> = (texts.iter().zip(&args.args))
            .map(|(text, arg)| (text.as_string::<i32>(), matches!(arg, ColumnarValue::Array(_))))
            .collect();
        if parts.iter().any(|(text, is_array)| *is_array && text.len() != rows) {
            return internal_err!("texts of several lengths");
        }
        let mut joined = StringBuilder::with_capacity(rows, 0);
        for row in 0..rows {
            let at = |is_array: bool| if is_array { row } else { 0 };
            if parts.iter().any(|(text, is_array)| text.is_null(at(*is_array))) {
                joined.append_null();
                continue;
            }
            for (text, is_array) in &parts {
                joined.write_str(text.value(at(*is_array)))?;
            }
            joined.append_value("");
        }
        let joined = cast(&joined.finish(), &self.result)?;
        Ok(match is_one {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?),
            false => ColumnarValue::Array(joined),
        })
    }
}
