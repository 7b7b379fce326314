//! What the transactions of a table stand at, all of them at once: whoever takes a thousand
//! partitions over, or commits to them, asks for thousands, and a replay of the log for each would be
//! a dozen requests. Answers hold for one version and are carried to the next by reading the log
//! entries in between.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use buoyant_kernel::actions::LOG_TXN_SCHEMA;
use buoyant_kernel::engine_data::{GetData, RowVisitor, TypedGetData};
use buoyant_kernel::expressions::ColumnName;
use buoyant_kernel::schema::DataType;
use buoyant_kernel::{DeltaResult, Engine};
use deltalake::kernel::Action;
use deltalake::logstore::LogStoreRef;
use url::Url;

use super::store::store_error;
use crate::error::{Error, Result};

/// Log entries that are read to bring answers up to date; with more, the log is replayed anew.
const ENTRIES_MAX: u64 = 64;

/// By application id. What is missing was never set.
pub type Values = HashMap<Arc<str>, i64>;

/// The values of one table as last asked for, shared by its snapshots.
#[derive(Debug, Clone, Default)]
pub struct Transactions(Arc<Mutex<Known>>);

#[derive(Debug, Clone, Default)]
struct Known {
    /// Of the table; a recreated one has another, and nothing is known about it.
    table_id: String,
    version: u64,
    values: Arc<Values>,
}

/// One version of one table.
pub struct At<'a> {
    pub table_id: &'a str,
    pub version: u64,
    pub log_store: &'a LogStoreRef,
}

impl Transactions {
    /// All values in exactly that version. Reads the log entries since the version that was asked for
    /// last, or replays the log, once.
    pub async fn values(&self, at: &At<'_>) -> Result<Arc<Values>> {
        let known = self.lock().clone();
        let is_before = known.table_id == at.table_id && known.version <= at.version;
        let later = match is_before && at.version - known.version <= ENTRIES_MAX {
            true => known.advanced(at).await?,
            false => None,
        };
        let values = match later {
            Some(values) => values,
            None => Arc::new(replayed(at).await?),
        };
        let mut known = self.lock();
        if known.table_id != at.table_id || known.version < at.version {
            let (table_id, version) = (at.table_id.to_owned(), at.version);
            *known = Known { table_id, version, values: Arc::clone(&values) };
        }
        Ok(values)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The values of a later version; `None` if an entry in between is no longer there.
    async fn advanced(mut self, at: &At<'_>) -> Result<Option<Arc<Values>>> {
        for version in self.version + 1..=at.version {
            let entry = at
                .log_store
                .read_commit_entry(version)
                .await
                .map_err(|source| store_error(&reading(at), source))?;
            let Some(entry) = entry else { return Ok(None) };
            for line in entry.split(|byte| *byte == b'\n') {
                if let Ok(Action::Txn(found)) = serde_json::from_slice::<Action>(line) {
                    // Copied at most once: a snapshot may still show the version before.
                    let values = Arc::make_mut(&mut self.values);
                    values.insert(found.app_id.into(), found.version);
                }
            }
        }
        Ok(Some(self.values))
    }
}

fn reading(at: &At<'_>) -> String {
    format!(
        "cannot read the log of `{}`",
        at.log_store.root_url().path().trim_matches('/').replace('/', ".")
    )
}

/// Asks the log itself, on a thread that may wait.
async fn replayed(at: &At<'_>) -> Result<Values> {
    let (engine, root, version) =
        (at.log_store.engine(None), at.log_store.root_url().clone(), at.version);
    tokio::task::spawn_blocking(move || replay(engine.as_ref(), &root, version))
        .await
        .map_err(|source| Error::internal("reading a log stopped").source(source))?
        .map_err(|source| store_error(&reading(at), source))
}

fn replay(engine: &dyn Engine, root: &Url, version: u64) -> DeltaResult<Values> {
    let snapshot = buoyant_kernel::Snapshot::builder_for(root).at_version(version).build(engine)?;
    let mut newest = Newest::default();
    for batch in snapshot.log_segment().read_actions(engine, LOG_TXN_SCHEMA.clone())? {
        newest.visit_rows_of(batch?.actions.as_ref())?;
    }
    Ok(newest.0)
}

/// Collects the newest value of each id from batches that come newest first.
#[derive(Default)]
struct Newest(Values);

impl RowVisitor for Newest {
    fn selected_column_names_and_types(&self) -> (&'static [ColumnName], &'static [DataType]) {
        static COLUMNS: LazyLock<([ColumnName; 2], [DataType; 2])> = LazyLock::new(|| {
            let names = ["appId", "version"].map(|field| ColumnName::new(["txn", field]));
            (names, [DataType::STRING, DataType::LONG])
        });
        (&COLUMNS.0, &COLUMNS.1)
    }

    fn visit<'a>(&mut self, rows: usize, getters: &[&'a dyn GetData<'a>]) -> DeltaResult<()> {
        for row in 0..rows {
            let app_id: Option<&str> = getters[0].get_opt(row, "txn.appId")?;
            if let Some(app_id) = app_id {
                let version: i64 = getters[1].get(row, "txn.version")?;
                self.0.entry(app_id.into()).or_insert(version);
            }
        }
        Ok(())
    }
}
