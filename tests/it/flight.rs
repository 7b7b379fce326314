//! The Flight SQL server in this process, over a small lake that the demo made, driven by
//! arrow-flight's clients: what it promises, streams, refuses, forgets and cancels.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::{FlightSqlServiceClient, PreparedStatement};
use arrow_flight::sql::{
    Any, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandStatementIngest, CommandStatementQuery, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria, Empty,
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage,
    RenewFlightEndpointRequest, Ticket,
};
use flowguard::access::Access;
use flowguard::clock::Clock;
use flowguard::interval::Instant;
use flowguard::lake::Lake;
use flowguard::lake::store::S3Access;
use flowguard::model::{CurrentModels, ModelSet};
use flowguard::server::flight;
use flowguard::server::flight::messages::{
    CloseSessionResult, OptionValue, SessionOption, SessionOptions, SetSessionOptionsResult,
};
use flowguard::statements::log::StatementLog;
use flowguard::statements::{AdmissionLimits, StatementLimits, Statements, StatementsSetup};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use url::Url;

use crate::faulty_store::{Fault, FaultyStore};
use crate::program::{Project, SMALL_DEMO, model};
use crate::runs;
use crate::topic_in_memory::engine;

const REFUSAL: &str = "only queries are allowed: SELECT, WITH, VALUES, SHOW, DESCRIBE and EXPLAIN\n\
                       hint: tables are written by `flowguard run` and `flowguard ingest`";
const METRICS: &str = "SELECT * FROM gold.daily_metrics ORDER BY order_date";
const METRICS_TABLE: &str = "\
+------------+--------+---------+--------------+-----------------+
| order_date | orders | gmv     | unique_users | avg_order_value |
+------------+--------+---------+--------------+-----------------+
| 2026-01-05 | 248    | 2884.88 | 70           | 11.63           |
| 2026-01-06 | 250    | 2876.27 | 88           | 11.51           |
+------------+--------+---------+--------------+-----------------+";
const CLICKS: &str = "SELECT event_id FROM silver.clicks_cleaned";

pub type Client = FlightSqlServiceClient<Channel>;

/// A server of one test; it ends with it.
pub struct Server {
    address: String,
    pub statements: Statements,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// Over the demo's lake, which is made once for all tests.
    async fn of_demo() -> Self {
        Self::over(&demo().0, &demo().1, Access::open(), Clock::of_machine()).await
    }

    async fn over(
        project: &std::path::Path,
        lake: &std::path::Path,
        access: Access,
        clock: Clock,
    ) -> Self {
        let lake = Url::from_directory_path(lake).unwrap();
        let lake = Lake::open(&lake, &S3Access::default()).unwrap();
        Self::on(project, lake, access, clock).await
    }

    async fn on(project: &std::path::Path, lake: Lake, access: Access, clock: Clock) -> Self {
        Self::within(project, lake, access, clock, limits()).await
    }

    pub async fn within(
        project: &std::path::Path,
        lake: Lake,
        access: Access,
        clock: Clock,
        limits: StatementLimits,
    ) -> Self {
        let statements = Statements::new(StatementsSetup {
            lake,
            engine: engine(),
            models: CurrentModels::new(Arc::new(ModelSet::read(project).unwrap())),
            limits,
            log: StatementLog::none(),
            executor: Handle::current(),
            clock: clock.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let incoming = futures::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let stop = CancellationToken::new();
        let served = flight::serve(incoming, statements.clone(), access, clock, stop.clone());
        tokio::spawn(served);
        Self { address, statements, stop }
    }

    pub async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(self.address.clone()).unwrap();
        FlightSqlServiceClient::new(endpoint.connect().await.unwrap())
    }
}

pub fn limits() -> StatementLimits {
    let admission = AdmissionLimits {
        running_max: 8,
        running_per_user_max: 8,
        waiting_max: 64,
        wait_max: Duration::from_secs(30),
    };
    StatementLimits {
        admission,
        memory_bytes_max: 256 << 20,
        spill_bytes_max: 1 << 30,
        rows_max: 1_000_000_000,
        run_max: Duration::from_secs(600),
        unread_max: Duration::from_secs(120),
    }
}

/// The project's folder and the lake's.
fn demo() -> &'static (std::path::PathBuf, std::path::PathBuf) {
    static DEMO: OnceLock<(Project, (std::path::PathBuf, std::path::PathBuf))> = OnceLock::new();
    let (_, paths) = DEMO.get_or_init(|| {
        let project = Project::of_demo(&SMALL_DEMO);
        let paths = (project.folder().to_path_buf(), project.lake().to_path_buf());
        (project, paths)
    });
    paths
}

fn descriptor(command: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

pub fn query(sql: &str) -> CommandStatementQuery {
    CommandStatementQuery { query: sql.to_owned(), transaction_id: None }
}

pub async fn info(client: &mut Client, command: &impl ProstMessageExt) -> FlightInfo {
    client.inner_mut().get_flight_info(descriptor(command)).await.unwrap().into_inner()
}

async fn read(client: &mut Client, endpoint: &FlightEndpoint) -> Vec<RecordBatch> {
    let stream = client.do_get(endpoint.ticket.clone().unwrap()).await.unwrap();
    stream.try_collect().await.unwrap()
}

async fn read_all(client: &mut Client, info: &FlightInfo) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for endpoint in &info.endpoint {
        assert_eq!(endpoint.location, [], "clients stay on the connection they have");
        batches.extend(read(client, endpoint).await);
    }
    batches
}

pub fn text(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

pub async fn ask(client: &mut Client, sql: &str) -> String {
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    text(&read_all(client, &info).await)
}

/// Why a statement was not answered, wherever that shows.
async fn failure(client: &mut Client, sql: &str) -> Status {
    match client.execute(sql.to_owned(), None).await {
        Ok(info) => {
            let mut outcome = Ok(());
            for endpoint in info.endpoint {
                outcome = match client.do_get(endpoint.ticket.unwrap()).await {
                    Ok(stream) => stream.try_collect::<Vec<_>>().await.map(drop),
                    Err(error) => Err(error),
                };
                if outcome.is_err() {
                    break;
                }
            }
            status(outcome.unwrap_err())
        }
        Err(error) => status(error),
    }
}

pub fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        FlightError::ExternalError(source) => {
            source.downcast_ref::<Status>().cloned().unwrap_or_else(|| panic!("{source}"))
        }
        other => panic!("{other}"),
    }
}

fn parts_of(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

/// The schema that is streamed, promised by info, by GetSchema, and, for a query, on prepare.
async fn check_schema(client: &mut Client, command: &impl ProstMessageExt) -> Schema {
    let info = info(client, command).await;
    let promised = info.clone().try_decode_schema().unwrap();
    let schema = client.inner_mut().get_schema(descriptor(command)).await.unwrap().into_inner();
    assert_eq!(Schema::try_from(schema).unwrap(), promised);
    for endpoint in &info.endpoint {
        let mut stream = client.do_get(endpoint.ticket.clone().unwrap()).await.unwrap();
        while let Some(batch) = stream.next().await {
            assert_eq!(*batch.unwrap().schema(), promised);
        }
        assert_eq!(**stream.schema().unwrap(), promised);
    }
    let poll = client.inner_mut().poll_flight_info(descriptor(command)).await.unwrap().into_inner();
    assert_eq!((poll.progress, &poll.flight_descriptor), (Some(1.0), &None));
    assert_eq!(poll.info.unwrap().try_decode_schema().unwrap(), promised);
    promised
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_promised_is_what_is_streamed_to_the_nullability() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    for sql in [
        METRICS,
        CLICKS,
        "SELECT * FROM silver.orders_cleaned",
        "SELECT * FROM bronze.orders_raw",
        "SELECT min(orders), max(orders), count(*), min(order_date) FROM gold.daily_metrics",
        "SELECT min(event_id), max(event_id) FROM silver.clicks_cleaned",
        "SELECT count(*) FROM silver.clicks_cleaned",
        "SELECT sum(price), avg(price) FROM silver.orders_cleaned WHERE 1 = 0",
        "SELECT category, count(*) FROM silver.orders_cleaned GROUP BY category",
        "SELECT 1, NULL AS n, 'a', 1.5, true, DATE '2026-01-01', X'00'",
        "SELECT arrow_cast('a', 'Utf8View') AS v, arrow_cast('a', 'Dictionary(Int32, Utf8)') AS d",
        "SELECT [1, 2] AS list, named_struct('a', arrow_cast('b', 'Utf8View')) AS struct",
        "SELECT * FROM gold.daily_metrics WHERE orders < 0",
        "SELECT o.order_id, c.event_id FROM silver.orders_cleaned o LEFT JOIN silver.clicks_cleaned c USING (session_id) LIMIT 5",
        "SELECT orders FROM gold.daily_metrics UNION ALL SELECT 1",
        "VALUES (1, 'a'), (2, NULL)",
        "SHOW TABLES",
        "DESCRIBE gold.daily_metrics",
        "EXPLAIN SELECT * FROM gold.daily_metrics",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM table_at('gold.daily_metrics', 0)",
        "SELECT $start, $end",
    ] {
        let promised = check_schema(&mut client, &query(sql)).await;
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap();
        assert_eq!(*prepared.dataset_schema().unwrap(), promised, "{sql}");
        assert_eq!(*prepared.parameter_schema().unwrap(), Schema::empty(), "{sql}");
        let known = |field: &Arc<Field>| {
            !matches!(
                field.data_type(),
                DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..)
            )
        };
        assert!(promised.fields().iter().all(known), "{sql}");
    }
    assert_eq!(ask(&mut client, METRICS).await, METRICS_TABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_keep_their_schemas_too() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let client = &mut client;
    let table = || "daily_metrics".to_owned();
    check_schema(client, &CommandGetCatalogs {}).await;
    check_schema(client, &CommandGetDbSchemas::default()).await;
    check_schema(client, &CommandGetTables::default()).await;
    check_schema(client, &CommandGetTables { include_schema: true, ..Default::default() }).await;
    check_schema(client, &CommandGetTableTypes {}).await;
    check_schema(client, &CommandGetSqlInfo { info: vec![] }).await;
    check_schema(client, &CommandGetSqlInfo { info: vec![1, 517] }).await;
    check_schema(client, &CommandGetXdbcTypeInfo { data_type: None }).await;
    check_schema(client, &CommandGetXdbcTypeInfo { data_type: Some(12) }).await;
    let keys = CommandGetPrimaryKeys { table: table(), ..Default::default() };
    check_schema(client, &keys).await;
    let keys = CommandGetExportedKeys { table: table(), ..Default::default() };
    check_schema(client, &keys).await;
    let keys = CommandGetImportedKeys { table: table(), ..Default::default() };
    check_schema(client, &keys).await;
    check_schema(client, &CommandGetCrossReference::default()).await;
}

/// The rows of a listing as lines of cells.
async fn listed(client: &mut Client, command: &impl ProstMessageExt) -> Vec<String> {
    let info = info(client, command).await;
    let batches = read_all(client, &info).await;
    let lines = text(&batches);
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ");
    lines.lines().skip(3).filter(|line| line.starts_with('|')).map(cells).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_is_listed_and_narrowed() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let client = &mut client;
    assert_eq!(listed(client, &CommandGetCatalogs {}).await, ["lake"]);
    assert_eq!(listed(client, &CommandGetTableTypes {}).await, ["TABLE", "VIEW"]);
    let schemas = |catalog: Option<&str>, pattern: Option<&str>| CommandGetDbSchemas {
        catalog: catalog.map(str::to_owned),
        db_schema_filter_pattern: pattern.map(str::to_owned),
    };
    let all = ["lake bronze", "lake gold", "lake silver"];
    assert_eq!(listed(client, &schemas(None, None)).await, all);
    assert_eq!(listed(client, &schemas(Some("lake"), Some("%"))).await, all);
    assert_eq!(listed(client, &schemas(None, Some("_o%"))).await, ["lake gold"]);
    assert_eq!(listed(client, &schemas(Some(""), None)).await, [""; 0]);
    let tables = |schema: Option<&str>, table: Option<&str>, kinds: &[&str]| CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: schema.map(str::to_owned),
        table_name_filter_pattern: table.map(str::to_owned),
        table_types: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        include_schema: false,
    };
    assert_eq!(
        listed(client, &tables(None, None, &[])).await,
        [
            "lake bronze clicks_raw TABLE",
            "lake bronze dead_letters TABLE",
            "lake bronze orders_raw TABLE",
            "lake gold daily_metrics TABLE",
            "lake gold food_item_performance TABLE",
            "lake gold funnel_metrics TABLE",
            "lake gold user_cohorts TABLE",
            "lake silver clicks_cleaned TABLE",
            "lake silver orders_cleaned TABLE",
            "lake silver user_sessions TABLE",
        ]
    );
    let orders = ["lake bronze orders_raw TABLE", "lake silver orders_cleaned TABLE"];
    assert_eq!(listed(client, &tables(None, Some("orders%"), &["TABLE"])).await, orders);
    assert_eq!(listed(client, &tables(None, Some("orders\\_raw"), &[])).await, orders[..1]);
    assert_eq!(listed(client, &tables(Some("gold"), Some("orders%"), &[])).await, [""; 0]);
    assert_eq!(listed(client, &tables(None, None, &["VIEW"])).await, [""; 0]);
    let keys = CommandGetPrimaryKeys { table: "user_cohorts".to_owned(), ..Default::default() };
    assert_eq!(
        listed(client, &keys).await,
        [
            "lake gold user_cohorts cohort_week user_cohorts_key 1",
            "lake gold user_cohorts week_number user_cohorts_key 2",
        ]
    );
    let elsewhere = CommandGetPrimaryKeys { db_schema: Some("silver".to_owned()), ..keys };
    assert_eq!(listed(client, &elsewhere).await, [""; 0]);
    let long = tables(None, Some(&"%".repeat(2_000)), &[]);
    let refused = info(client, &long).await.endpoint[0].ticket.clone().unwrap();
    let refused = status(client.do_get(refused).await.unwrap_err());
    let expected = (Code::InvalidArgument, "a pattern has at most 1000 bytes");
    assert_eq!(parts_of(&refused), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_described_with_types_and_comments() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let tables = CommandGetTables {
        table_name_filter_pattern: Some("daily_metrics".to_owned()),
        include_schema: true,
        ..Default::default()
    };
    let info = info(&mut client, &tables).await;
    let batches = read_all(&mut client, &info).await;
    let schemas = batches[0].column(4);
    let schemas = schemas.as_any().downcast_ref::<arrow::array::BinaryArray>().unwrap();
    let schema = Schema::try_from(IpcMessage(schemas.value(0).to_vec().into())).unwrap();
    let comment = "Orders, turnover and buyers per day.";
    assert_eq!(schema.metadata()["comment"], comment);
    let gmv = schema.field_with_name("gmv").unwrap();
    assert_eq!(gmv.data_type(), &DataType::Decimal128(18, 2));
    let metadata: BTreeMap<&str, &str> =
        gmv.metadata().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let doc = "gross merchandise value, the sum of the orders' prices";
    let expected = [
        ("ARROW:FLIGHT:SQL:CATALOG_NAME", "lake"),
        ("ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT", "0"),
        ("ARROW:FLIGHT:SQL:IS_READ_ONLY", "1"),
        ("ARROW:FLIGHT:SQL:PRECISION", "18"),
        ("ARROW:FLIGHT:SQL:REMARKS", doc),
        ("ARROW:FLIGHT:SQL:SCALE", "2"),
        ("ARROW:FLIGHT:SQL:SCHEMA_NAME", "gold"),
        ("ARROW:FLIGHT:SQL:TABLE_NAME", "daily_metrics"),
        ("ARROW:FLIGHT:SQL:TYPE_NAME", "DECIMAL"),
        ("comment", doc),
    ];
    assert_eq!(metadata, expected.into());
    let named = |field: &Arc<Field>| field.metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"].clone();
    let names: Vec<String> = schema.fields().iter().map(named).collect();
    assert_eq!(names, ["DATE", "BIGINT", "DECIMAL", "BIGINT", "DECIMAL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_tells_what_it_is() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let asked = [
        SqlInfo::FlightSqlServerName,
        SqlInfo::FlightSqlServerReadOnly,
        SqlInfo::FlightSqlServerCancel,
        SqlInfo::SqlIdentifierQuoteChar,
    ];
    let command = CommandGetSqlInfo { info: asked.iter().map(|info| *info as u32).collect() };
    assert_eq!(
        listed(&mut client, &command).await,
        [
            "0 {string_value=FlowGuard}",
            "3 {bool_value=true}",
            "9 {bool_value=true}",
            "504 {string_value=\"}",
        ]
    );
    // Every number of the protocol but those of Substrait, which is not spoken.
    let all = listed(&mut client, &CommandGetSqlInfo { info: vec![] }).await;
    assert_eq!(all.len(), 10 + 2 + 77);
    let types = listed(&mut client, &CommandGetXdbcTypeInfo { data_type: Some(93) }).await;
    let names: Vec<&str> = types.iter().map(|line| line.split(" 93 ").next().unwrap()).collect();
    assert_eq!(names, ["TIMESTAMP", "TIMESTAMP WITH TIME ZONE"]);
    let actions = client.inner_mut().list_actions(Empty {}).await.unwrap().into_inner();
    let actions: Vec<_> = actions.try_collect().await.unwrap();
    let actions: Vec<&str> = actions.iter().map(|action| action.r#type.as_str()).collect();
    assert_eq!(
        actions,
        [
            "CreatePreparedStatement",
            "ClosePreparedStatement",
            "CancelQuery",
            "CancelFlightInfo",
            "RenewFlightEndpoint",
            "SetSessionOptions",
            "GetSessionOptions",
            "CloseSession",
        ]
    );
    let flights = client.inner_mut().list_flights(Criteria::default()).await.unwrap().into_inner();
    assert_eq!(flights.try_collect::<Vec<_>>().await.unwrap(), []);
}

fn sorted_ids(batches: &[RecordBatch]) -> Vec<String> {
    let mut ids = Vec::new();
    for batch in batches {
        let column = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
        ids.extend(column.iter().map(|id| id.unwrap().to_owned()));
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_read_in_any_order_side_by_side_and_again() {
    // Large enough for two.
    let many =
        "SELECT md5(CAST(value AS VARCHAR)) AS id, value AS n FROM generate_series(1, 600000)";
    let project = Project::of_models(&[("silver/many", &*model("kind: full", many))]);
    project.run(&["run"]).succeeded();
    let lake = project.folder().join(".flowguard");
    let server = Server::over(project.folder(), &lake, Access::open(), Clock::of_machine()).await;
    let mut client = server.client().await;
    let sql = "SELECT id FROM silver.many WHERE n % 10 = 0";
    let ordered = info(&mut client, &query(&format!("{sql} ORDER BY id"))).await;
    assert_eq!(ordered.endpoint.len(), 1, "what is ordered is one part");
    let expected = sorted_ids(&read_all(&mut client, &ordered).await);
    assert_eq!(expected.len(), 60_000);
    let info = info(&mut client, &query(sql)).await;
    assert_eq!(info.endpoint.len(), 2);
    let mut backwards = Vec::new();
    for endpoint in info.endpoint.iter().rev() {
        backwards.extend(read(&mut client, endpoint).await);
    }
    assert_eq!(sorted_ids(&backwards), expected);
    let reads = info.endpoint.iter().chain(&info.endpoint).map(|endpoint| {
        let (mut client, endpoint) = (client.clone(), endpoint.clone());
        async move { read(&mut client, &endpoint).await }
    });
    let twice = futures::future::join_all(reads).await.concat();
    let doubled: Vec<String> = expected.iter().flat_map(|id| [id.clone(), id.clone()]).collect();
    assert_eq!(sorted_ids(&twice), doubled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_are_refused_in_the_same_words_on_every_path() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    for sql in [
        "INSERT INTO gold.daily_metrics SELECT * FROM gold.daily_metrics",
        "CREATE TABLE gold.x AS SELECT 1",
        "COPY gold.daily_metrics TO '/tmp/x'",
        "SET datafusion.execution.batch_size = 1",
        "DROP TABLE gold.daily_metrics",
    ] {
        let refused = (Code::InvalidArgument, REFUSAL);
        assert_eq!(parts_of(&failure(&mut client, sql).await), refused, "{sql}");
        let schema = client.inner_mut().get_schema(descriptor(&query(sql))).await.unwrap_err();
        assert_eq!(parts_of(&schema), refused, "{sql}");
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap_err();
        assert_eq!(parts_of(&status(prepared)), refused, "{sql}");
        let updated = client.execute_update(sql.to_owned(), None).await.unwrap_err();
        assert_eq!(parts_of(&status(updated)), refused, "{sql}");
    }
    let a_query = (
        Code::InvalidArgument,
        "the statement is a query, and changes nothing\n\
         hint: execute it as a query, not as an update",
    );
    let updated = client.execute_update(METRICS.to_owned(), None).await.unwrap_err();
    assert_eq!(parts_of(&status(updated)), a_query);
    let mut prepared = client.prepare(METRICS.to_owned(), None).await.unwrap();
    assert_eq!(parts_of(&status(prepared.execute_update().await.unwrap_err())), a_query);
    let rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let ingest = CommandStatementIngest { table: "x".to_owned(), ..Default::default() };
    let rows = futures::stream::iter([Ok(rows)]);
    let ingested = client.execute_ingest(ingest, rows).await.unwrap_err();
    assert_eq!(parts_of(&status(ingested)), (Code::InvalidArgument, REFUSAL));
    let begun = client.begin_transaction().await.unwrap_err();
    assert_eq!(parts_of(&status(begun)), (Code::Unimplemented, REFUSAL));
    let inside = client.execute(METRICS.to_owned(), Some("t".into())).await.unwrap_err();
    assert_eq!(parts_of(&status(inside)), (Code::Unimplemented, REFUSAL));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_have_a_code_a_place_and_a_hint() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    for (sql, code, message) in [
        (
            "SELECT *\nFROM gold.daily_metrics WHERE odrers > 1",
            Code::InvalidArgument,
            "query:2:31: unknown column `odrers`\n    \
             FROM gold.daily_metrics WHERE odrers > 1\n                                  ^^^^^^\n    \
             hint: did you mean `orders`?",
        ),
        (
            "SELECT orders FROM",
            Code::InvalidArgument,
            "query:1:19: SQL syntax: expected: identifier, found: EOF\n    \
             SELECT orders FROM\n                      ^",
        ),
        (
            "SELECT * FROM gold.daily_metrcs",
            Code::NotFound,
            "there is no table `gold.daily_metrcs` in the lake\n\
             hint: did you mean `gold.daily_metrics`?",
        ),
        (
            "SELECT $a",
            Code::InvalidArgument,
            "no value for `$a`\nhint: bind all parameters before running the statement",
        ),
        // After thousands of rows: an error, not fewer rows.
        (
            "SELECT 1 / (value - 50000) FROM generate_series(1, 100000)",
            Code::InvalidArgument,
            "the statement failed: divide by zero error",
        ),
    ] {
        assert_eq!(parts_of(&failure(&mut client, sql).await), (code, message), "{sql}");
    }
}

fn strings(names: &[&str], values: &[&str]) -> RecordBatch {
    let columns = names
        .iter()
        .zip(values)
        .map(|(name, value)| (*name, Arc::new(StringArray::from(vec![*value])) as ArrayRef));
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn run(client: &mut Client, prepared: &mut PreparedStatement<Channel>) -> String {
    let info = prepared.execute().await.unwrap();
    let promised = info.clone().try_decode_schema().unwrap();
    let batches = read_all(client, &info).await;
    assert!(batches.iter().all(|batch| *batch.schema() == promised));
    text(&batches)
}

fn orders(value: i64) -> String {
    format!("+--------+\n| orders |\n+--------+\n| {value}    |\n+--------+")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_are_typed_and_bound_by_position_and_by_name_again_and_again() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let sql = "SELECT orders FROM gold.daily_metrics WHERE orders = ? OR order_date = ?";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let expected = Schema::new(vec![
        Field::new("1", DataType::Int64, true),
        Field::new("2", DataType::Date32, true),
    ]);
    assert_eq!(*prepared.parameter_schema().unwrap(), expected);
    let unbound = status(prepared.execute().await.unwrap_err());
    let hint = "hint: bind all parameters before running the statement";
    assert_eq!(parts_of(&unbound), (Code::InvalidArgument, &*format!("no value for `$1`\n{hint}")));
    let bind = |count: i64, day: i32| {
        let day = Arc::new(arrow::array::Date32Array::from(vec![day])) as ArrayRef;
        RecordBatch::try_from_iter([
            ("0", Arc::new(Int64Array::from(vec![count])) as _),
            ("1", day),
        ])
        .unwrap()
    };
    for count in [248, 250, 248] {
        prepared.set_parameters(bind(count, 0)).unwrap();
        assert_eq!(run(&mut client, &mut prepared).await, orders(count));
    }

    let sql = "SELECT orders FROM gold.daily_metrics WHERE orders = $low OR orders = $high - $low";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let names = |schema: &Schema| -> Vec<String> {
        schema.fields().iter().map(|field| field.name().clone()).collect()
    };
    assert_eq!(names(prepared.parameter_schema().unwrap()), ["low", "high"]);
    let number = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let values = RecordBatch::try_from_iter([("$high", number(1)), ("$low", number(250))]);
    prepared.set_parameters(values.unwrap()).unwrap();
    assert_eq!(run(&mut client, &mut prepared).await, orders(250));

    // Any type will do: it is told to be text, and what comes decides.
    let mut prepared = client.prepare("SELECT ? AS v".to_owned(), None).await.unwrap();
    let text = Schema::new(vec![Field::new("1", DataType::Utf8, true)]);
    assert_eq!(*prepared.parameter_schema().unwrap(), text);
    prepared.set_parameters(strings(&["1"], &["a"])).unwrap();
    assert_eq!(run(&mut client, &mut prepared).await, "+---+\n| v |\n+---+\n| a |\n+---+");
    let rows =
        RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]);
    prepared.set_parameters(rows.unwrap()).unwrap();
    let three = "+---+\n| v |\n+---+\n| 1 |\n| 2 |\n| 3 |\n+---+";
    assert_eq!(run(&mut client, &mut prepared).await, three);
    prepared.set_parameters(strings(&["1", "2"], &["a", "b"])).unwrap();
    let refused = status(prepared.execute().await.unwrap_err());
    let expected = (Code::InvalidArgument, "the statement has 1 parameters, and 2 values came");
    assert_eq!(parts_of(&refused), expected);
    prepared.close().await.unwrap();
}

/// A client that keeps the first handle, whatever a binding returns, and closes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_stays_the_same_until_it_is_closed() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let create = arrow_flight::sql::ActionCreatePreparedStatementRequest {
        query: "SELECT ? AS v".to_owned(),
        transaction_id: None,
    };
    let created = act(&mut client, "CreatePreparedStatement", create.as_any().encode_to_vec());
    let created = Any::decode(&*created.await.unwrap().unwrap()).unwrap();
    let created: arrow_flight::sql::ActionCreatePreparedStatementResult =
        created.unpack().unwrap().unwrap();
    let handle = created.prepared_statement_handle;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
    for value in ["a", "b"] {
        let batch = strings(&["1"], &[value]);
        let messages = arrow_flight::encode::FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(descriptor(&command)))
            .build(futures::stream::iter([Ok(batch)]));
        let messages: Vec<FlightData> = messages.try_collect().await.unwrap();
        let put = client.inner_mut().do_put(futures::stream::iter(messages)).await.unwrap();
        let put: Vec<_> = put.into_inner().try_collect().await.unwrap();
        let result =
            arrow_flight::sql::DoPutPreparedStatementResult::decode(&*put[0].app_metadata).unwrap();
        assert_eq!(result.prepared_statement_handle, Some(handle.clone()));
        let info = info(&mut client, &command).await;
        let rows = text(&read_all(&mut client, &info).await);
        assert_eq!(rows, format!("+---+\n| v |\n+---+\n| {value} |\n+---+"));
        check_schema(&mut client, &command).await;
    }
    let close = arrow_flight::sql::ActionClosePreparedStatementRequest {
        prepared_statement_handle: handle.clone(),
    };
    for _ in 0..2 {
        let closed = act(&mut client, "ClosePreparedStatement", close.as_any().encode_to_vec());
        assert_eq!(closed.await.unwrap(), None);
    }
    let gone = client.inner_mut().get_flight_info(descriptor(&command)).await.unwrap_err();
    let expected = "the prepared statement is unknown or has expired\n\
                    hint: prepare the statement again";
    assert_eq!(parts_of(&gone), (Code::NotFound, expected));
}

async fn act(client: &mut Client, name: &str, body: Vec<u8>) -> Result<Option<Vec<u8>>, Status> {
    let mut results = client.inner_mut().do_action(Action::new(name, body)).await?.into_inner();
    Ok(results.message().await?.map(|result| result.body.to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_sees_one_version_and_the_next_the_newest() {
    let project = runs::project(&[]);
    runs::add(&project, &[("a", "2026-01-05T10:00:00Z", "1")]).await;
    let lake = project.folder().join(".flowguard");
    let server = Server::over(project.folder(), &lake, Access::open(), Clock::of_machine()).await;
    let mut client = server.client().await;
    let sql = "SELECT id FROM bronze.events ORDER BY id";
    let rows = |ids: &[&str]| {
        let lines: Vec<String> = ids.iter().map(|id| format!("| {id}  |")).collect();
        format!("+----+\n| id |\n+----+\n{}\n+----+", lines.join("\n"))
    };
    let planned = info(&mut client, &query(sql)).await;
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    assert_eq!(run(&mut client, &mut prepared).await, rows(&["a"]));
    runs::add(&project, &[("b", "2026-01-05T10:00:00Z", "1")]).await;
    assert_eq!(text(&read_all(&mut client, &planned).await), rows(&["a"]));
    assert_eq!(run(&mut client, &mut prepared).await, rows(&["a", "b"]));
    assert_eq!(ask(&mut client, sql).await, rows(&["a", "b"]));
}

/// Millions of rows, more than a connection holds.
pub const LONG: &str =
    "SELECT a.value, b.value FROM generate_series(1, 100000) a, generate_series(1, 1000) b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_statement_ends_with_an_error_on_both_ways() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    for action in ["CancelFlightInfo", "CancelQuery"] {
        let info = info(&mut client, &query(LONG)).await;
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = client.do_get(ticket.clone()).await.unwrap();
        assert!(stream.next().await.unwrap().unwrap().num_rows() > 0);
        let body = match action {
            "CancelQuery" => {
                let info = info.encode_to_vec().into();
                arrow_flight::sql::ActionCancelQueryRequest { info }.as_any().encode_to_vec()
            }
            _ => CancelFlightInfoRequest::new(info).encode_to_vec(),
        };
        let result = act(&mut client, action, body).await.unwrap().unwrap();
        if action == "CancelFlightInfo" {
            let result = CancelFlightInfoResult::decode(&*result).unwrap();
            assert_eq!(result.status(), CancelStatus::Cancelled);
        } else {
            let result = Any::decode(&*result).unwrap().unpack().unwrap();
            let result: arrow_flight::sql::ActionCancelQueryResult = result.unwrap();
            assert_eq!(result.result, CancelStatus::Cancelled as i32);
        }
        let ended = stream.try_collect::<Vec<_>>().await.unwrap_err();
        let cancelled = (Code::Cancelled, "the statement was cancelled");
        assert_eq!(parts_of(&status(ended)), cancelled);
        assert_eq!(parts_of(&status(client.do_get(ticket).await.unwrap_err())), cancelled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_ticket_of_this_server_opens_nothing() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let info = info(&mut client, &query(METRICS)).await;
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let handle = Any::decode(&*ticket.ticket).unwrap();
    let handle: TicketStatementQuery = handle.unpack().unwrap().unwrap();
    let sealed = |handle: Vec<u8>| {
        let ticket = TicketStatementQuery { statement_handle: handle.into() };
        Ticket::new(ticket.as_any().encode_to_vec())
    };
    let foreign = "the result handle was not given out by this server\n\
                   hint: run the statement again";
    let not_flight_sql = "the ticket is not a message of Flight SQL";
    let mut forged = handle.statement_handle.to_vec();
    forged[20] ^= 1;
    let prepared = CommandPreparedStatementQuery { prepared_statement_handle: "x".into() };
    for (ticket, code, message) in [
        (sealed(forged), Code::Unauthenticated, foreign),
        (sealed(b"SELECT 1".to_vec()), Code::Unauthenticated, foreign),
        (sealed(Vec::new()), Code::Unauthenticated, foreign),
        (Ticket::new("SELECT 1"), Code::InvalidArgument, not_flight_sql),
        (Ticket::new("../../etc/passwd"), Code::InvalidArgument, not_flight_sql),
        (Ticket::new(""), Code::InvalidArgument, not_flight_sql),
        (
            Ticket::new(query("SELECT 1").as_any().encode_to_vec()),
            Code::InvalidArgument,
            not_flight_sql,
        ),
        (
            Ticket::new(prepared.as_any().encode_to_vec()),
            Code::InvalidArgument,
            "a prepared statement is not read by its handle\n\
             hint: get its flight info, and read the endpoints in it",
        ),
    ] {
        let refused = status(client.do_get(ticket).await.unwrap_err());
        assert_eq!(parts_of(&refused), (code, message));
    }
    assert_eq!(text(&read(&mut client, &info.endpoint[0]).await), METRICS_TABLE);
    let path = FlightDescriptor::new_path(vec!["gold".to_owned(), "daily_metrics".to_owned()]);
    let refused = client.inner_mut().get_flight_info(path).await.unwrap_err();
    let expected = "the descriptor holds no command\n\
                    hint: use a Flight SQL client; tables are read by SQL, not by path";
    assert_eq!(parts_of(&refused), (Code::InvalidArgument, expected));
}

/// Panic injection: the store panics under one statement's scan, on whichever task reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_within_a_statement_is_its_error_and_nobody_elses() {
    let (project, lake) = demo();
    let (disk, memory) = (LocalFileSystem::new_with_prefix(lake).unwrap(), InMemory::new());
    for object in disk.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = disk.get(&object.location).await.unwrap().bytes().await.unwrap();
        memory.put(&object.location, bytes.into()).await.unwrap();
    }
    let store = FaultyStore::new(Arc::new(memory), |operation| {
        let is_data = operation.path.ends_with(".parquet");
        assert!(!(is_data && operation.path.contains("silver/orders_cleaned/")), "planted");
        Fault::None
    });
    let lake = Lake::with_store(&Url::parse("memory:///").unwrap(), Arc::new(store));
    let server = Server::on(project, lake, Access::open(), Clock::of_machine()).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        let failed = failure(&mut client, "SELECT * FROM silver.orders_cleaned").await;
        assert_eq!(failed.code(), Code::Internal, "{failed:?}");
        assert_eq!(ask(&mut client, METRICS).await, METRICS_TABLE);
    }
}

const MONDAY: Instant = Instant(1_767_571_200_000_000);

fn pass(clock: &Clock, seconds: i64) {
    clock.set(Instant(clock.micros() + seconds * 1_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_prepared_statements_and_sessions_expire_and_tickets_are_renewed() {
    let clock = Clock::at(MONDAY);
    let server = Server::over(&demo().0, &demo().1, Access::open(), clock.clone()).await;
    let mut client = server.client().await;
    let info = info(&mut client, &query(METRICS)).await;
    let endpoint = &info.endpoint[0];
    let promised = endpoint.expiration_time.as_ref().unwrap();
    assert_eq!(promised.seconds * 1_000_000, clock.micros() + 600_000_000);
    let mut prepared = client.prepare(METRICS.to_owned(), None).await.unwrap();
    let mut session = Session { client: client.clone(), cookie: None };
    assert_eq!(session.set(&[("schema", "gold")]).await, (BTreeMap::new(), true));
    pass(&clock, 9 * 60);
    let renew = RenewFlightEndpointRequest::new(endpoint.clone()).encode_to_vec();
    let renewed = act(&mut client, "RenewFlightEndpoint", renew).await.unwrap().unwrap();
    let renewed = FlightEndpoint::decode(&*renewed).unwrap();
    pass(&clock, 2 * 60);
    let gone = "the result is unknown or has expired\nhint: run the statement again";
    let expired = status(client.do_get(endpoint.ticket.clone().unwrap()).await.unwrap_err());
    assert_eq!(parts_of(&expired), (Code::NotFound, gone));
    assert_eq!(text(&read(&mut client, &renewed).await), METRICS_TABLE);
    assert_eq!(run(&mut client, &mut prepared).await, METRICS_TABLE);
    pass(&clock, 59 * 60);
    assert_eq!(run(&mut client, &mut prepared).await, METRICS_TABLE);
    pass(&clock, 61 * 60);
    let expired = status(prepared.execute().await.unwrap_err());
    let gone = "the prepared statement is unknown or has expired\n\
                hint: prepare the statement again";
    assert_eq!(parts_of(&expired), (Code::NotFound, gone));
    let expired = session.client.execute("SELECT 1".to_owned(), None).await;
    let expired = status(expired.unwrap_err());
    let gone = "the session is unknown or has expired\nhint: set the session's options again";
    assert_eq!(parts_of(&expired), (Code::NotFound, gone));
}

/// A connection that keeps its cookie.
struct Session {
    client: Client,
    cookie: Option<String>,
}

impl Session {
    /// The result of an action, and the cookie that came with it.
    async fn act(
        &mut self,
        name: &str,
        body: Vec<u8>,
    ) -> Result<(Vec<u8>, Option<String>), Status> {
        let mut request = tonic::Request::new(Action::new(name, body));
        if let Some(cookie) = &self.cookie {
            request.metadata_mut().insert("cookie", cookie.parse().unwrap());
        }
        let response = self.client.inner_mut().do_action(request).await?;
        let (metadata, mut results, _) = response.into_parts();
        let cookie = metadata.get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
        Ok((results.message().await?.unwrap().body.to_vec(), cookie))
    }

    /// Which options were not set and why, and whether the session is a new one.
    async fn set(&mut self, options: &[(&str, &str)]) -> (BTreeMap<String, i32>, bool) {
        let option = |value: &str| SessionOption {
            value: (value != "unset").then(|| match value.parse() {
                Ok(number) => OptionValue::Int64(number),
                Err(_) => OptionValue::String(value.to_owned()),
            }),
        };
        let session_options =
            options.iter().map(|(name, value)| ((*name).to_owned(), option(value))).collect();
        let body = SessionOptions { session_options }.encode_to_vec();
        let (result, cookie) = self.act("SetSessionOptions", body).await.unwrap();
        let is_new = cookie.is_some();
        if let Some(cookie) = cookie {
            self.client.set_header("cookie", &cookie);
            self.cookie = Some(cookie);
        }
        let errors = SetSessionOptionsResult::decode(&*result).unwrap().errors;
        (errors.into_iter().map(|(name, error)| (name, error.value)).collect(), is_new)
    }

    async fn options(&mut self) -> Result<BTreeMap<String, String>, Status> {
        let (result, _) = self.act("GetSessionOptions", Vec::new()).await?;
        let options = SessionOptions::decode(&*result).unwrap().session_options;
        let shown = |option: SessionOption| match option.value.unwrap() {
            OptionValue::String(text) => text,
            OptionValue::Int64(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        Ok(options.into_iter().map(|(name, option)| (name, shown(option))).collect())
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_options_and_tells_each_that_is_wrong() {
    let server = Server::of_demo().await;
    let mut session = Session { client: server.client().await, cookie: None };
    let defaults = texts(&[("catalog", "lake"), ("timezone", "UTC")]);
    assert_eq!(session.options().await.unwrap(), defaults);
    let (errors, is_new) = session
        .set(&[
            ("catalog", "other"),
            ("colour", "red"),
            ("schema", "glod"),
            ("timezone", "Europe/Rome"),
            ("$start", "2026-01-05"),
            ("end", "2026-01-06"),
            ("rows_max", "-1"),
            ("run_ms_max", "5000"),
        ])
        .await;
    let errors: Vec<(&str, i32)> =
        errors.iter().map(|(name, error)| (name.as_str(), *error)).collect();
    assert_eq!(errors, [("catalog", 2), ("colour", 1), ("rows_max", 2), ("schema", 2)]);
    assert!(is_new);
    let set = session.set(&[("catalog", "lake"), ("schema", "gold")]).await;
    assert_eq!(set, (BTreeMap::new(), false));
    let kept = texts(&[
        ("catalog", "lake"),
        ("end", "2026-01-05T23:00:00Z"),
        ("run_ms_max", "5000"),
        ("schema", "gold"),
        ("start", "2026-01-04T23:00:00Z"),
        ("timezone", "Europe/Rome"),
    ]);
    assert_eq!(session.options().await.unwrap(), kept);
    let sql = "SELECT orders, $start AS s, $end AS e FROM daily_metrics ORDER BY orders LIMIT 1";
    assert_eq!(
        ask(&mut session.client, sql).await,
        "\
+--------+----------------------+----------------------+
| orders | s                    | e                    |
+--------+----------------------+----------------------+
| 248    | 2026-01-04T23:00:00Z | 2026-01-05T23:00:00Z |
+--------+----------------------+----------------------+"
    );
    session.set(&[("rows_max", "10000"), ("end", "unset")]).await;
    let one = failure(&mut session.client, "SELECT 1").await;
    let expected = "the session sets one of `start` and `end`\n\
                    hint: set both, or neither for the last complete day";
    assert_eq!(parts_of(&one), (Code::InvalidArgument, expected));
    session.set(&[("$start", "unset")]).await;
    let many = failure(&mut session.client, LONG).await;
    let expected = "the result has more than 10000 rows\n\
                    hint: add a LIMIT or a WHERE, or raise `server.statement_rows_max`";
    assert_eq!(parts_of(&many), (Code::ResourceExhausted, expected));
    for _ in 0..2 {
        let (result, cookie) = session.act("CloseSession", Vec::new()).await.unwrap();
        assert_eq!(CloseSessionResult::decode(&*result).unwrap().status, 1);
        assert_eq!(cookie.as_deref(), Some("arrow_flight_session_id=; Max-Age=0"));
    }
    assert_eq!(session.options().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_pass_clients_that_take_four_megabytes() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    let sql = "SELECT repeat('x', 700000) AS x FROM generate_series(1, 20)";
    let info = info(&mut client, &query(sql)).await;
    let batches = read_all(&mut client, &info).await;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 20);
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(bytes >= 14_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_64_kib_are_taken_and_a_handshake_gives_a_token() {
    let server = Server::of_demo().await;
    let mut client = server.client().await;
    client.set_header("x-trace", "x".repeat(64 << 10));
    assert_eq!(ask(&mut client, METRICS).await, METRICS_TABLE);
    let token = client.handshake("ann", "any").await.unwrap();
    assert_eq!(client.token().unwrap().as_bytes(), &*token);
    assert_eq!(ask(&mut client, METRICS).await, METRICS_TABLE);
    // HTTP's own answer to headers that are too large, on a connection that goes on.
    client.set_header("x-trace", "x".repeat(96 << 10));
    let refused = failure(&mut client, METRICS).await;
    assert!(refused.message().contains("431"), "{refused:?}");
    client.set_header("x-trace", "x");
    assert_eq!(ask(&mut client, METRICS).await, METRICS_TABLE);
}

/// Changes the users as their keeper does; servers look again after a second.
fn change_users(clock: &Clock, project: &Project, arguments: &[&str]) -> String {
    pass(clock, 2);
    project.run(&[&["user"], arguments].concat()).succeeded().stdout.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_see_what_they_may_read_and_tickets_are_theirs() {
    let (users, clock) = (Project::of_models(&[]), Clock::at(MONDAY));
    let password = change_users(&clock, &users, &["add", "ana", "--role", "analyst"]);
    let other = change_users(&clock, &users, &["add", "eve", "--role", "engineer"]);
    let access = Access::read(&users.folder().join("users.yaml")).unwrap();
    let server = Server::over(&demo().0, &demo().1, access, clock.clone()).await;

    let mut nobody = server.client().await;
    let unknown = (Code::Unauthenticated, "nobody is logged in");
    let first_line = |status: &Status| {
        (status.code(), status.message().lines().next().unwrap_or_default().to_owned())
    };
    let command = descriptor(&query(METRICS));
    let ticket = Ticket::new(CommandGetCatalogs {}.as_any().encode_to_vec());
    let raw = nobody.inner_mut();
    for refused in [
        raw.get_flight_info(command.clone()).await.unwrap_err(),
        raw.get_schema(command.clone()).await.unwrap_err(),
        raw.poll_flight_info(command.clone()).await.unwrap_err(),
        raw.do_get(ticket).await.err().unwrap(),
        raw.do_put(futures::stream::iter([FlightData::default()])).await.err().unwrap(),
        raw.do_exchange(futures::stream::iter([FlightData::default()])).await.err().unwrap(),
        raw.do_action(Action::new("CloseSession", "")).await.err().unwrap(),
        raw.list_actions(Empty {}).await.err().unwrap(),
        raw.list_flights(Criteria::default()).await.err().unwrap(),
    ] {
        assert_eq!(first_line(&refused), (unknown.0, unknown.1.to_owned()));
    }
    assert!(nobody.handshake("ana", "wrong password").await.is_err());

    let mut ana = server.client().await;
    ana.handshake("ana", &password).await.unwrap();
    assert!(ana.token().unwrap().starts_with("fgs_"));
    assert_eq!(ask(&mut ana, METRICS).await, METRICS_TABLE);
    let hidden = failure(&mut ana, "SELECT * FROM bronze.orders_raw").await;
    let absent = failure(&mut ana, "SELECT * FROM bronze.orders_rew").await;
    assert_eq!(hidden.code(), Code::NotFound);
    assert_eq!(hidden.message().replace("_raw", "_rew"), absent.message());
    let schemas = ask(
        &mut ana,
        "SELECT DISTINCT table_schema AS s FROM information_schema.tables \
         WHERE table_schema <> 'information_schema' ORDER BY s",
    );
    assert_eq!(
        schemas.await,
        "+--------+\n| s      |\n+--------+\n| gold   |\n| silver |\n+--------+"
    );
    let listed = ana.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    let listed = text(&read_all(&mut ana, &listed).await);
    assert_eq!(listed.matches("lake").count(), 2, "{listed}");

    let info = ana.execute(METRICS.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut eve = server.client().await;
    eve.handshake("eve", &other).await.unwrap();
    let unknown = "the result is unknown or has expired\nhint: run the statement again";
    let foreign = status(eve.do_get(ticket.clone()).await.unwrap_err());
    assert_eq!(parts_of(&foreign), (Code::NotFound, unknown));
    assert_eq!(text(&read(&mut ana, &info.endpoint[0]).await), METRICS_TABLE);

    change_users(&clock, &users, &["grant", "ana", "bronze.orders_raw"]);
    let outdated = status(ana.do_get(ticket).await.unwrap_err());
    let changed = "your rights have changed since the statement was planned\n\
                   hint: run the statement again";
    assert_eq!(parts_of(&outdated), (Code::PermissionDenied, changed));
    let granted = ask(&mut ana, "SELECT count(*) AS n FROM bronze.orders_raw").await;
    assert_eq!(granted, "+-----+\n| n   |\n+-----+\n| 505 |\n+-----+");
    change_users(&clock, &users, &["disable", "ana"]);
    assert_eq!(failure(&mut ana, METRICS).await.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_nobody_reads_are_bounded_and_give_way_in_time() {
    let clock = Clock::at(MONDAY);
    let server = Server::over(&demo().0, &demo().1, Access::open(), clock.clone()).await;
    let mut client = server.client().await;
    let ask = || "SELECT value FROM generate_series(1, 1000000)".to_owned();
    let mut first = None;
    for _ in 0..512 {
        first.get_or_insert(client.execute(ask(), None).await.unwrap());
    }
    let full = status(client.execute(ask(), None).await.unwrap_err());
    let expected = "you hold as many results as you may\n\
                    hint: read results to their end, or wait until abandoned ones expire";
    assert_eq!(parts_of(&full), (Code::ResourceExhausted, expected));
    let counts = server.statements.figures().counts();
    assert!(counts.held == 512 && counts.held_bytes > 512 * 16_384, "{counts:?}");
    let ticket = first.unwrap().endpoint[0].ticket.clone().unwrap();
    let mut stream = client.do_get(ticket.clone()).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    let second = looked_at_makes_room(&mut client, &ask).await;
    // And what nobody has used for half a minute.
    pass(&clock, 31);
    for _ in 0..512 {
        client.execute(ask(), None).await.unwrap();
    }
    for ticket in [ticket, second] {
        let given_up = status(client.do_get(ticket).await.unwrap_err());
        let (code, message) = parts_of(&given_up);
        assert_eq!(code, Code::NotFound);
        assert!(message.starts_with("the result is not held any more: "), "{message}");
        let hint = "are 512 at most, take 64 MiB with what they pin, and live 60 minutes";
        assert!(
            message.contains("hint: run the statement again") && message.ends_with(hint),
            "{message}"
        );
    }
}

async fn looked_at_makes_room(client: &mut Client, ask: &impl Fn() -> String) -> Ticket {
    // The server hears of it when its connection does.
    for _ in 0..10_000 {
        if let Ok(info) = client.execute(ask(), None).await {
            return info.endpoint[0].ticket.clone().unwrap();
        }
    }
    panic!("a result that was looked at made no room");
}

/// What a client that went away held is free for the next: the places of running statements are
/// eight, and this takes nine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_statements() {
    let server = Server::of_demo().await;
    for _ in 0..9 {
        let mut client = server.client().await;
        let info = info(&mut client, &query(LONG)).await;
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = client.do_get(ticket).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
    }
    let mut client = server.client().await;
    assert_eq!(ask(&mut client, METRICS).await, METRICS_TABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_no_parameter_is_refused() {
    let server = Server::of_demo().await;
    let client = server.client().await;
    let put = |data: FlightData| {
        let mut client = client.clone();
        async move {
            let put = client.inner_mut().do_put(futures::stream::iter([data])).await;
            put.err().unwrap()
        }
    };
    let refused = put(FlightData::default()).await;
    let expected = (Code::InvalidArgument, "the first message has no descriptor");
    assert_eq!(parts_of(&refused), expected);
    let refused = put(FlightData::default().with_descriptor(descriptor(&query("SELECT 1")))).await;
    let expected = (Code::InvalidArgument, "the command takes nothing that is put");
    assert_eq!(parts_of(&refused), expected);
}
