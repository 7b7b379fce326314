//! Flight SQL clients that nobody here wrote, as whole scripts on the built program's server:
//! ADBC, pandas, Polars and pyarrow in Python, the JDBC driver, and ADBC's own validation suite in
//! Go. `tests/clients/` holds the scripts and installs what they need.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clients_in_rust::last_days;
use crate::program::{Project, demo_lake, finish, model};
use crate::services::{is_required, say, skipped};

/// From a client's end to that of its statements.
const REST_WAIT_MAX: Duration = Duration::from_secs(20);

/// Where the clients are installed, or `None` after a loud word that `test` is skipped. With
/// `FLOWGUARD_TEST_REQUIRED=1` a failing installation is a failure.
pub fn installed(test: &str) -> Option<PathBuf> {
    static HOME: OnceLock<Option<PathBuf>> = OnceLock::new();
    let home = HOME.get_or_init(|| match is_required() || complete() {
        true => {
            let found = finish(&mut Command::new(scripts().join("install"))).succeeded();
            Some(PathBuf::from(found.stdout.trim()))
        }
        false => None,
    });
    if home.is_none() {
        skipped(test, "its clients are not installed (run `tests/clients/install`)");
    }
    home.clone()
}

/// Whether the installation is there, so that the script has nothing to fetch.
fn complete() -> bool {
    finish(Command::new(scripts().join("install")).arg("--check")).code == Some(0)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A running `flowguard serve`, ended with this value.
struct Server {
    /// Without its folder a server has no models, and knows no keys.
    _project: Project,
    child: Child,
    flight: String,
    http: String,
}

impl Server {
    fn start(project: Project, settings: &[&str]) -> Self {
        let mut arguments = vec!["serve", "--only", "flight,http", "--output", "json"];
        let free_ports = ["server.flight_address=127.0.0.1:0", "server.http_address=127.0.0.1:0"];
        for setting in free_ports.iter().chain(settings) {
            arguments.extend(["--set", *setting]);
        }
        let mut command = project.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("the program speaks");
        let ready: Value = serde_json::from_str(&line).expect("one line of JSON once it listens");
        let address = |name: &str| ready[name].as_str().expect("an address").to_owned();
        Self { _project: project, child, flight: address("flight"), http: address("http") }
    }

    /// Waits until no statement runs and no memory is held: what clients cancelled or left unread
    /// must end on the server too.
    #[track_caller]
    fn comes_to_rest(&self) {
        let idle = ["flowguard_statements_running 0", "flowguard_engine_memory_bytes 0"];
        let deadline = Instant::now() + REST_WAIT_MAX;
        loop {
            let url = format!("http://{}/metrics", self.http);
            let metrics = finish(Command::new("curl").args(["-sSf", &url])).succeeded().stdout;
            if idle.iter().all(|line| metrics.lines().any(|found| found == *line)) {
                return;
            }
            assert!(Instant::now() < deadline, "statements go on:\n{metrics}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.flight)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On the demo's lake; what it holds is known to the last cent.
fn demo() -> Project {
    Project::on_lake(demo_lake(&[]))
}

/// Runs a client's script and says how many of its checks passed.
#[track_caller]
pub fn run(name: &str, command: &mut Command) {
    let finished = finish(command);
    let last = finished.stdout.lines().last().unwrap_or_default();
    assert_eq!(finished.code, Some(0), "{name}:\n{}\n{}", finished.stdout, finished.stderr);
    assert!(last.ends_with(" passed, 0 failed"), "{name}: {last}");
    say(&format!("{name}: {last}"));
}

pub fn python(home: &Path, script: &str, url: &str) -> Command {
    let mut command = Command::new(home.join("python/bin/python"));
    command.arg("-B").arg(scripts().join(script)).arg(url);
    command
}

fn java(driver: &Path, script: &str, url: &str) -> Command {
    let mut command = Command::new("java");
    command
        // Wherever the test runs, times must come out as they are.
        .args(["--add-opens=java.base/java.nio=ALL-UNNAMED", "-Duser.timezone=America/New_York"])
        .arg("-cp")
        .arg(driver)
        .arg(scripts().join(script))
        .arg(url);
    command
}

fn drivers(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.join("jdbc")).expect("the folder of drivers");
    let mut drivers: Vec<PathBuf> = entries.map(|entry| entry.expect("a driver").path()).collect();
    drivers.sort();
    assert!(!drivers.is_empty(), "no JDBC driver is installed");
    drivers
}

#[test]
fn adbc_for_python() {
    let Some(home) = installed("clients::adbc_for_python") else { return };
    let server = Server::start(demo(), &[]);
    run("adbc.py", &mut python(&home, "adbc.py", &server.url("grpc")));
    server.comes_to_rest();
}

#[test]
fn pandas_and_polars() {
    let Some(home) = installed("clients::pandas_and_polars") else { return };
    let server = Server::start(demo(), &[]);
    run("frames.py", &mut python(&home, "frames.py", &server.url("grpc")));
    server.comes_to_rest();
}

#[test]
fn pyarrow_flight() {
    let Some(home) = installed("clients::pyarrow_flight") else { return };
    let server = Server::start(demo(), &[]);
    run("flight.py", &mut python(&home, "flight.py", &server.url("grpc")));
    server.comes_to_rest();
}

#[test]
fn jdbc_drivers() {
    let Some(home) = installed("clients::jdbc_drivers") else { return };
    let server = Server::start(demo(), &[]);
    for driver in drivers(&home) {
        let url = server.url("jdbc:arrow-flight-sql");
        let name = driver.file_name().expect("a file").to_string_lossy().into_owned();
        run(&name, java(&driver, "Jdbc.java", &url).arg("useEncryption=false"));
    }
    server.comes_to_rest();
}

#[test]
fn adbc_validation_suite() {
    let Some(_) = installed("clients::adbc_validation_suite") else { return };
    // The tables that the suite would make by DDL, could it write.
    let table = |number: &str| {
        let columns =
            format!("columns:\n  {number}: {{type: bigint}}\n  strings: {{type: string}}");
        let values = "VALUES (42, 'foo'), (-42, NULL), (NULL, '')";
        let sql = format!("SELECT * FROM ({values}) AS sample ({number}, strings)");
        model(&format!("kind: full\n{columns}"), &sql)
    };
    let (bulk_ingest, sample_test) = (table("int64s"), table("ints"));
    let project = Project::of_models(&[
        ("gold/bulk_ingest", &bulk_ingest),
        ("gold/sample_test", &sample_test),
    ]);
    project.run(&["run"]).succeeded();
    let server = Server::start(project, &[]);
    let (arrow_major, _) = arrow::ARROW_VERSION.split_once('.').expect("a version");
    let mut command = Command::new("go");
    command
        .args(["test", "-count=1", "-v", "."])
        .current_dir(scripts().join("validation"))
        .env("FLOWGUARD_TEST_URL", server.url("grpc"))
        .env("FLOWGUARD_TEST_VERSION", env!("CARGO_PKG_VERSION"))
        .env("FLOWGUARD_TEST_ARROW_VERSION", arrow_major);
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    let count = |what: &str| finished.stdout.matches(what).count();
    let (passed, left_out) = (count("--- PASS: "), count("--- SKIP: "));
    assert!(passed > left_out, "{}", finished.stdout);
    say(&format!("ADBC's validation suite: {passed} passed, {left_out} do not apply"));
}

/// Every program of `docs/clients.md`, with all that it prints.
#[test]
fn examples() {
    let Some(home) = installed("clients::examples") else { return };
    let server = Server::start(demo(), &[]);
    let grpc = server.url("grpc");
    let days = "2026-01-11 32885.32\n2026-01-10 32718.10\n";
    let prints = |command: &mut Command, expected: &str| {
        let finished = finish(command).succeeded();
        assert_eq!(finished.stdout, expected, "{command:?}\n{}", finished.stderr);
    };
    let in_order = "2026-01-10 32718.10\n2026-01-11 32885.32\n";
    prints(&mut python(&home, "examples/with_adbc.py", &grpc), in_order);
    prints(&mut python(&home, "examples/with_pandas.py", &grpc), "19961 228904.49\n");
    prints(&mut python(&home, "examples/with_polars.py", &grpc), "19961 228904.49\n");
    for driver in drivers(&home) {
        let url = format!("{}?useEncryption=false", server.url("jdbc:arrow-flight-sql"));
        prints(&mut java(&driver, "examples/WithJdbc.java", &url), days);
    }
    let mut go = Command::new("go");
    go.args(["run", "./example", &grpc]).current_dir(scripts().join("validation"));
    // Arrow for Go writes a decimal without zeros at its end.
    prints(&mut go, "2026-01-11 32885.32\n2026-01-10 32718.1\n");
    let csv = format!("order_date,gmv\n{}", days.replace(' ', ","));
    let mut curl = Command::new(scripts().join("examples/with_curl.sh"));
    prints(curl.arg(format!("http://{}", server.http)), &csv);
    let mut own = Command::new(scripts().join("examples/with_flowguard.sh"));
    prints(
        own.arg(&grpc).env("PATH", path_with_the_program()),
        &format!("{csv}orders\n19961\ngmv\n228904.49\n"),
    );
    let table = "\
+------------+----------+
| order_date | gmv      |
+------------+----------+
| 2026-01-11 | 32885.32 |
| 2026-01-10 | 32718.10 |
+------------+----------+";
    assert_eq!(last_days(server.url("http")), table);
}

fn path_with_the_program() -> String {
    let folder = Path::new(env!("CARGO_BIN_EXE_flowguard")).parent().expect("a folder");
    format!("{}:{}", folder.display(), std::env::var("PATH").expect("tools are found by it"))
}

/// What the page shows is what `examples` and the scripts run.
#[test]
fn the_page_shows_what_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/clients.md")).expect("the page");
    let mut blocks = 0;
    // A line that names a file, then a fenced block of that file.
    let parts: Vec<&str> = page.split("```").collect();
    for pair in parts.chunks_exact(2) {
        let above = pair[0].trim_end().lines().last().expect("a line above the block");
        let (language, block) = pair[1].split_once('\n').expect("a language and a block");
        // Grafana's own, which no program runs.
        if language.is_empty() {
            continue;
        }
        let file = above.split('`').nth_back(1).expect("a file above the block");
        let text = std::fs::read_to_string(root.join(file)).expect(file);
        assert!(text.contains(block), "{file} does not hold\n{block}");
        blocks += 1;
    }
    assert_eq!(blocks, 11);
}

/// A certificate for this machine's own address, and its key, in a folder of the test's own.
fn certificate(folder: &Path) -> (String, String) {
    let path = |name: &str| folder.join(name).to_str().expect("a path in UTF-8").to_owned();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    finish(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args([
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-addext",
                "basicConstraints=CA:FALSE",
            ])
            .args(["-keyout", &key, "-out", &certificate]),
    )
    .succeeded();
    (certificate, key)
}

/// The same scripts under TLS, by users who have to say who they are.
#[test]
fn users_over_tls() {
    let Some(home) = installed("clients::users_over_tls") else { return };
    let project = demo();
    let (certificate, key) = certificate(project.folder());
    for (user, role) in [("ada", "analyst"), ("emil", "engineer"), ("anna", "admin")] {
        let add = ["user", "add", user, "--role", role, "--password-stdin"];
        project.run_with_input(&add, &format!("{user} of the lake\n")).succeeded();
    }
    let token = |user: &str| {
        let made = project.run(&["user", "token", user]).succeeded();
        made.stdout.trim().to_owned()
    };
    let (token_of_ada, token_of_emil) = (token("ada"), token("emil"));
    let store = project.folder().join("trust.p12");
    let server = Server::start(
        project,
        &[&format!("server.tls_certificate={certificate}"), &format!("server.tls_key={key}")],
    );
    let url = server.url("grpc+tls");
    let by_password = ["--user", "emil", "--password", "emil of the lake"];
    let by_token = ["--token", &token_of_emil];
    let secured = |script: &str, who: &[&str]| {
        let mut command = python(&home, script, &url);
        command.args(["--certificate", &certificate]).args(who);
        run(&format!("{script} over TLS"), &mut command);
    };
    secured("adbc.py", &by_password);
    secured("frames.py", &by_token);
    secured("flight.py", &by_password);
    secured("flight.py", &by_token);
    let roles = ["--analyst", "ada:ada of the lake", "--engineer", "emil:emil of the lake"];
    let more = ["--admin", "anna:anna of the lake", "--token", &token_of_ada];
    secured("roles.py", &[roles, more].concat());

    finish(
        Command::new("keytool")
            .args(["-importcert", "-noprompt", "-alias", "lake", "-file", &certificate])
            .args(["-storetype", "PKCS12", "-storepass", "changeit", "-keystore"])
            .arg(&store),
    )
    .succeeded();
    let trust_store = format!("trustStore={}", store.display());
    let url = server.url("jdbc:arrow-flight-sql");
    for driver in drivers(&home) {
        let secrets = ["user=emil", "password=emil of the lake", "trustStorePassword=changeit"];
        // Or else the driver looks no further than the system's own.
        let this_one = "useSystemTrustStore=false";
        let mut all = java(&driver, "Jdbc.java", &url);
        run("Jdbc.java over TLS", all.args(secrets).args([this_one, &trust_store]));
        for trust in
            [format!("tlsRootCerts={certificate}"), "disableCertificateVerification=1".into()]
        {
            let url = format!("{url}?token={token_of_emil}&{trust}");
            finish(&mut java(&driver, "examples/WithJdbc.java", &url)).succeeded();
        }
    }
}
