//! `count(DISTINCT …)` of many groups keeps each different value once and the pairs of group and value
//! in one table, and gives back all memory with its groups. That of DataFusion 55.2 has a table per
//! group, of several KiB for texts, and keeps that of integers as large as it was: where memory ends
//! and groups are handed on, the statement fails, because nothing has become free.

use std::hash::{Hash, Hasher};
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, UInt64Array, make_array,
    new_empty_array,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::compute::{filter, is_not_null, prep_null_mask_filter, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::hash_utils::RandomState;
use datafusion::common::{HashSet, Result, ScalarValue, exec_datafusion_err};
use datafusion::functions_aggregate::count::Count;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

/// The function that replaces DataFusion's.
pub fn count() -> AggregateUDF {
    AggregateUDF::new_from_impl(Counted(Count::new()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Counted(Count);

impl AggregateUDFImpl for Counted {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn is_nullable(&self) -> bool {
        self.0.is_nullable()
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.0.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.0.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.0.create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        own_kind(&args).is_some() || self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match own_kind(&args) {
            Some(kind) => Ok(Box::new(DistinctCounts::new(kind)?)),
            None => self.0.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.0.reverse_expr()
    }

    fn default_value(&self, kind: &DataType) -> Result<ScalarValue> {
        self.0.default_value(kind)
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        self.0.value_from_stats(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn set_monotonicity(&self, kind: &DataType) -> SetMonotonicity {
        self.0.set_monotonicity(kind)
    }
}

/// The type of the values, if they are counted here: those that are equal if their bytes are.
fn own_kind(args: &AccumulatorArgs) -> Option<DataType> {
    let [field] = args.expr_fields else { return None };
    let kind = field.data_type();
    let is_own = width(kind).is_some()
        || matches!(
            kind,
            DataType::Int8
                | DataType::Int16
                | DataType::UInt8
                | DataType::UInt16
                | DataType::Decimal128(..)
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
        );
    (args.is_distinct && is_own).then(|| kind.clone())
}

/// The bytes of a value that is its own number.
fn width(kind: &DataType) -> Option<usize> {
    let is_number =
        kind.is_integer() || kind.is_temporal() && !matches!(kind, DataType::Interval(_));
    is_number.then(|| kind.primitive_width()).flatten().filter(|width| [4, 8].contains(width))
}

/// A group and the number of a value, without the gap between them that their alignment would cost.
#[derive(PartialEq, Eq)]
struct Pair([u32; 3]);

impl Pair {
    fn new(group: usize, value: u64) -> Result<Self> {
        let group = u32::try_from(group).map_err(|_| exec_datafusion_err!("too many groups"))?;
        Ok(Self([group, (value >> 32) as u32, value as u32]))
    }

    fn group(&self) -> usize {
        self.0[0] as usize
    }

    fn value(&self) -> u64 {
        u64::from(self.0[1]) << 32 | u64::from(self.0[2])
    }
}

impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.value());
        state.write_u32(self.0[0]);
    }
}

/// The number of a value, and the value of a number.
enum Numbers {
    /// Its own bytes, so many.
    Own(usize),
    /// In the order in which different values came.
    Given(Box<dyn GroupValues>),
}

/// Of many groups.
struct DistinctCounts {
    kind: DataType,
    numbers: Numbers,
    pairs: HashSet<Pair, RandomState>,
    counts: Vec<i64>,
    /// Numbers of a batch, reused.
    given: Vec<usize>,
}

fn numbers(kind: &DataType) -> Result<Numbers> {
    if let Some(width) = width(kind) {
        return Ok(Numbers::Own(width));
    }
    let schema = Schema::new(vec![Field::new("value", kind.clone(), true)]);
    Ok(Numbers::Given(new_group_values(Arc::new(schema), &GroupOrdering::None)?))
}

impl DistinctCounts {
    fn new(kind: DataType) -> Result<Self> {
        let numbers = numbers(&kind)?;
        let (pairs, counts, given) = (HashSet::default(), Vec::new(), Vec::new());
        Ok(Self { kind, numbers, pairs, counts, given })
    }

    /// Adds values, none of which is NULL, to a group each.
    fn add(&mut self, values: &ArrayRef, groups: &[usize]) -> Result<()> {
        match &mut self.numbers {
            Numbers::Own(4) => {
                let data = values.to_data();
                let values = data.buffer::<u32>(0)[..groups.len()].iter().copied().map(u64::from);
                insert(&mut self.pairs, &mut self.counts, values, groups)
            }
            Numbers::Own(_) => {
                let data = values.to_data();
                let values = data.buffer::<u64>(0)[..groups.len()].iter().copied();
                insert(&mut self.pairs, &mut self.counts, values, groups)
            }
            Numbers::Given(numbers) => {
                numbers.intern(std::slice::from_ref(values), &mut self.given)?;
                let values = self.given.iter().map(|number| *number as u64);
                insert(&mut self.pairs, &mut self.counts, values, groups)
            }
        }
    }

    /// Takes the first groups out, and what is counted of them if it is asked for: `values` by group.
    fn emit(&mut self, which: EmitTo, with_values: bool) -> Result<(Vec<i64>, Option<ArrayRef>)> {
        let emitted = match which {
            EmitTo::All => self.counts.len(),
            EmitTo::First(count) => count,
        };
        let counts = which.take_needed(&mut self.counts);
        let pairs = std::mem::take(&mut self.pairs);
        let known = match std::mem::replace(&mut self.numbers, numbers(&self.kind)?) {
            Numbers::Own(width) => Known::Own(width),
            Numbers::Given(numbers) if numbers.is_empty() => {
                Known::Given(new_empty_array(&self.kind))
            }
            Numbers::Given(mut numbers) => {
                let values = numbers.emit(EmitTo::All)?.pop();
                Known::Given(values.ok_or_else(|| exec_datafusion_err!("values without one"))?)
            }
        };
        self.given = Vec::new();
        let mut next: Vec<usize> = Vec::with_capacity(if with_values { emitted } else { 0 });
        let mut total = 0;
        if with_values {
            for count in &counts {
                next.push(total);
                total += usize::try_from(*count).unwrap_or(0);
            }
        }
        let mut ordered = vec![0; total];
        let (mut kept, mut kept_groups) = (Vec::new(), Vec::new());
        for pair in pairs {
            let (group, value) = (pair.group(), pair.value());
            if group >= emitted {
                kept.push(value);
                kept_groups.push(group - emitted);
            } else if with_values {
                ordered[next[group]] = value;
                next[group] += 1;
            }
        }
        if !kept.is_empty() {
            let kept = known.values(&self.kind, kept)?;
            // They were counted when they came.
            self.counts.fill(0);
            self.add(&kept, &kept_groups)?;
        }
        let values = with_values.then(|| known.values(&self.kind, ordered)).transpose()?;
        Ok((counts, values))
    }
}

fn insert(
    pairs: &mut HashSet<Pair, RandomState>,
    counts: &mut [i64],
    values: impl Iterator<Item = u64>,
    groups: &[usize],
) -> Result<()> {
    for (group, value) in groups.iter().zip(values) {
        if pairs.insert(Pair::new(*group, value)?) {
            counts[*group] += 1;
        }
    }
    Ok(())
}

/// The values of numbers that were given.
enum Known {
    Own(usize),
    Given(ArrayRef),
}

impl Known {
    fn values(&self, kind: &DataType, numbers: Vec<u64>) -> Result<ArrayRef> {
        let count = numbers.len();
        let bytes = match self {
            Known::Given(values) => return Ok(take(values, &UInt64Array::from(numbers), None)?),
            Known::Own(4) => {
                let narrow: Vec<u32> = numbers.into_iter().map(|number| number as u32).collect();
                Buffer::from_vec(narrow)
            }
            Known::Own(_) => Buffer::from_vec(numbers),
        };
        let data = arrow::array::ArrayData::builder(kind.clone()).len(count).add_buffer(bytes);
        Ok(make_array(data.build()?))
    }
}

fn only(values: &[ArrayRef]) -> Result<&ArrayRef> {
    values.first().ok_or_else(|| exec_datafusion_err!("a count without values"))
}

/// The rows that are counted; `None` for all.
fn counted(values: &ArrayRef, condition: Option<&BooleanArray>) -> Result<Option<BooleanArray>> {
    let condition = condition.map(|condition| match condition.null_count() {
        0 => condition.clone(),
        _ => prep_null_mask_filter(condition),
    });
    let is_value = match values.null_count() {
        0 => None,
        _ => Some(is_not_null(values)?),
    };
    Ok(match (condition, is_value) {
        (Some(condition), Some(is_value)) => Some(arrow::compute::and(&condition, &is_value)?),
        (condition, is_value) => condition.or(is_value),
    })
}

impl GroupsAccumulator for DistinctCounts {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        condition: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.counts.resize(count, 0);
        let values = only(values)?;
        let Some(rows) = counted(values, condition)? else { return self.add(values, groups) };
        let values = filter(values, &rows)?;
        let groups: Vec<usize> = rows.values().set_indices().map(|at| groups[at]).collect();
        self.add(&values, &groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.counts.resize(count, 0);
        let lists = only(states)?.as_list::<i32>();
        let offsets = lists.value_offsets();
        let (start, end) = (offsets[0] as usize, offsets[groups.len()] as usize);
        let mut each = Vec::with_capacity(end - start);
        for (group, ends) in groups.iter().zip(offsets.windows(2)) {
            each.resize(ends[1] as usize - start, *group);
        }
        self.add(&lists.values().slice(start, end - start), &each)
    }

    fn state(&mut self, which: EmitTo) -> Result<Vec<ArrayRef>> {
        let (counts, values) = self.emit(which, true)?;
        let values = values.ok_or_else(|| exec_datafusion_err!("values were asked for"))?;
        let lengths = counts.into_iter().map(|count| usize::try_from(count).unwrap_or(0));
        Ok(vec![lists(&self.kind, lengths, values)?])
    }

    fn evaluate(&mut self, which: EmitTo) -> Result<ArrayRef> {
        let (counts, _) = self.emit(which, false)?;
        Ok(Arc::new(Int64Array::from(counts)))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        condition: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = only(values)?;
        let lists = match counted(values, condition)? {
            None => lists(&self.kind, std::iter::repeat_n(1, values.len()), Arc::clone(values))?,
            Some(rows) => {
                let lengths = rows.values().iter().map(usize::from);
                lists(&self.kind, lengths, filter(values, &rows)?)?
            }
        };
        Ok(vec![lists])
    }

    fn size(&self) -> usize {
        // Of the table, buckets: one of eight is empty at least, and each has a byte of its own.
        let pairs = self.pairs.capacity() * 8 / 7 * (size_of::<Pair>() + 1);
        let numbers = match &self.numbers {
            Numbers::Own(_) => 0,
            Numbers::Given(numbers) => numbers.size(),
        };
        let counts = self.counts.capacity() * size_of::<i64>();
        size_of::<Self>() + pairs + numbers + counts + self.given.capacity() * size_of::<usize>()
    }
}

fn lists(
    kind: &DataType,
    lengths: impl IntoIterator<Item = usize>,
    values: ArrayRef,
) -> Result<ArrayRef> {
    if i32::try_from(values.len()).is_err() {
        return Err(exec_datafusion_err!("more than 2^31 different values"));
    }
    let item = Arc::new(Field::new_list_field(kind.clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(item, offsets, values, None)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, TimestampMicrosecondArray};

    use super::*;

    /// Counts `values` of groups in every way that an aggregation goes; all must agree.
    fn check(values: ArrayRef, groups: &[usize], expect: &[i64]) {
        let of = || DistinctCounts::new(values.data_type().clone()).unwrap();
        let count = expect.len();
        let counts = |counted: ArrayRef| {
            counted.as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
        };
        let mut direct = of();
        let arguments = [Arc::clone(&values)];
        direct.update_batch(&arguments, groups, None, count).unwrap();
        direct.update_batch(&arguments, groups, None, count).unwrap();
        assert_eq!(counts(direct.evaluate(EmitTo::All).unwrap()), expect);
        // In two parts, of which the second stays and takes more.
        direct.update_batch(&arguments, groups, None, count).unwrap();
        let mut merged = of();
        let first = direct.state(EmitTo::First(1)).unwrap();
        merged.merge_batch(&first, &[0], count).unwrap();
        let rest: Vec<usize> = groups.iter().map(|group| group.saturating_sub(1)).collect();
        let without_first = BooleanArray::from_iter(groups.iter().map(|group| Some(*group > 0)));
        direct.update_batch(&arguments, &rest, Some(&without_first), count - 1).unwrap();
        let second = direct.state(EmitTo::All).unwrap();
        let places: Vec<usize> = (1..count).collect();
        merged.merge_batch(&second, &places, count).unwrap();
        // Row by row, and a slice of it.
        let rows = direct.convert_to_state(&arguments, None).unwrap();
        let (one, others) = (rows[0].slice(0, 1), rows[0].slice(1, groups.len() - 1));
        merged.merge_batch(&[one], &groups[..1], count).unwrap();
        merged.merge_batch(&[others], &groups[1..], count).unwrap();
        assert_eq!(counts(merged.evaluate(EmitTo::First(1)).unwrap()), expect[..1]);
        assert_eq!(counts(merged.evaluate(EmitTo::All).unwrap()), expect[1..]);
        // All memory is given back.
        assert_eq!(direct.size(), of().size());
        assert_eq!(merged.size(), of().size());
    }

    #[test]
    fn every_way_of_counting_different_values_agrees_and_frees_its_memory() {
        let groups = [0, 1, 1, 2, 1, 0, 2, 1];
        let texts = [Some("a"), Some("a"), Some("b"), None, Some("a"), Some("a"), None, Some("c")];
        check(Arc::new(StringArray::from(texts.to_vec())), &groups, &[1, 3, 0]);
        let numbers = [Some(1), Some(-1), None, Some(i64::MIN), Some(-1), Some(2), Some(0), None];
        check(Arc::new(Int64Array::from(numbers.to_vec())), &groups, &[2, 1, 2]);
        let times = TimestampMicrosecondArray::from(numbers.to_vec()).with_timezone("UTC");
        check(Arc::new(times), &groups, &[2, 1, 2]);
        let dates = numbers.map(|number| number.map(|number| number as i32));
        check(Arc::new(arrow::array::Date32Array::from(dates.to_vec())), &groups, &[2, 1, 1]);
    }
}
