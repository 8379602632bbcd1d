//! Processes killed at any moment, again and again, while others use them: what was
//! acknowledged is there, and nothing is half there. `PILOT_TEST_KILLS` sets how often.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use pilot_core::addr::{Address, NetworkId};
use pilot_core::node::{Command, Reply, RequestId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::pair::check_folder;
use support::raw_node::RawNode;
use support::{Home, mutual, request_of, start, wait_at_most, wait_for, write_file};

/// Whoever is killed all the time uses up what one source may ask of others, and waits.
const PATIENCE: Duration = Duration::from_secs(180);

fn kills() -> u64 {
    std::env::var("PILOT_TEST_KILLS").map_or(10, |n| n.parse().unwrap())
}

fn kill(report: &Value) {
    let pid = Pid::from_raw(report["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes) % below
}

/// Tells threads to stop, also when the test fails.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// ---- the rendezvous server ----

/// What a client has said of itself: the newest that was acknowledged, and what it asked for
/// since, which may be so or not.
#[derive(Default)]
struct Said {
    acknowledged: Option<String>,
    asked: Vec<String>,
}

impl Said {
    #[track_caller]
    fn check(&self, what: &str, found: Option<&str>) {
        let known = |text: &str| {
            self.acknowledged.as_deref() == Some(text) || self.asked.iter().any(|a| a == text)
        };
        let is_right = match found {
            Some(found) => known(found),
            None => self.acknowledged.is_none(),
        };
        let Said { acknowledged, asked } = self;
        assert!(is_right, "{what} is {found:?}; acknowledged {acknowledged:?}, then {asked:?}");
    }
}

/// A core node of its own, changing what the registry knows of it as fast as it is told that
/// the last change is there.
struct Client {
    raw: RawNode,
    id: u64,
    n: u64,
    name: Said,
    tags: Said,
    joined: BTreeSet<u16>,
}

impl Client {
    fn new(id: u64, registry: &str, beacon: &str) -> Client {
        let raw = RawNode::start(registry, beacon, "127.0.0.1:9");
        let (name, tags) = (Said::default(), Said::default());
        Client { raw, id, n: 0, name, tags, joined: BTreeSet::new() }
    }

    /// Changes its name, tags and networks in turn until it is to stop.
    fn work(&mut self, stop: &AtomicBool, acknowledged: &AtomicU64) {
        let halt = |_: &mut RawNode| stop.load(Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {
            if self.raw.node.address().is_none() {
                self.raw
                    .run(Duration::from_secs(60), |raw| raw.node.address().is_some() || halt(raw));
                continue;
            }
            self.n += 1;
            let (id, n) = (self.id, self.n);
            let text = format!("c{id}-{n}");
            let network = u16::try_from(1 + n / 3 % 12).unwrap();
            let command = match n % 3 {
                0 => Command::SetHostname {
                    name: text.parse().unwrap(),
                    network: Some(NetworkId::BACKBONE),
                },
                1 => Command::SetTags { tags: [text.parse().unwrap()].into_iter().collect() },
                _ => Command::Join { network: NetworkId(network) },
            };
            let Reply::Request(request) = self.raw.command(command) else { panic!("no request") };
            match n % 3 {
                0 => self.name.asked.push(text.clone()),
                1 => self.tags.asked.push(text.clone()),
                _ => {}
            }
            if !self.answered(request, stop) {
                continue;
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
            match n % 3 {
                0 => self.name = Said { acknowledged: Some(text), asked: Vec::new() },
                1 => self.tags = Said { acknowledged: Some(text), asked: Vec::new() },
                _ => drop(self.joined.insert(network)),
            }
        }
    }

    fn answered(&mut self, request: RequestId, stop: &AtomicBool) -> bool {
        let mut is_well = None;
        self.raw.run(Duration::from_secs(60), |raw| {
            is_well = raw.node.answer(request).map(|answer| answer.is_ok());
            is_well.is_some() || stop.load(Ordering::Relaxed)
        });
        self.raw.node.forget(request);
        self.raw.events.clear();
        is_well == Some(true)
    }
}

/// The registry as its server exports it, by backbone address: names, tags, networks.
struct Export(Value);

impl Export {
    fn of(server: &Home) -> Export {
        let file = server.data(&["rendezvous", "export"])["file"].as_str().unwrap().to_owned();
        Export(serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
    }

    fn rows(&self, table: &str) -> &[Value] {
        self.0[table].as_array().unwrap()
    }

    fn check(&self, client: &Client) {
        let Some(address) = client.raw.node.address() else { return };
        let shown = address.to_string();
        let node = self.rows("nodes").iter().find(|row| row["address"] == shown);
        let node = node.unwrap_or_else(|| panic!("{shown} was given away"));
        client.tags.check("the tag", node["published"]["tags"][0].as_str());
        let name = self.rows("names").iter().find(|row| row["node"] == shown);
        client.name.check("the name", name.and_then(|row| row["hostname"].as_str()));
        for &network in &client.joined {
            let shown = Address { network: NetworkId(network), ..address }.to_string();
            let is_in = self.rows("memberships").iter().any(|row| row["address"] == shown);
            assert!(is_in, "{shown} has joined");
        }
    }
}

#[test]
fn a_rendezvous_server_killed_at_any_moment_keeps_what_it_acknowledged() {
    let server = Home::new();
    let any = "127.0.0.1:0";
    let begin = ["rendezvous", "start", "--registry-addr", any, "--beacon-addr", any];
    let mut process = server.data(&begin);
    let text = |name: &str| process[name].as_str().unwrap().to_owned();
    let (registry, beacon) = (text("registry"), text("beacon"));
    let restart = ["rendezvous", "start", "--registry-addr", &registry, "--beacon-addr", &beacon];
    let mut clients: Vec<_> = (0..3).map(|id| Client::new(id, &registry, &beacon)).collect();
    let acknowledged = AtomicU64::new(0);
    for round in 0..kills() {
        // One more that registers meanwhile, in the place of the oldest such.
        clients.truncate(6);
        clients.insert(3, Client::new(3 + round, &registry, &beacon));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.work(&stop, &acknowledged));
            }
            let _stop = Stop(&stop);
            let goal = acknowledged.load(Ordering::Relaxed) + 1 + random(60);
            wait_at_most(PATIENCE, "the clients get on", || {
                acknowledged.load(Ordering::Relaxed) >= goal
            });
            std::thread::sleep(Duration::from_micros(random(20_000)));
            kill(&process);
        });
        process = server.data(&restart);
        let export = Export::of(&server);
        clients.iter().for_each(|client| export.check(client));
    }
    println!("{} changes acknowledged, {} kills", acknowledged.into_inner(), kills());
}

// ---- a daemon that receives ----

const CONTENT: usize = 2_000_000;

/// What a file of this name contains; the name says it all.
fn content_of(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

/// Names of everything that a crash can leave.
fn leftovers(home: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for dir in ["inbox", "received", "received/.partial", "received/.index"] {
        for entry in std::fs::read_dir(home.join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".tmp") || dir.ends_with(".partial") {
                left.push(name);
            }
        }
    }
    left
}

struct Senders<'h> {
    home: &'h Home,
    to: String,
    sources: std::path::PathBuf,
    stop: AtomicBool,
    /// Texts that were delivered, as the sender was told.
    messages: Mutex<BTreeSet<String>>,
    /// The same of files: name and hash.
    files: Mutex<BTreeMap<String, String>>,
    told: AtomicU64,
}

impl Senders<'_> {
    fn send_messages(&self) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let text = format!("message {n}: {}", "x".repeat(random(2000) as usize));
            if self.home.run(&["send-message", &self.to, &text, "--timeout", "30s"]).code == 0 {
                self.messages.lock().unwrap().insert(text);
                self.told.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn send_files(&self) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("file-{n}.bin");
            let path = self.sources.join(&name);
            write_file(&path, random(CONTENT as u64) as usize, n);
            // To the end: an interrupted one goes on, by itself or through the outbox.
            let line = ["send-file", &self.to, path.to_str().unwrap(), "--wait", "60s"];
            let sent = self.home.data(&line);
            let hash = sent["hash"].as_str().map(str::to_owned);
            self.files.lock().unwrap().insert(name, hash.unwrap_or_default());
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything of which its sender was told is there.
    fn check(&self, receiver: &Home) {
        let inbox = receiver.inbox();
        let distinct: BTreeSet<&String> = inbox.iter().collect();
        assert_eq!(distinct.len(), inbox.len(), "a message came twice");
        for text in &*self.messages.lock().unwrap() {
            assert!(distinct.contains(text), "{text} is not there");
        }
        let received = receiver.received();
        for (name, hash) in &*self.files.lock().unwrap() {
            let found: Vec<_> = received.iter().filter(|f| f["name"] == **name).collect();
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            let path = Path::new(found[0]["path"].as_str().unwrap());
            assert!(std::fs::read(path).unwrap() == content_of(&self.sources, name), "{name}");
            // The sender is not told the hash of what was there already.
            assert!(hash.is_empty() || found[0]["hash"] == **hash, "{name}");
        }
    }
}

#[test]
fn a_daemon_killed_at_any_moment_keeps_what_senders_were_told() {
    let (_server, registry, beacon) = Home::rendezvous();
    let (a, mut process) = Home::agent(&registry, &beacon);
    let b = Home::new();
    let report = b.data(&start(&registry, &beacon));
    // At any port: who sends finds out where it is now.
    let restart = start(&registry, &beacon);
    let to = process["address"].as_str().unwrap().to_owned();
    b.ok(&["trust", "request", &to]);
    let from = report["address"].as_str().unwrap();
    request_of(&a, from);
    a.ok(&["trust", "approve", from]);
    mutual(&b);
    let sources = b.beside("sources");
    std::fs::create_dir(&sources).unwrap();
    let folder = a.path.join("received");
    let senders = Senders {
        home: &b,
        to,
        sources: sources.clone(),
        stop: AtomicBool::new(false),
        messages: Mutex::default(),
        files: Mutex::default(),
        told: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let threads =
            [scope.spawn(|| senders.send_messages()), scope.spawn(|| senders.send_files())];
        let _stop = Stop(&senders.stop);
        for _ in 0..kills() {
            let goal = senders.told.load(Ordering::Relaxed) + 1 + random(6);
            wait_at_most(PATIENCE, "the senders get on", || {
                assert!(threads.iter().all(|t| !t.is_finished()), "a sender has failed");
                senders.told.load(Ordering::Relaxed) >= goal
            });
            std::thread::sleep(Duration::from_micros(random(300_000)));
            kill(&process);
            check_folder(&folder, &sources);
            process = a.data(&restart);
            senders.check(&a);
        }
    });
    senders.check(&a);
    let count = check_folder(&folder, &sources);
    assert_eq!(count, senders.files.lock().unwrap().len(), "every file has arrived at last");
    wait_for("nothing is left over", || leftovers(&a.path).is_empty());
    let messages = senders.messages.lock().unwrap().len();
    println!("{messages} messages and {count} files delivered, {} kills", kills());
}
