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
use tempfile::TempDir;
use uuid::Uuid;

use super::shape::is_abandoned;
use crate::error::{Error, ErrorKind, Result};

/// A file is closed once it has so many bytes, so that it has 100 to 250 MB unless it is the last.
const FILE_BYTES: usize = 150_000_000;
/// Bytes that wait in memory.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Begins the names of folders where files wait for their upload; a stage's name follows.
const FOLDER_PREFIX: &str = "flowguard-";

/// A file that is complete.
#[derive(Debug, Clone)]
pub struct PartFile {
    pub path: PathBuf,
    pub name: String,
    pub rows: u64,
}

/// Writes rows into Parquet files that a warehouse loads side by side.
pub struct PartWriter<'a> {
    folder: &'a Path,
    columns: SchemaRef,
    open: Option<(ArrowWriter<File>, PartFile)>,
    count: usize,
}

impl<'a> PartWriter<'a> {
    /// `folder` must exist. The files in it are called `part-00000.parquet` and so on.
    pub fn new(folder: &'a Path, columns: &SchemaRef) -> Self {
        Self { folder, columns: Arc::clone(columns), open: None, count: 0 }
    }

    /// The part that is complete with these rows, if one is.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Option<PartFile>> {
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
                closed.insert((writer, PartFile { path, name, rows: 0 }))
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
    pub fn finish(&mut self) -> Result<Option<PartFile>> {
        let Some((writer, part)) = self.open.take() else { return Ok(None) };
        writer.close().map_err(unwritten)?;
        Ok(Some(part))
    }
}

/// Where the files of `stage` wait; removed with the value. Drivers take the path of an upload for a
/// pattern, and would find other files than the one that it names, or none.
pub fn make_folder(scratch: &Path, stage: &str) -> Result<TempDir> {
    if scratch.to_str().is_none_or(|path| path.contains(['*', '?', '[', ']', '{', '}', '\\'])) {
        let message = format!("files in `{}` cannot be uploaded", scratch.display());
        return Err(Error::invalid(message)
            .hint("set engine.spill_dir to a folder in whose name no driver sees a pattern"));
    }
    let made =
        tempfile::Builder::new().prefix(&format!("{FOLDER_PREFIX}{stage}-")).tempdir_in(scratch);
    made.map_err(|source| {
        let message = format!("cannot make a folder in {}", scratch.display());
        Error::new(ErrorKind::Exhausted, message).source(source)
    })
}

/// Removes the files of loads that died long before `run`. Those that cannot be removed are
/// somebody else's to care for.
pub fn remove_abandoned(scratch: &Path, run: Uuid) {
    for entry in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let stage = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX));
        if stage.is_some_and(|stage| is_abandoned(stage, run)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
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
    use crate::export::sql::shape::stage_name;

    #[test]
    fn a_folder_that_is_a_pattern_to_drivers_is_refused() {
        for name in ["a*", "a?b", "[a]", "{a,b}", "a\\b"] {
            let scratch = tempfile::tempdir().unwrap().path().join(name);
            std::fs::create_dir_all(&scratch).unwrap();
            let refused = make_folder(&scratch, "stage").unwrap_err();
            assert!(refused.message.ends_with("cannot be uploaded"), "{}", refused.message);
            std::fs::remove_dir_all(scratch.parent().unwrap()).unwrap();
        }
    }

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
        let mut parts: Vec<PartFile> = Vec::new();
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
    #[test]
    fn files_of_loads_that_died_long_ago_are_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |hours: u64| {
            let run = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, hours * 3600, 0));
            let stage = stage_name(run, &"gold.daily".parse().unwrap());
            let folder = scratch.path().join(format!("{FOLDER_PREFIX}{stage}-x"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("part-00000.parquet"), "rows").unwrap();
            (run, folder)
        };
        let somebodys = scratch.path().join("flowguard-stage_of_mine");
        std::fs::create_dir(&somebodys).unwrap();
        let (long_ago, now) = (at(1_000), at(1_025));
        remove_abandoned(scratch.path(), now.0);
        assert!(!long_ago.1.exists() && now.1.exists() && somebodys.exists());
    }
}
