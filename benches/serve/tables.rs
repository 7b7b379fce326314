//! The tables that are asked: clicks as the demo's, but more of them, and many small tables.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use flowguard::lake::Lake;
use flowguard::lake::commit::ensure_table;
use flowguard::lake::ledger::Ledger;
use uuid::Uuid;

use crate::lake::{append, spec};

/// Seven days, as many rows in each.
const WEEK_MICROS: usize = 7 * 86_400 * 1_000_000;

/// `silver.clicks`, with the columns of the demo's `silver.clicks_cleaned`.
pub async fn write_clicks(lake: &Lake, rows: usize) {
    let step = WEEK_MICROS / rows;
    let sql = format!(
        "SELECT event_id, event_type, user_id, session_id, item_id, item_name, category,
           event_timestamp, CAST(event_timestamp AS DATE) AS event_date
         FROM (SELECT
           md5(CAST(value AS VARCHAR)) AS event_id,
           CASE WHEN value % 5 = 0 THEN 'click' ELSE 'impression' END AS event_type,
           concat('user_', value * 7919 % 50000) AS user_id,
           concat('session_', value / 20) AS session_id,
           concat('item_', value * 31 % 500) AS item_id,
           ['Margherita', 'Pad Thai', 'Tagliatelle', 'Bibimbap', 'Falafel'][value * 31 % 5 + 1]
             AS item_name,
           ['Pizza', 'Thai', 'Pasta', 'Korean', 'Wraps'][value * 31 % 5 + 1] AS category,
           arrow_cast(1767571200000000 + value * {step}, 'Timestamp(Microsecond, Some(\"UTC\"))')
             AS event_timestamp
         FROM generate_series(0, {rows} - 1))"
    );
    append(lake, "silver.clicks", Some("event_timestamp"), &sql).await;
}

/// `count` tables without rows.
pub async fn write_tables(lake: &Lake, count: usize) {
    let columns = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    for number in 0..count {
        let spec = spec(&format!("silver.t{number}"), None, &columns);
        let ledger = Ledger::new(spec.name.to_string(), Uuid::nil());
        ensure_table(lake, &spec, &ledger).await.expect("the folder is writable");
    }
}
