//! A hash over rows that does not depend on their order: equal multisets of rows have equal
//! hashes, and a doubled row shows (the sum is modular, not an exclusive or).

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};

/// A hash of rows whatever their order; equal rows count as often as they are there.
pub struct RowsHash {
    converter: RowConverter,
    sum: u128,
    rows: u64,
}

impl RowsHash {
    /// Fails on a column type that Arrow's row format does not have.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let fields =
            schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
        let converter = RowConverter::new(fields)
            .map_err(|source| Error::internal("rows cannot be hashed").source(source))?;
        Ok(Self { converter, sum: 0, rows: 0 })
    }

    /// Takes in rows of the schema that it was made for.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = self
            .converter
            .convert_columns(batch.columns())
            .map_err(|source| Error::internal("rows cannot be hashed").source(source))?;
        for row in &rows {
            self.sum = self.sum.wrapping_add(xxh3_128(row.as_ref()));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Takes in the rows that `other` has seen, which must be of the same columns.
    pub fn join(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.rows += other.rows;
    }

    /// `rows-` and 32 hexadecimal digits of the sum. The prefix names the row encoding, so that a
    /// change of it reads as changed data rather than as equal.
    pub fn finish(&self) -> String {
        format!("arrow-row-1:{}:{:032x}", self.rows, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn hash_of(parts: &[&[i64]]) -> String {
        let batch = |values: &[i64]| {
            let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
            RecordBatch::try_from_iter([("a", column)]).unwrap()
        };
        let mut hash = RowsHash::new(&batch(&[]).schema()).unwrap();
        parts.iter().for_each(|values| hash.update(&batch(values)).unwrap());
        hash.finish()
    }

    #[test]
    fn hashes_of_parts_join_to_the_hash_of_the_whole() {
        let hash = |values: &[i64]| {
            let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
            let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
            let mut hash = RowsHash::new(&batch.schema()).unwrap();
            hash.update(&batch).unwrap();
            hash
        };
        let mut joined = hash(&[1, 2]);
        joined.join(&hash(&[3, 3]));
        assert_eq!(joined.finish(), hash_of(&[&[3, 1, 3, 2]]));
    }

    #[test]
    fn order_and_batches_do_not_matter_and_doubled_rows_do() {
        assert_eq!(hash_of(&[&[1, 2, 3]]), hash_of(&[&[3], &[2, 1]]));
        assert_ne!(hash_of(&[&[1, 2]]), hash_of(&[&[1, 2, 3, 3]]));
        assert_ne!(hash_of(&[&[1]]), hash_of(&[&[2]]));
    }
}
