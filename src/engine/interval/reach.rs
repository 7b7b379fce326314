//! Which intervals the inputs reach: those of the ends of what the query compares with `$start` and
//! `$end`, wherever that stands and of whatever type it is.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Date32Type, Schema, TimeUnit};
use chrono_tz::Tz;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::functions::expr_fn::date_trunc;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast, lit};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::scalar::ScalarValue;

use super::unbound::{depends, plan_depends, renamed, replaced};
use crate::interval::{CALENDAR, Every, Instant, MICROS_PER_DAY, Range, RangeSet};

/// A condition of the query: `value operator bound`, where the bound depends on nothing but `$start`
/// or `$end`.
struct Comparison {
    value: Expr,
    /// What the value is computed from, without conditions that depend on the interval.
    over: LogicalPlan,
    operator: Operator,
    bound: Expr,
}

/// Whether the query says by a condition which rows belong to an interval.
pub fn is_bound(plan: &LogicalPlan) -> bool {
    !comparisons(plan).is_empty()
}

/// Whole intervals around everything that the inputs hold; `None` if they hold nothing. Times before
/// the year 1 or after 9999 lie in no interval.
pub async fn reached(
    session: &SessionContext,
    plan: &LogicalPlan,
    every: Every,
    timezone: Tz,
) -> Result<Option<Range>> {
    // Both sides of a condition mostly compare the same value.
    let mut known: Vec<(Expr, LogicalPlan, Vec<ScalarValue>)> = Vec::new();
    let mut hull: Option<Range> = None;
    for Comparison { value, over, operator, bound } in comparisons(plan) {
        let is_same = |(of, from, _): &&(Expr, LogicalPlan, _)| *of == value && *from == over;
        let ends = match known.iter().find(is_same) {
            Some((_, _, ends)) => ends.clone(),
            None => ends_of(session, &value, &over).await?,
        };
        for end in ends.iter().cloned() {
            let search = Search { session, every, timezone, value: end, operator, bound: &bound };
            let found = search.interval()?;
            hull = Some(hull.map_or(found, |hull| hull.hull(found)));
        }
        known.push((value, over, ends));
    }
    Ok(hull)
}

/// The smallest and the largest, unless there is none.
async fn ends_of(
    session: &SessionContext,
    value: &Expr,
    over: &LogicalPlan,
) -> Result<Vec<ScalarValue>> {
    let ends = vec![min(value.clone()).alias("first"), max(value.clone()).alias("last")];
    let frame = DataFrame::new(session.state(), over.clone()).aggregate(Vec::new(), ends)?;
    let mut found = Vec::new();
    for batch in frame.collect().await? {
        for column in batch.columns().iter().filter(|column| !column.is_empty()) {
            found.push(ScalarValue::try_from_array(column, 0)?);
        }
    }
    found.retain(|end| !end.is_null());
    Ok(found)
}

/// Days in UTC around everything that the inputs hold, where they may be far apart; `None` if what the
/// query compares are no times.
pub async fn reached_days(
    session: &SessionContext,
    plan: &LogicalPlan,
) -> Result<Option<RangeSet>> {
    let mut days = BTreeSet::new();
    for Comparison { value, over, .. } in comparisons(plan) {
        let over = DataFrame::new(session.state(), over);
        let micros =
            |at: Instant| lit(ScalarValue::TimestampMicrosecond(Some(at.0), Some("UTC".into())));
        let (day, over) = match value.get_type(over.schema())? {
            DataType::Date32 => (value, over),
            // All of them lie in the calendar.
            DataType::Timestamp(TimeUnit::Nanosecond, _) => (date_trunc(lit("day"), value), over),
            DataType::Timestamp(..) => {
                let within = value.clone().gt_eq(micros(CALENDAR.start));
                let within = within.and(value.clone().lt(micros(CALENDAR.end)));
                (date_trunc(lit("day"), value), over.filter(within)?)
            }
            _ => return Ok(None),
        };
        let day = cast(day, DataType::Date32).alias("day");
        let frame = over.aggregate(vec![day], Vec::new())?;
        for batch in frame.collect().await? {
            days.extend(batch.column(0).as_primitive::<Date32Type>().iter().flatten());
        }
    }
    let around = |day: i32| {
        let start = i64::from(day) * MICROS_PER_DAY;
        // Local days begin and end on the days beside it.
        Range { start: Instant(start - MICROS_PER_DAY), end: Instant(start + 2 * MICROS_PER_DAY) }
    };
    Ok(Some(days.into_iter().map(around).collect()))
}

/// All comparisons from which something can be said. Where a condition also looks back or ahead
/// (`at >= $start - INTERVAL '7 days' AND at < $end`), the side that does not says where rows belong.
fn comparisons(plan: &LogicalPlan) -> Vec<Comparison> {
    let mut found = Vec::new();
    let looked = plan.apply_with_subqueries(|node| {
        let (condition, inputs) = match node {
            LogicalPlan::Filter(filter) => (Some(&filter.predicate), vec![&*filter.input]),
            LogicalPlan::Join(join) => (join.filter.as_ref(), vec![&*join.left, &*join.right]),
            _ => (None, Vec::new()),
        };
        let here: Vec<(Comparison, bool)> = condition
            .into_iter()
            .flat_map(|condition| split_conjunction(condition))
            .flat_map(simple)
            .filter_map(|(value, operator, bound)| {
                let is_shifted = shifts(&value) || shifts(&bound);
                let (value, over) = inputs.iter().find_map(|input| origin(&value, input))?;
                Some((Comparison { value, over, operator, bound }, is_shifted))
            })
            .collect();
        let is_any_plain = here.iter().any(|(_, is_shifted)| !is_shifted);
        found.extend(here.into_iter().filter(|(_, shifted)| !shifted || !is_any_plain));
        Ok(TreeNodeRecursion::Continue)
    });
    if looked.is_err() {
        return Vec::new();
    }
    found.into_iter().map(|(comparison, _)| comparison).collect()
}

/// A condition as comparisons of a value with a bound.
fn simple(condition: &Expr) -> Vec<(Expr, Operator, Expr)> {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq};
    let one = |left: &Expr, operator: Operator, right: &Expr| {
        let is_bound = |expr: &Expr| depends(expr) && expr.column_refs().is_empty();
        match (operator, is_bound(left), is_bound(right)) {
            (Gt | GtEq | Lt | LtEq | Eq, false, true) if !depends(left) => {
                Some((left.clone(), operator, right.clone()))
            }
            (Gt | GtEq | Lt | LtEq | Eq, true, false) if !depends(right) => {
                Some((right.clone(), operator.swap()?, left.clone()))
            }
            _ => None,
        }
    };
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            one(left, *op, right).into_iter().collect()
        }
        Expr::Between(between) if !between.negated => [(GtEq, &between.low), (LtEq, &between.high)]
            .into_iter()
            .filter_map(|(operator, bound)| one(&between.expr, operator, bound))
            .collect(),
        _ => Vec::new(),
    }
}

fn shifts(expr: &Expr) -> bool {
    let is_sum = |expr: &Expr| matches!(expr, Expr::BinaryExpr(sum) if matches!(sum.op, Operator::Plus | Operator::Minus));
    expr.exists(|expr| Ok(is_sum(expr))).unwrap_or(true)
}

/// Where the values of `expr` over `plan` come from, as near to a table as can be said: it then holds
/// at least these values. `None` if that cannot be executed by itself.
fn origin(expr: &Expr, plan: &LogicalPlan) -> Option<(Expr, LogicalPlan)> {
    let is_outer = |expr: &Expr| Ok(matches!(expr, Expr::OuterReferenceColumn(..)));
    let is_within = |plan: &LogicalPlan| {
        expr.column_refs().iter().all(|column| plan.schema().has_column(column))
    };
    if !is_within(plan) || expr.column_refs().is_empty() || expr.exists(is_outer).unwrap_or(true) {
        return None;
    }
    let below = match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            Some((renamed(expr, plan, &alias.input)?, &*alias.input))
        }
        LogicalPlan::Projection(projection) => {
            let below = replaced(expr, |column| {
                let at = plan.schema().maybe_index_of_column(column)?;
                Some(projection.expr.get(at)?.clone().unalias())
            });
            below.map(|below| (below, &*projection.input))
        }
        LogicalPlan::Filter(filter) if depends(&filter.predicate) => {
            Some((expr.clone(), &*filter.input))
        }
        LogicalPlan::Window(window) if is_within(&window.input) => {
            Some((expr.clone(), &*window.input))
        }
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => Some((expr.clone(), &*sort.input)),
        LogicalPlan::Join(join) => [&join.left, &join.right]
            .into_iter()
            .find(|side| is_within(side))
            .map(|side| (expr.clone(), &**side)),
        LogicalPlan::Aggregate(aggregate) => replaced(expr, |column| {
            let at = plan.schema().maybe_index_of_column(column)?;
            let by = aggregate.group_expr.get(at)?.clone().unalias();
            (!matches!(by, Expr::GroupingSet(_))).then_some(by)
        })
        .map(|below| (below, &*aggregate.input)),
        _ => None,
    };
    if let Some((expr, input)) = below
        && let Some(found) = origin(&expr, input)
    {
        return Some(found);
    }
    let alone = unconditional(plan.clone())?;
    Some((expr.clone(), alone))
}

/// `plan` without its conditions that depend on the interval, if nothing else in it does.
fn unconditional(plan: LogicalPlan) -> Option<LogicalPlan> {
    let plan = plan.transform_up(|node| {
        let LogicalPlan::Filter(mut filter) = node else { return Ok(Transformed::no(node)) };
        let kept = split_conjunction(&filter.predicate).into_iter().filter(|part| !depends(part));
        filter.predicate = conjunction(kept.cloned()).unwrap_or_else(|| lit(true));
        Ok(Transformed::yes(LogicalPlan::Filter(filter)))
    });
    let plan = plan.ok()?.data;
    (!plan_depends(&plan) && !plan.contains_outer_reference()).then_some(plan)
}

/// The search for the interval of one value. Bounds grow with the interval, so that a condition that
/// holds for one holds for all before it, or for all after it.
struct Search<'a> {
    session: &'a SessionContext,
    every: Every,
    timezone: Tz,
    value: ScalarValue,
    operator: Operator,
    bound: &'a Expr,
}

impl Search<'_> {
    /// The last interval of which the value has reached the lower bound, or the first of which it is
    /// below the upper.
    fn interval(&self) -> Result<Range> {
        let (operator, is_lower) = match self.operator {
            Operator::Eq => (Operator::GtEq, true),
            Operator::Gt | Operator::GtEq => (self.operator, true),
            other => (other, false),
        };
        // Of the instants `[low, high]`, one lies in the interval.
        let (mut low, mut high) = (CALENDAR.start.0, CALENDAR.end.0 - 1);
        while low < high {
            let half = if is_lower { high - (high - low) / 2 } else { low + (high - low) / 2 };
            let interval = self.every.interval_of(Instant(half), self.timezone);
            match (is_lower, self.holds(operator, interval)?) {
                (true, true) => low = half,
                (true, false) => high = half - 1,
                (false, true) => high = half,
                (false, false) => low = half + 1,
            }
        }
        Ok(self.every.interval_of(Instant(low), self.timezone))
    }

    fn holds(&self, operator: Operator, interval: Range) -> Result<bool> {
        let mut at = Instant(0);
        let bound = self.bound.clone().transform_up(|expr| match expr {
            Expr::Placeholder(placeholder) => {
                at = if placeholder.id == "$end" { interval.end } else { interval.start };
                let micros = ScalarValue::TimestampMicrosecond(Some(at.0), Some("UTC".into()));
                Ok(Transformed::yes(lit(micros)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let condition = Expr::BinaryExpr(BinaryExpr::new(
            Box::new(lit(self.value.clone())),
            operator,
            Box::new(bound.data),
        ));
        let batch = RecordBatch::try_new_with_options(
            Schema::empty().into(),
            Vec::new(),
            &RecordBatchOptions::new().with_row_count(Some(1)),
        )?;
        let computed = self
            .session
            .create_physical_expr(condition, &DFSchema::empty())
            .and_then(|condition| condition.evaluate(&batch))
            .and_then(|holds| ScalarValue::try_from_array(&*holds.into_array(1)?, 0));
        Ok(match computed {
            Ok(ScalarValue::Boolean(Some(holds))) => holds,
            // A bound that its type cannot hold is beyond every value: nanoseconds end in 2262.
            _ => matches!(operator, Operator::Gt | Operator::GtEq) == (at.0 < 0),
        })
    }
}
