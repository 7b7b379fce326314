//! What a statement is told that cannot be answered rightly.

use datafusion::common::{DataFusionError, Diagnostic, Span};

/// An error at a place of the statement, with what to write instead.
pub fn refused(message: impl Into<String>, span: Option<Span>, hint: &str) -> DataFusionError {
    let message = message.into();
    let mut diagnostic = Diagnostic::new_error(message.clone(), span);
    diagnostic.add_help(hint, None);
    DataFusionError::Plan(message).with_diagnostic(diagnostic)
}
