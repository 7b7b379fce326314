//! What a table is created as: its columns, its partitioning by day, and which columns keep
//! statistics. Also the one rule by which a declared schema may change an existing table.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Date32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono_tz::Tz;

use crate::error::{Error, Result};
use crate::interval::{Every, Instant, MICROS_PER_DAY, Range};
use crate::table::{Layer, TableName};

/// The physical partition column of tables that are partitioned by day.
pub const DAY_COLUMN: &str = "_day";

/// Data files grow to about this size before the next is begun.
pub const TARGET_FILE_BYTES: u64 = 128 << 20;

/// What a table is to be like, as a model says.
#[derive(Debug, Clone)]
pub struct TableSpec {
    pub name: TableName,
    /// Declared columns, without [`DAY_COLUMN`].
    pub columns: SchemaRef,
    /// The column that places a row in time, and whether rows are laid out by its day.
    pub time: Option<String>,
    pub partition_by_day: bool,
    pub timezone: Tz,
    /// Columns that identify a row.
    pub key: Vec<String>,
    pub doc: Option<String>,
    /// What of the model's header lays out the rows, as people read it.
    pub shape: String,
}

impl TableSpec {
    /// The table's full schema: the declared columns, then the day if partitioned by it.
    pub fn schema(&self) -> SchemaRef {
        if !self.partition_by_day {
            return Arc::clone(&self.columns);
        }
        let mut fields: Vec<_> = self.columns.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(DAY_COLUMN, DataType::Date32, true)));
        Arc::new(Schema::new(fields))
    }

    /// [`DAY_COLUMN`] or nothing.
    pub fn partition_columns(&self) -> Vec<String> {
        if self.partition_by_day { vec![DAY_COLUMN.to_owned()] } else { Vec::new() }
    }

    /// Columns with minimum, maximum and null count in the log.
    pub fn statistics_columns(&self) -> Vec<String> {
        let kafka = ["_partition", "_offset"].map(str::to_owned);
        let mut columns: Vec<String> = Vec::new();
        for name in self.time.iter().chain(&self.key).chain(&kafka) {
            if self.columns.column_with_name(name).is_some() && !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        columns
    }

    /// `batch` with the day appended where the table is partitioned by it.
    pub fn with_day(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let Some(time) = self.time.as_deref().filter(|_| self.partition_by_day) else {
            return Ok(batch.clone());
        };
        let column = batch.column_by_name(time).ok_or_else(|| {
            Error::internal(format!("`{}` has no time column `{time}`", self.name))
        })?;
        let mut columns = batch.columns().to_vec();
        columns.push(days_of(column, self.timezone)?);
        RecordBatch::try_new(self.schema(), columns).map_err(|source| {
            Error::internal(format!("cannot add the day to `{}`", self.name)).source(source)
        })
    }
}

/// Microseconds since 1970 of every row of a time column; a date is its midnight in `timezone`.
pub fn instants_of(column: &ArrayRef, timezone: Tz) -> Result<Vec<Option<i64>>> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    if let Some(dates) = column.as_any().downcast_ref::<Date32Array>() {
        return Ok(dates.iter().map(|day| day.map(|day| midnight(day, timezone))).collect());
    }
    let cast = arrow::compute::cast(column, &micros)
        .map_err(|source| Error::invalid("the time column holds no times").source(source))?;
    let instants = cast
        .as_any()
        .downcast_ref::<arrow::array::TimestampMicrosecondArray>()
        .ok_or_else(|| Error::internal("a cast to microseconds gave another type"))?;
    Ok(instants.iter().collect())
}

/// Whether `schema` has a column of that name that can place rows in time.
pub fn has_times(schema: &Schema, name: &str) -> bool {
    schema
        .field_with_name(name)
        .is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..) | DataType::Date32))
}

fn midnight(days: i32, timezone: Tz) -> i64 {
    let utc_midnight = i64::from(days) * MICROS_PER_DAY;
    if timezone == Tz::UTC {
        return utc_midnight;
    }
    Instant::of_day(days, timezone).map_or(utc_midnight, |instant| instant.0)
}

/// The day of every row in `timezone`.
fn days_of(column: &ArrayRef, timezone: Tz) -> Result<ArrayRef> {
    let mut known: Option<(Range, i32)> = None;
    let days = instants_of(column, timezone)?.into_iter().map(|micros| {
        let micros = micros?;
        if timezone == Tz::UTC {
            return i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok();
        }
        let instant = Instant(micros);
        match known {
            Some((range, day)) if range.contains(instant) => Some(day),
            _ => {
                let day = instant.day_in(timezone)?;
                known = Some((Every::Day.interval_of(instant, timezone), day));
                Some(day)
            }
        }
    });
    let days: Date32Array = days.collect();
    Ok(Arc::new(days))
}

/// How `declared` differs from the table that exists.
#[derive(Debug, PartialEq)]
pub enum SchemaChange {
    None,
    Widen {
        /// Nullable columns to append, in their declared order.
        added: Vec<Field>,
        /// Columns that the table has as not null and the model no longer requires.
        relaxed: Vec<Field>,
    },
}

/// What must be done so that `declared` rows fit the `existing` table. Fails on anything but new
/// nullable columns and columns that become nullable, naming each difference. A column that the
/// model requires and the table does not stays nullable: its old rows may hold nulls.
pub fn schema_change(
    name: &TableName,
    existing: &Schema,
    declared: &Schema,
) -> Result<SchemaChange> {
    let (mut added, mut relaxed) = (Vec::new(), Vec::new());
    let mut refused = Vec::new();
    for field in declared.fields() {
        match existing.field_with_name(field.name()) {
            Ok(old) if !same_type(old.data_type(), field.data_type()) => refused.push(format!(
                "`{}` is {} in the table and {} in the model",
                field.name(),
                old.data_type(),
                field.data_type()
            )),
            Ok(old) if field.is_nullable() && !old.is_nullable() => {
                relaxed.push(old.clone().with_nullable(true));
            }
            Ok(_) => {}
            Err(_) if field.is_nullable() => added.push(field.as_ref().clone()),
            Err(_) => refused.push(format!("new column `{}` is not_null", field.name())),
        }
    }
    for field in existing.fields() {
        if field.name() != DAY_COLUMN && declared.field_with_name(field.name()).is_err() {
            refused.push(format!("column `{}` is gone from the model", field.name()));
        }
    }
    if !refused.is_empty() {
        return Err(Error::invalid(format!(
            "the schema of `{name}` does not fit: {}",
            refused.join("; ")
        ))
        .hint(anew(name, "only nullable columns can be added in place")));
    }
    let fits = added.is_empty() && relaxed.is_empty();
    Ok(if fits { SchemaChange::None } else { SchemaChange::Widen { added, relaxed } })
}

/// What to do about a table that a model no longer fits.
fn anew(name: &TableName, why: &str) -> String {
    match name.layer {
        Layer::Bronze => format!(
            "{why}; `flowguard ingest {name} --full-refresh` writes the table anew by its header, \
             and keeps its rows"
        ),
        Layer::Silver | Layer::Gold => {
            format!("{why}; `flowguard run {name} --full-refresh` makes the table anew")
        }
    }
}

/// Fails if the rows of a table are laid out by another header. `recorded` is `None` in tables that
/// were made before it was recorded.
pub fn check_shape(spec: &TableSpec, recorded: Option<&str>, partitions: &[String]) -> Result<()> {
    let differs = match recorded {
        Some(recorded) => recorded != spec.shape,
        None => partitions != spec.partition_columns(),
    };
    if !differs {
        return Ok(());
    }
    let by = recorded.unwrap_or("another `partition_by`");
    let message = format!(
        "the rows of `{}` were laid out by {by}, and its header says {}",
        spec.name, spec.shape
    );
    Err(Error::invalid(message).hint(anew(&spec.name, "put the header back")))
}

/// Equal but for how strings and lists are held in memory.
fn same_type(a: &DataType, b: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, List, Struct, Utf8, Utf8View};
    match (a, b) {
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        (List(a), List(b)) => same_type(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && same_type(a.data_type(), b.data_type()))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableName {
        "silver.t".parse().unwrap()
    }

    #[test]
    fn the_day_follows_the_time_zone() {
        let times = arrow::array::TimestampMicrosecondArray::from(vec![
            Some(1_767_225_600_000_000), // 2026-01-01T00:00Z
            Some(1_767_225_599_000_000), // one second earlier
            None,
            Some(-1),
        ])
        .with_timezone("UTC");
        let column: ArrayRef = Arc::new(times);
        let days = |timezone| {
            let days = days_of(&column, timezone).unwrap();
            let days = days.as_any().downcast_ref::<Date32Array>().unwrap().clone();
            days.iter().collect::<Vec<_>>()
        };
        assert_eq!(days(Tz::UTC), [Some(20454), Some(20453), None, Some(-1)]);
        assert_eq!(days(Tz::Asia__Tokyo), [Some(20454), Some(20454), None, Some(0)]);
        assert_eq!(days(Tz::America__New_York), [Some(20453), Some(20453), None, Some(-1)]);
    }

    #[test]
    fn a_date_is_its_local_midnight() {
        assert_eq!(midnight(20454, Tz::UTC), 1_767_225_600_000_000);
        assert_eq!(midnight(20454, Tz::Asia__Tokyo), 1_767_193_200_000_000);
    }

    #[test]
    fn a_table_only_gets_wider() {
        let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
        let old = Schema::new(vec![field("a", DataType::Utf8View, false)]);
        let new =
            Schema::new(vec![field("a", DataType::Utf8, false), field("b", DataType::Int64, true)]);
        assert_eq!(schema_change(&table(), &old, &old).unwrap(), SchemaChange::None);
        let added = vec![field("b", DataType::Int64, true)];
        let widened = SchemaChange::Widen { added, relaxed: Vec::new() };
        assert_eq!(schema_change(&table(), &old, &new).unwrap(), widened);
        let nullable = Schema::new(vec![field("a", DataType::Utf8, true)]);
        let relaxed = vec![field("a", DataType::Utf8View, true)];
        let widened = SchemaChange::Widen { added: Vec::new(), relaxed };
        assert_eq!(schema_change(&table(), &old, &nullable).unwrap(), widened);
        assert_eq!(schema_change(&table(), &nullable, &old).unwrap(), SchemaChange::None);
        let bad = Schema::new(vec![
            field("a", DataType::Int64, false),
            field("c", DataType::Int64, false),
        ]);
        let error = schema_change(&table(), &new, &bad).unwrap_err();
        assert_eq!(
            error.message,
            "the schema of `silver.t` does not fit: `a` is Utf8 in the table and Int64 in the \
             model; new column `c` is not_null; column `b` is gone from the model"
        );
    }
}
