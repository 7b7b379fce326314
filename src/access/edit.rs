//! Changes to the file of users: the lines of one key or one user at a time, so that comments and
//! order stay, and written as a whole or not at all. What lines cannot say is written anew.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::token::{hex, random};
use super::users::{self, User, Users, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

/// The owner reads and writes; the group may go on reading, as before.
const MODE: u32 = 0o600;
const MODE_KEPT: u32 = 0o040;
const HEADER: &str =
    "# Users of FlowGuard and what they may read. Edit it with `flowguard user`, or by hand.";
const KEYS: [&str; 5] = ["role", "password", "grants", "tokens", "disabled"];

/// The file while it is edited; others who edit it wait.
pub struct UsersFile {
    path: PathBuf,
    text: String,
    users: Users,
    /// Locked until the end.
    _folder: File,
}

impl UsersFile {
    /// Without the file, no users yet.
    pub fn open(path: &Path) -> Result<Self> {
        // A link is followed, or else the new file would take its place.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let failed = |source: std::io::Error| {
            Error::invalid(format!("cannot edit `{}`", path.display())).source(source)
        };
        let folder = File::open(folder_of(&path)).map_err(failed)?;
        match folder.lock() {
            // Some network file systems have no locks; an edit is still whole.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
            locked => locked.map_err(failed)?,
        }
        let source = match users::read_text(&path) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                Source::new(&path, format!("{HEADER}\nversion: {VERSION}\nusers: {{}}\n"))
            }
            read => read?,
        };
        let users = users::parse(&source)?;
        Ok(Self { path, text: source.text, users, _folder: folder })
    }

    /// With all edits so far, whether they are written or not.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// An existing user; the error names the nearest.
    pub fn user(&self, name: &str) -> Result<&User> {
        find(&self.users, name)
    }

    /// Adds, replaces or removes a user.
    pub fn put(&mut self, name: &str, user: Option<User>) {
        let mut users = self.users.clone();
        let before = users.remove(name);
        let text = edited(&self.text, name, before.as_ref(), user.as_ref());
        users.extend(user.map(|user| (name.to_owned(), user)));
        let is_right = |text: &String| {
            users::parse(&Source::new(&self.path, text)).is_ok_and(|read| read == users)
        };
        self.text = text.filter(is_right).unwrap_or_else(|| whole(&users));
        self.users = users;
    }

    /// Replaces the file, on disk when this returns.
    pub fn save(&self) -> Result<()> {
        let folder = folder_of(&self.path);
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let beside = folder.join(format!(".{name}.{}", hex(&random()[..4])));
        let written = self.write(&beside).and_then(|()| {
            std::fs::rename(&beside, &self.path)?;
            File::open(&folder)?.sync_all()
        });
        written.map_err(|source| {
            drop(std::fs::remove_file(&beside));
            Error::invalid(format!("cannot write `{}`", self.path.display()))
                .hint("run this as the owner of the file and its folder")
                .source(source)
        })
    }

    fn write(&self, beside: &Path) -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(beside)?;
        file.write_all(self.text.as_bytes())?;
        // The server that reads the file may be another user than who edits it.
        if let Ok(before) = std::fs::metadata(&self.path) {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
                std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            let mode = MODE | (before.mode() & MODE_KEPT);
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        }
        file.sync_all()
    }
}

/// The user of that name, or an error with the nearest.
pub fn find<'a>(users: &'a Users, name: &str) -> Result<&'a User> {
    users.get(name).ok_or_else(|| {
        let error = Error::new(ErrorKind::NotFound, format!("no user `{name}`"));
        match crate::error::did_you_mean(name, users.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("flowguard user list"),
        }
    })
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The text with one user changed; `None` if it is not written line by line. The caller reads the
/// result again and believes nothing else.
fn edited(text: &str, name: &str, before: Option<&User>, after: Option<&User>) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let users = block(&lines, 0..lines.len(), 0, "users")?;
    let inside = users.start + 1..users.end;
    let indent =
        inside.clone().find(|at| is_content(&lines[*at])).map_or(2, |at| indent_of(&lines[at]));
    match (before, after) {
        (None, Some(user)) => {
            lines[users.start] = lines[users.start].replacen("users: {}", "users:", 1);
            lines.splice(users.end..users.end, rendered(name, user, indent));
        }
        (Some(_), None) => {
            let user = block(&lines, inside, indent, name)?;
            lines.drain(user);
            let is_empty = !block(&lines, 0..lines.len(), 0, "users")
                .is_some_and(|users| (users.start + 1..users.end).any(|at| is_content(&lines[at])));
            if is_empty {
                lines[users.start] = lines[users.start].replacen("users:", "users: {}", 1);
            }
        }
        (Some(before), Some(after)) => {
            for key in KEYS {
                let user = block(&lines, users.start + 1..lines.len(), indent, name)?;
                let inside = user.start + 1..user.end;
                let depth = indent_of(&lines[inside.clone().find(|at| is_content(&lines[*at]))?]);
                let value = key_lines(key, after, depth);
                if value == key_lines(key, before, depth) {
                    continue;
                }
                let replaced = block(&lines, inside, depth, key).unwrap_or(user.end..user.end);
                lines.splice(replaced, value);
            }
        }
        (None, None) => {}
    }
    Some(lines.join("\n") + "\n")
}

/// The lines of `key` at `indent` within `range`, with its value and without comments after it.
fn block(
    lines: &[String],
    range: std::ops::Range<usize>,
    indent: usize,
    key: &str,
) -> Option<std::ops::Range<usize>> {
    let is_key = |line: &str| {
        let rest = line.trim_start().strip_prefix(key).and_then(|rest| rest.strip_prefix(':'));
        indent_of(line) == indent
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let start = range.clone().find(|at| is_key(&lines[*at]))?;
    let mut end = start + 1;
    for (at, line) in lines.iter().enumerate().take(range.end).skip(end) {
        // A list may stand as far left as its key.
        let is_item = indent_of(line) == indent && line.trim_start().starts_with("- ");
        if is_content(line) {
            if indent_of(line) <= indent && !is_item {
                break;
            }
            end = at + 1;
        }
    }
    Some(start..end)
}

fn is_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn whole(users: &Users) -> String {
    let mut lines = vec![HEADER.to_owned(), format!("version: {VERSION}")];
    lines.push(if users.is_empty() { "users: {}" } else { "users:" }.to_owned());
    for (name, user) in users {
        lines.extend(rendered(name, user, 2));
    }
    lines.join("\n") + "\n"
}

fn rendered(name: &str, user: &User, indent: usize) -> Vec<String> {
    let mut lines = vec![format!("{}{name}:", " ".repeat(indent))];
    lines.extend(KEYS.iter().flat_map(|key| key_lines(key, user, indent + 2)));
    lines
}

/// The lines of one key of a user; none if it says nothing.
fn key_lines(key: &str, user: &User, indent: usize) -> Vec<String> {
    let pad = " ".repeat(indent);
    match key {
        "role" => vec![format!("{pad}role: {}", user.role)],
        "password" => {
            let line =
                |hash: &crate::config::Secret| format!("{pad}password: \"{}\"", hash.expose());
            user.password.iter().map(line).collect()
        }
        "grants" if !user.grants.is_empty() => {
            let grants: Vec<String> = user.grants.iter().map(ToString::to_string).collect();
            vec![format!("{pad}grants: [{}]", grants.join(", "))]
        }
        "tokens" if !user.tokens.is_empty() => {
            let mut lines = vec![format!("{pad}tokens:")];
            for token in &user.tokens {
                lines.push(format!("{pad}  - id: \"{}\"", token.id));
                lines.push(format!("{pad}    name: \"{}\"", token.name));
                lines.push(format!("{pad}    sha256: \"{}\"", token.hash.to_hex()));
                lines.extend(token.expires.map(|expires| format!("{pad}    expires: {expires}")));
            }
            lines
        }
        "disabled" if user.disabled => vec![format!("{pad}disabled: true")],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
