//! Programs that nobody here has written, through `expose` and `forward` of real daemons: OpenSSH
//! and iperf3, where they are installed.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::pair::{Pair, pair};
use support::sshd::Sshd;
use support::{Home, Story, wait_for, write_file};

const STORY_MAX: Duration = Duration::from_secs(240);

/// A way from `b` to a service beside `a`; where it begins.
fn way(pair: &Pair, port: &str, service: SocketAddr) -> SocketAddr {
    pair.a.ok(&["expose", port, &service.to_string()]);
    let set = pair.b.data(&["forward", "0", &format!("{}:{port}", pair.to_a)]);
    set["local"].as_str().unwrap().parse().unwrap()
}

fn run(mut command: Command, log: impl Fn() -> String) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}\n{}", log());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ssh_and_scp_pass_through_forward() {
    let mut story = Story::begin("ssh", STORY_MAX);
    let beside = Home::new();
    let Some(sshd) = Sshd::start(&beside) else { return };
    let pair = pair();
    let at = way(&pair, "22", sshd.at);
    story.done("an sshd behind two agents");
    let ssh = |line: &str| {
        let mut command = sshd.client("ssh", at);
        command.arg(sshd.us()).arg(line);
        run(command, || sshd.log())
    };
    assert_eq!(ssh("true"), "");
    assert_eq!(ssh("echo $((6 * 7)); seq 20000 | tail -n 1"), "42\n20000\n");
    let mut failing = sshd.client("ssh", at);
    assert_eq!(failing.arg(sshd.us()).arg("exit 7").status().unwrap().code(), Some(7));
    story.done("commands");

    let (there, back) = (beside.beside("there"), beside.beside("back"));
    let source = beside.beside("source");
    write_file(&source, 8_000_000, 5);
    let remote = format!("{}:{}", sshd.us(), there.display());
    let copy = |from: &str, to: &str| {
        let mut command = sshd.client("scp", at);
        command.args([from, to]);
        run(command, || sshd.log());
    };
    copy(source.to_str().unwrap(), &remote);
    copy(&remote, back.to_str().unwrap());
    let content = std::fs::read(&source).unwrap();
    assert!(std::fs::read(there).unwrap() == content, "the copy there differs");
    assert!(std::fs::read(back).unwrap() == content, "the copy back differs");
    let served = pair.a.data(&["expose", "list"])["exposes"][0].clone();
    // One for each command and copy.
    assert_eq!((&served["served"], &served["failed"]), (&5.into(), &0.into()), "{served}");
    story.done("8 MB there and back");
}

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn iperf3_passes_through_forward() {
    if !Command::new("iperf3").arg("--version").output().is_ok_and(|out| out.status.success()) {
        println!("SKIPPED: iperf3 is not installed");
        return;
    }
    let mut story = Story::begin("iperf3", STORY_MAX);
    let service = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("iperf3");
    command.args(["-s", "-B", "127.0.0.1", "-p", &service.port().to_string()]);
    let server = Server(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let pair = pair();
    let at = way(&pair, "5201", service);
    story.done("a server behind two agents");
    const BYTES: u64 = 64 << 20;
    // To the server, and from it.
    for direction in [None, Some("-R")] {
        let mut report = Value::Null;
        wait_for("iperf3 has answered", || {
            let mut command = Command::new("iperf3");
            command.args(["-c", "127.0.0.1", "-p", &at.port().to_string(), "-J", "-n"]);
            command.arg(BYTES.to_string()).args(direction).stdin(Stdio::null());
            let output = command.output().unwrap();
            report = serde_json::from_slice(&output.stdout).unwrap_or_default();
            // Until it listens, and while it still has the client before.
            output.status.success()
        });
        let sum = |end: &str| report["end"][end]["bytes"].as_u64().unwrap_or_default();
        let (sent, received) = (sum("sum_sent"), sum("sum_received"));
        assert!(sent >= BYTES, "{report}");
        // The receiver stops to count when the sender says that it is done: on a way of its own.
        assert!((BYTES / 2..=sent).contains(&received), "{report}");
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 8e6;
        story.done(&format!("{direction:?}: {received} of {sent} bytes, {rate:.0} MB/s"));
    }
    drop(server);
}
