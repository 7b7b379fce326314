//! The program itself, as a user starts it, and how much memory it and its driver's process take.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

pub struct Exported {
    pub rows: u64,
    pub seconds: f64,
    pub engine_mib: f64,
    pub driver_mib: f64,
}

pub fn run(project: &Path, arguments: &[&str]) {
    let output = program(project, arguments).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One table to the only target.
pub fn export(project: &Path, table: &str) -> Exported {
    let start = Instant::now();
    let mut command = program(project, &["export", "run", table, "--output", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let (mut engine_mib, mut driver_mib) = (0.0, 0.0);
    while child.try_wait().expect("it is ours").is_none() {
        engine_mib = f64::max(engine_mib, most_memory_mib(child.id()));
        for driver in children(&child) {
            driver_mib = f64::max(driver_mib, most_memory_mib(driver));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let seconds = start.elapsed().as_secs_f64();
    let output = child.wait_with_output().expect("it has ended");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["exports"][0]["rows"].as_u64().expect("a number");
    Exported { rows, seconds, engine_mib, driver_mib }
}

fn program(project: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowguard"));
    // Variables of the bench are none of the program's.
    command.current_dir(project).args(arguments).env_clear();
    command
}

/// Zero of a process that is gone.
fn most_memory_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn children(parent: &Child) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", parent.id())) else {
        return Vec::new();
    };
    let of_thread = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
    };
    let lists: Vec<String> = threads.flatten().map(of_thread).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).flat_map(str::parse).collect()
}
