//! What exports are given: the project's selection, its rows, and what surrounds a target.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{App, s3_access};
use crate::error::Result;
use crate::export::Source;
use crate::export::open::Surroundings;
use crate::export::selection::Exports;

impl App {
    /// Fails with the problems of `dags.yaml`.
    pub fn exports(&self) -> Result<Exports<'_>> {
        Ok(Exports { models: &self.models, dags: self.dags()? })
    }

    /// With a count of rows read of its own, which begins at 0.
    pub fn export_source(&self) -> Source {
        Source {
            lake: self.lake.clone(),
            engine: self.engine.clone(),
            models: Arc::clone(&self.models),
            rows_read: Arc::default(),
        }
    }

    /// Of a process with this environment, whose file is `program`.
    pub fn surroundings(
        &self,
        environment: BTreeMap<String, String>,
        program: PathBuf,
    ) -> Surroundings {
        let scratch = self.config.engine.spill_dir.clone();
        Surroundings {
            environment,
            program,
            project: self.config.project.clone(),
            s3: s3_access(&self.config),
            scratch: scratch.unwrap_or_else(std::env::temp_dir),
            clock: self.clock.clone(),
        }
    }
}
