//! The side of a target that is a folder or bucket of Parquet files. A numbered manifest per table
//! names its files and is the ledger as well, so rows and ledger move by one write, which fails if
//! another export took the number. Files are never changed; old ones are deleted by `prune`.

mod data_files;
mod manifest;
mod prune;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use uuid::Uuid;

use self::manifest::{
    Column, DataFile, FORMAT, HISTORY, MANIFESTS, Manifest, columns, json, number_of, type_name,
};
use crate::clock::Clock;
use crate::dag::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::export::change::{Held, Move, Reason};
use crate::export::compare::calendar::{Calendar, Proofs};
use crate::export::compare::canonical::Proof;
use crate::export::compare::keys::{Key, Row, Wanted, keyed_digests};
use crate::export::history::Entry;
use crate::export::pair::{Keeper, Pair, Source};
use crate::export::rows::{RowSource, only_within};
use crate::export::side::{Holding, Side, column_faults, conflict};
use crate::interval::{Every, MICROS_PER_DAY, RangeSet};
use crate::lake::objects::Folder;
use crate::table::TableName;

/// An export that took longer publishes nothing: `prune` may have deleted what it wrote first.
const EXPORT_MICROS_MAX: i64 = MICROS_PER_DAY / 2;
/// Looks for the newest manifest, should it be deleted as a newer one comes.
const LOOKS_MAX: usize = 3;
/// Files, or entries of the history, read at once.
const READS_MAX: usize = 4;
/// Files that are named as damaged; of others the number.
const FAULTS_SHOWN_MAX: usize = 3;

/// A folder or bucket of Parquet files, whose manifests say what is in it.
pub struct Files {
    target: Target,
    folder: Folder,
    run: Uuid,
    clock: Clock,
    /// By the table's path, as last read.
    known: HashMap<String, Known>,
}

/// The newest manifest of a table.
#[derive(Clone)]
struct Known {
    number: u64,
    manifest: Manifest,
    /// Files that a comparison found gone or changed, and whether they can be read.
    damaged: BTreeMap<String, bool>,
}

/// One data file, as a comparison finds it.
struct Examined {
    path: String,
    proof: Option<Proof>,
    fault: Option<String>,
}

impl Files {
    /// `clock` gives microseconds since 1970.
    pub fn open(target: Target, folder: Folder, run: Uuid, clock: Clock) -> Self {
        Self { target, folder, run, clock, known: HashMap::new() }
    }

    fn path(&self, name: &TableName) -> String {
        format!("{}/{}", self.target.schema(name.layer), name.name())
    }

    async fn look(&mut self, path: &str) -> Result<Option<Known>> {
        for _ in 0..LOOKS_MAX {
            let manifests = self.folder.list(&format!("{path}/{MANIFESTS}")).await?;
            let number = |name: &str| number_of(name).map(|number| (number, name.to_owned()));
            let newest = manifests.iter().filter_map(|object| number(&object.name)).max();
            let Some((number, name)) = newest else {
                self.known.remove(path);
                return Ok(None);
            };
            if let Some(content) = self.folder.get(&name).await? {
                let manifest = Manifest::read(&content, &name)?;
                let before = self.known.remove(path).filter(|known| known.manifest == manifest);
                let damaged = before.map_or(BTreeMap::new(), |known| known.damaged);
                let known = Known { number, manifest, damaged };
                self.known.insert(path.to_owned(), known.clone());
                return Ok(Some(known));
            }
        }
        let message = format!("the manifests of `{path}` do not stand still");
        Err(Error::new(ErrorKind::Unavailable, message).hint("run again"))
    }

    /// What an export may go on from: the manifest that its ledger was read from.
    fn base(&self, pair: &Pair<'_>, held: Option<&Held>) -> Result<Option<&Known>> {
        let known = self.known.get(&self.path(pair.name()));
        match known.map(|known| known.manifest.held()).as_ref() == held {
            true => Ok(known),
            false => Err(conflict(pair)),
        }
    }

    /// Makes `files` the table's, unless another export was first.
    async fn publish(
        &mut self,
        pair: &Pair<'_>,
        moving: &Move<'_>,
        files: Vec<DataFile>,
        moved: u64,
    ) -> Result<()> {
        let number = self.base(pair, moving.held)?.map_or(0, |known| known.number) + 1;
        let at = self.clock.now();
        let hashes = files.iter().filter_map(|file| file.hash.parse::<u128>().ok());
        let manifest = Manifest {
            format: FORMAT,
            table: pair.name().to_string(),
            table_id: pair.snapshot.id().to_owned(),
            version: pair.snapshot.version(),
            rows: files.iter().map(|file| file.rows).sum(),
            hash: hashes.sum::<u128>().to_string(),
            columns: columns(&pair.columns),
            files,
            export: Entry { at: Some(at), ..self.done(pair, moving, moved) },
        };
        let path = self.path(pair.name());
        let name = format!("{path}/{MANIFESTS}/{number:020}.json");
        let content = json(&manifest)?;
        let put = self.folder.put_new(&name, content.clone()).await;
        if !matches!(put, Ok(true)) {
            // An answer may have been lost: what counts is what is there.
            match self.folder.get(&name).await? {
                Some(there) if there == content => {}
                Some(_) => return Err(conflict(pair)),
                None => return put.and(Err(conflict(pair))),
            }
        }
        self.known.insert(path, Known { number, manifest, damaged: BTreeMap::new() });
        Ok(())
    }

    /// Rows of the files, as far as they can be read; of those that are as they were written only
    /// what may lie within `ranges`.
    fn batches<'a>(
        &'a self,
        pair: &'a Pair<'_>,
        ranges: Option<&'a RangeSet>,
    ) -> impl Stream<Item = Result<RecordBatch>> + 'a {
        let path = self.path(pair.name());
        let known = self.known.get(&path);
        let is_wanted = move |file: &&DataFile| {
            let damage = known.and_then(|known| known.damaged.get(&file.path)).copied();
            damage.unwrap_or_else(|| ranges.is_none_or(|ranges| is_touched(file, ranges)))
        };
        let files = known.into_iter().flat_map(|known| &known.manifest.files).filter(is_wanted);
        let contents = futures::stream::iter(files.collect::<Vec<_>>()).map(move |file| {
            let path = path.clone();
            async move { data_files::get(&self.folder, &path, file).await }
        });
        let batches = contents.buffered(READS_MAX).map(move |content| {
            let rows = content.map(|content| {
                let readable =
                    content.and_then(|content| data_files::rows(content, &pair.columns).ok());
                futures::stream::iter(readable.into_iter().flatten())
            });
            futures::stream::iter([rows]).try_flatten()
        });
        batches.flatten().map(move |batch| match ranges {
            Some(ranges) => only_within(pair, ranges, &batch?),
            None => batch,
        })
    }

    /// What a file holds, if it can be read, and what is wrong with it.
    async fn examine(&self, path: String, columns: SchemaRef, file: DataFile) -> Result<Examined> {
        let Some(content) = data_files::get(&self.folder, &path, &file).await? else {
            let fault = Some(format!("the file `{}` is gone", file.path));
            return Ok(Examined { path: file.path, proof: None, fault });
        };
        let is_same =
            content.len() as u64 == file.bytes && data_files::digest(&content) == file.md5;
        let (proof, fault) = match data_files::prove(content, columns).await {
            Ok(proof) if is_same => (Some(proof), None),
            Ok(proof) => (Some(proof), Some(format!("the file `{}` was changed", file.path))),
            Err(error) => (None, Some(format!("`{}`: {}", file.path, error.message))),
        };
        Ok(Examined { path: file.path, proof, fault })
    }

    async fn read_entries(&self, names: Vec<String>) -> Result<Vec<Entry>> {
        let read = |name: String| async move {
            let Some(content) = self.folder.get(&name).await? else { return Ok(None) };
            let entry = match number_of(&name) {
                Some(_) => Manifest::read(&content, &name)?.export,
                None => serde_json::from_slice(&content).map_err(|source| {
                    Error::invalid(format!("`{name}` is no entry of a history")).source(source)
                })?,
            };
            Ok::<_, Error>(Some(entry))
        };
        let read = futures::stream::iter(names).map(read).buffered(READS_MAX);
        let entries: Vec<Option<Entry>> = read.try_collect().await?;
        Ok(entries.into_iter().flatten().collect())
    }
}

impl Keeper for Files {
    fn target(&self) -> &Target {
        &self.target
    }

    fn column_type(&self, data_type: &DataType) -> Option<String> {
        type_name(data_type)
    }

    fn takes_zero_bytes(&self) -> bool {
        true
    }
}

#[async_trait]
impl Side for Files {
    fn keeper(&self) -> &dyn Keeper {
        self
    }

    fn run(&self) -> Uuid {
        self.run
    }

    async fn test(&mut self) -> Result<String> {
        let root = self.folder.root();
        let probe = format!("_flowguard/test-{}", self.run);
        let content = Bytes::from_static(b"a write that must not be overwritten\n");
        self.folder.put_new(&probe, content.clone()).await?;
        let again = self.folder.put_new(&probe, content).await;
        self.folder.delete(&probe).await?;
        if again? {
            return Err(Error::invalid(format!("`{root}` overwrites what is there"))
                .hint("two exports at once need a store with conditional writes"));
        }
        Ok(format!("Parquet files in {root}"))
    }

    async fn held(&mut self, pair: &Pair<'_>) -> Result<Option<Held>> {
        let known = self.look(&self.path(pair.name())).await?;
        Ok(known.map(|known| known.manifest.held()))
    }

    /// Readers follow manifests, so what else lies there is nobody's table.
    async fn foreign_rows(&mut self, _pair: &Pair<'_>) -> Result<Option<String>> {
        Ok(None)
    }

    async fn fit(&mut self, pair: &Pair<'_>) -> Result<Option<Reason>> {
        let path = self.path(pair.name());
        if let Err(error) = prune::prune(&self.folder, &path, self.clock.now()).await {
            tracing::warn!(table = %pair.name(), %error, "old files were not deleted");
        }
        let known = self.known.get(&path);
        let is_other = known.is_some_and(|known| known.manifest.columns != columns(&pair.columns));
        Ok(is_other.then_some(Reason::Columns))
    }

    async fn advance(&mut self, pair: &Pair<'_>, moving: &Move<'_>) -> Result<()> {
        let known = self.base(pair, moving.held)?;
        let files = known.map_or(Vec::new(), |known| known.manifest.files.clone());
        self.publish(pair, moving, files, 0).await
    }

    async fn apply(&mut self, source: &Source, pair: &Pair<'_>, moving: &Move<'_>) -> Result<u64> {
        let began = self.clock.micros();
        let path = self.path(pair.name());
        let calendar = file_calendar(pair);
        let (mut files, ranges) = match (self.base(pair, moving.held)?, moving.ranges()) {
            (Some(known), Some(ranges)) => reused(known, ranges, calendar.as_ref()),
            _ => (Vec::new(), None),
        };
        let order = calendar.as_ref().map(|calendar| calendar.time);
        let mut rows = RowSource::open_in_order(source, pair, ranges.as_ref(), order).await?;
        let mut writer = data_files::Writer::new(&self.folder, &path, &pair.columns, calendar);
        let mut batches = std::pin::pin!(rows.batches());
        while let Some(batch) = batches.next().await {
            writer.write(&batch?).await?;
        }
        let written = writer.finish(files.is_empty()).await?;
        if self.clock.micros() - began > EXPORT_MICROS_MAX {
            let message = format!("the export of `{}` took longer than half a day", pair.name());
            return Err(Error::new(ErrorKind::Exhausted, message).hint("nothing was published"));
        }
        let moved = written.iter().map(|file| file.rows).sum();
        files.extend(written);
        self.publish(pair, moving, files, moved).await?;
        Ok(moved)
    }

    async fn holding(&mut self, pair: &Pair<'_>) -> Result<Holding> {
        let path = self.path(pair.name());
        let Some(known) = self.known.get(&path) else { return Ok(Holding::gone()) };
        let faults = form_faults(&known.manifest.columns, &columns(&pair.columns));
        if !faults.is_empty() {
            return Ok(Holding::faulty(faults));
        }
        let files = known.manifest.files.clone();
        let mut total = Proof::new(&pair.columns);
        let (mut faults, mut damaged) = (Vec::new(), BTreeMap::new());
        let examine = |file| self.examine(path.clone(), Arc::clone(&pair.columns), file);
        let mut examined = futures::stream::iter(files).map(examine).buffered(READS_MAX);
        while let Some(found) = examined.next().await {
            let Examined { path, proof, fault } = found?;
            if let Some(fault) = fault {
                damaged.insert(path, proof.is_some());
                faults.push(fault);
            }
            proof.iter().for_each(|proof| total.add(proof));
        }
        drop(examined);
        if faults.len() > FAULTS_SHOWN_MAX {
            let others = faults.split_off(FAULTS_SHOWN_MAX).len();
            faults.push(format!("and {others} more files"));
        }
        if let Some(known) = self.known.get_mut(&path) {
            known.damaged = damaged;
        }
        Ok(Holding { faults, proof: Some(total) })
    }

    async fn interval_proofs(
        &mut self,
        pair: &Pair<'_>,
        calendar: &Calendar<'_>,
        _width: i64,
    ) -> Result<Option<Proofs>> {
        calendar.prove(pair, self.batches(pair, None)).await
    }

    async fn digests(
        &mut self,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        key: &Key,
    ) -> Result<Vec<(u64, u64)>> {
        keyed_digests(key, self.batches(pair, ranges)).await
    }

    async fn rows(
        &mut self,
        pair: &Pair<'_>,
        ranges: Option<&RangeSet>,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Row>> {
        wanted.fetch(self.batches(pair, ranges)).await
    }

    async fn note(&mut self, entry: &Entry) -> Result<()> {
        let path = self.path(&entry.table.parse()?);
        let entry = Entry { at: Some(self.clock.now()), ..entry.clone() };
        let name = prune::entry_name(&path, &entry, &Uuid::now_v7().simple().to_string());
        self.folder.put(&name, json(&entry)?).await
    }

    async fn history(&mut self, tables: &[TableName], limit: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for table in tables {
            let path = self.path(table);
            for part in [HISTORY, MANIFESTS] {
                let objects = self.folder.list(&format!("{path}/{part}")).await?;
                let newest = objects.into_iter().rev().take(limit).map(|object| object.name);
                entries.extend(self.read_entries(newest.collect()).await?);
            }
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        // A run that was killed as it moved an entry left it in both places.
        entries.dedup_by(|one, other| (one.at, &one.run) == (other.at, &other.run));
        entries.truncate(limit);
        Ok(entries)
    }
}

fn form_faults(found: &[Column], wanted: &[Column]) -> Vec<String> {
    if found == wanted {
        return Vec::new();
    }
    let type_of = |name: &str| {
        found.iter().find(|other| other.name == name).map(|other| other.data_type.as_str())
    };
    let wanted = wanted.iter().map(|column| (column.name.as_str(), column.data_type.as_str()));
    let mut faults = column_faults(wanted, type_of);
    if faults.is_empty() {
        faults.push("the target has other columns, or another order of them".to_owned());
    }
    faults
}

/// By which rows are parted into files: the model's intervals, but none shorter than a day.
fn file_calendar<'a>(pair: &'a Pair<'_>) -> Option<Calendar<'a>> {
    let calendar = Calendar::of(pair)?;
    let every = match calendar.every {
        Every::Hours(_) => Every::Day,
        every => every,
    };
    Some(Calendar { every, ..calendar })
}

/// Files that stay when `ranges` change, and what must be written anew: files go whole, and with
/// them the rest of their times. Everything, where a file of rows does not know its times.
fn reused(
    known: &Known,
    ranges: &RangeSet,
    calendar: Option<&Calendar<'_>>,
) -> (Vec<DataFile>, Option<RangeSet>) {
    let mut kept: Vec<DataFile> =
        known.manifest.files.iter().filter(|file| file.rows > 0).cloned().collect();
    let (Some(calendar), true) = (calendar, kept.iter().all(|file| file.range().is_some())) else {
        return (Vec::new(), None);
    };
    let damaged = kept.iter().filter(|file| known.damaged.contains_key(&file.path));
    let damaged: Vec<_> = damaged.filter_map(DataFile::range).collect();
    let mut ranges: RangeSet =
        ranges.iter().map(|range| calendar.align(*range)).chain(damaged).collect();
    // A file of another calendar may reach into times of yet another.
    loop {
        let touched: Vec<_> = kept.extract_if(.., |file| is_touched(file, &ranges)).collect();
        if touched.is_empty() {
            return (kept, Some(ranges));
        }
        let reached = touched.iter().filter_map(DataFile::range);
        ranges = ranges.iter().copied().chain(reached).collect();
    }
}

fn is_touched(file: &DataFile, ranges: &RangeSet) -> bool {
    let overlaps = |range: crate::interval::Range| {
        ranges.iter().any(|other| range.start < other.end && other.start < range.end)
    };
    file.range().is_none_or(overlaps)
}
