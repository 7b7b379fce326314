//! What the transactions of a table stand at, without replaying its log for each question: a
//! commit asks for several, and on an object store every replay is a dozen requests. Answers hold
//! for one version and are carried to the next by reading the log entries in between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltalake::kernel::Action;
use deltalake::logstore::LogStoreRef;

use super::store::store_error;
use crate::error::Result;

/// Log entries that are read to bring answers up to date; with more, the log is asked anew.
const ENTRIES_MAX: u64 = 64;

/// Answers about one table, shared by its snapshots.
#[derive(Debug, Clone, Default)]
pub struct Transactions(Arc<Mutex<Known>>);

#[derive(Debug, Clone, Default)]
struct Known {
    /// Of the table; a recreated one has another, and nothing is known about it.
    table_id: String,
    version: u64,
    /// `None`: the log was asked and knows no such transaction.
    values: HashMap<String, Option<i64>>,
}

/// One version of one table.
pub struct At<'a> {
    pub table_id: &'a str,
    pub version: u64,
    pub log_store: &'a LogStoreRef,
}

impl Transactions {
    /// The value of `app_id` in exactly that version, or `None` if the log itself must be asked;
    /// [`Self::note`] takes its answer.
    pub async fn value(&self, at: &At<'_>, app_id: &str) -> Result<Option<Option<i64>>> {
        let mut known = self.lock().clone();
        if known.table_id != at.table_id || known.version > at.version {
            return Ok(None);
        }
        if at.version - known.version > ENTRIES_MAX {
            return Ok(None);
        }
        if known.version < at.version {
            known.advance(at).await?;
            let mut shared = self.lock();
            if shared.table_id == known.table_id && shared.version < known.version {
                *shared = known.clone();
            }
        }
        Ok(known.values.get(app_id).copied())
    }

    /// Keeps an answer of the log, unless newer ones are kept already.
    pub fn note(&self, at: &At<'_>, app_id: &str, value: Option<i64>) {
        let mut known = self.lock();
        if known.table_id == at.table_id && known.version > at.version {
            return;
        }
        if known.table_id != at.table_id || known.version < at.version {
            let table_id = at.table_id.to_owned();
            *known = Known { table_id, version: at.version, values: HashMap::new() };
        }
        known.values.insert(app_id.to_owned(), value);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Goes on to a later version; forgets everything if an entry is no longer there.
    async fn advance(&mut self, at: &At<'_>) -> Result<()> {
        for version in self.version + 1..=at.version {
            let entry = at.log_store.read_commit_entry(version).await.map_err(|source| {
                store_error(
                    &format!("cannot read the log of `{}`", at.log_store.root_url()),
                    source,
                )
            })?;
            let Some(entry) = entry else {
                self.values.clear();
                break;
            };
            for line in entry.split(|byte| *byte == b'\n') {
                if let Ok(Action::Txn(found)) = serde_json::from_slice::<Action>(line) {
                    self.values.insert(found.app_id, Some(found.version));
                }
            }
        }
        self.version = at.version;
        Ok(())
    }
}
