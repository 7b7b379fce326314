//! Targets as `dags.yaml` names them, with their variables replaced and their drivers found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;
use uuid::Uuid;

use super::{App, s3_access};
use crate::config;
use crate::dag::{DriverKind, Export, Severity, Target, select};
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::export::dialect::{Dialect, dialect};
use crate::export::statements::Statements;
use crate::export::{Destination, Exported, Files, Source, SqlDestination};
use crate::lake::folder::Folder;
use crate::retry::Retry;
use crate::table::TableName;
use crate::warehouse::libraries::{folders, of_manifest};
use crate::warehouse::{Access, Warehouse};

/// Of what failed for a reason that may pass: a target that restarts or has no more room for
/// connections, another export at the same time.
const RETRY: Retry = Retry::times(5, Duration::from_secs(1), Duration::from_secs(8));

/// What a process knows and the project does not.
pub struct Surroundings<'a> {
    pub environment: &'a BTreeMap<String, String>,
    /// The file of this program, which also holds drivers.
    pub program: PathBuf,
}

impl App {
    pub fn export_source(&self) -> Source {
        Source {
            lake: self.lake.clone(),
            engine: self.engine.clone(),
            models: Arc::clone(&self.models),
            rows_read: Arc::default(),
        }
    }

    pub fn target(&self, name: &str) -> Result<&Target> {
        let targets = &self.dags.targets;
        targets.get(name).ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, format!("there is no target `{name}`"));
            match did_you_mean(name, targets.keys().map(String::as_str)) {
                Some(close) => error.hint(format!("did you mean `{close}`?")),
                None => error.hint("targets are listed in dags.yaml, under `targets`"),
            }
        })
    }

    /// The tables of each target, in dependency order: those of the exports, as far as `selectors`
    /// select them, in `only` if it is given.
    pub fn exports(
        &self,
        selectors: &[String],
        only: Option<&str>,
    ) -> Result<Vec<(&Target, Vec<TableName>)>> {
        if self.dags.exports.is_empty() {
            return Err(Error::invalid("dags.yaml names no exports")
                .hint("exports: {warehouse: {target: local, select: [gold.*]}}"));
        }
        let only = only.map(|name| self.target(name)).transpose()?;
        let wanted = select(&self.models, &self.dags, selectors)?;
        let mut tables: BTreeMap<&str, Vec<TableName>> = BTreeMap::new();
        for export in self.dags.exports.values() {
            tables.entry(&export.target.value).or_default().extend(self.selected(export)?);
        }
        let mut chosen = Vec::new();
        for (name, selected) in tables {
            let target = self.target(name)?;
            if only.is_some_and(|only| only.name != target.name) {
                continue;
            }
            let names: Vec<TableName> =
                wanted.iter().filter(|name| selected.contains(name)).cloned().collect();
            if !names.is_empty() {
                chosen.push((target, names));
            }
        }
        if chosen.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no export holds what was selected")
                .hint("exports are listed in dags.yaml, under `exports`"));
        }
        Ok(chosen)
    }

    /// Whether a run must compare the table with what `target` then holds. Of several exports the
    /// strictest counts.
    pub fn gate(&self, target: &Target, name: &TableName) -> Result<Option<Severity>> {
        let mut strictest = None;
        for export in self.dags.exports.values().filter(|e| e.target.value == target.name) {
            if export.parity > strictest && self.selected(export)?.contains(name) {
                strictest = export.parity;
            }
        }
        Ok(strictest)
    }

    fn selected(&self, export: &Export) -> Result<Vec<TableName>> {
        let selectors: Vec<String> = export.select.iter().map(|text| text.value.clone()).collect();
        select(&self.models, &self.dags, &selectors)
    }

    /// Every table that an export brings to `target`.
    pub fn exported_to(&self, target: &Target) -> Result<Vec<TableName>> {
        let mut tables = BTreeSet::new();
        for export in self.dags.exports.values().filter(|e| e.target.value == target.name) {
            tables.extend(self.selected(export)?);
        }
        Ok(tables.into_iter().collect())
    }

    /// Tables that are stored, with their schemas and names in a target: those of its exports, or
    /// without a target all that `selectors` select.
    pub fn stored(
        &self,
        selectors: &[String],
        target: Option<&str>,
    ) -> Result<Vec<(TableName, [String; 2])>> {
        if target.is_some() {
            let chosen = self.exports(selectors, target)?.into_iter();
            let named = chosen.flat_map(|(target, names)| {
                let place =
                    |name: &TableName| [target.schema(name.layer), target.identifier(name.name())];
                names.into_iter().map(move |name| (name.clone(), place(&name)))
            });
            return Ok(named.collect());
        }
        let is_stored =
            |name: &TableName| self.models.get(name).is_some_and(|model| !model.is_view());
        let names = select(&self.models, &self.dags, selectors)?.into_iter().filter(is_stored);
        let place = |name: &TableName| [name.layer.to_string(), name.name().to_owned()];
        Ok(names.map(|name| (name.clone(), place(&name))).collect())
    }

    /// Connects, and tries again while the target cannot be reached.
    pub async fn connected(
        &self,
        target: &Target,
        surroundings: &Surroundings<'_>,
    ) -> Result<Destination> {
        let mut attempts = RETRY.begin(0);
        loop {
            match self.destination(target, surroundings, Uuid::now_v7()).await {
                Err(error) if attempts.wait_after(&target.name, &error).await => {}
                outcome => return outcome,
            }
        }
    }

    /// Brings one table to its newest version. After a failure that may pass it connects anew and
    /// begins again, which is safe: what is left to do is read from the target's ledger. `to` is
    /// left empty by an error.
    pub async fn export_table(
        &self,
        source: &Source,
        target: &Target,
        surroundings: &Surroundings<'_>,
        to: &mut Option<Destination>,
        (name, full): (&TableName, bool),
    ) -> Result<Exported> {
        let mut export = async || {
            let mut connected = match to.take() {
                Some(connected) => connected,
                None => self.destination(target, surroundings, Uuid::now_v7()).await?,
            };
            let exported = source.export(&mut connected, name, full).await?;
            *to = Some(connected);
            Ok(exported)
        };
        let (mut attempts, what) = (RETRY.begin(0), name.to_string());
        loop {
            match export().await {
                Err(error) if attempts.wait_after(&what, &error).await => {}
                outcome => return outcome,
            }
        }
    }

    /// Finds the driver, if the target has one, connects, and makes what FlowGuard needs there.
    pub async fn destination(
        &self,
        target: &Target,
        surroundings: &Surroundings<'_>,
        run: Uuid,
    ) -> Result<Destination> {
        let mut destination = self.untouched(target, surroundings, run).await?;
        destination.prepare().await?;
        Ok(destination)
    }

    /// What a target that is asked by SQL would be told, without a connection.
    pub fn statements(&self, target: &Target, run: Uuid) -> Result<Statements> {
        let Some(dialect) = dialect(target.driver) else {
            return Err(Error::invalid(format!("`{}` is not asked by SQL", target.name)));
        };
        Ok(Statements { target: target.clone(), dialect, run })
    }

    /// Finds the driver, if the target has one, and connects.
    pub async fn untouched(
        &self,
        target: &Target,
        surroundings: &Surroundings<'_>,
        run: Uuid,
    ) -> Result<Destination> {
        let Some(dialect) = dialect(target.driver) else {
            let folder = self.folder(target, surroundings)?;
            return Ok(Box::new(Files::open(target.clone(), folder, run, self.clock.clone())));
        };
        let access = self.access(target, dialect, surroundings)?;
        let mut warehouse = Warehouse::connect(&access).await?;
        for greeting in dialect.greetings(run) {
            warehouse.execute(greeting).await?;
        }
        let scratch = self.config.engine.spill_dir.clone().unwrap_or_else(std::env::temp_dir);
        Ok(Box::new(SqlDestination::new(target.clone(), dialect, warehouse, run, scratch)))
    }

    /// Of a target of files, which a store keeps that is reached like the lake's.
    fn folder(&self, target: &Target, surroundings: &Surroundings<'_>) -> Result<Folder> {
        let place = expanded(target, &target.place.value, surroundings)?;
        let root = match place.contains("://") {
            true => Url::parse(&place).ok(),
            false => Url::from_directory_path(self.config.project.join(&place)).ok(),
        };
        let root = root.ok_or_else(|| {
            Error::invalid(format!("target `{}`: `{place}` is no place for files", target.name))
                .hint("write path: folder, or uri: s3://bucket/prefix")
        })?;
        Folder::open(&root, &s3_access(&self.config))
    }

    /// The file's path, in a folder that exists.
    fn duckdb_file(&self, target: &Target, place: &str) -> Result<String> {
        let file = self.config.project.join(place);
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

    fn library(
        &self,
        target: &Target,
        dialect: &dyn Dialect,
        surroundings: &Surroundings<'_>,
    ) -> Result<PathBuf> {
        let variable = |name: &str| surroundings.environment.get(name).map(String::as_str);
        match &target.library {
            Some(library) => {
                let library = expanded(target, &library.value, surroundings)?;
                let library = self.config.project.join(library);
                match library.extension().is_some_and(|extension| extension == "toml") {
                    true => of_manifest(&library),
                    false => Ok(library),
                }
            }
            None => dialect.library().find(&folders(&self.config.project, variable)),
        }
    }

    fn access(
        &self,
        target: &Target,
        dialect: &dyn Dialect,
        surroundings: &Surroundings<'_>,
    ) -> Result<Access> {
        let place = expanded(target, &target.place.value, surroundings)?;
        let place = match target.driver {
            DriverKind::Duckdb => self.duckdb_file(target, &place)?,
            DriverKind::Postgresql | DriverKind::Snowflake | DriverKind::Files => place,
        };
        let library = self.library(target, dialect, surroundings)?;
        Ok(Access {
            target: target.name.clone(),
            program: surroundings.program.clone(),
            library,
            entrypoint: dialect.entrypoint(),
            options: dialect.options(place)?,
        })
    }
}

/// A text of the target with its variables replaced.
fn expanded(target: &Target, text: &str, surroundings: &Surroundings<'_>) -> Result<String> {
    config::expanded(text, surroundings.environment).map_err(|error| {
        let message = format!("target `{}`: {}", target.name, error.message);
        Error { message, ..error }
    })
}
