//! Interval models: an interval's rows are what the query gives for that interval alone, whatever the
//! run's width, and a run without a range covers all that the inputs and the table hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono_tz::Tz;
use flowguard::error::Error;
use flowguard::interval::{Every, Instant, Range};
use flowguard::lake::store::S3Access;
use flowguard::lake::{Lake, Snapshot};
use flowguard::model::ModelSet;
use flowguard::runner::{self, Built, Outcome, RunContext, RunEvent, Task, refreshes_of, tasks_of};
use flowguard::table::TableName;
use flowguard::typecheck::{Intervals, Typed, typecheck};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::program::{Project, model};
use crate::runs::{add, project};
use crate::topic_in_memory::engine;

const TOGETHER: bool = true;
const ONE_BY_ONE: bool = false;

/// Duplicates on both sides of midnights, in UTC and in Rome; a day without events.
const ROWS: [(&str, &str, &str); 12] = [
    ("a", "2026-03-01T09:00:00Z", "1"),
    ("a", "2026-03-01T23:30:00Z", "2"),
    ("a", "2026-03-02T00:30:00Z", "3"),
    ("b", "2026-03-01T22:59:59.999999Z", "4"),
    ("b", "2026-03-01T23:00:00Z", "5"),
    ("b", "2026-03-02T00:00:00Z", "6"),
    ("c", "2026-03-02T12:00:00Z", "7"),
    ("c", "2026-03-04T12:00:00Z", "8"),
    ("d", "2026-03-04T06:00:00Z", "9"),
    ("d", "2026-03-04T05:59:59Z", "10"),
    ("e", "2026-03-05T23:59:59Z", "11"),
    ("a", "2026-03-05T00:00:00Z", "12"),
];

const IN_RANGE: &str = "at >= $start AND at < $end";

/// Queries of interval models: the header without its kind, the query, whether several intervals may
/// be built at once. `EVENTS` stands for the events of the interval.
const QUERIES: &[(&str, &str, bool)] = &[
    ("time: at", "SELECT id, at FROM EVENTS", TOGETHER),
    (
        "time: at",
        "SELECT id, at FROM bronze.events WHERE $start <= at AND $end > at AND n <> '3'",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT id, at FROM (SELECT * FROM silver.named) WHERE at < $end AND at >= $start",
        TOGETHER,
    ),
    (
        "time: at",
        "WITH e AS (SELECT id AS who, at AS t FROM EVENTS) SELECT who, t AS at FROM e ORDER BY t",
        TOGETHER,
    ),
    ("time: at\nevery: 6h", "SELECT id, at FROM EVENTS", TOGETHER),
    ("time: at\ntimezone: Europe/Rome", "SELECT id, at FROM EVENTS", TOGETHER),
    ("time: at\ntimezone: America/New_York\nevery: 1w", "SELECT id, at FROM EVENTS", TOGETHER),
    ("time: at\nevery: 1mo", "SELECT id, max(at) AS at FROM EVENTS GROUP BY id", ONE_BY_ONE),
    ("time: day", "SELECT CAST(at AS DATE) AS day, count(*) AS c FROM EVENTS GROUP BY 1", TOGETHER),
    (
        "time: day\nevery: 1w",
        "SELECT CAST(at AS DATE) AS day, count(*) AS c FROM EVENTS GROUP BY 1",
        TOGETHER,
    ),
    (
        "time: day",
        "SELECT date_trunc('day', at) AS day, id, count(*) AS c FROM EVENTS GROUP BY day, id",
        TOGETHER,
    ),
    (
        "time: hour\nevery: 6h",
        "SELECT date_trunc('hour', at) AS hour, count(*) AS c FROM EVENTS GROUP BY 1",
        TOGETHER,
    ),
    (
        "time: day\nevery: 6h",
        "SELECT date_trunc('day', at) + INTERVAL '0 hours' AS day, min(at) AS day2 FROM EVENTS GROUP BY 1 HAVING min(at) = date_trunc('day', min(at))",
        ONE_BY_ONE,
    ),
    ("time: at", "SELECT DISTINCT id, date_trunc('day', at) AS at FROM EVENTS", TOGETHER),
    ("time: at", "SELECT DISTINCT ON (id) id, at FROM EVENTS ORDER BY id, at", ONE_BY_ONE),
    (
        "time: at",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, CAST(at AS DATE) ORDER BY at, n) = 1",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    ("time: at", "SELECT id, at, row_number() OVER (ORDER BY at, n) AS k FROM EVENTS", ONE_BY_ONE),
    (
        "time: day",
        "WITH e AS (SELECT id, CAST(at AS DATE) AS day FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id ORDER BY at, n) = 1) SELECT day, count(*) AS c FROM e GROUP BY day",
        ONE_BY_ONE,
    ),
    (
        "time: day",
        "WITH e AS (SELECT id, CAST(at AS DATE) AS day FROM EVENTS) SELECT day, count(DISTINCT id) AS c FROM e GROUP BY day",
        TOGETHER,
    ),
    (
        "time: day",
        "SELECT CAST($start AS DATE) AS day, count(DISTINCT id) AS c FROM EVENTS",
        ONE_BY_ONE,
    ),
    ("time: day", "SELECT min(CAST(at AS DATE)) AS day, id FROM EVENTS GROUP BY id", ONE_BY_ONE),
    (
        "time: at",
        "SELECT e.id, e.at, s.label FROM EVENTS e LEFT JOIN silver.labels s ON s.id = e.id",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT e.id, e.at FROM EVENTS e WHERE e.id IN (SELECT id FROM silver.labels)",
        TOGETHER,
    ),
    ("time: at", "SELECT e.id, e.at FROM silver.labels s JOIN EVENTS e ON s.id = e.id", TOGETHER),
    (
        "time: at",
        "SELECT a.id, a.at, b.at AS other FROM EVENTS a JOIN EVENTS b ON a.id = b.id",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT a.id, a.at, b.at AS other FROM EVENTS a JOIN EVENTS b ON a.id = b.id AND CAST(a.at AS DATE) = CAST(b.at AS DATE)",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT a.id, a.at, b.at AS other FROM EVENTS a LEFT JOIN EVENTS b ON a.at = b.at AND a.n <> b.n",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT a.id, a.at FROM EVENTS a WHERE a.id NOT IN (SELECT id FROM EVENTS WHERE n IN ('1', '5'))",
        ONE_BY_ONE,
    ),
    ("time: at", "SELECT id, at FROM EVENTS ORDER BY at DESC, n LIMIT 2", ONE_BY_ONE),
    ("time: at", "SELECT id, at FROM EVENTS UNION ALL SELECT n, at FROM EVENTS", TOGETHER),
    (
        "time: at",
        "SELECT id, at FROM EVENTS UNION SELECT id, date_trunc('day', at) FROM EVENTS",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT id, at FROM EVENTS EXCEPT SELECT id, at FROM EVENTS WHERE n > '5'",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT id, at, (SELECT max(b.n) FROM bronze.events b WHERE b.id = a.id AND b.at < $end) AS m FROM EVENTS a",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at, (SELECT max(b.n) FROM bronze.events b WHERE b.id = a.id) AS m FROM EVENTS a",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT * FROM (SELECT id, at, lag(at) OVER (PARTITION BY id ORDER BY at, n) AS before FROM bronze.events WHERE at >= $start - INTERVAL '2 days' AND at < $end) WHERE at >= $start",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT * FROM (SELECT id, at, lead(at) OVER (PARTITION BY id ORDER BY at, n) AS next FROM bronze.events WHERE at >= $start AND at < $end + INTERVAL '1 day') WHERE at < $end",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at FROM bronze.events WHERE at BETWEEN $start AND $end - INTERVAL '1 microsecond'",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at FROM silver.named WHERE day = CAST($start AS DATE) AND at < $end",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at FROM silver.named WHERE day >= CAST($start AS DATE) AND day < CAST($end AS DATE)",
        ONE_BY_ONE,
    ),
    (
        "time: day",
        "SELECT id, day FROM silver.named WHERE day >= CAST($start AS DATE) AND day < CAST($end AS DATE)",
        TOGETHER,
    ),
    ("time: day", "SELECT id, day FROM silver.named WHERE day >= $start AND day < $end", TOGETHER),
    ("time: at", "SELECT id, at FROM silver.named WHERE day >= $start AND day < $end", ONE_BY_ONE),
    (
        "time: at",
        "SELECT id, at FROM bronze.events WHERE date_trunc('day', at) = $start AND at < $end",
        ONE_BY_ONE,
    ),
    (
        "time: day\ntimezone: Europe/Rome",
        "SELECT CAST(at AT TIME ZONE 'Europe/Rome' AS DATE) AS day, count(*) AS c FROM EVENTS GROUP BY 1",
        TOGETHER,
    ),
    (
        "time: day\ntimezone: Europe/Rome",
        "SELECT DISTINCT CAST($start AT TIME ZONE 'Europe/Rome' AS DATE) AS day, id FROM EVENTS",
        ONE_BY_ONE,
    ),
    (
        "time: at\ntimezone: Europe/Rome",
        "SELECT DISTINCT date_trunc('day', at) + INTERVAL '0 hours' AS u, max(at) AS at FROM EVENTS GROUP BY 1",
        ONE_BY_ONE,
    ),
    ("time: at", "SELECT id, max(at) AS at FROM EVENTS GROUP BY id, CAST(at AS DATE)", ONE_BY_ONE),
    ("time: at", "SELECT id, at, count(*) AS c FROM EVENTS GROUP BY id, at", TOGETHER),
    (
        "time: at",
        "SELECT id, at, count(*) AS c FROM EVENTS GROUP BY GROUPING SETS ((id, at), (at))",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, to_timestamp_micros(t) AS at FROM (SELECT id, CAST(at AS BIGINT) AS t FROM bronze.events) WHERE t >= CAST($start AS BIGINT) AND t < CAST($end AS BIGINT)",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, t AS at FROM (SELECT id, arrow_cast(at, 'Timestamp(Nanosecond, Some(\"UTC\"))') AS t FROM bronze.events) WHERE t >= $start AND t < $end",
        TOGETHER,
    ),
    (
        "time: at",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, CAST(at AT TIME ZONE 'Europe/Rome' AS DATE) ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, date_trunc('day', at AT TIME ZONE 'Europe/Rome') ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, CAST(arrow_cast(at, 'Timestamp(Microsecond, None)') AT TIME ZONE 'Europe/Rome' AS DATE) ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    (
        "time: at\ntimezone: Europe/Rome",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, CAST(at AT TIME ZONE 'Europe/Rome' AS DATE) ORDER BY at, n) = 1",
        TOGETHER,
    ),
    (
        "time: at\ntimezone: Europe/Rome",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, CAST(at AS DATE) ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    (
        "time: at\nevery: 6h",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, CAST(at AS DATE) ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    (
        "time: at\nevery: 6h",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, date_trunc('hour', at) ORDER BY at, n) = 1",
        TOGETHER,
    ),
    (
        "time: at\nevery: 1mo",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, date_trunc('month', at) ORDER BY at, n) = 1",
        TOGETHER,
    ),
    (
        "time: at\nevery: 1w",
        "SELECT id, at FROM EVENTS QUALIFY row_number() OVER (PARTITION BY id, date_trunc('month', at) ORDER BY at, n) = 1",
        ONE_BY_ONE,
    ),
    (
        "time: at",
        "SELECT id, at FROM (SELECT id, at, arrow_cast(at, 'Timestamp(Microsecond, None)') AS naive FROM bronze.events) WHERE naive AT TIME ZONE 'Europe/Rome' >= $start + INTERVAL '0 hours' AND at >= $start AND at < $end",
        ONE_BY_ONE,
    ),
    (
        "time: day",
        "SELECT day, id, c FROM (SELECT day, id, count(*) AS c FROM silver.named GROUP BY GROUPING SETS ((day, id), (day))) WHERE day >= $start AND day < $end",
        TOGETHER,
    ),
    (
        "time: day",
        "SELECT CAST(at AS DATE) AS day, id, count(*) AS c FROM bronze.events GROUP BY 1, 2 HAVING day >= $start AND day < $end",
        TOGETHER,
    ),
];

const NAMED: (&str, &str) =
    ("kind: view", "SELECT id, at, CAST(at AS DATE) AS day FROM bronze.events");
const LABELS: (&str, &str) =
    ("kind: full", "SELECT DISTINCT id, upper(id) AS label FROM bronze.events WHERE id < 'c'");

/// A project in a folder of its own, whose models are built by this process.
pub struct World {
    pub project: Project,
    pub context: Arc<RunContext>,
}

impl World {
    pub async fn new(models: &[(String, String)]) -> std::result::Result<Self, Error> {
        let models: Vec<(&str, &str)> =
            models.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        Self::of(project(&models)).await
    }

    async fn of(project: Project) -> std::result::Result<Self, Error> {
        let models = Arc::new(ModelSet::read(project.folder())?);
        let typed = Arc::new(typecheck(&engine(), &models).await?);
        let folder = Url::from_directory_path(project.folder().join(".flowguard")).unwrap();
        let context = RunContext {
            lake: Lake::open(&folder, &S3Access::default()).unwrap(),
            engine: engine(),
            models,
            typed,
            run: Uuid::now_v7(),
            parallel_models_max: 1,
        };
        Ok(Self { project, context: Arc::new(context) })
    }

    /// The same lake under other models.
    pub async fn with(self, models: &[(&str, &str)]) -> std::result::Result<Self, Error> {
        for (name, text) in models {
            self.project.write(&format!("sql/{name}.sql"), text);
        }
        Self::of(self.project).await
    }

    pub fn typed(&self) -> &Typed {
        &self.context.typed
    }

    async fn build(&self, tasks: Vec<Task>) -> std::result::Result<Vec<Built>, String> {
        let mut ended = Vec::new();
        let stop = CancellationToken::new();
        let run = runner::run(Arc::clone(&self.context), tasks, &stop, |event| {
            if let RunEvent::Finished { outcome, task } = event {
                ended.push(match outcome {
                    Outcome::Built(built) => Ok(built.clone()),
                    Outcome::Failed(error) => Err(format!("{}: {}", task.model, error.report())),
                    other => Err(format!("{other:?}")),
                });
            }
        });
        run.await;
        ended.into_iter().collect()
    }

    pub async fn run(
        &self,
        name: &str,
        range: Option<Range>,
    ) -> std::result::Result<Built, String> {
        let name: TableName = name.parse().unwrap();
        self.build(tasks_of(&[name], range)).await.map(|mut built| built.remove(0))
    }

    pub async fn refresh(&self, name: &str) -> std::result::Result<Built, String> {
        let name: TableName = name.parse().unwrap();
        self.build(refreshes_of(&[name])).await.map(|mut built| built.remove(0))
    }

    pub async fn table(&self, name: &str) -> Snapshot {
        self.context.lake.snapshot(&name.parse().unwrap()).await.unwrap().unwrap()
    }

    /// Rows of the table, a line each, whatever the order of its columns.
    pub async fn rows(&self, name: &str) -> Vec<String> {
        let table = self.table(name).await;
        let frame = engine().session().read_table(table.provider().await.unwrap()).unwrap();
        let mut lines = Vec::new();
        for batch in frame.collect().await.unwrap() {
            let options = FormatOptions::default();
            let schema = batch.schema();
            let mut named: Vec<_> = schema.fields().iter().zip(batch.columns()).collect();
            named.retain(|(field, _)| field.name() != "_day");
            named.sort_by_key(|(field, _)| field.name());
            let columns: Vec<_> = named
                .iter()
                .map(|(_, column)| ArrayFormatter::try_new(column, &options).unwrap())
                .collect();
            lines.extend((0..batch.num_rows()).map(|row| {
                let cells: Vec<String> =
                    columns.iter().map(|column| column.value(row).to_string()).collect();
                cells.join(" | ")
            }));
        }
        lines.sort();
        lines
    }
}

fn interval(header: &str, sql: &str) -> String {
    let every = if header.contains("every:") { "" } else { "\nevery: 1d" };
    let events = format!("(SELECT * FROM bronze.events WHERE {IN_RANGE})");
    model(&format!("kind: interval\n{header}{every}"), &sql.replace("EVENTS", &events))
}

/// A run of all intervals gives what runs of each give, where intervals are built at once and where
/// they are not; and the range of a run without one is that of the inputs' rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_gives_each_interval_what_its_query_gives_for_it_alone() {
    let mut models = vec![
        ("silver/named".to_owned(), model(NAMED.0, NAMED.1)),
        ("silver/labels".to_owned(), model(LABELS.0, LABELS.1)),
    ];
    for (number, (header, sql, _)) in QUERIES.iter().enumerate() {
        for width in ["all", "each"] {
            models.push((format!("silver/{width}{number}"), interval(header, sql)));
        }
    }
    let world = World::new(&models).await.unwrap_or_else(|error| panic!("{}", error.report()));
    add(&world.project, &ROWS).await;
    world.run("silver.labels", None).await.unwrap();
    let (mut wrong, mut forms) = (Vec::new(), BTreeSet::new());
    for (number, (header, sql, together)) in QUERIES.iter().enumerate() {
        let all = format!("silver.all{number}");
        let model = world.context.models.get(&all.parse().unwrap()).unwrap();
        let (every, zone) = (model.every().unwrap(), model.timezone);
        let intervals = &world.typed().get(&model.name).unwrap().intervals;
        if (*intervals == Intervals::Together) != *together {
            wrong.push(format!("{header} {sql}: {intervals:?}"));
        }
        forms.insert(*together);
        let covered = match world.run(&all, None).await {
            Ok(built) => built.range.unwrap(),
            Err(error) => {
                wrong.push(format!("{header} {sql}: {error}"));
                continue;
            }
        };
        // Wider than the inputs: what lies outside of the range that was covered must be nothing.
        let first = Instant::parse("2026-02-20", Tz::UTC).unwrap();
        let last = Instant::parse("2026-03-14", Tz::UTC).unwrap();
        let wide = every.align(Range { start: first, end: last }, zone);
        let each = format!("silver.each{number}");
        let is_of_every_interval = sql.starts_with("SELECT CAST($start");
        let range = if is_of_every_interval { covered } else { wide };
        for one in every.intervals_in(range, zone) {
            if let Err(error) = world.run(&each, Some(one)).await {
                wrong.push(format!("{header} {sql}, {one}: {error}"));
            }
        }
        let (all, each) = (world.rows(&all).await, world.rows(&each).await);
        if all != each || all.is_empty() {
            wrong.push(format!("{header} {sql}:\n  at once {all:#?}\n  each {each:#?}"));
        }
    }
    assert_eq!(forms.len(), 2);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn day(text: &str) -> Range {
    Every::Day.interval_of(Instant::parse(text, Tz::UTC).unwrap(), Tz::UTC)
}

/// Cases that gave "0 rows, unchanged" and exit 0: inputs without a time of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_range_of_a_run_comes_from_what_the_query_compares() {
    let over =
        |from: &str| interval("time: at", &format!("SELECT id, at FROM {from} WHERE {IN_RANGE}"));
    let models = [
        ("silver/named".to_owned(), model(NAMED.0, NAMED.1)),
        ("silver/copy".to_owned(), model("kind: full", "SELECT id, at, n FROM bronze.events")),
        ("silver/of_a_view".to_owned(), over("silver.named")),
        ("silver/of_a_full_table".to_owned(), over("silver.copy")),
        (
            "silver/of_letters".to_owned(),
            interval(
                "time: at",
                "SELECT reason, _ingested_at AS at FROM bronze.dead_letters \
                 WHERE _ingested_at >= $start AND _ingested_at < $end",
            ),
        ),
        (
            "silver/of_numbers".to_owned(),
            interval(
                "time: at",
                "SELECT id, at FROM bronze.events WHERE date_part('epoch', at) >= \
                 date_part('epoch', $start) AND date_part('epoch', at) < date_part('epoch', $end)",
            ),
        ),
    ];
    let world = World::new(&models).await.unwrap_or_else(|error| panic!("{}", error.report()));
    add(&world.project, &ROWS).await;
    world.run("silver.copy", None).await.unwrap();
    let expected = Range {
        start: Instant::parse("2026-03-01", Tz::UTC).unwrap(),
        end: Instant::parse("2026-03-06", Tz::UTC).unwrap(),
    };
    for name in ["silver.of_a_view", "silver.of_a_full_table", "silver.of_numbers"] {
        let built = world.run(name, None).await.unwrap();
        assert_eq!((built.rows, built.range), (12, Some(expected)), "{name}");
    }
}

/// Where nothing can be said, `check` says so.
#[tokio::test]
async fn a_query_that_compares_nothing_with_its_interval_is_refused() {
    for sql in [
        "SELECT id, at FROM bronze.events WHERE (at >= $start AND at < $end) OR n = '1'",
        "SELECT id, CASE WHEN at >= $start AND at < $end THEN at END AS at FROM bronze.events",
        "SELECT id, at FROM bronze.events WHERE at > at - ($end - $start)",
    ] {
        let error = World::new(&[("silver/m".to_owned(), interval("time: at", sql))]).await;
        let text = error.err().unwrap_or_else(|| panic!("{sql}")).report();
        let expected = "nothing says which rows of the inputs belong to an interval";
        assert!(text.contains(expected), "{sql}: {text}");
        assert!(text.contains("WHERE at >= $start AND at < $end"), "{sql}: {text}");
    }
}

/// What a query separates by was computed anew for each step above it, twice as often with each.
#[tokio::test]
async fn a_long_chain_of_steps_is_understood_at_once() {
    let mut sql = format!("WITH s0 AS (SELECT id, at FROM bronze.events WHERE {IN_RANGE})");
    for step in 1..40 {
        sql.push_str(&format!(
            ", s{step} AS (SELECT DISTINCT id, at FROM s{} QUALIFY row_number() OVER (PARTITION BY at \
             ORDER BY id) >= 0 AND count(*) OVER (PARTITION BY id, at) > 0)",
            step - 1
        ));
    }
    sql.push_str(" SELECT id, at FROM s39");
    let models = [("silver/m".to_owned(), interval("time: at", &sql))];
    let checked = World::new(&models);
    let world = tokio::time::timeout(std::time::Duration::from_secs(60), checked).await;
    let world = world.expect("it ends").unwrap_or_else(|error| panic!("{}", error.report()));
    let model = world.typed().get(&"silver.m".parse().unwrap()).unwrap();
    assert_eq!(model.intervals, Intervals::Together);
}

/// A row of a far year left the range of all others empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_absurd_time_does_not_empty_the_range() {
    let absurd = "SELECT id, CASE id \
                  WHEN 'e' THEN arrow_cast(9223372036854775807, 'Timestamp(Microsecond, Some(\"UTC\"))') \
                  WHEN 'd' THEN arrow_cast(-9223372036854775807, 'Timestamp(Microsecond, Some(\"UTC\"))') \
                  ELSE at END AS at FROM bronze.events";
    let from = format!("FROM silver.absurd WHERE {IN_RANGE}");
    let models = [
        ("silver/absurd".to_owned(), model("kind: view", absurd)),
        ("silver/together".to_owned(), interval("time: at", &format!("SELECT id, at {from}"))),
        (
            "silver/one_by_one".to_owned(),
            interval("time: at", &format!("SELECT id, max(at) AS at {from} GROUP BY id")),
        ),
    ];
    let world = World::new(&models).await.unwrap_or_else(|error| panic!("{}", error.report()));
    add(&world.project, &ROWS).await;
    assert_eq!(world.run("silver.together", None).await.unwrap().rows, 9);
    assert_eq!(world.run("silver.one_by_one", None).await.unwrap().rows, 7);
}

/// Rows of days that left the input left the output only where other days surrounded them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_the_input_leaves_the_output_and_what_is_made_of_it() {
    let kept = |kept: &str| {
        let sql = format!("SELECT id, at, n FROM bronze.events WHERE {kept}");
        model("kind: full", &sql)
    };
    let chain = [
        ("silver/kept".to_owned(), kept("true")),
        (
            "silver/clean".to_owned(),
            interval(
                "time: at\npartition_by: day",
                &format!("SELECT id, at FROM silver.kept WHERE {IN_RANGE}"),
            ),
        ),
        (
            "gold/daily".to_owned(),
            interval(
                "time: day",
                &format!(
                    "SELECT CAST(at AS DATE) AS day, count(*) AS c FROM silver.clean WHERE {IN_RANGE} GROUP BY 1"
                ),
            ),
        ),
    ];
    let mut world = World::new(&chain).await.unwrap_or_else(|error| panic!("{}", error.report()));
    add(&world.project, &ROWS).await;
    let mut told = Vec::new();
    for condition in ["true", "at >= '2026-03-02' AND at < '2026-03-05'", "false"] {
        world = world.with(&[("silver/kept", &kept(condition))]).await.unwrap();
        for name in ["silver.kept", "silver.clean", "gold.daily"] {
            world.run(name, None).await.unwrap();
        }
        told.push(world.rows("gold.daily").await.join("; "));
    }
    assert_eq!(
        told,
        [
            "2 | 2026-03-05; 3 | 2026-03-02; 3 | 2026-03-04; 4 | 2026-03-01",
            "3 | 2026-03-02; 3 | 2026-03-04",
            ""
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_refresh_makes_the_table_of_today() {
    let sql = "SELECT id, at FROM EVENTS";
    let models = [("silver/m".to_owned(), interval("time: at\npartition_by: day", sql))];
    let world = World::new(&models).await.unwrap();
    add(&world.project, &ROWS).await;
    world.run("silver.m", Some(day("2026-03-04"))).await.unwrap();
    world.refresh("silver.m").await.unwrap();
    assert_eq!(world.rows("silver.m").await.len(), ROWS.len());
    // The same rows, and no file of theirs is written again.
    assert!(world.run("silver.m", None).await.unwrap().unchanged);
    let again = world.refresh("silver.m").await.unwrap();
    assert!(!again.unchanged && again.rows == ROWS.len() as u64, "{again:?}");
}
