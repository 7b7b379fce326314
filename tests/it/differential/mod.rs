//! Random statements over random tables, answered by FlowGuard and by DuckDB, which must say the same;
//! and by FlowGuard in other words, which must say the same as well.
//!
//! `make test` asks [`STATEMENTS`] of one seed. By hand, `FLOWGUARD_TEST_STATEMENTS=200000` asks as many
//! of another seed each time, which is printed with every failure, for the tables and statements of that
//! failure alone: `FLOWGUARD_TEST_SEED=` repeats them. A statement that fails is made smaller for as
//! long as it fails in the same way, and printed with its tables and both answers.
//!
//! For whoever mends what it finds: `FLOWGUARD_TEST_KINDS=NotIn,-NotANumber` asks for kinds that are
//! left out ([`kinds`]), or leaves out others; `FLOWGUARD_TEST_FAILURES=100` goes on after so many;
//! `FLOWGUARD_TEST_REFUSED=ambiguous` takes for a failure whatever is refused with that word and
//! DuckDB answers; `FLOWGUARD_TEST_SHOW=refused` prints what is not compared, and why.

mod answers;
mod compare;
mod duckdb;
mod joins;
mod kinds;
pub mod lakehouse;
mod shrink;
mod statements;
mod tables;
mod tree;
mod values;
mod windows;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use self::answers::{Outcome, Statement, outcome};
use self::duckdb::Duckdb;
use self::shrink::report;
use self::tree::Dialect;
use self::world::World;
use crate::kill9::new_seed;
use crate::services::say;
use crate::topic_in_memory::Random;
use crate::warehouse::is_installed;

/// How long the test takes where nobody asks for more.
const SECONDS: u64 = 45;
/// What `make test` asks is the same each time, so that it fails for what was changed.
const SEED: u64 = 20_261;
const STATEMENTS: u64 = 2_000;
/// Statements over the same tables.
const STATEMENTS_PER_WORLD: u64 = 100;
/// After as many failures the rest would say little that is new.
const FAILURES_MAX: usize = 5;
/// More would wait for each other: DuckDB computes beside each.
const WORKERS_MAX: usize = 4;

#[test]
fn random_statements_answer_as_duckdb_does() {
    if !is_installed("differential::random_statements_answer_as_duckdb_does") {
        return;
    }
    let seed = if by_hand() { new_seed() } else { SEED };
    say(&format!("differential: FLOWGUARD_TEST_SEED={seed}"));
    let run = Run::new(seed);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| Worker::new(&run).work());
        }
    });
    say(&run.summary());
    let failures = run.failures();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn by_hand() -> bool {
    std::env::var_os("FLOWGUARD_TEST_STATEMENTS").is_some()
}

/// What all workers share.
struct Run {
    began: Instant,
    statements_max: u64,
    failures_max: usize,
    /// The seed of the next tables.
    next: AtomicU64,
    statements: AtomicU64,
    counts: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<Vec<String>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("`{name}` is a number")))
        };
        let failures_max = number("FLOWGUARD_TEST_FAILURES").map(|failures| failures as usize);
        Self {
            began: Instant::now(),
            statements_max: number("FLOWGUARD_TEST_STATEMENTS").unwrap_or(STATEMENTS),
            failures_max: failures_max.unwrap_or(FAILURES_MAX),
            next: AtomicU64::new(seed),
            statements: AtomicU64::new(0),
            counts: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    fn failures(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        self.failures().len() < self.failures_max
            && self.statements.load(Ordering::Relaxed) < self.statements_max
            && (by_hand() || self.began.elapsed() < Duration::from_secs(SECONDS))
    }

    fn count(&self, outcome: &Outcome) {
        let kind = match outcome {
            Outcome::Same(0) => "the same, without rows".to_owned(),
            Outcome::Same(_) => "the same".to_owned(),
            Outcome::Wrong(wrong, _) => {
                let kind = format!("{wrong:?}");
                format!("WRONG: {}", kind.split('(').next().unwrap_or_default())
            }
            Outcome::Passed(why, _) => (*why).to_owned(),
        };
        self.statements.fetch_add(1, Ordering::Relaxed);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind).or_default() += 1;
    }

    fn summary(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let statements = self.statements.load(Ordering::Relaxed);
        let a_second = statements as f64 / seconds;
        let mut text = format!(
            "differential: {statements} statements in {seconds:.0} s, {a_second:.0} a second"
        );
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, count) in counts.iter() {
            write!(text, "\n  {count:>8} {kind}").expect("a text takes any text");
        }
        text
    }
}

struct Worker<'a> {
    run: &'a Run,
    duckdb: Duckdb,
    runtime: Arc<Runtime>,
}

impl<'a> Worker<'a> {
    fn new(run: &'a Run) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("threads");
        Self { run, duckdb: Duckdb::start(), runtime: Arc::new(runtime) }
    }

    fn work(&mut self) {
        while self.run.goes_on() {
            self.world(self.run.next.fetch_add(1, Ordering::Relaxed));
        }
    }

    /// Some statements over the tables of one seed.
    fn world(&mut self, seed: u64) {
        let random = &mut Random(seed);
        let world = World::new(&self.runtime, tables::random_tables(random), seed);
        world.tell(&mut self.duckdb);
        for _ in 0..STATEMENTS_PER_WORLD {
            if !self.run.goes_on() {
                return;
            }
            let statement = Statement::random(random, &world.tables);
            let outcome = outcome(&mut self.duckdb, &world, &statement);
            self.run.count(&outcome);
            match outcome {
                Outcome::Same(_) => {}
                Outcome::Passed(why, text) => show(why, &text, &statement),
                Outcome::Wrong(wrong, _) => {
                    let report = report(&mut self.duckdb, &world, seed, &statement, &wrong);
                    say(&report);
                    self.run.failures().push(report);
                    world.tell(&mut self.duckdb);
                }
            }
        }
    }
}

/// What was not compared, if somebody wants to see it.
fn show(why: &str, text: &str, statement: &Statement) {
    if std::env::var("FLOWGUARD_TEST_SHOW").is_ok_and(|shown| why.contains(&shown)) {
        let line = text.lines().next().unwrap_or_default();
        say(&format!("{why}: {line}\n  {}", statement.node.text(Dialect::Flowguard)));
    }
}
