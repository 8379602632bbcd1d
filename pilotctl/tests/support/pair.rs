//! Two agents of which one sends to the other, what is done to them, and what is checked.

use super::{Home, mutual, request_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes) % below
}

/// Ends a process, as a power loss would.
pub fn kill(report: &Value) {
    let pid = Pid::from_raw(report["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

pub struct Pair {
    pub server: Home,
    pub registry: String,
    pub beacon: String,
    pub a: Home,
    pub b: Home,
    pub a_process: Value,
    pub b_process: Value,
    pub to_a: String,
    pub to_b: String,
}

/// Two agents; `b` may do everything at `a`.
pub fn pair() -> Pair {
    pair_for("all")
}

/// Two agents; `b` may do so much at `a`.
pub fn pair_for(allow: &str) -> Pair {
    let (server, registry, beacon) = Home::rendezvous();
    let (a, a_process) = Home::agent(&registry, &beacon);
    let (b, b_process) = Home::agent(&registry, &beacon);
    let address = |process: &Value| process["address"].as_str().unwrap().to_owned();
    let (to_a, to_b) = (address(&a_process), address(&b_process));
    b.ok(&["trust", "request", &to_a]);
    request_of(&a, &to_b);
    a.ok(&["trust", "approve", &to_b, "--allow", allow]);
    mutual(&b);
    Pair { server, registry, beacon, a, b, a_process, b_process, to_a, to_b }
}

pub fn waits(message: &Value) -> bool {
    ["queued", "sending"].contains(&message["state"].as_str().unwrap())
}

/// What is in sight in the folder of received files is whole, at every moment: each has the
/// content of the source of its name. How many there are.
#[track_caller]
pub fn check_folder(folder: &Path, sources: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with('.') {
            count += 1;
            assert!(listed(&path) == listed(&sources.join(name)), "{name} is cut");
        }
    }
    count
}

/// A file's content, or of a directory all paths below it with the contents of files.
pub fn listed(root: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.push((name, meta.is_file().then(|| std::fs::read(&path).unwrap())));
        if meta.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

/// Asks the local API over connections that stay open: one each.
pub struct Api(BufReader<UnixStream>);

impl Api {
    pub fn open(home: &Home) -> Option<Api> {
        let stream = UnixStream::connect(home.path.join("pilot.sock")).ok()?;
        Some(Api(BufReader::new(stream)))
    }

    /// Status and envelope.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let lost = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let length = body.len();
        let request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nhost: pilot\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (None, None);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(lost());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            status = status.or_else(|| line.split(' ').nth(1)?.parse().ok());
            length = length.or_else(|| line.strip_prefix("content-length: ")?.parse().ok());
        }
        let mut body = vec![0; length.ok_or_else(lost)?];
        self.0.read_exact(&mut body)?;
        Ok((status.ok_or_else(lost)?, serde_json::from_slice(&body)?))
    }
}
