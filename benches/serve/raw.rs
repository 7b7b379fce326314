//! What arrow-flight does with batches that are in memory already, and nothing else: the server that
//! ours is measured against, in a process of its own as ours is.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::server::FlightSqlService;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt, SqlInfo, TicketStatementQuery};
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// As many as the engine makes at once.
const BATCH_ROWS: usize = 8_192;
const COLUMNS: [&str; 4] = ["a", "b", "c", "d"];

/// A statement whose rows are those that this server has.
pub fn same_rows(rows: usize) -> String {
    let columns = COLUMNS.map(|name| format!("value AS {name}")).join(", ");
    format!("SELECT {columns} FROM generate_series(1, {rows})")
}

#[derive(Clone)]
struct Raw {
    schema: Arc<Schema>,
    batches: Arc<Vec<RecordBatch>>,
}

/// Prints its address and serves until it is killed.
pub async fn serve(rows: usize) {
    let fields = COLUMNS.map(|name| Field::new(name, DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let batch = |start: usize| {
        let values = start as i64 + 1..=rows.min(start + BATCH_ROWS) as i64;
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        RecordBatch::try_new(Arc::clone(&schema), vec![column; COLUMNS.len()]).expect("a batch")
    };
    let batches = Arc::new((0..rows).step_by(BATCH_ROWS).map(batch).collect());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("an address"));
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await;
        let nodelay = accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream));
        Some((nodelay, listener))
    });
    let service = FlightServiceServer::new(Raw { schema, batches });
    let server = tonic::transport::Server::builder().add_service(service);
    server.serve_with_incoming(incoming).await.expect("it serves");
}

#[tonic::async_trait]
impl FlightSqlService for Raw {
    type FlightService = Self;

    async fn get_flight_info_statement(
        &self,
        _query: CommandStatementQuery,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = TicketStatementQuery { statement_handle: Vec::new().into() };
        let ticket = Ticket::new(ticket.as_any().encode_to_vec());
        let endpoint = FlightEndpoint::new().with_ticket(ticket);
        Ok(Response::new(FlightInfo::new().with_endpoint(endpoint)))
    }

    async fn do_get_statement(
        &self,
        _ticket: TicketStatementQuery,
        _request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let (batches, mut at) = (Arc::clone(&self.batches), 0);
        let rows = stream::poll_fn(move |_| {
            at += 1;
            std::task::Poll::Ready(batches.get(at - 1).cloned().map(Ok))
        });
        let encoder = FlightDataEncoderBuilder::new().with_schema(Arc::clone(&self.schema));
        let messages = encoder.build(rows).map_err(Status::from);
        let messages: Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>> =
            messages.boxed();
        Ok(Response::new(messages))
    }

    async fn register_sql_info(&self, _id: i32, _info: &SqlInfo) {}
}
