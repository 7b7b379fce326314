//! `flowguard query --remote` through the real programs: a server says what the lake says, in every
//! form and with every mistake; users, tokens and certificates; and an end that reaches the server.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::certificates::Certificates;
use crate::program::{Project, SMALL_DEMO};
use crate::served::{PATIENCE, Served};

const METRICS: &str = "SELECT * FROM gold.daily_metrics ORDER BY order_date";
/// 62 billion rows to look at.
const LONG: &str = "SELECT count(*), min(a.price + d.price) FROM silver.orders_cleaned a \
                    CROSS JOIN silver.orders_cleaned b CROSS JOIN silver.orders_cleaned c \
                    CROSS JOIN silver.orders_cleaned d";

#[test]
fn a_server_answers_as_its_lake_does() {
    let project = Project::of_demo(&SMALL_DEMO);
    let served = Served::start(&project, &["--set", "server.statement_rows_max=60000"]);
    let address = format!("grpc://{}", served.address("flight"));
    every_form_holds_the_same_bytes(&project, &address);
    mistakes_are_shown_alike(&project, &address);
    a_failure_mid_stream_is_an_error(&project, &address);
    nobody_needs_a_project(&address);
    an_interrupt_ends_the_statement_on_the_server(&project, &served, &address);
    a_reader_that_leaves_is_no_error(&project, &address);
}

fn every_form_holds_the_same_bytes(project: &Project, address: &str) {
    project.write(
        "report.sql",
        "SELECT category, count(*) AS n\nFROM silver.orders_cleaned\nGROUP BY 1 ORDER BY 1;\n",
    );
    let days = ["--start", "2026-01-05", "--end", "2026-01-06"];
    let within = "SELECT $start AS first, count(*) AS n FROM silver.orders_cleaned \
                  WHERE event_timestamp >= $start AND event_timestamp < $end";
    for arguments in [
        &["--output", "table", METRICS][..],
        &["--output", "csv", METRICS],
        &["--output", "json", METRICS],
        &["--file", "report.sql"],
        &["--output", "csv", days[0], days[1], days[2], days[3], within],
        // Lists, structs and maps, several parts and many batches.
        &["--output", "json", "SELECT * FROM bronze.clicks_raw ORDER BY _partition, _offset"],
        &["--output", "csv", "SELECT order_date FROM gold.daily_metrics WHERE orders < 0"],
        &["DESCRIBE gold.daily_metrics"],
    ] {
        let local = project.run(&[&["query"], arguments].concat()).succeeded();
        let remote = project.run(&[&["query", "--remote", address], arguments].concat());
        assert_eq!(remote, local, "{arguments:?}");
    }
    for form in ["parquet", "arrow"] {
        let bytes = |more: &[&str]| {
            let arguments = [&["query", METRICS, "--output", form], more].concat();
            project.command(&arguments).output().unwrap().stdout
        };
        assert_eq!(bytes(&["--remote", address]), bytes(&[]), "{form}");
    }
    // Every part of a result without an order.
    let counted = &project.query("SELECT count(*) AS n FROM bronze.clicks_raw")[0][0];
    let all =
        ["query", "--remote", address, "--output", "json", "SELECT _offset FROM bronze.clicks_raw"];
    assert_eq!(project.run(&all).succeeded().stdout.lines().count().to_string(), *counted);
    let piped = ["query", "--remote", address, "--output", "csv", "-"];
    assert_eq!(project.run_with_input(&piped, "SELECT 3 AS n").succeeded().stdout, "n\n3\n");
}

fn mistakes_are_shown_alike(project: &Project, address: &str) {
    project.write("wrong.sql", "SELECT *\nFROM gold.daily_metrics WHERE odrers > 1\n");
    for arguments in [
        &["--file", "wrong.sql"][..],
        &["SELECT * FROM gold.daily_metrcs"],
        &["SELECT * FROM daily_metrics"],
        &["SELECT orders FROM"],
        &["DROP TABLE gold.daily_metrics"],
    ] {
        let local = project.run(&[&["query"], arguments].concat());
        let remote = project.run(&[&["query", "--remote", address], arguments].concat());
        assert_eq!((remote, local.code), (local, Some(1)), "{arguments:?}");
    }
    let both = ["query", "--remote", address, "--lake", "elsewhere", "SELECT 1"];
    project.run(&both).failed(
        1,
        &[],
        "error: `--lake` and `--remote` are two places to ask\nhint: give one of them\n",
    );
}

fn a_failure_mid_stream_is_an_error(project: &Project, address: &str) {
    let many = "SELECT a.order_id FROM silver.orders_cleaned a CROSS JOIN silver.orders_cleaned b";
    let failed = project.run(&["query", "--remote", address, "--output", "csv", many]);
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    assert!(failed.stderr.contains("60000 rows"), "{}", failed.stderr);
}

fn nobody_needs_a_project(address: &str) {
    let elsewhere = Project::of_models(&[]);
    fs::remove_file(elsewhere.folder().join("dags.yaml")).unwrap();
    let answer = elsewhere.run(&["query", "--remote", address, "--output", "csv", "SELECT 7 AS n"]);
    assert_eq!(answer.succeeded().stdout, "n\n7\n");
}

fn an_interrupt_ends_the_statement_on_the_server(
    project: &Project,
    served: &Served,
    address: &str,
) {
    let running = |count: u32| {
        let deadline = Instant::now() + PATIENCE;
        let line = format!("flowguard_statements_running {count}\n");
        loop {
            let metrics = served.get("/metrics").succeeded();
            if metrics.contains(&line) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "no {line}: {metrics}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    running(0);
    let child = project
        .command(&["query", "--remote", address, LONG])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    running(1);
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), said.as_str()),
        (Some(130), "error: interrupted: the query was cancelled\n")
    );
    // It is the server's word that this ended it, not only that the connection went away.
    let metrics = running(0);
    assert!(metrics.contains("flowguard_statements_total{outcome=\"cancelled\"} 1\n"), "{metrics}");
}

fn a_reader_that_leaves_is_no_error(project: &Project, address: &str) {
    let all = "SELECT * FROM bronze.clicks_raw";
    let line = format!(
        "{} query --remote {address} --output json '{all}' | head -n 1 | wc -l",
        env!("CARGO_BIN_EXE_flowguard")
    );
    let mut shell = project.command_through(&["sh", "-c", &line], &[]);
    let output = shell.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "1");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn users_are_let_in_over_tls_and_strangers_are_not() {
    let certificates = Certificates::new();
    let project = Project::of_demo(&SMALL_DEMO);
    for (user, role) in [("ana", "analyst"), ("eve", "engineer")] {
        let add = ["user", "add", user, "--role", role, "--password-stdin"];
        project.run_with_input(&add, &format!("sesame of {user}")).succeeded();
    }
    let token = project.run(&["user", "token", "ana"]).succeeded().stdout.trim().to_owned();
    let tls =
        |setting: &str, file: &str| format!("--set=server.{setting}={}", certificates.path(file));
    let served = Served::start(
        &project,
        &[
            &tls("tls_certificate", "server.pem"),
            &tls("tls_key", "server.key"),
            &tls("tls_client_ca", "ca.pem"),
        ],
    );
    let address = format!("grpc+tls://{}", served.address("flight"));
    let files = ["ca.pem", "client.pem", "client.key"].map(|file| certificates.path(file));
    let [ca, certificate, key] = files.each_ref().map(String::as_str);
    let count = "SELECT count(*) AS n FROM bronze.orders_raw";
    let elsewhere = |secret: &str, text: &str| Project::of_models(&[]).with(secret, text);
    let ask = |project: &Project, sql: &str, more: &[&str]| {
        let arguments = ["query", "--output", "csv", sql, "--remote", &address];
        let trusted = ["--tls-ca", ca, "--tls-certificate", certificate, "--tls-key", key];
        project.run(&[&arguments, &trusted[..], more].concat())
    };
    // By password, and by a token that is all there is.
    let eve = elsewhere("FLOWGUARD_REMOTE_PASSWORD", "sesame of eve");
    assert_eq!(ask(&eve, count, &["--user", "eve"]).succeeded().stdout, "n\n505\n");
    let ana = elsewhere("FLOWGUARD_REMOTE_TOKEN", &token);
    assert_eq!(ask(&ana, "SELECT 1 AS n", &[]).succeeded().stdout, "n\n1\n");
    // What a user may not read is not there, in the words of the server.
    let hidden = ask(&ana, count, &[]);
    assert_eq!(hidden.code, Some(1));
    assert!(hidden.stderr.contains("there is no table `bronze.orders_raw`"), "{}", hidden.stderr);
    let wrong = elsewhere("FLOWGUARD_REMOTE_PASSWORD", "sesame of ana");
    let wrong = ask(&wrong, "SELECT 1", &["--user", "eve"]);
    assert_eq!(wrong.code, Some(3));
    assert!(wrong.stderr.starts_with("error: wrong user or password\n"), "{}", wrong.stderr);
    let nobody = ask(&Project::of_models(&[]), "SELECT 1", &[]);
    assert_eq!(nobody.code, Some(3));
    assert!(nobody.stderr.contains("\nhint: "), "{}", nobody.stderr);
    // The system trusts no authority of a test, and the server nobody without a certificate.
    let line = ["query", "SELECT 1", "--remote", &address];
    let advice = "hint: a certificate of a private authority needs --tls-ca FILE, a server that \
                  wants to see one --tls-certificate and --tls-key; a server without TLS is \
                  grpc://\n";
    let unknown = ana.run(&line);
    assert_eq!(unknown.code, Some(3));
    assert!(
        unknown.stderr.starts_with(&format!("error: cannot connect to `{address}`\ncause: "))
            && unknown.stderr.contains("UnknownIssuer")
            && unknown.stderr.ends_with(advice),
        "{}",
        unknown.stderr
    );
    let unproved = ana.run(&[&line[..], &["--tls-ca", ca]].concat());
    assert_eq!(unproved.code, Some(3));
    // The server's alert may come before or after the end of the connection.
    let failed = "error: the connection to the server failed\ncause: ";
    let stderr = &unproved.stderr;
    assert!(stderr.starts_with(failed) && stderr.ends_with(advice), "{stderr}");
    for finished in [&wrong, &nobody, &unknown, &unproved, &hidden] {
        assert!(!finished.stderr.contains("sesame") && !finished.stderr.contains(&token));
    }
}

#[test]
fn credentials_stay_here_when_others_could_read_them() {
    let project = Project::of_models(&[]).with("FLOWGUARD_REMOTE_PASSWORD", "sesame");
    let refused = |project: &Project, address: &str, more: &[&str], stderr: &str| {
        let arguments = [&["query", "SELECT 1", "--remote", address], more].concat();
        let folder = project.folder().display().to_string();
        project.run(&arguments).failed(1, &[(&folder, "FOLDER")], stderr);
    };
    // An address that no packet ever reaches: nothing is sent before this is said.
    for address in ["grpc://192.0.2.1:31337", "grpc+tcp://lake.example.org:31337"] {
        refused(
            &project,
            address,
            &["--user", "ana"],
            &format!(
                "error: `{address}` is without TLS: others could read the credentials\n\
                 hint: write grpc+tls://host:port, or unset the user, password and token\n"
            ),
        );
    }
    refused(
        &project,
        "grpc+tls://ana:sesame@192.0.2.1:31337",
        &[],
        "error: `--remote` holds a user or a password, which others can see\n\
         hint: write --user NAME, and set FLOWGUARD_REMOTE_PASSWORD\n",
    );
    refused(
        &project,
        "grpc+tls://192.0.2.1:31337",
        &[],
        "error: there is a password without a user\nhint: write --user NAME\n",
    );
    refused(
        &Project::of_models(&[]),
        "grpc+tls://192.0.2.1:31337",
        &["--user", "ana"],
        "error: there is no password for `ana`\n\
         hint: set FLOWGUARD_REMOTE_PASSWORD, or instead of a user FLOWGUARD_REMOTE_TOKEN\n",
    );
    refused(
        &Project::of_models(&[]),
        "grpc+tls://192.0.2.1:31337",
        &["--tls-ca", "dags.yaml"],
        "error: `FOLDER/dags.yaml` holds no certificate in PEM form\n",
    );
}
