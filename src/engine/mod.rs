//! The only builder of a DataFusion session: memory, spill, parallelism, dialect and what SQL may
//! do are decided here. Executes plans; commits nothing.

mod ast;
mod bounded_planner;
mod budget;
pub mod catalog;
mod cooperate;
mod data_files;
pub mod doubled;
pub mod fault;
pub mod frugal;
mod growth;
pub mod hash;
pub mod interval;
pub mod json;
pub mod patience;
mod pool;
pub mod query;
mod rules;
mod shape;
pub mod storable;
mod veil;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono_tz::Tz;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider,
};
use datafusion::common::ParamValues;
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement;

use self::budget::Budget;
use self::fault::engine_error;
use self::pool::Pool;
pub use self::rules::parsed;
use crate::error::Result;
use crate::interval::Range;
use crate::table::Layer;

/// Name of the one catalog; SQL says `silver.orders`, never this.
pub const CATALOG: &str = "lake";
/// How many of the largest memory users an out-of-memory error names.
const MEMORY_CONSUMERS_SHOWN: usize = 3;
/// Of the whole, each thread's sorts keep this part to merge by, up to DataFusion's 10 MiB.
const SORT_PART: usize = 32;
/// Pairs of layer and time zone whose sessions begin as copies.
const BEGUN_MAX: usize = 32;

/// What all sessions of an engine share.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Shared by all plans that run at once; operators spill past it.
    pub memory_bytes_max: usize,
    /// Where they spill to; the system's temporary folder if absent.
    pub spill_dir: Option<PathBuf>,
    /// Parallelism of one plan.
    pub threads: usize,
}

/// Builds sessions that share one bounded pool of memory and spill space. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    spill_dir: Option<PathBuf>,
    threads: usize,
    memory_bytes_max: usize,
    begun: Arc<Mutex<HashMap<(Layer, Tz), SessionState>>>,
}

/// What one statement may take, and how it reads names and times.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    pub memory_bytes_max: usize,
    pub spill_bytes_max: u64,
    /// Where names without a layer are looked for.
    pub layer: Layer,
    /// Of times that are written without one.
    pub timezone: Tz,
}

impl Engine {
    /// Makes the spill folder if its parent is there, and fails if it cannot. 0 threads count as 1.
    pub fn new(options: &EngineOptions) -> Result<Self> {
        let pool = TrackConsumersPool::new(
            Pool::new(options.memory_bytes_max),
            std::num::NonZeroUsize::new(MEMORY_CONSUMERS_SHOWN).expect("3 is not 0"),
        );
        let mut builder = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool));
        if let Some(folder) = &options.spill_dir {
            builder = builder.with_temp_file_path(folder);
        }
        let runtime =
            builder.build_arc().map_err(|error| engine_error("cannot start the engine", error))?;
        Ok(Self {
            runtime,
            spill_dir: options.spill_dir.clone(),
            threads: options.threads.max(1),
            memory_bytes_max: options.memory_bytes_max,
            begun: Arc::default(),
        })
    }

    /// A session with the three layers as empty schemas.
    pub fn session(&self) -> SessionContext {
        on_own_tables(self.state(self.config(Layer::Silver)))
    }

    /// A session of one statement, with limits of its own inside those of all: its plans are
    /// executed with [`task_of`].
    pub fn session_within(&self, limits: &SessionLimits) -> Result<SessionContext> {
        let mut runtime = (*self.runtime).clone();
        runtime.memory_pool =
            Arc::new(Budget::new(Arc::clone(&runtime.memory_pool), limits.memory_bytes_max));
        let mut disk =
            DiskManagerBuilder::default().with_max_temp_directory_size(limits.spill_bytes_max);
        if let Some(folder) = &self.spill_dir {
            disk.set_mode(DiskManagerMode::Directories(vec![folder.clone()]));
        }
        let disk = disk.build().map_err(|error| engine_error("cannot spill", error))?;
        runtime.disk_manager = Arc::new(disk);
        let mut state = self.begun(limits.layer, limits.timezone);
        state.config_mut().set_extension(Arc::new(runtime));
        Ok(on_own_tables(state))
    }

    /// A copy of what such sessions begin with: filling the tables of functions takes longer than
    /// planning a small statement.
    fn begun(&self, layer: Layer, timezone: Tz) -> SessionState {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = begun.get(&(layer, timezone)) {
            return state.clone();
        }
        let mut config = self.config(layer);
        config.options_mut().execution.time_zone = Some(timezone.name().to_owned());
        // Each partition of a scan may be streamed by itself, by another client and again.
        config.options_mut().execution.enable_file_stream_work_stealing = false;
        let state = self.state(config);
        if begun.len() >= BEGUN_MAX {
            begun.clear();
        }
        begun.insert((layer, timezone), state.clone());
        state
    }

    /// Nothing yet, of the memory that all plans share: for whoever holds rows beside them, under a
    /// name that errors tell.
    pub fn reservation(&self, name: &str) -> MemoryReservation {
        MemoryConsumer::new(name).register(&self.runtime.memory_pool)
    }

    /// The most that all plans and reservations may hold, in bytes.
    pub fn memory_bytes_max(&self) -> usize {
        self.memory_bytes_max
    }

    /// Memory that all plans hold now.
    pub fn memory_bytes(&self) -> usize {
        self.runtime.memory_pool.reserved()
    }

    fn config(&self, layer: Layer) -> SessionConfig {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.threads)
            .with_default_catalog_and_schema(CATALOG, layer.as_str())
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        // Literals and casts without an offset are UTC, as everything in the lake is.
        options.execution.time_zone = Some("UTC".to_owned());
        options.execution.parquet.reorder_filters = true;
        // Spark's, which as nanoseconds would end in 2262 and begin again in 1677.
        options.execution.parquet.coerce_int96 = Some("us".to_owned());
        // What sorts keep to merge by, of memory that cannot be spilled: all of a join's together fit.
        let kept = self.memory_bytes_max / (SORT_PART * self.threads);
        let kept = kept.min(options.execution.sort_spill_reservation_bytes);
        options.execution.sort_spill_reservation_bytes = kept;
        // A file per batch. With longer ones two tasks may spill at once, and the reader waits at
        // the older file for the batch that is in the newer, forever (apache/datafusion#24883).
        options.execution.max_spill_file_size_bytes =
            ConfigNonZeroUsize::try_new(1).expect("one is not zero");
        config
    }

    fn state(&self, config: SessionConfig) -> SessionState {
        let builder = SessionStateBuilder::new().with_runtime_env(Arc::clone(&self.runtime));
        rules::state(builder, config)
    }
}

/// What a plan of `session` is executed with: the limits of its statement, if it has any.
pub fn task_of(session: &SessionContext) -> Arc<TaskContext> {
    let task = TaskContext::from(session);
    Arc::new(match task.session_config().get_extension::<RuntimeEnv>() {
        Some(runtime) => task.with_runtime(runtime),
        None => task,
    })
}

fn on_own_tables(mut state: SessionState) -> SessionContext {
    let catalog = MemoryCatalogProvider::new();
    for layer in Layer::ALL {
        catalog
            .register_schema(layer.as_str(), Arc::new(MemorySchemaProvider::new()))
            .expect("a memory catalog takes any schema");
    }
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    state.register_catalog_list(Arc::new(catalogs));
    SessionContext::new_with_state(state)
}

/// The plan of a query, before types are coerced.
pub async fn planned(state: &SessionState, sql: &str) -> datafusion::common::Result<LogicalPlan> {
    let statement = parsed(state, sql)?;
    planned_statement(state, statement).await
}

/// The same for one that was parsed.
pub async fn planned_statement(
    state: &SessionState,
    mut statement: Statement,
) -> datafusion::common::Result<LogicalPlan> {
    shape::bound(&mut statement)?;
    rules::planned(state, statement).await
}

/// `plan` with every value cast to the type that it is computed in. Only then do its columns have
/// the types of its rows: before, `CASE WHEN … THEN 1 ELSE 2.5 END` and `SELECT 1 UNION ALL SELECT
/// 2.5` are integers. Fails where types do not fit, and where they wait for a parameter.
pub fn coerced(state: &SessionState, plan: LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
}

/// What interactive and model SQL may be: queries. No DDL, DML or session statements.
pub fn read_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// `$start` and `$end` as bound values.
pub fn interval_parameters(range: Range) -> ParamValues {
    let instant = |micros: i64| {
        ScalarAndMetadata::from(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())))
    };
    ParamValues::Map(
        [("start".to_owned(), instant(range.start.0)), ("end".to_owned(), instant(range.end.0))]
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use datafusion::common::Result;
    use datafusion::physical_plan::{collect, displayable};

    /// Joins in a statement of its own; how many rows that gives.
    async fn join(engine: &Engine, memory_bytes_max: usize) -> Result<usize> {
        let (layer, timezone) = (Layer::Silver, Tz::UTC);
        let limits = SessionLimits { memory_bytes_max, spill_bytes_max: 0, layer, timezone };
        let session = engine.session_within(&limits).unwrap();
        let sql = "SELECT value FROM generate_series(1, 300000) \
                   JOIN generate_series(1, 300000) AS b USING (value)";
        let plan = session.sql(sql).await?.create_physical_plan().await?;
        let batches = collect(plan, task_of(&session)).await?;
        Ok(batches.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn a_statement_is_executed_within_its_own_limits() {
        let options = EngineOptions { memory_bytes_max: 256 << 20, spill_dir: None, threads: 2 };
        let engine = Engine::new(&options).unwrap();
        let refused = join(&engine, 1 << 20).await.unwrap_err().to_string();
        // What does not fit its memory would be spilled, and it may spill nothing.
        assert!(refused.contains("allowable limit of 0.0 B"), "{refused}");
        assert_eq!(join(&engine, 128 << 20).await.unwrap(), 300_000);
        assert_eq!(engine.memory_bytes(), 0);
    }

    /// Small batches, and memory that is too small for the groups and for what waits for them.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_statement_of_which_two_tasks_spill_at_once_ends() {
        let options = EngineOptions { memory_bytes_max: 6 << 20, spill_dir: None, threads: 2 };
        let engine = Engine::new(&options).unwrap();
        for attempt in 0..12 {
            let session = engine.session();
            let options = session.state_ref();
            options.write().config_mut().options_mut().execution.batch_size =
                ConfigNonZeroUsize::try_new(64).unwrap();
            let sql = "SELECT g, count(DISTINCT id) \
                       FROM (SELECT value % 2000 AS g, md5(CAST(value AS VARCHAR)) AS id \
                             FROM generate_series(1, 60000)) GROUP BY g";
            let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
            let work = collect(plan, task_of(&session));
            let ended = tokio::time::timeout(Duration::from_secs(20), work).await;
            assert!(ended.is_ok(), "attempt {attempt} hangs");
        }
    }

    /// More groups and values than there is memory for, of one table of which DataFusion's would keep
    /// what it gave away.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn different_values_of_many_groups_are_counted_in_little_memory() {
        let sql = "SELECT count(*), sum(n), sum(ids), sum(texts) FROM (\
                     SELECT g, count(*) AS n, count(DISTINCT id) AS ids, count(DISTINCT text) AS texts \
                     FROM (SELECT value % 50000 AS g, value % 600000 AS id, \
                                  concat('text-', value % 400000) AS text \
                           FROM generate_series(1, 1200000)) GROUP BY g)";
        let counted = async |memory_bytes_max: usize| {
            let options = EngineOptions { memory_bytes_max, spill_dir: None, threads: 2 };
            let session = Engine::new(&options).unwrap().session();
            let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
            let rows = collect(plan, task_of(&session)).await.unwrap();
            arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string()
        };
        let expected = counted(1 << 30).await;
        let plain = expected.replace(' ', "");
        assert!(plain.contains("|50000|1200000|600000|400000|"), "{expected}");
        assert_eq!(counted(24 << 20).await, expected);
    }

    #[tokio::test]
    async fn a_condition_of_a_sorted_join_looks_at_its_own_columns() {
        let options = EngineOptions { memory_bytes_max: 64 << 20, spill_dir: None, threads: 2 };
        let session = Engine::new(&options).unwrap().session();
        frugal::plan_frugally(&session);
        let sql = "SELECT a.k, b.k, b.n + 0 AS m FROM (VALUES (100, 1, 0), (5, 2, 0)) a(n, k, o) \
                   JOIN (VALUES (10, 1), (20, 2)) b(n, k) ON a.k = b.k AND a.n > b.n";
        let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        assert!(shown.contains("SortMergeJoinExec"), "{shown}");
        let rows = collect(plan, task_of(&session)).await.unwrap();
        let text = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        assert!(text.contains("| 1 | 1 | 10 |") && text.lines().count() == 5, "{text}\n{shown}");
    }

    /// The same rows, whatever the groups are, when counts are made apart.
    #[tokio::test]
    async fn counts_of_different_values_that_are_made_apart_are_the_same() {
        let options = EngineOptions { memory_bytes_max: 64 << 20, spill_dir: None, threads: 2 };
        let session = Engine::new(&options).unwrap().session();
        let rows = "(SELECT nullif(value % 7, 3) AS g, nullif(value % 11, 5) AS a, \
                     nullif(value % 13, 6) AS b, value AS v FROM generate_series(1, 900)) AS t";
        let totals = "count(DISTINCT a), sum(v), count(DISTINCT t.b), count(*), \
                      count(DISTINCT a + b) AS sums, count(DISTINCT v) FILTER (WHERE v > 9)";
        for sql in [
            format!("SELECT g, {totals} FROM {rows} GROUP BY g"),
            format!("SELECT {totals} FROM {rows}"),
            format!("SELECT count(DISTINCT a), count(DISTINCT b) FROM {rows}"),
            format!("SELECT count(DISTINCT a) FROM {rows} WHERE g > 99"),
            format!(
                "SELECT g + 1 AS h, g % 2, {totals} FROM {rows} GROUP BY 1, 2 HAVING count(*) > 1"
            ),
            format!("SELECT a, b FROM {rows} WHERE g > (SELECT count(DISTINCT a) - 9 FROM {rows})"),
        ] {
            let plan = planned(&session.state(), &sql).await.unwrap();
            let of = async |plan: LogicalPlan| {
                let plan = session.state().create_physical_plan(&plan).await.unwrap();
                let schema = plan.schema();
                let columns = schema.fields().iter();
                let columns: Vec<_> =
                    columns.map(|c| (c.name().clone(), c.data_type().clone())).collect();
                let batches = collect(plan, task_of(&session)).await.unwrap();
                let text =
                    arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                (columns, lines)
            };
            let expected = of(plan.clone()).await;
            frugal::plan_frugally(&session);
            let changed = frugal::apart(plan.clone()).unwrap();
            assert_ne!(changed, plan, "{sql}");
            assert_eq!(of(changed).await, expected, "{sql}");
        }
    }
}
