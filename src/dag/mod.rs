//! `dags.yaml`: which models run together and when. Reading, schedules and selection; pure apart
//! from reading the one file, and without a clock. An entry that is broken is left out, and wrong
//! only for whoever needs it.

use std::collections::BTreeMap;
use std::fmt;
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
    /// Entries that are broken, in the order of their names; in none of the maps above.
    pub left_out: Vec<LeftOut>,
}

/// What the file says, before it has a place.
#[derive(Default)]
struct Content {
    dags: BTreeMap<String, Dag>,
    targets: BTreeMap<String, Target>,
    exports: BTreeMap<String, Export>,
    left_out: Vec<LeftOut>,
}

/// What an entry of the file describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    Dag,
    Target,
    Export,
}

/// An entry with problems of its own.
#[derive(Debug, Clone)]
pub struct LeftOut {
    pub kind: EntryKind,
    pub name: String,
    pub problems: Vec<Diagnostic>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            EntryKind::Dag => "DAG",
            EntryKind::Target => "target",
            EntryKind::Export => "export",
        };
        write!(f, "{kind} `{}`", self.name)
    }
}

impl LeftOut {
    /// For whoever needs the entry.
    pub fn error(&self) -> Error {
        Error::diagnosed(format!("{self} is broken"), self.problems.clone())
    }
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
        Content::default().of(Source::new(FILE_NAME, ""))
    }

    /// The entry that is left out, if it is.
    pub fn left_out(&self, kind: EntryKind, name: &str) -> Option<&LeftOut> {
        self.left_out.iter().find(|entry| entry.kind == kind && entry.name == name)
    }

    /// Fails with `NotFound`, and the nearest name; or with what is wrong with the target's entry.
    pub fn target(&self, name: &str) -> Result<&Target> {
        self.targets.get(name).ok_or_else(|| {
            if let Some(entry) = self.left_out(EntryKind::Target, name) {
                return entry.error();
            }
            let error = Error::new(ErrorKind::NotFound, format!("there is no target `{name}`"));
            match did_you_mean(name, self.targets.keys().map(String::as_str)) {
                Some(close) => error.hint(format!("did you mean `{close}`?")),
                None => error.hint("targets are listed in dags.yaml, under `targets`"),
            }
        })
    }

    /// The error carries what is wrong with the file itself; an entry with problems is left out.
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
        let (content, problems) = read_text(&source);
        if !problems.is_empty() {
            let message = match problems.len() {
                1 => format!("1 problem in `{FILE_NAME}`"),
                count => format!("{count} problems in `{FILE_NAME}`"),
            };
            return Err(Error::diagnosed(message, problems));
        }
        Ok(content.of(source))
    }
}

impl Content {
    fn of(self, source: Source) -> Dags {
        let Self { dags, targets, exports, left_out } = self;
        Dags { source, dags, targets, exports, left_out }
    }

    /// Notes the entry that `problems` tell of since there were `count` of them; false if none do.
    fn leave_out(
        &mut self,
        (kind, name): (EntryKind, &str),
        problems: &Problems<'_>,
        count: usize,
    ) -> bool {
        let problems = problems.since(count);
        let is_broken = !problems.is_empty();
        if is_broken {
            self.left_out.push(LeftOut { kind, name: name.to_owned(), problems });
        }
        is_broken
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
    let mut content = Content::default();
    let dags = map.optional("dags").and_then(|value| value.mapping("`dags`"));
    for entry in dags.iter().flat_map(Mapping::entries) {
        let (name, count) = (&entry.key.value, problems.count());
        check_name(&entry, "a DAG", problems);
        let what = format!("DAG `{name}`");
        let dag =
            entry.mapping(&what).map(|map| read_dag(name, map, timezone.unwrap_or(Tz::UTC)).0);
        if !content.leave_out((EntryKind::Dag, name), problems, count) {
            content.dags.extend(dag.map(|dag| (name.clone(), dag)));
        }
    }
    let targets = map.optional("targets").and_then(|value| value.mapping("`targets`"));
    for entry in targets.iter().flat_map(Mapping::entries) {
        let (name, count) = (&entry.key.value, problems.count());
        check_name(&entry, "a target", problems);
        let what = format!("target `{name}`");
        let target = entry.mapping(&what).and_then(|map| targets::read_target(name, map).0);
        if let Some(target) = &target {
            target.check_apart(content.targets.values(), problems);
        }
        if !content.leave_out((EntryKind::Target, name), problems, count) {
            content.targets.extend(target.map(|target| (name.clone(), target)));
        }
    }
    // A broken target is there all the same.
    let names: Vec<&str> =
        targets.iter().flat_map(Mapping::entries).map(|entry| entry.key.value.as_str()).collect();
    let exports = map.optional("exports").and_then(|value| value.mapping("`exports`"));
    for entry in exports.iter().flat_map(Mapping::entries) {
        let (name, count) = (&entry.key.value, problems.count());
        check_name(&entry, "an export", problems);
        let what = format!("export `{name}`");
        let export = entry.mapping(&what).and_then(|map| targets::read_export(name, map).0);
        if let Some(Export { target, .. }) = &export
            && !names.contains(&target.value.as_str())
        {
            let message = format!("there is no target `{}`", target.value);
            let hint = choice_hint(&target.value, names.iter().copied(), "targets are");
            problems.report_hint(target.position, message, hint);
        }
        if !content.leave_out((EntryKind::Export, name), problems, count) {
            content.exports.extend(export.map(|export| (name.clone(), export)));
        }
    }
    (content, map.finish())
}

fn check_name(entry: &Value<'_>, what: &str, problems: &Problems<'_>) {
    let name = &entry.key.value;
    if !is_identifier(name) {
        let message = format!("`{name}` is not a name of {what}");
        problems.report_hint(entry.key.position, message, NAME_HINT);
    }
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
        let (content, mut problems) = read_text(&Source::new(FILE_NAME, text));
        problems.extend(content.left_out.into_iter().flat_map(|entry| entry.problems));
        problems.sort_by_key(|problem| (problem.line, problem.column));
        assert_eq!(printed(&problems), expect.trim_matches('\n'));
    }

    #[test]
    fn a_broken_entry_is_left_out_alone() {
        let text = "version: 1
dags:
  good: {select: [gold.*]}
  bad: {select: gold.*}
targets:
  here: {driver: files, path: a}
  far: {driver: fil, path: a}
exports:
  good: {target: here, select: [gold.*]}
  waits: {target: far, select: [gold.*]}
  bad: {target: her, select: [gold.*]}
";
        let dags = Dags::of_text(Source::new(FILE_NAME, text)).unwrap();
        let left_out: Vec<String> = dags.left_out.iter().map(ToString::to_string).collect();
        assert_eq!(left_out, ["DAG `bad`", "target `far`", "export `bad`"]);
        assert_eq!(dags.dags.keys().collect::<Vec<_>>(), ["good"]);
        assert_eq!(dags.targets.keys().collect::<Vec<_>>(), ["here"]);
        assert_eq!(dags.exports.keys().collect::<Vec<_>>(), ["good", "waits"]);
        assert_eq!(dags.target("far").unwrap_err().message, "target `far` is broken");
    }

    #[test]
    fn two_targets_of_one_file_would_lock_each_other_out() {
        check(
            "version: 1
targets:
  one: {driver: duckdb, path: a/w.duckdb}
  other: {driver: duckdb, path: ./a/w.duckdb, schemas: {gold: g}}
  third: {driver: duckdb, path: a/x.duckdb}
",
            r#"
dags.yaml:4:33: target `one` is the same file
      other: {driver: duckdb, path: ./a/w.duckdb, schemas: {gold: g}}
                                    ^^^^^^^^^^^^
    hint: DuckDB opens a file for one at a time: let both exports name target `one`"#,
        );
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
