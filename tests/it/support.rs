//! Temporary projects, and the built program run in them. Starts no services.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use flowguard::model::ModelSet;
use tempfile::TempDir;

/// A folder with `dags.yaml` and the given files.
pub struct Project(TempDir);

/// What the program left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the output is text")
    }
}

impl Project {
    /// `files` are paths below `sql/`, without the ending.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        project.write("dags.yaml", "version: 1\ndags: {}\n");
        std::fs::create_dir(project.folder().join("sql")).unwrap();
        for (model, text) in files {
            project.write(&format!("sql/{model}.sql"), text);
        }
        project
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, path: &str, text: &str) {
        let file = self.folder().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    pub fn models(&self) -> ModelSet {
        ModelSet::read(self.folder()).unwrap()
    }

    /// Runs the program in this folder, with nothing but its path in the environment.
    pub fn flowguard(&self, arguments: &[&str]) -> Ended {
        self.flowguard_with_input(arguments, "")
    }

    pub fn flowguard_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code().expect("no signal ended it"),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowguard"));
        command.args(arguments).current_dir(self.folder()).env_clear();
        command
    }
}

/// A model file: header lines, then SQL.
pub fn model(header: &str, sql: &str) -> String {
    let header: Vec<String> = header.trim().lines().map(|line| format!("-- {line}")).collect();
    format!("-- /// flowguard\n{}\n-- ///\n{}\n", header.join("\n"), sql.trim())
}
