//! Puts pinned versions of lake tables, and views over them, into a session under their names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{TableReference, exec_err};
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use futures::future::BoxFuture;

use super::fault::engine_error;
use super::veil::without_words;
use super::{CATALOG, Engine, coerced, planned};
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::lake::{Lake, Snapshot};
use crate::model::{Model, ModelSet, dead_letters};
use crate::table::{Layer, TableName};

/// Tables looked up at once.
const LOOKUPS_MAX: usize = 16;

/// The versions that one statement or run sees, from planning to its last row.
pub type Pins = BTreeMap<TableName, Snapshot>;

/// The table as SQL names it, in the catalog of every session.
pub fn reference(name: &TableName) -> TableReference {
    TableReference::full(CATALOG, name.layer.as_str(), name.name())
}

/// Where tables come from, and what exists for whoever asks.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    pub engine: &'a Engine,
    pub lake: &'a Lake,
    pub models: &'a ModelSet,
    pub may_read: &'a (dyn Fn(&TableName) -> bool + Send + Sync),
}

impl Tables<'_> {
    /// Whether `name` is a view that reads, itself or through other views, what may not be read.
    pub fn is_veiled(&self, name: &TableName) -> bool {
        let is_hidden = |input: &TableName| !(self.may_read)(input) || self.is_veiled(input);
        view_of(*self, name).is_some_and(|view| view.inputs.iter().any(is_hidden))
    }
}

/// Registers `names` at their newest versions and returns what was pinned; views are expanded
/// down to the tables they read. Names that are neither are an error with the closest match, except
/// for those that `may_lack` says may be something else.
pub async fn register(
    session: &SessionContext,
    tables: Tables<'_>,
    names: impl IntoIterator<Item = TableName>,
    may_lack: impl Fn(&TableName) -> bool,
) -> Result<Pins> {
    let names: Vec<TableName> = names.into_iter().collect();
    let mut pins = Pins::new();
    for (name, found) in newest(tables, &names).await {
        pins.extend(found?.map(|table| (name, table)));
    }
    for name in &names {
        let is_there = pins.contains_key(name) || view_of(tables, name).is_some();
        if is_there || !may_lack(name) {
            register_one(session, tables, name, &mut pins).await?;
        }
    }
    Ok(pins)
}

/// The same for a statement that lists what there is: what cannot be read is there without columns,
/// and returned with the reason.
pub async fn register_listed(
    session: &SessionContext,
    tables: Tables<'_>,
    names: impl IntoIterator<Item = TableName>,
    pins: &mut Pins,
) -> Result<Unreadable> {
    let names: Vec<TableName> = names.into_iter().collect();
    let mut unreadable = Unreadable::new();
    for (name, found) in newest(tables, &names).await {
        match found {
            Ok(found) => pins.extend(found.map(|table| (name, table))),
            Err(error) => drop(unreadable.insert(name, error)),
        }
    }
    for name in &names {
        if !unreadable.contains_key(name) {
            match register_one(session, tables, name, pins).await {
                Ok(()) => continue,
                // Removed since it was listed.
                Err(error)
                    if error.kind == ErrorKind::NotFound && view_of(tables, name).is_none() =>
                {
                    continue;
                }
                Err(error) => drop(unreadable.insert(name.clone(), error)),
            }
        }
        if !session.table_exist(reference(name)).unwrap_or(false) {
            let is_view = view_of(tables, name).is_some();
            add(session, name, Arc::new(Closed { name: name.clone(), is_view }))?;
        }
    }
    Ok(unreadable)
}

/// Takes away the layers in which nothing is listed: whoever asks may not read anything in them, or
/// there is nothing.
pub fn forget_empty_layers(session: &SessionContext, listed: &BTreeSet<TableName>) -> Result<()> {
    let Some(catalog) = session.catalog(CATALOG) else { return Ok(()) };
    for layer in Layer::ALL {
        if !listed.iter().any(|name| name.layer == layer) {
            let forgotten = catalog.deregister_schema(layer.as_str(), true);
            forgotten.map_err(|error| engine_error("cannot list the lake", error))?;
        }
    }
    Ok(())
}

/// Tables that cannot be read, and why.
pub type Unreadable = BTreeMap<TableName, Error>;

fn view_of<'a>(tables: Tables<'a>, name: &TableName) -> Option<&'a Model> {
    tables.models.as_read(name).filter(|model| model.is_view())
}

/// Those of `names` that are tables, looked up side by side.
async fn newest(
    tables: Tables<'_>,
    names: &[TableName],
) -> Vec<(TableName, Result<Option<Snapshot>>)> {
    let stored = names.iter().filter(|name| view_of(tables, name).is_none()).cloned();
    let lookups = stored.collect::<Vec<_>>().into_iter().map(|name| {
        let lake = tables.lake.clone();
        async move {
            let found = lake.snapshot(&name).await;
            (name, found)
        }
    });
    futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect().await
}

/// A table that is there and cannot be read; whoever asks for it by name is told why before.
#[derive(Debug)]
struct Closed {
    name: TableName,
    is_view: bool,
}

#[async_trait]
impl TableProvider for Closed {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn table_type(&self) -> TableType {
        if self.is_view { TableType::View } else { TableType::Base }
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        exec_err!("`{}` cannot be read", self.name)
    }
}

fn register_one<'a>(
    session: &'a SessionContext,
    tables: Tables<'a>,
    name: &'a TableName,
    pins: &'a mut Pins,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        if session.table_exist(reference(name)).unwrap_or(false) {
            return Ok(());
        }
        if let Some(view) = view_of(tables, name) {
            let planned = expanded(view, tables, pins).await;
            // Who may read a view need not know what it reads, nor hear of it in an error.
            let is_open = view.inputs.iter().all(|input| (tables.may_read)(input));
            let table = planned.map_err(|error| if is_open { error } else { veiled(name, error) });
            return add(session, name, Arc::new(table?));
        }
        let snapshot = match pins.get(name) {
            Some(pinned) => pinned.clone(),
            None => match tables.lake.snapshot(name).await? {
                Some(newest) => newest,
                None => {
                    let Tables { lake, models, may_read, .. } = tables;
                    return Err(missing(lake, models, may_read, name).await);
                }
            },
        };
        add(session, name, snapshot.provider().await?)?;
        pins.insert(name.clone(), snapshot);
        Ok(())
    })
}

/// Planned in a session of its own: what a view reads is not there for the statement around it.
async fn expanded(view: &Model, tables: Tables<'_>, pins: &mut Pins) -> Result<ViewTable> {
    let inner = tables.engine.session();
    for input in &view.inputs {
        register_one(&inner, tables, input, pins).await?;
    }
    let doing = format!("cannot plan the view `{}`", view.name);
    let state = inner.state();
    let planned = planned(&state, &view.sql).await;
    let planned = planned.and_then(|plan| coerced(&state, plan));
    let plan = planned.map_err(|error| engine_error(&doing, error))?;
    // What it reads must not be learned from how it is written.
    let hidden: Vec<&TableName> =
        view.inputs.iter().filter(|input| !(tables.may_read)(input)).collect();
    if hidden.is_empty() {
        return Ok(ViewTable::new(plan, Some(view.sql.clone())));
    }
    let mut words = HashSet::new();
    for name in hidden {
        words.extend([name.layer.to_string(), name.name().to_owned()]);
        if let Ok(table) = inner.table_provider(reference(name)).await {
            words.extend(table.schema().fields().iter().map(|field| field.name().clone()));
        }
    }
    let plan = without_words(plan, &words).map_err(|error| engine_error(&doing, error))?;
    Ok(ViewTable::new(plan, None))
}

fn veiled(view: &TableName, error: Error) -> Error {
    tracing::warn!(%view, %error, "a view cannot be read");
    let message = format!("the view `{view}` cannot be read: something is wrong with its inputs");
    Error::new(error.kind, message).hint("ask whoever runs the models of this lake")
}

fn add(session: &SessionContext, name: &TableName, table: Arc<dyn TableProvider>) -> Result<()> {
    session
        .register_table(reference(name), table)
        .map(drop)
        .map_err(|error| engine_error(&format!("cannot register `{name}`"), error))
}

/// Why a table is not there, and what would make it. Tables that may not be read are unheard of.
pub async fn missing(
    lake: &Lake,
    models: &ModelSet,
    may_read: &(dyn Fn(&TableName) -> bool + Send + Sync),
    name: &TableName,
) -> Error {
    let error = Error::new(ErrorKind::NotFound, format!("there is no table `{name}` in the lake"));
    if may_read(name) && *name == dead_letters() {
        return error.hint("`flowguard ingest --once` creates it");
    }
    if may_read(name)
        && let Some(left_out) = models.left_out().get(name)
    {
        // The reason is in the words of a file that may name anything.
        let may_hear = match left_out.needs() {
            Some(needed) => may_read(needed),
            None => {
                models.iter().map(|model| &model.name).chain(models.left_out().keys()).all(may_read)
            }
        };
        return error.hint(match may_hear {
            true => format!("its model is left out: {}", left_out.reason()),
            false => "its model is left out; ask whoever runs the models of this lake".to_owned(),
        });
    }
    if may_read(name) && models.get(name).is_some() {
        return error.hint(match name.layer {
            Layer::Bronze => format!("`flowguard ingest {name} --once` creates it"),
            Layer::Silver | Layer::Gold => format!("`flowguard run +{name}` builds it"),
        });
    }
    let mut known: Vec<TableName> = models.iter().map(|model| model.name.clone()).collect();
    known.extend(lake.tables().await.unwrap_or_default());
    known.retain(|name| may_read(name));
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    match did_you_mean(&name.to_string(), known.iter().map(String::as_str)) {
        Some(close) => error.hint(format!("did you mean `{close}`?")),
        None => error.hint(format!("tables: {}", known.join(", "))),
    }
}
