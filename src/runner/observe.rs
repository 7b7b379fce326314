//! What looks at every row on its way into the staged files: each writer has observers of its own,
//! which are joined when all have ended. A check that reads rows would be one more. Writes nothing.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use chrono_tz::Tz;

use crate::engine::hash::RowsHash;
use crate::error::{Error, Result};
use crate::interval::{Instant, Range, RangeSet, TouchedHours};
use crate::lake::spec::{TableSpec, instants_of};

/// All that look at the rows of one writer.
pub struct Observers {
    spec: TableSpec,
    hash: RowsHash,
    touched: TouchedHours,
}

/// What they saw, of all rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// As [`RowsHash::finish`] writes it.
    pub hash: String,
    /// Hours in which rows came.
    pub touched: RangeSet,
}

impl Observers {
    /// Fails if a column has a type whose rows cannot be hashed.
    pub fn new(spec: &TableSpec) -> Result<Self> {
        let (hash, touched) = (RowsHash::new(&spec.columns)?, TouchedHours::default());
        Ok(Self { spec: spec.clone(), hash, touched })
    }

    /// Sees rows with the spec's columns.
    pub fn see(&mut self, batch: &RecordBatch) -> Result<()> {
        self.hash.update(batch)?;
        let Some(time) = self.spec.time.as_deref() else { return Ok(()) };
        let Some(column) = batch.column_by_name(time) else { return Ok(()) };
        let instants = instants_of(column, self.spec.timezone)?;
        instants.into_iter().flatten().for_each(|micros| self.touched.touch(micros));
        Ok(())
    }

    /// Takes in what `other`, of the same build, saw.
    pub fn join(&mut self, other: Self) {
        self.hash.join(&other.hash);
        self.touched.join(other.touched);
    }

    /// What was seen, once all have been joined.
    pub fn finish(self) -> Observed {
        Observed { hash: self.hash.finish(), touched: self.touched.ranges() }
    }
}

/// Fails at a row outside of the intervals that its query was executed for: the next run would double
/// it.
pub fn check_within(batch: &RecordBatch, spec: &TableSpec, range: Range) -> Result<()> {
    let Some(time) = spec.time.as_deref() else { return Ok(()) };
    let Some(column) = batch.column_by_name(time) else { return Ok(()) };
    let name = &spec.name;
    for micros in instants_of(column, spec.timezone)? {
        match micros {
            Some(micros) if range.contains(Instant(micros)) => {}
            Some(micros) => {
                let message = format!(
                    "`{name}` gave a row at {} outside of its interval {range}",
                    Instant(micros)
                );
                let is_local_day =
                    *column.data_type() == DataType::Date32 && spec.timezone != Tz::UTC;
                return Err(Error::invalid(message).hint(match is_local_day {
                    true => format!(
                        "a date stands for its midnight in {zone}: CAST(… AT TIME ZONE '{zone}' AS DATE)",
                        zone = spec.timezone
                    ),
                    false => "filter the inputs by `$start` and `$end`".to_owned(),
                }));
            }
            None => {
                let message = format!("`{name}` gave a row whose time `{time}` is null");
                return Err(Error::invalid(message).hint("an interval model's rows need a time"));
            }
        }
    }
    Ok(())
}
