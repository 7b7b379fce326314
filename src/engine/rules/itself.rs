//! A function that answers its argument, and is computed once rows are there: of a constant it is no
//! constant, and whether it is NULL nobody knows before.

use arrow::datatypes::DataType;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::engine::growth::check_given;

/// By this name in plans.
pub fn itself(name: &'static str) -> ScalarUDF {
    ScalarUDF::from(Itself { name, signature: Signature::any(1, Volatility::Volatile) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Itself {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Itself {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [of] => Ok(of.clone()),
            _ => internal_err!("{} takes one value", self.name),
        }
    }

    /// A constant is about to be repeated for every row.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(ColumnarValue::Scalar(value)) => {
                let value = [ColumnarValue::Scalar(value)];
                check_given(self.name, &value, args.number_rows)?;
                let [value] = value;
                Ok(value)
            }
            Some(value) => Ok(value),
            None => internal_err!("{} takes one value", self.name),
        }
    }
}
