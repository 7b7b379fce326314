//! Rows as Parquet files on this machine's disk, for warehouses that copy files and take few large
//! ones fastest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, ErrorKind, Result};

/// A file is closed once it has so many bytes, so that it has 100 to 250 MB unless it is the last.
const FILE_BYTES: usize = 150_000_000;
/// Bytes that wait in memory.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A file that is complete.
#[derive(Debug, Clone)]
pub struct Part {
    pub path: PathBuf,
    pub name: String,
    pub rows: u64,
}

pub struct PartWriter<'a> {
    folder: &'a Path,
    columns: SchemaRef,
    open: Option<(ArrowWriter<File>, Part)>,
    count: usize,
}

impl<'a> PartWriter<'a> {
    pub fn new(folder: &'a Path, columns: &SchemaRef) -> Self {
        Self { folder, columns: Arc::clone(columns), open: None, count: 0 }
    }

    /// The part that is complete with these rows, if one is.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Option<Part>> {
        let (writer, part) = match &mut self.open {
            Some(open) => open,
            closed => {
                let name = format!("part-{:05}.parquet", self.count);
                self.count += 1;
                let path = self.folder.join(&name);
                let file = File::create_new(&path).map_err(|source| unwritten(source.into()))?;
                let properties =
                    WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer =
                    ArrowWriter::try_new(file, Arc::clone(&self.columns), Some(properties))
                        .map_err(unwritten)?;
                closed.insert((writer, Part { path, name, rows: 0 }))
            }
        };
        writer.write(batch).map_err(unwritten)?;
        part.rows += batch.num_rows() as u64;
        if writer.in_progress_size() >= WAITING_BYTES_MAX {
            writer.flush().map_err(unwritten)?;
        }
        match writer.bytes_written() >= FILE_BYTES {
            true => self.finish(),
            false => Ok(None),
        }
    }

    /// The last part, unless there are no more rows.
    pub fn finish(&mut self) -> Result<Option<Part>> {
        let Some((writer, part)) = self.open.take() else { return Ok(None) };
        writer.close().map_err(unwritten)?;
        Ok(Some(part))
    }
}

fn unwritten(source: ParquetError) -> Error {
    Error::new(ErrorKind::Exhausted, "rows cannot be written to this machine's disk")
        .source(source)
        .hint("they wait in the folder `engine.spill_dir` for their upload; it needs 300 MB")
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn parts_hold_all_rows_and_are_large() {
        let folder = tempfile::tempdir().unwrap();
        // Numbers that no encoding makes small.
        let numbers = |from: i64| {
            (from..from + 1_000_000).map(|n| n.wrapping_mul(-7_046_029_254_386_353_131))
        };
        let batch = |from| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers(from)));
            RecordBatch::try_from_iter([("n", numbers)]).unwrap()
        };
        let mut writer = PartWriter::new(folder.path(), &batch(0).schema());
        let mut parts: Vec<Part> = Vec::new();
        for at in 0..24 {
            parts.extend(writer.write(&batch(at * 1_000_000)).unwrap());
        }
        parts.extend(writer.finish().unwrap());
        assert_eq!(parts.iter().map(|part| part.rows).sum::<u64>(), 24_000_000);
        assert_eq!(parts.len(), 2, "{parts:?}");
        let bytes = parts[0].path.metadata().unwrap().len();
        assert!((100_000_000..250_000_000).contains(&bytes), "{bytes}");
        for part in &parts {
            let file = File::open(&part.path).unwrap();
            let found = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            assert_eq!(found.metadata().file_metadata().num_rows() as u64, part.rows);
        }
    }
}
