//! Which rows of two sides belong together, and rows as numbers that tell whether they are the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::{Stream, StreamExt};
use xxhash_rust::xxh3::xxh3_64;

use super::canonical::{are_close, hashes, is_float};
use crate::error::{Error, Result};
use crate::export::pair::Pair;

/// Rows that are fetched of one side, if the shown keys are not unique.
pub const ROWS_FETCHED_MAX: usize = 1_000;
/// Longer values are cut.
const VALUE_CHARS_MAX: usize = 200;

/// Columns and their values as texts.
pub type Values = Vec<(String, Option<String>)>;

/// By what rows of the two sides belong together: the model's key, or all that is hashed.
pub struct Key {
    /// Positions of its columns; empty without one.
    pub columns: Vec<usize>,
}

impl Key {
    /// A key with floating point, which is not hashed, is none.
    pub fn of(pair: &Pair<'_>) -> Self {
        let position = |name: &str| {
            let (position, field) = pair.columns.column_with_name(name)?;
            (!is_float(field.data_type())).then_some(position)
        };
        let columns: Option<Vec<usize>> =
            pair.model.key.iter().map(|name| position(&name.value)).collect();
        Self { columns: columns.unwrap_or_default() }
    }

    /// The key's part of `columns`; all of them where there is no key.
    pub fn schema(&self, columns: &SchemaRef) -> Result<SchemaRef> {
        if self.columns.is_empty() {
            return Ok(Arc::clone(columns));
        }
        columns.project(&self.columns).map(Arc::new).map_err(unprojected)
    }

    /// One number for the key of each row, or for the whole row where there is no key.
    pub fn hashes(&self, batch: &RecordBatch) -> Result<Vec<u64>> {
        if self.columns.is_empty() {
            return hashes(batch);
        }
        hashes(&batch.project(&self.columns).map_err(unprojected)?)
    }
}

fn unprojected(source: arrow::error::ArrowError) -> Error {
    Error::internal("a key is not among the columns").source(source)
}

/// Key and digest of every row.
pub async fn keyed_digests(
    key: &Key,
    batches: impl Stream<Item = Result<RecordBatch>>,
) -> Result<Vec<(u64, u64)>> {
    let mut batches = std::pin::pin!(batches);
    let mut found = Vec::new();
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        found.extend(key.hashes(&batch)?.into_iter().zip(digests(&batch)?));
    }
    Ok(found)
}

/// Of every row one number for all its values, floating point to the last bit.
pub fn digests(batch: &RecordBatch) -> Result<Vec<u64>> {
    let mut digests = hashes(batch)?;
    for column in batch.columns().iter().filter(|column| is_float(column.data_type())) {
        mix_floats(&mut digests, column)?;
    }
    Ok(digests.into_iter().map(scattered).collect())
}

/// Adds floating-point values, which are no part of the text of a row, to its digest.
pub fn mix_floats(digests: &mut [u64], column: &dyn Array) -> Result<()> {
    let column = cast(column, &DataType::Float64).map_err(uncast)?;
    for (digest, value) in digests.iter_mut().zip(column.as_primitive::<Float64Type>()) {
        let bits = match value {
            None => 1,
            Some(value) if value.is_nan() => 2,
            // Both zeros are the same value.
            Some(value) => (value + 0.0).to_bits(),
        };
        *digest = scattered(*digest ^ scattered(bits));
    }
    Ok(())
}

/// So that sums of digests do not cancel out.
pub fn scattered(value: u64) -> u64 {
    xxh3_64(&value.to_le_bytes())
}

/// Of a cast between types that both sides have.
pub fn uncast(source: arrow::error::ArrowError) -> Error {
    Error::invalid("the target gave a value of another type").source(source)
}

/// Which rows are fetched: those whose key has one of these hashes.
pub struct Wanted<'a> {
    pub key: &'a Key,
    pub hashes: &'a BTreeSet<u64>,
}

/// A row that was fetched.
pub struct Row {
    pub key: u64,
    /// Of all but floating point.
    hash: u64,
    floats: Vec<Option<f64>>,
    pub values: Values,
}

impl Wanted<'_> {
    /// Those of a batch.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<Row>> {
        let keys = self.key.hashes(batch)?;
        if !keys.iter().any(|key| self.hashes.contains(key)) {
            return Ok(Vec::new());
        }
        let row_hashes = hashes(batch)?;
        let options = FormatOptions::default();
        let columns = batch.columns().iter();
        let formatters: Vec<ArrayFormatter<'_>> = columns
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<std::result::Result<_, _>>()
            .map_err(|source| Error::internal("a row has no texts").source(source))?;
        let schema = batch.schema();
        let mut rows = Vec::new();
        for (row, key) in keys.into_iter().enumerate().filter(|(_, k)| self.hashes.contains(k)) {
            let mut values = Values::new();
            let mut floats = Vec::new();
            for (at, (field, column)) in schema.fields().iter().zip(batch.columns()).enumerate() {
                let text = || cut(formatters[at].value(row).to_string());
                values.push((field.name().clone(), column.is_valid(row).then(text)));
                if is_float(column.data_type()) {
                    let value = cast(&column.slice(row, 1), &DataType::Float64).map_err(uncast)?;
                    floats.push(value.as_primitive::<Float64Type>().iter().next().flatten());
                }
            }
            rows.push(Row { key, hash: row_hashes[row], floats, values });
        }
        Ok(rows)
    }

    /// The rows that are wanted, at most as many as are shown.
    pub async fn fetch(
        &self,
        batches: impl Stream<Item = Result<RecordBatch>>,
    ) -> Result<Vec<Row>> {
        let mut batches = std::pin::pin!(batches);
        let mut rows = Vec::new();
        while rows.len() < ROWS_FETCHED_MAX
            && let Some(batch) = batches.next().await
        {
            rows.extend(self.rows(&batch?)?);
        }
        rows.truncate(ROWS_FETCHED_MAX);
        Ok(rows)
    }
}

impl Row {
    /// Whether nothing differs but the last bits of floating point, which a target may round.
    pub fn is(&self, other: &Row) -> bool {
        let mut floats = self.floats.iter().zip(&other.floats);
        self.hash == other.hash
            && floats.all(|(own, theirs)| match (own, theirs) {
                (Some(own), Some(theirs)) => are_close(*own, *theirs),
                (own, theirs) => own.is_none() && theirs.is_none(),
            })
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
