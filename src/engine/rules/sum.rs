//! `sum` of integers and decimals fails where the total has no place in its type. That of DataFusion
//! 55 wraps around (apache/datafusion#16406, #17539).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem::{size_of, size_of_val};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

/// Holds every total of 64-bit integers, and of decimals as long as it fits into 38 digits.
const STATE: DataType = DataType::Decimal128(38, 0);

/// The function that replaces DataFusion's.
pub fn checked_sum() -> AggregateUDF {
    AggregateUDF::new_from_impl(CheckedSum(Sum::new()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum(Sum);

fn is_checked(result: &DataType) -> bool {
    matches!(result, DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..))
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !is_checked(args.return_type()) {
            return self.0.state_fields(args);
        }
        let name = format_state_name(args.name, "sum");
        let field = match args.is_distinct {
            true => Field::new_list(name, Field::new_list_field(STATE, true), false),
            false => Field::new(name, STATE, true),
        };
        Ok(vec![Arc::new(field)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let result = args.return_field.data_type();
        if !is_checked(result) {
            return self.0.accumulator(args);
        }
        Ok(match args.is_distinct {
            true => {
                let (result, values) = (result.clone(), HashMap::new());
                Box::new(DistinctTotal { result, values, sum: 0 })
            }
            false => Box::new(Total { result: result.clone(), sum: 0, count: 0 }),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match is_checked(args.return_field.data_type()) {
            true => self.accumulator(args),
            false => self.0.create_sliding_accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let result = args.return_field.data_type();
        if !is_checked(result) {
            return self.0.create_groups_accumulator(args);
        }
        Ok(Box::new(Totals { result: result.clone(), sums: Vec::new(), seen: Vec::new() }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> datafusion::logical_expr::utils::AggregateOrderSensitivity {
        self.0.order_sensitivity()
    }
}

/// Calls `take` with the place and the number of every value that is not NULL.
fn each(values: &ArrayRef, mut take: impl FnMut(usize, i128) -> Result<()>) -> Result<()> {
    macro_rules! each {
        ($type:ty) => {{
            let values = values.as_primitive::<$type>();
            match values.nulls() {
                None => (0..values.len()).try_for_each(|at| take(at, values.value(at).into())),
                Some(there) => {
                    there.valid_indices().try_for_each(|at| take(at, values.value(at).into()))
                }
            }
        }};
    }
    match values.data_type() {
        DataType::Int64 => each!(Int64Type),
        DataType::UInt64 => each!(UInt64Type),
        DataType::Decimal128(..) => each!(Decimal128Type),
        other => internal_err!("a sum of {other}"),
    }
}

fn plus(sum: i128, value: i128) -> Result<i128> {
    sum.checked_add(value).ok_or_else(too_large)
}

fn too_large() -> datafusion::common::DataFusionError {
    let message = "the sum has no place in its type".to_owned();
    arrow::error::ArrowError::ArithmeticOverflow(message).into()
}

fn result_of(result: &DataType, sums: Vec<Option<i128>>) -> Result<ArrayRef> {
    let wrong = |_| too_large();
    Ok(match result {
        DataType::Int64 => {
            let sums = sums.into_iter().map(|sum| sum.map(i64::try_from).transpose());
            let sums = sums.collect::<std::result::Result<Vec<_>, _>>().map_err(wrong)?;
            Arc::new(arrow::array::Int64Array::from(sums))
        }
        DataType::UInt64 => {
            let sums = sums.into_iter().map(|sum| sum.map(u64::try_from).transpose());
            let sums = sums.collect::<std::result::Result<Vec<_>, _>>().map_err(wrong)?;
            Arc::new(arrow::array::UInt64Array::from(sums))
        }
        DataType::Decimal128(precision, scale) => {
            let sums = Decimal128Array::from(sums).with_precision_and_scale(*precision, *scale)?;
            sums.validate_decimal_precision(*precision).map_err(|_| too_large())?;
            Arc::new(sums)
        }
        other => return internal_err!("a sum of {other}"),
    })
}

fn scalar_of(result: &DataType, sum: Option<i128>) -> Result<ScalarValue> {
    ScalarValue::try_from_array(&result_of(result, vec![sum])?, 0)
}

fn state_of(sums: Vec<Option<i128>>) -> Result<ArrayRef> {
    Ok(Arc::new(Decimal128Array::from(sums).with_precision_and_scale(38, 0)?))
}

fn only(states: &[ArrayRef]) -> Result<&ArrayRef> {
    states.first().ok_or_else(|| exec_datafusion_err!("a sum without values"))
}

/// Of one group, also of one that moves over rows.
#[derive(Debug)]
struct Total {
    result: DataType,
    sum: i128,
    count: u64,
}

impl Total {
    fn sum(&self) -> Option<i128> {
        (self.count > 0).then_some(self.sum)
    }
}

impl Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(only(values)?, |_, value| {
            self.sum = plus(self.sum, value)?;
            self.count += 1;
            Ok(())
        })
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(only(values)?, |_, value| {
            self.sum = self.sum.checked_sub(value).ok_or_else(too_large)?;
            self.count -= 1;
            Ok(())
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Decimal128(self.sum(), 38, 0)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        scalar_of(&self.result, self.sum())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// Of the different values of one group, also of one that moves over rows.
#[derive(Debug)]
struct DistinctTotal {
    result: DataType,
    /// How often each is there.
    values: HashMap<i128, u64>,
    sum: i128,
}

impl Accumulator for DistinctTotal {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(only(values)?, |_, value| {
            match self.values.entry(value) {
                Entry::Occupied(mut times) => *times.get_mut() += 1,
                Entry::Vacant(new) => {
                    new.insert(1);
                    self.sum = plus(self.sum, value)?;
                }
            }
            Ok(())
        })
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        each(only(values)?, |_, value| {
            let Entry::Occupied(mut times) = self.values.entry(value) else {
                return internal_err!("a value leaves that was not there");
            };
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
                self.sum = self.sum.checked_sub(value).ok_or_else(too_large)?;
            }
            Ok(())
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = only(states)?.as_list::<i32>();
        lists.iter().flatten().try_for_each(|values| self.update_batch(&[values]))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = self.values.keys().map(|value| ScalarValue::Decimal128(Some(*value), 38, 0));
        let values: Vec<ScalarValue> = values.collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &STATE))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        scalar_of(&self.result, (!self.values.is_empty()).then_some(self.sum))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<(i128, u64)>()
    }
}

/// Of many groups.
struct Totals {
    result: DataType,
    sums: Vec<i128>,
    seen: Vec<bool>,
}

impl Totals {
    fn emit(&mut self, which: EmitTo) -> Vec<Option<i128>> {
        let (sums, seen) = (which.take_needed(&mut self.sums), which.take_needed(&mut self.seen));
        sums.into_iter().zip(seen).map(|(sum, seen)| seen.then_some(sum)).collect()
    }
}

impl GroupsAccumulator for Totals {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.sums.resize(count, 0);
        self.seen.resize(count, false);
        each(only(values)?, |at, value| {
            if filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at)) {
                let group = groups[at];
                self.sums[group] = plus(self.sums[group], value)?;
                self.seen[group] = true;
            }
            Ok(())
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.update_batch(states, groups, None, count)
    }

    fn state(&mut self, which: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![state_of(self.emit(which))?])
    }

    fn evaluate(&mut self, which: EmitTo) -> Result<ArrayRef> {
        let sums = self.emit(which);
        result_of(&self.result, sums)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = only(values)?;
        let mut states = vec![None; values.len()];
        each(values, |at, value| {
            if filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at)) {
                states[at] = Some(value);
            }
            Ok(())
        })?;
        Ok(vec![state_of(states)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}
