//! A target's side of an export: its ledger, rows on their way, and the one transaction that
//! publishes them.

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use uuid::Uuid;

use super::dialect::{Dialect, proof_query};
use super::history;
use super::part_files::remove_abandoned;
use super::shape;
use super::wording::{Claim, LEDGER, OWN_SCHEMA, SEED_VERSION, Statements};
use crate::dag::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::export::change::{Held, Move};
use crate::export::compare::canonical::Proof;
use crate::export::history::{Entry, HISTORY};
use crate::export::pair::{Pair, Source};
use crate::export::rows::{RowSource, time_of};
use crate::export::side::{Side, conflict};
use crate::interval::Instant;
use crate::table::TableName;
use crate::warehouse::Warehouse;

/// A warehouse as a target of exports, in one session.
pub struct SqlDestination {
    pub(super) statements: Statements,
    pub(super) warehouse: Warehouse,
    /// Folder for files on their way.
    pub(super) scratch: PathBuf,
}

impl SqlDestination {
    /// As it is: [`Self::prepare`] makes it fit for exports.
    pub fn new(
        target: Target,
        dialect: &'static dyn Dialect,
        warehouse: Warehouse,
        run: Uuid,
        scratch: PathBuf,
    ) -> Self {
        Self { statements: Statements { target, dialect, run }, warehouse, scratch }
    }

    /// Makes a ledger and a history, and drops rows that an earlier process abandoned.
    pub async fn prepare(&mut self) -> Result<()> {
        let tables = self
            .texts(format!(
                "SELECT CAST(table_name AS VARCHAR) FROM information_schema.tables \
                 WHERE table_schema = {}",
                self.statements.dialect.literal(&self.statements.target.identifier(OWN_SCHEMA))
            ))
            .await?;
        let tables: Vec<String> = tables.into_iter().flatten().flatten().collect();
        let past = self.statements.own(HISTORY);
        if ![LEDGER, HISTORY]
            .iter()
            .all(|own| tables.contains(&self.statements.target.identifier(own)))
        {
            self.make_schema(&self.statements.target.identifier(OWN_SCHEMA)).await?;
            for statement in self.statements.create_own() {
                self.warehouse.execute(statement).await?;
            }
        }
        if let Some(began) = self.statements.run.get_timestamp().map(|at| at.to_unix().0) {
            let now = Instant(i64::try_from(began).unwrap_or_default().saturating_mul(1_000_000));
            self.warehouse.execute(history::prune(self.statements.dialect, &past, now)).await?;
        }
        if self.statements.dialect.copying().is_some() {
            remove_abandoned(&self.scratch, self.statements.run);
        }
        for name in tables.iter().filter(|n| shape::is_abandoned(n, self.statements.run)) {
            let table = self.statements.own(name);
            self.warehouse.execute(format!("DROP TABLE IF EXISTS {table}")).await?;
        }
        Ok(())
    }

    /// Only if there is none: whoever may not make schemas may use one that was made for them.
    async fn make_schema(&mut self, schema: &str) -> Result<()> {
        let query = format!(
            "SELECT 1 FROM information_schema.schemata WHERE schema_name = {}",
            self.statements.dialect.literal(schema)
        );
        if self.texts(query).await?.is_empty() {
            self.warehouse.execute(self.statements.create_schema(schema)).await?;
        }
        Ok(())
    }

    /// As the ledger has it; `None` until a first export is published.
    pub(super) async fn held(&mut self, pair: &Pair<'_>) -> Result<Option<Held>> {
        let rows = self
            .texts(format!(
                "SELECT table_id, CAST(version AS VARCHAR) FROM {} WHERE table_name = {} \
                 AND version <> {SEED_VERSION}",
                self.statements.own(LEDGER),
                self.statements.key(pair)
            ))
            .await?;
        let Some([Some(table_id), Some(version)]) = rows.first().map(Vec::as_slice) else {
            return Ok(None);
        };
        let version = version.parse().map_err(|source| {
            Error::invalid(format!(
                "the ledger of `{}` holds no version",
                self.statements.target.name
            ))
            .source(source)
        })?;
        Ok(Some(Held { table_id: table_id.clone(), version }))
    }

    /// Whether the table that readers see is there and has a row.
    pub(super) async fn has_rows(&mut self, pair: &Pair<'_>) -> Result<bool> {
        if self
            .texts(self.statements.dialect.columns_of(&pair.schema, &pair.table))
            .await?
            .is_empty()
        {
            return Ok(false);
        }
        let table = self.statements.live(pair);
        Ok(!self.texts(format!("SELECT 1 FROM {table} LIMIT 1")).await?.is_empty())
    }

    /// Creates the table or adds columns; false if it was not there.
    pub(super) async fn shape(&mut self, pair: &Pair<'_>) -> Result<bool> {
        let found =
            self.texts(self.statements.dialect.columns_of(&pair.schema, &pair.table)).await?;
        let statements = shape::statements(self.statements.dialect, pair, &found)?;
        if found.is_empty() {
            self.make_schema(&pair.schema).await?;
        }
        for statement in statements {
            self.warehouse.execute(statement).await?;
        }
        Ok(!found.is_empty())
    }

    /// Loads rows aside, proves them, and puts them in place of the old ones together with the
    /// ledger.
    pub(super) async fn apply(
        &mut self,
        source: &Source,
        pair: &Pair<'_>,
        moving: &Move<'_>,
    ) -> Result<u64> {
        if moving.ranges().is_some() {
            self.index(pair).await?;
        }
        let stage = shape::stage_name(self.statements.run, pair.name());
        let table = self.statements.own(&stage);
        let create = shape::create_aside(self.statements.dialect, &table, &pair.stored)?;
        self.warehouse.execute(format!("DROP TABLE IF EXISTS {table}")).await?;
        self.warehouse.execute(create).await?;
        let applied = self.load_and_publish(source, pair, moving, &stage).await;
        let dropped = self.warehouse.execute(format!("DROP TABLE IF EXISTS {table}")).await;
        let rows = applied?;
        dropped?;
        Ok(rows)
    }

    /// Makes the rows of intervals quick to find, from the first time that some are replaced.
    async fn index(&mut self, pair: &Pair<'_>) -> Result<()> {
        let time = pair.stored_name(time_of(pair)?);
        let query = self.statements.dialect.index_of(&pair.schema, &pair.table, time);
        let Some(query) = query else { return Ok(()) };
        for statement in self.texts(query).await?.into_iter().flatten().flatten() {
            self.warehouse.execute(statement).await?;
        }
        Ok(())
    }

    async fn load_and_publish(
        &mut self,
        source: &Source,
        pair: &Pair<'_>,
        moving: &Move<'_>,
        stage: &str,
    ) -> Result<u64> {
        let ranges = moving.ranges();
        let mut rows = RowSource::open(source, pair, ranges).await?;
        let batches = rows.stream().map(|batch| pair.renamed(&batch?));
        self.load(stage, &pair.stored, batches.boxed()).await?;
        let sent = rows.proof();
        let staged = self.statements.own(stage);
        let arrived = self.proof(&staged, &pair.stored).await?;
        let differences = sent.differences(&arrived, &pair.columns);
        if !differences.is_empty() {
            return Err(Error::new(
                ErrorKind::DataLoss,
                format!(
                    "`{}` did not arrive in `{}` as it was sent: {}",
                    pair.name(),
                    self.statements.target.name,
                    differences.join("; ")
                ),
            )
            .hint("nothing was published; the driver or the target changes values"));
        }
        let [delete, insert] = self.statements.replace(pair, &staged, ranges)?;
        let note = self.statements.note(&self.done(pair, moving, sent.rows));
        let statements = [delete, insert, note];
        self.transaction(pair, moving, Some(sent.rows), &statements).await?;
        Ok(sent.rows)
    }

    /// In a transaction of its own: also for an export whose transaction came to nothing.
    pub(super) async fn note(&mut self, entry: &Entry) -> Result<()> {
        self.warehouse.execute(self.statements.note(entry)).await.map(drop)
    }

    /// The newest entries about `tables`, newest first.
    pub async fn history(&mut self, tables: &[TableName], limit: usize) -> Result<Vec<Entry>> {
        let table = self.statements.own(HISTORY);
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        let rows =
            self.texts(history::query(self.statements.dialect, &table, &names, limit)).await?;
        let entry = |row: &Vec<Option<String>>| {
            history::entry(row).ok_or_else(|| {
                Error::invalid(format!(
                    "the history of `{}` cannot be read",
                    self.statements.target.name
                ))
                .hint(format!("DROP TABLE {table} makes room for a new one"))
            })
        };
        rows.iter().map(entry).collect()
    }

    /// Moves the ledger and runs what follows as one transaction.
    pub(super) async fn transaction(
        &mut self,
        pair: &Pair<'_>,
        moving: &Move<'_>,
        rows: Option<u64>,
        others: &[String],
    ) -> Result<()> {
        if moving.held.is_none() {
            self.warehouse.execute(self.statements.seed(pair)).await?;
        }
        let claim = self.statements.claim(pair, &Claim::From(moving.held), rows);
        self.warehouse.execute("BEGIN TRANSACTION").await?;
        let worked = self.within_transaction(&claim, others, pair).await;
        if let Err(error) = worked {
            // A broken pipe has rolled back by itself.
            let _ = self.warehouse.execute("ROLLBACK").await;
            return Err(error);
        }
        self.warehouse.execute("COMMIT").await.map(drop)
    }

    async fn within_transaction(
        &mut self,
        claim: &str,
        others: &[String],
        pair: &Pair<'_>,
    ) -> Result<()> {
        self.warehouse.execute(claim).await?;
        let owners = self
            .texts(format!(
                "SELECT run, CAST(version AS VARCHAR) FROM {} WHERE table_name = {} \
                 AND version <> {SEED_VERSION}",
                self.statements.own(LEDGER),
                self.statements.key(pair)
            ))
            .await?;
        let own =
            [Some(self.statements.run.to_string()), Some(pair.snapshot.version().to_string())];
        if owners.is_empty() || owners.iter().any(|owner| owner.as_slice() != own.as_slice()) {
            return Err(conflict(pair));
        }
        for statement in others {
            self.warehouse.execute(statement.as_str()).await?;
        }
        Ok(())
    }

    /// What the target holds in `table`, by one statement.
    pub(super) async fn proof(&mut self, table: &str, columns: &SchemaRef) -> Result<Proof> {
        let rows = self.texts(proof_query(self.statements.dialect, table, columns)).await?;
        shape::proof_of(rows.first().map_or(&[], Vec::as_slice), columns).ok_or_else(|| {
            Error::internal(format!("`{}` gave no proof of {table}", self.statements.target.name))
        })
    }

    /// A small result, as texts.
    pub(super) async fn texts(&mut self, sql: String) -> Result<Vec<Vec<Option<String>>>> {
        let batches = self.warehouse.query(sql).await?;
        let options = FormatOptions::default();
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<ArrayFormatter<'_>> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect::<std::result::Result<_, _>>()
                .map_err(|source| Error::internal("a result has no texts").source(source))?;
            for row in 0..batch.num_rows() {
                let cell = |(column, formatter): (usize, &ArrayFormatter<'_>)| {
                    let is_null = batch.column(column).is_null(row);
                    (!is_null).then(|| formatter.value(row).to_string())
                };
                rows.push(columns.iter().enumerate().map(cell).collect());
            }
        }
        Ok(rows)
    }
}
