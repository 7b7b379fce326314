//! The example of `docs/clients.md` in Rust.

use std::error::Error;

use arrow::array::RecordBatch;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use tonic::transport::Endpoint;

/// The last two days of the demo's lake.
pub fn last_days(url: String) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let batches = runtime.block_on(days(url)).expect("the server answers");
    arrow::util::pretty::pretty_format_batches(&batches).expect("batches print").to_string()
}

async fn days(url: String) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    // http://127.0.0.1:31337
    let channel = Endpoint::from_shared(url)?.connect().await?;
    let mut client = FlightSqlServiceClient::new(channel);
    let sql = "SELECT order_date, gmv FROM gold.daily_metrics ORDER BY 1 DESC LIMIT 2";
    let info = client.execute(sql.to_owned(), None).await?;
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.ok_or("an endpoint has no ticket")?;
        let part: Vec<RecordBatch> = client.do_get(ticket).await?.try_collect().await?;
        batches.extend(part);
    }
    Ok(batches)
}
