//! Where drivers are found: at the path that the target names, in the packages that carry them, or
//! where their manifests say. Loads nothing.

use std::collections::BTreeMap;
use std::env::consts::{ARCH, OS};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// Folder of manifests below an environment's, and below the root.
const MANIFESTS: &str = "etc/adbc/drivers";

/// A driver's file, and how to get one.
#[derive(Debug)]
pub struct Library {
    pub name: &'static str,
    /// Name of the library's file.
    pub file: &'static str,
    /// Name of the manifest's file.
    pub manifest: &'static str,
    /// Folders of packages that carry it, below a folder of packages. The last part may end in `*`.
    pub packages: &'static [&'static str],
    pub hint: &'static str,
}

pub const DUCKDB: Library = Library {
    name: "DuckDB",
    file: "libduckdb.so",
    manifest: "duckdb.toml",
    packages: &["@duckdb/node-bindings-*"],
    hint: "npm install @duckdb/node-bindings-linux-x64 in the project's folder, or download \
           libduckdb from https://duckdb.org/docs/installation and set the target's `library`",
};

pub const POSTGRESQL: Library = Library {
    name: "PostgreSQL",
    file: "libadbc_driver_postgresql.so",
    manifest: "postgresql.toml",
    packages: &["adbc_driver_postgresql"],
    hint: "pip install adbc-driver-postgresql in a virtual environment that is active or at \
           .venv in the project, or set the target's `library`",
};

pub const SNOWFLAKE: Library = Library {
    name: "Snowflake",
    file: "libadbc_driver_snowflake.so",
    manifest: "snowflake.toml",
    packages: &["adbc_driver_snowflake"],
    hint: "pip install adbc-driver-snowflake in a virtual environment that is active or at \
           .venv in the project, or set the target's `library`",
};

impl Library {
    /// Looks in `folders`: those of packages (`node_modules`, `site-packages`), of plain libraries
    /// and of manifests, in this order.
    pub fn find(&self, folders: &[PathBuf]) -> Result<PathBuf> {
        for folder in folders {
            let plain = folder.join(self.file);
            if plain.is_file() {
                return Ok(plain);
            }
            let manifest = folder.join(self.manifest);
            if manifest.is_file() {
                return of_manifest(&manifest);
            }
            if let Some(library) = self.within(folder) {
                return Ok(library);
            }
        }
        Err(Error::new(ErrorKind::NotFound, format!("there is no driver for {}", self.name))
            .hint(self.hint))
    }

    fn within(&self, folder: &Path) -> Option<PathBuf> {
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

/// As far as it is needed:
/// <https://arrow.apache.org/adbc/current/format/driver_manifests.html>
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "Driver")]
    driver: Driver,
}

#[derive(Deserialize)]
struct Driver {
    shared: Shared,
}

/// One library, or one for each platform.
#[derive(Deserialize)]
#[serde(untagged)]
enum Shared {
    One(PathBuf),
    ByPlatform(BTreeMap<String, PathBuf>),
}

/// The library that a driver's manifest names for this platform.
pub fn of_manifest(file: &Path) -> Result<PathBuf> {
    let named = || format!("the driver's manifest {}", file.display());
    let text = std::fs::read_to_string(file).map_err(|source| {
        Error::new(ErrorKind::NotFound, format!("cannot read {}", named())).source(source)
    })?;
    let manifest: Manifest = toml::from_str(&text)
        .map_err(|source| Error::invalid(format!("{} is not one", named())).source(source))?;
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = format!("{OS}_{architecture}");
    match manifest.driver.shared {
        Shared::One(library) => Ok(library),
        Shared::ByPlatform(mut libraries) => libraries.remove(&platform).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} has no library for {platform}", named()))
        }),
    }
}

/// Folders to look in: those of the project, and of what is active in the environment, of which
/// `variable` gives a value.
pub fn folders<'a>(project: &Path, variable: impl Fn(&str) -> Option<&'a str>) -> Vec<PathBuf> {
    let mut folders = vec![project.join(".flowguard/drivers"), project.join("node_modules")];
    let named = variable("ADBC_DRIVER_PATH").map(std::env::split_paths);
    folders.extend(named.into_iter().flatten());
    let environments =
        variable("VIRTUAL_ENV").map(PathBuf::from).into_iter().chain([project.join(".venv")]);
    for environment in environments {
        folders.push(environment.join(MANIFESTS));
        let Ok(versions) = std::fs::read_dir(environment.join("lib")) else { continue };
        folders.extend(versions.filter_map(|v| Some(v.ok()?.path().join("site-packages"))));
    }
    if let Some(home) = variable("HOME").map(Path::new) {
        folders.extend(
            [".local/share/flowguard/drivers", ".config/adbc/drivers"].map(|f| home.join(f)),
        );
    }
    folders.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    folders.push(Path::new("/").join(MANIFESTS));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_found_where_packages_put_it() {
        let project = tempfile::tempdir().unwrap();
        let folders = folders(project.path(), |_| None);
        let error = DUCKDB.find(&folders[..2]).unwrap_err();
        assert_eq!(error.message, "there is no driver for DuckDB");
        let package = project.path().join("node_modules/@duckdb/node-bindings-linux-x64");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("libduckdb.so"), "").unwrap();
        assert_eq!(DUCKDB.find(&folders[..2]).unwrap(), package.join("libduckdb.so"));
    }
    #[test]
    fn a_manifest_names_the_library_of_this_platform() {
        let project = tempfile::tempdir().unwrap();
        let path = project.path().to_str().unwrap();
        let folders = folders(project.path(), |name| (name == "ADBC_DRIVER_PATH").then_some(path));
        let manifest = project.path().join("postgresql.toml");
        let head = "manifest_version = 1\nname = 'PostgreSQL'\n";
        let found = |driver: &str| {
            std::fs::write(&manifest, format!("{head}{driver}\n")).unwrap();
            POSTGRESQL.find(&folders).map_err(|error| error.message)
        };
        assert_eq!(found("[Driver]\nshared = '/a.so'"), Ok(PathBuf::from("/a.so")));
        let both = "[Driver.shared]\nlinux_amd64 = '/b.so'\nlinux_arm64 = '/b.so'";
        assert_eq!(found(both), Ok(PathBuf::from("/b.so")));
        let other = found("[Driver.shared]\nwindows_amd64 = 'c.dll'").unwrap_err();
        assert!(other.contains("has no library for linux_"), "{other}");
        assert!(found("[Driver").unwrap_err().ends_with("is not one"));
    }
}
