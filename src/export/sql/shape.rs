//! A table's form in a target: which columns it has, how it is made, and what may be changed without
//! asking. Builds statements, runs none.

use arrow::datatypes::{DataType, Field, SchemaRef};
use uuid::Uuid;

use super::dialect::{Copying, Dialect, quoted};
use crate::error::{Error, Result};
use crate::export::compare::canonical::{Floats, Proof, is_float};
use crate::export::pair::Pair;
use crate::table::TableName;

const STAGE_PREFIX: &str = "stage_";
/// Some warehouses cut longer names.
const STAGE_NAME_BYTES_MAX: usize = 63;
/// Rows on their way that are older than this were abandoned.
const STAGE_HOURS_MAX: u64 = 24;

/// The statement that makes a table with these columns.
pub fn create(dialect: &dyn Dialect, table: &str, columns: &SchemaRef) -> Result<String> {
    Ok(format!("CREATE TABLE {table} ({})", definitions(dialect, columns)?))
}

/// For whoever doesn't know whether it is there.
pub fn create_if_absent(dialect: &dyn Dialect, table: &str, columns: &SchemaRef) -> Result<String> {
    Ok(format!("CREATE TABLE IF NOT EXISTS {table} ({})", definitions(dialect, columns)?))
}

/// Of rows on their way.
pub fn create_aside(dialect: &dyn Dialect, table: &str, columns: &SchemaRef) -> Result<String> {
    let create = dialect.copying().map_or("CREATE TABLE", Copying::create_table);
    Ok(format!("{create} {table} ({})", definitions(dialect, columns)?))
}

fn definitions(dialect: &dyn Dialect, columns: &SchemaRef) -> Result<String> {
    let columns = columns.fields().iter().map(|field| column(dialect, field));
    Ok(columns.collect::<Result<Vec<_>>>()?.join(", "))
}

fn column(dialect: &dyn Dialect, field: &Field) -> Result<String> {
    let data_type = dialect
        .declared(field.data_type())
        .ok_or_else(|| Error::internal(format!("`{}` has no type in the target", field.name())))?;
    Ok(format!("{} {data_type}", quoted(field.name())))
}

/// What makes the target's table fit: `found` are its columns' names and types, none if there is
/// no table. Anything but a new or a wider column is refused with the statement a person could run.
pub fn statements(
    dialect: &dyn Dialect,
    pair: &Pair<'_>,
    found: &[Vec<Option<String>>],
) -> Result<Vec<String>> {
    let table = dialect.table(&pair.schema, &pair.table);
    if found.is_empty() {
        return Ok(vec![create(dialect, &table, &pair.stored)?]);
    }
    let mut statements = Vec::new();
    for field in pair.stored.fields() {
        let wanted = dialect.column_type(field.data_type()).unwrap_or_default();
        let existing = found
            .iter()
            .find(|row| row.first().is_some_and(|name| name.as_deref() == Some(field.name())));
        match existing.and_then(|row| row.get(1)).and_then(Option::as_deref) {
            Some(existing) if existing == wanted => {}
            Some(existing) => {
                let alter = format!(
                    "ALTER TABLE {table} ALTER COLUMN {} SET DATA TYPE {wanted}",
                    quoted(field.name())
                );
                if is_narrower(dialect, existing, field.data_type()) {
                    statements.push(alter);
                    continue;
                }
                return Err(Error::invalid(format!(
                    "`{}` of {table} is {existing} in the target and {wanted} in the lake",
                    field.name()
                ))
                .hint(format!("{alter}; then export with --full")));
            }
            None => {
                statements
                    .push(format!("ALTER TABLE {table} ADD COLUMN {}", column(dialect, field)?));
            }
        }
    }
    for name in found.iter().filter_map(|row| row.first().and_then(Option::as_deref)) {
        if pair.stored.column_with_name(name).is_none() {
            return Err(Error::invalid(format!(
                "{table} has the column `{name}`, the lake has not"
            ))
            .hint(format!("ALTER TABLE {table} DROP COLUMN {}", quoted(name))));
        }
    }
    Ok(statements)
}

/// Whether a column that the target spells `existing` can become one of `wanted`, and no value
/// changes with it.
fn is_narrower(dialect: &dyn Dialect, existing: &str, wanted: &DataType) -> bool {
    let narrower = match *wanted {
        DataType::Int16 => vec![DataType::Int8],
        DataType::Int32 => vec![DataType::Int8, DataType::Int16],
        DataType::Int64 => vec![DataType::Int8, DataType::Int16, DataType::Int32],
        DataType::Float64 => vec![DataType::Float32],
        DataType::Decimal128(precision, scale) => {
            let scale_min = if dialect.widens_scale() { 0 } else { scale };
            let digits_max = i16::from(precision) - i16::from(scale);
            let of_scale = |scale: i8| {
                (1..=precision)
                    .filter(move |precision| {
                        (0..=digits_max).contains(&(i16::from(*precision) - i16::from(scale)))
                    })
                    .map(move |precision| DataType::Decimal128(precision, scale))
            };
            (scale_min..=scale).flat_map(of_scale).collect()
        }
        _ => Vec::new(),
    };
    narrower.iter().any(|one| dialect.column_type(one).as_deref() == Some(existing))
}

/// Where rows of one table wait during one run.
pub fn stage_name(run: Uuid, table: &TableName) -> String {
    let mut name = format!("{STAGE_PREFIX}{}_{}_{}", run.simple(), table.layer, table.name());
    // Names of tables are ASCII. Of tables whose names begin alike one is on its way at a time.
    name.truncate(STAGE_NAME_BYTES_MAX);
    name
}

/// Whether `name` is a stage whose run began so long before this one that it must have died.
pub fn is_abandoned(name: &str, run: Uuid) -> bool {
    let begun = |run: Uuid| run.get_timestamp().map(|at| at.to_unix().0);
    let name = name.to_lowercase();
    let other = name.strip_prefix(STAGE_PREFIX).and_then(|rest| rest.get(..32));
    let other = other.and_then(|text| Uuid::try_parse(text).ok()).and_then(begun);
    match (other, begun(run)) {
        (Some(other), Some(own)) => other + STAGE_HOURS_MAX * 3600 < own,
        _ => false,
    }
}

/// The text that [`super::dialect::proof_query`] gives.
pub fn proof_of(row: &[Option<String>], columns: &SchemaRef) -> Option<Proof> {
    let mut parts = row.first()?.as_deref()?.split(' ');
    let mut proof = Proof::new(columns);
    proof.rows = parts.next()?.parse().ok()?;
    proof.hash = parts.next()?.parse().ok()?;
    for nulls in &mut proof.nulls {
        *nulls = parts.next()?.parse().ok()?;
    }
    let floats = columns.fields().iter().filter(|field| is_float(field.data_type()));
    for (floats, _) in proof.floats.iter_mut().zip(floats) {
        *floats = Floats {
            sum: parts.next()?.parse().ok()?,
            sum_of_sizes: parts.next()?.parse().ok()?,
            others: parts.next()?.parse().ok()?,
        };
    }
    Some(proof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::DriverKind;
    use crate::export::sql::dialect::dialect;
    use crate::table::Layer;

    #[test]
    fn a_column_is_widened_if_no_value_changes() {
        let widens = |driver, existing, wanted: &DataType| {
            is_narrower(dialect(driver).unwrap(), existing, wanted)
        };
        let (ours, theirs) = (DriverKind::Postgresql, DriverKind::Snowflake);
        assert!(widens(ours, "smallint", &DataType::Int64));
        assert!(widens(ours, "real", &DataType::Float64));
        assert!(!widens(ours, "bigint", &DataType::Int32));
        assert!(!widens(ours, "integer", &DataType::Utf8));
        let wanted = DataType::Decimal128(12, 4);
        assert!(widens(ours, "numeric(10,2)", &wanted));
        assert!(widens(ours, "numeric(8,4)", &wanted));
        assert!(!widens(ours, "numeric(11,2)", &wanted), "a digit before the point is lost");
        assert!(!widens(ours, "numeric(12,5)", &wanted), "a digit after it");
        assert!(widens(theirs, "NUMBER(8,4)", &wanted));
        assert!(!widens(theirs, "NUMBER(10,2)", &wanted), "Snowflake changes no scale");
    }

    #[test]
    fn only_stages_of_long_ago_are_abandoned() {
        let at = |seconds| Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0));
        let name = TableName::new(Layer::Gold, "daily_metrics").unwrap();
        let day = 24 * 3600;
        let old = stage_name(at(1_000), &name);
        assert!(is_abandoned(&old, at(1_000 + day + 1)));
        assert!(!is_abandoned(&old, at(1_000 + day)));
        assert!(!is_abandoned("stage_of_somebody", at(1 << 40)));
        let long = TableName::new(Layer::Gold, &"x".repeat(63)).unwrap();
        assert_eq!(stage_name(at(1_000), &long).len(), 63);
    }
}
