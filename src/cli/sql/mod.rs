//! `flowguard sql`: a shell for statements, over the lake or a server. On a terminal it goes on
//! after an error; from a pipe it ends at the first.

mod command;
mod editor;
mod names;
mod pager;
mod split;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio_util::sync::CancellationToken;

use self::command::Command;
use self::editor::{Editor, Typed};
use self::pager::{Screen, Size};
use self::split::{Piece, pieces};
use super::backend::{Backend, RemoteArguments};
use super::sink::{Form, Out, Sink, stdout};
use super::{RangeArguments, Session, output};
use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::source::{Position, Source};

const HISTORY: &str = "sql_history";
const TABLES: &str = "SELECT table_schema, table_name, table_type FROM information_schema.tables \
                      WHERE table_schema <> 'information_schema' ORDER BY 1, 2";

/// Ask one SQL statement after the other, over the lake or on a server
///
/// A statement ends with `;` and may span lines. Tab completes tables, columns and keywords; Ctrl-C
/// ends the statement that runs, Ctrl-D the shell; `\?` lists commands. Long results go through
/// $PAGER, or less. From a pipe it runs all statements, up to the first that fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard sql
  flowguard sql --remote grpc://127.0.0.1:31337
  flowguard sql --remote grpc+tls://lake.example.org:31337 --user ana
  flowguard sql --output csv < report.sql > report.csv")]
pub struct Arguments {
    /// How results are shown; `\o` changes it
    #[arg(long, default_value = "table", value_name = "FORM", value_parser = forms())]
    output: Form,
    #[command(flatten)]
    range: RangeArguments,
    #[command(flatten)]
    remote: RemoteArguments,
}

fn forms() -> impl TypedValueParser<Value = Form> {
    PossibleValuesParser::new(["table", "csv", "json"]).try_map(|name| command::form(&name))
}

pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let backend = Backend::open(session, &arguments.remote, arguments.range.range()?).await?;
    let is_interactive = std::io::stdin().is_terminal();
    let shell = Shell {
        session,
        backend: Arc::new(backend),
        form: arguments.output,
        shows_seconds: is_interactive,
        size: None,
        is_over: false,
    };
    if is_interactive { shell.converse().await } else { shell.run_all().await }
}

struct Shell<'a> {
    session: &'a Session,
    backend: Arc<Backend>,
    form: Form,
    shows_seconds: bool,
    /// Of the screen that results go to, if there is one.
    size: Option<Size>,
    is_over: bool,
}

impl Shell<'_> {
    /// With a person, until that person leaves.
    async fn converse(mut self) -> Result<()> {
        let process = &self.session.process;
        let mut statement = self.next_statement();
        let mut editor = Editor::new(Arc::clone(&self.backend), history_file(self.session))?;
        let has_screen = std::io::stdout().is_terminal();
        output::say(&format!("{}; `\\?` for help", self.backend.described()));
        while !self.is_over {
            let text = match editor.read(&process.stop).await? {
                Typed::Text(text) => text,
                Typed::Nothing => continue,
                Typed::End => break,
            };
            self.size = editor.size().filter(|_| has_screen);
            let source = Source::new("sql", text);
            for piece in pieces(&source.text) {
                let performed = self.perform(&source, &piece, &statement).await;
                statement = self.next_statement();
                match performed {
                    Err(error) if process.stop.is_cancelled() => return Err(error),
                    Err(error) => {
                        output::say(&error.report());
                        break;
                    }
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// What a Ctrl-C ends from now on: the line editor hears of it by itself, and everything after
    /// belongs to the statement that was typed.
    fn next_statement(&self) -> CancellationToken {
        let process = &self.session.process;
        let statement = process.stop.child_token();
        process.interrupts.divert(statement.clone());
        statement
    }

    /// Everything on standard input, up to the first error.
    async fn run_all(mut self) -> Result<()> {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|source| {
            Error::invalid("cannot read statements from standard input").source(source)
        })?;
        let source = Source::new("stdin", text);
        for piece in pieces(&source.text) {
            self.perform(&source, &piece, &self.session.process.stop).await?;
            if self.is_over {
                break;
            }
        }
        Ok(())
    }

    async fn perform(
        &mut self,
        source: &Source,
        piece: &Piece,
        stop: &CancellationToken,
    ) -> Result<()> {
        let text = &source.text[piece.bytes.clone()];
        if !piece.is_command {
            let statement = Source::new(&source.file, text);
            return self
                .show(&statement, stop)
                .await
                .map_err(|error| located(error, source, piece));
        }
        match Command::parse(text)? {
            Command::Tables => self.show(&Source::new("sql", TABLES), stop).await,
            Command::Columns(table) => {
                // The name is an identifier; nothing else goes into the text.
                self.show(&Source::new("sql", format!("DESCRIBE {table}")), stop).await
            }
            Command::Form(form) => {
                self.form = form;
                Ok(())
            }
            Command::Timing => {
                self.shows_seconds = !self.shows_seconds;
                output::say(if self.shows_seconds {
                    "seconds are shown"
                } else {
                    "seconds are not shown"
                });
                Ok(())
            }
            Command::Help => {
                output::say(&command::help());
                Ok(())
            }
            Command::Quit => {
                self.is_over = true;
                Ok(())
            }
        }
    }

    async fn show(&self, statement: &Source, stop: &CancellationToken) -> Result<()> {
        let began = Instant::now();
        let open = |schema: &_| Sink::new(self.form, schema, self.out());
        let written = self.backend.print(statement, open, stop).await?;
        let seconds = match self.shows_seconds {
            true => format!(" in {:.3} s", began.elapsed().as_secs_f64()),
            false => String::new(),
        };
        if self.shows_seconds || self.form == Form::Table {
            output::say(&format!("{}{seconds}", written.summary()));
        }
        Ok(())
    }

    fn out(&self) -> Out {
        match self.size {
            Some(size) => {
                let program = self.session.process.environment.get("PAGER").cloned();
                Box::new(Screen::new(size, program))
            }
            None => stdout(),
        }
    }
}

/// The same error with its places in the whole text rather than in the statement.
fn located(mut error: Error, source: &Source, piece: &Piece) -> Error {
    let start = source.position(piece.bytes.start..piece.bytes.start);
    let moved = |diagnostic: Diagnostic| {
        if diagnostic.line == 0 {
            return diagnostic;
        }
        let column = match diagnostic.line {
            1 => start.column + diagnostic.column - 1,
            _ => diagnostic.column,
        };
        let line = start.line + diagnostic.line - 1;
        let position = Position { line, column, width: diagnostic.width };
        source.diagnostic(position, diagnostic.message, diagnostic.hint)
    };
    error.diagnostics = error.diagnostics.into_iter().map(moved).collect();
    error
}

/// In the project, or without one where the system keeps such things of the user.
fn history_file(session: &Session) -> Option<PathBuf> {
    match session.project() {
        Ok(project) => Some(project.join(".flowguard").join(HISTORY)),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let folder = |name: &str| {
                session
                    .process
                    .environment
                    .get(name)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from)
            };
            let state =
                folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
            Some(state?.join("flowguard").join(HISTORY))
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_statement_becomes_one_in_the_whole_text() {
        let source = Source::new("stdin", "SELECT 1; SELECT a,\n  b;");
        let pieces = pieces(&source.text);
        let place = |line, column| {
            let position = Position { line, column, width: 1 };
            let found = source.diagnostic(position, "unknown", None);
            let error = located(Error::diagnosed("", vec![found]), &source, &pieces[1]);
            error.diagnostics[0].to_string()
        };
        assert_eq!(
            place(1, 8),
            "stdin:1:18: unknown\n    SELECT 1; SELECT a,\n                     ^"
        );
        assert_eq!(place(2, 3), "stdin:2:3: unknown\n      b;\n      ^");
    }
}
