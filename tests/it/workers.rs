//! Processes of `flowguard ingest`, and what their logs say of the partitions that they hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::Project;

/// What a worker may take for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a log that a failure shows.
const LAST_WORDS_LINES: usize = 10;

/// A worker: a process at a time, each with a log of its own.
pub struct Worker<'a> {
    project: &'a Project,
    logs: &'a Path,
    number: usize,
    lives: u32,
    pub process: Child,
    log: PathBuf,
}

impl<'a> Worker<'a> {
    pub fn start(project: &'a Project, logs: &'a Path, number: usize) -> Self {
        let log = logs.join(format!("worker-{number}-000.log"));
        let process = Self::spawn(project, &log);
        Self { project, logs, number, lives: 1, process, log }
    }

    fn spawn(project: &Project, log: &Path) -> Child {
        let log = std::fs::File::create(log).expect("the log's folder exists");
        let mut command = project.command(&["ingest"]);
        command.stdout(Stdio::null()).stderr(log).spawn().expect("the program starts")
    }

    /// The process that lives now, unless it ended by itself, which nothing here may cause.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.process.try_wait().expect("the child can be asked") {
            panic!("worker {} ended by itself, {status}: {}", self.number, self.last_words());
        }
    }

    pub fn kill(&mut self) {
        self.assert_alive();
        self.process.kill().expect("the child lives");
        self.process.wait().expect("the child ends");
    }

    pub fn restart(&mut self) {
        self.log = self.logs.join(format!("worker-{}-{:03}.log", self.number, self.lives));
        self.lives += 1;
        self.process = Self::spawn(self.project, &self.log);
    }

    pub fn signal(&mut self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.expect("`kill` is installed").success());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the worker has a log")
    }

    pub fn last_words(&self) -> String {
        let said = self.said();
        let from = said.lines().count().saturating_sub(LAST_WORDS_LINES);
        let last: Vec<&str> = said.lines().skip(from).collect();
        format!("{}\n{}", self.log.display(), last.join("\n"))
    }

    /// Waits until the log's lines from `since` on satisfy `enough`.
    pub fn wait_for(&mut self, what: &str, since: usize, enough: impl Fn(&[Value]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.said_lines();
            if enough(&lines[since.min(lines.len())..]) {
                return;
            }
            self.assert_alive();
            let number = self.number;
            assert!(Instant::now() < deadline, "worker {number}: no {what}: {}", self.last_words());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What its log says so far; a line that is being written is left out.
    pub fn said_lines(&self) -> Vec<Value> {
        let said = self.said();
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn lines(&self) -> usize {
        self.said_lines().len()
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn says(line: &Value, message: &str) -> bool {
    line["message"] == message
}

/// Whether a line is about partitions of a topic that were given or taken.
pub fn is_rebalance(line: &Value, topic: &str) -> bool {
    let is_topic = line["topic"].as_str().is_some_and(|named| named.ends_with(topic));
    is_topic && (says(line, "partitions assigned") || says(line, "partitions revoked"))
}

/// The partitions of a rebalance's line.
pub fn partitions_of(line: &Value) -> BTreeSet<i32> {
    let listed = line["partitions"].as_str().expect("a list of numbers");
    serde_json::from_str(listed).expect("a list of numbers")
}

/// What a worker holds of a topic at the end of a log, whether its group rebalances as a whole or
/// step by step.
pub fn held(lines: &[Value], topic: &str) -> BTreeSet<i32> {
    let mut held = BTreeSet::new();
    for line in lines.iter().filter(|line| is_rebalance(line, topic)) {
        let partitions = partitions_of(line);
        match says(line, "partitions assigned") {
            true => held.extend(partitions),
            false => held.retain(|partition| !partitions.contains(partition)),
        }
    }
    held
}
