//! Who somebody is: passwords, tokens of the users file, and bearers that this server gives out
//! itself. Answers are the same for a wrong password and for a user that does not exist.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_NO_PAD};

use super::failures::Failures;
use super::principal::Principal;
use super::roster::{Member, Roster};
use super::seal::{CODE_BYTES, Seal};
use super::turns::Turns;
use super::users::User;
use super::{password, token};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

/// How long a bearer of [`Access::bearer`] is good for.
pub const BEARER_LIFETIME_MICROS: i64 = 12 * 3600 * 1_000_000;
/// Longest `authorization` header read.
const HEADER_BYTES_MAX: usize = 8 << 10;
const BEARER_PREFIX: &str = "fgs_";
const BEARER_PURPOSE: &str = "bearer";
/// Bytes of a code that stand for one credential in a bearer.
const MARK_BYTES: usize = 8;
const LOGIN_HINT: &str = "send a user and a password, or a token as a bearer";
const AGAIN_HINT: &str = "log in again";

/// All users of a server, and its own key. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    shared: Arc<Shared>,
}

struct Shared {
    seal: Seal,
    local: Arc<Principal>,
    /// `None`: nobody is asked.
    people: Option<People>,
}

struct People {
    roster: Roster,
    failures: Mutex<Failures>,
    turns: Turns,
    /// Codes of passwords that were right, by user: a client that sends its password with every
    /// request does not pay for the slow hash each time.
    proven: Mutex<HashMap<String, [u8; CODE_BYTES]>>,
}

impl Access {
    /// Nobody is asked; everybody is [`Principal::local`].
    pub fn open() -> Self {
        Self::new(None)
    }

    /// The users in a file.
    pub fn read(path: &Path) -> Result<Self> {
        Roster::read(path).map(|roster| Self::new(Some(roster)))
    }

    /// As configured: `server.users`, or else the file, or else open. A file that somebody named
    /// must be there.
    pub fn configured(config: &Config) -> Result<Self> {
        let server = &config.server;
        if let Some(users) = &server.users {
            let source = Source::new("server.users", users.expose());
            return Roster::of_text(&source).map(|roster| Self::new(Some(roster)));
        }
        match Self::read(&server.users_file) {
            Err(error)
                if error.kind == ErrorKind::NotFound && !config.is_given("server.users_file") =>
            {
                Ok(Self::open())
            }
            read => read,
        }
    }

    fn new(roster: Option<Roster>) -> Self {
        let people = roster.map(|roster| {
            password::prepare();
            People {
                roster,
                failures: Mutex::default(),
                turns: Turns::default(),
                proven: Mutex::default(),
            }
        });
        let local = Arc::new(Principal::local());
        Self { shared: Arc::new(Shared { seal: Seal::random(), local, people }) }
    }

    /// Whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.shared.people.is_none()
    }

    /// Who sends this `authorization` header: `Basic`, or `Bearer` with a token of the file or one
    /// of [`Self::bearer`]. Checking a password takes some 50 ms of a core and may wait for others:
    /// call it where blocking is allowed. `Unauthenticated` if absent or wrong, `Denied` for users
    /// who are disabled, `Exhausted` after too many failures.
    pub fn authorize(
        &self,
        header: Option<&str>,
        peer: IpAddr,
        now: i64,
    ) -> Result<Arc<Principal>> {
        let Some(people) = &self.shared.people else { return Ok(self.local()) };
        let Some(header) = header.map(str::trim) else {
            return Err(unauthenticated("nobody is logged in", LOGIN_HINT));
        };
        let (scheme, credentials) = header.split_once(' ').unwrap_or((header, ""));
        let credentials = credentials.trim();
        if header.len() > HEADER_BYTES_MAX {
            return Err(unauthenticated("the `authorization` header is too long", LOGIN_HINT));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let (user, password) = basic(credentials).ok_or_else(|| {
                unauthenticated(
                    "the `authorization` header is not `Basic` as RFC 7617 has it",
                    LOGIN_HINT,
                )
            })?;
            return self.password(&user, &password, peer, now);
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return match credentials.strip_prefix(BEARER_PREFIX) {
                Some(bearer) => self.check_bearer(people, bearer, now),
                None => check_token(people, credentials, now),
            };
        }
        Err(unauthenticated(
            "the `authorization` header is neither `Basic` nor `Bearer`",
            LOGIN_HINT,
        ))
    }

    /// The same for a user and a password. A token of the user's is taken too, for tools that know
    /// nothing but passwords.
    pub fn password(
        &self,
        user: &str,
        password: &str,
        peer: IpAddr,
        now: i64,
    ) -> Result<Arc<Principal>> {
        let Some(people) = &self.shared.people else { return Ok(self.local()) };
        if token::id_of(password).is_some() {
            let principal = check_token(people, password, now)?;
            return if principal.user == user { Ok(principal) } else { Err(wrong()) };
        }
        let members = people.roster.at(now);
        let member = members.get(user);
        people.admit(user, peer, now)?;
        if !self.is_proven(people, user, member, password) {
            let turn = people.turns.enter().ok_or_else(|| {
                let message = "too many passwords are being checked";
                Error::new(ErrorKind::Exhausted, message).hint("try again in a second")
            })?;
            // Others may have failed, or shown the same password, while this one waited.
            people.admit(user, peer, now)?;
            if !self.is_proven(people, user, member, password) {
                let hash = member.and_then(|member| member.user.password.as_ref());
                if !password::verify(password, hash)? {
                    people.failed(user, member.is_some(), peer, now);
                    return Err(wrong());
                }
                self.remember(people, user, member, password);
            }
            drop(turn);
        }
        people.failures().succeeded(user, peer);
        member.ok_or_else(wrong).and_then(enabled)
    }

    /// A bearer of this server for somebody who has proved who they are. It ends after
    /// [`BEARER_LIFETIME_MICROS`], with this process, and with any credential that the user has now.
    pub fn bearer(&self, principal: &Principal, now: i64) -> String {
        let people = self.shared.people.as_ref();
        let members = people.map(|people| people.roster.at(now));
        let member = members.as_ref().and_then(|members| members.get(&principal.user));
        let marks = member.map_or_else(Vec::new, |member| self.marks(&member.user, Some(now)));
        let mut payload = now.saturating_add(BEARER_LIFETIME_MICROS).to_le_bytes().to_vec();
        // A user has few tokens: see `users::TOKENS_PER_USER_MAX`.
        payload.push(u8::try_from(marks.len()).unwrap_or(u8::MAX));
        payload.extend(marks.iter().take(usize::from(u8::MAX)).flatten());
        payload.extend(principal.user.as_bytes());
        let sealed = self.seal(BEARER_PURPOSE, &payload);
        format!("{BEARER_PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Why the file of users cannot be used as it is now, but for the last second; the users before
    /// stay.
    pub fn problem(&self, now: i64) -> Option<String> {
        let people = self.shared.people.as_ref()?;
        people.roster.at(now);
        people.roster.problem()
    }

    /// The user as the file says, but for the last second; `None` once disabled or gone.
    pub fn current(&self, user: &str, now: i64) -> Option<Arc<Principal>> {
        let Some(people) = &self.shared.people else {
            return (user == self.shared.local.user).then(|| self.local());
        };
        let members = people.roster.at(now);
        members.get(user).and_then(|member| enabled(member).ok())
    }

    /// `payload` with a code that only this server can make, for one `purpose`.
    pub fn seal(&self, purpose: &str, payload: &[u8]) -> Vec<u8> {
        self.shared.seal.seal(purpose, payload)
    }

    /// What was sealed, if it was sealed here for this purpose; compared in constant time.
    pub fn unseal<'a>(&self, purpose: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
        self.shared.seal.unseal(purpose, sealed)
    }

    fn local(&self) -> Arc<Principal> {
        Arc::clone(&self.shared.local)
    }

    fn check_bearer(&self, people: &People, bearer: &str, now: i64) -> Result<Arc<Principal>> {
        let sealed = URL_SAFE_NO_PAD.decode(bearer).unwrap_or_default();
        let payload = self.unseal(BEARER_PURPOSE, &sealed).and_then(split_bearer);
        let Some((expires, marks, user)) = payload else {
            let message = "the bearer is not one of this server since its start";
            return Err(unauthenticated(message, AGAIN_HINT));
        };
        if expires <= now {
            return Err(unauthenticated("the bearer has expired", AGAIN_HINT));
        }
        let members = people.roster.at(now);
        let Some(member) = members.get(user) else {
            return Err(unauthenticated(format!("user `{user}` is gone"), LOGIN_HINT));
        };
        let valid = self.marks(&member.user, None);
        if !marks.chunks(MARK_BYTES).all(|mark| valid.iter().any(|valid| valid == mark)) {
            let message = format!("the password or a token of `{user}` was replaced");
            return Err(unauthenticated(message, AGAIN_HINT));
        }
        enabled(member)
    }

    /// What stands for each credential of a user: without `now` all, else those not expired.
    fn marks(&self, user: &User, now: Option<i64>) -> Vec<[u8; MARK_BYTES]> {
        let password = user.password.iter().map(|hash| hash.expose().to_owned());
        let tokens =
            user.tokens.iter().filter(|token| !now.is_some_and(|now| token.is_expired(now)));
        let credentials = password.chain(tokens.map(|token| token.hash.to_hex()));
        credentials
            .map(|credential| {
                let code = self.shared.seal.code("mark", credential.as_bytes());
                std::array::from_fn(|at| code[at])
            })
            .collect()
    }

    fn is_proven(
        &self,
        people: &People,
        user: &str,
        member: Option<&Member>,
        password: &str,
    ) -> bool {
        let Some(proof) = proof(user, member, password) else { return false };
        let proven = people.proven.lock().unwrap_or_else(PoisonError::into_inner);
        proven.get(user).is_some_and(|code| self.shared.seal.is_code("password", &proof, code))
    }

    fn remember(&self, people: &People, user: &str, member: Option<&Member>, password: &str) {
        if let Some(proof) = proof(user, member, password) {
            let code = self.shared.seal.code("password", &proof);
            let mut proven = people.proven.lock().unwrap_or_else(PoisonError::into_inner);
            proven.insert(user.to_owned(), code);
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.shared.people.as_ref().map(|people| people.roster.path());
        f.debug_struct("Access").field("is_open", &self.is_open()).field("path", &path).finish()
    }
}

impl People {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, user: &str, peer: IpAddr, now: i64) -> Result<()> {
        match self.failures().wait_s(user, peer, now) {
            None => Ok(()),
            Some(seconds) => Err(Error::new(ErrorKind::Exhausted, "too many wrong passwords")
                .hint(format!("try again in {seconds} s, or use a token"))),
        }
    }

    fn failed(&self, user: &str, is_known: bool, peer: IpAddr, now: i64) {
        // What somebody typed for an unknown user may have been a password.
        let named = if is_known { user } else { "unknown" };
        tracing::warn!(user = named, %peer, "wrong password");
        self.failures().failed(user, peer, now);
    }
}

fn check_token(people: &People, text: &str, now: i64) -> Result<Arc<Principal>> {
    let members = people.roster.at(now);
    let found = token::id_of(text).and_then(|id| members.token(id));
    let Some((member, token)) = found.filter(|(_, token)| token.hash.is_of(text)) else {
        return Err(unauthenticated("the token is not known", LOGIN_HINT));
    };
    if let Some(expired) = token.expires.filter(|_| token.is_expired(now)) {
        let user = &member.principal.user;
        let message = format!("token `{}` of `{user}` expired on {expired}", token.name);
        return Err(unauthenticated(message, format!("make another: flowguard user token {user}")));
    }
    enabled(member)
}

/// What a proven password is remembered by; another one after the password was changed.
fn proof(user: &str, member: Option<&Member>, password: &str) -> Option<Vec<u8>> {
    let hash = member?.user.password.as_ref()?;
    Some([hash.expose(), "\0", user, "\0", password].concat().into_bytes())
}

fn enabled(member: &Member) -> Result<Arc<Principal>> {
    if member.user.disabled {
        let user = &member.principal.user;
        return Err(Error::new(ErrorKind::Denied, format!("user `{user}` is disabled"))
            .hint(format!("an administrator may run: flowguard user enable {user}")));
    }
    Ok(Arc::clone(&member.principal))
}

fn unauthenticated(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unauthenticated, message).hint(hint)
}

fn wrong() -> Error {
    unauthenticated(
        "wrong user or password",
        "an administrator may run: flowguard user password NAME",
    )
}

/// User and password of `Basic` credentials.
fn basic(credentials: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD_PAD_INDIFFERENT.decode(credentials).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Expiry, marks and user.
fn split_bearer(payload: &[u8]) -> Option<(i64, &[u8], &str)> {
    let (expires, rest) = payload.split_first_chunk()?;
    let (count, rest) = rest.split_first()?;
    let (marks, user) = rest.split_at_checked(usize::from(*count) * MARK_BYTES)?;
    Some((i64::from_le_bytes(*expires), marks, str::from_utf8(user).ok()?))
}

#[cfg(test)]
mod tests;
