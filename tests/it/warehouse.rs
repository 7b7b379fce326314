//! Warehouses that tests export to, and how to look at them without FlowGuard: a DuckDB file, a
//! database on a PostgreSQL server, a server that answers like Snowflake, a folder of files. One
//! PostgreSQL serves all tests of this process, each with a database of its own, and the one client
//! of DuckDB is asked by all of them in turn. The emulator of Snowflake computes in one thread and
//! looks at all databases for every question, so that a test has it alone.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Ending, Finished, PASSWORD, Project, finish};
use crate::services::{is_required, skipped};

/// A warehouse of one test.
pub enum Warehouse {
    Duckdb { file: PathBuf },
    Postgresql(Database),
    Snowflake(Database),
    Files { folder: PathBuf },
}

pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/warehouses")
}

/// Where drivers and clients are installed.
pub fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let installed = finish(&mut Command::new(scripts().join("install"))).succeeded();
        PathBuf::from(installed.stdout.trim())
    })
}

/// Whether drivers and clients are there; if not, after a loud word that `test` is skipped.
pub fn is_installed(test: &str) -> bool {
    static IS_INSTALLED: OnceLock<bool> = OnceLock::new();
    let is_installed = *IS_INSTALLED.get_or_init(|| {
        let mut install = Command::new(scripts().join("install"));
        is_required() || finish(install.arg("--check")).code == Some(0)
    });
    if !is_installed {
        skipped(test, "its warehouses are not installed (run `tests/warehouses/install`)");
    }
    is_installed
}

impl Warehouse {
    /// Those of SQL and a folder of files, whose tables DuckDB's client reads.
    pub fn with_files(test: &str, project: &Project) -> Vec<Self> {
        let mut all = Self::all(test, project);
        if !all.is_empty() {
            all.push(Self::Files { folder: project.folder().join("exports") });
        }
        all
    }

    /// All kinds of SQL, or none after a loud word that `test` is skipped.
    pub fn all(test: &str, project: &Project) -> Vec<Self> {
        let kinds = [Self::duckdb(test, project), Self::postgresql(test), Self::snowflake(test)];
        kinds.into_iter().flatten().collect()
    }

    pub fn duckdb(test: &str, project: &Project) -> Option<Self> {
        let file = project.folder().join("warehouse.duckdb");
        is_installed(test).then_some(Self::Duckdb { file })
    }

    pub fn postgresql(test: &str) -> Option<Self> {
        is_installed(test).then(|| Self::Postgresql(Database::new()))
    }

    pub fn snowflake(test: &str) -> Option<Self> {
        is_installed(test).then(|| Self::Snowflake(Database::alone("snowflake", "LAKE")))
    }

    /// On a server of its own, for a test that restarts it or changes or looks at what is not of one
    /// database alone. The database is called `postgres`.
    pub fn postgresql_alone(test: &str) -> Option<Self> {
        is_installed(test).then(|| Self::Postgresql(Database::alone("postgresql", "postgres")))
    }

    /// Writes the target into the project, as `here`.
    pub fn configure(&self, project: &Project, select: &str) {
        let (driver, place, library) = match self {
            Self::Duckdb { .. } => {
                ("duckdb", "path: warehouse.duckdb".to_owned(), Some("libduckdb.so"))
            }
            Self::Postgresql(Database { server, name }) => {
                let uri = format!("uri: \"postgresql://owner@127.0.0.1:{}/{name}\"", server.port);
                ("postgresql", uri, Some("libadbc_driver_postgresql.so"))
            }
            Self::Snowflake(Database { server, name }) => {
                let uri = format!(
                    "uri: \"snowflake://me:${{{}}}@fakesnow/{name}?warehouse=LOAD_WH&protocol=http\
                     &host=127.0.0.1&port={}\"",
                    PASSWORD.0, server.port
                );
                ("snowflake", uri, Some("libadbc_driver_snowflake.so"))
            }
            Self::Files { .. } => ("files", "path: exports".to_owned(), None),
        };
        // Names as the other targets have them, unless a test asks for others.
        let identifiers = match self {
            Self::Snowflake { .. } => ", identifiers: as_written",
            _ => "",
        };
        let library = library.map(|library| {
            format!(", library: \"{}\"", home().join("drivers").join(library).display())
        });
        project.write(
            "dags.yaml",
            &format!(
                "version: 1\ntargets:\n  here: {{driver: {driver}, {place}{identifiers}{}}}\n\
                 exports:\n  nightly: {{target: here, select: [{select}]}}\n",
                library.unwrap_or_default()
            ),
        );
    }

    /// What its own client says, a line per row.
    pub fn ask(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Duckdb { file } => ask_reader(&json!({"database": file, "sql": sql})),
            Self::Files { folder } => ask_reader(&json!({"files": folder, "sql": sql})),
            Self::Postgresql(Database { server, name }) => server.rows(&["sql", name, sql]),
            Self::Snowflake(Database { server, .. }) => server.rows(&["sql", sql]),
        }
    }
}

impl Warehouse {
    /// Whether a process that ended has left work for the next one: DuckDB's own log is gone after
    /// an orderly end.
    pub fn was_cut_short(&self) -> bool {
        matches!(self, Self::Duckdb { file } if file.with_extension("duckdb.wal").exists())
    }
}

/// A database of one test, on a server that others may use as well.
pub struct Database {
    server: Arc<Server>,
    name: String,
}

impl Database {
    fn new() -> Self {
        static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let server = SERVER.get_or_init(|| Arc::new(Server::start("postgresql")));
        let name = format!("test_{}", MADE.fetch_add(1, Ordering::Relaxed));
        server.call(&["create", &name]).succeeded();
        Self { server: Arc::clone(server), name }
    }

    fn alone(script: &str, name: &str) -> Self {
        Self { server: Arc::new(Server::start(script)), name: name.to_owned() }
    }

    /// Asks the server to do something, in the words of its script.
    pub fn call_server(&self, what: &str) -> Finished {
        self.server.call(&[what])
    }

    /// Runs a script, to its first error.
    pub fn run(&self, script: &str) -> Finished {
        let file = self.server.folder.join("script.sql");
        std::fs::write(&file, script).unwrap();
        let mut command = self.server.command(&["run"]);
        finish(command.stdin(std::fs::File::open(file).unwrap()))
    }
}

/// Started by a script, and ended by it, at the latest with this process.
struct Server {
    script: PathBuf,
    folder: PathBuf,
    port: String,
    _ending: Ending,
}

impl Server {
    fn start(script: &str) -> Self {
        // PostgreSQL runs as another user, who may not see a temporary folder of this one's own.
        let folder = TempDir::new_in("/tmp").unwrap().keep();
        finish(Command::new("chmod").arg("755").arg(&folder)).succeeded();
        let script = scripts().join(script);
        let mut stop = Command::new(&script);
        stop.arg("stop").arg(folder.join("server"));
        let ending = Ending::of(&folder, &stop);
        let mut server = Self { script, folder, port: String::new(), _ending: ending };
        server.port = server.call(&["start"]).succeeded().stdout.trim().to_owned();
        server
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (what, others) = arguments.split_first().expect("what to do");
        let mut command = Command::new(&self.script);
        command.arg(what).arg(self.folder.join("server")).args(others);
        command
    }

    fn call(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.command(arguments))
    }

    fn rows(&self, arguments: &[&str]) -> Vec<String> {
        self.call(arguments).succeeded().stdout.lines().map(str::to_owned).collect()
    }
}

/// Rows of a table of the project's lake as DuckDB reads them, sorted.
pub fn lake_rows(project: &Project, table: &str, expression: &str) -> Vec<String> {
    let folder = project.folder().join(".flowguard").join(table.replace('.', "/"));
    let mut rows = ask_reader(&json!({"table": folder, "expression": expression}));
    rows.sort();
    rows
}

/// DuckDB's client in a process that ends with this one, when its input does.
struct Reader {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    #[expect(clippy::zombie_processes, reason = "it ends when this process is gone")]
    fn start() -> Self {
        let mut client = Command::new(home().join("python/bin/python"))
            .arg("-B")
            .arg(scripts().join("reader.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(client.stdout.take().unwrap());
        Self { requests: client.stdin.take().unwrap(), answers }
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

fn ask_reader(request: &Value) -> Vec<String> {
    let answer = answer_of(request);
    assert_eq!(answer["error"], Value::Null, "{request}");
    let rows = answer["rows"].as_array().unwrap();
    rows.iter().map(|row| row.as_str().unwrap().to_owned()).collect()
}

fn answer_of(request: &Value) -> Value {
    static READER: Mutex<Option<Reader>> = Mutex::new(None);
    let mut reader = READER.lock().unwrap_or_else(PoisonError::into_inner);
    reader.get_or_insert_with(Reader::start).ask(request)
}
