//! `dags.yaml`: which models run together and when. Reading, schedules and selection; pure apart
//! from reading the one file, and without a clock.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use chrono_tz::Tz;

use crate::error::{Diagnostic, Error, ErrorKind, Result, did_you_mean};
use crate::source::{Problems, Source, Spanned, choice_hint};
use crate::table::is_identifier;
use crate::yaml::{self, Embedded, Mapping, Value};

mod schedule;
mod select;
mod targets;

pub use schedule::Schedule;
pub use select::select;
pub use targets::{DriverKind, Export, Severity, Target};

use targets::{KeysRead, NAME_HINT, SELECTORS_HINT};

/// JSON Schema of `dags.yaml`.
pub const DAGS_SCHEMA: &str = include_str!("dags.schema.json");
pub const FILE_NAME: &str = "dags.yaml";
const VERSION: i64 = 1;

/// The content of `dags.yaml`.
#[derive(Debug, Clone)]
pub struct Dags {
    pub source: Source,
    pub dags: BTreeMap<String, Dag>,
    pub targets: BTreeMap<String, Target>,
    pub exports: BTreeMap<String, Export>,
}

/// What the file says, before it has a place.
#[derive(Default)]
struct Content {
    dags: BTreeMap<String, Dag>,
    targets: BTreeMap<String, Target>,
    exports: BTreeMap<String, Export>,
}

/// Models that run together.
#[derive(Debug, Clone)]
pub struct Dag {
    pub name: String,
    pub description: Option<String>,
    /// `None`: runs only when asked to.
    pub schedule: Option<Schedule>,
    pub timezone: Tz,
    /// Selectors of tables, not of other DAGs.
    pub select: Vec<Spanned<String>>,
}

impl Dags {
    /// A file that names nothing.
    pub fn none() -> Dags {
        let Content { dags, targets, exports } = Content::default();
        Dags { source: Source::new(FILE_NAME, ""), dags, targets, exports }
    }

    /// Fails with `NotFound`, and the nearest name.
    pub fn target(&self, name: &str) -> Result<&Target> {
        self.targets.get(name).ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, format!("there is no target `{name}`"));
            match did_you_mean(name, self.targets.keys().map(String::as_str)) {
                Some(close) => error.hint(format!("did you mean `{close}`?")),
                None => error.hint("targets are listed in dags.yaml, under `targets`"),
            }
        })
    }

    /// The error carries every problem of the file that can be seen without the models.
    pub fn read(project: &Path) -> Result<Dags> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("no `{FILE_NAME}` in the project"))
                    .hint("a project has one, at least with: version: 1")
            }
            _ => Error::invalid(format!("cannot read `{FILE_NAME}`")).source(error),
        };
        let mut text = String::new();
        std::fs::File::open(project.join(FILE_NAME))
            .and_then(|file| file.take(yaml::BYTES_MAX as u64 + 1).read_to_string(&mut text))
            .map_err(failed)?;
        Self::of_text(Source::new(FILE_NAME, text))
    }

    /// The same of a text.
    pub fn of_text(source: Source) -> Result<Dags> {
        let (Content { dags, targets, exports }, problems) = read_text(&source);
        if !problems.is_empty() {
            let message = match problems.len() {
                1 => format!("1 problem in `{FILE_NAME}`"),
                count => format!("{count} problems in `{FILE_NAME}`"),
            };
            return Err(Error::diagnosed(message, problems));
        }
        Ok(Dags { source, dags, targets, exports })
    }
}

fn read_text(source: &Source) -> (Content, Vec<Diagnostic>) {
    let problems = Problems::new(source);
    let embedded = Embedded {
        text: source.text.strip_prefix('\u{feff}').unwrap_or(&source.text),
        lines_before: 0,
        columns_before: 0,
    };
    let mut content = Content::default();
    if let Some(node) = yaml::parse(embedded, &problems)
        && let Some(map) = node.mapping("the file", &problems)
    {
        content = read_file(map, &problems).0;
    }
    (content, problems.into_diagnostics())
}

/// Also returns the keys that were asked for at the top.
fn read_file(map: Mapping<'_>, problems: &Problems<'_>) -> (Content, KeysRead) {
    if let Some(version) = map.required("version")
        && let Some(number) = version.int()
        && number != VERSION
    {
        version
            .report(format!("version {number} is not known"), format!("write version: {VERSION}"));
    }
    let defaults = map.optional("defaults").and_then(|value| value.mapping("`defaults`"));
    let timezone = defaults.and_then(|defaults| {
        let timezone = defaults.optional("timezone").and_then(|value| value.timezone());
        defaults.finish();
        timezone
    });
    let mut dags = BTreeMap::new();
    let listed = map.optional("dags").and_then(|value| value.mapping("`dags`"));
    for entry in listed.iter().flat_map(|listed| listed.entries()) {
        let name = &entry.key.value;
        if !is_identifier(name) {
            let message = format!("`{name}` is not a name of a DAG");
            problems.report_hint(entry.key.position, message, NAME_HINT);
        }
        let what = format!("DAG `{name}`");
        if let Some(map) = entry.mapping(&what) {
            let (dag, _) = read_dag(name, map, timezone.unwrap_or(Tz::UTC));
            dags.insert(name.clone(), dag);
        }
    }
    let listed = map.optional("targets").and_then(|value| value.mapping("`targets`"));
    let targets = targets::read_targets(listed.as_ref(), problems);
    // A broken target is there all the same.
    let names: Vec<&str> = listed
        .iter()
        .flat_map(|listed| listed.entries())
        .map(|entry| entry.key.value.as_str())
        .collect();
    let listed = map.optional("exports").and_then(|value| value.mapping("`exports`"));
    let exports = targets::read_exports(listed.as_ref(), problems);
    for Export { target, .. } in exports.values() {
        if !names.contains(&target.value.as_str()) {
            let message = format!("there is no target `{}`", target.value);
            let hint = choice_hint(&target.value, names.iter().copied(), "targets are");
            problems.report_hint(target.position, message, hint);
        }
    }
    (Content { dags, targets, exports }, map.finish())
}

fn read_dag(name: &str, map: Mapping<'_>, default_timezone: Tz) -> (Dag, KeysRead) {
    let timezone = map.optional("timezone").and_then(|value| value.timezone());
    let timezone = timezone.unwrap_or(default_timezone);
    let schedule = map.optional("schedule").and_then(|value| read_schedule(value, timezone));
    let select = map.required("select").and_then(|value| {
        let selectors = value.strings()?;
        if selectors.is_empty() {
            value.report("`select` names nothing", SELECTORS_HINT);
        }
        Some(selectors)
    });
    let description = map.optional("description").and_then(|value| value.string());
    let dag = Dag {
        name: name.to_owned(),
        description: description.map(|text| text.value),
        schedule,
        timezone,
        select: select.unwrap_or_default(),
    };
    (dag, map.finish())
}

fn read_schedule(value: Value<'_>, timezone: Tz) -> Option<Schedule> {
    let text = value.string()?;
    match Schedule::new(&text.value, timezone) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            value.report(error.message, error.hint.unwrap_or_default());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::printed;

    fn check(text: &str, expect: &str) {
        let (_, problems) = read_text(&Source::new(FILE_NAME, text));
        assert_eq!(printed(&problems), expect.trim_matches('\n'));
    }

    #[test]
    fn a_dag_takes_the_default_time_zone() {
        let text = "version: 1\ndefaults: {timezone: Europe/Rome}\ndags:\n  nightly:\n    schedule: 30 2 * * *\n    select: [gold.*]\n";
        let (content, problems) = read_text(&Source::new(FILE_NAME, text));
        assert_eq!(printed(&problems), "");
        let dag = &content.dags["nightly"];
        assert_eq!(dag.timezone, Tz::Europe__Rome);
        assert_eq!(dag.schedule.as_ref().unwrap().to_string(), "30 2 * * *");
        assert_eq!(dag.select[0].value, "gold.*");
    }

    #[test]
    fn every_problem_of_the_file_is_reported() {
        check(
            "version: 2
defaults: {timezon: UTC}
dags:
  Nightly:
    schedule: \"0 25 * * *\"
    select: gold.*
  hourly: {schedule: 5, select: []}
pools: {}
",
            r#"
dags.yaml:1:10: version 2 is not known
    version: 2
             ^
    hint: write version: 1
dags.yaml:2:12: unknown key `timezon` in `defaults`
    defaults: {timezon: UTC}
               ^^^^^^^
    hint: did you mean `timezone`?
dags.yaml:4:3: `Nightly` is not a name of a DAG
      Nightly:
      ^^^^^^^
    hint: use lowercase letters, digits and underscores, starting with a letter
dags.yaml:5:15: `25` is not an hour
        schedule: "0 25 * * *"
                  ^^^^^^^^^^^^
    hint: hours are 0 to 23
dags.yaml:6:13: `select` must be a list, found the text `gold.*`
        select: gold.*
                ^^^^^^
    hint: write [gold.*]
dags.yaml:7:22: `schedule` must be text, found the number `5`
      hourly: {schedule: 5, select: []}
                         ^
    hint: quote it: "5"
dags.yaml:7:33: `select` names nothing
      hourly: {schedule: 5, select: []}
                                    ^
    hint: such as [+gold.daily_metrics]
dags.yaml:8:1: unknown key `pools` in the file
    pools: {}
    ^^^^^
    hint: keys are: `dags`, `defaults`, `exports`, `targets`, `version`"#,
        );
    }

    #[test]
    fn targets_and_exports_are_checked() {
        check(
            "version: 1
targets:
  local: {driver: duckdb, uri: a}
  far: {driver: postgresql, uri: \"postgresql://me:geheim@host/db\"}
  near: {driver: postgres, uri: \"postgresql://me:${PW}@host/db\", schemas: {golden: a}}
exports:
  nightly: {target: locale, select: [gold.*]}
",
            r#"
dags.yaml:3:32: a DuckDB target is a file
      local: {driver: duckdb, uri: a}
                                   ^
    hint: write path: warehouse.duckdb
dags.yaml:4:34: the password stands in the file
      far: {driver: postgresql, uri: "postgresql://me:geheim@host/db"}
                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write ${VAR} in its place
dags.yaml:5:18: unknown driver `postgres`
      near: {driver: postgres, uri: "postgresql://me:${PW}@host/db", schemas: {golden: a}}
                     ^^^^^^^^
    hint: did you mean `postgresql`?
dags.yaml:5:76: unknown key `golden` in `schemas`
      near: {driver: postgres, uri: "postgresql://me:${PW}@host/db", schemas: {golden: a}}
                                                                               ^^^^^^
    hint: did you mean `gold`?
dags.yaml:7:21: there is no target `locale`
      nightly: {target: locale, select: [gold.*]}
                        ^^^^^^
    hint: did you mean `local`?"#,
        );
    }

    #[test]
    fn a_place_for_files_is_a_folder_or_a_bucket() {
        check(
            r#"version: 1
targets:
  here: {driver: files, path: "s3://exports", library: a.so}
  there: {driver: files, uri: "http://exports"}
  both: {driver: files, path: a, uri: "s3://b"}
"#,
            r#"
dags.yaml:3:31: a path is a folder
      here: {driver: files, path: "s3://exports", library: a.so}
                                  ^^^^^^^^^^^^^^
    hint: write uri: s3://bucket/prefix
dags.yaml:3:56: files need no driver
      here: {driver: files, path: "s3://exports", library: a.so}
                                                           ^^^^
    hint: remove the key
dags.yaml:4:31: not a bucket
      there: {driver: files, uri: "http://exports"}
                                  ^^^^^^^^^^^^^^^^
    hint: write uri: s3://bucket/prefix, or path: folder
dags.yaml:5:39: the target has a path as well
      both: {driver: files, path: a, uri: "s3://b"}
                                          ^^^^^^^^
    hint: write one of path and uri"#,
        );
    }

    #[test]
    fn an_account_is_an_address_without_secrets() {
        check(
            r#"version: 1
targets:
  wrong: {driver: snowflake, uri: "https://account"}
  path: {driver: snowflake, path: account}
  token: {driver: snowflake, uri: "snowflake://me@account/lake?token=geheim"}
  case: {driver: snowflake, uri: "snowflake://me:${PW}@account/lake", identifiers: camel}
  file: {driver: files, path: a, identifiers: upper}
"#,
            r#"
dags.yaml:3:35: not an account
      wrong: {driver: snowflake, uri: "https://account"}
                                      ^^^^^^^^^^^^^^^^^
    hint: write uri: snowflake://user:${PASSWORD}@account/database?warehouse=name&role=name
dags.yaml:4:35: a Snowflake target is an account
      path: {driver: snowflake, path: account}
                                      ^^^^^^^
    hint: write uri: snowflake://user:${PASSWORD}@account/database?warehouse=name&role=name
dags.yaml:5:35: the token stands in the file
      token: {driver: snowflake, uri: "snowflake://me@account/lake?token=geheim"}
                                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write ${VAR} in its place
dags.yaml:6:84: unknown identifiers `camel`
      case: {driver: snowflake, uri: "snowflake://me:${PW}@account/lake", identifiers: camel}
                                                                                       ^^^^^
    hint: choices are: `as_written`, `upper`, `lower`
dags.yaml:7:47: files keep names as they are
      file: {driver: files, path: a, identifiers: upper}
                                                  ^^^^^
    hint: remove the key"#,
        );
    }

    #[test]
    fn what_a_difference_is_belongs_to_a_check() {
        check(
            "version: 1
targets:
  local: {driver: duckdb, path: a}
exports:
  nightly: {target: local, select: [gold.*], else: warn}
  hourly: {target: local, select: [gold.*], check: parity, else: warm}
",
            r#"
dags.yaml:5:52: `else` belongs to a check
      nightly: {target: local, select: [gold.*], else: warn}
                                                       ^^^^
    hint: add check: parity, or remove the key
dags.yaml:6:66: unknown else `warm`
      hourly: {target: local, select: [gold.*], check: parity, else: warm}
                                                                     ^^^^
    hint: did you mean `warn`?"#,
        );
    }

    #[test]
    fn the_published_schema_lists_exactly_the_keys_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(DAGS_SCHEMA).unwrap();
        let listed = |value: &serde_json::Value| -> Vec<String> {
            value["properties"].as_object().unwrap().keys().cloned().collect()
        };
        let source = Source::new(FILE_NAME, "{}");
        let problems = Problems::new(&source);
        let embedded = Embedded { text: "{}", lines_before: 0, columns_before: 0 };
        let node = yaml::parse(embedded, &problems).unwrap();
        let (_, top) = read_file(node.mapping("the file", &problems).unwrap(), &problems);
        let empty = || node.mapping("the part", &problems).unwrap();
        let (_, dag) = read_dag("a", empty(), Tz::UTC);
        let (_, target) = targets::read_target("a", empty());
        let (_, export) = targets::read_export("a", empty());
        assert_eq!(listed(&schema), top.into_iter().collect::<Vec<_>>());
        for (part, keys) in [("dags", dag), ("targets", target), ("exports", export)] {
            let of_part = &schema["properties"][part]["additionalProperties"];
            assert_eq!(listed(of_part), keys.into_iter().collect::<Vec<_>>(), "{part}");
        }
    }
}
