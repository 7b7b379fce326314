//! Why a data file could not be read, asked of the store once reading it has failed: which file it
//! was, and whether it is gone, cut short, damaged, or only out of reach. Costs nothing before.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::error::ArrowError;
use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::store::{below, is_of_store, is_of_the_way, store_error};
use crate::error::{Error, ErrorKind};

/// What to do about one that is not as it was written.
const HINT: &str = "the table's log names it: put it back as it was; the table of a model can also \
                    be built anew, by `flowguard run --full-refresh`";

/// A scan of Parquet files whose failures say which file it was; any other node as it is.
pub fn watched(node: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    let is_scan = node
        .downcast_ref::<DataSourceExec>()
        .is_some_and(|scan| scan.downcast_to_file_source::<ParquetSource>().is_some());
    if is_scan { Transformed::yes(Arc::new(WatchedExec(node))) } else { Transformed::no(node) }
}

/// How many bytes of data files a plan is about to read, as they are stored. Files that its conditions
/// exclude by what the log says of them don't count.
pub fn scanned_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    if let Some(watched) = plan.downcast_ref::<WatchedExec>() {
        let scan = watched.0.downcast_ref::<DataSourceExec>();
        let scan = scan.and_then(DataSourceExec::downcast_to_file_source::<ParquetSource>);
        let files = scan.iter().flat_map(|(config, _)| &config.file_groups).flat_map(|g| g.files());
        let bytes = |file: &PartitionedFile| match &file.range {
            Some(part) => u64::try_from(part.end - part.start).unwrap_or(0),
            None => file.object_meta.size,
        };
        return files.map(bytes).sum();
    }
    plan.children().into_iter().map(scanned_bytes).sum()
}

/// Shown as the scan that it is.
#[derive(Debug)]
struct WatchedExec(Arc<dyn ExecutionPlan>);

impl DisplayAs for WatchedExec {
    fn fmt_as(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(form, f)
    }
}

impl ExecutionPlan for WatchedExec {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self(Arc::clone(&self.0).reset_state()?)))
    }

    fn apply_expressions(
        &self,
        apply: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(apply)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.0.execute(partition, Arc::clone(&context))?;
        let schema = rows.schema();
        let failed = Failed { scan: Arc::clone(&self.0), partition, context };
        let rows = rows.then(move |batch| {
            let failed = batch.is_err().then(|| failed.clone());
            async move {
                match (batch, failed) {
                    (Err(error), Some(failed)) => Err(failed.explained(error).await),
                    (batch, _) => batch,
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.0.metrics()
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        self.0.child_stats_requests(partition)
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        self.0.statistics_from_inputs(inputs, args)
    }
}

/// One partition of a scan, after it failed.
#[derive(Clone)]
struct Failed {
    scan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
}

impl Failed {
    /// The same error, or what is wrong with a file in its place.
    async fn explained(&self, error: DataFusionError) -> DataFusionError {
        let scan = self.scan.downcast_ref::<DataSourceExec>();
        let Some((config, source)) =
            scan.and_then(DataSourceExec::downcast_to_file_source::<ParquetSource>)
        else {
            return error;
        };
        let is_of_files = is_of_store(&error) || is_of_parquet(&error);
        if !is_of_files || is_of_condition(&error) {
            return error;
        }
        let Ok(store) = self.context.runtime_env().object_store(&config.object_store_url) else {
            return error;
        };
        let known = match self.other_on_the_store(config, store.as_ref()).await {
            None if !is_of_the_way(&error) => {
                self.undecodable(config, source, store.as_ref()).await
            }
            known => known,
        };
        // Nothing is wrong with any file: it was the way to them.
        let known = known.unwrap_or_else(|| out_of_reach(&self.files(config), error));
        DataFusionError::External(Box::new(known))
    }

    /// Those that the partition may have been reading.
    fn files<'a>(&self, config: &'a FileScanConfig) -> Vec<&'a PartitionedFile> {
        let groups = config.file_groups.iter().enumerate();
        let (own, others): (Vec<_>, Vec<_>) = groups.partition(|(at, _)| *at == self.partition);
        // Idle partitions take files of others.
        own.into_iter().chain(others).flat_map(|(_, group)| group.iter()).collect()
    }

    /// The first file that is not there, or is not as long as when it was written.
    async fn other_on_the_store(
        &self,
        config: &FileScanConfig,
        store: &dyn ObjectStore,
    ) -> Option<Error> {
        for file in self.files(config) {
            match store.head(&file.object_meta.location).await {
                Ok(found) if found.size != file.object_meta.size => {
                    let (found, written) = (found.size, file.object_meta.size);
                    let what = format!("has {found} bytes and was written with {written}");
                    return Some(lost(file, &what));
                }
                Err(object_store::Error::NotFound { .. }) => {
                    return Some(lost(file, "is missing"));
                }
                // What the store says now may be another matter than what failed.
                Ok(_) | Err(_) => {}
            }
        }
        None
    }

    /// The first file that cannot be decoded, whatever is asked of it.
    async fn undecodable(
        &self,
        config: &FileScanConfig,
        source: &ParquetSource,
        store: &dyn ObjectStore,
    ) -> Option<Error> {
        let readers = source.parquet_file_reader_factory()?;
        for file in self.files(config) {
            let metrics = ExecutionPlanMetricsSet::new();
            let reader =
                readers.create_reader(self.partition, file.clone(), None, &metrics).ok()?;
            let decoded = async {
                let rows = ParquetRecordBatchStreamBuilder::new(Reader(reader)).await?.build()?;
                rows.try_for_each(|_| std::future::ready(Ok(()))).await
            };
            match decoded.await {
                Err(error) if is_of_the_way(&error) => return None,
                Err(error) => {
                    // The reader tells the store's failures at the metadata in words only.
                    let end = file.object_meta.size;
                    let location = &file.object_meta.location;
                    store.get_range(location, end.saturating_sub(8)..end).await.ok()?;
                    return Some(lost(file, "is damaged").source(error.to_string()));
                }
                Ok(()) => {}
            }
        }
        None
    }
}

/// A boxed reader is none by itself.
struct Reader(Box<dyn AsyncFileReader + Send>);

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.0.get_bytes(range)
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        self.0.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.0.get_metadata(options)
    }
}

fn is_of_parquet(error: &(dyn StdError + 'static)) -> bool {
    let mut layer = Some(error);
    while let Some(error) = layer {
        let is_parquet = error.downcast_ref::<ParquetError>().is_some()
            || matches!(error.downcast_ref(), Some(ArrowError::ParquetError(_)));
        if is_parquet {
            return true;
        }
        layer = below(error);
    }
    false
}

/// Whether a condition that the scan applies failed for a value of a row.
fn is_of_condition(error: &(dyn StdError + 'static)) -> bool {
    let mut layer = Some(error);
    while let Some(error) = layer {
        if matches!(error.downcast_ref(), Some(ArrowError::ComputeError(_))) {
            return true;
        }
        layer = below(error);
    }
    false
}

fn out_of_reach(files: &[&PartitionedFile], error: DataFusionError) -> Error {
    let table = files.first().map_or_else(|| "the table".to_owned(), |file| table_of(file));
    store_error(&format!("cannot read data files of `{table}`"), error)
}

fn lost(file: &PartitionedFile, what: &str) -> Error {
    let (table, path) = (table_of(file), &file.object_meta.location);
    let message = format!("a data file of `{table}` {what}: `{path}`");
    Error::new(ErrorKind::DataLoss, message).hint(HINT)
}

/// A table lies in the folder of its name in that of its layer.
fn table_of(file: &PartitionedFile) -> String {
    file.object_meta.location.as_ref().split('/').take(2).collect::<Vec<_>>().join(".")
}
