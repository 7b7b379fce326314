//! Where drivers are found: at the path that the target names, or in the packages that carry them.
//! Loads nothing.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A driver's file, and how to get one.
#[derive(Debug)]
pub struct Library {
    pub name: &'static str,
    /// Name of the library's file.
    pub file: &'static str,
    /// Folders of packages that carry it, below a folder of packages. The last part may end in `*`.
    pub packages: &'static [&'static str],
    pub hint: &'static str,
}

pub const DUCKDB: Library = Library {
    name: "DuckDB",
    file: "libduckdb.so",
    packages: &["@duckdb/node-bindings-*"],
    hint: "npm install @duckdb/node-bindings-linux-x64 in the project's folder, or download \
           libduckdb from https://duckdb.org/docs/installation and set the target's `library`",
};

pub const POSTGRESQL: Library = Library {
    name: "PostgreSQL",
    file: "libadbc_driver_postgresql.so",
    packages: &["adbc_driver_postgresql"],
    hint: "pip install adbc-driver-postgresql in a virtual environment that is active or at \
           .venv in the project, or set the target's `library`",
};

pub const SNOWFLAKE: Library = Library {
    name: "Snowflake",
    file: "libadbc_driver_snowflake.so",
    packages: &["adbc_driver_snowflake"],
    hint: "pip install adbc-driver-snowflake in a virtual environment that is active or at \
           .venv in the project, or set the target's `library`",
};

impl Library {
    /// Looks in `folders`: those of packages (`node_modules`, `site-packages`) and those of plain
    /// libraries, in this order.
    pub fn find(&self, folders: &[PathBuf]) -> Result<PathBuf> {
        let found = folders.iter().find_map(|folder| self.within(folder));
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no driver for {}", self.name))
                .hint(self.hint)
        })
    }

    fn within(&self, folder: &Path) -> Option<PathBuf> {
        let plain = folder.join(self.file);
        if plain.is_file() {
            return Some(plain);
        }
        self.packages.iter().find_map(|package| match package.strip_suffix('*') {
            None => Some(folder.join(package).join(self.file)).filter(|file| file.is_file()),
            Some(start) => {
                let start = folder.join(start);
                let prefix = start.file_name()?.to_str()?;
                let mut found: Vec<PathBuf> = std::fs::read_dir(start.parent()?)
                    .ok()?
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| {
                        path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix))
                    })
                    .map(|path| path.join(self.file))
                    .filter(|file| file.is_file())
                    .collect();
                found.sort();
                found.pop()
            }
        })
    }
}

/// Folders to look in: those of the project, and of what is active in the environment.
pub fn folders(
    project: &Path,
    virtual_environment: Option<&str>,
    home: Option<&str>,
) -> Vec<PathBuf> {
    let mut folders = vec![project.join(".flowguard/drivers"), project.join("node_modules")];
    let environments =
        virtual_environment.map(PathBuf::from).into_iter().chain([project.join(".venv")]);
    for environment in environments {
        let Ok(versions) = std::fs::read_dir(environment.join("lib")) else { continue };
        folders.extend(versions.filter_map(|v| Some(v.ok()?.path().join("site-packages"))));
    }
    folders.extend(home.map(|home| Path::new(home).join(".local/share/flowguard/drivers")));
    folders.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_found_where_packages_put_it() {
        let project = tempfile::tempdir().unwrap();
        let folders = folders(project.path(), None, None);
        let error = DUCKDB.find(&folders[..2]).unwrap_err();
        assert_eq!(error.message, "there is no driver for DuckDB");
        let package = project.path().join("node_modules/@duckdb/node-bindings-linux-x64");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("libduckdb.so"), "").unwrap();
        assert_eq!(DUCKDB.find(&folders[..2]).unwrap(), package.join("libduckdb.so"));
    }
}
