//! Connections whose other end has not said who it is. They have little time for it, and few places: the
//! one that has waited longest makes room for the next, so that nobody keeps others out by connecting.
//! Nor does one user who has said so many times over.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::access::Principal;
use crate::error::{Error, ErrorKind, Result};

/// Connections of one user to one listener.
const OF_A_USER_MAX: usize = 256;

/// The strangers of one listener. Cheap to clone; clones see the same.
#[derive(Clone)]
pub struct Strangers(Arc<Shared>);

struct Shared {
    count_max: usize,
    waiting: Mutex<Waiting>,
    /// How many connections each user has.
    known: Mutex<HashMap<String, usize>>,
}

#[derive(Default)]
struct Waiting {
    /// By number, oldest first.
    strangers: BTreeMap<u64, Stranger>,
    next: u64,
}

struct Stranger {
    address: IpAddr,
    leave: CancellationToken,
}

/// Held by one connection and its calls.
pub struct Guest {
    strangers: Strangers,
    number: u64,
    leave: CancellationToken,
    /// Whose it is.
    user: OnceLock<String>,
}

/// Where a call comes from.
#[derive(Clone)]
pub struct Peer {
    /// An IPv4 address that came in by IPv6 is given as IPv4.
    pub address: IpAddr,
    pub guest: Arc<Guest>,
}

impl Strangers {
    pub fn new(count_max: usize) -> Self {
        Self(Arc::new(Shared { count_max, waiting: Mutex::default(), known: Mutex::default() }))
    }

    /// Lets one in; if there are too many, another one leaves.
    pub fn enter(&self, address: IpAddr) -> Arc<Guest> {
        let leave = CancellationToken::new();
        let mut waiting = self.lock();
        if waiting.strangers.len() >= self.0.count_max {
            waiting.send_one_away();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.strangers.insert(number, Stranger { address, leave: leave.clone() });
        Arc::new(Guest { strangers: self.clone(), number, leave, user: OnceLock::new() })
    }

    /// Makes one leave, if there is any.
    pub fn send_one_away(&self) {
        self.lock().send_one_away();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The oldest of the address that has most: one address must not drive out others.
    fn send_one_away(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for stranger in self.strangers.values() {
            *counts.entry(stranger.address).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let oldest = self
            .strangers
            .iter()
            .find(|(_, stranger)| counts.get(&stranger.address).copied() == most);
        if let Some((number, stranger)) = oldest.map(|(number, stranger)| (*number, stranger)) {
            stranger.leave.cancel();
            self.strangers.remove(&number);
        }
    }
}

impl Guest {
    /// It has said who it is, and may stay; the first to say so counts, where several come by one
    /// connection. Fails with `Exhausted` if that user has too many: it stays a stranger.
    pub fn is_now_known(&self, principal: &Principal) -> Result<()> {
        if self.is_known() {
            return Ok(());
        }
        let mut known = self.strangers.known();
        let count = known.entry(principal.user.clone()).or_default();
        if *count >= OF_A_USER_MAX && !principal.is_anybody() {
            let message = format!("`{}` has {OF_A_USER_MAX} connections already", principal.user);
            return Err(Error::new(ErrorKind::Exhausted, message)
                .hint("close some of them, or ask several statements by the same connection"));
        }
        if self.user.set(principal.user.clone()).is_ok() {
            *count += 1;
            self.strangers.lock().strangers.remove(&self.number);
        }
        Ok(())
    }

    pub fn is_known(&self) -> bool {
        self.user.get().is_some()
    }

    /// Ends when it must leave for another one.
    pub fn must_leave(&self) -> WaitForCancellationFutureOwned {
        self.leave.clone().cancelled_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.strangers.lock().strangers.remove(&self.number);
        let Some(user) = self.user.get() else { return };
        let mut known = self.strangers.known();
        match known.get_mut(user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(known.remove(user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_oldest_of_whoever_has_most_leaves() {
        let strangers = Strangers::new(3);
        let other = strangers.enter(address(1));
        let guests: Vec<Arc<Guest>> = (0..4).map(|_| strangers.enter(address(2))).collect();
        let left: Vec<bool> = guests.iter().map(|guest| guest.leave.is_cancelled()).collect();
        assert_eq!(left, [true, true, false, false]);
        assert!(!other.leave.is_cancelled());
    }

    fn user(name: &str) -> Principal {
        Principal { user: name.to_owned(), ..Principal::local() }
    }

    #[test]
    fn one_user_has_no_more_than_its_part() {
        let strangers = Strangers::new(2);
        let own: Vec<Arc<Guest>> =
            (0..OF_A_USER_MAX).map(|_| strangers.enter(address(1))).collect();
        assert!(own.iter().all(|guest| guest.is_now_known(&user("ana")).is_ok()));
        let last = strangers.enter(address(1));
        assert_eq!(last.is_now_known(&user("ana")).unwrap_err().kind, ErrorKind::Exhausted);
        assert!(!last.is_known());
        last.is_now_known(&user("eve")).unwrap();
        let next = strangers.enter(address(1));
        drop(own);
        next.is_now_known(&user("ana")).unwrap();
        drop((last, next));
        assert!(strangers.known().is_empty());
    }

    #[test]
    fn who_is_known_stays_and_who_is_gone_has_no_place() {
        let strangers = Strangers::new(2);
        let known = strangers.enter(address(1));
        known.is_now_known(&Principal::local()).unwrap();
        drop(strangers.enter(address(1)));
        let guests: Vec<Arc<Guest>> = (0..2).map(|_| strangers.enter(address(1))).collect();
        strangers.send_one_away();
        strangers.send_one_away();
        strangers.send_one_away();
        assert!(guests.iter().all(|guest| guest.leave.is_cancelled()));
        assert!(!known.leave.is_cancelled() && known.is_known());
    }
}
