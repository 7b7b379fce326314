//! Whole projects in, every problem out.

use std::path::Path;

use super::*;
use crate::error::Result;
use crate::source::printed;

const ORDERS_RAW: &str = "-- /// flowguard
-- kind: append
-- source: {topic: raw.orders.v1, format: json}
-- time: event_timestamp
-- columns:
--   order_id: {type: string, not_null: true, doc: server-generated UUID}
--   event_timestamp: {type: timestamp, not_null: true}
-- ///
SELECT * FROM kafka.orders_raw
";

fn read_project(files: &[(&str, &[u8])]) -> Result<ModelSet> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sql/gold")).unwrap();
    for (path, bytes) in files {
        let file = folder.path().join("sql").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    ModelSet::read(folder.path())
}

fn check(files: &[(&str, &str)], expect: &str) {
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    let found = match read_project(&files) {
        Ok(models) => {
            models.in_order().map(|model| model.name.to_string()).collect::<Vec<_>>().join(" ")
        }
        Err(error) => printed(&error.diagnostics),
    };
    assert_eq!(found, expect.trim_matches('\n'));
}

/// A gold model of one kind over `bronze.orders_raw`.
fn check_sql(header: &str, sql: &str, expect: &str) {
    let text = format!("-- /// flowguard\n-- {header}\n-- ///\n{sql}\n");
    check(&[("bronze/orders_raw.sql", ORDERS_RAW), ("gold/a.sql", &text)], expect);
}

const FULL: &str = "kind: full";
const DAILY: &str = "{kind: interval, every: 1d, time: day}";
const GOOD: &str = "bronze.orders_raw gold.a";

#[test]
fn a_model_keeps_what_its_file_says() {
    let daily = "-- /// flowguard\r\n-- kind: interval\r\n-- every: 1d\r\n-- timezone: Europe/Rome\r\n-- time: event_timestamp\r\n-- partition_by: day\r\n-- tags: [daily]\r\n-- ///\r\n\r\nSELECT * FROM bronze.orders_raw\r\nWHERE event_timestamp >= $start AND event_timestamp < $end\r\n";
    let models = read_project(&[
        ("bronze/orders_raw.sql", ORDERS_RAW.as_bytes()),
        ("silver/orders.sql", daily.as_bytes()),
    ])
    .unwrap();
    let raw = models.find(&"bronze.orders_raw".parse().unwrap()).unwrap();
    assert_eq!(
        raw.kind,
        Kind::Append(SourceTopic {
            topic: "raw.orders.v1".into(),
            format: MessageFormat::Json,
            unknown_fields: UnknownFields::Rescue,
        })
    );
    assert_eq!(raw.inputs, BTreeSet::new());
    let columns: Vec<String> = raw
        .columns
        .iter()
        .map(|(column, at)| {
            format!("{} {} {}:{}", column.name, column.column_type, at.line, at.column)
        })
        .collect();
    assert_eq!(columns, ["order_id string 6:6", "event_timestamp timestamp 7:6"]);
    let orders = models.get(&"silver.orders".parse().unwrap()).unwrap();
    assert_eq!(orders.kind, Kind::Interval { every: Every::Day });
    assert_eq!(orders.timezone, Tz::Europe__Rome);
    assert!(orders.partition_by_day);
    assert_eq!(orders.source.file, Path::new("sql/silver/orders.sql"));
    assert_eq!(orders.inputs, BTreeSet::from(["bronze.orders_raw".parse().unwrap()]));
    let place = orders.sql_position(2, 8, 6);
    assert_eq!(
        orders.diagnostic(place, "here", None).to_string(),
        "sql/silver/orders.sql:10:8: here\n    SELECT * FROM bronze.orders_raw\n           ^^^^^^"
    );
}

#[test]
fn files_that_cannot_be_models_are_named() {
    check(
        &[
            ("README.md", "fine"),
            ("gold/.hidden.sql", "fine"),
            ("a.sql", ""),
            ("glod/a.sql", ""),
            ("gold/deep/a.sql", ""),
            ("gold/Daily.sql", ""),
            ("bronze/dead_letters.sql", ""),
        ],
        "
sql/a.sql: a model outside of a layer's folder
    hint: move it to `sql/bronze/`, `sql/silver/` or `sql/gold/`
sql/bronze/dead_letters.sql: `bronze.dead_letters` is built in
    hint: give the file another name
sql/glod: unknown layer `glod`
    hint: did you mean `gold`?
sql/gold/Daily.sql: `Daily` is not a table name
    hint: use lowercase letters, digits and underscores, starting with a letter
sql/gold/deep: a folder inside a layer
    hint: models are `sql/<layer>/<table>.sql`, without folders below",
    );
    let error = read_project(&[("gold/a.sql", b"-- ok\n-- \xff\n")]).unwrap_err();
    assert_eq!(
        printed(&error.diagnostics),
        "sql/gold/a.sql: line 2 is not UTF-8\n    hint: save the file as UTF-8"
    );
}

#[test]
fn every_problem_of_every_file_is_reported() {
    check(
        &[
            ("bronze/orders_raw.sql", ORDERS_RAW),
            (
                "gold/a.sql",
                "-- /// flowguard\n-- kind: interval\n-- evry: 1d\n-- time: day\n-- ///\nSELECT now(), $strat\nFROM orders_raw JOIN bronze.order_raw USING (order_id)\n",
            ),
            ("silver/b.sql", "-- /// flowguard\n-- kind: full\n-- ///\n\nSELECT (1 + FROM\n"),
        ],
        "
sql/gold/a.sql:2:4: the header needs the key `every`
    -- kind: interval
       ^
sql/gold/a.sql:3:4: unknown key `evry` in the header
    -- evry: 1d
       ^^^^
    hint: did you mean `every`?
sql/gold/a.sql:6:8: `now` makes the result depend on when it runs
    SELECT now(), $strat
           ^^^
    hint: use `$start` and `$end` in a model of `kind: interval`
sql/gold/a.sql:7:6: table `orders_raw` is named without its layer
    FROM orders_raw JOIN bronze.order_raw USING (order_id)
         ^^^^^^^^^^
    hint: write `bronze.orders_raw`
sql/gold/a.sql:7:22: unknown table `bronze.order_raw`
    FROM orders_raw JOIN bronze.order_raw USING (order_id)
                         ^^^^^^^^^^^^^^^^
    hint: did you mean `bronze.orders_raw`?
sql/silver/b.sql:5:17: SQL syntax: expected: ), found: EOF
    SELECT (1 + FROM
                    ^",
    );
}

#[test]
fn only_one_query_is_a_model() {
    check_sql(
        FULL,
        "SELECT 1\nFORM bronze.orders_raw",
        "sql/gold/a.sql:5:6: SQL syntax: expected: end of statement, found: bronze\n    FORM bronze.orders_raw\n         ^^^^^^",
    );
    check_sql(
        FULL,
        "-- nothing",
        "sql/gold/a.sql: the file has no SQL\n    hint: write one SELECT below the header",
    );
    check_sql(
        FULL,
        "SELECT 1;\nSELECT 2;",
        "sql/gold/a.sql:5:1: a second statement\n    SELECT 2;\n    ^^^^^^^^\n    hint: a model is one SELECT; put the other in a file of its own",
    );
    check_sql(
        FULL,
        "  DROP TABLE bronze.orders_raw",
        "sql/gold/a.sql:4:3: the statement is not a query\n      DROP TABLE bronze.orders_raw\n      ^^^^\n    hint: a model is one SELECT",
    );
    check_sql(FULL, "SELECT 1;", GOOD);
    check_sql(
        FULL,
        "SELECT 1 INTO gold.b",
        "sql/gold/a.sql:4:15: SELECT INTO writes\n    SELECT 1 INTO gold.b\n                  ^^^^^^\n    hint: remove INTO",
    );
    check_sql(
        FULL,
        "SELECT * FROM lake.gold.a",
        "sql/gold/a.sql:4:15: table `lake.gold.a` has more than two parts\n    SELECT * FROM lake.gold.a\n                  ^^^^^^^^^^^\n    hint: write it as `layer.table`",
    );
}

#[test]
fn an_append_model_reads_its_own_topic_whole() {
    let text = ORDERS_RAW
        .replace("SELECT * FROM kafka.orders_raw", "select *\nfrom kafka.orders_raw -- fine");
    check(&[("bronze/orders_raw.sql", &text)], "bronze.orders_raw");
    for sql in ["SELECT * FROM kafka.other", "SELECT * FROM kafka.orders_raw WHERE price > 0"] {
        let text = ORDERS_RAW.replace("SELECT * FROM kafka.orders_raw", sql);
        let expect = format!(
            "sql/bronze/orders_raw.sql:9:1: an append model reads its own topic, whole\n    {sql}\n    ^^^^^^\n    hint: write `SELECT * FROM kafka.orders_raw`"
        );
        check(&[("bronze/orders_raw.sql", &text)], &expect);
    }
    check_sql(
        FULL,
        "SELECT * FROM kafka.orders_raw",
        "sql/gold/a.sql:4:15: `kafka.orders_raw` is a topic, which only its append model reads\n    SELECT * FROM kafka.orders_raw\n                  ^^^^^^^^^^^^^^^^\n    hint: read `bronze.orders_raw`",
    );
}

#[test]
fn ctes_and_pure_table_functions_are_no_inputs() {
    check_sql(
        FULL,
        "WITH days AS (SELECT * FROM generate_series(1, 7)) SELECT * FROM days, Bronze.Orders_Raw, bronze.dead_letters",
        GOOD,
    );
    check_sql(
        FULL,
        "SELECT * FROM table_at('gold.a', 3)",
        "sql/gold/a.sql:4:15: table function `table_at` cannot be used in a model\n    SELECT * FROM table_at('gold.a', 3)\n                  ^^^^^^^^\n    hint: a model reads tables by name, so that its inputs are known",
    );
}

#[test]
fn start_and_end_belong_to_interval_models() {
    check_sql(DAILY, "SELECT * FROM bronze.orders_raw WHERE day >= $start AND day < $end", GOOD);
    check_sql(
        DAILY,
        "SELECT * FROM bronze.orders_raw WHERE day >= $start",
        "sql/gold/a.sql:4:1: an interval model needs `$end`\n    SELECT * FROM bronze.orders_raw WHERE day >= $start\n    ^^^^^^\n    hint: filter the input: WHERE time >= $start AND time < $end",
    );
    check_sql(
        FULL,
        "SELECT $end, $1",
        "sql/gold/a.sql:4:8: placeholder `$end` has no value here
    SELECT $end, $1
           ^^^^
    hint: only models of `kind: interval` have a start and an end
sql/gold/a.sql:4:14: unknown placeholder `$1`
    SELECT $end, $1
                 ^^
    hint: only `$start` and `$end` are bound, in models of `kind: interval`",
    );
}

#[test]
fn literals_and_functions_without_a_time_zone_are_refused() {
    check_sql(
        FULL,
        "SELECT TIMESTAMP '2026-01-01 00:00:00', DATE '2026-01-01',
  CAST('2026-01-01' AS TIMESTAMP), CAST(day AS TIMESTAMP), '2026-01-01T00:00:00Z'::timestamp,
  current_date
FROM bronze.orders_raw",
        r#"
sql/gold/a.sql:4:18: the literal of type TIMESTAMP loses its time zone
    SELECT TIMESTAMP '2026-01-01 00:00:00', DATE '2026-01-01',
                     ^^^^^^^^^^^^^^^^^^^^^
    hint: write arrow_cast('2026-01-01T00:00:00Z', 'Timestamp(Microsecond, Some("UTC"))'), or use $start and $end
sql/gold/a.sql:5:8: the literal of type TIMESTAMP loses its time zone
      CAST('2026-01-01' AS TIMESTAMP), CAST(day AS TIMESTAMP), '2026-01-01T00:00:00Z'::timestamp,
           ^^^^^^^^^^^^
    hint: write arrow_cast('2026-01-01T00:00:00Z', 'Timestamp(Microsecond, Some("UTC"))'), or use $start and $end
sql/gold/a.sql:5:60: the literal of type TIMESTAMP loses its time zone
      CAST('2026-01-01' AS TIMESTAMP), CAST(day AS TIMESTAMP), '2026-01-01T00:00:00Z'::timestamp,
                                                               ^^^^^^^^^^^^^^^^^^^^^^
    hint: write arrow_cast('2026-01-01T00:00:00Z', 'Timestamp(Microsecond, Some("UTC"))'), or use $start and $end
sql/gold/a.sql:6:3: `current_date` makes the result depend on when it runs
      current_date
      ^^^^^^^^^^^^
    hint: use `$start` and `$end` in a model of `kind: interval`"#,
    );
}

#[test]
fn each_cycle_is_reported_once_with_its_path() {
    let reads = |tables: &[&str]| {
        format!("-- /// flowguard\n-- kind: full\n-- ///\nSELECT * FROM {}\n", tables.join(", "))
    };
    check(
        &[
            ("silver/a.sql", &reads(&["silver.b"])),
            ("silver/b.sql", &reads(&["silver.c"])),
            ("silver/c.sql", &reads(&["silver.a"])),
            ("gold/own.sql", &reads(&["gold.own"])),
            ("gold/after.sql", &reads(&["silver.a"])),
        ],
        "
sql/gold/own.sql:4:15: a cycle: `gold.own` reads `gold.own`
    SELECT * FROM gold.own
                  ^^^^^^^^
    hint: remove one of these reads
sql/silver/a.sql:4:15: a cycle: `silver.a` reads `silver.b` reads `silver.c` reads `silver.a`
    SELECT * FROM silver.b
                  ^^^^^^^^
    hint: remove one of these reads",
    );
}

#[test]
fn a_broken_model_is_not_an_unknown_table_to_its_readers() {
    check(
        &[
            ("silver/a.sql", "no header"),
            ("gold/b.sql", "-- /// flowguard\n-- kind: full\n-- ///\nSELECT * FROM silver.a\n"),
        ],
        "sql/silver/a.sql:1:1: the file has no header\n    no header\n    ^^^^^^^^^\n    hint: the first line must be `-- /// flowguard`",
    );
}
