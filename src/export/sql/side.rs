//! The side of a target that is asked by SQL: what it holds is computed there, by one statement.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use async_trait::async_trait;
use uuid::Uuid;

use super::destination::SqlDestination;
use super::dialect::{Dialect, grouped_proof_query, quoted, row_text};
use super::shape::proof_of;
use super::wording::condition;
use crate::engine::storable::conform;
use crate::error::{Error, Result};
use crate::export::change::{Held, Move, Reason};
use crate::export::compare::calendar::{Calendar, INTERVALS_MAX, Proofs};
use crate::export::compare::canonical::{Proof, is_float};
use crate::export::compare::keys::{
    Key, ROWS_FETCHED_MAX, Row, Wanted, mix_floats, scattered, uncast,
};
use crate::export::history::Entry;
use crate::export::pair::{Keeper, Pair, Source, nullable};
use crate::export::side::{Holding, MissingRight, Side, column_faults};
use crate::interval::RangeSet;
use crate::table::TableName;

#[async_trait]
impl Side for SqlDestination {
    fn keeper(&self) -> &dyn Keeper {
        &self.statements
    }

    fn run(&self) -> Uuid {
        self.statements.run
    }

    async fn prepare(&mut self) -> Result<()> {
        SqlDestination::prepare(self).await
    }

    async fn missing_rights(&mut self, tables: &[TableName]) -> Result<Vec<MissingRight>> {
        SqlDestination::missing_rights(self, tables).await
    }

    fn driver(&self) -> Option<&Path> {
        Some(self.warehouse.library())
    }

    async fn test(&mut self) -> Result<String> {
        SqlDestination::test(self).await
    }

    async fn held(&mut self, pair: &Pair<'_>) -> Result<Option<Held>> {
        SqlDestination::held(self, pair).await
    }

    async fn foreign_rows(&mut self, pair: &Pair<'_>) -> Result<Option<String>> {
        let table = self.statements.live(pair);
        Ok(self.has_rows(pair).await?.then_some(table))
    }

    async fn fit(&mut self, pair: &Pair<'_>) -> Result<Option<Reason>> {
        Ok((!self.shape(pair).await?).then_some(Reason::TargetGone))
    }

    async fn advance(&mut self, pair: &Pair<'_>, moving: &Move<'_>) -> Result<()> {
        let note = self.statements.note(&self.done(pair, moving, 0));
        self.transaction(pair, moving, None, &[note]).await
    }

    async fn apply(&mut self, source: &Source, pair: &Pair<'_>, moving: &Move<'_>) -> Result<u64> {
        SqlDestination::apply(self, source, pair, moving).await
    }

    async fn holding(&mut self, pair: &Pair<'_>) -> Result<Holding> {
        let found =
            self.texts(self.statements.dialect.columns_of(&pair.schema, &pair.table)).await?;
        if found.is_empty() {
            return Ok(Holding::gone());
        }
        let faults = form_faults(self.statements.dialect, &pair.stored, &found);
        if !faults.is_empty() {
            return Ok(Holding::faulty(faults));
        }
        let table = self.statements.live(pair);
        let proof = Some(self.proof(&table, &pair.stored).await?);
        Ok(Holding { faults, proof })
    }

    async fn interval_proofs(
        &mut self,
        pair: &Pair<'_>,
        calendar: &Calendar<'_>,
        width: i64,
    ) -> Result<Option<Proofs>> {
        let table = self.statements.live(pair);
        let bucket = bucket(self.statements.dialect, pair, calendar, width);
        let query = grouped_proof_query(self.statements.dialect, &table, &pair.stored, &bucket);
        let rows = self.texts(format!("{query} LIMIT {}", INTERVALS_MAX + 1)).await?;
        if rows.len() > INTERVALS_MAX {
            return Ok(None);
        }
        let mut proofs = Proofs::new();
        for row in &rows {
            let unread = || {
                Error::internal(format!(
                    "`{}` gave no proof of {table}",
                    self.statements.target.name
                ))
            };
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

    /// The hashes are computed there.
    async fn digests(
        &mut self,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        key: &Key,
    ) -> Result<Vec<(u64, u64)>> {
        let dialect = self.statements.dialect;
        let mut outputs = vec![
            expression(dialect, key, &pair.stored)?,
            dialect.hash(&row_text(dialect, &pair.stored)),
        ];
        let floats = pair.stored.fields().iter().filter(|field| is_float(field.data_type()));
        outputs.extend(floats.map(|f| format!("CAST({} AS DOUBLE PRECISION)", quoted(f.name()))));
        let named = outputs.iter().enumerate().map(|(at, output)| format!("{output} AS c{at}"));
        let query = format!(
            "SELECT {} FROM {} WHERE {}",
            named.collect::<Vec<_>>().join(", "),
            dialect.table(&pair.schema, &pair.table),
            within(dialect, pair, ranges)?
        );
        let mut found = Vec::new();
        for batch in self.warehouse.query(query).await? {
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

    async fn rows(
        &mut self,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Row>> {
        let dialect = self.statements.dialect;
        let fields = pair.stored.fields().iter();
        let names: Vec<String> =
            fields.map(|f| dialect.fetched(&quoted(f.name()), f.data_type())).collect();
        let hashes: Vec<String> = wanted.hashes.iter().map(u64::to_string).collect();
        let query = format!(
            "SELECT {} FROM {} WHERE {} AND {} IN ({}) LIMIT {ROWS_FETCHED_MAX}",
            names.join(", "),
            dialect.table(&pair.schema, &pair.table),
            within(dialect, pair, ranges)?,
            expression(dialect, wanted.key, &pair.stored)?,
            hashes.join(", ")
        );
        let columns = nullable(&pair.columns);
        let mut rows = Vec::new();
        for batch in self.warehouse.query(query).await? {
            rows.extend(wanted.rows(&conform(&with_instants(&batch, &columns)?, &columns)?)?);
        }
        Ok(rows)
    }

    async fn note(&mut self, entry: &Entry) -> Result<()> {
        SqlDestination::note(self, entry).await
    }

    async fn history(&mut self, tables: &[TableName], limit: usize) -> Result<Vec<Entry>> {
        SqlDestination::history(self, tables, limit).await
    }
}

/// Instants that arrived as numbers.
fn with_instants(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    for (column, field) in columns.iter_mut().zip(wanted.fields()) {
        let is_number = column.data_type().is_numeric();
        if is_number && matches!(field.data_type(), DataType::Timestamp(..)) {
            let micros = cast(column, &DataType::Int64).map_err(uncast)?;
            *column = cast(&micros, field.data_type()).map_err(uncast)?;
        }
    }
    RecordBatch::try_from_iter(batch.schema().fields().iter().map(|f| f.name()).zip(columns))
        .map_err(uncast)
}

fn form_faults(
    dialect: &dyn Dialect,
    columns: &SchemaRef,
    found: &[Vec<Option<String>>],
) -> Vec<String> {
    let fields = columns.fields().iter();
    let types: Vec<String> =
        fields.map(|f| dialect.column_type(f.data_type()).unwrap_or_default()).collect();
    let names = columns.fields().iter().map(|field| field.name().as_str());
    column_faults(names.zip(types.iter().map(String::as_str)), |name| {
        found.iter().find(|row| row[0].as_deref() == Some(name))?[1].as_deref()
    })
}

/// What the target groups by: the day's number, or the instant that begins a step.
fn bucket(dialect: &dyn Dialect, pair: &Pair<'_>, calendar: &Calendar<'_>, width: i64) -> String {
    let text = dialect.text(&quoted(pair.stored_name(calendar.time)), calendar.data_type);
    match calendar.data_type {
        DataType::Date32 => text,
        _ => {
            let micros = format!("CAST({text} AS BIGINT)");
            let rest = format!("({micros} % {width} + {width}) % {width}");
            format!("CAST({micros} - {rest} AS VARCHAR)")
        }
    }
}

fn expression(dialect: &dyn Dialect, key: &Key, columns: &SchemaRef) -> Result<String> {
    Ok(dialect.hash(&row_text(dialect, &key.schema(columns)?)))
}

fn within(dialect: &dyn Dialect, pair: &Pair<'_>, ranges: Option<&RangeSet>) -> Result<String> {
    Ok(match ranges {
        None => "TRUE".to_owned(),
        Some(ranges) => format!("({})", condition(dialect, pair, ranges)?),
    })
}
