//! Counts of statements since the start, for metrics. Counters only grow; reading them costs no
//! lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::log::Outcome;

/// Upper bounds of the buckets of run time, in seconds.
pub const SECONDS_BUCKETS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0];

/// Totals of the statements that ended or were refused.
#[derive(Debug, Default)]
pub struct Figures {
    done: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; SECONDS_BUCKETS.len()],
    held: AtomicU64,
    held_bytes: AtomicU64,
}

/// All counts, read one after the other while statements go on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub done: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub rows: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// How many ran at most as long as each of [`SECONDS_BUCKETS`].
    pub within: [u64; SECONDS_BUCKETS.len()],
    /// Results that wait for their readers now, and what they keep in memory.
    pub held: u64,
    pub held_bytes: u64,
}

impl Figures {
    /// Counts a statement that ran. `bytes` are those of its Arrow arrays in memory.
    pub fn add(&self, outcome: Outcome, seconds: f64, rows: u64, bytes: u64) {
        let counter = match outcome {
            Outcome::Done => &self.done,
            Outcome::Cancelled => &self.cancelled,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.micros.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        for (bucket, bound) in self.buckets.iter().zip(SECONDS_BUCKETS) {
            if seconds <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A statement that did not get as far as running.
    pub fn refused(&self) {
        self.add(Outcome::Failed, 0.0, 0, 0);
    }

    /// How many results wait for their readers now, and what they keep in memory.
    pub fn set_held(&self, count: usize, bytes: usize) {
        self.held.store(count as u64, Ordering::Relaxed);
        self.held_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            done: read(&self.done),
            cancelled: read(&self.cancelled),
            failed: read(&self.failed),
            rows: read(&self.rows),
            bytes: read(&self.bytes),
            seconds: read(&self.micros) as f64 / 1e6,
            within: std::array::from_fn(|index| read(&self.buckets[index])),
            held: read(&self.held),
            held_bytes: read(&self.held_bytes),
        }
    }
}
