//! What a target that is asked by SQL is told, as text: its ledger, and the one transaction that
//! publishes rows. Runs nothing.

use arrow::datatypes::DataType;
use uuid::Uuid;

use super::dialect::{Dialect, date, quoted};
use super::history;
use crate::dag::Target;
use crate::error::Result;
use crate::export::change::Held;
use crate::export::history::{Entry, HISTORY};
use crate::export::pair::{Keeper, Pair};
use crate::export::rows::{Bounds, bounds, time_of};
use crate::interval::RangeSet;

/// Schema of the ledger and of rows on their way, in the target.
pub const OWN_SCHEMA: &str = "flowguard";
/// Which version of which table the target holds.
pub const LEDGER: &str = "exports";
/// Of a row in the ledger whose table was not exported yet.
pub const SEED_VERSION: i64 = -1;

/// What one run tells one target.
pub struct Statements {
    pub target: Target,
    pub dialect: &'static dyn Dialect,
    /// Of this process; marks what it writes.
    pub run: Uuid,
}

/// What the ledger must say of a table for an export to move it on.
pub enum Claim<'a> {
    /// What was read, or the seed if nothing was. Of two exporters the second changes nothing.
    From(Option<&'a Held>),
    /// Anything: whoever wrote the statement could not read it.
    Any,
}

impl Keeper for Statements {
    fn target(&self) -> &Target {
        &self.target
    }

    fn column_type(&self, data_type: &DataType) -> Option<String> {
        self.dialect.column_type(data_type)
    }

    fn takes_zero_bytes(&self) -> bool {
        self.dialect.takes_zero_bytes()
    }

    fn name_bytes_max(&self) -> Option<usize> {
        self.dialect.name_bytes_max()
    }
}

impl Statements {
    /// A table of FlowGuard's own schema.
    pub fn own(&self, table: &str) -> String {
        self.dialect.table(&self.target.identifier(OWN_SCHEMA), &self.target.identifier(table))
    }

    /// A table of the lake's.
    pub fn live(&self, pair: &Pair<'_>) -> String {
        self.dialect.table(&pair.schema, &pair.table)
    }

    /// The table's name in the ledger: several layers may share a schema.
    pub fn key(&self, pair: &Pair<'_>) -> String {
        self.dialect.literal(&format!("{}.{}", pair.schema, pair.table))
    }

    /// Makes a schema, if it is not there.
    pub fn create_schema(&self, schema: &str) -> String {
        format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema))
    }

    /// The ledger and the history.
    pub fn create_own(&self) -> [String; 2] {
        let text = self.dialect.declared(&DataType::Utf8).unwrap_or_default();
        let ledger = format!(
            "CREATE TABLE IF NOT EXISTS {} (table_name {text} PRIMARY KEY, \
             table_id {text} NOT NULL, version BIGINT NOT NULL, run {text} NOT NULL, \
             row_count BIGINT NOT NULL, exported_at {} NOT NULL)",
            self.own(LEDGER),
            history::time_type(self.dialect)
        );
        [ledger, history::create(self.dialect, &self.own(HISTORY))]
    }

    /// A row of the ledger that a first export moves on. It is there before the transaction, since
    /// not every warehouse keeps two exporters from inserting the same row, but all of them keep
    /// two from updating it.
    pub fn seed(&self, pair: &Pair<'_>) -> String {
        let (ledger, key) = (self.own(LEDGER), self.key(pair));
        format!(
            "INSERT INTO {ledger} SELECT {key}, '', {SEED_VERSION}, {}, 0, CURRENT_TIMESTAMP \
             FROM (SELECT 1 AS one) AS seed \
             WHERE NOT EXISTS (SELECT 1 FROM {ledger} WHERE table_name = {key})",
            self.dialect.literal(&self.run.to_string())
        )
    }

    /// Moves the ledger to what is written now.
    pub fn claim(&self, pair: &Pair<'_>, from: &Claim<'_>, rows: Option<u64>) -> String {
        let from = match from {
            Claim::Any => String::new(),
            Claim::From(None) => format!(" AND table_id = '' AND version = {SEED_VERSION}"),
            Claim::From(Some(held)) => {
                format!(
                    " AND table_id = {} AND version = {}",
                    self.dialect.literal(&held.table_id),
                    held.version
                )
            }
        };
        format!(
            "UPDATE {} SET table_id = {}, version = {},{} run = {}, \
             exported_at = CURRENT_TIMESTAMP WHERE table_name = {}{from}",
            self.own(LEDGER),
            self.dialect.literal(pair.snapshot.id()),
            pair.snapshot.version(),
            rows.map_or(String::new(), |rows| format!(" row_count = {rows},")),
            self.dialect.literal(&self.run.to_string()),
            self.key(pair)
        )
    }

    /// Puts the rows of `staged` in place of those within `ranges`, or of all.
    pub fn replace(
        &self,
        pair: &Pair<'_>,
        staged: &str,
        ranges: Option<&RangeSet>,
    ) -> Result<[String; 2]> {
        let live = self.live(pair);
        let names: Vec<String> = pair.stored.fields().iter().map(|f| quoted(f.name())).collect();
        let names = names.join(", ");
        let condition = match ranges {
            None => String::new(),
            Some(ranges) => format!(" WHERE {}", condition(self.dialect, pair, ranges)?),
        };
        Ok([
            format!("DELETE FROM {live}{condition}"),
            format!("INSERT INTO {live} ({names}) SELECT {names} FROM {staged}"),
        ])
    }

    /// Adds an entry to the history.
    pub fn note(&self, entry: &Entry) -> String {
        history::insert(self.dialect, &self.own(HISTORY), entry)
    }
}

/// Whether a row of the target lies within the ranges.
pub fn condition(dialect: &dyn Dialect, pair: &Pair<'_>, ranges: &RangeSet) -> Result<String> {
    let column = quoted(pair.stored_name(time_of(pair)?));
    let mut conditions = Vec::new();
    for range in ranges.iter() {
        let (start, end) = match bounds(pair, range)? {
            Bounds::Dates(start, end) => (date(start), date(end)),
            Bounds::Instants(start, end) => (dialect.instant(start), dialect.instant(end)),
        };
        conditions.push(format!("({column} >= {start} AND {column} < {end})"));
    }
    Ok(if conditions.is_empty() { "FALSE".to_owned() } else { conditions.join(" OR ") })
}
