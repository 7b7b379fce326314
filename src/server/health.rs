//! What does not work while the rest goes on: named to whoever may know of it, counted for all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::{Principal, Role};
use crate::table::TableName;

/// Something that can be broken by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The project's folder.
    Project,
    /// `dags.yaml`.
    Dags,
    /// The file of users.
    Users,
    Certificate,
    /// A file below `sql/` that is no model of any table.
    File(PathBuf),
    Model(TableName),
    /// The topic of this table is not ingested.
    Ingestion(TableName),
    /// A table of the lake that cannot be read.
    Table(TableName),
}

impl Part {
    /// What sort of part it is, as metrics label it.
    pub fn kind(&self) -> &'static str {
        match self {
            Part::Project => "project",
            Part::Dags => "dags",
            Part::Users => "users",
            Part::Certificate => "certificate",
            Part::File(_) => "file",
            Part::Model(_) => "model",
            Part::Ingestion(_) => "ingestion",
            Part::Table(_) => "table",
        }
    }

    /// Which of its sort.
    pub fn name(&self) -> String {
        match self {
            Part::Project => "sql".to_owned(),
            Part::Dags => "dags.yaml".to_owned(),
            Part::Users => "server.users_file".to_owned(),
            Part::Certificate => "server.tls_certificate".to_owned(),
            Part::File(file) => file.display().to_string(),
            Part::Model(name) | Part::Ingestion(name) | Part::Table(name) => name.to_string(),
        }
    }

    /// What somebody may not read does not exist for them; files are for those who run models.
    pub fn is_known_to(&self, principal: &Principal) -> bool {
        match self {
            Part::Model(name) | Part::Ingestion(name) | Part::Table(name) => {
                principal.may_read(name)
            }
            Part::Users | Part::Certificate => principal.role >= Role::Admin,
            Part::Project | Part::Dags | Part::File(_) => principal.role >= Role::Engineer,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// Of `broken` what `principal` may know, a line each; why, only for those who run models, because a
/// reason may name what others may not read.
pub fn told_to(principal: &Principal, broken: &BTreeMap<Part, String>) -> Vec<String> {
    let known = broken.iter().filter(|(part, _)| part.is_known_to(principal));
    let line = |(part, reason): (&Part, &String)| match principal.role >= Role::Engineer {
        true => format!("{part}: {reason}"),
        false => part.to_string(),
    };
    known.map(line).collect()
}

/// Broken parts, and why. Cheap to clone; clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<Part, String>>>);

impl Health {
    /// Notes a broken part; whether the same was not known of it already.
    pub fn is_new(&self, part: Part, reason: &str) -> bool {
        self.lock().insert(part, reason.to_owned()).is_none_or(|known| known != reason)
    }

    /// The part works.
    pub fn mend(&self, part: &Part) {
        self.lock().remove(part);
    }

    /// The part is as `problem` says, or works.
    pub fn set(&self, part: Part, problem: Option<String>) {
        match problem {
            Some(reason) => drop(self.is_new(part, &reason)),
            None => self.mend(&part),
        }
    }

    /// Notes all broken parts of some sorts, in place of those that were; those that are news.
    pub fn replace(
        &self,
        is_of: impl Fn(&Part) -> bool,
        broken: BTreeMap<Part, String>,
    ) -> Vec<(Part, String)> {
        let mut known = self.lock();
        let before = known.clone();
        known.retain(|part, _| !is_of(part));
        let is_news = |(part, reason): &(&Part, &String)| before.get(*part) != Some(*reason);
        let news = broken.iter().filter(is_news);
        let news = news.map(|(part, reason)| (part.clone(), reason.clone())).collect();
        known.extend(broken);
        news
    }

    /// Broken parts, with `tables` that cannot be read.
    pub fn broken(&self, tables: BTreeMap<TableName, String>) -> BTreeMap<Part, String> {
        let mut known = self.lock().clone();
        known.extend(tables.into_iter().map(|(name, reason)| (Part::Table(name), reason)));
        known
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_is_not_named() {
        let health = Health::default();
        let bronze: TableName = "bronze.orders_raw".parse().unwrap();
        let gold: TableName = "gold.daily".parse().unwrap();
        for part in [Part::Ingestion(bronze), Part::Model(gold.clone()), Part::Dags] {
            assert!(health.is_new(part.clone(), "why"));
            assert!(!health.is_new(part.clone(), "why"), "{part}");
        }
        let analyst = Principal { user: "ana".to_owned(), role: Role::Analyst, grants: Vec::new() };
        let unreadable = BTreeMap::from([(gold, "a torn log".to_owned())]);
        let broken = health.broken(unreadable);
        assert_eq!(told_to(&analyst, &broken), ["model gold.daily", "table gold.daily"]);
        let all = [
            "dags dags.yaml: why",
            "model gold.daily: why",
            "ingestion bronze.orders_raw: why",
            "table gold.daily: a torn log",
        ];
        assert_eq!(told_to(&Principal::local(), &broken), all);
    }

    #[test]
    fn what_is_mended_goes_and_what_is_new_is_said_once() {
        let health = Health::default();
        let model = |name: &str| Part::Model(name.parse().unwrap());
        let broken = |names: &[&str]| -> BTreeMap<Part, String> {
            names.iter().map(|name| (model(name), "why".to_owned())).collect()
        };
        health.is_new(Part::Dags, "why");
        let is_model = |part: &Part| matches!(part, Part::Model(_));
        assert_eq!(health.replace(is_model, broken(&["gold.a", "gold.b"])).len(), 2);
        let news = health.replace(is_model, broken(&["gold.b", "gold.c"]));
        assert_eq!(news, [(model("gold.c"), "why".to_owned())]);
        assert_eq!(health.broken(BTreeMap::new()).len(), 3);
    }
}
