//! `flowguard serve` and `demo --serve` through the real program: HTTP in every form, failures that
//! cannot be taken for results, what it refuses to listen on, TLS, and how it ends.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arrow::ipc::reader::StreamReader;
use arrow::util::pretty::pretty_format_batches;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flowguard::demo::events::{Options, history};
use serde_json::json;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::files::metrics_of_an_export;
use crate::program::{Project, SMALL_DEMO, model};
use crate::served::{PATIENCE, Reply, Request, Served};
use crate::services::{User, services};
use crate::traffic::produce_history;

const METRICS: &str = "SELECT * FROM gold.daily_metrics ORDER BY order_date";
/// 500 orders with each other: more than any socket buffers.
const MANY: &str = "SELECT a.* FROM silver.orders_cleaned a CROSS JOIN silver.orders_cleaned b";
const QUERY: &str = "/api/v1/query";
const LOOK_EVERY: Duration = Duration::from_millis(10);
const ARROW: &str = "application/vnd.apache.arrow.stream";

#[test]
fn a_small_lake_is_served() {
    let project = Project::of_demo(&SMALL_DEMO);
    let served = Served::start(&project, &["--set", "server.statement_rows_max=60000"]);
    let said = "nothing is ingested: `kafka.bootstrap_servers` is not set\n";
    assert_eq!(served.said(), said);
    it_is_healthy_and_ready(&served);
    every_form_holds_what_the_command_line_says(&served, &project);
    requests_come_in_every_form(&served);
    failures_have_a_status_and_a_hint(&served);
    a_failure_after_the_first_rows_cuts_the_answer_off(&served);
    foreign_pages_are_refused(&served);
    plans_do_not_say_where_the_lake_is(&served, project.lake());
    nothing_but_the_lake_is_reached(&served, project.folder());
    measurements_are_there(&served);
    who_asked_what_is_noted(&project);
    open_streams_come_to_their_end(served);
    users_ask_within_their_rights(&project);
    the_demo_is_served_again(&project);
}

fn post<'a>(headers: &'a [(&'a str, &'a str)], body: &'a str) -> Request<'a> {
    Request { method: "POST", path: QUERY, headers, body: body.as_bytes() }
}

fn sql(served: &Served, accept: &str, sql: &str) -> Reply {
    served.ask(&post(&[("content-type", "text/plain"), ("accept", accept)], sql))
}

fn it_is_healthy_and_ready(served: &Served) {
    assert_eq!(served.get("/healthz").succeeded(), "ok\n");
    assert_eq!(served.get("/readyz").succeeded(), "ready\n");
    let nowhere = served.get("/api/v2");
    assert_eq!((nowhere.status, nowhere.json()["kind"].clone()), (404, json!("not_found")));
}

fn every_form_holds_what_the_command_line_says(served: &Served, project: &Project) {
    for (accept, output) in [("text/csv", "csv"), ("*/*", "json"), ("application/json", "json")] {
        let said = project.run(&["query", "--output", output, METRICS]).succeeded().stdout;
        assert_eq!(sql(served, accept, METRICS).succeeded(), said, "{accept}");
    }
    let reply = sql(served, ARROW, METRICS);
    assert_eq!((reply.status, reply.is_whole), (200, true));
    assert_eq!(reply.header("content-type"), Some(ARROW));
    let batches: Vec<_> =
        StreamReader::try_new(reply.body.as_slice(), None).unwrap().map(Result::unwrap).collect();
    let table = project.run(&["query", METRICS]).succeeded().stdout;
    assert_eq!(format!("{}\n", pretty_format_batches(&batches).unwrap()), table);
    let none = "SELECT order_date FROM gold.daily_metrics WHERE orders < 0";
    assert_eq!(sql(served, "*/*", none).succeeded(), "");
    assert_eq!(sql(served, "text/csv", none).succeeded(), "order_date\n");
    // Many batches, cut into pieces, and several parts.
    let all = "SELECT * FROM bronze.clicks_raw";
    let count = project.query("SELECT count(*) AS n FROM bronze.clicks_raw");
    let rows = sql(served, "*/*", all).succeeded().lines().count();
    assert_eq!(rows.to_string(), count[0][0]);
}

fn requests_come_in_every_form(served: &Served) {
    let counted = "{\"n\":250}\n";
    let in_url = format!(
        "{QUERY}?schema=silver&timezone=UTC&start=2026-01-06&end=2026-01-07&sql={}",
        "SELECT+count(*)+AS+n+FROM+orders_cleaned+WHERE+event_timestamp+>=+$start+AND+event_timestamp+<+$end"
            .replace('>', "%3E")
            .replace('<', "%3C")
    );
    let statement = "SELECT count(*) AS n FROM orders_cleaned \
                     WHERE event_timestamp >= $start AND event_timestamp < $end";
    let body = json!({
        "sql": statement, "schema": "silver", "start": "2026-01-06", "end": "2026-01-07",
    });
    let body = body.to_string();
    let replies = [
        served.get(&in_url),
        served.ask(&post(&[("content-type", "application/json")], &body)),
        served.ask(&post(
            &[("content-type", "application/x-www-form-urlencoded")],
            in_url.split_once('?').unwrap().1,
        )),
    ];
    for reply in replies {
        assert_eq!(reply.succeeded(), counted);
    }
}

fn failures_have_a_status_and_a_hint(served: &Served) {
    let reply = sql(served, "*/*", "SELECT ordres\nFROM gold.daily_metrics");
    assert_eq!((reply.status, reply.is_whole), (400, true));
    assert_eq!(
        reply.json(),
        json!({
            "kind": "invalid",
            "message": "the query is not valid",
            "hint": null,
            "diagnostics": [{
                "line": 1,
                "column": 8,
                "width": 6,
                "message": "unknown column `ordres`",
                "text": "SELECT ordres",
                "hint": "did you mean `orders`?",
            }],
        })
    );
    for (statement, status, kind) in [
        ("SELECT * FROM gold.absent", 404, "not_found"),
        ("DROP TABLE gold.daily_metrics", 400, "invalid"),
        ("SELECT", 400, "invalid"),
        ("SELECT 1/0", 400, "invalid"),
    ] {
        let reply = sql(served, "*/*", statement);
        let found = (reply.status, reply.json()["kind"].clone(), reply.is_whole);
        assert_eq!(found, (status, json!(kind), true), "{statement}: {}", reply.text());
    }
    let reply = sql(served, "image/png", "SELECT 1");
    assert_eq!((reply.status, reply.json()["kind"].clone()), (400, json!("invalid")));
    let long = format!("SELECT '{}'", "a".repeat(2 << 20));
    assert_eq!(sql(served, "*/*", &long).status, 429);
    let nested = sql(served, "text/csv", "SELECT [1, 2] AS pair");
    assert_eq!(nested.status, 400, "{}", nested.text());
    let deleted = served.ask(&Request { method: "DELETE", path: QUERY, ..Request::default() });
    assert_eq!(deleted.status, 405);
}

fn a_failure_after_the_first_rows_cuts_the_answer_off(served: &Served) {
    for accept in ["*/*", "text/csv", ARROW] {
        let reply = sql(served, accept, MANY);
        assert_eq!((reply.status, reply.is_whole), (200, false), "{accept}");
        assert!(reply.body.len() > 10_000, "{accept}: {} bytes came", reply.body.len());
    }
}

fn foreign_pages_are_refused(served: &Served) {
    for path in ["/metrics", &format!("{QUERY}?sql=SELECT+1")] {
        let headers = [("host", "rebound.example")];
        let reply = served.ask(&Request { path, headers: &headers, ..Request::default() });
        assert_eq!((reply.status, reply.json()["kind"].clone()), (403, json!("denied")), "{path}");
    }
}

fn plans_do_not_say_where_the_lake_is(served: &Served, lake: &Path) {
    // Stores know no slash at the beginning.
    let lake = lake.to_str().unwrap().trim_start_matches('/');
    for explain in [
        "EXPLAIN",
        "EXPLAIN VERBOSE",
        "EXPLAIN ANALYZE",
        "EXPLAIN ANALYZE VERBOSE",
        "EXPLAIN FORMAT TREE",
        "EXPLAIN FORMAT PGJSON",
        "EXPLAIN FORMAT GRAPHVIZ",
    ] {
        let plan = sql(served, "*/*", &format!("{explain} {METRICS}")).succeeded();
        assert!(!plan.contains(lake), "{explain}: {plan}");
        assert!(
            explain.contains("FORMAT") || plan.contains("[[gold/daily_metrics/part-"),
            "{plan}"
        );
    }
}

fn nothing_but_the_lake_is_reached(served: &Served, folder: &Path) {
    let file = folder.join("planted.csv");
    std::fs::write(&file, "planted\nplanted\n").unwrap();
    let out = folder.join("out.csv");
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    web.set_nonblocking(true).unwrap();
    let url = format!("http://{}/planted.csv", web.local_addr().unwrap());
    let (file, out, folder) = (file.display(), out.display(), folder.display());
    for statement in [
        format!("COPY (SELECT 1) TO '{out}' STORED AS CSV"),
        format!("EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}' STORED AS CSV"),
        format!("CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '{file}'"),
        format!("CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '{url}'"),
        format!("SET datafusion.runtime.temp_directory = '{folder}'"),
        "RESET datafusion.execution.batch_size".to_owned(),
        "SHOW ALL".to_owned(),
        "SELECT * FROM information_schema.df_settings".to_owned(),
        "EXPLAIN SELECT (SELECT max(value) FROM lake.information_schema.\"DF_Settings\")"
            .to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "CREATE FUNCTION f() RETURNS INT RETURN 1".to_owned(),
        format!("SELECT * FROM '{file}'"),
        format!("SELECT * FROM \"{file}\""),
        format!("SELECT * FROM 'file://{file}'"),
        format!("SELECT * FROM '{folder}/*.csv'"),
        format!("SELECT * FROM \"{folder}/*.csv\""),
        format!("SELECT * FROM '{url}'"),
        format!("SELECT * FROM \"{url}\""),
        format!("SELECT * FROM gold.\"{url}\""),
        "SELECT * FROM 's3://bucket/planted.csv'".to_owned(),
        format!("SELECT * FROM read_csv('{file}')"),
        format!("SELECT * FROM read_parquet('{folder}/*')"),
        format!("SELECT * FROM parquet_metadata('{file}')"),
        format!("SELECT * FROM delta_scan('{folder}')"),
        format!("SELECT * FROM table_at('{file}', 0)"),
        "SELECT * FROM table_at('gold.../../planted', 0)".to_owned(),
    ] {
        let reply = sql(served, "*/*", &statement);
        assert!([400, 404].contains(&reply.status), "{statement}: {}", reply.text());
    }
    assert!(!Path::new(&out.to_string()).exists());
    let asked = web.accept().map_err(|error| error.kind());
    assert_eq!(asked.map(drop), Err(std::io::ErrorKind::WouldBlock), "a URL was asked for");
}

fn measurements_are_there(served: &Served) {
    let before = served.get("/metrics").succeeded();
    sql(served, "*/*", "SELECT * FROM gold.daily_metrics").succeeded();
    let after = served.get("/metrics").succeeded();
    let sample = |text: &str, name: &str| -> f64 {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let grown = |name: &str| sample(&after, name) - sample(&before, name);
    assert_eq!(grown("flowguard_statements_total{outcome=\"done\"}"), 1.0);
    assert_eq!(grown("flowguard_statement_rows_total"), 2.0);
    assert_eq!(grown("flowguard_statement_seconds_count"), 1.0);
    assert_eq!(grown("flowguard_statement_seconds_bucket{le=\"+Inf\"}"), 1.0);
    assert!(sample(&before, "flowguard_statements_total{outcome=\"failed\"}") >= 6.0);
    // Those before it are gone once the server has seen their ends.
    let deadline = Instant::now() + PATIENCE;
    let open = |text: &str| sample(text, "flowguard_connections{server=\"http\"}");
    while open(&served.get("/metrics").succeeded()) != 1.0 {
        assert!(Instant::now() < deadline, "connections stay open");
    }
    assert_eq!(sample(&after, "flowguard_connections{server=\"flight\"}"), 0.0);
    let version = format!("flowguard_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
    assert!(after.contains(&version), "{after}");
}

fn who_asked_what_is_noted(project: &Project) {
    let log = project.folder().join(".flowguard/log/statements.jsonl");
    let log = std::fs::read_to_string(log).unwrap();
    let notes: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcome = |sql: &str, outcome: &str| {
        let noted = notes.iter().filter(|note| note["sql"] == sql && note["outcome"] == outcome);
        noted.count()
    };
    assert_eq!(outcome(METRICS, "done"), 4);
    assert_eq!(outcome(MANY, "failed"), 3);
    assert!(notes.iter().all(|note| note["user"] == "local"));
}

fn open_streams_come_to_their_end(served: Served) {
    let mut stream = served.connect();
    post(&[("content-type", "text/plain")], &format!("{MANY} LIMIT 50000")).write(&mut stream);
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    served.terminate();
    while TcpStream::connect(served.address("http")).is_ok() {
        std::thread::sleep(LOOK_EVERY);
    }
    let reply = Reply::read(first.as_slice().chain(stream));
    assert_eq!(reply.succeeded().lines().count(), 50_000);
    assert_eq!(served.ended(), Some(0));
}

fn users_ask_within_their_rights(project: &Project) {
    for (user, role) in [("ana", "analyst"), ("eve", "engineer")] {
        let arguments = ["user", "add", user, "--role", role, "--password-stdin"];
        project.run_with_input(&arguments, &format!("sesame of {user}")).succeeded();
    }
    let [never, view] = [
        ("bronze/never_was", "kind: append\nsource: {topic: raw.never.v1, format: json}\ncolumns:\n  id: {type: string}", "SELECT * FROM kafka.never_was"),
        ("gold/later", "kind: view", "SELECT id FROM bronze.never_was"),
    ]
    .map(|(name, header, sql)| {
        let path = format!("sql/{name}.sql");
        project.write(&path, &model(header, sql));
        project.folder().join(path)
    });
    let served = Served::start(project, &[]);
    assert_eq!(served.described["users"], json!(true));
    assert_eq!(served.get("/healthz").succeeded(), "ok\n");
    assert_eq!(served.get("/readyz").succeeded(), "ready\n");
    let ask = |user: &str, password: &str, path: &str| {
        let proof = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let headers = [("authorization", proof.as_str()), ("host", "lake.example")];
        served.ask(&Request { path, headers: &headers, ..Request::default() })
    };
    let count = |table: &str| format!("{QUERY}?sql=SELECT+count(*)+AS+n+FROM+{table}");
    let (gold, bronze) = (count("gold.daily_metrics"), count("bronze.orders_raw"));
    for path in ["/metrics", &gold] {
        let nobody = served.get(path);
        assert_eq!((nobody.status, nobody.json()["kind"].clone()), (401, json!("unauthenticated")));
        let asks = nobody.header("www-authenticate");
        assert_eq!(asks, Some("Basic realm=\"flowguard\", charset=\"UTF-8\""), "{path}");
        assert_eq!(ask("ana", "sesame", path).status, 401, "{path}");
        assert_eq!(ask("ana", "sesame of ana", path).status, 200, "{path}");
    }
    assert_eq!(ask("eve", "sesame of eve", &bronze).status, 200);
    let hidden = ask("ana", "sesame of ana", &bronze);
    let absent = ask("ana", "sesame of ana", &count("bronze.absent_raw"));
    assert_eq!((hidden.status, absent.status), (404, 404));
    assert_eq!(hidden.text().replace("orders_raw", "absent_raw"), absent.text());
    // What a view lacks is named to those who may read it.
    let later = count("gold.later");
    let (told, untold) = (ask("eve", "sesame of eve", &later), ask("ana", "sesame of ana", &later));
    assert_eq!((told.status, untold.status), (404, 404));
    assert!(told.text().contains("bronze.never_was"), "{}", told.text());
    assert!(!untold.text().contains("never_was"), "{}", untold.text());
    std::fs::remove_file(never).and_then(|()| std::fs::remove_file(view)).unwrap();
    who_is_disabled_reads_no_further(project, &served);
    assert!(!served.said().contains("sesame"), "{}", served.said());
    assert_eq!(served.stop(), Some(0));
}

fn who_is_disabled_reads_no_further(project: &Project, served: &Served) {
    let proof = format!("Basic {}", STANDARD.encode("ana:sesame of ana"));
    let headers = [("authorization", proof.as_str()), ("content-type", "text/plain")];
    let mut stream = served.connect();
    post(&headers, MANY).write(&mut stream);
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    project.run(&["user", "disable", "ana"]).succeeded();
    let disabled = Instant::now();
    let proof = format!("Basic {}", STANDARD.encode("eve:sesame of eve"));
    let headers = [("authorization", proof.as_str())];
    let metrics = Request { path: "/metrics", headers: &headers, ..Request::default() };
    while !served.ask(&metrics).succeeded().contains("flowguard_statements_running 0\n") {
        assert!(disabled.elapsed() < PATIENCE, "it runs on: {}", served.said());
        std::thread::sleep(LOOK_EVERY);
    }
    // Half a second between two looks, and what a busy machine adds.
    assert!(disabled.elapsed() < Duration::from_secs(5), "{:?}", disabled.elapsed());
    let reply = Reply::read(first.as_slice().chain(stream));
    assert_eq!((reply.status, reply.is_whole), (200, false));
    project.run(&["user", "enable", "ana"]).succeeded();
}

fn the_demo_is_served_again(project: &Project) {
    let refused = project.run(&["demo"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("flowguard demo --serve"), "{}", refused.stderr);
    let arguments = [
        "demo",
        "--serve",
        "--set=server.flight_address=127.0.0.1:0",
        "--set=server.http_address=127.0.0.1:0",
    ];
    let printed = project.folder().join("printed");
    let mut command = project.command(&arguments);
    let mut child = command.stdout(std::fs::File::create(&printed).unwrap()).spawn().unwrap();
    let line = loop {
        let text = std::fs::read_to_string(&printed).unwrap();
        if let Some(line) = text.lines().find(|line| line.trim_start().starts_with("curl -G"))
            && text.contains("flowguard query")
        {
            assert!(text.contains("jdbc:arrow-flight-sql://127.0.0.1:"), "{text}");
            assert!(text.contains("flight.connect('grpc://127.0.0.1:"), "{text}");
            break line.trim().to_owned();
        }
        assert_eq!(child.try_wait().unwrap(), None, "it ended: {text}");
        std::thread::sleep(LOOK_EVERY);
    };
    // The line as a user pastes it, read by a shell; without curl there is the client above.
    if Command::new("curl").arg("--version").output().is_ok() {
        let pasted = Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = project.run(&["query", "--output", "json", METRICS]).succeeded().stdout;
        assert_eq!(String::from_utf8(pasted.stdout).unwrap(), said, "{line}");
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_alerts_and_the_dashboard_ask_for_is_measured() {
    let lake = TempDir::new().unwrap();
    let project = Project::on_lake(lake.path());
    let served = Served::start(&project, &["--only", "http"]);
    assert_eq!(served.described["flight"], json!(null));
    let text = served.get("/metrics").succeeded();
    // Exports are no part of `serve` and leave theirs in a file.
    let exports = tokio::runtime::Runtime::new().unwrap().block_on(metrics_of_an_export());
    let mut measured = BTreeSet::new();
    for line in text.lines().chain(exports.lines()) {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        measured.insert(name.to_owned());
        if kind == "histogram" {
            measured.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    for file in ["alerts.yaml", "dashboard.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("minio/monitoring").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let asked: BTreeSet<String> = metric_names(&text);
        assert!(asked.len() > 8, "{file} asks for {asked:?}");
        let unknown: Vec<&String> = asked.difference(&measured).collect();
        assert_eq!(unknown, Vec::<&String>::new(), "{file}");
    }
    assert_eq!(served.stop(), Some(0));
}

fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("flowguard_")).map(str::to_owned).collect()
}

#[test]
fn a_lake_that_does_not_answer_is_not_ready() {
    let project = Project::on_lake("s3://lakehouse")
        .with("FLOWGUARD_S3_ENDPOINT", "http://127.0.0.1:1")
        .with("FLOWGUARD_S3_ALLOW_HTTP", "true")
        .with("FLOWGUARD_S3_ACCESS_KEY_ID", "planted-key")
        .with("FLOWGUARD_S3_SECRET_ACCESS_KEY", "planted-secret");
    let served = Served::start(&project, &["--only", "http"]);
    assert_eq!(served.get("/healthz").succeeded(), "ok\n");
    let reply = served.get("/readyz");
    assert_eq!((reply.status, reply.text().as_str()), (503, "the lake does not answer\n"));
    let metrics = served.get("/metrics").succeeded();
    let said = served.said();
    assert!(!said.contains("planted") && !metrics.contains("planted"), "{said}");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn ingestion_runs_beside_and_is_measured() {
    let Some(services) = services("serve::ingestion_runs_beside_and_is_measured") else { return };
    let lake = format!("serve-{}", services.nonce);
    let project = Project::on_services(&services, User::Root, &lake)
        .with("FLOWGUARD_INGEST_FLUSH_AGE_MS_MAX", "300ms");
    let options = Options { days: 1, orders: 300, clicks: 1_000, ..Options::default() };
    let events: Vec<_> = history(&options).collect();
    produce_history(&services, &events);
    let served = Served::start(&project, &[]);
    assert_eq!(served.described["ingest"], json!(["bronze.clicks_raw", "bronze.orders_raw"]));
    let sum = |text: &str, name: &str| -> f64 {
        let samples = text.lines().filter(|line| line.starts_with(name));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = served.get("/metrics").succeeded();
        let done = ["rows", "rejects"]
            .map(|what| sum(&text, &format!("flowguard_ingest_{what}_total{{")))
            .iter()
            .sum::<f64>();
        if done == events.len() as f64 && text.contains("flowguard_ingest_lag_offsets{") {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}\n{}", served.said());
        std::thread::sleep(LOOK_EVERY);
    };
    let rows = sum(&text, "flowguard_ingest_rows_total{");
    let counted = "SELECT (SELECT count(*) FROM bronze.orders_raw) \
                   + (SELECT count(*) FROM bronze.clicks_raw) AS n";
    assert_eq!(sql(&served, "text/csv", counted).succeeded(), format!("n\n{rows}\n"));
    let commits = sum(&text, "flowguard_ingest_commits_total{");
    assert_eq!(sum(&text, "flowguard_ingest_commit_seconds_count{"), commits);
    assert_eq!(served.stop(), Some(0));
    project.run(&["audit"]).succeeded();
}

#[test]
fn what_cannot_be_served_is_refused_with_what_to_set() {
    let lake = TempDir::new().unwrap();
    let project = Project::on_lake(lake.path());
    for setting in ["server.flight_address", "server.http_address"] {
        let refused = project.run(&["serve", &format!("--set={setting}=0.0.0.0:0")]);
        let quiet = "nothing is ingested: `kafka.bootstrap_servers` is not set\n";
        refused.failed(
            1,
            &[(quiet, "")],
            &format!(
                "error: `{setting}` is `0.0.0.0:0`, which other machines can reach, without TLS \
                 and without users\n\
                 hint: set server.tls_certificate and server.tls_key, and add users: flowguard \
                 user add NAME; or listen on 127.0.0.1\n"
            ),
        );
    }
    let ingest = project.run(&["serve", "--only", "ingest"]);
    ingest.failed(
        1,
        &[],
        "error: `kafka.bootstrap_servers` is not set\n\
         hint: set it in flowguard.toml, or FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS=host:9092\n",
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setting = format!("--set=server.http_address={address}");
    let refused = project.run(&["serve", "--only", "http", &setting]);
    refused.failed(
        3,
        &[(&address, "ADDRESS")],
        "error: cannot listen on `ADDRESS`\n\
         cause: Address already in use (os error 98)\n\
         hint: another program may have the port; set `server.http_address`\n",
    );
    let refused = project.run(&[
        "serve",
        "--set=server.tls_certificate=dags.yaml",
        "--set=server.tls_key=dags.yaml",
    ]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("dags.yaml` holds no certificate in PEM form"), "{refused:?}");
}

#[test]
fn tls_is_spoken_and_client_certificates_are_asked_for() {
    let certificates = Certificates::new();
    let lake = TempDir::new().unwrap();
    let project = Project::on_lake(lake.path())
        .with("FLOWGUARD_SERVER_TLS_CERTIFICATE", &certificates.path("server.pem"))
        .with("FLOWGUARD_SERVER_TLS_KEY", &certificates.path("server.key"));
    let health = Request { path: "/healthz", ..Request::default() };

    let served = Served::start(&project, &[]);
    assert_eq!(served.described["tls"], json!(true));
    let reply = health.send(certificates.connect(&served, None));
    assert_eq!(reply.succeeded(), "ok\n");
    let mut plain = served.connect();
    health.write(&mut plain);
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    a_renewed_certificate_is_shown(&certificates, &served);
    assert_eq!(served.stop(), Some(0));

    let project = project.with("FLOWGUARD_SERVER_TLS_CLIENT_CA", &certificates.path("ca.pem"));
    let served = Served::start(&project, &[]);
    let reply = health.send(certificates.connect(&served, Some("client")));
    assert_eq!(reply.succeeded(), "ok\n");
    let mut unknown = certificates.connect(&served, None);
    health.write(&mut unknown);
    let mut answer = Vec::new();
    assert!(unknown.read_to_end(&mut answer).is_err() && answer.is_empty());
    assert_eq!(served.stop(), Some(0));
}

fn a_renewed_certificate_is_shown(certificates: &Certificates, served: &Served) {
    let health = Request { path: "/healthz", ..Request::default() };
    let shown = || {
        let mut stream = certificates.connect(served, None);
        health.write(&mut stream);
        let shown = stream.conn.peer_certificates().map(|chain| chain[0].clone().into_owned());
        assert_eq!(Reply::read(stream).succeeded(), "ok\n");
        shown.expect("a certificate was shown")
    };
    let before = certificates.certificate("server");
    assert_eq!(shown(), before);
    certificates.sign("server");
    let renewed = certificates.certificate("server");
    assert_ne!(renewed, before);
    let deadline = Instant::now() + PATIENCE;
    while shown() != renewed {
        assert!(Instant::now() < deadline, "the old one is shown: {}", served.said());
        std::thread::sleep(LOOK_EVERY);
    }
    std::fs::write(certificates.path("server.pem"), "no certificate").unwrap();
    let verbose = Request { path: "/readyz?verbose", ..Request::default() };
    let named = || {
        let reply = verbose.send(certificates.connect(served, None)).succeeded();
        reply.contains("certificate server.tls_certificate: ")
    };
    while !named() {
        assert!(Instant::now() < deadline, "nothing is said: {}", served.said());
        std::thread::sleep(LOOK_EVERY);
    }
    assert!(served.said().contains("the certificate cannot be renewed; the one before stays"));
    assert_eq!(shown(), renewed);
    certificates.sign("server");
}
