//! The checker of exactly once: what the lake holds against what a plain consumer was given, place
//! by place and value by value. It reads messages by itself and trusts no offset that the program
//! keeps. `planted` proves that it finds what it is for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value};

use crate::program::Project;
use crate::traffic::Delivered;

/// Findings listed; the counts cover all of them.
const FINDINGS_MAX: usize = 20;

/// The columns of a reference bronze table and how a message gives them.
struct Bronze {
    table: &'static str,
    columns: &'static [(&'static str, Reading)],
}

#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Required,
    Optional,
    /// Whole cents.
    Price,
    Time,
}

use Reading::{Optional, Price, Required, Time};

const TABLES: [Bronze; 2] = [
    Bronze {
        table: "bronze.orders_raw",
        columns: &[
            ("order_id", Required),
            ("user_id", Required),
            ("session_id", Optional),
            ("item_id", Optional),
            ("item_name", Optional),
            ("category", Optional),
            ("price", Price),
            ("status", Optional),
            ("event_timestamp", Time),
        ],
    },
    Bronze {
        table: "bronze.clicks_raw",
        columns: &[
            ("event_id", Required),
            ("event_type", Required),
            ("user_id", Required),
            ("session_id", Optional),
            ("item_id", Required),
            ("item_name", Optional),
            ("category", Optional),
            ("event_timestamp", Time),
        ],
    },
];

/// Where a message came to rest, and what of it.
#[derive(Debug, Clone, PartialEq)]
enum Rest {
    Row(Vec<String>),
    /// The raw bytes in hexadecimal digits.
    DeadLetter(Option<String>),
}

/// What the checker found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub rows: usize,
    pub dead_letters: usize,
    pub missing: usize,
    pub doubled: usize,
    /// In the lake and never delivered.
    pub strange: usize,
    /// In the lake with other values than were delivered, or in the wrong table.
    pub changed: usize,
    /// The first findings in words.
    pub findings: Vec<String>,
}

impl Verdict {
    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    pub fn is_clean(&self) -> bool {
        self.missing + self.doubled + self.strange + self.changed == 0
    }
}

/// Compares both reference bronze tables and the dead letters with `delivered`. Payloads of more
/// than `message_bytes_max` are expected in the dead letters.
pub fn check(project: &Project, delivered: &Delivered, message_bytes_max: usize) -> Verdict {
    let mut verdict = Verdict::default();
    let mut found = BTreeMap::<(String, i32, i64), (usize, Rest)>::new();
    for bronze in &TABLES {
        let names: Vec<&str> = bronze.columns.iter().map(|(name, _)| *name).collect();
        let (names, table) = (names.join(", "), bronze.table);
        let rows = format!("SELECT _topic, _partition, _offset, {names} FROM {table}");
        for row in project.query(&rows) {
            verdict.rows += 1;
            let values = row[3..].iter().zip(bronze.columns).map(|(value, (_, reading))| {
                if *reading == Time { instant(value).unwrap_or_default() } else { value.clone() }
            });
            take(place(&row), &Rest::Row(values.collect()), &mut found, &mut verdict);
        }
    }
    let dead = "SELECT _topic, _partition, _offset, payload IS NULL AS absent, encode(payload, 'hex') AS payload \
                FROM bronze.dead_letters";
    for row in project.query(dead) {
        verdict.dead_letters += 1;
        let payload = (row[3] == "false").then(|| row[4].clone());
        take(place(&row), &Rest::DeadLetter(payload), &mut found, &mut verdict);
    }
    for (place, payload) in delivered {
        let expected = rest(&place.0, payload.as_deref(), message_bytes_max);
        match found.remove(place) {
            None => {
                verdict.missing += 1;
                verdict.find(format!("{place:?} is not in the lake"));
            }
            Some((_, rest)) if rest != expected => {
                verdict.changed += 1;
                verdict.find(format!("{place:?} is {rest:?} in the lake, expected {expected:?}"));
            }
            Some(_) => {}
        }
    }
    verdict.strange += found.len();
    for place in found.into_keys() {
        verdict.find(format!("{place:?} is in the lake and was never delivered"));
    }
    verdict
}

type Place = (String, i32, i64);

fn place(row: &[String]) -> Place {
    (row[0].clone(), row[1].parse().expect("a partition"), row[2].parse().expect("an offset"))
}

fn take(
    place: Place,
    rest: &Rest,
    found: &mut BTreeMap<Place, (usize, Rest)>,
    verdict: &mut Verdict,
) {
    match found.entry(place) {
        Entry::Vacant(entry) => drop(entry.insert((1, rest.clone()))),
        Entry::Occupied(mut entry) => {
            entry.get_mut().0 += 1;
            verdict.doubled += 1;
            let (place, times) = (entry.key().clone(), entry.get().0);
            verdict.find(format!("{place:?} is in the lake {times} times"));
        }
    }
}

/// Where a message belongs. Topics of a run end with the name of the reference topic.
fn rest(topic: &str, payload: Option<&[u8]>, message_bytes_max: usize) -> Rest {
    let bronze = &TABLES[usize::from(topic.ends_with("clicks.v1"))];
    let row = payload
        .filter(|payload| payload.len() <= message_bytes_max)
        .and_then(|payload| serde_json::from_slice::<Map<String, Value>>(payload).ok())
        .and_then(|message| {
            bronze.columns.iter().map(|(name, reading)| value(&message, name, *reading)).collect()
        });
    match row {
        Some(row) => Rest::Row(row),
        None => Rest::DeadLetter(payload.map(hex)),
    }
}

/// The text of a column, or `None` if the message cannot become a row.
fn value(message: &Map<String, Value>, name: &str, reading: Reading) -> Option<String> {
    match (reading, message.get(name)) {
        (Optional | Price, None | Some(Value::Null)) => Some(String::new()),
        (Required | Optional, Some(Value::String(text))) => Some(text.clone()),
        (Price, Some(Value::Number(number))) => Some(format!("{:.2}", number.as_f64()?)),
        (Time, Some(Value::String(text))) => instant(text),
        _ => None,
    }
}

fn instant(text: &str) -> Option<String> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    Some(at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
