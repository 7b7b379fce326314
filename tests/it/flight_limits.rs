//! Limits of statements over Flight SQL that hold for a statement in all its parts, whoever reads them and
//! in whatever order; readers that stall; and where names without a layer are looked for.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow_flight::{FlightEndpoint, FlightInfo};
use flowguard::access::Access;
use flowguard::clock::Clock;
use flowguard::lake::Lake;
use flowguard::lake::store::S3Access;
use flowguard::statements::{AdmissionLimits, StatementLimits};
use futures::{StreamExt, TryStreamExt};
use tonic::{Code, Status};
use url::Url;

use crate::flight::{Client, LONG, Server, ask, info, limits, query, status, text};
use crate::program::{Project, SMALL_DEMO, model};
use crate::served::PATIENCE;

/// Large enough for two parts.
const MANY: &str =
    "SELECT md5(CAST(value AS VARCHAR)) AS id, value AS n FROM generate_series(1, 2400000)";
/// Far more bytes of each part than a connection takes unread.
const WIDE: &str = "SELECT id, repeat('x', 200) AS x FROM silver.many";

fn of_many() -> Project {
    let project = Project::of_models(&[("silver/many", &model("kind: full", MANY))]);
    project.run(&["run"]).succeeded();
    project
}

async fn serve(project: &Project, limits: StatementLimits) -> Server {
    serve_lake(project, &project.folder().join(".flowguard"), limits).await
}

async fn serve_lake(project: &Project, lake: &Path, limits: StatementLimits) -> Server {
    let lake = Url::from_directory_path(lake).unwrap();
    let lake = Lake::open(&lake, &S3Access::default()).unwrap();
    let (access, clock) = (Access::open(), Clock::of_machine());
    Server::within(project.folder(), lake, access, clock, limits).await
}

fn alone() -> AdmissionLimits {
    AdmissionLimits {
        running_max: 1,
        running_per_user_max: 1,
        waiting_max: 64,
        wait_max: Duration::from_secs(5),
    }
}

/// All rows of one part, or why not.
async fn rows(client: &mut Client, endpoint: &FlightEndpoint) -> Result<usize, Status> {
    let stream = client.do_get(endpoint.ticket.clone().unwrap()).await.map_err(status)?;
    let batches: Vec<_> = stream.try_collect().await.map_err(status)?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}

async fn parts(client: &mut Client, sql: &str) -> FlightInfo {
    let info = info(client, &query(sql)).await;
    assert!(info.endpoint.len() > 1, "the scan has several parts");
    info
}

/// Both parts wait for the one place; whoever gets it has it for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_does_not_wait_behind_its_own_statement() {
    let project = of_many();
    let server = serve(&project, StatementLimits { admission: alone(), ..limits() }).await;
    let mut client = server.client().await;
    let info = parts(&mut client, WIDE).await;
    let long = crate::flight::info(&mut client, &query(LONG)).await;
    let mut running = client.do_get(long.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert!(running.next().await.unwrap().is_ok());
    let reads: Vec<_> = info
        .endpoint
        .iter()
        .cloned()
        .map(|endpoint| {
            let mut client = client.clone();
            tokio::spawn(async move { client.do_get(endpoint.ticket.unwrap()).await })
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while server.statements.waiting() == 0 {
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What came later waits by now too.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(running);
    let mut streams = Vec::new();
    for read in reads {
        streams.push(read.await.unwrap().unwrap());
    }
    // A batch of each, while all are open.
    for stream in &mut streams {
        assert!(stream.next().await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_rows_is_one_of_all_parts() {
    let project = of_many();
    let free = serve(&project, limits()).await;
    let sql = "SELECT id FROM silver.many WHERE n % 10 = 0";
    let mut client = free.client().await;
    let counts = parts(&mut client, sql).await;
    let mut all = 0;
    for endpoint in &counts.endpoint {
        all += rows(&mut client, endpoint).await.unwrap();
    }
    let rows_max = all as u64 - 1;
    let server = serve(&project, StatementLimits { rows_max, ..limits() }).await;
    let mut client = server.client().await;
    let info = parts(&mut client, sql).await;
    let (last, others) = info.endpoint.split_last().unwrap();
    for endpoint in others.iter().chain(others) {
        rows(&mut client, endpoint).await.unwrap();
    }
    let refused = rows(&mut client, last).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let words = format!("the result has more than {rows_max} rows");
    assert!(refused.message().starts_with(&words), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_to_run_is_one_of_all_parts() {
    let project = of_many();
    let run_max = Duration::from_secs(2);
    let server = serve(&project, StatementLimits { run_max, ..limits() }).await;
    let mut client = server.client().await;
    let info = parts(&mut client, WIDE).await;
    let mut ended = None;
    for endpoint in info.endpoint.iter().cycle().take(6) {
        let mut stream = match client.do_get(endpoint.ticket.clone().unwrap()).await {
            Ok(stream) => stream,
            Err(error) => {
                ended = Some(status(error));
                break;
            }
        };
        assert!(stream.next().await.is_some());
        // None of them takes its time alone.
        tokio::time::sleep(run_max / 3).await;
        if let Err(error) = stream.try_collect::<Vec<_>>().await {
            ended = Some(status(error));
            break;
        }
    }
    let ended =
        ended.expect("three parts of two thirds of a second each, and more, are two seconds");
    assert_eq!(ended.code(), Code::ResourceExhausted);
    assert!(ended.message().starts_with("the statement ran longer than 2 s"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_gives_its_place_back() {
    let project = of_many();
    let unread_max = Duration::from_secs(1);
    let limits = StatementLimits { admission: alone(), unread_max, ..limits() };
    let server = serve(&project, limits).await;
    let mut stalled = server.client().await;
    let long = info(&mut stalled, &query(LONG)).await;
    let mut stream = stalled.do_get(long.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    let mut other = server.client().await;
    let began = Instant::now();
    let one = ask(&mut other, "SELECT 1 AS one").await;
    assert_eq!(one, "+-----+\n| one |\n+-----+\n| 1   |\n+-----+");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let ended = status(stream.try_collect::<Vec<_>>().await.unwrap_err());
    assert_eq!(
        (ended.code(), ended.message()),
        (
            Code::ResourceExhausted,
            "nobody read on for 1 s\nhint: read results to their end, or raise \
             `server.statement_unread_ms_max`"
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_without_a_layer_are_looked_for_in_silver_or_the_schema_that_is_set() {
    let project = Project::of_demo(&SMALL_DEMO);
    let server = serve_lake(&project, project.lake(), limits()).await;
    let mut client = server.client().await;
    let counted = ask(&mut client, "SELECT count(*) AS n FROM silver.clicks_cleaned").await;
    for sql in [
        "SELECT count(*) AS n FROM clicks_cleaned",
        "WITH gold AS (SELECT * FROM clicks_cleaned) SELECT count(*) AS n FROM gold",
        "SELECT (SELECT count(*) FROM clicks_cleaned) AS n",
    ] {
        assert_eq!(ask(&mut client, sql).await, counted, "{sql}");
    }
    let travels = |name: &str| format!("SELECT count(*) AS n FROM table_at('{name}', 0)");
    let older = ask(&mut client, &travels("silver.clicks_cleaned")).await;
    assert_eq!(ask(&mut client, &travels("clicks_cleaned")).await, older);
    let mut prepared =
        client.prepare("SELECT count(*) AS n FROM clicks_cleaned".to_owned(), None).await.unwrap();
    let info = prepared.execute().await.unwrap();
    let stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert_eq!(text(&stream.try_collect::<Vec<_>>().await.unwrap()), counted);
    for described in ["DESCRIBE #", "SHOW COLUMNS FROM #", "SHOW CREATE TABLE #"] {
        let bare = ask(&mut client, &described.replace('#', "clicks_cleaned")).await;
        let full = ask(&mut client, &described.replace('#', "silver.clicks_cleaned")).await;
        assert_eq!(bare, full, "{described}");
        assert!(bare.lines().count() > 4, "{bare}");
    }
    let unknown =
        status(client.execute("SELECT * FROM daily_metrics".to_owned(), None).await.unwrap_err());
    let hint = "unknown table `daily_metrics`";
    assert!(unknown.message().contains(hint), "{unknown:?}");
    assert!(unknown.message().contains("did you mean `gold.daily_metrics`?"), "{unknown:?}");

    // As the JDBC driver sends a property of its URL that it does not know.
    client.set_header("schema", "gold");
    let counted = ask(&mut client, "SELECT count(*) AS n FROM daily_metrics").await;
    assert_eq!(counted, "+---+\n| n |\n+---+\n| 2 |\n+---+");
    client.set_header("schema", "lead");
    let refused = status(client.execute("SELECT 1".to_owned(), None).await.unwrap_err());
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("the header `schema` is `lead`"), "{refused:?}");
}
