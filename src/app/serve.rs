//! Serving: ingestion, Flight SQL and HTTP in one process, each also alone. A part is a name and a
//! function of a stop token; another one joins by a line in [`Server::open`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ingest::{IngestEvent, OnEvent, Setup, Tables, ingest};
use super::project::{Checked, Watched};
use super::standing::Standings;
use super::{App, bronze_of, threads_of};
use crate::access::Access;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ingest::status::positions;
use crate::ingest::worker::Until;
use crate::kafka::KafkaAccess;
use crate::model::depth::STACK_BYTES;
use crate::model::{CurrentModels, ModelSet};
use crate::server::flight;
use crate::server::health::{Health, Part};
use crate::server::http::{self, Readiness, Site};
use crate::server::listen::Listener;
use crate::server::metrics::{IngestFigures, Metrics};
use crate::server::tls::Tls;
use crate::statements::log::StatementLog;
use crate::statements::{AdmissionLimits, StatementLimits, Statements, StatementsSetup};
use crate::table::TableName;

/// What streams that are open at the stop signal get to come to their end.
const STREAMS_GRACE: Duration = Duration::from_secs(5);
/// What statements that were cut off get to be noted in the log.
const NOTES_GRACE: Duration = Duration::from_secs(1);
/// How often users, certificates and the project's files are looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often every table is opened to see whether it can be read: two small requests for each that
/// did not change.
const TABLES_EVERY: Duration = Duration::from_secs(300);
/// How often the broker is asked how far behind the lake is.
const POSITIONS_EVERY: Duration = Duration::from_secs(15);
/// That read and write files of a local lake and of what is spilled. Each takes address space for a stack
/// as deep as a plan's.
const FILE_THREADS_MAX: usize = 16;
/// A plan that computes for long without giving way holds as many threads as there are processors;
/// with more of them the system shares the processors out.
const THREADS_PER_PROCESSOR: usize = 4;

/// Which parts are to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub ingest: Ingestion,
    pub flight: bool,
    pub http: bool,
}

/// Whether topics are ingested beside the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingestion {
    No,
    IfConfigured,
    /// Without Kafka it is an error.
    Yes,
}

/// Who may come in, and how. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    access: Access,
    tls: Option<Tls>,
}

impl Door {
    /// Open to everybody on this machine, and to nobody else.
    pub fn local() -> Self {
        Self { access: Access::open(), tls: None }
    }

    /// As the settings say; fails if the certificate or the users cannot be read.
    pub fn configured(config: &Config) -> Result<Self> {
        let server = &config.server;
        let tls = match (&server.tls_certificate, &server.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(Tls::read(certificate, key, server.tls_client_ca.as_deref())?)
            }
            _ => None,
        };
        Ok(Self { access: Access::configured(config)?, tls })
    }

    async fn listen(&self, setting: &str, address: &str) -> Result<Listener> {
        Listener::bind(setting, address, self.tls.clone(), !self.access.is_open()).await
    }

    /// Ends what runs for users who may not run it any more, and shows renewed certificates.
    async fn watch(
        self,
        statements: Statements,
        health: Health,
        clock: Clock,
        stop: CancellationToken,
    ) -> Result<()> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            statements.cancel_unless(|principal| {
                let current = self.access.current(&principal.user, clock.micros());
                current.is_some_and(|current| *current == *principal)
            });
            health.set(Part::Users, self.access.problem(clock.micros()));
            if let Some(tls) = &self.tls {
                tls.look_again();
                health.set(Part::Certificate, tls.problem());
            }
        }
    }
}

/// A process that serves: bound, and not running yet.
pub struct Server {
    /// Where each server listens, if it is wanted.
    pub flight: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    /// What is ingested; empty without Kafka.
    pub ingested: Vec<TableName>,
    /// At the start; what is left out of them is said by the caller.
    pub models: Arc<ModelSet>,
    pub has_tls: bool,
    pub asks_users: bool,
    parts: Vec<Service>,
    execution: Option<Execution>,
}

impl Server {
    /// Binds what is wanted; asks neither the lake nor Kafka anything yet.
    pub async fn open(app: Arc<App>, wanted: Wanted, door: Door) -> Result<Self> {
        let health = Health::default();
        let project = Watched::open(&app.config.project, &app.engine, &health).await?;
        let mut server = Self {
            flight: None,
            http: None,
            ingested: Vec::new(),
            models: project.current().get(),
            has_tls: door.tls.is_some(),
            asks_users: !door.access.is_open(),
            parts: Vec::new(),
            execution: None,
        };
        let figures = IngestFigures::default();
        let is_alone = !(wanted.flight || wanted.http);
        if let Some(kafka) = kafka(&app, wanted.ingest)? {
            let ingesting = Ingesting {
                app: Arc::clone(&app),
                kafka,
                project: project.checked(),
                is_patient: !is_alone,
                figures: figures.clone(),
                health: health.clone(),
            };
            server.add_ingest(ingesting)?;
        }
        if wanted.ingest == Ingestion::Yes && server.ingested.is_empty() {
            return Err(Error::invalid("no table is fed by a topic")
                .hint("models of kind `append` name their topic"));
        }
        let models = project.current();
        server.parts.push(Service::new("project", move |stop| watch_project(project, stop)));
        if is_alone {
            return Ok(server);
        }
        let addresses = &app.config.server;
        let flight = match wanted.flight {
            true => Some(door.listen("server.flight_address", &addresses.flight_address).await?),
            false => None,
        };
        let http = match wanted.http {
            true => Some(door.listen("server.http_address", &addresses.http_address).await?),
            false => None,
        };
        let execution = Execution::start(&app, models)?;
        let metrics = Metrics {
            statements: execution.statements.clone(),
            ingest: figures,
            health,
            connections: Vec::new(),
            started: app.clock.micros(),
        };
        server.execution = Some(execution);
        server.add_servers(&app, door, metrics, flight, http);
        Ok(server)
    }

    /// What answers, and what looks after it.
    fn add_servers(
        &mut self,
        app: &App,
        door: Door,
        mut metrics: Metrics,
        flight: Option<Listener>,
        http: Option<Listener>,
    ) {
        let (watcher, statements) = (door.clone(), metrics.statements.clone());
        let (clock, health) = (app.clock.clone(), metrics.health.clone());
        let watch = move |stop| watcher.watch(statements, health, clock, stop);
        self.parts.push(Service::new("watch", watch));
        let statements = metrics.statements.clone();
        self.parts.push(Service::new("tables", move |stop| watch_tables(statements, stop)));
        if let Some(listener) = flight {
            self.flight = Some(listener.address());
            metrics.connections.push(("flight", listener.open_connections()));
            let (statements, access) = (metrics.statements.clone(), door.access.clone());
            let clock = app.clock.clone();
            self.parts.push(Service::within(STREAMS_GRACE, "flight", move |stop| {
                flight::serve(listener.incoming(), statements, access, clock, stop)
            }));
        }
        if let Some(listener) = http {
            self.http = Some(listener.address());
            metrics.connections.push(("http", listener.open_connections()));
            let site = site(app, door.access, metrics);
            self.parts.push(Service::within(STREAMS_GRACE, "http", move |stop| {
                http::serve(listener.incoming(), site, stop)
            }));
        }
    }

    fn add_ingest(&mut self, ingesting: Ingesting) -> Result<()> {
        self.ingested = bronze_of(&ingesting.project.borrow().models, &[])?;
        for table in &self.ingested {
            ingesting.figures.expect(table.clone());
        }
        self.parts.push(Service::new("ingest", move |stop| ingesting.run(stop)));
        Ok(())
    }

    /// Runs until `stop`, or until a part fails; then ends all parts in order.
    pub async fn run(self, stop: &CancellationToken) -> Result<()> {
        let ended = run_all(self.parts, stop).await;
        if let Some(execution) = self.execution {
            execution.end().await;
        }
        ended
    }
}

/// Looks at the project's files again and again.
async fn watch_project(mut project: Watched, stop: CancellationToken) -> Result<()> {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => project.look_again().await,
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Opens the lake's tables now and again, so that what cannot be read is known before somebody asks.
async fn watch_tables(statements: Statements, stop: CancellationToken) -> Result<()> {
    let mut ticks = tokio::time::interval(TABLES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let looked = stop.run_until_cancelled(statements.look_at_tables()).await;
        if let Some(Err(error)) = looked {
            tracing::debug!(%error, "the tables cannot be looked at");
        }
    }
}

fn site(app: &App, access: Access, metrics: Metrics) -> Site {
    Site {
        statements: metrics.statements.clone(),
        access,
        lake: app.lake.clone(),
        metrics,
        clock: app.clock.clone(),
        readiness: Readiness::default(),
    }
}

/// What runs until its token is cancelled.
pub struct Service {
    name: &'static str,
    run: Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, Result<()>> + Send>,
}

impl Service {
    /// `run` must end when its token is cancelled.
    pub fn new<F>(
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self { name, run: Box::new(move |stop| Box::pin(run(stop))) }
    }

    /// A part that waits for its clients, but no longer than `grace`.
    fn within<F>(
        grace: Duration,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self::new(name, move |stop| async move {
            let too_long = async {
                stop.cancelled().await;
                tokio::time::sleep(grace).await;
            };
            tokio::select! {
                ended = run(stop.clone()) => ended,
                () = too_long => {
                    tracing::warn!(part = name, "streams that did not end were cut off");
                    Ok(())
                }
            }
        })
    }
}

/// Runs parts side by side. The first that ends ends the others, and its error is the outcome.
async fn run_all(parts: Vec<Service>, stop: &CancellationToken) -> Result<()> {
    let stop = stop.child_token();
    let mut running = JoinSet::new();
    for Service { name, run } in parts {
        let part = run(stop.clone());
        running.spawn(async move { (name, part.await) });
    }
    let mut failure: Option<Error> = None;
    while let Some(ended) = running.join_next().await {
        let outcome = match ended {
            Ok((name, Ok(()))) if !stop.is_cancelled() => {
                Err(Error::internal(format!("`{name}` ended by itself")))
            }
            Ok((_, outcome)) => outcome,
            Err(source) => Err(Error::internal("a part ended abnormally").source(source)),
        };
        stop.cancel();
        if let Err(error) = outcome {
            if failure.is_some() {
                tracing::warn!(%error, "another part failed too");
            }
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Statements, and the threads that plans run on: a long one must not keep a connection waiting.
struct Execution {
    statements: Statements,
    threads: Runtime,
}

impl Execution {
    fn start(app: &App, models: CurrentModels) -> Result<Self> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads_of(&app.config) * THREADS_PER_PROCESSOR)
            .thread_name("execute")
            .max_blocking_threads(FILE_THREADS_MAX)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|source| Error::internal("cannot start threads").source(source))?;
        let server = &app.config.server;
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let places = |number: u64| count(number).min(Semaphore::MAX_PERMITS);
        let statements = Statements::new(StatementsSetup {
            lake: app.lake.clone(),
            engine: app.engine.clone(),
            models,
            limits: StatementLimits {
                admission: AdmissionLimits {
                    running_max: places(server.running_statements_max),
                    running_per_user_max: places(server.running_statements_per_user_max),
                    waiting_max: count(server.waiting_statements_max),
                    wait_max: Duration::from_millis(server.statement_wait_ms_max),
                },
                memory_bytes_max: count(server.statement_memory_bytes_max),
                spill_bytes_max: server.statement_spill_bytes_max,
                rows_max: server.statement_rows_max,
                run_max: Duration::from_millis(server.statement_run_ms_max),
                unread_max: Duration::from_millis(server.statement_unread_ms_max),
            },
            log: server.statement_log.as_deref().map_or_else(StatementLog::none, StatementLog::at),
            executor: threads.handle().clone(),
            clock: app.clock.clone(),
        });
        Ok(Self { statements, threads })
    }

    /// Lets what was cut off be noted, and leaves the threads to themselves.
    async fn end(self) {
        let noted = async {
            while self.statements.running() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(NOTES_GRACE, noted).await;
        // A runtime that is dropped would wait for its threads here, where waiting is forbidden.
        self.threads.shutdown_background();
    }
}

fn kafka(app: &App, ingestion: Ingestion) -> Result<Option<KafkaAccess>> {
    match ingestion {
        Ingestion::No => Ok(None),
        Ingestion::IfConfigured if app.config.kafka.bootstrap_servers.is_none() => Ok(None),
        Ingestion::IfConfigured | Ingestion::Yes => app.kafka().map(Some),
    }
}

struct Ingesting {
    app: Arc<App>,
    kafka: KafkaAccess,
    project: watch::Receiver<Checked>,
    /// Whether other parts go on without it.
    is_patient: bool,
    figures: IngestFigures,
    health: Health,
}

impl Ingesting {
    /// Ingests until `stop`, then commits what is buffered.
    async fn run(self, stop: CancellationToken) -> Result<()> {
        let standings = Standings::new(self.figures.clone(), self.health.clone());
        let (figures, told) = (self.figures.clone(), standings.clone());
        let on_event: OnEvent = Arc::new(move |table, event| match event {
            IngestEvent::Committed(report) => {
                told.set_worker(table, None);
                figures.add(table, report);
            }
            IngestEvent::Failed(error) => told.set_worker(table, Some(error.line())),
            IngestEvent::Works => told.set_worker(table, None),
            IngestEvent::Ended => told.forget(table),
        });
        let setup = Setup {
            app: Arc::clone(&self.app),
            kafka: self.kafka.clone(),
            run: Uuid::now_v7(),
            until: Until::Stopped,
            is_patient: self.is_patient,
            on_event,
        };
        let tables = Tables::Watched(self.project.clone());
        tokio::select! {
            ingested = ingest(Arc::new(setup), tables, &stop) => ingested.into_result().map(drop),
            never = self.watch_positions(&standings) => match never {},
        }
    }

    async fn watch_positions(&self, standings: &Standings) -> Infallible {
        let mut ticks = tokio::time::interval(POSITIONS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let models = Arc::clone(&self.project.borrow().models);
            for model in models.iter().filter(|model| model.topic().is_some()) {
                let (table, pipeline) = (&model.name, &self.app.config.ingest.pipeline);
                self.figures.expect(table.clone());
                let found = positions(&self.app.lake, model, pipeline, &self.kafka).await;
                let problem = found.as_ref().err();
                if standings.set_positions(table, problem.map(Error::line))
                    && let Some(error) = problem
                {
                    tracing::warn!(%table, %error, hint = error.hint, "the lag is unknown");
                }
                self.figures.set_positions(table, found.unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failing_part_ends_all_with_its_error() {
        let stop = CancellationToken::new();
        let waits = Service::new("waits", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        let fails = Service::new("fails", |_| async { Err(Error::invalid("it broke")) });
        let error = run_all(vec![waits, fails], &stop).await.unwrap_err();
        assert_eq!(error.message, "it broke");
        assert!(!stop.is_cancelled(), "the caller's token is the caller's");
    }

    #[tokio::test]
    async fn a_part_must_not_end_by_itself() {
        let ends = Service::new("ends", |_| async { Ok(()) });
        let error = run_all(vec![ends], &CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.message, "`ends` ended by itself");
    }

    #[tokio::test]
    async fn a_stream_that_does_not_end_is_cut_off() {
        let stop = CancellationToken::new();
        let grace = Duration::from_millis(1);
        let hangs = Service::within(grace, "hangs", |_| std::future::pending());
        stop.cancel();
        run_all(vec![hangs], &stop).await.unwrap();
    }
}
