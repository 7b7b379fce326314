//! The text that people type, cut into statements and commands. A statement ends with a `;` outside
//! of quotes and comments, a command with its line.

use std::ops::Range;

/// One thing to do. The range is that of the text without the `;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub bytes: Range<usize>,
    /// It begins with `\`.
    pub is_command: bool,
    /// Its end was seen, not only the text's.
    pub is_complete: bool,
}

/// All pieces of `text`, in order; comments alone are none.
pub fn pieces(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(gap) = text[rest..].find(|c: char| !c.is_whitespace()) {
        let start = rest + gap;
        let is_command = text[start..].starts_with('\\');
        let end = match is_command {
            true => text[start..].find('\n').map(|length| start + length),
            false => statement_end(text, start),
        };
        let bytes = start..end.unwrap_or(text.len());
        let is_complete = is_command || end.is_some();
        if is_command || !is_blank(&text[bytes.clone()]) {
            found.push(Piece { bytes, is_command, is_complete });
        }
        rest = end.map_or(text.len(), |end| end + 1);
    }
    found
}

fn is_blank(statement: &str) -> bool {
    let mut at = 0;
    while let Some(c) = statement[at..].chars().next() {
        match closing(&statement[at..]) {
            Some(Span { is_comment: true, length }) => at += length.unwrap_or(statement.len() - at),
            Some(_) => return false,
            None if c.is_whitespace() => at += c.len_utf8(),
            None => return false,
        }
    }
    true
}

/// Where the `;` is.
fn statement_end(text: &str, start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let c = text[at..].chars().next()?;
        match closing(&text[at..]) {
            Some(span) => at += span.length?,
            None if c == ';' => return Some(at),
            None => at += c.len_utf8(),
        }
    }
}

/// A quoted text or a comment.
struct Span {
    is_comment: bool,
    /// `None` if it goes on after the text's end.
    length: Option<usize>,
}

/// The quoted text or comment that `text` begins with. A doubled quote is two quoted texts.
fn closing(text: &str) -> Option<Span> {
    let quoted = |quote: char| {
        let length = text[1..].find(quote).map(|end| end + 2);
        Some(Span { is_comment: false, length })
    };
    match text.chars().next()? {
        quote @ ('\'' | '"' | '`') => quoted(quote),
        '-' if text.starts_with("--") => Some(Span { is_comment: true, length: text.find('\n') }),
        '/' if text.starts_with("/*") => {
            Some(Span { is_comment: true, length: block_comment(text) })
        }
        _ => None,
    }
}

/// They nest.
fn block_comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += text[at..].chars().next()?.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of `text`; what is not complete ends in `…`.
    #[track_caller]
    fn check(text: &str, expect: &[&str]) {
        let pieces = pieces(text).into_iter().map(|piece| {
            let end = if piece.is_complete { "" } else { "…" };
            format!("{}{end}", &text[piece.bytes])
        });
        assert_eq!(pieces.collect::<Vec<_>>(), expect, "{text}");
    }

    #[test]
    fn a_semicolon_ends_a_statement_and_a_line_a_command() {
        check("SELECT 1;", &["SELECT 1"]);
        check(" SELECT 1 ;\nSELECT\n2; \n", &["SELECT 1 ", "SELECT\n2"]);
        check("SELECT 1", &["SELECT 1…"]);
        check("\\d gold.a\nSELECT 1;\\q", &["\\d gold.a", "SELECT 1", "\\q"]);
        check(";;\n", &[]);
    }

    #[test]
    fn a_semicolon_in_quotes_or_comments_ends_nothing() {
        check("SELECT ';', 'it''s; é', \"a;b\", `;`;", &["SELECT ';', 'it''s; é', \"a;b\", `;`"]);
        check("SELECT 1 -- a; b\n+ 1;", &["SELECT 1 -- a; b\n+ 1"]);
        check(
            "SELECT /* ; /* ; */ ' ; */ 1; SELECT 2;",
            &["SELECT /* ; /* ; */ ' ; */ 1", "SELECT 2"],
        );
        check("SELECT 'a;", &["SELECT 'a;…"]);
        check("SELECT /* a;", &["SELECT /* a;…"]);
        check("SELECT 4 - 2 / 1;", &["SELECT 4 - 2 / 1"]);
    }

    #[test]
    fn comments_alone_are_nothing_to_do() {
        check("-- that was it\n/* ; */\n", &[]);
        check("SELECT 1; -- the end", &["SELECT 1"]);
        check("-- first;\nSELECT 1;", &["-- first;\nSELECT 1"]);
    }
}
