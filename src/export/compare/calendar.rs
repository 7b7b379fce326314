//! How rows fall into the intervals of their model's calendar.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use chrono_tz::Tz;
use futures::{Stream, StreamExt};

use super::canonical::Proof;
use crate::error::{Error, Result};
use crate::export::pair::Pair;
use crate::interval::{Every, Instant, Range};

/// A table with more intervals is compared as if it had none.
pub const INTERVALS_MAX: usize = 100_000;

/// A proof of every interval that has rows; `None` holds the rows without a time.
pub type Proofs = BTreeMap<Option<Range>, Proof>;

/// How the table's rows fall into intervals.
pub struct Calendar<'a> {
    pub every: Every,
    pub timezone: Tz,
    pub time: &'a str,
    pub data_type: &'a DataType,
}

impl<'a> Calendar<'a> {
    /// `None` for a table that is not made of intervals.
    pub fn of(pair: &'a Pair<'_>) -> Option<Self> {
        let every = pair.model.every()?;
        let time = pair.model.time.as_ref()?.value.as_str();
        let data_type = pair.columns.field_with_name(time).ok()?.data_type();
        Some(Self { every, timezone: pair.model.timezone, time, data_type })
    }

    /// Widened to whole intervals.
    pub fn align(&self, range: Range) -> Range {
        self.every.align(range, self.timezone)
    }

    /// Rows by interval.
    pub fn split(&self, batch: &RecordBatch) -> Result<Vec<(Option<Range>, RecordBatch)>> {
        let column = batch
            .column_by_name(self.time)
            .ok_or_else(|| Error::internal(format!("rows without `{}`", self.time)))?;
        let mut rows: HashMap<Option<Range>, Vec<u32>> = HashMap::new();
        let mut days: HashMap<i32, Range> = HashMap::new();
        let mut last: Option<Range> = None;
        for row in 0..batch.num_rows() {
            let range = match self.data_type {
                _ if column.is_null(row) => None,
                DataType::Date32 => {
                    let day = column.as_primitive::<Date32Type>().value(row);
                    Some(match days.entry(day) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(unknown) => *unknown.insert(self.range_of_day(day)?),
                    })
                }
                _ => {
                    let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
                    let at = Instant(micros);
                    last = last.filter(|range| range.contains(at));
                    last = last.or_else(|| Some(self.every.interval_of(at, self.timezone)));
                    last
                }
            };
            rows.entry(range).or_default().push(u32::try_from(row).unwrap_or(u32::MAX));
        }
        let taken = |rows: Vec<u32>| {
            take_record_batch(batch, &UInt32Array::from(rows))
                .map_err(|source| Error::internal("rows cannot be split").source(source))
        };
        rows.into_iter().map(|(range, rows)| Ok((range, taken(rows)?))).collect()
    }

    /// The interval of a group; several where the group lies between the lake's.
    pub fn range_of_bucket(&self, bucket: i64, width: i64) -> Result<Range> {
        match self.data_type {
            DataType::Date32 => {
                let day = i32::try_from(bucket).map_err(|source| {
                    Error::invalid(format!("day {bucket} since 1970 is no date")).source(source)
                })?;
                self.range_of_day(day)
            }
            _ => {
                let group = Range::new(Instant(bucket), Instant(bucket.saturating_add(width)))?;
                Ok(self.every.align(group, self.timezone))
            }
        }
    }

    fn range_of_day(&self, day: i32) -> Result<Range> {
        Ok(self.every.interval_of(Instant::of_day(day, self.timezone)?, self.timezone))
    }

    /// A proof of each interval; `None` if there are too many.
    pub async fn prove(
        &self,
        pair: &Pair<'_>,
        batches: impl Stream<Item = Result<RecordBatch>>,
    ) -> Result<Option<Proofs>> {
        let mut batches = std::pin::pin!(batches);
        let mut proofs = Proofs::new();
        while let Some(batch) = batches.next().await {
            for (range, rows) in self.split(&batch?)? {
                proofs.entry(range).or_insert_with(|| Proof::new(&pair.columns)).update(&rows)?;
            }
            if proofs.len() > INTERVALS_MAX {
                return Ok(None);
            }
        }
        Ok(Some(proofs))
    }
}
