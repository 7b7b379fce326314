//! Messages as producers send them: each becomes a row or a reject, never both, whatever came
//! before it; a row holds what serde_json reads in the message, and written as JSON again gives the
//! same row.

use std::fmt::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flowguard::demo::events::{Options, history};
use flowguard::ingest::decode::{Decoder, Message, RESCUED_COLUMN, RejectReason, UnknownFields};
use flowguard::table::Column;
use serde_json::Value;

/// Name, type and whether a value is required. The demo's events have fields `price` and
/// `user_id`.
const COLUMNS: [(&str, &str, bool); 11] = [
    ("s", "string", false),
    ("n", "bigint", false),
    ("i", "int", false),
    ("d", "double", false),
    ("b", "boolean", false),
    ("j", "json", false),
    ("price", "decimal(10,2)", false),
    ("t", "timestamp", false),
    ("a", "date", false),
    ("x", "binary", false),
    ("user_id", "string", true),
];
const POLICIES: [UnknownFields; 3] =
    [UnknownFields::Rescue, UnknownFields::Ignore, UnknownFields::Fail];
const MESSAGE_BYTES_MAX: usize = 4_096;
/// Between two messages of one input: it is in no JSON.
const SEPARATOR: u8 = 0xFF;

fn decoder(policy: UnknownFields) -> Decoder {
    let columns = COLUMNS.map(|(name, column_type, not_null)| Column {
        name: name.to_owned(),
        column_type: column_type.parse().unwrap(),
        not_null,
        doc: None,
        was: None,
    });
    Decoder::new("raw.fuzzed.v1", &columns, Some("t"), policy, MESSAGE_BYTES_MAX).unwrap()
}

fn message(payload: &[u8]) -> Message<'_> {
    let payload = Some(payload);
    Message {
        partition: 0,
        offset: 0,
        leader_epoch: None,
        timestamp_ms: None,
        key: None,
        headers: &[],
        payload,
    }
}

/// The first byte chooses the policy, the rest are messages.
pub fn judge(bytes: &[u8]) {
    let Some((policy, bytes)) = bytes.split_first() else { return };
    let policy = POLICIES[usize::from(*policy) % POLICIES.len()];
    let mut all = decoder(policy);
    let mut alone = Vec::new();
    for payload in bytes.split(|byte| *byte == SEPARATOR) {
        let rows = all.rows();
        let outcome = all.push(&message(payload), 0);
        assert_eq!(all.rows(), rows + usize::from(outcome.is_ok()), "a row and a reject");
        let mut own = decoder(policy);
        assert_eq!(own.push(&message(payload), 0), outcome, "it depends on those before");
        match outcome {
            Ok(()) => {
                let row = own.finish().unwrap();
                check_row(&row, payload, policy);
                alone.push(row);
            }
            Err(reject) => check_reject(reject.reason, payload),
        }
    }
    let batch = all.finish().unwrap();
    assert_eq!(batch.num_rows(), alone.len());
    for (at, row) in alone.iter().enumerate() {
        assert_eq!(batch.slice(at, 1), *row, "row {at} depends on those before");
    }
}

/// What serde_json takes for no JSON is malformed, apart from its own limits.
fn check_reject(reason: RejectReason, payload: &[u8]) {
    let Err(error) = serde_json::from_slice::<Value>(payload) else { return };
    let said = error.to_string();
    let is_own = said.starts_with("number out of range") || said.starts_with("recursion limit");
    let before = [RejectReason::Malformed, RejectReason::Empty, RejectReason::Oversized];
    assert!(is_own || before.contains(&reason), "{reason:?}, but serde_json says: {said}");
}

fn check_row(row: &RecordBatch, payload: &[u8], policy: UnknownFields) {
    let text = as_json(row);
    let mut again = decoder(policy);
    let pushed = again.push(&message(text.as_bytes()), 0);
    assert_eq!(pushed, Ok(()), "{text}");
    assert_eq!(again.finish().unwrap(), *row, "{text}");
    let judged = serde_json::from_slice::<Value>(payload);
    let fields = match &judged {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => panic!("a row of {other}"),
        Err(error) => return assert_ne!(error.classify(), serde_json::error::Category::Eof),
    };
    let same = |name: &str, found: Value| {
        let expected = fields.get(name).unwrap_or(&Value::Null);
        let is_minus_zero = expected.as_f64() == Some(0.0) && found.as_f64() == Some(0.0);
        assert!(found == *expected || is_minus_zero, "{name}: {found}, not {expected}");
    };
    let cell = |name: &str| row.column_by_name(name).filter(|column| column.is_valid(0));
    same("s", cell("s").map_or(Value::Null, |s| s.as_string::<i32>().value(0).into()));
    same("n", cell("n").map_or(Value::Null, |n| n.as_primitive::<Int64Type>().value(0).into()));
    same("b", cell("b").map_or(Value::Null, |b| b.as_boolean().value(0).into()));
    let json = |name| cell(name).map(|json| json.as_string::<i32>().value(0));
    same("j", json("j").map_or(Value::Null, |json| serde_json::from_str(json).unwrap()));
    if let Some(rescued) = json(RESCUED_COLUMN) {
        let rescued: Value = serde_json::from_str(rescued).unwrap();
        assert!(rescued.as_object().unwrap().iter().all(|(name, value)| fields[name] == *value));
    }
}

/// A row as a message that means the same.
fn as_json(row: &RecordBatch) -> String {
    let mut text = String::from("{");
    let options = FormatOptions::default();
    for (name, column_type, _) in COLUMNS {
        let column = row.column_by_name(name).unwrap();
        if column.is_null(0) {
            continue;
        }
        let shown = ArrayFormatter::try_new(column, &options).unwrap().value(0).to_string();
        let value = match column_type {
            "bigint" | "int" | "boolean" => shown,
            "double" => format!("{:?}", column.as_primitive::<Float64Type>().value(0)),
            "json" => column.as_string::<i32>().value(0).to_owned(),
            "binary" => format!("{:?}", STANDARD.encode(column.as_binary::<i32>().value(0))),
            _ => Value::from(shown).to_string(),
        };
        write!(text, "{}\"{name}\":{value}", if text.len() > 1 { "," } else { "" }).unwrap();
    }
    if let Some(rescued) = row.column_by_name(RESCUED_COLUMN).filter(|column| column.is_valid(0)) {
        let rescued = rescued.as_string::<i32>().value(0);
        write!(text, ",{}", &rescued[1..rescued.len() - 1]).unwrap();
    }
    text + "}"
}

/// Events of the demo, broken ones among them, and one row of every type.
pub fn seeds() -> Vec<Vec<u8>> {
    let options = Options { days: 1, orders: 20, clicks: 60, ..Options::default() };
    let events: Vec<Vec<u8>> = history(&options).map(|event| event.payload).collect();
    let mut seeds: Vec<Vec<u8>> =
        events.chunks(3).map(|events| [vec![0], events.join(&SEPARATOR)].concat()).collect();
    let every_type = r#"{"s":"\u00e9\n","n":-9223372036854775808,"i":7,"d":1.5e-3,"b":true,
        "j":{"k":[1,null]},"price":"12.30","t":"2026-03-01T09:00:60.123456+01:00",
        "a":"2024-02-29","x":"aGk=","user_id":"u","more":{"a":[]}}"#;
    seeds.extend((0..3).map(|policy| [&[policy], every_type.as_bytes()].concat()));
    seeds
}
