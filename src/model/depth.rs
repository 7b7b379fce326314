//! How deep the trees become that are made of a SQL text. The parser builds chains such as `1 + 1 +
//! …` in a loop, and everything after it walks down them by recursion, some of it without looking at
//! the stack. So the depth is bounded before anything is parsed, from the words of the text alone.
//! The one place that chooses the SQL dialect.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// The dialect DataFusion uses by default.
pub(super) static DIALECT: GenericDialect = GenericDialect {};
/// Levels of a tree, whose planning takes time by the square of them. A thread with [`STACK_BYTES`]
/// can walk down many more.
pub const DEPTH_MAX: usize = 4_000;
/// Links of chains that are balanced, in all.
const LINKS_MAX: usize = 25_000;
/// Stack of every thread that parses, plans or executes SQL. Memory is taken when it is used.
pub const STACK_BYTES: usize = 256 << 20;
/// Texts that are no longer than this cannot be deep enough to matter, whatever they say.
const BYTES_MIN: usize = 2_048;

/// What is said of a text that is too deep, and how it is cured.
pub const TOO_DEEP: (&str, &str) = (
    "the SQL is nested too deeply",
    "lists such as `x IN (…)` and chains of AND, OR, +, ||, UNION ALL may be long, others may not",
);

/// Whether the trees of `sql` may have more than [`DEPTH_MAX`] levels. Lists count as their
/// deepest item, so an IN list may be as long as it likes, and so do chains that are balanced before
/// they are planned. Text that has no tokens is left to the parser, which reads no further than this
/// does.
pub fn is_too_deep(sql: &str) -> bool {
    if sql.len() <= BYTES_MIN {
        return false;
    }
    let mut tokens = Vec::new();
    // What was read before an error stands in `tokens`.
    let _ = Tokenizer::new(&DIALECT, sql).tokenize_with_location_into_buf(&mut tokens);
    if tokens.iter().filter(|token| is_of_chain(&token.token)).count() > LINKS_MAX {
        return true;
    }
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

/// Whether a chain of it is balanced before it is planned.
fn is_of_chain(token: &Token) -> bool {
    match token {
        Token::Plus | Token::StringConcat => true,
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::MINUS
        ),
        _ => false,
    }
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
    /// The last of them, and whether with ALL.
    set_operation: Option<(Keyword, bool)>,
    /// The one before it.
    earlier: Option<(Keyword, bool)>,
    is_query: bool,
    /// After FROM a comma is a join.
    is_in_from: bool,
    /// BETWEENs whose AND is still to come.
    betweens: usize,
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
            Token::Plus | Token::Mul | Token::StringConcat => {}
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

    /// Whether the last set operation is not one more link of a chain that is balanced.
    fn adds_depth(&self) -> bool {
        self.set_operation != self.earlier
            || matches!(self.set_operation, Some((Keyword::EXCEPT | Keyword::MINUS, true)))
    }

    fn read_word(&mut self, word: Keyword) {
        match word {
            Keyword::NoKeyword | Keyword::NULL | Keyword::TRUE | Keyword::FALSE | Keyword::AS => {}
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE | Keyword::OR => self.end_expression(),
            Keyword::AND if self.betweens == 0 => self.end_expression(),
            Keyword::AND => {
                self.betweens -= 1;
                self.links += 1;
            }
            Keyword::BETWEEN => {
                self.betweens += 1;
                self.links += 1;
            }
            Keyword::ALL
                if self.set_operation.is_some_and(|(_, is_all)| !is_all) && self.links == 0 =>
            {
                self.set_operations -= usize::from(self.adds_depth());
                self.set_operation = self.set_operation.map(|(operation, _)| (operation, true));
                self.set_operations += usize::from(self.adds_depth());
            }
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
                self.earlier = self.set_operation.replace((word, false));
                self.set_operations += usize::from(self.adds_depth());
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
            ("SELECT 1", "+1"),
            ("SELECT 'a'", "||'a'"),
            ("SELECT 1 WHERE a = 1", " AND b = 2 OR x BETWEEN 1 AND 2"),
            ("SELECT 1", " UNION ALL SELECT 1"),
            ("SELECT 1", " EXCEPT SELECT 1"),
        ] {
            let sql = repeated(before, item, 8_000);
            assert!(!is_too_deep(&sql), "{before} {item}");
        }
    }

    #[test]
    fn chains_are_as_deep_as_they_are_long() {
        for (before, item) in [
            ("SELECT 1", "-1"),
            ("SELECT 1 WHERE a", " LIKE b"),
            ("SELECT 1", " BETWEEN 0 AND 1"),
            ("SELECT 1", "::int"),
            ("SELECT a", "[1]"),
            ("SELECT a", ".b"),
            ("SELECT ", "- "),
            ("SELECT ", "NOT "),
            ("", "EXPLAIN "),
            ("SELECT CAST(1 AS INT", "[]"),
            ("SELECT 1", " UNION ALL SELECT 1 UNION SELECT 1"),
            ("SELECT 1", " EXCEPT ALL SELECT 1"),
            ("SELECT 1 FROM a", ", a"),
            ("SELECT 1 FROM a", " JOIN a ON 1 = 1"),
            ("WITH a AS (SELECT 1)", ", a AS (SELECT * FROM a)"),
            ("SELECT 1", " ORDER BY 1"),
            ("SELECT ", "("),
        ] {
            assert!(!is_too_deep(&repeated(before, item, DEPTH_MAX / 4)), "{before} {item}");
            assert!(is_too_deep(&repeated(before, item, DEPTH_MAX + 1)), "{before} {item}");
        }
        let named = repeated("SELECT arrow_cast(1, '", "List(", DEPTH_MAX + 1);
        assert!(is_too_deep(&format!("{named}'")));
    }
}
