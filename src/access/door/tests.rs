//! Headers in, principals or whole errors out, over a file of users and with a clock of the test's.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::access::edit::UsersFile;
use crate::access::token::Token;
use crate::access::users::{TOKENS_PER_USER_MAX, User};
use crate::access::{Grant, Role};
use crate::config::Secret;
use crate::interval::Instant;

const SECOND: i64 = 1_000_000;
const PASSWORD: &str = "planted-password";

/// A folder with a file of users, and the server's view of it.
struct House {
    folder: TempDir,
    access: Access,
}

impl House {
    /// Ana the analyst, with [`PASSWORD`].
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut ana = User::new(Role::Analyst);
        ana.password = Some(password::hash(&Secret::new(PASSWORD)).unwrap());
        edit(&folder.path().join("users.yaml"), "ana", Some(ana));
        let access = Access::read(&folder.path().join("users.yaml")).unwrap();
        Self { folder, access }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("users.yaml")
    }

    fn change(&self, change: impl FnOnce(&mut User)) {
        let mut user = UsersFile::open(&self.path()).unwrap().user("ana").unwrap().clone();
        change(&mut user);
        edit(&self.path(), "ana", Some(user));
    }

    /// A new token of ana's.
    fn token(&self, expires: Option<i64>) -> String {
        let (token, text) = Token::generate("ci", expires.map(Instant));
        self.change(|ana| ana.tokens.push(token));
        text.expose().to_owned()
    }

    fn ask(&self, header: &str, now: i64) -> String {
        self.ask_from(header, "10.0.0.1", now)
    }

    /// `ok` and the user, or everything the error says.
    fn ask_from(&self, header: &str, peer: &str, now: i64) -> String {
        match self.access.authorize(Some(header), peer.parse().unwrap(), now) {
            Ok(principal) => format!("ok {} {}", principal.user, principal.role),
            Err(error) => {
                let mut said = format!("{:?}: {error}", error.kind);
                write!(said, " ({})", error.hint.as_deref().unwrap_or_default()).unwrap();
                said
            }
        }
    }
}

fn edit(path: &Path, name: &str, user: Option<User>) {
    let mut file = UsersFile::open(path).unwrap();
    file.put(name, user);
    file.save().unwrap();
}

/// With rights that are not refused, whatever the umask.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn basic_of(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD_PAD_INDIFFERENT.encode(format!("{user}:{password}")))
}

const WRONG: &str = "Unauthenticated: wrong user or password (an administrator may run: flowguard user password NAME)";

#[test]
fn a_right_password_opens_and_everything_else_looks_the_same() {
    let house = House::new();
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 0), "ok ana analyst");
    assert_eq!(
        house.ask(&basic_of("ana", PASSWORD).replace("Basic", "bAsIc"), 0),
        "ok ana analyst"
    );
    for (user, password) in
        [("ana", "planted-passwore"), ("ana", ""), ("eve", PASSWORD), ("", ""), ("Ana", PASSWORD)]
    {
        assert_eq!(house.ask(&basic_of(user, password), 0), WRONG);
    }
}

#[test]
fn a_header_that_is_neither_is_explained() {
    let house = House::new();
    let peer = "10.0.0.1".parse().unwrap();
    let error = house.access.authorize(None, peer, 0).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Unauthenticated, "nobody is logged in")
    );
    for (header, expect) in [
        ("", "the `authorization` header is neither `Basic` nor `Bearer`"),
        ("Digest a", "the `authorization` header is neither `Basic` nor `Bearer`"),
        ("Basic ???", "the `authorization` header is not `Basic` as RFC 7617 has it"),
        ("Basic YW5h", "the `authorization` header is not `Basic` as RFC 7617 has it"),
        ("Bearer", "the token is not known"),
        ("Bearer fg_0123456789abcdef_x", "the token is not known"),
        ("Bearer fgs_AAAA", "the bearer is not one of this server since its start"),
        (
            &format!("Bearer {}", "a".repeat(HEADER_BYTES_MAX)),
            "the `authorization` header is too long",
        ),
    ] {
        let error = house.access.authorize(Some(header), peer, 0).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unauthenticated, expect));
    }
}

#[test]
fn an_open_server_asks_nobody() {
    let access = Access::open();
    let peer = "127.0.0.1".parse().unwrap();
    assert!(access.is_open());
    for header in [None, Some("Basic planted"), Some("Bearer planted")] {
        assert_eq!(*access.authorize(header, peer, 0).unwrap(), Principal::local());
    }
    assert_eq!(*access.password("ana", "", peer, 0).unwrap(), Principal::local());
    assert_eq!(*access.current("local", 0).unwrap(), Principal::local());
    assert_eq!(access.current("ana", 0), None);
}

#[test]
fn failures_are_counted_per_user_and_address_and_end_with_time() {
    let house = House::new();
    for _ in 0..10 {
        assert_eq!(house.ask(&basic_of("ana", "wrong"), 0), WRONG);
    }
    let wait = "Exhausted: too many wrong passwords (try again in 290 s, or use a token)";
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 10 * SECOND), wait);
    assert_eq!(
        house.ask_from(&basic_of("ana", PASSWORD), "10.0.0.2", 10 * SECOND),
        "ok ana analyst"
    );
    let token = house.token(None);
    assert_eq!(house.ask(&format!("Bearer {token}"), 12 * SECOND), "ok ana analyst");
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 300 * SECOND), "ok ana analyst");
}

#[test]
fn a_success_resets_the_count() {
    let house = House::new();
    for _ in 0..3 {
        for _ in 0..9 {
            assert_eq!(house.ask(&basic_of("ana", "wrong"), 0), WRONG);
        }
        assert_eq!(house.ask(&basic_of("ana", PASSWORD), 0), "ok ana analyst");
    }
}

#[test]
fn wrong_tokens_do_not_lock_their_neighbours_out() {
    let house = House::new();
    for _ in 0..100 {
        house.ask("Bearer fg_0123456789abcdef_x", 0);
        house.ask("Bearer fgs_AAAA", 0);
    }
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 0), "ok ana analyst");
}

#[test]
fn a_token_is_good_until_it_expires_or_is_revoked() {
    let house = House::new();
    let token = house.token(Some(100 * SECOND));
    assert_eq!(house.ask(&format!("Bearer {token}"), 99 * SECOND), "ok ana analyst");
    assert_eq!(house.ask(&basic_of("ana", &token), 99 * SECOND), "ok ana analyst");
    assert_eq!(house.ask(&basic_of("eve", &token), 99 * SECOND), WRONG);
    let known = token.rsplit_once('_').unwrap().0;
    assert_eq!(
        house.ask(&format!("Bearer {known}_0000"), 99 * SECOND),
        format!("Unauthenticated: the token is not known ({LOGIN_HINT})")
    );
    assert_eq!(
        house.ask(&format!("Bearer {token}"), 100 * SECOND),
        "Unauthenticated: token `ci` of `ana` expired on 1970-01-01T00:01:40Z (make another: flowguard user token ana)"
    );
    house.change(|ana| ana.tokens.clear());
    assert_eq!(
        house.ask(&format!("Bearer {token}"), 98 * SECOND),
        format!("Unauthenticated: the token is not known ({LOGIN_HINT})")
    );
}

#[test]
fn a_bearer_is_good_for_its_time_at_its_server_and_as_it_was_given() {
    let house = House::new();
    let ana = house.access.current("ana", 0).unwrap();
    let bearer = format!("Bearer {}", house.access.bearer(&ana, 0));
    let last = BEARER_LIFETIME_MICROS - 1;
    assert_eq!(house.ask(&bearer, last), "ok ana analyst");
    assert_eq!(
        house.ask(&bearer, last + 1),
        "Unauthenticated: the bearer has expired (log in again)"
    );
    let strange =
        "Unauthenticated: the bearer is not one of this server since its start (log in again)";
    let other = Access::read(&house.path()).unwrap();
    assert_eq!(house.ask(&format!("Bearer {}", other.bearer(&ana, 0)), 0), strange);
    let start = "Bearer fgs_".len();
    for at in start..bearer.len() - 1 {
        let mut tampered = bearer.clone().into_bytes();
        tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(house.ask(&String::from_utf8(tampered).unwrap(), 0), strange, "byte {at}");
    }
}

#[test]
fn a_bearer_ends_with_any_credential_of_its_user_and_not_with_a_new_one() {
    let house = House::new();
    let token = house.token(None);
    assert_eq!(house.ask(&format!("Bearer {token}"), SECOND), "ok ana analyst");
    let ana = house.access.current("ana", 0).unwrap();
    let bearer = format!("Bearer {}", house.access.bearer(&ana, SECOND));
    house.token(None);
    assert_eq!(house.ask(&bearer, 3 * SECOND), "ok ana analyst");
    house.change(|ana| drop(ana.tokens.remove(0)));
    let replaced = "Unauthenticated: the password or a token of `ana` was replaced (log in again)";
    assert_eq!(house.ask(&bearer, 5 * SECOND), replaced);
    let bearer = format!("Bearer {}", house.access.bearer(&ana, 5 * SECOND));
    assert_eq!(house.ask(&bearer, 5 * SECOND), "ok ana analyst");
    house.change(|ana| ana.password = None);
    assert_eq!(house.ask(&bearer, 7 * SECOND), replaced);
    edit(&house.path(), "ana", None);
    assert_eq!(
        house.ask(&bearer, 9 * SECOND),
        format!("Unauthenticated: user `ana` is gone ({LOGIN_HINT})")
    );
}

#[test]
fn the_most_tokens_fit_into_a_bearer() {
    let house = House::new();
    house.change(|ana| {
        ana.tokens = (0..TOKENS_PER_USER_MAX).map(|_| Token::generate("ci", None).0).collect();
    });
    let ana = house.access.current("ana", 0).unwrap();
    let bearer = format!("Bearer {}", house.access.bearer(&ana, 0));
    assert!(bearer.len() < 600, "{}", bearer.len());
    assert_eq!(house.ask(&bearer, 0), "ok ana analyst");
}

#[test]
fn a_disabled_user_is_out_within_a_second() {
    let house = House::new();
    let token = house.token(None);
    let ana = house.access.current("ana", 0).unwrap();
    let headers = [
        basic_of("ana", PASSWORD),
        format!("Bearer {token}"),
        format!("Bearer {}", house.access.bearer(&ana, 0)),
    ];
    for header in &headers {
        assert_eq!(house.ask(header, 2 * SECOND), "ok ana analyst");
    }
    house.change(|ana| ana.disabled = true);
    assert_eq!(house.ask(&headers[0], 3 * SECOND - 1), "ok ana analyst", "looked at once a second");
    for header in &headers {
        assert_eq!(
            house.ask(header, 3 * SECOND),
            "Denied: user `ana` is disabled (an administrator may run: flowguard user enable ana)"
        );
    }
    assert_eq!(house.access.current("ana", 0), None);
    assert_eq!(house.ask(&basic_of("ana", "wrong"), 3 * SECOND), WRONG, "nobody else learns of it");
    house.change(|ana| {
        ana.disabled = false;
        ana.role = Role::Engineer;
        ana.grants.push(Grant::Layer(crate::table::Layer::Bronze));
    });
    assert_eq!(house.ask(&headers[2], 5 * SECOND), "ok ana engineer");
    assert_eq!(house.access.current("ana", 0).unwrap().grants.len(), 1);
}

#[test]
fn a_new_password_ends_the_old_one() {
    let house = House::new();
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 0), "ok ana analyst");
    house.change(|ana| ana.password = Some(password::hash(&Secret::new("another one")).unwrap()));
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 2 * SECOND), WRONG);
    assert_eq!(house.ask(&basic_of("ana", "another one"), 2 * SECOND), "ok ana analyst");
}

#[test]
fn a_broken_file_changes_nothing_until_it_is_right_again() {
    let house = House::new();
    let right = std::fs::read_to_string(house.path()).unwrap();
    write(&house.path(), "version: 1\nusers: {eve: {role: king}}\n");
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 2 * SECOND), "ok ana analyst");
    std::fs::remove_file(house.path()).unwrap();
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 4 * SECOND), "ok ana analyst");
    write(&house.path(), &right.replace("analyst", "admin"));
    assert_eq!(house.ask(&basic_of("ana", PASSWORD), 6 * SECOND), "ok ana admin");
}

#[test]
fn a_server_does_not_start_with_a_broken_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.yaml");
    assert_eq!(Access::read(&path).unwrap_err().kind, ErrorKind::NotFound);
    write(&path, "version: 1\nusers: {eve: {role: king}}\n");
    assert_eq!(Access::read(&path).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn users_come_from_the_setting_the_file_or_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let configured = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, text)| ((*name).into(), (*text).into()));
        Access::configured(&Config::load(folder.path(), &variables.collect(), &[]).unwrap())
    };
    assert!(configured(&[]).unwrap().is_open());
    let named = configured(&[("FLOWGUARD_SERVER_USERS_FILE", "users.yaml")]).unwrap_err();
    assert_eq!(named.kind, ErrorKind::NotFound, "a file that was named must be there");
    edit(&folder.path().join("users.yaml"), "ana", Some(User::new(Role::Analyst)));
    assert!(configured(&[]).unwrap().current("ana", 0).is_some());
    let text = "version: 1\nusers: {bob: {role: admin}}\n";
    let access = configured(&[("FLOWGUARD_SERVER_USERS", text)]).unwrap();
    assert!(access.current("bob", 0).is_some() && access.current("ana", 0).is_none());
    let error = configured(&[("FLOWGUARD_SERVER_USERS", "planted")]).unwrap_err();
    assert_eq!(error.message, "1 problem in `server.users`");
    assert!(!format!("{error:?}").contains("planted"));
}

#[test]
fn nothing_that_strangers_send_ends_the_server() {
    let house = House::new();
    let token = house.token(None);
    let ana = house.access.current("ana", 0).unwrap();
    let bearer = house.access.bearer(&ana, 0);
    let headers =
        [basic_of("ana", PASSWORD), format!("Bearer {token}"), format!("Bearer {bearer}")];
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for round in 0..20_000 {
        let mut header = headers[round % 3].clone().into_bytes();
        for _ in 0..random.next_u32() % 4 + 1 {
            let at = random.next_u32() as usize % header.len();
            match random.next_u32() % 3 {
                0 => header[at] = random.next_u32() as u8 % 128,
                1 => header.truncate(at + 1),
                _ => header.insert(at, random.next_u32() as u8 % 128),
            }
        }
        let header = String::from_utf8(header).unwrap();
        let said = house.ask(&header, 0);
        assert!(!said.contains(PASSWORD) && !said.contains(&token), "{header}: {said}");
    }
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_says_who_failed_and_no_secret() {
    // With one subscriber alone, another test's thread can switch a message off for all threads:
    // it asks its own subscriber only, and has none.
    let _another = tracing::Dispatch::new(tracing_subscriber::fmt().finish());
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let house = House::new();
        let token = house.token(None);
        house.ask(&basic_of("ana", "planted-typo"), 2 * SECOND);
        house.ask(&basic_of("planted-as-user", "planted"), 2 * SECOND);
        house.ask(&basic_of("ana", PASSWORD), 2 * SECOND);
        house.ask(&format!("Bearer {token}planted"), 2 * SECOND);
        write(&house.path(), "version: 1\nusers: {ana: {role: analyst, password: planted}}\n");
        house.ask(&format!("Bearer {token}"), 4 * SECOND);
    });
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    for said in [
        "wrong password user=\"ana\" peer=10.0.0.1",
        "wrong password user=\"unknown\" peer=10.0.0.1",
        "users cannot be read again; those before stay",
        "users.yaml:2:40: `password` must be a hash, not a password",
    ] {
        assert!(logged.contains(said), "{said} is not in {logged}");
    }
    for secret in ["planted", "argon2", "fg_"] {
        assert!(!logged.contains(secret), "{logged}");
    }
}

#[test]
fn purposes_are_apart_and_nothing_secret_is_shown() {
    let house = House::new();
    let ticket = house.access.seal("ticket", b"payload");
    assert_eq!(house.access.unseal("ticket", &ticket), Some(b"payload".as_slice()));
    assert_eq!(house.access.unseal("bearer", &ticket), None);
    assert_eq!(house.access.clone().unseal("ticket", &ticket), Some(b"payload".as_slice()));
    let token = house.token(None);
    house.ask(&basic_of("ana", PASSWORD), SECOND);
    let users = UsersFile::open(&house.path()).unwrap();
    let debugged = format!("{:?} {:?}", house.access, users.users());
    for secret in [PASSWORD, "argon2", &token, &users.users()["ana"].tokens[0].hash.to_hex()] {
        assert!(!debugged.contains(secret), "{debugged}");
    }
}
