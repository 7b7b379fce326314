//! The lake: Delta tables under `<lake>/<layer>/<table>`. The only room that names `deltalake` and
//! `object_store`. It reads snapshots, stages files, and commits them through one function
//! ([`commit::commit`]); it plans no queries and knows no models.

pub mod check;
pub mod commit;
pub mod damage;
pub mod details;
mod durable;
pub mod entries;
pub mod ledger;
mod loaded;
pub mod logs;
pub mod objects;
pub mod replace;
mod scan;
pub mod spec;
pub mod stage;
mod statistics;
pub mod store;
mod transactions;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use deltalake::DeltaTable;
use deltalake::kernel::EagerSnapshot;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ListResult, ObjectStore, ObjectStoreExt};
use tokio::sync::OnceCell;
use url::Url;

use self::entries::{Change, Fault, Listed, READ_MAX};
use self::ledger::Ledger;
use self::loaded::{Loaded, Standing};
use self::store::{S3Access, is_of_the_way, store_error};
use self::transactions::{At, Transactions, Values};
use crate::error::{Error, ErrorKind, Result};
use crate::table::{Layer, TableName};

/// The root of all tables. Cheap to clone; clones share the cache of loaded snapshots.
#[derive(Clone)]
pub struct Lake {
    root: Url,
    /// What the libraries below are told instead of `root`: they decode the paths of URLs that they
    /// made of decoded ones, and so would find another folder for `100%` or `a\b`. Errors and plans
    /// then say how files lie in the lake, and not where that is.
    address: Url,
    /// Of the lake alone.
    store: Arc<dyn ObjectStore>,
    /// Of the bucket or file system that `root` lies in.
    outer: Arc<dyn ObjectStore>,
    loaded: Arc<Mutex<HashMap<TableName, Loaded>>>,
    transactions: Arc<Mutex<HashMap<TableName, Transactions>>>,
}

impl Lake {
    /// Opens the lake at `root` (`file://` or `s3://`), which need not hold any table yet.
    pub fn open(root: &Url, s3: &S3Access) -> Result<Self> {
        // What is no path is no folder to make either.
        let path = Path::from_url_path(root.path())
            .map_err(|source| Error::invalid(format!("bad lake path `{root}`")).source(source))?;
        Ok(Self::at(root, path, store::open_store(root, s3)?))
    }

    /// A lake on a store that the caller built; `store` is addressed from the root of the bucket
    /// or file system that `root` lies in. Panics if the path of `root` has empty segments or `..`.
    pub fn with_store(root: &Url, store: Arc<dyn ObjectStore>) -> Self {
        let path = Path::from_url_path(root.path()).expect("the caller's URL has a plain path");
        Self::at(root, path, store)
    }

    fn at(root: &Url, path: Path, store: Arc<dyn ObjectStore>) -> Self {
        let mut root = root.clone();
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        // Delta's kernel sorts what is listed only where it knows from the URL that it comes in no
        // order: folders, and S3's directory buckets, which it knows by this ending.
        let unordered = if root.scheme() == "s3" { "" } else { "--x-s3" };
        let id = xxhash_rust::xxh3::xxh3_64(root.as_str().as_bytes());
        let address = Url::parse(&format!("lake://{id:016x}{unordered}/"));
        Self {
            root,
            address: address.expect("digits are a host"),
            store: Arc::new(PrefixStore::new(Arc::clone(&store), path)),
            outer: store,
            loaded: Arc::default(),
            transactions: Arc::default(),
        }
    }

    /// The same lake, of which nothing is known yet.
    fn unread(&self) -> Self {
        Self { loaded: Arc::default(), transactions: Arc::default(), ..self.clone() }
    }

    /// With a `/` at the end, whatever it was opened with.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// A table's folder, as the libraries below know it.
    fn url_of(&self, name: &TableName) -> Url {
        self.address
            .join(&format!("{}/{}/", name.layer, name.name()))
            .expect("layer and table names are plain path segments")
    }

    fn folder_of(&self, name: &TableName) -> Path {
        Path::from_iter([name.layer.as_str(), name.name()])
    }

    fn log_store(&self, name: &TableName) -> LogStoreRef {
        let url = self.url_of(name);
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&self.store), self.folder_of(name)));
        default_logstore(prefixed, Arc::clone(&self.store), &url, &StorageConfig::default())
    }

    fn log_of(&self, name: &TableName) -> Path {
        self.folder_of(name).join("_delta_log")
    }

    /// The newest version of a table, or `None` if there is no such table.
    pub async fn snapshot(&self, name: &TableName) -> Result<Option<Snapshot>> {
        let mut is_first_look = true;
        loop {
            let cached = self.cache().get(name).cloned();
            let log = self.log_of(name);
            let mut before = None;
            if let Some(loaded) = cached {
                match loaded.standing(&self.store, &log).await {
                    Standing::Newest => return self.snapshot_of(name, loaded.table).map(Some),
                    Standing::Older => before = Some(loaded),
                    Standing::Other => self.forget(name),
                }
            }
            let is_new = before.is_none();
            let mut table = match &before {
                Some(loaded) => loaded.table.clone(),
                None => DeltaTable::new(self.log_store(name)),
            };
            let source = match table.update_state().await {
                Ok(()) => {
                    // Later entries of another table say nothing of this one.
                    if let Some(before) = &before
                        && !before.is_there(&self.store, &log).await
                    {
                        self.forget(name);
                        continue;
                    }
                    let snapshot = self.snapshot_of(name, table.clone())?;
                    if is_new && self.root.scheme() == "file" {
                        // A disk that lost power may have kept the newest entry in part.
                        snapshot.changes(snapshot.version).await?;
                    }
                    self.cache().insert(name.clone(), Loaded::new(table));
                    return Ok(Some(snapshot));
                }
                Err(source) => source,
            };
            self.forget(name);
            let was_absent = matches!(source, deltalake::DeltaTableError::NotATable(_));
            match self.absent_or_error(name, source).await {
                // It was created between two looks.
                Err(_) if was_absent && is_first_look => is_first_look = false,
                outcome => return outcome,
            }
        }
    }

    /// A table as it was at `version`.
    pub async fn snapshot_at(&self, name: &TableName, version: u64) -> Result<Snapshot> {
        let mut table = DeltaTable::new(self.log_store(name));
        if let Err(source) = table.load_version(version).await {
            let mut error =
                store_error(&format!("cannot read `{name}` at version {version}"), source);
            error.kind = ErrorKind::NotFound;
            error.hint.get_or_insert("`flowguard query` without a version reads the newest".into());
            return Err(self.fault_or(name, error).await);
        }
        self.snapshot_of(name, table)
    }

    fn snapshot_of(&self, name: &TableName, table: DeltaTable) -> Result<Snapshot> {
        let version = table
            .version()
            .ok_or_else(|| Error::internal(format!("`{name}` was loaded without a version")))?;
        let mut transactions =
            self.transactions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let transactions = transactions.entry(name.clone()).or_default().clone();
        let values = Arc::default();
        Ok(Snapshot { name: name.clone(), table, version, transactions, values })
    }

    /// Drops the cached snapshot, so that the next one is read from the store alone. Commits on a
    /// long-lived handle slow down; a fresh one after each checkpoint keeps them level.
    fn forget(&self, name: &TableName) {
        self.cache().remove(name);
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<TableName, Loaded>> {
        self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells a missing table from a store that cannot be asked, and from one whose log is damaged.
    async fn absent_or_error(
        &self,
        name: &TableName,
        source: deltalake::DeltaTableError,
    ) -> Result<Option<Snapshot>> {
        let log_store = self.log_store(name);
        match log_store.is_delta_table_location().await {
            Ok(false) => Ok(None),
            Ok(true) => {
                let error = store_error(&format!("cannot read `{name}`"), source);
                Err(self.fault_or(name, error).await)
            }
            Err(deeper) => Err(store_error(&format!("cannot read `{name}`"), deeper)),
        }
    }

    /// What is wrong with the table's log, if that is why it cannot be read.
    async fn fault_or(&self, name: &TableName, error: Error) -> Error {
        if is_of_the_way(&error) {
            return error;
        }
        let Ok(listed) = Listed::of(&self.store, &self.log_of(name)).await else { return error };
        match (listed.newest(), listed.fault(&self.store).await) {
            (Some(newest), Ok(Some(fault))) => fault.into_error(name, newest).source(error),
            _ => error,
        }
    }

    /// Names of all tables that exist, in order. Folders that are no tables are passed over, and so
    /// are layers that these keys may not list, unless they may list none.
    pub async fn tables(&self) -> Result<Vec<TableName>> {
        let mut found = Vec::new();
        for (layer, listed) in self.layers().await? {
            let names: Vec<TableName> = listed
                .common_prefixes
                .iter()
                .filter_map(|folder| TableName::new(layer, folder.filename()?).ok())
                .collect();
            let looks = names.into_iter().map(|name| {
                let lake = self.clone();
                async move {
                    let is_table = lake.log_store(&name).is_delta_table_location().await;
                    Ok::<_, Error>(is_table.unwrap_or(false).then_some(name))
                }
            });
            let tables: Vec<Option<TableName>> =
                futures::stream::iter(looks).buffered(READ_MAX).try_collect().await?;
            found.extend(tables.into_iter().flatten());
        }
        Ok(found)
    }

    /// What is in the layers' folders; fails if none of them may be listed.
    async fn layers(&self) -> Result<Vec<(Layer, ListResult)>> {
        let (mut layers, mut denied) = (Vec::new(), None);
        let mut is_any_listed = false;
        for layer in Layer::ALL {
            let folder = Path::from(layer.as_str());
            match self.store.list_with_delimiter(Some(&folder)).await {
                Ok(listed) => layers.push((layer, listed)),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    let what = format!("cannot list the lake `{}`", self.root);
                    match store_error(&what, source) {
                        error if error.kind == ErrorKind::Denied => denied = Some(error),
                        error => return Err(error),
                    }
                    continue;
                }
            }
            is_any_listed = true;
        }
        match denied {
            Some(error) if !is_any_listed => Err(error),
            _ => Ok(layers),
        }
    }

    /// Whether an object beside the layers exists.
    pub async fn has_object(&self, name: &str) -> Result<bool> {
        match self.store.head(&Path::from(name)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(store_error(&format!("cannot read `{name}` in the lake"), source)),
        }
    }

    /// Writes a small object that is no part of any table.
    pub async fn put_object(&self, name: &str, content: &'static [u8]) -> Result<()> {
        let put = self.store.put(&Path::from(name), content.into()).await;
        put.map(drop)
            .map_err(|source| store_error(&format!("cannot write `{name}` in the lake"), source))
    }

    /// Deletes a table with all its versions. Its log goes last, newest entry first, so that an
    /// interrupted removal leaves a table that is seen to be broken rather than a wrong one.
    pub async fn remove_table(&self, name: &TableName) -> Result<()> {
        let prefix = self.folder_of(name);
        let failed = |source| store_error(&format!("cannot remove `{name}`"), source);
        let mut objects: Vec<Path> = self
            .store
            .list(Some(&prefix))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(failed)?;
        objects.sort_by_key(|path| {
            (path.as_ref().contains("/_delta_log/"), std::cmp::Reverse(path.clone()))
        });
        for object in objects {
            self.store.delete(&object).await.map_err(failed)?;
        }
        self.forget(name);
        Ok(())
    }

    /// Fails with one clear error when the store cannot be reached, or none of its layers listed.
    pub async fn probe(&self) -> Result<()> {
        self.layers().await.map(drop)
    }
}

/// One version of one table; never changes once taken. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    name: TableName,
    table: DeltaTable,
    version: u64,
    transactions: Transactions,
    /// Of this version; read when first asked for.
    values: Arc<OnceCell<Arc<Values>>>,
}

impl Snapshot {
    pub fn name(&self) -> &TableName {
        &self.name
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    fn eager(&self) -> &EagerSnapshot {
        self.table.snapshot().expect("a snapshot is only made of a loaded table").snapshot()
    }

    /// The table's identity; a table that was dropped and made again has another.
    pub fn id(&self) -> &str {
        self.eager().metadata().id()
    }

    /// A property of the table, such as `delta.targetFileSize`.
    pub fn property(&self, key: &str) -> Option<String> {
        self.properties().get(key).cloned()
    }

    /// All properties of the table, Delta's own and FlowGuard's.
    pub fn properties(&self) -> &HashMap<String, String> {
        self.eager().metadata().configuration()
    }

    /// All columns, with the day where the table is partitioned by it.
    pub fn schema(&self) -> SchemaRef {
        self.eager().arrow_schema()
    }

    /// The next value recorded for `app_id`, if any, in exactly this version.
    pub async fn transaction(&self, app_id: &str) -> Result<Option<i64>> {
        let values = self.values.get_or_try_init(|| async {
            let log_store = self.table.log_store();
            let at = At { table_id: self.id(), version: self.version, log_store: &log_store };
            self.transactions.values(&at).await
        });
        Ok(values.await?.get(app_id).copied())
    }

    /// This version as a table for the query engine.
    pub async fn provider(&self) -> Result<Arc<dyn TableProvider>> {
        let provider = self.table.table_provider().await;
        let provider = provider
            .map_err(|source| store_error(&format!("cannot read `{}`", self.name), source))?;
        Ok(scan::checked(provider))
    }

    /// About what this version takes in memory, in bytes: mostly the list of its files.
    pub fn held_bytes(&self) -> usize {
        const TABLE_BYTES: usize = 16 << 10;
        const FILE_BYTES: usize = 1 << 10;
        TABLE_BYTES + FILE_BYTES * self.eager().log_data().num_files()
    }

    /// Number of data files and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let files = self.eager().log_data();
        let bytes = files.iter().map(|file| u64::try_from(file.size()).unwrap_or(0)).sum();
        (files.num_files(), bytes)
    }

    /// The ledgers of this version's log from `since` on, by version; versions whose log entry is
    /// trimmed, or that FlowGuard did not write, are missing.
    pub async fn ledgers(&self, since: u64) -> Result<BTreeMap<u64, Ledger>> {
        let changes = self.changes(since).await?.into_iter();
        Ok(changes.filter_map(|(version, change)| Some((version, change.ledger?))).collect())
    }

    /// What the commits of this version's log did, from `since` on; versions whose log entry is
    /// trimmed are missing. Fails if an entry is not whole, or missing after one that is there.
    pub async fn changes(&self, since: u64) -> Result<BTreeMap<u64, Change>> {
        let log_store = self.table.log_store();
        let read = |version: u64| {
            let log_store = Arc::clone(&log_store);
            async move { (version, log_store.read_commit_entry(version).await) }
        };
        let mut entries =
            futures::stream::iter(since..=self.version).map(read).buffer_unordered(READ_MAX);
        let mut changes = BTreeMap::new();
        while let Some((version, entry)) = entries.next().await {
            let entry = entry.map_err(|source| {
                store_error(&format!("cannot read the log of `{}`", self.name), source)
            })?;
            if let Some(entry) = entry {
                let entry = entries::read(version, &entry)
                    .map_err(|fault| fault.into_error(&self.name, self.version))?;
                changes.insert(version, entry.change);
            }
        }
        let first = changes.first_key_value().map_or(self.version, |(version, _)| *version);
        match (first..=self.version).find(|version| !changes.contains_key(version)) {
            Some(version) if !changes.is_empty() => {
                Err(Fault::Missing(version..=version).into_error(&self.name, self.version))
            }
            _ => Ok(changes),
        }
    }
}
