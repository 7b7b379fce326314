//! A table of the lake and its counterpart in a target.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::compare::canonical::is_comparable;
use crate::dag::Target;
use crate::engine::Engine;
use crate::engine::storable::storable_type;
use crate::error::{Error, ErrorKind, Result};
use crate::lake::spec::DAY_COLUMN;
use crate::lake::{Lake, Snapshot};
use crate::model::{Model, ModelSet};
use crate::table::TableName;

/// A target as far as tables must fit it.
pub trait Keeper: Send + Sync {
    fn target(&self) -> &Target;

    /// Type of a column, as the target itself spells it; `None` if it has none of this kind.
    fn column_type(&self, data_type: &DataType) -> Option<String>;

    /// Whether text may hold zero bytes.
    fn takes_zero_bytes(&self) -> bool;

    /// Longest name that it doesn't cut.
    fn name_bytes_max(&self) -> Option<usize> {
        None
    }
}

/// Where rows come from.
#[derive(Clone)]
pub struct Source {
    pub lake: Lake,
    pub engine: Engine,
    pub models: Arc<ModelSet>,
    /// Of the lake, so far, for whoever shows it.
    pub rows_read: Arc<AtomicU64>,
}

/// A table of the lake at one version, and its counterpart.
pub struct Pair<'a> {
    pub model: &'a Model,
    pub snapshot: Snapshot,
    /// As exported, in the lake's order.
    pub columns: SchemaRef,
    /// The same, named as in the target.
    pub stored: SchemaRef,
    /// Schema and table in the target.
    pub schema: String,
    pub table: String,
    pub takes_zero_bytes: bool,
}

impl Source {
    /// At the newest version, or at the one given.
    pub async fn pair(
        &self,
        keeper: &dyn Keeper,
        name: &TableName,
        version: Option<u64>,
    ) -> Result<Pair<'_>> {
        let model = self.models.find(name)?;
        if model.is_view() {
            return Err(Error::invalid(format!("`{name}` is a view, which stores no rows"))
                .hint("export the tables it reads, or make it a table: `kind: full`"));
        }
        let snapshot = match version {
            Some(version) => self.lake.snapshot_at(name, version).await?,
            None => newest(&self.lake, name).await?,
        };
        let (columns, target) =
            (exported_columns(name, &snapshot.schema(), keeper)?, keeper.target());
        if let Some(bytes_max) = keeper.name_bytes_max() {
            check_names(target, name, &columns, bytes_max)?;
        }
        let stored = stored_columns(target, name, &columns)?;
        let (schema, table) = (target.schema(name.layer), target.identifier(name.name()));
        let takes_zero_bytes = keeper.takes_zero_bytes();
        Ok(Pair { model, snapshot, columns, stored, schema, table, takes_zero_bytes })
    }
}

impl Pair<'_> {
    /// Of the table in the lake.
    pub fn name(&self) -> &TableName {
        &self.model.name
    }

    /// Rows with the names of the target.
    pub fn renamed(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        RecordBatch::try_new(Arc::clone(&self.stored), batch.columns().to_vec())
            .map_err(|source| Error::internal("rows have other columns").source(source))
    }

    /// A column's name in the target.
    pub fn stored_name(&self, column: &str) -> &str {
        let position = self.columns.column_with_name(column).map(|(position, _)| position);
        position.map_or("", |position| self.stored.field(position).name())
    }
}

/// The same columns of a target, where somebody may have put nulls although the lake has none.
pub fn nullable(columns: &SchemaRef) -> SchemaRef {
    let fields = columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The table at its newest version.
pub async fn newest(lake: &Lake, name: &TableName) -> Result<Snapshot> {
    lake.snapshot(name).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no table `{name}` in the lake"))
            .hint(format!("`flowguard run +{name}` builds it"))
    })
}

/// In the case that the target wants, in which two names may be one.
fn stored_columns(target: &Target, name: &TableName, columns: &SchemaRef) -> Result<SchemaRef> {
    let mut known = BTreeMap::new();
    let mut fields = Vec::new();
    for field in columns.fields() {
        let stored = target.identifier(field.name());
        if let Some(other) = known.insert(stored.clone(), field.name()) {
            return Err(Error::invalid(format!(
                "the columns `{other}` and `{}` of `{name}` are both `{stored}` in `{}`",
                field.name(),
                target.name
            ))
            .hint("rename one of them in the model, or write identifiers: as_written"));
        }
        fields.push(field.as_ref().clone().with_name(stored));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// A warehouse cuts what is too long, and then two names may be one.
fn check_names(
    target: &Target,
    name: &TableName,
    columns: &SchemaRef,
    bytes_max: usize,
) -> Result<()> {
    let names = columns.fields().iter().map(|field| field.name().as_str());
    match names.chain([name.name()]).find(|name| name.len() > bytes_max) {
        None => Ok(()),
        Some(long) => Err(Error::invalid(format!(
            "the name `{long}` of `{name}` is longer than the {bytes_max} bytes that `{}` keeps",
            target.name
        ))
        .hint("shorten it in the model, or export a model of its own with a shorter one")),
    }
}

/// The columns that are exported: all but the lake's own layout.
fn exported_columns(
    name: &TableName,
    schema: &SchemaRef,
    keeper: &dyn Keeper,
) -> Result<SchemaRef> {
    let fields = schema.fields().iter().filter(|field| field.name() != DAY_COLUMN);
    let fields: Result<Vec<Field>> = fields
        .map(|field| {
            let stored =
                storable_type(field.data_type()).unwrap_or_else(|_| field.data_type().clone());
            if is_comparable(&stored) && keeper.column_type(&stored).is_some() {
                return Ok(Field::new(field.name(), stored, field.is_nullable()));
            }
            Err(Error::invalid(format!(
                "`{}` of `{name}` has the type {}, which cannot be exported",
                field.name(),
                field.data_type()
            ))
            .hint("leave it out in a model of its own, or cast it to text"))
        })
        .collect();
    Ok(Arc::new(Schema::new(fields?)))
}
