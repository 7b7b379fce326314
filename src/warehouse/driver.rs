//! The process that holds a driver: foreign code, which may crash, hang or leak without touching
//! the engine. Does what it is asked, one request after the other, until nobody asks.

use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use adbc_core::options::{AdbcVersion, IngestMode, OptionDatabase, OptionStatement};
use adbc_core::{Connection as _, Database as _, Driver as _, Optionable as _, Statement as _};
use adbc_driver_manager::{ManagedConnection, ManagedDriver};
use arrow::array::RecordBatchReader;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::frames::{Reply, Request, RowsReader, RowsWriter, receive, send};
use crate::error::{Error, Result};

/// The session of this process, which another thread may want to end.
#[derive(Clone, Default)]
pub struct Driver(Arc<Mutex<Session>>);

#[derive(Default)]
struct Session {
    connection: Option<ManagedConnection>,
    phase: Phase,
    /// A request is being served.
    is_busy: bool,
    /// No request is answered any more: the engine must not take for the warehouse's word what came
    /// of an interruption.
    is_ending: bool,
}

/// Where the session is; it never goes back to an earlier phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Not connected yet.
    #[default]
    Connecting,
    Open,
    /// No request is served any more; only the session's end is waited for.
    Closing,
    Closed,
}

impl Driver {
    /// Serves requests until `input` ends, then closes the session. DuckDB writes its file at that
    /// moment, parts of it over what was there: a process that ends meanwhile leaves it torn.
    pub fn serve(&self, input: impl Read + Send + 'static, output: impl Write) -> Result<()> {
        let served = self.serve_all(input, output);
        self.close(self.lock());
        served
    }

    /// Does nothing to a session that somebody else is closing.
    fn close(&self, mut session: MutexGuard<'_, Session>) {
        if session.phase == Phase::Closing {
            return;
        }
        session.phase = Phase::Closing;
        let connection = session.connection.take();
        drop(session);
        drop(connection);
        self.lock().phase = Phase::Closed;
    }

    fn serve_all(&self, input: impl Read + Send + 'static, output: impl Write) -> Result<()> {
        let gone = |source: std::io::Error| Error::internal("the engine is gone").source(source);
        let input = Shared::new(BufReader::new(Box::new(input) as Box<dyn Read + Send>));
        let mut output = BufWriter::new(output);
        while let Some(request) = receive::<Request>(&mut input.clone()).map_err(gone)? {
            let connection = {
                let mut session = self.lock();
                session.is_busy = true;
                session.connection.clone()
            };
            let outcome = match (request, connection) {
                (Request::Connect { library, entrypoint, options }, _) => {
                    connect(&library, entrypoint.as_deref(), options).map(|made| {
                        let mut session = self.lock();
                        (session.connection, session.phase) = (Some(made), Phase::Open);
                        None
                    })
                }
                (_, None) => Err(Fault::local("connect first")),
                (Request::Query { sql }, Some(connection)) => {
                    query(connection, &sql, &mut output).map(|()| None)
                }
                (Request::Execute { sql }, Some(connection)) => execute(connection, &sql),
                (Request::Ingest { schema, table }, Some(connection)) => {
                    ingest(connection, &schema, &table, input.clone())
                }
            };
            let is_ending = {
                let mut session = self.lock();
                session.is_busy = false;
                session.is_ending
            };
            if is_ending {
                break;
            }
            let reply = match outcome {
                Ok(rows) => Reply::Done { rows },
                Err(Fault { status, message, sqlstate }) => {
                    Reply::Failed { status, message, sqlstate }
                }
            };
            send(&mut output, &reply).map_err(gone)?;
        }
        Ok(())
    }

    /// Closes the session, whoever may still have requests; while one is served, interrupts it
    /// instead, if the driver is able to.
    pub fn end(&self) {
        let mut session = self.lock();
        session.is_ending = true;
        if !session.is_busy {
            return self.close(session);
        }
        if let Some(Err(error)) = session.connection.as_mut().map(|open| open.cancel()) {
            tracing::debug!(%error, "the statement goes on");
        }
    }

    /// Never waits: a driver that is slow to interrupt its statement still has it open.
    pub fn phase(&self) -> Phase {
        match self.0.try_lock() {
            Ok(session) => session.phase,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().phase,
            Err(TryLockError::WouldBlock) => Phase::Open,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An end of the pipe, which a driver may hold too while it reads rows.
struct Shared<R>(Arc<Mutex<R>>);

impl<R> Shared<R> {
    fn new(reader: R) -> Self {
        Self(Arc::new(Mutex::new(reader)))
    }

    fn lock(&self) -> MutexGuard<'_, R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Clone for Shared<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.lock().read(bytes)
    }
}

struct Fault {
    status: String,
    message: String,
    sqlstate: String,
}

impl Fault {
    fn local(message: impl ToString) -> Self {
        Self {
            status: "Internal".to_owned(),
            message: message.to_string(),
            sqlstate: String::new(),
        }
    }
}

impl From<adbc_core::error::Error> for Fault {
    fn from(error: adbc_core::error::Error) -> Self {
        let sqlstate = error.sqlstate.iter().map(|byte| char::from(*byte as u8));
        Self {
            status: format!("{:?}", error.status),
            message: error.message,
            sqlstate: sqlstate.filter(char::is_ascii_alphanumeric).collect(),
        }
    }
}

impl From<arrow::error::ArrowError> for Fault {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::local(error)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::local(error)
    }
}

fn connect(
    library: &str,
    entrypoint: Option<&str>,
    options: Vec<(String, String)>,
) -> Result<ManagedConnection, Fault> {
    let entrypoint = entrypoint.map(str::as_bytes);
    let mut driver =
        ManagedDriver::load_dynamic_from_filename(library, entrypoint, AdbcVersion::V110)?;
    let options = options
        .into_iter()
        .map(|(key, value)| (OptionDatabase::from(key.as_str()), value.as_str().into()));
    Ok(driver.new_database_with_opts(options)?.new_connection()?)
}

fn execute(mut connection: ManagedConnection, sql: &str) -> Result<Option<i64>, Fault> {
    let mut statement = connection.new_statement()?;
    statement.set_sql_query(sql)?;
    Ok(statement.execute_update()?)
}

/// The rows go out as they come, after a first reply; the last one says whether they are all.
fn query(
    mut connection: ManagedConnection,
    sql: &str,
    output: &mut impl Write,
) -> Result<(), Fault> {
    let mut statement = connection.new_statement()?;
    statement.set_sql_query(sql)?;
    let rows = statement.execute()?;
    send(output, &Reply::Done { rows: None })?;
    let mut pipe = RowsWriter::new(output);
    let written = write_rows(rows, &mut pipe);
    pipe.end()?;
    written
}

fn write_rows(rows: impl RecordBatchReader, pipe: &mut impl Write) -> Result<(), Fault> {
    let mut writer = StreamWriter::try_new(pipe, &rows.schema())?;
    for batch in rows {
        writer.write(&batch?)?;
    }
    Ok(writer.finish()?)
}

/// Takes all rows off the pipe, also those that the driver did not want.
fn ingest(
    connection: ManagedConnection,
    schema: &str,
    table: &str,
    input: Shared<BufReader<Box<dyn Read + Send>>>,
) -> Result<Option<i64>, Fault> {
    let rows = Shared::new(RowsReader::new(input));
    let ingested = ingest_rows(connection, schema, table, rows.clone());
    rows.lock().finish()?;
    ingested
}

fn ingest_rows(
    mut connection: ManagedConnection,
    schema: &str,
    table: &str,
    rows: impl Read + Send + 'static,
) -> Result<Option<i64>, Fault> {
    let reader = StreamReader::try_new(rows, None)?;
    let mut statement = connection.new_statement()?;
    statement.set_option(OptionStatement::TargetTable, table.into())?;
    statement.set_option(OptionStatement::TargetDbSchema, schema.into())?;
    statement.set_option(OptionStatement::IngestMode, IngestMode::Append.into())?;
    statement.bind_stream(Box::new(reader))?;
    Ok(statement.execute_update()?)
}
