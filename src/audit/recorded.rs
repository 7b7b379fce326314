//! What the commits' ledgers say of each log of each partition.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::lake::Snapshot;
use crate::lake::ledger::{OffsetRange, Sum};

/// A log of a partition, by their numbers.
pub type Place = (i32, u32);

/// What became of the offsets of one log.
#[derive(Debug, Default)]
pub struct Recorded {
    /// What was ingested, by the first offset of each batch.
    pub batches: Vec<OffsetRange>,
    /// Within which dead letters were replayed.
    pub replayed: Vec<OffsetRange>,
    /// Offsets at which ingestion saw that the broker had no message; sorted.
    holes: Vec<[i64; 2]>,
    /// All of them, or what a rewrite and those after it wrote: whose rows have which sum.
    written: Vec<OffsetRange>,
}

impl Recorded {
    /// The first offset of the earliest commit that the log still holds.
    pub fn begin(&self) -> Option<i64> {
        self.batches.first().map(|batch| batch.start)
    }

    /// Each `[start, end)`, in order.
    pub fn holes(&self) -> &[[i64; 2]] {
        &self.holes
    }

    /// Of the dead letters: which ones a replay left is not noted, so those batches have no sum.
    pub fn forget_replayed(&mut self) {
        let mut gone = std::mem::take(&mut self.replayed);
        loop {
            let is_gone = |range: &mut OffsetRange| {
                gone.iter().any(|gone| gone.start < range.end && range.start < gone.end)
            };
            // Batches of two attempts overlap, and are summed together.
            let more: Vec<OffsetRange> = self.written.extract_if(.., is_gone).collect();
            if more.is_empty() {
                return;
            }
            gone.extend(more);
        }
    }

    /// Whether a replay touched the range around it; a letter in that range may still have stayed.
    pub fn has_replayed(&self, offset: i64) -> bool {
        self.replayed.iter().any(|range| (range.start..range.end).contains(&offset))
    }

    pub fn is_hole(&self, offset: i64) -> bool {
        let before = self.holes.partition_point(|hole| hole[0] <= offset);
        before.checked_sub(1).is_some_and(|at| offset < self.holes[at][1])
    }

    /// Stretches of offsets whose rows are summed together, with the sum: batches, and together those
    /// of which letters were replayed or that were written anew. `None` where a commit of an older version has no sum.
    pub fn sums(&self) -> Vec<(OffsetSpan, Option<Sum>)> {
        let mut ranges: Vec<&OffsetRange> = self.written.iter().collect();
        ranges.sort_by_key(|range| range.start);
        let mut sums: Vec<(OffsetSpan, Option<Sum>)> = Vec::new();
        for range in ranges {
            match sums.last_mut().filter(|(span, _)| range.start < span[1]) {
                Some((span, sum)) => {
                    span[1] = span[1].max(range.end);
                    *sum = sum.zip(range.values).map(|(a, b)| Sum(a.0.wrapping_add(b.0)));
                }
                None => sums.push(([range.start, range.end], range.values)),
            }
        }
        sums
    }
}

/// `[first, after the last)`.
pub type OffsetSpan = [i64; 2];

enum Noted {
    Rewritten,
    Batch,
    Replayed,
}

/// By topic. Of the dead letters, what `of` rejected; `None` in bronze.
pub async fn recorded(
    table: &Snapshot,
    of: Option<&str>,
) -> Result<BTreeMap<String, BTreeMap<Place, Recorded>>> {
    let mut topics: BTreeMap<String, BTreeMap<Place, Recorded>> = BTreeMap::new();
    for ledger in table.ledgers(0).await?.into_values() {
        if !ledger.rewritten.is_empty() {
            let all = topics.values_mut().flat_map(BTreeMap::values_mut);
            all.for_each(|recorded| recorded.written.clear());
        }
        let of_rewrite = ledger.rewritten.into_iter().map(|range| (range, Noted::Rewritten));
        let of_batch = ledger.offsets.into_iter().map(|range| (range, Noted::Batch));
        let of_replay = ledger.replayed.into_iter().map(|range| (range, Noted::Replayed));
        for (range, noted) in of_rewrite.chain(of_batch).chain(of_replay) {
            if of.is_some() && range.table.as_deref() != of {
                continue;
            }
            let places = topics.entry(range.topic.clone()).or_default();
            let recorded = places.entry((range.partition, range.log)).or_default();
            recorded.written.push(range.clone());
            match noted {
                Noted::Rewritten => {}
                Noted::Replayed => recorded.replayed.push(range),
                Noted::Batch => {
                    recorded.holes.extend(&range.holes);
                    recorded.batches.push(range);
                }
            }
        }
    }
    for recorded in topics.values_mut().flat_map(BTreeMap::values_mut) {
        recorded.holes.sort_unstable();
        recorded.batches.sort_by_key(|batch| batch.start);
    }
    Ok(topics)
}

/// The parts of `gap` that no hole covers. `holes` are sorted.
pub fn subtract(gap: OffsetSpan, holes: &[OffsetSpan]) -> Vec<OffsetSpan> {
    let mut open = Vec::new();
    let mut start = gap[0];
    let first = holes.partition_point(|hole| hole[1] <= gap[0]);
    for hole in &holes[first..] {
        if hole[0] >= gap[1] {
            break;
        }
        if hole[0] > start {
            open.push([start, hole[0]]);
        }
        start = start.max(hole[1]);
    }
    if start < gap[1] {
        open.push([start, gap[1]]);
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_explain_only_what_they_cover() {
        assert_eq!(subtract([0, 10], &[[2, 3], [5, 20]]), [[0, 2], [3, 5]]);
        assert_eq!(subtract([0, 10], &[[0, 10]]), [[0_i64; 2]; 0]);
        assert_eq!(subtract([4, 6], &[[0, 2], [8, 9]]), [[4, 6]]);
    }

    #[test]
    fn batches_of_which_letters_were_replayed_are_summed_together() {
        let range = |start, end, values: u64| OffsetRange {
            start,
            end,
            values: Some(Sum(values)),
            ..OffsetRange::default()
        };
        let written = vec![range(0, 5, 1), range(5, 9, 2), range(9, 12, 4), range(3, 6, u64::MAX)];
        let mut recorded = Recorded { written, ..Recorded::default() };
        assert_eq!(recorded.sums(), [([0, 9], Some(Sum(2))), ([9, 12], Some(Sum(4)))]);
        recorded.written[1].values = None;
        assert_eq!(recorded.sums(), [([0, 9], None), ([9, 12], Some(Sum(4)))]);
    }
}
