//! Reads `bronze.dead_letters`: groups of letters, and single ones. Changes nothing.

use datafusion::logical_expr::Expr;
use datafusion::prelude::{DataFrame, col, lit};
use futures::StreamExt;

use crate::engine::Engine;
use crate::engine::fault::engine_error;
use crate::error::Result;
use crate::ingest::letters::{Letters, all_columns};
use crate::interval::Instant;
use crate::kafka::HeaderList;
use crate::lake::Lake;
use crate::model::dead_letters;
use crate::table::TableName;

pub(super) const DOING: &str = "cannot read `bronze.dead_letters`";

/// Which letters are meant; `None` lets all through.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub table: Option<TableName>,
    pub topic: Option<String>,
    pub reason: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
}

impl Filter {
    /// Values are bound as literals, never pasted as text.
    pub(super) fn condition(&self) -> Option<Expr> {
        let table = self.table.as_ref().map(|table| col("pipeline").eq(lit(table.to_string())));
        let topic = self.topic.as_ref().map(|topic| col("_topic").eq(lit(topic)));
        let reason = self.reason.as_ref().map(|reason| col("reason").eq(lit(reason)));
        let partition = self.partition.map(|partition| col("_partition").eq(lit(partition)));
        let offset = self.offset.map(|offset| col("_offset").eq(lit(offset)));
        [table, topic, reason, partition, offset].into_iter().flatten().reduce(Expr::and)
    }
}

/// Where and when one message was; ordered by time first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub timestamp: Option<Instant>,
    pub partition: i32,
    pub offset: i64,
}

/// Letters of one table and topic that were refused for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub table: String,
    pub topic: String,
    pub reason: String,
    pub count: u64,
    pub first: Place,
    pub last: Place,
    /// The error of the last one.
    pub error: String,
}

/// Groups in the order of table, topic and reason. Memory grows with their number alone.
pub async fn list(lake: &Lake, engine: &Engine, filter: &Filter) -> Result<Vec<Group>> {
    let columns = ["pipeline", "_topic", "reason", "error", "_timestamp", "_partition", "_offset"];
    let mut groups: Vec<Group> = Vec::new();
    let Some(frame) = frame(lake, engine, filter).await? else { return Ok(groups) };
    let failed = |error| engine_error(DOING, error);
    let frame = frame.select_columns(&columns).map_err(failed)?;
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    while let Some(batch) = rows.next().await {
        let letters = Letters::new(&batch.map_err(failed)?, &columns)?;
        (0..letters.rows()).for_each(|row| count(&mut groups, &letters, row));
    }
    groups.sort_by(|a, b| (&a.table, &a.topic, &a.reason).cmp(&(&b.table, &b.topic, &b.reason)));
    Ok(groups)
}

fn count(groups: &mut Vec<Group>, letters: &Letters, row: usize) {
    let text = |name| letters.text(name, row);
    let (table, topic, reason) = (text("pipeline"), text("_topic"), text("reason"));
    let place = place(letters, row);
    let is_same = |g: &&mut Group| g.table == table && g.topic == topic && g.reason == reason;
    match groups.iter_mut().find(is_same) {
        Some(group) => {
            group.count += 1;
            group.first = group.first.min(place);
            if group.last < place {
                group.last = place;
                text("error").clone_into(&mut group.error);
            }
        }
        None => groups.push(Group {
            table: table.to_owned(),
            topic: topic.to_owned(),
            reason: reason.to_owned(),
            count: 1,
            first: place,
            last: place,
            error: text("error").to_owned(),
        }),
    }
}

/// One message as it came, and why it is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub table: String,
    pub topic: String,
    pub place: Place,
    pub reason: String,
    pub error: String,
    pub key: Option<Vec<u8>>,
    pub headers: HeaderList,
    pub payload: Option<Vec<u8>>,
    pub ingested_at: Instant,
}

/// The first `limit` letters in the order of topic, partition and offset.
pub async fn show(
    lake: &Lake,
    engine: &Engine,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Letter>> {
    let Some(frame) = frame(lake, engine, filter).await? else { return Ok(Vec::new()) };
    let failed = |error| engine_error(DOING, error);
    let order = ["_topic", "_partition", "_offset"].map(|name| col(name).sort(true, false));
    let batches = frame
        .select_columns(&all_columns())
        .and_then(|frame| frame.sort(order.to_vec()))
        .and_then(|frame| frame.limit(0, Some(limit)))
        .map_err(failed)?
        .collect()
        .await
        .map_err(failed)?;
    let mut found = Vec::new();
    for batch in batches {
        let letters = Letters::new(&batch, &all_columns())?;
        found.extend((0..letters.rows()).map(|row| letter(&letters, row)));
    }
    Ok(found)
}

/// The filtered table, or `None` before the first ingestion.
async fn frame(lake: &Lake, engine: &Engine, filter: &Filter) -> Result<Option<DataFrame>> {
    let Some(table) = lake.snapshot(&dead_letters()).await? else { return Ok(None) };
    let failed = |error| engine_error(DOING, error);
    let frame = engine.session().read_table(table.provider().await?).map_err(failed)?;
    let frame = match filter.condition() {
        Some(condition) => frame.filter(condition).map_err(failed)?,
        None => frame,
    };
    Ok(Some(frame))
}

fn place(letters: &Letters, row: usize) -> Place {
    Place {
        timestamp: letters.timestamp(row),
        partition: letters.partition(row),
        offset: letters.offset(row),
    }
}

fn letter(letters: &Letters, row: usize) -> Letter {
    Letter {
        table: letters.text("pipeline", row).to_owned(),
        topic: letters.text("_topic", row).to_owned(),
        place: place(letters, row),
        reason: letters.text("reason", row).to_owned(),
        error: letters.text("error", row).to_owned(),
        key: letters.bytes("_key", row).map(<[u8]>::to_vec),
        headers: letters.headers(row),
        payload: letters.bytes("payload", row).map(<[u8]>::to_vec),
        ingested_at: letters.ingested_at(row),
    }
}
