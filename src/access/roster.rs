//! The users of a running server: read at its start, and again when their file changes, so that a
//! user who is disabled stays out without a restart. A file that cannot be read changes nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use super::principal::Principal;
use super::token::Token;
use super::users::{self, User, Users};
use crate::error::Result;
use crate::source::{Source, Stamp};

/// How often the file is looked at.
const LOOK_MICROS: i64 = 1_000_000;

/// The users as their file was last read, for all threads of a server.
pub struct Roster {
    path: Option<PathBuf>,
    members: RwLock<Arc<Members>>,
    seen: Mutex<Seen>,
}

/// All users at one moment.
#[derive(Debug)]
pub struct Members {
    by_name: HashMap<String, Member>,
    /// User names by the ids of tokens.
    token_owners: HashMap<String, String>,
}

/// A user as the file has them, and who they are once they have proved it.
#[derive(Debug)]
pub struct Member {
    pub user: User,
    pub principal: Arc<Principal>,
}

struct Seen {
    stamp: Option<Stamp>,
    looked: i64,
    /// Why the file as it is now was not taken.
    problem: Option<String>,
}

impl Roster {
    /// The users in a file, which is watched.
    pub fn read(path: &Path) -> Result<Self> {
        // Looked at first: a change during the reading is then seen as a change.
        let stamp = Stamp::of(path);
        let members = Members::new(users::parse(&users::read_text(path)?)?);
        Ok(Self {
            path: Some(path.to_path_buf()),
            members: RwLock::new(Arc::new(members)),
            seen: Mutex::new(Seen { stamp, looked: i64::MIN, problem: None }),
        })
    }

    /// The users that a text describes, for good.
    pub fn of_text(source: &Source) -> Result<Self> {
        let members = Members::new(users::parse(source)?);
        Ok(Self {
            path: None,
            members: RwLock::new(Arc::new(members)),
            seen: Mutex::new(Seen { stamp: None, looked: i64::MIN, problem: None }),
        })
    }

    /// `None` if the users came as a text, which does not change.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Why the file cannot be used as it was when it was last looked at.
    pub fn problem(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// The users as the file says, but for the last second.
    pub fn at(&self, now: i64) -> Arc<Members> {
        if let Some(path) = &self.path {
            self.look(path, now);
        }
        Arc::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self, path: &Path, now: i64) {
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody else is looking.
            Err(TryLockError::WouldBlock) => return,
        };
        if (seen.looked..seen.looked.saturating_add(LOOK_MICROS)).contains(&now) {
            return;
        }
        seen.looked = now;
        let stamp = Stamp::of(path);
        if stamp == seen.stamp {
            return;
        }
        seen.stamp = stamp;
        match users::read_text(path).and_then(|source| users::parse(&source)) {
            Ok(users) => {
                seen.problem = None;
                tracing::info!(path = %path.display(), users = users.len(), "users read again");
                let members = Arc::new(Members::new(users));
                *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
            }
            Err(error) => {
                seen.problem = Some(error.line());
                let problem = error.diagnostics.first().map(ToString::to_string);
                tracing::error!(path = %path.display(), %error, problem, "users cannot be read again; those before stay");
            }
        }
    }
}

impl Members {
    fn new(users: Users) -> Self {
        let mut members =
            Self { by_name: HashMap::with_capacity(users.len()), token_owners: HashMap::new() };
        for (name, user) in users {
            for token in &user.tokens {
                members.token_owners.insert(token.id.clone(), name.clone());
            }
            let principal =
                Principal { user: name.clone(), role: user.role, grants: user.grants.clone() };
            members.by_name.insert(name, Member { user, principal: Arc::new(principal) });
        }
        members
    }

    /// Also one who is disabled: that is for the caller to ask.
    pub fn get(&self, user: &str) -> Option<&Member> {
        self.by_name.get(user)
    }

    /// Looks at the id alone: whether the token is right or has expired, and whether its user is
    /// disabled, is for the caller to ask.
    pub fn token(&self, id: &str) -> Option<(&Member, &Token)> {
        let member = self.get(self.token_owners.get(id)?)?;
        let token = member.user.tokens.iter().find(|token| token.id == id)?;
        Some((member, token))
    }
}
