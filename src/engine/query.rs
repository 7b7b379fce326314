//! Ad-hoc SQL: one read-only statement over the newest tables, or over older versions named by
//! `table_at('layer.table', version)`. Reaches nothing but the lake's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, plan_err};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Statement as SqlStatement,
    TableFactor, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};

use super::ast::explained;
use super::catalog::{
    Pins, Tables, Unreadable, forget_empty_layers, missing, register, register_listed,
};
use super::cooperate::taking_turns;
use super::doubled::{as_selected, told_apart};
use super::fault::{engine_error, sql_problem};
use super::storable::plain_schema;
use super::veil::{hidden_plan, veiled_failure};
use super::{Engine, coerced, interval_parameters, parsed, planned_statement, read_only, task_of};
use crate::error::{Error, ErrorKind, Result};
use crate::interval::Range;
use crate::lake::{Lake, Snapshot};
use crate::model::ModelSet;
use crate::model::depth::{TOO_DEEP, is_too_deep};
use crate::source::{Position, Source};
use crate::table::{Layer, TableName};

/// Name of the time-travel table function.
const TABLE_AT: &str = "table_at";

/// A planned statement with everything it reads pinned.
pub struct Query {
    session: SessionContext,
    pub plan: LogicalPlan,
    pub pins: Pins,
    /// Older versions that it names.
    travelled: Vec<Snapshot>,
    /// Whether it reads which tables there are.
    pub is_listing: bool,
    /// Of those that it lists, what cannot be read: it is listed without columns.
    pub unreadable: Unreadable,
    /// Whether a view in it reads what whoever asks may not read.
    is_veiled: bool,
}

/// Whose statements are planned, and over what.
pub struct Planner<'a> {
    pub engine: &'a Engine,
    pub lake: &'a Lake,
    pub models: &'a ModelSet,
    /// Every other table does not exist here.
    pub may_read: &'a (dyn Fn(&TableName) -> bool + Send + Sync),
    /// Where a name without a layer is looked for; the session's default schema.
    pub layer: Layer,
}

/// The tables that a statement names.
#[derive(Default)]
struct Named {
    /// With their layer.
    full: BTreeSet<TableName>,
    /// In the layer of names without one; each may also be something else, such as a common table.
    bare: BTreeSet<TableName>,
    /// Whether it asks which tables there are.
    is_listing: bool,
}

impl Planner<'_> {
    /// Plans `source.text` in a session of the engine. Placeholders are left as they are; a `?` is
    /// numbered by its place.
    pub async fn plan(&self, session: SessionContext, source: &Source) -> Result<Query> {
        if is_too_deep(&source.text) {
            let (message, hint) = TOO_DEEP;
            return Err(Error::invalid(message).hint(hint));
        }
        let state = session.state();
        let mut statement =
            parsed(&state, &source.text).map_err(|error| sql_error(source, &error, &[]))?;
        refuse_writes(&statement)?;
        number_placeholders(&mut statement);
        told_apart(&mut statement);
        in_layer(&mut statement, self.layer);
        let travels = travels_of(&statement, self.layer)?;
        let named =
            self.named(&state, &statement).map_err(|error| sql_error(source, &error, &[]))?;
        let listed = if named.is_listing { self.tables().await? } else { BTreeSet::new() };
        let full = named.full.iter();
        for name in full.chain(travels.iter().map(|(name, _)| name)) {
            if !(self.may_read)(name) {
                return Err(missing(self.lake, self.models, self.may_read, name).await);
            }
        }
        let Planner { engine, lake, models, may_read, .. } = *self;
        let tables = Tables { engine, lake, models, may_read };
        let bare = named.bare.iter().filter(|name| may_read(name));
        let names: BTreeSet<TableName> = named.full.iter().chain(bare).cloned().collect();
        let is_veiled = names.iter().any(|name| tables.is_veiled(name));
        let mut pins = register(&session, tables, names, |name| !named.full.contains(name)).await?;
        let unreadable = register_listed(&session, tables, listed.clone(), &mut pins).await?;
        if named.is_listing {
            forget_empty_layers(&session, &listed)?;
        }
        let mut travelled = Vec::new();
        let state = match travels.is_empty() {
            true => state,
            false => {
                travelled = register_travels(&session, self.lake, &travels, self.layer).await?;
                session.state()
            }
        };
        let plan = match planned_statement(&state, statement).await {
            Ok(plan) => plan,
            Err(error) => {
                let known = self.tables().await.unwrap_or_default();
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                return Err(sql_error(source, &error, &known));
            }
        };
        read_only().verify_plan(&plan).map_err(|_| refusal())?;
        refuse_settings(&plan)?;
        let shows_plan = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
        if shows_plan && is_veiled {
            return Err(hidden_plan());
        }
        let is_listing = named.is_listing;
        Ok(Query { session, plan, pins, travelled, is_listing, unreadable, is_veiled })
    }

    /// The tables that a statement names.
    fn named(
        &self,
        state: &SessionState,
        statement: &Statement,
    ) -> datafusion::common::Result<Named> {
        let mut named = Named::default();
        for reference in state.resolve_table_references(statement)? {
            let table = reference.table();
            let (layer, names) = match reference.schema() {
                Some("information_schema") => {
                    named.is_listing = true;
                    continue;
                }
                Some(layer) => (layer, &mut named.full),
                // A bare name may be a function's.
                None if is_table_function(state, table) => continue,
                None => (self.layer.as_str(), &mut named.bare),
            };
            // What is no name of a table is unknown to the planner.
            if let Ok(name) = format!("{layer}.{table}").parse() {
                names.insert(name);
            }
        }
        Ok(named)
    }

    /// Every table that exists here, and views over them.
    pub async fn tables(&self) -> Result<BTreeSet<TableName>> {
        let mut names: BTreeSet<TableName> = self.lake.tables().await?.into_iter().collect();
        for model in self.models.iter_as_read() {
            if model.is_view() && model.inputs.iter().all(|input| names.contains(input)) {
                names.insert(model.name.clone());
            }
        }
        names.retain(|name| (self.may_read)(name));
        Ok(names)
    }
}

fn is_table_function(state: &SessionState, name: &str) -> bool {
    name.eq_ignore_ascii_case(TABLE_AT) || state.table_functions().contains_key(name)
}

/// Statements that describe one table compare its name as it is written; a bare one would be found in
/// all layers.
fn in_layer(statement: &mut Statement, layer: Layer) {
    let Statement::Statement(statement) = statement else { return };
    let name = match statement.as_mut() {
        SqlStatement::ShowColumns { show_options, .. } => {
            show_options.show_in.as_mut().and_then(|place| place.parent_name.as_mut())
        }
        SqlStatement::ShowCreate { obj_name, .. } => Some(obj_name),
        SqlStatement::ExplainTable { table_name, .. } => Some(table_name),
        _ => None,
    };
    if let Some(ObjectName(parts)) = name
        && parts.len() == 1
    {
        parts.insert(0, ObjectNamePart::Identifier(Ident::new(layer.as_str())));
    }
}

/// `?` becomes `$1`, the next one `$2`: the planner would take all of them for one.
fn number_placeholders(statement: &mut Statement) {
    struct Numberer(usize);
    impl VisitorMut for Numberer {
        type Break = ();

        fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
            if let Value::Placeholder(name) = &mut value.value
                && name == "?"
            {
                self.0 += 1;
                *name = format!("${}", self.0);
            }
            ControlFlow::Continue(())
        }
    }
    if let Some(statement) = explained(statement) {
        let _ = VisitMut::visit(statement, &mut Numberer(0));
    }
}

impl Query {
    /// Plans what the user of this machine asks, who may read everything. `range` is bound to
    /// `$start` and `$end`; no other placeholders are allowed.
    pub async fn plan(
        engine: &Engine,
        lake: &Lake,
        models: &ModelSet,
        source: &Source,
        range: Option<Range>,
    ) -> Result<Query> {
        let planner = Planner { engine, lake, models, may_read: &|_| true, layer: Layer::Silver };
        let mut query = planner.plan(engine.session(), source).await?;
        if let Some(range) = range {
            query.plan = query
                .plan
                .with_param_values(interval_parameters(range))
                .map_err(|error| sql_error(source, &error, &[]))?;
        } else if query.plan.get_parameter_names().is_ok_and(|names| !names.is_empty()) {
            return Err(Error::invalid("the statement has placeholders without values")
                .hint("give `--start` and `--end` to bind `$start` and `$end`"));
        }
        Ok(query)
    }

    /// The columns of the rows that the statement's plan, or the same with values bound, gives.
    pub fn schema(&self, plan: &LogicalPlan) -> datafusion::common::Result<SchemaRef> {
        let plan = coerced(&self.session.state(), plan.clone())?;
        Ok(as_selected(&plain_schema(plan.schema().as_arrow())))
    }

    /// How the statement's plan, or the same with values bound, is executed.
    pub async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let failed = |error| engine_error("the query failed", error);
        let plan = self.session.state().create_physical_plan(plan).await.map_err(failed)?;
        taking_turns(plan).map_err(failed)
    }

    /// A failure of [`Self::physical`], or of executing it, as whoever asks may hear it: of a view that
    /// reads what they may not read, its words could name that, or hold its values.
    pub fn told(&self, error: Error) -> Error {
        if self.is_veiled { veiled_failure(&error) } else { error }
    }

    /// What a plan of [`Self::physical`] is executed in: the session's functions, memory and spill
    /// limits.
    pub fn task(&self) -> Arc<TaskContext> {
        task_of(&self.session)
    }

    /// Each version of a table that the statement keeps, by a name of its own, with about how many
    /// bytes it has in memory.
    pub fn pinned(&self) -> Vec<(String, usize)> {
        let all = self.pins.values().chain(&self.travelled);
        all.map(|snapshot| {
            let name = format!("{}@{}", snapshot.id(), snapshot.version());
            (name, snapshot.held_bytes())
        })
        .collect()
    }

    /// The first rows when ordered by all columns.
    pub async fn first_rows(&self, rows_max: usize) -> Result<SendableRecordBatchStream> {
        let failed = |error| engine_error("the query failed", error);
        let frame = self.session.execute_logical_plan(self.plan.clone()).await.map_err(failed)?;
        let columns = frame.schema().columns();
        let order = columns.into_iter().map(|column| Expr::Column(column).sort(true, false));
        frame
            .sort(order.collect())
            .and_then(|frame| frame.limit(0, Some(rows_max)))
            .map_err(failed)?
            .execute_stream()
            .await
            .map_err(failed)
    }

    /// Starts the statement; rows arrive as they are made.
    pub async fn stream(&self) -> Result<SendableRecordBatchStream> {
        let plan = self.physical(&self.plan).await?;
        execute_stream(plan, self.task()).map_err(|error| engine_error("the query failed", error))
    }
}

/// Why a statement that is not a query is refused; the same words on every path.
pub fn refusal() -> Error {
    Error::invalid("only queries are allowed: SELECT, WITH, VALUES, SHOW, DESCRIBE and EXPLAIN")
        .hint("tables are written by `flowguard run` and `flowguard ingest`")
}

fn refuse_writes(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            SqlStatement::Query(_)
            | SqlStatement::ShowTables { .. }
            | SqlStatement::ShowColumns { .. }
            | SqlStatement::ShowCreate { .. }
            | SqlStatement::ShowFunctions { .. }
            | SqlStatement::ExplainTable { .. } => Ok(()),
            SqlStatement::Explain { statement, .. } => {
                refuse_writes(&Statement::Statement(statement.clone()))
            }
            _ => Err(refusal()),
        },
        Statement::Explain(explain) => refuse_writes(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => {
            Err(refusal())
        }
    }
}

/// The engine's settings name folders of this machine.
fn refuse_settings(plan: &LogicalPlan) -> Result<()> {
    let mut reads_settings = false;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let name = &scan.table_name;
            // The engine finds the table in any case.
            reads_settings |= name.schema() == Some("information_schema")
                && name.table().eq_ignore_ascii_case("df_settings");
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(|error| engine_error("reading the plan", error))?;
    if reads_settings {
        return Err(Error::invalid("the engine's settings cannot be queried")
            .hint("those that can be changed stand in docs/configuration.md"));
    }
    Ok(())
}

/// A planning error at its place in the text. `source`'s text may begin anywhere in a file of the user; here it is the whole text.
pub fn sql_error(source: &Source, error: &DataFusionError, tables: &[String]) -> Error {
    let problem = sql_problem(error, tables);
    let position = match problem.span {
        Some(span) => Position { line: span.line, column: span.column, width: span.width },
        // The parser knows every place but the end.
        None if matches!(error.find_root(), DataFusionError::SQL(..)) => end_of(&source.text),
        None => Position { line: 1, column: 1, width: 1 },
    };
    let diagnostic = source.diagnostic(position, problem.message, problem.hint);
    Error::diagnosed("the query is not valid", vec![diagnostic])
}

fn end_of(text: &str) -> Position {
    let text = text.trim_end();
    let last = text.lines().last().unwrap_or_default();
    Position { line: text.lines().count().max(1), column: last.chars().count() + 1, width: 1 }
}

type Travels = BTreeSet<(TableName, u64)>;

/// Every `table_at('layer.table', version)` in the statement.
fn travels_of(statement: &Statement, layer: Layer) -> Result<Travels> {
    struct Finder {
        found: Travels,
        layer: Layer,
    }
    impl Visitor for Finder {
        type Break = Error;

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
            if let TableFactor::Table { name, args: Some(arguments), .. } = factor
                && name.to_string().eq_ignore_ascii_case(TABLE_AT)
            {
                match travel_of(&arguments.args, self.layer) {
                    Ok(travel) => drop(self.found.insert(travel)),
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut finder = Finder { found: Travels::new(), layer };
    let flow = match statement {
        Statement::Statement(statement) => statement.visit(&mut finder),
        Statement::Explain(explain) => return travels_of(&explain.statement, layer),
        _ => ControlFlow::Continue(()),
    };
    match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(finder.found),
    }
}

fn travel_of(arguments: &[FunctionArg], layer: Layer) -> Result<(TableName, u64)> {
    let literal = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(
            datafusion::sql::sqlparser::ast::Expr::Value(value),
        )) => Some(value.value.clone()),
        _ => None,
    };
    let values: Vec<Option<Value>> = arguments.iter().map(literal).collect();
    match values.as_slice() {
        [Some(Value::SingleQuotedString(name)), Some(Value::Number(version, _))] => {
            let version = version.parse().map_err(|_| usage())?;
            Ok((table_named(name, layer)?, version))
        }
        _ => Err(usage()),
    }
}

fn usage() -> Error {
    Error::invalid(format!("`{TABLE_AT}` takes a table name and a version"))
        .hint("write table_at('silver.orders_cleaned', 42)")
}

/// `name` with its layer, or else in `layer`.
fn table_named(name: &str, layer: Layer) -> Result<TableName> {
    if name.contains('.') { name.parse() } else { TableName::new(layer, name) }
}

#[derive(Debug)]
struct TableAt {
    tables: BTreeMap<(TableName, u64), Arc<dyn TableProvider>>,
    layer: Layer,
}

impl TableFunctionImpl for TableAt {
    fn call_with_args(
        &self,
        arguments: TableFunctionArgs,
    ) -> datafusion::common::Result<Arc<dyn TableProvider>> {
        if let [Expr::Literal(ScalarValue::Utf8(Some(name)), _), Expr::Literal(version, _)] =
            arguments.exprs()
            && let ScalarValue::Int64(Some(version)) =
                version.cast_to(&arrow::datatypes::DataType::Int64)?
            && let Ok(version) = u64::try_from(version)
            && let Ok(name) = table_named(name, self.layer)
            && let Some(table) = self.tables.get(&(name, version))
        {
            return Ok(Arc::clone(table));
        }
        plan_err!("{}", usage().message)
    }
}

async fn register_travels(
    session: &SessionContext,
    lake: &Lake,
    travels: &Travels,
    layer: Layer,
) -> Result<Vec<Snapshot>> {
    let (mut tables, mut travelled) = (BTreeMap::new(), Vec::new());
    for (name, version) in travels {
        if lake.snapshot(name).await?.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no table `{name}` in the lake"),
            ));
        }
        let snapshot: Snapshot = lake.snapshot_at(name, *version).await?;
        tables.insert((name.clone(), *version), snapshot.provider().await?);
        travelled.push(snapshot);
    }
    session.register_udtf(TABLE_AT, Arc::new(TableAt { tables, layer }));
    Ok(travelled)
}
