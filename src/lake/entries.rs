//! A table's log as it lies in the store: which entries and checkpoints there are, whether each entry
//! is whole, and what its commit did. Looks at no data file, and asks no library for a table.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use deltalake::kernel::Action;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::ledger::{ACTIONS_KEY, LEDGER_KEY, Ledger};
use crate::error::{Error, ErrorKind};
use crate::table::TableName;

/// Logs, or entries of one, read at once.
pub const READ_MAX: usize = 16;
const VERSION_DIGITS: usize = 20;

/// What one commit did.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// If FlowGuard wrote it.
    pub ledger: Option<Ledger>,
    /// Whether rows came or went, as far as the commit says.
    pub moves_rows: bool,
}

/// One log entry that is whole.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub change: Change,
    /// Of the files that it adds or removes, as the log spells them.
    pub paths: Vec<String>,
}

/// What can be wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Entries that are not there, although later ones need them.
    Missing(RangeInclusive<u64>),
    Empty(u64),
    /// Ends before its last line does, or holds something else than an action there.
    Torn {
        version: u64,
        line: usize,
    },
    /// Lines that are left of an entry of FlowGuard's, and how many were written.
    Cut {
        version: u64,
        left: u64,
        written: u64,
    },
}

/// The file of a version.
pub fn file_name(version: u64) -> String {
    format!("{version:0VERSION_DIGITS$}.json")
}

impl Fault {
    /// The first version that it is about.
    pub fn version(&self) -> u64 {
        match self {
            Self::Missing(versions) => *versions.start(),
            Self::Empty(version) | Self::Torn { version, .. } | Self::Cut { version, .. } => {
                *version
            }
        }
    }

    /// What to do about it; `newest` is the log's newest version.
    pub fn cure(&self, name: &TableName, newest: u64) -> String {
        let restore = match name.layer {
            crate::table::Layer::Bronze => "restore it from a backup".to_owned(),
            _ => format!(
                "restore it from a backup, or delete the table's folder and build it anew by \
                 `flowguard run {name}`"
            ),
        };
        match self {
            Self::Missing(_) => restore,
            _ if self.version() < newest => {
                format!("its commit is lost in part, by a power cut for instance: {restore}")
            }
            _ => "its commit is lost in part, by a power cut for instance: restore it, or delete \
                  it, since it is the newest one; then ingest, or run again, what it brought"
                .to_owned(),
        }
    }

    pub fn into_error(self, name: &TableName, newest: u64) -> Error {
        let hint = self.cure(name, newest);
        let message = format!("the log of `{name}` is damaged: {self}");
        Error::new(ErrorKind::DataLoss, message).hint(hint)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(versions) if versions.start() == versions.end() => {
                write!(f, "entry `{}` is missing", file_name(*versions.start()))
            }
            Self::Missing(versions) => {
                let (first, last) = (file_name(*versions.start()), file_name(*versions.end()));
                write!(f, "entries `{first}` to `{last}` are missing")
            }
            Self::Empty(version) => write!(f, "entry `{}` is empty", file_name(*version)),
            Self::Torn { version, line } => {
                write!(f, "line {line} of entry `{}` is no action", file_name(*version))
            }
            Self::Cut { version, left, written } => {
                let file = file_name(*version);
                write!(f, "entry `{file}` was cut: {left} of {written} lines are left")
            }
        }
    }
}

/// Reads the entry of `version`.
pub fn read(version: u64, entry: &[u8]) -> Result<Entry, Fault> {
    let lines = entry.split(|byte| *byte == b'\n').enumerate();
    let mut lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty()).peekable();
    if lines.peek().is_none() {
        return Err(Fault::Empty(version));
    }
    let mut read = Entry::default();
    let (mut left, mut written) = (0, None);
    for (at, line) in lines {
        left += 1;
        match serde_json::from_slice::<Action>(line) {
            Ok(Action::Add(add)) => {
                read.change.moves_rows |= add.data_change;
                read.paths.push(add.path);
            }
            Ok(Action::Remove(remove)) => {
                read.change.moves_rows |= remove.data_change;
                read.paths.push(remove.path);
            }
            Ok(Action::CommitInfo(info)) => {
                let ledger = info.info.get(LEDGER_KEY).cloned();
                written = ledger.as_ref().and_then(|ledger| ledger[ACTIONS_KEY].as_u64());
                read.change.ledger = ledger.and_then(|value| serde_json::from_value(value).ok());
            }
            // Other writers know more actions than this reader.
            Ok(_) => {}
            Err(_) if serde_json::from_slice::<serde_json::Map<_, _>>(line).is_ok() => {}
            Err(_) => return Err(Fault::Torn { version, line: at + 1 }),
        }
    }
    match written.map(|written| written + 1) {
        Some(written) if left < written => Err(Fault::Cut { version, left, written }),
        _ => Ok(read),
    }
}

/// The files of a log by version.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    pub entries: BTreeMap<u64, Path>,
    /// One that has several parts lists them all.
    pub checkpoints: BTreeMap<u64, Vec<Path>>,
    /// What checkpoints of other writers keep beside themselves.
    pub sidecars: Vec<Path>,
}

impl Listed {
    /// Everything below the folder `_delta_log`; none of it where there is no such folder.
    pub async fn of(store: &dyn ObjectStore, log: &Path) -> object_store::Result<Self> {
        let mut listed = Self::default();
        let mut objects = store.list(Some(log));
        while let Some(object) = objects.next().await {
            match object {
                Ok(object) => listed.take(object.location),
                Err(object_store::Error::NotFound { .. }) => break,
                Err(source) => return Err(source),
            }
        }
        Ok(listed)
    }

    /// Notes a file of the log; any other name is passed over.
    pub fn take(&mut self, path: Path) {
        let Some(name) = path.filename() else { return };
        if path.as_ref().contains("/_sidecars/") {
            return self.sidecars.push(path);
        }
        let Some((version, rest)) = name.split_at_checked(VERSION_DIGITS) else { return };
        let Ok(version) = version.parse::<u64>() else { return };
        if rest == ".json" {
            self.entries.insert(version, path);
        } else if rest.starts_with(".checkpoint.") {
            self.checkpoints.entry(version).or_default().push(path);
        }
    }

    /// The newest version that there is anything of.
    pub fn newest(&self) -> Option<u64> {
        let entry = self.entries.last_key_value().map(|(version, _)| *version);
        entry.max(self.newest_checkpoint())
    }

    pub fn newest_checkpoint(&self) -> Option<u64> {
        self.checkpoints.last_key_value().map(|(version, _)| *version)
    }

    /// Entries that are not there between those that are, and those that nothing stands in for: what
    /// a log was cleaned up of ends before a checkpoint.
    pub fn missing(&self) -> Vec<Fault> {
        let mut missing = Vec::new();
        let Some((first, _)) = self.entries.first_key_value() else { return missing };
        let after_checkpoint = self.newest_checkpoint().map_or(0, |checkpoint| checkpoint + 1);
        let mut next = after_checkpoint.min(*first);
        let checkpoint =
            self.newest_checkpoint().filter(|version| !self.entries.contains_key(version));
        for version in self.entries.keys().copied().chain(checkpoint.map(|version| version + 1)) {
            if version > next {
                missing.push(Fault::Missing(next..=version - 1));
            }
            next = next.max(version + 1);
        }
        missing
    }

    /// Those that are missing, and then the first of the entries after the newest checkpoint that is
    /// not whole: what keeps a table from being read.
    pub async fn fault(&self, store: &Arc<dyn ObjectStore>) -> object_store::Result<Option<Fault>> {
        let since = self.newest_checkpoint().map_or(0, |checkpoint| checkpoint + 1);
        let is_needed = |fault: &Fault| match fault {
            Fault::Missing(versions) => *versions.end() >= since,
            _ => true,
        };
        if let Some(missing) = self.missing().into_iter().find(is_needed) {
            return Ok(Some(missing));
        }
        let entries = self.entries.range(since..).map(|(version, path)| (*version, path.clone()));
        let mut contents = contents(store, entries.collect());
        while let Some((version, content)) = contents.try_next().await? {
            if let Err(fault) = read(version, &content) {
                return Ok(Some(fault));
            }
        }
        Ok(None)
    }
}

/// The contents of entries, in order.
pub fn contents(
    store: &Arc<dyn ObjectStore>,
    entries: Vec<(u64, Path)>,
) -> BoxStream<'static, object_store::Result<(u64, Bytes)>> {
    let store = Arc::clone(store);
    let read = move |(version, path): (u64, Path)| {
        let store = Arc::clone(&store);
        async move { Ok((version, store.get(&path).await?.bytes().await?)) }
    };
    futures::stream::iter(entries).map(read).buffered(READ_MAX).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first fault of a log with these entries and checkpoints.
    fn missing(entries: &[u64], checkpoints: &[u64]) -> Vec<String> {
        let mut listed = Listed::default();
        let log = Path::from("lake/silver/t/_delta_log");
        for version in entries {
            listed.take(log.clone().join(file_name(*version)));
        }
        for version in checkpoints {
            listed.take(log.clone().join(format!("{version:020}.checkpoint.parquet")));
        }
        listed.take(log.clone().join("_last_checkpoint"));
        listed.missing().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_log_was_cleaned_up_of_is_not_missing() {
        for (entries, checkpoints) in [
            (&[0, 1, 2][..], &[][..]),
            (&[], &[20]),
            (&[21, 22], &[20]),
            (&[18, 19, 20, 21], &[20]),
            (&[20], &[20]),
        ] {
            assert_eq!(missing(entries, checkpoints), [""; 0], "{entries:?} {checkpoints:?}");
        }
    }

    #[test]
    fn an_entry_that_was_deleted_is_missing() {
        let one = |version: u64| format!("entry `{}` is missing", file_name(version));
        assert_eq!(missing(&[1, 2], &[]), [one(0)]);
        assert_eq!(missing(&[0, 1, 3, 4], &[]), [one(2)]);
        assert_eq!(missing(&[0, 2, 3], &[3]), [one(1)]);
        assert_eq!(missing(&[22], &[20]), [one(21)]);
        assert_eq!(missing(&[18, 19], &[20]), [one(20)]);
        let first = format!("entries `{}` to `{}` are missing", file_name(0), file_name(1));
        assert_eq!(missing(&[2], &[]), [first]);
    }

    /// What is wrong with an entry.
    fn fault(entry: &str) -> Option<Fault> {
        read(7, entry.as_bytes()).err()
    }

    #[test]
    fn an_entry_is_whole_or_says_where_it_ends() {
        let info = r#"{"commitInfo":{"timestamp":1,"flowguard":{"actions":2}}}"#;
        let txn = r#"{"txn":{"appId":"a","version":1}}"#;
        let later = r#"{"actionOfTomorrow":{"x":1}}"#;
        assert_eq!(fault(&format!("{info}\n{txn}\n{txn}\n")), None);
        assert_eq!(fault(&format!("{txn}\n{later}")), None);
        assert_eq!(fault(""), Some(Fault::Empty(7)));
        assert_eq!(fault("\n"), Some(Fault::Empty(7)));
        assert_eq!(fault("\0\0\0\0"), Some(Fault::Torn { version: 7, line: 1 }));
        let half = &txn[..txn.len() / 2];
        assert_eq!(fault(&format!("{info}\n{half}")), Some(Fault::Torn { version: 7, line: 2 }));
        let cut = Fault::Cut { version: 7, left: 2, written: 3 };
        assert_eq!(fault(&format!("{info}\n{txn}\n")), Some(cut));
    }
}
