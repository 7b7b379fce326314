//! The servers as processes: the program itself, the raw server and Sail, each killed with its value.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Names the program `sail` of pysail.
pub const SAIL_VARIABLE: &str = "FLOWGUARD_BENCH_SAIL";
/// Makes this program the raw server.
pub const RAW_CHILD: &str = "--raw-child";
/// The shipped project, with its models.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

pub struct Running {
    child: Child,
    pub flight: String,
    pub http: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// `flowguard serve` over `lake`, listening.
    pub fn flowguard(lake: &Path) -> Self {
        let mut command = program(lake);
        command.args(["serve", "--only=flight,http", "--output=json"]);
        command.args(
            ["flight", "http"].map(|part| format!("--set=server.{part}_address=127.0.0.1:0")),
        );
        command.arg(format!("--set=server.statement_log={}", lake.join("statements").display()));
        let (child, line) = first_line(command);
        let said: serde_json::Value =
            serde_json::from_str(&line).expect("it says where it listens");
        let address = |part: &str| said[part].as_str().expect("an address").to_owned();
        Self { child, flight: address("flight"), http: address("http") }
    }

    pub fn raw(rows: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([RAW_CHILD, &rows.to_string()]);
        let (child, line) = first_line(command);
        Self { child, flight: line.trim().to_owned(), http: String::new() }
    }

    /// Sail's Flight SQL server, listening.
    pub fn sail(program: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let mut command = Command::new(program);
        command.args(["flight", "server", "--port", &address.port().to_string()]);
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Sail starts");
        while TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        Self { child, flight: address.to_string(), http: String::new() }
    }

    /// Waits until the lake has answered.
    pub fn wait_until_ready(&self) {
        loop {
            let mut stream = TcpStream::connect(&self.http).expect("it listens");
            let request = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            if answer.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    }

    /// `VmRSS` in all, or `RssAnon` without the pages of the program's file.
    pub fn memory_mib(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("Linux tells");
        let line = status.lines().find(|line| line.starts_with(field)).expect("it is there");
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        kib.expect("a number") / 1024.0
    }
}

/// The demo's lake, in the folder `lake`.
pub fn make_demo(lake: &Path) {
    let output = program(lake).arg("demo").output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn program(lake: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowguard"));
    // Variables of the bench are none of the program's.
    command.current_dir(PROJECT).env_clear().env("FLOWGUARD_LAKE", lake);
    command
}

fn first_line(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe was asked for");
    BufReader::new(stdout).read_line(&mut line).expect("a line in UTF-8");
    (child, line)
}
