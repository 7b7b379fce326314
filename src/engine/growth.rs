//! Functions whose value may be many times longer than what they are given. Nothing of what a function
//! makes counts to the memory of its statement, and what is made of literals is made while the
//! statement is planned; so these say beforehand how much it will be, and refuse what is too much.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

/// What one call may make of one batch of rows, in bytes.
const BYTES_MAX: u64 = 128 << 20;
/// Of an item of a list, about.
const ITEM_BYTES: u64 = 8;

/// How many bytes a function makes of arguments, at most or about.
type Growth = fn(&[ArrayRef]) -> Result<u64>;

/// The functions that grow, by their names.
const GROWING: [(&str, Growth); 8] = [
    ("repeat", repeated),
    ("lpad", padded),
    ("rpad", padded),
    ("replace", replaced),
    ("array_repeat", list_repeated),
    ("array_resize", resized),
    ("range", ranged),
    ("generate_series", ranged),
];

/// The same function within bounds, if it is one that grows.
pub fn bounded(function: &Arc<ScalarUDF>) -> Option<ScalarUDF> {
    let (_, growth) = GROWING.iter().find(|(name, _)| *name == function.name())?;
    let inner = Arc::clone(function.inner());
    Some(ScalarUDF::new_from_impl(Bounded { inner, growth: *growth }))
}

#[derive(Debug)]
struct Bounded {
    inner: Arc<dyn ScalarUDFImpl>,
    growth: Growth,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner.name() == other.inner.name()
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.name().hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, context)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // Of literals alone one value is made, however many rows there are.
        let is_one = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_one { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows));
        let bytes = (self.growth)(&arrays.collect::<Result<Vec<ArrayRef>>>()?)?;
        if bytes > BYTES_MAX {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "`{}` makes {} MiB of {rows} rows, and may make {} MiB at once",
                self.name(),
                bytes >> 20,
                BYTES_MAX >> 20
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

/// The counts of an argument, none below 0 and none for NULL.
fn counts(of: &ArrayRef) -> Result<Vec<u64>> {
    let counts = cast(of, &DataType::Int64)?;
    let counts = counts.as_primitive::<Int64Type>().iter();
    Ok(counts.map(|count| count.map_or(0, |count| u64::try_from(count).unwrap_or(0))).collect())
}

fn lengths(of: &ArrayRef) -> Result<Vec<u64>> {
    let texts = cast(of, &DataType::LargeUtf8)?;
    let texts = texts.as_string::<i64>();
    Ok(texts.iter().map(|text| text.map_or(0, |text| text.len() as u64)).collect())
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn repeated(args: &[ArrayRef]) -> Result<u64> {
    let [text, count, ..] = args else { return Ok(0) };
    let (lengths, counts) = (lengths(text)?, counts(count)?);
    Ok(sum(lengths.into_iter().zip(counts).map(|(length, count)| length.saturating_mul(count))))
}

fn padded(args: &[ArrayRef]) -> Result<u64> {
    let Some(length) = args.get(1) else { return Ok(0) };
    Ok(sum(counts(length)?.into_iter()))
}

fn replaced(args: &[ArrayRef]) -> Result<u64> {
    let [text, from, to] = args else { return Ok(0) };
    let places = lengths(text)?.into_iter().zip(lengths(from)?).map(|(text, from)| match from {
        0 => text + 1,
        from => text / from,
    });
    let most = places.zip(lengths(to)?).map(|(places, to)| places.saturating_mul(to));
    let most = sum(most);
    if most <= BYTES_MAX {
        return Ok(most);
    }
    let [text, from, to] = [text, from, to].map(|of| cast(of, &DataType::LargeUtf8));
    let (text, from, to) = (text?, from?, to?);
    let rows =
        text.as_string::<i64>().iter().zip(from.as_string::<i64>()).zip(to.as_string::<i64>());
    Ok(sum(rows.map(|((text, from), to)| {
        let (text, from) = (text.unwrap_or_default(), from.unwrap_or_default());
        let places = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
        (places as u64).saturating_mul(to.unwrap_or_default().len() as u64)
    })))
}

fn list_repeated(args: &[ArrayRef]) -> Result<u64> {
    let [item, count, ..] = args else { return Ok(0) };
    let each = (item.get_array_memory_size() as u64 / item.len().max(1) as u64).max(ITEM_BYTES);
    Ok(sum(counts(count)?.into_iter().map(|count| count.saturating_mul(each))))
}

fn resized(args: &[ArrayRef]) -> Result<u64> {
    let Some(length) = args.get(1) else { return Ok(0) };
    Ok(sum(counts(length)?.into_iter().map(|count| count.saturating_mul(ITEM_BYTES))))
}

/// Of numbers, and of times by the shortest step that their intervals can say.
fn ranged(args: &[ArrayRef]) -> Result<u64> {
    let micros = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    let number = |of: &ArrayRef| -> Result<Vec<i64>> {
        let of = match of.data_type() {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => cast(of, &micros)?,
            _ => Arc::clone(of),
        };
        let numbers = cast(&of, &DataType::Int64)?;
        Ok(numbers.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect())
    };
    let (from, to, step) = match args {
        [to] => (vec![0; to.len()], number(to)?, None),
        [from, to] => (number(from)?, number(to)?, None),
        [from, to, step, ..] => (number(from)?, number(to)?, Some(step)),
        [] => return Ok(0),
    };
    let steps: Vec<u64> = match step {
        None => vec![1; from.len()],
        Some(step) => match step.data_type() {
            DataType::Interval(_) => steps_of(step),
            _ => number(step)?.into_iter().map(i64::unsigned_abs).collect(),
        },
    };
    let rows = from.into_iter().zip(to).zip(steps);
    Ok(sum(
        rows.map(|((from, to), step)| (to.abs_diff(from) / step.max(1)).saturating_mul(ITEM_BYTES))
    ))
}

/// In microseconds.
fn steps_of(intervals: &ArrayRef) -> Vec<u64> {
    use arrow::datatypes::IntervalMonthDayNanoType;
    const DAY: u64 = 86_400_000_000;
    let Some(intervals) = intervals.as_primitive_opt::<IntervalMonthDayNanoType>() else {
        return vec![DAY; intervals.len()];
    };
    let micros = |step: arrow::datatypes::IntervalMonthDayNano| {
        u64::from(step.months.unsigned_abs()) * 28 * DAY
            + u64::from(step.days.unsigned_abs()) * DAY
            + step.nanoseconds.unsigned_abs() / 1_000
    };
    intervals.iter().map(|step| step.map_or(DAY, micros)).collect()
}
