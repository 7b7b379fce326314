//! The file of users: strict YAML to users, every problem at once. Problems show no line and no
//! value, because both may be secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chrono_tz::Tz;

use super::password;
use super::principal::{Grant, Role};
use super::token::{Token, TokenHash, is_id};
use crate::config::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Instant;
use crate::source::{Problems, Source};
use crate::yaml::{self, Embedded, Mapping, Value};

/// Of the file's form; another one is refused.
pub const VERSION: i64 = 1;
pub const NAME_BYTES_MAX: usize = 64;
pub const TOKENS_PER_USER_MAX: usize = 32;
const NAME_HINT: &str = "use letters, digits, `.`, `_`, `-` and `@`, a letter or digit first";
/// Bits of a file's mode: somebody else may write it, or read it.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const READABLE_BY_OTHERS: u32 = 0o004;

/// A user as the file has them; the name is the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub role: Role,
    /// As argon2id hash; without one, only tokens are accepted.
    pub password: Option<Secret>,
    pub grants: Vec<Grant>,
    pub tokens: Vec<Token>,
    pub disabled: bool,
}

impl User {
    /// Enabled, but without a password or a token to come in by.
    pub fn new(role: Role) -> Self {
        Self { role, password: None, grants: Vec::new(), tokens: Vec::new(), disabled: false }
    }
}

pub type Users = BTreeMap<String, User>;

/// The users that a text describes; the error carries every problem of it.
pub fn parse(source: &Source) -> Result<Users> {
    let problems = Problems::hiding_values(source);
    let embedded = Embedded {
        text: source.text.strip_prefix('\u{feff}').unwrap_or(&source.text),
        lines_before: 0,
        columns_before: 0,
    };
    let mut users = Users::new();
    if let Some(node) = yaml::parse(embedded, &problems)
        && let Some(map) = node.mapping("the file", &problems)
    {
        users = read_file(map, &problems);
    }
    let found = problems.into_diagnostics();
    let name = source.file.display();
    match found.len() {
        0 => Ok(users),
        1 => Err(Error::diagnosed(format!("1 problem in `{name}`"), found)),
        count => Err(Error::diagnosed(format!("{count} problems in `{name}`"), found)),
    }
}

/// The text of the file at `path`. Refused if others may write it: they could make themselves
/// administrators.
pub fn read_text(path: &Path) -> Result<Source> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("no users file `{}`", path.display()))
                .hint("make one: flowguard user add NAME --role admin")
        }
        _ => Error::invalid(format!("cannot read `{}`", path.display())).source(error),
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        let message = format!("`{}` can be written by others than its owner", path.display());
        return Err(
            Error::new(ErrorKind::Denied, message).hint(format!("chmod 600 {}", path.display()))
        );
    }
    if mode & READABLE_BY_OTHERS != 0 {
        tracing::warn!(path = %path.display(), "the users file can be read by everybody here: chmod 600");
    }
    let mut text = String::new();
    file.take(yaml::BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(Source::new(path, text))
}

/// A name of a user or a token.
pub fn check_name(name: &str) -> Result<()> {
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c));
    if is_name {
        Ok(())
    } else {
        Err(Error::invalid(format!("`{name}` is not a name")).hint(NAME_HINT))
    }
}

fn read_file(map: Mapping<'_>, problems: &Problems<'_>) -> Users {
    if let Some(version) = map.required("version")
        && let Some(number) = version.int()
        && number != VERSION
    {
        version
            .report(format!("version {number} is not known"), format!("write version: {VERSION}"));
    }
    let mut users = Users::new();
    let mut ids = BTreeSet::new();
    let listed = map.required("users").and_then(|value| value.mapping("`users`"));
    for entry in listed.iter().flat_map(|listed| listed.entries()) {
        let name = &entry.key.value;
        if let Err(error) = check_name(name) {
            problems.report_error(entry.key.position, error);
        }
        let what = format!("user `{name}`");
        if let Some(map) = entry.mapping(&what) {
            users.insert(name.clone(), read_user(map, &mut ids));
        }
    }
    map.finish();
    users
}

fn read_user(map: Mapping<'_>, ids: &mut BTreeSet<String>) -> User {
    let role = map.required("role").and_then(|value| value.parse::<Role>());
    let password = map.optional("password").and_then(|value| {
        let text = value.string()?;
        if let Err(error) = password::check_hash(&text.value) {
            value.report(error.message, error.hint.unwrap_or_default());
        }
        Some(Secret::new(text.value))
    });
    let grants = map.optional("grants").and_then(|value| value.list()).unwrap_or_default();
    let tokens = map.optional("tokens").and_then(|value| {
        let tokens = value.list()?;
        if tokens.len() > TOKENS_PER_USER_MAX {
            let message = format!("more than {TOKENS_PER_USER_MAX} tokens");
            value.report(message, "revoke those that nobody uses");
        }
        Some(tokens)
    });
    let disabled = map.optional("disabled").and_then(|value| value.bool());
    let user = User {
        role: role.map_or(Role::Analyst, |role| role.value),
        password,
        grants: grants.iter().filter_map(|grant| Some(grant.parse()?.value)).collect(),
        tokens: tokens.iter().flatten().filter_map(|token| read_token(*token, ids)).collect(),
        disabled: disabled.unwrap_or(false),
    };
    map.finish();
    user
}

fn read_token(value: Value<'_>, ids: &mut BTreeSet<String>) -> Option<Token> {
    let map = value.mapping("a token")?;
    let id = map.required("id").and_then(|value| {
        let id = value.string()?.value;
        if !is_id(&id) {
            value.report(
                "`id` is not the id of a token",
                "let `flowguard user token NAME` write it",
            );
        } else if !ids.insert(id.clone()) {
            value.report("another token has this `id`", "let `flowguard user token NAME` write it");
        }
        Some(id)
    });
    let name = map.required("name").and_then(|value| {
        let name = value.string()?.value;
        if let Err(error) = check_name(&name) {
            value.report(error.message, error.hint.unwrap_or_default());
        }
        Some(name)
    });
    let hash = map.required("sha256").and_then(|value| {
        let hash = TokenHash::parse(&value.string()?.value);
        if hash.is_none() {
            value.report(
                "`sha256` must be 64 hexadecimal digits",
                "let `flowguard user token NAME` write it",
            );
        }
        hash
    });
    let expires = map.optional("expires").and_then(|value| {
        Instant::parse(&value.string()?.value, Tz::UTC)
            .map_err(|error| value.report(error.message, error.hint.unwrap_or_default()))
            .ok()
    });
    map.finish();
    Some(Token { id: id?, name: name?, hash: hash?, expires })
}

#[cfg(test)]
mod tests;
