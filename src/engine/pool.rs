//! The memory of all statements together. It is shared by what operators hold, not by how many there
//! are: a plan has dozens that hold nothing yet, or nothing any more. Allocates nothing itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// Of the whole, this part is kept for operators that cannot spill, until they take more than that.
const UNSPILLABLE_PART: usize = 4;
/// They get this part also where those that can spill hold so much that all is exceeded, by a quarter at
/// most: a sort that spills merges what it holds, and needs memory for that before it frees any. What
/// sorts hold is counted twice.
const UNSPILLABLE_PART_OVER: usize = 2;
/// What sorts are named, and then their merges of sorted runs, each with its partition's number. Each
/// merge of what was spilled takes as many runs at once as it gets memory for, and two at least: the
/// first would leave nothing to those that a join waits for as well.
const SORT: &str = "ExternalSorter[";
const MERGE: &str = "ExternalSorterMerge[";
/// Rows come with the memory that they take, and cannot be spilled before they are counted: who holds
/// nothing gets this part for the first of them, whatever others hold.
const FIRST_PART: usize = 8;
/// A merge holds rows and their keys, and counts texts that rows share for each batch of them.
const TAKEN_OVER_TIMES: usize = 2;
/// This part of what operators that hold little could claim is left to those that hold much.
const UNCLAIMED_PART: usize = 2;

/// What DataFusion's operators may hold. One that can spill gets an even part of what all of them may
/// hold at any time, and beyond that what others don't hold. One that cannot gets what is free, and at least a part.
#[derive(Debug)]
pub struct Pool {
    bytes_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By operators that can spill, by their number; also those that hold nothing.
    spillable: HashMap<usize, Spillable>,
    spillable_bytes: usize,
    unspillable_bytes: usize,
    /// By merges of sorted runs, which are among those that cannot spill.
    merging: HashMap<usize, Merge>,
    /// Sorts whose merge is not known yet, with their partition.
    sorts: Vec<(String, usize)>,
}

#[derive(Debug, Default)]
struct Spillable {
    bytes: usize,
    /// The most that it held since its merge held nothing.
    most: usize,
}

#[derive(Debug)]
struct Merge {
    bytes: usize,
    /// Until that has ended, the merge is of the rows that it holds, to spill them.
    sort: Option<usize>,
}

impl Pool {
    /// Of `bytes_max` in all.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an operator that can spill may hold as much more, of which `size` is in one reservation.
    fn may_grow(&self, held: &Held, consumer: usize, size: usize, additional: usize) -> bool {
        let kept = held.unspillable_bytes.max(self.bytes_max / UNSPILLABLE_PART);
        let free = self.bytes_max.saturating_sub(kept);
        let even = free / held.spillable.len().max(1);
        if size.saturating_add(additional) <= even {
            return true;
        }
        let (mut own, mut holding, mut unclaimed) = (0, 1, 0);
        for (other, Spillable { bytes, .. }) in &held.spillable {
            if *other == consumer {
                own = *bytes;
            } else {
                holding += usize::from(*bytes > 0);
                unclaimed += even.saturating_sub(*bytes);
            }
        }
        if own == 0 && additional <= self.bytes_max / FIRST_PART {
            return true;
        }
        let all = held.spillable_bytes.saturating_add(additional) + unclaimed / UNCLAIMED_PART;
        own.saturating_add(additional) <= free / holding && all <= free
    }

    /// Whether an operator that cannot spill may hold as much more.
    fn has_room(&self, held: &Held, consumer: usize, additional: usize) -> bool {
        let all = (held.spillable_bytes + held.unspillable_bytes).saturating_add(additional);
        let over = self.bytes_max / UNSPILLABLE_PART_OVER;
        let Some(own) = held.merging.get(&consumer) else {
            let unspillable = held.unspillable_bytes.saturating_add(additional);
            return all <= self.bytes_max || unspillable <= over;
        };
        let even = over / held.merging.len().max(1);
        // What its sort held it takes over, also if others were quicker to take what the sort freed.
        let sort = own.sort.and_then(|sort| held.spillable.get(&sort));
        let least = sort.map_or(even, |sort| even.max(sort.most * TAKEN_OVER_TIMES));
        let others = held.merging.iter().filter(|(other, _)| **other != consumer);
        let unclaimed: usize = others.map(|(_, other)| even.saturating_sub(other.bytes)).sum();
        own.bytes.saturating_add(additional) <= least || all + unclaimed <= self.bytes_max
    }
}

impl Held {
    fn add(&mut self, consumer: &MemoryConsumer, bytes: usize) {
        match consumer.can_spill() {
            true => {
                let held = self.spillable.entry(consumer.id()).or_default();
                held.bytes += bytes;
                held.most = held.most.max(held.bytes);
                self.spillable_bytes += bytes;
            }
            false => {
                self.unspillable_bytes += bytes;
                self.merging.entry(consumer.id()).and_modify(|merge| merge.bytes += bytes);
            }
        }
    }

    fn remove(&mut self, consumer: &MemoryConsumer, bytes: usize) {
        match self.spillable.get_mut(&consumer.id()) {
            Some(held) => {
                held.bytes -= bytes;
                self.spillable_bytes -= bytes;
            }
            None => {
                self.unspillable_bytes -= bytes;
                let Some(merge) = self.merging.get_mut(&consumer.id()) else { return };
                merge.bytes -= bytes;
                let sort = merge.sort.filter(|_| merge.bytes == 0);
                if let Some(sort) = sort.and_then(|sort| self.spillable.get_mut(&sort)) {
                    sort.most = sort.bytes;
                }
            }
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.reserved(), self.bytes_max)
    }
}

impl MemoryPool for Pool {
    fn name(&self) -> &str {
        "engine"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        let mut held = self.held();
        if consumer.can_spill() {
            held.spillable.insert(consumer.id(), Spillable::default());
            if let Some(partition) = consumer.name().strip_prefix(SORT) {
                held.sorts.push((partition.to_owned(), consumer.id()));
            }
        } else if let Some(partition) = consumer.name().strip_prefix(MERGE) {
            let sort = held.sorts.iter().rposition(|(of, _)| of == partition);
            let sort = sort.map(|at| held.sorts.swap_remove(at).1);
            held.merging.insert(consumer.id(), Merge { bytes: 0, sort });
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        let mut held = self.held();
        let left = held.spillable.remove(&consumer.id()).unwrap_or_default();
        held.spillable_bytes -= left.bytes;
        held.sorts.retain(|(_, sort)| *sort != consumer.id());
        held.merging.remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.held().add(reservation.consumer(), additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.held().remove(reservation.consumer(), shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let (consumer, mut held) = (reservation.consumer(), self.held());
        let all = held.spillable_bytes + held.unspillable_bytes;
        let fits = match held.spillable.get(&consumer.id()) {
            Some(_) => self.may_grow(&held, consumer.id(), reservation.size(), additional),
            None => self.has_room(&held, consumer.id(), additional),
        };
        if fits {
            held.add(consumer, additional);
            return Ok(());
        }
        Err(DataFusionError::ResourcesExhausted(format!(
            "{all} of {} bytes are held and {} needs {additional} more",
            self.bytes_max,
            consumer.name()
        )))
    }

    fn reserved(&self) -> usize {
        let held = self.held();
        held.spillable_bytes + held.unspillable_bytes
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn operator(pool: &Arc<dyn MemoryPool>, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new("one").with_can_spill(can_spill).register(pool)
    }

    /// How much `operator` gets beside what it holds, in steps of one.
    fn most(operator: &MemoryReservation) -> usize {
        while operator.try_grow(1).is_ok() {}
        operator.size()
    }

    #[test]
    fn who_holds_nothing_takes_nothing_from_who_does() {
        let pool: Arc<dyn MemoryPool> = Arc::new(Pool::new(8_000));
        let idle: Vec<_> = (0..9).map(|_| operator(&pool, true)).collect();
        let (first, second) = (operator(&pool, true), operator(&pool, true));
        // All but what is kept for those that cannot spill, and half of the others' even parts.
        assert_eq!(most(&first), 6_000 - 10 * 545 / 2);
        // Its even part.
        assert_eq!(most(&second), 6_000 / 11);
        first.free();
        assert_eq!(most(&second), 6_000 - 10 * 545 / 2);
        drop((first, second, idle));
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn who_cannot_spill_gets_all_that_is_free_and_a_half_at_least() {
        let pool: Arc<dyn MemoryPool> = Arc::new(Pool::new(8_000));
        let (spilling, stuck) = (operator(&pool, true), operator(&pool, false));
        assert_eq!(most(&spilling), 6_000);
        assert_eq!(most(&stuck), 4_000);
        spilling.free();
        assert_eq!(most(&stuck), 8_000);
        // Still its first rows, which it spills.
        assert!(spilling.try_grow(1_001).is_err());
        spilling.try_grow(1_000).unwrap();
        assert!(spilling.try_grow(1).is_err());
        drop((spilling, stuck));
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn merges_leave_each_other_even_parts() {
        let pool: Arc<dyn MemoryPool> = Arc::new(Pool::new(8_000));
        let merge = |at| MemoryConsumer::new(format!("{MERGE}[{at}]")).register(&pool);
        let (first, second) = (merge(0), merge(1));
        assert_eq!(most(&first), 6_000);
        assert_eq!(most(&second), 2_000);
        drop(second);
        assert_eq!(most(&first), 8_000);
    }

    #[test]
    fn a_merge_of_what_a_sort_holds_takes_that_over() {
        let pool: Arc<dyn MemoryPool> = Arc::new(Pool::new(8_000));
        let sort = MemoryConsumer::new(format!("{SORT}7]")).with_can_spill(true).register(&pool);
        let merges: Vec<_> = (6..10)
            .map(|at| MemoryConsumer::new(format!("{MERGE}{at}]")).register(&pool))
            .collect();
        let (other, stuck) = (operator(&pool, true), operator(&pool, false));
        assert_eq!(most(&sort), 4_500);
        sort.free();
        most(&other);
        most(&stuck);
        assert_eq!(most(&merges[0]), 1_000);
        assert_eq!(most(&merges[1]), 9_000);
        // Once it held nothing, it's of what the sort holds then.
        merges[1].free();
        drop(sort);
        assert_eq!(most(&merges[1]), 1_000);
    }
}
