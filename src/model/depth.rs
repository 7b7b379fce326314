//! How deep the trees become that are made of a SQL text. The parser builds chains such as `1 + 1 +
//! …` in a loop, and everything after it walks down them by recursion, some of it without looking at
//! the stack. So the depth is bounded before anything is parsed, from the words of the text alone.
//! The one place that chooses the SQL dialect.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// The dialect DataFusion uses by default.
pub(super) static DIALECT: GenericDialect = GenericDialect {};
/// Levels of a tree that a thread with [`STACK_BYTES`] can walk down.
pub const DEPTH_MAX: usize = 25_000;
/// Stack of every thread that parses, plans or executes SQL. Memory is taken when it is used.
pub const STACK_BYTES: usize = 256 << 20;
/// Texts that are no longer than this cannot be deep enough to matter, whatever they say.
const BYTES_MIN: usize = 8_192;

/// What is said of a text that is too deep, and how it is cured.
pub const TOO_DEEP: (&str, &str) = (
    "the SQL is nested too deeply",
    "a list such as `x IN (…)` may be long, a chain of operators or set operations may not",
);

/// Whether the trees of `sql` may have more than [`DEPTH_MAX`] levels. Lists count as their
/// deepest item, so an IN list may be as long as it likes. Text that has no tokens is left to the
/// parser, which reads no further than this does.
pub fn is_too_deep(sql: &str) -> bool {
    if sql.len() <= BYTES_MIN {
        return false;
    }
    let mut tokens = Vec::new();
    // What was read before an error stands in `tokens`.
    let _ = Tokenizer::new(&DIALECT, sql).tokenize_with_location_into_buf(&mut tokens);
    let mut levels = vec![Level::default()];
    for token in &tokens {
        match &token.token {
            Token::LParen => levels.push(Level::default()),
            Token::RParen if levels.len() > 1 => {
                let inner = levels.pop().unwrap_or_default();
                if let Some(outer) = levels.last_mut() {
                    outer.take(inner);
                }
            }
            token => {
                if let Some(level) = levels.last_mut() {
                    level.read(token);
                }
            }
        }
    }
    let brackets = levels.len();
    levels.into_iter().map(Level::depth).sum::<usize>() + brackets > DEPTH_MAX
}

/// What stands between two brackets.
#[derive(Default)]
struct Level {
    /// Links of the expression that is being read.
    links: usize,
    /// The deepest brackets within it.
    inner: usize,
    /// The deepest expression of the query that is being read.
    deepest: usize,
    /// Its clauses, joins and subqueries, each on top of or below the one before.
    relations: usize,
    /// Common table expressions: each may read the one before it, and then contains its plan.
    common: usize,
    /// The deepest query of a chain of set operations, and how many there are.
    deepest_query: usize,
    set_operations: usize,
    is_query: bool,
    /// After FROM a comma is a join.
    is_in_from: bool,
}

impl Level {
    fn depth(mut self) -> usize {
        self.end_query();
        self.common + self.deepest_query + self.set_operations
    }

    fn end_query(&mut self) {
        self.end_expression();
        self.deepest_query = self.deepest_query.max(self.deepest + self.relations);
        (self.deepest, self.relations, self.is_in_from) = (0, 0, false);
    }

    fn end_expression(&mut self) {
        self.deepest = self.deepest.max(self.links + self.inner);
        (self.links, self.inner) = (0, 0);
    }

    /// Brackets that end within this level.
    fn take(&mut self, inner: Level) {
        match (inner.is_query, self.is_query) {
            (true, true) => self.relations += inner.depth() + 1,
            (true, false) => self.common += inner.depth() + 1,
            (false, _) => self.inner = self.inner.max(inner.depth() + 1),
        }
    }

    fn read(&mut self, token: &Token) {
        match token {
            Token::Whitespace(_) | Token::Number(..) | Token::SemiColon | Token::Placeholder(_) => {
            }
            Token::Comma => {
                self.end_expression();
                self.relations += usize::from(self.is_in_from);
            }
            Token::Word(word) => self.read_word(word.keyword),
            // Names of types in texts nest too, in `arrow_cast`.
            Token::SingleQuotedString(text) => self.links += text.matches('(').count(),
            _ => self.links += 1,
        }
    }

    fn read_word(&mut self, word: Keyword) {
        match word {
            Keyword::NoKeyword | Keyword::NULL | Keyword::TRUE | Keyword::FALSE | Keyword::AS => {}
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE => self.end_expression(),
            Keyword::SELECT | Keyword::FROM | Keyword::VALUES => {
                self.end_expression();
                self.is_query = true;
                self.is_in_from = word == Keyword::FROM;
                self.relations += 1;
            }
            Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER | Keyword::LIMIT => {
                self.end_expression();
                self.is_in_from = false;
                self.relations += 1;
            }
            Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => {
                self.end_query();
                self.set_operations += 1;
            }
            Keyword::JOIN => {
                self.end_expression();
                self.relations += 1;
            }
            _ => self.links += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `item` so often that there are `count` of them, after `before`.
    fn repeated(before: &str, item: &str, count: usize) -> String {
        format!("{before}{}", item.repeat(count))
    }

    #[test]
    fn lists_are_as_deep_as_their_items() {
        for (before, item) in [
            ("SELECT 1 WHERE 1 IN (1", ", 2"),
            ("SELECT 1 WHERE x IN ('a'", ", '(b'"),
            ("SELECT 1", ", a + b"),
            ("VALUES (1, 'x')", ", (2, 'y')"),
            ("SELECT CASE", " WHEN a = 1 AND b = 2 THEN 3"),
        ] {
            let sql = repeated(before, item, 200_000);
            assert!(!is_too_deep(&sql), "{before} {item}");
        }
    }

    #[test]
    fn chains_are_as_deep_as_they_are_long() {
        for (before, item) in [
            ("SELECT 1", "+1"),
            ("SELECT 1 WHERE TRUE", " AND a"),
            ("SELECT 1 WHERE a", " LIKE b"),
            ("SELECT 1", "::int"),
            ("SELECT a", "[1]"),
            ("SELECT a", ".b"),
            ("SELECT ", "- "),
            ("SELECT ", "NOT "),
            ("", "EXPLAIN "),
            ("SELECT CAST(1 AS INT", "[]"),
            ("SELECT 1", " UNION ALL SELECT 1"),
            ("SELECT 1 FROM a", ", a"),
            ("SELECT 1 FROM a", " JOIN a ON 1 = 1"),
            ("WITH a AS (SELECT 1)", ", a AS (SELECT * FROM a)"),
            ("SELECT 1", " ORDER BY 1"),
            ("SELECT ", "("),
        ] {
            assert!(!is_too_deep(&repeated(before, item, 6_000)), "{before} {item}");
            assert!(is_too_deep(&repeated(before, item, DEPTH_MAX + 1)), "{before} {item}");
        }
        let named = repeated("SELECT arrow_cast(1, '", "List(", DEPTH_MAX + 1);
        assert!(is_too_deep(&format!("{named}'")));
    }
}
