//! What a user may not read does not exist for them, also below a view: every way of asking, over HTTP
//! and Flight SQL of the real program, searched for names, files, SQL and values that are not theirs.

use std::path::Path;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, CommandGetCatalogs, CommandGetCrossReference,
    CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys,
    CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{Action, FlightDescriptor};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request as Call, Status};

use crate::program::{Project, SMALL_DEMO, model};
use crate::served::{Request, Served};

/// Stands in the SQL of the views, and in values that errors would quote and no statement gives.
const MARK: &str = "opal";

/// Each reads what an analyst may not read.
const VIEWS: [(&str, &str); 6] = [
    (
        "gold/open_orders",
        "SELECT reverse(concat('lapo', order_id)) AS number, price AS amount, _offset % 7 AS seventh \
         FROM bronze.orders_raw WHERE status <> 'opal'",
    ),
    ("gold/above", "SELECT number, amount + 1 AS more FROM gold.open_orders"),
    (
        "gold/failing",
        "SELECT CAST(concat('opal', order_id) AS INT) AS number FROM bronze.orders_raw",
    ),
    ("gold/unnamed", "SELECT max(_offset) FROM bronze.orders_raw"),
    ("gold/unplanned", "SELECT opal_column AS x FROM bronze.orders_raw"),
    ("gold/above_unplanned", "SELECT x FROM gold.unplanned"),
];

/// Statements that name nothing hidden themselves.
fn statements() -> Vec<String> {
    let mut all: Vec<String> = [
        "SHOW TABLES",
        "SHOW FUNCTIONS",
        "SELECT * FROM gold.failing",
        "SELECT count(*) AS n FROM gold.failing WHERE number > 1",
        "SELECT 1 / (amount - amount) AS x FROM gold.open_orders",
        "SELECT CAST(number AS INT) AS x FROM gold.open_orders",
        "SELECT CAST(reverse(number) AS DATE) AS x FROM gold.above",
        "SELECT nothing FROM gold.open_orders",
        "SELECT open_orders.nothing FROM gold.open_orders",
        "SELECT sum(number) AS x FROM gold.open_orders",
        "SELECT number FROM gold.open_orders GROUP BY amount",
        "SELECT count(*) AS n FROM gold.open_orders WHERE regexp_like(number, '(')",
        "SELECT number + INTERVAL '1 day' AS x FROM gold.open_orders",
        "SELECT (SELECT length(x.number) FROM gold.open_orders x WHERE x.amount > o.amount LIMIT 1) AS n \
         FROM gold.open_orders o",
        "SELECT arrow_typeof(number) AS t, arrow_typeof(seventh) AS s FROM gold.open_orders LIMIT 1",
        "SELECT repeat(number, 1000000000) AS x FROM gold.open_orders",
        "SELECT * FROM gold.open_order",
        "SELECT * FROM open_orders",
        "SELECT * FROM table_at('gold.open_orders', 0)",
    ]
    .map(str::to_owned)
    .into();
    for view in VIEWS {
        let name = view.0.replace('/', ".");
        for text in [
            "SHOW CREATE TABLE #",
            "SHOW COLUMNS FROM #",
            "DESCRIBE #",
            "SELECT * FROM # LIMIT 0",
            "EXPLAIN SELECT * FROM #",
            "EXPLAIN VERBOSE SELECT * FROM #",
            "EXPLAIN ANALYZE SELECT * FROM #",
            "EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM #",
            "EXPLAIN FORMAT INDENT SELECT * FROM #",
            "EXPLAIN FORMAT TREE SELECT * FROM #",
            "EXPLAIN FORMAT PGJSON SELECT * FROM #",
            "EXPLAIN FORMAT GRAPHVIZ SELECT * FROM #",
            "EXPLAIN WITH a AS (SELECT * FROM #) SELECT count(*) FROM a, gold.daily_metrics",
            "EXPLAIN SELECT 1 WHERE EXISTS (SELECT 1 FROM #)",
            "EXPLAIN EXPLAIN SELECT * FROM #",
        ] {
            all.push(text.replace('#', &name));
        }
    }
    for list in ["tables", "views", "columns", "schemata", "routines", "parameters", "df_settings"]
    {
        all.push(format!("SELECT * FROM information_schema.{list}"));
        all.push(format!("EXPLAIN ANALYZE SELECT * FROM information_schema.{list}"));
    }
    all
}

/// A user who asks in every way, and where their answers name what is hidden.
struct Asker<'a> {
    served: &'a Served,
    proof: String,
    client: FlightServiceClient<Channel>,
    hidden: &'a [String],
    found: Vec<String>,
    /// All answers together.
    heard: Vec<u8>,
}

impl<'a> Asker<'a> {
    async fn new(served: &'a Served, user: &str, hidden: &'a [String]) -> Self {
        let proof = format!("Basic {}", STANDARD.encode(format!("{user}:sesame of {user}")));
        let address = format!("http://{}", served.address("flight"));
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let client = FlightServiceClient::new(channel);
        Self { served, proof, client, hidden, found: Vec::new(), heard: Vec::new() }
    }

    fn look(&mut self, how: &str, answer: &[u8]) {
        for name in self.hidden {
            if contains(answer, name) {
                let said: String = String::from_utf8_lossy(answer).chars().take(1_000).collect();
                self.found.push(format!("{how} names {name}: {said}"));
            }
        }
        self.heard.extend_from_slice(answer);
    }

    fn get(&mut self, path: &str) -> u16 {
        let headers = [("authorization", self.proof.as_str())];
        let reply = self.served.ask(&Request { path, headers: &headers, ..Request::default() });
        let answer = [format!("{:?}", reply.headers).into_bytes(), reply.body].concat();
        self.look(path, &answer);
        reply.status
    }

    fn query(&mut self, sql: &str) -> (u16, String) {
        let mut last = (0, String::new());
        for accept in ["application/vnd.apache.arrow.stream", "application/json"] {
            let headers = [
                ("authorization", self.proof.as_str()),
                ("content-type", "text/plain"),
                ("accept", accept),
            ];
            let (method, path, body) = ("POST", "/api/v1/query", sql.as_bytes());
            let reply = self.served.ask(&Request { method, path, headers: &headers, body });
            self.look(&format!("HTTP {accept}: {sql}"), &reply.body);
            last = (reply.status, String::from_utf8_lossy(&reply.body).into_owned());
        }
        last
    }

    fn call<T>(&self, message: T) -> Call<T> {
        let mut call = Call::new(message);
        let proof = MetadataValue::try_from(self.proof.as_str()).unwrap();
        call.metadata_mut().insert("authorization", proof);
        call
    }

    /// Asks by every call that answers a command; rows too.
    async fn command(&mut self, how: &str, command: &impl ProstMessageExt) {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let schema = self.client.clone().get_schema(self.call(descriptor.clone())).await;
        self.hear(how, schema.map(|reply| reply.into_inner().schema.to_vec()));
        let poll = self.client.clone().poll_flight_info(self.call(descriptor.clone())).await;
        self.hear(how, poll.map(|reply| reply.into_inner().encode_to_vec()));
        let info = self.client.clone().get_flight_info(self.call(descriptor)).await;
        let endpoints =
            info.as_ref().map_or_else(|_| Vec::new(), |info| info.get_ref().endpoint.clone());
        self.hear(how, info.map(|reply| reply.into_inner().encode_to_vec()));
        for endpoint in endpoints {
            let ticket = self.call(endpoint.ticket.unwrap());
            let mut messages = match self.client.clone().do_get(ticket).await {
                Ok(reply) => reply.into_inner(),
                Err(status) => {
                    self.hear(how, Err(status));
                    continue;
                }
            };
            loop {
                match messages.message().await {
                    Ok(Some(data)) => self.hear(how, Ok(data.encode_to_vec())),
                    Ok(None) => break,
                    Err(status) => {
                        self.hear(how, Err(status));
                        break;
                    }
                }
            }
        }
    }

    async fn prepare(&mut self, sql: &str) {
        let query = sql.to_owned();
        let request = ActionCreatePreparedStatementRequest { query, transaction_id: None };
        let body = request.as_any().encode_to_vec();
        let action = self.call(Action::new("CreatePreparedStatement", body));
        let prepared = match self.client.clone().do_action(action).await {
            Ok(reply) => reply.into_inner().message().await,
            Err(status) => Err(status),
        };
        let prepared = prepared.map(|result| result.unwrap_or_default().encode_to_vec());
        self.hear(&format!("prepare {sql}"), prepared);
    }

    fn hear(&mut self, how: &str, answer: Result<Vec<u8>, Status>) {
        let answer = answer
            .unwrap_or_else(|status| [format!("{status:?}").as_bytes(), status.details()].concat());
        self.look(&format!("Flight: {how}"), &answer);
    }

    async fn statement(&mut self, sql: &str) {
        self.query(sql);
        let query = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        self.command(sql, &query).await;
        self.prepare(sql).await;
    }

    async fn ask_in_every_way(&mut self) {
        for path in ["/", "/healthz", "/readyz", "/readyz?verbose", "/metrics", "/api/v1/lineage"] {
            self.get(path);
        }
        for sql in statements() {
            self.statement(&sql).await;
        }
        self.command("catalogs", &CommandGetCatalogs {}).await;
        self.command("schemas", &CommandGetDbSchemas::default()).await;
        let tables = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
        self.command("tables", &tables).await;
        self.command("table types", &CommandGetTableTypes {}).await;
        self.command("info", &CommandGetSqlInfo::default()).await;
        self.command("types", &CommandGetXdbcTypeInfo::default()).await;
        for table in ["open_orders", "above", "daily_metrics"] {
            let (table, catalog, db_schema) = (table.to_owned(), None, None);
            let (c, s, t) = (catalog.clone(), db_schema.clone(), table.clone());
            let keys = CommandGetPrimaryKeys { catalog: c, db_schema: s, table: t };
            self.command("keys", &keys).await;
            let (c, s, t) = (catalog.clone(), db_schema.clone(), table.clone());
            self.command(
                "exported",
                &CommandGetExportedKeys { catalog: c, db_schema: s, table: t },
            )
            .await;
            self.command("imported", &CommandGetImportedKeys { catalog, db_schema, table }).await;
        }
        self.command("references", &CommandGetCrossReference::default()).await;
    }
}

fn contains(answer: &[u8], name: &str) -> bool {
    answer.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name.as_bytes()))
}

fn data_files(table: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(table).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(data_files(&path)),
            false if path.extension().is_some_and(|ending| ending == "parquet") => files.push(path),
            false => {}
        }
    }
    files
}

/// With views over bronze, a view whose bronze table was never made, a broken one, and two users.
fn project() -> Project {
    let project = Project::of_demo(&SMALL_DEMO);
    for (name, sql) in VIEWS {
        project.write(&format!("sql/{name}.sql"), &model("kind: view", sql));
    }
    let header =
        "kind: append\nsource: {topic: raw.never.v1, format: json}\ncolumns:\n  id: {type: string}";
    project.write("sql/bronze/opal_raw.sql", &model(header, "SELECT nothing FROM kafka.opal_raw"));
    for (user, role) in [("ana", "analyst"), ("eve", "engineer")] {
        let arguments = ["user", "add", user, "--role", role, "--password-stdin"];
        project.run_with_input(&arguments, &format!("sesame of {user}")).succeeded();
    }
    project
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_is_named_by_nothing() {
    let project = project();
    let bronze = project.lake().join("bronze/orders_raw");
    let files = data_files(&bronze);
    let stem = |file: &Path| file.file_stem().unwrap().to_string_lossy().into_owned();
    let mut hidden: Vec<String> =
        ["bronze", "orders_raw", "clicks_raw", "_ingested_at", MARK].map(str::to_owned).into();
    hidden.extend(files.iter().map(|file| stem(file)));
    let served = Served::start(&project, &["--only=flight,http"]);
    let mut ana = Asker::new(&served, "ana", &hidden).await;
    ana.ask_in_every_way().await;
    assert!(ana.found.is_empty(), "{}", ana.found.join("\n\n"));

    // What is shown as before: plans over what she may read, and all to who may read all.
    let (status, plan) = ana.query("EXPLAIN SELECT * FROM gold.daily_metrics");
    assert!(status == 200 && plan.contains("gold/daily_metrics/part-"), "{plan}");
    let (status, refused) = ana.query("EXPLAIN SELECT * FROM gold.above");
    assert!(status == 403 && refused.contains("EXPLAIN shows plans over tables"), "{refused}");
    let (status, rows) = ana.query("SELECT count(seventh) AS n FROM gold.open_orders");
    assert!(status == 200 && rows.starts_with("{\"n\":") && rows != "{\"n\":0}\n", "{rows}");
    let mut eve = Asker::new(&served, "eve", &[]).await;
    eve.ask_in_every_way().await;
    for name in &hidden {
        assert!(contains(&eve.heard, name), "an engineer is not told of {name}");
    }

    for file in &files {
        std::fs::remove_file(file).unwrap();
    }
    let lost = "SELECT count(number) AS n FROM gold.above WHERE more > 0";
    let (told, untold) = (eve.query(lost), ana.query(lost));
    assert_eq!((told.0, untold.0), (500, 500), "{told:?} {untold:?}");
    assert!(told.1.contains("bronze/orders_raw/"), "{}", told.1);
    for view in ["gold.open_orders", "gold.above", "gold.failing"] {
        ana.statement(&format!("SELECT * FROM {view}")).await;
    }
    assert!(ana.found.is_empty(), "{}", ana.found.join("\n\n"));
    let noted = project
        .run(&["statements", "--user", "ana", "--last", "99", "--output", "json"])
        .succeeded();
    assert!(
        noted.stdout.contains("a data file of `bronze.orders_raw` is missing"),
        "who keeps the server hears all"
    );
    assert_eq!(served.stop(), Some(0));
}
