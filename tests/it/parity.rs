//! Faults that somebody planted in a warehouse: each is found, narrowed to its interval and its
//! rows, and repaired by moving no more than that.

use serde_json::Value;

use crate::export::{export, parity};
use crate::program::{Project, model};
use crate::runs::{add, project};
use crate::warehouse::Warehouse;

const DAILY: &str = "kind: interval\nevery: 1d\ntime: at\nkey: [id]";
const CLEAN: &str = "SELECT id, at, CAST(n AS BIGINT) AS n, CAST(n AS DOUBLE) / 4 AS quarter, \
                     CAST(n AS DECIMAL(12, 2)) AS price, CASE WHEN id = 'c' THEN '' ELSE id END AS t \
                     FROM bronze.events WHERE at >= $start AND at < $end";
const EVENTS: [(&str, &str, &str); 5] = [
    ("a", "2026-01-05T10:00:00Z", "1"),
    ("b", "2026-01-05T23:30:00Z", "2"),
    ("c", "2026-01-06T10:00:00Z", "3"),
    ("d", "2026-01-06T11:00:00Z", "4"),
    ("e", "2026-01-07T10:00:00Z", "5"),
];

/// Tables with intervals in two time zones and by dates, and one without intervals and key.
async fn planted() -> Project {
    let rome = format!("{DAILY}\ntimezone: Europe/Rome");
    let dated = DAILY.replace("time: at", "time: on_day");
    let by_date = "SELECT id, CAST(at AS DATE) AS on_day, CAST(n AS BIGINT) AS n \
                   FROM bronze.events WHERE at >= $start AND at < $end";
    let loose = "SELECT id, n, quarter FROM silver.clean";
    let project = project(&[
        ("silver/clean", &model(DAILY, CLEAN)),
        ("silver/rome", &model(&rome, CLEAN)),
        ("silver/dated", &model(&dated, by_date)),
        ("gold/loose", &model("kind: full", loose)),
    ]);
    add(&project, &EVENTS).await;
    project.run(&["run"]).succeeded();
    project
}

/// What was done to the target, what is said about where it shows, and what a repair moves.
struct Fault {
    table: &'static str,
    statements: &'static [&'static str],
    found: &'static [&'static str],
    repaired: &'static str,
}

const FAULTS: [Fault; 11] = [
    Fault {
        table: "silver.clean",
        statements: &["INSERT INTO silver.clean SELECT * FROM silver.clean WHERE id = 'c'"],
        found: &[
            "interval                                   parity",
            "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z  rows: 2 in the lake, 3 in the target; \
             sum of `quarter`: 1.75 in the lake, 2.5 in the target",
            "row   column  lake  target",
            "id=c          -     id=c at=2026-01-06T10:00:00Z n=3 quarter=0.75 price=3.00 t=\"\"",
        ],
        repaired: "with 2 rows: 2026-01-06T00:00:00Z/2026-01-07T00:00:00Z",
    },
    Fault {
        table: "silver.clean",
        statements: &["UPDATE silver.clean SET n = 7 - n WHERE id IN ('c', 'd')"],
        found: &[
            "interval                                   parity",
            "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z  values: as many rows, but other ones",
            "row   column  lake  target",
            "id=c  n          3       4",
            "id=d  n          4       3",
        ],
        repaired: "with 2 rows: 2026-01-06T00:00:00Z/2026-01-07T00:00:00Z",
    },
    Fault {
        table: "silver.clean",
        statements: &["DELETE FROM silver.clean WHERE id = 'e'"],
        found: &[
            "interval                                   parity",
            "2026-01-07T00:00:00Z/2026-01-08T00:00:00Z  rows: 1 in the lake, 0 in the target; \
             sum of `quarter`: 1.25 in the lake, 0 in the target",
            "row   column  lake                                                               target",
            "id=e          id=e at=2026-01-07T10:00:00Z n=5 quarter=1.25 price=5.00 t=e       -",
        ],
        repaired: "with 1 rows: 2026-01-07T00:00:00Z/2026-01-08T00:00:00Z",
    },
    Fault {
        table: "silver.clean",
        statements: &["UPDATE silver.clean SET quarter = 0.375 WHERE id = 'a'"],
        found: &[
            "interval                                   parity",
            "2026-01-05T00:00:00Z/2026-01-06T00:00:00Z  \
             sum of `quarter`: 0.75 in the lake, 0.875 in the target",
            "row   column   lake  target",
            "id=a  quarter  0.25   0.375",
        ],
        repaired: "with 2 rows: 2026-01-05T00:00:00Z/2026-01-06T00:00:00Z",
    },
    Fault {
        table: "silver.clean",
        statements: &["UPDATE silver.clean SET t = NULL WHERE t = ''"],
        found: &[
            "interval                                   parity",
            "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z  \
             nulls in `t`: 0 in the lake, 1 in the target",
            "row   column  lake  target",
            "id=c  t       \"\"    null",
        ],
        repaired: "with 2 rows: 2026-01-06T00:00:00Z/2026-01-07T00:00:00Z",
    },
    // No interval holds a row without a time.
    Fault {
        table: "silver.clean",
        statements: &["UPDATE silver.clean SET \"at\" = NULL WHERE id = 'e'"],
        found: &[
            "interval                                   parity",
            "no time                                    rows: 0 in the lake, 1 in the target; \
             nulls in `at`: 0 in the lake, 1 in the target; \
             sum of `quarter`: 0 in the lake, 1.25 in the target",
            "2026-01-07T00:00:00Z/2026-01-08T00:00:00Z  rows: 1 in the lake, 0 in the target; \
             sum of `quarter`: 1.25 in the lake, 0 in the target",
            "row   column  lake                  target",
            "id=e  at      2026-01-07T10:00:00Z  null",
        ],
        repaired: "with 5 rows: everything: the table differed",
    },
    // Half past eleven in the evening is the next day in Rome.
    Fault {
        table: "silver.rome",
        statements: &["UPDATE silver.rome SET price = 2.01 WHERE id = 'b'"],
        found: &[
            "interval                                   parity",
            "2026-01-05T23:00:00Z/2026-01-06T23:00:00Z  values: as many rows, but other ones",
            "row   column  lake  target",
            "id=b  price   2.00    2.01",
        ],
        repaired: "with 3 rows: 2026-01-05T23:00:00Z/2026-01-06T23:00:00Z",
    },
    // A summer's day that the lake knows nothing of, and one of before 1970.
    Fault {
        table: "silver.rome",
        statements: &[
            "INSERT INTO silver.rome (id, \"at\") VALUES ('x', '2026-07-01 22:30:00+00')",
            "INSERT INTO silver.rome (id, \"at\") VALUES ('y', '1969-12-31 22:59:59.999999+00')",
        ],
        found: &[
            "interval                                   parity",
            "1969-12-30T23:00:00Z/1969-12-31T23:00:00Z  rows: 0 in the lake, 1 in the target; \
             nulls in `n`: 0 in the lake, 1 in the target; \
             nulls in `quarter`: 0 in the lake, 1 in the target; \
             nulls in `price`: 0 in the lake, 1 in the target; \
             nulls in `t`: 0 in the lake, 1 in the target",
            "2026-07-01T22:00:00Z/2026-07-02T22:00:00Z  rows: 0 in the lake, 1 in the target; \
             nulls in `n`: 0 in the lake, 1 in the target; \
             nulls in `quarter`: 0 in the lake, 1 in the target; \
             nulls in `price`: 0 in the lake, 1 in the target; \
             nulls in `t`: 0 in the lake, 1 in the target",
            "row   column  lake  target",
            "id=x          -     id=x at=2026-07-01T22:30:00Z n=null quarter=null price=null t=null",
            "id=y          -     id=y at=1969-12-31T22:59:59.999999Z n=null quarter=null price=null t=null",
        ],
        repaired: "with 0 rows: 1969-12-30T23:00:00Z/1969-12-31T23:00:00Z, \
                   2026-07-01T22:00:00Z/2026-07-02T22:00:00Z",
    },
    Fault {
        table: "silver.dated",
        statements: &["UPDATE silver.dated SET id = 'z' WHERE id = 'd'"],
        found: &[
            "interval                                   parity",
            "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z  values: as many rows, but other ones",
            "row   column  lake                        target",
            "id=d          id=d on_day=2026-01-06 n=4  -",
            "id=z          -                           id=z on_day=2026-01-06 n=4",
        ],
        repaired: "with 2 rows: 2026-01-06T00:00:00Z/2026-01-07T00:00:00Z",
    },
    Fault {
        table: "gold.loose",
        statements: &[
            "INSERT INTO gold.loose SELECT * FROM gold.loose WHERE id = 'a'",
            "DELETE FROM gold.loose WHERE id = 'b'",
        ],
        found: &[
            "row  column  lake                  target",
            "             -                     id=a n=1 quarter=0.25",
            "             id=b n=2 quarter=0.5  -",
        ],
        repaired: "with 5 rows: everything: the table differed",
    },
    Fault {
        table: "gold.loose",
        statements: &["UPDATE gold.loose SET quarter = NULL WHERE id = 'd'"],
        found: &["row  column   lake  target", "     quarter   1.0  null"],
        repaired: "with 5 rows: everything: the table differed",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_fault_is_narrowed_to_its_rows_and_no_more_is_repaired() {
    let project = planted().await;
    for warehouse in Warehouse::with_files("parity::a_planted_fault", &project) {
        warehouse.configure(&project, "silver.*, gold.*");
        export(&project, &[]);
        for Fault { table, statements, found, repaired } in FAULTS {
            for statement in statements {
                warehouse.ask(statement);
            }
            let differing = parity(&project);
            assert_eq!(differing.code, Some(1), "{statements:?}");
            let (verdicts, narrowed) = differing.stdout.split_once("\n\n").unwrap();
            assert_eq!(verdicts.lines().filter(|line| !line.ends_with("  equal")).count(), 2);
            let expected: Vec<&str> = found.to_vec();
            let lines: Vec<&str> = narrowed.lines().collect();
            assert_eq!(lines[0], format!("{table} in here"));
            assert_eq!(plain(&lines[1..]), plain(&expected), "{statements:?}\n{narrowed}");
            let repairing = project.run(&["parity", "--repair"]).without_logs().succeeded();
            let line = format!("{table} was repaired in here {repaired}\n");
            match warehouse {
                // A file is replaced whole, also if a row of another interval was put into it.
                Warehouse::Files { .. } => {
                    let what = |line: &str| line.split_once("rows: ").unwrap().1.to_owned();
                    assert_eq!(what(&repairing.stderr), what(&line), "{statements:?}");
                }
                _ => assert_eq!(repairing.stderr, line, "{statements:?}"),
            }
            parity(&project).succeeded();
        }
    }
}

/// Without the spaces that only align.
fn plain(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_read_where_two_sides_differ() {
    let project = planted().await;
    for warehouse in Warehouse::with_files("parity::programs_read", &project) {
        warehouse.configure(&project, "silver.clean");
        export(&project, &[]);
        warehouse.ask("UPDATE silver.clean SET t = NULL WHERE id = 'd'");
        warehouse.ask("DELETE FROM silver.clean WHERE id = 'c'");
        let found = project.run(&["parity", "--output", "json"]);
        assert_eq!(found.code, Some(1));
        let report: Value = serde_json::from_str(&found.stdout).unwrap();
        let mut own = serde_json::json!(
            {"id": "d", "at": "2026-01-06T11:00:00Z", "n": "4", "quarter": "1.0", "price": "4.00", "t": "d"}
        );
        let lake = own.clone();
        own["t"] = Value::Null;
        let lost = serde_json::json!(
            {"id": "c", "at": "2026-01-06T10:00:00Z", "n": "3", "quarter": "0.75", "price": "3.00", "t": ""}
        );
        let table = &report["parity"][0];
        assert_eq!(table["equal"], false);
        let start = "2026-01-06T00:00:00Z";
        assert_eq!(table["intervals"][0]["start"], start);
        assert_eq!(table["intervals"].as_array().unwrap().len(), 1);
        assert_eq!(table["differing_rows_count"], 2);
        assert_eq!(table["left_out"], Value::Null);
        let rows = serde_json::json!([
            {"key": {"id": "c"}, "lake": [lost], "target": []},
            {"key": {"id": "d"}, "lake": [lake], "target": [own]},
        ]);
        assert_eq!(table["differing_rows"], rows);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_differing_rows_some_are_shown_and_all_are_counted() {
    let numbers = model("kind: full\nkey: [n]", "SELECT unnest(range(1, 26)) AS n, 'a' AS t");
    let project = Project::of_models(&[("gold/numbers", &numbers)]);
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::with_files("parity::of_many_differing_rows", &project) {
        warehouse.configure(&project, "gold.*");
        export(&project, &[]);
        warehouse.ask("UPDATE gold.numbers SET t = 'b' WHERE n > 2");
        let found = parity(&project).stdout;
        let shown = found.lines().filter(|line| line.starts_with("n=")).count();
        assert_eq!(shown, 10, "{found}");
        assert!(found.ends_with("\nand 13 more\n"), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_tells_what_became_of_exports_and_comparisons() {
    let project = planted().await;
    for warehouse in Warehouse::all("parity::the_history", &project) {
        warehouse.configure(&project, "silver.clean");
        export(&project, &[]);
        // Nothing was moved, so there is nothing to tell.
        export(&project, &[]);
        parity(&project).succeeded();
        warehouse.ask("DELETE FROM silver.clean WHERE id = 'c'");
        project.run(&["parity", "--repair"]).succeeded();
        warehouse.ask("ALTER TABLE silver.clean ADD COLUMN theirs INTEGER");
        assert_ne!(project.run(&["export", "run", "--full"]).code, Some(0));
        warehouse.ask("ALTER TABLE silver.clean DROP COLUMN theirs");

        let told = history(&project, &[]);
        let day = "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z";
        let lost = "rows: 5 in the lake, 4 in the target; \
                    sum of `quarter`: 3.75 in the lake, 3 in the target";
        let expected = [
            "export 0 failed: \"silver\".\"clean\" has the column `theirs`, the lake has not",
            "parity 5 equal: ",
            &format!("repair 2 done: {day}"),
            &format!("parity 5 different: {lost}"),
            "parity 5 equal: ",
            "export 5 done: everything: first export",
        ];
        assert_eq!(told, expected);
        assert_eq!(history(&project, &["--limit", "1"]), expected[..1]);

        // What is older than is kept goes with the next export or comparison.
        warehouse.ask("UPDATE flowguard.history SET happened_at = '2020-01-01 00:00:00+00'");
        assert_eq!(history(&project, &[]), Vec::<String>::new());
        let text = project.run(&["export", "history"]).succeeded().stdout;
        assert_eq!(text, "when  what  table  target  version  rows  seconds  outcome  details\n");
        warehouse.ask("DROP TABLE silver.clean");
    }
}

fn history(project: &Project, arguments: &[&str]) -> Vec<String> {
    let arguments = [&["export", "history", "--output", "json"], arguments].concat();
    let report: Value = serde_json::from_str(&project.run(&arguments).succeeded().stdout).unwrap();
    let line = |entry: &Value| {
        assert!(entry["when"].as_str().unwrap().starts_with("20"), "{entry}");
        assert_eq!(
            (entry["table"].as_str(), entry["target"].as_str()),
            (Some("silver.clean"), Some("here"))
        );
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        assert_eq!(text("run").len(), 36);
        format!("{} {} {}: {}", text("what"), entry["rows"], text("outcome"), text("details"))
    };
    report["history"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_checks_itself_fails_or_warns() {
    let project = planted().await;
    for warehouse in Warehouse::all("parity::an_export_that_checks_itself", &project) {
        warehouse.configure(&project, "silver.clean");
        let unchecked = std::fs::read_to_string(project.folder().join("dags.yaml")).unwrap();
        let checked = |keys: &str| {
            let keys = format!("[silver.clean], check: parity{keys}}}");
            project.write("dags.yaml", &unchecked.replace("[silver.clean]}", &keys));
            project.run(&["check"]).succeeded();
        };
        checked("");
        project.run(&["export", "run"]).succeeded();
        warehouse.ask("UPDATE silver.clean SET n = 9 WHERE id = 'a'");
        let line = "silver.clean differs in here: values: as many rows, but other ones\n  \
                    hint: flowguard parity silver.clean --target here --repair\n";
        for (keys, code, word) in
            [("", 2, "error"), (", else: error", 2, "error"), (", else: warn", 0, "warning")]
        {
            checked(keys);
            let found = project.run(&["export", "run"]).without_logs();
            assert_eq!(found.code, Some(code), "{keys}");
            assert!(found.stderr.contains(&format!("{word}: {line}")), "{}", found.stderr);
        }
        project.write("dags.yaml", &unchecked);
        let found = project.run(&["export", "run"]).succeeded().without_logs();
        assert!(!found.stderr.contains("differs"), "{}", found.stderr);
    }
}
