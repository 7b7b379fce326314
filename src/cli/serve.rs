//! `flowguard serve`: ingestion, Flight SQL and HTTP in one process.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::{Output, Session, left_out, output};
use crate::app::serve::{Door, Ingestion, Server, Wanted};
use crate::error::Result;

/// Answer SQL over Flight SQL and HTTP, and ingest beside it
///
/// Runs until stopped; SIGTERM and Ctrl-C let open streams end, for up to 5 s, and commit what is
/// buffered. Without users it is open to this machine and to no other. Without Kafka it ingests
/// nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard serve
  flowguard serve --only flight,http --set server.flight_address=127.0.0.1:0
  curl -G http://127.0.0.1:8080/api/v1/query --data-urlencode 'sql=SELECT 1'")]
pub struct Arguments {
    /// Parts to run [default: all, ingestion if Kafka is configured]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    only: Vec<PartName>,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartName {
    Ingest,
    Flight,
    Http,
}

/// Says where it listens once it does, and returns when the stop signal has ended all parts.
pub async fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let app = session.unchecked_app()?;
    let app = Arc::new(app);
    let wanted = wanted(&arguments.only);
    if wanted.ingest == Ingestion::IfConfigured && app.config.kafka.bootstrap_servers.is_none() {
        output::say("nothing is ingested: `kafka.bootstrap_servers` is not set");
    }
    let door = Door::configured(&app.config)?;
    let server = Server::open(Arc::clone(&app), wanted, door).await?;
    left_out::say(&app, &server.models);
    let text = match arguments.output {
        Output::Json => format!("{}\n", described(&server)),
        Output::Text => lines(&server),
    };
    output::write_text(&text)?;
    server.run(&session.process.stop).await
}

fn wanted(only: &[PartName]) -> Wanted {
    let is_wanted = |part| only.is_empty() || only.contains(&part);
    let ingest = match (only.is_empty(), only.contains(&PartName::Ingest)) {
        (true, _) => Ingestion::IfConfigured,
        (false, true) => Ingestion::Yes,
        (false, false) => Ingestion::No,
    };
    Wanted { ingest, flight: is_wanted(PartName::Flight), http: is_wanted(PartName::Http) }
}

/// One line, for programs that wait for it.
fn described(server: &Server) -> serde_json::Value {
    let address = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let ingested: Vec<String> = server.ingested.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "flight": address(server.flight),
        "http": address(server.http),
        "ingest": ingested,
        "tls": server.has_tls,
        "users": server.asks_users,
    })
}

fn lines(server: &Server) -> String {
    let (grpc, http) = if server.has_tls { ("grpc+tls", "https") } else { ("grpc", "http") };
    let flight = server.flight.map(|address| format!("flight  {grpc}://{address}\n"));
    let http = server.http.map(|address| format!("http    {http}://{address}\n"));
    let ingested = server.ingested.iter().map(|table| format!("ingest  {table}\n"));
    flight.into_iter().chain(http).chain(ingested).collect()
}
