//! Configuration: `flowguard.toml` (optional), over it `FLOWGUARD_*` variables, over them flags;
//! from texts to one validated value. The environment is passed in, never read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Diagnostic, Error, ErrorKind, Result};
use crate::source::{Source, choice_hint};

mod option_names;
mod raw;
mod secret;
pub mod settings;
mod value;

pub use secret::Secret;
pub use value::folder_url;

/// `text` with `${VAR}` and `${VAR:-default}` replaced, for texts outside of `flowguard.toml`.
pub fn expanded(text: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    raw::expand(text, variables).map_err(|raw::Unexpanded { reference, message, hint }| {
        Error::invalid(format!("`{reference}`: {message}")).hint(hint)
    })
}

use option_names::OPTION_NAMES;
use raw::{Layers, Origin};
use settings::{OPTIONS_KEY, OWNED_OPTIONS, SETTINGS, Setting};

/// In the project's folder; it need not exist.
pub const FILE_NAME: &str = "flowguard.toml";
/// The file that marks a project's folder.
pub const PROJECT_MARK: &str = "dags.yaml";
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Variables that would make concurrent commits overwrite each other.
const UNSAFE_VARIABLES: [&str; 2] = ["AWS_S3_ALLOW_UNSAFE_RENAME", "AWS_S3_LOCKING_PROVIDER"];

/// Every setting, validated. Their meanings are in [`settings::SETTINGS`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Absolute.
    pub project: PathBuf,
    /// `file://` or `s3://`, with `/` at its end.
    pub lake: Url,
    pub s3: S3,
    pub kafka: Kafka,
    pub ingest: Ingest,
    pub engine: Engine,
    pub server: Server,
    pub remote: Remote,
    pub log: Log,
    effective: Vec<Effective>,
}

/// Keys come both or not at all. Where `path_style` is not set, it is whether there is an
/// `endpoint`.
#[derive(Debug, Clone)]
pub struct S3 {
    pub endpoint: Option<Url>,
    pub region: String,
    pub access_key_id: Option<Secret>,
    pub secret_access_key: Option<Secret>,
    pub session_token: Option<Secret>,
    pub path_style: bool,
    pub allow_http: bool,
}

#[derive(Debug, Clone)]
pub struct Kafka {
    pub bootstrap_servers: Option<String>,
    pub group_prefix: String,
    /// For the client library, by its own names.
    pub options: BTreeMap<String, Secret>,
}

/// A batch is committed when it reaches the first of the `flush` bounds.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub pipeline: String,
    pub flush_rows_max: u64,
    pub flush_bytes_max: u64,
    pub flush_age_ms_max: u64,
    pub memory_bytes_max: u64,
    pub message_bytes_max: u64,
    pub dead_letter_topic: bool,
}

#[derive(Debug, Clone)]
pub struct Engine {
    pub memory_bytes_max: u64,
    pub spill_dir: Option<PathBuf>,
    /// 0: all cores.
    pub threads: u64,
    pub parallel_models_max: u64,
}

/// Paths are absolute.
#[derive(Debug, Clone)]
pub struct Server {
    /// `host:port`, as is the next.
    pub flight_address: String,
    pub http_address: String,
    /// Set exactly if the key is.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Set only with a certificate.
    pub tls_client_ca: Option<PathBuf>,
    pub users_file: PathBuf,
    /// The text of a users file; the file is then not read.
    pub users: Option<Secret>,
    pub statement_log: Option<PathBuf>,
    pub running_statements_max: u64,
    pub running_statements_per_user_max: u64,
    pub waiting_statements_max: u64,
    pub statement_wait_ms_max: u64,
    pub statement_run_ms_max: u64,
    pub statement_unread_ms_max: u64,
    pub statement_memory_bytes_max: u64,
    pub statement_spill_bytes_max: u64,
    pub statement_rows_max: u64,
}

/// How to be let in by a server of somebody else. Paths are absolute.
#[derive(Debug, Clone)]
pub struct Remote {
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    pub tls_ca: Option<PathBuf>,
    /// Set exactly if the key is.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// One line of `flowguard config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub key: String,
    /// Secrets are masked; empty when unset.
    pub value: String,
    /// `default`, `flowguard.toml:3`, `env FLOWGUARD_LAKE` or `flag`.
    pub origin: String,
}

/// The nearest folder at or above `start` that holds `dags.yaml`.
pub fn find_project(start: &Path) -> Result<PathBuf> {
    let start = std::path::absolute(start).map_err(|error| {
        Error::invalid(format!("`{}` is not a path", start.display())).source(error)
    })?;
    start
        .ancestors()
        .find(|folder| folder.join(PROJECT_MARK).is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            let message = format!("no `{PROJECT_MARK}` in `{}` or above it", start.display());
            Error::new(ErrorKind::NotFound, message)
                .hint("change into a project's folder, or name it: --project PATH")
        })
}

impl Config {
    /// `variables` is the environment; `flags` are settings by key. The error carries every
    /// problem of all three.
    pub fn load(
        project: &Path,
        variables: &BTreeMap<String, String>,
        flags: &[(String, String)],
    ) -> Result<Config> {
        let project = std::path::absolute(project).map_err(|error| {
            Error::invalid(format!("`{}` is not a path", project.display())).source(error)
        })?;
        for name in UNSAFE_VARIABLES {
            if variables.contains_key(name) {
                return Err(Error::invalid(format!("`{name}` is set, which can lose commits"))
                    .hint(format!(
                        "commits need conditional writes and nothing else: unset {name}"
                    )));
            }
        }
        let file = read_file(&project)?;
        let mut reader = Reader { layers: Layers::read(&file, variables, flags) };
        let config = reader.config(project, &file);
        let mut problems = reader.layers.problems;
        if !problems.is_empty() {
            problems.sort_by_key(|problem| (problem.line == 0, problem.line, problem.column));
            return Err(Error::diagnosed(counted(&problems), problems));
        }
        Ok(config)
    }

    /// Whether somebody set `key`, even to its default.
    pub fn is_given(&self, key: &str) -> bool {
        self.effective.iter().any(|line| line.key == key && line.origin != "default")
    }

    /// Every setting with its value and origin, in the order of [`settings::SETTINGS`].
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }
}

fn counted(problems: &[Diagnostic]) -> String {
    match problems.len() {
        1 => "1 problem in the configuration".into(),
        count => format!("{count} problems in the configuration"),
    }
}

fn read_file(project: &Path) -> Result<Source> {
    let path = project.join(FILE_NAME);
    let failed =
        |error: std::io::Error| Error::invalid(format!("cannot read `{FILE_NAME}`")).source(error);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            Err(Error::invalid(format!("`{FILE_NAME}` is larger than {FILE_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(Source::new(FILE_NAME, std::fs::read_to_string(&path).map_err(failed)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Source::new(FILE_NAME, ""))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Reads each setting by its key. After a problem it goes on with the default or a stand-in, so
/// that all problems are found; the result is then thrown away.
struct Reader<'a> {
    layers: Layers<'a>,
}

impl Reader<'_> {
    fn config(&mut self, project: PathBuf, file: &Source) -> Config {
        let lake = self.lake(&project);
        let s3 = self.s3();
        let kafka = Kafka {
            bootstrap_servers: self.text("kafka.bootstrap_servers"),
            group_prefix: self.name("kafka.group_prefix"),
            options: self.options(),
        };
        let ingest = Ingest {
            pipeline: self.name("ingest.pipeline"),
            flush_rows_max: self.number("ingest.flush_rows_max"),
            flush_bytes_max: self.number("ingest.flush_bytes_max"),
            flush_age_ms_max: self.number("ingest.flush_age_ms_max"),
            memory_bytes_max: self.number("ingest.memory_bytes_max"),
            message_bytes_max: self.number("ingest.message_bytes_max"),
            dead_letter_topic: self.flag("ingest.dead_letter_topic").unwrap_or(false),
        };
        let engine = Engine {
            memory_bytes_max: self.number("engine.memory_bytes_max"),
            spill_dir: self.text("engine.spill_dir").map(|folder| project.join(folder)),
            threads: self.number("engine.threads"),
            parallel_models_max: self.number("engine.parallel_models_max"),
        };
        let server = self.server(&project);
        let remote = self.remote(&project);
        let log = Log { level: self.needed("log.level"), format: self.log_format() };
        let mut config = Config {
            project,
            lake,
            s3,
            kafka,
            ingest,
            engine,
            server,
            remote,
            log,
            effective: Vec::new(),
        };
        config.effective = self.effective(&config, file);
        config
    }

    /// The given text, or the default; `None` when unset or empty.
    fn text(&self, key: &'static str) -> Option<String> {
        let given = self.layers.values.get(key).map(|raw| raw.text.clone());
        given.or_else(|| described(key).default.map(str::to_owned)).filter(|text| !text.is_empty())
    }

    fn needed(&mut self, key: &'static str) -> String {
        self.text(key).unwrap_or_else(|| {
            self.layers.report(key, format!("`{key}` is empty"), None);
            String::new()
        })
    }

    /// Part of a consumer group's or a pipeline's name.
    fn name(&mut self, key: &'static str) -> String {
        let name = self.needed(key);
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        if !is_name || name.len() > 128 {
            let hint = "use letters, digits, `.`, `_` and `-`, at most 128";
            self.layers.report(key, format!("`{key}` is `{name}`"), Some(hint.into()));
        }
        name
    }

    fn number(&mut self, key: &'static str) -> u64 {
        let text = self.needed(key);
        value::number(&text, described(key).form).unwrap_or_else(|error| {
            self.layers.report(key, format!("`{key}` {}", error.message), error.hint);
            1
        })
    }

    fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.text(key)?.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let message = format!("`{key}` must be true or false, found `{other}`");
                self.layers.report(key, message, None);
                None
            }
        }
    }

    fn secret(&self, key: &'static str) -> Option<Secret> {
        self.text(key).map(Secret::new)
    }

    fn log_format(&mut self) -> LogFormat {
        let text = self.needed("log.format");
        match text.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                let hint = choice_hint(&text, ["text", "json"], "formats are");
                self.layers.report("log.format", format!("unknown format `{text}`"), Some(hint));
                LogFormat::Text
            }
        }
    }

    fn lake(&mut self, project: &Path) -> Url {
        let text = self.needed("lake");
        value::lake(&text, project).unwrap_or_else(|error| {
            self.layers.report("lake", error.message, error.hint);
            Url::parse("file:///").expect("the stand-in is a URL")
        })
    }

    fn s3(&mut self) -> S3 {
        let allow_http = self.flag("s3.allow_http").unwrap_or(false);
        let endpoint = self.text("s3.endpoint").and_then(|text| match Url::parse(&text) {
            Ok(url) if url.scheme() == "http" && !allow_http => {
                let hint = "use https://, or set s3.allow_http to true for a test server";
                let message = "`s3.endpoint` is without TLS".to_owned();
                self.layers.report("s3.endpoint", message, Some(hint.into()));
                None
            }
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
            _ => {
                let hint = "write a URL such as https://minio.example:9000";
                let message = "`s3.endpoint` is not the URL of a server".to_owned();
                self.layers.report("s3.endpoint", message, Some(hint.into()));
                None
            }
        });
        let access_key_id = self.secret("s3.access_key_id");
        let secret_access_key = self.secret("s3.secret_access_key");
        self.both_or_neither("s3.access_key_id", "s3.secret_access_key");
        let path_style = self.flag("s3.path_style").unwrap_or(endpoint.is_some());
        S3 {
            endpoint,
            region: self.needed("s3.region"),
            access_key_id,
            secret_access_key,
            session_token: self.secret("s3.session_token"),
            path_style,
            allow_http,
        }
    }

    fn both_or_neither(&mut self, one: &'static str, other: &'static str) {
        let (given, missing) = match (self.text(one), self.text(other)) {
            (Some(_), None) => (one, other),
            (None, Some(_)) => (other, one),
            _ => return,
        };
        let message = format!("`{given}` is set without `{missing}`");
        self.layers.report(given, message, Some("set both or neither".into()));
    }

    fn server(&mut self, project: &Path) -> Server {
        self.both_or_neither("server.tls_certificate", "server.tls_key");
        let path = |text: Option<String>| text.map(|path| project.join(path));
        let tls_certificate = path(self.text("server.tls_certificate"));
        let tls_client_ca = path(self.text("server.tls_client_ca"));
        if tls_client_ca.is_some() && tls_certificate.is_none() {
            let key = "server.tls_client_ca";
            let message = format!("`{key}` is set without `server.tls_certificate`");
            let hint = "clients show certificates over TLS only: set server.tls_certificate and server.tls_key";
            self.layers.report(key, message, Some(hint.into()));
        }
        Server {
            flight_address: self.address("server.flight_address"),
            http_address: self.address("server.http_address"),
            tls_certificate,
            tls_key: path(self.text("server.tls_key")),
            tls_client_ca,
            users_file: project.join(self.needed("server.users_file")),
            users: self.secret("server.users"),
            statement_log: path(self.text("server.statement_log")),
            running_statements_max: self.number("server.running_statements_max"),
            running_statements_per_user_max: self.number("server.running_statements_per_user_max"),
            waiting_statements_max: self.number("server.waiting_statements_max"),
            statement_wait_ms_max: self.number("server.statement_wait_ms_max"),
            statement_run_ms_max: self.number("server.statement_run_ms_max"),
            statement_unread_ms_max: self.number("server.statement_unread_ms_max"),
            statement_memory_bytes_max: self.number("server.statement_memory_bytes_max"),
            statement_spill_bytes_max: self.number("server.statement_spill_bytes_max"),
            statement_rows_max: self.number("server.statement_rows_max"),
        }
    }

    fn remote(&mut self, project: &Path) -> Remote {
        self.both_or_neither("remote.tls_certificate", "remote.tls_key");
        let path = |text: Option<String>| text.map(|path| project.join(path));
        Remote {
            user: self.text("remote.user"),
            password: self.secret("remote.password"),
            token: self.secret("remote.token"),
            tls_ca: path(self.text("remote.tls_ca")),
            tls_certificate: path(self.text("remote.tls_certificate")),
            tls_key: path(self.text("remote.tls_key")),
        }
    }

    fn address(&mut self, key: &'static str) -> String {
        let text = self.needed(key);
        // An empty text is reported already.
        if !text.is_empty()
            && let Err(error) = value::address(&text)
        {
            self.layers.report(key, format!("`{key}` {}", error.message), error.hint);
        }
        text
    }

    fn options(&mut self) -> BTreeMap<String, Secret> {
        let mut options = BTreeMap::new();
        for (key, text) in self.option_values() {
            let name = &key[OPTIONS_KEY.len() + 1..];
            if OWNED_OPTIONS.contains(&name) {
                let hint = match name {
                    "bootstrap.servers" => "set kafka.bootstrap_servers",
                    "group.id" => "set kafka.group_prefix or ingest.pipeline",
                    _ => "remove it: exactly-once delivery depends on FlowGuard's own value",
                };
                let message = format!("client option `{name}` belongs to FlowGuard");
                self.layers.report(&key, message, Some(hint.into()));
            } else if !OPTION_NAMES.contains(&name) {
                let hint = match crate::error::did_you_mean(name, OPTION_NAMES) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "the names are librdkafka's own; see docs/ingest.md".to_owned(),
                };
                let message = format!("there is no client option `{name}`");
                self.layers.report(&key, message, Some(hint));
            }
            options.insert(name.to_owned(), Secret::new(text));
        }
        options
    }

    fn option_values(&self) -> Vec<(String, String)> {
        let prefix = format!("{OPTIONS_KEY}.");
        let values = self.layers.values.iter().filter(|(key, _)| key.starts_with(&prefix));
        values.map(|(key, raw)| (key.clone(), raw.text.clone())).collect()
    }

    fn effective(&self, config: &Config, file: &Source) -> Vec<Effective> {
        let line = |key: String, text: String| {
            let origin = match self.layers.values.get(&key).map(|raw| &raw.origin) {
                Some(Origin::File(span)) => {
                    format!("{FILE_NAME}:{}", file.position(span.clone()).line)
                }
                Some(Origin::Variable(name)) => format!("env {name}"),
                Some(Origin::Flag) => "flag".into(),
                None => "default".into(),
            };
            let is_masked = raw::is_secret(&key) && !text.is_empty();
            let value = if is_masked { secret::MASK.into() } else { text };
            Effective { key, value, origin }
        };
        let mut lines = Vec::new();
        for setting in &SETTINGS {
            if setting.key == OPTIONS_KEY {
                lines.extend(self.option_values().into_iter().map(|(key, text)| line(key, text)));
                continue;
            }
            let text = match setting.key {
                "lake" => config.lake.to_string(),
                "s3.path_style" => config.s3.path_style.to_string(),
                key => self.text(key).unwrap_or_default(),
            };
            lines.push(line(setting.key.to_owned(), text));
        }
        lines
    }
}

fn described(key: &'static str) -> &'static Setting {
    settings::find(key).expect("every key that is read is in the table of settings")
}

#[cfg(test)]
mod tests;
