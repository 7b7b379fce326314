//! Runs the built program on a project of the test's own, with an environment of the test's own.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::AsArray;
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema};
use tempfile::TempDir;

use crate::services::{Services, User};

/// The topics of the reference models.
pub const ORDERS: &str = "raw.orders.v1";
pub const CLICKS: &str = "raw.clicks.v1";

/// Arguments of a demo that is filled in a second or two.
pub const SMALL_DEMO: [&str; 6] = ["--orders", "500", "--clicks", "2000", "--days", "2"];

/// A variable of every project's environment, for warehouses that want a password.
pub const PASSWORD: (&str, &str) = ("WAREHOUSE_PASSWORD", "a plain word");

/// A project folder and the environment that the program sees; clones share the folder.
#[derive(Clone)]
pub struct Project {
    /// Removed with the last clone.
    folder: Arc<TempDir>,
    /// The lake's, if it is the project's own outside of its folder; removed likewise.
    lake: Option<Arc<TempDir>>,
    environment: BTreeMap<String, String>,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    /// The reference project with the lake in a folder or at an URL.
    pub fn on_lake(lake: impl AsRef<Path>) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        copy(Path::new(env!("CARGO_MANIFEST_DIR")), folder.path(), "dags.yaml");
        for layer in ["bronze", "silver", "gold"] {
            copy(Path::new(env!("CARGO_MANIFEST_DIR")), folder.path(), &format!("sql/{layer}"));
        }
        let lake = lake.as_ref().to_str().expect("a path in UTF-8").to_owned();
        let environment = ["PATH", "HOME", "TMPDIR"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        Self { folder: Arc::new(folder), lake: None, environment: environment.collect() }
            .with("FLOWGUARD_LAKE", &lake)
            .with(PASSWORD.0, PASSWORD.1)
    }

    /// The reference project on a lake of its own that `flowguard demo` filled. What it fills for
    /// given arguments it fills once, and projects have copies.
    pub fn of_demo(arguments: &[&str]) -> Self {
        let lake = TempDir::new().expect("a temporary folder");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(demo_lake(arguments).join(".")).arg(lake.path());
        finish(&mut copy).succeeded();
        let project = Self::on_lake(lake.path());
        Self { lake: Some(Arc::new(lake)), ..project }
    }

    /// A project of the given models, whose files are named without `sql/` and `.sql`, on a lake
    /// in its own folder.
    pub fn of_models(models: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let environment = BTreeMap::new();
        let project = Self { folder: Arc::new(folder), lake: None, environment };
        let project = project.with(PASSWORD.0, PASSWORD.1);
        project.write("dags.yaml", "version: 1\ndags: {}\n");
        std::fs::create_dir(project.folder().join("sql")).expect("a new folder");
        for (model, text) in models {
            project.write(&format!("sql/{model}.sql"), text);
        }
        project
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the lake that `of_demo` made.
    pub fn lake(&self) -> &Path {
        self.lake.as_ref().expect("a lake of the project's own").path()
    }

    pub fn write(&self, path: &str, text: &str) {
        let file = self.folder().join(path);
        let above = file.parent().expect("a path in the project");
        std::fs::create_dir_all(above).expect("a new folder");
        std::fs::write(file, text).expect("the project is writable");
    }

    /// The reference project on real services: the lake at `path` of the bucket, as `user`, its
    /// topics named for this run. The topics are not created here.
    pub fn on_services(services: &Services, user: User, path: &str) -> Self {
        let bucket = &services.s3_bucket;
        let project = Self::on_lake(format!("s3://{bucket}/{path}"))
            .with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", &services.kafka)
            .with("FLOWGUARD_S3_ENDPOINT", &services.s3_endpoint)
            .with("FLOWGUARD_S3_REGION", &services.s3_region)
            .with("FLOWGUARD_S3_ALLOW_HTTP", "true")
            .with_user(user);
        for (model, topic) in [("orders_raw", ORDERS), ("clicks_raw", CLICKS)] {
            let file = project.folder.path().join(format!("sql/bronze/{model}.sql"));
            let sql = std::fs::read_to_string(&file).expect("a reference model");
            let renamed = sql.replace(topic, &Self::topic(services, topic));
            assert_ne!(sql, renamed, "`{model}` reads `{topic}`");
            std::fs::write(file, renamed).expect("the copy is writable");
        }
        project
    }

    /// What a reference topic is called in this run.
    pub fn topic(services: &Services, reference: &str) -> String {
        format!("test.{}.{reference}", services.nonce)
    }

    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.insert(variable.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn with_user(self, user: User) -> Self {
        let (key, secret) = user.keys();
        self.with("FLOWGUARD_S3_ACCESS_KEY_ID", &key)
            .with("FLOWGUARD_S3_SECRET_ACCESS_KEY", &secret)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_through(&[], arguments)
    }

    /// The program started by another one, such as `setpriv`.
    pub fn command_through(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let program = [env!("CARGO_BIN_EXE_flowguard")];
        let mut line = wrapper.iter().chain(&program).chain(arguments);
        let mut command = Command::new(line.next().expect("the program at least"));
        command.args(line).current_dir(self.folder.path()).env_clear().envs(&self.environment);
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.command(arguments))
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut pipe = child.stdin.take().expect("a pipe was asked for");
        pipe.write_all(input.as_bytes()).expect("the program reads its input");
        drop(pipe);
        finished(child.wait_with_output().expect("the program ends"))
    }

    /// What a statement gives, as text: empty for null. Columns need plain names.
    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let answer = self.run(&["query", "--output", "csv", sql]).succeeded();
        read_csv(&answer.stdout)
    }
}

/// Runs a command and removes a folder when it is dropped, or as soon as this process is gone,
/// however that came: nothing drops a static, and `kill -9` drops nothing at all.
pub struct Ending(Child);

impl Ending {
    /// What it waits for is the end of its input, which nobody but this process holds open.
    const WAIT: &str = r#"cat >/dev/null; "$@"; rm -rf "$0""#;

    pub fn of(folder: &Path, command: &Command) -> Self {
        let mut waiting = Command::new("sh");
        waiting.args(["-c", Self::WAIT]).arg(folder);
        waiting.arg(command.get_program()).args(command.get_args());
        waiting.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Whoever kills the tests' process group does not mean it.
        Self(waiting.process_group(0).spawn().expect("`sh` is installed"))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub fn finish(command: &mut Command) -> Finished {
    finished(command.output().expect("the program starts"))
}

fn finished(output: std::process::Output) -> Finished {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program speaks UTF-8");
    Finished {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Finished {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Without the log's lines, which begin with a time.
    pub fn without_logs(mut self) -> Self {
        let kept = self.stderr.lines().filter(|line| !line.starts_with("20"));
        self.stderr = kept.map(|line| format!("{line}\n")).collect();
        self
    }

    /// Checks the exit code and all of standard error; `replaced` gives texts that differ from
    /// run to run and what stands for them.
    #[track_caller]
    pub fn failed(&self, code: i32, replaced: &[(&str, &str)], stderr: &str) {
        let mut said = self.stderr.clone();
        for (text, stands_for) in replaced {
            said = said.replace(text, stands_for);
        }
        assert_eq!((self.code, said.as_str()), (Some(code), stderr), "{}", self.stdout);
    }
}

/// A lake that `flowguard demo` filled, for everyone to read and nobody to write.
pub fn demo_lake(arguments: &[&str]) -> PathBuf {
    static LAKES: Mutex<Option<HashMap<String, Arc<OnceLock<PathBuf>>>>> = Mutex::new(None);
    let name = ["demo", &arguments.join("").replace("--", "-")].concat();
    let mut lakes = LAKES.lock().unwrap_or_else(PoisonError::into_inner);
    let lake = Arc::clone(lakes.get_or_insert_default().entry(name.clone()).or_default());
    // Another one may be made at the same time.
    drop(lakes);
    let made = lake.get_or_init(|| {
        let folder = kept_folder(&name);
        Project::on_lake(&folder).run(&[&["demo"], arguments].concat()).succeeded();
        folder
    });
    made.clone()
}

/// A model file: header lines, then SQL.
pub fn model(header: &str, sql: &str) -> String {
    let header: Vec<String> = header.trim().lines().map(|line| format!("-- {line}")).collect();
    format!("-- /// flowguard\n{}\n-- ///\n{}\n", header.join("\n"), sql.trim())
}

fn copy(from: &Path, to: &Path, what: &str) {
    let (from, to) = (from.join(what), to.join(what));
    if from.is_dir() {
        std::fs::create_dir_all(&to).expect("a new folder");
        let entries = std::fs::read_dir(&from).expect("a folder of the repository");
        for entry in entries {
            let name = entry.expect("an entry").file_name();
            copy(&from, &to, name.to_str().expect("a name in UTF-8"));
        }
    } else {
        std::fs::copy(&from, &to).expect("a file of the repository");
    }
}

/// Where a folder that belongs to a test outlives it, to look at after a failure.
pub fn kept_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests is writable");
    folder
}

fn read_csv(text: &str) -> Vec<Vec<String>> {
    let Some(header) = text.lines().next() else { return Vec::new() };
    let columns = header.split(',').map(|name| Field::new(name, DataType::Utf8, true));
    let schema = Arc::new(Schema::new(columns.collect::<Vec<_>>()));
    let reader = ReaderBuilder::new(schema).with_header(true).build(text.as_bytes());
    let mut rows = Vec::new();
    for batch in reader.expect("a header was read") {
        let batch = batch.expect("the program writes proper CSV");
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| {
                let column = column.as_string::<i32>();
                if arrow::array::Array::is_null(column, row) { "" } else { column.value(row) }
            });
            rows.push(cells.map(str::to_owned).collect());
        }
    }
    rows
}
