//! Rules of DataFusion's optimizer, and the nodes that they must leave alone.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::join_keys::JoinKeys;
use super::long_constants::LongConstants;
use super::union_names::UnionNames;
use crate::engine::patience::check;

/// What a condition may have more of below a projection than above it.
const ADDED_PARTS_MAX: usize = 5_000;

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// `rules`, some of them with exceptions, and none for longer than somebody waits.
pub fn excepted(rules: Vec<Rule>) -> Vec<Rule> {
    let (filters, repeated) = (PushDownFilter::new(), EliminateDuplicatedExpr::new());
    let distinct = SingleDistinctToGroupBy::new();
    let with_exception = |rule: Rule| {
        let except: fn(&LogicalPlan) -> bool = match rule.name() {
            name if name == filters.name() => |plan| is_over_total(plan) || multiplies(plan),
            name if name == repeated.name() => is_sort,
            name if name == distinct.name() => aggregates_decimals,
            _ => |_| false,
        };
        let takes_filters = rule.name() == filters.name();
        Arc::new(Excepted { rule, except, takes_filters }) as Rule
    };
    let crosses = EliminateCrossJoin::new();
    let with_what_it_needs = |rule: Rule| {
        let before = (rule.name() == crosses.name()).then(|| Arc::new(JoinKeys) as Rule);
        before.into_iter().chain([rule])
    };
    // Before any that leaves out parts.
    let first: Rule = Arc::new(UnionNames);
    let last: [Rule; 2] = [Arc::new(ExtractEquijoinPredicate::new()), Arc::new(LongConstants)];
    let rules = rules.into_iter().flat_map(with_what_it_needs);
    [first].into_iter().chain(rules).chain(last).map(with_exception).collect()
}

/// A condition over a total says whether there is the total's one row, also where it names no column.
/// DataFusion 55.2 moves such conditions below the aggregate, which then has one row all the same; it
/// does so in HAVING, above subqueries, and in joins whose ON can be decided early.
fn is_over_total(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    let mut input = &*filter.input;
    // The rule makes one of several filters before it goes on.
    while let LogicalPlan::Filter(filter) = input {
        input = &filter.input;
    }
    match input {
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) => {
            group_expr.is_empty() || matches!(group_expr.as_slice(), [Expr::GroupingSet(_)])
        }
        _ => false,
    }
}

/// A condition below a projection names what that computes, each time anew: of columns that are computed
/// of columns twice, twenty times over, a million times.
fn multiplies(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    let (mut predicates, mut input) = (vec![&filter.predicate], &*filter.input);
    while let LogicalPlan::Filter(filter) = input {
        predicates.push(&filter.predicate);
        input = &filter.input;
    }
    let LogicalPlan::Projection(projection) = input else { return false };
    let named = predicates.into_iter().flat_map(columns_of);
    let mut added = 0;
    for column in named {
        if let Some(at) = projection.schema.maybe_index_of_column(column) {
            added += parts_of(&projection.expr[at]);
        }
    }
    added > ADDED_PARTS_MAX
}

/// Each as often as it is named.
fn columns_of(expr: &Expr) -> Vec<&Column> {
    let mut columns = Vec::new();
    let all = expr.apply(|part| {
        columns.extend(part.try_as_col());
        Ok(TreeNodeRecursion::Continue)
    });
    all.map_or_else(|_| Vec::new(), |_| columns)
}

fn parts_of(expr: &Expr) -> usize {
    let mut parts = 0;
    let all = expr.apply(|_| {
        parts += 1;
        Ok(TreeNodeRecursion::Continue)
    });
    all.map_or(0, |_| parts)
}

/// A term of ORDER BY may be left out where the terms before it decide it. DataFusion 55.2 takes a
/// column that is unique in one table for one that is unique behind a join.
fn is_sort(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Sort(_))
}

/// Groups of what `count(DISTINCT …)` counts are summed once more, and a sum of decimals has more
/// digits each time.
fn aggregates_decimals(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(node) = plan else { return false };
    node.schema.fields().iter().any(|field| field.data_type().is_decimal())
}

/// Conditions with the constant to the right. DataFusion 55.2 holds `0 = k` against `k = 0` as if they were
/// two values that `k` must have, and takes `5 > k` for no sharper than `k <= 5`. In ON it leaves the
/// constant where it is, and takes what follows for the other side from there: `LEFT JOIN b ON a.k = b.k
/// AND 0 = a.k` found nothing (apache/datafusion#24763).
fn with_constants_last(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_)) {
        return Ok(plan);
    }
    let turned = plan.map_expressions(|expr| {
        expr.transform_down(|part| match part {
            Expr::BinaryExpr(mut both)
                if both.left.as_literal().is_some() && both.right.as_literal().is_none() =>
            {
                let Some(op) = both.op.swap() else {
                    return Ok(Transformed::no(Expr::BinaryExpr(both)));
                };
                both.op = op;
                std::mem::swap(&mut both.left, &mut both.right);
                Ok(Transformed::yes(Expr::BinaryExpr(both)))
            }
            part => Ok(Transformed::no(part)),
        })
    })?;
    Ok(turned.data)
}

#[derive(Debug)]
struct Excepted {
    rule: Rule,
    except: fn(&LogicalPlan) -> bool,
    /// Whether it reads conditions, and moves them.
    takes_filters: bool,
}

impl OptimizerRule for Excepted {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        check()?;
        let plan = if self.takes_filters { with_constants_last(plan)? } else { plan };
        if (self.except)(&plan) {
            Ok(Transformed::no(plan))
        } else {
            self.rule.rewrite(plan, config)
        }
    }
}
