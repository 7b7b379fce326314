//! A running `flowguard serve`, and a client of its HTTP that sees every byte: whether an answer is
//! whole must be judged here, not by a library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::Project;

/// What the program may take for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOG: &str = "serve.log";

/// Killed when dropped, if it was not stopped.
pub struct Served {
    project: Project,
    child: Child,
    /// What it printed when it was ready.
    pub described: Value,
}

impl Served {
    /// Starts the program on free ports and waits until it listens.
    pub fn start(project: &Project, arguments: &[&str]) -> Self {
        Self::start_through(project, &[], arguments)
    }

    /// The same, by a program that becomes it, such as one that lowers its limits first.
    pub fn start_through(project: &Project, wrapper: &[&str], arguments: &[&str]) -> Self {
        let line = [
            "serve",
            "--output=json",
            "--set=server.flight_address=127.0.0.1:0",
            "--set=server.http_address=127.0.0.1:0",
        ];
        let log = std::fs::File::create(project.folder().join(LOG)).expect("a new file");
        let mut command = project.command_through(wrapper, &[&line, arguments].concat());
        let mut child =
            command.stdout(Stdio::piped()).stderr(log).spawn().expect("the program starts");
        let mut first = String::new();
        let stdout = child.stdout.take().expect("a pipe was asked for");
        BufReader::new(stdout).read_line(&mut first).expect("the program speaks UTF-8");
        let mut served = Self { project: project.clone(), child, described: Value::Null };
        served.described = serde_json::from_str(&first)
            .unwrap_or_else(|error| panic!("{error}: `{first}`: {}", served.said()));
        served
    }

    pub fn address(&self, server: &str) -> SocketAddr {
        let address = self.described[server].as_str().and_then(|text| text.parse().ok());
        address.unwrap_or_else(|| panic!("no address of {server} in {}", self.described))
    }

    /// Everything on its standard error so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.project.folder().join(LOG)).expect("the log is there")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address("http")).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    pub fn ask(&self, request: &Request<'_>) -> Reply {
        request.send(self.connect())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask(&Request { path, ..Request::default() })
    }

    /// `VmRSS` now, or `VmHWM` at most.
    pub fn memory_mib(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("Linux tells");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a known field");
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        kib.expect("a number") / 1024.0
    }

    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("`kill` is installed").success());
    }

    /// Waits for its end; the exit code.
    pub fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn stop(self) -> Option<i32> {
        self.terminate();
        self.ended()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self { method: "GET", path: "/", headers: &[], body: &[] }
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lowercase.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to its end, by its length or its last chunk.
    pub is_whole: bool,
}

impl Request<'_> {
    /// Writes the request, whose answer then waits to be read.
    pub fn write(&self, stream: &mut impl Write) {
        let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| *name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        // The server may answer, and close, before it has read everything.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(self.body));
        let _ = stream.flush();
    }

    pub fn send(&self, mut stream: impl Read + Write) -> Reply {
        self.write(&mut stream);
        Reply::read(stream)
    }
}

impl Reply {
    pub fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        // A connection that is cut off is something to look at, not to fail on.
        let read = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let text = String::from_utf8_lossy(&bytes);
        let end = end.unwrap_or_else(|| panic!("no head: {text} ({read:?})"));
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head in ASCII");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Self {
            status: status.expect("a status line"),
            headers,
            body: bytes[end + 4..].to_vec(),
            is_whole: false,
        };
        match reply.header("content-length") {
            Some(length) => reply.is_whole = length == reply.body.len().to_string(),
            None => (reply.body, reply.is_whole) = unchunked(&reply.body),
        }
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a body in UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The text of an answer that is whole and good.
    #[track_caller]
    pub fn succeeded(&self) -> String {
        assert_eq!((self.status, self.is_whole), (200, true), "{}", self.text());
        self.text()
    }
}

/// The data of a chunked body, and whether its last chunk came.
fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).expect("a size in ASCII");
        let size = usize::from_str_radix(size, 16).expect("a size in hexadecimal digits");
        rest = &rest[end + 2..];
        if size == 0 {
            return (data, rest == b"\r\n");
        }
        data.extend(rest.iter().take(size));
        if rest.len() < size + 2 {
            break;
        }
        rest = &rest[size + 2..];
    }
    (data, false)
}
