//! The one error type, its kinds, and source diagnostics. Kinds alone decide retry, exit code and
//! status codes; this file deliberately knows no library whose errors it might wrap.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller would do about an error; a new kind only where somebody acts differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user's input (SQL, YAML, flags, configuration) must change. Never retried.
    Invalid,
    /// A named thing (table, bucket, topic, file) does not exist.
    NotFound,
    /// Credentials are wrong or rights are missing.
    Denied,
    /// A server does not know who asks: log in first.
    Unauthenticated,
    /// A service or the network failed; the same call may succeed later.
    Unavailable,
    /// Someone else won a race; reload and decide again.
    Conflict,
    /// Disk, memory or another named limit is used up.
    Exhausted,
    /// Going on would lose or double data (a recreated topic, trimmed offsets).
    DataLoss,
    /// Parts of a run failed; details were reported as they happened.
    RunFailed,
    /// A stop signal ended the work.
    Interrupted,
    /// A bug in FlowGuard.
    Internal,
}

impl ErrorKind {
    /// Process exit code: 1 input or findings, 2 a run failed, 3 the outside world, 4 data at risk.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Invalid | ErrorKind::NotFound => 1,
            ErrorKind::RunFailed => 2,
            ErrorKind::Denied
            | ErrorKind::Unauthenticated
            | ErrorKind::Unavailable
            | ErrorKind::Conflict
            | ErrorKind::Exhausted => 3,
            ErrorKind::DataLoss => 4,
            ErrorKind::Internal => 70,
            ErrorKind::Interrupted => 130,
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, ErrorKind::Unavailable | ErrorKind::Conflict)
    }
}

/// A position in a user's file, with the offending text. Lines and columns count from 1,
/// columns in characters; line 0 is for places without lines: a whole file, a variable, a flag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
    pub message: String,
    /// The source line the position points into, without its line break.
    pub text: String,
    /// How many characters are wrong, at least 1; drawn as a row of carets.
    pub width: usize,
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Place and message on one line.
    pub fn place(&self) -> String {
        let file = self.file.display();
        match self.line {
            0 => format!("{file}: {}", self.message),
            line => format!("{file}:{line}:{}: {}", self.column, self.message),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        if !self.text.is_empty() {
            let pad: String = self
                .text
                .chars()
                .take(self.column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n    {}\n    {pad}{}", self.text, "^".repeat(self.width.max(1)))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The one error. `message` is lowercase and names the thing in backticks; `hint` is what to do.
#[derive(Debug)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
    pub hint: Option<String>,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// All problems found in the user's files, in order, when there are any.
    pub diagnostics: Vec<Diagnostic>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None, diagnostics: Vec::new() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// All of `diagnostics`, under one message; panics never, even on an empty list.
    pub fn diagnosed(message: impl Into<String>, diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics, ..Self::invalid(message) }
    }

    /// Takes the place of a hint that is there already.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What caused it: shown with it, and without a say in its kind.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What is wrong and where, on one line.
    pub fn line(&self) -> String {
        match (self.diagnostics.as_slice(), self.cause()) {
            ([], None) => self.message.clone(),
            ([], Some(cause)) => format!("{}: {cause}", self.message),
            ([first], _) => first.place(),
            ([first, rest @ ..], _) => format!("{} ({} more)", first.place(), rest.len()),
        }
    }

    /// The deepest cause says most; the layers between repeat it.
    fn cause(&self) -> Option<String> {
        let mut source = std::error::Error::source(self)?;
        while let Some(deeper) = source.source() {
            source = deeper;
        }
        source.to_string().lines().next().map(str::to_owned)
    }

    /// All of it as people read it, over several lines.
    pub fn report(&self) -> String {
        visible(&self.told(), true).into_owned()
    }

    fn told(&self) -> String {
        let diagnostics = self.diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n\n"));
        let mut text: String = diagnostics.collect();
        text.push_str(&format!("error: {self}"));
        if let Some(cause) = self.cause() {
            text.push_str(&format!("\ncause: {cause}"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\nhint: {hint}"));
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// `text` as a terminal may be given it: what would move its cursor, colour it, or turn the direction
/// of writing is spelled out, as in `\u{1b}`. Line breaks and tabs stay where there may be several
/// lines.
pub fn visible(text: &str, has_lines: bool) -> Cow<'_, str> {
    let is_plain = |c: char| match c {
        '\n' | '\t' => has_lines,
        '\u{61c}' | '\u{200e}' | '\u{200f}' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    };
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_plain(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_default()),
        }
    }
    Cow::Owned(shown)
}

/// The candidate closest to `word`, when it is close enough to be a slip of the pen.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance_max = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_points_at_the_offending_text() {
        let diagnostic = Diagnostic {
            file: "sql/gold/a.sql".into(),
            line: 3,
            column: 8,
            message: "unknown column `prise`".into(),
            text: "SELECT prise FROM t".into(),
            width: 5,
            hint: Some("did you mean `price`?".into()),
        };
        assert_eq!(
            diagnostic.to_string(),
            "sql/gold/a.sql:3:8: unknown column `prise`\n    SELECT prise FROM t\n           ^^^^^\n    hint: did you mean `price`?"
        );
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        assert_eq!(did_you_mean("prise", ["price", "user_id"]), Some("price"));
        assert_eq!(did_you_mean("zebra", ["price", "user_id"]), None);
    }
}
