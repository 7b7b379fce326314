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
    users: Mutex<HashMap<String, Weak<Share>>>,
    waiting: AtomicUsize,
}

/// Held while a statement runs.
pub struct Permit {
    _all: OwnedSemaphorePermit,
    _user: OwnedSemaphorePermit,
    _share: Arc<Share>,
}

/// One user's places and statements that wait.
struct Share {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Admission {
    pub fn new(limits: AdmissionLimits) -> Self {
        let running = Arc::new(Semaphore::new(limits.running_max));
        Self { limits, running, users: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// Waits for the user's turn, then for a place. A user's own statements wait for each other
    /// without taking places from those of others, and take no more than half of the queue; when that
    /// is full, everybody may still wait with one.
    pub async fn enter(&self, user: &str) -> Result<Permit> {
        let share = self.share_of(user);
        let full = |waiting: usize| {
            Error::new(ErrorKind::Exhausted, format!("{waiting} statements are waiting already"))
                .hint("try again later, or raise `server.waiting_statements_max`")
        };
        let own_max = self.limits.waiting_max.div_ceil(2);
        let own = Waiter::enter(&share.waiting, own_max).ok_or_else(|| full(own_max))?;
        let all_max = if own.before == 0 { usize::MAX } else { self.limits.waiting_max };
        let _waiter =
            Waiter::enter(&self.waiting, all_max).ok_or_else(|| full(self.limits.waiting_max))?;
        let permits = async {
            let user = Arc::clone(&share.running).acquire_owned().await;
            let all = Arc::clone(&self.running).acquire_owned().await;
            user.and_then(|user| all.map(|all| (user, all)))
        };
        match tokio::time::timeout(self.limits.wait_max, permits).await {
            Ok(Ok((user, all))) => {
                Ok(Permit { _all: all, _user: user, _share: Arc::clone(&share) })
            }
            Ok(Err(_)) => Err(Error::internal("the queue of statements was closed")),
            Err(_) => Err(self.waited()),
        }
    }

    pub fn wait_max(&self) -> Duration {
        self.limits.wait_max
    }

    /// Why a statement that waited for so long is refused.
    pub fn waited(&self) -> Error {
        let message =
            format!("the statement waited {} s for others", self.limits.wait_max.as_secs());
        Error::new(ErrorKind::Exhausted, message)
            .hint("try again later, or cancel statements of your own")
    }

    pub fn running(&self) -> usize {
        self.limits.running_max - self.running.available_permits()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn share_of(&self, user: &str) -> Arc<Share> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, share| share.strong_count() > 0);
        if let Some(share) = users.get(user).and_then(Weak::upgrade) {
            return share;
        }
        let running = Arc::new(Semaphore::new(self.limits.running_per_user_max));
        let share = Arc::new(Share { running, waiting: AtomicUsize::new(0) });
        users.insert(user.to_owned(), Arc::downgrade(&share));
        share
    }
}

/// Counts one waiting statement for as long as it lives.
struct Waiter<'a> {
    waiting: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiter<'a> {
    fn enter(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let free = |count: usize| (count < max).then_some(count + 1);
        let before = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Self { waiting, before })
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
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
    async fn a_user_who_fills_the_queue_leaves_places_to_others() {
        let long = Duration::from_secs(60);
        let admission = Arc::new(Admission::new(AdmissionLimits {
            waiting_max: 4,
            wait_max: long,
            ..limits()
        }));
        let _running = admission.enter("a").await.unwrap();
        for _ in 0..20 {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move { admission.enter("a").await.map(std::mem::forget) });
        }
        tokio::task::yield_now().await;
        assert_eq!(admission.waiting(), 2, "half of the queue");
        let _other = admission.enter("b").await.unwrap();
        for waiting in 3..9 {
            let admission = Arc::clone(&admission);
            let user = format!("c{waiting}");
            tokio::spawn(async move { admission.enter(&user).await.map(std::mem::forget) });
        }
        tokio::task::yield_now().await;
        assert_eq!(admission.waiting(), 8, "everybody may wait with one");
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
