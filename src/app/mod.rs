//! The one place that wires the parts together: project folder and configuration in, lake, engine
//! and pipelines out. Decides nothing of its own.

pub mod export;
pub mod ingest;
pub mod project;
pub mod serve;
mod standing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use self::project::{Checked, DagsFile};

use crate::clock::Clock;
use crate::config::Config;
use crate::dag::Dags;
use crate::engine::{Engine, EngineOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::batch::dead_letters_spec;
use crate::ingest::{Limits, Pipeline};
use crate::kafka::KafkaAccess;
use crate::lake::Lake;
use crate::lake::commit::ensure_table;
use crate::lake::ledger::Ledger;
use crate::lake::store::S3Access;
use crate::model::{Model, ModelSet};
use crate::runner::RunContext;
use crate::table::{Layer, TableName};
use crate::typecheck::Typed;

/// Well below the time after which a group gives up a member that does not poll.
const POLL_PAUSE_MAX: Duration = Duration::from_secs(5);

/// An opened project: what commands work with. Broken parts of it are left out, and wrong only for
/// whoever needs them.
pub struct App {
    pub config: Config,
    /// As far as their files can be read; what planning says is in [`Self::checked`].
    pub models: Arc<ModelSet>,
    dags: DagsFile,
    pub lake: Lake,
    pub engine: Engine,
    pub clock: Clock,
}

impl App {
    /// Reads the project and opens the lake, which is not asked anything yet. Fails where the
    /// project's folder cannot be read; a broken model or `dags.yaml` is left out.
    pub fn open(config: Config) -> Result<Self> {
        let models = ModelSet::read_usable(&config.project)?;
        let dags = DagsFile::read(&config.project);
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

    /// What `dags.yaml` says; fails with its problems.
    pub fn dags(&self) -> Result<&Dags> {
        self.dags.get()
    }

    /// Plans every model anew; those that cannot be planned, and what needs them, are left out.
    pub async fn checked(&self) -> Result<Checked> {
        Checked::of(&self.engine, &self.models).await
    }

    /// What planning says of the models that can be planned.
    pub async fn typed(&self) -> Result<Arc<Typed>> {
        self.checked().await.map(|checked| checked.typed)
    }

    /// For one run, with an id of its own. Plans every model, as [`Self::checked`] does.
    pub async fn run_context(&self) -> Result<Arc<RunContext>> {
        let Checked { models, typed } = self.checked().await?;
        Ok(Arc::new(RunContext {
            lake: self.lake.clone(),
            engine: self.engine.clone(),
            models,
            typed,
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

    /// The bronze tables to ingest: all, or those named. Tables whose models are left out are among
    /// them: they fail one by one.
    pub fn bronze(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        bronze_of(&self.models, names)
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
        let checked = typed.find(name)?;
        let model = &checked.model;
        let Some(source) = model.topic() else {
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

/// Those of `models` that are fed by a topic: all, or those named.
fn bronze_of(models: &ModelSet, names: &[TableName]) -> Result<Vec<TableName>> {
    let is_append = |model: &Model| model.topic().is_some();
    for name in names {
        let left_out = models.left_out().get(name);
        let model = match left_out.and_then(|left_out| left_out.model.as_deref()) {
            Some(model) => model,
            None => models.find(name)?,
        };
        if !is_append(model) {
            return Err(Error::invalid(format!("`{name}` is not fed by a topic"))
                .hint("only tables of kind `append` are ingested"));
        }
    }
    let usable = models.iter().filter(|model| is_append(model)).map(|model| &model.name);
    // Tables of bronze have no other kind.
    let left_out = models.left_out().keys().filter(|name| name.layer == Layer::Bronze);
    let wanted = usable.chain(left_out).filter(|name| names.is_empty() || names.contains(name));
    Ok(wanted.cloned().collect())
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
