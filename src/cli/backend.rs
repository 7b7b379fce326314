//! What statements are asked of: the project's own lake or a server. To commands both are the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use clap::Args;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::sink::{Sink, Written};
use super::{Session, interrupted};
use crate::app::App;
use crate::engine::catalog::Unreadable;
use crate::engine::doubled::as_selected;
use crate::engine::fault::engine_error;
use crate::engine::query::Query;
use crate::engine::storable::{conform, plain_schema};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Range;
use crate::remote::{Client, Reply, Running};
use crate::source::Source;

const COLUMNS: &str = "SELECT table_schema, table_name, column_name \
                       FROM information_schema.columns ORDER BY 1, 2, ordinal_position";

/// A server instead of the lake, and who asks it. Flags are over the settings `remote.*`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for a server")]
pub struct RemoteArguments {
    /// Ask a server over Flight SQL: grpc+tls://host:port, or grpc://host:port without TLS
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<String>,
    /// Who asks; the password is read from FLOWGUARD_REMOTE_PASSWORD, or instead of both a token
    /// from FLOWGUARD_REMOTE_TOKEN
    #[arg(long, value_name = "NAME", requires = "remote")]
    user: Option<String>,
    /// File of authorities, PEM, to trust instead of the system's
    #[arg(long, value_name = "FILE", requires = "remote")]
    tls_ca: Option<PathBuf>,
    /// File of a certificate to show, PEM, if the server wants one
    #[arg(long, value_name = "FILE", requires = "remote")]
    tls_certificate: Option<PathBuf>,
    /// File of the certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "remote")]
    tls_key: Option<PathBuf>,
}

/// Where statements run.
pub enum Backend {
    /// With what `$start` and `$end` stand for, if anything.
    Lake(Box<App>, Option<Range>),
    Server(Box<Client>),
}

/// A statement that runs: its columns, and its rows as they are made.
pub struct Answer {
    pub schema: SchemaRef,
    pub rows: BoxStream<'static, Result<RecordBatch>>,
    /// What is listed without columns, because it cannot be read.
    unreadable: Unreadable,
    /// On a server, which has to be told if it should end.
    running: Option<Running>,
}

impl RemoteArguments {
    /// As settings, files from the current folder on.
    fn settings(&self, current_folder: &Path) -> Vec<(String, String)> {
        let file = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| current_folder.join(path).display().to_string())
        };
        let given = [
            ("remote.user", self.user.clone()),
            ("remote.tls_ca", file(&self.tls_ca)),
            ("remote.tls_certificate", file(&self.tls_certificate)),
            ("remote.tls_key", file(&self.tls_key)),
        ];
        given.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect()
    }
}

impl Backend {
    /// `range` is bound to `$start` and `$end` of every statement.
    pub async fn open(
        session: &Session,
        arguments: &RemoteArguments,
        range: Option<Range>,
    ) -> Result<Self> {
        let Some(address) = &arguments.remote else {
            return Ok(Self::Lake(Box::new(session.app()?), range));
        };
        if session.global.lake.is_some() {
            return Err(Error::invalid("`--lake` and `--remote` are two places to ask")
                .hint("give one of them"));
        }
        let current_folder = &session.process.current_folder;
        // A server can be asked from anywhere; a project's settings count where there is one.
        let folder = match session.project() {
            Err(error) if error.kind == ErrorKind::NotFound && session.global.project.is_none() => {
                current_folder.clone()
            }
            found => found?,
        };
        let config = session.config_with(&folder, arguments.settings(current_folder))?;
        let mut client = Client::connect(address, &config.remote).await?;
        if let Some(range) = range {
            client.set_range(range).await?;
        }
        Ok(Self::Server(Box::new(client)))
    }

    /// Plans the statement; rows are made as they are asked for.
    pub async fn ask(&self, source: &Source) -> Result<Answer> {
        match self {
            Self::Lake(app, range) => {
                let query =
                    Query::plan(&app.engine, &app.lake, &app.models, source, *range).await?;
                let rows = query.stream().await?;
                let unreadable = query.unreadable;
                let schema = as_selected(&rows.schema());
                let rows = rows.map_err(|error| engine_error("the query failed", error)).boxed();
                Ok(Answer { schema, rows, unreadable, running: None })
            }
            Self::Server(client) => {
                let Reply { schema, rows, running } = client.run(source).await?;
                let unreadable = Unreadable::new();
                Ok(Answer { schema, rows, unreadable, running: Some(running) })
            }
        }
    }

    /// Every table there is, with its columns in their order.
    pub async fn names(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut answer = self.ask(&Source::new("sql", COLUMNS)).await?;
        let schema = plain_schema(&answer.schema);
        let mut names = BTreeMap::<String, Vec<String>>::new();
        while let Some(batch) = answer.rows.next().await {
            let batch = conform(&batch?, &schema)?;
            let texts: Option<Vec<&StringArray>> =
                batch.columns().iter().map(|column| column.as_string_opt()).collect();
            let Some([schemas, tables, columns]) = texts.as_deref() else {
                return Err(Error::invalid("the names of columns are no text"));
            };
            for row in 0..batch.num_rows() {
                let table = format!("{}.{}", schemas.value(row), tables.value(row));
                names.entry(table).or_default().push(columns.value(row).to_owned());
            }
        }
        Ok(names)
    }

    /// Where it is, for people.
    pub fn described(&self) -> String {
        match self {
            Self::Lake(app, _) => format!("the lake {}", app.lake.root()),
            Self::Server(client) => format!("the server {}", client.address()),
        }
    }

    /// Asks, and writes all rows to the sink that `open` makes for the columns. When `stop` comes
    /// first, the statement ends where it runs.
    pub async fn print(
        &self,
        source: &Source,
        open: impl FnOnce(&SchemaRef) -> Result<Sink>,
        stop: &CancellationToken,
    ) -> Result<Written> {
        let stopped = || interrupted("the query was cancelled");
        let Answer { schema, rows, unreadable, running } = tokio::select! {
            answer = self.ask(source) => answer?,
            () = stop.cancelled() => return Err(stopped()),
        };
        let schema = plain_schema(&schema);
        let sink = open(&schema)?;
        tokio::select! {
            written = write(rows, &schema, sink) => return judged(written?, unreadable),
            () = stop.cancelled() => {}
        }
        if let Some(running) = running {
            running.cancel().await;
        }
        Err(stopped())
    }
}

/// Fails, after everything was written, if something is missing from it.
fn judged(written: Written, unreadable: Unreadable) -> Result<Written> {
    let count = unreadable.len();
    let Some((name, error)) = unreadable.into_iter().next() else { return Ok(written) };
    let more = match count {
        1 => String::new(),
        2 => ", as is 1 other table".to_owned(),
        _ => format!(", as are {} other tables", count - 1),
    };
    let message = format!("`{name}` is listed without columns{more}: {error}");
    Err(Error { message, ..error })
}

/// All rows, in the plain types of `schema`.
pub async fn write(
    mut rows: BoxStream<'static, Result<RecordBatch>>,
    schema: &SchemaRef,
    mut sink: Sink,
) -> Result<Written> {
    while let Some(batch) = rows.next().await {
        if !sink.write(&conform(&batch?, schema)?)? {
            return Ok(sink.unfinished());
        }
    }
    sink.finish()
}
