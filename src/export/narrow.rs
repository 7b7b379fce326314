//! In which intervals two sides differ: one pass over the lake, one grouped statement of the target.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use chrono_tz::Tz;
use futures::StreamExt;

use super::canonical::Proof;
use super::destination::Destination;
use super::dialect::{Dialect, grouped_proof_query, quoted};
use super::pair::{Pair, Source};
use super::rows::RowSource;
use super::shape::proof_of;
use crate::error::{Error, Result};
use crate::interval::{Every, Instant, MICROS_PER_DAY, Range};
use crate::model::Kind;

/// A table with more intervals is compared as if it had none.
const INTERVALS_MAX: usize = 100_000;

/// One interval whose rows are not the same on both sides.
#[derive(Debug, Clone)]
pub struct DifferingInterval {
    /// `None` holds the rows without a time, which no interval has.
    pub range: Option<Range>,
    /// The larger number of both sides.
    pub rows: u64,
    /// In words.
    pub differences: Vec<String>,
}

/// A proof of every interval that has rows.
type Proofs = BTreeMap<Option<Range>, Proof>;

/// In order of time; `None` if the table has no intervals, or too many.
pub async fn differing_intervals(
    source: &Source,
    to: &mut Destination,
    pair: &Pair<'_>,
) -> Result<Option<Vec<DifferingInterval>>> {
    let Some(calendar) = Calendar::of(pair) else { return Ok(None) };
    let Some(lake) = of_lake(source, to, pair, &calendar).await? else { return Ok(None) };
    let Some(target) = of_target(to, pair, &calendar, &lake).await? else { return Ok(None) };
    let empty = Proof::new(&pair.columns);
    let ranges: BTreeSet<&Option<Range>> = lake.keys().chain(target.keys()).collect();
    let differing = ranges.into_iter().filter_map(|range| {
        let own = lake.get(range).unwrap_or(&empty);
        let theirs = target.get(range).unwrap_or(&empty);
        let differences = own.differences(theirs, &pair.columns);
        let rows = own.rows.max(theirs.rows);
        (!differences.is_empty()).then_some(DifferingInterval { range: *range, rows, differences })
    });
    Ok(Some(differing.collect()))
}

async fn of_lake(
    source: &Source,
    to: &Destination,
    pair: &Pair<'_>,
    calendar: &Calendar<'_>,
) -> Result<Option<Proofs>> {
    let mut rows = RowSource::open(source, pair, None, to.dialect).await?;
    let mut batches = std::pin::pin!(rows.batches());
    let mut proofs = Proofs::new();
    while let Some(batch) = batches.next().await {
        for (range, rows) in calendar.split(&batch?)? {
            proofs.entry(range).or_insert_with(|| Proof::new(&pair.columns)).update(&rows)?;
        }
        if proofs.len() > INTERVALS_MAX {
            return Ok(None);
        }
    }
    Ok(Some(proofs))
}

async fn of_target(
    to: &mut Destination,
    pair: &Pair<'_>,
    calendar: &Calendar<'_>,
    lake: &Proofs,
) -> Result<Option<Proofs>> {
    let width = width_of(lake.keys().flatten());
    let table = to.dialect.table(&pair.schema, pair.name().name());
    let bucket = calendar.bucket(to.dialect, width);
    let query = grouped_proof_query(to.dialect, &table, &pair.columns, &bucket);
    let rows = to.texts(format!("{query} LIMIT {}", INTERVALS_MAX + 1)).await?;
    if rows.len() > INTERVALS_MAX {
        return Ok(None);
    }
    let mut proofs = Proofs::new();
    for row in &rows {
        let unread = || Error::internal(format!("`{}` gave no proof of {table}", to.target.name));
        let (bucket, proof) = row.split_first().ok_or_else(unread)?;
        let range = match bucket {
            None => None,
            Some(text) => {
                let bucket = text.parse().map_err(|_| unread())?;
                Some(calendar.range_of_bucket(bucket, width)?)
            }
        };
        let proof = proof_of(proof, &pair.columns).ok_or_else(unread)?;
        proofs.entry(range).or_insert_with(|| Proof::new(&pair.columns)).add(&proof);
    }
    Ok(Some(proofs))
}

/// The widest step that every bound of the lake's intervals is a multiple of: the target groups by
/// it and needs no calendar, and none of its groups straddles an interval of the lake.
fn width_of<'a>(ranges: impl Iterator<Item = &'a Range>) -> i64 {
    let bounds = ranges.flat_map(|range| [range.start.0, range.end.0]);
    bounds.fold(MICROS_PER_DAY, |width, bound| {
        let (mut one, mut other) = (width, bound.abs());
        while other != 0 {
            (one, other) = (other, one % other);
        }
        one
    })
}

/// How the table's rows fall into intervals.
struct Calendar<'a> {
    every: Every,
    timezone: Tz,
    time: &'a str,
    data_type: &'a DataType,
}

impl<'a> Calendar<'a> {
    fn of(pair: &'a Pair<'_>) -> Option<Self> {
        let Kind::Interval { every } = pair.model.kind else { return None };
        let time = pair.model.time.as_ref()?.value.as_str();
        let data_type = pair.columns.field_with_name(time).ok()?.data_type();
        Some(Self { every, timezone: pair.model.timezone, time, data_type })
    }

    /// Rows by interval.
    fn split(&self, batch: &RecordBatch) -> Result<Vec<(Option<Range>, RecordBatch)>> {
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

    /// What the target groups by: the day's number, or the instant that begins a step.
    fn bucket(&self, dialect: &dyn Dialect, width: i64) -> String {
        let text = dialect.text(&quoted(self.time), self.data_type);
        match self.data_type {
            DataType::Date32 => text,
            _ => {
                let micros = format!("CAST({text} AS BIGINT)");
                let rest = format!("({micros} % {width} + {width}) % {width}");
                format!("CAST({micros} - {rest} AS VARCHAR)")
            }
        }
    }

    /// The interval of a group; several where the group lies between the lake's.
    fn range_of_bucket(&self, bucket: i64, width: i64) -> Result<Range> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_of_the_target_straddles_an_interval_of_the_lake() {
        let width = |every: Every, timezone: Tz, times: &[&str]| {
            let at = |text: &&str| Instant::parse(text, Tz::UTC).unwrap();
            let ranges: Vec<Range> =
                times.iter().map(|time| every.interval_of(at(time), timezone)).collect();
            width_of(ranges.iter()) / 60_000_000
        };
        let times = ["2026-01-05", "2026-07-05", "1969-06-01"];
        assert_eq!(width(Every::Day, Tz::UTC, &times), 24 * 60);
        assert_eq!(width(Every::Month, Tz::UTC, &times), 24 * 60);
        assert_eq!(width(Every::Hours(6), Tz::UTC, &times), 6 * 60);
        assert_eq!(width(Every::Day, Tz::Europe__Rome, &times), 60);
        assert_eq!(width(Every::Day, Tz::Asia__Kathmandu, &times), 15);
    }
}
