//! The project as far as it can be used: models that can be planned, `dags.yaml` or what is wrong
//! with it; and, for servers, both as their files are from one moment to the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::dag::{Dags, FILE_NAME};
use crate::engine::Engine;
use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::model::{CurrentModels, ModelSet, files};
use crate::server::health::{Health, Part};
use crate::source::Stamp;
use crate::typecheck::{Typed, usable};

/// Models that can be planned, and what planning says of them.
#[derive(Clone)]
pub struct Checked {
    pub models: Arc<ModelSet>,
    pub typed: Arc<Typed>,
}

impl Checked {
    /// Of `models` those that can be planned.
    pub async fn of(engine: &Engine, models: &ModelSet) -> Result<Self> {
        let (models, typed) = usable(engine, models).await?;
        Ok(Self { models: Arc::new(models), typed: Arc::new(typed) })
    }
}

/// `dags.yaml`, or what is wrong with it.
pub struct DagsFile(std::result::Result<Dags, Wrong>);

/// An error that is told to everybody who needs the file.
struct Wrong {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    diagnostics: Vec<Diagnostic>,
}

impl DagsFile {
    pub fn read(project: &Path) -> Self {
        Self(Dags::read(project).map_err(|Error { kind, message, hint, source, diagnostics }| {
            let cause = source.map_or(String::new(), |source| format!(": {source}"));
            Wrong { kind, message: format!("{message}{cause}"), hint, diagnostics }
        }))
    }

    pub fn get(&self) -> Result<&Dags> {
        self.0.as_ref().map_err(|wrong| Error {
            kind: wrong.kind,
            message: wrong.message.clone(),
            hint: wrong.hint.clone(),
            source: None,
            diagnostics: wrong.diagnostics.clone(),
        })
    }
}

/// A project whose files are looked at again while a server runs. A broken edit leaves in force what
/// was good before it, and is said: in the log, and to [`Health`].
pub struct Watched {
    folder: PathBuf,
    engine: Engine,
    health: Health,
    current: CurrentModels,
    checked: watch::Sender<Checked>,
    seen: Vec<(PathBuf, Option<Stamp>)>,
}

impl Watched {
    /// As the files are now.
    pub async fn open(folder: &Path, engine: &Engine, health: &Health) -> Result<Self> {
        // Looked at first: a change during the reading is then seen as a change.
        let seen = look(folder.to_path_buf()).await?;
        let checked = Checked::of(engine, &read(folder.to_path_buf()).await?.0?).await?;
        let watched = Self {
            folder: folder.to_path_buf(),
            engine: engine.clone(),
            health: health.clone(),
            current: CurrentModels::new(Arc::clone(&checked.models)),
            checked: watch::Sender::new(checked.clone()),
            seen,
        };
        watched.tell(&checked.models);
        let dags = read(folder.to_path_buf()).await?.1;
        watched.tell_dags(&dags);
        Ok(watched)
    }

    /// The models that statements go by.
    pub fn current(&self) -> CurrentModels {
        self.current.clone()
    }

    /// The models that ingestion goes by, and when they change.
    pub fn checked(&self) -> watch::Receiver<Checked> {
        self.checked.subscribe()
    }

    /// Takes what changed in the project's files, if anything did.
    pub async fn look_again(&mut self) {
        let seen = look(self.folder.clone()).await;
        let outcome = match seen {
            Ok(seen) if seen == self.seen => return,
            Ok(seen) => {
                self.seen = seen;
                self.take().await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.health.mend(&Part::Project),
            Err(error) => {
                // It may come back as it was.
                self.seen.clear();
                if self.health.is_new(Part::Project, &error.line()) {
                    tracing::error!(%error, "the project cannot be read again; what was read before stays");
                }
            }
        }
    }

    async fn take(&self) -> Result<()> {
        let (models, dags) = read(self.folder.clone()).await?;
        self.tell_dags(&dags);
        let found = Checked::of(&self.engine, &models?).await?;
        self.tell(&found.models);
        let before = self.checked.borrow().clone();
        let models = Arc::new(found.models.as_ref().clone().keeping(&before.models));
        let typed = match Arc::into_inner(found.typed) {
            Some(typed) => Arc::new(typed.keeping(&before.typed)),
            None => return Err(Error::internal("what was planned is in use already")),
        };
        tracing::info!(
            models = models.len(),
            left_out = models.left_out().len(),
            "the project was read again"
        );
        self.current.set(Arc::clone(&models));
        self.checked.send_replace(Checked { models, typed });
        Ok(())
    }

    /// What of the models is left out, in place of what was.
    fn tell(&self, models: &ModelSet) {
        let left_out = models.left_out().iter();
        let left_out = left_out.map(|(name, why)| (Part::Model(name.clone()), why.reason()));
        let strays = models.strays().iter();
        let strays = strays.map(|stray| (Part::File(stray.file.clone()), stray.place()));
        let is_of_models = |part: &Part| matches!(part, Part::Model(_) | Part::File(_));
        for (part, reason) in self.health.replace(is_of_models, left_out.chain(strays).collect()) {
            tracing::error!(%part, reason, "it is left out");
        }
    }

    fn tell_dags(&self, dags: &DagsFile) {
        let reason = match dags.get() {
            Ok(dags) if dags.left_out.is_empty() => return self.health.mend(&Part::Dags),
            Ok(dags) => {
                let entries = dags.left_out.iter();
                let said = entries.map(|entry| format!("{entry}: {}", entry.error().line()));
                said.collect::<Vec<_>>().join("; ")
            }
            Err(error) => error.line(),
        };
        if self.health.is_new(Part::Dags, &reason) {
            tracing::error!(reason, "`{FILE_NAME}` cannot be used, or not all of it");
        }
    }
}

/// All files of the project that say something of tables, and their stamps.
async fn look(folder: PathBuf) -> Result<Vec<(PathBuf, Option<Stamp>)>> {
    waiting(move || {
        let mut found = files(&folder)?;
        found.push(PathBuf::from(FILE_NAME));
        let stamped = found.into_iter().map(|file| {
            let stamp = Stamp::of(&folder.join(&file));
            (file, stamp)
        });
        Ok(stamped.collect())
    })
    .await
    .flatten()
}

async fn read(folder: PathBuf) -> Result<(Result<ModelSet>, DagsFile)> {
    waiting(move || (ModelSet::read_usable(&folder), DagsFile::read(&folder))).await
}

/// What reads files runs where it keeps no connection waiting.
async fn waiting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| Error::internal("reading the project stopped").source(source))
}
