//! The statement log: who ran what, with rows, bytes, seconds and outcome, a JSON object per line in
//! a file beside the project. It begins anew past a size and keeps one file before. What cannot be
//! written is said in the program's own log; no statement fails for it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Size past which the file becomes the one before.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    /// By its user, or because nobody read on.
    Cancelled,
    Failed,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: Uuid,
    pub user: String,
    pub sql: String,
    /// Microseconds since 1970 UTC.
    pub started: i64,
    pub seconds: f64,
    pub rows: u64,
    /// As Arrow arrays in memory.
    pub bytes: u64,
    pub outcome: Outcome,
    pub error: Option<String>,
}

/// The file that statements are noted in, if there is one.
pub struct StatementLog {
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
}

impl StatementLog {
    /// Keeps nothing.
    pub fn none() -> Self {
        Self { path: None, file: Mutex::default() }
    }

    /// Appends to the file at `path`, which is made with the first record.
    pub fn at(path: &Path) -> Self {
        Self { path: Some(path.to_path_buf()), file: Mutex::default() }
    }

    /// Never fails: what cannot be noted is said in the program's own log.
    pub fn write(&self, record: &Record) {
        let Some(path) = &self.path else { return };
        if let Err(error) = self.append(path, record) {
            tracing::warn!(path = %path.display(), %error, "the statement log cannot be written");
        }
    }

    fn append(&self, path: &Path, record: &Record) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = file.as_ref().map(File::metadata).transpose()?
            && open.len() > FILE_BYTES_MAX
        {
            *file = None;
            // Unless another process has moved it away.
            let is_there = std::fs::metadata(path).is_ok_and(|found| found.ino() == open.ino());
            if is_there {
                std::fs::rename(path, before(path))?;
            }
        }
        if file.is_none() {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            // What people write into statements is theirs and the server's.
            *file = Some(OpenOptions::new().create(true).append(true).mode(0o600).open(path)?);
        }
        // One write per record: another process's lines stay whole.
        file.as_mut().map_or(Ok(()), |file| file.write_all(&line))
    }
}

fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// The newest `records_max` records that are wanted, in the order they ended, oldest first. A line
/// that a crash cut off is passed over.
pub fn read(
    path: &Path,
    records_max: usize,
    is_wanted: impl Fn(&Record) -> bool,
) -> Result<Vec<Record>> {
    let mut records = std::collections::VecDeque::new();
    for file in [before(path), path.to_path_buf()] {
        let file = match File::open(&file) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(unreadable(&file, source)),
        };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|source| unreadable(path, source))?;
            if let Ok(record) = serde_json::from_str::<Record>(&line)
                && is_wanted(&record)
            {
                records.push_back(record);
                if records.len() > records_max {
                    records.pop_front();
                }
            }
        }
    }
    Ok(records.into())
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::invalid(format!("cannot read `{}`", path.display())).source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second process to see the file full moved the other's new one over it.
    #[test]
    fn two_processes_on_a_full_log_keep_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("statements.log");
        let logs = [StatementLog::at(&path), StatementLog::at(&path)];
        let write =
            |log: &StatementLog, sql: &str| log.write(&Record { sql: sql.to_owned(), ..record() });
        write(&logs[0], "first");
        write(&logs[1], "second");
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        write(&logs[0], "third");
        write(&logs[1], "fourth");
        assert!(std::fs::metadata(before(&path)).unwrap().len() > FILE_BYTES_MAX);
        let kept = read(&path, 9, |_| true).unwrap();
        let kept: Vec<&str> = kept.iter().map(|record| record.sql.as_str()).collect();
        assert_eq!(kept, ["first", "second", "third", "fourth"]);
    }

    fn record() -> Record {
        Record {
            id: Uuid::nil(),
            user: "ada".to_owned(),
            sql: String::new(),
            started: 0,
            seconds: 0.0,
            rows: 0,
            bytes: 0,
            outcome: Outcome::Done,
            error: None,
        }
    }
}
