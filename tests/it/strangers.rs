//! Connections that say nothing of who they are keep nobody out: more of them than a port has places, and
//! whoever logs in gets in all the same.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use arrow_flight::sql::client::FlightSqlServiceClient;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::transport::Endpoint;

use crate::flight::ask;
use crate::program::{Project, model};
use crate::served::{PATIENCE, Request, Served};

/// More than a listener has places for.
const STRANGERS: usize = 1_100;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// What a login may take on a busy machine.
const LOGIN_MAX: Duration = Duration::from_secs(10);

fn strangers(address: SocketAddr) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        // The server may have sent it away already.
        let _ = stream.write_all(PREFACE);
        stream
    };
    (0..STRANGERS).map(open).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_strangers_keep_nobody_out() {
    let project = Project::of_models(&[("silver/one", &model("kind: full", "SELECT 1 AS x"))]);
    project.run(&["run"]).succeeded();
    let arguments = ["user", "add", "ana", "--role", "analyst", "--password-stdin"];
    project.run_with_input(&arguments, "sesame of ana").succeeded();
    let served = Served::start(&project, &["--only=flight,http"]);
    let proof = format!("Basic {}", STANDARD.encode("ana:sesame of ana"));

    // Somebody who is known, and goes on later on the same connection.
    let mut known = served.connect();
    let request =
        format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: {proof}\r\n\r\n");
    known.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 12];
    known.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let flight = strangers(served.address("flight"));
    let http = strangers(served.address("http"));
    let began = Instant::now();
    let address = format!("http://{}", served.address("flight"));
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut ana = FlightSqlServiceClient::new(channel);
    ana.handshake("ana", "sesame of ana").await.unwrap();
    assert_eq!(ask(&mut ana, "SELECT x FROM one").await, "+---+\n| x |\n+---+\n| 1 |\n+---+");
    assert_eq!(served.get("/healthz").succeeded(), "ok\n");
    let headers = [("authorization", proof.as_str())];
    let path = "/api/v1/query?sql=SELECT+x+FROM+one";
    let reply = served.ask(&Request { path, headers: &headers, ..Request::default() });
    assert_eq!(reply.succeeded(), "{\"x\":1}\n");
    assert!(began.elapsed() < LOGIN_MAX, "{:?}", began.elapsed());

    // Nor does one who is known, many times over.
    let ask = || {
        let mut connection = served.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        connection.read_exact(&mut status).unwrap();
        (connection, String::from_utf8_lossy(&status[9..]).into_owned())
    };
    let own: Vec<_> = (0..300).map(|_| ask()).collect();
    let refused = own.iter().filter(|(_, status)| status == "429").count();
    assert!((44..50).contains(&refused), "{refused}");
    assert_eq!(served.get("/healthz").succeeded(), "ok\n");
    drop(own);

    let last = request.replace("host:", "connection: close\r\nhost:");
    known.write_all(last.as_bytes()).unwrap();
    let mut rest = String::new();
    known.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.matches("HTTP/1.1 200").count(), 1, "the first answer's rest, and the second");

    // The oldest were sent away at once, and the others have half a minute.
    let mut oldest = flight.into_iter().next().unwrap();
    oldest.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    let _ = oldest.read_to_end(&mut said);
    let open = |metrics: &str| {
        let sample = metrics.lines().find_map(|line| {
            line.strip_prefix("flowguard_connections{server=\"http\"} ")?.parse::<usize>().ok()
        });
        sample.unwrap()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let path = "/metrics";
        let reply = served.ask(&Request { path, headers: &headers, ..Request::default() });
        if open(&reply.succeeded()) < 5 {
            break;
        }
        assert!(Instant::now() < deadline, "strangers stay");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(http);
    assert_eq!(served.stop(), Some(0));
}
