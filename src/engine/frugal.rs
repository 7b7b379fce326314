//! The same rows with less memory, for plans that were refused it: what takes longer and spills in the
//! place of what is quick and must be held. Executes nothing.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::prelude::SessionContext;

/// Of the counts that are made apart, and of what they are joined by.
const COUNTED: &str = "__counted_";
const KEY: &str = "__key_";

/// Whether the plan holds what [`plan_frugally`] and [`apart`] would not.
pub fn holds_much(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let holds = |node: &Arc<dyn ExecutionPlan>| {
        let groups = node.downcast_ref::<AggregateExec>();
        let is_distinct = groups.is_some_and(|g| g.aggr_expr().iter().any(|one| one.is_distinct()));
        Ok(is_distinct || node.name() == "HashJoinExec")
    };
    plan.exists(holds).unwrap_or(false)
}

/// From now on plans of `session` sort both sides of a join, where others hold one of them.
pub fn plan_frugally(session: &SessionContext) {
    let state = session.state_ref();
    state.write().config_mut().options_mut().optimizer.prefer_hash_join = false;
}

/// Whether that was said.
pub fn is_frugal(session: &SessionContext) -> bool {
    !session.state_ref().read().config_options().optimizer.prefer_hash_join
}

/// `plan` with every `count(DISTINCT x)` computed by itself, as rows of groups that have `x` as one more
/// key, and joined to the other totals: rows of groups spill, the different values of one do not.
pub fn apart(plan: LogicalPlan) -> Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(groups) if is_apart(&groups) => {
            Ok(Transformed::yes(counted_apart(&groups)?))
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(changed.data)
}

fn is_apart(groups: &Aggregate) -> bool {
    let is_set = groups.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_)));
    !is_set && groups.aggr_expr.iter().any(|total| counted(total).is_some())
}

/// The `x` of `count(DISTINCT x)`.
fn counted(total: &Expr) -> Option<&Expr> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = total else { return None };
    let [value] = params.args.as_slice() else { return None };
    let is_plain = params.distinct && params.filter.is_none() && params.order_by.is_empty();
    (func.name() == "count" && is_plain).then_some(value)
}

fn counted_apart(groups: &Aggregate) -> Result<LogicalPlan> {
    let (keys, input) = (&groups.group_expr, &groups.input);
    let named = groups
        .schema
        .iter()
        .map(|(relation, field)| Column::new(relation.cloned(), field.name().clone()));
    let named: Vec<Column> = named.collect();
    let (key_names, total_names) = named.split_at(keys.len());
    let rest: Vec<Expr> =
        groups.aggr_expr.iter().filter(|total| counted(total).is_none()).cloned().collect();
    let mut joined = match keys.is_empty() && rest.is_empty() {
        true => None,
        false => Some(LogicalPlanBuilder::from(Arc::clone(input)).aggregate(keys.clone(), rest)?),
    };
    let mut columns: Vec<Expr> = key_names.iter().cloned().map(Expr::Column).collect();
    for (at, (total, name)) in groups.aggr_expr.iter().zip(total_names).enumerate() {
        let Some(value) = counted(total) else {
            columns.push(Expr::Column(name.clone()));
            continue;
        };
        let (alias, count) = (format!("{COUNTED}{at}"), format!("{COUNTED}n"));
        let own = count_of(input, keys, value, total, &alias, &count)?;
        joined = Some(match joined {
            None => own,
            Some(others) if keys.is_empty() => others.cross_join(own.build()?)?,
            Some(others) => {
                let own_key = |at| Expr::Column(Column::new(Some(&alias), format!("{KEY}{at}")));
                let keys = key_names.iter().cloned().map(Expr::Column).enumerate();
                let same = keys
                    .map(|(at, key)| binary_expr(key, Operator::IsNotDistinctFrom, own_key(at)));
                others.join_on(own.build()?, JoinType::Inner, same)?
            }
        });
        let counted = Expr::Column(Column::new(Some(alias), count));
        columns.push(counted.alias(name.name.clone()));
    }
    match joined {
        Some(joined) => joined.project(columns)?.build(),
        None => Ok(LogicalPlan::Aggregate(groups.clone())),
    }
}

/// One count by itself, under `alias`: keys by number, and `count`.
fn count_of(
    input: &Arc<LogicalPlan>,
    keys: &[Expr],
    value: &Expr,
    total: &Expr,
    alias: &str,
    count: &str,
) -> Result<LogicalPlanBuilder> {
    let numbered = |(at, key): (usize, &Expr)| key.clone().unalias().alias(format!("{KEY}{at}"));
    let mut each: Vec<Expr> = keys.iter().enumerate().map(numbered).collect();
    each.push(value.clone().unalias().alias(format!("{KEY}value")));
    let key = |at: usize| Expr::Column(Column::from_name(format!("{KEY}{at}")));
    let mut counted = total.clone();
    if let Expr::AggregateFunction(function) = &mut counted {
        function.params.distinct = false;
        function.params.args = vec![Expr::Column(Column::from_name(format!("{KEY}value")))];
    }
    LogicalPlanBuilder::from(Arc::clone(input))
        .project(each)?
        .distinct()?
        .aggregate((0..keys.len()).map(key), [counted.alias(count)])?
        .alias(alias)
}
