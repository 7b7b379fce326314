//! A table as it was last loaded, and the cheap question whether that is still its newest version:
//! two small requests, where loading anew lists the log.

use std::sync::{Arc, OnceLock};

use deltalake::DeltaTable;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::entries::file_name;

/// A table as it was last loaded, so that only newer log entries are read.
#[derive(Clone)]
pub struct Loaded {
    pub table: DeltaTable,
    /// The newest log entry, as first asked for.
    entry: Arc<OnceLock<ObjectMeta>>,
}

/// How a table that was loaded stands to the one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Newest,
    /// There are later versions of it, or the store doesn't say.
    Older,
    /// It is no longer there; another may be in its place.
    Other,
}

impl Loaded {
    pub fn new(table: DeltaTable) -> Self {
        Self { table, entry: Arc::default() }
    }

    /// How the log in `folder` stands to this version: a table that was dropped and made again has
    /// another entry in its place, or none.
    pub async fn standing(&self, store: &dyn ObjectStore, folder: &Path) -> Standing {
        let Some(version) = self.table.version() else { return Standing::Other };
        let entry = |version: u64| folder.clone().join(file_name(version));
        let (own, next) = (entry(version), entry(version + 1));
        let (own, next) = tokio::join!(store.head(&own), store.head(&next));
        match (own, next) {
            (Ok(own), _) if !self.was_read_from(&own, version) => Standing::Other,
            (Ok(_), Err(object_store::Error::NotFound { .. })) => Standing::Newest,
            // Cleaned up, or another table's.
            (Err(object_store::Error::NotFound { .. }), _) => Standing::Other,
            _ => Standing::Older,
        }
    }

    /// Whether what was read since is the same table's: its entry is where it was.
    pub async fn is_there(&self, store: &dyn ObjectStore, folder: &Path) -> bool {
        let Some(version) = self.table.version() else { return false };
        let own = folder.clone().join(file_name(version));
        match store.head(&own).await {
            Ok(own) => self.was_read_from(&own, version),
            Err(_) => false,
        }
    }

    fn was_read_from(&self, entry: &ObjectMeta, version: u64) -> bool {
        if let Some(known) = self.entry.get() {
            return known.e_tag == entry.e_tag && known.last_modified == entry.last_modified;
        }
        let listed =
            self.table.snapshot().ok().and_then(|s| s.snapshot().version_timestamp(version));
        let found = entry.last_modified.timestamp_millis();
        // Listings may be finer than single answers, which HTTP dates to the second. A log that is
        // read from a checkpoint of this very version lists no entry.
        let is_same = listed.is_none_or(|listed| listed == found || listed / 1000 * 1000 == found);
        is_same && self.entry.set(entry.clone()).is_ok()
    }
}
