//! Rows on their way into a table aside: by the driver, or as files that the warehouse copies.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt};

use super::destination::SqlDestination;
use super::dialect::Copying;
use super::part_files::{PartFile, PartWriter, make_folder};
use super::wording::OWN_SCHEMA;
use crate::error::{Error, ErrorKind, Result};

/// Files that one statement may name.
pub const FILES_MAX: usize = 1_000;

impl SqlDestination {
    /// Appends rows to the empty table `stage` of FlowGuard's own schema.
    pub(super) async fn load(
        &mut self,
        stage: &str,
        columns: &SchemaRef,
        rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
    ) -> Result<()> {
        let Some(copying) = self.statements.dialect.copying() else {
            let place = [OWN_SCHEMA, stage].map(|name| self.statements.target.identifier(name));
            return self.warehouse.ingest(&place[0], &place[1], Arc::clone(columns), rows).await;
        };
        let place = self.statements.own(stage);
        let folder = make_folder(&self.scratch, stage)?;
        self.warehouse.execute(copying.create_stage(&place)).await?;
        let copied = self.copy(copying, &place, folder.path(), columns, rows).await;
        let dropped = self.warehouse.execute(copying.drop_stage(&place)).await;
        copied.and(dropped.map(drop))
    }

    /// One file at a time is in `folder`.
    async fn copy(
        &mut self,
        copying: &dyn Copying,
        place: &str,
        folder: &Path,
        columns: &SchemaRef,
        mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
    ) -> Result<()> {
        let mut writer = PartWriter::new(folder, columns);
        let mut parts = Vec::new();
        while let Some(batch) = rows.next().await {
            if let Some(part) = writer.write(&batch?)? {
                parts.push(self.put(copying, place, part).await?);
            }
        }
        if let Some(part) = writer.finish()? {
            parts.push(self.put(copying, place, part).await?);
        }
        for parts in parts.chunks(FILES_MAX) {
            let files: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
            let loaded = self.texts(copying.copy(place, place, &files)).await?;
            check_loaded(parts, &loaded)?;
        }
        Ok(())
    }

    async fn put(
        &mut self,
        copying: &dyn Copying,
        place: &str,
        part: PartFile,
    ) -> Result<PartFile> {
        self.warehouse.execute(copying.put(&part.path, place)).await?;
        remove(&part.path)?;
        Ok(part)
    }
}

fn remove(file: &Path) -> Result<()> {
    std::fs::remove_file(file).map_err(|source| {
        Error::internal("a file that was uploaded cannot be removed").source(source)
    })
}

/// That every file was loaded whole: a warehouse may call a load a success that skipped files it
/// had seen before, or rows it could not read.
fn check_loaded(parts: &[PartFile], loaded: &[Vec<Option<String>>]) -> Result<()> {
    let mut found = BTreeMap::new();
    for row in loaded {
        let cell = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
        let file = cell(0);
        let file = file.rsplit_once('/').map_or(file, |(_, name)| name);
        found.insert(file, [cell(1), cell(2), cell(3)]);
    }
    for part in parts {
        let rows = part.rows.to_string();
        let wanted = ["LOADED", &rows, &rows];
        if found.get(part.name.as_str()) != Some(&wanted) {
            let words = match found.get(part.name.as_str()) {
                None => "was not loaded".to_owned(),
                Some([status, parsed, loaded]) => {
                    format!("is {status}: of {rows} rows {parsed} were read and {loaded} loaded")
                }
            };
            return Err(Error::new(ErrorKind::DataLoss, format!("the file {} {words}", part.name))
                .hint("nothing was published"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 4]) -> Vec<Option<String>> {
        cells.map(|cell| Some(cell.to_owned())).to_vec()
    }

    #[test]
    fn a_file_that_was_not_loaded_whole_is_named() {
        let part = |name: &str| PartFile { path: name.into(), name: name.to_owned(), rows: 5 };
        let parts = [part("part-00000.parquet"), part("part-00001.parquet")];
        let first = row(["stage/part-00000.parquet", "LOADED", "5", "5"]);
        let check = |second: Option<Vec<Option<String>>>| {
            let rows: Vec<_> = [first.clone()].into_iter().chain(second).collect();
            check_loaded(&parts, &rows).map_err(|error| error.message)
        };
        let name = "part-00001.parquet";
        assert_eq!(check(Some(row([name, "LOADED", "5", "5"]))), Ok(()));
        assert_eq!(check(None).unwrap_err(), format!("the file {name} was not loaded"));
        assert_eq!(
            check(Some(row([name, "LOAD_SKIPPED", "0", "0"]))).unwrap_err(),
            format!("the file {name} is LOAD_SKIPPED: of 5 rows 0 were read and 0 loaded")
        );
        assert!(check(Some(row([name, "LOADED", "5", "4"]))).is_err());
    }
}
