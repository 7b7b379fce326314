//! Puts pinned versions of lake tables, and views over them, into a session under their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::datasource::ViewTable;
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};

use super::fault::engine_error;
use super::{CATALOG, Engine};
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::lake::{Lake, Snapshot};
use crate::model::{Kind, ModelSet, dead_letters};
use crate::table::{Layer, TableName};

/// Tables looked up at once.
const LOOKUPS_MAX: usize = 16;

/// The versions that one statement or run sees, from planning to its last row.
pub type Pins = BTreeMap<TableName, Snapshot>;

pub fn reference(name: &TableName) -> TableReference {
    TableReference::full(CATALOG, name.layer.as_str(), name.name())
}

/// Registers `names` at their newest versions and returns what was pinned; views are expanded
/// down to the tables they read. Names that are neither are an error with the closest match.
pub async fn register(
    session: &SessionContext,
    engine: &Engine,
    lake: &Lake,
    models: &ModelSet,
    names: impl IntoIterator<Item = TableName>,
) -> Result<Pins> {
    let names: Vec<TableName> = names.into_iter().collect();
    let mut pins = newest(lake, models, &names).await?;
    for name in &names {
        register_one(session, engine, lake, models, name, &mut pins).await?;
    }
    Ok(pins)
}

/// Those of `names` that are tables, looked up side by side.
async fn newest(lake: &Lake, models: &ModelSet, names: &[TableName]) -> Result<Pins> {
    let is_view =
        |name: &TableName| models.get(name).is_some_and(|model| matches!(model.kind, Kind::View));
    let tables: Vec<TableName> = names.iter().filter(|name| !is_view(name)).cloned().collect();
    let lookups = tables.into_iter().map(|name| {
        let lake = lake.clone();
        async move { lake.snapshot(&name).await }
    });
    let found: Vec<Option<Snapshot>> =
        futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).try_collect().await?;
    Ok(found.into_iter().flatten().map(|table| (table.name().clone(), table)).collect())
}

fn register_one<'a>(
    session: &'a SessionContext,
    engine: &'a Engine,
    lake: &'a Lake,
    models: &'a ModelSet,
    name: &'a TableName,
    pins: &'a mut Pins,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        if session.table_exist(reference(name)).unwrap_or(false) {
            return Ok(());
        }
        if let Some(view) = models.get(name).filter(|model| matches!(model.kind, Kind::View)) {
            // In a session of its own: who may read a view need not know what it reads.
            let inner = engine.session();
            for input in &view.inputs {
                register_one(&inner, engine, lake, models, input, pins).await?;
            }
            let doing = format!("cannot plan the view `{name}`");
            let plan = inner
                .state()
                .create_logical_plan(&view.sql)
                .await
                .map_err(|error| engine_error(&doing, error))?;
            let table = ViewTable::new(plan, Some(view.sql.clone()));
            return add(session, name, Arc::new(table));
        }
        let snapshot = match pins.get(name) {
            Some(pinned) => pinned.clone(),
            None => match lake.snapshot(name).await? {
                Some(newest) => newest,
                None => return Err(missing(lake, models, &|_| true, name).await),
            },
        };
        add(session, name, snapshot.provider().await?)?;
        pins.insert(name.clone(), snapshot);
        Ok(())
    })
}

fn add(
    session: &SessionContext,
    name: &TableName,
    table: Arc<dyn datafusion::catalog::TableProvider>,
) -> Result<()> {
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
