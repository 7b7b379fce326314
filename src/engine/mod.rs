//! The only builder of a DataFusion session: memory, spill, parallelism, dialect and what SQL may
//! do are decided here. Executes plans; commits nothing.

pub mod catalog;
pub mod fault;
pub mod hash;
pub mod query;
pub mod storable;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::common::ParamValues;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;

use self::fault::engine_error;
use crate::error::Result;
use crate::interval::Range;
use crate::table::Layer;

/// Name of the one catalog; SQL says `silver.orders`, never this.
pub const CATALOG: &str = "lake";
/// How many of the largest memory users an out-of-memory error names.
const MEMORY_CONSUMERS_SHOWN: usize = 3;

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
    threads: usize,
}

impl Engine {
    pub fn new(options: &EngineOptions) -> Result<Self> {
        let pool = TrackConsumersPool::new(
            FairSpillPool::new(options.memory_bytes_max),
            std::num::NonZeroUsize::new(MEMORY_CONSUMERS_SHOWN).expect("3 is not 0"),
        );
        let mut builder = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool));
        if let Some(folder) = &options.spill_dir {
            builder = builder.with_temp_file_path(folder);
        }
        let runtime =
            builder.build_arc().map_err(|error| engine_error("cannot start the engine", error))?;
        Ok(Self { runtime, threads: options.threads.max(1) })
    }

    /// A session with the three layers as empty schemas.
    pub fn session(&self) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.threads)
            .with_default_catalog_and_schema(CATALOG, Layer::Silver.as_str())
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        // Literals and casts without an offset are UTC, as everything in the lake is.
        options.execution.time_zone = Some("UTC".to_owned());
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        let catalog = MemoryCatalogProvider::new();
        for layer in Layer::ALL {
            catalog
                .register_schema(layer.as_str(), Arc::new(MemorySchemaProvider::new()))
                .expect("a memory catalog takes any schema");
        }
        let state: SessionState = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .build();
        let session = SessionContext::new_with_state(state);
        session.register_catalog(CATALOG, Arc::new(catalog));
        session
    }
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
