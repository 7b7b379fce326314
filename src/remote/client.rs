//! The client: connects, proves who asks, runs a statement, hands out its rows part by part, and
//! ends it on the server. Holds no more rows than a message has.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{
    Action, CancelFlightInfoRequest, FlightDescriptor, FlightInfo, HandshakeRequest, Ticket,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::address::Address;
use super::session;
use super::status::error_of;
use crate::config::{Remote, Secret};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Range;
use crate::source::Source;

const AUTHORIZATION: &str = "authorization";
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);
/// A connection that says nothing for so long is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Of one message; servers send at most a few MiB, or one long value.
const RECEIVED_BYTES_MAX: usize = 256 << 20;
/// How long the server may take to confirm that a statement has ended.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection to one server. Cheap to clone; clones share the connection and the log-in.
#[derive(Clone)]
pub struct Client {
    calls: FlightServiceClient<Channel>,
    address: Arc<str>,
    has_tls: bool,
    login: Arc<Login>,
    /// Of the session whose options hold for every call.
    cookie: Option<Header>,
}

/// The `authorization` header of calls.
type Header = MetadataValue<Ascii>;

struct Login {
    /// User and password, for a handshake when there is no bearer or the server forgot it.
    basic: Option<Header>,
    bearer: Mutex<Option<Header>>,
}

/// A statement's columns and rows.
pub struct Reply {
    pub schema: SchemaRef,
    /// Part after part, in the server's order; nothing is asked for before it is wanted.
    pub rows: BoxStream<'static, Result<RecordBatch>>,
    pub running: Running,
}

/// A statement that the server runs, which can be cancelled beside reading its rows.
pub struct Running {
    client: Client,
    info: FlightInfo,
}

impl Client {
    /// Connects to `address` and logs in, if `settings` say who asks.
    pub async fn connect(address: &str, settings: &Remote) -> Result<Self> {
        let parsed: Address = address.parse()?;
        let login = login(settings)?;
        let has_proof = login.basic.is_some() || login.bearer().is_some();
        if has_proof && !parsed.has_tls && !parsed.is_local {
            let message = format!("`{address}` is without TLS: others could read the credentials");
            return Err(Error::invalid(message)
                .hint("write grpc+tls://host:port, or unset the user, password and token"));
        }
        let endpoint = endpoint(&parsed, settings)?;
        let channel = endpoint.connect().await.map_err(|source| {
            Error::new(ErrorKind::Unavailable, format!("cannot connect to `{address}`"))
                .hint(advice(parsed.has_tls))
                .source(source)
        })?;
        let calls = FlightServiceClient::new(channel).max_decoding_message_size(RECEIVED_BYTES_MAX);
        let client = Self {
            calls,
            address: address.into(),
            has_tls: parsed.has_tls,
            login: Arc::new(login),
            cookie: None,
        };
        client.log_in().await.map_err(|status| client.error(&status, Path::new("query")))?;
        Ok(client)
    }

    /// As it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What `$start` and `$end` stand for in every statement from now on.
    pub async fn set_range(&mut self, range: Range) -> Result<()> {
        let body = session::options([("start", range.start), ("end", range.end)]);
        let action = Action::new(session::SET_OPTIONS, body);
        let failed = |status: Status| self.error(&status, Path::new("query"));
        let response = self.calls.clone().do_action(self.request(action)).await.map_err(failed)?;
        let cookie = response.metadata().get("set-cookie").cloned();
        let mut results = response.into_inner();
        while let Some(result) = results.message().await.map_err(failed)? {
            session::refused(&result.body)?;
        }
        self.cookie = cookie;
        Ok(())
    }

    /// Plans the statement on the server.
    pub async fn run(&self, source: &Source) -> Result<Reply> {
        let query = CommandStatementQuery { query: source.text.clone(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
        let failed = |status: Status| self.error(&status, &source.file);
        let info = match self.info(&descriptor).await {
            // A server that was started anew knows no bearers of before.
            Err(status) if status.code() == Code::Unauthenticated && self.login.basic.is_some() => {
                self.log_in().await.map_err(failed)?;
                self.info(&descriptor).await
            }
            planned => planned,
        };
        let info = info.map_err(failed)?;
        let schema: Schema = info.clone().try_decode_schema().map_err(|source| {
            Error::new(ErrorKind::Unavailable, "the server does not say what the columns are")
                .source(source)
        })?;
        let tickets: Vec<Option<Ticket>> =
            info.endpoint.iter().map(|endpoint| endpoint.ticket.clone()).collect();
        let (client, file) = (self.clone(), source.file.clone());
        let parts = stream::iter(tickets).then(move |ticket| {
            let (client, file) = (client.clone(), file.clone());
            async move { client.part(ticket.unwrap_or_default(), file).await }
        });
        Ok(Reply {
            schema: Arc::new(schema),
            rows: parts.try_flatten().boxed(),
            running: Running { client: self.clone(), info },
        })
    }

    async fn info(&self, descriptor: &FlightDescriptor) -> Result<FlightInfo, Status> {
        let request = self.request(descriptor.clone());
        Ok(self.calls.clone().get_flight_info(request).await?.into_inner())
    }

    async fn part(
        &self,
        ticket: Ticket,
        file: PathBuf,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let failed = |status: &Status| self.error(status, &file);
        let messages = self.calls.clone().do_get(self.request(ticket)).await;
        let messages = messages.map_err(|status| failed(&status))?.into_inner();
        let batches = FlightRecordBatchStream::new_from_flight_data(
            messages.map_err(|status| FlightError::Tonic(Box::new(status))),
        );
        let client = self.clone();
        let batches = batches.map_err(move |error| match error {
            FlightError::Tonic(status) => client.error(&status, &file),
            other => {
                Error::new(ErrorKind::Unavailable, "the server's rows cannot be read").source(other)
            }
        });
        Ok(batches.boxed())
    }

    /// Exchanges user and password for a bearer, if there are any.
    async fn log_in(&self) -> Result<(), Status> {
        let Some(basic) = &self.login.basic else { return Ok(()) };
        let mut request = Request::new(stream::iter([HandshakeRequest::default()]));
        request.metadata_mut().insert(AUTHORIZATION, basic.clone());
        let header = match self.calls.clone().handshake(request).await {
            Ok(response) => response.metadata().get(AUTHORIZATION).cloned(),
            // It takes user and password with every call, then.
            Err(status) if status.code() == Code::Unimplemented => None,
            Err(status) => return Err(status),
        };
        self.login.set_bearer(header.unwrap_or_else(|| basic.clone()));
        Ok(())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = self.login.bearer() {
            request.metadata_mut().insert(AUTHORIZATION, bearer);
        }
        if let Some(cookie) = &self.cookie {
            request.metadata_mut().insert("cookie", cookie.clone());
        }
        request
    }

    fn error(&self, status: &Status, file: &Path) -> Error {
        let error = error_of(status, file, advice(self.has_tls));
        let is_unknown = error.kind == ErrorKind::Unauthenticated && error.hint.is_none();
        match is_unknown {
            true => error.hint("write --user NAME and set FLOWGUARD_REMOTE_PASSWORD, or set FLOWGUARD_REMOTE_TOKEN"),
            false => error,
        }
    }
}

impl Running {
    /// Ends the statement, if it has not ended. What cannot be ended ends by the server's limits.
    pub async fn cancel(self) {
        let request = CancelFlightInfoRequest::new(self.info);
        let action = Action::new("CancelFlightInfo", request.encode_to_vec());
        let request = self.client.request(action);
        let mut calls = self.client.calls.clone();
        let cancelling = async {
            let mut results = calls.do_action(request).await?.into_inner();
            while results.message().await?.is_some() {}
            Ok::<(), Status>(())
        };
        match tokio::time::timeout(CANCEL_TIME_MAX, cancelling).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => tracing::warn!(%status, "the server did not cancel the statement"),
            Err(_) => tracing::warn!("the server does not say whether the statement has ended"),
        }
    }
}

impl Login {
    fn bearer(&self) -> Option<Header> {
        self.bearer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_bearer(&self, header: Header) {
        *self.bearer.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
    }
}

fn login(settings: &Remote) -> Result<Login> {
    let (basic, bearer) = match (&settings.user, &settings.password, &settings.token) {
        (Some(user), Some(password), None) => {
            let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
            (Some(header(&Secret::new(format!("Basic {pair}")))?), None)
        }
        (_, None, Some(token)) => {
            (None, Some(header(&Secret::new(format!("Bearer {}", token.expose())))?))
        }
        (None, None, None) => (None, None),
        (Some(user), None, None) => {
            return Err(Error::invalid(format!("there is no password for `{user}`")).hint(
                "set FLOWGUARD_REMOTE_PASSWORD, or instead of a user FLOWGUARD_REMOTE_TOKEN",
            ));
        }
        (None, Some(_), None) => {
            return Err(
                Error::invalid("there is a password without a user").hint("write --user NAME")
            );
        }
        (_, Some(_), Some(_)) => {
            return Err(Error::invalid("`remote.password` and `remote.token` are both set")
                .hint("unset one of them: flowguard config says where they come from"));
        }
    };
    Ok(Login { basic, bearer: Mutex::new(bearer) })
}

fn header(text: &Secret) -> Result<Header> {
    let mut header = Header::try_from(text.expose())
        .map_err(|_| Error::invalid("the token for the server has characters that no token has"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn endpoint(address: &Address, settings: &Remote) -> Result<Endpoint> {
    let unfit = |source| Error::invalid("cannot connect as `remote.*` says").source(source);
    let endpoint = Endpoint::from_shared(address.uri.clone())
        .map_err(unfit)?
        .connect_timeout(CONNECT_TIME_MAX)
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(KEEPALIVE);
    if !address.has_tls {
        return Ok(endpoint);
    }
    let mut tls = match &settings.tls_ca {
        Some(file) => ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem(file, "CERTIFICATE-----")?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&settings.tls_certificate, &settings.tls_key) {
        let certificate = pem(certificate, "CERTIFICATE-----")?;
        tls = tls.identity(Identity::from_pem(certificate, pem(key, "PRIVATE KEY-----")?));
    }
    endpoint.tls_config(tls).map_err(unfit)
}

/// A file's text, which must have a block of this kind.
fn pem(file: &Path, kind: &str) -> Result<String> {
    let text = std::fs::read_to_string(file).map_err(|source| {
        Error::invalid(format!("cannot read `{}`", file.display())).source(source)
    })?;
    if !text.contains(kind) {
        let what = kind.trim_end_matches('-').to_lowercase();
        return Err(Error::invalid(format!("`{}` holds no {what} in PEM form", file.display())));
    }
    Ok(text)
}

fn advice(has_tls: bool) -> &'static str {
    if has_tls {
        "a certificate of a private authority needs --tls-ca FILE, a server that wants to see one \
         --tls-certificate and --tls-key; a server without TLS is grpc://"
    } else {
        "is a server there? one with TLS is grpc+tls://"
    }
}
