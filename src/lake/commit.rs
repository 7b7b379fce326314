//! The one commit function. Every write of FlowGuard becomes visible here and nowhere else.
//!
//! Exactly once rests on three rules: the expected transaction values are compared on exactly the
//! snapshot that the commit is based on; the log entry is written for exactly the next version, so
//! a table that moved in between makes the attempt fail; and after any error, what happened is
//! read back from the log, because a commit can land although its reply was lost.
//! delta-rs's own conflict resolution is not used: it accepts a stale transaction value from a
//! fresh snapshot.

use std::collections::HashMap;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use deltalake::DeltaTableError;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, TableReference, TransactionError};
use deltalake::kernel::{
    Action, Metadata, MetadataExt, Protocol, StructType, Transaction, new_metadata,
};
use deltalake::protocol::{DeltaOperation, SaveMode};
use serde_json::json;

use super::ledger::{ACTIONS_KEY, LEDGER_KEY, Ledger};
use super::logs::{ACCEPTED_KEY, accepted};
use super::replace::Removal;
use super::spec::{SchemaChange, TARGET_FILE_BYTES, TableSpec, check_shape, schema_change};
use super::stage::Staged;
use super::store::store_error;
use super::{Lake, Snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Retry;
use crate::table::TableName;

/// Attempts of one commit before giving up with a conflict.
const RETRY: Retry = Retry::times(60, Duration::from_millis(10), Duration::from_millis(400));
/// A checkpoint is written at every version that is a multiple of this.
const CHECKPOINT_EVERY: u64 = 20;

/// A value that this commit moves: it must be `expected` before and is `next` after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Delta's application id; see [`offsets_id`] and [`model_id`].
    pub app_id: String,
    /// `None`: no commit may have set it yet.
    pub expected: Option<i64>,
    pub next: i64,
}

/// Holds the next Kafka offset of one partition.
pub fn offsets_id(pipeline: &str, topic: &str, partition: i32) -> String {
    format!("flowguard/{pipeline}/{topic}/{partition}")
}

/// Holds what the last message before that offset is known by.
pub fn mark_id(pipeline: &str, topic: &str, partition: i32) -> String {
    offsets_id(&format!("{pipeline}/mark"), topic, partition)
}

/// Key of the property that holds the broker's id of a topic, as of its first ingestion.
pub fn topic_id_key(topic: &str) -> String {
    format!("flowguard.topic_id.{topic}")
}

/// Counts the commits of one model.
pub fn model_id(name: &TableName) -> String {
    format!("flowguard/model/{name}")
}

/// Counts the commits that moved dead letters into one table.
pub fn replay_id(name: &TableName) -> String {
    format!("flowguard/replay/{name}")
}

/// What one commit does, all of it or nothing.
pub struct Commit<'a> {
    pub spec: &'a TableSpec,
    pub staged: Staged,
    /// Files that go, and the version they were chosen from; the commit fails with a conflict if
    /// the table has moved since. `None` appends.
    pub removal: Option<Removal>,
    pub advances: Vec<Advance>,
    pub ledger: Ledger,
}

/// What became of a commit. Losing a race is a value, not an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed {
        version: u64,
    },
    /// Another writer moved these values first; nothing of this commit was written.
    Superseded {
        found: Vec<(String, Option<i64>)>,
    },
}

/// Makes `commit` visible exactly once, creating the table if it does not exist.
pub async fn commit(lake: &Lake, commit: &Commit<'_>) -> Result<Outcome> {
    let name = &commit.spec.name;
    let mut in_doubt: Option<Error> = None;
    // The first version that can be this commit; what is older may carry the same ledger.
    let mut first: Option<u64> = None;
    let mut attempts = RETRY.begin(commit.ledger.commit.as_u128());
    loop {
        let snapshot = match look(lake, commit, first).await {
            Ok(Look::Decided(outcome)) => return Ok(outcome),
            Ok(Look::Open(snapshot)) => snapshot,
            Err(error) if error.kind.is_retryable() => {
                tracing::warn!(table = %name, %error, "log not readable, trying again");
                let error = in_doubt.take().unwrap_or(error);
                if !attempts.wait().await {
                    return settle(lake, commit, first, error).await;
                }
                in_doubt = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        if let (Some(removal), Some(snapshot)) = (&commit.removal, &snapshot)
            && snapshot.version() != removal.version
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("`{name}` was changed by another writer during the run"),
            )
            .hint("nothing was written; run again"));
        }
        first.get_or_insert(snapshot.as_ref().map_or(0, |snapshot| snapshot.version() + 1));
        match attempt_commit(lake, snapshot.as_ref(), commit).await {
            Ok(version) => {
                after_commit(lake, name, version).await;
                return Ok(Outcome::Committed { version });
            }
            Err(error) => {
                tracing::debug!(table = %name, %error, "commit attempt failed");
                if !error.kind.is_retryable() || !attempts.wait().await {
                    return settle(lake, commit, first, error).await;
                }
                in_doubt = Some(error);
            }
        }
    }
}

/// What the newest version says about a commit.
enum Look {
    Decided(Outcome),
    /// It has not landed, and its expectations hold in this snapshot; `None` without a table.
    Open(Option<Snapshot>),
}

async fn look(lake: &Lake, commit: &Commit<'_>, first: Option<u64>) -> Result<Look> {
    let snapshot = lake.snapshot(&commit.spec.name).await?;
    if let (Some(snapshot), Some(first)) = (&snapshot, first)
        && let Some(version) = own_version(snapshot, first, commit).await?
    {
        return Ok(Look::Decided(Outcome::Committed { version }));
    }
    let found = found_advances(snapshot.as_ref(), &commit.advances).await?;
    if commit.advances.iter().zip(&found).any(|(advance, (_, at))| *at != advance.expected) {
        return Ok(Look::Decided(Outcome::Superseded { found }));
    }
    Ok(Look::Open(snapshot))
}

/// The last look at the log before an error is believed.
async fn settle(
    lake: &Lake,
    commit: &Commit<'_>,
    first: Option<u64>,
    error: Error,
) -> Result<Outcome> {
    if let (Some(first), Ok(Some(snapshot))) = (first, lake.snapshot(&commit.spec.name).await)
        && let Ok(Some(version)) = own_version(&snapshot, first, commit).await
    {
        return Ok(Outcome::Committed { version });
    }
    Err(error)
}

/// The version at which this very commit landed, looking only at versions from `first` on.
async fn own_version(snapshot: &Snapshot, first: u64, commit: &Commit<'_>) -> Result<Option<u64>> {
    let ledgers = snapshot.ledgers(first).await?;
    let own = ledgers.iter().find(|(_, ledger)| ledger.commit == commit.ledger.commit);
    Ok(own.map(|(version, _)| *version))
}

async fn found_advances(
    snapshot: Option<&Snapshot>,
    advances: &[Advance],
) -> Result<Vec<(String, Option<i64>)>> {
    let mut found = Vec::with_capacity(advances.len());
    for advance in advances {
        let at = match snapshot {
            Some(snapshot) => snapshot.transaction(&advance.app_id).await?,
            None => None,
        };
        found.push((advance.app_id.clone(), at));
    }
    Ok(found)
}

async fn attempt_commit(
    lake: &Lake,
    snapshot: Option<&Snapshot>,
    commit: &Commit<'_>,
) -> Result<u64> {
    let name = &commit.spec.name;
    let failed = |source: DeltaTableError| {
        let doing = format!("cannot commit to `{name}`");
        match &source {
            DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source:
                    TransactionError::VersionAlreadyExists(_) | TransactionError::MaxCommitAttempts(_),
            } => Error::new(ErrorKind::Conflict, doing).source(source),
            _ => store_error(&doing, source),
        }
    };
    let transactions =
        commit.advances.iter().map(|a| Action::Txn(Transaction::new(&a.app_id, a.next)));
    let mut actions = schema_actions(snapshot, commit)?;
    actions.extend(acceptance(snapshot, &commit.ledger)?);
    actions.extend(transactions);
    actions
        .extend(commit.removal.iter().flat_map(|r| r.removes.iter().cloned()).map(Action::Remove));
    actions.extend(commit.staged.adds.iter().cloned().map(Action::Add));
    let operation = DeltaOperation::Write {
        mode: if commit.removal.is_some() { SaveMode::Overwrite } else { SaveMode::Append },
        partition_by: None,
        predicate: None,
    };
    put_entry(lake, name, snapshot, actions, operation, &commit.ledger).await.map_err(failed)?;
    Ok(snapshot.map_or(0, |snapshot| snapshot.version() + 1))
}

/// Writes one log entry, for exactly the version after `snapshot`. Nothing else writes any.
async fn put_entry(
    lake: &Lake,
    name: &TableName,
    snapshot: Option<&Snapshot>,
    actions: Vec<Action>,
    operation: DeltaOperation,
    ledger: &Ledger,
) -> std::result::Result<(), DeltaTableError> {
    let mut ledger = serde_json::to_value(ledger).expect("a ledger is plain data");
    ledger[ACTIONS_KEY] = actions.len().into();
    let table = snapshot.map(|s| s.eager() as &dyn TableReference);
    CommitBuilder::default()
        .with_actions(actions)
        .with_app_metadata(HashMap::from([(LEDGER_KEY.to_owned(), ledger)]))
        .with_max_retries(0)
        .build(table, lake.log_store(name), operation)
        .into_prepared_commit_future()
        .await?
        .await?;
    Ok(())
}

/// Protocol and metadata where the table is new, or where a full replacement changes its columns.
fn schema_actions(snapshot: Option<&Snapshot>, commit: &Commit<'_>) -> Result<Vec<Action>> {
    let spec = commit.spec;
    let Some(snapshot) = snapshot else {
        return creation(spec);
    };
    if commit.removal.as_ref().is_some_and(|removal| removal.whole_table) {
        return Ok(match is_made_by(snapshot, spec)? {
            true => Vec::new(),
            false => vec![Action::Metadata(renewed(snapshot, spec)?)],
        });
    }
    match evolvable(snapshot, spec) {
        Ok(SchemaChange::None) => Ok(Vec::new()),
        Ok(SchemaChange::Widen { .. }) => {
            Err(Error::internal(format!("`{}` was not evolved before the commit", spec.name)))
        }
        Err(error) => Err(error),
    }
}

/// The table's list of accepted logs, where the ledger has more of them.
fn acceptance(snapshot: Option<&Snapshot>, ledger: &Ledger) -> Result<Option<Action>> {
    let (Some(snapshot), false) = (snapshot, ledger.accepted.is_empty()) else { return Ok(None) };
    let mut all = accepted(Some(snapshot))?;
    all.extend(ledger.accepted.iter().cloned());
    let list = serde_json::to_string(&all).expect("acceptances are plain data");
    let mut metadata = snapshot.eager().metadata().clone();
    let ids = ledger
        .accepted
        .iter()
        .filter_map(|accepted| Some((topic_id_key(&accepted.topic), accepted.topic_id.clone()?)));
    for (key, value) in ids.chain([(ACCEPTED_KEY.to_owned(), list)]) {
        metadata = metadata.add_config_key(key, value).map_err(metadata_error)?;
    }
    Ok(Some(Action::Metadata(metadata)))
}

/// Key of the property that says how the rows are laid out.
const SHAPE_KEY: &str = "flowguard.shape";

impl Snapshot {
    /// [`TableSpec::shape`] of the header that the rows were written by; `None` in a table that was
    /// made before it was recorded.
    pub fn shape(&self) -> Option<String> {
        self.property(SHAPE_KEY)
    }
}

fn creation(spec: &TableSpec) -> Result<Vec<Action>> {
    let protocol: Protocol =
        serde_json::from_value(json!({"minReaderVersion": 1, "minWriterVersion": 2}))
            .map_err(|source| Error::internal("cannot build the protocol").source(source))?;
    Ok(vec![Action::Protocol(protocol), Action::Metadata(metadata_of(spec)?)])
}

fn metadata_of(spec: &TableSpec) -> Result<Metadata> {
    let configuration = [
        ("delta.targetFileSize", TARGET_FILE_BYTES.to_string()),
        ("delta.dataSkippingStatsColumns", spec.statistics_columns().join(",")),
        (SHAPE_KEY, spec.shape.clone()),
    ];
    let configuration = configuration.into_iter().filter(|(_, value)| !value.is_empty());
    let mut metadata =
        new_metadata(&kernel_schema(&spec.schema())?, spec.partition_columns(), configuration)
            .and_then(|metadata| metadata.with_name(spec.name.to_string()))
            .map_err(metadata_error)?;
    if let Some(doc) = &spec.doc {
        metadata = metadata.with_description(doc.clone()).map_err(metadata_error)?;
    }
    Ok(metadata)
}

/// Whether a new table of `spec` would be like this one, but for its rows.
pub fn is_made_by(existing: &Snapshot, spec: &TableSpec) -> Result<bool> {
    Ok(*existing.eager().metadata() == renewed(existing, spec)?)
}

/// The table's metadata as of a new table, which keeps its id and what else was said of it.
fn renewed(existing: &Snapshot, spec: &TableSpec) -> Result<Metadata> {
    let fields = |metadata: &Metadata| serde_json::to_value(metadata).map_err(metadata_error);
    let (known, mut new) = (fields(existing.eager().metadata())?, fields(&metadata_of(spec)?)?);
    for field in ["id", "createdTime"] {
        new[field] = known[field].clone();
    }
    let mut configuration = known["configuration"].as_object().cloned().unwrap_or_default();
    configuration.remove("delta.dataSkippingStatsColumns");
    configuration.extend(new["configuration"].as_object().cloned().unwrap_or_default());
    new["configuration"] = configuration.into();
    serde_json::from_value(new).map_err(metadata_error)
}

fn metadata_error(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("cannot build the table's metadata").source(source)
}

/// The Delta form of an Arrow schema; view and large types become their plain ones.
fn kernel_schema(schema: &Schema) -> Result<StructType> {
    let plain = Schema::new(schema.fields().iter().map(|f| plain_field(f)).collect::<Vec<_>>());
    (&plain).try_into_kernel().map_err(|source| {
        Error::invalid("a column type cannot be stored in a Delta table").source(source)
    })
}

fn plain_field(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    };
    Field::new(field.name(), data_type, field.is_nullable())
}

/// Ensures that the table exists with the spec's columns, adding nullable ones in a commit of
/// their own. Any number of callers may do this at once.
pub async fn ensure_table(lake: &Lake, spec: &TableSpec, ledger: &Ledger) -> Result<Snapshot> {
    let change = |snapshot: Option<&Snapshot>| match snapshot {
        None => Ok(Some((creation(spec)?, append()))),
        Some(existing) => match evolvable(existing, spec)? {
            SchemaChange::None if existing.shape().is_none() => {
                set_property(existing, SHAPE_KEY, &spec.shape).map(Some)
            }
            SchemaChange::None => Ok(None),
            SchemaChange::Widen { added, relaxed } => {
                evolution(existing, &added, &relaxed).map(Some)
            }
        },
    };
    change_table(lake, &spec.name, ledger, change).await
}

/// Gives the table a property, unless it has it already; returns the value that it has then.
pub async fn claim_property(
    lake: &Lake,
    name: &TableName,
    key: &str,
    value: &str,
    ledger: &Ledger,
) -> Result<String> {
    let change = |snapshot: Option<&Snapshot>| {
        let Some(existing) = snapshot.filter(|existing| existing.property(key).is_none()) else {
            return Ok(None);
        };
        set_property(existing, key, value).map(Some)
    };
    let table = change_table(lake, name, ledger, change).await?;
    table
        .property(key)
        .ok_or_else(|| Error::internal(format!("`{name}` lost its property `{key}`")))
}

/// Fails unless rows of `spec` can be added to the table, in parts.
pub fn check_fits(existing: &Snapshot, spec: &TableSpec) -> Result<()> {
    evolvable(existing, spec).map(drop)
}

/// How the table's columns must change for the spec; fails where that takes more than adding some.
fn evolvable(existing: &Snapshot, spec: &TableSpec) -> Result<SchemaChange> {
    let partitions = existing.eager().metadata().partition_columns();
    check_shape(spec, existing.shape().as_deref(), partitions)?;
    schema_change(&spec.name, &existing.schema(), &spec.columns)
}

fn set_property(
    existing: &Snapshot,
    key: &str,
    value: &str,
) -> Result<(Vec<Action>, DeltaOperation)> {
    let metadata = existing.eager().metadata().clone();
    let metadata = metadata.add_config_key(key.to_owned(), value.to_owned());
    let properties = HashMap::from([(key.to_owned(), value.to_owned())]);
    let operation = DeltaOperation::SetTableProperties { properties };
    Ok((vec![Action::Metadata(metadata.map_err(metadata_error)?)], operation))
}

fn append() -> DeltaOperation {
    DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None }
}

/// Commits what `change` asks for until it asks for nothing, and returns the table as it is then.
async fn change_table(
    lake: &Lake,
    name: &TableName,
    ledger: &Ledger,
    change: impl Fn(Option<&Snapshot>) -> Result<Option<(Vec<Action>, DeltaOperation)>>,
) -> Result<Snapshot> {
    let mut attempts = RETRY.begin(ledger.commit.as_u128());
    loop {
        let snapshot = lake.snapshot(name).await?;
        let Some((actions, operation)) = change(snapshot.as_ref())? else {
            return snapshot.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no table `{name}` in the lake"))
            });
        };
        let outcome = put_entry(lake, name, snapshot.as_ref(), actions, operation, ledger).await;
        // Whether it landed or another worker was first, the next look decides; an error that
        // no retry can cure ends it.
        if let Err(source) = outcome {
            let error = store_error(&format!("cannot create or change `{name}`"), source);
            if !error.kind.is_retryable() {
                return Err(error);
            }
            tracing::debug!(table = %name, %error, "creating or evolving met a race");
        }
        if !attempts.wait().await {
            let message = format!("cannot create or change `{name}`: too many writers");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
    }
}

fn evolution(
    existing: &Snapshot,
    added: &[Field],
    relaxed: &[Field],
) -> Result<(Vec<Action>, DeltaOperation)> {
    let widened = |field: &Field| relaxed.iter().find(|wider| wider.name() == field.name());
    let mut fields: Vec<Field> = existing
        .schema()
        .fields()
        .iter()
        .map(|field| widened(field).unwrap_or(field.as_ref()).clone())
        .collect();
    fields.extend_from_slice(added);
    let schema = kernel_schema(&Schema::new(fields))?;
    let metadata =
        existing.eager().metadata().clone().with_schema(&schema).map_err(metadata_error)?;
    let changed = kernel_schema(&Schema::new([added, relaxed].concat()))?;
    let fields = changed.fields().cloned().collect();
    let operation = match added.is_empty() {
        true => DeltaOperation::UpdateFieldMetadata { fields },
        false => DeltaOperation::AddColumn { fields },
    };
    Ok((vec![Action::Metadata(metadata)], operation))
}

/// Writes a checkpoint when one is due. The commit has landed; nothing here may fail it.
async fn after_commit(lake: &Lake, name: &TableName, version: u64) {
    if version == 0 || !version.is_multiple_of(CHECKPOINT_EVERY) {
        return;
    }
    let checkpoint = async {
        let snapshot = lake.snapshot_at(name, version).await?;
        deltalake::checkpoints::create_checkpoint(&snapshot.table, None).await.map_err(|source| {
            store_error(&format!("cannot write a checkpoint of `{name}`"), source)
        })
    };
    if let Err(error) = checkpoint.await {
        tracing::warn!(table = %name, version, %error, "checkpoint failed, the next one will do");
    }
    lake.forget(name);
}
