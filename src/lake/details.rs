//! What another reader must know of a table's log before it can read the table.

use std::collections::BTreeSet;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::Deserialize;

use super::Snapshot;
use super::store::store_error;
use crate::error::{Error, Result};

/// As the protocol of Delta Lake names it all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogDetails {
    pub reader_version: i32,
    /// Of readers and writers.
    pub features: BTreeSet<String>,
    /// `none`, `id` or `name`.
    pub column_mapping: Option<String>,
    /// Properties that are `true`.
    pub enabled: BTreeSet<String>,
    /// The version of the newest checkpoint.
    pub checkpoint: Option<u64>,
}

const COLUMN_MAPPING: &str = "delta.columnMapping.mode";
/// Properties by which readers are told what a writer does.
const SWITCHES: [&str; 3] =
    ["delta.enableChangeDataFeed", "delta.enableRowTracking", "delta.enableDeletionVectors"];

impl Snapshot {
    /// Of this version, but for the checkpoint: that is the store's newest, and may be a later one.
    pub async fn log_details(&self) -> Result<LogDetails> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Protocol {
            min_reader_version: i32,
            reader_features: Option<BTreeSet<String>>,
            writer_features: Option<BTreeSet<String>>,
        }
        let protocol = serde_json::to_value(self.eager().protocol());
        let protocol: Protocol = protocol.and_then(serde_json::from_value).map_err(|source| {
            Error::internal(format!("the protocol of `{}` has no form", self.name)).source(source)
        })?;
        let is_on = |key: &&str| self.property(key).as_deref() == Some("true");
        let features = protocol.reader_features.into_iter().chain(protocol.writer_features);
        Ok(LogDetails {
            reader_version: protocol.min_reader_version,
            features: features.flatten().collect(),
            column_mapping: self.property(COLUMN_MAPPING),
            enabled: SWITCHES.iter().copied().filter(is_on).map(str::to_owned).collect(),
            checkpoint: self.last_checkpoint().await?,
        })
    }

    async fn last_checkpoint(&self) -> Result<Option<u64>> {
        #[derive(Deserialize)]
        struct Hint {
            version: u64,
        }
        let store = self.table.log_store().object_store(None);
        let failed = |source| {
            store_error(&format!("cannot read the last checkpoint of `{}`", self.name), source)
        };
        let found = match store.get(&Path::from("_delta_log/_last_checkpoint")).await {
            Ok(found) => found.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        Ok(serde_json::from_slice::<Hint>(&found).ok().map(|hint| hint.version))
    }
}
