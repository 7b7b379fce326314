//! What a word may become: keywords, tables, and the columns of tables that the statement names.
//! Pure; asks nobody.

use std::collections::BTreeMap;

use super::command::COMMANDS;

const KEYWORDS: [&str; 55] = [
    "ALL",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "CROSS",
    "CURRENT_DATE",
    "DATE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTRACT",
    "FALSE",
    "FILTER",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "RIGHT",
    "SELECT",
    "SHOW TABLES",
    "THEN",
    "TRUE",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Columns by table, as `layer.table`.
#[derive(Debug, Default)]
pub struct Names {
    pub tables: BTreeMap<String, Vec<String>>,
}

impl Names {
    /// Where the word before byte `at` begins, and what may stand in its place.
    pub fn complete(&self, line: &str, at: usize) -> (usize, Vec<String>) {
        let before = &line[..at];
        let is_name = |c: char| c.is_alphanumeric() || "_.\\".contains(c);
        let start = before
            .rfind(|c| !is_name(c))
            .map_or(0, |gap| gap + before[gap..].chars().next().map_or(0, char::len_utf8));
        let word = &before[start..];
        let mut found = if word.starts_with('\\') {
            COMMANDS.map(|(name, ..)| name.to_owned()).to_vec()
        } else if before.trim_start().starts_with("\\d ") {
            self.tables.keys().cloned().collect()
        } else {
            self.in_statement(line, word)
        };
        let typed = word.to_lowercase();
        found.retain(|name| name.to_lowercase().starts_with(&typed));
        found.dedup();
        (start, found)
    }

    fn in_statement(&self, line: &str, word: &str) -> Vec<String> {
        if let Some((qualifier, _)) = word.rsplit_once('.') {
            return self.qualified(line, qualifier);
        }
        let mut names = self.columns_in(line);
        names.sort();
        names.extend(self.tables.keys().cloned());
        let is_lower = word.starts_with(char::is_lowercase);
        names.extend(KEYWORDS.map(|keyword| match is_lower {
            true => keyword.to_lowercase(),
            false => keyword.to_owned(),
        }));
        names
    }

    /// After a layer come tables, after a table its columns, and after an alias, which only the
    /// server understands, those of all tables in the statement.
    fn qualified(&self, line: &str, qualifier: &str) -> Vec<String> {
        let layer = format!("{qualifier}.");
        let tables = self.tables.keys().filter(|name| name.starts_with(&layer));
        let mut names: Vec<String> = tables.cloned().collect();
        if names.is_empty() {
            let own = self.tables.get(qualifier).cloned();
            names = own.unwrap_or_else(|| self.columns_in(line));
            names.sort();
            names = names.into_iter().map(|column| format!("{qualifier}.{column}")).collect();
        }
        names
    }

    /// Columns of the tables that `line` names; of all, if it names none yet.
    fn columns_in(&self, line: &str) -> Vec<String> {
        let is_name = |c: char| c.is_alphanumeric() || "_.".contains(c);
        let words: Vec<&str> = line.split(|c| !is_name(c)).collect();
        let named = |all: bool| {
            let tables =
                self.tables.iter().filter(|(name, _)| all || words.contains(&name.as_str()));
            tables.flat_map(|(_, columns)| columns.clone()).collect::<Vec<String>>()
        };
        let columns = named(false);
        if columns.is_empty() { named(true) } else { columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `line` has a `|` where the cursor is; `expect` are the candidates in place of the word.
    #[track_caller]
    fn check(line: &str, word: &str, expect: &[&str]) {
        let table = |name: &str, columns: &[&str]| {
            (name.to_owned(), columns.iter().map(|column| (*column).to_owned()).collect())
        };
        let names = Names {
            tables: [
                table("gold.daily_metrics", &["order_date", "orders"]),
                table("gold.funnel", &["fallen"]),
                table("silver.orders_cleaned", &["order_id", "fee"]),
            ]
            .into(),
        };
        let at = line.find('|').unwrap();
        let line = line.replace('|', "");
        let (start, found) = names.complete(&line, at);
        assert_eq!(
            (&line[start..at], found),
            (word, expect.iter().map(|name| (*name).to_owned()).collect())
        );
    }

    #[test]
    fn tables_are_completed_by_layer_and_after_a_command() {
        check("SELECT * FROM gold.d|", "gold.d", &["gold.daily_metrics"]);
        check("SELECT * FROM gold.|", "gold.", &["gold.daily_metrics", "gold.funnel"]);
        check("\\d si|", "si", &["silver.orders_cleaned"]);
        check("SELECT * FROM si|", "si", &["silver.orders_cleaned"]);
    }

    #[test]
    fn columns_are_those_of_the_tables_in_the_statement() {
        check("SELECT f| FROM gold.funnel", "f", &["fallen", "false", "filter", "from", "full"]);
        check("SELECT orde| FROM gold.daily_metrics", "orde", &["order_date", "orders", "order"]);
        check("SELECT order_|", "order_", &["order_date", "order_id"]);
        check("SELECT o.f| FROM silver.orders_cleaned o", "o.f", &["o.fee"]);
        check("SELECT gold.funnel.|", "gold.funnel.", &["gold.funnel.fallen"]);
    }

    #[test]
    fn keywords_take_the_case_of_the_word() {
        check("SEL|", "SEL", &["SELECT"]);
        check("sel|", "sel", &["select"]);
        check("SELECT 1 éx|", "éx", &[]);
        check("\\t|", "\\t", &["\\timing"]);
    }
}
