//! Sums over the values of rows, by which an audit finds that one was replaced. They do not depend
//! on the order of rows, nor on what a table may do to its columns later: a null counts nothing, so
//! a column that is added changes no sum, and a number or time counts by its value, so one that is
//! widened changes none.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::mark::mix;
use crate::error::{Error, Result};
use crate::interval::MICROS_PER_DAY;
use crate::lake::ledger::Sum;

/// A hash of each row of a bronze table.
fn row_hashes(batch: &RecordBatch) -> Result<Vec<u64>> {
    let mut sums = vec![0_u64; batch.num_rows()];
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        add_column(&mut sums, xxh3_64(field.name().as_bytes()), column)?;
    }
    sums.iter_mut().for_each(|sum| *sum = mix(*sum, 2));
    Ok(sums)
}

/// Where a row came from, when it was ingested, and its hash.
pub struct HashedRow {
    pub partition: i32,
    pub offset: i64,
    /// Microseconds since 1970 UTC.
    pub ingested_at: i64,
    pub hash: u64,
}

/// The rows of a bronze table or of the dead letters, in the order of the batch.
pub fn hashed_rows(batch: &RecordBatch) -> Result<impl Iterator<Item = HashedRow>> {
    let column = |name| {
        let column = batch.column_by_name(name);
        column.ok_or_else(|| Error::internal(format!("rows of bronze have no `{name}`")))
    };
    let partitions = column("_partition")?.as_primitive::<Int32Type>().values();
    let offsets = column("_offset")?.as_primitive::<Int64Type>().values();
    let ingested = column("_ingested_at")?.as_primitive::<TimestampMicrosecondType>().values();
    let hashes = row_hashes(batch)?.into_iter().enumerate();
    Ok(hashes.map(|(row, hash)| HashedRow {
        partition: partitions[row],
        offset: offsets[row],
        ingested_at: ingested[row],
        hash,
    }))
}

/// The sums of the rows by what `key` says of a row's partition and `_ingested_at`.
pub fn sums_by<K: Ord>(
    batch: &RecordBatch,
    key: impl Fn(i32, i64) -> K,
) -> Result<BTreeMap<K, Sum>> {
    let mut sums: BTreeMap<K, Sum> = BTreeMap::new();
    for row in hashed_rows(batch)? {
        sums.entry(key(row.partition, row.ingested_at)).or_default().add(row.hash);
    }
    Ok(sums)
}

fn add_column(sums: &mut [u64], seed: u64, column: &ArrayRef) -> Result<()> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    match column.data_type() {
        DataType::Utf8 => add(sums, column.as_string::<i32>().iter(), |text| {
            xxh3_64_with_seed(text.as_bytes(), seed)
        }),
        DataType::Binary => {
            add(sums, column.as_binary::<i32>().iter(), |bytes| xxh3_64_with_seed(bytes, seed));
        }
        DataType::Int32 => add(sums, column.as_primitive::<Int32Type>().iter(), |value| {
            number(seed, i128::from(value), 0)
        }),
        DataType::Int64 => add(sums, column.as_primitive::<Int64Type>().iter(), |value| {
            number(seed, i128::from(value), 0)
        }),
        DataType::Decimal128(_, scale) => {
            let scale = i32::from(*scale);
            add(sums, column.as_primitive::<Decimal128Type>().iter(), |value| {
                number(seed, value, scale)
            });
        }
        DataType::Date32 => add(sums, column.as_primitive::<Date32Type>().iter(), |day| {
            mix(seed, (i64::from(day) * MICROS_PER_DAY) as u64)
        }),
        found if *found == micros => {
            add(sums, column.as_primitive::<TimestampMicrosecondType>().iter(), |value| {
                mix(seed, value as u64)
            });
        }
        DataType::Timestamp(..) => {
            let column = cast(column, &micros).map_err(failed)?;
            return add_column(sums, seed, &column);
        }
        DataType::Utf8View | DataType::LargeUtf8 => {
            return add_column(sums, seed, &cast(column, &DataType::Utf8).map_err(failed)?);
        }
        DataType::BinaryView | DataType::LargeBinary => {
            return add_column(sums, seed, &cast(column, &DataType::Binary).map_err(failed)?);
        }
        other => {
            let converter = RowConverter::new(vec![SortField::new(other.clone())]);
            let rows = converter
                .and_then(|converter| converter.convert_columns(std::slice::from_ref(column)))
                .map_err(failed)?;
            add(
                sums,
                rows.iter().enumerate().map(|(row, value)| column.is_valid(row).then_some(value)),
                |value| xxh3_64_with_seed(value.as_ref(), seed),
            );
        }
    }
    Ok(())
}

fn add<T>(sums: &mut [u64], values: impl Iterator<Item = Option<T>>, hash: impl Fn(T) -> u64) {
    for (sum, value) in sums.iter_mut().zip(values) {
        if let Some(value) = value {
            *sum = sum.wrapping_add(hash(value));
        }
    }
}

/// A number of `digits` and so many decimals, without the zeros at its end.
fn number(seed: u64, mut digits: i128, mut scale: i32) -> u64 {
    while scale > 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    mix(seed ^ scale as u64, mix(digits as u64, (digits >> 64) as u64))
}

fn failed(source: arrow::error::ArrowError) -> Error {
    Error::internal("rows cannot be summed").source(source)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{StringArray, new_null_array};

    use super::*;

    fn column(values: &[Option<&str>], data_type: &DataType) -> ArrayRef {
        cast(&StringArray::from(values.to_vec()), data_type).unwrap()
    }

    fn hashes(name: &str, column: ArrayRef) -> Vec<u64> {
        row_hashes(&RecordBatch::try_from_iter([(name, column)]).unwrap()).unwrap()
    }

    #[test]
    fn a_widened_column_and_a_new_one_change_no_sum() {
        let numbers = [Some("1"), Some("-10"), Some("0"), None, Some("2147483647")];
        let decimals = [Some("1.5"), Some("-10"), Some("0.125"), None];
        let days = [Some("1969-12-31"), Some("2026-03-01"), None];
        let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let cases: [(&[Option<&str>], DataType, DataType); 5] = [
            (&numbers, DataType::Int32, DataType::Int64),
            (&numbers, DataType::Int64, DataType::Decimal128(22, 2)),
            (&decimals, DataType::Decimal128(8, 3), DataType::Decimal128(9, 4)),
            (&days, DataType::Date32, at),
            (&numbers, DataType::Utf8, DataType::Utf8View),
        ];
        for (values, narrow, wide) in cases {
            let narrow = column(values, &narrow);
            let widened = cast(&narrow, &wide).unwrap();
            let new = new_null_array(&DataType::Float64, narrow.len());
            let batch = RecordBatch::try_from_iter_with_nullable([
                ("a", Arc::clone(&widened), true),
                ("new", new, true),
            ]);
            assert_eq!(hashes("a", narrow), row_hashes(&batch.unwrap()).unwrap(), "{wide}");
        }
    }

    #[test]
    fn every_other_value_changes_a_sum() {
        let values = [Some("1"), Some("10"), Some("100"), Some("-1"), None];
        for data_type in [DataType::Int64, DataType::Decimal128(20, 2), DataType::Utf8] {
            let mut found = hashes("a", column(&values, &data_type));
            found.extend(hashes("b", column(&values[..4], &data_type)));
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), 9, "{data_type}");
        }
    }
}
