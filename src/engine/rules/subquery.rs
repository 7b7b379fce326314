//! `IN`, `EXISTS`, `ANY` and `ALL` over subqueries as SQL has them, with NULL as a third truth value
//! and in every place of a statement. DataFusion 55 turns them into joins, which know two
//! (apache/datafusion#25336, #25347, #25473, #25480), only in WHERE, and takes an aggregate of a
//! correlated subquery for no row where SQL has one (#24960). What its joins get right is left to
//! them: `IN` and `EXISTS` where false and NULL come to the same, `NOT IN` without correlation.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, Spans};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, FetchType, Filter, LogicalPlan, LogicalPlanBuilder,
    Operator, Projection, SkipType, Subquery, binary_expr, lit, not, when,
};
use datafusion::prelude::ident;

use super::extremes::{max, min};
use super::refusal::refused;
use super::set_operation::is_set_operation;

/// The value of a subquery.
const VALUE: &str = "__value";
/// Begins the names of columns that a subquery's conditions compare with the outer row.
const INNER: &str = "__inner_";

/// Rewrites predicates over subqueries so that no value of them is wrong.
pub fn three_valued(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    refuse_dependent(&node)?;
    let names = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let apart = expr.transform_up(with_own_names)?;
        Ok(apart.update_data(|expr| name.restore(expr)))
    })?;
    let node = node.data;
    if !has_predicates(&node)? {
        return with_inner_names(node);
    }
    let schema = merge_schema(&node.inputs());
    if let LogicalPlan::Filter(filter) = node {
        let parts = split_conjunction_owned(filter.predicate);
        let parts = parts.into_iter().map(|part| rewrite_condition(part, &schema, true));
        let predicate = conjunction(parts.collect::<Result<Vec<Expr>>>()?);
        let predicate = predicate.unwrap_or_else(|| lit(true));
        let filter = Filter::try_new(predicate, filter.input)?;
        let named = with_inner_names(LogicalPlan::Filter(filter))?;
        return Ok(Transformed::yes(named.data));
    }
    let names = NamePreserver::new(&node);
    let rewritten = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = rewrite_values(expr, &schema, Place::Anywhere)?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    if rewritten.transformed {
        rewritten.map_data(LogicalPlan::recompute_schema)
    } else {
        Ok(rewritten)
    }
}

/// A subquery that depends on its row is made a join, with its conditions above everything else: a
/// limit or a window in it would be one of the rows for all, and so would a set operation, which
/// DataFusion refuses only while none of its parts is empty.
fn refuse_dependent(node: &LogicalPlan) -> Result<()> {
    node.apply_expressions(|expr| {
        expr.apply(|part| {
            match part {
                Expr::InSubquery(predicate) => refuse_within(&predicate.subquery.subquery)?,
                Expr::SetComparison(comparison) => refuse_within(&comparison.subquery.subquery)?,
                Expr::ScalarSubquery(subquery) => refuse_within(&subquery.subquery)?,
                Expr::Exists(exists) => refuse_within(without_limit(&exists.subquery.subquery)?)?,
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })
    .map(|_| ())
}

const BY_NUMBER: &str = "join instead, and choose by number: row_number() OVER (PARTITION BY … ORDER \
                         BY …) AS rn, then WHERE rn = 1";
const ONE_BY_ONE: &str = "ask for each part by itself: EXISTS (…) OR EXISTS (…) instead of UNION, AND \
                          instead of INTERSECT, AND NOT instead of EXCEPT";

fn refuse_within(subquery: &Arc<LogicalPlan>) -> Result<()> {
    let mut found = None;
    subquery.apply(|node| {
        let what = match node {
            LogicalPlan::Limit(_) => ("LIMIT and OFFSET", BY_NUMBER),
            LogicalPlan::Window(_) => ("window functions", BY_NUMBER),
            LogicalPlan::Union(_) => ("UNION", ONE_BY_ONE),
            LogicalPlan::Join(join) if is_set_operation(join) => {
                ("EXCEPT and INTERSECT", ONE_BY_ONE)
            }
            LogicalPlan::Aggregate(Aggregate { group_expr, .. })
                if matches!(group_expr.as_slice(), [Expr::GroupingSet(_)]) =>
            {
                ("GROUPING SETS, ROLLUP and CUBE", BY_NUMBER)
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        if node.all_out_ref_exprs().is_empty() {
            return Ok(TreeNodeRecursion::Jump);
        }
        found = Some(what);
        Ok(TreeNodeRecursion::Stop)
    })?;
    let Some((what, hint)) = found else { return Ok(()) };
    let message = format!("{what} cannot stand over rows that a subquery chooses by its outer row");
    Err(refused(message, None, hint))
}

/// EXISTS is the same without a limit that leaves a row where there is one.
fn without_limit(subquery: &Arc<LogicalPlan>) -> Result<&Arc<LogicalPlan>> {
    let LogicalPlan::Limit(limit) = &**subquery else { return Ok(subquery) };
    let skips = !matches!(limit.get_skip_type()?, SkipType::Literal(0));
    let takes = matches!(limit.get_fetch_type()?, FetchType::Literal(Some(1..)));
    Ok(if takes && !skips { &limit.input } else { subquery })
}

/// Columns that a condition compares with the outer row, under names of their own.
fn with_inner_names(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
    let columns: Vec<Expr> =
        filter.input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut inner: Vec<Expr> = Vec::new();
    let parts = split_conjunction_owned(filter.predicate.clone()).into_iter().map(|part| {
        if !part.contains_outer() {
            return Ok(part);
        }
        let named = part.transform_up(|expr| match expr {
            Expr::Column(column) if !column.name.starts_with(INNER) => {
                let column = Expr::Column(column);
                let at = inner.iter().position(|other| *other == column).unwrap_or_else(|| {
                    inner.push(column.clone());
                    inner.len() - 1
                });
                Ok(Transformed::yes(ident(format!("{INNER}{at}"))))
            }
            expr => Ok(Transformed::no(expr)),
        })?;
        Ok(named.data)
    });
    let predicate = conjunction(parts.collect::<Result<Vec<Expr>>>()?);
    let (Some(predicate), false) = (predicate, inner.is_empty()) else {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    };
    let named = inner.into_iter().enumerate().map(|(at, of)| of.alias(format!("{INNER}{at}")));
    let input = LogicalPlanBuilder::from(filter.input);
    let named = input.project(columns.iter().cloned().chain(named))?.filter(predicate)?;
    Ok(Transformed::yes(named.project(columns)?.build()?))
}

/// The value of a subquery under a name of its own. The columns that its conditions compare are put
/// beside it, and found by name: `SELECT b.s AS s … WHERE a.s = outer.x` would compare `b.s`.
fn with_own_names(expr: Expr) -> Result<Transformed<Expr>> {
    let mut expr = expr;
    let subquery = match &mut expr {
        Expr::InSubquery(predicate) => &mut predicate.subquery,
        Expr::SetComparison(comparison) => &mut comparison.subquery,
        Expr::ScalarSubquery(subquery) => subquery,
        Expr::Exists(exists) => {
            let Some(input) = selected_from(&exists.subquery) else {
                return Ok(Transformed::no(expr));
            };
            exists.subquery.subquery = input;
            return Ok(Transformed::yes(expr));
        }
        _ => return Ok(Transformed::no(expr)),
    };
    let LogicalPlan::Projection(selected) = &*subquery.subquery else {
        return Ok(Transformed::no(expr));
    };
    let [value] = selected.expr.as_slice() else { return Ok(Transformed::no(expr)) };
    let is_own = matches!(value, Expr::Alias(alias) if alias.name == VALUE);
    if subquery.outer_ref_columns.is_empty() || is_own {
        return Ok(Transformed::no(expr));
    }
    let value = value.clone().unalias().alias(VALUE);
    let selected = Projection::try_new(vec![value], Arc::clone(&selected.input))?;
    subquery.subquery = Arc::new(LogicalPlan::Projection(selected));
    Ok(Transformed::yes(expr))
}

/// EXISTS asks for rows, not for what is selected of them.
fn selected_from(subquery: &Subquery) -> Option<Arc<LogicalPlan>> {
    match &*subquery.subquery {
        LogicalPlan::Projection(node) if !subquery.outer_ref_columns.is_empty() => {
            Some(Arc::clone(&node.input))
        }
        _ => None,
    }
}

fn has_predicates(node: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|expr| {
        found |= expr.exists(|part| Ok(is_predicate(part)))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_predicate(expr: &Expr) -> bool {
    matches!(expr, Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_))
}

/// Where a predicate stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In a WHERE, where the engine makes joins of EXISTS and IN.
    Filter,
    /// Where it can only take values of subqueries.
    Anywhere,
}

/// A part of a WHERE in which false and NULL come to the same. `is_top`: it stands between ANDs.
fn rewrite_condition(expr: Expr, schema: &DFSchema, is_top: bool) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(mut both) if matches!(both.op, Operator::And | Operator::Or) => {
            both.left = Box::new(rewrite_condition(*both.left, schema, false)?);
            both.right = Box::new(rewrite_condition(*both.right, schema, false)?);
            Ok(Expr::BinaryExpr(both))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(mut predicate) => {
                predicate.negated = !predicate.negated;
                rewrite_condition(Expr::InSubquery(predicate), schema, is_top)
            }
            inner => Ok(rewrite_values(Expr::Not(Box::new(inner)), schema, Place::Filter)?.data),
        },
        Expr::InSubquery(predicate) if !predicate.negated => {
            Ok(of_one_row(&predicate)?.unwrap_or(Expr::InSubquery(predicate)))
        }
        Expr::InSubquery(predicate) if is_top => not_in(predicate, schema),
        expr => Ok(rewrite_values(expr, schema, Place::Filter)?.data),
    }
}

/// `x NOT IN (…)` between ANDs: there is no row that is equal or might be.
fn not_in(predicate: InSubquery, schema: &DFSchema) -> Result<Expr> {
    if let Some(value) = of_one_row(&predicate)? {
        return Ok(value);
    }
    let set = Set::of(&predicate.subquery);
    let may_be_null = may_be_null(&predicate.expr, schema)? || set.may_be_null();
    let is_column = matches!(*predicate.expr, Expr::Column(_));
    if !set.is_correlated() {
        if is_column || !may_be_null {
            return Ok(Expr::InSubquery(predicate));
        }
        // What may become a NULL for every row is too much for the join that knows of NULL.
        return is_in(predicate, schema, Place::Filter);
    }
    let same = outer(*predicate.expr, schema)?.eq(set.value());
    let same = if may_be_null { Expr::IsNotFalse(Box::new(same)) } else { same };
    Ok(not(set.exists_where(same)?))
}

/// Gives every predicate over a subquery within `expr` all of its values.
fn rewrite_values(expr: Expr, schema: &DFSchema, place: Place) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| match expr {
        Expr::InSubquery(predicate) => match of_one_row(&predicate)? {
            Some(value) => Ok(Transformed::yes(value)),
            None => Ok(Transformed::yes(is_in(predicate, schema, place)?)),
        },
        Expr::Exists(exists) => exists_at(exists, place),
        Expr::SetComparison(comparison) => {
            Ok(Transformed::yes(compared(comparison, schema, place)?))
        }
        expr => Ok(Transformed::no(expr)),
    })
}

fn exists_at(exists: Exists, place: Place) -> Result<Transformed<Expr>> {
    let is_there = if let Some(row) = OneRow::of(&exists.subquery.subquery)? {
        row.is_there()?
    } else if place == Place::Filter {
        return Ok(Transformed::no(Expr::Exists(exists)));
    } else {
        Set::of(&exists.subquery).has_rows()?
    };
    Ok(Transformed::yes(if exists.negated { not(is_there) } else { is_there }))
}

fn is_in(predicate: InSubquery, schema: &DFSchema, place: Place) -> Result<Expr> {
    let InSubquery { expr, subquery, negated } = predicate;
    let set = Set::of(&subquery);
    let is_same = outer((*expr).clone(), schema)?.eq(set.value());
    let found = match place {
        Place::Filter => set.exists_where(is_same.clone())?,
        Place::Anywhere => set.count_where(is_same.clone())?.gt(lit(0_i64)),
    };
    let mut unknown = Vec::new();
    if place == Place::Filter && set.is_correlated() {
        if may_be_null(&expr, schema)? || set.may_be_null() {
            unknown.push(set.exists_where(is_same.is_null())?);
        }
    } else {
        if set.may_be_null() {
            unknown.push(set.count_where(set.value().is_null())?.gt(lit(0_i64)));
        }
        if may_be_null(&expr, schema)? {
            unknown.push(expr.is_null().and(set.has_rows()?));
        }
    }
    let Some(unknown) = unknown.into_iter().reduce(Expr::or) else {
        return Ok(if negated { not(found) } else { found });
    };
    let null = Expr::Literal(ScalarValue::Boolean(None), None);
    when(found, lit(!negated)).when(unknown, null).otherwise(lit(negated))
}

fn may_be_null(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(expr.nullable(schema)? || expr.exists(is_subquery)?)
}

/// The value of one without a row is NULL, also where its column is not.
fn is_subquery(expr: &Expr) -> Result<bool> {
    Ok(matches!(expr, Expr::ScalarSubquery(_)))
}

/// A comparison with some or all of a set, by its least and greatest value.
fn compared(comparison: SetComparison, schema: &DFSchema, place: Place) -> Result<Expr> {
    let SetComparison { expr, subquery, op, quantifier } = comparison;
    let negated = quantifier == SetQuantifier::All;
    if matches!((op, negated), (Operator::Eq, false) | (Operator::NotEq, true)) {
        let predicate = InSubquery { expr, subquery, negated };
        return match of_one_row(&predicate)? {
            Some(value) => Ok(value),
            None => is_in(predicate, schema, place),
        };
    }
    if let Some(value) = with_one_row(&expr, op, &subquery, negated)? {
        return Ok(value);
    }
    let set = Set::of(&subquery);
    let (least, greatest) = (set.aggregated(min(set.value()))?, set.aggregated(max(set.value()))?);
    let with = |bound| binary_expr((*expr).clone(), op, bound);
    // Whether the one that decides for all, or that is found most easily, fulfils it.
    let holds = match (op, negated) {
        (Operator::Lt | Operator::LtEq, true) | (Operator::Gt | Operator::GtEq, false) => {
            with(least)
        }
        (Operator::Gt | Operator::GtEq, true) | (Operator::Lt | Operator::LtEq, false) => {
            with(greatest)
        }
        (Operator::Eq, _) => with(least).and(with(greatest)),
        (Operator::NotEq, _) => with(least).or(with(greatest)),
        _ => return Ok(Expr::SetComparison(SetComparison { expr, subquery, op, quantifier })),
    };
    let decided = if negated { not(holds) } else { holds };
    let has_nulls = set.count_where(set.value().is_null())?.gt(lit(0_i64));
    let unknown = expr.is_null().or(has_nulls);
    let null = Expr::Literal(ScalarValue::Boolean(None), None);
    when(not(set.has_rows()?), lit(negated))
        .when(decided, lit(!negated))
        .when(unknown, null)
        .otherwise(lit(negated))
}

/// `x [NOT] IN (SELECT max(y) …)`: compares with the one row's value.
fn of_one_row(predicate: &InSubquery) -> Result<Option<Expr>> {
    let InSubquery { expr, subquery, negated } = predicate;
    let op = if *negated { Operator::NotEq } else { Operator::Eq };
    with_one_row(expr, op, subquery, *negated)
}

/// Compares with the value of a subquery of one row; `without_row` is what is said if it is not there.
fn with_one_row(
    expr: &Expr,
    op: Operator,
    subquery: &Subquery,
    without_row: bool,
) -> Result<Option<Expr>> {
    let Some(row) = OneRow::of(&subquery.subquery)? else { return Ok(None) };
    let compared = binary_expr(expr.clone(), op, scalar(Arc::clone(&row.plan)));
    Ok(Some(match row.having {
        None => compared,
        Some(_) => when(row.is_there()?, compared).otherwise(lit(without_row))?,
    }))
}

/// An aggregate without groups: it has one row, unless its HAVING takes that away.
struct OneRow {
    /// Without the HAVING.
    plan: Arc<LogicalPlan>,
    having: Option<(Expr, Arc<LogicalPlan>)>,
}

impl OneRow {
    fn of(plan: &Arc<LogicalPlan>) -> Result<Option<Self>> {
        let without = |inner: Self| -> Result<Self> {
            let plan = plan.with_new_exprs(plan.expressions(), vec![(*inner.plan).clone()])?;
            Ok(Self { plan: Arc::new(plan), having: inner.having })
        };
        match &**plan {
            LogicalPlan::Aggregate(Aggregate { group_expr, .. }) if group_expr.is_empty() => {
                Ok(Some(Self { plan: Arc::clone(plan), having: None }))
            }
            LogicalPlan::Projection(node) => Self::of(&node.input)?.map(without).transpose(),
            LogicalPlan::SubqueryAlias(node) => Self::of(&node.input)?.map(without).transpose(),
            LogicalPlan::Distinct(Distinct::All(input)) => Self::of(input),
            LogicalPlan::Sort(node) if node.fetch.is_none() => Self::of(&node.input),
            LogicalPlan::Filter(node) => {
                let inner = Self::of(&node.input)?.filter(|inner| inner.having.is_none());
                Ok(inner.map(|inner| Self {
                    having: Some((node.predicate.clone(), Arc::clone(&inner.plan))),
                    ..inner
                }))
            }
            _ => Ok(None),
        }
    }

    fn is_there(&self) -> Result<Expr> {
        let Some((having, plan)) = &self.having else { return Ok(lit(true)) };
        if !having.any_column_refs() && !having.contains_outer() {
            return Ok(coalesce(vec![having.clone(), lit(false)]));
        }
        let kept = LogicalPlanBuilder::from(Arc::clone(plan)).project([having.clone()])?.build()?;
        Ok(coalesce(vec![scalar(Arc::new(kept)), lit(false)]))
    }
}

/// The rows of a subquery, of which the first column counts.
struct Set<'a>(&'a Subquery);

impl<'a> Set<'a> {
    fn of(subquery: &'a Subquery) -> Self {
        Self(subquery)
    }

    fn value(&self) -> Expr {
        Expr::Column(Column::from(self.0.subquery.schema().qualified_field(0)))
    }

    fn may_be_null(&self) -> bool {
        let plan = &self.0.subquery;
        let has_subquery = |node: &LogicalPlan| {
            Ok(node.expressions().iter().any(|expr| expr.exists(is_subquery).unwrap_or(true)))
        };
        plan.schema().field(0).is_nullable() || plan.exists(has_subquery).unwrap_or(true)
    }

    fn is_correlated(&self) -> bool {
        !self.0.outer_ref_columns.is_empty()
    }

    fn rows_where(&self, condition: Expr) -> Result<LogicalPlanBuilder> {
        LogicalPlanBuilder::from(Arc::clone(&self.0.subquery)).filter(condition)
    }

    fn exists_where(&self, condition: Expr) -> Result<Expr> {
        let subquery = subquery_of(Arc::new(self.rows_where(condition)?.build()?));
        Ok(Expr::Exists(Exists { subquery, negated: false }))
    }

    fn count_where(&self, condition: Expr) -> Result<Expr> {
        count_of(self.rows_where(condition)?)
    }

    fn has_rows(&self) -> Result<Expr> {
        let rows = LogicalPlanBuilder::from(Arc::clone(&self.0.subquery));
        // One is enough; a correlated subquery cannot be made a join with a limit.
        let rows = if self.is_correlated() { rows } else { rows.limit(0, Some(1))? };
        Ok(count_of(rows)?.gt(lit(0_i64)))
    }

    fn aggregated(&self, aggregate: Expr) -> Result<Expr> {
        let rows = LogicalPlanBuilder::from(Arc::clone(&self.0.subquery));
        let nothing: [Expr; 0] = [];
        Ok(scalar(Arc::new(rows.aggregate(nothing, [aggregate])?.build()?)))
    }
}

fn count_of(rows: LogicalPlanBuilder) -> Result<Expr> {
    let nothing: [Expr; 0] = [];
    Ok(scalar(Arc::new(rows.aggregate(nothing, [count_all()])?.build()?)))
}

fn scalar(plan: Arc<LogicalPlan>) -> Expr {
    Expr::ScalarSubquery(subquery_of(plan))
}

fn subquery_of(plan: Arc<LogicalPlan>) -> Subquery {
    Subquery { outer_ref_columns: plan.all_out_ref_exprs(), subquery: plan, spans: Spans::new() }
}

/// `expr` as the subquery of its row sees it.
fn outer(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let outer = expr.transform_up(|expr| match expr {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        expr => Ok(Transformed::no(expr)),
    })?;
    Ok(outer.data)
}
