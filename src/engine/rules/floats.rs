//! What is a double stays one beside a decimal, as in PostgreSQL and DuckDB. DataFusion 55.2 makes
//! DECIMAL(30,15) of both (apache/datafusion#14272), where `1e-20 IN (0.0)` is true,
//! `coalesce(x, 0.0)` cuts digits off, and `1e20` fails. Its own coercion comes later, and then has
//! nothing left to do; so types that it would only know afterwards are made here as well, of CASE and
//! of UNION.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, Result, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList, InSubquery, ScalarFunction};
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::expr_rewriter::{NamePreserver, coerce_plan_expr_for_schema};
use datafusion::logical_expr::type_coercion::binary::type_union_resolution;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Case, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Union, Values,
};
use datafusion::optimizer::AnalyzerRule;

/// Functions whose values are of one type.
const ALIKE: [&str; 7] = ["coalesce", "nvl", "nvl2", "nullif", "greatest", "least", "make_array"];

/// Casts decimals beside floats. Before type coercion.
#[derive(Debug)]
pub struct KeptFloats;

impl AnalyzerRule for KeptFloats {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        // Of a changed type, what stands above learns only then.
        let is_changed = Cell::new(false);
        let rewritten = plan.transform_up_with_subqueries(|node| {
            let node = match (is_changed.get(), node) {
                (true, LogicalPlan::Union(union)) => {
                    LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?)
                }
                (true, node) => node.recompute_schema()?,
                (false, node) => node,
            };
            let rewritten = node_with_floats(node)?;
            is_changed.set(is_changed.get() || rewritten.transformed);
            Ok(rewritten)
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &str {
        "kept_floats"
    }
}

fn node_with_floats(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Union(union) => united(union),
        LogicalPlan::Values(values) => listed(values),
        LogicalPlan::Join(join) => {
            let joined = joined(join)?;
            let is_changed = joined.transformed;
            let rewritten = with_floats(joined.data)?;
            Ok(Transformed::new_transformed(rewritten.data, is_changed || rewritten.transformed))
        }
        node => with_floats(node),
    }
}

fn with_floats(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&node.inputs());
    let names = NamePreserver::new(&node);
    let rewritten = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|part| expression(part, &schema))?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })?;
    match rewritten.transformed {
        true => rewritten.map_data(LogicalPlan::recompute_schema),
        false => Ok(rewritten),
    }
}

fn expression(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut expr = match expr {
        Expr::InSubquery(predicate) => return found(predicate, schema),
        expr => expr,
    };
    let is_changed = match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => {
            alike(vec![&mut **left, &mut **right], schema)
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            alike(vec![&mut **expr, &mut **low, &mut **high], schema)
        }
        Expr::InList(InList { expr, list, .. }) => {
            alike(std::iter::once(&mut **expr).chain(list).collect(), schema)
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if ALIKE.contains(&func.name()) => {
            // The first of `nvl2` is only looked at.
            let skipped = usize::from(func.name() == "nvl2");
            alike(args.iter_mut().skip(skipped).collect(), schema)
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                when_then_expr.iter_mut().map(|(when, then)| (&mut **when, &mut **then)).unzip();
            let compared = expr.as_deref_mut();
            let is_compared =
                compared.is_some() && alike(compared.into_iter().chain(whens).collect(), schema);
            let values = thens.into_iter().chain(else_expr.as_deref_mut()).collect();
            of_one_type(values, schema) || is_compared
        }
        _ => false,
    };
    Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}

/// Casts the decimals of what is compared, if there are floats.
fn alike(sides: Vec<&mut Expr>, schema: &DFSchema) -> bool {
    let types = types(&sides, schema);
    let Some(float) = float_among(&types) else { return false };
    for (side, _) in sides.into_iter().zip(&types).filter(|(_, of)| of.is_decimal()) {
        // As PostgreSQL has it, but for a literal, which takes the form of what it stands beside.
        let target = if is_literal(side) { float.clone() } else { DataType::Float64 };
        *side = cast(std::mem::take(side), target);
    }
    true
}

/// The same of values that become one, which are numbers of any kind.
fn of_one_type(values: Vec<&mut Expr>, schema: &DFSchema) -> bool {
    let types = types(&values, schema);
    if float_among(&types).is_some() {
        return alike(values, schema);
    }
    let Some(common) = common_number(&types) else { return false };
    for (value, _) in values.into_iter().zip(&types).filter(|(_, of)| **of != common) {
        *value = cast(std::mem::take(value), common.clone());
    }
    true
}

/// A parameter has no type yet.
fn types(sides: &[&mut Expr], schema: &DFSchema) -> Vec<DataType> {
    sides.iter().map(|side| side.get_type(schema).unwrap_or(DataType::Null)).collect()
}

/// The widest float beside a decimal.
fn float_among(types: &[DataType]) -> Option<DataType> {
    if !types.iter().any(DataType::is_decimal) {
        return None;
    }
    let floats = types.iter().filter(|of| of.is_floating());
    floats.max_by_key(|of| of.primitive_width()).cloned()
}

/// What numbers of several types are together.
fn common_number(types: &[DataType]) -> Option<DataType> {
    let numbers: Vec<DataType> = types.iter().filter(|of| !of.is_null()).cloned().collect();
    let is_mixed = numbers.windows(2).any(|two| two[0] != two[1]);
    if !is_mixed || !numbers.iter().all(DataType::is_numeric) {
        return None;
    }
    match float_among(&numbers) {
        Some(_) => Some(DataType::Float64),
        None => type_union_resolution(&numbers),
    }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) => true,
        Expr::Negative(of) => is_literal(of),
        _ => false,
    }
}

/// `x IN (SELECT …)`.
fn found(mut predicate: InSubquery, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let of = predicate.expr.get_type(schema).unwrap_or(DataType::Null);
    let subquery = &mut predicate.subquery;
    let column = subquery.subquery.schema().field(0).data_type().clone();
    let Some(float) = float_among(&[of.clone(), column]) else {
        return Ok(Transformed::no(Expr::InSubquery(predicate)));
    };
    if of.is_decimal() {
        predicate.expr = Box::new(cast(*predicate.expr, float));
    } else {
        let value = subquery.subquery.schema().columns().into_iter().map(|column| {
            let name = column.name.clone();
            cast(Expr::Column(column), DataType::Float64).alias(name)
        });
        let value = value.collect::<Vec<Expr>>();
        let plan = LogicalPlanBuilder::from(Arc::clone(&subquery.subquery)).project(value)?;
        subquery.subquery = Arc::new(plan.build()?);
    }
    Ok(Transformed::yes(Expr::InSubquery(predicate)))
}

/// The columns that USING and set operations compare.
fn joined(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let mut is_changed = false;
    for (left, right) in &mut join.on {
        let of_left = left.get_type(join.left.schema())?;
        let of_right = right.get_type(join.right.schema())?;
        if float_among(&[of_left.clone(), of_right]).is_some() {
            let side = if of_left.is_decimal() { left } else { right };
            *side = cast(std::mem::take(side), DataType::Float64);
            is_changed = true;
        }
    }
    Ok(Transformed::new_transformed(LogicalPlan::Join(join), is_changed))
}

fn united(union: Union) -> Result<Transformed<LogicalPlan>> {
    let width = union.schema.fields().len();
    let mut commons = Vec::with_capacity(width);
    for at in 0..width {
        let types: Vec<DataType> =
            union.inputs.iter().map(|input| input.schema().field(at).data_type().clone()).collect();
        commons.push(common_number(&types));
    }
    if commons.iter().all(Option::is_none) {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let inputs = union.inputs.into_iter().map(|input| {
        let schema = retyped(input.schema(), &commons)?;
        let input = coerce_plan_expr_for_schema(Arc::unwrap_or_clone(input), &schema)?;
        Ok(Arc::new(input))
    });
    let union = Union::try_new_with_loose_types(inputs.collect::<Result<Vec<_>>>()?)?;
    Ok(Transformed::yes(LogicalPlan::Union(union)))
}

/// `VALUES`, whose rows the planner cast to decimals already.
fn listed(mut values: Values) -> Result<Transformed<LogicalPlan>> {
    let nothing = DFSchema::empty();
    let mut commons = vec![None; values.schema.fields().len()];
    for (at, common) in commons.iter_mut().enumerate() {
        let of = values.schema.field(at).data_type();
        let written = values.values.iter().map(|row| match &row[at] {
            Expr::Cast(cast) if cast.field.data_type() == of => cast.expr.get_type(&nothing),
            value => value.get_type(&nothing),
        });
        let written = written.collect::<Result<Vec<DataType>>>()?;
        if of.is_decimal() && float_among(&written).is_some() {
            *common = Some(DataType::Float64);
        }
    }
    if commons.iter().all(Option::is_none) {
        return Ok(Transformed::no(LogicalPlan::Values(values)));
    }
    for row in &mut values.values {
        for (value, _) in row.iter_mut().zip(&commons).filter(|(_, common)| common.is_some()) {
            let written = match std::mem::take(value) {
                Expr::Cast(cast) => *cast.expr,
                Expr::Literal(null, _) if null.is_null() => {
                    Expr::Literal(ScalarValue::Float64(None), None)
                }
                written => written,
            };
            *value = written.cast_to(&DataType::Float64, &nothing)?;
        }
    }
    values.schema = retyped(&values.schema, &commons)?;
    Ok(Transformed::yes(LogicalPlan::Values(values)))
}

/// `schema` with other types for some of its columns.
fn retyped(schema: &DFSchema, types: &[Option<DataType>]) -> Result<DFSchemaRef> {
    let fields = schema.iter().zip(types).map(|((table, field), of)| {
        let of = of.clone().unwrap_or_else(|| field.data_type().clone());
        let field = Field::new(field.name(), of, field.is_nullable());
        (table.cloned(), Arc::new(field))
    });
    Ok(Arc::new(DFSchema::new_with_metadata(fields.collect(), HashMap::new())?))
}
