//! Tables of hard shapes: a thousand columns, a text of 16 MB, names that need quotes, no rows at
//! all, and the edges of dates, instants, decimals and floating point. They arrive the same or are
//! refused before anything moves.

use crate::export::{export, parity};
use crate::export_changes::micros;
use crate::program::{Project, model};
use crate::warehouse::Warehouse;

fn full(sql: &str) -> String {
    model("kind: full", sql)
}

fn of_one_table(sql: &str) -> Project {
    let project = Project::of_models(&[("gold/t", &full(sql))]);
    project.run(&["run"]).succeeded();
    project
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_a_thousand_columns_arrives() {
    let types = ["DOUBLE", "BIGINT", "DECIMAL(38, 10)", "VARCHAR", "DOUBLE"];
    let columns: Vec<String> = (0..1_000)
        .map(|n| format!("CAST(n + {n} AS {}) AS column_{n}", types[n % types.len()]))
        .collect();
    let sql = format!("SELECT {} FROM (VALUES (1), (2)) AS v(n)", columns.join(", "));
    let project = of_one_table(&sql);
    for warehouse in Warehouse::all("export_shapes::a_thousand_columns", &project) {
        warehouse.configure(&project, "gold.*");
        assert_eq!(export(&project, &[])["gold.t"], "2 rows: everything: first export");
        parity(&project).succeeded();
        let some = "SELECT column_1, column_998 FROM gold.t ORDER BY 1";
        assert_eq!(warehouse.ask(some), ["2|999", "3|1000"]);
        warehouse.ask("UPDATE gold.t SET column_999 = 7 WHERE column_1 = 2");
        assert!(parity(&project).stdout.contains("sum of `column_999`"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_of_16_megabytes_arrives() {
    let project =
        of_one_table("SELECT n, repeat('ü', 8388608) AS t FROM (VALUES (1), (2)) AS v(n)");
    for warehouse in Warehouse::all("export_shapes::a_text_of_16_megabytes", &project) {
        warehouse.configure(&project, "gold.*");
        export(&project, &[]);
        parity(&project).succeeded();
        let whole = "SELECT count(*) FROM gold.t WHERE t = repeat('ü', 8388608)";
        assert_eq!(warehouse.ask(whole), ["2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_need_quotes_arrive() {
    let names =
        ["select", "Order", "ünï日本", "it's", "quo\"te", "a.b", "a-b", "100%", "$1", "USER"];
    let columns: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(n, name)| format!("'{n}' AS \"{}\"", name.replace('"', "\"\"")))
        .collect();
    let project = of_one_table(&format!("SELECT {}", columns.join(", ")));
    project.write("sql/gold/select.sql", &full("SELECT 1 AS \"table\", 2.5 AS \"Double\""));
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::all("export_shapes::names_that_need_quotes", &project) {
        warehouse.configure(&project, "gold.*");
        export(&project, &[]);
        export(&project, &["--full"]);
        parity(&project).succeeded();
        assert_eq!(warehouse.ask("SELECT * FROM gold.t"), ["0|1|2|3|4|5|6|7|8|9"]);
        let own = "SELECT \"quo\"\"te\", \"Order\", \"ünï日本\", \"it's\" FROM gold.t";
        assert_eq!(warehouse.ask(own), ["4|1|2|3"]);
        assert_eq!(warehouse.ask("SELECT \"table\", \"Double\" FROM gold.\"select\""), ["1|2.5"]);
    }
}

/// Whoever writes no quotes means upper case in Snowflake, and lower case in PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_arrive_in_the_case_that_is_asked_for() {
    let daily = "kind: interval\nevery: 1d\ntime: day\nkey: [day]";
    let sql = "SELECT * FROM (SELECT CAST(d AS DATE) AS day, n AS \"total Sum\", 'x' AS t \
               FROM (VALUES ('2026-01-05', 1), ('2026-01-06', 2)) AS v(d, n)) AS v \
               WHERE day >= $start AND day < $end";
    let project = Project::of_models(&[("gold/t", &model(daily, sql))]);
    let days = ["run", "--start", "2026-01-05", "--end", "2026-01-07"];
    project.run(&days).succeeded();
    for warehouse in Warehouse::all("export_shapes::names_in_the_case", &project) {
        for (case, names) in [
            ("upper", ["FLOWGUARD", "GOLD", "T", "DAY", "TOTAL SUM"]),
            ("lower", ["flowguard", "gold", "t", "day", "total sum"]),
            ("as_written", ["flowguard", "gold", "t", "day", "total Sum"]),
        ] {
            warehouse.configure(&project, "gold.*");
            let file = project.folder().join("dags.yaml");
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.replace(", identifiers: as_written", "");
            let asked = format!("{{identifiers: {case}, driver:");
            std::fs::write(&file, text.replacen("{driver:", &asked, 1)).unwrap();
            export(&project, &[]);
            parity(&project).succeeded();
            let [own, schema, table, day, total] = names;
            let found = warehouse.ask(&format!(
                "SELECT table_schema, table_name, column_name FROM information_schema.columns \
                 WHERE table_schema = '{schema}' OR (table_schema = '{own}' \
                 AND lower(column_name) = 'exported_at') ORDER BY lower(column_name)"
            ));
            let ledger = found[1].rsplit_once('|').unwrap().0.to_owned();
            assert_eq!(ledger.to_lowercase(), "flowguard|exports");
            assert!(ledger.starts_with(own), "{ledger}");
            let line = |column: &str| format!("{schema}|{table}|{column}");
            assert_eq!([&found[0], &found[3]], [&line(day), &line(total)]);
            // A difference is found, told in the lake's names, and repaired.
            warehouse.ask(&format!(
                "UPDATE \"{schema}\".\"{table}\" SET \"{total}\" = 7 WHERE \"{day}\" = '2026-01-06'"
            ));
            let found = parity(&project);
            assert!(found.stdout.contains("day=2026-01-06  total Sum  "), "{}", found.stdout);
            project.run(&["parity", "--repair"]).succeeded();
            parity(&project).succeeded();
            let drop = |schema: &str| format!("DROP SCHEMA \"{schema}\" CASCADE");
            warehouse.ask(&[schema, own].map(drop).join("; "));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_become_one_are_refused() {
    let project = of_one_table("SELECT 1 AS \"maß\", 2 AS mass");
    for warehouse in Warehouse::all("export_shapes::names_that_become_one", &project) {
        warehouse.configure(&project, "gold.*");
        let file = project.folder().join("dags.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(", identifiers: as_written", "");
        std::fs::write(&file, text.replacen("{driver:", "{identifiers: upper, driver:", 1))
            .unwrap();
        let refused = project.run(&["export", "run"]).without_logs();
        let words = "the columns `maß` and `mass` of `gold.t` are both `MASS` in `here`";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_any_length_arrive_or_are_refused() {
    let table = "a_table_with_a_name_that_is_as_long_as_postgresql_allows_them_x";
    assert_eq!(table.len(), 63);
    let project = Project::of_models(&[(&format!("gold/{table}"), &full("SELECT 1 AS n"))]);
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::all("export_shapes::names_of_any_length", &project) {
        project.write(&format!("sql/gold/{table}.sql"), &full("SELECT 1 AS n"));
        project.run(&["run"]).succeeded();
        warehouse.configure(&project, "gold.*");
        export(&project, &[]);
        export(&project, &["--full"]);
        parity(&project).succeeded();
        assert_eq!(warehouse.ask(&format!("SELECT n FROM gold.{table}")), ["1"]);

        let long = "ü".repeat(32);
        let sql = full(&format!("SELECT 1 AS n, 2 AS \"{long}\""));
        project.write(&format!("sql/gold/{table}.sql"), &sql);
        project.run(&["run"]).succeeded();
        let outcome = project.run(&["export", "run"]).without_logs();
        if !matches!(warehouse, Warehouse::Postgresql { .. }) {
            outcome.succeeded();
            assert_eq!(warehouse.ask(&format!("SELECT \"{long}\" FROM gold.{table}")), ["2"]);
        } else {
            assert_eq!(outcome.code, Some(2));
            let words = format!(
                "the name `{long}` of `gold.{table}` is longer than the 63 bytes that `here` keeps"
            );
            assert!(outcome.stderr.contains(&words), "{}", outcome.stderr);
            assert_eq!(warehouse.ask(&format!("SELECT * FROM gold.{table}")), ["1"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_rows_is_a_table() {
    let project = of_one_table("SELECT 1 AS n, 'a' AS t, 1.5 AS f WHERE false");
    for warehouse in Warehouse::all("export_shapes::a_table_without_rows", &project) {
        warehouse.configure(&project, "gold.*");
        assert_eq!(export(&project, &[])["gold.t"], "0 rows: everything: first export");
        assert_eq!(export(&project, &[])["gold.t"], "0 rows: nothing");
        parity(&project).succeeded();
        assert_eq!(warehouse.ask("SELECT count(n), count(t), count(f) FROM gold.t"), ["0|0|0"]);
        let columns = "SELECT count(*) FROM information_schema.columns \
                       WHERE table_schema = 'gold' AND table_name = 't'";
        assert_eq!(warehouse.ask(columns), ["3"]);
    }
}

/// What `export::every_type_and_its_edges_arrive` has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edges_of_time_and_numbers_arrive() {
    let edges = "SELECT k, arrow_cast(us, 'Timestamp(Microsecond, Some(\"UTC\"))') AS at, CAST(d AS DECIMAL(38, 0)) AS whole, \
         CAST(f AS DECIMAL(38, 38)) AS part, CAST(x AS FLOAT) AS single, CAST(y AS DOUBLE) AS y, \
         CAST(b AS BYTEA) AS b \
         FROM (VALUES \
         (1, 253402300799999999, '99999999999999999999999999999999999999', \
          '0.99999999999999999999999999999999999999', '-Infinity', '1.7976931348623157e308', ''), \
         (2, -62135596800000000, '-99999999999999999999999999999999999999', \
          '-0.00000000000000000000000000000000000001', 'NaN', '5e-324', 'ü'), \
         (3, -1, '10000000000000000000000000000000000000', '0.1', '0.1', '-Infinity', NULL)) \
         AS v(k, us, d, f, x, y, b)";
    let project = of_one_table(edges);
    for warehouse in Warehouse::all("export_shapes::the_edges", &project) {
        warehouse.configure(&project, "gold.*");
        let is_short = matches!(warehouse, Warehouse::Snowflake { .. });
        if is_short {
            let refused = project.run(&["export", "run"]).without_logs();
            let words = "`part` of `gold.t` has the type Decimal128(38, 38), which cannot be";
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
            let shorter = edges.replace("DECIMAL(38, 38)", "DECIMAL(38, 37)");
            project.write("sql/gold/t.sql", &full(&shorter));
            project.run(&["run"]).succeeded();
        }
        export(&project, &[]);
        parity(&project).succeeded();
        let rows = warehouse.ask(
            "SELECT k, CAST(whole AS VARCHAR), CAST(part AS VARCHAR), \
             CASE WHEN single > 1e30 THEN 'NaN' WHEN single < -1e30 THEN 'low' ELSE 'finite' END, \
             y > 1.797693134862315e308, y > 0 AND y < 1e-323, y < -1.7e308 \
             FROM gold.t ORDER BY k",
        );
        let rows: Vec<String> = rows
            .iter()
            .map(|row| row.to_lowercase().replace("true", "t").replace("false", "f"))
            // DuckDB writes no digit before the point of such a decimal.
            .map(|row| row.replace("|0.", "|.").replace("|-0.", "|-."))
            .collect();
        let zeros = "0".repeat(36);
        let parts = match is_short {
            // Rounded by the lake.
            true => [format!("1.{zeros}0"), format!(".{zeros}0"), format!(".1{zeros}")],
            false => {
                [format!(".{}", "9".repeat(38)), format!("-.{zeros}01"), format!(".1{zeros}0")]
            }
        };
        let [first, second, third] = parts;
        let nines = "9".repeat(38);
        let wanted = [
            format!("1|{nines}|{first}|low|t|f|f"),
            format!("2|-{nines}|{second}|nan|f|t|f"),
            format!("3|1{zeros}0|{third}|finite|f|f|t"),
        ];
        assert_eq!(rows, wanted);
        let times = format!("SELECT {} FROM gold.t ORDER BY k", micros(&warehouse));
        assert_eq!(warehouse.ask(&times), ["253402300799999999", "-62135596800000000", "-1"]);
        assert_eq!(
            warehouse.ask("SELECT octet_length(b) FROM gold.t WHERE b IS NOT NULL ORDER BY k"),
            ["0", "2"]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_wider_in_the_lake_becomes_so() {
    let narrow = "SELECT CAST(7 AS INT) AS n, CAST(1.5 AS DECIMAL(5,2)) AS d, 'x' AS t";
    let wide = "SELECT CAST(5000000000 AS BIGINT) AS n, CAST(12345678.25 AS DECIMAL(12,2)) AS d, \
                'x' AS t";
    let build = |project: &Project, sql: &str| {
        project.write("sql/gold/t.sql", &full(sql));
        project.run(&["run"]).succeeded();
    };
    let project = of_one_table(narrow);
    for warehouse in Warehouse::all("export_shapes::a_wider_column", &project) {
        warehouse.configure(&project, "gold.*");
        build(&project, narrow);
        export(&project, &[]);
        build(&project, wide);
        export(&project, &[]);
        assert_eq!(warehouse.ask("SELECT n, d, t FROM gold.t"), ["5000000000|12345678.25|x"]);
        parity(&project).succeeded();

        build(&project, narrow);
        let refused = project.run(&["export", "run"]).without_logs();
        assert_eq!(refused.code, Some(2));
        let hint = "hint: ALTER TABLE \"gold\".\"t\" ALTER COLUMN \"n\" SET DATA TYPE ";
        assert!(refused.stderr.contains(hint), "{}", refused.stderr);
        assert_eq!(warehouse.ask("SELECT n FROM gold.t"), ["5000000000"]);
    }
}
