//! What the broker's log has where the lake says what it had.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::recorded::{OffsetSpan, Recorded};
use super::report::PartitionAudit;
use crate::error::Result;
use crate::ingest::mark::{message_hash, message_of};
use crate::kafka::{Probe, waiting};
use crate::lake::ledger::{OffsetRange, Sum};

/// Offsets between two stretches that are read rather than sought over.
const SEEK_MIN: i64 = 2_000;

/// Offsets of a partition that are read without payloads.
const HOLES_READ_MAX: i64 = 200_000;

/// One partition's log, the one that was ingested.
pub struct Log<'a> {
    pub probe: &'a Arc<Probe>,
    pub topic: &'a str,
    pub partition: i32,
    pub bounds: (i64, i64),
}

/// A batch as the log has it now.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    messages: u64,
    sum: Sum,
}

impl Log<'_> {
    /// Whether the log still holds the range and has no message in it.
    pub async fn is_empty(&self, [start, end]: OffsetSpan) -> Result<bool> {
        if start < self.bounds.0 {
            return Ok(false);
        }
        let (probe, topic, partition) = self.place();
        waiting(move || {
            let mut is_empty = true;
            let is_whole = probe.read((&topic, partition), [start, end], |_| {
                is_empty = false;
                ControlFlow::Break(())
            })?;
            Ok(is_empty && is_whole)
        })
        .await
    }

    fn place(&self) -> (Arc<Probe>, String, i32) {
        (Arc::clone(self.probe), self.topic.to_owned(), self.partition)
    }

    /// Looks for messages where the commits say that there are none; with `payloads`, reads
    /// everything again and compares the sums.
    pub async fn compare(
        &self,
        audit: &mut PartitionAudit,
        recorded: &Recorded,
        payloads: bool,
    ) -> Result<()> {
        let (low, high) = self.bounds;
        let within = |[start, end]: OffsetSpan| [start.max(low), end.min(high)];
        let spans = match payloads {
            true => {
                let batches = recorded.batches.iter().map(|batch| within([batch.start, batch.end]));
                joined(batches)
            }
            false => newest(joined(recorded.holes().iter().map(|hole| within(*hole)))),
        };
        let (probe, topic, partition) = self.place();
        let (holes, batches) = (recorded.holes().to_vec(), recorded.batches.clone());
        let (unexpected, found, low) = waiting(move || {
            let mut unexpected = Vec::new();
            let mut found = vec![Found::default(); batches.len()];
            for span in spans {
                probe.read((&topic, partition), span, |received| {
                    let offset = received.offset();
                    let hole = holes.partition_point(|hole| hole[0] <= offset);
                    if hole > 0 && offset < holes[hole - 1][1] {
                        unexpected.push([offset, offset + 1]);
                    }
                    let at = batches.partition_point(|batch| batch.start <= offset);
                    if payloads && at > 0 && offset < batches[at - 1].end {
                        let headers = received.headers();
                        found[at - 1].messages += 1;
                        found[at - 1].sum.add(message_hash(&message_of(received, &headers)));
                    }
                    ControlFlow::Continue(())
                })?;
            }
            // What is dropped while it is read is not missing.
            let low = probe.watermarks(&topic)?.get(&partition).map_or(i64::MAX, |(low, _)| *low);
            Ok((unexpected, found, low))
        })
        .await?;
        audit.unaccounted += unexpected.len() as u64;
        audit.unaccounted_ranges.extend(unexpected);
        if payloads {
            for (batch, found) in recorded.batches.iter().zip(found) {
                match verdict(batch, found, low) {
                    Verdict::Same => {}
                    Verdict::Other => audit.altered_ranges.push([batch.start, batch.end]),
                    Verdict::Unknown => {
                        audit.unchecked_offsets += (batch.end - batch.start).unsigned_abs();
                    }
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Same,
    Other,
    /// The log has dropped some of it, or the commit has no sum.
    Unknown,
}

fn verdict(batch: &OffsetRange, found: Found, low: i64) -> Verdict {
    let holes: i64 = batch.holes.iter().map(|[start, end]| end - start).sum();
    let messages = (batch.end - batch.start - holes).unsigned_abs();
    match batch.messages {
        Some(sum) if batch.start >= low && found.messages >= messages => {
            if sum == found.sum {
                Verdict::Same
            } else {
                Verdict::Other
            }
        }
        _ => Verdict::Unknown,
    }
}

/// Stretches in order, those that lie close together as one.
fn joined(spans: impl Iterator<Item = OffsetSpan>) -> Vec<OffsetSpan> {
    let mut joined: Vec<OffsetSpan> = Vec::new();
    for span in spans.filter(|[start, end]| start < end) {
        match joined.last_mut().filter(|last| span[0] - last[1] < SEEK_MIN) {
            Some(last) => last[1] = last[1].max(span[1]),
            None => joined.push(span),
        }
    }
    joined
}

/// The last of the stretches, as many as are read soon: a topic with transactions has holes
/// everywhere, and would be read whole.
fn newest(mut spans: Vec<OffsetSpan>) -> Vec<OffsetSpan> {
    let mut left = HOLES_READ_MAX;
    spans.reverse();
    spans.retain_mut(|[start, end]| {
        *start = (*start).max(*end - left);
        left -= *end - *start;
        start < end
    });
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compacted_batch_is_not_an_altered_one() {
        let batch = OffsetRange {
            start: 10,
            end: 20,
            holes: vec![[12, 13]],
            messages: Some(Sum(7)),
            ..OffsetRange::default()
        };
        let verdict_of =
            |messages, sum, low| verdict(&batch, Found { messages, sum: Sum(sum) }, low);
        assert_eq!(verdict_of(9, 7, 10), Verdict::Same);
        assert_eq!(verdict_of(9, 8, 10), Verdict::Other);
        assert_eq!(verdict_of(10, 8, 10), Verdict::Other);
        assert_eq!(verdict_of(8, 8, 10), Verdict::Unknown);
        assert_eq!(verdict_of(9, 8, 11), Verdict::Unknown);
    }

    #[test]
    fn stretches_that_lie_close_are_read_as_one() {
        let far = 10 + SEEK_MIN;
        let spans = [[0, 5], [7, 9], [9, 10], [far, far + 1], [far + 3, far + 3]];
        assert_eq!(joined(spans.into_iter()), [[0, 10], [far, far + 1]]);
        let half = HOLES_READ_MAX / 2;
        let spans = vec![[0, 5], [10, 10 + 2 * half], [3 * half, 4 * half]];
        assert_eq!(newest(spans), [[3 * half, 4 * half], [10 + half, 10 + 2 * half]]);
    }
}
