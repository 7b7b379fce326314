//! The built program with a script in the place of its drivers' process: it can be killed, or made
//! to run other statements, at a step of its conversation with a warehouse. No hook in the program
//! is needed: the program starts drivers from its own file, and here it runs from a file that is
//! gone, whose name the system gives as `PATH (deleted)`. The script stands under that name.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::program::{Finished, PASSWORD, Project, finish};
use crate::warehouse::scripts;

pub struct StandIn {
    folder: TempDir,
    /// Open, and gone from its folder.
    program: File,
}

impl StandIn {
    pub fn new() -> Self {
        // A link needs the built program's own file system.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let link = folder.path().join("flowguard");
        std::fs::hard_link(env!("CARGO_BIN_EXE_flowguard"), &link).unwrap();
        let program = File::open(&link).unwrap();
        std::fs::remove_file(&link).unwrap();
        Self { folder, program }
    }

    /// Which engine or driver dies, at which step of its conversation (at none if that is 0), and
    /// when in that step.
    pub fn dies(&self, victim: &str, step: usize, moment: &str) {
        std::fs::write(self.steps(), "").unwrap();
        let steps = self.steps();
        let (program, steps) = (env!("CARGO_BIN_EXE_flowguard"), steps.display());
        self.become_script(
            "dying_driver.py",
            &format!("{program} {step} {moment} {steps} {victim}"),
        );
    }

    /// Patterns of statements, and what is run in the place of each.
    pub fn runs_instead(&self, rules: &[(&str, &[&str])]) {
        let file = self.folder.path().join("rules");
        std::fs::write(&file, serde_json::to_string(rules).unwrap()).unwrap();
        let program = env!("CARGO_BIN_EXE_flowguard");
        self.become_script("faulty_driver.py", &format!("{program} {}", file.display()));
    }

    fn become_script(&self, script: &str, arguments: &str) {
        let file = self.folder.path().join("flowguard (deleted)");
        let script = scripts().join(script);
        let line = format!("#!/bin/sh\nexec {} {} {arguments}\n", python(), script.display());
        std::fs::write(&file, line).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn steps(&self) -> PathBuf {
        self.folder.path().join("steps")
    }

    /// Requests that the script saw.
    pub fn requests(&self) -> Vec<String> {
        std::fs::read_to_string(self.steps()).unwrap().lines().map(str::to_owned).collect()
    }

    pub fn run(&self, project: &Project, arguments: &[&str]) -> Finished {
        let descriptor = self.program.as_raw_fd();
        let program = format!("/proc/{}/fd/{descriptor}", std::process::id());
        let mut command = Command::new(program);
        command.args(arguments).current_dir(project.folder()).env_clear().envs([PASSWORD]);
        command.stdin(Stdio::null());
        finish(&mut command)
    }
}

/// Found once: some shells resolve it anew each time, and slowly.
fn python() -> String {
    let found = finish(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
    found.succeeded().stdout.trim().to_owned()
}

/// Processes of drivers that were started in this folder and are still there.
pub fn drivers_in(folder: &Path) -> Vec<u32> {
    let folder = folder.canonicalize().unwrap();
    let is_driver = |process: &Path| {
        let command = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        command.ends_with("\0warehouse-driver\0")
            && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    processes
        .filter(|process| is_driver(process))
        .filter_map(|process| process.file_name()?.to_str()?.parse().ok())
        .collect()
}
