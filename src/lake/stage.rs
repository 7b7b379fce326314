//! Rows become Parquet files that no reader sees: the first half of every write. The files become
//! part of a table only by [`super::commit::commit`]; abandoned ones are orphans for vacuum.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, RecordBatch};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{filter_record_batch, partition, sort_to_indices, take, take_record_batch};
use arrow::datatypes::Date32Type;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryPool, MemoryReservation,
};
use datafusion::prelude::SessionContext;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use deltalake::logstore::ObjectStoreRef;
use deltalake::{DeltaTableError, DeltaTablePartition};
use futures::stream::{self, StreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::Lake;
use super::spec::{DAY_COLUMN, TARGET_FILE_BYTES, TableSpec};
use super::statistics::certain;
use super::store::store_error;
use crate::error::{Error, Result};
use crate::table::TableName;

/// Days of one batch for each of which it is gone through once.
const DAYS_FILTERED_MAX: usize = 8;
/// Rows that are sorted by day, or gone through for each, together.
const ROWS_AT_ONCE: usize = 1 << 16;
/// Rows per Parquet row group.
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;
/// Encoded, per Parquet row group: its writer holds all of it, and so does a reader.
const ROW_GROUP_BYTES_MAX: usize = 32 << 20;
/// What a writer holds of one column beside what it encoded, at most, and from the beginning; how often it holds
/// what it was given, as a dictionary, its table and the places in it; and of how many bytes of rows
/// one is left once they are encoded.
const COLUMN_BYTES_MAX: usize = 4 << 20;
const COLUMN_BYTES: usize = 64 << 10;
const RAW_TIMES: usize = 3;
const ENCODED_PART: usize = 3;
/// What one file may hold wherever no more memory is to be had.
const FILE_BYTES_HELD: usize = 16 << 20;
/// Files whose ends are written at once.
const CLOSED_AT_ONCE: usize = 4;

/// Files that are written but not committed.
#[derive(Debug, Clone, Default)]
pub struct Staged {
    pub(super) adds: Vec<Add>,
    pub rows: u64,
    pub bytes: u64,
}

impl Staged {
    /// Takes in the files of another writer of the same rows.
    pub fn join(&mut self, other: Staged) {
        self.adds.extend(other.adds);
        self.rows += other.rows;
        self.bytes += other.bytes;
    }

    /// Takes the files of `other` in, without counting its rows as written.
    pub fn adds_from(&mut self, other: Option<Staged>) {
        self.adds.extend(other.into_iter().flat_map(|other| other.adds));
    }

    /// Names of the files, as the log will have them.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.adds.iter().map(|add| add.path.as_str())
    }

    /// The rows as a table of `session`, before anybody else can see them: the spec's columns, without
    /// the day of their partition.
    pub fn table(
        &self,
        lake: &Lake,
        session: &SessionContext,
        spec: &TableSpec,
    ) -> Result<Arc<dyn TableProvider>> {
        let failed = |source: DataFusionError| {
            Error::internal(format!("staged rows of `{}` cannot be read", spec.name)).source(source)
        };
        if self.adds.is_empty() {
            return Ok(Arc::new(EmptyTable::new(Arc::clone(&spec.columns))));
        }
        // Not by the lake's own store, which says of single files where they lie outside of it.
        let folder = format!("{}{}/{}/", lake.root, spec.name.layer, spec.name.name());
        session.register_object_store(&lake.root, Arc::clone(&lake.outer));
        let files = self.paths().map(|path| ListingTableUrl::parse(format!("{folder}{path}")));
        let files = files.collect::<datafusion::common::Result<Vec<_>>>().map_err(failed)?;
        let options = ListingOptions::new(Arc::new(ParquetFormat::default()));
        let config = ListingTableConfig::new_with_multi_paths(files)
            .with_listing_options(options)
            .with_schema(Arc::clone(&spec.columns));
        Ok(Arc::new(ListingTable::try_new(config).map_err(failed)?))
    }

    /// Deletes files that will not be committed after all. Best effort: what stays is an orphan.
    pub async fn discard(self, lake: &Lake, name: &TableName) {
        let store = lake.log_store(name).object_store(None);
        for add in self.adds {
            if let Err(error) = store.delete(&Path::from(add.path.as_str())).await {
                tracing::debug!(table = %name, %error, "a staged file was not deleted");
            }
        }
    }
}

/// Writes rows into files that no reader of the table sees until they are committed.
pub struct Stager {
    spec: TableSpec,
    store: ObjectStoreRef,
    config: WriterConfig,
    /// What writers hold, of memory that others share.
    memory: MemoryReservation,
    /// Files that are being written: of each day of a table that is partitioned by it.
    open: BTreeMap<Option<i32>, Open>,
    adds: Vec<Add>,
    rows: u64,
}

/// The file of one day, or of all rows.
struct Open {
    writer: DeltaWriter,
    /// Of its rows in memory, before they were encoded.
    bytes: usize,
}

impl Open {
    /// About what it holds: what was encoded of the row group, and for every column a page and a
    /// dictionary.
    fn memory_bytes(&self, columns: usize) -> usize {
        let encoded = (self.bytes / ENCODED_PART).min(ROW_GROUP_BYTES_MAX);
        let raw = columns * COLUMN_BYTES + self.bytes * RAW_TIMES;
        raw.min(columns * COLUMN_BYTES_MAX) + encoded
    }
}

impl Stager {
    /// The table need not exist; nothing is written before the first rows. Files may hold whatever they
    /// need before they are complete.
    pub fn new(lake: &Lake, spec: &TableSpec) -> Result<Self> {
        Self::bounded(lake, spec, usize::MAX)
    }

    /// The same, but files together hold at most about `bytes_max`, see [`Stager::within`].
    pub fn bounded(lake: &Lake, spec: &TableSpec, bytes_max: usize) -> Result<Self> {
        let own: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(bytes_max));
        Self::within(lake, spec, MemoryConsumer::new("files").register(&own))
    }

    /// The same, but what the files hold is counted in `memory`. Where that refuses more, the largest
    /// are completed early, and the last one too once it holds 16 MiB.
    pub fn within(lake: &Lake, spec: &TableSpec, memory: MemoryReservation) -> Result<Self> {
        let config = WriterConfig::new(
            spec.schema(),
            spec.partition_columns(),
            Some(writer_properties(spec)),
            NonZeroU64::new(TARGET_FILE_BYTES),
            None,
            Default::default(), // the named columns below win
            Some(spec.statistics_columns()),
        );
        let store = lake.log_store(&spec.name).object_store(None);
        let (open, adds) = (BTreeMap::new(), Vec::new());
        Ok(Self { spec: spec.clone(), store, config, memory, open, adds, rows: 0 })
    }

    /// Adds rows; `batch` must have exactly the spec's declared columns.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.spec.with_day(batch)?;
        self.rows += batch.num_rows() as u64;
        // Rows of several days are copied.
        for at in (0..batch.num_rows()).step_by(ROWS_AT_ONCE) {
            let rows = batch.slice(at, ROWS_AT_ONCE.min(batch.num_rows() - at));
            let written = match rows.column_by_name(DAY_COLUMN) {
                Some(days) => self.write_days(&rows, days.as_primitive::<Date32Type>()).await,
                None => self.write_into(None, &rows).await,
            };
            written.map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// Writes the rows of each day. deltalake would find them by sorting and copy every row, also
    /// of a batch that lies in one day.
    async fn write_days(
        &mut self,
        batch: &RecordBatch,
        days: &Date32Array,
    ) -> Result<(), DeltaTableError> {
        match few_of(days).as_slice() {
            [day] => self.write_into(Some(*day), batch).await,
            [] => {
                let order = sort_to_indices(days, None, None)?;
                let sorted = take_record_batch(batch, &order)?;
                let days = take(days, &order, None)?;
                for rows in partition(std::slice::from_ref(&days))?.ranges() {
                    let day = days.as_primitive::<Date32Type>();
                    let day = day.is_valid(rows.start).then(|| day.value(rows.start));
                    let rows = sorted.slice(rows.start, rows.len());
                    self.write_into(day, &rows).await?;
                }
                Ok(())
            }
            few => {
                for day in few {
                    let is_of_day = eq(days, &Date32Array::new_scalar(*day))?;
                    let rows = filter_record_batch(batch, &is_of_day)?;
                    self.write_into(Some(*day), &rows).await?;
                }
                Ok(())
            }
        }
    }

    /// Writes rows of one day, or of a table without.
    async fn write_into(
        &mut self,
        day: Option<i32>,
        batch: &RecordBatch,
    ) -> Result<(), DeltaTableError> {
        let open = self.open.entry(day).or_insert_with(|| {
            let writer = DeltaWriter::new(self.store.clone(), self.config.clone());
            Open { writer, bytes: 0 }
        });
        open.bytes += bytes_of(batch);
        match day {
            Some(day) => {
                let date = Date32Type::to_naive_date_opt(day).ok_or_else(|| {
                    DeltaTableError::generic(format!("day {day} is out of range"))
                })?;
                // The log and the path keep a partition's value as its text.
                let partition = format!("{DAY_COLUMN}={date}");
                let DeltaTablePartition { key, value } = partition.as_str().try_into()?;
                let values = [(key, value)].into_iter().collect();
                open.writer.write_partition(batch.clone(), &values).await?;
            }
            None => open.writer.write(batch).await?,
        }
        self.fit().await
    }

    /// Completes the largest files until the others fit into the memory.
    async fn fit(&mut self) -> Result<(), DeltaTableError> {
        let columns = self.spec.columns.fields().len();
        loop {
            let held = |open: &Open| open.memory_bytes(columns);
            let bytes = self.open.values().map(held).sum();
            if self.memory.try_resize(bytes).is_ok() {
                return Ok(());
            }
            let largest = self.open.iter().max_by_key(|(_, open)| held(open));
            let may_end = self.open.len() > 1 || bytes > FILE_BYTES_HELD;
            let Some(day) = largest.map(|(day, _)| *day).filter(|_| may_end) else {
                self.memory.resize(bytes);
                return Ok(());
            };
            if let Some(complete) = self.open.remove(&day) {
                self.adds.extend(complete.writer.close().await?);
            }
        }
    }

    /// Completes the files; there are none if no rows were written.
    pub async fn finish(mut self) -> Result<Staged> {
        let name = self.spec.name.clone();
        let mut failure = None;
        // Also after an error: a cancelled upload leaves parts that nobody sees.
        let open = std::mem::take(&mut self.open).into_values();
        let mut closing =
            stream::iter(open.map(|open| open.writer.close())).buffered(CLOSED_AT_ONCE);
        while let Some(closed) = closing.next().await {
            match closed {
                Ok(adds) => self.adds.extend(adds),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        if let Some(source) = failure {
            return Err(store_error(&format!("cannot write `{name}`"), source));
        }
        let mut adds = self.adds;
        for add in &mut adds {
            add.stats = add.stats.take().map(|stats| certain(&stats, &self.spec.columns));
        }
        let bytes = adds.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum();
        Ok(Staged { adds, rows: self.rows, bytes })
    }

    /// Gives up, ending uploads that are under way; files already complete stay as orphans.
    pub async fn abort(self) {
        for open in self.open.into_values() {
            if let Err(error) = open.writer.abort().await {
                let table = &self.spec.name;
                tracing::warn!(%table, %error, "abandoned upload was not cleaned up");
            }
        }
    }

    fn failed(&self, source: deltalake::DeltaTableError) -> Error {
        store_error(&format!("cannot write `{}`", self.spec.name), source)
    }
}

/// Of the rows alone: a slice holds all of its array.
fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(bytes).sum()
}

/// The days of rows that all have one, if they are few.
fn few_of(days: &Date32Array) -> Vec<i32> {
    let mut few = BTreeSet::new();
    let mut last = None;
    for day in days.values() {
        if last != Some(*day) {
            few.insert(*day);
            last = Some(*day);
        }
        if days.null_count() > 0 || few.len() > DAYS_FILTERED_MAX {
            return Vec::new();
        }
    }
    few.into_iter().collect()
}

/// Whether a panic is one that deltalake catches by itself. It ends a failed upload by `abort`, which
/// panics in object_store 0.13 (`buffered.rs`, "Already shut down") if the file was small enough for
/// one request; deltalake goes on with the error of that request.
pub fn is_caught_panic(panic: &std::panic::PanicHookInfo<'_>) -> bool {
    let is_there = panic.location().is_some_and(|at| at.file().ends_with("src/buffered.rs"));
    is_there && panic.payload_as_str() == Some("Already shut down")
}

fn writer_properties(spec: &TableSpec) -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a zstd level");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("flowguard ", env!("CARGO_PKG_VERSION")).to_owned());
    // Offsets and times never repeat enough for a dictionary to pay.
    for name in ["_offset", "_timestamp"].into_iter().chain(spec.time.as_deref()) {
        properties = properties.set_column_dictionary_enabled(name.into(), false);
    }
    // What is not a number is in no bound, and would be passed over by a reader that trusts them.
    for field in spec.columns.fields().iter().filter(|field| field.data_type().is_floating()) {
        let name = field.name().as_str();
        properties = properties.set_column_statistics_enabled(name.into(), EnabledStatistics::None);
    }
    properties.build()
}
