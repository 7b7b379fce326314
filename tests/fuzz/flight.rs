//! Flight's calls with whatever bytes: descriptors, tickets, actions and parameters. None fails
//! inside, and no ticket opens anything but one that was given out, byte for byte.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, Any, Command, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetSqlInfo,
    CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandStatementQuery, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, FlightDescriptor, FlightEndpoint, FlightInfo,
    RenewFlightEndpointRequest, Ticket,
};
use flowguard::access::Access;
use flowguard::clock::Clock;
use flowguard::engine::{Engine, EngineOptions};
use flowguard::interval::Instant;
use flowguard::lake::Lake;
use flowguard::lake::store::S3Access;
use flowguard::model::{CurrentModels, ModelSet};
use flowguard::server::flight;
use flowguard::server::flight::messages::{OptionValue, SessionOption, SessionOptions};
use flowguard::statements::log::StatementLog;
use flowguard::statements::{AdmissionLimits, StatementLimits, Statements, StatementsSetup};
use futures::StreamExt;
use prost::Message;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Code, Request, Status};
use url::Url;

use super::{Judge, edited};

/// The one statement that is planned here: others are the planner's business.
const SQL: &str = "SELECT 1";
const ACTIONS: [&str; 9] = [
    "CreatePreparedStatement",
    "ClosePreparedStatement",
    "CancelQuery",
    "CancelFlightInfo",
    "RenewFlightEndpoint",
    "SetSessionOptions",
    "GetSessionOptions",
    "CloseSession",
    "BeginTransaction",
];

/// The clock moves on by a second with each input, so that what is kept expires.
const FIRST: Instant = Instant(1_767_571_200_000_000);

struct House<S> {
    _lake: TempDir,
    runtime: Runtime,
    calls: S,
    /// Handles of all tickets that were given out.
    given_out: Mutex<HashSet<Vec<u8>>>,
}

fn statements(lake: &TempDir, runtime: &Runtime, clock: Clock) -> Statements {
    let root = Url::from_directory_path(lake.path()).unwrap();
    let project = TempDir::new().unwrap();
    std::fs::create_dir(project.path().join("sql")).unwrap();
    let options = EngineOptions { memory_bytes_max: 256 << 20, spill_dir: None, threads: 2 };
    Statements::new(StatementsSetup {
        lake: Lake::open(&root, &S3Access::default()).unwrap(),
        engine: Engine::new(&options).unwrap(),
        models: CurrentModels::new(Arc::new(ModelSet::read(project.path()).unwrap())),
        limits: StatementLimits {
            admission: AdmissionLimits {
                running_max: 8,
                running_per_user_max: 8,
                waiting_max: 64,
                wait_max: Duration::from_secs(1),
            },
            memory_bytes_max: 64 << 20,
            spill_bytes_max: 1 << 20,
            rows_max: 1_000,
            run_max: Duration::from_secs(1),
            unread_max: Duration::from_secs(120),
        },
        log: StatementLog::none(),
        executor: runtime.handle().clone(),
        clock,
    })
}

/// Another statement than [`SQL`] is passed over.
fn is_other_sql(command: &[u8]) -> bool {
    let command = Any::decode(command).ok().and_then(|any| Command::try_from(any).ok());
    let sql = match &command {
        Some(Command::CommandStatementQuery(query)) => &query.query,
        Some(Command::CommandStatementUpdate(update)) => &update.query,
        Some(Command::ActionCreatePreparedStatementRequest(request)) => &request.query,
        _ => return false,
    };
    sql != SQL
}

fn handle_in(ticket: &[u8]) -> Option<Vec<u8>> {
    match Command::try_from(Any::decode(ticket).ok()?) {
        Ok(Command::TicketStatementQuery(ticket)) => Some(ticket.statement_handle.to_vec()),
        _ => None,
    }
}

fn command(command: &impl ProstMessageExt) -> Vec<u8> {
    command.as_any().encode_to_vec()
}

/// What a client may have done wrong is not the server's failure.
fn check(outcome: Result<(), Status>) {
    if let Err(status) = outcome {
        assert!(!matches!(status.code(), Code::Internal | Code::Unknown), "{status:?}");
    }
}

impl<S: FlightService> House<S> {
    /// The ticket of a statement that was just planned.
    async fn ticket(&self) -> Vec<u8> {
        let query = CommandStatementQuery { query: SQL.to_owned(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command(&query));
        let info = self.calls.get_flight_info(Request::new(descriptor)).await.unwrap();
        let ticket = info.into_inner().endpoint.remove(0).ticket.unwrap().ticket.to_vec();
        self.given_out.lock().unwrap().insert(handle_in(&ticket).unwrap());
        ticket
    }

    async fn get(&self, ticket: Vec<u8>) {
        let handle = handle_in(&ticket);
        let outcome = self.calls.do_get(Request::new(Ticket::new(ticket))).await;
        if let (Some(handle), Ok(_)) = (handle, &outcome) {
            assert!(self.given_out.lock().unwrap().contains(&handle), "a strange ticket is taken");
        }
        match outcome {
            Ok(messages) => {
                let mut messages = messages.into_inner().take(4).boxed();
                while let Some(message) = messages.next().await {
                    check(message.map(drop));
                }
            }
            Err(status) => check(Err(status)),
        }
    }

    async fn act(&self, action: Action) {
        let outcome = self.calls.do_action(Request::new(action)).await;
        match outcome {
            Ok(results) => {
                results
                    .into_inner()
                    .for_each(|result| async {
                        check(result.map(drop));
                    })
                    .await
            }
            Err(status) => check(Err(status)),
        }
    }

    async fn judge(&self, kind: u8, rest: &[u8]) {
        match kind % 7 {
            kind @ 0..=2 => {
                let Ok(descriptor) = FlightDescriptor::decode(rest) else { return };
                if is_other_sql(&descriptor.cmd) {
                    return;
                }
                let request = Request::new(descriptor);
                check(match kind {
                    0 => self.calls.get_flight_info(request).await.map(drop),
                    1 => self.calls.get_schema(request).await.map(drop),
                    _ => self.calls.poll_flight_info(request).await.map(drop),
                });
            }
            3 => self.get(rest.to_vec()).await,
            4 => {
                let Some((name, body)) = rest.split_first() else { return };
                if !is_other_sql(body) {
                    let name = ACTIONS[usize::from(*name) % ACTIONS.len()];
                    self.act(Action::new(name, body.to_vec())).await;
                }
            }
            5 => self.get(edited(&self.ticket().await, rest)).await,
            // The handle alone, so that no change is lost on the message around it.
            _ => {
                let handle = handle_in(&self.ticket().await).unwrap();
                let statement_handle = edited(&handle, rest).into();
                self.get(command(&TicketStatementQuery { statement_handle })).await;
            }
        }
    }
}

/// The first byte chooses the call, the rest is its message or what becomes of a good one.
pub fn judge() -> Judge {
    let lake = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::at(FIRST);
    let statements = statements(&lake, &runtime, clock.clone());
    let calls = flight::calls(statements, Access::open(), clock.clone()).unwrap();
    let house = House { _lake: lake, runtime, calls, given_out: Mutex::default() };
    Box::new(move |bytes| {
        let Some((kind, rest)) = bytes.split_first() else { return };
        clock.set(Instant(clock.micros() + 1_000_000));
        house.runtime.block_on(house.judge(*kind, rest));
        house.given_out.lock().unwrap().clear();
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let statement = CommandStatementQuery { query: SQL.to_owned(), transaction_id: None };
    let handle = CommandPreparedStatementQuery { prepared_statement_handle: "handle".into() };
    let tables = CommandGetTables {
        catalog: Some("lake".to_owned()),
        db_schema_filter_pattern: Some("g%".to_owned()),
        table_name_filter_pattern: Some("_aily%".to_owned()),
        table_types: vec!["TABLE".to_owned()],
        include_schema: true,
    };
    let schemas = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: Some("%".into()) };
    let keys = CommandGetPrimaryKeys { table: "a".to_owned(), ..Default::default() };
    let commands = [
        command(&statement),
        command(&handle),
        command(&tables),
        command(&schemas),
        command(&keys),
        command(&CommandGetCatalogs {}),
        command(&CommandGetTableTypes {}),
        command(&CommandGetSqlInfo { info: vec![1, 517] }),
        command(&CommandGetXdbcTypeInfo { data_type: Some(12) }),
        command(&CommandGetCrossReference::default()),
    ];
    let mut seeds = vec![vec![5], vec![5, 0, 60, 1], vec![6], vec![6, 1, 40, 0], vec![6, 2, 9, 9]];
    for command in commands {
        let descriptor = FlightDescriptor::new_cmd(command.clone()).encode_to_vec();
        seeds.extend((0..3).map(|kind| [vec![kind], descriptor.clone()].concat()));
        seeds.push([vec![3], command].concat());
    }
    let prepare = ActionCreatePreparedStatementRequest { query: SQL.into(), transaction_id: None };
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(command(&handle)));
    let info = FlightInfo::new().with_endpoint(endpoint.clone());
    let options = ["schema", "timezone", "start", "rows_max"].map(|name| {
        let value = OptionValue::String("2026-01-01".to_owned());
        (name.to_owned(), SessionOption { value: Some(value) })
    });
    let session_options = options.into_iter().collect();
    let bodies = [
        (0, command(&prepare)),
        (3, CancelFlightInfoRequest { info: Some(info) }.encode_to_vec()),
        (4, RenewFlightEndpointRequest { endpoint: Some(endpoint) }.encode_to_vec()),
        (5, SessionOptions { session_options }.encode_to_vec()),
        (6, Vec::new()),
        (7, Vec::new()),
        (8, Vec::new()),
    ];
    seeds.extend(bodies.map(|(name, body)| [vec![4, name], body].concat()));
    seeds
}
