//! What DataFusion 55.2 answers wrongly, made right: rules and functions that replace its own, each
//! with the issue of theirs, and its settings that decide values. Once an issue is closed and the
//! version raised, its file can go; the tests of `it::right_answers` say whether too early.

mod arithmetic;
mod bare_names;
mod cast_marks;
mod cast_names;
mod concatenation;
mod constants;
mod correlated;
mod distinct;
mod durations;
mod empty_scalar;
mod epochs;
mod exceptions;
mod extremes;
mod far_times;
mod filter_projection;
mod floats;
mod folded_totals;
mod group_limit;
mod itself;
mod join_keys;
mod lists;
mod local_time;
mod long_constants;
mod misuse;
mod nan;
mod null_safe;
mod offset;
mod pushdown;
mod refusal;
mod rewrites;
mod round;
mod series;
mod set_operation;
mod shift;
mod statistics;
mod subquery;
mod sum;
mod syntax;
mod types;
mod union_names;
mod using;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::Dialect;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::optimizer::optimizer::Optimizer;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::aggregate_statistics::AggregateStatistics;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;

use self::bare_names::BareNames;
pub use self::rewrites::renamed;
use self::rewrites::{Expressions, Nodes};
use super::ast::explained;
use super::bounded_planner::BoundedPlanner;
use super::data_files::NameDataFiles;
use super::growth::bounded;

/// A session state that answers rightly.
pub fn state(builder: SessionStateBuilder, config: SessionConfig) -> SessionState {
    let mut builder = builder.with_config(with_exact_values(config)).with_default_features();
    if let Some(planners) = builder.expr_planners() {
        let bounded = |planner| Arc::new(BoundedPlanner(planner)) as Arc<dyn ExprPlanner>;
        *planners = std::mem::take(planners).into_iter().map(bounded).collect();
    }
    let mut state = builder
        .with_analyzer_rules(analyzer())
        .with_optimizer_rules(exceptions::excepted(Optimizer::new().rules))
        .with_type_planner(Arc::new(types::Microseconds))
        .with_physical_optimizer_rules(physical())
        .build();
    for aggregate in extremes::extremes().into_iter().chain([sum::checked_sum(), distinct::count()])
    {
        state.register_udaf(Arc::new(aggregate)).expect("a state takes any function");
    }
    state.register_udf(Arc::new(cast_marks::function())).expect("a state takes any function");
    let growing: Vec<_> = state.scalar_functions().values().filter_map(bounded).collect();
    for function in growing {
        state.register_udf(Arc::new(function)).expect("a state takes any function");
    }
    for shift in shift::shifts() {
        state.register_udwf(Arc::new(shift)).expect("a state takes any function");
    }
    series::register(&mut state);
    state
}

/// The statement of a text. What the parser alone does not understand of SQL is put in other words.
pub fn parsed(state: &SessionState, sql: &str) -> Result<Statement> {
    let parsed = |sql: &str| state.sql_to_statement(sql, &Dialect::Generic);
    parsed(sql).or_else(|error| {
        let other = syntax::with_whole_sets(sql).and_then(|sql| parsed(&sql).ok());
        other.ok_or(error)
    })
}

/// The plan of what a statement's text says. What no rule can make right is refused.
pub async fn planned(state: &SessionState, mut statement: Statement) -> Result<LogicalPlan> {
    let mut may_be_confused = false;
    let mut bare_names = BareNames::default();
    if let Some(statement) = explained(&mut statement) {
        syntax::correct(statement)?;
        cast_names::name(statement);
        using::resolve(statement)?;
        may_be_confused = cast_marks::has_casts(statement);
        bare_names = BareNames::of(statement);
    }
    let again = may_be_confused.then(|| statement.clone());
    let mut planned = state.statement_to_plan(statement).await;
    if let Some(mut again) = again
        && cast_marks::is_confused(&planned)
        && explained(&mut again).is_some_and(cast_marks::mark)
    {
        planned = state.statement_to_plan(again).await.or(planned);
    }
    let planned = planned?;
    bare_names.check(&planned)?;
    cast_names::restored(planned)
}

/// `0.1` is a decimal, as it is written.
fn with_exact_values(mut config: SessionConfig) -> SessionConfig {
    let options = config.options_mut();
    options.sql_parser.parse_float_as_decimal = true;
    // `x IS TRUE` is never NULL, which its physical expression does not know; the check of one
    // against the other ends in an internal error.
    options.execution.skip_physical_aggregate_schema_check = true;
    config
}

fn analyzer() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        Arc::new(Expressions::up("unmarked_casts", cast_marks::unmarked)),
        Arc::new(Nodes::new("merge_using", using::merged)),
        Arc::new(Nodes::new("count_occurrences", set_operation::counted)),
        Arc::new(Nodes::new("three_valued_subqueries", subquery::three_valued)),
        Arc::new(Expressions::up("constant_totals", folded_totals::constant)),
        Arc::new(Nodes::new("correlated_values", correlated::by_row)),
        Arc::new(Expressions::up("absent_rows", empty_scalar::nullable)),
        Arc::new(Expressions::up("epochs", epochs::counted)),
        Arc::new(Expressions::up("round_places", round::with_places)),
        Arc::new(Expressions::up("list_items", lists::with_items)),
        Arc::new(floats::KeptFloats),
        Arc::new(Expressions::up("exact_durations", durations::exact)),
        Arc::new(Expressions::up("far_times", far_times::compared)),
        Arc::new(Expressions::up("divide_further", arithmetic::divided)),
        Arc::new(ResolveGroupingFunction::new()),
        Arc::new(TypeCoercion::new()),
        Arc::new(misuse::Refused),
        Arc::new(Expressions::up("local_times", local_time::localized)),
        Arc::new(Nodes::new("known_equalities", null_safe::known)),
        Arc::new(Expressions::up("one_nan", nan::unsigned)),
        Arc::new(Expressions::down("check_arithmetic", arithmetic::checked)),
        Arc::new(Expressions::down("concatenate_at_once", concatenation::at_once)),
    ]
}

type PhysicalRule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

fn physical() -> Vec<PhysicalRule> {
    let (orders, statistics) = (EnsureRequirements::new(), AggregateStatistics::new());
    let projections = ProjectionPushdown::new();
    let rules = pushdown::fenced(PhysicalOptimizer::new().rules).into_iter();
    let rules = rules.map(|rule| match rule.name() {
        name if name == orders.name() => Arc::new(offset::AroundOffsets(rule)) as _,
        name if name == statistics.name() => Arc::new(statistics::Unfiltered(rule)) as _,
        name if name == projections.name() => Arc::new(filter_projection::WholeFilters(rule)) as _,
        _ => rule,
    });
    let first: PhysicalRule = Arc::new(constants::ForgetConstants);
    let last: [PhysicalRule; 2] =
        [Arc::new(group_limit::WithoutFaultyLimits), Arc::new(NameDataFiles)];
    [first].into_iter().chain(rules).chain(last).collect()
}
