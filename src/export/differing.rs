//! Which rows two sides do not share, side by side. First only hashes are compared, then the few
//! rows that differ are fetched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use xxhash_rust::xxh3::xxh3_64;

use super::canonical::{are_close, hashes, is_float};
use super::destination::Destination;
use super::dialect::{Dialect, quoted, row_text};
use super::pair::{Pair, Source};
use super::rows::{self, RowSource};
use crate::engine::storable::conform;
use crate::error::{Error, Result};
use crate::interval::RangeSet;

/// Rows of one side that are compared one by one: some 100 MB of hashes.
pub const ROWS_COMPARED_MAX: u64 = 2_000_000;
/// Keys that are shown.
pub const ROWS_SHOWN_MAX: usize = 10;
/// Rows that are fetched of one side, if the shown keys are not unique.
const ROWS_FETCHED_MAX: usize = 1_000;
/// Longer values are cut.
const VALUE_CHARS_MAX: usize = 200;

/// Rows that are not the same on both sides.
#[derive(Debug, Clone, Default)]
pub struct DifferingRows {
    /// Keys that differ, or rows of a table without a key.
    pub count: u64,
    /// The first of them.
    pub shown: Vec<DifferingRow>,
}

/// Rows of one key, or of a table without one; those that both sides share are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct DifferingRow {
    /// Empty without a key.
    pub key: Values,
    pub lake: Vec<Values>,
    pub target: Vec<Values>,
}

/// Columns and their values as texts.
pub type Values = Vec<(String, Option<String>)>;

/// Compares the rows within `ranges`, or all.
pub async fn differing_rows(
    source: &Source,
    to: &mut Destination,
    pair: &Pair<'_>,
    ranges: Option<&RangeSet>,
) -> Result<DifferingRows> {
    let key = Key::of(pair);
    let mut tallies: HashMap<u64, Tally> = HashMap::new();
    let mut lake = RowSource::open(source, pair, ranges, to.dialect).await?;
    let mut batches = std::pin::pin!(lake.batches());
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        for (key, digest) in key.hashes(&batch)?.into_iter().zip(digests(&batch)?) {
            tallies.entry(key).or_default().add(digest);
        }
    }
    for (key, digest) in of_target(to, pair, ranges, &key).await? {
        tallies.entry(key).or_default().subtract(digest);
    }
    tallies.retain(|_, tally| *tally != Tally::default());
    let differing: BTreeSet<u64> = tallies.into_keys().collect();
    let count = differing.len() as u64;
    let shown: BTreeSet<u64> = differing.into_iter().take(ROWS_SHOWN_MAX).collect();
    if shown.is_empty() {
        return Ok(DifferingRows::default());
    }
    let mut sides: BTreeMap<u64, [Vec<Row>; 2]> = BTreeMap::new();
    let wanted = Wanted { key: &key, hashes: &shown };
    for row in fetch_from_lake(source, to.dialect, pair, ranges, &wanted).await? {
        sides.entry(row.key).or_default()[0].push(row);
    }
    for row in fetch_from_target(to, pair, ranges, &wanted).await? {
        sides.entry(row.key).or_default()[1].push(row);
    }
    let mut shown: Vec<DifferingRow> =
        sides.into_values().filter_map(|[lake, target]| side_by_side(&key, lake, target)).collect();
    shown.sort_by(|one, other| one.order().cmp(&other.order()));
    Ok(DifferingRows { count, shown })
}

/// The rows of one key: how many more the lake has, and the sum of their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    rows: i64,
    digests: u64,
}

impl Tally {
    fn add(&mut self, digest: u64) {
        self.rows += 1;
        self.digests = self.digests.wrapping_add(digest);
    }

    fn subtract(&mut self, digest: u64) {
        self.rows -= 1;
        self.digests = self.digests.wrapping_sub(digest);
    }
}

/// By what rows of the two sides belong together: the model's key, or all that is hashed.
struct Key {
    /// Positions of its columns; empty without one.
    columns: Vec<usize>,
}

impl Key {
    /// A key with floating point, which is not hashed, is none.
    fn of(pair: &Pair<'_>) -> Self {
        let position = |name: &str| {
            let (position, field) = pair.columns.column_with_name(name)?;
            (!is_float(field.data_type())).then_some(position)
        };
        let columns: Option<Vec<usize>> =
            pair.model.key.iter().map(|name| position(&name.value)).collect();
        Self { columns: columns.unwrap_or_default() }
    }

    fn schema(&self, columns: &SchemaRef) -> Result<SchemaRef> {
        if self.columns.is_empty() {
            return Ok(Arc::clone(columns));
        }
        columns.project(&self.columns).map(Arc::new).map_err(unprojected)
    }

    fn hashes(&self, batch: &RecordBatch) -> Result<Vec<u64>> {
        if self.columns.is_empty() {
            return hashes(batch);
        }
        hashes(&batch.project(&self.columns).map_err(unprojected)?)
    }

    fn expression(&self, dialect: &dyn Dialect, columns: &SchemaRef) -> Result<String> {
        Ok(dialect.hash(&row_text(dialect, &self.schema(columns)?)))
    }
}

fn unprojected(source: arrow::error::ArrowError) -> Error {
    Error::internal("a key is not among the columns").source(source)
}

/// Of every row one number for all its values, floating point to the last bit.
fn digests(batch: &RecordBatch) -> Result<Vec<u64>> {
    let mut digests = hashes(batch)?;
    for column in batch.columns().iter().filter(|column| is_float(column.data_type())) {
        mix_floats(&mut digests, column)?;
    }
    Ok(digests.into_iter().map(scattered).collect())
}

fn mix_floats(digests: &mut [u64], column: &dyn Array) -> Result<()> {
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
fn scattered(value: u64) -> u64 {
    xxh3_64(&value.to_le_bytes())
}

fn uncast(source: arrow::error::ArrowError) -> Error {
    Error::invalid("the target gave a value of another type").source(source)
}

/// Key and digest of every row; the hashes are computed there.
async fn of_target(
    to: &mut Destination,
    pair: &Pair<'_>,
    ranges: Option<&RangeSet>,
    key: &Key,
) -> Result<Vec<(u64, u64)>> {
    let dialect = to.dialect;
    let mut outputs = vec![
        key.expression(dialect, &pair.columns)?,
        dialect.hash(&row_text(dialect, &pair.columns)),
    ];
    let floats = pair.columns.fields().iter().filter(|field| is_float(field.data_type()));
    outputs.extend(floats.map(|f| format!("CAST({} AS DOUBLE PRECISION)", quoted(f.name()))));
    let named = outputs.iter().enumerate().map(|(at, output)| format!("{output} AS c{at}"));
    let query = format!(
        "SELECT {} FROM {} WHERE {}",
        named.collect::<Vec<_>>().join(", "),
        dialect.table(&pair.schema, pair.name().name()),
        within(dialect, pair, ranges)?
    );
    let mut found = Vec::new();
    for batch in to.warehouse.query(query).await? {
        let integers = |at: usize| cast(batch.column(at), &DataType::Int64).map_err(uncast);
        let (keys, hashes) = (integers(0)?, integers(1)?);
        let unsigned = |value: i64| value.cast_unsigned();
        let hashes = hashes.as_primitive::<Int64Type>().values();
        let mut digests: Vec<u64> = hashes.iter().copied().map(unsigned).collect();
        for column in &batch.columns()[2..] {
            mix_floats(&mut digests, column)?;
        }
        let keys = keys.as_primitive::<Int64Type>().values().iter().copied().map(unsigned);
        found.extend(keys.zip(digests.into_iter().map(scattered)));
    }
    Ok(found)
}

fn within(dialect: &dyn Dialect, pair: &Pair<'_>, ranges: Option<&RangeSet>) -> Result<String> {
    Ok(match ranges {
        None => "TRUE".to_owned(),
        Some(ranges) => format!("({})", rows::condition(dialect, pair, ranges)?),
    })
}

/// Rows that are fetched.
struct Wanted<'a> {
    key: &'a Key,
    hashes: &'a BTreeSet<u64>,
}

/// A row that was fetched.
struct Row {
    key: u64,
    /// Of all but floating point.
    hash: u64,
    floats: Vec<Option<f64>>,
    values: Values,
}

async fn fetch_from_lake(
    source: &Source,
    dialect: &dyn Dialect,
    pair: &Pair<'_>,
    ranges: Option<&RangeSet>,
    wanted: &Wanted<'_>,
) -> Result<Vec<Row>> {
    let mut lake = RowSource::open(source, pair, ranges, dialect).await?;
    let mut batches = std::pin::pin!(lake.batches());
    let mut rows = Vec::new();
    while rows.len() < ROWS_FETCHED_MAX
        && let Some(batch) = batches.next().await
    {
        rows.extend(wanted.rows(&batch?)?);
    }
    rows.truncate(ROWS_FETCHED_MAX);
    Ok(rows)
}

async fn fetch_from_target(
    to: &mut Destination,
    pair: &Pair<'_>,
    ranges: Option<&RangeSet>,
    wanted: &Wanted<'_>,
) -> Result<Vec<Row>> {
    let dialect = to.dialect;
    let names: Vec<String> = pair.columns.fields().iter().map(|f| quoted(f.name())).collect();
    let hashes: Vec<String> = wanted.hashes.iter().map(u64::to_string).collect();
    let query = format!(
        "SELECT {} FROM {} WHERE {} AND {} IN ({}) LIMIT {ROWS_FETCHED_MAX}",
        names.join(", "),
        dialect.table(&pair.schema, pair.name().name()),
        within(dialect, pair, ranges)?,
        wanted.key.expression(dialect, &pair.columns)?,
        hashes.join(", ")
    );
    // Somebody may have put nulls where the lake has none.
    let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    let columns = Schema::new(pair.columns.fields().iter().map(nullable).collect::<Vec<_>>());
    let columns = Arc::new(columns);
    let mut rows = Vec::new();
    for batch in to.warehouse.query(query).await? {
        rows.extend(wanted.rows(&conform(&batch, &columns)?)?);
    }
    Ok(rows)
}

impl Wanted<'_> {
    /// Those of a batch.
    fn rows(&self, batch: &RecordBatch) -> Result<Vec<Row>> {
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
}

fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// What one side has and the other has not; `None` if that is nothing.
fn side_by_side(key: &Key, mut lake: Vec<Row>, mut target: Vec<Row>) -> Option<DifferingRow> {
    lake.retain(|own| {
        let same = target.iter().position(|theirs| own.is(theirs));
        same.map(|at| target.swap_remove(at)).is_none()
    });
    let first = lake.first().or(target.first())?;
    let key = key.columns.iter().map(|at| first.values[*at].clone()).collect();
    let values = |rows: Vec<Row>| rows.into_iter().map(|row| row.values).collect();
    Some(DifferingRow { key, lake: values(lake), target: values(target) })
}

impl Row {
    /// Whether nothing differs but the last bits of floating point, which a target may round.
    fn is(&self, other: &Row) -> bool {
        let mut floats = self.floats.iter().zip(&other.floats);
        self.hash == other.hash
            && floats.all(|(own, theirs)| match (own, theirs) {
                (Some(own), Some(theirs)) => are_close(*own, *theirs),
                (own, theirs) => own.is_none() && theirs.is_none(),
            })
    }
}

impl DifferingRow {
    fn order(&self) -> (&Values, Option<&Values>) {
        (&self.key, self.lake.first().or(self.target.first()))
    }
}
