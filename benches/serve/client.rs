//! One client of every server that is measured: what it fetches, and how long it waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, FlightInfo, Ticket};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::transport::{Channel, Endpoint};

pub type Client = FlightServiceClient<Channel>;

/// Of every message of gRPC, before its bytes.
const PREFIX_BYTES: u64 = 5;

/// What one statement gave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetched {
    pub rows: u64,
    /// Values, offsets and bits of the rows as Arrow has them in memory.
    pub data_bytes: u64,
    /// The messages of gRPC that brought them, without the 9 bytes of each frame of HTTP/2.
    pub wire_bytes: u64,
    pub seconds: f64,
}

pub async fn connect(address: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    FlightServiceClient::new(endpoint.connect().await.expect("the server listens"))
}

pub fn statement(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

/// Plans and reads everything, all endpoints side by side as ADBC's driver does.
pub async fn fetch(client: &Client, sql: &str) -> Fetched {
    let start = Instant::now();
    let info = client.clone().get_flight_info(statement(sql)).await.expect("a plan").into_inner();
    let mut fetched = read_all(client, info).await;
    fetched.seconds = start.elapsed().as_secs_f64();
    fetched
}

pub async fn read_all(client: &Client, info: FlightInfo) -> Fetched {
    let mut tickets = info.endpoint.into_iter().map(|endpoint| endpoint.ticket.expect("a ticket"));
    let first = tickets.next().expect("an endpoint");
    let others: Vec<_> = tickets.map(|ticket| tokio::spawn(read(client.clone(), ticket))).collect();
    let mut all = read(client.clone(), first).await;
    for other in others {
        let part = other.await.expect("a reader ends");
        all.rows += part.rows;
        all.data_bytes += part.data_bytes;
        all.wire_bytes += part.wire_bytes;
    }
    all
}

async fn read(mut client: Client, ticket: Ticket) -> Fetched {
    let messages = client.do_get(ticket).await.expect("a stream").into_inner();
    let mut fetched = Fetched::default();
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let messages = messages.map_err(FlightError::from).inspect_ok(move |message| {
        counter.fetch_add(message.encoded_len() as u64 + PREFIX_BYTES, Ordering::Relaxed);
    });
    let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
    while let Some(batch) = batches.next().await {
        let batch = batch.expect("a whole result");
        fetched.rows += batch.num_rows() as u64;
        fetched.data_bytes += data_bytes(&batch);
    }
    fetched.wire_bytes = received.load(Ordering::Relaxed);
    fetched
}

fn data_bytes(batch: &RecordBatch) -> u64 {
    let size = |column: &ArrayRef| column.to_data().get_slice_memory_size().expect("a size");
    batch.columns().iter().map(|column| size(column) as u64).sum()
}
