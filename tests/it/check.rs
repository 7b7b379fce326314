//! `flowguard check` on projects with mistakes: all of them at once, each at its place, through the
//! real program.

use crate::program::{Project, model};

const ORDERS_RAW: &str = r#"-- /// flowguard
-- kind: append
-- source: {topic: raw.orders.v1, format: json}
-- time: event_timestamp
-- columns:
--   order_id: {type: string, not_null: true}
--   price: {type: "decimal(10,2)"}
--   event_timestamp: {type: timestamp, not_null: true}
-- ///
SELECT * FROM kafka.orders_raw
"#;

fn full(sql: &str) -> String {
    model("kind: full", sql)
}

/// One mistake of each sort, among them some that only a plan shows, beside others that keep a file
/// from being planned.
fn broken() -> Project {
    let wrong_type = "kind: full\ncolumns:\n  price: {type: double}\n  gone: {type: string}";
    let daily = "kind: interval\nevery: 1d\ntime: event_timestamp";
    let project = Project::of_models(&[
        ("bronze/orders_raw", ORDERS_RAW),
        ("silver/typo_table", &full("SELECT order_id FROM bronze.order_raw")),
        ("silver/typo_column", &full("SELECT order_id,\n  prise\nFROM bronze.orders_raw")),
        // Its input is broken: what it makes of it is not judged.
        ("silver/reader", &full("SELECT nothing FROM silver.typo_column")),
        ("silver/wrong_type", &model(wrong_type, "SELECT order_id, price FROM bronze.orders_raw")),
        (
            "silver/reserved",
            &full("SELECT order_id AS _id, event_timestamp AS _day FROM bronze.orders_raw"),
        ),
        (
            "silver/naive",
            &full(
                "SELECT order_id FROM bronze.orders_raw \
                 WHERE event_timestamp > TIMESTAMP '2026-01-01'",
            ),
        ),
        ("gold/unbound", &model(daily, "SELECT order_id, event_timestamp FROM bronze.orders_raw")),
        ("gold/a", &full("SELECT order_id FROM gold.b")),
        ("gold/b", &full("SELECT order_id FROM gold.a")),
        (
            "gold/mixed",
            &full(
                "SELECT order_id + INTERVAL '1 day' AS x, sum(price) AS y FROM bronze.orders_raw",
            ),
        ),
    ]);
    project.write("dags.yaml", "version: 1\ndags:\n  d:\n    select: [\"gold.dialy\"]\n");
    project
}

const PROBLEMS: &str = r#"dags.yaml:4:14: `gold.dialy` selects nothing
        select: ["gold.dialy"]
                 ^^^^^^^^^^^^
    hint: write layer.table, layer.*, tag:word, path:folder or the name of a DAG

sql/gold/a.sql:4:22: a cycle: `gold.a` reads `gold.b` reads `gold.a`
    SELECT order_id FROM gold.b
                         ^^^^^^
    hint: remove one of these reads

sql/gold/mixed.sql:4:8: expressions have incompatible types
    SELECT order_id + INTERVAL '1 day' AS x, sum(price) AS y FROM bronze.orders_raw
           ^^^^^^^^

sql/gold/unbound.sql:6:1: an interval model needs `$end`
    SELECT order_id, event_timestamp FROM bronze.orders_raw
    ^^^^^^
    hint: filter the input: WHERE time >= $start AND time < $end

sql/gold/unbound.sql:6:1: an interval model needs `$start`
    SELECT order_id, event_timestamp FROM bronze.orders_raw
    ^^^^^^
    hint: filter the input: WHERE time >= $start AND time < $end

sql/silver/naive.sql:4:74: the literal of type TIMESTAMP loses its time zone
    SELECT order_id FROM bronze.orders_raw WHERE event_timestamp > TIMESTAMP '2026-01-01'
                                                                             ^^^^^^^^^^^^
    hint: write arrow_cast('2026-01-01T00:00:00Z', 'Timestamp(Microsecond, Some("UTC"))'), or use $start and $end

sql/silver/reserved.sql:4:1: column `_day` begins with `_`, which is reserved
    SELECT order_id AS _id, event_timestamp AS _day FROM bronze.orders_raw
    ^
    hint: give it an alias, such as `day`

sql/silver/reserved.sql:4:1: column `_id` begins with `_`, which is reserved
    SELECT order_id AS _id, event_timestamp AS _day FROM bronze.orders_raw
    ^
    hint: give it an alias, such as `id`

sql/silver/typo_column.sql:5:3: unknown column `prise`
      prise
      ^^^^^
    hint: did you mean `price`?

sql/silver/typo_table.sql:4:22: unknown table `bronze.order_raw`
    SELECT order_id FROM bronze.order_raw
                         ^^^^^^^^^^^^^^^^
    hint: did you mean `bronze.orders_raw`?

sql/silver/wrong_type.sql:4:6: column `price` is declared double but the query gives Decimal128(10, 2)
    --   price: {type: double}
         ^^^^^
    hint: correct the type, or CAST in the query

sql/silver/wrong_type.sql:5:6: column `gone` is declared but the query does not give it
    --   gone: {type: string}
         ^^^^

error: 12 problems found
"#;

#[test]
fn every_problem_of_every_file_is_reported_at_once() {
    let project = broken();
    let checked = project.run(&["check"]);
    checked.failed(1, &[], PROBLEMS);
    assert_eq!(checked.stdout, "");
    let json = project.run(&["check", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, report["diagnostics"].as_array().unwrap().len()), (Some(1), 12));
    assert_eq!(report["models"], serde_json::Value::Null);
}

#[test]
fn a_run_of_a_broken_model_fails_with_its_problems() {
    let project = broken();
    let run = project.run(&["run", "silver.typo_column+"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    let said = "silver.reader skipped: `silver.typo_column` was not built
silver.typo_column failed: `silver.typo_column` is left out: its model has a problem
sql/silver/typo_column.sql:5:3: unknown column `prise`
      prise
      ^^^^^
    hint: did you mean `price`?
0 built, 1 failed, 1 skipped, 0 cancelled
error: 1 of 2 models failed
";
    assert!(run.stderr.ends_with(said), "{}", run.stderr);
}

#[test]
fn a_good_project_checks_without_broker_and_lake() {
    let project = Project::of_models(&[
        ("bronze/orders_raw", ORDERS_RAW),
        // Comes before its input by name.
        ("silver/a", &full("SELECT order_id, total FROM silver.z")),
        ("silver/z", &full("SELECT order_id, price * 2 AS total FROM bronze.orders_raw")),
    ]);
    let checked = project.run(&["check"]).succeeded();
    assert_eq!((checked.stdout.as_str(), checked.stderr.as_str()), ("3 models, no problems\n", ""));
}

/// `random()`, `uuid()` and their kind passed.
#[test]
fn functions_that_give_something_else_each_time_are_refused_wherever_they_stand() {
    let project = Project::of_models(&[
        ("bronze/orders_raw", ORDERS_RAW),
        ("silver/a", &full("SELECT order_id,\n  random() AS r FROM bronze.orders_raw")),
        ("silver/b", &full("SELECT order_id FROM bronze.orders_raw WHERE uuid() <> order_id")),
        (
            "silver/c",
            &full(
                "WITH w AS (SELECT order_id, row_number() OVER (ORDER BY Random ()) AS k\n\
                 FROM bronze.orders_raw) SELECT * FROM w",
            ),
        ),
        (
            "silver/d",
            &full(
                "SELECT order_id FROM bronze.orders_raw WHERE price IN \
                 (SELECT price * random() FROM bronze.orders_raw)",
            ),
        ),
        ("silver/view", &model("kind: view", "SELECT uuid() AS id")),
    ]);
    let checked = project.run(&["check"]);
    let lines: Vec<&str> = checked.stderr.lines().filter(|line| line.contains("depend")).collect();
    assert_eq!(
        (checked.code, lines),
        (
            Some(1),
            vec![
                "sql/silver/a.sql:5:3: `random` makes the result depend on when it runs",
                "sql/silver/b.sql:4:46: `uuid` makes the result depend on when it runs",
                "sql/silver/c.sql:4:57: `random` makes the result depend on when it runs",
                "sql/silver/d.sql:4:71: `random` makes the result depend on when it runs",
                "sql/silver/view.sql:4:8: `uuid` makes the result depend on when it runs",
            ]
        )
    );
}

#[test]
fn check_says_which_models_are_built_one_interval_at_a_time_and_why() {
    let daily = "kind: interval\nevery: 1d\ntime: event_timestamp";
    let sql = "SELECT order_id, event_timestamp FROM bronze.orders_raw\n\
               WHERE event_timestamp >= $start AND event_timestamp < $end";
    let first =
        format!("{sql}\nQUALIFY row_number() OVER (PARTITION BY order_id ORDER BY price) = 1");
    let project = Project::of_models(&[
        ("bronze/orders_raw", ORDERS_RAW),
        ("silver/all", &model(daily, sql)),
        ("silver/first", &model(daily, &first)),
    ]);
    let checked = project.run(&["check"]).succeeded();
    assert_eq!(
        checked.stdout,
        "silver.first is built one interval at a time: a window looks at rows of several intervals: \
         it groups by `order_id`\n3 models, no problems\n"
    );
    let checked = project.run(&["check", "--output", "json"]).succeeded();
    assert!(checked.stdout.contains("\"model\": \"silver.first\""), "{}", checked.stdout);
}

/// Hours of a day doubled the whole day.
#[test]
fn days_do_not_place_rows_in_hours() {
    let hourly = "kind: interval\nevery: 6h\ntime: day";
    let sql = "SELECT CAST(event_timestamp AS DATE) AS day FROM bronze.orders_raw\n\
               WHERE event_timestamp >= $start AND event_timestamp < $end";
    let project =
        Project::of_models(&[("bronze/orders_raw", ORDERS_RAW), ("silver/m", &model(hourly, sql))]);
    let checked = project.run(&["check"]);
    assert!(
        checked.stderr.contains("`day` has days, and cannot place rows in hours"),
        "{}",
        checked.stderr
    );
}
