//! Prepared statements: planned once, bound as often as wanted, each execution over the newest
//! tables. The handle stays the same through every binding, for clients that keep the first.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::ActionCreatePreparedStatementResult;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::Status;

use super::columns::{ipc_schema, parameter_schema, result_schema};
use super::handles::{Handle, Purpose, Store, StoreLimits, Weight};
use crate::access::{Access, Principal};
use crate::error::{Error, ErrorKind, Result};
use crate::statements::{Statement, Statements, Terms};

/// From the last use on.
pub const LIFE_MICROS: i64 = 60 * 60 * 1_000_000;
/// However much it is used.
const AGE_MICROS_MAX: i64 = 24 * LIFE_MICROS;
/// After this a statement is planned anew even if its tables are as they were: `now()` and the last
/// complete day are not.
const PLAN_MICROS_MAX: i64 = 60 * 1_000_000;
const LIMITS: StoreLimits = StoreLimits {
    count_max: 1_024,
    count_per_user_max: 512,
    bytes_max: 256 << 20,
    bytes_per_user_max: 64 << 20,
    life_micros: LIFE_MICROS,
    age_micros_max: AGE_MICROS_MAX,
    gives_way_micros: i64::MAX,
};
/// Of the parameters of one execution.
const PARAMETER_BYTES_MAX: usize = 16 << 20;

/// Statements that clients hold by a handle, each for the user who prepared it.
pub struct PreparedStatements {
    statements: Statements,
    access: Access,
    store: Store<Prepared>,
}

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    terms: Terms,
    /// Microseconds since 1970 UTC.
    planned: i64,
    parameters: Option<RecordBatch>,
}

impl PreparedStatements {
    pub fn new(statements: Statements, access: Access) -> Self {
        Self { statements, access, store: Store::new(Purpose::Prepared, LIMITS) }
    }

    /// Plans `sql` for its columns and parameters. The handle ends an hour after its last use, or a
    /// day after now.
    pub async fn create(
        &self,
        caller: &Arc<Principal>,
        sql: &str,
        terms: Terms,
        now: i64,
    ) -> Result<ActionCreatePreparedStatementResult> {
        let statement = self.statements.plan(caller, sql, &terms).await?;
        let dataset_schema = ipc_schema(&result_schema(statement.schema()))?;
        let parameter_schema = ipc_schema(&parameter_schema(statement.parameters()))?;
        let weight = Weight { bytes: statement.held_bytes(), shared: statement.pinned() };
        let prepared = Prepared { statement, terms, planned: now, parameters: None };
        let id = self.store.insert(&caller.user, prepared, weight, now)?;
        let handle = Handle { id, part: 0, expires: now.saturating_add(AGE_MICROS_MAX) };
        let sealed = handle.seal(&self.access, Purpose::Prepared, &caller.user);
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: sealed.into(),
            dataset_schema,
            parameter_schema,
        })
    }

    /// The statement as it would be executed, ready for [`super::results::Results::keep`].
    pub async fn execution(
        &self,
        caller: &Arc<Principal>,
        sealed: &[u8],
        now: i64,
    ) -> Result<Statement> {
        let handle = self.open(caller, sealed, now)?;
        let mut prepared = self.store.get(handle.id, &caller.user, now)?;
        let is_fresh = now.saturating_sub(prepared.planned) <= PLAN_MICROS_MAX
            && prepared.statement.principal() == caller
            && prepared.statement.is_current().await?;
        if !is_fresh {
            let sql = prepared.statement.sql();
            let statement = self.statements.plan(caller, sql, &prepared.terms).await?;
            prepared.statement = statement.clone();
            self.store.with(handle.id, &caller.user, now, |kept| {
                kept.statement = statement;
                kept.planned = now;
            })?;
        }
        match &prepared.parameters {
            Some(values) => prepared.statement.bind(values),
            None => Ok(prepared.statement.again()),
        }
    }

    /// Takes the values of the next execution. They are tried at once, so that a value that does
    /// not fit is told where it was sent.
    pub async fn bind(
        &self,
        caller: &Principal,
        sealed: &[u8],
        values: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
        now: i64,
    ) -> Result<()> {
        let handle = self.open(caller, sealed, now)?;
        let prepared = self.store.get(handle.id, &caller.user, now)?;
        let values = received(values).await?;
        let values = values.filter(|values| {
            values.num_columns() > 0 || !prepared.statement.parameters().is_empty()
        });
        if let Some(values) = &values {
            prepared.statement.bind(values)?;
        }
        self.store.with(handle.id, &caller.user, now, |kept| kept.parameters = values)
    }

    /// Whether there was one or not.
    pub fn close(&self, caller: &Principal, sealed: &[u8], now: i64) {
        if let Ok(handle) = self.open(caller, sealed, now) {
            self.store.remove(handle.id, &caller.user);
        }
    }

    /// Fails unless the handle is good.
    pub fn check(&self, caller: &Principal, sealed: &[u8], now: i64) -> Result<()> {
        let handle = self.open(caller, sealed, now)?;
        self.store.get(handle.id, &caller.user, now).map(drop)
    }

    pub fn sweep(&self, now: i64) {
        self.store.sweep(now);
    }

    fn open(&self, caller: &Principal, sealed: &[u8], now: i64) -> Result<Handle> {
        Handle::unseal(&self.access, Purpose::Prepared, sealed, &caller.user, now)
    }
}

/// All rows that were sent; `None` without any batch.
async fn received(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Option<RecordBatch>> {
    let unreadable = |source: FlightError| {
        Error::invalid("the parameters are not a stream of Arrow batches").source(source)
    };
    let messages = messages.map_err(FlightError::from);
    let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
    let (mut kept, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(unreadable)?;
        bytes += batch.get_array_memory_size();
        if bytes > PARAMETER_BYTES_MAX {
            let message = format!("parameters take more than {PARAMETER_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Exhausted, message).hint("send fewer at once"));
        }
        kept.push(batch);
    }
    let Some(first) = kept.first() else { return Ok(None) };
    let schema = first.schema();
    arrow::compute::concat_batches(&schema, &kept).map(Some).map_err(|source| {
        Error::invalid("the batches of parameters differ in their columns").source(source)
    })
}
