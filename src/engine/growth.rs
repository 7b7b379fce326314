//! Functions whose value may be many times longer than what they are given, or as long as all that they
//! are given together. Nothing of what a function makes counts to the memory of its statement, and what
//! is made of literals is made while the statement is planned; so these say beforehand how much it will
//! be, and refuse what is too much.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::functions::regex::regexpcount::regexp_count_func;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

/// What one call may make of one batch of rows, in bytes.
const BYTES_MAX: u64 = 128 << 20;
/// What one call may be given, with a constant once for each row, or put together. Each row of a batch
/// may have 32 KiB of it.
const GIVEN_BYTES_MAX: u64 = 256 << 20;
/// The same of one value: what is made of literals is named by its text, time and again.
const ONE_BYTES_MAX: u64 = 32 << 20;
const NAMED_BYTES_MAX: usize = 4 << 10;
const FIELDS_MAX: u64 = 10_000;
/// Of an item of a list, about.
const ITEM_BYTES: u64 = 8;

/// How many bytes a function makes of arguments, at most or about.
type Growth = fn(&[ArrayRef]) -> Result<u64>;

/// The functions that grow, by their names.
const GROWING: [(&str, Growth); 13] = [
    ("repeat", repeated),
    ("lpad", padded),
    ("rpad", padded),
    ("replace", replaced),
    ("regexp_replace", replaced_by_pattern),
    ("concat_ws", separated),
    ("array_to_string", items_separated),
    ("array_repeat", list_repeated),
    ("array_resize", resized),
    ("array_replace_n", items_replaced),
    ("array_replace_all", items_replaced),
    ("range", ranged),
    ("generate_series", ranged),
];
/// Those that put together what they are given, or make about as much of it, which ten of them within
/// each other do ten times.
const GATHERING: [&str; 16] = [
    "concat",
    "make_array",
    "array_concat",
    "array_append",
    "array_prepend",
    "array_union",
    "array_replace",
    "arrays_zip",
    "struct",
    "named_struct",
    "map",
    "overlay",
    "encode",
    "string_to_array",
    "array_distinct",
    "flatten",
];

/// The same function within bounds, if it is one that grows.
pub fn bounded(function: &Arc<ScalarUDF>) -> Option<ScalarUDF> {
    let name = function.name();
    let growth = GROWING.iter().find(|(growing, _)| *growing == name).map(|(_, growth)| *growth);
    if growth.is_none() && !GATHERING.contains(&name) {
        return None;
    }
    let inner = Arc::clone(function.inner());
    Some(ScalarUDF::new_from_impl(Bounded { inner, growth }))
}

/// Refuses what is too much for a function to be given for `rows` rows.
pub fn check_given(name: &str, args: &[ColumnarValue], rows: usize) -> Result<()> {
    let bytes = args.iter().map(|arg| match arg {
        ColumnarValue::Scalar(value) => scalar_bytes(value).saturating_mul(rows as u64),
        ColumnarValue::Array(array) => array_bytes(array),
    });
    refuse_beyond(name, sum(bytes), rows, if rows == 1 { ONE_BYTES_MAX } else { GIVEN_BYTES_MAX })
}

/// Types grow too: of three structs of three structs of … twenty times.
fn check_fields<'a>(types: impl Iterator<Item = &'a DataType>) -> Result<()> {
    match sum(types.map(fields)) {
        0..=FIELDS_MAX => Ok(()),
        _ => plan_err!("a value would have more than {FIELDS_MAX} fields"),
    }
}

fn fields(of: &DataType) -> u64 {
    match of {
        DataType::Struct(within) => 1 + sum(within.iter().map(|field| fields(field.data_type()))),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => 1 + fields(item.data_type()),
        DataType::Dictionary(_, value) => fields(value),
        _ => 1,
    }
}

fn refuse_beyond(name: &str, bytes: u64, rows: usize, bytes_max: u64) -> Result<()> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(DataFusionError::ResourcesExhausted(format!(
        "`{name}` makes {} MiB of {rows} rows, and may make {} MiB at once",
        bytes >> 20,
        bytes_max >> 20
    )))
}

fn scalar_bytes(value: &ScalarValue) -> u64 {
    match value {
        ScalarValue::List(list) => array_bytes(&(Arc::clone(list) as ArrayRef)),
        value => value.size() as u64,
    }
}

/// Of the rows alone: arrays may be slices, and views share what they look at.
fn array_bytes(array: &ArrayRef) -> u64 {
    let own = array.len() as u64 * ITEM_BYTES;
    match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            own + lengths(array).map_or(0, |lengths| sum(lengths.into_iter()))
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (from, to) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
            own + array_bytes(&list.values().slice(from as usize, (to - from) as usize))
        }
        DataType::Struct(_) => own + sum(array.as_struct().columns().iter().map(array_bytes)),
        _ => array.to_data().get_slice_memory_size().map_or(own, |bytes| bytes as u64),
    }
}

#[derive(Debug)]
struct Bounded {
    inner: Arc<dyn ScalarUDFImpl>,
    /// None for those that put together what they are given.
    growth: Option<Growth>,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner.name() == other.inner.name()
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
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

    /// Is asked for whenever a plan changes, so a long literal is there by a number.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names = args.iter().map(|arg| match arg {
            Expr::Literal(value, _) if value.size() > NAMED_BYTES_MAX => {
                let mut hasher = DefaultHasher::new();
                value.hash(&mut hasher);
                format!("{:016x}", hasher.finish())
            }
            arg => arg.schema_name().to_string(),
        });
        Ok(format!("{}({})", self.name(), names.collect::<Vec<String>>().join(",")))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        check_fields(types.iter())?;
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        check_fields(args.arg_fields.iter().map(|field| field.data_type()))?;
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
        check_given(self.name(), &args.args, rows)?;
        if let Some(growth) = self.growth {
            let arrays = args.args.iter().map(|arg| arg.to_array(rows));
            let bytes = growth(&arrays.collect::<Result<Vec<ArrayRef>>>()?)?;
            let bytes_max = if is_one { ONE_BYTES_MAX } else { BYTES_MAX };
            refuse_beyond(self.name(), bytes, rows, bytes_max)?;
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
    if let Some(texts) = of.as_string_view_opt() {
        return Ok(texts.iter().map(|text| text.map_or(0, |text| text.len() as u64)).collect());
    }
    if let Some(texts) = of.as_string_opt::<i32>() {
        return Ok(texts.iter().map(|text| text.map_or(0, |text| text.len() as u64)).collect());
    }
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

/// A match may be replaced by itself, as often as the replacement refers to it.
fn replaced_by_pattern(args: &[ArrayRef]) -> Result<u64> {
    let [text, pattern, to, flags @ ..] = args else { return Ok(0) };
    let lengths = lengths(text)?;
    let to = cast(to, &DataType::LargeUtf8)?;
    let grown = |matches: &[u64]| {
        sum(lengths.iter().zip(matches).enumerate().map(|(row, (length, matches))| {
            let to = to.as_string::<i64>().value(row);
            let refers = to.bytes().filter(|byte| matches!(byte, b'\\' | b'$')).count() as u64;
            matches.saturating_mul(to.len() as u64).saturating_add(refers.saturating_mul(*length))
        }))
    };
    // An empty match is between any two letters.
    let most = grown(&lengths.iter().map(|length| length + 1).collect::<Vec<u64>>());
    if most <= BYTES_MAX {
        return Ok(most);
    }
    let Some(flags) = flags.first() else { return Ok(grown(&vec![1; lengths.len()])) };
    let flags = cast(flags, &DataType::LargeUtf8)?;
    let flags = flags.as_string::<i64>().iter();
    let flags: StringArray = flags.map(|flags| Some(flags?.replace('g', ""))).collect();
    let [text, pattern] = [text, pattern].map(|of| cast(of, &DataType::Utf8));
    let start: ArrayRef = Arc::new(Int64Array::from(vec![1; lengths.len()]));
    Ok(grown(&counts(&regexp_count_func(&[text?, pattern?, start, Arc::new(flags)])?)?))
}

fn separated(args: &[ArrayRef]) -> Result<u64> {
    let Some((separator, values)) = args.split_first() else { return Ok(0) };
    let between = values.len().saturating_sub(1) as u64;
    Ok(sum(lengths(separator)?.into_iter().map(|length| length.saturating_mul(between))))
}

fn items_separated(args: &[ArrayRef]) -> Result<u64> {
    let [list, separator, nulls @ ..] = args else { return Ok(0) };
    let mut each = lengths(separator)?;
    if let Some(nulls) = nulls.first() {
        each = each.into_iter().zip(lengths(nulls)?).map(|(one, other)| one + other).collect();
    }
    Ok(sum(items(list).into_iter().zip(each).map(|(items, each)| items.saturating_mul(each))))
}

/// Of each list, those within it counted.
fn items(lists: &ArrayRef) -> Vec<u64> {
    let Some(lists) = lists.as_list_opt::<i32>() else { return vec![1; lists.len()] };
    let within = items(lists.values());
    let offsets = lists.value_offsets().windows(2);
    offsets.map(|ends| sum(within[ends[0] as usize..ends[1] as usize].iter().copied())).collect()
}

fn items_replaced(args: &[ArrayRef]) -> Result<u64> {
    let [list, _, to, ..] = args else { return Ok(0) };
    let each = item_bytes(to);
    Ok(sum(items(list).into_iter().map(|items| items.saturating_mul(each))))
}

/// Of the longest, about.
fn item_bytes(of: &ArrayRef) -> u64 {
    let longest = (0..of.len()).map(|row| array_bytes(&of.slice(row, 1)));
    longest.max().unwrap_or_default().max(ITEM_BYTES)
}

fn list_repeated(args: &[ArrayRef]) -> Result<u64> {
    let [item, count, ..] = args else { return Ok(0) };
    let each = item_bytes(item);
    Ok(sum(counts(count)?.into_iter().map(|count| count.saturating_mul(each))))
}

fn resized(args: &[ArrayRef]) -> Result<u64> {
    let Some(length) = args.get(1) else { return Ok(0) };
    let each = args.get(2).map_or(ITEM_BYTES, item_bytes);
    Ok(sum(counts(length)?.into_iter().map(|count| count.saturating_mul(each))))
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
