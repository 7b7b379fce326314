//! Errors as gRPC statuses: the code by kind, the words as the command line gives them. What a bug
//! or a store says of its inside goes to the log, not to the client.

use tonic::{Code, Status};

use crate::error::{Error, ErrorKind};

/// Longest message sent, in bytes: it travels as a header, percent-encoded, and many clients take
/// no more than 8 KiB of headers.
const MESSAGE_BYTES_MAX: usize = 2_000;
/// Longest line of SQL that is shown with a caret below the mistake.
const SHOWN_LINE_BYTES_MAX: usize = 400;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if error.kind == ErrorKind::Internal {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "a call failed inside");
            return Status::internal("an internal error; the server's log says more");
        }
        Status::new(code_of(error.kind), shortened(words_of(&error)))
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::RunFailed => Code::FailedPrecondition,
        ErrorKind::Interrupted => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The diagnostics alone where there are any: the message above them says no more.
fn words_of(error: &Error) -> String {
    let mut lines: Vec<String> = Vec::new();
    for diagnostic in &error.diagnostics {
        let mut diagnostic = diagnostic.clone();
        if diagnostic.text.len() > SHOWN_LINE_BYTES_MAX {
            diagnostic.text.clear();
        }
        lines.push(diagnostic.to_string());
    }
    if lines.is_empty() {
        lines.push(error.message.clone());
    }
    // A cause of the user's own making: a value that does not fit. Others name places and parts.
    if error.kind == ErrorKind::Invalid
        && let Some(source) = &error.source
    {
        let cause = source.to_string();
        lines.push(format!("cause: {}", cause.lines().next().unwrap_or_default()));
    }
    lines.extend(error.hint.iter().map(|hint| format!("hint: {hint}")));
    lines.join("\n")
}

fn shortened(mut words: String) -> String {
    if words.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| words.is_char_boundary(*at));
        words.truncate(end.unwrap_or(0));
        words.push('…');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Diagnostic;

    #[track_caller]
    fn check(error: Error, code: Code, message: &str) {
        let status = Status::from(error);
        assert_eq!((status.code(), status.message()), (code, message));
    }

    #[test]
    fn a_status_has_the_kind_and_the_words_of_the_command_line() {
        check(
            Error::new(ErrorKind::NotFound, "there is no table `gold.a`").hint("tables: gold.b"),
            Code::NotFound,
            "there is no table `gold.a`\nhint: tables: gold.b",
        );
        let mistake = Diagnostic {
            file: "query".into(),
            line: 1,
            column: 8,
            message: "unknown column `prise`".into(),
            text: "SELECT prise FROM t".into(),
            width: 5,
            hint: None,
        };
        check(
            Error::diagnosed("the query is not valid", vec![mistake.clone()]),
            Code::InvalidArgument,
            "query:1:8: unknown column `prise`\n    SELECT prise FROM t\n           ^^^^^",
        );
        let long = Diagnostic { text: "x".repeat(SHOWN_LINE_BYTES_MAX + 1), ..mistake };
        check(
            Error::diagnosed("the query is not valid", vec![long]),
            Code::InvalidArgument,
            "query:1:8: unknown column `prise`",
        );
    }

    #[test]
    fn an_internal_error_and_a_cause_from_outside_stay_inside() {
        check(
            Error::internal("the plan at 0x1 has no child"),
            Code::Internal,
            "an internal error; the server's log says more",
        );
        check(
            Error::new(ErrorKind::Unavailable, "cannot read `gold.a`").source("http://10.0.0.1"),
            Code::Unavailable,
            "cannot read `gold.a`",
        );
        check(
            Error::invalid("a value of `n` does not fit Int8").source("1000 is too large"),
            Code::InvalidArgument,
            "a value of `n` does not fit Int8\ncause: 1000 is too large",
        );
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = Status::from(Error::invalid("é".repeat(2_000)));
        assert_eq!(status.message(), format!("{}…", "é".repeat(1_000)));
    }
}
