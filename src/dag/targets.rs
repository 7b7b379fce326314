//! `targets:` and `exports:` of `dags.yaml`: which warehouses there are, and which tables each
//! keeps. Variables in connections are left as they stand; `export::open` replaces them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::source::{Problems, Spanned};
use crate::table::Layer;
use crate::yaml::Mapping;

pub(super) const NAME_HINT: &str =
    "use lowercase letters, digits and underscores, starting with a letter";
pub(super) const SELECTORS_HINT: &str = "such as [+gold.daily_metrics]";

const SNOWFLAKE_HINT: &str =
    "write uri: snowflake://user:${PASSWORD}@account/database?warehouse=name&role=name";

/// Keys that were asked for.
pub(super) type KeysRead = BTreeSet<&'static str>;

/// A warehouse that tables are exported to.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    pub driver: DriverKind,
    /// A path, or a URI with `${VAR}` for its secrets.
    pub place: Spanned<String>,
    /// The driver's file; found by itself if absent.
    pub library: Option<Spanned<String>>,
    /// The warehouse's schema of each layer, where it is not the layer's name.
    pub schemas: BTreeMap<Layer, String>,
    /// Case of all names that it is given.
    pub identifiers: Identifiers,
}

/// Every identifier is quoted, so its case is kept; those that a person writes without quotes are
/// upper case to Snowflake, and lower case to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identifiers {
    AsWritten,
    Upper,
    Lower,
}

const IDENTIFIERS: [(&str, Identifiers); 3] = [
    ("as_written", Identifiers::AsWritten),
    ("upper", Identifiers::Upper),
    ("lower", Identifiers::Lower),
];

/// What a target is, and so by which driver it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    Duckdb,
    Postgresql,
    Snowflake,
    /// Parquet in a folder or bucket; needs no driver.
    Files,
}

const DRIVERS: [(&str, DriverKind); 4] = [
    ("duckdb", DriverKind::Duckdb),
    ("postgresql", DriverKind::Postgresql),
    ("snowflake", DriverKind::Snowflake),
    ("files", DriverKind::Files),
];

/// Tables that one target keeps.
#[derive(Debug, Clone)]
pub struct Export {
    pub name: String,
    pub target: Spanned<String>,
    pub select: Vec<Spanned<String>>,
    /// What a difference that is found after each run is; `None` looks for none.
    pub parity: Option<Severity>,
}

/// What becomes of a run that a check found fault with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warn,
    Error,
}

const CHECKS: [(&str, ()); 1] = [("parity", ())];
const SEVERITIES: [(&str, Severity); 2] = [("error", Severity::Error), ("warn", Severity::Warn)];

impl Target {
    /// In the case in which the target is given its names.
    pub fn schema(&self, layer: Layer) -> String {
        self.identifier(self.schemas.get(&layer).map_or(layer.as_str(), String::as_str))
    }

    /// Reports a DuckDB file that one of `others` is too: it is opened by one at a time, and targets
    /// are written side by side.
    pub(super) fn check_apart<'a>(
        &self,
        mut others: impl Iterator<Item = &'a Target>,
        problems: &Problems<'_>,
    ) {
        let file = |target: &Self| -> Option<PathBuf> {
            let path = Path::new(&target.place.value);
            let is_step = |part: &Component<'_>| !matches!(part, Component::CurDir);
            (target.driver == DriverKind::Duckdb)
                .then(|| path.components().filter(is_step).collect())
        };
        let own = file(self);
        if let Some(other) = others.find(|other| own.is_some() && file(other) == own) {
            let name = &other.name;
            problems.report_hint(
                self.place.position,
                format!("target `{name}` is the same file"),
                format!(
                    "DuckDB opens a file for one at a time: let both exports name target `{name}`"
                ),
            );
        }
    }

    /// A name of the lake or of FlowGuard, as the target has it.
    pub fn identifier(&self, name: &str) -> String {
        match self.identifiers {
            Identifiers::AsWritten => name.to_owned(),
            Identifiers::Upper => name.to_uppercase(),
            Identifiers::Lower => name.to_lowercase(),
        }
    }
}

/// `None` without a driver or a place, which is reported; the other keys are read all the same.
pub(super) fn read_target(name: &str, map: Mapping<'_>) -> (Option<Target>, KeysRead) {
    let driver = map.required("driver").and_then(|value| value.one_of(&DRIVERS));
    let place = read_place(driver, &map);
    let library = map.optional("library");
    if let (Some(DriverKind::Files), Some(library)) = (driver, library) {
        library.report("files need no driver", "remove the key");
    }
    let library = library.and_then(|value| value.string());
    let identifiers = map.optional("identifiers");
    if let (Some(DriverKind::Files), Some(identifiers)) = (driver, identifiers) {
        identifiers.report("files keep names as they are", "remove the key");
    }
    let identifiers = identifiers.and_then(|value| value.one_of(&IDENTIFIERS));
    let mut schemas = BTreeMap::new();
    if let Some(listed) = map.optional("schemas").and_then(|value| value.mapping("`schemas`")) {
        for layer in Layer::ALL {
            let named = listed.optional(layer.as_str()).and_then(|value| value.string());
            schemas.extend(named.map(|named| (layer, named.value)));
        }
        listed.finish();
    }
    let target = driver.zip(place).map(|(driver, place)| Target {
        name: name.to_owned(),
        driver,
        place,
        library,
        schemas,
        identifiers: identifiers.unwrap_or(match driver {
            DriverKind::Snowflake => Identifiers::Upper,
            _ => Identifiers::AsWritten,
        }),
    });
    (target, map.finish())
}

/// The path or URI of a target, as its driver wants it.
fn read_place(driver: Option<DriverKind>, map: &Mapping<'_>) -> Option<Spanned<String>> {
    let (path, uri) = (map.optional("path"), map.optional("uri"));
    let place = match (driver, path, uri) {
        (Some(DriverKind::Duckdb), _, Some(uri)) => {
            uri.report("a DuckDB target is a file", "write path: warehouse.duckdb");
            None
        }
        (Some(DriverKind::Postgresql), Some(path), _) => {
            path.report("a PostgreSQL target is a server", "write uri: postgresql://host/database");
            None
        }
        (Some(DriverKind::Snowflake), Some(path), _) => {
            path.report("a Snowflake target is an account", SNOWFLAKE_HINT);
            None
        }
        (Some(DriverKind::Snowflake), None, Some(uri)) => uri.string().filter(|place| {
            let is_account = place.value.starts_with("snowflake://");
            if !is_account {
                uri.report("not an account", SNOWFLAKE_HINT);
            }
            is_account
        }),
        (Some(DriverKind::Files), Some(_), Some(uri)) => {
            uri.report("the target has a path as well", "write one of path and uri");
            None
        }
        (Some(DriverKind::Files), Some(path), None) => path.string().filter(|place| {
            let is_folder = !place.value.contains("://");
            if !is_folder {
                path.report("a path is a folder", "write uri: s3://bucket/prefix");
            }
            is_folder
        }),
        (Some(DriverKind::Files), None, Some(uri)) => uri.string().filter(|place| {
            let is_bucket = place.value.starts_with("s3://");
            if !is_bucket {
                uri.report("not a bucket", "write uri: s3://bucket/prefix, or path: folder");
            }
            is_bucket
        }),
        (Some(DriverKind::Duckdb | DriverKind::Files), None, _) => {
            map.required("path").and_then(|v| v.string())
        }
        (Some(DriverKind::Postgresql | DriverKind::Snowflake), _, None) => {
            map.required("uri").and_then(|v| v.string())
        }
        (_, path, uri) => path.or(uri).and_then(|value| value.string()),
    };
    if matches!(driver, Some(DriverKind::Postgresql | DriverKind::Snowflake))
        && let (Some(uri), Some(place)) = (uri, &place)
        && let Some(secret) = bare_secret(&place.value)
    {
        uri.report(format!("the {secret} stands in the file"), "write ${VAR} in its place");
    }
    place
}

/// What of `scheme://user:password@host?token=…` is a secret and no variable.
fn bare_secret(uri: &str) -> Option<&'static str> {
    let (_, rest) = uri.split_once("://")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_bare = |secret: &str| !secret.starts_with("${");
    let authority = place.split('/').next().unwrap_or(place);
    let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
    if password.is_some_and(|(_, password)| is_bare(password)) {
        return Some("password");
    }
    let token = query.split('&').find_map(|parameter| parameter.strip_prefix("token="));
    token.is_some_and(is_bare).then_some("token")
}

/// `None` only without a target: an export that selects nothing is kept, its fault reported.
pub(super) fn read_export(name: &str, map: Mapping<'_>) -> (Option<Export>, KeysRead) {
    let target = map.required("target").and_then(|value| value.string());
    let select = map.required("select").and_then(|value| {
        let selectors = value.strings()?;
        if selectors.is_empty() {
            value.report("`select` names nothing", SELECTORS_HINT);
        }
        Some(selectors)
    });
    let check = map.optional("check");
    let severity = map.optional("else");
    if let (None, Some(severity)) = (check, severity) {
        severity.report("`else` belongs to a check", "add check: parity, or remove the key");
    }
    let severity = severity.map(|value| value.one_of(&SEVERITIES));
    let parity = check.and_then(|value| value.one_of(&CHECKS));
    let export = target.map(|target| Export {
        name: name.to_owned(),
        target,
        select: select.unwrap_or_default(),
        parity: parity.map(|()| severity.flatten().unwrap_or(Severity::Error)),
    });
    (export, map.finish())
}
