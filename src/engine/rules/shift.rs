//! `lead` and `lag` with IGNORE NULLS count the values that are there. Those of DataFusion 55.2 lose
//! count (apache/datafusion#25471), and tell a LIMIT above them that they look no further than the
//! present row where a negative offset does (#25472).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::functions_window::lead_lag::WindowShift;
use datafusion::logical_expr::function::{
    ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs,
};
use datafusion::logical_expr::{
    Documentation, LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, WindowUDF,
    WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;

/// The functions that replace DataFusion's.
pub fn shifts() -> [WindowUDF; 2] {
    [false, true].map(|is_lead| WindowUDF::new_from_impl(Shift::new(is_lead)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shift {
    is_lead: bool,
    inner: WindowShift,
}

impl Shift {
    fn new(is_lead: bool) -> Self {
        let inner = if is_lead { WindowShift::lead() } else { WindowShift::lag() };
        Self { is_lead, inner }
    }
}

impl WindowUDFImpl for Shift {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.inner.expressions(args)
    }

    fn partition_evaluator(
        &self,
        args: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        if !args.ignore_nulls() {
            return self.inner.partition_evaluator(args);
        }
        let offset = match argument(args.input_exprs(), 1)? {
            Some(offset) => offset.cast_to(&DataType::Int64)?,
            None => ScalarValue::Int64(Some(1)),
        };
        let ScalarValue::Int64(Some(offset)) = offset else {
            return exec_err!("the offset of {} must be a number", self.name());
        };
        let is_forward = (self.is_lead != args.is_reversed()) == (offset >= 0);
        let steps = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
        let default = argument(args.input_exprs(), 2)?.filter(|default| !default.is_null());
        Ok(Box::new(OverNulls { is_forward, steps, default }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        self.inner.field(args)
    }

    /// The evaluator is told that rows come the other way round.
    fn reverse_expr(&self) -> ReversedUDWF {
        ReversedUDWF::Reversed(Arc::new(WindowUDF::new_from_impl(Self::new(self.is_lead))))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    /// Whether nulls are passed over is not said here.
    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}

fn argument(exprs: &[Arc<dyn PhysicalExpr>], at: usize) -> Result<Option<ScalarValue>> {
    let Some(expr) = exprs.get(at) else { return Ok(None) };
    match expr.downcast_ref::<Literal>() {
        Some(literal) => Ok(Some(literal.value().clone())),
        None => exec_err!("offset and default of lead and lag must be constants"),
    }
}

/// Finds the value that lies `steps` values that are not NULL away.
#[derive(Debug)]
struct OverNulls {
    is_forward: bool,
    steps: usize,
    default: Option<ScalarValue>,
}

impl OverNulls {
    fn target(&self, row: usize, there: &[usize]) -> Option<usize> {
        if self.steps == 0 {
            return Some(row);
        }
        let at = match self.is_forward {
            true => there.partition_point(|at| *at <= row).checked_add(self.steps - 1)?,
            false => there.partition_point(|at| *at < row).checked_sub(self.steps)?,
        };
        there.get(at).copied()
    }
}

impl PartitionEvaluator for OverNulls {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [values, ..] = values else { return exec_err!("lead and lag take a value") };
        let there: Vec<usize> = (0..rows).filter(|row| values.is_valid(*row)).collect();
        let default = match &self.default {
            Some(default) => default.cast_to(values.data_type())?,
            None => ScalarValue::try_from(values.data_type())?,
        };
        let default = default.to_array()?;
        let chosen = (0..rows).map(|row| self.target(row, &there).map_or((1, 0), |at| (0, at)));
        let chosen: Vec<(usize, usize)> = chosen.collect();
        Ok(interleave(&[values.as_ref(), default.as_ref()], &chosen)?)
    }
}
