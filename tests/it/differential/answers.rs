//! A statement, whom it is asked, and what becomes of the answers.

use super::compare::{Cell, Rows, is_same};
use super::duckdb::Duckdb;
use super::lakehouse::Refusal;
use super::statements::{random_partition, random_statement};
use super::tables::Table;
use super::tree::{Dialect, Node};
use super::world::{Answer, World};
use crate::topic_in_memory::Random;

/// Of a hundred statements, those that FlowGuard is asked in other words.
const OWN_WORDS: u64 = 12;
/// Of a hundred, those that are planned without optimization as well.
const UNOPTIMISED: u64 = 8;

/// Who says what is right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judge {
    Duckdb,
    /// FlowGuard's own plan before any optimization.
    Unoptimised,
    /// The rows for which a condition is true, false and null are all rows.
    Partitions,
    /// As many rows are left as the condition is true for.
    Counts,
}

#[derive(Debug, Clone)]
pub struct Statement {
    /// Of what is taken apart: its items, its `FROM` and a condition, in this order.
    pub node: Node,
    pub judge: Judge,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Wrong {
    /// Other rows than the judge's.
    Rows,
    /// No clear error, but a bug, with the beginning of its text.
    Fault(String),
    /// The same for a statement that DuckDB refuses.
    FaultOfInvalid(String),
    /// An answer where the right one leaves its type.
    Overflow,
    /// A clear error whose text somebody asked for.
    Refused,
}

/// How a statement ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Equal, with so many rows.
    Same(usize),
    Wrong(Wrong, String),
    /// Not compared, and why: what is counted, and the error.
    Passed(&'static str, String),
}

impl Statement {
    pub fn random(random: &mut Random, tables: &[Table]) -> Self {
        if random.below(100) < OWN_WORDS {
            let judge = [Judge::Partitions, Judge::Counts][random.below(2) as usize];
            return Self { node: random_partition(random, tables), judge };
        }
        let judge = match random.below(100) < UNOPTIMISED {
            true => Judge::Unoptimised,
            false => Judge::Duckdb,
        };
        Self { node: random_statement(random, tables), judge }
    }

    pub fn with(&self, node: Node) -> Self {
        Self { node, judge: self.judge }
    }

    /// In FlowGuard's words: what is judged, and what the judge reads if that is FlowGuard too.
    pub fn texts(&self) -> (Vec<String>, Vec<String>) {
        let text = |node: &Node| node.text(Dialect::Flowguard);
        let Node::Sequence(parts) = &self.node else { return (vec![text(&self.node)], Vec::new()) };
        let [items, from, condition] = parts.as_slice() else {
            return (vec![text(&self.node)], Vec::new());
        };
        let (items, from, condition) = (text(items), text(from), text(condition));
        match self.judge {
            Judge::Duckdb | Judge::Unoptimised => (vec![text(&self.node)], Vec::new()),
            Judge::Partitions => {
                let parts = ["", "NOT ", "NULL"].map(|part| match part {
                    "NULL" => format!("SELECT {items}{from} WHERE ({condition}) IS NULL"),
                    not => format!("SELECT {items}{from} WHERE {not}({condition})"),
                });
                (parts.to_vec(), vec![format!("SELECT {items}{from}")])
            }
            Judge::Counts => (
                vec![format!("SELECT count(*) AS n{from} WHERE ({condition})")],
                vec![format!(
                    "SELECT coalesce(sum(CASE WHEN ({condition}) THEN 1 ELSE 0 END), 0) AS n{from}"
                )],
            ),
        }
    }
}

/// Asks, and judges.
pub fn outcome(duckdb: &mut Duckdb, world: &World, statement: &Statement) -> Outcome {
    match statement.judge {
        Judge::Duckdb => against_duckdb(duckdb, world, &statement.node),
        Judge::Unoptimised => {
            let sql = statement.node.text(Dialect::Flowguard);
            // No plan that was not optimized takes it.
            if sql.contains("LIMIT 0") {
                return against_duckdb(duckdb, world, &statement.node);
            }
            match world.ask_unoptimised(&sql) {
                Ok(right) => against(&right, world.ask(&sql)),
                // DataFusion cannot execute it so, which says nothing.
                Err(_) => against_duckdb(duckdb, world, &statement.node),
            }
        }
        Judge::Partitions | Judge::Counts => {
            let (parts, whole) = statement.texts();
            match all(world, &whole) {
                Ok(right) => against(&right, all(world, &parts)),
                Err(Refusal::Fault(text)) => fault(text),
                Err(Refusal::Clear(text)) => Outcome::Passed("in own words: refused", text),
                Err(Refusal::TooMany) => Outcome::Passed("too many rows", String::new()),
            }
        }
    }
}

/// The rows of all of `statements` together.
pub fn all(world: &World, statements: &[String]) -> Answer {
    let mut rows = Rows::new();
    for sql in statements {
        rows.extend(world.ask(sql)?);
    }
    Ok(rows)
}

fn against(right: &Rows, found: Answer) -> Outcome {
    match found {
        Ok(found) if is_same(right, &found) => Outcome::Same(right.len()),
        Ok(_) => Outcome::Wrong(Wrong::Rows, String::new()),
        Err(Refusal::Fault(text)) => fault(text),
        Err(Refusal::TooMany) => Outcome::Passed("too many rows", String::new()),
        Err(Refusal::Clear(text)) => Outcome::Passed("in own words: refused", text),
    }
}

fn against_duckdb(duckdb: &mut Duckdb, world: &World, statement: &Node) -> Outcome {
    let (sql, duckdb_sql) = (statement.text(Dialect::Flowguard), statement.text(Dialect::Duckdb));
    duckdb.begin(&duckdb_sql);
    let found = world.ask(&sql);
    match (duckdb.receive(), found) {
        (Ok(_), Err(Refusal::Fault(text))) => fault(text),
        (Err(_), Err(Refusal::Fault(text))) => {
            Outcome::Wrong(Wrong::FaultOfInvalid(beginning(&text)), text)
        }
        (_, Err(Refusal::TooMany)) => Outcome::Passed("too many rows", String::new()),
        (Err(error), _) if error.contains("too many rows") => {
            Outcome::Passed("too many rows", error)
        }
        (Err(error), Err(Refusal::Clear(_))) => Outcome::Passed("refused by both", error),
        (Ok(_), Err(Refusal::Clear(text))) => {
            let asked = std::env::var("FLOWGUARD_TEST_REFUSED");
            match asked.is_ok_and(|asked| text.contains(&asked)) {
                true => Outcome::Wrong(Wrong::Refused, text),
                false => Outcome::Passed("refused by FlowGuard", text),
            }
        }
        (Err(error), Ok(found)) if is_overflow(&error) => {
            match duckdb.ask(&duckdb_sql.replace("silver.", "exact.")) {
                Ok(right) if !is_same(&right, &found) => Outcome::Wrong(Wrong::Overflow, error),
                Ok(_) => Outcome::Passed("wider than DuckDB", error),
                Err(error) => Outcome::Passed("overflow that cannot be checked", error),
            }
        }
        (Err(error), Ok(found)) => match world.ask_unoptimised(&sql) {
            // Nobody else knows.
            Ok(right) if !is_same(&right, &found) => Outcome::Wrong(Wrong::Rows, error),
            _ => Outcome::Passed("refused by DuckDB", error),
        },
        (Ok(right), found) => against(&right, found),
    }
}

fn fault(text: String) -> Outcome {
    Outcome::Wrong(Wrong::Fault(beginning(&text)), text)
}

/// What two faults of a kind have in common.
fn beginning(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_ascii_digit()).take(70).collect()
}

fn is_overflow(error: &str) -> bool {
    ["verflow", "ut of Range", "out of range"].iter().any(|word| error.contains(word))
}

/// Rows as they are printed, in an order of their own.
pub fn texts(rows: &Rows) -> Vec<String> {
    let text = |row: &Vec<Cell>| row.iter().map(ToString::to_string).collect::<Vec<_>>().join("|");
    let mut texts: Vec<String> = rows.iter().map(text).collect();
    texts.sort();
    texts
}
