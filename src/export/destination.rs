//! A target's side of an export: its ledger, rows on their way, and the one transaction that
//! publishes them.

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use uuid::Uuid;

use super::canonical::Proof;
use super::change::{Held, Move};
use super::dialect::{Dialect, literal, proof_query, quoted};
use super::history::{self, Entry, HISTORY};
use super::pair::{Pair, Source};
use super::rows::{self, RowSource};
use super::shape;
use super::side::{Side, conflict};
use crate::dag::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Instant;
use crate::table::TableName;
use crate::warehouse::Warehouse;

/// Schema of the ledger and of rows on their way, in the target.
pub(super) const OWN_SCHEMA: &str = "flowguard";
pub(super) const LEDGER: &str = "exports";
/// Of a row in the ledger whose table was not exported yet.
const SEED_VERSION: i64 = -1;
/// Rows on their way that are older than this were abandoned.
const STAGE_HOURS_MAX: u64 = 24;

/// Where they go.
pub struct SqlDestination {
    pub target: Target,
    pub(super) dialect: &'static dyn Dialect,
    pub(super) warehouse: Warehouse,
    /// Of this process; marks what it writes.
    pub(super) run: Uuid,
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
        Self { target, dialect, warehouse, run, scratch }
    }

    /// Makes a ledger and a history, and drops rows that an earlier process abandoned.
    pub async fn prepare(&mut self) -> Result<()> {
        let tables = self
            .texts(format!(
                "SELECT CAST(table_name AS VARCHAR) FROM information_schema.tables \
                 WHERE table_schema = {}",
                literal(&self.target.identifier(OWN_SCHEMA))
            ))
            .await?;
        let tables: Vec<String> = tables.into_iter().flatten().flatten().collect();
        let past = self.own(HISTORY);
        if ![LEDGER, HISTORY].iter().all(|own| tables.contains(&self.target.identifier(own))) {
            self.make_ledger(&past).await?;
        }
        if let Some(began) = self.run.get_timestamp().map(|at| at.to_unix().0) {
            let now = Instant(i64::try_from(began).unwrap_or_default().saturating_mul(1_000_000));
            self.warehouse.execute(history::prune(self.dialect, &past, now)).await?;
        }
        for name in tables.iter().filter(|n| shape::is_abandoned(n, self.run, STAGE_HOURS_MAX)) {
            let table = self.own(name);
            self.warehouse.execute(format!("DROP TABLE IF EXISTS {table}")).await?;
        }
        Ok(())
    }

    async fn make_ledger(&mut self, past: &str) -> Result<()> {
        self.make_schema(&self.target.identifier(OWN_SCHEMA)).await?;
        let text = self.dialect.declared(&arrow::datatypes::DataType::Utf8).unwrap_or_default();
        let ledger = self.own(LEDGER);
        self.warehouse
            .execute(format!(
                "CREATE TABLE IF NOT EXISTS {ledger} (table_name {text} PRIMARY KEY, \
                 table_id {text} NOT NULL, version BIGINT NOT NULL, run {text} NOT NULL, \
                 row_count BIGINT NOT NULL, exported_at {} NOT NULL)",
                history::time_type(self.dialect)
            ))
            .await?;
        self.warehouse.execute(history::create(self.dialect, past)).await.map(drop)
    }

    /// Only if there is none: whoever may not make schemas may use one that was made for them.
    async fn make_schema(&mut self, schema: &str) -> Result<()> {
        let query = format!(
            "SELECT 1 FROM information_schema.schemata WHERE schema_name = {}",
            literal(schema)
        );
        if self.texts(query).await?.is_empty() {
            let create = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema));
            self.warehouse.execute(create).await?;
        }
        Ok(())
    }

    pub(super) async fn held(&mut self, pair: &Pair<'_>) -> Result<Option<Held>> {
        let rows = self
            .texts(format!(
                "SELECT table_id, CAST(version AS VARCHAR) FROM {} WHERE table_name = {} \
                 AND version <> {SEED_VERSION}",
                self.own(LEDGER),
                literal(&self.key(pair))
            ))
            .await?;
        let Some([Some(table_id), Some(version)]) = rows.first().map(Vec::as_slice) else {
            return Ok(None);
        };
        let version = version.parse().map_err(|source| {
            Error::invalid(format!("the ledger of `{}` holds no version", self.target.name))
                .source(source)
        })?;
        Ok(Some(Held { table_id: table_id.clone(), version }))
    }

    /// The table's name in the ledger: several layers may share a schema.
    fn key(&self, pair: &Pair<'_>) -> String {
        format!("{}.{}", pair.schema, pair.table)
    }

    /// A table of FlowGuard's own schema.
    pub(super) fn own(&self, table: &str) -> String {
        self.dialect.table(&self.target.identifier(OWN_SCHEMA), &self.target.identifier(table))
    }

    pub(super) async fn has_rows(&mut self, pair: &Pair<'_>) -> Result<bool> {
        if self.texts(self.dialect.columns_of(&pair.schema, &pair.table)).await?.is_empty() {
            return Ok(false);
        }
        let table = self.dialect.table(&pair.schema, &pair.table);
        Ok(!self.texts(format!("SELECT 1 FROM {table} LIMIT 1")).await?.is_empty())
    }

    /// Creates the table or adds columns; false if it was not there.
    pub(super) async fn shape(&mut self, pair: &Pair<'_>) -> Result<bool> {
        let found = self.texts(self.dialect.columns_of(&pair.schema, &pair.table)).await?;
        let statements = shape::statements(self.dialect, pair, &found)?;
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
        let stage = shape::stage_name(self.run, pair.name());
        let table = self.own(&stage);
        let create = shape::create_aside(self.dialect, &table, &pair.stored)?;
        self.warehouse.execute(format!("DROP TABLE IF EXISTS {table}")).await?;
        self.warehouse.execute(create).await?;
        let applied = self.load_and_publish(source, pair, moving, &stage).await;
        let dropped = self.warehouse.execute(format!("DROP TABLE IF EXISTS {table}")).await;
        let rows = applied?;
        dropped?;
        Ok(rows)
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
        self.load(stage, &pair.stored, rows.stream().boxed()).await?;
        let sent = rows.proof();
        let staged = self.own(stage);
        let arrived = self.proof(&staged, &pair.stored).await?;
        let differences = sent.differences(&arrived, &pair.columns);
        if !differences.is_empty() {
            return Err(Error::new(
                ErrorKind::DataLoss,
                format!(
                    "`{}` did not arrive in `{}` as it was sent: {}",
                    pair.name(),
                    self.target.name,
                    differences.join("; ")
                ),
            )
            .hint("nothing was published; the driver or the target changes values"));
        }
        let live = self.dialect.table(&pair.schema, &pair.table);
        let names: Vec<String> = pair.stored.fields().iter().map(|f| quoted(f.name())).collect();
        let names = names.join(", ");
        let condition = match ranges {
            None => String::new(),
            Some(ranges) => format!(" WHERE {}", rows::condition(self.dialect, pair, ranges)?),
        };
        let statements = [
            format!("DELETE FROM {live}{condition}"),
            format!("INSERT INTO {live} ({names}) SELECT {names} FROM {staged}"),
            self.noted(pair, moving, sent.rows),
        ];
        self.transaction(pair, moving, Some(sent.rows), &statements).await?;
        Ok(sent.rows)
    }

    /// A row of the ledger that a first export moves on. It is there before the transaction, since
    /// not every warehouse keeps two exporters from inserting the same row, but all of them keep
    /// two from updating it.
    fn seed(&self, pair: &Pair<'_>) -> String {
        let ledger = self.own(LEDGER);
        let key = literal(&self.key(pair));
        format!(
            "INSERT INTO {ledger} SELECT {key}, '', {SEED_VERSION}, {}, 0, CURRENT_TIMESTAMP \
             FROM (SELECT 1 AS one) AS seed \
             WHERE NOT EXISTS (SELECT 1 FROM {ledger} WHERE table_name = {key})",
            literal(&self.run.to_string())
        )
    }

    /// Moves the ledger from what was found to what is written now. Of two exporters at once, the
    /// second changes nothing here.
    fn claim(&self, pair: &Pair<'_>, held: Option<&Held>, rows: Option<u64>) -> String {
        let ledger = self.own(LEDGER);
        let (key, id) = (literal(&self.key(pair)), literal(pair.snapshot.id()));
        let (version, run) = (pair.snapshot.version(), literal(&self.run.to_string()));
        let rows = rows.map_or(String::new(), |rows| format!(" row_count = {rows},"));
        let (held_id, held_version) = match held {
            None => (literal(""), SEED_VERSION.to_string()),
            Some(held) => (literal(&held.table_id), held.version.to_string()),
        };
        format!(
            "UPDATE {ledger} SET table_id = {id}, version = {version},{rows} run = {run}, \
             exported_at = CURRENT_TIMESTAMP WHERE table_name = {key} \
             AND table_id = {held_id} AND version = {held_version}"
        )
    }

    /// The statement that writes an export into the history.
    pub(super) fn noted(&self, pair: &Pair<'_>, moving: &Move<'_>, rows: u64) -> String {
        let entry = self.done(pair, moving, rows);
        history::insert(&self.own(HISTORY), &entry)
    }

    pub(super) async fn note(&mut self, entry: &Entry) -> Result<()> {
        let statement = history::insert(&self.own(HISTORY), entry);
        self.warehouse.execute(statement).await.map(drop)
    }

    /// The newest entries about `tables`, newest first.
    pub async fn history(&mut self, tables: &[TableName], limit: usize) -> Result<Vec<Entry>> {
        let table = self.own(HISTORY);
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        let rows = self.texts(history::query(self.dialect, &table, &names, limit)).await?;
        let entry = |row: &Vec<Option<String>>| {
            history::entry(row).ok_or_else(|| {
                Error::invalid(format!("the history of `{}` cannot be read", self.target.name))
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
            self.warehouse.execute(self.seed(pair)).await?;
        }
        let claim = self.claim(pair, moving.held, rows);
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
                self.own(LEDGER),
                literal(&self.key(pair))
            ))
            .await?;
        let own = [Some(self.run.to_string()), Some(pair.snapshot.version().to_string())];
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
        let rows = self.texts(proof_query(self.dialect, table, columns)).await?;
        shape::proof_of(rows.first().map_or(&[], Vec::as_slice), columns).ok_or_else(|| {
            Error::internal(format!("`{}` gave no proof of {table}", self.target.name))
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
