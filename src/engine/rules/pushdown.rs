//! Which of DataFusion's rules that move predicates down a physical plan are used, and where.
//!
//! Those of DataFusion 55 find the columns of a predicate again by name in the plan below, and take
//! the first of that name. Over a join whose sides both have `orders`, a predicate on one is then
//! put to the other, and rows are lost. The first pass of the rule, for predicates of the statement,
//! is left out: the optimizer of logical plans has moved those already, by qualified names. The
//! second, for what TopK and joins learn while they run, works on the parts of a plan in which every
//! name finds its own column.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{JoinType, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::HashJoinExec;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// `rules` with the ones that lose rows left out or fenced in.
pub fn fenced(rules: Vec<Rule>) -> Vec<Rule> {
    let (first, second) = (FilterPushdown::new(), FilterPushdown::new_post_optimization());
    rules
        .into_iter()
        .filter(|rule| rule.name() != first.name())
        .map(|rule| match rule.name() == second.name() {
            true => Arc::new(ByName(rule)) as Rule,
            false => rule,
        })
        .collect()
}

/// A rule that finds columns by name, on those parts of a plan where that finds the right ones.
#[derive(Debug)]
struct ByName(Rule);

impl PhysicalOptimizerRule for ByName {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (plan, is_safe) = self.walk(plan, config)?;
        if is_safe { self.0.optimize(plan, config) } else { Ok(plan) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

impl ByName {
    /// Applies the rule to the largest safe parts below `plan`. A plan that is safe itself comes
    /// back as it was.
    fn walk(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
        let mut children = Vec::new();
        for child in plan.children() {
            children.push(self.walk(Arc::clone(child), config)?);
        }
        if children.iter().all(|(_, is_safe)| *is_safe) && keeps_names_apart(&plan) {
            return Ok((plan, true));
        }
        let mut optimized = Vec::with_capacity(children.len());
        for (child, is_safe) in children {
            optimized.push(if is_safe { self.0.optimize(child, config)? } else { child });
        }
        Ok((replace_children_if_necessary(plan, optimized)?, false))
    }
}

/// Whether a column of `node`, looked for by its name below, is the one that it is made of.
fn keeps_names_apart(node: &Arc<dyn ExecutionPlan>) -> bool {
    let children = node.children();
    if !children.iter().all(|child| has_unique_names(&child.schema())) {
        return false;
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return keeps_keys_apart(join);
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        let input = aggregate.input().schema();
        let groups = aggregate.group_expr().expr();
        return groups.iter().all(|(expression, name)| is_first_of_name(expression, name, &input));
    }
    match node.name() {
        "ProjectionExec" => has_unique_names(&node.schema()),
        "UnionExec" | "InterleaveExec" => {
            children.iter().all(|child| names(&child.schema()).eq(names(&node.schema())))
        }
        _ => true,
    }
}

/// A predicate on a key of the side that a semi join keeps is put to the other side too.
fn keeps_keys_apart(join: &HashJoinExec) -> bool {
    let (left, right) = (join.left().schema(), join.right().schema());
    let name = |key: &Arc<dyn PhysicalExpr>| {
        key.downcast_ref::<Column>().map(|column| column.name().to_owned())
    };
    join.on().iter().all(|(of_left, of_right)| match join.join_type() {
        JoinType::LeftSemi => name(of_left).is_none_or(|n| is_first_of_name(of_right, &n, &right)),
        JoinType::RightSemi => name(of_right).is_none_or(|n| is_first_of_name(of_left, &n, &left)),
        _ => true,
    })
}

/// Whether `name` leads nowhere in `schema`, or to the column that `expression` is.
fn is_first_of_name(expression: &Arc<dyn PhysicalExpr>, name: &str, schema: &Schema) -> bool {
    let column = expression.downcast_ref::<Column>().map(Column::index);
    schema.index_of(name).map_or(true, |found| column == Some(found))
}

fn names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.fields().iter().map(|field| field.name().as_str())
}

fn has_unique_names(schema: &Schema) -> bool {
    let mut seen = HashSet::new();
    names(schema).all(|name| seen.insert(name))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use datafusion::common::NullEquality;
    use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
    use datafusion::datasource::source::DataSourceExec;
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::joins::PartitionMode;
    use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
    use datafusion::prelude::SessionContext;

    use super::*;

    type Plan = Arc<dyn ExecutionPlan>;

    /// A scan of no files, which takes every predicate.
    fn scan() -> Plan {
        let column = |name| Field::new(name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(vec![column("k"), column("x")]));
        let source = Arc::new(ParquetSource::new(schema));
        let url = ObjectStoreUrl::local_filesystem();
        DataSourceExec::from_data_source(FileScanConfigBuilder::new(url, source).build())
    }

    fn join(left: Plan, right: Plan, on: [usize; 2]) -> Plan {
        let key = |side: &Plan, at: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(side.schema().field(at).name(), at))
        };
        let on = vec![(key(&left, on[0]), key(&right, on[1]))];
        let (mode, nulls) = (PartitionMode::CollectLeft, NullEquality::NullEqualsNothing);
        let (kind, is_null_aware) = (JoinType::Inner, false);
        let join =
            HashJoinExec::try_new(left, right, on, None, &kind, None, mode, nulls, is_null_aware);
        Arc::new(join.unwrap())
    }

    /// The columns at `at`, under their names.
    fn project(input: Plan, at: [usize; 4]) -> Plan {
        let schema = input.schema();
        let columns = at.map(|at| {
            let name = schema.field(at).name().clone();
            ProjectionExpr { expr: Arc::new(Column::new(&name, at)), alias: name }
        });
        Arc::new(ProjectionExec::try_new(columns, input).unwrap())
    }

    /// Which of the scans, from above, are given predicates by `rule`.
    fn filtered(rule: &dyn PhysicalOptimizerRule, plan: Plan) -> Vec<bool> {
        let options = SessionContext::new().copied_config().options().as_ref().clone();
        let plan = rule.optimize(plan, &options).unwrap();
        let text = displayable(plan.as_ref()).indent(false).to_string();
        let scans = text.lines().filter(|line| line.contains("DataSourceExec"));
        scans.map(|line| line.contains("predicate=")).collect()
    }

    #[test]
    fn what_a_join_learnt_of_one_side_went_to_the_other() {
        let post = FilterPushdown::new_post_optimization();
        // `x` of the inner join's right side, behind a projection that turns its sides round.
        let inner = || project(join(scan(), scan(), [0, 0]), [2, 3, 0, 1]);
        let outer = || join(scan(), inner(), [1, 1]);
        // The inner join puts its own predicate to the right side, and the outer one to the left.
        assert_eq!(filtered(&post, outer()), [false, true, true]);
        assert_eq!(filtered(&ByName(Arc::new(post)), outer()), [false, false, true]);
    }
}
