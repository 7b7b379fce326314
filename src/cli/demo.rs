//! `flowguard demo`: the whole way once, on a mock broker inside this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Clock};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::parity::Verdict;
use super::run::Progress;
use super::{Session, audit, interrupted, output, query};
use crate::app::App;
use crate::app::ingest::{IngestEvent, OnEvent, Setup, Tables, one_error};
use crate::app::serve::{Door, Ingestion, Server, Wanted};
use crate::demo::events::{Options, Topic, history};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::worker::Until;
use crate::kafka::{MockBroker, Producer, Record};
use crate::runner::{self, tasks_of};
use crate::table::{Layer, TableName};

/// What the producer may be ahead of the lake by, per partition: well below what the mock broker
/// keeps.
const AHEAD_BYTES_MAX: u64 = MockBroker::PARTITION_BYTES_MAX / 2;
/// Rows of each gold table that are printed.
const ROWS_SHOWN: usize = 7;
/// What the clients are shown to ask.
const SHOWN: &str = "SELECT * FROM gold.daily_metrics ORDER BY order_date";
/// The object that marks a lake as made by this command.
const MARK: &str = "flowguard-demo.json";

/// See the whole way once: made-up orders through Kafka into bronze, silver and gold
///
/// Starts a Kafka mock broker inside this process, produces a made-up food-ordering history with
/// duplicates, malformed and late messages, ingests it while it is produced, builds every model,
/// and proves the result. The same options give the same numbers every time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard demo
  flowguard demo --serve
  flowguard demo --orders 100000 --clicks 1000000 --fresh
  flowguard demo --lake /tmp/lake && flowguard query --lake /tmp/lake \"SHOW TABLES\"")]
pub struct Arguments {
    /// Length of the history
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Orders placed
    #[arg(long, default_value_t = 20_000)]
    orders: u64,
    /// Impressions and clicks
    #[arg(long, default_value_t = 200_000)]
    clicks: u64,
    /// The same seed makes the same history
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Remove the tables of an earlier demo first
    #[arg(long)]
    fresh: bool,
    /// Then answer SQL over the demo's lake, or over that of an earlier demo
    #[arg(long)]
    serve: bool,
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let mut config = session.config()?;
    // Small batches: the mock broker keeps little, and something should be seen to happen.
    config.ingest.flush_rows_max = 30_000;
    config.ingest.flush_age_ms_max = 500;
    let app = Arc::new(App::open(config)?);
    if prepare(&app, arguments).await? == Found::Nothing {
        play(session, &app, arguments).await?;
    }
    if arguments.serve { serve(session, app).await } else { Ok(()) }
}

async fn play(session: &Session, app: &Arc<App>, arguments: &Arguments) -> Result<()> {
    let options = Options {
        days: arguments.days,
        orders: arguments.orders,
        clicks: arguments.clicks,
        seed: arguments.seed,
        ..Options::default()
    };
    let mut timings: Vec<(&str, Duration)> = Vec::new();
    let began = Clock::now();
    let broker = MockBroker::start(&Topic::ALL.map(|topic| (topic.name(), topic.partitions())))?;
    let produced = ingest(session, app, &broker, options).await?;
    timings.push(("produce and ingest", began.elapsed()));

    let building = Clock::now();
    let context = app.run_context().await?;
    let tasks = tasks_of(&super::run::selected(app, &context.models, &[])?, None);
    let mut progress = Progress::new();
    let report =
        runner::run(context, tasks, &session.process.stop, |event| progress.show(event)).await;
    progress.end();
    super::run::finish(report)?;
    timings.push(("build silver and gold", building.elapsed()));

    for model in app.models.iter().filter(|model| model.name.layer == Layer::Gold) {
        show(app, &model.name).await?;
    }
    let auditing = Clock::now();
    let (audits, failed) = audit::run(app, &[], Some(&broker.access()), false).await?;
    output::write_text(&format!("\naudit\n{}", audit::table(&audits)))?;
    audit::verdict(&audits)?;
    if let Some(error) = one_error("audited", failed, app.bronze(&[])?.len()) {
        return Err(error);
    }
    timings.push(("audit", auditing.elapsed()));
    let exporting = Clock::now();
    if export(session, app).await? {
        timings.push(("export and compare", exporting.elapsed()));
    }
    timings.push(("total", began.elapsed()));
    finish(app, produced, &timings)
}

#[derive(PartialEq)]
enum Found {
    Nothing,
    EarlierDemo,
}

/// Refuses a lake that is not empty, unless it is an earlier demo's and may go or is to be served.
async fn prepare(app: &App, arguments: &Arguments) -> Result<Found> {
    let tables = app.lake.tables().await?;
    let is_demo = app.lake.has_object(MARK).await?;
    if !tables.is_empty() && !is_demo {
        return Err(Error::invalid(format!(
            "the lake `{}` holds tables that are not the demo's",
            app.lake.root()
        ))
        .hint("choose another place: flowguard demo --lake ./demo-lake"));
    }
    if is_demo && !arguments.fresh && arguments.serve {
        return Ok(Found::EarlierDemo);
    }
    if is_demo && !arguments.fresh {
        return Err(Error::invalid(format!("the lake `{}` already holds a demo", app.lake.root()))
            .hint("query it, serve it: flowguard demo --serve, or start over: --fresh"));
    }
    for table in &tables {
        app.lake.remove_table(table).await?;
    }
    app.lake.put_object(MARK, b"{}\n").await?;
    Ok(Found::Nothing)
}

/// Messages and their bytes.
#[derive(Clone, Copy)]
struct Produced {
    messages: u64,
    bytes: u64,
}

type Positions = BTreeMap<(Topic, i32), i64>;

/// Produces and ingests side by side until everything produced is in the lake.
async fn ingest(
    session: &Session,
    app: &Arc<App>,
    broker: &MockBroker,
    options: Options,
) -> Result<Produced> {
    let access = broker.access();
    let checked = app.checked().await?;
    super::left_out::say(app, &checked.models);
    let topics: BTreeMap<TableName, Topic> = checked
        .models
        .iter()
        .filter_map(|model| {
            let source = model.topic()?;
            let topic = Topic::ALL.into_iter().find(|topic| topic.name() == source.topic)?;
            Some((model.name.clone(), topic))
        })
        .collect();
    let landed: Arc<Mutex<Positions>> = Arc::default();
    let accounted = Arc::new(AtomicU64::new(0));
    let total = options.orders + options.clicks;
    let bar = bar(total + total / 100);
    let stop = session.process.stop.child_token();
    let on_event = {
        let (landed, accounted, bar) = (Arc::clone(&landed), Arc::clone(&accounted), bar.clone());
        on_event(topics, landed, accounted, bar, stop.clone())
    };
    let producer = {
        let (landed, stop, access) = (Arc::clone(&landed), stop.clone(), access.clone());
        tokio::task::spawn_blocking(move || {
            let produced = produce(&Producer::new(&access)?, &options, &landed, &stop);
            produced.inspect_err(|_| stop.cancel())
        })
    };
    let finished = Arc::new(AtomicBool::new(false));
    let setup = Setup {
        app: Arc::clone(app),
        kafka: access.clone(),
        run: Uuid::now_v7(),
        until: Until::Stopped,
        is_patient: false,
        on_event,
    };
    let tables = Tables::Named(app.bronze(&[])?, checked);
    let workers = crate::app::ingest::ingest(Arc::new(setup), tables, &stop);
    let watcher = async {
        let produced = producer
            .await
            .map_err(|source| Error::internal("the producer stopped").source(source))??;
        while accounted.load(Ordering::Relaxed) < produced.messages && !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        finished.store(accounted.load(Ordering::Relaxed) == produced.messages, Ordering::Relaxed);
        stop.cancel();
        Ok::<Produced, Error>(produced)
    };
    let (reports, produced) = tokio::join!(workers, watcher);
    bar.finish_and_clear();
    let (reports, produced) = (reports.into_result()?, produced?);
    if !finished.load(Ordering::Relaxed) {
        return Err(interrupted("what was ingested is committed"));
    }
    super::ingest::say_totals(&reports);
    Ok(produced)
}

/// Notes what landed; a table that fails stops all, because nobody would wait for the others.
fn on_event(
    topics: BTreeMap<TableName, Topic>,
    landed: Arc<Mutex<Positions>>,
    accounted: Arc<AtomicU64>,
    bar: ProgressBar,
    failed: CancellationToken,
) -> OnEvent {
    Arc::new(move |table, event| {
        let report = match event {
            IngestEvent::Committed(report) => report,
            IngestEvent::Failed(_) => return failed.cancel(),
            IngestEvent::Works | IngestEvent::Ended => return,
        };
        let mut landed = landed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(table) {
            landed.extend(report.next_offsets.iter().map(|(id, next)| ((*topic, *id), *next)));
        }
        let done = report.rows + report.rejects;
        bar.set_position(accounted.fetch_add(done, Ordering::Relaxed) + done);
    })
}

fn bar(total: u64) -> ProgressBar {
    if !output::is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{bar:30} {human_pos} of about {human_len} messages in bronze  {elapsed}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// Sends the history, waiting for the lake where the mock broker would drop messages.
fn produce(
    producer: &Producer,
    options: &Options,
    landed: &Mutex<Positions>,
    stop: &CancellationToken,
) -> Result<Produced> {
    let mut produced = Produced { messages: 0, bytes: 0 };
    // Per partition: the next offset, and the sizes of messages that have not landed.
    let mut sent: BTreeMap<(Topic, i32), Ahead> = BTreeMap::new();
    for event in history(options) {
        let key = (event.topic, event.partition);
        let ahead = sent.entry(key).or_default();
        while ahead.bytes > AHEAD_BYTES_MAX {
            if stop.is_cancelled() {
                return Ok(produced);
            }
            let next = landed.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
            if ahead.forget(next.unwrap_or(0)) == 0 {
                producer.flush()?;
                #[expect(clippy::disallowed_methods, reason = "the producer has its own thread")]
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        producer.send(&Record {
            topic: event.topic.name(),
            partition: Some(event.partition),
            key: Some(event.key.as_bytes()),
            payload: Some(&event.payload),
            headers: &[],
            timestamp_ms: Some(event.timestamp_ms),
        })?;
        let bytes = (event.payload.len() + event.key.len()) as u64;
        ahead.add(bytes);
        produced.messages += 1;
        produced.bytes += bytes;
    }
    producer.flush()?;
    Ok(produced)
}

/// Messages of one partition that have been sent and have not landed.
#[derive(Default)]
struct Ahead {
    first: i64,
    sizes: std::collections::VecDeque<u64>,
    bytes: u64,
}

impl Ahead {
    fn add(&mut self, bytes: u64) {
        self.sizes.push_back(bytes);
        self.bytes += bytes;
    }

    /// Forgets everything before `next` and says how much that was.
    fn forget(&mut self, next: i64) -> u64 {
        let before = self.bytes;
        while self.first < next
            && let Some(bytes) = self.sizes.pop_front()
        {
            self.first += 1;
            self.bytes -= bytes;
        }
        before - self.bytes
    }
}

/// Brings the exports of the project to where the lake is, and proves it. Without a driver, which
/// this program does not carry, says how to get one.
async fn export(session: &Session, app: &App) -> Result<bool> {
    let mut found = Vec::new();
    for (target, tables) in app.exports()?.chosen(&[], None)?.targets {
        let mut to = match super::export::connect(session, app, target).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                let hint = error.hint.unwrap_or_default();
                output::write_text(&format!(
                    "\nNothing was exported: {}; {hint}\n",
                    error.message
                ))?;
                return Ok(false);
            }
            connected => connected?,
        };
        for name in &tables {
            let source = app.export_source();
            source.export(&mut to, name, false).await?;
            let parity = source.parity(&mut to, name).await;
            found.push(Verdict { target: target.name.clone(), table: name.clone(), found: parity });
        }
    }
    output::write_text(&format!("\nexport\n{}", super::parity::verdicts(&found)))?;
    super::parity::judge(&found)?;
    if let Some(error) = found.into_iter().find_map(|verdict| verdict.found.err()) {
        return Err(error);
    }
    Ok(true)
}

/// The first rows of a table in its own order.
async fn show(app: &App, name: &TableName) -> Result<()> {
    output::write_text(&format!("\n{name}\n"))?;
    query::show_table(app, name, ROWS_SHOWN).await
}

fn finish(app: &App, produced: Produced, timings: &[(&str, Duration)]) -> Result<()> {
    let rows: Vec<Vec<String>> = timings
        .iter()
        .map(|(stage, took)| vec![(*stage).to_owned(), format!("{:.2}", took.as_secs_f64())])
        .collect();
    output::write_text(&format!("\n{}", output::columns(&["stage", "seconds"], &rows)))?;
    let (lake, flag) = (app.lake.root(), lake_flag(app));
    output::write_text(&format!(
        "\n{} messages ({}) went through. The lake is in {lake}. Try next:
  flowguard query{flag} \"SELECT * FROM gold.daily_metrics ORDER BY order_date\"
  flowguard query{flag} \"SELECT reason, count(*) FROM bronze.dead_letters GROUP BY reason\"
  flowguard run{flag} +gold.daily_metrics --start 2026-01-05 --end 2026-01-07
  flowguard audit{flag} --offline
  flowguard lineage --output dot\n",
        output::thousands(produced.messages),
        output::bytes(produced.bytes),
    ))
}

/// How the lake is named on the command line; empty for the default.
fn lake_flag(app: &App) -> String {
    let lake = app.lake.root();
    let default = app.config.project.join(".flowguard");
    let is_default = lake.to_file_path().is_ok_and(|path| path.as_path() == Path::new(&default));
    if is_default { String::new() } else { format!(" --lake {lake}") }
}

/// Answers SQL for everybody on this machine until stopped.
async fn serve(session: &Session, app: Arc<App>) -> Result<()> {
    let flag = lake_flag(&app);
    let wanted = Wanted { ingest: Ingestion::No, flight: true, http: true };
    let server = Server::open(app, wanted, Door::local()).await?;
    let (Some(flight), Some(http)) = (server.flight, server.http) else {
        return Err(Error::internal("the servers have no address"));
    };
    output::write_text(&format!(
        "\nServing until Ctrl-C, for this machine only. A line to paste for each client:

Python, after pip install adbc-driver-flightsql pyarrow:
  python3 -c \"import adbc_driver_flightsql.dbapi as flight; cursor = flight.connect('grpc://{flight}', autocommit=True).cursor(); cursor.execute('{SHOWN}'); print(*cursor.fetchall(), sep='\\n')\"
JDBC, such as DBeaver with the Arrow Flight SQL driver:
  jdbc:arrow-flight-sql://{flight}/?useEncryption=false
curl:
  curl -G http://{http}/api/v1/query --data-urlencode \"sql={SHOWN}\"
flowguard:
  flowguard query{flag} \"{SHOWN}\"
  flowguard sql --remote grpc://{flight}\n"
    ))?;
    server.run(&session.process.stop).await
}
