//! The public sqllogictest files of SQLite and DataFusion, which are not part of this repository, asked
//! of FlowGuard: `FLOWGUARD_TEST_SQLLOGIC=` names a folder of them, or one. Their tables are stored in
//! a lake, and their queries planned as `flowguard serve` does.
//!
//! A file of SQLite's has thousands of queries: of each file at most
//! `FLOWGUARD_TEST_STATEMENTS / files` are asked, chosen by `FLOWGUARD_TEST_SEED`; without
//! `FLOWGUARD_TEST_STATEMENTS` all are. `FLOWGUARD_TEST_SHOW=` prints what was refused with that word.

mod differences;
mod records;
mod results;
mod tables;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Runtime;

use self::differences::{decides, known};
use self::records::{Query, Record, records};
use self::results::{Verdict, texts, verdict};
use self::tables::{Applied, Tables};
use crate::differential::lakehouse::{Lakehouse, Refusal, Settings};
use crate::kill9::new_seed;
use crate::services::say;
use crate::topic_in_memory::Random;

const ROWS_MAX: usize = 100_000;
/// The commonest ends are printed.
const KINDS_SHOWN: usize = 100;
const ROWS_SHOWN: usize = 12;
/// After as many wrong answers the rest would say little that is new.
const WRONG_SHOWN: u64 = 1000;

/// Whose files they are, by the end of their name: `.test` or `.slt`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flavour {
    /// A value a line.
    Sqlite,
    /// A row a line.
    Datafusion,
}

impl Flavour {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "test" => Some(Flavour::Sqlite),
            "slt" => Some(Flavour::Datafusion),
            _ => None,
        }
    }

    /// SQLite's integers have 64 bits, its floats are doubles, and any name of a type will do.
    fn type_of(self, declared: &str) -> String {
        let upper = declared.to_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
        match self {
            Flavour::Datafusion => declared.to_owned(),
            Flavour::Sqlite if has(&["CHAR", "TEXT", "CLOB"]) => "VARCHAR".to_owned(),
            Flavour::Sqlite if has(&["REAL", "FLOA", "DOUB", "NUM", "DEC"]) => "DOUBLE".to_owned(),
            Flavour::Sqlite => "BIGINT".to_owned(),
        }
    }
}

#[test]
fn queries_of_public_files_answer_as_their_authors_expect() {
    let Some(root) = std::env::var_os("FLOWGUARD_TEST_SQLLOGIC") else { return };
    let mut files = Vec::new();
    collect(Path::new(&root), &mut files);
    files.sort();
    let seed = new_seed();
    say(&format!("sqllogic: {} files, FLOWGUARD_TEST_SEED={seed}", files.len()));
    let run = Run::new(files, seed);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| run.work());
        }
    });
    say(&run.summary());
    let wrong = run.counts().iter().filter(|(kind, _)| kind.starts_with("WRONG")).count();
    assert_eq!(wrong, 0, "see above");
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder");
        entries.for_each(|entry| collect(&entry.expect("an entry").path(), files));
    } else if Flavour::of(path).is_some() {
        files.push(path.to_owned());
    }
}

/// What all workers share.
struct Run {
    began: Instant,
    files: Vec<PathBuf>,
    queries_each: Option<u64>,
    seed: u64,
    /// The file that is read next.
    next: AtomicUsize,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Run {
    fn new(files: Vec<PathBuf>, seed: u64) -> Self {
        let statements = std::env::var("FLOWGUARD_TEST_STATEMENTS").ok();
        let statements = statements.map(|text| text.parse::<u64>().expect("a number"));
        let queries_each = statements.map(|statements| statements / files.len() as u64 + 1);
        let (began, next, counts) = (Instant::now(), AtomicUsize::new(0), Mutex::default());
        Self { began, files, queries_each, seed, next, counts }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, kind: &str) -> u64 {
        let mut counts = self.counts();
        let count = counts.entry(kind.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn work(&self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let runtime = Arc::new(runtime);
        while let Some(file) = self.files.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.file(file, &runtime);
        }
    }

    fn file(&self, path: &Path, runtime: &Arc<Runtime>) {
        let flavour = Flavour::of(path).expect("only such files were collected");
        let random = &mut Random(self.seed);
        let nulls = (flavour == Flavour::Sqlite).then_some("nulls_min");
        let settings = Settings { threads: 2, rows_max: ROWS_MAX, nulls };
        let mut tables = Tables::new(Lakehouse::new(runtime, settings), flavour);
        let records = records(path);
        let mut left =
            records.iter().filter(|record| matches!(record, Record::Query(_))).count() as u64;
        let mut is_set = false;
        let mut wanted = self.queries_each.unwrap_or(left).min(left);
        for record in records {
            let kind = match record {
                Record::Statement(sql) => {
                    is_set |= decides(&sql);
                    match tables.apply(&sql) {
                        Applied::Done => "statement: done".to_owned(),
                        Applied::Ignored => "statement: ignored".to_owned(),
                        Applied::Failed(why) => format!("statement: failed: {}", beginning(&why)),
                    }
                }
                Record::Failing(sql) if is_query(&sql) => failing(&mut tables, &sql),
                Record::Failing(_) => continue,
                Record::Query(query) => {
                    left -= 1;
                    // Of those that are left, as many as are still wanted, each as likely.
                    if random.below(left + 1) >= wanted {
                        continue;
                    }
                    wanted -= 1;
                    self.query(&mut tables, &query, is_set, flavour)
                }
            };
            self.count(&kind);
        }
    }

    /// What became of a query: a kind that is counted.
    fn query(&self, tables: &mut Tables, query: &Query, is_set: bool, flavour: Flavour) -> String {
        if !is_query(&query.sql) {
            // Such as an UPDATE, whose answer is the number of its rows.
            tables.apply(&query.sql);
            return "query: a statement about plans, settings, tables or types".to_owned();
        }
        let (kind, found) = match tables.ask(&query.sql) {
            Err(refusal) => return refused(&refusal, query),
            Ok(batches) => {
                let found = texts(&batches, &query.types, flavour);
                match verdict(query, found.clone(), flavour) {
                    Verdict::Right => return "query: right".to_owned(),
                    Verdict::OtherOrder => ("WRONG: order", found),
                    Verdict::Wrong => ("WRONG: rows", found),
                }
            }
        };
        let why = known(&query.place, &query.sql)
            .or_else(|| is_set.then_some("a setting of the file"))
            .or_else(|| tables.are_other(&query.sql).then_some("a type that no table has here"));
        if let Some(why) = why {
            show(&format!("query: differs: {why}"), &format!("{}\n{}", query.place, query.sql));
            return format!("query: differs: {why}");
        }
        if self.count("wrong answers") <= WRONG_SHOWN {
            let found: Vec<String> = found.iter().map(|row| row.join(" | ")).collect();
            say(&format!(
                "{kind} at {}\n{}\n  expected: {}\n  found: {}",
                query.place,
                query.sql,
                shown(&query.expected),
                shown(&found)
            ));
        }
        kind.to_owned()
    }

    fn summary(&self) -> String {
        let counts = self.counts();
        let queries: u64 = counts
            .iter()
            .filter(|(kind, _)| kind.starts_with("query") || kind.starts_with("WRONG"))
            .map(|(_, count)| count)
            .sum();
        let seconds = self.began.elapsed().as_secs_f64();
        let mut text = format!("sqllogic: {queries} queries in {seconds:.0} s");
        let mut kinds: Vec<(&String, &u64)> = counts.iter().collect();
        kinds.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), (*kind).clone()));
        for (kind, count) in kinds.iter().take(KINDS_SHOWN) {
            write!(text, "\n  {count:>8} {kind}").expect("a text takes any text");
        }
        text
    }
}

/// Types and names are not what a lake's are elsewhere.
const ABOUT_TYPES: [&str; 3] = ["arrow_typeof", "arrow_field", "information_schema"];

fn is_query(sql: &str) -> bool {
    if ABOUT_TYPES.iter().any(|word| sql.contains(word)) {
        return false;
    }
    let first = sql.split_whitespace().next().unwrap_or_default().to_lowercase();
    ["select", "with", "values", "("].iter().any(|word| first.starts_with(word))
}

fn failing(tables: &mut Tables, sql: &str) -> String {
    match tables.ask(sql) {
        Err(Refusal::Fault(text)) if !text.starts_with("NotFound") => {
            show(&text, sql);
            format!("error expected: FAULT: {}", beginning(&text))
        }
        Err(_) => "error expected: refused".to_owned(),
        Ok(_) => {
            show("error expected: answered", sql);
            "error expected: answered".to_owned()
        }
    }
}

fn refused(refusal: &Refusal, query: &Query) -> String {
    let (kind, text) = match refusal {
        Refusal::Clear(text) => ("query: refused", text.as_str()),
        // A statement that made it failed, which is counted there.
        Refusal::Fault(text) if text.starts_with("NotFound") => ("query: no table", ""),
        Refusal::Fault(text) => ("query: FAULT", text.as_str()),
        Refusal::TooMany => ("query: too many rows", ""),
    };
    show(&format!("{kind}: {text}"), &format!("{}\n{}", query.place, query.sql));
    format!("{kind}: {}", beginning(text))
}

fn show(what: &str, sql: &str) {
    if std::env::var("FLOWGUARD_TEST_SHOW").is_ok_and(|shown| what.contains(&shown)) {
        say(&format!("{what}\n  {sql}"));
    }
}

/// What errors of a kind have in common: no names and numbers.
fn beginning(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let words = parts.map(|(at, part)| if at % 2 == 0 { part } else { "…" });
    let text: String = words.collect();
    text.chars().filter(|letter| !letter.is_ascii_digit()).take(90).collect()
}

fn shown(lines: &[String]) -> String {
    let mut text = lines[..lines.len().min(ROWS_SHOWN)].join("\n            ");
    if lines.len() > ROWS_SHOWN {
        write!(text, "\n            … {} rows", lines.len()).expect("a text takes any text");
    }
    text
}
