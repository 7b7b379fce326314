//! What clients hold of the server: an id, sealed with the user it was given to and the time it
//! ends; and the bounded stores that ids point into. A handle says nothing of what it stands for,
//! so that nothing a client sends is ever run or opened.

use std::collections::HashMap;
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
    /// From the last use on.
    pub life_micros: i64,
}

/// Values by id, each of one user, until it is taken out or nobody used it for its life. Past a
/// bound those go first whose user is done with them; if there are none, nothing more is taken.
pub struct Store<T> {
    purpose: Purpose,
    limits: StoreLimits,
    entries: Mutex<HashMap<Uuid, Entry<T>>>,
}

struct Entry<T> {
    value: T,
    user: String,
    bytes: usize,
    expires: i64,
    is_done: bool,
}

impl<T: Clone> Store<T> {
    pub fn new(purpose: Purpose, limits: StoreLimits) -> Self {
        Self { purpose, limits, entries: Mutex::default() }
    }

    /// Keeps `value`, of about `bytes`. A store that is full first drops what is done or expired,
    /// and fails if there is no such value.
    pub fn insert(&self, user: &str, value: T, bytes: usize, now: i64) -> Result<Uuid> {
        let limits = &self.limits;
        let mut entries = self.lock();
        let is_full = |entries: &HashMap<Uuid, Entry<T>>| {
            entries.len() >= limits.count_max
                || entries.values().map(|entry| entry.bytes).sum::<usize>() + bytes
                    > limits.bytes_max
        };
        let is_users_full = |entries: &HashMap<Uuid, Entry<T>>| {
            entries.values().filter(|entry| entry.user == user).count() >= limits.count_per_user_max
        };
        loop {
            let (all, users) = (is_full(&entries), is_users_full(&entries));
            if !all && !users {
                break;
            }
            let given_up = entries
                .iter()
                .filter(|(_, entry)| entry.is_done || entry.expires <= now)
                .filter(|(_, entry)| all || entry.user == user)
                .min_by_key(|(_, entry)| entry.expires)
                .map(|(id, _)| *id);
            match given_up {
                Some(id) => drop(entries.remove(&id)),
                None => return Err(self.full(users && !all)),
            }
        }
        let id = Uuid::new_v4();
        let expires = now.saturating_add(limits.life_micros);
        let user = user.to_owned();
        entries.insert(id, Entry { value, user, bytes, expires, is_done: false });
        Ok(id)
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
        entry.expires = now.saturating_add(self.limits.life_micros);
        Ok(change(&mut entry.value))
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: i64 = 100;

    fn store(count_max: usize, count_per_user_max: usize) -> Store<&'static str> {
        let limits =
            StoreLimits { count_max, count_per_user_max, bytes_max: 10, life_micros: LIFE };
        Store::new(Purpose::Result, limits)
    }

    #[track_caller]
    fn check_full(outcome: Result<Uuid>, message: &str) {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Exhausted, message));
    }

    #[test]
    fn a_store_is_bounded_by_count_by_user_and_by_bytes() {
        let small = store(2, 1);
        small.insert("a", "1", 1, 0).unwrap();
        check_full(small.insert("a", "2", 1, 0), "you hold as many results as you may");
        small.insert("b", "3", 1, 0).unwrap();
        check_full(small.insert("c", "4", 1, 0), "the server holds as many results as it may");
        let wide = store(9, 9);
        wide.insert("a", "1", 6, 0).unwrap();
        check_full(wide.insert("a", "2", 6, 0), "the server holds as many results as it may");
    }

    #[test]
    fn what_is_done_with_or_expired_makes_room_and_nothing_else_does() {
        let store = store(2, 2);
        let first = store.insert("a", "1", 1, 0).unwrap();
        let second = store.insert("a", "2", 1, 1).unwrap();
        store.set_done(second);
        let third = store.insert("b", "3", 1, 2).unwrap();
        assert_eq!(store.get(first, "a", 3).unwrap(), "1");
        assert_eq!(store.get(second, "a", 3).unwrap_err().kind, ErrorKind::NotFound);
        store.insert("a", "4", 1, 2 + LIFE).unwrap();
        assert_eq!(store.get(third, "b", 3 + LIFE).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_value_is_its_users_alone_and_lives_from_its_last_use() {
        let store = store(9, 9);
        let id = store.insert("a", "1", 1, 0).unwrap();
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
