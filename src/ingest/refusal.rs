//! Why a topic's log cannot be the one that the lake holds: going on would lose or double messages.
//! Ingestion refuses, the audit says it, and a person decides (`accept`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::mark::{Mark, message_of};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Probe, Received};

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
    known: Known,
    bounds: (i64, i64),
) -> Result<Option<String>> {
    if let Some(why) = self::bounds(known.0, bounds) {
        return Ok(Some(why));
    }
    let Some((mark, range)) = marked(known, bounds) else { return Ok(None) };
    let mut other = None;
    probe
        .read((topic, partition), range, |received| compare(received, mark, known.0, &mut other))?;
    Ok(other.map(changed))
}

/// The same of many partitions of a topic, whose next offset, mark and bounds are given: the first
/// that is refused, and why. Their last messages are read all at once.
pub fn of_logs(
    probe: &Probe,
    topic: &str,
    logs: &BTreeMap<i32, (Known, (i64, i64))>,
) -> Result<Option<(i32, String)>> {
    let out = |(partition, (known, found)): (&i32, &(Known, (i64, i64)))| {
        Some((*partition, bounds(known.0, *found)?))
    };
    if let Some(refused) = logs.iter().find_map(out) {
        return Ok(Some(refused));
    }
    let marks: BTreeMap<i32, (Mark, [i64; 2])> = logs
        .iter()
        .filter_map(|(partition, (known, bounds))| Some((*partition, marked(*known, *bounds)?)))
        .collect();
    let ranges = marks.iter().map(|(partition, (_, range))| (*partition, *range)).collect();
    let mut others = BTreeMap::new();
    let read = probe.read_each(topic, ranges, |received| {
        let (mark, [_, next]) = marks[&received.partition()];
        let mut other = None;
        let flow = compare(received, mark, next, &mut other);
        others.extend(other.map(|offset| (received.partition(), offset)));
        flow
    });
    match read {
        // One of them has dropped its message since; which one, only each by itself can tell.
        Err(error) if error.kind == ErrorKind::DataLoss => {
            for (partition, (known, bounds)) in logs {
                if let Some(why) = of_log(probe, (topic, *partition), *known, *bounds)? {
                    return Ok(Some((*partition, why)));
                }
            }
            Ok(None)
        }
        read => read.map(|()| others.pop_first().map(|(partition, at)| (partition, changed(at)))),
    }
}

/// The next offset in the lake, and the mark beside it.
pub type Known = (i64, Option<i64>);

/// Where the last message before `next` is that the lake holds, unless the log has dropped it.
fn marked((next, mark): Known, (low, _): (i64, i64)) -> Option<(Mark, [i64; 2])> {
    let mark = mark.and_then(|mark| Mark::unpack(mark, next))?;
    let first = mark.offset(next);
    (first >= low).then_some((mark, [first, next]))
}

/// Notes the offset of a message that may not stand before `next`.
fn compare(
    received: &Received<'_>,
    mark: Mark,
    next: i64,
    other: &mut Option<i64>,
) -> ControlFlow<()> {
    let headers = received.headers();
    if mark.allows(next, &message_of(received, &headers)) {
        return ControlFlow::Continue(());
    }
    *other = Some(received.offset());
    ControlFlow::Break(())
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
