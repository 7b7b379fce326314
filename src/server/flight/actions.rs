//! Actions: prepared statements, cancelling, renewing, and sessions. Those of Flight SQL come
//! inside of an `Any`, those of Flight bare.

use std::sync::Arc;

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, Command, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightEndpoint, FlightInfo, RenewFlightEndpointRequest,
};
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::messages::{
    CLOSE_SESSION, CloseSessionResult, CloseStatus, GET_SESSION_OPTIONS, SET_SESSION_OPTIONS,
    SessionOptions, SetSessionOptionsResult,
};
use super::polls::sealed_in;
use super::queries::unsupported;
use super::sessions::SetCookie;
use super::state::{Server, command_in, message_in, not_flight_sql, unpack};
use crate::access::Principal;
use crate::error::{Error, Result};

/// Of an action that there is not.
const NAME_CHARS_SHOWN: usize = 64;
const ACTIONS: [(&str, &str); 8] = [
    ("CreatePreparedStatement", "plans a statement, to be bound and executed later"),
    ("ClosePreparedStatement", "forgets a prepared statement"),
    ("CancelQuery", "ends a statement"),
    ("CancelFlightInfo", "ends a statement"),
    ("RenewFlightEndpoint", "keeps an endpoint for another while"),
    (SET_SESSION_OPTIONS, "sets catalog, schema, start, end, timezone, rows_max, run_ms_max"),
    (GET_SESSION_OPTIONS, "gives the options of the session"),
    (CLOSE_SESSION, "forgets the session"),
];
const UNSUPPORTED: [&str; 5] = [
    "CreatePreparedSubstraitPlan",
    "BeginTransaction",
    "EndTransaction",
    "BeginSavepoint",
    "EndSavepoint",
];

/// What an action gives, and what is to be said about the caller's cookie.
#[derive(Default)]
pub struct Answer {
    /// `None` for actions that give nothing.
    pub body: Option<Vec<u8>>,
    pub cookie: Option<SetCookie>,
}

pub fn action_types() -> impl Iterator<Item = ActionType> + Send {
    ACTIONS.into_iter().map(|(name, description)| ActionType {
        r#type: name.to_owned(),
        description: description.to_owned(),
    })
}

impl Server {
    /// Answers one action; fails on those that [`action_types`] does not list.
    pub async fn act(
        &self,
        caller: &Arc<Principal>,
        metadata: &MetadataMap,
        action: &Action,
    ) -> Result<Answer, Status> {
        let now = self.now();
        let body = match action.r#type.as_str() {
            "CreatePreparedStatement" => {
                let request: ActionCreatePreparedStatementRequest = packed(action)?;
                if request.transaction_id.is_some_and(|id| !id.is_empty()) {
                    return Err(unsupported());
                }
                let terms = self.terms(caller, metadata)?;
                let created = self.prepared.create(caller, &request.query, terms, now).await?;
                created.as_any().encode_to_vec()
            }
            "ClosePreparedStatement" => {
                let request: ActionClosePreparedStatementRequest = packed(action)?;
                self.prepared.close(caller, &request.prepared_statement_handle, now);
                return Ok(Answer::default());
            }
            "CancelQuery" => {
                let request: ActionCancelQueryRequest = packed(action)?;
                let info = FlightInfo::decode(&*request.info).map_err(|_| bad_body(action))?;
                // Both enumerations count alike.
                let result = self.cancel(caller, &info)?.status;
                ActionCancelQueryResult { result }.as_any().encode_to_vec()
            }
            "CancelFlightInfo" => {
                let info = bare::<CancelFlightInfoRequest>(action)?.info;
                self.cancel(caller, &info.ok_or_else(|| bad_body(action))?)?.encode_to_vec()
            }
            "RenewFlightEndpoint" => {
                let endpoint = bare::<RenewFlightEndpointRequest>(action)?.endpoint;
                let ticket = ticket_of(&endpoint.ok_or_else(|| bad_body(action))?)?;
                let ticket = ticket.ok_or_else(|| {
                    Error::invalid("a listing does not expire, and cannot be renewed")
                })?;
                self.results.renew(caller, &ticket)?.encode_to_vec()
            }
            SET_SESSION_OPTIONS => {
                let request: SessionOptions = bare(action)?;
                let (errors, cookie) = self.sessions.set(caller, metadata, &request, now)?;
                let body = SetSessionOptionsResult { errors }.encode_to_vec();
                return Ok(Answer { body: Some(body), cookie });
            }
            GET_SESSION_OPTIONS => self.sessions.get(caller, metadata, now)?.encode_to_vec(),
            CLOSE_SESSION => {
                let cookie = Some(self.sessions.close(caller, metadata, now));
                let status = CloseStatus::Closed as i32;
                let body = CloseSessionResult { status }.encode_to_vec();
                return Ok(Answer { body: Some(body), cookie });
            }
            name if UNSUPPORTED.contains(&name) => return Err(unsupported()),
            name => {
                // It goes back in a header.
                let name: String = name.chars().take(NAME_CHARS_SHOWN).collect();
                return Err(Status::unimplemented(format!("there is no action `{name}`")));
            }
        };
        Ok(Answer { body: Some(body), cookie: None })
    }

    fn cancel(&self, caller: &Principal, info: &FlightInfo) -> Result<CancelFlightInfoResult> {
        let mut status = CancelStatus::NotCancellable;
        for endpoint in &info.endpoint {
            if let Some(ticket) = ticket_of(endpoint)? {
                self.results.cancel(caller, &ticket)?;
                status = CancelStatus::Cancelled;
            }
        }
        if let (true, Some(descriptor)) = (info.endpoint.is_empty(), &info.flight_descriptor)
            && let Some(sealed) = sealed_in(&message_in(descriptor)?)
        {
            self.polls.cancel(caller, sealed, self.now())?;
            status = CancelStatus::Cancelled;
        }
        Ok(CancelFlightInfoResult::new(status))
    }
}

/// The ticket of a result, or `None` for a listing.
fn ticket_of(endpoint: &FlightEndpoint) -> Result<Option<TicketStatementQuery>> {
    let ticket = endpoint.ticket.as_ref().ok_or_else(|| not_flight_sql("the endpoint"))?;
    match command_in(unpack(&ticket.ticket, "the ticket")?, "the ticket")? {
        Command::TicketStatementQuery(ticket) => Ok(Some(ticket)),
        Command::Unknown(_) => Err(not_flight_sql("the ticket")),
        _ => Ok(None),
    }
}

fn packed<M: ProstMessageExt>(action: &Action) -> Result<M> {
    let message = unpack(&action.body, "the body of the action")?;
    message.unpack().ok().flatten().ok_or_else(|| bad_body(action))
}

fn bare<M: Message + Default>(action: &Action) -> Result<M> {
    M::decode(&*action.body).map_err(|_| bad_body(action))
}

fn bad_body(action: &Action) -> Error {
    Error::invalid(format!("the body of `{}` is not what that action takes", action.r#type))
}
