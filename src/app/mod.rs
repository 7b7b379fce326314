//! The one place that wires the parts together: project folder and configuration in, lake, engine
//! and pipelines out. Decides nothing of its own.

pub mod export;
pub mod serve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Config;
use crate::dag::Dags;
use crate::engine::{Engine, EngineOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::batch::{BatchReport, dead_letters_spec};
use crate::ingest::worker::{self, Until, WorkerReport};
use crate::ingest::{Limits, Pipeline};
use crate::kafka::KafkaAccess;
use crate::lake::Lake;
use crate::lake::commit::ensure_table;
use crate::lake::ledger::Ledger;
use crate::lake::store::S3Access;
use crate::model::ModelSet;
use crate::retry::Retry;
use crate::runner::RunContext;
use crate::table::TableName;
use crate::typecheck::{Typed, typecheck};

/// Of a worker that lost its broker or store.
const RESTART: Retry = Retry::for_ever(Duration::from_secs(1), RESTART_PAUSE_MAX);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Well below the time after which a group gives up a member that does not poll.
const POLL_PAUSE_MAX: Duration = Duration::from_secs(5);

/// An opened project: what commands work with.
pub struct App {
    pub config: Config,
    pub models: Arc<ModelSet>,
    pub dags: Dags,
    pub lake: Lake,
    pub engine: Engine,
    pub clock: Clock,
}

impl App {
    /// Reads the project and opens the lake, which is not asked anything yet.
    pub fn open(config: Config) -> Result<Self> {
        let models = ModelSet::read(&config.project)?;
        let dags = Dags::read(&config.project)?;
        let lake = Lake::open(&config.lake, &s3_access(&config))?;
        let engine = engine(&config)?;
        Ok(Self {
            models: Arc::new(models),
            dags,
            lake,
            engine,
            clock: Clock::of_machine(),
            config,
        })
    }

    /// Plans every model anew; the error carries the problems of all.
    pub async fn typed(&self) -> Result<Arc<Typed>> {
        typecheck(&self.engine, &self.models).await.map(Arc::new)
    }

    /// For one run, with an id of its own. Plans every model, as [`Self::typed`] does.
    pub async fn run_context(&self) -> Result<Arc<RunContext>> {
        Ok(Arc::new(RunContext {
            lake: self.lake.clone(),
            engine: self.engine.clone(),
            models: Arc::clone(&self.models),
            typed: self.typed().await?,
            run: Uuid::now_v7(),
            parallel_models_max: usize::try_from(self.config.engine.parallel_models_max)
                .unwrap_or(1),
        }))
    }

    /// Where Kafka is, as configured.
    pub fn kafka(&self) -> Result<KafkaAccess> {
        let kafka = &self.config.kafka;
        let bootstrap_servers = kafka.bootstrap_servers.clone().ok_or_else(|| {
            Error::invalid("`kafka.bootstrap_servers` is not set")
                .hint("set it in flowguard.toml, or FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS=host:9092")
        })?;
        let options: BTreeMap<String, String> = kafka
            .options
            .iter()
            .map(|(key, value)| (key.clone(), value.expose().to_owned()))
            .collect();
        Ok(KafkaAccess { bootstrap_servers, options, ..KafkaAccess::default() })
    }

    /// The bronze tables to ingest: all, or those named.
    pub fn bronze(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        let is_append =
            |name: &TableName| self.models.get(name).is_some_and(|model| model.topic().is_some());
        for name in names {
            let model = self.models.find(name)?;
            if !is_append(&model.name) {
                return Err(Error::invalid(format!("`{name}` is not fed by a topic"))
                    .hint("only tables of kind `append` are ingested"));
            }
        }
        Ok(self
            .models
            .iter()
            .map(|model| model.name.clone())
            .filter(|name| is_append(name) && (names.is_empty() || names.contains(name)))
            .collect())
    }

    /// Everything that the ingestion of `name` needs; creates its table, or adds new columns.
    pub async fn pipeline(
        &self,
        name: &TableName,
        typed: &Typed,
        kafka: &KafkaAccess,
        run: Uuid,
    ) -> Result<Arc<Pipeline>> {
        let pipeline = self.untouched_pipeline(name, typed, kafka, run)?;
        let mut ledger = Ledger::new(name.to_string(), run);
        ledger.fingerprint = typed.get(name).map(|checked| checked.fingerprint.clone());
        ensure_table(&self.lake, &pipeline.spec, &ledger).await?;
        let dead_letters = dead_letters_spec();
        let ledger = Ledger::new(dead_letters.name.to_string(), run);
        ensure_table(&self.lake, &dead_letters, &ledger).await?;
        Ok(Arc::new(pipeline))
    }

    /// The same for looking only: the tables stay as they are.
    pub fn untouched_pipeline(
        &self,
        name: &TableName,
        typed: &Typed,
        kafka: &KafkaAccess,
        run: Uuid,
    ) -> Result<Pipeline> {
        let model = self.models.find(name)?;
        let (Some(source), Some(checked)) = (model.topic(), typed.get(name)) else {
            return Err(Error::internal(format!("`{name}` has no topic")));
        };
        let ingest = &self.config.ingest;
        Ok(Pipeline {
            lake: self.lake.clone(),
            engine: self.engine.clone(),
            kafka: kafka.clone(),
            name: ingest.pipeline.clone(),
            group: format!("{}-{}-{name}", self.config.kafka.group_prefix, ingest.pipeline),
            topic: source.topic.clone(),
            columns: model.columns.iter().map(|(column, _)| column.clone()).collect(),
            unknown_fields: source.unknown_fields,
            spec: checked.spec.clone(),
            limits: Limits {
                flush_rows_max: ingest.flush_rows_max,
                flush_bytes_max: ingest.flush_bytes_max,
                flush_age_max: Duration::from_millis(ingest.flush_age_ms_max),
                memory_bytes_max: ingest.memory_bytes_max,
                message_bytes_max: ingest.message_bytes_max,
                poll_pause_max: POLL_PAUSE_MAX,
            },
            dead_letter_topic: ingest.dead_letter_topic,
            run,
            clock: self.clock.clone(),
        })
    }
}

fn s3_access(config: &Config) -> S3Access {
    let s3 = &config.s3;
    let expose = |secret: &Option<crate::config::Secret>| {
        secret.as_ref().map(|secret| secret.expose().to_owned())
    };
    S3Access {
        endpoint: s3.endpoint.as_ref().map(ToString::to_string),
        region: s3.region.clone(),
        access_key_id: expose(&s3.access_key_id),
        secret_access_key: expose(&s3.secret_access_key),
        session_token: expose(&s3.session_token),
        path_style: s3.path_style,
        allow_http: s3.allow_http,
    }
}

/// The engine as configured; needs no lake.
pub fn engine(config: &Config) -> Result<Engine> {
    Engine::new(&EngineOptions {
        memory_bytes_max: usize::try_from(config.engine.memory_bytes_max).unwrap_or(usize::MAX),
        spill_dir: config.engine.spill_dir.as_deref().map(Path::to_path_buf),
        threads: threads_of(config),
    })
}

fn threads_of(config: &Config) -> usize {
    match usize::try_from(config.engine.threads).unwrap_or(0) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// The project folder: as given, or found by walking up from `current`.
pub fn project_folder(given: Option<PathBuf>, current: &Path) -> Result<PathBuf> {
    match given {
        Some(folder) => crate::config::find_project(&folder)
            .ok()
            .filter(|found| {
                let canonical = |path: &Path| path.canonicalize().ok();
                canonical(found) == canonical(&folder)
            })
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("`{}` holds no dags.yaml", folder.display()),
                )
                .hint("point --project at the folder that holds dags.yaml and sql/")
            }),
        None => crate::config::find_project(current),
    }
}

/// Called after each commit with the table's name.
pub type OnCommit = Arc<dyn Fn(&TableName, &BatchReport) + Send + Sync>;

/// Runs one worker per pipeline, each on a thread of its own, until all are done. A worker that
/// loses its broker or store starts again, except when draining once.
pub async fn ingest(
    pipelines: Vec<Arc<Pipeline>>,
    until: Until,
    stop: &CancellationToken,
    on_commit: OnCommit,
) -> Result<BTreeMap<TableName, WorkerReport>> {
    let runtime = Handle::current();
    let mut workers = Vec::new();
    for pipeline in pipelines {
        let (runtime, on_commit) = (runtime.clone(), Arc::clone(&on_commit));
        // A worker that fails for good ends the others too: they commit what they hold.
        let (stop, end_all) = (stop.clone(), stop.clone().drop_guard());
        workers.push(tokio::task::spawn_blocking(move || {
            let name = pipeline.spec.name.clone();
            let report = supervise(&pipeline, &runtime, until, &stop, &on_commit);
            if report.is_ok() {
                end_all.disarm();
            }
            report.map(|report| (name, report))
        }));
    }
    let mut reports = BTreeMap::new();
    let mut failure = None;
    for worker in workers {
        let panicked = |source| Error::internal("a worker ended abnormally").source(source);
        match worker.await.map_err(panicked).flatten() {
            Ok((name, report)) => drop(reports.insert(name, report)),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    failure.map_or(Ok(reports), Err)
}

fn supervise(
    pipeline: &Arc<Pipeline>,
    runtime: &Handle,
    until: Until,
    stop: &CancellationToken,
    on_commit: &OnCommit,
) -> Result<WorkerReport> {
    let name = pipeline.spec.name.clone();
    let mut restarts = RESTART.begin(0);
    let mut was_lost = false;
    loop {
        let began = Instant::now();
        let (forward, table) = (Arc::clone(on_commit), name.clone());
        let on_commit = Arc::new(move |report: &BatchReport| forward(&table, report));
        match worker::run(pipeline, runtime, until, stop, on_commit) {
            // A broker that just came back may not know its topics for a moment.
            Err(error)
                if (error.kind.is_retryable()
                    || (was_lost && error.kind == ErrorKind::NotFound))
                    && until == Until::Stopped
                    && !stop.is_cancelled() =>
            {
                // What went well for long has nothing to do with earlier troubles.
                if began.elapsed() > RESTART_PAUSE_MAX {
                    restarts = RESTART.begin(0);
                }
                was_lost = true;
                tracing::warn!(table = %name, %error, "ingestion stopped, starting again");
                runtime.block_on(stop.run_until_cancelled(restarts.wait()));
            }
            outcome => return outcome,
        }
    }
}
