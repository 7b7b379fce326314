//! The records of sqllogictest files, as SQLite and DataFusion write them. Which errors an error's
//! record wants is not read.

use std::path::{Path, PathBuf};

/// Whom `onlyif` and `skipif` take FlowGuard for: its dialect is SQLite's where that of the files
/// depends on the engine, and DataFusion's in DataFusion's own.
const NAMES: [&str; 2] = ["sqlite", "DataFusion"];

#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    Statement(String),
    /// A statement or a query that ends in an error.
    Failing(String),
    Query(Query),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// File and line.
    pub place: String,
    pub sql: String,
    /// A letter for each column.
    pub types: String,
    pub sort: Sort,
    /// The lines of the answer.
    pub expected: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sort {
    No,
    Rows,
    Values,
}

/// All records of a file and of the files that it includes.
pub fn records(path: &Path) -> Vec<Record> {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Reader { path: path.to_owned(), records: Vec::new(), is_skipped: false }
        .read(&String::from_utf8_lossy(&text))
}

struct Reader {
    path: PathBuf,
    records: Vec<Record>,
    /// Whether the record that begins next is of another engine.
    is_skipped: bool,
}

impl Reader {
    fn read(mut self, text: &str) -> Vec<Record> {
        let mut lines = text.lines().enumerate();
        while let Some((at, line)) = lines.next() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["skipif", name, ..] => self.is_skipped |= NAMES.contains(name),
                ["onlyif", name, ..] => self.is_skipped |= !NAMES.contains(name),
                ["halt", ..] if !self.is_skipped => break,
                ["include", file] => {
                    let folder = self.path.parent().expect("a file is in a folder");
                    let file = folder.join(file);
                    // A pattern of several names is not followed.
                    self.records.extend(if file.exists() { records(&file) } else { Vec::new() });
                }
                ["statement" | "query", ..] => {
                    let mut block =
                        lines.by_ref().map(|(_, line)| line).take_while(|line| !line.is_empty());
                    let sql: Vec<&str> =
                        block.by_ref().take_while(|line| !line.starts_with("----")).collect();
                    let expected = block.filter(|line| *line != "----").map(ToOwned::to_owned);
                    let expected = expected.collect();
                    let record = record(&words, sql.join("\n"), expected, || {
                        format!("{}:{}", self.path.display(), at + 1)
                    });
                    let is_skipped = std::mem::take(&mut self.is_skipped);
                    self.records.extend(record.filter(|_| !is_skipped));
                }
                // A blank line, a comment, or what is only for other runners.
                _ => self.is_skipped &= !line.is_empty(),
            }
        }
        self.records
    }
}

/// `words` are those of its first line.
fn record(
    words: &[&str],
    sql: String,
    expected: Vec<String>,
    place: impl Fn() -> String,
) -> Option<Record> {
    match words {
        ["statement" | "query", "error", ..] => Some(Record::Failing(sql)),
        ["statement", ..] => Some(Record::Statement(sql)),
        ["query", types, rest @ ..] => {
            let sort = match rest.first() {
                Some(&"rowsort") => Sort::Rows,
                Some(&"valuesort") => Sort::Values,
                _ => Sort::No,
            };
            let types = (*types).to_owned();
            Some(Record::Query(Query { place: place(), sql, types, sort, expected }))
        }
        _ => None,
    }
}

#[test]
fn records_are_read_as_their_authors_mean_them() {
    let text = "# a comment\nstatement ok\nCREATE TABLE t(a INTEGER,\n  b TEXT)\n\n\
        skipif sqlite # has no such thing\nonlyif mysql\nquery I rowsort label-1\nSELECT 1 DIV 1\n\
        ----\n1\n\nonlyif sqlite\nquery IT valuesort\nSELECT a, b FROM t\n----\n1\nx\n\n\
        query error DataFusion error\nSELECT nothing\n\nonlyif mssql\nhalt\n\nstatement ok\nDROP \
        TABLE t\n\nhalt\n\nstatement ok\nDROP TABLE t\n";
    let reader = Reader { path: "f".into(), records: Vec::new(), is_skipped: false };
    let query = Query {
        place: "f:14".to_owned(),
        sql: "SELECT a, b FROM t".to_owned(),
        types: "IT".to_owned(),
        sort: Sort::Values,
        expected: vec!["1".to_owned(), "x".to_owned()],
    };
    let expected = vec![
        Record::Statement("CREATE TABLE t(a INTEGER,\n  b TEXT)".to_owned()),
        Record::Query(query),
        Record::Failing("SELECT nothing".to_owned()),
        Record::Statement("DROP TABLE t".to_owned()),
    ];
    assert_eq!(reader.read(text), expected);
}
