//! Plans every model against the declared and derived schemas of the others, without a broker and
//! without a lake, and reports everything that does not fit. Executes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;
use xxhash_rust::xxh3::xxh3_128;

use crate::engine::catalog::reference;
use crate::engine::fault::sql_problem;
use crate::engine::interval::{is_bound, separates, unbound};
use crate::engine::storable::storable_type;
use crate::engine::{Engine, coerced, interval_parameters, planned, read_only};
use crate::error::{Diagnostic, Error, ErrorKind, Result, did_you_mean};
use crate::ingest::batch::dead_letters_spec;
use crate::ingest::decode;
use crate::interval::{Every, Instant, Range};
use crate::lake::spec::{DAY_COLUMN, TableSpec};
use crate::model::{LeftOut, Model, ModelSet};
use crate::source::Position;
use crate::table::TableName;

/// What planning says about every model.
pub struct Typed {
    models: BTreeMap<TableName, TypedModel>,
    /// Why models that were not planned are left out.
    left_out: BTreeMap<TableName, LeftOut>,
}

/// What planning says about one model.
#[derive(Clone)]
pub struct TypedModel {
    /// As it was planned.
    pub model: Arc<Model>,
    pub spec: TableSpec,
    /// Hash of the resolved logical plan and of what places its rows in time.
    pub fingerprint: String,
    /// How several intervals are built; of no meaning for a model without them.
    pub intervals: Intervals,
}

/// How several intervals of a model are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intervals {
    /// By one execution of the query, which provably gives the rows of each.
    Together,
    /// By an execution for each.
    OneByOne { because: String },
}

impl Typed {
    pub fn get(&self, name: &TableName) -> Option<&TypedModel> {
        self.models.get(name)
    }

    /// Fails with the problems of a model that is left out.
    pub fn find(&self, name: &TableName) -> Result<&TypedModel> {
        self.models.get(name).ok_or_else(|| match self.left_out.get(name) {
            Some(left_out) => left_out.error(name),
            None => Error::new(ErrorKind::NotFound, format!("no model `{name}`")),
        })
    }

    /// With what `before` says of models that are left out here.
    #[must_use]
    pub fn keeping(mut self, before: &Typed) -> Typed {
        for name in self.left_out.keys() {
            if let Some(typed) = before.models.get(name) {
                self.models.insert(name.clone(), typed.clone());
            }
        }
        self
    }
}

/// Plans all models in dependency order. Fails with every diagnostic of every model.
pub async fn typecheck(engine: &Engine, models: &ModelSet) -> Result<Typed> {
    let (typed, problems) = plan_all(engine, models).await?;
    let mut diagnostics: Vec<Diagnostic> = problems.into_values().flatten().collect();
    if diagnostics.is_empty() {
        return Ok(typed);
    }
    diagnostics.sort();
    Err(Error::diagnosed("the models do not check", diagnostics))
}

/// The models that can be planned, and what planning says about them; the others are left out.
pub async fn usable(engine: &Engine, models: &ModelSet) -> Result<(ModelSet, Typed)> {
    let (mut typed, problems) = plan_all(engine, models).await?;
    let models = models.clone().without(problems);
    typed.left_out.clone_from(models.left_out());
    Ok((models, typed))
}

/// What planning says, and what is wrong with which models. A model whose input failed is not
/// planned, so that one mistake is reported once.
async fn plan_all(
    engine: &Engine,
    models: &ModelSet,
) -> Result<(Typed, BTreeMap<TableName, Vec<Diagnostic>>)> {
    let session = engine.session();
    let dead_letters = dead_letters_spec();
    register(&session, &dead_letters.name, &dead_letters.schema())?;
    let mut typed = BTreeMap::new();
    let mut problems = BTreeMap::new();
    let tables: Vec<String> = models
        .iter()
        .map(|model| model.name.to_string())
        .chain([dead_letters.name.to_string()])
        .collect();
    for model in models.in_order() {
        let usable = |input: &TableName| *input == dead_letters.name || typed.contains_key(input);
        if model.topic().is_none() && !model.inputs.iter().all(usable) {
            continue;
        }
        match type_one(&session, model, &tables).await {
            Ok(found) => {
                register(&session, &model.name, &found.spec.schema())?;
                typed.insert(model.name.clone(), found);
            }
            Err(found) => drop(problems.insert(model.name.clone(), found)),
        }
    }
    Ok((Typed { models: typed, left_out: BTreeMap::new() }, problems))
}

fn register(session: &SessionContext, name: &TableName, schema: &SchemaRef) -> Result<()> {
    session
        .register_table(reference(name), Arc::new(EmptyTable::new(Arc::clone(schema))))
        .map(drop)
        .map_err(|error| Error::internal(format!("cannot register `{name}`")).source(error))
}

type Found<T> = std::result::Result<T, Vec<Diagnostic>>;

async fn type_one(session: &SessionContext, model: &Model, tables: &[String]) -> Found<TypedModel> {
    let (columns, fingerprint, intervals) = match model.topic() {
        Some(topic) => {
            let declared: Vec<_> = model.columns.iter().map(|(column, _)| column.clone()).collect();
            let schema = decode::schema_of(&declared, topic.unknown_fields);
            let fingerprint = hash_text(&format!("{schema:?}"));
            (schema, fingerprint, Intervals::Together)
        }
        None => {
            let (plan, intervals) = plan(session, model, tables).await?;
            let every = model.every().map(|every| every.to_string());
            let time = model.time.as_ref().map(|time| &time.value);
            let query = plan.display_indent_schema();
            let fingerprint = hash_text(&format!("{query}\n{} {every:?} {time:?}", model.timezone));
            let schema = stored_schema(model, &plan)?;
            (schema, fingerprint, intervals)
        }
    };
    check_named_columns(model, &columns)?;
    let spec = TableSpec {
        name: model.name.clone(),
        columns,
        time: model.time.as_ref().map(|time| time.value.clone()),
        partition_by_day: model.partition_by_day,
        timezone: model.timezone,
        key: model.key.iter().map(|key| key.value.clone()).collect(),
        doc: model.doc.clone(),
        shape: model.shape(),
    };
    Ok(TypedModel { model: Arc::new(model.clone()), spec, fingerprint, intervals })
}

fn hash_text(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

async fn plan(
    session: &SessionContext,
    model: &Model,
    tables: &[String],
) -> Found<(LogicalPlan, Intervals)> {
    let fail = |error: &datafusion::common::DataFusionError| {
        let problem = sql_problem(error, tables);
        let position = match problem.span {
            Some(span) => model.sql_position(span.line, span.column, span.width),
            None => model.sql_position(1, 1, 1),
        };
        vec![model.diagnostic(position, problem.message, problem.hint)]
    };
    let state = session.state();
    let plan = planned(&state, &model.sql).await.map_err(|error| fail(&error))?;
    read_only().verify_plan(&plan).map_err(|error| fail(&error))?;
    check_functions(model, &plan)?;
    let example = Range { start: Instant(0), end: Instant(1) };
    let bound = plan.clone().with_param_values(interval_parameters(example));
    let bound = bound.and_then(|plan| coerced(&state, plan)).map_err(|error| fail(&error))?;
    let intervals = match (model.every(), &model.time) {
        (Some(every), Some(time)) => {
            let plan = unbound(&state, plan).map_err(|error| fail(&error))?;
            if !is_bound(&plan) {
                let message = "nothing says which rows of the inputs belong to an interval";
                let hint = "compare a column with them: WHERE at >= $start AND at < $end";
                let start = model.sql_position(1, 1, 1);
                return Err(vec![model.diagnostic(start, message, Some(hint.to_owned()))]);
            }
            match separates(&plan, &time.value, every, model.timezone) {
                Ok(()) => Intervals::Together,
                Err(because) => Intervals::OneByOne { because },
            }
        }
        _ => Intervals::Together,
    };
    Ok((bound, intervals))
}

/// The same inputs must give the same rows: functions that give something else each time, or at another
/// time, are refused wherever they stand.
fn check_functions(model: &Model, plan: &LogicalPlan) -> Found<()> {
    let mut names = BTreeSet::new();
    let looked = plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(function) = expr
                    && function.func.signature().volatility != Volatility::Immutable
                {
                    names.insert(function.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    looked.map_err(|error| {
        vec![model.diagnostic(model.sql_position(1, 1, 1), error.to_string(), None)]
    })?;
    let found: Vec<Diagnostic> = names
        .into_iter()
        .map(|name| {
            let message = format!("`{name}` makes the result depend on when it runs");
            let hint = "derive it from the inputs' columns, `$start` or `$end`".to_owned();
            model.diagnostic(place_of(&name, model), message, Some(hint))
        })
        .collect();
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Where a function is called by that name, or the beginning.
fn place_of(function: &str, model: &Model) -> Position {
    let calls = |line: &str| {
        let line = line.to_ascii_lowercase();
        let at = line.match_indices(function).find(|(at, _)| {
            let rest = line[at + function.len()..].trim_start();
            let before = line[..*at].chars().next_back();
            rest.starts_with('(') && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        });
        at.map(|(at, _)| line[..at].chars().count() + 1)
    };
    let mut lines = model.sql.lines().enumerate();
    let found = lines.find_map(|(line, text)| Some((line + 1, calls(text)?)));
    let (line, column) = found.unwrap_or((1, 1));
    model.sql_position(line, column, function.chars().count())
}

/// The columns of the plan as the table will hold them, checked against declared types.
fn stored_schema(model: &Model, plan: &LogicalPlan) -> Found<SchemaRef> {
    let mut found = Vec::new();
    let start = model.sql_position(1, 1, 1);
    let mut fields: Vec<Field> = Vec::new();
    for field in plan.schema().fields() {
        let name = field.name();
        let declared = model.columns.iter().find(|(column, _)| column.name == *name);
        let position = declared.map_or(start, |(_, position)| *position);
        if name.starts_with('_') && !model.is_view() {
            let hint = format!("give it an alias, such as `{}`", name.trim_start_matches('_'));
            let message = format!("column `{name}` begins with `_`, which is reserved");
            found.push(model.diagnostic(position, message, Some(hint)));
        }
        if fields.iter().any(|other| other.name() == name) {
            let message = format!("two columns are named `{name}`");
            found.push(model.diagnostic(position, message, Some("give one an alias".into())));
        }
        match storable_type(field.data_type()) {
            Ok(stored) => {
                let not_null = declared.is_some_and(|(column, _)| column.not_null);
                if let Some((column, position)) = declared {
                    let wanted = decode::arrow_type(column.column_type);
                    if wanted != stored {
                        let message = format!(
                            "column `{name}` is declared {} but the query gives {stored}",
                            column.column_type
                        );
                        let hint = "correct the type, or CAST in the query".to_owned();
                        found.push(model.diagnostic(*position, message, Some(hint)));
                    }
                }
                fields.push(Field::new(name, stored, !not_null));
            }
            Err(why) => {
                let message = format!("column `{name}` {why}");
                found.push(model.diagnostic(position, message, None));
            }
        }
    }
    for (column, position) in &model.columns {
        if plan.schema().fields().iter().all(|field| field.name() != &column.name) {
            let names = plan.schema().fields().iter().map(|field| field.name().as_str());
            let hint =
                did_you_mean(&column.name, names).map(|name| format!("did you mean `{name}`?"));
            let message =
                format!("column `{}` is declared but the query does not give it", column.name);
            found.push(model.diagnostic(*position, message, hint));
        }
    }
    if found.is_empty() { Ok(Arc::new(Schema::new(fields))) } else { Err(found) }
}

/// `time` and `key` must name columns that exist, and `time` must be an instant or a date.
fn check_named_columns(model: &Model, columns: &Schema) -> Found<()> {
    use arrow::datatypes::DataType;
    let mut found = Vec::new();
    for named in model.time.iter().chain(&model.key) {
        if columns.field_with_name(&named.value).is_err() {
            let names = columns.fields().iter().map(|field| field.name().as_str());
            let hint =
                did_you_mean(&named.value, names).map(|name| format!("did you mean `{name}`?"));
            let message = format!("unknown column `{}`", named.value);
            found.push(model.diagnostic(named.position, message, hint));
        }
    }
    if let Some(time) = &model.time
        && let Ok(field) = columns.field_with_name(&time.value)
        && !matches!(field.data_type(), DataType::Timestamp(_, Some(_)) | DataType::Date32)
    {
        let message =
            format!("`{}` is {} and cannot place rows in time", time.value, field.data_type());
        found.push(model.diagnostic(
            time.position,
            message,
            Some("use a timestamp or date column".into()),
        ));
    }
    if let (Some(time), Some(Every::Hours(_))) = (&model.time, model.every())
        && let Ok(field) = columns.field_with_name(&time.value)
        && *field.data_type() == DataType::Date32
    {
        let message = format!("`{}` has days, and cannot place rows in hours", time.value);
        let hint = "use a timestamp column, or `every: 1d`".to_owned();
        found.push(model.diagnostic(time.position, message, Some(hint)));
    }
    if columns.field_with_name(DAY_COLUMN).is_ok() && !model.is_view() {
        let message = format!("the column name `{DAY_COLUMN}` is reserved");
        found.push(model.diagnostic(model.sql_position(1, 1, 1), message, None));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::source::printed;

    #[tokio::test]
    async fn a_model_named_before_its_input_was_never_checked() {
        let project = tempfile::tempdir().unwrap();
        let silver = project.path().join("sql/silver");
        std::fs::create_dir_all(&silver).unwrap();
        let header = "-- /// flowguard\n-- kind: full\n-- ///\n";
        for (name, sql) in [
            ("a", "SELECT reasn FROM silver.b\n"),
            ("b", "SELECT reason FROM bronze.dead_letters\n"),
        ] {
            std::fs::write(silver.join(format!("{name}.sql")), format!("{header}{sql}")).unwrap();
        }
        let engine =
            Engine::new(&EngineOptions { memory_bytes_max: 1 << 26, spill_dir: None, threads: 1 })
                .unwrap();
        let models = ModelSet::read(project.path()).unwrap();
        let error = typecheck(&engine, &models).await.err().unwrap();
        assert_eq!(
            printed(&error.diagnostics),
            "sql/silver/a.sql:4:8: unknown column `reasn`\n    SELECT reasn FROM silver.b\n           ^^^^^\n    hint: did you mean `reason`?"
        );
    }
}
