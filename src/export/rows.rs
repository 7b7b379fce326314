//! Rows of one version of a table on their way to a target, and what they were, for the proof.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Date32Type, SchemaRef, TimestampMicrosecondType};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use datafusion::scalar::ScalarValue;
use futures::{Stream, StreamExt};

use super::compare::canonical::Proof;
use super::pair::{Pair, Source};
use crate::engine::fault::engine_error;
use crate::engine::storable::conform;
use crate::error::{Error, Result};
use crate::interval::{Instant, Range, RangeSet};

/// Rows of one version of a table, in the order and types of the export.
pub struct RowSource {
    rows: Option<SendableRecordBatchStream>,
    name: String,
    columns: SchemaRef,
    takes_zero_bytes: bool,
    rows_read: Arc<AtomicU64>,
    proof: Arc<Mutex<Proof>>,
}

impl RowSource {
    /// Of the ranges of its time alone, if there are any.
    pub async fn open(source: &Source, pair: &Pair<'_>, ranges: Option<&RangeSet>) -> Result<Self> {
        Self::open_in_order(source, pair, ranges, None).await
    }

    /// Sorted by a column, nulls first.
    pub async fn open_in_order(
        source: &Source,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        order: Option<&str>,
    ) -> Result<Self> {
        let doing = format!("cannot read `{}`", pair.name());
        let failed = |error| engine_error(&doing, error);
        let session = source.engine.session();
        let mut frame = session.read_table(pair.snapshot.provider().await?).map_err(failed)?;
        if let Some(ranges) = ranges {
            frame = frame.filter(within(pair, ranges)?).map_err(failed)?;
        }
        if let Some(column) = order {
            let column = col(datafusion::common::Column::from_name(column));
            frame = frame.sort(vec![column.sort(true, true)]).map_err(failed)?;
        }
        let names: Vec<&str> =
            pair.columns.fields().iter().map(|field| field.name().as_str()).collect();
        let frame = frame.select_columns(&names).map_err(failed)?;
        Ok(Self {
            rows: Some(frame.execute_stream().await.map_err(failed)?),
            name: pair.name().to_string(),
            columns: Arc::clone(&pair.columns),
            takes_zero_bytes: pair.takes_zero_bytes,
            rows_read: Arc::clone(&source.rows_read),
            proof: Arc::new(Mutex::new(Proof::new(&pair.columns))),
        })
    }

    /// The rows, once.
    pub fn batches(&mut self) -> impl Stream<Item = Result<RecordBatch>> + Send + use<> {
        let (name, columns) = (self.name.clone(), Arc::clone(&self.columns));
        let (takes_zero_bytes, rows_read) = (self.takes_zero_bytes, Arc::clone(&self.rows_read));
        futures::stream::iter(self.rows.take()).flatten().map(move |batch| {
            let batch =
                batch.map_err(|error| engine_error(&format!("cannot read `{name}`"), error))?;
            rows_read.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            let batch = conform(&batch, &columns)?;
            if !takes_zero_bytes {
                refuse_zero_bytes(&name, &batch)?;
            }
            Ok(batch)
        })
    }

    /// The rows, once; each batch is noted as it passes.
    pub fn stream(&mut self) -> impl Stream<Item = Result<RecordBatch>> + Send + use<> {
        let proof = Arc::clone(&self.proof);
        self.batches().map(move |batch| {
            let batch = batch?;
            proof.lock().unwrap_or_else(PoisonError::into_inner).update(&batch)?;
            Ok(batch)
        })
    }

    /// Of the rows that came by [`Self::stream`] so far, and none by [`Self::batches`].
    pub fn proof(&self) -> Proof {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn refuse_zero_bytes(name: &str, batch: &RecordBatch) -> Result<()> {
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let Some(texts) = column.as_string_opt::<i32>() else { continue };
        if texts.iter().flatten().any(|text| text.contains('\0')) {
            return Err(Error::invalid(format!(
                "`{}` of `{name}` holds a text with a zero byte, which the target cannot keep",
                field.name()
            ))
            .hint("replace(column, chr(0), '') in the model"));
        }
    }
    Ok(())
}

/// Bounds of a range as the time column has them.
pub enum Bounds {
    /// Days since 1970, the second one excluded.
    Dates(i32, i32),
    /// Microseconds since 1970 UTC, the second excluded.
    Instants(i64, i64),
}

/// The column that ranges are of; a table without one has no ranges.
pub fn time_of<'a>(pair: &'a Pair<'_>) -> Result<&'a str> {
    let time = pair.model.time.as_ref().map(|time| time.value.as_str());
    time.ok_or_else(|| Error::internal(format!("`{}` has no time column", pair.name())))
}

/// Both ends of a range, as values of the time column.
pub fn bounds(pair: &Pair<'_>, range: &Range) -> Result<Bounds> {
    let time = time_of(pair)?;
    let is_date =
        pair.columns.field_with_name(time).is_ok_and(|f| f.data_type() == &DataType::Date32);
    if !is_date {
        return Ok(Bounds::Instants(range.start.0, range.end.0));
    }
    let day = |instant: Instant| {
        let day = instant.day_in(pair.model.timezone);
        day.ok_or_else(|| Error::internal(format!("{instant} has no date")))
    };
    Ok(Bounds::Dates(day(range.start)?, day(range.end)?))
}

fn within(pair: &Pair<'_>, ranges: &RangeSet) -> Result<Expr> {
    let column = || col(datafusion::common::Column::from_name(time_of(pair).unwrap_or_default()));
    let mut condition: Option<Expr> = None;
    for range in ranges.iter() {
        let (start, end) = match bounds(pair, range)? {
            Bounds::Dates(start, end) => {
                let date = |day| ScalarValue::Date32(Some(day));
                (date(start), date(end))
            }
            Bounds::Instants(start, end) => {
                let instant =
                    |micros| ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()));
                (instant(start), instant(end))
            }
        };
        let one = column().gt_eq(lit(start)).and(column().lt(lit(end)));
        condition = Some(match condition {
            Some(others) => others.or(one),
            None => one,
        });
    }
    Ok(condition.unwrap_or_else(|| lit(false)))
}

/// The rows of a batch that lie within the ranges.
pub fn only_within(pair: &Pair<'_>, ranges: &RangeSet, batch: &RecordBatch) -> Result<RecordBatch> {
    let time = time_of(pair)?;
    let column = batch
        .column_by_name(time)
        .ok_or_else(|| Error::internal(format!("rows without `{time}`")))?;
    let bounds = ranges.iter().map(|range| bounds(pair, range)).collect::<Result<Vec<_>>>()?;
    let is_within = |row: usize| {
        column.is_valid(row)
            && bounds.iter().any(|bounds| match bounds {
                Bounds::Dates(start, end) => {
                    (*start..*end).contains(&column.as_primitive::<Date32Type>().value(row))
                }
                Bounds::Instants(start, end) => (*start..*end)
                    .contains(&column.as_primitive::<TimestampMicrosecondType>().value(row)),
            })
    };
    let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(is_within(row))).collect();
    filter_record_batch(batch, &mask)
        .map_err(|source| Error::internal("rows cannot be filtered").source(source))
}
