//! Every crate in the tree has a licence that `deny.toml` allows, comes from crates.io, and is not
//! banned. cargo-deny reads the same file; this needs neither it nor a network. Advisories are not
//! looked at here.

use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
struct Policy {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Tree {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    license: Option<String>,
    source: Option<String>,
}

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn problems(tree: &Tree, policy: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    for package in &tree.packages {
        let name = &package.name;
        let licence = package.license.as_deref().unwrap_or("");
        if !allows(licence, &policy.licenses.allow) {
            found.push(format!("`{name}` is licensed `{licence}`"));
        }
        if policy.bans.deny.iter().any(|ban| ban.name == *name) {
            found.push(format!("`{name}` is banned"));
        }
        if package.source.as_deref().is_some_and(|source| source != CRATES_IO) {
            found.push(format!("`{name}` is not from crates.io"));
        }
    }
    found
}

/// Whether an SPDX expression, also in its old form with `/`, can be met by the allowed ones.
fn allows(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, allowed) && rest.is_empty()
}

fn any_of(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = all_of(rest, allowed);
    while let ["OR", tail @ ..] = *rest {
        *rest = tail;
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = one(rest, allowed);
    while let ["AND", tail @ ..] = *rest {
        *rest = tail;
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut &[&str], allowed: &[String]) -> bool {
    let is_allowed = |licence: &str| allowed.iter().any(|allowed| allowed == licence);
    match *rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let met = any_of(rest, allowed);
            let closed = rest.first() == Some(&")");
            *rest = rest.get(1..).unwrap_or(&[]);
            met && closed
        }
        [licence, "WITH", exception, tail @ ..] => {
            *rest = tail;
            is_allowed(&format!("{licence} WITH {exception}"))
        }
        [licence, tail @ ..] => {
            *rest = tail;
            is_allowed(licence)
        }
        [] => false,
    }
}

fn policy() -> Policy {
    toml::from_str(include_str!("../../deny.toml")).unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_crate_may_be_here() {
    let version = cargo(&["--version", "--verbose"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Only what this machine builds has been downloaded.
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline"];
    let metadata = cargo(&[&arguments[..], &["--filter-platform", host]].concat());
    let tree: Tree = serde_json::from_str(&metadata).unwrap();
    assert!(tree.packages.len() > 300, "{} crates", tree.packages.len());
    assert_eq!(problems(&tree, &policy()), Vec::<String>::new());
}

#[test]
fn a_planted_crate_is_found() {
    let package = |name: &str, licence: &str, source: &str| Package {
        name: name.to_owned(),
        license: Some(licence.to_owned()),
        source: Some(source.to_owned()),
    };
    let tree = Tree {
        packages: vec![
            package("fine", "(GPL-3.0 OR MIT) AND ISC", CRATES_IO),
            package("old", "GPL-2.0/Apache-2.0", CRATES_IO),
            package("copyleft", "MIT AND GPL-3.0", CRATES_IO),
            package("unclosed", "(MIT OR ISC", CRATES_IO),
            package("without", "", CRATES_IO),
            package("native-tls", "MIT", CRATES_IO),
            package("forked", "MIT", "git+https://example.org/forked"),
        ],
    };
    assert_eq!(
        problems(&tree, &policy()),
        [
            "`copyleft` is licensed `MIT AND GPL-3.0`",
            "`unclosed` is licensed `(MIT OR ISC`",
            "`without` is licensed ``",
            "`native-tls` is banned",
            "`forked` is not from crates.io",
        ]
    );
}
