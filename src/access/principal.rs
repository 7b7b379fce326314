//! Somebody who has proved who they are, and what they may do. Plain values.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::source::choice_hint;
use crate::table::{Layer, TableName};

/// What a user may do, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads silver and gold.
    Analyst,
    /// Reads everything, and runs models.
    Engineer,
    Admin,
}

impl Role {
    /// Least first.
    pub const ALL: [Role; 3] = [Role::Analyst, Role::Engineer, Role::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Analyst => "analyst",
            Role::Engineer => "engineer",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let hint = choice_hint(text, Role::ALL.map(Role::as_str), "roles are");
            Error::invalid(format!("unknown role `{text}`")).hint(hint)
        })
    }
}

/// A right to read beside the role's, written `bronze` or `bronze.orders_raw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    Layer(Layer),
    Table(TableName),
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Layer(layer) => layer.fmt(f),
            Grant::Table(table) => table.fmt(f),
        }
    }
}

impl FromStr for Grant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.contains('.') {
            true => text.parse().map(Grant::Table),
            false => text.parse().map(Grant::Layer),
        }
    }
}

/// Somebody who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user: String,
    pub role: Role,
    pub grants: Vec<Grant>,
}

impl Principal {
    /// Whoever reaches this machine's own address while nobody is asked who they are.
    pub fn local() -> Self {
        Self { user: "local".to_owned(), role: Role::Admin, grants: Vec::new() }
    }

    /// Whether nobody is asked who they are, so that this is more than one person.
    pub fn is_anybody(&self) -> bool {
        *self == Self::local()
    }

    /// The one check of reading, for every way to ask.
    pub fn may_read(&self, table: &TableName) -> bool {
        self.role >= Role::Engineer
            || table.layer != Layer::Bronze
            || self.grants.iter().any(|grant| match grant {
                Grant::Layer(layer) => *layer == table.layer,
                Grant::Table(name) => name == table,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: [&str; 4] =
        ["bronze.clicks_raw", "bronze.orders_raw", "silver.orders_cleaned", "gold.daily_metrics"];

    #[track_caller]
    fn check(role: Role, grants: &[&str], expect: &[&str]) {
        let grants = grants.iter().map(|grant| grant.parse().unwrap()).collect();
        let principal = Principal { user: "ana".into(), role, grants };
        let read = TABLES.into_iter().filter(|table| principal.may_read(&table.parse().unwrap()));
        assert_eq!(read.collect::<Vec<_>>(), expect);
    }

    #[test]
    fn roles_and_grants_say_what_may_be_read() {
        check(Role::Analyst, &[], &TABLES[2..]);
        check(Role::Analyst, &["bronze.orders_raw"], &TABLES[1..]);
        check(Role::Analyst, &["gold", "silver.orders_cleaned"], &TABLES[2..]);
        check(Role::Analyst, &["bronze"], &TABLES);
        check(Role::Engineer, &[], &TABLES);
        check(Role::Admin, &[], &TABLES);
    }

    #[test]
    fn roles_and_grants_print_as_they_are_written() {
        for text in ["bronze", "bronze.orders_raw"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        let hint = |error: Error| error.hint.unwrap();
        assert_eq!(hint("analist".parse::<Role>().unwrap_err()), "did you mean `analyst`?");
        assert_eq!(hint("bronce".parse::<Grant>().unwrap_err()), "did you mean `bronze`?");
    }
}
