//! The line that people type: editing, history, completion, and lines joined until a `;`. Alone
//! names rustyline. It blocks on the terminal, so it has a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustyline::completion::Completer;
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor as LineEditor, Helper};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::names::Names;
use super::pager::Size;
use super::split::pieces;
use crate::cli::{backend::Backend, interrupted, output};
use crate::error::{Error, ErrorKind, Result};

const PROMPT: &str = "flowguard> ";
const HISTORY_ENTRIES_MAX: usize = 10_000;
/// How old names may be when Tab is pressed.
const NAMES_AGE_MAX: Duration = Duration::from_secs(60);
/// How long Tab waits for them.
const NAMES_WAIT_MAX: Duration = Duration::from_secs(2);

/// Reads statements and commands from the terminal.
pub struct Editor {
    /// Away while its thread reads.
    lines: Option<LineEditor<Words, DefaultHistory>>,
    history: Option<PathBuf>,
}

/// What came of a reading.
pub enum Typed {
    Text(String),
    /// Ctrl-C: what was typed is forgotten.
    Nothing,
    /// Ctrl-D.
    End,
}

impl Editor {
    /// Without a `history` file only this session is remembered.
    pub fn new(backend: Arc<Backend>, history: Option<PathBuf>) -> Result<Self> {
        let config = Config::builder()
            .behavior(Behavior::PreferTerm)
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_ENTRIES_MAX)
            .map_err(unusable)?
            .build();
        let mut lines = LineEditor::with_config(config).map_err(unusable)?;
        lines.set_helper(Some(Words {
            backend,
            runtime: Handle::current(),
            known: Arc::default(),
        }));
        let mut editor = Self { lines: Some(lines), history };
        editor.load_history();
        Ok(editor)
    }

    /// The next text, whole. When `stop` comes first, the terminal is left as it was.
    pub async fn read(&mut self, stop: &CancellationToken) -> Result<Typed> {
        let away = || Error::internal("the line editor ended abnormally");
        let mut lines = self.lines.take().ok_or_else(away)?;
        let (sender, receiver) = oneshot::channel();
        std::thread::spawn(move || {
            let read = lines.readline(PROMPT);
            let _ = sender.send((lines, read));
        });
        let (lines, read) = tokio::select! {
            read = receiver => read.map_err(|_| away())?,
            () = stop.cancelled() => {
                // The thread still waits for a key, and cannot put the terminal back by itself.
                let _ = std::process::Command::new("stty").arg("sane").status();
                return Err(interrupted("the shell was stopped"));
            }
        };
        self.lines = Some(lines);
        match read {
            Ok(text) => {
                self.remember(&text);
                Ok(Typed::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Nothing),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(unusable(error)),
        }
    }

    /// `None` if the terminal does not say.
    pub fn size(&mut self) -> Option<Size> {
        let (columns, rows) = self.lines.as_mut()?.dimensions()?;
        (columns > 0 && rows > 0).then(|| Size { columns: columns.into(), rows: rows.into() })
    }

    fn load_history(&mut self) {
        let (Some(lines), Some(file)) = (&mut self.lines, &self.history) else { return };
        let loaded = match file.parent().map(std::fs::create_dir_all) {
            Some(Err(error)) => Err(error.into()),
            _ if !file.exists() => Ok(()),
            _ => lines.load_history(file),
        };
        if let Err(error) = loaded {
            self.give_up_history(&error);
        }
    }

    /// Appended at once, so that shells side by side keep each other's lines.
    fn remember(&mut self, text: &str) {
        let Some(lines) = &mut self.lines else { return };
        let added = lines.add_history_entry(text.trim());
        let kept = match (added, &self.history) {
            (Ok(true), Some(file)) => lines.append_history(file),
            (added, _) => added.map(drop),
        };
        if let Err(error) = kept {
            self.give_up_history(&error);
        }
    }

    fn give_up_history(&mut self, error: &ReadlineError) {
        let file = self.history.take();
        let file = file.as_deref().unwrap_or(Path::new("memory")).display();
        output::say(&format!("the history is not kept in {file}: {error}"));
    }
}

fn unusable(error: ReadlineError) -> Error {
    Error::new(ErrorKind::Unavailable, "the terminal cannot be used").source(error)
}

/// What the line editor asks about words and ends of statements.
struct Words {
    backend: Arc<Backend>,
    runtime: Handle,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    names: Names,
    asked: Option<Instant>,
}

impl Words {
    /// Asks for names if they are old. Whoever waits too long goes on with those of before; the new
    /// ones are there at the next Tab.
    fn refresh(&self) {
        let mut known = lock(&self.known);
        if known.asked.is_some_and(|asked| asked.elapsed() < NAMES_AGE_MAX) {
            return;
        }
        known.asked = Some(Instant::now());
        drop(known);
        let (backend, known) = (Arc::clone(&self.backend), Arc::clone(&self.known));
        let learning = self.runtime.spawn(async move {
            // A server that does not answer says so at the next statement.
            if let Ok(tables) = backend.names().await {
                lock(&known).names = Names { tables };
            }
        });
        let _ =
            self.runtime.block_on(async { tokio::time::timeout(NAMES_WAIT_MAX, learning).await });
    }
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        self.refresh();
        Ok(lock(&self.known).names.complete(line, at))
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match pieces(context.input()).iter().all(|piece| piece.is_complete) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}
