//! What all calls share, and what each must know first: who calls, and in which session.

use std::sync::Arc;

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::{Any, Command};
use prost::Message;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::auth::authenticate;
use super::catalog::Catalog;
use super::polls::Polls;
use super::prepared::PreparedStatements;
use super::results::Results;
use super::sessions::Sessions;
use crate::access::{Access, Principal};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::statements::{Statements, Terms};

/// What answers the calls of Flight SQL. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// What all clones of a [`Server`] share.
pub struct Shared {
    pub statements: Statements,
    pub access: Access,
    pub catalog: Catalog,
    pub results: Results,
    pub prepared: PreparedStatements,
    pub polls: Polls,
    pub sessions: Sessions,
    /// Microseconds since 1970 UTC.
    clock: Clock,
}

impl std::ops::Deref for Server {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Server {
    pub fn new(statements: Statements, access: Access, clock: Clock) -> Result<Self> {
        Ok(Self(Arc::new(Shared {
            catalog: Catalog::new(statements.clone())?,
            results: Results::new(access.clone(), statements.clone(), clock.clone()),
            prepared: PreparedStatements::new(statements.clone(), access.clone()),
            polls: Polls::new(access.clone()),
            sessions: Sessions::new(access.clone()),
            statements,
            access,
            clock,
        })))
    }

    /// Microseconds since 1970 UTC.
    pub fn now(&self) -> i64 {
        self.clock.micros()
    }

    /// Fails with `Unauthenticated` unless the request proves who sends it.
    pub async fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Principal>> {
        authenticate(&self.access, request, self.now()).await
    }

    /// Those of the caller's session, or the server's defaults without one.
    pub fn terms(&self, caller: &Principal, metadata: &MetadataMap) -> Result<Terms> {
        self.sessions.terms(caller, metadata, self.now())
    }

    /// Gives back what abandoned handles hold.
    pub fn sweep(&self) {
        let now = self.now();
        self.results.sweep();
        self.prepared.sweep(now);
        self.polls.sweep(now);
        self.sessions.sweep(now);
    }
}

/// The message in a descriptor, which must be of the command form.
pub fn message_in(descriptor: &FlightDescriptor) -> Result<Any> {
    if descriptor.r#type() != DescriptorType::Cmd {
        return Err(Error::invalid("the descriptor holds no command")
            .hint("use a Flight SQL client; tables are read by SQL, not by path"));
    }
    unpack(&descriptor.cmd, "the descriptor")
}

/// `bytes` as the message that Flight SQL puts its commands in.
pub fn unpack(bytes: &[u8], what: &str) -> Result<Any> {
    Any::decode(bytes).map_err(|_| not_flight_sql(what))
}

/// `what` is the message's name in the error, such as `the ticket`.
pub fn command_in(message: Any, what: &str) -> Result<Command> {
    Command::try_from(message).map_err(|_| not_flight_sql(what))
}

pub fn not_flight_sql(what: &str) -> Error {
    Error::invalid(format!("{what} is not a message of Flight SQL"))
}
