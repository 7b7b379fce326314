//! The way back: dead letters that today's header can read become rows of bronze, exactly once.
//! What still fails stays as it is. Asks Kafka nothing.
//!
//! A replay moves in two commits: it appends to bronze, then deletes from the dead letters, so that
//! an offset is in one of them at every moment. Dying in between leaves it in both; the next replay
//! finds it in bronze and only deletes. Whether it is in bronze is decided on a snapshot, and a
//! counter in bronze's log makes the append fail if another replay came after that snapshot;
//! ingestion beside it only appends offsets that no replay touches. Letters at or after bronze's
//! next offset are such: they belong to a batch whose rows are still to come.

use std::collections::{BTreeMap, HashSet};

use tokio_util::sync::CancellationToken;

use super::sift::{Failing, Sifted, Sifting, Tally, add_failing};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::Pipeline;
use crate::ingest::batch::dead_letters_spec;
use crate::interval::RangeSet;
use crate::lake::commit::{Advance, Commit, Outcome, commit, replay_id};
use crate::lake::ledger::{Ledger, range_pairs};
use crate::lake::replace::{DataFile, Removal, files_holding, replace_files};
use crate::lake::spec::schema_change;
use crate::lake::stage::Staged;
use crate::model::dead_letters;

/// Files of dead letters that move together: as many as stay below both, but at least one. The
/// offsets of a group are held in memory, at most 64 bytes each.
const GROUP_ROWS_MAX: u64 = 500_000;
const GROUP_BYTES_MAX: u64 = 64 << 20;
/// How often files that another process rewrote are looked for again.
const ROUNDS_MAX: u32 = 20;
/// How often the deletion meets another commit before it gives up; a later replay does it then.
const DELETE_ATTEMPTS_MAX: u32 = 50;

/// What became of one table's dead letters. A letter whose file another process rewrote in
/// between is met twice, and counts twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Letters that are rows now, or would be.
    pub replayed: u64,
    /// Letters that were rows already, left over by a replay that died; deleted.
    pub deleted: u64,
    /// Letters at or after bronze's next offset, not touched.
    pub held_back: u64,
    /// Letters that stay, by the reason of today.
    pub failing: BTreeMap<&'static str, Failing>,
    /// The stop signal came before the end.
    pub is_stopped: bool,
}

impl Report {
    /// All that were decided about.
    pub fn letters(&self) -> u64 {
        self.replayed + self.deleted + self.held_back + self.failing()
    }

    /// Those that stay, over all reasons.
    pub fn failing(&self) -> u64 {
        self.failing.values().map(|failing| failing.count).sum()
    }
}

/// Rows of dead-letter files read, of how many in all; those of other tables count too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// Whether a replay writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Move,
    /// Decide everything, write nothing.
    DryRun,
}

/// Replays all dead letters of the pipeline's table and topic that are there at the start, group
/// by group; between two groups nothing is half done.
pub async fn replay(
    pipeline: &Pipeline,
    mode: Mode,
    stop: &CancellationToken,
    mut on_progress: impl FnMut(Progress),
) -> Result<Report> {
    let mut report = Report::default();
    // Files that hold nothing but what was decided to stay.
    let mut settled: HashSet<String> = HashSet::new();
    for _ in 0..ROUNDS_MAX {
        let Some(dead) = pipeline.lake.snapshot(&dead_letters()).await? else {
            return Ok(report);
        };
        let mut files = files_holding(&dead, "_topic", &pipeline.topic);
        files.retain(|file| !settled.contains(&file.path));
        let mut progress = Progress { done: 0, total: files.iter().map(|file| file.rows).sum() };
        let mut is_complete = true;
        for group in groups(files) {
            on_progress(progress);
            progress.done += group.iter().map(|file| file.rows).sum::<u64>();
            match move_group(pipeline, group, mode, stop, &mut report).await? {
                Moved::Done { settled: files } => settled.extend(files),
                Moved::Lost => is_complete = false,
                Moved::Stopped => {
                    report.is_stopped = true;
                    return Ok(report);
                }
            }
        }
        on_progress(progress);
        if is_complete {
            return Ok(report);
        }
    }
    Err(Error::new(ErrorKind::Conflict, "other processes rewrite `bronze.dead_letters` too fast")
        .hint("nothing is lost; run the replay again when they are done"))
}

fn groups(files: Vec<DataFile>) -> Vec<Vec<DataFile>> {
    let mut groups: Vec<Vec<DataFile>> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for file in files {
        rows += file.rows;
        bytes += file.bytes;
        match groups.last_mut().filter(|_| rows <= GROUP_ROWS_MAX && bytes <= GROUP_BYTES_MAX) {
            Some(group) => group.push(file),
            None => {
                (rows, bytes) = (file.rows, file.bytes);
                groups.push(vec![file]);
            }
        }
    }
    groups
}

enum Moved {
    Done {
        settled: Vec<String>,
    },
    /// Another process was first with these files; they must be looked for again.
    Lost,
    Stopped,
}

async fn move_group(
    pipeline: &Pipeline,
    group: Vec<DataFile>,
    mode: Mode,
    stop: &CancellationToken,
    report: &mut Report,
) -> Result<Moved> {
    let read = group.iter().map(|file| file.path.clone()).collect();
    let mut moving = match Moving::prepare(pipeline, group, mode, stop).await? {
        Prepared::Ready(moving) => moving,
        Prepared::Lost => return Ok(Moved::Lost),
        Prepared::Stopped => return Ok(Moved::Stopped),
    };
    let writes = mode == Mode::Move && moving.tally.gone.count() > 0;
    if writes && !moving.append().await? {
        return Ok(Moved::Lost);
    }
    let tally = &moving.tally;
    report.replayed += tally.replayed.count();
    let deleted = tally.gone.count() - tally.replayed.count();
    let held_back = tally.held_back;
    let failing = moving.tally.failing.clone();
    let settled = if writes { moving.delete().await? } else { Some(read) };
    let Some(settled) = settled else { return Ok(Moved::Lost) };
    report.deleted += deleted;
    report.held_back += held_back;
    for (reason, found) in failing {
        add_failing(&mut report.failing, reason, found);
    }
    Ok(Moved::Done { settled })
}

/// What came of looking at a group of files.
pub enum Prepared<'a> {
    Ready(Box<Moving<'a>>),
    /// The dead letters no longer have one of the files.
    Lost,
    Stopped,
}

/// A group of files whose letters are decided and staged. The order is: append, then delete.
pub struct Moving<'a> {
    pipeline: &'a Pipeline,
    files: Vec<DataFile>,
    removal: Option<Removal>,
    /// The replay counter in the snapshot of bronze that was looked at.
    counter: Option<i64>,
    rows: Staged,
    kept: Staged,
    touched: RangeSet,
    tally: Tally,
}

impl<'a> Moving<'a> {
    /// Decides about every letter of `files`, and stages rows and what is kept unless nothing
    /// moves or nothing is to be written.
    pub async fn prepare(
        pipeline: &'a Pipeline,
        files: Vec<DataFile>,
        mode: Mode,
        stop: &CancellationToken,
    ) -> Result<Prepared<'a>> {
        let Some(dead) = pipeline.lake.snapshot(&dead_letters()).await? else {
            return Ok(Prepared::Lost);
        };
        let Some(removal) = replace_files(&dead, &files) else { return Ok(Prepared::Lost) };
        let bronze = pipeline.lake.snapshot(&pipeline.spec.name).await?;
        if let (Mode::DryRun, Some(bronze)) = (mode, &bronze) {
            schema_change(bronze.name(), &bronze.schema(), &pipeline.spec.columns)?;
        }
        let counter = match &bronze {
            Some(bronze) => bronze.transaction(&replay_id(&pipeline.spec.name)).await?,
            None => None,
        };
        let sifting = Sifting { pipeline, dead: &dead, bronze: bronze.as_ref(), files: &files };
        let Some(sifted) = sifting.run(mode == Mode::Move, stop).await? else {
            return Ok(Prepared::Stopped);
        };
        let Sifted { rows, kept, touched, tally } = sifted;
        Ok(Prepared::Ready(Box::new(Self {
            pipeline,
            files,
            removal: Some(removal),
            counter,
            rows,
            kept,
            touched,
            tally,
        })))
    }

    /// The first commit: rows into bronze. False if another replay was first; nothing was
    /// written then.
    pub async fn append(&mut self) -> Result<bool> {
        let pipeline = self.pipeline;
        let staged = std::mem::take(&mut self.rows);
        if staged.rows == 0 {
            return Ok(true);
        }
        let mut ledger = Ledger::new(pipeline.spec.name.to_string(), pipeline.run);
        ledger.rows = staged.rows;
        ledger.touched = range_pairs(&self.touched);
        ledger.replayed = self.tally.replayed.ranges(&pipeline.topic, &self.tally.values);
        let rows = staged.rows;
        let advance = Advance {
            app_id: replay_id(&pipeline.spec.name),
            expected: self.counter,
            next: self.counter.unwrap_or(0) + 1,
        };
        let append =
            Commit { spec: &pipeline.spec, staged, removal: None, advances: vec![advance], ledger };
        match commit(&pipeline.lake, &append).await? {
            Outcome::Committed { version } => {
                tracing::info!(table = %pipeline.spec.name, version, rows, "dead letters replayed");
                Ok(true)
            }
            Outcome::Superseded { .. } => Ok(false),
        }
    }

    /// The second commit: the files go, what stays in them comes back in others, whose paths are
    /// returned. `None` if another process rewrote one of the files; nothing was deleted then.
    pub async fn delete(&mut self) -> Result<Option<Vec<String>>> {
        let pipeline = self.pipeline;
        let spec = dead_letters_spec();
        let kept = std::mem::take(&mut self.kept);
        let paths = kept.paths().map(str::to_owned).collect();
        let mut ledger = Ledger::new(spec.name.to_string(), pipeline.run);
        ledger.replayed = self.tally.gone.ranges(&pipeline.topic, &BTreeMap::new());
        for range in &mut ledger.replayed {
            range.table = Some(pipeline.spec.name.to_string());
        }
        let mut deletion = Commit {
            spec: &spec,
            staged: kept,
            removal: self.removal.take(),
            advances: Vec::new(),
            ledger,
        };
        for _ in 0..DELETE_ATTEMPTS_MAX {
            match commit(&pipeline.lake, &deletion).await {
                Ok(_) => return Ok(Some(paths)),
                Err(error) if error.kind == ErrorKind::Conflict => {
                    // Appended files change nothing about these; staged files that are not
                    // committed after all are left to vacuum, never deleted in doubt.
                    let newest = pipeline.lake.snapshot(&spec.name).await?;
                    deletion.removal =
                        newest.and_then(|newest| replace_files(&newest, &self.files));
                    if deletion.removal.is_none() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Conflict, "`bronze.dead_letters` changes too fast")
            .hint("the rows are in bronze; run the replay again to delete their dead letters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_move_together_up_to_the_limits() {
        let file = |path: &str, rows, bytes| DataFile { path: path.to_owned(), rows, bytes };
        let files = vec![
            file("a", GROUP_ROWS_MAX - 1, 1),
            file("b", 1, 1),
            file("c", 1, GROUP_BYTES_MAX + 1),
            file("d", 1, GROUP_BYTES_MAX),
            file("e", 1, 1),
        ];
        let paths: Vec<Vec<String>> = groups(files)
            .into_iter()
            .map(|group| group.into_iter().map(|file| file.path).collect())
            .collect();
        assert_eq!(paths, [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
    }
}
