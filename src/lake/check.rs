//! Whether a table is as its log says: entries that are missing or cut, checkpoints that cannot be
//! read, data files that are missing or of another size, and files that no version names. Reads the
//! log and lists the folder; opens no data file, and changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde::Serialize;

use super::entries::{self, Listed, READ_MAX, contents};
use super::store::store_error;
use super::{Lake, Snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Instant;
use crate::table::{Layer, TableName};

/// A file that no version names may be of a commit under way for as long.
const UNDER_WAY_MICROS: i64 = 3_600_000_000;
/// Problems of one kind that are listed; more are only counted.
const LISTED_MAX: usize = 20;

/// What was found of one table.
#[derive(Debug, Clone, Serialize)]
pub struct Checkup {
    pub table: String,
    /// The newest that the log has anything of.
    pub version: u64,
    /// Of the log, those that are left of it.
    pub entries: usize,
    /// Data files of that version, and their bytes; none where it cannot be read.
    pub files: usize,
    pub bytes: u64,
    /// What keeps a version from being read as it was written.
    pub problems: Vec<Problem>,
    /// Files that no version names, such as an interrupted write leaves: they harm nothing.
    pub orphans: Orphans,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    pub cure: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Orphans {
    pub files: usize,
    pub bytes: u64,
    /// The first of them, by their paths below the table's folder.
    pub first: Vec<String>,
}

/// Looks at a table as it is `now`; `None` where there is none.
pub async fn check(lake: &Lake, name: &TableName, now: Instant) -> Result<Option<Checkup>> {
    let folder = Folder::of(lake, name).await?;
    let Some(version) = folder.log.newest() else { return Ok(None) };
    let mut problems = Problems { name, version, found: Vec::new() };
    folder.log.missing().iter().for_each(|fault| problems.fault(fault));
    let mut named = HashSet::new();
    let entries = folder.log.entries.iter().map(|(version, path)| (*version, path.clone()));
    let mut contents = contents(&lake.store, entries.collect());
    while let Some((version, content)) = contents.try_next().await.map_err(|e| folder.failed(e))? {
        match entries::read(version, &content) {
            Ok(entry) => named.extend(entry.paths.iter().filter_map(|path| below(path))),
            Err(fault) => problems.fault(&fault),
        }
    }
    folder.read_checkpoint(lake, &mut named, &mut problems).await?;
    // Later than the listing: what it names is there, or was.
    let snapshot = match lake.unread().snapshot(name).await {
        Ok(snapshot) => snapshot,
        Err(error)
            if problems.found.is_empty()
                && matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Denied) =>
        {
            return Err(error);
        }
        Err(error) => {
            problems.unreadable(error);
            None
        }
    };
    let (mut files, mut bytes) = (0, 0);
    if let Some(snapshot) = &snapshot {
        (files, bytes) = snapshot.size();
        folder.compare(lake, snapshot, &mut named, &mut problems).await?;
    }
    let is_known = snapshot.is_some();
    let orphans = if is_known { folder.orphans(&named, now) } else { Orphans::default() };
    Ok(Some(Checkup {
        table: name.to_string(),
        version,
        entries: folder.log.entries.len(),
        files,
        bytes,
        problems: problems.found,
        orphans,
    }))
}

/// What is wrong so far.
struct Problems<'a> {
    name: &'a TableName,
    version: u64,
    found: Vec<Problem>,
}

impl Problems<'_> {
    fn fault(&mut self, fault: &entries::Fault) {
        let cure = fault.cure(self.name, self.version);
        self.found.push(Problem { what: format!("{fault}"), cure });
    }

    fn add(&mut self, what: String, cure: &str) {
        self.found.push(Problem { what, cure: cure.to_owned() });
    }

    /// The newest version, for a reason that nothing above told.
    fn unreadable(&mut self, error: Error) {
        if self.found.is_empty() {
            let cure = error.hint.unwrap_or_else(|| "restore the log from a backup".to_owned());
            self.found.push(Problem { what: error.message, cure });
        }
    }

    /// Those of data files, as many as are listed.
    fn files(&mut self, found: Vec<String>) {
        let cure = match self.name.layer {
            Layer::Bronze => "put it back as it was, from a backup".to_owned(),
            _ => format!(
                "put it back as it was, or build the table anew by `flowguard run --full-refresh {}`",
                self.name
            ),
        };
        let more = found.len().saturating_sub(LISTED_MAX);
        for what in found.into_iter().take(LISTED_MAX) {
            self.add(what, &cure);
        }
        if more > 0 {
            self.add(format!("{more} more data files are missing or of another size"), &cure);
        }
    }
}

/// A table's folder as it was listed.
struct Folder {
    name: TableName,
    path: Path,
    log: Listed,
    has_hint: bool,
    /// Parquet files beside the log, by their paths below the folder. What begins with `_` or `.` is
    /// nobody's data, as other engines have it.
    data: BTreeMap<String, ObjectMeta>,
}

impl Folder {
    async fn of(lake: &Lake, name: &TableName) -> Result<Self> {
        let path = lake.folder_of(name);
        let mut folder = Self {
            name: name.clone(),
            log: Listed::default(),
            has_hint: false,
            data: BTreeMap::new(),
            path,
        };
        let mut objects = lake.store.list(Some(&folder.path));
        while let Some(object) = objects.next().await {
            match object {
                Ok(object) => folder.take(object),
                Err(object_store::Error::NotFound { .. }) => break,
                Err(source) => return Err(folder.failed(source)),
            }
        }
        drop(objects);
        Ok(folder)
    }

    fn take(&mut self, object: ObjectMeta) {
        let Some(below) = object.location.prefix_match(&self.path) else { return };
        let segments: Vec<String> = below.map(|part| part.as_ref().to_owned()).collect();
        if segments.first().is_some_and(|first| first == "_delta_log") {
            self.has_hint |= segments.last().is_some_and(|last| last == "_last_checkpoint");
            return self.log.take(object.location);
        }
        // But for folders of a partition's value.
        let is_hidden = segments
            .iter()
            .any(|segment| segment.starts_with(['_', '.']) && !segment.contains('='));
        let below = segments.join("/");
        if !is_hidden && below.ends_with(".parquet") {
            self.data.insert(below, object);
        }
    }

    fn failed(&self, source: object_store::Error) -> Error {
        store_error(&format!("cannot check `{}`", self.name), source)
    }

    /// Reads the newest checkpoint, for its own sake and for the files that it names.
    async fn read_checkpoint(
        &self,
        lake: &Lake,
        named: &mut HashSet<String>,
        problems: &mut Problems<'_>,
    ) -> Result<()> {
        let newest = self.log.checkpoints.last_key_value();
        let parts = newest.into_iter().flat_map(|(_, parts)| parts).chain(&self.log.sidecars);
        for part in parts.filter(|part| part.as_ref().ends_with(".parquet")) {
            let content = lake.store.get(part).await.map_err(|source| self.failed(source))?;
            let content = content.bytes().await.map_err(|source| self.failed(source))?;
            match paths_of(content) {
                Ok(paths) => named.extend(paths.iter().filter_map(|path| below(path))),
                Err(source) => {
                    let file = part.filename().unwrap_or_default();
                    let cure = match self.is_whole_without_newest_checkpoint() {
                        true => "delete it and `_last_checkpoint`: the log is whole without them",
                        false => "restore it from a backup: what it stands for was cleaned up",
                    };
                    problems.add(format!("checkpoint `{file}` cannot be read: {source}"), cure);
                }
            }
        }
        self.check_hint(lake, problems).await
    }

    fn is_whole_without_newest_checkpoint(&self) -> bool {
        let before = self.log.checkpoints.keys().rev().nth(1).map_or(0, |version| version + 1);
        let first = self.log.entries.keys().next();
        first.is_some_and(|first| *first <= before) && self.log.missing().is_empty()
    }

    /// `_last_checkpoint` only saves readers a listing, but one that names nothing misleads them.
    async fn check_hint(&self, lake: &Lake, problems: &mut Problems<'_>) -> Result<()> {
        if !self.has_hint {
            return Ok(());
        }
        let path = self.path.clone().join("_delta_log").join("_last_checkpoint");
        let hint = lake.store.get(&path).await.map_err(|source| self.failed(source))?;
        let hint = hint.bytes().await.map_err(|source| self.failed(source))?;
        let version = serde_json::from_slice::<serde_json::Value>(&hint)
            .ok()
            .and_then(|hint| hint["version"].as_u64());
        let what = match version {
            None => "`_last_checkpoint` is not whole".to_owned(),
            Some(version) if !self.log.checkpoints.contains_key(&version) => {
                format!("`_last_checkpoint` names version {version}, which has no checkpoint")
            }
            Some(_) => return Ok(()),
        };
        problems.add(what, "delete it: it only saves readers a listing");
        Ok(())
    }

    /// Holds the files of the newest version against those that are there.
    async fn compare(
        &self,
        lake: &Lake,
        snapshot: &Snapshot,
        named: &mut HashSet<String>,
        problems: &mut Problems<'_>,
    ) -> Result<()> {
        let mut other = Vec::new();
        let mut unlisted = Vec::new();
        for file in snapshot.eager().log_data().iter() {
            let path = file.object_store_path();
            let written = u64::try_from(file.size()).unwrap_or(0);
            match self.data.get(path.as_ref()) {
                Some(found) if found.size != written => {
                    let found = found.size;
                    other.push(format!(
                        "data file `{path}` has {found} bytes and was written with {written}"
                    ));
                }
                Some(_) => {}
                // Elsewhere, by a clone of another writer, or newer than the listing.
                None if file.path().contains("://") || file.path().starts_with('/') => {}
                None => {
                    let full = Path::from_iter(self.path.parts().chain(path.parts()));
                    unlisted.push((path.clone(), full));
                }
            }
            named.insert(path.as_ref().to_owned());
        }
        let store = Arc::clone(&lake.store);
        let look = move |(path, full): (Path, Path)| {
            let store = Arc::clone(&store);
            async move {
                match store.head(&full).await {
                    Ok(_) => Ok(None),
                    Err(object_store::Error::NotFound { .. }) => Ok(Some(path)),
                    Err(source) => Err(source),
                }
            }
        };
        let looks = futures::stream::iter(unlisted).map(look).buffered(READ_MAX);
        let missing: Vec<Option<Path>> =
            looks.try_collect().await.map_err(|source| self.failed(source))?;
        let missing = missing.into_iter().flatten();
        other.extend(missing.map(|path| format!("data file `{path}` is missing")));
        other.sort();
        problems.files(other);
        Ok(())
    }

    fn orphans(&self, named: &HashSet<String>, now: Instant) -> Orphans {
        let is_old =
            |file: &ObjectMeta| now.0 - file.last_modified.timestamp_micros() >= UNDER_WAY_MICROS;
        let mut orphans = Orphans::default();
        for (path, file) in &self.data {
            if !named.contains(path) && is_old(file) {
                orphans.files += 1;
                orphans.bytes += file.size;
                if orphans.first.len() < LISTED_MAX {
                    orphans.first.push(path.clone());
                }
            }
        }
        orphans
    }
}

/// A path of the log as it lies below the table's folder; `None` if it lies elsewhere.
fn below(path: &str) -> Option<String> {
    if path.contains("://") || path.starts_with('/') {
        return None;
    }
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
    Path::parse(decoded).ok().map(|path| path.as_ref().to_owned())
}

/// Of all files that a checkpoint adds or remembers to have been removed.
fn paths_of(checkpoint: bytes::Bytes) -> Result<Vec<String>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(checkpoint)?;
    let columns = ProjectionMask::columns(reader.parquet_schema(), ["add.path", "remove.path"]);
    let mut paths = Vec::new();
    for batch in reader.with_projection(columns).build()? {
        for action in batch?.columns() {
            let path = action.as_struct_opt().and_then(|action| action.columns().first());
            if let Some(path) = path {
                let path = cast(path, &DataType::Utf8)?;
                paths.extend(path.as_string::<i32>().iter().flatten().map(str::to_owned));
            }
        }
    }
    Ok(paths)
}
