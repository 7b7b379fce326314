//! The same tables in a lake and in DuckDB, and what both answer.

use std::sync::Arc;

use arrow::array::RecordBatch;
use chrono_tz::Tz;
use flowguard::lake::spec::TableSpec;
use tokio::runtime::Runtime;

use super::compare::{Rows, rows_of};
use super::duckdb::Duckdb;
use super::lakehouse::{Lakehouse, Refusal, Settings};
use super::tables::Table;
use crate::topic_in_memory::Random;

/// More rows than a statement may give here.
const ROWS_MAX: usize = 3000;

pub type Answer = Result<Rows, Refusal>;

pub struct World {
    pub tables: Vec<Table>,
    lakehouse: Lakehouse,
}

impl World {
    /// Stores `tables` in a new lake, in some files each.
    pub fn new(runtime: &Arc<Runtime>, tables: Vec<Table>, seed: u64) -> Self {
        let random = &mut Random(seed);
        let threads = [1, 1, 2, 3][random.below(4) as usize];
        let settings = Settings { threads, rows_max: ROWS_MAX, nulls: None };
        let world = Self { tables, lakehouse: Lakehouse::new(runtime, settings) };
        for table in &world.tables {
            world.store(table, random);
        }
        world
    }

    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.lakehouse.runtime
    }

    fn store(&self, table: &Table, random: &mut Random) {
        let is_partitioned = table.rows.len() > 2
            && random.below(4) == 0
            && table.columns.iter().any(|column| column.name == "ts");
        let spec = TableSpec {
            name: format!("silver.{}", table.name).parse().expect("a name"),
            columns: table.schema(),
            time: is_partitioned.then(|| "ts".to_owned()),
            partition_by_day: false,
            timezone: Tz::UTC,
            key: match random.below(2) {
                0 => Vec::new(),
                _ => table.columns.iter().map(|column| column.name.clone()).collect(),
            },
            doc: None,
            shape: "`kind: full`".to_owned(),
        };
        let rows = table.rows.len();
        let cut = if rows > 3 { random.below(rows as u64) as usize } else { rows };
        let parts =
            [(0, cut), (cut, rows)].into_iter().filter(|(from, end)| from != end || *end == 0);
        let files = parts.map(|(from, end)| (from < end).then(|| table.batch(from, end)));
        self.lakehouse.store(&spec, &files.collect::<Vec<Option<RecordBatch>>>());
    }

    /// Makes the same tables in DuckDB.
    pub fn tell(&self, duckdb: &mut Duckdb) {
        duckdb.restart();
        for schema in ["silver", "exact"] {
            duckdb.ask(&format!("CREATE SCHEMA {schema}")).expect("a schema");
            for statement in self.tables.iter().flat_map(|table| table.created(schema)) {
                duckdb.ask(&statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
        }
    }

    /// What FlowGuard answers, planned and run as `flowguard serve` does.
    pub fn ask(&self, sql: &str) -> Answer {
        self.lakehouse.ask(sql, true).map(|batches| all_rows(&batches))
    }

    /// What DataFusion answers when it changes nothing of the plan that it need not.
    pub fn ask_unoptimised(&self, sql: &str) -> Answer {
        self.lakehouse.ask(sql, false).map(|batches| all_rows(&batches))
    }
}

fn all_rows(batches: &[RecordBatch]) -> Rows {
    batches.iter().flat_map(rows_of).collect()
}
