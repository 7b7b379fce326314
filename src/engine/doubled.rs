//! Columns that a statement selects twice under one name, as in `SELECT 1 AS a, 2 AS a`. DataFusion 55
//! refuses them; here the later one has a name of its own while it is planned, and gets back the one
//! that it was given in what the statement answers. A name inside of a statement stays ambiguous.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Query, Select, SelectItem, SetExpr, Value, VisitMut, VisitorMut,
};

use super::ast::{explained, for_now, given, text};

/// Gives doubled columns names of their own.
pub fn told_apart(statement: &mut Statement) {
    if let Some(statement) = explained(statement) {
        let _ = VisitMut::visit(statement, &mut Renamer { depth: 0 });
    }
}

/// `schema` with the names that the statement gave.
pub fn as_selected(schema: &SchemaRef) -> SchemaRef {
    if !schema.fields().iter().any(|field| given(field.name()).is_some()) {
        return Arc::clone(schema);
    }
    let fields = schema.fields().iter().map(|field| {
        let name = given(field.name()).unwrap_or(field.name());
        field.as_ref().clone().with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

struct Renamer {
    depth: usize,
}

impl VisitorMut for Renamer {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        rename_in(&mut query.body, self.depth == 1);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// `is_free`: nothing in the statement can name the columns.
fn rename_in(body: &mut SetExpr, is_free: bool) {
    match body {
        SetExpr::Select(select) => rename(select, is_free),
        SetExpr::Query(query) => rename_in(&mut query.body, is_free),
        SetExpr::SetOperation { left, right, .. } => {
            rename_in(left, is_free);
            // Names are those of the left side.
            rename_in(right, true);
        }
        _ => {}
    }
}

fn rename(select: &mut Select, is_free: bool) {
    let is_wildcard = |item: &SelectItem| {
        matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
    };
    let has_wildcard = select.projection.iter().any(is_wildcard);
    let mut seen: Vec<Named> = Vec::new();
    for (at, item) in select.projection.iter_mut().enumerate() {
        let Some(named) = Named::of(item) else { continue };
        let is_column = named.form != Form::Computed;
        let is_doubled = seen.iter().any(|other| other.is_doubled_by(&named))
            || (has_wildcard && matches!(named.form, Form::Bare | Form::Of(_)));
        if is_doubled && (is_free || !is_column) {
            let alias = for_now(at, &named.name);
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
                SelectItem::ExprWithAlias { alias: given, .. } => *given = alias,
                _ => {}
            }
        }
        seen.push(named);
    }
}

/// What a column is called.
struct Named {
    name: String,
    form: Form,
}

#[derive(PartialEq)]
enum Form {
    /// A column of the table that is named.
    Of(String),
    Bare,
    Alias,
    /// By what it is computed from.
    Computed,
}

impl Named {
    fn of(item: &SelectItem) -> Option<Self> {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => {
                Some(Self { name: text(alias), form: Form::Alias })
            }
            SelectItem::UnnamedExpr(expr) => {
                // A cast has the name of what it casts.
                let mut of = expr;
                while let Expr::Nested(inner) | Expr::Cast { expr: inner, .. } = of {
                    of = inner;
                }
                Some(match of {
                    Expr::Identifier(name) => Self { name: text(name), form: Form::Bare },
                    Expr::CompoundIdentifier(parts) => {
                        let (name, table) = parts.split_last()?;
                        let table = table.iter().map(text).collect::<Vec<_>>().join(".");
                        Self { name: text(name), form: Form::Of(table) }
                    }
                    of => Self { name: of.to_string(), form: Form::Computed },
                })
            }
            _ => None,
        }
    }

    /// Columns of two tables may have one name.
    fn is_doubled_by(&self, other: &Self) -> bool {
        let are_of_two =
            matches!((&self.form, &other.form), (Form::Of(one), Form::Of(two)) if one != two);
        self.name == other.name && !are_of_two
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use datafusion::sql::parser::DFParser;

    #[track_caller]
    fn check(sql: &str, expect: &str) {
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        told_apart(&mut statement);
        assert_eq!(statement.to_string(), expect);
    }

    #[test]
    fn later_columns_of_one_name_get_another() {
        check("SELECT 1 AS a, 2 AS A", r#"SELECT 1 AS a, 2 AS "__again_1_a""#);
        check("SELECT x, t.x FROM t", r#"SELECT x, t.x AS "__again_1_x" FROM t"#);
        check("SELECT *, x FROM t", r#"SELECT *, x AS "__again_1_x" FROM t"#);
        check(
            "SELECT CAST(x AS INT), CAST(x AS TEXT) FROM t",
            r#"SELECT CAST(x AS INT), CAST(x AS TEXT) AS "__again_1_x" FROM t"#,
        );
        check(
            "SELECT 1 AS a, 2 AS b UNION SELECT 3, 3",
            r#"SELECT 1 AS a, 2 AS b UNION SELECT 3, 3 AS "__again_1_3""#,
        );
    }

    #[test]
    fn what_can_be_named_keeps_its_name() {
        for sql in [
            "SELECT a.x, b.x FROM a JOIN b ON true",
            "SELECT x FROM (SELECT 1 AS x, 2 AS x)",
            "SELECT *, x + 1 AS y FROM t ORDER BY y",
            "WITH t AS (SELECT x, x FROM u) SELECT x FROM t",
        ] {
            check(sql, sql);
        }
        check("SELECT * FROM (SELECT 1, 1)", r#"SELECT * FROM (SELECT 1, 1 AS "__again_1_1")"#);
    }

    #[test]
    fn names_come_back() {
        let named = |names: &[&str]| {
            let fields =
                names.iter().map(|name| Field::new(*name, arrow::datatypes::DataType::Int8, true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        assert_eq!(as_selected(&named(&["a", "__again_12_a_b"])), named(&["a", "a_b"]));
    }
}
