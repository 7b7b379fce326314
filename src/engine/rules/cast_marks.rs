//! Expressions that differ in nothing but casts. DataFusion 55.2 leaves casts out of an expression's
//! name, and refuses two of one name: `SELECT sum(n), sum(CAST(n AS DOUBLE)) FROM t`, `GROUP BY day,
//! CAST(day AS DATE)` (apache/datafusion#4478, #13157). Where it did, the statement is planned again
//! with a mark around each cast, which says the type in the name, and the first rule takes it away.

use std::ops::ControlFlow;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr as LogicalExpr, LogicalPlan, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, Query, Select, SelectItem, SetExpr, Statement, Value, Visit, VisitMut, Visitor,
    VisitorMut,
};

use crate::engine::ast::for_now;

/// The function that marks.
const MARK: &str = "__cast";

/// Whether two expressions were taken for one.
pub fn is_confused(planned: &Result<LogicalPlan>) -> bool {
    match planned {
        Ok(plan) => has_confused_groups(plan),
        Err(error) => {
            let said = error.find_root().to_string();
            said.contains("unique expression names")
                || said.contains("duplicate unqualified field name")
                || said.contains("duplicate qualified field name")
        }
    }
}

/// Groups of one name are only refused once the plan is optimized.
fn has_confused_groups(plan: &LogicalPlan) -> bool {
    let found = plan.exists(|node| {
        let LogicalPlan::Aggregate(Aggregate { group_expr, .. }) = node else { return Ok(false) };
        let casts = group_expr.iter().filter(|expr| matches!(expr, LogicalExpr::Cast(_)));
        let mut casts = casts.map(|expr| expr.schema_name().to_string());
        Ok(casts.any(|name| {
            let of_one = group_expr.iter().filter(|expr| expr.schema_name().to_string() == name);
            of_one.count() > 1
        }))
    });
    found.unwrap_or(false)
}

/// Marks the casts of what a statement selects, groups and orders; whether there are any.
pub fn mark(statement: &mut Statement) -> bool {
    struct Queries {
        has_casts: bool,
    }
    impl VisitorMut for Queries {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            let mut marker = Marker { depth: 0, has_casts: false };
            mark_in(&mut query.body, &mut marker);
            let _ = VisitMut::visit(&mut query.order_by, &mut marker);
            self.has_casts |= marker.has_casts;
            ControlFlow::Continue(())
        }
    }
    let mut queries = Queries { has_casts: false };
    let _ = VisitMut::visit(statement, &mut queries);
    queries.has_casts
}

fn mark_in(body: &mut SetExpr, marker: &mut Marker) {
    match body {
        SetExpr::Select(select) => mark_select(select, marker),
        SetExpr::SetOperation { left, right, .. } => {
            mark_in(left, marker);
            mark_in(right, marker);
        }
        _ => {}
    }
}

fn mark_select(select: &mut Select, marker: &mut Marker) {
    for (at, item) in select.projection.iter_mut().enumerate() {
        if let SelectItem::UnnamedExpr(expr) = item
            && has_casts(&*expr)
        {
            let alias = for_now(at, &expr.to_string());
            let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
    let _ = VisitMut::visit(&mut select.projection, marker);
    let _ = VisitMut::visit(&mut select.distinct, marker);
    let _ = VisitMut::visit(&mut select.group_by, marker);
    let _ = VisitMut::visit(&mut select.having, marker);
    let _ = VisitMut::visit(&mut select.qualify, marker);
    let _ = VisitMut::visit(&mut select.named_window, marker);
}

/// Whether a statement, or a part of one, has a cast.
pub fn has_casts(part: &impl Visit) -> bool {
    part.visit(&mut Casts).is_break()
}

struct Casts;

impl Visitor for Casts {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Cast { .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Subqueries are marked by themselves.
struct Marker {
    depth: usize,
    has_casts: bool,
}

impl VisitorMut for Marker {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0
            && let Expr::Cast { data_type, .. } = expr
        {
            let target = Expr::Value(Value::SingleQuotedString(data_type.to_string()).into());
            let cast = std::mem::replace(expr, Expr::Value(Value::Null.into()));
            *expr = call(MARK, [cast, target]);
            self.has_casts = true;
        }
        ControlFlow::Continue(())
    }
}

fn call(name: &str, args: [Expr; 2]) -> Expr {
    let args = args.map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// What is marked, without its mark.
pub fn unmarked(expr: LogicalExpr, _: &DFSchema) -> Result<Transformed<LogicalExpr>> {
    match expr {
        LogicalExpr::ScalarFunction(mut call) if call.func.name() == MARK => {
            Ok(Transformed::yes(call.args.swap_remove(0)))
        }
        expr => Ok(Transformed::no(expr)),
    }
}

/// Gives its first argument.
pub fn function() -> ScalarUDF {
    ScalarUDF::from(Mark(Signature::any(2, Volatility::Immutable)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark(Signature);

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        MARK
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(args.arg_fields[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args[0].clone())
    }
}
