//! What a server says went wrong, as an error of this program: the kind by gRPC's code, and from
//! the words of a FlowGuard server the same place, cause and hint that the command line shows.

use std::path::Path;

use tonic::{Code, Status};

use crate::error::{Diagnostic, Error, ErrorKind};

/// `file` is what the statement is called here. `advice` is what to do about a server that cannot
/// be talked to.
pub fn error_of(status: &Status, file: &Path, advice: &str) -> Error {
    // Made on this side: by the connection, not by the server.
    if std::error::Error::source(status).is_some() {
        return Error::new(ErrorKind::Unavailable, "the connection to the server failed")
            .hint(advice)
            .source(status.clone());
    }
    let mut error = read(status.message(), file);
    error.kind = kind_of(status.code());
    if error.message.is_empty() {
        error.message = match error.diagnostics.is_empty() {
            true => format!("the server failed: {}", status.code()),
            false => "the query is not valid".to_owned(),
        };
    }
    error
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::PermissionDenied => ErrorKind::Denied,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::Aborted => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::Exhausted,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::FailedPrecondition => ErrorKind::RunFailed,
        Code::Cancelled => ErrorKind::Interrupted,
        // A bug there is none of this program.
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Invalid,
    }
}

/// Diagnostics, a cause and a hint where lines have their form; all other lines are the message.
fn read(words: &str, file: &Path) -> Error {
    let mut error = Error::invalid("");
    for line in words.lines() {
        let indented = line.strip_prefix("    ");
        if let Some(diagnostic) = place(line, file) {
            error.diagnostics.push(diagnostic);
        } else if let (Some(text), Some(last)) = (indented, error.diagnostics.last_mut()) {
            continue_diagnostic(last, text);
        } else if let Some(hint) = line.strip_prefix("hint: ") {
            error.hint = Some(hint.to_owned());
        } else if let Some(cause) = line.strip_prefix("cause: ") {
            error.source = Some(cause.into());
        } else {
            let gap = if error.message.is_empty() { "" } else { "\n" };
            error.message = format!("{}{gap}{line}", error.message);
        }
    }
    error
}

/// `query:3:8: unknown column`.
fn place(line: &str, file: &Path) -> Option<Diagnostic> {
    let mut parts = line.splitn(4, ':');
    let (name, number) = (parts.next()?, |part: Option<&str>| part?.parse::<usize>().ok());
    let (line, column) = (number(parts.next())?, number(parts.next())?);
    let message = parts.next()?.strip_prefix(' ')?.to_owned();
    let is_place = !name.is_empty() && !name.contains(char::is_whitespace);
    is_place.then(|| Diagnostic {
        file: file.to_owned(),
        line,
        column,
        message,
        text: String::new(),
        width: 1,
        hint: None,
    })
}

/// The line of SQL, then carets below it, then a hint.
fn continue_diagnostic(diagnostic: &mut Diagnostic, text: &str) {
    let carets = text.trim();
    if let Some(hint) = text.strip_prefix("hint: ") {
        diagnostic.hint = Some(hint.to_owned());
    } else if !carets.is_empty() && carets.bytes().all(|byte| byte == b'^') {
        diagnostic.width = carets.len();
    } else {
        diagnostic.text = text.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `words` become an error that is shown as `expect`.
    #[track_caller]
    fn check(code: Code, words: &str, expect: &str) {
        let error = error_of(&Status::new(code, words), Path::new("stdin"), "");
        assert_eq!(error.report(), expect);
    }

    #[test]
    fn a_place_in_the_sql_is_shown_as_the_command_line_shows_it() {
        check(
            Code::InvalidArgument,
            "query:3:9: unknown column `prise`\n    \tSELECT prise FROM t\n    \t       ^^^^^\n    hint: did you mean `price`?",
            "stdin:3:9: unknown column `prise`\n    \tSELECT prise FROM t\n    \t       ^^^^^\n    hint: did you mean `price`?\n\nerror: the query is not valid",
        );
        check(
            Code::InvalidArgument,
            "query:1:8: unknown column `prise`",
            "stdin:1:8: unknown column `prise`\n\nerror: the query is not valid",
        );
    }

    #[test]
    fn a_message_a_cause_and_a_hint_are_kept_apart() {
        check(
            Code::InvalidArgument,
            "a value of `n` does not fit Int8\ncause: 1000 is too large\nhint: CAST it",
            "error: a value of `n` does not fit Int8\ncause: 1000 is too large\nhint: CAST it",
        );
    }

    #[test]
    fn words_of_other_servers_are_left_as_they_are() {
        check(
            Code::Unknown,
            "at 12:30:11: gone\n  and so on",
            "error: at 12:30:11: gone\n  and so on",
        );
        check(
            Code::Unimplemented,
            "",
            "error: the server failed: Operation is not implemented or not supported",
        );
    }

    #[test]
    fn the_kind_is_that_of_the_code() {
        let kind = |code| error_of(&Status::new(code, "a"), Path::new("a"), "").kind;
        assert_eq!(kind(Code::NotFound), ErrorKind::NotFound);
        assert_eq!(kind(Code::Unauthenticated), ErrorKind::Unauthenticated);
        assert_eq!(kind(Code::ResourceExhausted), ErrorKind::Exhausted);
        assert_eq!(kind(Code::Internal), ErrorKind::Unavailable);
        assert_eq!(kind(Code::Unimplemented), ErrorKind::Invalid);
    }
}
