//! What people ask: the one place where SQL of users is planned under their rights, admitted,
//! limited, executed and noted. Flight SQL and HTTP are two ways in; neither plans or runs anything
//! itself.

mod admission;
pub mod figures;
pub mod log;
mod planning;
mod rows;
mod statement;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::{Field, Schema, SchemaRef};
use chrono_tz::Tz;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use admission::AdmissionLimits;
pub use rows::Rows;
pub use statement::{Parameter, Statement};

use self::admission::Admission;
use self::figures::Figures;
use self::log::{Outcome, Record, StatementLog};
use self::planning::Planning;
use crate::access::Principal;
use crate::clock::Clock;
use crate::engine::catalog::{Pins, Unreadable};
use crate::engine::query::Planner;
use crate::engine::{Engine, SessionLimits};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::{Every, Instant, Range};
use crate::lake::Lake;
use crate::model::{CurrentModels, Model, ModelSet};
use crate::source::Source;
use crate::table::{Layer, TableName};

/// Longest statement accepted, in bytes.
pub const SQL_BYTES_MAX: usize = 1 << 20;

/// What one statement may take, and with `admission` how many there may be at once.
#[derive(Debug, Clone)]
pub struct StatementLimits {
    pub admission: AdmissionLimits,
    pub memory_bytes_max: usize,
    pub spill_bytes_max: u64,
    pub rows_max: u64,
    pub run_max: Duration,
    /// How long a result that is being read may wait for its reader.
    pub unread_max: Duration,
}

/// How one session reads names, times and `$start` and `$end`, and limits it chose below those of
/// the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// Where names without a layer are looked for; silver unless set.
    pub layer: Option<Layer>,
    pub timezone: Tz,
    /// Bound to `$start` and `$end`; without it, the last complete day of `timezone`.
    pub range: Option<Range>,
    pub rows_max: Option<u64>,
    pub run_max: Option<Duration>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { layer: None, timezone: Tz::UTC, range: None, rows_max: None, run_max: None }
    }
}

impl Terms {
    fn layer(&self) -> Layer {
        self.layer.unwrap_or(Layer::Silver)
    }
}

/// A table as its users see it.
#[derive(Debug, Clone)]
pub struct TableEntry {
    pub name: TableName,
    pub is_view: bool,
    pub doc: Option<String>,
    /// Columns that identify a row, if the model names any.
    pub key: Vec<String>,
}

impl TableEntry {
    fn of(models: &ModelSet, name: TableName) -> Self {
        let model = models.as_read(&name);
        Self {
            is_view: model.is_some_and(Model::is_view),
            doc: model.and_then(|model| model.doc.clone()),
            key: model.map_or_else(Vec::new, |model| {
                model.key.iter().map(|key| key.value.clone()).collect()
            }),
            name,
        }
    }
}

/// Plans and runs what users ask, and notes it. Cheap to clone.
#[derive(Clone)]
pub struct Statements {
    shared: Arc<Shared>,
}

/// Metadata of a column that carries what its model says of it.
pub const COMMENT_KEY: &str = "comment";

struct Shared {
    lake: Lake,
    engine: Engine,
    models: CurrentModels,
    limits: StatementLimits,
    planning: Planning,
    admission: Admission,
    figures: Figures,
    log: StatementLog,
    /// Statements that run, with whose they are and what ends them.
    under_way: Mutex<HashMap<Uuid, (Arc<Principal>, CancellationToken)>>,
    unreadable: Mutex<BTreeMap<TableName, String>>,
    /// Where plans run, apart from the threads that serve connections.
    executor: Handle,
    /// Microseconds since 1970 UTC.
    clock: Clock,
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Uuid, (Arc<Principal>, CancellationToken)>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self) -> MutexGuard<'_, BTreeMap<TableName, String>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes a statement that was not planned: refused, or given up by its user.
struct Unplanned<'a> {
    statements: &'a Statements,
    principal: &'a Principal,
    sql: &'a str,
    /// Microseconds since 1970 UTC.
    started: i64,
    began: std::time::Instant,
    error: Option<String>,
    is_planned: bool,
}

impl<'a> Unplanned<'a> {
    fn new(statements: &'a Statements, principal: &'a Principal, sql: &'a str) -> Self {
        let started = statements.shared.clock.micros();
        let began = std::time::Instant::now();
        Self { statements, principal, sql, started, began, error: None, is_planned: false }
    }

    /// Planning came to an end, good or bad.
    fn end<T>(&mut self, planned: &Result<T>) {
        self.error = planned.as_ref().err().map(|error| error.message.clone());
        self.is_planned = planned.is_ok();
    }
}

impl Drop for Unplanned<'_> {
    fn drop(&mut self) {
        if self.is_planned {
            return;
        }
        let shared = &self.statements.shared;
        let outcome = if self.error.is_some() { Outcome::Failed } else { Outcome::Cancelled };
        shared.figures.refused();
        shared.log.write(&Record {
            id: Uuid::now_v7(),
            user: self.principal.user.clone(),
            sql: self.sql.to_owned(),
            started: self.started,
            seconds: self.began.elapsed().as_secs_f64(),
            rows: 0,
            bytes: 0,
            outcome,
            error: self.error.take(),
        });
    }
}

/// What statements are run over and with.
pub struct StatementsSetup {
    pub lake: Lake,
    pub engine: Engine,
    pub models: CurrentModels,
    pub limits: StatementLimits,
    pub log: StatementLog,
    pub executor: Handle,
    pub clock: Clock,
}

impl Statements {
    pub fn new(parts: StatementsSetup) -> Self {
        let StatementsSetup { lake, engine, models, limits, log, executor, clock } = parts;
        let planning = Planning::new(&limits.admission);
        let admission = Admission::new(limits.admission.clone());
        let figures = Figures::default();
        let under_way = Mutex::default();
        let shared = Shared {
            lake,
            engine,
            models,
            limits,
            planning,
            admission,
            figures,
            log,
            under_way,
            unreadable: Mutex::default(),
            executor,
            clock,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Plans one statement of `principal`. What it reads is pinned from here on.
    pub async fn plan(
        &self,
        principal: &Arc<Principal>,
        sql: &str,
        terms: &Terms,
    ) -> Result<Statement> {
        let mut unplanned = Unplanned::new(self, principal, sql);
        let planned = self.plan_unnoted(principal, sql, terms).await;
        unplanned.end(&planned);
        planned
    }

    async fn plan_unnoted(
        &self,
        principal: &Arc<Principal>,
        sql: &str,
        terms: &Terms,
    ) -> Result<Statement> {
        if sql.len() > SQL_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("the statement is longer than {SQL_BYTES_MAX} bytes"),
            ));
        }
        let run_max = self.run_max(terms);
        let (this, principal, sql, terms) =
            (self.clone(), Arc::clone(principal), sql.to_owned(), terms.clone());
        let user = principal.user.clone();
        let plan = async move { this.plan_here(principal, &sql, terms).await };
        self.shared.planning.run(&user, run_max, plan).await
    }

    /// How long a statement may be planned, and how long it may run.
    fn run_max(&self, terms: &Terms) -> Duration {
        let limit = self.shared.limits.run_max;
        terms.run_max.map_or(limit, |wanted| wanted.min(limit))
    }

    async fn plan_here(
        &self,
        principal: Arc<Principal>,
        sql: &str,
        terms: Terms,
    ) -> Result<Statement> {
        let shared = &self.shared;
        let session = shared.engine.session_within(&SessionLimits {
            memory_bytes_max: shared.limits.memory_bytes_max,
            spill_bytes_max: shared.limits.spill_bytes_max,
            layer: terms.layer(),
            timezone: terms.timezone,
        })?;
        let source = Source::new("query", sql);
        let may_read = |name: &TableName| principal.may_read(name);
        let models = shared.models.get();
        let planner = self.planner(&models, &may_read, terms.layer());
        let query = planner.plan(session, &source).await?;
        self.note(&query.pins, &query.unreadable);
        let range = terms.range.unwrap_or_else(|| self.last_day(terms.timezone));
        Statement::new(self.clone(), principal, source, terms, range, query).await
    }

    fn planner<'a>(
        &'a self,
        models: &'a ModelSet,
        may_read: &'a (dyn Fn(&TableName) -> bool + Send + Sync),
        layer: Layer,
    ) -> Planner<'a> {
        let shared = &self.shared;
        Planner { engine: &shared.engine, lake: &shared.lake, models, may_read, layer }
    }

    /// The last complete day before now.
    fn last_day(&self, timezone: Tz) -> Range {
        let today = Every::Day.interval_of(self.shared.clock.now(), timezone);
        Every::Day.interval_of(Instant(today.start.0 - 1), timezone)
    }

    /// Every table that `principal` may read, by name.
    pub async fn tables(&self, principal: &Principal) -> Result<Vec<TableEntry>> {
        let may_read = |name: &TableName| principal.may_read(name);
        let models = self.shared.models.get();
        let names = self.planner(&models, &may_read, Layer::Silver).tables().await?;
        let entry = |name: TableName| TableEntry::of(&models, name);
        Ok(names.into_iter().map(entry).collect())
    }

    /// The columns of a table, as a statement over it gives them, with what its model says of them
    /// under [`COMMENT_KEY`].
    pub async fn schema(&self, principal: &Arc<Principal>, name: &TableName) -> Result<SchemaRef> {
        // The name is an identifier; nothing else goes into the text.
        let sql = format!("SELECT * FROM {name}");
        let statement = self.plan_unnoted(principal, &sql, &Terms::default()).await?;
        let models = self.shared.models.get();
        let docs: HashMap<&str, &str> = models
            .as_read(name)
            .into_iter()
            .flat_map(|model| &model.columns)
            .filter_map(|(column, _)| Some((column.name.as_str(), column.doc.as_deref()?)))
            .collect();
        let fields = statement.schema().fields().iter().map(|field| {
            let mut field: Field = field.as_ref().clone();
            if let Some(doc) = docs.get(field.name().as_str()) {
                field.set_metadata([(COMMENT_KEY.to_owned(), (*doc).to_owned())].into());
            }
            field
        });
        Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    /// Cancels what runs for everybody who may not go on.
    pub fn cancel_unless(&self, may_go_on: impl Fn(&Principal) -> bool) {
        for (principal, stop) in self.shared.under_way().values() {
            if !may_go_on(principal) && !stop.is_cancelled() {
                tracing::info!(
                    user = principal.user,
                    "a statement is cancelled with its user's rights"
                );
                stop.cancel();
            }
        }
    }

    /// Remembers which tables cannot be read; what is new is said in the log.
    fn note(&self, read: &Pins, unreadable: &Unreadable) {
        let mut known = self.shared.unreadable();
        known.retain(|name, _| !read.contains_key(name));
        for (name, error) in unreadable {
            if known.insert(name.clone(), error.line()).is_none() {
                tracing::warn!(table = %name, %error, "a table cannot be read");
            }
        }
    }

    /// Opens every table of the lake, as a statement over it would.
    pub async fn look_at_tables(&self) -> Result<()> {
        let lake = &self.shared.lake;
        let (mut read, mut unreadable) = (Pins::new(), Unreadable::new());
        let names = lake.tables().await?;
        for name in &names {
            let opened = async {
                let Some(table) = lake.snapshot(name).await? else { return Ok(None) };
                table.provider().await.map(|_| Some(table))
            };
            match opened.await {
                Ok(table) => read.extend(table.map(|table| (name.clone(), table))),
                Err(error) => drop(unreadable.insert(name.clone(), error)),
            }
        }
        self.shared.unreadable().retain(|name, _| names.contains(name));
        self.note(&read, &unreadable);
        Ok(())
    }

    /// Tables that could not be read when they were last looked at, and why.
    pub fn unreadable(&self) -> BTreeMap<TableName, String> {
        self.shared.unreadable().clone()
    }

    pub fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    pub fn running(&self) -> usize {
        self.shared.admission.running()
    }

    pub fn waiting(&self) -> usize {
        self.shared.admission.waiting()
    }

    /// Of all plans that the engine runs now.
    pub fn memory_bytes(&self) -> usize {
        self.shared.engine.memory_bytes()
    }

    pub fn limits(&self) -> &StatementLimits {
        &self.shared.limits
    }
}
