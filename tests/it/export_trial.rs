//! `flowguard target test`: a driver that changes values is refused, rights that are missing are
//! listed with the statements that give them, a file that somebody else has open is named. And what
//! becomes of a driver in the middle of a statement when its engine is killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::export::{export, parity};
use crate::export_deaths::{ORPHAN_AGE_MAX, await_orphans};
use crate::program::{Project, model};
use crate::warehouse::{Warehouse, home};

const PRICES: &str = "SELECT CAST('10000.01' AS DECIMAL(12, 2)) AS price";

fn of_prices() -> Project {
    let project = Project::of_models(&[("gold/prices", &model("kind: full", PRICES))]);
    project.run(&["run"]).succeeded();
    project
}

/// In the project's `dags.yaml`.
fn replace(project: &Project, from: &str, to: &str) {
    let file = project.folder().join("dags.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
}

/// Snowflake takes a backslash in a text for the beginning of an escape: `\t` was a tab, and a schema
/// of that name was never found again.
#[test]
fn texts_with_backslashes_arrive_as_they_are() {
    let project = of_prices();
    let Some(warehouse) = Warehouse::snowflake("export_trial::texts_with_backslashes") else {
        return;
    };
    warehouse.configure(&project, "gold.*");
    let kept = "identifiers: as_written";
    replace(&project, kept, &format!("{kept}, schemas: {{gold: 'new\\table'}}"));
    for price in ["10000.01", "20000.02"] {
        let sql = PRICES.replace("10000.01", price);
        project.write("sql/gold/prices.sql", &model("kind: full", &sql));
        project.run(&["run"]).succeeded();
        project.run(&["export", "run"]).succeeded();
        let found = format!("SELECT count(*) FROM \"new\\table\".\"prices\" WHERE price = {price}");
        assert_eq!(warehouse.ask(&found), ["1"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_changes_values_is_refused() {
    let project = of_prices();
    for warehouse in Warehouse::all("export_trial::a_driver_that_changes", &project) {
        warehouse.configure(&project, "gold.*");
        let tested = project.run(&["target", "test", "here"]).succeeded();
        assert!(tested.stdout.ends_with("\nhard values arrive as they were sent: yes\n"));
        assert!(!matches!(warehouse, Warehouse::Duckdb { .. }) || tested.stdout.contains("v1."));
        let stages = "SELECT count(*) FROM information_schema.tables \
                      WHERE table_schema = 'flowguard' AND table_name LIKE 'stage_%'";
        assert_eq!(warehouse.ask(stages), ["0"]);
        if !matches!(warehouse, Warehouse::Postgresql { .. }) {
            continue;
        }
        replace(&project, "/drivers/", "/drivers-old/");
        let refused = project.run(&["target", "test", "here"]).without_logs();
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(4), ""));
        let (before, after) = refused.stderr.split_once(" is not fit: ").unwrap();
        assert!(before.starts_with("error: the driver /"), "{before}");
        let (value, hint) = after.split_once('\n').unwrap();
        let words = "10000.0000000001 of type Decimal128(38, 10) became ";
        assert!(value.starts_with(words), "{after}");
        let words = "hint: a newer driver may be better: pip install adbc-driver-postgresql";
        assert!(hint.starts_with(words), "{after}");
        assert_eq!(warehouse.ask(stages), ["0"]);

        let refused = project.run(&["export", "run"]).without_logs();
        assert_eq!(refused.code, Some(2));
        let words = "`gold.prices` did not arrive in `here` as it was sent";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert_eq!(warehouse.ask("SELECT count(*) FROM gold.prices"), ["0"]);
    }
}

/// Of teams that let nobody connect: somebody else runs the statements, with another client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_does_what_an_export_does() {
    let project = of_prices();
    for warehouse in Warehouse::all("export_trial::a_script", &project) {
        warehouse.configure(&project, "gold.*");
        let arguments = ["export", "sql", "--target", "here", "--parts", "upload"];
        let Warehouse::Snowflake(database) = &warehouse else {
            let refused = project.run(&arguments).without_logs();
            assert!(refused.stderr.contains("`here` copies no files"), "{}", refused.stderr);
            continue;
        };
        let count = "SELECT count(*) FROM gold.prices";
        for again in [false, true] {
            let script = project.run(&arguments).succeeded().stdout;
            let changed = script.replacen(") = '1 ", ") = '2 ", 1);
            assert_ne!(changed, script);
            let failed = database.run(&changed);
            assert!(failed.stderr.contains("Division by zero"), "{}", failed.stderr);
            assert_eq!(warehouse.ask(count), [if again { "1" } else { "0" }]);
            let script = project.run(&arguments).succeeded().stdout;
            database.run(&script).succeeded();
            assert_eq!(warehouse.ask(count), ["1"]);
            parity(&project).succeeded();
        }
        assert_eq!(export(&project, &[])["gold.prices"], "0 rows: nothing");
        let history = project.run(&["export", "history"]).succeeded().stdout;
        assert_eq!(history.matches("everything: asked for, by a script").count(), 2, "{history}");
        let stages =
            "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'stage_%'";
        // Those of the scripts that failed, which a later export drops.
        assert_eq!(warehouse.ask(stages), ["2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_listed_with_their_cure() {
    let project = of_prices();
    let warehouse = Warehouse::postgresql_alone("export_trial::missing_rights");
    let Some(warehouse) = warehouse else { return };
    warehouse.configure(&project, "gold.*");
    warehouse.ask("CREATE ROLE \"the Narrow\" LOGIN");
    let grantee = "GRANT CREATE ON DATABASE postgres TO \"the Narrow\"";
    replace(&project, "owner@", "the%20Narrow@");
    let lacking = project.run(&["target", "test", "here"]).without_logs();
    let list =
        format!("missing right                given by\nCREATE on DATABASE postgres  {grantee}\n");
    assert_eq!((lacking.code, lacking.stdout.as_str()), (Some(3), list.as_str()));
    assert_eq!(
        lacking.stderr,
        "error: `here` lacks rights that an export needs\n\
         hint: have the database's owner run the statements above, then test again\n"
    );
    warehouse.ask(grantee);
    project.run(&["target", "test", "here"]).succeeded();
    export(&project, &[]);
    warehouse.ask("DROP SCHEMA gold CASCADE");
    warehouse.ask("DROP SCHEMA flowguard CASCADE");
    warehouse.ask("REVOKE CREATE ON DATABASE postgres FROM \"the Narrow\"");

    // Somebody else exported so far.
    replace(&project, "the%20Narrow@", "owner@");
    export(&project, &[]);
    replace(&project, "owner@", "the%20Narrow@");
    let lacking = project.run(&["target", "test", "here"]).without_logs();
    let cures: Vec<&str> =
        lacking.stdout.lines().skip(1).map(|line| &line[line.find("GRANT").unwrap()..]).collect();
    let on_schemas: Vec<&str> =
        cures.iter().copied().filter(|cure| cure.contains("SCHEMA")).collect();
    let grant =
        |right: &str, schema: &str| format!("GRANT {right} ON SCHEMA {schema} TO \"the Narrow\"");
    let expected =
        [("CREATE", "flowguard"), ("USAGE", "flowguard"), ("CREATE", "gold"), ("USAGE", "gold")];
    assert_eq!(on_schemas, expected.map(|(right, schema)| grant(right, schema)));
    assert_eq!(cures.len(), 4 + 4 + 3 + 3, "{}", lacking.stdout);
    for cure in cures {
        warehouse.ask(cure);
    }
    project.run(&["target", "test", "here"]).succeeded();
    assert_eq!(export(&project, &["--full"])["gold.prices"], "1 rows: everything: asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_somebody_has_open_is_named() {
    let project = of_prices();
    let warehouse = Warehouse::duckdb("export_trial::a_file_that_somebody_has", &project);
    let Some(warehouse @ Warehouse::Duckdb { file }) = &warehouse else { return };
    warehouse.configure(&project, "gold.*");
    let script = "import duckdb, sys\n\
                  connection = duckdb.connect(sys.argv[1])\n\
                  print('open', flush=True)\n\
                  sys.stdin.read()";
    let mut somebody = Command::new(home().join("python/bin/python"))
        .args(["-c", script])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    read_line(&mut somebody);
    for arguments in [&["target", "test", "here"][..], &["export", "run"]] {
        let refused = project.run(arguments).without_logs();
        assert_eq!(refused.code, Some(3));
        let start = "error: cannot connect to `here`\ncause: IO Error: Could not set lock on file";
        assert!(refused.stderr.starts_with(start), "{}", refused.stderr);
        let hint = "\nhint: another process has the file open; run again when it has closed it\n";
        assert!(refused.stderr.ends_with(hint), "{}", refused.stderr);
    }
    drop(somebody.stdin.take());
    somebody.wait().unwrap();
    project.run(&["target", "test", "here"]).succeeded();
}

fn read_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

/// The driver waits for a lock when the engine is killed: it ends, and does not go on once the lock
/// is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_within_a_statement_ends_with_its_engine() {
    let project = of_prices();
    let warehouse = Warehouse::postgresql_alone("export_trial::a_driver_within_a_statement");
    let Some(warehouse) = warehouse else { return };
    warehouse.configure(&project, "gold.*");
    export(&project, &[]);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    thread::scope(|scope| {
        let lock = "BEGIN; LOCK TABLE gold.prices IN SHARE MODE; SELECT pg_sleep(5); COMMIT";
        let locking = scope.spawn(|| warehouse.ask(lock));
        let held = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND granted \
                    AND relation = 'gold.prices'::regclass";
        await_answer(&warehouse, held);
        let mut engine = project.command(&["export", "run", "--full"]).spawn().unwrap();
        await_answer(&warehouse, waits);
        engine.kill().unwrap();
        engine.wait().unwrap();
        await_orphans(&project, "while it waits for a lock");
        assert_eq!(warehouse.ask(held), ["1"], "the lock was there for too short a time");
        locking.join().unwrap();
    });
    let done = "SELECT count(*) FROM flowguard.history WHERE outcome = 'done'";
    assert_eq!(warehouse.ask(done), ["1"]);
    export(&project, &["--full"]);
    assert_eq!(warehouse.ask(done), ["2"]);
}

fn await_answer(warehouse: &Warehouse, question: &str) {
    for _ in 0..200 {
        if warehouse.ask(question) != ["0"] {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{question} stays 0");
}

/// The same in a process that computes. Its input stays open: the engine's death alone ends it.
#[test]
fn a_driver_that_computes_ends_with_its_engine() {
    let project = of_prices();
    let warehouse = Warehouse::duckdb("export_trial::a_driver_that_computes", &project);
    let Some(Warehouse::Duckdb { file }) = &warehouse else { return };
    let script = "exec 3<&0; \"$0\" warehouse-driver <&3 & wait";
    let mut engine = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_flowguard")])
        .current_dir(project.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let connect = serde_json::json!({"Connect": {
        "library": home().join("drivers/libduckdb.so"), "entrypoint": "duckdb_adbc_init",
        "options": [["path", file]],
    }});
    let compute = "SELECT count(*) FROM range(1000000000000) AS r(n) WHERE hash(n) = 7";
    let mut requests = engine.stdin.take().unwrap();
    for request in [connect, serde_json::json!({"Execute": {"sql": compute}})] {
        let text = request.to_string();
        requests.write_all(b"M").unwrap();
        requests.write_all(&u32::try_from(text.len()).unwrap().to_le_bytes()).unwrap();
        requests.write_all(text.as_bytes()).unwrap();
    }
    // Its answer to the first.
    let mut head = [0; 5];
    std::io::Read::read_exact(engine.stdout.as_mut().unwrap(), &mut head).unwrap();
    thread::sleep(ORPHAN_AGE_MAX / 10);
    engine.kill().unwrap();
    engine.wait().unwrap();
    await_orphans(&project, "while it computes");
}
