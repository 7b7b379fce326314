//! A warehouse, reached through its own ADBC driver in a child process of this program. Runs what
//! it is given; what to run is decided by `export`. The only room that names `adbc_core` and
//! `adbc_driver_manager`.

pub mod driver;
mod frames;
pub mod libraries;

use std::io::{BufReader, BufWriter};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use futures::{Stream, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::frames::{Reply, Request, RowsReader, RowsWriter, receive, send};
use crate::config::Secret;
use crate::error::{Error, ErrorKind, Result};

/// The hidden command of the child.
pub const DRIVER_COMMAND: &str = "warehouse-driver";
/// Of rows that wait for the driver, unless a single batch has more. It takes some at once and then
/// none for a while, in which they are read on.
const WAITING_KIB_MAX: u32 = 32 << 10;
/// How long a child that broke its pipe may take to end.
const ENDING_MAX: Duration = Duration::from_secs(2);
const ENDING_CHECK: Duration = Duration::from_millis(10);
/// How long a session that is dropped may take to end, before it is left to do so by itself.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// What to load, and what to connect to.
#[derive(Debug, Clone)]
pub struct Access {
    /// As in `dags.yaml`.
    pub target: String,
    /// This program.
    pub program: PathBuf,
    pub library: PathBuf,
    /// The driver's first function, where its file's name does not tell.
    pub entrypoint: Option<&'static str>,
    pub options: Vec<(String, Secret)>,
}

/// One session of a warehouse. Dropping it ends the child, whatever it does at that moment; what
/// was not committed then is rolled back by the warehouse. Who drops it waits for the end, because
/// the next session may need what this one holds, but not longer than [`CLOSING_MAX`].
pub struct Warehouse {
    target: String,
    library: PathBuf,
    /// Absent once it is dropped.
    child: Option<Child>,
    /// Absent while a call is under way, and after one that broke the pipe.
    pipes: Option<Pipes>,
}

struct Pipes {
    requests: BufWriter<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Warehouse {
    /// Starts the child and has it open a session, which fails in the driver's words.
    pub async fn connect(access: &Access) -> Result<Self> {
        let started = start(&access.program);
        let (child, pipes) = started.map_err(|source| {
            Error::new(ErrorKind::Exhausted, "cannot start the driver's process").source(source)
        })?;
        let (target, library) = (access.target.clone(), access.library.clone());
        let mut warehouse = Self { target, library, child: Some(child), pipes: Some(pipes) };
        let options = access.options.iter();
        let request = Request::Connect {
            library: access.library.to_string_lossy().into_owned(),
            entrypoint: access.entrypoint.map(str::to_owned),
            options: options.map(|(key, value)| (key.clone(), value.expose().to_owned())).collect(),
        };
        warehouse.call("cannot connect to", move |pipes| pipes.ask(&request)).await?;
        Ok(warehouse)
    }

    /// The driver's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Runs a statement; the number of rows it changed, if the driver says.
    pub async fn execute(&mut self, sql: impl Into<String>) -> Result<Option<i64>> {
        let request = Request::Execute { sql: sql.into() };
        self.call("a statement failed on", move |pipes| pipes.ask(&request)).await
    }

    /// All rows of a small result.
    pub async fn query(&mut self, sql: impl Into<String>) -> Result<Vec<RecordBatch>> {
        let request = Request::Query { sql: sql.into() };
        self.call("a query failed on", move |pipes| {
            pipes.ask(&request)?;
            let mut rows = RowsReader::new(&mut pipes.replies);
            let read = read_rows(&mut rows);
            rows.finish()?;
            pipes.answer()?;
            read
        })
        .await
    }

    /// Appends rows to a table that exists. After an error, some of them may be in it.
    pub async fn ingest(
        &mut self,
        schema: &str,
        table: &str,
        columns: SchemaRef,
        mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
    ) -> Result<()> {
        let request = Request::Ingest { schema: schema.to_owned(), table: table.to_owned() };
        let (sender, mut receiver) =
            mpsc::unbounded_channel::<(RecordBatch, OwnedSemaphorePermit)>();
        let room = Arc::new(Semaphore::new(WAITING_KIB_MAX as usize));
        let load = self.call("cannot load rows into", move |pipes| {
            send(&mut pipes.requests, &request)?;
            let mut pipe = RowsWriter::new(&mut pipes.requests);
            let mut writer = StreamWriter::try_new(&mut pipe, &columns)?;
            while let Some((batch, _room)) = receiver.blocking_recv() {
                writer.write(&batch)?;
            }
            writer.finish()?;
            drop(writer);
            pipe.end()?;
            pipes.answer()
        });
        let feed = async move {
            while let Some(batch) = rows.next().await {
                let batch = batch?;
                let kib = u32::try_from(batch.get_array_memory_size() >> 10).unwrap_or(u32::MAX);
                let kib = kib.clamp(1, WAITING_KIB_MAX);
                let Ok(room) = Arc::clone(&room).acquire_many_owned(kib).await else { break };
                // A closed channel has its reason at the other end.
                if sender.send((batch, room)).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let (loaded, fed) = tokio::join!(load, feed);
        // Rows that could not be read end the load early; what was loaded so far is thrown away
        // by whoever asked.
        fed.and(loaded.map(drop))
    }

    async fn call<T: Send + 'static>(
        &mut self,
        doing: &str,
        work: impl FnOnce(&mut Pipes) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let target = self.target.clone();
        let mut pipes = self.pipes.take().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("the driver of `{target}` has ended"))
        })?;
        let worked = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut pipes);
            (pipes, outcome)
        });
        let (pipes, outcome) = worked
            .await
            .map_err(|source| Error::internal("a driver's thread stopped").source(source))?;
        match outcome {
            Ok(value) => {
                self.pipes = Some(pipes);
                Ok(value)
            }
            Err(Fault::Said { status, message, sqlstate }) => {
                self.pipes = Some(pipes);
                Err(driver_error(format!("{doing} `{target}`"), &status, message, &sqlstate))
            }
            Err(Fault::Pipe(source)) => {
                let kind = self.kind_of_end().await;
                let message = format!("{doing} `{target}`: the driver's process ended");
                Err(Error::new(kind, message).source(source))
            }
        }
    }

    /// Whoever ends a service asks its processes one by one: a driver that was asked to end is the
    /// first this process sees of its own interruption.
    async fn kind_of_end(&mut self) -> ErrorKind {
        let deadline = Instant::now() + ENDING_MAX;
        loop {
            let ended = self.child.as_mut().map_or(Ok(None), Child::try_wait);
            match ended {
                Ok(None) if Instant::now() < deadline => tokio::time::sleep(ENDING_CHECK).await,
                Ok(Some(status)) if is_asked(status) => return ErrorKind::Interrupted,
                _ => return ErrorKind::Unavailable,
            }
        }
    }
}

impl Drop for Warehouse {
    fn drop(&mut self) {
        // Without a call under way the end of its input is enough; with one, it is asked to end. It
        // must not be cut short while it closes: that tears a DuckDB file.
        let Some(mut child) = self.child.take() else { return };
        let is_alive = matches!(child.try_wait(), Ok(None));
        if self.pipes.take().is_none() && is_alive {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
        if is_alive && !has_ended_within(CLOSING_MAX, child) {
            tracing::warn!(warehouse = self.target, "a driver takes long to close its session");
        }
    }
}

/// False if it goes on; its end is waited for all the same, by a thread of its own.
fn has_ended_within(wait_max: Duration, mut child: Child) -> bool {
    let (sender, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::Builder::new().name("driver's end".to_owned()).spawn(move || {
        let status = child.wait();
        // Whoever waited may have given up.
        let _ = sender.send(status);
    });
    waiting.is_ok() && ended.recv_timeout(wait_max).is_ok()
}

/// A driver's process that is asked to end does so in order; before it can listen, by the signal.
fn is_asked(status: ExitStatus) -> bool {
    let asking = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    status.success() || status.signal().is_some_and(|by| asking.iter().any(|s| *s as i32 == by))
}

fn start(program: &Path) -> std::io::Result<(Child, Pipes)> {
    let mut child = Command::new(program)
        .arg(DRIVER_COMMAND)
        // A Ctrl-C is this process's, which then ends the child in order.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    let pipes = Pipes { requests: BufWriter::new(requests), replies: BufReader::new(replies) };
    Ok((child, pipes))
}

/// Why a call came to nothing.
enum Fault {
    Said { status: String, message: String, sqlstate: String },
    Pipe(Box<dyn std::error::Error + Send + Sync>),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Pipe(error.into())
    }
}

impl From<arrow::error::ArrowError> for Fault {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Pipe(error.into())
    }
}

impl Pipes {
    fn ask(&mut self, request: &Request) -> Result<Option<i64>, Fault> {
        send(&mut self.requests, request)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Option<i64>, Fault> {
        match receive(&mut self.replies)? {
            Some(Reply::Done { rows }) => Ok(rows),
            Some(Reply::Failed { status, message, sqlstate }) => {
                Err(Fault::Said { status, message, sqlstate })
            }
            None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

fn read_rows(rows: impl std::io::Read) -> Result<Vec<RecordBatch>, Fault> {
    let mut batches = Vec::new();
    for batch in StreamReader::try_new(rows, None)? {
        batches.push(batch?);
    }
    Ok(batches)
}

/// The driver's words, without the connection's secrets: they never hold any that we gave, except
/// in a URI that some repeat.
fn driver_error(doing: String, status: &str, message: String, sqlstate: &str) -> Error {
    let kind = match (status, sqlstate) {
        ("Unauthenticated", _) | (_, "28000" | "28P01") => ErrorKind::Denied,
        ("Unauthorized", _) | (_, "42501") => ErrorKind::Denied,
        // Of these Snowflake's driver says that they are of input and output.
        (_, state) if state.starts_with("42") => ErrorKind::Invalid,
        (_, "57014") if message.contains("has locked table") => ErrorKind::Conflict,
        ("NotFound", _) | (_, "3D000") => ErrorKind::NotFound,
        ("IO" | "Timeout", _) | (_, "57P01" | "57P03" | "53300" | "08006") => {
            ErrorKind::Unavailable
        }
        (_, "40001" | "40P01" | "23505") | ("Integrity" | "AlreadyExists", _) => {
            ErrorKind::Conflict
        }
        (_, "53100" | "53200") => ErrorKind::Exhausted,
        _ => ErrorKind::Invalid,
    };
    match file_hint(&message) {
        Some((kind, hint)) => Error::new(kind, doing).source(message).hint(hint),
        None => Error::new(kind, doing).source(without_uri(&message)),
    }
}

/// What can be done when DuckDB cannot have its file, which it says in words alone.
fn file_hint(message: &str) -> Option<(ErrorKind, &'static str)> {
    if message.contains("Could not set lock on file") {
        let hint = "another process has the file open; run again when it has closed it";
        return Some((ErrorKind::Unavailable, hint));
    }
    if message.contains("Corrupt database file") {
        let hint = "the file is torn, as after a power failure; it is a copy: move it away, and the \
                    next export fills a new one";
        return Some((ErrorKind::Invalid, hint));
    }
    let is_denied = message.contains("Permission denied") && message.contains("Cannot open file");
    is_denied
        .then_some((ErrorKind::Denied, "this user must be able to write the file and its folder"))
}

fn without_uri(message: &str) -> String {
    let hide = |word: &str| match (word.find("://"), word.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…{}", &word[..scheme], &word[at..])
        }
        _ => word.to_owned(),
    };
    message.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread that dropped it is one that others' work waits for.
    #[test]
    fn a_driver_that_does_not_end_is_left_to_itself() {
        let sleeps = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        let began = Instant::now();
        let child = sleeps("60");
        let id = Pid::from_raw(child.id().cast_signed());
        assert!(!has_ended_within(Duration::from_millis(50), child));
        assert!(began.elapsed() < Duration::from_secs(30));
        kill(id, Signal::SIGKILL).unwrap();
        assert!(has_ended_within(Duration::from_secs(30), sleeps("0")));
    }

    #[test]
    fn an_address_that_a_driver_repeats_loses_its_password() {
        let said = "cannot reach postgresql://me:geheim@db.example/a now";
        assert_eq!(without_uri(said), "cannot reach postgresql://…@db.example/a now");
    }
}
