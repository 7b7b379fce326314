//! A bronze table after its header has changed in a way that cannot be carried out in place: a column
//! of another type or name, or one less; another layout. All rows are written anew, in one commit;
//! ingestion may go on meanwhile, for what it adds is written anew as well.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema};
use datafusion::common::Column;
use datafusion::prelude::col;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::values::{HashedRow, hashed_rows};
use crate::engine::fault::engine_error;
use crate::engine::storable::conform;
use crate::error::{Error, ErrorKind, Result};
use crate::interval::TouchedHours;
use crate::lake::Snapshot;
use crate::lake::commit::{Commit, Outcome, commit, is_made_by};
use crate::lake::ledger::{Ledger, OffsetRange, Sum, range_pairs};
use crate::lake::logs::Logs;
use crate::lake::replace::{DataFile, all_files, replace_all, rows_of_files};
use crate::lake::spec::instants_of;
use crate::lake::stage::{Staged, Stager};

/// How often rows that came meanwhile are written anew before this gives up.
const ROUNDS_MAX: u32 = 20;

/// Writes the table anew if its header asks for that; says how many rows it has then. `on_progress`
/// is told of rows done, and of how many.
pub async fn rewrite(
    pipeline: &Pipeline,
    stop: &CancellationToken,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<Option<u64>> {
    let (lake, spec) = (&pipeline.lake, &pipeline.spec);
    let Some(mut table) = lake.snapshot(&spec.name).await? else { return Ok(None) };
    if is_made_by(&table, spec)? {
        return Ok(None);
    }
    let (staged, touched, sums) = Default::default();
    let mut anew = Anew { pipeline, stop, staged, touched, sums };
    let mut done: HashSet<String> = HashSet::new();
    let mut outcome = Err(Error::new(
        ErrorKind::Conflict,
        format!("`{}` grows faster than it can be written anew", spec.name),
    )
    .hint("nothing was changed; stop `flowguard ingest` and run again"));
    for _ in 0..ROUNDS_MAX {
        let mut files = all_files(&table);
        let total = files.iter().map(|file| file.rows).sum();
        let is_gone = files.iter().filter(|file| done.contains(&file.path)).count() < done.len();
        if is_gone {
            outcome = Err(Error::new(
                ErrorKind::Conflict,
                format!("another process rewrote files of `{}` meanwhile", spec.name),
            )
            .hint("nothing was changed; run again"));
            break;
        }
        files.retain(|file| !done.contains(&file.path));
        let read = anew.take(&table, &files, |rows| on_progress(rows, total)).await;
        if let Err(error) = read {
            outcome = Err(error);
            break;
        }
        done.extend(files.into_iter().map(|file| file.path));
        let mut ledger = Ledger::new(spec.name.to_string(), pipeline.run);
        ledger.rows = anew.staged.rows;
        ledger.touched = range_pairs(&anew.touched.ranges());
        ledger.rewritten = anew.sums.values().cloned().collect();
        let (staged, removal) = (anew.staged.clone(), Some(replace_all(&table)));
        let write = Commit { spec, staged, removal, advances: Vec::new(), ledger };
        match commit(lake, &write).await {
            Ok(Outcome::Committed { .. }) => return Ok(Some(anew.staged.rows)),
            Ok(Outcome::Superseded { .. }) => {
                return Err(Error::internal("a commit without expectations was superseded"));
            }
            // Ingestion was first; what it added is the next round's.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            // Whether it landed is not known, so the files stay.
            Err(error) => return Err(error),
        }
        match lake.snapshot(&spec.name).await? {
            Some(newest) if newest.id() == table.id() => table = newest,
            _ => break,
        }
    }
    // An attempt whose reply was lost may have landed after all.
    let newest = lake.snapshot(&spec.name).await?.map(|newest| all_files(&newest));
    let staged: HashSet<&str> = anew.staged.paths().collect();
    if !newest.unwrap_or_default().iter().any(|file| staged.contains(file.path.as_str())) {
        anew.staged.discard(lake, &spec.name).await;
    }
    outcome
}

/// What is written anew so far.
struct Anew<'a> {
    pipeline: &'a Pipeline,
    stop: &'a CancellationToken,
    staged: Staged,
    touched: TouchedHours,
    /// By topic, partition and log: a column of another name, or one less, changes all sums.
    sums: BTreeMap<(String, i32, u32), OffsetRange>,
}

impl Anew<'_> {
    async fn take(
        &mut self,
        table: &Snapshot,
        files: &[DataFile],
        mut on_rows: impl FnMut(u64),
    ) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut stager = Stager::new(&self.pipeline.lake, &self.pipeline.spec)?;
        let before = self.staged.rows;
        let poured = self.pour(table, files, &mut stager, |rows| on_rows(before + rows));
        if let Err(error) = poured.await {
            stager.abort().await;
            return Err(error);
        }
        self.staged.join(stager.finish().await?);
        Ok(())
    }

    async fn pour(
        &mut self,
        table: &Snapshot,
        files: &[DataFile],
        stager: &mut Stager,
        mut on_rows: impl FnMut(u64),
    ) -> Result<()> {
        let (pipeline, spec) = (self.pipeline, &self.pipeline.spec);
        let doing = format!("cannot read `{}`", spec.name);
        let failed = |error| engine_error(&doing, error);
        let sources = sources(pipeline, &table.schema())?;
        let known = sources.iter().flatten().map(|name| col(Column::from_name(name)));
        let known: Vec<_> = known.collect();
        let rows = rows_of_files(table, files).await?;
        let frame = pipeline.engine.session().read_table(rows).and_then(|rows| rows.select(known));
        let mut batches = frame.map_err(failed)?.execute_stream().await.map_err(failed)?;
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            if self.stop.is_cancelled() {
                let message = "interrupted: nothing was changed".to_owned();
                return Err(Error::new(ErrorKind::Interrupted, message));
            }
            let batch = batch.map_err(failed)?;
            let mut columns = batch.columns().iter().cloned();
            let columns = sources.iter().zip(spec.columns.fields()).map(|(source, field)| {
                let found = source.as_ref().and_then(|_| columns.next());
                found.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
            });
            let columns: Vec<_> = columns.collect();
            let loose =
                spec.columns.fields().iter().zip(&columns).map(|(field, column)| {
                    Field::new(field.name(), column.data_type().clone(), true)
                });
            let loose = Arc::new(Schema::new(loose.collect::<Vec<_>>()));
            let batch = RecordBatch::try_new(loose, columns)
                .map_err(|source| Error::internal("columns of other lengths").source(source))?;
            let batch = conform(&batch, &spec.columns).map_err(|error| {
                Error { message: format!("`{}`: {}", spec.name, error.message), ..error }
                    .hint("nothing was changed; the header must take what the rows hold")
            })?;
            self.add_sums(table, &batch)?;
            if let Some(times) = spec.time.as_ref().and_then(|time| batch.column_by_name(time)) {
                let instants = instants_of(times, spec.timezone)?;
                instants.into_iter().flatten().for_each(|micros| self.touched.touch(micros));
            }
            stager.write(&batch).await?;
            rows += batch.num_rows() as u64;
            on_rows(rows);
        }
        Ok(())
    }

    fn add_sums(&mut self, table: &Snapshot, batch: &RecordBatch) -> Result<()> {
        let topics = batch.column_by_name("_topic").expect("every table of messages has it");
        let topics = topics.as_string::<i32>().iter().flatten();
        let mut logs: BTreeMap<&str, Logs> = BTreeMap::new();
        for (topic, row) in topics.zip(hashed_rows(batch)?) {
            let HashedRow { partition, offset, ingested_at, hash } = row;
            if !logs.contains_key(topic) {
                logs.insert(topic, Logs::of(Some(table), topic)?);
            }
            let log = logs[topic].number(partition, ingested_at);
            let range = self.sums.entry((topic.to_owned(), partition, log));
            let range = range.or_insert_with(|| OffsetRange {
                topic: topic.to_owned(),
                partition,
                log,
                start: offset,
                end: offset + 1,
                values: Some(Sum::default()),
                ..OffsetRange::default()
            });
            range.start = range.start.min(offset);
            range.end = range.end.max(offset + 1);
            range.rows += 1;
            range.values.get_or_insert_default().add(hash);
        }
        Ok(())
    }
}

/// The table's column of each declared one; `None` where it is new.
fn sources(pipeline: &Pipeline, existing: &Schema) -> Result<Vec<Option<String>>> {
    let has = |name: &str| existing.column_with_name(name).is_some();
    let sources = pipeline.spec.columns.fields().iter().map(|field| {
        if has(field.name()) {
            return Ok(Some(field.name().clone()));
        }
        let declared = pipeline.columns.iter().find(|column| column.name == *field.name());
        let was = declared.and_then(|column| column.was.clone()).filter(|was| has(was));
        if was.is_none() && !field.is_nullable() {
            let (name, table) = (field.name(), &pipeline.spec.name);
            let message = format!("`{name}` is not_null, and the rows of `{table}` have none");
            return Err(Error::invalid(message)
                .hint("name the column that it was (`was: old_name`), or leave `not_null` out"));
        }
        Ok(was)
    });
    sources.collect()
}
