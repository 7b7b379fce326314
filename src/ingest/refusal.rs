//! Why a topic's log cannot be the one that the lake holds: going on would lose or double messages.
//! Ingestion refuses, the audit says it, and a person decides (`accept`).

use std::ops::ControlFlow;

use super::mark::{Mark, message_of};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::Probe;

/// The broker gave the topic another id than the one that was ingested.
pub fn recreated(known: &str, found: &str) -> String {
    format!("was recreated: its id is {found}, and the lake holds that of {known}")
}

/// The lake's next offset must lie within the log, or messages are lost or other ones are there.
pub fn bounds(next: i64, (low, high): (i64, i64)) -> Option<String> {
    if next > high {
        return Some(format!(
            "ends at offset {high}, but the lake holds it up to {next}: the topic was recreated or \
             lost its tail"
        ));
    }
    (next < low).then(|| {
        format!(
            "begins at offset {low}, but the lake ends at {next}: offsets {next} to {} were deleted \
             before they were ingested",
            low - 1
        )
    })
}

/// The last message that the lake holds is another one in the log, or more follow it.
pub fn changed(offset: i64) -> String {
    format!(
        "has another message at offset {offset} than the one that the lake holds: the topic lost \
         its tail and grew again"
    )
}

/// Looks at a log's bounds, and then at the last message that the lake holds before `next`.
pub fn of_log(
    probe: &Probe,
    (topic, partition): (&str, i32),
    (next, mark): (i64, Option<i64>),
    bounds: (i64, i64),
) -> Result<Option<String>> {
    let why = self::bounds(next, bounds);
    let mark = mark.and_then(|mark| Mark::unpack(mark, next));
    let (None, Some(mark)) = (&why, mark) else { return Ok(why) };
    let first = mark.offset(next);
    let mut other = None;
    if first >= bounds.0 {
        probe.read((topic, partition), [first, next], |received| {
            let headers = received.headers();
            match mark.allows(next, &message_of(received, &headers)) {
                true => ControlFlow::Continue(()),
                false => {
                    other = Some(received.offset());
                    ControlFlow::Break(())
                }
            }
        })?;
    }
    Ok(other.map(changed))
}

/// `partition` is `None` where all of the topic is meant.
pub fn error(topic: &str, partition: impl Into<Option<i32>>, table: &str, why: &str) -> Error {
    let place =
        partition.into().map_or(String::new(), |partition| format!(" partition {partition}"));
    Error::new(ErrorKind::DataLoss, format!("`{topic}`{place} {why}")).hint(format!(
        "restore the log; or `flowguard ingest accept {table}` goes on with the one that is there; \
         or give it a table of its own (a model with another name)"
    ))
}
