//! Exports to real warehouses: every type, what is moved when something changed, death at every
//! step, and what is refused. The warehouses' own clients look at the result.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use flowguard::app::App;
use flowguard::config::Config;
use flowguard::error::Result;
use flowguard::export::compare::parity::Parity;
use flowguard::table::TableName;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::export_deaths::Steps;
use crate::kill9::{Random, new_seed};
use crate::program::{Finished, PASSWORD, Project, finish, model};
use crate::runs::{add, project};
use crate::services::say;
use crate::warehouse::{Warehouse, home, scripts};

const DAILY: &str = "kind: interval\nevery: 1d\ntime: at\npartition_by: day";
const CLEAN: &str = "SELECT id, at, CAST(n AS BIGINT) AS n, CAST(n AS DOUBLE) / 3 AS third \
                     FROM bronze.events WHERE at >= $start AND at < $end";
const BY_DAY: &str = "SELECT id, date_trunc('day', at) AS day, n FROM silver.clean";

fn daily(sql: &str) -> String {
    model(DAILY, sql)
}

pub fn changing_project() -> Project {
    project(&[("silver/clean", &daily(CLEAN)), ("gold/by_day", &model("kind: full", BY_DAY))])
}

pub const THREE: [(&str, &str, &str); 3] = [
    ("a", "2026-01-05T10:00:00Z", "1"),
    ("b", "2026-01-06T10:00:00Z", "2"),
    ("c", "2026-01-07T10:00:00Z", "3"),
];

/// Rows moved, by table.
pub fn export(project: &Project, arguments: &[&str]) -> BTreeMap<String, String> {
    let arguments = [&["export", "run", "--output", "json"], arguments].concat();
    let finished = project.run(&arguments).succeeded();
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let line = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (text("table"), format!("{} rows: {}", line["rows"], text("moved")))
    };
    report["exports"].as_array().unwrap().iter().map(line).collect()
}

pub fn parity(project: &Project) -> Finished {
    project.run(&["parity"]).without_logs()
}

fn moved(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
    lines.iter().map(|(name, line)| ((*name).to_owned(), (*line).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_moves_what_changed_and_parity_sees_what_somebody_else_changed() {
    let project = changing_project();
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::with_files("export::an_export_moves_what_changed", &project) {
        warehouse.configure(&project, "silver.*, gold.*");
        let first = "3 rows: everything: first export";
        let expected = moved(&[("gold.by_day", first), ("silver.clean", first)]);
        assert_eq!(export(&project, &[]), expected);
        let none =
            moved(&[("gold.by_day", "0 rows: nothing"), ("silver.clean", "0 rows: nothing")]);
        assert_eq!(export(&project, &[]), none);

        let event = [("d", "2026-01-06T11:00:00Z", "4")];
        add(&project, &event).await;
        project.run(&["run", "--start", "2026-01-06", "--end", "2026-01-07"]).succeeded();
        let day = "2 rows: 2026-01-06T00:00:00Z/2026-01-07T00:00:00Z";
        let whole = "4 rows: everything: the table is replaced whole";
        let expected = moved(&[("gold.by_day", whole), ("silver.clean", day)]);
        assert_eq!(export(&project, &["--dry-run"]).len(), 2);
        assert_eq!(export(&project, &[]), expected);
        let rows = warehouse.ask("SELECT id, n FROM silver.clean ORDER BY id");
        assert_eq!(rows, ["a|1", "b|2", "c|3", "d|4"]);
        parity(&project).succeeded();
        if let Warehouse::Postgresql { .. } = warehouse {
            let indexed = "SELECT indexdef FROM pg_indexes WHERE schemaname IN ('silver', 'gold')";
            let index = "CREATE INDEX clean_at_idx ON silver.clean USING btree (at)";
            assert_eq!(warehouse.ask(indexed), [index]);
        }

        warehouse.ask("UPDATE silver.clean SET n = 7 WHERE id = 'b'");
        warehouse.ask("INSERT INTO gold.by_day SELECT * FROM gold.by_day WHERE id = 'a'");
        let found = parity(&project);
        assert_eq!(found.code, Some(1));
        let verdicts: Vec<&str> = found
            .stdout
            .lines()
            .skip(1)
            .take(2)
            .map(|line| line.rsplit("  ").next().unwrap())
            // Of files it is said as well which one was changed.
            .map(|line| line.split_once("was changed; ").map_or(line, |(_, values)| values))
            .collect();
        let twice = "rows: 4 in the lake, 5 in the target";
        assert_eq!(verdicts, ["values: as many rows, but other ones", twice]);
        project.run(&["parity", "--repair"]).succeeded();
        assert_eq!(warehouse.ask("SELECT sum(n) FROM silver.clean"), ["10"]);

        warehouse.ask("DROP TABLE gold.by_day");
        let lost = match &warehouse {
            // Manifests are the ledger too.
            Warehouse::Files { .. } => "4 rows: everything: first export",
            _ => {
                assert!(parity(&project).stdout.contains("the table is gone from the target"));
                "4 rows: everything: the target has lost the table"
            }
        };
        assert_eq!(export(&project, &[])["gold.by_day"], lost);
        parity(&project).succeeded();
        // The other warehouse begins where this one began.
        remake(&project).await;
    }
}

/// What a newcomer sees who has DuckDB's library.
#[test]
fn the_demo_ends_with_equal_tables() {
    let lake = TempDir::new().unwrap();
    let project = Project::on_lake(lake.path());
    if Warehouse::duckdb("export::the_demo_ends", &project).is_none() {
        return;
    }
    let drivers = home().join("drivers");
    let project = project.with("ADBC_DRIVER_PATH", drivers.to_str().unwrap());
    let arguments = ["demo", "--orders", "500", "--clicks", "2000", "--days", "2"];
    let finished = project.run(&arguments).succeeded();
    let lines = finished.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut table = lines.skip_while(|line| *line != ["export"]).skip(1);
    assert_eq!(table.next().unwrap(), ["table", "target", "version", "rows", "parity"]);
    let names = ["daily_metrics", "food_item_performance", "funnel_metrics", "user_cohorts"];
    let file = project.folder().join(".flowguard/warehouse.duckdb");
    let warehouse = Warehouse::Duckdb { file };
    for name in names {
        let name = format!("gold.{name}");
        let [rows] = warehouse.ask(&format!("SELECT count(*) FROM {name}")).try_into().unwrap();
        assert_ne!(rows, "0", "{name}");
        assert_eq!(table.next().unwrap(), [name.as_str(), "local", "0", &rows, "equal"]);
    }
    assert_eq!(table.next().unwrap(), [""; 0]);
}

/// The lake as it was at first, made anew.
async fn remake(project: &Project) {
    std::fs::remove_dir_all(project.folder().join(".flowguard")).unwrap();
    add(project, &THREE).await;
    project.run(&["run"]).succeeded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_anew_replaces_its_namesake() {
    let project = changing_project();
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::with_files("export::a_table_made_anew", &project) {
        warehouse.configure(&project, "silver.*, gold.*");
        export(&project, &[]);
        remake(&project).await;
        let error = parity(&project);
        assert!(error.stderr.contains("was made anew"), "{}", error.stderr);
        let anew = "3 rows: everything: the table was made anew";
        assert_eq!(export(&project, &[])["silver.clean"], anew);
        parity(&project).succeeded();
    }
}

/// A death of the driver's process at its steps, while it works or before it is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_step_doubles_and_loses_nothing() {
    let project = changing_project();
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    let seed = new_seed();
    say(&format!("export: FLOWGUARD_TEST_SEED={seed} chooses steps"));
    let mut random = Random::new(seed, 7);
    let mut added = 0;
    for warehouse in Warehouse::all("export::a_death_at_any_step", &project) {
        warehouse.configure(&project, "silver.*, gold.*");
        let name: TableName = "silver.clean".parse().unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_flowguard"));
        // The third export is like all later ones.
        for _ in 0..3 {
            grow(&project, &mut added).await;
            let undying = dying_driver(&project, 0, "after");
            export_through(&project, &name, undying).await.unwrap();
        }
        let steps = Steps::of(requests_seen(&project));
        for moment in ["during", "after"] {
            let steps = steps.to_die_at(&warehouse, &mut random);
            let mut died = 0;
            for &step in &steps {
                grow(&project, &mut added).await;
                let dying = dying_driver(&project, step, moment);
                let outcome = export_through(&project, &name, dying).await;
                let seen = requests_seen(&project).len();
                assert!(seen >= step, "{seen} requests, no death {moment} step {step}");
                died += usize::from(outcome.is_err());
                let found = export_through(&project, &name, program.clone()).await.unwrap();
                assert_eq!(found.differences, Vec::<String>::new(), "{moment} step {step}");
                let theirs = warehouse.ask("SELECT count(*), sum(n) FROM silver.clean");
                let own = format!("{}|{}", 3 + added, 6 + 5 * added);
                assert_eq!(theirs, [own], "{moment} step {step}");
                // Every version is published once, and its entry with it.
                let done = "FROM flowguard.history WHERE what = 'export' AND outcome = 'done'";
                let doubled = format!("SELECT count(*) - count(DISTINCT version) {done}");
                assert_eq!(warehouse.ask(&doubled), ["0"], "{moment} step {step}");
                let untold = format!(
                    "SELECT count(*) FROM flowguard.exports WHERE version >= 0 AND version NOT IN \
                     (SELECT version {done})"
                );
                assert_eq!(warehouse.ask(&untold), ["0"], "{moment} step {step}");
            }
            assert!(died > steps.len() / 2, "only {died} deaths {moment} a step of {steps:?}");
        }
    }
}

/// Makes a table longer by one row, in one of its intervals.
async fn grow(project: &Project, added: &mut usize) {
    add(project, &[("e", "2026-01-06T12:00:00Z", "5")]).await;
    *added += 1;
    let one = ["run", "silver.clean", "--start", "2026-01-06", "--end", "2026-01-07"];
    project.run(&one).succeeded();
}

/// Two that read the same ledger: the first to move it publishes, the other changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_exports_at_once_one_wins() {
    const ROUNDS: i64 = 4;
    let project = changing_project();
    add(&project, &THREE).await;
    let mut added = 0;
    for warehouse in Warehouse::with_files("export::of_two_exports_at_once", &project) {
        warehouse.configure(&project, "silver.*, gold.*");
        let name: TableName = "silver.clean".parse().unwrap();
        for round in 0..ROUNDS {
            add(&project, &[("e", "2026-01-06T12:00:00Z", "5")]).await;
            added += 1;
            project.run(&["run", "silver.clean"]).succeeded();
            let program = || PathBuf::from(env!("CARGO_BIN_EXE_flowguard"));
            let one = export_through(&project, &name, program());
            let other = export_through(&project, &name, program());
            let (one, other) = tokio::join!(one, other);
            assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
            let theirs = warehouse.ask("SELECT count(*), sum(n) FROM silver.clean");
            assert_eq!(theirs, [format!("{}|{}", 3 + added, 6 + 5 * added)], "round {round}");
        }
    }
}

/// A program that stands in for this one, and dies at a step; at none if that is 0.
fn dying_driver(project: &Project, step: usize, moment: &str) -> PathBuf {
    let steps = project.folder().join("steps");
    std::fs::write(&steps, "").unwrap();
    let program = project.folder().join("dying");
    let script = format!(
        "#!/bin/sh\nexec python3 {} {} {step} {moment} {}\n",
        scripts().join("dying_driver.py").display(),
        env!("CARGO_BIN_EXE_flowguard"),
        steps.display()
    );
    std::fs::write(&program, script).unwrap();
    finish(Command::new("chmod").arg("755").arg(&program)).succeeded();
    program
}

/// By the driver that stood in last.
fn requests_seen(project: &Project) -> Vec<String> {
    let seen = std::fs::read_to_string(project.folder().join("steps")).unwrap();
    seen.lines().map(str::to_owned).collect()
}

/// Exports, and compares, by a driver in a process of `program`.
async fn export_through(project: &Project, name: &TableName, program: PathBuf) -> Result<Parity> {
    let environment = BTreeMap::from([PASSWORD].map(|(key, value)| (key.into(), value.into())));
    let app = App::open(Config::load(project.folder(), &environment, &[]).unwrap()).unwrap();
    let target = app.dags().unwrap().target("here").unwrap();
    let mut to = app.surroundings(environment, program).open(target, Uuid::now_v7()).await?;
    app.export_source().export(&mut to, name, false).await?;
    app.export_source().parity(&mut to, name).await
}

const EVERY_TYPE: &str = r#"
SELECT CAST(k AS INT) AS k, CAST(b AS BOOLEAN) AS b, CAST(tiny AS TINYINT) AS tiny,
  CAST(big AS BIGINT) AS big, CAST(price AS DECIMAL(38, 10)) AS price, CAST(f AS DOUBLE) AS f,
  CAST(day AS DATE) AS day, CAST(at AS TIMESTAMP) AT TIME ZONE 'UTC' AS "At time", t AS "select"
FROM (VALUES
  (1, true, 127, 9223372036854775807, '9999999999999999999999999999.9999999999', '1.5', '1969-12-31', '1969-12-31T23:59:59.999999', 'ü|''"\'),
  (2, false, -128, -9223372036854775808, '-0.0000000001', '-0.0', '0001-01-01', '2262-04-11T00:00:00.000001', ''),
  (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (4, true, 0, 1000000000, '2000000000.0000000000', 'NaN', '2026-02-28', '2026-03-29T01:30:00', 'two
lines'),
  (5, true, 0, 0, '1000000000000.5000000000', 'Infinity', '9999-12-31', '1900-01-01T00:00:00', '日本')
) AS v(k, b, tiny, big, price, f, day, at, t)"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_and_its_edges_arrive() {
    let project = Project::of_models(&[("gold/every_type", &model("kind: full", EVERY_TYPE))]);
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::with_files("export::every_type", &project) {
        warehouse.configure(&project, "gold.*");
        project.run(&["export", "run"]).succeeded();
        parity(&project).succeeded();
        let micros = match &warehouse {
            Warehouse::Postgresql { .. } => {
                "CAST(extract(epoch FROM \"At time\") * 1000000 AS bigint)"
            }
            _ => "epoch_us(\"At time\")",
        };
        let rows = warehouse.ask(&format!(
            "SELECT k, CAST(b AS VARCHAR), tiny, big, CAST(price AS VARCHAR), \
             CAST(day AS VARCHAR), {micros}, replace(\"select\", chr(10), '/') \
             FROM gold.every_type ORDER BY k"
        ));
        assert_eq!(
            rows,
            [
                "1|true|127|9223372036854775807|9999999999999999999999999999.9999999999|1969-12-31|-1|ü|'\"\\",
                "2|false|-128|-9223372036854775808|-0.0000000001|0001-01-01|9223286400000001|",
                "3|||||||",
                "4|true|0|1000000000|2000000000.0000000000|2026-02-28|1774747800000000|two/lines",
                "5|true|0|0|1000000000000.5000000000|9999-12-31|-2208988800000000|日本",
            ]
        );
        let others = "SELECT count(*) FROM gold.every_type WHERE f > 1e300";
        assert_eq!(warehouse.ask(others), ["2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_before_anything_moves() {
    let text = model("kind: full", "SELECT 1 AS a, 'plain' AS t");
    let project = Project::of_models(&[("gold/t", &text)]);
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::all("export::what_does_not_fit", &project) {
        warehouse.configure(&project, "gold.*");
        export(&project, &[]);
        warehouse.ask("ALTER TABLE gold.t ADD COLUMN \"theirs\" INTEGER");
        let refused = project.run(&["export", "run", "--full"]).without_logs();
        assert_eq!(refused.code, Some(2));
        let hint = "hint: ALTER TABLE \"gold\".\"t\" DROP COLUMN \"theirs\"";
        assert!(refused.stderr.contains(hint), "{}", refused.stderr);
        warehouse.ask("ALTER TABLE gold.t DROP COLUMN \"theirs\"");

        if matches!(warehouse, Warehouse::Postgresql { .. }) {
            project
                .write("sql/gold/t.sql", &model("kind: full", "SELECT 1 AS a, 'x' || chr(0) AS t"));
            project.run(&["run"]).succeeded();
            let refused = project.run(&["export", "run"]).without_logs();
            assert_eq!(refused.code, Some(2));
            assert!(refused.stderr.contains("a text with a zero byte"), "{}", refused.stderr);
            assert_eq!(warehouse.ask("SELECT t FROM gold.t"), ["plain"]);
        }
        let mine = model("kind: full", "SELECT 1 AS a, 'plain' AS t, 2 AS added");
        project.write("sql/gold/t.sql", &mine);
        project.run(&["run"]).succeeded();
        export(&project, &[]);
        assert_eq!(warehouse.ask("SELECT a, added FROM gold.t"), ["1|2"]);
        parity(&project).succeeded();
        assert_eq!(
            warehouse.ask(
                "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'flowguard'"
            ),
            ["2"]
        );
        project.write("sql/gold/t.sql", &text);
        std::fs::remove_dir_all(project.folder().join(".flowguard")).unwrap();
        project.run(&["run"]).succeeded();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_somebody_else_put_there_are_replaced_only_when_asked() {
    let text = model("kind: full", "SELECT 1 AS a, 'ours' AS t");
    let project = Project::of_models(&[("gold/t", &text), ("gold/u", &text)]);
    project.run(&["run"]).succeeded();
    for warehouse in Warehouse::all("export::rows_that_somebody_else", &project) {
        warehouse.configure(&project, "gold.*");
        warehouse.ask("CREATE SCHEMA \"gold\"");
        // Without a column that the lake has: nothing is added before the refusal.
        warehouse.ask("CREATE TABLE \"gold\".\"t\" (\"t\" text)");
        warehouse.ask("INSERT INTO gold.t VALUES ('theirs')");
        for arguments in [&["export", "run"][..], &["export", "status"]] {
            let refused = project.run(arguments).without_logs();
            assert_ne!(refused.code, Some(0));
            let words = "\"gold\".\"t\" holds rows in `here` that were not exported by FlowGuard";
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
            let hint = "`flowguard export run gold.t --target here --full` replaces them all";
            assert!(refused.stderr.contains(hint), "{}", refused.stderr);
            assert_eq!(warehouse.ask("SELECT * FROM gold.t"), ["theirs"]);
        }
        // The others are moved, and told of.
        let status = project.run(&["export", "status"]).stdout;
        let lines: Vec<Vec<&str>> = status.lines().map(|l| l.split("  ").collect()).collect();
        let told = |line: &[&str]| (line[0].to_owned(), line[line.len() - 1].trim().to_owned());
        let told: Vec<_> = lines[1..].iter().map(|line| told(line)).collect();
        let expected = [("gold.t", "nothing: it fails"), ("gold.u", "nothing")];
        assert_eq!(told, expected.map(|(table, moves)| (table.to_owned(), moves.to_owned())));
        assert_eq!(export(&project, &["--full"])["gold.t"], "1 rows: everything: asked for");
        assert_eq!(warehouse.ask("SELECT t, a FROM gold.t"), ["ours|1"]);

        // As an export leaves it that died before it published for the first time.
        warehouse.ask("DELETE FROM gold.t");
        warehouse.ask("DELETE FROM flowguard.exports WHERE table_name = 'gold.t'");
        assert_eq!(export(&project, &[])["gold.t"], "1 rows: everything: first export");
        parity(&project).succeeded();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_waited_for_and_a_refusal_is_not_repeated() {
    let project = changing_project();
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    let warehouse = Warehouse::postgresql_alone("export::a_server_that_restarts");
    let Some(warehouse @ Warehouse::Postgresql(server)) = &warehouse else { return };
    warehouse.configure(&project, "silver.*, gold.*");
    server.call_server("stop").succeeded();
    let mut running = project.command(&["export", "run"]);
    let mut running = running.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    let said = |line: &std::io::Result<String>| line.as_ref().unwrap().contains("tried again");
    assert!(lines.any(|line| said(&line)), "nothing was tried again");
    server.call_server("resume").succeeded();
    for line in lines {
        println!("{}", line.unwrap());
    }
    assert!(running.wait().unwrap().success());
    assert_eq!(warehouse.ask("SELECT count(*), sum(n) FROM silver.clean"), ["3|6"]);
    parity(&project).succeeded();

    warehouse.ask("ALTER TABLE gold.by_day ADD COLUMN theirs INTEGER");
    let refused = project.run(&["export", "run", "--full"]);
    assert_eq!(refused.code, Some(2));
    assert!(!refused.stderr.contains("tried again"), "{}", refused.stderr);
    warehouse.ask("ALTER TABLE gold.by_day DROP COLUMN theirs");
}
