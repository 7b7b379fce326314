//! The warehouses, their drivers without FlowGuard, and PostgreSQL's own client.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use adbc_core::options::{AdbcVersion, IngestMode, OptionDatabase, OptionStatement};
use adbc_core::{Connection as _, Database as _, Driver as _, Optionable as _, Statement as _};
use adbc_driver_manager::{ManagedConnection, ManagedDriver};
use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::csv::Writer;
use tempfile::TempDir;

const COLUMNS: &str = "id text, user_id text, item bigint, price numeric(10,2), \
                       quantity integer, score double precision, \"at\" timestamp with time zone";
/// Rows that nobody accounts for.
const BARE: &str = "bare";

/// What `tests/warehouses/install` fetched.
pub struct Installed {
    drivers: PathBuf,
    folder: TempDir,
}

/// Ends with the value if it is a server.
pub struct Warehouse {
    driver: &'static str,
    library: PathBuf,
    entrypoint: Option<&'static [u8]>,
    /// File of DuckDB, or address of PostgreSQL.
    place: String,
    /// Of the server.
    folder: Option<PathBuf>,
    scratch: PathBuf,
}

impl Installed {
    pub fn find() -> Self {
        let output = Command::new(scripts().join("install")).output().expect("the script starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let home = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let folder = TempDir::new_in("/tmp").expect("a folder");
        // PostgreSQL may run as another user.
        let opened = Command::new("chmod").arg("755").arg(folder.path()).status();
        assert!(opened.is_ok_and(|status| status.success()), "the folder is ours");
        Self { drivers: home.join("drivers"), folder }
    }

    pub fn duckdb(&self) -> Warehouse {
        let file = self.folder.path().join("warehouse.duckdb");
        Warehouse {
            driver: "duckdb",
            library: self.drivers.join("libduckdb.so"),
            entrypoint: Some(b"duckdb_adbc_init"),
            place: file.display().to_string(),
            folder: None,
            scratch: self.folder.path().to_owned(),
        }
    }

    pub fn postgresql(&self) -> Warehouse {
        let folder = self.folder.path().join("server");
        let port = postgresql("start", &folder, &[]);
        Warehouse {
            driver: "postgresql",
            library: self.drivers.join("libadbc_driver_postgresql.so"),
            entrypoint: None,
            place: format!("postgresql://owner@127.0.0.1:{}/postgres", port.trim()),
            folder: Some(folder),
            scratch: self.folder.path().to_owned(),
        }
    }
}

impl Drop for Warehouse {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            postgresql("stop", folder, &[]);
        }
    }
}

impl Warehouse {
    pub fn name(&self) -> &str {
        self.driver
    }

    /// Makes it the project's only target.
    pub fn configure(&self, project: &Path) {
        let key = if self.folder.is_some() { "uri" } else { "path" };
        let text = format!(
            "version: 1\ntargets:\n  here: {{driver: {}, {key}: \"{}\", library: \"{}\"}}\n\
             exports:\n  all: {{target: here, select: [silver.*]}}\n",
            self.driver,
            self.place,
            self.library.display()
        );
        std::fs::write(project.join("dags.yaml"), text).expect("the folder is writable");
    }

    /// Leaves nothing of what was exported.
    pub fn clear(&self) {
        match &self.folder {
            None => {
                let _ = std::fs::remove_file(&self.place);
            }
            Some(folder) => {
                let drop = "DROP SCHEMA IF EXISTS silver, flowguard CASCADE";
                postgresql("sql", folder, &[drop]);
                postgresql("sql", folder, &["VACUUM"]);
            }
        }
    }

    /// Seconds that the driver alone takes, from connecting to the end.
    pub fn ingest(&self, batches: Vec<RecordBatch>) -> f64 {
        self.make_bare();
        let schema = batches[0].schema();
        let rows = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
        let start = Instant::now();
        let mut connection = self.connect();
        let mut statement = connection.new_statement().expect("a statement");
        for (option, value) in [
            (OptionStatement::TargetTable, BARE.into()),
            (OptionStatement::IngestMode, IngestMode::Append.into()),
        ] {
            statement.set_option(option, value).expect("the driver knows it");
        }
        statement.bind_stream(Box::new(rows)).expect("rows");
        statement.execute_update().expect("they are loaded");
        drop((statement, connection));
        start.elapsed().as_secs_f64()
    }

    /// Seconds that PostgreSQL's own client takes for the same rows as CSV.
    pub fn copy(&self, batches: &[RecordBatch]) -> Option<f64> {
        let folder = self.folder.as_ref()?;
        let file = self.scratch.join("rows.csv");
        if !file.exists() {
            let mut writer = Writer::new(File::create(&file).expect("a file"));
            batches.iter().for_each(|batch| writer.write(batch).expect("text"));
        }
        self.make_bare();
        let start = Instant::now();
        let copy = format!("\\copy {BARE} FROM '{}' WITH (FORMAT csv, HEADER)", file.display());
        postgresql("sql", folder, &[&copy]);
        Some(start.elapsed().as_secs_f64())
    }

    fn make_bare(&self) {
        let mut connection = self.connect();
        for sql in
            [format!("DROP TABLE IF EXISTS {BARE}"), format!("CREATE TABLE {BARE} ({COLUMNS})")]
        {
            let mut statement = connection.new_statement().expect("a statement");
            statement.set_sql_query(sql).expect("the driver takes it");
            statement.execute_update().expect("it runs");
        }
    }

    fn connect(&self) -> ManagedConnection {
        let (library, version) = (&self.library, AdbcVersion::V110);
        let driver = ManagedDriver::load_dynamic_from_filename(library, self.entrypoint, version);
        let key = if self.folder.is_some() { "uri" } else { "path" };
        let options = [(OptionDatabase::from(key), self.place.as_str().into())];
        let mut driver = driver.expect("the driver is loaded");
        let database = driver.new_database_with_opts(options).expect("a database");
        database.new_connection().expect("it listens")
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/warehouses")
}

fn postgresql(what: &str, folder: &Path, others: &[&str]) -> String {
    let mut command = Command::new(scripts().join("postgresql"));
    let output = command.arg(what).arg(folder).args(others).output().expect("the script starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
