//! How many passwords are checked at once, and how many wait: a check is slow on purpose, and
//! strangers may ask for it. Blocks its thread while waiting.

use std::sync::{Condvar, Mutex, PoisonError};

const RUNNING_MAX: usize = 2;
const WAITING_MAX: usize = 64;

/// Places for checks of passwords and for those who wait for one.
#[derive(Debug, Default)]
pub struct Turns {
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    running: usize,
    waiting: usize,
}

/// Held while a password is checked.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// `None` if too many wait already.
    pub fn enter(&self) -> Option<Turn<'_>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.running >= RUNNING_MAX {
            if counts.waiting >= WAITING_MAX {
                return None;
            }
            counts.waiting += 1;
            counts = self
                .freed
                .wait_while(counts, |counts| counts.running >= RUNNING_MAX)
                .unwrap_or_else(PoisonError::into_inner);
            counts.waiting -= 1;
        }
        counts.running += 1;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_run_some_wait_and_the_rest_is_refused() {
        let turns = Turns::default();
        let running: Vec<_> = (0..RUNNING_MAX).map(|_| turns.enter().unwrap()).collect();
        let waiting = |turns: &Turns| turns.counts.lock().unwrap().waiting;
        std::thread::scope(|scope| {
            let waiters: Vec<_> =
                (0..WAITING_MAX).map(|_| scope.spawn(|| turns.enter().is_some())).collect();
            while waiting(&turns) < WAITING_MAX {
                std::thread::yield_now();
            }
            assert!(turns.enter().is_none());
            drop(running);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        assert_eq!(turns.counts.lock().unwrap().running, 0);
    }
}
