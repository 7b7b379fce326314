//! Users, tokens and the statement log, as who keeps a server edits and reads them: the real binary
//! on a project of its own, and the library to prove that what it printed opens.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flowguard::access::Access;
use flowguard::error::ErrorKind;
use flowguard::statements::log::{Outcome, Record, StatementLog};
use flowguard::table::TableName;

use crate::program::{Finished, Project};

const NOW: i64 = 1_800_000_000_000_000;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn access(project: &Project) -> Access {
    Access::read(&project.folder().join("users.yaml")).unwrap()
}

#[track_caller]
fn printed(project: &Project, arguments: &[&str], stderr: &str) -> String {
    let finished = project.run(arguments).succeeded();
    assert_eq!(finished.stderr, stderr);
    finished.stdout
}

#[test]
fn a_user_has_a_life() {
    let project = Project::of_models(&[]);
    let list = |project: &Project| printed(project, &["user", "list"], "");
    assert_eq!(
        project.run(&["user", "list"]),
        Finished {
            code: Some(0),
            stdout: "user  role  grants  password  tokens  state\n".into(),
            stderr: "no users: nobody is asked who they are\n".into(),
        }
    );
    let password = printed(
        &project,
        &["user", "add", "ana", "--role", "analyst", "--grant", "bronze.orders_raw"],
        "user `ana`: added\n\
         a server that is running now asks nobody who they are until it is started again\n\
         this password is not shown again:\n",
    );
    let password = password.strip_suffix('\n').unwrap();
    assert_eq!(password.len(), 24);
    let ana = access(&project).password("ana", password, PEER, NOW).unwrap();
    let may_read = |table: &str| ana.may_read(&table.parse::<TableName>().unwrap());
    assert!(may_read("bronze.orders_raw") && !may_read("bronze.clicks_raw"));

    let added = ["user", "add", "ci", "--role", "engineer", "--no-password"];
    assert_eq!(printed(&project, &added, "user `ci`: added\n"), "");
    let token = printed(
        &project,
        &["user", "token", "ci", "--name", "nightly", "--expires", "2100-01-01"],
        "user `ci`: token `nightly` added, good until 2100-01-01T00:00:00Z\n\
         this token is not shown again:\n",
    );
    let bearer = format!("Bearer {}", token.trim_end());
    assert_eq!(access(&project).authorize(Some(&bearer), PEER, NOW).unwrap().user, "ci");
    assert_eq!(
        list(&project),
        "user  role      grants             password  tokens   state\n\
         ana   analyst   bronze.orders_raw  yes                enabled\n\
         ci    engineer                     no        nightly  enabled\n"
    );

    for (arguments, said) in [
        (&["user", "disable", "ci"][..], "user `ci`: disabled\n"),
        (&["user", "role", "ana", "admin"], "user `ana`: now admin\n"),
        (&["user", "grant", "ana", "bronze", "bronze.orders_raw"], "user `ana`: granted\n"),
        (&["user", "revoke", "ana", "bronze.orders_raw"], "user `ana`: revoked\n"),
        (&["user", "password", "ana", "--no-password"], "user `ana`: password removed\n"),
    ] {
        assert_eq!(printed(&project, arguments, said), "");
    }
    let id = token.split('_').nth(1).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&printed(&project, &["user", "list", "--output", "json"], ""))
            .unwrap();
    assert_eq!(
        json,
        serde_json::json!([
            {
                "user": "ana", "role": "admin", "grants": ["bronze"], "password": false,
                "tokens": [], "disabled": false,
            },
            {
                "user": "ci", "role": "engineer", "grants": [], "password": false,
                "tokens": [{
                    "id": id, "name": "nightly", "expires": "2100-01-01T00:00:00Z", "expired": false,
                }],
                "disabled": true,
            },
        ])
    );
    let denied = access(&project).authorize(Some(&bearer), PEER, NOW).unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied);
    for (arguments, said) in [
        (&["user", "enable", "ci"][..], "user `ci`: enabled\n"),
        (&["user", "token", "ci", "--revoke", "nightly"], "user `ci`: token `nightly` revoked\n"),
        (&["user", "remove", "ana"], "user `ana`: removed\n"),
    ] {
        assert_eq!(printed(&project, arguments, said), "");
    }
    let revoked = access(&project).authorize(Some(&bearer), PEER, NOW).unwrap_err();
    assert_eq!(revoked.kind, ErrorKind::Unauthenticated);
    let text = std::fs::read_to_string(project.folder().join("users.yaml")).unwrap();
    let header = text.lines().next().unwrap();
    assert!(header.starts_with('#'), "{header}");
    assert_eq!(text, format!("{header}\nversion: 1\nusers:\n  ci:\n    role: engineer\n"));
}

#[test]
fn a_password_may_come_from_a_pipe_and_is_shown_nowhere() {
    let project = Project::of_models(&[]).with("FLOWGUARD_LOG_LEVEL", "trace");
    let mut said = String::new();
    let mut run = |arguments: &[&str], input: &str| {
        let finished = project.run_with_input(arguments, input).succeeded();
        said.push_str(&finished.stdout);
        said.push_str(&finished.stderr);
    };
    run(&["user", "add", "ana", "--role", "analyst", "--password-stdin"], "planted one\n");
    assert!(access(&project).password("ana", "planted one", PEER, NOW).is_ok());
    run(&["user", "password", "ana", "--password-stdin"], "planted two\r\nplanted three");
    assert!(access(&project).password("ana", "planted two", PEER, NOW).is_ok());
    run(&["user", "list"], "");
    said.push_str(&std::fs::read_to_string(project.folder().join("users.yaml")).unwrap());
    assert!(!said.contains("planted"), "{said}");
    let hashes: Vec<&str> = said.lines().filter(|line| line.contains("$argon2id$")).collect();
    assert_eq!(hashes.len(), 1, "in the file alone: {said}");
}

#[test]
fn mistakes_are_explained() {
    let project = Project::of_models(&[]);
    printed(
        &project,
        &["user", "add", "ana.b", "--role", "analyst", "--no-password"],
        "user `ana.b`: added\na server that is running now asks nobody who they are until it is started again\n",
    );
    let before = std::fs::read_to_string(project.folder().join("users.yaml")).unwrap();
    for (arguments, stderr) in [
        (
            &["user", "disable", "ana_b"][..],
            "error: no user `ana_b`\nhint: did you mean `ana.b`?\n",
        ),
        (&["user", "remove", "zoe"], "error: no user `zoe`\nhint: flowguard user list\n"),
        (
            &["user", "add", "ana.b", "--role", "admin"],
            "error: user `ana.b` exists already\n\
             hint: flowguard user password ana.b, or flowguard user role ana.b ROLE\n",
        ),
        (
            &["user", "add", "a b", "--role", "admin"],
            "error: `a b` is not a name\n\
             hint: use letters, digits, `.`, `_`, `-` and `@`, a letter or digit first\n",
        ),
        (
            &["user", "revoke", "ana.b", "gold"],
            "error: `ana.b` has no grant `gold`\n\
             hint: flowguard user list shows grants; what the role may read cannot be revoked\n",
        ),
        (
            &["user", "token", "ana.b", "--revoke", "ci"],
            "error: `ana.b` has no token `ci`\nhint: flowguard user list\n",
        ),
        (
            &["user", "token", "ana.b", "--expires", "2001-01-01"],
            "error: the token would end at 2001-01-01T00:00:00Z, which is past\n",
        ),
    ] {
        project.run(arguments).failed(1, &[], stderr);
    }
    let short =
        project.run_with_input(&["user", "password", "ana.b", "--password-stdin"], "short\n");
    short.failed(1, &[], "error: a password has at least 8 characters\n");
    let role = project.run(&["user", "add", "bob", "--role", "king"]);
    assert!(role.stderr.contains("[possible values: analyst, engineer, admin]"), "{}", role.stderr);
    assert_eq!(std::fs::read_to_string(project.folder().join("users.yaml")).unwrap(), before);
}

#[test]
fn a_file_that_cannot_be_trusted_is_not_used() {
    let project = Project::of_models(&[]);
    let path = project.folder().join("users.yaml");
    let place = path.canonicalize().unwrap_or_else(|_| path.clone());
    let place = place.to_str().unwrap();
    project.write("users.yaml", "version: 1\nusers:\n  ana: {rol: planted, password: planted}\n");
    let set_mode =
        |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o600);
    project.run(&["user", "list"]).failed(
        1,
        &[(place, "users.yaml")],
        "users.yaml:3:8: user `ana` needs the key `role`\n\n\
         users.yaml:3:9: unknown key `rol` in user `ana`\n    hint: did you mean `role`?\n\n\
         users.yaml:3:33: `password` must be a hash, not a password\n    \
         hint: let `flowguard user password NAME` write it\n\n\
         error: 3 problems in `users.yaml`\n",
    );
    set_mode(0o666);
    project.run(&["user", "list"]).failed(
        3,
        &[(place, "users.yaml")],
        "error: `users.yaml` can be written by others than its owner\nhint: chmod 600 users.yaml\n",
    );
    let project =
        project.with("FLOWGUARD_SERVER_USERS", "version: 1\nusers: {bob: {role: admin}}\n");
    assert_eq!(
        printed(&project, &["user", "list"], ""),
        "user  role   grants  password  tokens  state\nbob   admin          no                enabled\n"
    );
    project.run(&["user", "disable", "bob"]).failed(
        1,
        &[],
        "error: the users are in the setting `server.users`, not in a file\n\
         hint: change them there, or unset it\n",
    );
}

fn noted(log: &Path) {
    let log = StatementLog::at(log);
    let note = |number: i64, user: &str, sql: &str, outcome, error: Option<&str>| {
        log.write(&Record {
            id: uuid::Uuid::from_u128(number as u128),
            user: user.to_owned(),
            sql: sql.to_owned(),
            started: NOW + number * 1_500_000,
            seconds: 0.0125,
            rows: 7,
            bytes: 1_024,
            outcome,
            error: error.map(str::to_owned),
        });
    };
    note(0, "ana", "SELECT 1", Outcome::Done, None);
    note(1, "bob", "SELECT \u{1b}[31m\n  a\tFROM b", Outcome::Failed, Some("no table `b`"));
    note(2, "ana", &format!("SELECT '{}'", "é".repeat(100)), Outcome::Cancelled, None);
}

#[test]
fn statements_are_shown_to_who_keeps_the_server() {
    let project = Project::of_models(&[]);
    let heading = "started  user  outcome  seconds  rows  bytes  statement  error\n";
    assert_eq!(printed(&project, &["statements"], ""), heading, "nothing was run yet");
    let log = project.folder().join(".flowguard/log/statements.jsonl");
    noted(&log);
    // A line that a crash cut off is passed over.
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{text}{{\"id\": \"0")).unwrap();
    let long = format!("SELECT '{}…", "é".repeat(64));
    let line = |cells: [&str; 8], widths: [usize; 8]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let widths = [20, 4, 9, 7, 4, 5, 73, 12];
    assert_eq!(
        printed(&project, &["statements"], ""),
        [
            line(
                ["started", "user", "outcome", "seconds", "rows", "bytes", "statement", "error"],
                widths
            ),
            line(
                ["2027-01-15T08:00:00Z", "ana", "done", "  0.013", "   7", " 1024", "SELECT 1", ""],
                widths
            ),
            line(
                [
                    "2027-01-15T08:00:01Z",
                    "bob",
                    "failed",
                    "  0.013",
                    "   7",
                    " 1024",
                    "SELECT [31m a FROM b",
                    "no table `b`"
                ],
                widths
            ),
            line(
                ["2027-01-15T08:00:03Z", "ana", "cancelled", "  0.013", "   7", " 1024", &long, ""],
                widths
            ),
        ]
        .concat()
    );
    let json = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let arguments = [&["statements", "--output", "json"], arguments].concat();
        serde_json::from_str(&printed(&project, &arguments, "")).unwrap()
    };
    assert_eq!(
        json(&["--outcome", "failed"]),
        [serde_json::json!({
            "id": "00000000-0000-0000-0000-000000000001",
            "started": "2027-01-15T08:00:01.500000Z",
            "user": "bob",
            "outcome": "failed",
            "seconds": 0.0125,
            "rows": 7,
            "bytes": 1024,
            "sql": "SELECT \u{1b}[31m\n  a\tFROM b",
            "error": "no table `b`",
        })]
    );
    let outcomes = |arguments: &[&str]| {
        let records = json(arguments);
        let outcomes = records.iter().map(|record| record["outcome"].as_str().unwrap().to_owned());
        outcomes.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(outcomes(&["--user", "ana"]), "done cancelled");
    assert_eq!(outcomes(&["--user", "ana", "--last", "1"]), "cancelled");
    assert_eq!(outcomes(&["--last", "0"]), "");
    let project = project.clone().with("FLOWGUARD_SERVER_STATEMENT_LOG", "");
    project.run(&["statements"]).failed(
        1,
        &[],
        "error: statements are not noted: `server.statement_log` is empty\n\
         hint: set it, and start the server again\n",
    );
}
