//! What two stores must agree on: rows as one text that each side can compute, hashed and summed,
//! so that order doesn't matter and doubled rows show. Floating point is compared apart.

use std::io::Write as _;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DecimalType, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use md5::{Digest, Md5};

use crate::error::{Error, Result};

/// Sums of floating point may differ by this part of the sum of their sizes: each side adds in its
/// own order.
const FLOAT_TOLERANCE: f64 = 1e-9;

/// Whether a column of this type can be compared, and with it exported.
pub fn is_comparable(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Decimal128(_, _)
            | DataType::Timestamp(TimeUnit::Microsecond, Some(_))
    )
}

/// Whether values are compared by sums, not by their texts.
pub fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

/// A multiset of rows, as far as it is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    pub rows: u64,
    /// Sum over the rows of the first 60 bits of each text's MD5.
    pub hash: u128,
    /// One per column.
    pub nulls: Vec<u64>,
    /// One per column of floating point, in order.
    pub floats: Vec<Floats>,
}

/// Sums of every floating-point column, with what is needed to judge their difference.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Floats {
    /// Of the finite ones.
    pub sum: f64,
    /// Of their absolute values, which the tolerance is a part of.
    pub sum_of_sizes: f64,
    /// NaN and infinities.
    pub others: u64,
}

impl Proof {
    /// Of no rows yet, with counts for the columns of `schema`.
    pub fn new(schema: &SchemaRef) -> Self {
        let floats = schema.fields().iter().filter(|field| is_float(field.data_type())).count();
        Self {
            rows: 0,
            hash: 0,
            nulls: vec![0; schema.fields().len()],
            floats: vec![Floats::default(); floats],
        }
    }

    /// Takes in rows of the schema that it was made for.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<()> {
        for hash in hashes(batch)? {
            self.hash += u128::from(hash);
        }
        self.rows += batch.num_rows() as u64;
        for (column, nulls) in batch.columns().iter().zip(&mut self.nulls) {
            *nulls += column.null_count() as u64;
        }
        let floats = batch.columns().iter().filter(|column| is_float(column.data_type()));
        for (column, found) in floats.zip(&mut self.floats) {
            match column.data_type() {
                DataType::Float32 => {
                    let values = column.as_primitive::<Float32Type>().iter().flatten();
                    values.for_each(|value| found.add(f64::from(value)));
                }
                _ => {
                    column.as_primitive::<Float64Type>().iter().flatten().for_each(|v| found.add(v))
                }
            }
        }
        Ok(())
    }

    /// The two multisets as one.
    pub fn add(&mut self, other: &Proof) {
        self.rows += other.rows;
        self.hash += other.hash;
        for (nulls, others) in self.nulls.iter_mut().zip(&other.nulls) {
            *nulls += others;
        }
        for (floats, others) in self.floats.iter_mut().zip(&other.floats) {
            floats.sum += others.sum;
            floats.sum_of_sizes += others.sum_of_sizes;
            floats.others += others.others;
        }
    }

    /// What the two sides do not agree on; empty when they are equal.
    pub fn differences(&self, other: &Proof, schema: &SchemaRef) -> Vec<String> {
        let mut found = Vec::new();
        if self.rows != other.rows {
            found.push(format!("rows: {} in the lake, {} in the target", self.rows, other.rows));
        }
        for ((field, own), others) in schema.fields().iter().zip(&self.nulls).zip(&other.nulls) {
            if own != others {
                let name = field.name();
                found.push(format!("nulls in `{name}`: {own} in the lake, {others} in the target"));
            }
        }
        if found.is_empty() && self.hash != other.hash {
            found.push("values: as many rows, but other ones".to_owned());
        }
        let floats = schema.fields().iter().filter(|field| is_float(field.data_type()));
        for ((field, own), others) in floats.zip(&self.floats).zip(&other.floats) {
            if !own.is_close_to(others) {
                let (name, own, others) = (field.name(), own.sum, others.sum);
                found.push(format!("sum of `{name}`: {own} in the lake, {others} in the target"));
            }
        }
        found
    }
}

impl Floats {
    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum += value;
            self.sum_of_sizes += value.abs();
        } else {
            self.others += 1;
        }
    }

    fn is_close_to(&self, other: &Floats) -> bool {
        let tolerance = FLOAT_TOLERANCE * self.sum_of_sizes.max(other.sum_of_sizes);
        self.others == other.others
            && (self.sum - other.sum).abs() <= tolerance
            && (self.sum_of_sizes - other.sum_of_sizes).abs() <= tolerance
    }
}

/// Whether two values of floating point are the same within the tolerance.
pub fn are_close(one: f64, other: f64) -> bool {
    // The first also holds for infinities, which have no distance.
    one == other
        || (one.is_nan() && other.is_nan())
        || (one - other).abs() <= FLOAT_TOLERANCE * one.abs().max(other.abs())
            && one.is_finite()
            && other.is_finite()
}

/// Of every row, the first 60 bits of its text's MD5.
pub fn hashes(batch: &RecordBatch) -> Result<Vec<u64>> {
    let mut text = Vec::new();
    let mut value = Vec::new();
    (0..batch.num_rows())
        .map(|row| {
            text.clear();
            for column in batch.columns().iter().filter(|column| !is_float(column.data_type())) {
                value.clear();
                match write_value(column, row, &mut value)? {
                    false => text.push(b'N'),
                    true => {
                        let _ = write!(text, "{}:", value.len());
                        text.extend_from_slice(&value);
                    }
                }
            }
            let digest = Md5::digest(&text);
            let first = digest.first_chunk::<8>().copied().unwrap_or_default();
            Ok(u64::from_be_bytes(first) >> 4)
        })
        .collect()
}

/// Writes the text of a value; false for null.
pub fn write_value(column: &ArrayRef, row: usize, text: &mut Vec<u8>) -> Result<bool> {
    if column.is_null(row) {
        return Ok(false);
    }
    // Writing to a vector cannot fail.
    let _ = match column.data_type() {
        DataType::Boolean => write!(text, "{}", column.as_boolean().value(row)),
        DataType::Int8 => write!(text, "{}", column.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => write!(text, "{}", column.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => write!(text, "{}", column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(text, "{}", column.as_primitive::<Int64Type>().value(row)),
        DataType::Date32 => write!(text, "{}", column.as_primitive::<Date32Type>().value(row)),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            write!(text, "{}", column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Decimal128(precision, scale) => {
            let value = column.as_primitive::<Decimal128Type>().value(row);
            text.write_all(Decimal128Type::format_decimal(value, *precision, *scale).as_bytes())
        }
        DataType::Utf8 => text.write_all(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(row);
            bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"))
        }
        other => return Err(Error::internal(format!("values of type {other} have no text"))),
    };
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray};

    use super::*;

    fn batch(texts: &[Option<&str>], floats: &[f64]) -> RecordBatch {
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let floats: ArrayRef = Arc::new(Float64Array::from(floats.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("t", texts, true), ("f", floats, true)]).unwrap()
    }

    fn proof(batches: &[RecordBatch]) -> Proof {
        let mut proof = Proof::new(&batches[0].schema());
        batches.iter().for_each(|batch| proof.update(batch).unwrap());
        proof
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let (a, b) = (Some("a"), Some("b"));
        let one = proof(&[batch(&[a, b, None], &[1.0, 0.1, 0.2])]);
        let other = proof(&[batch(&[b], &[0.1]), batch(&[None, a], &[0.2, 1.0])]);
        let schema = batch(&[a], &[0.0]).schema();
        assert_eq!(one.differences(&other, &schema), Vec::<String>::new());
        // A pair of equal rows would vanish in an exclusive or.
        let pair = proof(&[batch(&[a, a], &[0.0, 0.0])]);
        assert_ne!(pair.hash, proof(&[batch(&[b, b], &[0.0, 0.0])]).hash);
        let null = proof(&[batch(&[a, b, b], &[1.0, 0.1, f64::NAN])]);
        assert_eq!(
            one.differences(&null, &schema),
            [
                "nulls in `t`: 1 in the lake, 0 in the target",
                "sum of `f`: 1.3 in the lake, 1.1 in the target"
            ]
        );
    }

    #[test]
    fn the_text_of_a_row_is_the_documented_one() {
        let decimal = Decimal128Array::from(vec![-5]).with_precision_and_scale(18, 2).unwrap();
        let columns: [(&str, ArrayRef); 3] = [
            ("t", Arc::new(StringArray::from(vec![Some("Ü|")]))),
            ("n", Arc::new(Int64Array::from(vec![None::<i64>]))),
            ("d", Arc::new(decimal)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let digest = Md5::digest("3:Ü|N5:-0.05");
        let first = u64::from_be_bytes(*digest.first_chunk::<8>().unwrap()) >> 4;
        assert_eq!(hashes(&batch).unwrap(), [first]);
    }
}
