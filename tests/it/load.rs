//! Fifty clients of one real `flowguard serve` at once, three of them as bad as clients get: what the
//! others wait for their answers, and what the server keeps of it all.

use std::time::{Duration, Instant};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightData, FlightDescriptor};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::program::{Project, SMALL_DEMO};
use crate::served::{PATIENCE, Served};

const GOOD_CLIENTS: usize = 47;
const ROUNDS: usize = 4;
const ROUND_TIME: Duration = Duration::from_millis(1_500);
const SMALL: &str = "SELECT * FROM gold.daily_metrics";
/// Far more than the server could keep: eight billion rows.
const ENDLESS: &str = "SELECT a.* FROM silver.clicks_cleaned a \
                       CROSS JOIN silver.clicks_cleaned b CROSS JOIN silver.clicks_cleaned c";
/// Of its slowest answers, beside the bad clients and without them.
const TIMES_MAX: f64 = 3.0;
/// What allocators keep, and what streams that nobody reads have made ahead.
const GROWTH_MIB_MAX: f64 = 64.0;

type Client = FlightServiceClient<Channel>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_bad_clients_of_fifty_are_no_burden_to_the_others() {
    let project = Project::of_demo(&SMALL_DEMO);
    let served = Served::start(&project, &["--only=flight,http"]);
    let address = format!("http://{}", served.address("flight"));
    let mut good = Vec::new();
    for _ in 0..GOOD_CLIENTS {
        good.push(connect(&address).await);
    }
    slowest(&good).await;
    let before = served.memory_mib("VmRSS");
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(slowest(&good).await);
        let (mut never_read, slow) = (open(&address).await, open(&address).await);
        let looked = CancellationToken::new();
        let slow = tokio::spawn(read_slowly(slow, looked.clone()));
        let vanishing = vanish(&address);
        beside.push(slowest(&good).await);
        assert!(running(&served) >= 2, "the bad clients' statements have ended");
        looked.cancel();
        // Its stream waited for it, and is whole.
        assert!(never_read.message().await.unwrap().is_some());
        assert!(slow.await.unwrap() >= 1);
        vanishing.join().unwrap();
    }
    let peak = served.memory_mib("VmHWM");
    // A neighbour on this machine makes a round slower, and never faster.
    let (alone, beside) = (alone.iter().min().unwrap(), beside.iter().min().unwrap());
    let times = beside.as_secs_f64() / alone.as_secs_f64();
    println!("p99 {alone:?} alone, {beside:?} beside; {before:.0} MiB, at most {peak:.0}");
    assert!(times <= TIMES_MAX, "{beside:?} beside them is {times:.1} times {alone:?} alone");
    assert!(peak <= before + 2.0 * GROWTH_MIB_MAX, "{peak} MiB after {before} MiB");
    drop(good);
    let deadline = Instant::now() + PATIENCE;
    while running(&served) > 0 || served.memory_mib("VmRSS") > before + GROWTH_MIB_MAX {
        let kept = served.memory_mib("VmRSS");
        assert!(Instant::now() < deadline, "{kept} MiB are kept after {before} MiB");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served.stop(), Some(0));
}

async fn connect(address: &str) -> Client {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    FlightServiceClient::new(endpoint.connect().await.unwrap())
}

/// The stream of a statement of one part.
async fn stream(client: &mut Client, sql: &str) -> Streaming<FlightData> {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let info = client.get_flight_info(descriptor).await.unwrap().into_inner();
    let [endpoint] = info.endpoint.as_slice() else { panic!("{info}") };
    client.do_get(endpoint.ticket.clone().unwrap()).await.unwrap().into_inner()
}

/// Asks by all clients at once for the time of a round; what 99 of 100 answers took at most.
async fn slowest(clients: &[Client]) -> Duration {
    let until = Instant::now() + ROUND_TIME;
    let asking = clients.iter().cloned().map(|mut client| {
        tokio::spawn(async move {
            let mut waits = Vec::new();
            while Instant::now() < until {
                let start = Instant::now();
                let mut messages = stream(&mut client, SMALL).await;
                let mut count = 0;
                while messages.message().await.unwrap().is_some() {
                    count += 1;
                }
                assert_eq!(count, 2, "a schema and a batch");
                waits.push(start.elapsed());
            }
            waits
        })
    });
    let mut waits = Vec::new();
    for client in asking.collect::<Vec<_>>() {
        waits.extend(client.await.unwrap());
    }
    waits.sort();
    waits[(waits.len() - 1) * 99 / 100]
}

/// A stream without an end, on a connection of its own.
async fn open(address: &str) -> Streaming<FlightData> {
    stream(&mut connect(address).await, ENDLESS).await
}

/// A message a second, until `looked` is cancelled; how many came.
async fn read_slowly(mut messages: Streaming<FlightData>, looked: CancellationToken) -> usize {
    let mut count = 0;
    while !looked.is_cancelled() {
        messages.message().await.unwrap().expect("the stream has no end");
        count += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    count
}

/// Reads some of a stream and is gone with its connection.
fn vanish(address: &str) -> std::thread::JoinHandle<()> {
    let address = address.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let read = async {
            let mut messages = open(&address).await;
            for _ in 0..10 {
                messages.message().await.unwrap().expect("the stream has no end");
            }
            std::mem::forget(messages);
        };
        runtime.block_on(read);
        // What is left of the connection is dropped here, without a word to the server.
        runtime.shutdown_background();
    })
}

fn running(served: &Served) -> usize {
    let text = served.get("/metrics").succeeded();
    let sample = text.lines().find_map(|line| line.strip_prefix("flowguard_statements_running "));
    sample.and_then(|count| count.parse().ok()).expect("it is measured")
}
