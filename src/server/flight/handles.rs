//! What clients hold of the server: an id, sealed with the user it was given to and the time it
//! ends; and the bounded stores that ids point into. A handle says nothing of what it stands for,
//! so that nothing a client sends is ever run or opened.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::access::Access;
use crate::error::{Error, ErrorKind, Result};

/// What a handle is for; one sealed for another purpose is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Result,
    Prepared,
    Poll,
    Session,
}

impl Purpose {
    /// In messages.
    fn noun(self) -> &'static str {
        match self {
            Purpose::Result => "result",
            Purpose::Prepared => "prepared statement",
            Purpose::Poll => "statement",
            Purpose::Session => "session",
        }
    }

    fn seal_name(self) -> &'static str {
        match self {
            Purpose::Result => "flight result",
            Purpose::Prepared => "flight prepared statement",
            Purpose::Poll => "flight poll",
            Purpose::Session => "flight session",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Purpose::Result | Purpose::Poll => "run the statement again",
            Purpose::Prepared => "prepare the statement again",
            Purpose::Session => "set the session's options again",
        }
    }

    /// The same words whether it never was, has expired, or is somebody else's.
    pub fn unknown(self) -> Error {
        let message = format!("the {} is unknown or has expired", self.noun());
        Error::new(ErrorKind::NotFound, message).hint(self.advice())
    }
}

/// What a client is given of a stored value. It names no user: that is added when it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    pub id: Uuid,
    /// Which part of a result; 0 elsewhere.
    pub part: u32,
    /// Microseconds since 1970 UTC.
    pub expires: i64,
}

impl Handle {
    /// For `user` to send back; only this process can open it, for the same `purpose` and user.
    pub fn seal(&self, access: &Access, purpose: Purpose, user: &str) -> Vec<u8> {
        let mut payload = Vec::with_capacity(28 + user.len());
        payload.extend_from_slice(self.id.as_bytes());
        payload.extend_from_slice(&self.part.to_le_bytes());
        payload.extend_from_slice(&self.expires.to_le_bytes());
        payload.extend_from_slice(user.as_bytes());
        access.seal(purpose.seal_name(), &payload)
    }

    /// What `sealed` holds, if it was sealed here for this purpose and user and has not ended.
    pub fn unseal(
        access: &Access,
        purpose: Purpose,
        sealed: &[u8],
        user: &str,
        now: i64,
    ) -> Result<Self> {
        let foreign = || {
            let message = format!("the {} handle was not given out by this server", purpose.noun());
            Error::new(ErrorKind::Unauthenticated, message).hint(purpose.advice())
        };
        let payload = access.unseal(purpose.seal_name(), sealed).ok_or_else(foreign)?;
        let (id, rest) = payload.split_first_chunk::<16>().ok_or_else(foreign)?;
        let (part, rest) = rest.split_first_chunk::<4>().ok_or_else(foreign)?;
        let (expires, owner) = rest.split_first_chunk::<8>().ok_or_else(foreign)?;
        let handle = Self {
            id: Uuid::from_bytes(*id),
            part: u32::from_le_bytes(*part),
            expires: i64::from_le_bytes(*expires),
        };
        if owner != user.as_bytes() || handle.expires <= now {
            return Err(purpose.unknown());
        }
        Ok(handle)
    }
}

/// Bounds of one store.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    pub count_max: usize,
    pub count_per_user_max: usize,
    pub bytes_max: usize,
    /// One value alone may have more.
    pub bytes_per_user_max: usize,
    /// From the last use on.
    pub life_micros: i64,
    /// However much it is used.
    pub age_micros_max: i64,
    /// What nobody used for so long gives way to others, if it must; `i64::MAX` for never.
    pub gives_way_micros: i64,
}

/// What a value takes in memory.
#[derive(Debug, Clone, Default)]
pub struct Weight {
    /// By itself, in bytes.
    pub bytes: usize,
    /// What it shares with other values, by name, in bytes.
    pub shared: Vec<(String, usize)>,
}

impl Weight {
    pub fn of(bytes: usize) -> Self {
        Self { bytes, shared: Vec::new() }
    }

    /// What is shared counts once.
    fn of_all<'a>(weights: impl Iterator<Item = &'a Weight>) -> usize {
        let (mut bytes, mut shared) = (0, HashMap::new());
        for weight in weights {
            bytes += weight.bytes;
            shared.extend(weight.shared.iter().map(|(name, bytes)| (name.as_str(), *bytes)));
        }
        bytes + shared.values().sum::<usize>()
    }
}

/// Values by id, each of one user, until it is taken out or nobody used it for its life. Past a
/// bound those go first whose user is done with them, and then those that give way: the user's own
/// where it is the user's bound, and otherwise those of whoever holds most. If there are none,
/// nothing more is taken.
pub struct Store<T> {
    purpose: Purpose,
    limits: StoreLimits,
    entries: Mutex<HashMap<Uuid, Entry<T>>>,
}

struct Entry<T> {
    value: T,
    user: String,
    weight: Weight,
    made: i64,
    used: i64,
    expires: i64,
    is_done: bool,
}

type Entries<T> = HashMap<Uuid, Entry<T>>;

impl<T: Clone> Store<T> {
    pub fn new(purpose: Purpose, limits: StoreLimits) -> Self {
        Self { purpose, limits, entries: Mutex::default() }
    }

    /// Keeps `value`. A store that is full first drops what may go, and fails if there is no such
    /// value.
    pub fn insert(&self, user: &str, value: T, weight: Weight, now: i64) -> Result<Uuid> {
        let mut entries = self.lock();
        while let Some(bound) = self.reached(&entries, user, &weight) {
            match self.given_up(&entries, &bound, user, now) {
                Some(id) => drop(entries.remove(&id)),
                None => return Err(self.full(bound == Bound::OfUser)),
            }
        }
        let id = Uuid::new_v4();
        let expires = self.end(now, now);
        let user = user.to_owned();
        let entry = Entry { value, user, weight, made: now, used: now, expires, is_done: false };
        entries.insert(id, entry);
        Ok(id)
    }

    /// When a value of that age ends that is used now.
    fn end(&self, made: i64, now: i64) -> i64 {
        let StoreLimits { life_micros, age_micros_max, .. } = self.limits;
        now.saturating_add(life_micros).min(made.saturating_add(age_micros_max))
    }

    /// What one more value of `user` would be too much for.
    fn reached(&self, entries: &Entries<T>, user: &str, weight: &Weight) -> Option<Bound> {
        let limits = &self.limits;
        let own = || entries.values().filter(move |entry| entry.user == user);
        let (own_count, count) = (own().count(), entries.len());
        let is_heavy = || own_count > 0 && bytes_with(own(), weight) > limits.bytes_per_user_max;
        if own_count >= limits.count_per_user_max || is_heavy() {
            return Some(Bound::OfUser);
        }
        let is_full =
            count >= limits.count_max || bytes_with(entries.values(), weight) > limits.bytes_max;
        is_full.then_some(Bound::OfAll)
    }

    /// What goes first.
    fn given_up(&self, entries: &Entries<T>, bound: &Bound, user: &str, now: i64) -> Option<Uuid> {
        let of = |whose: Option<&str>, may_go: &dyn Fn(&Entry<T>) -> bool| {
            entries
                .iter()
                .filter(|(_, entry)| whose.is_none_or(|whose| entry.user == whose))
                .filter(|(_, entry)| may_go(entry))
                .min_by_key(|(_, entry)| entry.used)
                .map(|(id, _)| *id)
        };
        let is_over = |entry: &Entry<T>| entry.is_done || entry.expires <= now;
        let gives_way =
            |entry: &Entry<T>| now.saturating_sub(entry.used) >= self.limits.gives_way_micros;
        match bound {
            Bound::OfUser => of(Some(user), &is_over).or_else(|| of(Some(user), &gives_way)),
            Bound::OfAll => of(None, &is_over).or_else(|| of(heaviest(entries), &gives_way)),
        }
    }

    fn full(&self, is_users: bool) -> Error {
        let noun = self.purpose.noun();
        let whose = if is_users { "you hold" } else { "the server holds" };
        let verb = if is_users { "you may" } else { "it may" };
        Error::new(ErrorKind::Exhausted, format!("{whose} as many {noun}s as {verb}")).hint(
            match self.purpose {
                Purpose::Prepared => "close prepared statements that are not needed any more",
                Purpose::Session => "close sessions that are not needed any more",
                Purpose::Result | Purpose::Poll => {
                    "read results to their end, or wait until abandoned ones expire"
                }
            },
        )
    }

    /// A copy of the value; its life starts again.
    pub fn get(&self, id: Uuid, user: &str, now: i64) -> Result<T> {
        self.with(id, user, now, |value| value.clone())
    }

    /// Changes the value, if it is there; its life starts again.
    pub fn with<R>(
        &self,
        id: Uuid,
        user: &str,
        now: i64,
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<R> {
        let mut entries = self.lock();
        let entry = entries
            .get_mut(&id)
            .filter(|entry| entry.user == user && entry.expires > now)
            .ok_or_else(|| self.purpose.unknown())?;
        entry.used = now;
        entry.expires = self.end(entry.made, now);
        Ok(change(&mut entry.value))
    }

    /// When it ends unless it is used before; the past if it is gone.
    pub fn expires(&self, id: Uuid) -> i64 {
        self.lock().get(&id).map_or(0, |entry| entry.expires)
    }

    /// How many values there are, and what they take in memory, in bytes.
    pub fn held(&self) -> (usize, usize) {
        let entries = self.lock();
        (entries.len(), Weight::of_all(entries.values().map(|entry| &entry.weight)))
    }

    /// The user has had it all; it goes before others if room is needed.
    pub fn set_done(&self, id: Uuid) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.is_done = true;
        }
    }

    /// Does nothing if it is gone, or another user's.
    pub fn remove(&self, id: Uuid, user: &str) {
        let mut entries = self.lock();
        if entries.get(&id).is_some_and(|entry| entry.user == user) {
            entries.remove(&id);
        }
    }

    /// Drops what nobody used for its life.
    pub fn sweep(&self, now: i64) {
        self.lock().retain(|_, entry| entry.expires > now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Entry<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which bound a store came to.
#[derive(PartialEq)]
enum Bound {
    OfUser,
    OfAll,
}

fn bytes_with<'a, T: 'a>(
    entries: impl Iterator<Item = &'a Entry<T>>,
    one_more: &'a Weight,
) -> usize {
    Weight::of_all(entries.map(|entry| &entry.weight).chain([one_more]))
}

/// Whose values take most.
fn heaviest<T>(entries: &Entries<T>) -> Option<&str> {
    let users: HashSet<&str> = entries.values().map(|entry| entry.user.as_str()).collect();
    users.into_iter().max_by_key(|user| {
        let own = entries.values().filter(|entry| entry.user == *user);
        Weight::of_all(own.map(|entry| &entry.weight))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: i64 = 100;

    fn limits(count_max: usize, count_per_user_max: usize) -> StoreLimits {
        StoreLimits {
            count_max,
            count_per_user_max,
            bytes_max: 10,
            bytes_per_user_max: 8,
            life_micros: LIFE,
            age_micros_max: 5 * LIFE,
            gives_way_micros: i64::MAX,
        }
    }

    fn store(count_max: usize, count_per_user_max: usize) -> Store<&'static str> {
        Store::new(Purpose::Result, limits(count_max, count_per_user_max))
    }

    #[track_caller]
    fn check_full(outcome: Result<Uuid>, message: &str) {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Exhausted, message));
    }

    #[test]
    fn a_store_is_bounded_by_count_by_user_and_by_bytes() {
        let small = store(2, 1);
        small.insert("a", "1", Weight::of(1), 0).unwrap();
        check_full(small.insert("a", "2", Weight::of(1), 0), "you hold as many results as you may");
        small.insert("b", "3", Weight::of(1), 0).unwrap();
        check_full(
            small.insert("c", "4", Weight::of(1), 0),
            "the server holds as many results as it may",
        );
        let wide = store(9, 9);
        wide.insert("a", "1", Weight::of(6), 0).unwrap();
        check_full(
            wide.insert("b", "2", Weight::of(6), 0),
            "the server holds as many results as it may",
        );
    }

    #[test]
    fn one_user_leaves_room_to_others_and_what_is_shared_counts_once() {
        let store = store(9, 9);
        let shared = |bytes| Weight { bytes, shared: vec![("t@1".to_owned(), 4)] };
        store.insert("a", "1", shared(1), 0).unwrap();
        store.insert("a", "2", shared(3), 0).unwrap();
        check_full(store.insert("a", "3", shared(1), 0), "you hold as many results as you may");
        assert_eq!(store.held(), (2, 8));
        store.insert("b", "4", shared(2), 0).unwrap();
        assert_eq!(store.held(), (3, 10));
        // Alone it may be more than the user's share.
        Store::new(Purpose::Result, limits(9, 9)).insert("a", "1", Weight::of(9), 0).unwrap();
    }

    #[test]
    fn what_was_long_unused_gives_way_first_that_of_whoever_holds_most() {
        let limits = StoreLimits { gives_way_micros: 10, ..limits(9, 2) };
        let store = Store::new(Purpose::Result, limits);
        let insert = |user: &str, bytes, now| store.insert(user, "", Weight::of(bytes), now);
        let (first, second) = (insert("a", 2, 0).unwrap(), insert("a", 2, 1).unwrap());
        check_full(insert("a", 2, 9), "you hold as many results as you may");
        assert!(store.get(first, "a", 9).is_ok());
        let third = insert("a", 4, 11).unwrap();
        assert!(store.get(second, "a", 11).is_err(), "longest unused");
        let other = insert("b", 3, 12).unwrap();
        check_full(insert("c", 3, 13), "the server holds as many results as it may");
        insert("c", 3, 21).unwrap();
        let kept = [(first, "a"), (third, "a"), (other, "b")]
            .map(|(id, user)| store.get(id, user, 21).is_ok());
        assert_eq!(kept, [false, true, true]);
    }

    #[test]
    fn use_keeps_a_value_to_its_greatest_age() {
        let store = store(9, 9);
        let id = store.insert("a", "1", Weight::of(1), 0).unwrap();
        for now in (0..5 * LIFE).step_by(LIFE as usize / 2) {
            assert!(store.get(id, "a", now).is_ok(), "{now}");
        }
        assert_eq!(store.expires(id), 5 * LIFE);
        assert!(store.get(id, "a", 5 * LIFE).is_err());
    }

    #[test]
    fn what_is_done_with_or_expired_makes_room_and_nothing_else_does() {
        let store = store(2, 2);
        let first = store.insert("a", "1", Weight::of(1), 0).unwrap();
        let second = store.insert("a", "2", Weight::of(1), 1).unwrap();
        store.set_done(second);
        let third = store.insert("b", "3", Weight::of(1), 2).unwrap();
        assert_eq!(store.get(first, "a", 3).unwrap(), "1");
        assert_eq!(store.get(second, "a", 3).unwrap_err().kind, ErrorKind::NotFound);
        store.insert("a", "4", Weight::of(1), 2 + LIFE).unwrap();
        assert_eq!(store.get(third, "b", 3 + LIFE).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_value_is_its_users_alone_and_lives_from_its_last_use() {
        let store = store(9, 9);
        let id = store.insert("a", "1", Weight::of(1), 0).unwrap();
        store.remove(id, "b");
        assert!(store.get(id, "b", 1).is_err());
        assert_eq!(store.get(id, "a", LIFE - 1).unwrap(), "1");
        assert_eq!(store.get(id, "a", LIFE + 1).unwrap(), "1");
        assert!(store.get(id, "a", 2 * LIFE + 1).is_err());
        store.sweep(2 * LIFE + 1);
        assert!(store.lock().is_empty());
    }

    #[test]
    fn a_handle_is_bound_to_its_server_purpose_user_and_time() {
        let access = Access::open();
        let handle = Handle { id: Uuid::from_u128(7), part: 3, expires: 50 };
        let sealed = handle.seal(&access, Purpose::Result, "ann");
        let unseal = |access: &Access, purpose, sealed: &[u8], user: &str, now| {
            Handle::unseal(access, purpose, sealed, user, now).map_err(|error| error.kind)
        };
        assert_eq!(unseal(&access, Purpose::Result, &sealed, "ann", 49), Ok(handle));
        let unknown = Err(ErrorKind::NotFound);
        assert_eq!(unseal(&access, Purpose::Result, &sealed, "ann", 50), unknown);
        assert_eq!(unseal(&access, Purpose::Result, &sealed, "bob", 49), unknown);
        let foreign = Err(ErrorKind::Unauthenticated);
        assert_eq!(unseal(&access, Purpose::Prepared, &sealed, "ann", 49), foreign);
        assert_eq!(unseal(&Access::open(), Purpose::Result, &sealed, "ann", 49), foreign);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(unseal(&access, Purpose::Result, &forged, "ann", 49), foreign);
        }
        assert_eq!(unseal(&access, Purpose::Result, &[], "ann", 49), foreign);
    }
}
