//! What time it is: the machine's time, or one that somebody sets. Passed to whoever needs it; only
//! `main`, `app` and tests make one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::interval::Instant;

/// Clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Machine,
    /// Microseconds since 1970 UTC.
    Set(Arc<AtomicI64>),
}

impl Clock {
    pub fn of_machine() -> Self {
        Self(Source::Machine)
    }

    /// Stands still at `instant`; all clones of it move when one of them is set.
    pub fn at(instant: Instant) -> Self {
        Self(Source::Set(Arc::new(AtomicI64::new(instant.0))))
    }

    /// Moves a clock that was made by [`Clock::at`]; the machine's stays as it is.
    pub fn set(&self, instant: Instant) {
        if let Source::Set(micros) = &self.0 {
            micros.store(instant.0, Ordering::Relaxed);
        }
    }

    /// The time of day, which can go back: spans are measured otherwise.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::Machine => Instant(chrono::Utc::now().timestamp_micros()),
            Source::Set(micros) => Instant(micros.load(Ordering::Relaxed)),
        }
    }

    /// Microseconds since 1970 UTC.
    pub fn micros(&self) -> i64 {
        self.now().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_clock_moves_all_its_clones_and_no_other() {
        let clock = Clock::at(Instant(5));
        let clone = clock.clone();
        clone.set(Instant(7));
        assert_eq!((clock.micros(), Clock::at(Instant(5)).micros()), (7, 5));
        let machine = Clock::of_machine();
        machine.set(Instant(7));
        assert!(machine.now() > Instant(1_700_000_000_000_000));
    }
}
