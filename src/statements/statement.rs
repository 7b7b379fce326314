//! One planned statement: what it needs, what it gives, and its streams. It sees the table versions
//! that its planning pinned, however often and in whatever parts it is streamed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, TryCast};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::scalar::ScalarValue;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::rows::{Bounds, Rows, Running, Spent, cancelled};
use super::{Statements, Terms, Unplanned};
use crate::access::Principal;
use crate::engine::interval_parameters;
use crate::engine::query::{Query, sql_error};
use crate::engine::storable::plain_schema;
use crate::error::{Error, Result};
use crate::interval::Range;
use crate::source::Source;

/// Rows of parameters that one statement is run for, one after the other.
const PARAMETER_ROWS_MAX: usize = 1_000;

/// A value the statement waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// `1` for `$1` and the first `?`, `name` for `$name`.
    pub name: String,
    /// `None` where the statement takes any.
    pub data_type: Option<DataType>,
}

/// A statement planned for one user. Cheap to clone.
#[derive(Clone)]
pub struct Statement(Arc<Inner>);

struct Inner {
    statements: Statements,
    principal: Arc<Principal>,
    source: Source,
    terms: Terms,
    query: Arc<Query>,
    /// The plan once for each row of parameters.
    plans: Vec<LogicalPlan>,
    parameters: Vec<Parameter>,
    schema: SchemaRef,
    physical: OnceCell<Physical>,
    stop: CancellationToken,
    /// The run that the statement's open streams belong to.
    running: Mutex<Weak<Running>>,
    /// Held by the stream that waits for a place, which is then the place of all.
    entering: tokio::sync::Mutex<()>,
    spent: Arc<Spent>,
}

/// How a statement is executed, and in how many parts that know nothing of each other.
struct Physical {
    parts: usize,
    /// Of several parts all streams share it: a scan keeps nothing between executions. Of one part
    /// the first stream takes it, and others plan anew: a join, say, keeps its tables.
    plan: Mutex<Option<Arc<dyn ExecutionPlan>>>,
}

impl Physical {
    fn new(parts: usize, plan: Arc<dyn ExecutionPlan>) -> Self {
        Self { parts, plan: Mutex::new(Some(plan)) }
    }

    fn plan(&self) -> Option<Arc<dyn ExecutionPlan>> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if self.parts > 1 { plan.clone() } else { plan.take() }
    }
}

impl Statement {
    /// Binds `range` to `$start` and `$end`. Errors of the SQL name their place in `source`.
    pub(super) async fn new(
        statements: Statements,
        principal: Arc<Principal>,
        source: Source,
        terms: Terms,
        range: Range,
        query: Query,
    ) -> Result<Self> {
        let plan = bind_range(&source, query.plan.clone(), range)?;
        let parameters = parameters_of(&source, &plan)?;
        let schema = match query.schema(&plan) {
            Ok(schema) => schema,
            // The values decide more than is known yet; `bind` looks again.
            Err(_) if !parameters.is_empty() => plain_schema(plan.schema().as_arrow()),
            Err(error) => return Err(sql_error(&source, &error, &[])),
        };
        Ok(Self(Arc::new(Inner {
            statements,
            principal,
            source,
            terms,
            query: Arc::new(query),
            plans: vec![plan],
            parameters,
            schema,
            physical: OnceCell::new(),
            stop: CancellationToken::new(),
            running: Mutex::default(),
            entering: tokio::sync::Mutex::default(),
            spent: Arc::default(),
        })))
    }

    /// The schema of every batch of every stream, to the nullability.
    pub fn schema(&self) -> &SchemaRef {
        &self.0.schema
    }

    /// What must be bound before the statement can run, positions before names.
    pub fn parameters(&self) -> &[Parameter] {
        &self.0.parameters
    }

    /// Whose rights it was planned under.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.0.principal
    }

    /// As its user wrote it.
    pub fn sql(&self) -> &str {
        &self.0.source.text
    }

    /// Each version of a table that the statement keeps in memory, and about how many bytes it has
    /// there; statements that read the same version share it.
    pub fn pinned(&self) -> Vec<(String, usize)> {
        self.0.query.pinned()
    }

    /// About what the statement itself holds in memory while it waits, in bytes.
    pub fn held_bytes(&self) -> usize {
        // A plan node and a column weigh some hundred bytes; the text bounds their number.
        16_384 + 64 * self.0.source.text.len() * self.0.plans.len()
    }

    /// The same statement with values for all parameters, by name where every column of `values`
    /// has one's name, or else by position; run once for each row.
    pub fn bind(&self, values: &RecordBatch) -> Result<Self> {
        let inner = &self.0;
        if values.num_columns() != inner.parameters.len() {
            return Err(Error::invalid(format!(
                "the statement has {} parameters, and {} values came",
                inner.parameters.len(),
                values.num_columns()
            )));
        }
        if values.num_rows() == 0 || values.num_rows() > PARAMETER_ROWS_MAX {
            return Err(Error::invalid(format!(
                "a statement takes 1 to {PARAMETER_ROWS_MAX} rows of parameters, and {} came",
                values.num_rows()
            )));
        }
        let columns = self.columns_of(values.schema_ref());
        let template = inner.plans.first().ok_or_else(|| Error::internal("no plan"))?;
        let failed = |error| sql_error(&inner.source, &error, &[]);
        let mut plans = Vec::with_capacity(values.num_rows());
        let mut schema: Option<SchemaRef> = None;
        for row in 0..values.num_rows() {
            let mut bound = HashMap::new();
            for (parameter, column) in inner.parameters.iter().zip(&columns) {
                let value =
                    ScalarValue::try_from_array(values.column(*column), row).map_err(|source| {
                        Error::invalid("a parameter has no such type").source(source)
                    })?;
                bound.insert(parameter.name.clone(), ScalarAndMetadata::from(plain(value)));
            }
            let plan = template.clone().with_param_values(ParamValues::Map(bound));
            let plan = plan.map_err(failed)?;
            let one = inner.query.schema(&plan).map_err(failed)?;
            schema = Some(schema.map_or(Ok(Arc::clone(&one)), |all| common(&all, &one))?);
            plans.push(plan);
        }
        let schema = schema.unwrap_or_else(|| Arc::clone(&inner.schema));
        Ok(self.with_plans(plans, Vec::new(), schema))
    }

    /// The same statement to be run on its own: cancelling one leaves the other.
    #[must_use]
    pub fn again(&self) -> Self {
        let inner = &self.0;
        self.with_plans(inner.plans.clone(), inner.parameters.clone(), Arc::clone(&inner.schema))
    }

    fn with_plans(
        &self,
        plans: Vec<LogicalPlan>,
        parameters: Vec<Parameter>,
        schema: SchemaRef,
    ) -> Self {
        let inner = &self.0;
        Self(Arc::new(Inner {
            statements: inner.statements.clone(),
            principal: Arc::clone(&inner.principal),
            source: inner.source.clone(),
            terms: inner.terms.clone(),
            query: Arc::clone(&inner.query),
            plans,
            parameters,
            schema,
            physical: OnceCell::new(),
            stop: inner.stop.child_token(),
            running: Mutex::default(),
            entering: tokio::sync::Mutex::default(),
            spent: Arc::default(),
        }))
    }

    /// Whether planning it now would pin the same versions of the same tables.
    pub async fn is_current(&self) -> Result<bool> {
        let query = &self.0.query;
        for (name, pinned) in &query.pins {
            let newest = self.0.statements.shared.lake.snapshot(name).await?;
            let is_same = newest.is_some_and(|newest| {
                newest.version() == pinned.version() && newest.id() == pinned.id()
            });
            if !is_same {
                return Ok(false);
            }
        }
        Ok(!query.is_listing)
    }

    /// For each parameter the column that holds it.
    fn columns_of(&self, schema: &Schema) -> Vec<usize> {
        let parameters = &self.0.parameters;
        let bare = |name: &str| name.trim_start_matches(['$', ':', '@']).to_owned();
        let by_name: Option<Vec<usize>> = parameters
            .iter()
            .map(|parameter| {
                schema.fields().iter().position(|field| bare(field.name()) == parameter.name)
            })
            .collect();
        by_name.unwrap_or_else(|| (0..parameters.len()).collect())
    }

    /// In how many parts the result can be streamed; each part is streamed by itself, in any order
    /// and as often as wanted.
    pub async fn parts(&self) -> Result<usize> {
        Ok(self.physical().await?.parts)
    }

    async fn physical(&self) -> Result<&Physical> {
        let inner = &self.0;
        if let Some(parameter) = inner.parameters.first() {
            return Err(Error::invalid(format!("no value for `${}`", parameter.name))
                .hint("bind all parameters before running the statement"));
        }
        let plan = async {
            let plan = self.planned(0).await?;
            let parts = plan.output_partitioning().partition_count();
            if inner.plans.len() == 1 && parts > 1 && is_separable(&plan) {
                return Ok(Physical::new(parts, plan));
            }
            Ok(Physical::new(1, whole(plan)))
        };
        inner.physical.get_or_try_init(|| plan).await
    }

    /// How it is executed for one row of parameters.
    async fn planned(&self, row: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let statements = &self.0.statements;
        let (run_max, inner) = (statements.run_max(&self.0.terms), Arc::clone(&self.0));
        let mut unplanned = Unplanned::new(statements, &self.0.principal, self.sql());
        let plan = async move { Ok(inner.query.physical(&inner.plans[row]).await) };
        let planned = statements.shared.planning.run(&self.0.principal.user, run_max, plan).await;
        let planned = planned.inspect_err(|error| unplanned.error = Some(error.message.clone()))?;
        unplanned.end(&planned);
        planned.map_err(|error| self.0.query.told(error))
    }

    /// Starts streaming one part. Waits for a place among the running statements.
    pub async fn stream(&self, part: usize) -> Result<Rows> {
        let physical = self.physical().await?;
        if part >= physical.parts {
            return Err(Error::invalid(format!("the result has {} parts", physical.parts)));
        }
        let running = self.running().await?;
        let mut plans: Vec<_> = physical.plan().into_iter().collect();
        for row in plans.len()..self.0.plans.len() {
            plans.push(whole(self.planned(row).await?));
        }
        let query = Arc::clone(&self.0.query);
        Ok(Rows::start(running, plans, part, &self.0.schema, query))
    }

    async fn running(&self) -> Result<Arc<Running>> {
        if self.0.stop.is_cancelled() {
            return Err(cancelled());
        }
        if let Some(running) = self.lock_running().upgrade() {
            return Ok(running);
        }
        let shared = &self.0.statements.shared;
        // Streams of one statement must not wait for each other's places, nor longer than one does.
        let alone = async {
            let alone = tokio::time::timeout(shared.admission.wait_max(), self.0.entering.lock());
            alone.await.map_err(|_| shared.admission.waited())
        };
        let _alone = tokio::select! {
            alone = alone => alone?,
            () = self.0.stop.cancelled() => return Err(cancelled()),
        };
        if let Some(first) = self.lock_running().upgrade() {
            return Ok(first);
        }
        let permit = tokio::select! {
            permit = shared.admission.enter(&self.0.principal.user) => permit?,
            () = self.0.stop.cancelled() => return Err(cancelled()),
        };
        let limits = &shared.limits;
        let terms = &self.0.terms;
        let mut running = self.lock_running();
        let started = Arc::new(Running::new(
            self.0.statements.clone(),
            Arc::clone(&self.0.principal),
            self.0.source.text.clone(),
            permit,
            Bounds {
                rows_max: terms.rows_max.unwrap_or(u64::MAX).min(limits.rows_max),
                run_max: self.0.statements.run_max(terms),
                unread_max: limits.unread_max,
                spent: Arc::clone(&self.0.spent),
            },
            self.0.stop.clone(),
        ));
        *running = Arc::downgrade(&started);
        Ok(started)
    }

    fn lock_running(&self) -> std::sync::MutexGuard<'_, Weak<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all streams of the statement with an error; says whether any was open.
    pub fn cancel(&self) -> bool {
        let was_running = self.lock_running().upgrade().is_some();
        self.0.stop.cancel();
        was_running
    }
}

/// `$start` and `$end` are bound by the session, every other placeholder by the asker.
fn bind_range(source: &Source, plan: LogicalPlan, range: Range) -> Result<LogicalPlan> {
    let names = plan.get_parameter_names().map_err(|error| sql_error(source, &error, &[]))?;
    if !names.contains("$start") && !names.contains("$end") {
        return Ok(plan);
    }
    let ParamValues::Map(mut values) = interval_parameters(range) else {
        return Err(Error::internal("the interval has no names"));
    };
    values.retain(|name, _| names.contains(&format!("${name}")));
    if values.len() == names.len() {
        let bound = plan.with_param_values(ParamValues::Map(values));
        return bound.map_err(|error| sql_error(source, &error, &[]));
    }
    Err(Error::invalid("`$start` and `$end` cannot stand beside other parameters")
        .hint("write the instants as parameters too"))
}

/// The schema that rows of both have: a value that is null in one may be in none of the others, and
/// only a literal is known not to be.
fn common(one: &Schema, other: &Schema) -> Result<SchemaRef> {
    let fields = one.fields().iter().zip(other.fields()).map(|(field, other)| {
        if field.data_type() != other.data_type() {
            let message = format!(
                "column `{}` is {} for one row of parameters and {} for another",
                field.name(),
                field.data_type(),
                other.data_type()
            );
            return Err(Error::invalid(message).hint("CAST it in the statement"));
        }
        let nullable = field.is_nullable() || other.is_nullable();
        Ok(field.as_ref().clone().with_nullable(nullable))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

fn parameters_of(source: &Source, plan: &LogicalPlan) -> Result<Vec<Parameter>> {
    let found = placeholders_of(plan).map_err(|error| sql_error(source, &error, &[]))?;
    let mut parameters: Vec<Parameter> = found
        .into_iter()
        .map(|(id, types)| Parameter {
            name: id.trim_start_matches('$').to_owned(),
            // Where its places want different types, the value decides.
            data_type: <[DataType; 1]>::try_from(types).ok().map(|[data_type]| data_type),
        })
        .collect();
    parameters.sort_by_cached_key(|parameter| {
        let position = parameter.name.parse::<usize>();
        // Names in the order of the text.
        let place = source.text.find(&format!("${}", parameter.name)).unwrap_or(usize::MAX);
        (position.unwrap_or(usize::MAX), place)
    });
    Ok(parameters)
}

/// Every placeholder, and the types its places want.
fn placeholders_of(
    plan: &LogicalPlan,
) -> datafusion::common::Result<BTreeMap<String, Vec<DataType>>> {
    let mut found: BTreeMap<String, Vec<DataType>> = BTreeMap::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                let (placeholder, field) = match expression {
                    Expr::Placeholder(placeholder) => (placeholder, placeholder.field.as_ref()),
                    // The planner leaves what is cast untyped.
                    Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                        match expr.as_ref() {
                            Expr::Placeholder(inner) => {
                                (inner, inner.field.as_ref().or(Some(field)))
                            }
                            _ => return Ok(TreeNodeRecursion::Continue),
                        }
                    }
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                let types = found.entry(placeholder.id.clone()).or_default();
                if let Some(wanted) = field.map(|field| field.data_type())
                    && !wanted.is_null()
                    && !types.contains(wanted)
                {
                    types.push(wanted.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// Dictionaries and run-ends of a client's own making as the values they stand for.
fn plain(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Dictionary(_, value) => *value,
        other => other,
    }
}

/// Whether partition `i` of the output needs partition `i` of one scan and nothing else.
fn is_separable(plan: &Arc<dyn ExecutionPlan>) -> bool {
    const SEPARABLE: [&str; 7] = [
        "DataSourceExec",
        "FilterExec",
        "ProjectionExec",
        "CoalesceBatchesExec",
        "CooperativeExec",
        "DeltaScan",
        "DeltaScanExec",
    ];
    let children = plan.children();
    SEPARABLE.contains(&plan.name())
        && children.len() <= 1
        && children.iter().all(|child| {
            child.output_partitioning().partition_count()
                == plan.output_partitioning().partition_count()
                && is_separable(child)
        })
}

fn whole(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.output_partitioning().partition_count() {
        1 => plan,
        _ => Arc::new(CoalescePartitionsExec::new(plan)),
    }
}
