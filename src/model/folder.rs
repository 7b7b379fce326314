//! The folder `sql/`: which files are models, and their text. The only part of the room that
//! touches the disk.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::DEAD_LETTERS;
use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::source::{Position, Source};
use crate::table::{Layer, TableName};

/// Largest model file read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Models in a project.
const FILES_MAX: usize = 10_000;

/// A file named by its place: `sql/<layer>/<table>.sql`.
pub struct ModelFile {
    pub table: TableName,
    pub path: PathBuf,
}

/// Every model file, by path, and a problem for each file that cannot be one.
pub fn list(project: &Path) -> Result<(Vec<ModelFile>, Vec<Diagnostic>)> {
    let root = Path::new("sql");
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for entry in entries(project, root)? {
        let layer = entry.name.parse::<Layer>();
        match (entry.is_folder, layer) {
            (true, Ok(layer)) => {
                list_layer(project, layer, &entry.path, &mut files, &mut problems)?
            }
            (true, Err(error)) => problems.push(whole_file(entry.path, error)),
            (false, _) if entry.name.ends_with(".sql") => {
                let error = Error::invalid("a model outside of a layer's folder")
                    .hint("move it to `sql/bronze/`, `sql/silver/` or `sql/gold/`");
                problems.push(whole_file(entry.path, error));
            }
            (false, _) => {}
        }
    }
    if files.len() > FILES_MAX {
        return Err(Error::invalid(format!("more than {FILES_MAX} files in `sql/`")));
    }
    Ok((files, problems))
}

fn list_layer(
    project: &Path,
    layer: Layer,
    folder: &Path,
    files: &mut Vec<ModelFile>,
    problems: &mut Vec<Diagnostic>,
) -> Result<()> {
    for entry in entries(project, folder)? {
        if entry.is_folder {
            let error = Error::invalid("a folder inside a layer")
                .hint("models are `sql/<layer>/<table>.sql`, without folders below");
            problems.push(whole_file(entry.path, error));
            continue;
        }
        let Some(stem) = entry.name.strip_suffix(".sql") else { continue };
        match TableName::new(layer, stem) {
            Ok(_) if layer == Layer::Bronze && stem == DEAD_LETTERS => {
                let error = Error::invalid("`bronze.dead_letters` is built in")
                    .hint("give the file another name");
                problems.push(whole_file(entry.path, error));
            }
            Ok(table) => files.push(ModelFile { table, path: entry.path }),
            Err(error) => problems.push(whole_file(entry.path, error)),
        }
    }
    Ok(())
}

/// Every file and folder below `sql/` that is looked at, whether it can be a model or not.
pub fn files(project: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(project, Path::new("sql"))? {
        if entry.is_folder {
            let below = entries(project, &entry.path)?;
            found.extend(below.into_iter().map(|entry| entry.path));
        }
        found.push(entry.path);
    }
    Ok(found)
}

struct Entry {
    name: String,
    /// Relative to the project.
    path: PathBuf,
    is_folder: bool,
}

/// Sorted by name, without hidden files.
fn entries(project: &Path, folder: &Path) -> Result<Vec<Entry>> {
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, format!("cannot read the folder `{}`", folder.display()))
            .hint("a project keeps its models in `sql/bronze`, `sql/silver` and `sql/gold`")
            .source(error)
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(project.join(folder)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            let path = folder.join(&name);
            found.push(Entry { name, is_folder: entry.path().is_dir(), path });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The text of a model file; the problem when it has none.
pub fn read(project: &Path, path: &Path) -> Result<Source, Diagnostic> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(project.join(path))
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(whole_file(
            path.to_owned(),
            Error::invalid(format!("cannot be read: {error}")),
        ));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let error = Error::invalid(format!("larger than {FILE_BYTES_MAX} bytes"));
        return Err(whole_file(path.to_owned(), error));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(path, text)),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            let error =
                Error::invalid(format!("line {line} is not UTF-8")).hint("save the file as UTF-8");
            Err(whole_file(path.to_owned(), error))
        }
    }
}

fn whole_file(path: PathBuf, error: Error) -> Diagnostic {
    Source::new(path, "").diagnostic(Position::FILE, error.message, error.hint)
}
