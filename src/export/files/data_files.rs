//! Data files: rows written as Parquet, one interval's apart from the next one's, each proved as it
//! is read back; and rows read. Knows nothing of manifests beyond one file's line.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use md5::{Digest, Md5};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use uuid::Uuid;

use super::manifest::DataFile;
use crate::engine::storable::conform;
use crate::error::{Error, ErrorKind, Result};
use crate::export::compare::calendar::Calendar;
use crate::export::compare::canonical::Proof;
use crate::export::pair::nullable;
use crate::interval::Range;
use crate::lake::objects::Folder;

/// Files grow to about this size, which is also held in memory, before the next is begun.
const FILE_BYTES_MAX: usize = 64 << 20;
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;
const PREFIX: &str = "part-";
const SUFFIX: &str = ".parquet";

/// Writes rows into data files of a limited size, one after the other.
pub struct Writer<'a> {
    folder: &'a Folder,
    /// Of the table.
    path: &'a str,
    columns: SchemaRef,
    /// If rows come in order of time.
    calendar: Option<Calendar<'a>>,
    open: Option<Open>,
    files: Vec<DataFile>,
}

struct Open {
    range: Option<Range>,
    writer: ArrowWriter<Vec<u8>>,
    proof: Proof,
}

impl<'a> Writer<'a> {
    /// With a `calendar` rows must come in order of time, and each interval begins a file of its
    /// own.
    pub fn new(
        folder: &'a Folder,
        path: &'a str,
        columns: &SchemaRef,
        calendar: Option<Calendar<'a>>,
    ) -> Self {
        let columns = Arc::clone(columns);
        Self { folder, path, columns, calendar, open: None, files: Vec::new() }
    }

    /// Fills the file that is open, and closes it when it is large enough.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut groups = match &self.calendar {
            Some(calendar) => calendar.split(batch)?,
            None => vec![(None, batch.clone())],
        };
        groups.sort_by_key(|(range, _)| *range);
        for (range, rows) in groups {
            if self.open.as_ref().is_some_and(|open| open.range != range || open.is_full()) {
                self.close().await?;
            }
            let open = match &mut self.open {
                Some(open) => open,
                closed => closed.insert(Open::new(range, &self.columns)?),
            };
            open.proof.update(&rows)?;
            open.writer.write(&rows).map_err(unwritten)?;
        }
        Ok(())
    }

    /// The files, at least one if `is_alone`: a table without rows has columns all the same.
    pub async fn finish(mut self, is_alone: bool) -> Result<Vec<DataFile>> {
        self.close().await?;
        if self.files.is_empty() && is_alone {
            self.open = Some(Open::new(None, &self.columns)?);
            self.close().await?;
        }
        Ok(self.files)
    }

    async fn close(&mut self) -> Result<()> {
        let Some(Open { range, writer, proof }) = self.open.take() else { return Ok(()) };
        let content = Bytes::from(writer.into_inner().map_err(unwritten)?);
        let file = DataFile {
            path: format!("{PREFIX}{}{SUFFIX}", Uuid::now_v7()),
            rows: proof.rows,
            bytes: content.len() as u64,
            md5: digest(&content),
            hash: proof.hash.to_string(),
            start: range.map(|range| range.start.to_string()),
            end: range.map(|range| range.end.to_string()),
        };
        self.folder.put(&format!("{}/{}", self.path, file.path), content).await?;
        let stored = get(self.folder, self.path, &file).await?.unwrap_or_default();
        let arrived = prove(stored, Arc::clone(&self.columns)).await?;
        let differences = proof.differences(&arrived, &self.columns);
        if !differences.is_empty() {
            return Err(Error::new(
                ErrorKind::DataLoss,
                format!("`{}` does not hold what was sent: {}", file.path, differences.join("; ")),
            )
            .hint("nothing was published; the store changes what it is given"));
        }
        self.files.push(file);
        Ok(())
    }
}

impl Open {
    fn new(range: Option<Range>, columns: &SchemaRef) -> Result<Self> {
        let level = ZstdLevel::try_new(1).expect("1 is a zstd level");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_created_by(concat!("flowguard ", env!("CARGO_PKG_VERSION")).to_owned());
        let writer =
            ArrowWriter::try_new(Vec::new(), Arc::clone(columns), Some(properties.build()))
                .map_err(unwritten)?;
        Ok(Self { range, writer, proof: Proof::new(columns) })
    }

    fn is_full(&self) -> bool {
        self.writer.bytes_written() + self.writer.in_progress_size() >= FILE_BYTES_MAX
    }
}

fn unwritten(source: ParquetError) -> Error {
    Error::internal("rows cannot be written as Parquet").source(source)
}

/// Whether a file of a table's folder is one that this module named.
pub fn is_ours(path: &str) -> bool {
    let id = path.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    id.is_some_and(|id| Uuid::try_parse(id).is_ok())
}

/// The content, or `None` if the file is gone or is another.
pub async fn get(folder: &Folder, path: &str, file: &DataFile) -> Result<Option<Bytes>> {
    folder.get(&format!("{path}/{}", file.path)).await
}

/// As manifests note it of a file.
pub fn digest(content: &[u8]) -> String {
    Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file holds.
pub async fn prove(content: Bytes, columns: SchemaRef) -> Result<Proof> {
    let proved = tokio::task::spawn_blocking(move || {
        let mut proof = Proof::new(&columns);
        for batch in rows(content, &columns)? {
            proof.update(&batch?)?;
        }
        Ok(proof)
    });
    proved.await.map_err(|source| Error::internal("a file's proof stopped").source(source))?
}

/// A file's rows with exactly these columns, found by their names; nulls are kept wherever they are.
pub fn rows(
    content: Bytes,
    columns: &SchemaRef,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
    let columns = nullable(columns);
    let unread = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid("the file cannot be read as Parquet").source(source)
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(content).and_then(|found| found.build());
    let reader = reader.map_err(|source| unread(source.into()))?;
    let found = arrow::array::RecordBatchReader::schema(&reader);
    let positions: Option<Vec<usize>> =
        columns.fields().iter().map(|field| found.index_of(field.name()).ok()).collect();
    let positions = positions.ok_or_else(|| Error::invalid("the file has other columns"))?;
    Ok(reader.map(move |batch| {
        let batch = batch.map_err(|source| unread(source.into()))?;
        let batch = batch.project(&positions).map_err(|source| unread(source.into()))?;
        conform(&batch, &columns)
    }))
}
