//! A statement that fails, and its tables, as small as they fail in the same way; and what is printed
//! of them.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answers::{Judge, Outcome, Statement, Wrong, all, outcome, texts};
use super::compare::{Rows, is_same};
use super::duckdb::Duckdb;
use super::lakehouse::Refusal;
use super::tables::Table;
use super::tree::Dialect;
use super::world::{Answer, World};

/// How long a statement may be made smaller, and after it the tables.
const SHRINKING: Duration = Duration::from_secs(12);
/// Rows of an answer that are printed.
const ROWS_SHOWN: usize = 12;

/// The failure, to be read and pasted.
pub fn report(
    duckdb: &mut Duckdb,
    world: &World,
    seed: u64,
    statement: &Statement,
    wrong: &Wrong,
) -> String {
    let small = smaller(duckdb, world, statement, wrong);
    let tables = fewer_rows(duckdb, world, seed, &small, wrong);
    let world = World::new(world.runtime(), tables, seed);
    world.tell(duckdb);
    let (judged, judge) = small.texts();
    let found = all(&world, &judged);
    let right = match small.judge {
        Judge::Duckdb => duckdb.ask(&small.node.text(Dialect::Duckdb)),
        Judge::Unoptimised => world.ask_unoptimised(&judged[0]).map_err(|error| shown(&Err(error))),
        Judge::Partitions | Judge::Counts => {
            all(&world, &judge).map_err(|error| shown(&Err(error)))
        }
    };
    let pasted = pasted(&world.tables, &judged);
    // Whether it is of the engine, or of how the tables are stored.
    let in_memory = match (all(&world, &pasted), &found) {
        (Ok(one), Ok(other)) if is_same(&one, other) => "the same over VALUES",
        (Err(Refusal::Fault(_)), Err(Refusal::Fault(_))) => "the same over VALUES",
        _ => "NOT the same over VALUES",
    };
    let mut text = format!("WRONG: {wrong:?}, FLOWGUARD_TEST_SEED={seed}, {in_memory}");
    for sql in pasted {
        let _ = write!(text, "\n{sql};");
    }
    for sql in judge {
        let _ = write!(text, "\n  must be the same as\n{};", sql.replace("silver.", ""));
    }
    let _ = write!(text, "\n  {:?}: {}", small.judge, shown_rows(&right));
    let _ = write!(text, "\n  FlowGuard: {}", shown(&found));
    text
}

/// Takes away whatever can go while the statement fails in the same way.
fn smaller(duckdb: &mut Duckdb, world: &World, statement: &Statement, wrong: &Wrong) -> Statement {
    let end = Instant::now() + SHRINKING;
    let mut small = statement.clone();
    let mut candidates = small.node.smaller();
    let (mut at, mut in_vain) = (0, 0);
    while in_vain < candidates.len() && Instant::now() < end {
        at %= candidates.len();
        let candidate = small.with(candidates[at].clone());
        match outcome(duckdb, world, &candidate) {
            Outcome::Wrong(other, _) if other == *wrong => {
                candidates = candidate.node.smaller();
                small = candidate;
                in_vain = 0;
            }
            _ => {
                at += 1;
                in_vain += 1;
            }
        }
    }
    small
}

/// The tables that the statement reads, without the rows and columns that the failure does not need.
fn fewer_rows(
    duckdb: &mut Duckdb,
    world: &World,
    seed: u64,
    statement: &Statement,
    wrong: &Wrong,
) -> Vec<Table> {
    let end = Instant::now() + SHRINKING;
    let runtime = Arc::clone(world.runtime());
    let mut fails = |tables: &[Table]| {
        let world = World::new(&runtime, tables.to_vec(), seed);
        world.tell(duckdb);
        matches!(outcome(duckdb, &world, statement), Outcome::Wrong(other, _) if other == *wrong)
    };
    let text = statement.node.text(Dialect::Flowguard);
    let is_read = |table: &&Table| text.contains(&format!("silver.{}", table.name));
    let mut tables: Vec<Table> = world.tables.iter().filter(is_read).cloned().collect();
    for at in 0..tables.len() {
        let mut row = tables[at].rows.len();
        while row > 0 && Instant::now() < end {
            row -= 1;
            let mut fewer = tables.clone();
            fewer[at].rows.remove(row);
            if fails(&fewer) {
                tables = fewer;
            }
        }
    }
    let words: Vec<&str> = text.split(|letter: char| !letter.is_alphanumeric()).collect();
    let narrow: Vec<Table> =
        tables.iter().map(|table| table.with_columns(|name| words.contains(&name))).collect();
    if fails(&narrow) { narrow } else { tables }
}

/// Each statement with its tables before it.
fn pasted(tables: &[Table], statements: &[String]) -> Vec<String> {
    let tables: Vec<String> = tables.iter().map(Table::pasted).collect();
    let tables = tables.join(",\n  ");
    let pasted = statements.iter().map(|sql| {
        let bare = sql.replace("silver.", "");
        match (tables.is_empty(), bare.strip_prefix("WITH ")) {
            (true, _) => bare,
            (_, Some(rest)) => format!("WITH {tables}, {rest}"),
            (_, None) => format!("WITH {tables}\n{bare}"),
        }
    });
    pasted.collect()
}

fn shown(answer: &Answer) -> String {
    match answer {
        Ok(rows) => shown_rows(&Ok(rows.clone())),
        Err(Refusal::Clear(text)) => format!("refused: {text}"),
        Err(Refusal::Fault(text)) => format!("FAULT: {text}"),
        Err(Refusal::TooMany) => "too many rows".to_owned(),
    }
}

fn shown_rows(answer: &Result<Rows, String>) -> String {
    match answer {
        Err(error) => format!("refused: {error}"),
        Ok(rows) => {
            let texts = texts(rows);
            let shown = texts[..texts.len().min(ROWS_SHOWN)].join("  ");
            format!("{} rows: {shown}", texts.len())
        }
    }
}
