//! Whether a query separates by interval: executed once over several of them, it gives exactly the
//! rows that it gives for each alone. Decided by what every node of its plan does with rows of
//! different intervals; a node of which that is not known does not separate.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use chrono_tz::Tz;
use datafusion::common::Column;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, Filter, Join, JoinType, LogicalPlan, Operator, Union,
};

use super::unbound::{depends, plan_depends, renamed};
use crate::interval::Every;

/// What does not separate, in words for whoever wrote the query.
type Found<T> = std::result::Result<T, String>;

/// Whether `plan` separates by the intervals of `every`, and the interval of each row is the one that
/// its column `time` lies in; if not, why.
pub fn separates(plan: &LogicalPlan, time: &str, every: Every, timezone: Tz) -> Found<()> {
    let Rows::Split(known) = (Split { every, timezone }).rows(plan)? else {
        return Err("no condition says which rows belong to an interval".to_owned());
    };
    let is_time = |known: &Known| match &known.value {
        Expr::Column(column) => column.name == time && known.is_read_as(plan, timezone),
        _ => false,
    };
    if known.iter().any(is_time) {
        return Ok(());
    }
    Err(format!("`{time}` is not what the conditions compare with `$start` and `$end`"))
}

/// The rows of a node.
enum Rows {
    /// They are the same for every interval.
    Same,
    /// The rows of several intervals are those of each, put together. Each of these values, which
    /// are of the node's output, says which interval a row belongs to.
    Split(Vec<Known>),
}

#[derive(Clone, PartialEq)]
struct Known {
    value: Expr,
    reading: Reading,
}

/// How a value says it.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// As an instant in the interval; a date is its midnight in UTC.
    Instant,
    /// As a day of the model's time zone.
    LocalDay,
}

impl Known {
    fn instant(value: Expr) -> Self {
        Self { value, reading: Reading::Instant }
    }

    /// Whether a table's time column of this value lies in the interval.
    fn is_read_as(&self, plan: &LogicalPlan, timezone: Tz) -> bool {
        let is_date = type_of(&self.value, plan) == Some(DataType::Date32);
        match self.reading {
            Reading::Instant => !is_date || timezone == Tz::UTC,
            Reading::LocalDay => is_date,
        }
    }
}

struct Split {
    every: Every,
    timezone: Tz,
}

impl Split {
    fn rows(&self, plan: &LogicalPlan) -> Found<Rows> {
        if !plan_depends(plan) {
            return Ok(Rows::Same);
        }
        if !matches!(plan, LogicalPlan::Filter(_)) && plan.expressions().iter().any(depends) {
            return Err(
                "`$start` or `$end` is used elsewhere than in `value >= $start AND value < $end`"
                    .into(),
            );
        }
        match plan {
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Projection(projection) => {
                let rows = self.rows(&projection.input)?;
                Ok(self.projected(rows, &projection.input, &projection.expr, plan))
            }
            LogicalPlan::SubqueryAlias(alias) => Ok(match self.rows(&alias.input)? {
                Rows::Same => Rows::Same,
                Rows::Split(known) => {
                    let renamed = known.into_iter().filter_map(|known| {
                        Some(Known { value: renamed(&known.value, &alias.input, plan)?, ..known })
                    });
                    Rows::Split(renamed.collect())
                }
            }),
            LogicalPlan::Repartition(repartition) => self.rows(&repartition.input),
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.rows(&sort.input),
            LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => {
                Err("LIMIT takes some rows of all that there are".to_owned())
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let columns: Vec<Expr> =
                    input.schema().columns().into_iter().map(Expr::Column).collect();
                let rows = self.rows(input)?;
                self.check_grouped(&rows, input, &columns, "DISTINCT compares rows")?;
                Ok(rows)
            }
            LogicalPlan::Distinct(Distinct::On(on)) => {
                let rows = self.rows(&on.input)?;
                self.check_grouped(&rows, &on.input, &on.on_expr, "DISTINCT ON compares rows")?;
                Ok(self.projected(rows, &on.input, &on.select_expr, plan))
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(plan, aggregate),
            LogicalPlan::Window(window) => {
                let rows = self.rows(&window.input)?;
                for expr in &window.window_expr {
                    let Expr::WindowFunction(function) = expr.clone().unalias() else {
                        return Err("a window function is not understood".to_owned());
                    };
                    let by = &function.params.partition_by;
                    self.check_grouped(&rows, &window.input, by, "a window looks at rows")?;
                }
                Ok(rows)
            }
            LogicalPlan::Union(union) => self.union(plan, union),
            LogicalPlan::Join(join) => self.join(join),
            other => Err(format!("{} is not known to separate", name_of(other))),
        }
    }

    fn filter(&self, filter: &Filter) -> Found<Rows> {
        let rows = self.rows(&filter.input)?;
        let conditions = split_conjunction(&filter.predicate);
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        for condition in conditions.into_iter().filter(|condition| depends(condition)) {
            let (value, is_lower) = self.edge(condition, &filter.input).ok_or_else(|| {
                format!("`{condition}` is not `value >= $start` or `value < $end`")
            })?;
            if is_lower { lower.push(value) } else { upper.push(value) }
        }
        if lower.is_empty() && upper.is_empty() {
            return Ok(rows);
        }
        let apart = || "`$start` and `$end` are compared with different values".to_owned();
        let (Some(value), true) = (
            lower.first().cloned(),
            lower.iter().chain(&upper).all(|value| Some(value) == lower.first())
                && !upper.is_empty(),
        ) else {
            return Err(apart());
        };
        let here = Known::instant(value);
        match rows {
            Rows::Same => Ok(Rows::Split(vec![here])),
            Rows::Split(known) if known.contains(&here) => Ok(Rows::Split(known)),
            Rows::Split(_) => Err(apart()),
        }
    }

    /// The value of `value >= $start` or `value < $end`, and which of them it is.
    fn edge(&self, condition: &Expr, input: &LogicalPlan) -> Option<(Expr, bool)> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
        let (value, operator, bound) = match depends(left) {
            true => (right, op.swap()?, left),
            false => (left, *op, right),
        };
        let is_lower = match operator {
            Operator::GtEq => true,
            Operator::Lt => false,
            _ => return None,
        };
        let placeholder = match &**bound {
            Expr::Cast(cast) => match cast.field.data_type() {
                DataType::Timestamp(..) => &*cast.expr,
                // The day of an edge is the edge where days begin when intervals do.
                DataType::Date32 if self.has_utc_days() => &*cast.expr,
                _ => return None,
            },
            other => other,
        };
        let Expr::Placeholder(placeholder) = placeholder else { return None };
        let is_own = placeholder.id == if is_lower { "$start" } else { "$end" };
        (is_own && !depends(value)).then(|| (bare(value, input).clone(), is_lower))
    }

    fn has_utc_days(&self) -> bool {
        self.timezone == Tz::UTC && !matches!(self.every, Every::Hours(_))
    }

    /// What is known of `rows`, which are those of `input`, in the columns that `exprs` make of them.
    fn projected(
        &self,
        rows: Rows,
        input: &LogicalPlan,
        exprs: &[Expr],
        output: &LogicalPlan,
    ) -> Rows {
        let Rows::Split(known) = rows else { return Rows::Same };
        let found = exprs.iter().zip(output.schema().columns()).filter_map(|(expr, column)| {
            let reading = self.reading(&expr.clone().unalias(), input, &known)?;
            Some(Known { value: Expr::Column(column), reading })
        });
        Rows::Split(found.collect())
    }

    /// How `expr` over `input` says which interval a row belongs to, if it does.
    fn reading(&self, expr: &Expr, input: &LogicalPlan, known: &[Known]) -> Option<Reading> {
        let expr = bare(expr, input);
        if let Some(known) = known.iter().find(|known| known.value == *expr) {
            return Some(known.reading);
        }
        let is_instant = |expr: &Expr| {
            let expr = bare(expr, input);
            known.iter().any(|known| known.reading == Reading::Instant && known.value == *expr)
        };
        // In another zone its days are others.
        let is_read_in_utc = |expr: &Expr| match type_of(expr, input) {
            Some(DataType::Timestamp(_, zone)) => is_utc(&zone),
            Some(DataType::Date32) => true,
            _ => false,
        };
        match expr {
            Expr::Cast(cast) if *cast.field.data_type() == DataType::Date32 => {
                if self.has_utc_days() && is_read_in_utc(&cast.expr) && is_instant(&cast.expr) {
                    return Some(Reading::Instant);
                }
                let Expr::Cast(zoned) = &*cast.expr else { return None };
                let DataType::Timestamp(_, Some(zone)) = zoned.field.data_type() else {
                    return None;
                };
                let is_local = zone.parse() == Ok(self.timezone)
                    && !matches!(self.every, Every::Hours(_))
                    && is_instant(&zoned.expr)
                    && is_zoned(&zoned.expr, input);
                is_local.then_some(Reading::LocalDay)
            }
            Expr::ScalarFunction(function) if function.name() == "date_trunc" => {
                let [Expr::Literal(unit, _), value] = function.args.as_slice() else { return None };
                let unit = unit.try_as_str().flatten()?.to_ascii_lowercase();
                let is_utc = self.timezone == Tz::UTC && is_read_in_utc(value);
                (is_utc && self.holds_whole(&unit) && is_instant(value)).then_some(Reading::Instant)
            }
            _ => None,
        }
    }

    /// Whether intervals in UTC are made of whole ones of `unit`.
    fn holds_whole(&self, unit: &str) -> bool {
        match unit {
            "microsecond" | "millisecond" | "second" | "minute" | "hour" => true,
            "day" => !matches!(self.every, Every::Hours(_)),
            "week" => self.every == Every::Week,
            "month" => self.every == Every::Month,
            _ => false,
        }
    }

    /// Fails unless those of `rows`, which are those of `input`, that are alike in `by` are of one
    /// interval.
    fn check_grouped(
        &self,
        rows: &Rows,
        input: &LogicalPlan,
        by: &[Expr],
        what: &str,
    ) -> Found<()> {
        let Rows::Split(known) = rows else { return Ok(()) };
        let is_by = |column: &Column| by.iter().any(|expr| *expr == Expr::Column(column.clone()));
        let is_said = known.iter().any(|known| {
            let columns = known.value.column_refs();
            !columns.is_empty() && columns.iter().all(|column| is_by(column))
        });
        let is_told =
            || by.iter().any(|expr| self.reading(&expr.clone().unalias(), input, known).is_some());
        if is_said || is_told() {
            return Ok(());
        }
        let by: Vec<String> = by.iter().map(|expr| format!("`{}`", shown(expr))).collect();
        let by = if by.is_empty() { "nothing".to_owned() } else { by.join(", ") };
        Err(format!("{what} of several intervals: it groups by {by}"))
    }

    fn aggregate(&self, plan: &LogicalPlan, aggregate: &Aggregate) -> Found<Rows> {
        let by = &aggregate.group_expr;
        if by.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err("grouping sets have totals over several intervals".to_owned());
        }
        let rows = self.rows(&aggregate.input)?;
        self.check_grouped(&rows, &aggregate.input, by, "an aggregate takes in rows")?;
        Ok(self.projected(rows, &aggregate.input, by, plan))
    }

    fn union(&self, plan: &LogicalPlan, union: &Union) -> Found<Rows> {
        let mut common: Option<Vec<(usize, Reading)>> = None;
        for input in &union.inputs {
            let Rows::Split(known) = self.rows(input)? else {
                return Err("one side of a UNION is the same for every interval".to_owned());
            };
            let places: Vec<(usize, Reading)> = known
                .iter()
                .filter_map(|known| match &known.value {
                    Expr::Column(column) => {
                        Some((input.schema().maybe_index_of_column(column)?, known.reading))
                    }
                    _ => None,
                })
                .collect();
            common = Some(match common {
                None => places,
                Some(common) => common.into_iter().filter(|at| places.contains(at)).collect(),
            });
        }
        let columns = plan.schema().columns();
        let known = common.into_iter().flatten().filter_map(|(at, reading)| {
            Some(Known { value: Expr::Column(columns.get(at)?.clone()), reading })
        });
        Ok(Rows::Split(known.collect()))
    }

    fn join(&self, join: &Join) -> Found<Rows> {
        use JoinType::{
            Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi,
        };
        let (left, right) = (self.rows(&join.left)?, self.rows(&join.right)?);
        let kind = join.join_type;
        match (left, right) {
            (Rows::Same, Rows::Same) => Ok(Rows::Same),
            (Rows::Split(known), Rows::Same)
                if matches!(kind, Inner | Left | LeftSemi | LeftAnti | LeftMark) =>
            {
                Ok(Rows::Split(known))
            }
            (Rows::Same, Rows::Split(known))
                if matches!(kind, Inner | Right | RightSemi | RightAnti | RightMark) =>
            {
                Ok(Rows::Split(known))
            }
            (Rows::Split(left), Rows::Split(right)) => {
                if join.null_aware || !self.meets(join, &left, &right) {
                    return Err("a join meets rows of different intervals".to_owned());
                }
                Ok(Rows::Split(match kind {
                    Inner => [left, right].concat(),
                    Left | LeftSemi | LeftAnti | LeftMark => left,
                    Right | RightSemi | RightAnti | RightMark => right,
                    Full => Vec::new(),
                }))
            }
            (Rows::Split(_), Rows::Same) | (Rows::Same, Rows::Split(_)) => {
                Err("a join keeps rows that are the same for every interval".to_owned())
            }
        }
    }

    /// Whether only rows of one interval meet.
    fn meets(&self, join: &Join, left: &[Known], right: &[Known]) -> bool {
        let is_same = |a: &Expr, b: &Expr| {
            let a = self.reading(a, &join.left, left);
            a.is_some() && a == self.reading(b, &join.right, right)
        };
        let conditions = join.filter.iter().flat_map(|filter| split_conjunction(filter));
        join.on.iter().any(|(a, b)| is_same(a, b))
            || conditions.into_iter().any(|condition| match condition {
                Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) => {
                    is_same(a, b) || is_same(b, a)
                }
                _ => false,
            })
    }
}

/// `expr` without casts between kinds of times, which leave an instant what it is.
fn bare<'a>(expr: &'a Expr, input: &LogicalPlan) -> &'a Expr {
    let Expr::Cast(cast) = expr else { return expr };
    let from = type_of(&cast.expr, input);
    let keeps = from.is_some_and(|from| match (&from, cast.field.data_type()) {
        // Finer or as fine.
        (DataType::Timestamp(from, zone), DataType::Timestamp(to, other)) => {
            // Between a time without a zone and one that has another than UTC, hours are added.
            let is_same = zone.is_some() && other.is_some() || is_utc(zone) && is_utc(other);
            is_same && rank(*from) <= rank(*to)
        }
        (DataType::Date32, DataType::Timestamp(_, zone)) => is_utc(zone),
        _ => false,
    });
    if keeps { bare(&cast.expr, input) } else { expr }
}

fn is_utc(zone: &Option<Arc<str>>) -> bool {
    zone.as_deref().is_none_or(|zone| zone.parse() == Ok(Tz::UTC))
}

fn rank(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

fn type_of(expr: &Expr, plan: &LogicalPlan) -> Option<DataType> {
    use datafusion::logical_expr::ExprSchemable;
    expr.get_type(plan.schema()).ok()
}

fn is_zoned(expr: &Expr, input: &LogicalPlan) -> bool {
    matches!(type_of(expr, input), Some(DataType::Timestamp(_, Some(_))))
}

fn shown(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        other => other.to_string(),
    }
}

fn name_of(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ', '(']).next().unwrap_or_default().to_owned()
}
