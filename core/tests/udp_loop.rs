//! The example `udp_loop` as two processes, over real sockets on loopback, with the rendezvous
//! machine in this one.

#[path = "../examples/udp_loop/main.rs"]
mod example;
#[path = "support/standard_rendezvous.rs"]
mod standard_rendezvous;

use standard_rendezvous::Server;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

const ARGUMENTS: &str = "UDP_LOOP_ARGUMENTS";

/// So that the example is as fresh as its test, this program is also the example's.
#[test]
#[ignore = "the example itself, which the other test runs as a process"]
fn process() {
    let arguments = std::env::var(ARGUMENTS).expect("set by the other test");
    let arguments: Vec<String> = arguments.split('\n').map(str::to_string).collect();
    example::run(&arguments).expect("it ends well");
}

/// Killed when dropped.
struct Process {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(arguments: &[&str]) -> Process {
        let mut child = Command::new(std::env::current_exe().expect("we run"))
            .args(["process", "--exact", "--ignored", "--nocapture"])
            .env(ARGUMENTS, arguments.join("\n"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test program starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Process { child, output }
    }

    /// What follows `word` and a space on the first line of which it is the first word.
    fn line_after(&mut self, word: &str) -> String {
        let mut seen = Vec::new();
        for line in &mut self.output {
            let line = line.expect("text");
            // The test harness may have begun the line.
            if let Some((_, rest)) = line.split_once(&format!("{word} ")) {
                return rest.to_string();
            }
            seen.push(line);
        }
        panic!("no {word:?} in {seen:#?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_processes_of_the_example_talk() {
    let server = Server::start();
    let (registry, beacon) = (server.registry.to_string(), server.beacon.to_string());
    let mut serving = Process::start(&["serve", &registry, &beacon]);
    let address = serving.line_after("address");
    // More than a stream may send at once, so both ends wait for each other.
    let text = "over any loop ".repeat(4000);
    let mut calling = Process::start(&["call", &registry, &beacon, &address, &text]);
    assert_eq!(calling.line_after("answer"), text);
    let ended = calling.child.wait().expect("it ends");
    assert!(ended.success(), "{ended}");
}
