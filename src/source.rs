//! Positions in the files users write, the one list that collects what is wrong in a file, and how
//! it is noticed that a file changed. Reads no file and knows no syntax.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Diagnostic, did_you_mean};

/// The whole text of a user's file and its path relative to the project folder.
#[derive(Debug, Clone)]
pub struct Source {
    pub file: PathBuf,
    pub text: String,
}

/// Where something stands in a [`Source`]. Lines and columns count from 1, columns and width in
/// characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

/// A value and the exact text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub position: Position,
}

/// What changes with every change of a file, be it replaced, written to, or given other rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` if there is no such file, or it may not be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Position {
    /// The whole file rather than a place in it.
    pub const FILE: Position = Position { line: 0, column: 0, width: 0 };
}

impl Source {
    pub fn new(file: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    /// The text of a line without its line break; empty outside the file.
    pub fn line(&self, line: usize) -> &str {
        match line.checked_sub(1) {
            Some(index) => self.text.lines().nth(index).unwrap_or_default(),
            None => "",
        }
    }

    /// The position of a range of bytes; its width ends with its first line.
    pub fn position(&self, bytes: std::ops::Range<usize>) -> Position {
        let before = self.text.get(..bytes.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let spanned = self.text.get(bytes).unwrap_or_default();
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            width: spanned.lines().next().unwrap_or_default().chars().count().max(1),
        }
    }

    /// A position behind the end of a line or of the text is moved to that end.
    pub fn diagnostic(
        &self,
        position: Position,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        let Position { line, column, width } = self.inside(position);
        Diagnostic {
            file: self.file.clone(),
            line,
            column,
            message: message.into(),
            text: self.visible(line).to_owned(),
            width,
            hint,
        }
    }

    /// A line as it is counted: without a byte order mark at the beginning of the file.
    fn visible(&self, line: usize) -> &str {
        let text = self.line(line);
        let marked = if line == 1 { text.strip_prefix('\u{feff}') } else { None };
        marked.unwrap_or(text)
    }

    /// The nearest place that the text has: parsers report what is missing at its end a line, or
    /// some columns, behind it.
    fn inside(&self, position: Position) -> Position {
        if position.line == 0 {
            return position;
        }
        let line = position.line.min(self.text.split('\n').count());
        let end = self.visible(line).chars().count() + 1;
        let column = if line < position.line { end } else { position.column.clamp(1, end) };
        Position { line, column, width: position.width.min((end - column).max(1)) }
    }
}

/// Everything found wrong in one file. Shared by all readers of the file, so that each can report
/// and go on.
#[derive(Debug)]
pub struct Problems<'s> {
    pub source: &'s Source,
    found: RefCell<Vec<Diagnostic>>,
    hides_values: bool,
}

impl<'s> Problems<'s> {
    pub fn new(source: &'s Source) -> Self {
        Self { source, found: RefCell::default(), hides_values: false }
    }

    /// For a file that holds secrets: problems say where, and show no line and no value.
    pub fn hiding_values(source: &'s Source) -> Self {
        Self { hides_values: true, ..Self::new(source) }
    }

    pub fn hides_values(&self) -> bool {
        self.hides_values
    }

    pub fn report(&self, position: Position, message: impl Into<String>) {
        self.push(position, message, None);
    }

    pub fn report_hint(
        &self,
        position: Position,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(position, message, Some(hint.into()));
    }

    /// An error of a leaf that knew no position.
    pub fn report_error(&self, position: Position, error: crate::error::Error) {
        self.push(position, error.message, error.hint);
    }

    fn push(&self, position: Position, message: impl Into<String>, hint: Option<String>) {
        let mut diagnostic = self.source.diagnostic(position, message, hint);
        if self.hides_values {
            diagnostic.text.clear();
        }
        self.found.borrow_mut().push(diagnostic);
    }

    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The number of problems so far.
    pub fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// Takes out what was reported after the first `count`, in the order of the file.
    pub fn since(&self, count: usize) -> Vec<Diagnostic> {
        let mut found = self.found.borrow_mut().split_off(count);
        found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        found
    }

    /// All problems in the order of the file.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        found
    }
}

/// ``did you mean `x`?``, or every choice when nothing is close.
pub fn choice_hint<'a>(
    word: &str,
    choices: impl IntoIterator<Item = &'a str> + Clone,
    what: &str,
) -> String {
    match did_you_mean(word, choices.clone()) {
        Some(choice) => format!("did you mean `{choice}`?"),
        None => {
            let listed: Vec<String> =
                choices.into_iter().map(|choice| format!("`{choice}`")).collect();
            format!("{what}: {}", listed.join(", "))
        }
    }
}

#[cfg(test)]
pub(crate) fn printed(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines_and_columns_in_characters() {
        let source = Source::new("a.toml", "é = 1\r\n  ünder = 2\r\n");
        let at = source.text.find("ünder").unwrap();
        let position = source.position(at..at + "ünder".len());
        assert_eq!(position, Position { line: 2, column: 3, width: 5 });
        assert_eq!(
            source.diagnostic(position, "unknown key `ünder`", None).to_string(),
            "a.toml:2:3: unknown key `ünder`\n      ünder = 2\n      ^^^^^"
        );
    }

    #[test]
    fn a_place_behind_the_end_becomes_the_end() {
        let source = Source::new("a.yaml", "a: [\nbc");
        let shown = |line, column, width| {
            let position = Position { line, column, width };
            let shown = source.diagnostic(position, "", None);
            (shown.line, shown.column, shown.width)
        };
        assert_eq!(shown(3, 1, 1), (2, 3, 1));
        assert_eq!(shown(1, 9, 2), (1, 5, 1));
        assert_eq!(shown(2, 1, 7), (2, 1, 2));
        assert_eq!(shown(2, 1, 2), (2, 1, 2));
        assert_eq!(shown(0, 0, 0), (0, 0, 0));
    }

    #[test]
    fn a_byte_order_mark_is_left_out_where_the_file_begins_and_nowhere_else() {
        let source = Source::new("a.yaml", "\u{feff}a\n\u{feff}b");
        let text = |line| source.diagnostic(Position { line, column: 1, width: 1 }, "", None).text;
        assert_eq!((text(1).as_str(), text(2).as_str()), ("a", "\u{feff}b"));
    }
}
