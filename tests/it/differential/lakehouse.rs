//! A lake in memory and the engine over it: tables are stored, and statements answered as `flowguard
//! serve` does.

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
use flowguard::table::{Layer, TableName};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use tokio::runtime::Runtime;
use url::Url;
use uuid::Uuid;

const MEMORY_BYTES_MAX: usize = 512 << 20;
/// Longer than any statement over small tables may take.
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

/// What decides an answer beside its statement.
#[derive(Debug, Clone)]
pub struct Settings {
    pub threads: usize,
    /// More rows than a statement may give.
    pub rows_max: usize,
    /// Where ORDER BY has NULL, if not as everywhere: DataFusion's word for it.
    pub nulls: Option<&'static str>,
}

pub struct Lakehouse {
    lake: Lake,
    engine: Engine,
    models: ModelSet,
    settings: Settings,
    pub runtime: Arc<Runtime>,
}

impl Lakehouse {
    /// Without a table.
    pub fn new(runtime: &Arc<Runtime>, settings: Settings) -> Self {
        let root = Url::parse("memory:///differential/").expect("an address");
        let lake = Lake::with_store(&root, Arc::new(InMemory::new()));
        let threads = settings.threads;
        let options =
            EngineOptions { memory_bytes_max: MEMORY_BYTES_MAX, spill_dir: None, threads };
        let engine = Engine::new(&options).expect("it starts");
        let nowhere = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(nowhere.path().join("sql")).expect("a folder");
        let models = ModelSet::read(nowhere.path()).expect("no models");
        Self { lake, engine, models, settings, runtime: Arc::clone(runtime) }
    }

    /// Appends each of `files` to a table, which is made if there is none.
    pub fn store(&self, spec: &TableSpec, files: &[Option<RecordBatch>]) {
        self.runtime.block_on(async {
            for file in files {
                let mut stager = Stager::new(&self.lake, spec).expect("a stager");
                if let Some(rows) = file {
                    stager.write(rows).await.expect("rows are written");
                }
                let staged = stager.finish().await.expect("rows are staged");
                let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
                let write = Commit { spec, staged, removal: None, advances, ledger };
                commit(&self.lake, &write).await.expect("rows are committed");
            }
        });
    }

    pub fn remove(&self, table: &TableName) {
        self.runtime.block_on(self.lake.remove_table(table)).expect("it is removed");
    }

    /// The rows of an answer, planned and run as `flowguard serve` does; a batch at least. Without
    /// `is_optimised`, DataFusion changes nothing of the plan that it need not.
    pub fn ask(&self, sql: &str, is_optimised: bool) -> Result<Vec<RecordBatch>, Refusal> {
        let limit = std::time::Duration::from_secs(SECONDS_MAX);
        let caught = AssertUnwindSafe(async {
            tokio::time::timeout(limit, self.answer(sql, is_optimised))
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

    async fn answer(&self, sql: &str, is_optimised: bool) -> Result<Vec<RecordBatch>, Refusal> {
        let source = Source::new("query", sql);
        let limits = SessionLimits {
            memory_bytes_max: MEMORY_BYTES_MAX,
            spill_bytes_max: 0,
            layer: Layer::Silver,
            timezone: Tz::UTC,
        };
        let session = self.engine.session_within(&limits).map_err(|error| refusal(&error))?;
        if let Some(nulls) = self.settings.nulls {
            let state = session.state_ref();
            let options = &mut *state.write();
            nulls.clone_into(
                &mut options.config_mut().options_mut().sql_parser.default_null_ordering,
            );
        }
        let (engine, lake, models) = (&self.engine, &self.lake, &self.models);
        let layer = Layer::Silver;
        let planner = Planner { engine, lake, models, may_read: &|_| true, layer };
        let query = planner.plan(session, &source).await.map_err(|error| refusal(&error))?;
        let mut stream = match is_optimised {
            true => query.stream().await.map_err(|error| refusal(&error))?,
            false => unoptimised(&self.engine.session(), &query).await?,
        };
        let promised =
            query.schema(&query.plan).map_err(|error| Refusal::Fault(error.to_string()))?;
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            let error =
                |error| refusal(&flowguard::engine::fault::engine_error("the query failed", error));
            let batch = batch.map_err(error)?;
            if is_optimised {
                keeps_promise(&promised, &batch)?;
            }
            rows += batch.num_rows();
            batches.push(batch);
            if rows > self.settings.rows_max {
                return Err(Refusal::TooMany);
            }
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(promised));
        }
        Ok(batches)
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
