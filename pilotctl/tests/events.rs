//! Events between daemons as their users have them: who hears what, who does not, and what a
//! subscriber is told that lost something.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use support::{Home, Story, mutual, start, wait_at_most, wait_for};

/// Whatever is told comes within this time, or never.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three agents, of which the first trusts the others, and a fourth that nobody knows.
struct Scene {
    server: (Home, String, String),
    broker: Home,
    address: String,
    others: [Home; 2],
}

impl Scene {
    fn new() -> Scene {
        let server = Home::rendezvous();
        let agent = || Home::agent(&server.1, &server.2);
        let (broker, report) = agent();
        let address = report["address"].as_str().unwrap().to_owned();
        let others = [agent(), agent()].map(|(home, report)| {
            home.ok(&["trust", "request", &address]);
            let from = report["address"].as_str().unwrap();
            wait_for("the request arrives", || broker.run(&["trust", "approve", from]).code == 0);
            assert_eq!(mutual(&home), address);
            home
        });
        Scene { server, broker, address, others }
    }

    /// Subscribes with the broker; returns when that is confirmed.
    fn subscribe(&self, home: &Home, arguments: &[&str]) -> Subscriber {
        let mut subscriber = Subscriber::spawn(home, &self.address, arguments);
        subscriber.read();
        assert_eq!(subscriber.note(), format!("subscribed at {}", self.address));
        subscriber
    }

    fn publish(&self, home: &Home, topic: &str, data: &str) -> u64 {
        let published = home.data(&["publish", &self.address, topic, data]);
        assert_eq!(published["events"], 1);
        published["queued"].as_u64().unwrap()
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A running `pilotctl subscribe`; killed when dropped.
struct Subscriber {
    child: Child,
    out: Option<Receiver<String>>,
    notes: Receiver<String>,
}

impl Subscriber {
    fn spawn(home: &Home, address: &str, arguments: &[&str]) -> Subscriber {
        let mut command = home.command(&[&["subscribe", address], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let notes = lines(child.stderr.take().unwrap());
        Subscriber { child, out: None, notes }
    }

    /// From now on its output is read; before, it stalls when the pipe is full.
    fn read(&mut self) {
        if let Some(out) = self.child.stdout.take() {
            self.out = Some(lines(out));
        }
    }

    #[track_caller]
    fn note(&self) -> String {
        self.notes.recv_timeout(PATIENCE).expect("a note on standard error")
    }

    #[track_caller]
    fn line(&self) -> String {
        let out = self.out.as_ref().expect("read");
        out.recv_timeout(PATIENCE).unwrap_or_else(|e| {
            panic!("no line ({e}); notes: {:?}", self.notes.try_iter().collect::<Vec<_>>())
        })
    }

    #[track_caller]
    fn event(&self) -> Value {
        let envelope: Value = serde_json::from_str(&self.line()).unwrap();
        assert_eq!(envelope["status"], "ok", "{envelope}");
        envelope["data"].clone()
    }

    #[track_caller]
    fn exit(&mut self) -> i32 {
        let mut code = None;
        wait_at_most(PATIENCE, "it ends", || {
            code = self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code.unwrap()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_reach_those_who_subscribe_and_nobody_else() {
    let mut story = Story::begin("events", Duration::from_secs(240));
    let scene = Scene::new();
    let Scene { broker, address, others: [b, c], .. } = &scene;
    let b_address = b.data(&["info"])["backbone"].as_str().unwrap().to_owned();
    story.done("three agents");

    let mut of_b = scene.subscribe(b, &["weather.*", "news.>", "--count", "3"]);
    let mut of_c = scene.subscribe(c, &["weather.berlin", "weather.*", "--count", "2", "--json"]);
    let mut own = scene.subscribe(broker, &[">", "--count", "5"]);
    assert_eq!(scene.publish(b, "weather.berlin", "12 C"), 3);
    assert_eq!(scene.publish(c, "weather.berlin.mitte", "13 C"), 1);
    assert_eq!(scene.publish(c, "news.world.today", "a\u{1b}[31m \"b\"\nc"), 2);
    assert_eq!(scene.publish(broker, "weather.rome", ""), 3);
    assert_eq!(scene.publish(broker, "news", "nothing"), 1);
    let told = format!("weather.berlin {b_address} \"12 C\"");
    assert_eq!(own.line(), told);
    assert_eq!(of_b.line(), told);
    assert!(of_b.line().ends_with(r#" "a[31m \"b\"\nc""#));
    assert_eq!(of_b.line(), format!("weather.rome {address} \"\""));
    let event = of_c.event();
    assert_eq!(event["text"], "12 C");
    assert_eq!((&event["from"], &event["retained"]), (&Value::from(b_address), &false.into()));
    assert_eq!(of_c.event()["topic"], "weather.rome");
    for subscriber in [&mut of_b, &mut of_c, &mut own] {
        assert_eq!(subscriber.exit(), 0);
    }
    let rest = |subscriber: &Subscriber| subscriber.out.as_ref().unwrap().iter().count();
    assert_eq!((rest(&own), rest(&of_b), rest(&of_c)), (4, 0, 0));
    story.done("patterns and counts");

    // Retained values come to those who ask, and bytes that are no text as they were.
    b.ok(&["publish", address, "state.b", "old", "--retain"]);
    b.ok(&["publish", address, "state.b", "up", "--retain"]);
    let path = b.beside("bytes");
    std::fs::write(&path, b"\xFF\0\x01").unwrap();
    let mut publish = b.command(&["publish", address, "state.raw", "-", "--retain", "--no-wait"]);
    publish.stdin(std::fs::File::open(&path).unwrap());
    let out = String::from_utf8(publish.output().unwrap().stdout).unwrap();
    assert_eq!(out, format!("published at {address}, unacknowledged\n"));
    let read = |patterns: &[&str]| {
        let subscribe = [&["subscribe", address, "--retained", "--timeout", "60s"], patterns];
        c.ok(&subscribe.concat())
    };
    assert!(read(&["state.b", "-c", "1"]).ends_with(" \"up\" (retained)"));
    wait_for("what was not waited for arrives", || {
        let out = read(&["state.*", "--json", "-c", "2"]);
        out.lines().any(|line| line.contains(r#""base64":"/wAB""#) && line.contains("state.raw"))
    });
    let none = c.error(&["subscribe", address, "state.*", "--timeout", "2s"]);
    assert_eq!(none, (6, "timeout".to_owned()));
    story.done("retained values");

    // Refusals: a stranger, what is no topic, and what is too large.
    let (stranger, _) = Home::agent(&scene.server.1, &scene.server.2);
    let refused = (4, "not_trusted".to_owned());
    assert_eq!(stranger.error(&["publish", address, "a", "x"]), refused);
    assert_eq!(stranger.error(&["subscribe", address, ">"]), refused);
    assert_eq!(stranger.error(&["subscribe", address, ">", "--follow"]), refused);
    let usage = (2, "usage".to_owned());
    assert_eq!(b.error(&["publish", address, "a.*", "x"]), usage);
    assert_eq!(b.error(&["publish", address, "a", "x", "--lines"]), usage);
    assert_eq!(b.error(&["subscribe", address, "a..b"]), usage);
    let long = "x".repeat(64 * 1024 + 1);
    assert_eq!(b.error(&["publish", address, "a", &long]), (1, "too_large".to_owned()));
    assert_eq!(scene.publish(b, "a", &long[1..]), 0);
    story.done("refusals");
}

#[test]
fn a_subscriber_that_reads_nothing_delays_nobody_and_is_told_what_it_lost() {
    const BATCHES: usize = 40;
    const BATCH: usize = 100;
    const ALL: u64 = (BATCHES * BATCH) as u64;
    let mut story = Story::begin("stalled", Duration::from_secs(300));
    let scene = Scene::new();
    let Scene { broker, address, others: [b, c], .. } = &scene;
    let mut stalled = Subscriber::spawn(b, address, &["n.>", "--json"]);
    assert_eq!(stalled.note(), format!("subscribed at {address}"));
    let quick = [scene.subscribe(c, &["n.>"]), scene.subscribe(broker, &["*.n"])];
    story.done("subscribed");

    // 24 MB: more than pipes, sockets, windows and its queue hold together.
    let text = "x".repeat(6000);
    for batch in 0..BATCHES {
        let mut publish = c.command(&["publish", address, "n.n", "-", "--lines", "--json"]);
        publish.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = publish.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        for n in 0..BATCH {
            writeln!(input, "{} {text}", batch * BATCH + n).unwrap();
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        for subscriber in &quick {
            for n in 0..BATCH {
                let line = subscriber.line();
                assert!(line.contains(&format!(" \"{} xxx", batch * BATCH + n)), "{}", &line[..60]);
            }
        }
    }
    for subscriber in &quick {
        assert!(subscriber.notes.try_recv().is_err(), "nothing is lost");
    }
    story.done("published");

    // Now it reads: each event came, or was counted where it would have been.
    stalled.read();
    let (mut next, mut lost) = (0, 0);
    while next < ALL {
        let event = stalled.event();
        if let Some(dropped) = event["dropped"].as_u64() {
            lost += dropped;
            next += dropped;
            assert_eq!(event["total"], lost);
        } else {
            let text = event["text"].as_str().unwrap();
            assert!(text.starts_with(&format!("{next} ")), "{next}: {}", &text[..20]);
            next += 1;
        }
    }
    assert!(lost > 0 && lost < ALL, "{lost}");
    println!("stalled: {lost} of {ALL} events were lost and told");
    assert_eq!(scene.publish(b, "n.last", "x"), 2);
    assert_eq!(stalled.event()["topic"], "n.last");
    story.done("read");
}

#[test]
fn a_following_subscriber_comes_back_after_its_broker_was_lost() {
    let mut story = Story::begin("follow", Duration::from_secs(400));
    let scene = Scene::new();
    let Scene { broker, address, others: [b, c], server } = &scene;
    let follower = scene.subscribe(b, &["t", "--follow"]);
    let mut once = scene.subscribe(c, &["t"]);
    assert_eq!(scene.publish(c, "t", "one"), 2);
    assert!(follower.line().ends_with("\"one\""));
    broker.kill("daemon");
    story.done("killed");
    broker.data(&start(&server.1, &server.2));
    let lost = follower.note();
    assert!(
        lost.starts_with(&format!("lost {address}: ")) && lost.contains("; again in "),
        "{lost}"
    );
    assert_eq!(once.exit(), 1, "without --follow that is the end");
    wait_at_most(PATIENCE, "it subscribes again", || follower.note().contains("subscribed again"));
    story.done("subscribed again");
    assert_eq!(scene.publish(c, "t", "two"), 1);
    assert!(follower.line().ends_with("\"two\""));

    // Its own daemon may go, too; but trust that was taken back ends it.
    b.ok(&["daemon", "stop"]);
    assert!(follower.note().starts_with("lost"));
    b.data(&start(&server.1, &server.2));
    wait_at_most(PATIENCE, "it subscribes again", || follower.note().contains("subscribed again"));
    story.done("own daemon restarted");
    let mut follower = follower;
    let of_b = b.data(&["info"])["backbone"].as_str().unwrap().to_owned();
    broker.ok(&["trust", "revoke", &of_b]);
    assert_eq!(follower.exit(), 4);
    story.done("revoked");
}
