//! Rows become Parquet files that no reader sees: the first half of every write. The files become
//! part of a table only by [`super::commit::commit`]; abandoned ones are orphans for vacuum.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Date32Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::eq;
use arrow::datatypes::Date32Type;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::prelude::SessionContext;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use deltalake::{DeltaTableError, DeltaTablePartition};
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
/// Rows per Parquet row group.
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;

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
    writer: DeltaWriter,
    rows: u64,
}

impl Stager {
    /// The table need not exist; nothing is written before the first rows.
    pub fn new(lake: &Lake, spec: &TableSpec) -> Result<Self> {
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
        Ok(Self { spec: spec.clone(), writer: DeltaWriter::new(store, config), rows: 0 })
    }

    /// Adds rows; `batch` must have exactly the spec's declared columns.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.spec.with_day(batch)?;
        self.rows += batch.num_rows() as u64;
        let written = match days_of(&batch) {
            Some(days) => self.write_days(&batch, &days).await,
            None => self.writer.write(&batch).await,
        };
        written.map_err(|source| self.failed(source))
    }

    /// Writes the rows of each day. deltalake would find them by sorting and copy every row, also
    /// of a batch that lies in one day.
    async fn write_days(
        &mut self,
        batch: &RecordBatch,
        days: &BTreeSet<i32>,
    ) -> Result<(), DeltaTableError> {
        let column = batch.column_by_name(DAY_COLUMN).map(AsArray::as_primitive::<Date32Type>);
        for day in days {
            let rows = match column.filter(|_| days.len() > 1) {
                Some(column) => {
                    filter_record_batch(batch, &eq(column, &Date32Array::new_scalar(*day))?)?
                }
                None => batch.clone(),
            };
            let date = Date32Type::to_naive_date_opt(*day)
                .ok_or_else(|| DeltaTableError::generic(format!("day {day} is out of range")))?;
            // The log and the path keep a partition's value as its text.
            let partition = format!("{DAY_COLUMN}={date}");
            let DeltaTablePartition { key, value } = partition.as_str().try_into()?;
            self.writer.write_partition(rows, &[(key, value)].into_iter().collect()).await?;
        }
        Ok(())
    }

    /// Completes the files; there are none if no rows were written.
    pub async fn finish(self) -> Result<Staged> {
        let name = self.spec.name.clone();
        let mut adds = self
            .writer
            .close()
            .await
            .map_err(|source| store_error(&format!("cannot write `{name}`"), source))?;
        for add in &mut adds {
            add.stats = add.stats.take().map(|stats| certain(&stats, &self.spec.columns));
        }
        let bytes = adds.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum();
        Ok(Staged { adds, rows: self.rows, bytes })
    }

    /// Gives up, ending uploads that are under way; files already complete stay as orphans.
    pub async fn abort(self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(table = %self.spec.name, %error, "abandoned upload was not cleaned up");
        }
    }

    fn failed(&self, source: deltalake::DeltaTableError) -> Error {
        store_error(&format!("cannot write `{}`", self.spec.name), source)
    }
}

/// The days of a batch that has them, if they are few and known of every row.
fn days_of(batch: &RecordBatch) -> Option<BTreeSet<i32>> {
    let column = batch.column_by_name(DAY_COLUMN)?.as_primitive_opt::<Date32Type>()?;
    if column.null_count() > 0 {
        return None;
    }
    let mut days = BTreeSet::new();
    let mut last = None;
    for day in column.values() {
        if last != Some(*day) {
            days.insert(*day);
            last = Some(*day);
        }
        if days.len() > DAYS_FILTERED_MAX {
            return None;
        }
    }
    Some(days)
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
