//! Planned statements that wait for their clients: a ticket for each part, streamed by itself, in
//! any order and more than once, until the result expires. What a ticket opens is looked up here;
//! who may open it is asked each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{
    CancelFlightInfoResult, CancelStatus, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    Ticket,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tonic::Status;
use uuid::Uuid;

use super::columns::{ipc_schema, result_schema};
use super::encode::messages;
use super::handles::{Handle, Purpose, Store, StoreLimits, Weight};
use crate::access::{Access, Principal};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::statements::{Statement, Statements};

const MICROS_PER_SECOND: i64 = 1_000_000;
/// What is held pins versions of tables in memory.
const LIMITS: StoreLimits = StoreLimits {
    count_max: 1_024,
    count_per_user_max: 512,
    bytes_max: 256 << 20,
    bytes_per_user_max: 64 << 20,
    // How long a ticket is good for, unless it is renewed.
    life_micros: 10 * 60 * MICROS_PER_SECOND,
    age_micros_max: 60 * 60 * MICROS_PER_SECOND,
    gives_way_micros: 30 * MICROS_PER_SECOND,
};

/// Results that wait for their users, until they expire. Cheap to clone.
#[derive(Clone)]
pub struct Results {
    access: Access,
    statements: Statements,
    store: Arc<Store<Planned>>,
    clock: Clock,
}

#[derive(Clone)]
struct Planned {
    statement: Statement,
    schema: SchemaRef,
    /// Which parts were read, if only as far as their reader wanted.
    read: Arc<[AtomicBool]>,
}

/// One reading of a part.
struct Reading {
    store: Arc<Store<Planned>>,
    id: Uuid,
    part: usize,
    read: Arc<[AtomicBool]>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.read[self.part].store(true, Ordering::Relaxed);
        if self.read.iter().all(|part| part.load(Ordering::Relaxed)) {
            self.store.set_done(self.id);
        }
    }
}

impl Results {
    pub fn new(access: Access, statements: Statements, clock: Clock) -> Self {
        let store = Arc::new(Store::new(Purpose::Result, LIMITS));
        Self { access, statements, store, clock }
    }

    /// Keeps `statement` and tells its caller how to read it.
    pub async fn keep(
        &self,
        statement: Statement,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo> {
        let parts = statement.parts().await?;
        let schema = result_schema(statement.schema());
        let mut info = FlightInfo::new().with_descriptor(descriptor);
        info.schema = ipc_schema(&schema)?;
        let user = statement.principal().user.clone();
        let weight = Weight { bytes: statement.held_bytes(), shared: statement.pinned() };
        let read = (0..parts).map(|_| AtomicBool::new(false)).collect();
        let planned = Planned { statement, schema, read };
        let id = self.store.insert(&user, planned, weight, self.clock.micros())?;
        self.measure();
        for part in 0..parts {
            let part = u32::try_from(part).map_err(|_| Error::internal("too many parts"))?;
            info.endpoint.push(self.endpoint(id, part, &user));
        }
        Ok(info)
    }

    /// Without a location, so that clients stay on the connection they have.
    fn endpoint(&self, id: Uuid, part: u32, user: &str) -> FlightEndpoint {
        let expires = self.store.expires(id);
        let sealed = Handle { id, part, expires }.seal(&self.access, Purpose::Result, user);
        let ticket = TicketStatementQuery { statement_handle: sealed.into() };
        let mut endpoint =
            FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
        let expiration = endpoint.expiration_time.get_or_insert_default();
        expiration.seconds = expires.div_euclid(MICROS_PER_SECOND);
        expiration.nanos =
            i32::try_from(expires.rem_euclid(MICROS_PER_SECOND) * 1_000).unwrap_or(0);
        endpoint
    }

    /// Starts streaming the part that the ticket is for.
    pub async fn stream(
        &self,
        caller: &Principal,
        ticket: &TicketStatementQuery,
    ) -> Result<BoxStream<'static, Result<FlightData, Status>>> {
        let (handle, planned) = self.open(caller, ticket)?;
        let part = usize::try_from(handle.part).unwrap_or(usize::MAX);
        let rows = planned.statement.stream(part).await?;
        let (store, read) = (Arc::clone(&self.store), planned.read);
        let reading = Reading { store, id: handle.id, part, read };
        let messages = messages(&planned.schema, rows).map(move |message| {
            // Ends with the stream, whoever ends it.
            let _ = &reading;
            message
        });
        Ok(messages.boxed())
    }

    /// The same part with a ticket that lives from now.
    pub fn renew(
        &self,
        caller: &Principal,
        ticket: &TicketStatementQuery,
    ) -> Result<FlightEndpoint> {
        let (handle, _) = self.open(caller, ticket)?;
        Ok(self.endpoint(handle.id, handle.part, &caller.user))
    }

    /// Ends the statement that the ticket is for, with all its parts.
    pub fn cancel(
        &self,
        caller: &Principal,
        ticket: &TicketStatementQuery,
    ) -> Result<CancelFlightInfoResult> {
        let (handle, planned) = self.open(caller, ticket)?;
        planned.statement.cancel();
        self.store.set_done(handle.id);
        Ok(CancelFlightInfoResult::new(CancelStatus::Cancelled))
    }

    pub fn sweep(&self) {
        self.store.sweep(self.clock.micros());
        self.measure();
    }

    fn measure(&self) {
        let (count, bytes) = self.store.held();
        self.statements.figures().set_held(count, bytes);
    }

    fn open(&self, caller: &Principal, ticket: &TicketStatementQuery) -> Result<(Handle, Planned)> {
        let (user, now) = (&caller.user, self.clock.micros());
        let sealed = &ticket.statement_handle;
        let handle = Handle::unseal(&self.access, Purpose::Result, sealed, user, now)?;
        let planned = self.store.get(handle.id, user, now).map_err(|_| given_up())?;
        if **planned.statement.principal() != *caller {
            let message = "your rights have changed since the statement was planned";
            return Err(Error::new(ErrorKind::Denied, message).hint("run the statement again"));
        }
        Ok((handle, planned))
    }
}

/// The ticket is good, and what it is for is not there.
fn given_up() -> Error {
    let message =
        "the result is not held any more: it was cancelled, or gave way to later ones of yours";
    Error::new(ErrorKind::NotFound, message).hint(format!(
        "run the statement again and read it soon; the results of a user are {} at most, take {} MiB \
         with what they pin, and live {} minutes",
        LIMITS.count_per_user_max,
        LIMITS.bytes_per_user_max >> 20,
        LIMITS.age_micros_max / 60 / MICROS_PER_SECOND
    ))
}
