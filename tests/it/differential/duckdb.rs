//! DuckDB in a process of its own, which computes while FlowGuard does.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::compare::{Cell, Rows};
use crate::warehouse::home;

pub struct Duckdb {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Duckdb {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/differential/oracle.py");
        let mut process = Command::new(home().join("python/bin/python"))
            .arg("-B")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("its Python is installed");
        let answers = BufReader::new(process.stdout.take().expect("a pipe was asked for"));
        let requests = process.stdin.take().expect("a pipe was asked for");
        Self { process, requests, answers }
    }

    /// Forgets every table.
    pub fn restart(&mut self) {
        self.send(&json!(false));
        self.receive().expect("it begins anew");
    }

    pub fn ask(&mut self, sql: &str) -> Result<Rows, String> {
        self.begin(sql);
        self.receive()
    }

    /// Begins with a statement, whose answer [`Self::receive`] waits for.
    pub fn begin(&mut self, sql: &str) {
        self.send(&Value::from(sql));
    }

    fn send(&mut self, request: &Value) {
        writeln!(self.requests, "{request}").expect("it reads");
        self.requests.flush().expect("it reads");
    }

    pub fn receive(&mut self) -> Result<Rows, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        assert!(!line.is_empty(), "DuckDB's process is gone");
        let answer: Value = serde_json::from_str(&line).expect("it answers in JSON");
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => {
                let rows = answer["rows"].as_array().expect("rows or an error").iter();
                let row = |row: &Value| {
                    let cells = row.as_array().expect("a row").iter();
                    cells.map(|cell| Cell::of_oracle(cell.as_str())).collect()
                };
                Ok(rows.map(row).collect())
            }
        }
    }
}

impl Drop for Duckdb {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
