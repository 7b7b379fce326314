//! A text and a change in, the whole text out.

use super::*;
use crate::access::token::Token;
use crate::access::{Grant, Role};
use crate::config::Secret;
use crate::interval::Instant;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Edits `text` in a file and gives the text that was saved.
fn saved(text: Option<&str>, edit: impl FnOnce(&mut UsersFile)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.yaml");
    if let Some(text) = text {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
    }
    let mut file = UsersFile::open(&path).unwrap();
    edit(&mut file);
    file.save().unwrap();
    let saved = std::fs::read_to_string(&path).unwrap();
    let source = Source::new("users.yaml", saved.clone());
    assert_eq!(users::parse(&source).unwrap(), file.users);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no other file stays behind: {left:?}");
    saved
}

fn change(name: &'static str, change: impl FnOnce(&mut User)) -> impl FnOnce(&mut UsersFile) {
    move |file| {
        let mut user = file.user(name).unwrap().clone();
        change(&mut user);
        file.put(name, Some(user));
    }
}

#[test]
fn a_new_file_is_written_whole() {
    let text = saved(None, |file| {
        let mut ana = User::new(Role::Analyst);
        ana.password = Some(Secret::new(HASH));
        ana.grants = vec!["bronze.orders_raw".parse().unwrap(), "silver".parse().unwrap()];
        let (mut token, _) = Token::generate("ci", Some(Instant(0)));
        token.id = "0123456789abcdef".to_owned();
        token.hash = users_hash();
        ana.tokens.push(token);
        ana.disabled = true;
        file.put("ana", Some(ana));
        file.put("bob", Some(User::new(Role::Admin)));
    });
    assert_eq!(
        text,
        format!(
            "{HEADER}
version: 1
users:
  ana:
    role: analyst
    password: \"{HASH}\"
    grants: [bronze.orders_raw, silver]
    tokens:
      - id: \"0123456789abcdef\"
        name: \"ci\"
        sha256: \"{}\"
        expires: 1970-01-01T00:00:00Z
    disabled: true
  bob:
    role: admin
",
            users_hash().to_hex()
        )
    );
}

fn users_hash() -> crate::access::token::TokenHash {
    crate::access::token::TokenHash::of("a token")
}

const COMMENTED: &str = "# Ours.
version: 1
users: # ask ops
    # The boss.
    ana:
        role: admin # since May

        # Until the audit is over.
        grants:
        - bronze
        # Never again.
        disabled: true
    # The next one.
    bob:
        role: analyst

# End.
";

#[test]
fn comments_and_order_stay() {
    let text = saved(Some(COMMENTED), |file| {
        change("ana", |ana| {
            ana.disabled = false;
            ana.grants.push(Grant::Table("bronze.orders_raw".parse().unwrap()));
        })(file);
        change("bob", |bob| bob.disabled = true)(file);
        file.put("eve", Some(User::new(Role::Engineer)));
    });
    assert_eq!(
        text,
        "# Ours.
version: 1
users: # ask ops
    # The boss.
    ana:
        role: admin # since May

        # Until the audit is over.
        grants: [bronze, bronze.orders_raw]
        # Never again.
    # The next one.
    bob:
        role: analyst
        disabled: true
    eve:
      role: engineer

# End.
"
    );
}

#[test]
fn the_last_user_leaves_a_file_that_can_be_read() {
    let text = saved(Some(COMMENTED), |file| {
        file.put("ana", None);
        file.put("bob", None);
    });
    assert_eq!(
        text,
        "# Ours.\nversion: 1\nusers: {} # ask ops\n    # The boss.\n    # The next one.\n\n# End.\n"
    );
    let text = saved(Some(&text), |file| file.put("bob", Some(User::new(Role::Admin))));
    assert_eq!(
        text,
        "# Ours.\nversion: 1\nusers: # ask ops\n  bob:\n    role: admin\n    # The boss.\n    # The next one.\n\n# End.\n"
    );
}

#[test]
fn what_lines_cannot_say_is_written_anew() {
    for text in [
        "{version: 1, users: {ana: {role: admin}}}\n",
        "version: 1\nusers:\n  \"ana\":\n    role: admin\n",
        "version: 1\nusers:\n  ana: {role: admin}\n",
        "version: 1\nusers: {ana: {\n role: admin}}\n",
    ] {
        let text = saved(Some(text), change("ana", |ana| ana.role = Role::Engineer));
        assert_eq!(text, format!("{HEADER}\nversion: 1\nusers:\n  ana:\n    role: engineer\n"));
    }
}

#[test]
fn a_link_and_the_right_of_the_group_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("real.yaml"), folder.path().join("users.yaml"));
    std::fs::write(&path, "version: 1\nusers: {}\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut file = UsersFile::open(&link).unwrap();
    file.put("ana", Some(User::new(Role::Analyst)));
    file.save().unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    assert!(std::fs::read_to_string(&path).unwrap().contains("ana:"));
}

#[test]
fn two_who_edit_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.yaml");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = UsersFile::open(path).unwrap();
                file.put(&format!("user-{number}"), Some(User::new(Role::Analyst)));
                file.save().unwrap();
            });
        }
    });
    assert_eq!(UsersFile::open(&path).unwrap().users().len(), 8);
}

#[test]
fn an_unknown_user_is_an_error_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = UsersFile::open(&folder.path().join("users.yaml")).unwrap();
    file.put("ana.b", Some(User::new(Role::Analyst)));
    let error = file.user("ana_b").unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "no user `ana_b`"));
    assert_eq!(error.hint.unwrap(), "did you mean `ana.b`?");
}
