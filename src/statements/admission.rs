//! How many statements run at once, in all and for one user, and how many may wait for that. Past
//! both, a statement is refused rather than kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};

/// How many statements may run and wait. One that waits longer than `wait_max` is refused.
#[derive(Debug, Clone)]
pub struct AdmissionLimits {
    pub running_max: usize,
    pub running_per_user_max: usize,
    pub waiting_max: usize,
    pub wait_max: Duration,
}

/// Places for statements; [`Self::enter`] takes one.
pub struct Admission {
    limits: AdmissionLimits,
    running: Arc<Semaphore>,
    /// One per user who runs or waits; gone with the last of them.
    users: Mutex<HashMap<String, Weak<Semaphore>>>,
    waiting: AtomicUsize,
}

/// Held while a statement runs.
pub struct Permit {
    _all: OwnedSemaphorePermit,
    _user: OwnedSemaphorePermit,
    _share: Arc<Semaphore>,
}

impl Admission {
    pub fn new(limits: AdmissionLimits) -> Self {
        let running = Arc::new(Semaphore::new(limits.running_max));
        Self { limits, running, users: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// Waits for the user's turn, then for a place. A user's own statements wait for each other
    /// without taking places from those of others.
    pub async fn enter(&self, user: &str) -> Result<Permit> {
        let share = self.share_of(user);
        let Some(_waiter) = Waiter::enter(&self.waiting, self.limits.waiting_max) else {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("{} statements are waiting already", self.limits.waiting_max),
            )
            .hint("try again later, or raise `server.waiting_statements_max`"));
        };
        let permits = async {
            let user = Arc::clone(&share).acquire_owned().await;
            let all = Arc::clone(&self.running).acquire_owned().await;
            user.and_then(|user| all.map(|all| (user, all)))
        };
        match tokio::time::timeout(self.limits.wait_max, permits).await {
            Ok(Ok((user, all))) => Ok(Permit { _all: all, _user: user, _share: share }),
            Ok(Err(_)) => Err(Error::internal("the queue of statements was closed")),
            Err(_) => Err(Error::new(
                ErrorKind::Exhausted,
                format!("the statement waited {} s for others", self.limits.wait_max.as_secs()),
            )
            .hint("try again later, or cancel statements of your own")),
        }
    }

    pub fn running(&self) -> usize {
        self.limits.running_max - self.running.available_permits()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn share_of(&self, user: &str) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, share| share.strong_count() > 0);
        if let Some(share) = users.get(user).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Semaphore::new(self.limits.running_per_user_max));
        users.insert(user.to_owned(), Arc::downgrade(&share));
        share
    }
}

/// Counts one waiting statement for as long as it lives.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn enter(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let free = |count: usize| (count < max).then_some(count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> AdmissionLimits {
        AdmissionLimits {
            running_max: 2,
            running_per_user_max: 1,
            waiting_max: 1,
            wait_max: Duration::from_millis(20),
        }
    }

    #[tokio::test]
    async fn one_user_cannot_take_the_places_of_others() {
        let admission = Admission::new(limits());
        let first = admission.enter("a").await.unwrap();
        let refused = admission.enter("a").await.err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Exhausted);
        let other = admission.enter("b").await.unwrap();
        assert_eq!((admission.running(), admission.waiting()), (2, 0));
        drop((first, other));
        admission.enter("a").await.unwrap();
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let admission = Admission::new(limits());
        let _running = admission.enter("a").await.unwrap();
        let (first, second) = tokio::join!(admission.enter("a"), admission.enter("a"));
        assert_eq!(
            second.err().unwrap().message,
            "1 statements are waiting already",
            "the second in the queue is told at once"
        );
        assert_eq!(first.err().unwrap().message, "the statement waited 0 s for others");
    }
}
