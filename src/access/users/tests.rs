//! Texts of users files in, users or every problem out; no problem shows a value.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::source::printed;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn read(text: &str) -> Result<Users> {
    parse(&Source::new("users.yaml", text))
}

#[test]
fn a_user_has_what_the_file_says() {
    let sha256 = "ab".repeat(32);
    let text = format!(
        "version: 1
users:
  ana: {{role: analyst}}
  bo.b@example-1:
    role: engineer
    password: {HASH}
    grants: [bronze.orders_raw, bronze]
    tokens:
      - {{id: \"0123456789abcdef\", name: ci, sha256: {sha256}, expires: 2027-01-02}}
      - {{id: 00000000deadbeef, name: \"7\", sha256: {sha256}}}
    disabled: true
"
    );
    let users = read(&text).unwrap();
    let bob = &users["bo.b@example-1"];
    assert_eq!(users["ana"], User::new(Role::Analyst));
    assert_eq!(bob.password.as_ref().unwrap().expose(), HASH);
    assert_eq!(
        bob.grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["bronze.orders_raw", "bronze"]
    );
    assert_eq!(bob.tokens[0].expires.unwrap().to_string(), "2027-01-02T00:00:00Z");
    assert_eq!((bob.tokens[1].expires, bob.tokens[1].name.as_str()), (None, "7"));
    assert!(bob.disabled);
    let debugged = format!("{users:?}");
    assert!(!debugged.contains("argon2") && !debugged.contains(&sha256), "{debugged}");
}

#[test]
fn every_problem_is_reported_and_no_value_is_shown() {
    let text = "version: 2
users:
  ana:
    rol: analyst
    password: planted-1
    grants: [bronce, bronze.Orders]
  -bob: planted-2
  eve:
    role: planter
    password: 12345678
    passwort: planted-3
    grants: planted-4
    disabled: yes
    tokens:
      - {id: planted-5, name: a b, sha256: planted-6, expires: soon}
      - {id: 00000000deadbeef, name: ci, sha256: 1234}
      - {id: 00000000deadbeef}
      - planted-7
groups: {}
";
    let error = read(text).unwrap_err();
    assert_eq!(error.message, "23 problems in `users.yaml`");
    let said = printed(&error.diagnostics);
    assert!(!said.contains("planted-"), "{said}");
    let expect = r#"
users.yaml:1:10: version 2 is not known
    hint: write version: 1
users.yaml:4:5: user `ana` needs the key `role`
users.yaml:4:5: unknown key `rol` in user `ana`
    hint: did you mean `role`?
users.yaml:5:15: `password` must be a hash, not a password
    hint: let `flowguard user password NAME` write it
users.yaml:6:14: unknown layer `bronce`
    hint: did you mean `bronze`?
users.yaml:6:22: `Orders` is not a table name
    hint: use lowercase letters, digits and underscores, starting with a letter
users.yaml:7:3: `-bob` is not a name
    hint: use letters, digits, `.`, `_`, `-` and `@`, a letter or digit first
users.yaml:7:9: user `-bob` must be a mapping, found something else
users.yaml:9:11: unknown role `planter`
    hint: roles are: `analyst`, `engineer`, `admin`
users.yaml:10:15: `password` must be text, found something else
    hint: quote it
users.yaml:11:5: unknown key `passwort` in user `eve`
    hint: did you mean `password`?
users.yaml:12:13: `grants` must be a list, found something else
users.yaml:13:15: `disabled` must be true or false, found something else
    hint: write `true` or `false`, without quotes
users.yaml:15:14: `id` is not the id of a token
    hint: let `flowguard user token NAME` write it
users.yaml:15:31: `a b` is not a name
    hint: use letters, digits, `.`, `_`, `-` and `@`, a letter or digit first
users.yaml:15:44: `sha256` must be 64 hexadecimal digits
    hint: let `flowguard user token NAME` write it
users.yaml:15:64: `soon` is not a date or time
    hint: write 2026-01-31, 2026-01-31T12:00:00 or 2026-01-31T12:00:00Z
users.yaml:16:50: `sha256` must be text, found something else
    hint: quote it
users.yaml:17:9: a token needs the key `name`
users.yaml:17:9: a token needs the key `sha256`
users.yaml:17:14: another token has this `id`
    hint: let `flowguard user token NAME` write it
users.yaml:18:9: a token must be a mapping, found something else
users.yaml:19:1: unknown key `groups` in the file
    hint: keys are: `users`, `version`"#;
    assert_eq!(said, expect.trim_start());
}

#[test]
fn a_text_that_is_no_yaml_is_reported_without_its_line() {
    for text in
        ["users: [planted", "planted", "", "users: \"planted\n", "version: 1\nusers: planted"]
    {
        let error = read(text).unwrap_err();
        let said = printed(&error.diagnostics);
        assert!(said.starts_with("users.yaml:") && !said.contains("planted"), "{said}");
    }
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.yaml");
    assert_eq!(read_text(&path).unwrap_err().kind, ErrorKind::NotFound);
    std::fs::write(&path, "version: 1\nusers: {}\n").unwrap();
    for (mode, expect) in
        [(0o600, true), (0o640, true), (0o644, true), (0o660, false), (0o602, false)]
    {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let read = read_text(&path);
        assert_eq!(read.is_ok(), expect, "{mode:o}");
        if let Err(error) = read {
            assert_eq!(error.kind, ErrorKind::Denied);
            assert_eq!(error.hint.unwrap(), format!("chmod 600 {}", path.display()));
        }
    }
}
