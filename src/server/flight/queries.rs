//! Commands: their flight info, their schema, their rows, and what is put for them. Everything
//! that would change data or hold a transaction is refused, in the words of every other path.

use std::pin::Pin;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{Any, Command, CommandStatementQuery, DoPutPreparedStatementResult};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, PutResult, SchemaResult,
    Ticket,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::columns::{ipc_schema, result_schema};
use super::encode::messages_of;
use super::polls::sealed_in;
use super::state::{Server, command_in, message_in, not_flight_sql, unpack};
use crate::access::Principal;
use crate::engine::query::refusal;
use crate::error::Error;

impl Server {
    /// Plans what the descriptor asks for and keeps the result, whose rows wait behind tickets.
    pub async fn info(
        &self,
        caller: &Arc<Principal>,
        metadata: &MetadataMap,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo, Status> {
        let command = command_in(message_in(&descriptor)?, "the descriptor")?;
        let statement = match &command {
            Command::CommandStatementQuery(query) => self.planned(caller, metadata, query).await?,
            Command::CommandPreparedStatementQuery(query) => {
                let handle = &query.prepared_statement_handle;
                self.prepared.execution(caller, handle, self.now()).await?
            }
            Command::CommandStatementSubstraitPlan(_) => return Err(unsupported()),
            _ => {
                let schema = self.catalog.schema_of(&command);
                let schema = schema.ok_or_else(|| not_flight_sql("the descriptor"))?;
                return listing(descriptor, &schema, command);
            }
        };
        Ok(self.results.keep(statement, descriptor).await?)
    }

    /// Of the rows that [`Self::info`] would tell of; nothing is kept.
    pub async fn schema(
        &self,
        caller: &Arc<Principal>,
        metadata: &MetadataMap,
        descriptor: &FlightDescriptor,
    ) -> Result<SchemaResult, Status> {
        let schema = match command_in(message_in(descriptor)?, "the descriptor")? {
            Command::CommandStatementQuery(query) => {
                result_schema(self.planned(caller, metadata, &query).await?.schema())
            }
            Command::CommandPreparedStatementQuery(query) => {
                let handle = &query.prepared_statement_handle;
                let statement = self.prepared.execution(caller, handle, self.now()).await?;
                result_schema(statement.schema())
            }
            Command::CommandStatementSubstraitPlan(_) => return Err(unsupported()),
            command => {
                let schema = self.catalog.schema_of(&command);
                schema.ok_or_else(|| not_flight_sql("the descriptor"))?
            }
        };
        Ok(SchemaResult { schema: ipc_schema(&schema)? })
    }

    /// Begins to plan, or tells how far it is if the descriptor came from an earlier answer.
    pub async fn poll(
        &self,
        caller: Arc<Principal>,
        metadata: MetadataMap,
        descriptor: FlightDescriptor,
    ) -> Result<PollInfo, Status> {
        if let Some(sealed) = sealed_in(&message_in(&descriptor)?) {
            return self.polls.again(&caller, sealed, self.now()).await;
        }
        let (server, asker) = (self.clone(), Arc::clone(&caller));
        let planning = async move { server.info(&asker, &metadata, descriptor).await };
        self.polls.start(&caller, planning, self.now()).await
    }

    async fn planned(
        &self,
        caller: &Arc<Principal>,
        metadata: &MetadataMap,
        query: &CommandStatementQuery,
    ) -> Result<crate::statements::Statement, Status> {
        if query.transaction_id.as_ref().is_some_and(|id| !id.is_empty()) {
            return Err(unsupported());
        }
        let terms = self.terms(caller, metadata)?;
        Ok(self.statements.plan(caller, &query.query, &terms).await?)
    }

    /// What a ticket opens: a part of a kept result, or a listing made now.
    pub async fn rows(
        &self,
        caller: &Arc<Principal>,
        ticket: &Ticket,
    ) -> Result<BoxStream<'static, Result<FlightData, Status>>, Status> {
        let message = unpack(&ticket.ticket, "the ticket")?;
        match command_in(message, "the ticket")? {
            Command::TicketStatementQuery(ticket) => {
                Ok(self.results.stream(caller, &ticket).await?)
            }
            Command::CommandPreparedStatementQuery(_) => {
                Err(Error::invalid("a prepared statement is not read by its handle")
                    .hint("get its flight info, and read the endpoints in it")
                    .into())
            }
            command => {
                let rows = self.catalog.rows_of(caller, command).await?;
                let rows = rows.ok_or_else(|| not_flight_sql("the ticket"))?;
                Ok(messages_of(rows).boxed())
            }
        }
    }

    /// Binds parameters to a prepared statement. What would change data fails, but only after its
    /// SQL is planned: mistakes are told first.
    pub async fn put<S>(
        &self,
        caller: &Arc<Principal>,
        metadata: &MetadataMap,
        messages: S,
    ) -> Result<PutResult, Status>
    where
        S: Stream<Item = Result<FlightData, Status>> + Send + Unpin + 'static,
    {
        let mut messages = messages.peekable();
        let first = Pin::new(&mut messages).peek().await;
        let first = first.ok_or_else(|| Error::invalid("nothing was put"))?.as_ref();
        let descriptor = first.map_err(Clone::clone)?.flight_descriptor.as_ref();
        let descriptor =
            descriptor.ok_or_else(|| Error::invalid("the first message has no descriptor"))?;
        match command_in(message_in(descriptor)?, "the descriptor")? {
            Command::CommandPreparedStatementQuery(query) => {
                let handle = query.prepared_statement_handle;
                self.prepared.bind(caller, &handle, messages, self.now()).await?;
                let result =
                    DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) };
                Ok(PutResult { app_metadata: result.encode_to_vec().into() })
            }
            Command::CommandStatementUpdate(update) => {
                let terms = self.terms(caller, metadata)?;
                self.statements.plan(caller, &update.query, &terms).await?;
                Err(not_an_update())
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let handle = &update.prepared_statement_handle;
                self.prepared.check(caller, handle, self.now())?;
                Err(not_an_update())
            }
            Command::CommandStatementIngest(_) => Err(refusal().into()),
            Command::CommandStatementSubstraitPlan(_) => Err(unsupported()),
            _ => Err(Error::invalid("the command takes nothing that is put").into()),
        }
    }
}

/// Read with the command itself for a ticket: it holds nothing that its caller could not ask.
fn listing(
    descriptor: FlightDescriptor,
    schema: &SchemaRef,
    command: Command,
) -> Result<FlightInfo, Status> {
    let command: Any = command.into_any();
    let ticket = Ticket::new(command.encode_to_vec());
    let mut info = FlightInfo::new()
        .with_descriptor(descriptor)
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket));
    info.schema = ipc_schema(schema)?;
    Ok(info)
}

fn not_an_update() -> Status {
    Error::invalid("the statement is a query, and changes nothing")
        .hint("execute it as a query, not as an update")
        .into()
}

/// What the protocol has and this server does not: drivers take the code as "not supported".
pub fn unsupported() -> Status {
    let refused = Status::from(refusal());
    Status::unimplemented(refused.message())
}
