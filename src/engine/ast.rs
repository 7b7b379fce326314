//! What the parser gives, as all who look at it before it is planned read it.

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Ident, Statement as SqlStatement};

/// The statement itself, if an EXPLAIN stands around it; none where it is not SQL of the parser's own.
pub fn explained(statement: &mut Statement) -> Option<&mut SqlStatement> {
    match statement {
        Statement::Statement(statement) => Some(statement),
        Statement::Explain(explain) => explained(&mut explain.statement),
        _ => None,
    }
}

/// Begins the names for the time being; a number and the name itself follow.
const AGAIN: &str = "__again_";

/// What the column at the place `at` is called while it is planned, for `name`, which is taken.
pub fn for_now(at: usize, name: &str) -> Ident {
    Ident::with_quote('"', format!("{AGAIN}{at}_{name}"))
}

/// The name that [`for_now`] stood in for, if it did.
pub fn given(name: &str) -> Option<&str> {
    name.strip_prefix(AGAIN)?.split_once('_').map(|(_, name)| name)
}

/// A name as the planner reads it.
pub fn text(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}
