//! Which files a replacement removes, and which it must rewrite because they also hold rows that
//! stay. Decided from partition values and statistics alone; a file about which neither says enough
//! is rewritten, never dropped.

use std::collections::HashSet;
use std::sync::Arc;

use chrono_tz::Tz;
use datafusion::catalog::TableProvider;
use deltalake::kernel::{LogicalFileView, Remove};
use serde_json::Value;

use super::Snapshot;
use super::scan::checked;
use super::spec::DAY_COLUMN;
use super::store::store_error;
use crate::error::Result;
use crate::interval::{Every, Instant, Range};

/// Files to remove, chosen from one version of the table.
#[derive(Debug, Clone)]
pub struct Removal {
    pub(super) version: u64,
    pub(super) removes: Vec<Remove>,
    pub(super) whole_table: bool,
}

impl Removal {
    /// Whether no file goes.
    pub fn is_empty(&self) -> bool {
        self.removes.is_empty()
    }
}

/// The plan for replacing one range.
pub struct Replacement {
    pub removal: Removal,
    /// Files among the removed that also hold rows outside the range; those rows must be read
    /// from here and staged again.
    pub straddling: Option<Arc<dyn TableProvider>>,
}

/// Removes every file of the table.
pub fn replace_all(snapshot: &Snapshot) -> Removal {
    let removes = snapshot.eager().log_data().iter().map(|file| file.remove_action(true)).collect();
    Removal { version: snapshot.version(), removes, whole_table: true }
}

/// Plans the replacement of `range` of the table's `time` column. Days of the partition column
/// are days in `timezone`.
pub async fn replace_range(
    snapshot: &Snapshot,
    time: &str,
    range: Range,
    timezone: Tz,
) -> Result<Replacement> {
    let mut removes = Vec::new();
    let mut straddling = Vec::new();
    for file in snapshot.eager().log_data().iter() {
        match hull_of(&file, time, timezone) {
            Some(hull) if hull.end <= range.start || range.end <= hull.start => continue,
            Some(hull) if range.start <= hull.start && hull.end <= range.end => {}
            _ => straddling.push(file.path().into_owned()),
        }
        removes.push(file.remove_action(true));
    }
    let straddling = match straddling.is_empty() {
        true => None,
        false => Some(files_provider(snapshot, straddling).await?),
    };
    let removal = Removal { version: snapshot.version(), removes, whole_table: false };
    Ok(Replacement { removal, straddling })
}

/// A data file of one version of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    pub path: String,
    /// Rows as the statistics count them; 0 where they say nothing.
    pub rows: u64,
    pub bytes: u64,
}

/// All files of the table, oldest first.
pub fn all_files(snapshot: &Snapshot) -> Vec<DataFile> {
    files_if(snapshot, |_| true)
}

/// The files that may hold a row whose text `column` is `value`, oldest first.
pub fn files_holding(snapshot: &Snapshot, column: &str, value: &str) -> Vec<DataFile> {
    files_if(snapshot, |file| {
        let stats = file.stats().and_then(|stats| serde_json::from_str::<Value>(&stats).ok());
        let bound = |which: &str| stats.as_ref().and_then(|stats| stats[which][column].as_str());
        let excluded = bound("minValues").is_some_and(|min| value < min)
            || bound("maxValues").is_some_and(|max| max < value);
        !excluded
    })
}

fn files_if(snapshot: &Snapshot, wanted: impl Fn(&LogicalFileView) -> bool) -> Vec<DataFile> {
    let mut found: Vec<(i64, DataFile)> = Vec::new();
    for file in snapshot.eager().log_data().iter().filter(wanted) {
        let data_file = DataFile {
            path: file.path().into_owned(),
            rows: file.num_records().map_or(0, |rows| rows as u64),
            bytes: u64::try_from(file.size()).unwrap_or(0),
        };
        found.push((file.modification_time(), data_file));
    }
    found.sort_by(|(a_time, a), (b_time, b)| (a_time, &a.path).cmp(&(b_time, &b.path)));
    found.into_iter().map(|(_, file)| file).collect()
}

/// Removes exactly `files`, or `None` if the table no longer has one of them. The rows that stay
/// must be staged again.
pub fn replace_files(snapshot: &Snapshot, files: &[DataFile]) -> Option<Removal> {
    let wanted: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let log = snapshot.eager().log_data();
    let removes: Vec<Remove> = log
        .iter()
        .filter(|file| wanted.contains(file.path().as_ref()))
        .map(|file| file.remove_action(true))
        .collect();
    let complete = removes.len() == wanted.len();
    complete.then_some(Removal { version: snapshot.version(), removes, whole_table: false })
}

/// The rows of `files` alone, which must be part of the snapshot.
pub async fn rows_of_files(
    snapshot: &Snapshot,
    files: &[DataFile],
) -> Result<Arc<dyn TableProvider>> {
    files_provider(snapshot, files.iter().map(|file| file.path.clone()).collect()).await
}

async fn files_provider(snapshot: &Snapshot, paths: Vec<String>) -> Result<Arc<dyn TableProvider>> {
    let provider = snapshot.table.table_provider().with_file_paths(paths).build().await;
    let provider = provider
        .map_err(|source| store_error(&format!("cannot read `{}`", snapshot.name), source))?;
    Ok(checked(Arc::new(provider)))
}

/// A range that surely holds every row of the file, or `None` when nothing says so.
fn hull_of(file: &LogicalFileView, time: &str, timezone: Tz) -> Option<Range> {
    if let Some(Some(day)) = file.partition_values_map().get(DAY_COLUMN) {
        return day_range(day, timezone);
    }
    let stats: Value = serde_json::from_str(&file.stats()?).ok()?;
    if stats["nullCount"][time].as_i64()? != 0 {
        return None;
    }
    let bound = |which: &str| -> Option<Range> {
        let text = stats[which][time].as_str()?;
        if text.len() == "2026-01-01".len() {
            return day_range(text, timezone);
        }
        let instant = Instant::parse(text, Tz::UTC).ok()?;
        // Statistics cut times to the millisecond, downwards.
        Some(Range { start: instant, end: Instant(instant.0 + 1_000) })
    };
    Some(Range { start: bound("minValues")?.start, end: bound("maxValues")?.end })
}

fn day_range(day: &str, timezone: Tz) -> Option<Range> {
    let midnight = Instant::parse(day, timezone).ok()?;
    let range = Every::Day.interval_of(midnight, timezone);
    range.contains(midnight).then_some(range)
}
