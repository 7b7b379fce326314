//! `flowguard user`: the file of users, edited. Passwords and tokens are shown once, on stdout, when
//! they are made.

use std::io::Read;
use std::str::FromStr;

use chrono_tz::Tz;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Output, Session, output};
use crate::access::edit::UsersFile;
use crate::access::token::Token;
use crate::access::users::{self, TOKENS_PER_USER_MAX, User, Users};
use crate::access::{Grant, Role, password};
use crate::config::{Config, Secret};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Instant;
use crate::source::Source;

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// Say who may ask a server, and what they may read
///
/// Edits the users file (server.users_file) beside dags.yaml; comments in it stay. A server that
/// runs sees a change within a second. Without the file, nobody is asked who they are.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  flowguard user add ana --role analyst
  flowguard user add ci --role engineer --no-password
  flowguard user token ci --name nightly --expires 90d
  flowguard user token ci --revoke nightly
  flowguard user grant ana bronze.orders_raw
  flowguard user password ana --password-stdin < password.txt
  flowguard user disable ana
  flowguard user list --output json")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user; a password is made and printed, unless one is given
    Add {
        /// Name of the user
        name: String,
        /// analyst reads silver and gold; engineer reads all, and runs; admin
        #[arg(long, value_parser = roles())]
        role: Role,
        /// A layer or table to read beside the role's, such as bronze.orders_raw; repeatable
        #[arg(long = "grant", value_name = "WHAT")]
        grants: Vec<Grant>,
        #[command(flatten)]
        source: PasswordSource,
    },
    /// List users, without their secrets
    List {
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Keep a user out, with all passwords and tokens, until enabled again
    Disable {
        /// Name of the user
        name: String,
    },
    /// Let a disabled user in again
    Enable {
        /// Name of the user
        name: String,
    },
    /// Remove a user
    Remove {
        /// Name of the user
        name: String,
    },
    /// Change a user's role
    Role {
        /// Name of the user
        name: String,
        /// The new role
        #[arg(value_parser = roles())]
        role: Role,
    },
    /// Replace a user's password; one is made and printed, unless it is given
    Password {
        /// Name of the user
        name: String,
        #[command(flatten)]
        source: PasswordSource,
    },
    /// Make a token and print it, or revoke one
    Token {
        /// Name of the user
        name: String,
        /// What to call the token [default: its id]
        #[arg(long = "name", value_name = "TOKEN", conflicts_with = "revoke")]
        token: Option<String>,
        /// 90d, 12h, a date, or never
        #[arg(long, value_name = "TIME", default_value = "90d", conflicts_with = "revoke")]
        expires: Expiry,
        /// Revoke the token of this name or id
        #[arg(long, value_name = "TOKEN")]
        revoke: Option<String>,
    },
    /// Let a user read a layer or table beside the role's
    Grant {
        /// Name of the user
        name: String,
        /// Layers or tables, such as bronze.orders_raw
        #[arg(required = true, value_name = "WHAT")]
        grants: Vec<Grant>,
    },
    /// Take grants back
    Revoke {
        /// Name of the user
        name: String,
        /// Layers or tables, such as bronze.orders_raw
        #[arg(required = true, value_name = "WHAT")]
        grants: Vec<Grant>,
    },
}

#[derive(Debug, Args)]
struct PasswordSource {
    /// Read the password from standard input, up to the end of its first line
    #[arg(long)]
    password_stdin: bool,
    /// Accept no password, tokens only
    #[arg(long, conflicts_with = "password_stdin")]
    no_password: bool,
}

fn roles() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str)).try_map(|role| role.parse::<Role>())
}

/// When a token ends.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    Never,
    After { hours: i64 },
    At(Instant),
}

pub fn execute(session: &Session, arguments: &Arguments) -> Result<()> {
    let config = session.config()?;
    let now = session.process.clock.micros();
    match &arguments.command {
        Command::List { output } => list(&config, *output, now),
        Command::Add { name, role, grants, source } => {
            let user = User { grants: grants.clone(), ..User::new(*role) };
            add(&config, name, user, source)
        }
        Command::Disable { name } => change(&config, name, "disabled", |user| {
            user.disabled = true;
            Ok(())
        }),
        Command::Enable { name } => change(&config, name, "enabled", |user| {
            user.disabled = false;
            Ok(())
        }),
        Command::Remove { name } => remove(&config, name),
        Command::Role { name, role } => change(&config, name, &format!("now {role}"), |user| {
            user.role = *role;
            Ok(())
        }),
        Command::Password { name, source } => replace_password(&config, name, source),
        Command::Token { name, revoke: Some(token), .. } => revoke_token(&config, name, token),
        Command::Token { name, token, expires, revoke: None } => {
            add_token(&config, name, token.as_deref(), expires.from(now)?)
        }
        Command::Grant { name, grants } => change(&config, name, "granted", |user| {
            for grant in grants {
                if !user.grants.contains(grant) {
                    user.grants.push(grant.clone());
                }
            }
            Ok(())
        }),
        Command::Revoke { name, grants } => change(&config, name, "revoked", |user| {
            for grant in grants {
                if !user.grants.contains(grant) {
                    return Err(Error::new(ErrorKind::NotFound, format!("`{name}` has no grant `{grant}`"))
                        .hint("flowguard user list shows grants; what the role may read cannot be revoked"));
                }
                user.grants.retain(|held| held != grant);
            }
            Ok(())
        }),
    }
}

/// The file of users, to be edited.
fn open(config: &Config) -> Result<UsersFile> {
    if config.server.users.is_some() {
        return Err(Error::invalid("the users are in the setting `server.users`, not in a file")
            .hint("change them there, or unset it"));
    }
    UsersFile::open(&config.server.users_file)
}

fn change(
    config: &Config,
    name: &str,
    done: &str,
    change: impl FnOnce(&mut User) -> Result<()>,
) -> Result<()> {
    let mut file = open(config)?;
    let mut user = file.user(name)?.clone();
    change(&mut user)?;
    file.put(name, Some(user));
    file.save()?;
    output::say(&format!("user `{name}`: {done}"));
    Ok(())
}

fn add(config: &Config, name: &str, user: User, source: &PasswordSource) -> Result<()> {
    users::check_name(name)?;
    let given = given_password(source)?;
    let is_first = !config.server.users_file.exists();
    let mut file = open(config)?;
    if file.users().contains_key(name) {
        return Err(Error::invalid(format!("user `{name}` exists already"))
            .hint(format!("flowguard user password {name}, or flowguard user role {name} ROLE")));
    }
    let (password, printed) = new_password(given, source)?;
    file.put(name, Some(User { password, ..user }));
    file.save()?;
    output::say(&format!("user `{name}`: added"));
    if is_first {
        output::say(
            "a server that is running now asks nobody who they are until it is started again",
        );
    }
    print_once("password", printed)
}

fn remove(config: &Config, name: &str) -> Result<()> {
    let mut file = open(config)?;
    file.user(name)?;
    file.put(name, None);
    file.save()?;
    output::say(&format!("user `{name}`: removed"));
    Ok(())
}

fn replace_password(config: &Config, name: &str, source: &PasswordSource) -> Result<()> {
    let given = given_password(source)?;
    let (password, printed) = new_password(given, source)?;
    let done = if password.is_some() { "password replaced" } else { "password removed" };
    change(config, name, done, |user| {
        user.password = password;
        Ok(())
    })?;
    print_once("password", printed)
}

fn add_token(
    config: &Config,
    name: &str,
    token_name: Option<&str>,
    expires: Option<Instant>,
) -> Result<()> {
    let (mut token, text) = Token::generate("", expires);
    token.name = token_name.unwrap_or(&token.id).to_owned();
    users::check_name(&token.name)?;
    let until = expires.map_or_else(|| "for ever".to_owned(), |at| format!("until {at}"));
    let done = format!("token `{}` added, good {until}", token.name);
    change(config, name, &done, |user| {
        if user.tokens.iter().any(|other| other.name == token.name) {
            return Err(Error::invalid(format!("`{name}` has a token `{}` already", token.name))
                .hint(format!("flowguard user token {name} --revoke {}", token.name)));
        }
        if user.tokens.len() >= TOKENS_PER_USER_MAX {
            let message = format!("`{name}` has {TOKENS_PER_USER_MAX} tokens already");
            return Err(Error::new(ErrorKind::Exhausted, message)
                .hint("revoke those that nobody uses: flowguard user list"));
        }
        user.tokens.push(token);
        Ok(())
    })?;
    print_once("token", Some(text))
}

fn revoke_token(config: &Config, name: &str, token: &str) -> Result<()> {
    change(config, name, &format!("token `{token}` revoked"), |user| {
        let before = user.tokens.len();
        user.tokens.retain(|held| held.name != token && held.id != token);
        if user.tokens.len() == before {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`{name}` has no token `{token}`"),
            )
            .hint("flowguard user list"));
        }
        Ok(())
    })
}

/// The secret alone on stdout, so that a script can keep it.
fn print_once(what: &str, secret: Option<Secret>) -> Result<()> {
    let Some(secret) = secret else { return Ok(()) };
    output::say(&format!("this {what} is not shown again:"));
    output::write_text(&format!("{}\n", secret.expose()))
}

/// Read before the file is opened: nobody waits for a person who types.
fn given_password(source: &PasswordSource) -> Result<Option<Secret>> {
    if !source.password_stdin {
        return Ok(None);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(password::BYTES_MAX as u64 + 2)
        .read_to_string(&mut text)
        .map_err(|source| Error::invalid("cannot read a password from stdin").source(source))?;
    let given = Secret::new(text.lines().next().unwrap_or_default());
    password::check_new(&given)?;
    Ok(Some(given))
}

/// The hash for the file, and the password if it was made here.
fn new_password(
    given: Option<Secret>,
    source: &PasswordSource,
) -> Result<(Option<Secret>, Option<Secret>)> {
    if source.no_password {
        return Ok((None, None));
    }
    match given {
        Some(given) => Ok((Some(password::hash(&given)?), None)),
        None => {
            let made = password::generate();
            Ok((Some(password::hash(&made)?), Some(made)))
        }
    }
}

fn list(config: &Config, form: Output, now: i64) -> Result<()> {
    let users = match &config.server.users {
        Some(users) => users::parse(&Source::new("server.users", users.expose()))?,
        None => match users::read_text(&config.server.users_file) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                output::say("no users: nobody is asked who they are");
                Users::new()
            }
            read => users::parse(&read?)?,
        },
    };
    match form {
        Output::Text => {
            let rows: Vec<_> = users.iter().map(|(name, user)| row(name, user, now)).collect();
            let headings = ["user", "role", "grants", "password", "tokens", "state"];
            output::write_text(&output::columns(&headings, &rows))
        }
        Output::Json => {
            let users = users.iter().map(|(name, user)| described(name, user, now));
            output::write_json(&serde_json::Value::Array(users.collect()))
        }
    }
}

fn row(name: &str, user: &User, now: i64) -> Vec<String> {
    let grants: Vec<String> = user.grants.iter().map(ToString::to_string).collect();
    let tokens = user.tokens.iter().map(|token| match token.is_expired(now) {
        true => format!("{} (expired)", token.name),
        false => token.name.clone(),
    });
    vec![
        name.to_owned(),
        user.role.to_string(),
        grants.join(" "),
        if user.password.is_some() { "yes" } else { "no" }.to_owned(),
        tokens.collect::<Vec<_>>().join(" "),
        if user.disabled { "disabled" } else { "enabled" }.to_owned(),
    ]
}

fn described(name: &str, user: &User, now: i64) -> serde_json::Value {
    let tokens = user.tokens.iter().map(|token| {
        json!({
            "id": token.id,
            "name": token.name,
            "expires": token.expires.map(|at| at.to_string()),
            "expired": token.is_expired(now),
        })
    });
    json!({
        "user": name,
        "role": user.role.as_str(),
        "grants": user.grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "password": user.password.is_some(),
        "tokens": tokens.collect::<Vec<_>>(),
        "disabled": user.disabled,
    })
}

impl FromStr for Expiry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "never" {
            return Ok(Expiry::Never);
        }
        for (unit, hours) in [('d', 24), ('h', 1)] {
            let count = text.strip_suffix(unit).and_then(|count| count.parse::<u32>().ok());
            if let Some(count) = count {
                return Ok(Expiry::After { hours: i64::from(count) * hours });
            }
        }
        Instant::parse(text, Tz::UTC)
            .map(Expiry::At)
            .map_err(|_| Error::invalid("write 90d, 12h, 2027-01-31 or never"))
    }
}

impl Expiry {
    fn from(self, now: i64) -> Result<Option<Instant>> {
        let at = match self {
            Expiry::Never => return Ok(None),
            // Whole hours from the last whole second: nobody needs more digits.
            Expiry::After { hours } => Instant(
                (now - now % 1_000_000).saturating_add(hours.saturating_mul(MICROS_PER_HOUR)),
            ),
            Expiry::At(at) => at,
        };
        if at.0 <= now {
            return Err(Error::invalid(format!("the token would end at {at}, which is past")));
        }
        Ok(Some(at))
    }
}
