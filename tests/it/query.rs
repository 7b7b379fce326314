//! `flowguard query` on a small lake that the demo made: every form of output, older versions, the
//! catalog, and everything that is refused, through the real program.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::ipc::reader::StreamReader;
use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::program::{Project, SMALL_DEMO};

const METRICS: &str = "SELECT * FROM gold.daily_metrics ORDER BY order_date";
const REFUSAL: &str = "error: only queries are allowed: SELECT, WITH, VALUES, SHOW, DESCRIBE and \
                       EXPLAIN\nhint: tables are written by `flowguard run` and `flowguard ingest`\n";

#[test]
fn a_small_lake_answers_and_refuses() {
    let project = Project::of_demo(&SMALL_DEMO);
    every_form_holds_the_same_rows(&project);
    statements_come_from_anywhere(&project);
    older_versions_are_read(&project);
    the_catalog_is_listed(&project);
    writes_are_refused(&project);
    escapes_are_spelled_out(&project);
    mistakes_have_a_place_and_a_hint(&project);
    a_reader_that_leaves_is_no_error(&project);
    an_interrupt_ends_a_join_at_once(&project);
}

fn bytes(project: &Project, arguments: &[&str]) -> Vec<u8> {
    let output = project.command(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
fn answers(project: &Project, arguments: &[&str], stdout: &str) {
    let finished = project.run(&[&["query"], arguments].concat()).succeeded();
    assert_eq!(finished.stdout, stdout, "{arguments:?}");
}

#[track_caller]
fn fails(project: &Project, arguments: &[&str], stderr: &str) {
    let finished = project.run(&[&["query"], arguments].concat());
    assert_eq!(finished.stdout, "", "{arguments:?}");
    finished.failed(1, &[], stderr);
}

fn every_form_holds_the_same_rows(project: &Project) {
    let table = "\
+------------+--------+---------+--------------+-----------------+
| order_date | orders | gmv     | unique_users | avg_order_value |
+------------+--------+---------+--------------+-----------------+
| 2026-01-05 | 248    | 2884.88 | 70           | 11.63           |
| 2026-01-06 | 250    | 2876.27 | 88           | 11.51           |
+------------+--------+---------+--------------+-----------------+
";
    answers(project, &[METRICS], table);
    answers(
        project,
        &[METRICS, "--output", "csv"],
        "order_date,orders,gmv,unique_users,avg_order_value\n\
         2026-01-05,248,2884.88,70,11.63\n\
         2026-01-06,250,2876.27,88,11.51\n",
    );
    answers(
        project,
        &[METRICS, "--output", "json"],
        r#"{"order_date":"2026-01-05","orders":248,"gmv":2884.88,"unique_users":70,"avg_order_value":11.63}
{"order_date":"2026-01-06","orders":250,"gmv":2876.27,"unique_users":88,"avg_order_value":11.51}
"#,
    );
    let parquet = Bytes::from(bytes(project, &["query", METRICS, "--output", "parquet"]));
    let parquet = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap();
    let parquet: Vec<_> = parquet.map(Result::unwrap).collect();
    assert_eq!(format!("{}\n", pretty_format_batches(&parquet).unwrap()), table);
    let arrow = bytes(project, &["query", METRICS, "--output", "arrow"]);
    let arrow: Vec<_> =
        StreamReader::try_new(arrow.as_slice(), None).unwrap().map(Result::unwrap).collect();
    assert_eq!(format!("{}\n", pretty_format_batches(&arrow).unwrap()), table);
}

fn statements_come_from_anywhere(project: &Project) {
    project.write("two.sql", "-- a file\nSELECT 2 AS two\n");
    answers(project, &["--file", "two.sql", "--output", "csv"], "two\n2\n");
    let piped = project.run_with_input(&["query", "--output", "csv", "-"], "SELECT 3 AS three");
    assert_eq!(piped.succeeded().stdout, "three\n3\n");
    answers(
        project,
        &["--start", "2026-01-05", "--end", "2026-01-06", "--output", "csv", "SELECT $start, $end"],
        "$start,$end\n2026-01-05T00:00:00Z,2026-01-06T00:00:00Z\n",
    );
    let nulls = "SELECT 1 AS a, NULL AS b";
    answers(project, &[nulls, "--output", "json"], "{\"a\":1,\"b\":null}\n");
    // Was printed as something that is not JSON.
    for form in ["json", "csv"] {
        fails(
            project,
            &["SELECT to_timestamp_micros(9223372036854775807) AS t", "--output", form],
            "error: column `t` holds 9223372036854775807 (Timestamp(µs, \"UTC\")), which is no time\n\
             hint: leave it out, or write it to Parquet or Arrow, where it stays a number\n",
        );
    }
    fails(
        project,
        &["SELECT 1 WHERE $start IS NULL"],
        "error: the statement has placeholders without values\n\
         hint: give `--start` and `--end` to bind `$start` and `$end`\n",
    );
}

fn older_versions_are_read(project: &Project) {
    let counted = |table: &str| {
        let sql = format!("SELECT count(*) AS rows FROM {table}");
        project.query(&sql)[0][0].parse::<u64>().unwrap()
    };
    let newest = counted("bronze.orders_raw");
    let oldest = counted("table_at('bronze.orders_raw', 0)");
    assert_eq!((oldest, newest), (0, 505));
    fails(
        project,
        &["SELECT * FROM table_at('gold.daily_metrics', 99)"],
        "error: cannot read `gold.daily_metrics` at version 99\n\
         cause: Generic delta kernel error: LogSegment end version 0 not the same as the \
         specified end version 99\n\
         hint: `flowguard query` without a version reads the newest\n",
    );
    fails(
        project,
        &["SELECT * FROM table_at('gold.daily_metrics')"],
        "error: `table_at` takes a table name and a version\n\
         hint: write table_at('silver.orders_cleaned', 42)\n",
    );
}

fn the_catalog_is_listed(project: &Project) {
    let tables = [
        "bronze,clicks_raw",
        "bronze,dead_letters",
        "bronze,orders_raw",
        "gold,daily_metrics",
        "gold,food_item_performance",
        "gold,funnel_metrics",
        "gold,user_cohorts",
        "silver,clicks_cleaned",
        "silver,orders_cleaned",
        "silver,user_sessions",
    ];
    answers(
        project,
        &[
            "--output",
            "csv",
            "SELECT table_schema, table_name FROM information_schema.tables \
             WHERE table_schema <> 'information_schema' ORDER BY 1, 2",
        ],
        &format!("table_schema,table_name\n{}\n", tables.join("\n")),
    );
    let shown = project.run(&["query", "--output", "csv", "SHOW TABLES"]).succeeded().stdout;
    let mut shown: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("lake,")?.strip_suffix(",BASE TABLE"))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, tables);
    answers(
        project,
        &["--output", "csv", "DESCRIBE gold.daily_metrics"],
        "column_name,data_type,is_nullable\n\
         order_date,Date32,YES\n\
         orders,Int64,YES\n\
         gmv,\"Decimal128(18, 2)\",YES\n\
         unique_users,Int64,YES\n\
         avg_order_value,\"Decimal128(12, 2)\",YES\n",
    );
    let plan = project.run(&["query", "EXPLAIN SELECT orders FROM gold.daily_metrics"]);
    assert!(plan.succeeded().stdout.contains("TableScan: gold.daily_metrics projection=[orders]"));
}

fn writes_are_refused(project: &Project) {
    let out = project.folder().join("out.csv");
    for sql in [
        "INSERT INTO gold.daily_metrics SELECT * FROM gold.daily_metrics",
        "DELETE FROM gold.daily_metrics",
        "UPDATE gold.daily_metrics SET orders = 0",
        "CREATE TABLE gold.x AS SELECT 1",
        "CREATE VIEW gold.x AS SELECT 1",
        "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'",
        &format!("COPY gold.daily_metrics TO '{}'", out.display()),
        "DROP TABLE gold.daily_metrics",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN ANALYZE INSERT INTO gold.daily_metrics SELECT * FROM gold.daily_metrics",
    ] {
        fails(project, &[sql], REFUSAL);
    }
    assert!(!out.exists());
    for (sql, message) in [
        ("SELECT 1; SELECT 2", "the context currently only supports a single SQL statement"),
        ("SELECT * FROM '/etc/passwd'", "unknown table `/etc/passwd`"),
    ] {
        let finished = project.run(&["query", sql]);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{sql}");
        let first = finished.stderr.lines().next();
        assert_eq!(first, Some(format!("query:1:1: {message}").as_str()));
    }
    let rows = project.query("SELECT sum(orders) AS orders FROM gold.daily_metrics");
    assert_eq!(rows, [["498"]]);
}

/// What data and names hold must not command the terminal; files keep it.
fn escapes_are_spelled_out(project: &Project) {
    let sql = "SELECT chr(27) || '[31m' || chr(13) || chr(155) || 'x' AS \"\u{1b}[2J\", \
               [chr(7), chr(8238)] AS list, 'a' || chr(10) || 'b' AS two";
    let table = project.run(&["query", sql]).succeeded().stdout;
    let rule = "+-----------------------------+--------------------+-----+\n";
    let expected = format!(
        "{rule}| \\u{{1b}}[2J                  | list               | two |\n{rule}\
         | \\u{{1b}}[31m\\r\\u{{9b}}x | [\\u{{7}}, \\u{{202e}}] | a   |\n\
         |                             |                    | b   |\n{rule}"
    );
    let squeezed = |text: &str| text.replace([' ', '-'], "");
    assert_eq!(squeezed(&table), squeezed(&expected));
    for output in ["csv", "json"] {
        let sql = "SELECT chr(27) AS x";
        let data = project.run(&["query", "--output", output, sql]).succeeded().stdout;
        let kept = if output == "csv" { "x\n\u{1b}\n" } else { "{\"x\":\"\\u001b\"}\n" };
        assert_eq!(data, kept);
    }
    let said = project.run(&["query", "SELECT \"\u{1b}[2J\u{9b}\" FROM gold.daily_metrics"]).stderr;
    assert!(said.contains("unknown column `\\u{1b}[2J\\u{9b}`"), "{said}");
    assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
}

fn mistakes_have_a_place_and_a_hint(project: &Project) {
    fails(
        project,
        &["SELECT * FROM gold.daily_metrcs"],
        "error: there is no table `gold.daily_metrcs` in the lake\n\
         hint: did you mean `gold.daily_metrics`?\n",
    );
    fails(
        project,
        &["SELECT * FROM daily_metrics"],
        "query:1:15: unknown table `daily_metrics`\n    \
             SELECT * FROM daily_metrics\n                  ^^^^^^^^^^^^^\n    \
             hint: did you mean `gold.daily_metrics`?\n\nerror: the query is not valid\n",
    );
    fails(
        project,
        &["SELECT *\nFROM gold.daily_metrics WHERE odrers > 1"],
        "query:2:31: unknown column `odrers`\n    \
             FROM gold.daily_metrics WHERE odrers > 1\n                                  ^^^^^^\n    \
             hint: did you mean `orders`?\n\nerror: the query is not valid\n",
    );
    fails(
        project,
        &["SELECT orders FROM"],
        "query:1:19: SQL syntax: expected: identifier, found: EOF\n    \
             SELECT orders FROM\n                      ^\n\nerror: the query is not valid\n",
    );
    let nested =
        project.run(&["query", "--output", "csv", "SELECT _headers FROM bronze.orders_raw"]);
    assert!(
        nested
            .stderr
            .starts_with("error: a column with values inside of values cannot be written as CSV\n")
            && nested.stderr.ends_with("hint: select other columns, or use --output json\n"),
        "{}",
        nested.stderr
    );
}

fn a_reader_that_leaves_is_no_error(project: &Project) {
    // 50 million rows: far more than a pipe holds, and than anyone waits for.
    let sql = "SELECT a.event_id FROM bronze.clicks_raw a, bronze.clicks_raw b, \
               generate_series(1, 12) c";
    let mut child = project
        .command(&["query", "--output", "csv", sql])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0_u8; 9];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"event_id\n");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
}

/// One that gives no row for ten seconds and more, and has been at work when the signal comes.
fn an_interrupt_ends_a_join_at_once(project: &Project) {
    let sql = "SELECT count(*), min(a.price + d.price) FROM silver.orders_cleaned a \
               CROSS JOIN silver.orders_cleaned b CROSS JOIN silver.orders_cleaned c \
               CROSS JOIN silver.orders_cleaned d";
    let mut command = project.command(&["query", sql]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Hundredths of a second of a processor: the fields after the name, which may hold anything.
    let worked = || -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let (_, fields) = text.rsplit_once(')').unwrap();
        fields.split(' ').nth(12).unwrap().parse().unwrap()
    };
    while worked() < 100 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let sent = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(sent.elapsed() < Duration::from_secs(3), "after {:?}", sent.elapsed());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = (Some(130), "error: interrupted: the query was cancelled\n");
    assert_eq!((output.status.code(), stderr.as_str()), expected);
}

/// Times in the form of Spark's old default wrapped round at 1677 and 2262.
#[test]
fn times_that_spark_wrote_as_96_bits_are_read_as_they_are() {
    use parquet::data_type::{Int96, Int96Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let project = Project::of_models(&[]);
    let folder = project.folder().join(".flowguard/silver/spark");
    std::fs::create_dir_all(folder.join("_delta_log")).unwrap();
    let schema = parse_message_type("message spark { optional int96 at; }").unwrap();
    let file = std::fs::File::create(folder.join("part-0.parquet")).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), properties).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    // Days since 1970 at noon.
    let times: Vec<Int96> = [-135_140_i64, 0, 120_680, 2_932_896]
        .into_iter()
        .map(|day| {
            let mut time = Int96::new();
            let nanos = 12 * 3_600 * 1_000_000_000_i64;
            let julian = u32::try_from(2_440_588 + day).unwrap();
            time.set_data((nanos & 0xffff_ffff) as u32, (nanos >> 32) as u32, julian);
            time
        })
        .collect();
    column.typed::<Int96Type>().write_batch(&times, Some(&[1; 4]), None).unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.close().unwrap();
    let bytes = std::fs::metadata(folder.join("part-0.parquet")).unwrap().len();
    let field = r#"{\"name\":\"at\",\"type\":\"timestamp\",\"nullable\":true,\"metadata\":{}}"#;
    let log = format!(
        r#"{{"protocol":{{"minReaderVersion":1,"minWriterVersion":2}}}}
{{"metaData":{{"id":"5fba94ed-9794-4965-ba6e-6ee3c0d22af9","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{{\"type\":\"struct\",\"fields\":[{field}]}}","partitionColumns":[],"configuration":{{}},"createdTime":0}}}}
{{"add":{{"path":"part-0.parquet","partitionValues":{{}},"size":{bytes},"modificationTime":0,"dataChange":true}}}}
"#
    );
    std::fs::write(folder.join("_delta_log/00000000000000000000.json"), log).unwrap();
    answers(
        &project,
        &["SELECT at FROM silver.spark ORDER BY at", "--output", "csv"],
        "at\n1600-01-01T12:00:00Z\n1970-01-01T12:00:00Z\n2300-05-31T12:00:00Z\n9999-12-31T12:00:00Z\n",
    );
    answers(
        &project,
        &[
            "SELECT count(*) AS n FROM silver.spark WHERE at > to_timestamp_micros(9225000000000000)",
            "--output",
            "csv",
        ],
        "n\n2\n",
    );
}
