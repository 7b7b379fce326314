//! The same tables in a lake and in DuckDB, and what both answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use chrono_tz::Tz;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use flowguard::engine::query::{Planner, Query};
use flowguard::engine::storable::plain_schema;
use flowguard::engine::{Engine, EngineOptions, SessionLimits};
use flowguard::error::ErrorKind;
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use flowguard::model::ModelSet;
use flowguard::source::Source;
use flowguard::table::Layer;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use tokio::runtime::Runtime;
use url::Url;
use uuid::Uuid;

use super::compare::{Rows, rows_of};
use super::duckdb::Duckdb;
use super::tables::Table;
use crate::topic_in_memory::Random;

/// More rows than a statement may give here.
const ROWS_MAX: usize = 3000;
const MEMORY_BYTES_MAX: usize = 512 << 20;
/// Longer than any statement over a dozen rows may take.
const SECONDS_MAX: u64 = 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// A clear error of the statement or its data.
    Clear(String),
    /// Everything else: a bug, whatever DuckDB says.
    Fault(String),
    /// More rows than are compared.
    TooMany,
}

pub type Answer = Result<Rows, Refusal>;

pub struct World {
    pub tables: Vec<Table>,
    lake: Lake,
    engine: Engine,
    models: ModelSet,
    pub runtime: Arc<Runtime>,
}

impl World {
    /// Stores `tables` in a new lake, in some files each.
    pub fn new(runtime: &Arc<Runtime>, tables: Vec<Table>, seed: u64) -> Self {
        let random = &mut Random(seed);
        let root = Url::parse("memory:///differential/").expect("an address");
        let lake = Lake::with_store(&root, Arc::new(InMemory::new()));
        let threads = [1, 1, 2, 3][random.below(4) as usize];
        let options =
            EngineOptions { memory_bytes_max: MEMORY_BYTES_MAX, spill_dir: None, threads };
        let engine = Engine::new(&options).expect("it starts");
        let nowhere = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(nowhere.path().join("sql")).expect("a folder");
        let models = ModelSet::read(nowhere.path()).expect("no models");
        let world = Self { tables, lake, engine, models, runtime: Arc::clone(runtime) };
        for table in &world.tables {
            runtime.block_on(world.store(table, random));
        }
        world
    }

    async fn store(&self, table: &Table, random: &mut Random) {
        let is_partitioned = table.rows.len() > 2
            && random.below(4) == 0
            && table.columns.iter().any(|column| column.name == "ts");
        let spec = TableSpec {
            name: format!("silver.{}", table.name).parse().expect("a name"),
            columns: table.schema(),
            time: is_partitioned.then(|| "ts".to_owned()),
            partition_by_day: false,
            timezone: Tz::UTC,
            key: match random.below(2) {
                0 => Vec::new(),
                _ => table.columns.iter().map(|column| column.name.clone()).collect(),
            },
            doc: None,
            shape: "`kind: full`".to_owned(),
        };
        let rows = table.rows.len();
        let cut = if rows > 3 { random.below(rows as u64) as usize } else { rows };
        for (from, end) in [(0, cut), (cut, rows)] {
            if from == end && end > 0 {
                continue;
            }
            let mut stager = Stager::new(&self.lake, &spec).expect("a stager");
            if from < end {
                stager.write(&table.batch(from, end)).await.expect("rows are written");
            }
            let staged = stager.finish().await.expect("rows are staged");
            let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
            let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
            commit(&self.lake, &write).await.expect("rows are committed");
        }
    }

    /// Makes the same tables in DuckDB.
    pub fn tell(&self, duckdb: &mut Duckdb) {
        duckdb.restart();
        for schema in ["silver", "exact"] {
            duckdb.ask(&format!("CREATE SCHEMA {schema}")).expect("a schema");
            for statement in self.tables.iter().flat_map(|table| table.created(schema)) {
                duckdb.ask(&statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
        }
    }

    /// What FlowGuard answers, planned and run as `flowguard serve` does.
    pub fn ask(&self, sql: &str) -> Answer {
        self.run(self.answer(sql, true))
    }

    /// What DataFusion answers when it changes nothing of the plan that it need not.
    pub fn ask_unoptimised(&self, sql: &str) -> Answer {
        self.run(self.answer(sql, false))
    }

    fn run(&self, answer: impl Future<Output = Answer>) -> Answer {
        let limit = std::time::Duration::from_secs(SECONDS_MAX);
        let caught = AssertUnwindSafe(async {
            tokio::time::timeout(limit, answer)
                .await
                .unwrap_or_else(|_| Err(Refusal::Fault("it does not end".to_owned())))
        })
        .catch_unwind();
        self.runtime.block_on(caught).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Err(Refusal::Fault(format!("panic: {text}")))
        })
    }

    async fn answer(&self, sql: &str, is_optimised: bool) -> Answer {
        let source = Source::new("query", sql);
        let limits = SessionLimits {
            memory_bytes_max: MEMORY_BYTES_MAX,
            spill_bytes_max: 0,
            layer: Layer::Silver,
            timezone: Tz::UTC,
        };
        let session = self.engine.session_within(&limits).map_err(|error| refusal(&error))?;
        let (engine, lake, models) = (&self.engine, &self.lake, &self.models);
        let planner = Planner { engine, lake, models, may_read: &|_| true, layer: None };
        let query = planner.plan(session, &source).await.map_err(|error| refusal(&error))?;
        let mut stream = match is_optimised {
            true => query.stream().await.map_err(|error| refusal(&error))?,
            false => unoptimised(&self.engine.session(), &query).await?,
        };
        let promised =
            query.schema(&query.plan).map_err(|error| Refusal::Fault(error.to_string()))?;
        let mut rows = Rows::new();
        while let Some(batch) = stream.next().await {
            let error =
                |error| refusal(&flowguard::engine::fault::engine_error("the query failed", error));
            let batch = batch.map_err(error)?;
            if is_optimised {
                keeps_promise(&promised, &batch)?;
            }
            rows.extend(rows_of(&batch));
            if rows.len() > ROWS_MAX {
                return Err(Refusal::TooMany);
            }
        }
        Ok(rows)
    }
}

/// Rows are of the types that clients are told before there are any.
fn keeps_promise(promised: &SchemaRef, batch: &RecordBatch) -> Result<(), Refusal> {
    let found = plain_schema(&batch.schema());
    for (promised, (found, column)) in
        promised.fields().iter().zip(found.fields().iter().zip(batch.columns()))
    {
        let has_nulls = !promised.is_nullable() && column.null_count() > 0;
        if promised.data_type() != found.data_type() || has_nulls {
            return Err(Refusal::Fault(format!("{promised} was promised, and {found} came")));
        }
    }
    Ok(())
}

async fn unoptimised(
    session: &SessionContext,
    query: &Query,
) -> Result<datafusion::execution::SendableRecordBatchStream, Refusal> {
    let state = SessionStateBuilder::new_from_existing(session.state())
        .with_optimizer_rules(Vec::new())
        .build();
    let plan = state.create_physical_plan(&query.plan).await;
    // What cannot be run as it was written is no fault.
    let plan = plan.map_err(|error| Refusal::Clear(error.to_string()))?;
    execute_stream(plan, query.task()).map_err(|error| Refusal::Clear(error.to_string()))
}

fn refusal(error: &flowguard::error::Error) -> Refusal {
    let mut text = error.message.clone();
    for diagnostic in &error.diagnostics {
        text.push_str(": ");
        text.push_str(&diagnostic.message);
    }
    let is_clear = error.kind == ErrorKind::Invalid
        && !text.contains("nternal error")
        && !text.contains("panick")
        && !text.contains("likely caused by a bug");
    match (is_clear, &error.source) {
        (true, _) => Refusal::Clear(text),
        (false, None) => Refusal::Fault(format!("{:?}: {text}", error.kind)),
        (false, Some(source)) => Refusal::Fault(format!("{:?}: {text}: {source}", error.kind)),
    }
}
