//! Serving: ingestion, Flight SQL and HTTP in one process, each also alone. A part is a name and a
//! function of a stop token; another one joins by a line in [`Server::open`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{App, OnCommit, RESTART, ingest, threads_of};
use crate::access::Access;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ingest::Pipeline;
use crate::ingest::status::positions;
use crate::ingest::worker::Until;
use crate::kafka::KafkaAccess;
use crate::model::depth::STACK_BYTES;
use crate::server::flight;
use crate::server::http::{self, Readiness, Site};
use crate::server::listen::{Listener, OpenConnections};
use crate::server::metrics::{IngestFigures, Metrics};
use crate::server::tls::Tls;
use crate::statements::log::StatementLog;
use crate::statements::{AdmissionLimits, StatementLimits, Statements, StatementsSetup};
use crate::table::TableName;

/// What streams that are open at the stop signal get to come to their end.
const STREAMS_GRACE: Duration = Duration::from_secs(5);
/// What statements that were cut off get to be noted in the log.
const NOTES_GRACE: Duration = Duration::from_secs(1);
/// How often users and certificates are looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the broker is asked how far behind the lake is.
const POSITIONS_EVERY: Duration = Duration::from_secs(15);
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
            if let Some(tls) = &self.tls {
                tls.look_again();
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
    pub has_tls: bool,
    pub asks_users: bool,
    parts: Vec<Service>,
    execution: Option<Execution>,
}

impl Server {
    /// Binds what is wanted; asks neither the lake nor Kafka anything yet.
    pub async fn open(app: App, wanted: Wanted, door: Door) -> Result<Self> {
        let app = Arc::new(app);
        let mut server = Self {
            flight: None,
            http: None,
            ingested: Vec::new(),
            has_tls: door.tls.is_some(),
            asks_users: !door.access.is_open(),
            parts: Vec::new(),
            execution: None,
        };
        let figures = IngestFigures::default();
        if let Some(kafka) = kafka(&app, wanted.ingest)? {
            server.add_ingest(&app, kafka, &figures)?;
        }
        if wanted.ingest == Ingestion::Yes && server.ingested.is_empty() {
            return Err(Error::invalid("no table is fed by a topic")
                .hint("models of kind `append` name their topic"));
        }
        if !(wanted.flight || wanted.http) {
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
        let execution = Execution::start(&app)?;
        let (watcher, statements) = (door.clone(), execution.statements.clone());
        let clock = app.clock.clone();
        server
            .parts
            .push(Service::new("watch", move |stop| watcher.watch(statements, clock, stop)));
        let mut connections = Vec::new();
        if let Some(listener) = flight {
            server.flight = Some(listener.address());
            connections.push(("flight", listener.open_connections()));
            let (statements, access) = (execution.statements.clone(), door.access.clone());
            let clock = app.clock.clone();
            server.parts.push(Service::within(STREAMS_GRACE, "flight", move |stop| {
                flight::serve(listener.incoming(), statements, access, clock, stop)
            }));
        }
        if let Some(listener) = http {
            server.http = Some(listener.address());
            connections.push(("http", listener.open_connections()));
            let site = site(&app, &execution.statements, door.access, figures, connections);
            server.parts.push(Service::within(STREAMS_GRACE, "http", move |stop| {
                http::serve(listener.incoming(), site, stop)
            }));
        }
        server.execution = Some(execution);
        Ok(server)
    }

    fn add_ingest(
        &mut self,
        app: &Arc<App>,
        kafka: KafkaAccess,
        figures: &IngestFigures,
    ) -> Result<()> {
        self.ingested = app.bronze(&[])?;
        if self.ingested.is_empty() {
            return Ok(());
        }
        for table in &self.ingested {
            figures.expect(table.clone());
        }
        let ingesting = Ingesting {
            app: Arc::clone(app),
            kafka,
            tables: self.ingested.clone(),
            figures: figures.clone(),
        };
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

fn site(
    app: &App,
    statements: &Statements,
    access: Access,
    ingest: IngestFigures,
    connections: Vec<(&'static str, OpenConnections)>,
) -> Site {
    let statements = statements.clone();
    let metrics = Metrics {
        statements: statements.clone(),
        ingest,
        connections,
        started: app.clock.micros(),
    };
    Site {
        statements,
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
    fn start(app: &App) -> Result<Self> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads_of(&app.config) * THREADS_PER_PROCESSOR)
            .thread_name("execute")
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
            models: Arc::clone(&app.models),
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
    tables: Vec<TableName>,
    figures: IngestFigures,
}

impl Ingesting {
    /// Ingests until `stop`, then commits what is buffered.
    async fn run(self, stop: CancellationToken) -> Result<()> {
        let Some(pipelines) = self.pipelines(&stop).await? else { return Ok(()) };
        let figures = self.figures.clone();
        let on_commit: OnCommit = Arc::new(move |table, report| figures.add(table, report));
        // The workers cancel their token when one of them fails; the other parts have their own.
        let stop = stop.child_token();
        tokio::select! {
            reports = ingest(pipelines, Until::Stopped, &stop, on_commit) => reports.map(drop),
            never = self.watch_positions() => match never {},
        }
    }

    /// Waits for a lake that cannot be reached; `None` if stopped before it could.
    async fn pipelines(&self, stop: &CancellationToken) -> Result<Option<Vec<Arc<Pipeline>>>> {
        let (app, run) = (&self.app, Uuid::now_v7());
        let typed = app.typed().await?;
        let mut attempts = RESTART.begin(0);
        loop {
            let opened = async {
                let mut pipelines = Vec::with_capacity(self.tables.len());
                for name in &self.tables {
                    pipelines.push(app.pipeline(name, &typed, &self.kafka, run).await?);
                }
                Ok::<_, Error>(pipelines)
            };
            match opened.await {
                Err(error) if error.kind.is_retryable() => {
                    tracing::warn!(%error, "ingestion cannot begin, trying again");
                }
                outcome => return outcome.map(Some),
            }
            if stop.run_until_cancelled(attempts.wait()).await.is_none() {
                return Ok(None);
            }
        }
    }

    async fn watch_positions(&self) -> Infallible {
        let mut ticks = tokio::time::interval(POSITIONS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for table in &self.tables {
                let found = async {
                    let model = self.app.models.find(table)?;
                    let pipeline = &self.app.config.ingest.pipeline;
                    positions(&self.app.lake, model, pipeline, &self.kafka).await
                };
                let found = found.await.unwrap_or_else(|error| {
                    tracing::warn!(%table, %error, "the lag is unknown");
                    Vec::new()
                });
                self.figures.set_positions(table, found);
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
