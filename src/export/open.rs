//! A target as `dags.yaml` names it becomes a destination: its variables replaced, its driver found,
//! a connection made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;
use uuid::Uuid;

use super::files::Files;
use super::side::Destination;
use super::sql::destination::SqlDestination;
use super::sql::dialect::{Dialect, dialect};
use super::sql::wording::Statements;
use crate::clock::Clock;
use crate::config;
use crate::dag::{DriverKind, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::lake::objects::Folder;
use crate::lake::store::S3Access;
use crate::warehouse::libraries::{folders, of_manifest};
use crate::warehouse::{Access, Warehouse};

/// What a process and its project know, and a target does not.
pub struct Surroundings {
    pub environment: BTreeMap<String, String>,
    /// The file of this program, which also holds drivers.
    pub program: PathBuf,
    pub project: PathBuf,
    /// Of targets of files in a bucket: the lake's.
    pub s3: S3Access,
    /// For files on their way.
    pub scratch: PathBuf,
    pub clock: Clock,
}

/// What a target that is asked by SQL would be told by the run, without a connection.
pub fn statements(target: &Target, run: Uuid) -> Result<Statements> {
    let Some(dialect) = dialect(target.driver) else {
        return Err(Error::invalid(format!("`{}` is not asked by SQL", target.name)));
    };
    Ok(Statements { target: target.clone(), dialect, run })
}

impl Surroundings {
    /// Finds the driver, if the target has one, connects, and makes what FlowGuard needs there.
    pub async fn open(&self, target: &Target, run: Uuid) -> Result<Destination> {
        let mut destination = self.open_untouched(target, run).await?;
        destination.prepare().await?;
        Ok(destination)
    }

    /// Finds the driver, if the target has one, and connects.
    pub async fn open_untouched(&self, target: &Target, run: Uuid) -> Result<Destination> {
        let Some(dialect) = dialect(target.driver) else {
            let folder = self.folder(target)?;
            return Ok(Box::new(Files::open(target.clone(), folder, run, self.clock.clone())));
        };
        let access = self.access(target, dialect)?;
        let mut warehouse = Warehouse::connect(&access).await?;
        for greeting in dialect.greetings(run) {
            warehouse.execute(greeting).await?;
        }
        let scratch = self.scratch.clone();
        Ok(Box::new(SqlDestination::new(target.clone(), dialect, warehouse, run, scratch)))
    }

    /// Of a target of files, which a store keeps that is reached like the lake's.
    fn folder(&self, target: &Target) -> Result<Folder> {
        let place = self.expanded(target, &target.place.value)?;
        let root = match place.contains("://") {
            true => Url::parse(&place).ok(),
            false => config::folder_url(&self.project.join(&place)),
        };
        let root = root.ok_or_else(|| {
            Error::invalid(format!("target `{}`: `{place}` is no place for files", target.name))
                .hint("write path: folder, or uri: s3://bucket/prefix")
        })?;
        Folder::open(&root, &self.s3)
    }

    /// The file's path, in a folder that exists.
    fn duckdb_file(&self, target: &Target, place: &str) -> Result<String> {
        let file = self.project.join(place);
        if let Some(folder) = file.parent() {
            let failed = |source| {
                Error::new(
                    ErrorKind::Denied,
                    format!("cannot make the folder of `{}`", target.name),
                )
                .source(source)
            };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        Ok(file.to_string_lossy().into_owned())
    }

    fn library(&self, target: &Target, dialect: &dyn Dialect) -> Result<PathBuf> {
        let variable = |name: &str| self.environment.get(name).map(String::as_str);
        match &target.library {
            Some(library) => {
                let library = self.expanded(target, &library.value)?;
                let library = self.project.join(library);
                match library.extension().is_some_and(|extension| extension == "toml") {
                    true => of_manifest(&library),
                    false => Ok(library),
                }
            }
            None => dialect.library().find(&folders(&self.project, variable)),
        }
    }

    fn access(&self, target: &Target, dialect: &dyn Dialect) -> Result<Access> {
        let place = self.expanded(target, &target.place.value)?;
        let place = match target.driver {
            DriverKind::Duckdb => self.duckdb_file(target, &place)?,
            DriverKind::Postgresql | DriverKind::Snowflake | DriverKind::Files => place,
        };
        let library = self.library(target, dialect)?;
        Ok(Access {
            target: target.name.clone(),
            program: self.program.clone(),
            library,
            entrypoint: dialect.entrypoint(),
            options: dialect.options(place)?,
        })
    }

    /// A text of the target with its variables replaced.
    fn expanded(&self, target: &Target, text: &str) -> Result<String> {
        config::expanded(text, &self.environment).map_err(|error| {
            let message = format!("target `{}`: {}", target.name, error.message);
            Error { message, ..error }
        })
    }
}
