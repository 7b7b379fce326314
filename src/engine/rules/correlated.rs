//! Subqueries as values, and totals in LATERAL, over rows that they choose by their outer row: `(SELECT
//! max(y) FROM b WHERE b.t < a.t)`. DataFusion 55 groups the inner rows by what is compared, which is
//! right for `=` only and refused otherwise (apache/datafusion#24960); one without an aggregate, which
//! may give no more than one row, it joins as often as there are rows; and of LATERAL it forgets
//! HAVING (apache/datafusion#21198) and constants. Here outer rows are numbered, joined with the inner
//! ones, and grouped again: each is there once, and no aggregate sees the row that stands for no match.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{
    Column, DFSchema, DataFusionError, JoinType, Result, ScalarValue, Spans, exec_err,
};
use datafusion::functions_aggregate::count::count_all;
use datafusion::functions_aggregate::expr_fn::first_value;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, ColumnarValue, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder,
    Operator, Projection, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery,
    SubqueryAlias, Volatility, lit, when,
};
use datafusion::prelude::ident;

/// Number of an outer row, and the sign of an inner one.
const ROW: &str = "__row";
const THERE: &str = "__there";
/// Begin the names of inner columns, of those handed up to a condition, of aggregates, and of values.
const INNER: &str = "__of_";
const COMPARED: &str = "__compared_";
const TOTAL: &str = "__total_";
const VALUE: &str = "__value_";

/// Joins and groups what DataFusion's own rule cannot.
pub fn by_row(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if let LogicalPlan::Join(join) = &node {
        return match lateral_total(join)? {
            Some(plan) => Ok(Transformed::yes(plan)),
            None => Ok(Transformed::no(node)),
        };
    }
    let passes_columns_on = match &node {
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => false,
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Window(_) => true,
        _ => return Ok(Transformed::no(node)),
    };
    let node = with_single_rows(node)?;
    let [input] = node.data.inputs()[..] else { return Ok(node) };
    let values = values_within(&node.data, input.schema())?;
    if values.is_empty() {
        return Ok(node);
    }
    let mut source = input.clone();
    for (at, value) in values.iter().enumerate() {
        source = value.beside(source, &format!("{VALUE}{at}"))?;
    }
    let names = NamePreserver::new(&node.data);
    let columns: Vec<Expr> = node.data.schema().columns().into_iter().map(Expr::Column).collect();
    let exprs = node.data.expressions().into_iter().map(|expr| {
        let name = names.save(&expr);
        let replaced = expr.transform_down(|part| {
            let Expr::ScalarSubquery(subquery) = &part else { return Ok(Transformed::no(part)) };
            Ok(match values.iter().position(|value| value.subquery == *subquery) {
                Some(at) => Transformed::yes(ident(format!("{VALUE}{at}"))),
                None => Transformed::no(part),
            })
        })?;
        Ok(name.restore(replaced.data))
    });
    let rewritten = node.data.with_new_exprs(exprs.collect::<Result<_>>()?, vec![source])?;
    let rewritten = match passes_columns_on {
        true => LogicalPlanBuilder::from(rewritten).project(columns)?.build()?,
        false => rewritten,
    };
    Ok(Transformed::yes(rewritten))
}

/// `a JOIN LATERAL (SELECT count(*) …)`: rows of `a`, each with the total's columns beside it.
fn lateral_total(join: &Join) -> Result<Option<LogicalPlan>> {
    let subquery = match &*join.right {
        LogicalPlan::SubqueryAlias(node) => &node.input,
        _ => &join.right,
    };
    let (LogicalPlan::Subquery(subquery), JoinType::Inner | JoinType::Left) =
        (&**subquery, join.join_type)
    else {
        return Ok(None);
    };
    let Some(value) = Value::of(subquery, join.left.schema(), &|_| false)? else {
        return Ok(None);
    };
    let is_left = join.join_type == JoinType::Left;
    let (mut grouped, Row { values, having }) = value.grouped((*join.left).clone())?;
    if let Some(having) = having.clone().filter(|_| !is_left) {
        grouped = grouped.filter(having)?;
    }
    let of_left: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let names = join.right.schema().columns();
    let beside = |values: Vec<Expr>, condition: Option<Expr>| {
        let named = values.into_iter().zip(&names).map(|(value, name)| {
            let value = match condition.clone().filter(|_| is_left) {
                Some(condition) => when(condition, value).end()?,
                None => value,
            };
            Ok(value.alias_qualified(name.relation.clone(), name.name.clone()))
        });
        let named = named.collect::<Result<Vec<_>>>()?;
        Ok::<_, DataFusionError>(of_left.iter().cloned().chain(named).collect::<Vec<_>>())
    };
    let values = values.into_iter().map(|(_, value)| value).collect();
    let mut joined = grouped.project(beside(values, having)?)?;
    let equal = join.on.iter().map(|(left, right)| left.clone().eq(right.clone()));
    if let Some(condition) = conjunction(equal.chain(join.filter.clone())) {
        joined = match is_left {
            true => {
                let columns = names.iter().cloned().map(Expr::Column).collect();
                joined.project(beside(columns, Some(condition))?)?
            }
            false => joined.filter(condition)?,
        };
    }
    joined.build().map(Some)
}

/// Makes totals of correlated subqueries that are none.
fn with_single_rows(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        let single = expr.transform_up(|part| match part {
            Expr::ScalarSubquery(subquery)
                if !subquery.outer_ref_columns.is_empty()
                    && total_of(&subquery.subquery).is_none() =>
            {
                Ok(Transformed::yes(Expr::ScalarSubquery(only_row_of(subquery)?)))
            }
            part => Ok(Transformed::no(part)),
        })?;
        Ok(single.update_data(|expr| name.restore(expr)))
    })
}

fn only_row_of(subquery: Subquery) -> Result<Subquery> {
    let value = Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)));
    let name = value.schema_name().to_string();
    let nothing: [Expr; 0] = [];
    let totals = [first_value(value, vec![]).alias(format!("{TOTAL}0")), count_all()];
    let rows = LogicalPlanBuilder::from(Arc::clone(&subquery.subquery));
    let total = rows.aggregate(nothing, totals)?.build()?;
    let columns = total.schema().columns().into_iter().map(Expr::Column).collect();
    let only = ScalarUDF::from(OnlyRow(Signature::any(2, Volatility::Immutable)));
    let only = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(only), columns));
    let plan = LogicalPlanBuilder::from(total).project([only.alias(name)])?.build()?;
    Ok(Subquery {
        outer_ref_columns: subquery.outer_ref_columns,
        subquery: Arc::new(plan),
        spans: Spans::new(),
    })
}

/// The aggregate without groups below what only names, computes or orders its row.
fn total_of(plan: &LogicalPlan) -> Option<&Aggregate> {
    match plan {
        LogicalPlan::Aggregate(node) if node.group_expr.is_empty() => Some(node),
        LogicalPlan::Projection(node) => total_of(&node.input),
        LogicalPlan::SubqueryAlias(node) => total_of(&node.input),
        LogicalPlan::Filter(node) => total_of(&node.input),
        LogicalPlan::Sort(node) if node.fetch.is_none() => total_of(&node.input),
        _ => None,
    }
}

fn values_within(node: &LogicalPlan, schema: &DFSchema) -> Result<Vec<Value>> {
    let mut values: Vec<Value> = Vec::new();
    node.apply_expressions(|expr| {
        expr.apply(|part| {
            if let Expr::ScalarSubquery(subquery) = part
                && !values.iter().any(|value| value.subquery == *subquery)
            {
                values.extend(Value::of(subquery, schema, &is_equality)?);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(values)
}

/// A total over rows that are chosen by the outer row.
struct Value {
    subquery: Subquery,
    aggregates: Vec<Expr>,
    /// All rows that any outer row may choose, without its conditions.
    rows: LogicalPlan,
    conditions: Vec<Expr>,
}

impl Value {
    /// `None` where nothing is right, and where DataFusion's own rule is: if all conditions are of
    /// its kind, and nothing else is of the outer row, which has the columns of `schema`.
    fn of(
        subquery: &Subquery,
        schema: &DFSchema,
        is_of_its_kind: &dyn Fn(&Expr) -> bool,
    ) -> Result<Option<Self>> {
        let of_this_row = |expr: &Expr| match expr {
            Expr::OuterReferenceColumn(_, column) => schema.has_column(column),
            _ => true,
        };
        let outer = subquery.subquery.all_out_ref_exprs();
        if outer.is_empty() || !outer.iter().all(of_this_row) {
            return Ok(None);
        }
        let Some(total) = total_of(&subquery.subquery) else { return Ok(None) };
        let Some((rows, conditions)) = Conditions::default().taken_out(&total.input)? else {
            return Ok(None);
        };
        let is_outer_elsewhere = total.aggr_expr.iter().any(Expr::contains_outer)
            || !outer_above(&subquery.subquery)?.is_empty();
        if !is_outer_elsewhere && !conditions.is_empty() && conditions.iter().all(is_of_its_kind) {
            return Ok(None);
        }
        let (subquery, aggregates) = (subquery.clone(), total.aggr_expr.clone());
        Ok(Some(Self { subquery, aggregates, rows, conditions }))
    }

    /// `source` with the value of each of its rows as a column more.
    fn beside(&self, source: LogicalPlan, name: &str) -> Result<LogicalPlan> {
        let columns: Vec<Expr> = source.schema().columns().into_iter().map(Expr::Column).collect();
        let (grouped, Row { values, having }) = self.grouped(source)?;
        let value = values.into_iter().next().map_or_else(|| lit(ScalarValue::Null), |(_, of)| of);
        let value = match having {
            Some(having) => when(having, value).end()?,
            None => value,
        };
        grouped.project(columns.into_iter().chain([value.alias(name)]))?.build()
    }

    /// The rows of `source`, each with its totals, and what is made of them.
    fn grouped(&self, source: LogicalPlan) -> Result<(LogicalPlanBuilder, Row)> {
        let columns: Vec<Expr> = source.schema().columns().into_iter().map(Expr::Column).collect();
        let numbered = LogicalPlanBuilder::from(source).window([row_number()])?;
        let number =
            numbered.schema().columns().pop().map(|column| Expr::Column(column).alias(ROW));
        let numbered = numbered.project(columns.into_iter().chain(number))?;
        let keys: Vec<Expr> = numbered.schema().columns().into_iter().map(Expr::Column).collect();

        let inner = self.rows.schema().columns();
        let renamed = inner
            .iter()
            .enumerate()
            .map(|(at, column)| Expr::Column(column.clone()).alias(format!("{INNER}{at}")));
        let rows = LogicalPlanBuilder::from(self.rows.clone());
        let rows = rows.project(renamed.chain([lit(true).alias(THERE)]))?.build()?;
        let of_joined = |expr: &Expr| {
            substituted(expr, &|column| {
                inner
                    .iter()
                    .position(|other| other == column)
                    .map(|at| ident(format!("{INNER}{at}")))
            })
        };
        let conditions = self.conditions.iter().map(of_joined).collect::<Result<Vec<_>>>()?;
        let condition = conjunction(conditions).unwrap_or_else(|| lit(true));
        let joined = numbered.join_on(rows, JoinType::Left, [condition])?;
        let aggregates = self.aggregates.iter().enumerate().map(|(at, aggregate)| {
            let aggregate = of_there(of_joined(&aggregate.clone().unalias())?)?;
            Ok(aggregate.alias(format!("{TOTAL}{at}")))
        });
        let grouped = joined.aggregate(keys, aggregates.collect::<Result<Vec<_>>>()?)?;
        Ok((grouped, Row::of(&self.subquery.subquery)?))
    }
}

/// What the nodes above a total make of its row.
struct Row {
    values: Vec<(Column, Expr)>,
    having: Option<Expr>,
}

impl Row {
    fn of(plan: &LogicalPlan) -> Result<Self> {
        let named = |values: Vec<Expr>| plan.schema().columns().into_iter().zip(values).collect();
        Ok(match plan {
            LogicalPlan::Projection(node) => {
                let below = Self::of(&node.input)?;
                let values = node.expr.iter().map(|expr| below.computed(&expr.clone().unalias()));
                Self { values: named(values.collect::<Result<_>>()?), ..below }
            }
            LogicalPlan::SubqueryAlias(node) => {
                let below = Self::of(&node.input)?;
                let values = below.values.into_iter().map(|(_, value)| value).collect();
                Self { values: named(values), ..below }
            }
            LogicalPlan::Filter(node) => {
                let below = Self::of(&node.input)?;
                let having = below.computed(&node.predicate)?;
                let having = below.having.iter().cloned().chain([having]);
                Self { having: conjunction(having), values: below.values }
            }
            LogicalPlan::Sort(node) => Self::of(&node.input)?,
            total => {
                let count = total.schema().fields().len();
                let values = (0..count).map(|at| ident(format!("{TOTAL}{at}"))).collect();
                Self { values: named(values), having: None }
            }
        })
    }

    fn computed(&self, expr: &Expr) -> Result<Expr> {
        substituted(expr, &|column| {
            let found = self.values.iter().find(|(name, _)| name == column);
            found.map(|(_, value)| value.clone())
        })
    }
}

/// Columns as `place` says, and those of the outer row as columns.
fn substituted(expr: &Expr, place: &dyn Fn(&Column) -> Option<Expr>) -> Result<Expr> {
    let replaced = expr.clone().transform_down(|part| {
        Ok(match part {
            // What stands in its place is not looked at again.
            Expr::OuterReferenceColumn(_, column) => {
                Transformed::new(Expr::Column(column), true, TreeNodeRecursion::Jump)
            }
            Expr::Column(column) => match place(&column) {
                Some(of) => Transformed::new(of, true, TreeNodeRecursion::Jump),
                None => Transformed::no(Expr::Column(column)),
            },
            part => Transformed::no(part),
        })
    })?;
    Ok(replaced.data)
}

/// An aggregate of the rows that are there.
fn of_there(expr: Expr) -> Result<Expr> {
    let filtered = expr.transform_down(|part| match part {
        Expr::AggregateFunction(mut aggregate) => {
            let there = ident(THERE);
            let filter = aggregate.params.filter.take();
            aggregate.params.filter = Some(Box::new(match filter {
                Some(filter) => filter.and(there),
                None => there,
            }));
            Ok(Transformed::new(Expr::AggregateFunction(aggregate), true, TreeNodeRecursion::Jump))
        }
        part => Ok(Transformed::no(part)),
    })?;
    Ok(filtered.data)
}

/// Whether a column is compared with something of the outer row by `=`.
fn is_equality(condition: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else {
        return false;
    };
    let parted = |inner: &Expr, outer: &Expr| {
        matches!(inner, Expr::Column(_)) && outer.contains_outer() && !outer.any_column_refs()
    };
    parted(left, right) || parted(right, left)
}

/// What of the outer row the nodes above a total name.
fn outer_above(plan: &LogicalPlan) -> Result<Vec<Expr>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        if matches!(node, LogicalPlan::Aggregate(_)) {
            return Ok(TreeNodeRecursion::Stop);
        }
        found.extend(node.expressions().into_iter().filter(Expr::contains_outer));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Takes the conditions on the outer row out of a plan, through nodes that they may pass.
#[derive(Default)]
struct Conditions {
    handed_up: usize,
}

/// A plan without conditions on the outer row, and those, over its columns. `None` where one cannot
/// be taken out without changing the rows.
type Parted = Option<(LogicalPlan, Vec<Expr>)>;

impl Conditions {
    fn taken_out(&mut self, plan: &LogicalPlan) -> Result<Parted> {
        if plan.all_out_ref_exprs().is_empty() {
            return Ok(Some((plan.clone(), Vec::new())));
        }
        match plan {
            LogicalPlan::Filter(node) => self.of_filter(node),
            LogicalPlan::Projection(node) if !node.expr.iter().any(Expr::contains_outer) => {
                self.of_projection(node)
            }
            LogicalPlan::SubqueryAlias(node) => self.of_alias(node),
            LogicalPlan::Join(node)
                if node.join_type == JoinType::Inner
                    && !plan.expressions().iter().any(Expr::contains_outer) =>
            {
                let Some((left, mut conditions)) = self.taken_out(&node.left)? else {
                    return Ok(None);
                };
                let Some((right, others)) = self.taken_out(&node.right)? else { return Ok(None) };
                conditions.extend(others);
                let joined = plan.with_new_exprs(plan.expressions(), vec![left, right])?;
                Ok(Some((joined, conditions)))
            }
            _ => Ok(None),
        }
    }

    fn of_filter(&mut self, node: &Filter) -> Result<Parted> {
        let Some((input, mut conditions)) = self.taken_out(&node.input)? else { return Ok(None) };
        let parts = split_conjunction_owned(node.predicate.clone());
        let (outer, own): (Vec<_>, Vec<_>) = parts.into_iter().partition(Expr::contains_outer);
        conditions.extend(outer);
        let kept = LogicalPlanBuilder::from(input);
        let kept = match conjunction(own) {
            Some(own) => kept.filter(own)?,
            None => kept,
        };
        Ok(Some((kept.build()?, conditions)))
    }

    /// Columns that a condition compares are handed on under names of their own.
    fn of_projection(&mut self, node: &Projection) -> Result<Parted> {
        let Some((input, conditions)) = self.taken_out(&node.input)? else { return Ok(None) };
        let mut exprs = node.expr.clone();
        let conditions = conditions.into_iter().map(|condition| {
            with_columns(condition, |column| {
                let name = format!("{COMPARED}{}", self.handed_up);
                self.handed_up += 1;
                exprs.push(Expr::Column(column).alias(name.clone()));
                Column::from_name(name)
            })
        });
        let conditions = conditions.collect::<Result<Vec<Expr>>>()?;
        let plan = LogicalPlanBuilder::from(input).project(exprs)?.build()?;
        Ok(Some((plan, conditions)))
    }

    fn of_alias(&mut self, node: &SubqueryAlias) -> Result<Parted> {
        let Some((input, conditions)) = self.taken_out(&node.input)? else { return Ok(None) };
        let conditions = conditions.into_iter().map(|condition| {
            with_columns(condition, |column| Column::new(Some(node.alias.clone()), column.name))
        });
        let conditions = conditions.collect::<Result<Vec<Expr>>>()?;
        let plan = LogicalPlanBuilder::from(input).alias(node.alias.clone())?.build()?;
        Ok(Some((plan, conditions)))
    }
}

fn with_columns(expr: Expr, mut renamed: impl FnMut(Column) -> Column) -> Result<Expr> {
    let named = expr.transform_up(|part| match part {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(renamed(column)))),
        part => Ok(Transformed::no(part)),
    })?;
    Ok(named.data)
}

/// Its first argument, if its second, the count of rows, is no more than one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OnlyRow(Signature);

impl ScalarUDFImpl for OnlyRow {
    fn name(&self) -> &str {
        "only_row"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, count] = args.args.as_slice() else { return exec_err!("only_row takes two") };
        let counts = count.to_array(args.number_rows)?;
        let counts = datafusion::common::cast::as_int64_array(&counts)?;
        if counts.iter().flatten().any(|count| count > 1) {
            return exec_err!("a subquery that stands as a value gave more than one row");
        }
        Ok(value.clone())
    }
}
