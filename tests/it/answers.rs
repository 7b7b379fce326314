//! What a statement answers must depend neither on how its tables are stored nor on the way in: the
//! same rows over Delta tables as over the same rows in memory, and over HTTP, Flight, the command
//! line, a view and a table that `run` commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::array_value_to_string;
use chrono_tz::Tz;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use flowguard::engine::storable::conform;
use flowguard::engine::{Engine, EngineOptions};
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use object_store::memory::InMemory;
use url::Url;
use uuid::Uuid;

use crate::program::{Project, model};
use crate::served::{Request, Served};
use crate::topic_in_memory::Random;

/// Tables `t` and `u` of the lake, with columns of the same names, and `m_t` and `m_u`, which hold
/// the same rows in memory, where nothing is pushed down.
struct Twins(SessionContext);

impl Twins {
    async fn new() -> Self {
        let lake =
            Lake::with_store(&Url::parse("memory:///twins/").unwrap(), Arc::new(InMemory::new()));
        // One thread, so that a file is opened after what the one before has taught.
        let options = EngineOptions { memory_bytes_max: 256 << 20, spill_dir: None, threads: 1 };
        let twins = Self(Engine::new(&options).unwrap().session());
        // Of several files each; `t` is the larger, so that joins turn their sides round.
        twins.add(&lake, "t", &[(0, 90), (90, 150), (150, 280), (280, 340), (340, 400)]).await;
        twins.add(&lake, "u", &[(380, 390), (300, 330), (0, 7)]).await;
        twins
    }

    async fn add(&self, lake: &Lake, name: &str, files: &[(u32, u32)]) {
        let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = [
            ("id", DataType::Int64),
            ("n", DataType::Int32),
            ("s", DataType::Utf8),
            ("price", DataType::Decimal128(10, 2)),
            ("x", DataType::Float64),
            ("at", at),
        ];
        let fields = columns.map(|(name, data_type)| Field::new(name, data_type, true));
        let spec = TableSpec {
            name: format!("silver.{name}").parse().unwrap(),
            columns: Arc::new(Schema::new(fields.to_vec())),
            time: Some("at".to_owned()),
            partition_by_day: true,
            timezone: Tz::UTC,
            // Columns of the key have statistics.
            key: ["id", "n", "s", "price", "x"].map(str::to_owned).to_vec(),
            doc: None,
            shape: "`kind: full`".to_owned(),
        };
        for (first, end) in files {
            let rows = format!(
                "SELECT value AS id, NULLIF(value % 7, 3) AS n, \
                 NULLIF('item ' || CAST(value % 5 AS VARCHAR), 'item 2') AS s, \
                 CAST(NULLIF(value % 13, 4) AS DECIMAL(10, 2)) / 4 AS price, \
                 CASE WHEN value % 17 > 0 THEN CAST(value AS DOUBLE) / 8 END AS x, \
                 CASE WHEN value % 23 > 0 THEN \
                 to_timestamp_micros(1767225600000000 + value * 1800000000) AT TIME ZONE 'UTC' END \
                 AS at FROM generate_series({first}, {})",
                end - 1
            );
            let mut stager = Stager::new(lake, &spec).unwrap();
            for batch in self.0.sql(&rows).await.unwrap().collect().await.unwrap() {
                stager.write(&conform(&batch, &spec.columns).unwrap()).await.unwrap();
            }
            let staged = stager.finish().await.unwrap();
            let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
            let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
            commit(lake, &write).await.unwrap();
        }
        let stored = lake.snapshot(&spec.name).await.unwrap().unwrap().provider().await.unwrap();
        self.0.register_table(name, stored).unwrap();
        let rows = self.0.table(name).await.unwrap();
        let schema = Arc::clone(rows.schema().inner());
        let memory = MemTable::try_new(schema, vec![rows.collect().await.unwrap()]).unwrap();
        self.0.register_table(format!("m_{name}"), Arc::new(memory)).unwrap();
    }

    /// Rows as texts, sorted unless the statement orders them; or the error's first line.
    async fn rows(&self, sql: &str) -> Result<Vec<String>, String> {
        let failed = |error: datafusion::error::DataFusionError| {
            error.strip_backtrace().lines().next().unwrap_or_default().to_owned()
        };
        let batches = self.0.sql(sql).await.map_err(failed)?.collect().await.map_err(failed)?;
        let mut rows: Vec<String> = batches.iter().flat_map(texts).collect();
        if !sql.contains("ORDER BY") {
            rows.sort();
        }
        Ok(rows)
    }

    /// Compares the statement over the lake's tables, `{t}` and `{u}`, with the same over memory's.
    async fn differs(&self, sql: &str) -> Option<String> {
        let stored = self.rows(&sql.replace("{t}", "t").replace("{u}", "u")).await;
        let memory = self.rows(&sql.replace("{t}", "m_t").replace("{u}", "m_u")).await;
        (memory.is_err() || stored != memory).then(|| {
            let count = |rows: &Result<Vec<String>, String>| match rows {
                Ok(rows) => format!("{} rows {:?}", rows.len(), &rows[..rows.len().min(5)]),
                Err(error) => error.clone(),
            };
            format!("{sql}\n  stored: {}\n  memory: {}", count(&stored), count(&memory))
        })
    }

    async fn agree(&self, statements: impl IntoIterator<Item = String>) {
        let mut wrong = Vec::new();
        for sql in statements {
            wrong.extend(self.differs(&sql).await);
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}

fn texts(batch: &RecordBatch) -> Vec<String> {
    let text = |row: usize| {
        let cells =
            batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    (0..batch.num_rows()).map(text).collect()
}

/// Predicates that are true, false and null of columns of the files, of the partition column, and
/// of none.
const PREDICATES: [&str; 44] = [
    "n = 5",
    "n <> 5",
    "n > 4",
    "n <= 1 OR n IS NULL",
    "n IN (1, 5, 6)",
    "n NOT IN (1, 5)",
    "n IN (1, NULL)",
    "n NOT IN (1, NULL)",
    "n = NULL",
    "n <> NULL",
    "n IS NOT NULL",
    "n IS DISTINCT FROM 5",
    "n IS NOT DISTINCT FROM NULL",
    "n BETWEEN 2 AND 5",
    "n BETWEEN 2 AND NULL",
    "NOT (n = 5)",
    "(n = 5) IS NOT TRUE",
    "(n = 5) IS UNKNOWN",
    "n + 1 = 6",
    "n = n",
    "n > id",
    "s = 'item 1'",
    "s LIKE 'item %'",
    "s NOT LIKE '%4'",
    "s > 'item 1' AND s < 'item 4'",
    "price = 1.25",
    "price > 2",
    "price < 1.5 AND price = NULL",
    "x < 20.125",
    "x <> x",
    "at >= TIMESTAMP '2026-01-03T12:00:00'",
    "at < TIMESTAMP '2026-01-02'",
    "at IS NULL",
    "_day = DATE '2026-01-02'",
    "_day <> DATE '2026-01-02'",
    "_day > TIMESTAMP '2026-01-02T12:00:00'",
    "_day IN (DATE '2026-01-02', NULL)",
    "_day NOT IN (DATE '2026-01-02', NULL)",
    "_day IS NULL",
    "_day IS DISTINCT FROM DATE '2026-01-02'",
    "CAST(_day AS VARCHAR) LIKE '%-03'",
    "_day = NULL",
    "1 = NULL",
    "NULLIF(1, 1) = 1",
];

/// A condition that became NULL and named no column of the files was never applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_were_never_applied() {
    const SEED: u64 = 13;
    let twins = Twins::new().await;
    let mut random = Random(SEED);
    let mut any = || PREDICATES[random.below(PREDICATES.len() as u64) as usize];
    let mut conditions: Vec<String> = PREDICATES.map(str::to_owned).to_vec();
    conditions.extend(PREDICATES.map(|predicate| format!("NOT ({predicate})")));
    for _ in 0..250 {
        conditions.push(format!("({}) AND ({})", any(), any()));
        conditions.push(format!("({}) OR (({}) AND NOT ({}))", any(), any(), any()));
    }
    twins.agree(conditions.iter().map(|c| format!("SELECT id, n FROM {{t}} WHERE {c}"))).await;
    let counts = PREDICATES.map(|c| format!("SELECT count(*) FROM {{t}} WHERE {c}"));
    twins.agree(counts).await;
}

/// The conditions of joins whose sides have columns of the same names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_read_the_wrong_side() {
    let twins = Twins::new().await;
    let mut statements = Vec::new();
    for (left, right) in [("{t}", "{u}"), ("{u}", "{t}")] {
        for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
            for on in ["a.id = b.id", "a.id = b.id + 20", "a.n = b.n AND a.s = b.s"] {
                for condition in [
                    "b.n > COALESCE(a.n, 0)",
                    "a.n > COALESCE(b.n, 0)",
                    "a.n IS NULL",
                    "b.n IS NULL",
                    "a.id IS NULL",
                    "b.id IS NULL",
                    "b.price IS NULL OR b.price > 1",
                    "a.price IS NULL OR a.price > 1",
                    "a.x > 3 AND b.n > COALESCE(a.n, 0)",
                    "b.x > 3 AND a.n > COALESCE(b.n, 0)",
                    "b._day = NULL",
                ] {
                    statements.push(format!(
                        "SELECT a.id, a.n, b.id, b.n FROM {left} a {join} {right} b ON {on} \
                         WHERE {condition}"
                    ));
                }
            }
            // What TopK and joins learn while they run is handed down too.
            for order in ["a.x, b.x", "b.x, a.x", "b.n, a.n", "a.price DESC, b.price"] {
                statements.push(format!(
                    "SELECT a.x, b.x, a.n, b.n, a.id, b.id FROM {left} a {join} {right} b \
                     ON a.id = b.id + 20 ORDER BY {order}, a.id, b.id LIMIT 5"
                ));
                statements.push(format!(
                    "SELECT a.x, b.x, c.x, a.id, b.id, c.id FROM {left} a {join} {right} b \
                     ON a.id = b.id + 20 JOIN {{u}} c ON b.x = c.x \
                     ORDER BY {order}, a.id, b.id, c.id LIMIT 5"
                ));
            }
        }
    }
    for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN"] {
        // What the outer join learns of `b.x` goes through the inner one, whose sides are turned
        // round, and the highest of one side are with the lowest of the other.
        statements.push(format!(
            "SELECT * FROM (SELECT * FROM {{u}} WHERE id > 379) c {join} \
             ({{t}} a JOIN {{u}} b ON a.id = 399 - b.id) ON c.x = b.x"
        ));
    }
    for order in ["a", "b"] {
        // Columns that the parts of a union name the other way round.
        statements.push(format!(
            "SELECT * FROM (SELECT id AS a, n AS b FROM {{t}} UNION ALL \
             SELECT n AS b, id AS a FROM {{u}}) ORDER BY {order}, a, b LIMIT 9"
        ));
        statements.push(format!(
            "SELECT * FROM (SELECT n AS a, max(id) AS b FROM {{t}} GROUP BY n) \
             ORDER BY {order}, a LIMIT 3"
        ));
    }
    // A key of the side that is kept has the name of another column of the other side.
    statements.push(
        "SELECT k.id, l.id FROM {u} l JOIN (SELECT * FROM {t} WHERE id IN \
         (SELECT n FROM {t} WHERE id > 100)) k ON k.id = l.id"
            .to_owned(),
    );
    twins.agree(statements).await;
}

/// LIMIT was lost where no column of the files is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_were_lost() {
    let twins = Twins::new().await;
    let mut statements = Vec::new();
    for columns in ["1 AS k", "_day AS k", "id AS k", "NULL AS k"] {
        for limit in ["LIMIT 2", "LIMIT 2 OFFSET 3", "OFFSET 390", "LIMIT 0", "LIMIT 20 OFFSET 399"]
        {
            for from in [
                format!("SELECT {columns} FROM {{t}} {limit}"),
                format!("SELECT {columns} FROM {{t}} WHERE n = 5 {limit}"),
                format!("SELECT {columns} FROM {{t}} WHERE _day > DATE '2026-01-02' {limit}"),
                format!("SELECT {columns} FROM {{t}}, (SELECT 1 FROM {{u}} {limit}) {limit}"),
                format!(
                    "(SELECT {columns} FROM {{t}} {limit}) UNION ALL SELECT {columns} FROM {{u}}"
                ),
                format!(
                    "SELECT {columns} FROM {{t}} UNION ALL SELECT {columns} FROM {{u}} {limit}"
                ),
                format!("SELECT k FROM (SELECT {columns} FROM {{t}} {limit}) {limit}"),
            ] {
                statements.push(format!("SELECT count(*) AS rows, count(k) AS k FROM ({from})"));
            }
        }
    }
    // Which rows come first is open, and so how many of them have no day.
    let by_day = |sql: &String| sql.contains("_day AS k") && sql.contains("count(k)");
    statements
        .iter_mut()
        .filter(|sql| by_day(sql))
        .for_each(|sql| *sql = sql.replace(", count(k) AS k", ""));
    twins.agree(statements).await;
    assert_eq!(twins.rows("SELECT 1 FROM t LIMIT 2").await.unwrap().len(), 2);
    assert_eq!(twins.rows("SELECT count(*) FROM t").await.unwrap(), ["400"]);
}

/// Statements of one column `x` and one row each, and the row.
const TYPED: [(&str, &str); 16] = [
    ("CASE WHEN false THEN 1 ELSE 2.5 END", "2.5"),
    ("CASE WHEN true THEN 1 ELSE 2.5 END", "1.0"),
    ("COALESCE(CAST(NULL AS BIGINT), 2.5)", "2.5"),
    ("COALESCE(1, 2.5)", "1.0"),
    ("NULLIF(2.5, 1)", "2.5"),
    ("greatest(1, 2.5)", "2.5"),
    ("(SELECT max(v) FROM (SELECT 1 AS v UNION ALL SELECT 2.5))", "2.5"),
    ("(SELECT min(v) FROM (SELECT 2.5 AS v UNION SELECT 1))", "1.0"),
    ("(SELECT sum(column1) FROM (VALUES (1), (2.5)))", "3.5"),
    (
        "(SELECT avg(CASE WHEN v > 1 THEN v ELSE 0.25 END) FROM (VALUES (1), (2)) AS t(v))",
        "1.125000",
    ),
    ("CASE WHEN false THEN CAST(1 AS INT) ELSE 3000000000 END", "3000000000"),
    ("CASE WHEN false THEN CAST(1 AS DECIMAL(4, 1)) ELSE CAST(2.55 AS DECIMAL(10, 2)) END", "2.55"),
    ("CASE 1 WHEN 2 THEN 'text' ELSE 2 END", "2"),
    ("CASE WHEN false THEN DATE '2026-01-02' ELSE TIMESTAMP '2026-01-02T03:04:05Z' END", "*"),
    ("CASE WHEN false THEN 1 END", "\"\""),
    ("1 / 2.0 + CASE WHEN false THEN 1 ELSE 2 END", "2.500000"),
];

/// The type of a result was read before its values were cast to it.
#[test]
fn fractions_were_cut_off() {
    let texts: Vec<(String, String)> = TYPED
        .iter()
        .enumerate()
        .map(|(at, (sql, _))| (format!("silver/case_{at}"), format!("SELECT {sql} AS x")))
        .collect();
    // A time without a zone is no column of a table.
    let is_stored = |at: usize| TYPED[at].1 != "*";
    let mut models: Vec<(String, String)> = Vec::new();
    for (at, (name, sql)) in texts.iter().enumerate().filter(|(at, _)| is_stored(*at)) {
        models.push((name.clone(), model("kind: full", sql)));
        models.push((format!("gold/view_{at}"), model("kind: view", sql)));
        let over = format!("SELECT x FROM gold.view_{at} WHERE x IS NOT NULL OR true");
        models.push((format!("gold/over_{at}"), model("kind: full", &over)));
    }
    let models: Vec<(&str, &str)> = models.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let project = Project::of_models(&models);
    project.run(&["check"]).succeeded();
    project.run(&["run"]).succeeded();
    let served = Served::start(&project, &[]);
    let flight = format!("grpc://{}", served.address("flight"));
    let mut wrong = BTreeMap::new();
    for (at, (sql, right)) in TYPED.iter().enumerate() {
        let select = format!("SELECT {sql} AS x");
        let local = said(&project, &select, &[]);
        let mut ways = vec![
            ("http", over_http(&served, &select)),
            ("flight", said(&project, &select, &["--remote", &flight])),
        ];
        if is_stored(at) {
            let table = |name: &str| said(&project, &format!("SELECT x FROM {name}_{at}"), &[]);
            ways.push(("table", table("silver.case")));
            ways.push(("view", table("gold.view")));
            ways.push(("table over a view", table("gold.over")));
        }
        if is_stored(at) && local != format!("x\n{right}") {
            wrong.insert(format!("{sql} by command line"), local.clone());
        }
        let others = ways.into_iter().filter(|(_, found)| *found != local);
        wrong.extend(others.map(|(way, found)| (format!("{sql} by {way}, not {local}"), found)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn said(project: &Project, sql: &str, more: &[&str]) -> String {
    let arguments = [&["query", "--output", "csv", sql], more].concat();
    project.run(&arguments).succeeded().stdout.trim().to_owned()
}

pub fn over_http(served: &Served, sql: &str) -> String {
    let headers = [("content-type", "text/plain"), ("accept", "text/csv")];
    let request =
        Request { method: "POST", path: "/api/v1/query", headers: &headers, body: sql.as_bytes() };
    served.ask(&request).succeeded().trim().to_owned()
}

/// `item` so often that there are `count`, between `before` and `after`; `#` is its number.
fn chain(before: &str, item: &str, count: usize, after: &str) -> String {
    let items: Vec<String> = (1..=count).map(|at| item.replace('#', &at.to_string())).collect();
    format!("{before}{}{after}", items.concat())
}

/// Chains and lists that overflowed a stack, and with it ended the server and its ingestion.
#[test]
fn a_statement_of_4_kb_ended_the_server() {
    let project = Project::of_models(&[("silver/one", &model("kind: full", "SELECT 1 AS x"))]);
    project.run(&["run"]).succeeded();
    let list = chain("SELECT count(*) AS n FROM silver.one WHERE x IN (0", ", #", 5_200, ")");
    let mut nested = "WITH a0 AS (SELECT 1 AS n)".to_owned();
    for at in 1..800 {
        nested.push_str(&format!(", a{at} AS (SELECT n FROM a{})", at - 1));
    }
    nested.push_str(" SELECT n FROM a799");
    let union = chain("SELECT count(*) AS n FROM (SELECT 1", " UNION ALL SELECT 1", 2_300, ")");
    let and = chain("SELECT count(*) AS n FROM silver.one WHERE x > 0", " AND x <> #0", 1_500, "");
    let plus = chain("SELECT 1", "+1", 1_860, " AS n");
    let served = Served::start(&project, &[]);
    let flight = format!("grpc://{}", served.address("flight"));
    let over_flight = |sql: &str| {
        project.write("statement.sql", sql);
        let line = ["query", "--output", "csv", "--remote", &flight, "--file", "statement.sql"];
        project.run(&line).without_logs()
    };
    for (sql, right) in [
        (&list, "n\n1"),
        (&nested, "n\n1"),
        (&union, "n\n2301"),
        (&and, "n\n1"),
        (&plus, "n\n1861"),
    ] {
        assert_eq!(over_http(&served, sql), right, "{}", &sql[..60]);
    }
    for sql in [&list, &nested] {
        assert_eq!(over_flight(sql).succeeded().stdout, "n\n1\n", "{}", &sql[..60]);
    }
    // As many as a statement may be long: too deep for anything, and refused before they are read.
    for (before, item) in
        [("SELECT 1", "+1"), ("SELECT 1", " UNION ALL SELECT 1"), ("SELECT 1", "::INT")]
    {
        let sql = chain(before, item, (1_000_000 - before.len()) / item.len(), "");
        let body = (&[("content-type", "text/plain")], sql.as_bytes());
        let (method, path) = ("POST", "/api/v1/query");
        let reply = served.ask(&Request { method, path, headers: body.0, body: body.1 });
        assert_eq!(reply.status, 400, "{item}");
        assert_eq!(reply.json()["message"], "the SQL is nested too deeply", "{item}");
        let refused = over_flight(&sql);
        assert_eq!(refused.code, Some(1), "{item}");
        assert!(refused.stderr.contains("nested too deeply"), "{item}: {}", refused.stderr);
    }
    assert_eq!(served.get("/healthz").succeeded(), "ok\n");
    assert_eq!(served.stop(), Some(0));
    project.write("sql/silver/list.sql", &model("kind: full", &list));
    project.write("sql/gold/nested.sql", &model("kind: full", &nested));
    project.run(&["check"]).succeeded();
    project.run(&["run"]).succeeded();
    assert_eq!(said(&project, "SELECT l.n FROM silver.list l, gold.nested", &[]), "n\n1");
    let deep = chain("SELECT 1", "+1", 30_000, " AS n");
    project.write("sql/gold/nested.sql", &model("kind: full", &deep));
    let checked = project.run(&["check"]);
    assert_eq!(checked.code, Some(1));
    assert!(checked.stderr.contains("nested.sql:4:1: the SQL is nested too deeply"));
}
