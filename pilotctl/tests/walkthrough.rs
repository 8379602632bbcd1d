//! The walk-through of the README with the real program: a rendezvous server and two agents
//! find, trust and talk to each other; then each of the three is killed and comes back.

#![allow(clippy::disallowed_methods, reason = "a watchdog reads the clock")]

mod support;

use serde_json::Value;
use std::path::Path;
use std::time::Instant;
use support::*;

/// 10 MB, as the issue of a real data set would have it.
const FILE: usize = 10_000_000;

struct Scene {
    server: Home,
    research: Home,
    analysis: Home,
    registry: String,
    beacon: String,
    relay: bool,
    begin: Instant,
}

impl Scene {
    fn new(host: &str, relay: bool) -> Scene {
        let at = format!("{host}:0");
        let server = Home::new();
        let report =
            server.data(&["rendezvous", "start", "--registry-addr", &at, "--beacon-addr", &at]);
        let text = |name: &str| report[name].as_str().unwrap().to_owned();
        let (registry, beacon) = (text("registry"), text("beacon"));
        let agent = || {
            let home = Home::new();
            let mut arguments = vec!["daemon", "start", "--registry", &registry];
            arguments.extend(["--beacon", &beacon, "--listen", &at]);
            if relay {
                arguments.extend(["--path", "relay"]);
            }
            home.ok(&arguments);
            home
        };
        let (research, analysis) = (agent(), agent());
        Scene { server, research, analysis, registry, beacon, relay, begin: Instant::now() }
    }

    fn say(&self, what: &str) {
        println!("{:>8.2?} {what}", self.begin.elapsed());
    }

    /// Register, name, find, trust.
    fn introduce(&self) -> (String, String) {
        let introduce = |home: &Home, name: &str, tags: &str| {
            home.ok(&["join", "1"]);
            home.ok(&["set-hostname", name]);
            home.ok(&["set-visibility", "public"]);
            home.ok(&["tags", "set", tags]);
            home.data(&["info"])["address"].as_str().unwrap().to_owned()
        };
        let tags = "cloud=aws,region=us-east-1,role=research";
        let first = introduce(&self.research, "research-aws", tags);
        let second = introduce(&self.analysis, "analysis-gcp", "cloud=gcp,role=analysis");
        assert_eq!(self.research.ok(&["resolve", "analysis-gcp"]), second);
        assert_eq!(
            self.analysis.ok(&["discover", "--tag", "role=research"]),
            format!("{first} research-aws [cloud=aws, region=us-east-1, role=research]")
        );
        let why = "Cross-cloud research collaboration";
        self.research.ok(&["trust", "request", &second, "--justification", why]);
        wait_for("the request arrives", || self.analysis.ok(&["trust", "pending"]).contains(why));
        self.analysis.ok(&["trust", "approve", &first]);
        wait_for("trust is mutual", || {
            let list = self.research.data(&["trust", "list"]);
            list["peers"].as_array().unwrap().iter().any(|p| p["mutual"] == true)
        });
        self.say("trust is mutual");
        (first, second)
    }

    /// A message, a file and an echo in both directions.
    fn talk(&self, first: &str, second: &str, round: &str) {
        for (from, to, at) in
            [(&self.research, &self.analysis, second), (&self.analysis, &self.research, first)]
        {
            let text = format!("Analyze this dataset, {round}");
            from.ok(&["send-message", at, &text]);
            assert!(to.ok(&["inbox"]).contains(&text), "{round}");
        }
        self.say(&format!("{round}: messages"));
        let file = self.research.path.with_file_name("dataset.csv");
        std::fs::write(&file, dataset(round)).unwrap();
        let sent = self.research.data(&["send-file", second, file.to_str().unwrap()]);
        let received = self.analysis.data(&["received"]);
        let received = received["files"].as_array().unwrap();
        let same = |f: &&Value| f["sha256"] == sent["sha256"];
        let found = received.iter().find(same).expect("the file is in the list");
        let path = Path::new(found["path"].as_str().unwrap());
        assert!(std::fs::read(path).unwrap() == dataset(round), "{round}: equal bytes");
        let echo = self.research.ok(&["echo", second]);
        let way = if self.relay { "relayed" } else { "direct" };
        assert!(echo.contains(way), "{round}: {echo}");
        self.say(&format!("{round}: file and echo, {way}"));
    }

    fn restart_server(&self) {
        self.server.kill("rendezvous");
        self.server.ok(&[
            "rendezvous",
            "start",
            "--registry-addr",
            &self.registry,
            "--beacon-addr",
            &self.beacon,
        ]);
        for home in [&self.research, &self.analysis] {
            wait_for("the agent is online again", || {
                home.data(&["daemon", "status"])["online"] == true
            });
        }
    }
}

fn dataset(round: &str) -> Vec<u8> {
    let line = format!("{round},1,2,3,4,5\n");
    line.bytes().cycle().take(FILE).collect()
}

fn walk_through(host: &str, relay: bool) {
    let scene = Scene::new(host, relay);
    scene.say("started");
    let (first, second) = scene.introduce();
    scene.talk(&first, &second, "fresh");
    if relay {
        let status = scene.server.data(&["rendezvous", "status"]);
        let relayed = status["counters"]["relayed_bytes"].as_u64().unwrap();
        assert!(relayed >= FILE as u64, "{relayed} bytes were relayed");
    }
    scene.restart_server();
    scene.say("the server was killed and is back");
    scene.talk(&first, &second, "after the server's death");
    for (home, name) in [(&scene.research, "research"), (&scene.analysis, "analysis")] {
        home.kill("daemon");
        home.ok(&["daemon", "start"]);
        scene.say(&format!("{name} was killed and is back"));
        scene.talk(&first, &second, &format!("after the death of {name}"));
    }
    for (home, address) in [(&scene.research, &first), (&scene.analysis, &second)] {
        assert_eq!(home.data(&["info"])["address"].as_str(), Some(address.as_str()));
        let trusted = home.data(&["trust", "list"])["peers"].clone();
        assert_eq!(trusted.as_array().unwrap().len(), 1);
    }
}

#[test]
fn over_ipv4() {
    walk_through("127.0.0.1", false);
}

#[test]
fn over_ipv6() {
    walk_through("[::1]", false);
}

#[test]
fn over_the_relay() {
    walk_through("127.0.0.1", true);
}

#[test]
fn an_untrusted_third_agent_is_refused_by_its_own_daemon() {
    let scene = Scene::new("127.0.0.1", false);
    let (first, _) = scene.introduce();
    scene.analysis.ok(&["set-visibility", "private"]);
    let stranger = Home::new();
    stranger.ok(&start(&scene.registry, &scene.beacon));
    stranger.ok(&["join", "1"]);
    let private = scene.analysis.data(&["info"])["address"].as_str().unwrap().to_owned();
    for at in [first.as_str(), private.as_str(), "1:0001.0000.9999"] {
        let (code, error) = stranger.error(&["send-message", at, "hello"]);
        assert_eq!((code, error.as_str()), (4, "not_trusted"), "{at}");
    }
}
