//! How often passwords were wrong lately, by user and address and by address alone, so that guessing
//! is slow. No count locks a user out everywhere, or anybody could do that to anybody.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::users::NAME_BYTES_MAX;

/// Wrong passwords for one user from one address within [`WINDOW_MICROS`].
const USER_FAILURES_MAX: u32 = 10;
/// Wrong passwords from one address within [`WINDOW_MICROS`].
const ADDRESS_FAILURES_MAX: u32 = 50;
/// From the first failure on.
const WINDOW_MICROS: i64 = 5 * 60 * 1_000_000;
const COUNTS_MAX: usize = 10_000;

/// Counts of wrong passwords, of a limited number of users and addresses.
#[derive(Debug, Default)]
pub struct Failures {
    counts: HashMap<Key, Count>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    User(String, IpAddr),
    Address(IpAddr),
}

#[derive(Debug)]
struct Count {
    failures: u32,
    since: i64,
}

impl Failures {
    /// Seconds until `user` may try again from `peer`; `None`: now.
    pub fn wait_s(&self, user: &str, peer: IpAddr, now: i64) -> Option<i64> {
        let waits = keys(user, peer).into_iter().filter_map(|(key, failures_max)| {
            let count = self.counts.get(&key).filter(|count| count.is_fresh(now))?;
            let left = count.since + WINDOW_MICROS - now;
            (count.failures >= failures_max).then_some((left + 999_999) / 1_000_000)
        });
        waits.max()
    }

    /// Counts against the user at this address, and against the address. `now` is in microseconds.
    pub fn failed(&mut self, user: &str, peer: IpAddr, now: i64) {
        for (key, _) in keys(user, peer) {
            if self.counts.len() >= COUNTS_MAX && !self.counts.contains_key(&key) {
                self.make_room(now);
            }
            let count = self.counts.entry(key).or_insert(Count { failures: 0, since: now });
            if !count.is_fresh(now) {
                *count = Count { failures: 0, since: now };
            }
            count.failures = count.failures.saturating_add(1);
        }
    }

    /// Forgets the user's failures from this address. The address keeps its own: one right password
    /// must not make room for guessing others.
    pub fn succeeded(&mut self, user: &str, peer: IpAddr) {
        self.counts.remove(&Key::user(user, peer));
    }

    /// Drops what is over, or else what matters least.
    fn make_room(&mut self, now: i64) {
        self.counts.retain(|_, count| count.is_fresh(now));
        if self.counts.len() >= COUNTS_MAX {
            let least = self.counts.iter().min_by_key(|(_, count)| (count.failures, count.since));
            if let Some(key) = least.map(|(key, _)| key.clone()) {
                self.counts.remove(&key);
            }
        }
    }
}

impl Key {
    /// Strangers choose the name: only as much of it is kept as a user's name can have.
    fn user(user: &str, peer: IpAddr) -> Self {
        Key::User(user.chars().take(NAME_BYTES_MAX).collect(), place_of(peer))
    }
}

impl Count {
    fn is_fresh(&self, now: i64) -> bool {
        (self.since..self.since + WINDOW_MICROS).contains(&now)
    }
}

fn keys(user: &str, peer: IpAddr) -> [(Key, u32); 2] {
    [
        (Key::user(user, peer), USER_FAILURES_MAX),
        (Key::Address(place_of(peer)), ADDRESS_FAILURES_MAX),
    ]
}

/// One who has an IPv6 address has the 2^64 beside it too.
fn place_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_user_waits_at_one_address_only_and_not_for_ever() {
        let mut failures = Failures::default();
        let (here, there) = (peer("10.0.0.1"), peer("10.0.0.2"));
        for at in 0..i64::from(USER_FAILURES_MAX) {
            assert_eq!(failures.wait_s("ana", here, at * SECOND), None);
            failures.failed("ana", here, at * SECOND);
        }
        assert_eq!(failures.wait_s("ana", here, 10 * SECOND), Some(290));
        assert_eq!(failures.wait_s("ana", there, 10 * SECOND), None);
        assert_eq!(failures.wait_s("bob", here, 10 * SECOND), None);
        assert_eq!(failures.wait_s("ana", here, 299 * SECOND + 1), Some(1));
        assert_eq!(failures.wait_s("ana", here, 300 * SECOND), None);
        failures.failed("ana", here, 300 * SECOND);
        assert_eq!(failures.wait_s("ana", here, 300 * SECOND), None, "counted from one again");
    }

    #[test]
    fn a_success_forgets_the_failures_of_the_user_but_not_of_the_address() {
        let mut failures = Failures::default();
        for at in 0..ADDRESS_FAILURES_MAX {
            failures.failed(&format!("user-{}", at % 25), peer("::ffff:10.0.0.1"), 0);
            failures.succeeded(&format!("user-{}", at % 25), peer("10.0.0.1"));
        }
        assert_eq!(failures.wait_s("eve", peer("10.0.0.1"), 0), Some(300));
        assert_eq!(failures.counts.len(), 1);
    }

    #[test]
    fn neighbours_in_ipv6_are_one() {
        let mut failures = Failures::default();
        for at in 0..USER_FAILURES_MAX {
            failures.failed("ana", peer(&format!("2001:db8::{at}")), 0);
        }
        assert_eq!(failures.wait_s("ana", peer("2001:db8::ffff"), 0), Some(300));
        assert_eq!(failures.wait_s("ana", peer("2001:db8:0:1::1"), 0), None);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let mut failures = Failures::default();
        for _ in 0..USER_FAILURES_MAX {
            failures.failed("ana", peer("10.0.0.1"), 0);
        }
        for at in 0..COUNTS_MAX {
            failures.failed(&format!("user-{at}"), peer("10.0.0.2"), 1);
        }
        assert_eq!(failures.counts.len(), COUNTS_MAX);
        assert_eq!(failures.wait_s("ana", peer("10.0.0.1"), 1), Some(300));
        failures.failed("bob", peer("10.0.0.3"), WINDOW_MICROS + 1);
        assert_eq!(failures.counts.len(), 2, "what is over makes room");
    }
}
