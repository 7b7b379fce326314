//! The built program on a real terminal: `script` of util-linux makes a pseudo-terminal, and what
//! the program shows there is waited for.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::program::Project;
use crate::served::PATIENCE;

/// What it runs on: `$*` is the program and its arguments.
const TERMINAL: &str = "exec script -qefc \"stty rows 24 cols 100; exec $*\" /dev/null";

/// Killed when dropped, if it has not ended.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    shows: Receiver<String>,
    /// What it has shown and nobody has waited for yet.
    unread: String,
}

impl Terminal {
    /// 24 lines of 100 characters.
    pub fn start(project: &Project, arguments: &[&str]) -> Self {
        let mut command = project
            .clone()
            .with("TERM", "xterm")
            .command_through(&["sh", "-c", TERMINAL, "sh"], arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("`sh` is installed");
        let keys = child.stdin.take().expect("a pipe was asked for");
        let mut screen = child.stdout.take().expect("a pipe was asked for");
        let (sender, shows) = sync_channel(1_024);
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Self { child, keys, shows, unread: String::new() }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// Waits until `text` is shown, and forgets all up to it.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unread.find(text) {
                self.unread.drain(..at + text.len());
                return;
            }
            match self.shows.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(more) => self.unread.push_str(&more),
                Err(_) => panic!("no `{text}` in {:?}", self.unread),
            }
        }
    }

    /// Sends a signal to the program itself, which `script` runs below its own child.
    pub fn terminate(&self) {
        let id = self.child.id();
        let below = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let below = below.expect("a process that runs");
        let sent = Command::new("kill").args(["-TERM", below.trim()]).status();
        assert!(sent.expect("`kill` is installed").success());
    }

    /// Waits for its end; the exit code of the program, which `script` passes on.
    pub fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
