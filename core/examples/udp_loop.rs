//! An agent without any runtime: a UDP socket and a TCP connection of the standard library, and
//! a loop. `docs/drive-it-yourself.md` walks through it.
//!
//! ```text
//! pilotctl rendezvous …                                  # or anybody else's
//! cargo run -p pilot-core --example udp_loop -- serve REGISTRY BEACON
//! cargo run -p pilot-core --example udp_loop -- call REGISTRY BEACON ADDRESS TEXT
//! ```
//!
//! `serve` prints its address, trusts whoever asks and echoes on port 7; `call` asks for trust,
//! opens a stream, sends the text and prints what comes back. REGISTRY and BEACON are `IP:PORT`.
//! What an agent has to store is kept in memory: each run is another agent.

#![allow(missing_docs, unreachable_pub, reason = "a program")]

use pilot_core::addr::{Address, Port, SocketAddress};
use pilot_core::crypto::{Identity, RUST_CRYPTO};
use pilot_core::drive::{Budget, Clock, Datagrams, Driver, IoError, Outlet, Received, Turn};
use pilot_core::machine::{Ecn, Machine as _, Path, SocketId, Transmit};
use pilot_core::name::Justification;
use pilot_core::node::{Command, Config, Event, Node, Reply, StreamError, StreamId};
use pilot_core::time::{Duration, Instant, UnixTime};
use std::collections::VecDeque;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;

const ECHO: Port = Port(7);

// ---- what every adapter supplies: sockets, a clock, a place for what comes out, waiting ----

/// One UDP socket, without offload and without auxiliary sockets.
struct Udp(UdpSocket);

impl Datagrams for Udp {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let (len, remote) = self.0.recv_from(buf).map_err(typed)?;
        Ok(Received { path: Path::to(remote), ecn: Ecn::NotEct, len, stride: len })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        self.0.send_to(bytes, transmit.path.remote).map(drop).map_err(typed)
    }

    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn open(&mut self, _: SocketId) -> Result<(), IoError> {
        Err(IoError::Full)
    }

    fn close(&mut self, _: SocketId) {}
}

fn typed(error: std::io::Error) -> IoError {
    match error.kind() {
        ErrorKind::WouldBlock => IoError::WouldBlock,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => IoError::Unreachable,
        ErrorKind::PermissionDenied => IoError::Denied,
        _ => IoError::Os(error.raw_os_error().unwrap_or_default()),
    }
}

struct Monotonic(std::time::Instant);

impl Clock for Monotonic {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

/// Events are looked at after the turn.
#[derive(Default)]
struct Events(VecDeque<Event>);

impl Outlet<Node<'static>, Udp> for Events {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, _: Instant, _: &mut Node<'static>, _: &mut Udp, event: Event) {
        self.0.push_back(event);
    }
}

pub struct Agent {
    clock: Monotonic,
    node: Node<'static>,
    driver: Driver<'static>,
    udp: Udp,
    events: Events,
    registry_at: SocketAddr,
    /// It exists only while there is something to ask, so that a read may take a millisecond.
    registry: Option<TcpStream>,
}

impl Agent {
    #[allow(clippy::disallowed_methods, reason = "this is where an adapter reads its clocks")]
    fn start(registry_at: SocketAddr, beacon: SocketAddr) -> Result<Self, Box<dyn Error>> {
        // The address of the interface that leads to the beacon.
        let probe = UdpSocket::bind("0.0.0.0:0")?;
        probe.connect(beacon)?;
        let udp = UdpSocket::bind((probe.local_addr()?.ip(), 0))?;
        udp.set_nonblocking(true)?;
        let clock = Monotonic(std::time::Instant::now());
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let (mut secret, mut seed) = ([0; 32], [0; 32]);
        getrandom::fill(&mut secret)?;
        getrandom::fill(&mut seed)?;
        let (now, unix) = (clock.now(), UnixTime::from_millis(unix.as_millis() as u64));
        let identity = Identity::from_secret(secret);
        let mut node = Node::boxed(Config::default(), identity, &RUST_CRYPTO, seed, now, unix);
        // An agent that was here before would `load` what it has stored, now.
        node.start(now);
        node.command(now, Command::NetworkChanged { locals: &[udp.local_addr()?] })?;
        node.command(now, Command::SetBeacon { address: beacon })?;
        let driver = Driver::boxed(Budget::DEFAULT);
        let (udp, events) = (Udp(udp), Events::default());
        Ok(Agent { clock, node, driver, udp, events, registry_at, registry: None })
    }

    /// Runs until there is an event for the application.
    fn next(&mut self) -> Result<Event, Box<dyn Error>> {
        loop {
            let turn =
                self.driver.turn(&self.clock, &mut self.node, &mut self.udp, &mut self.events);
            self.pump_registry();
            while let Some(event) = self.events.0.pop_front() {
                match event {
                    Event::DialRegistry => self.dial(),
                    Event::CloseRegistry => self.hang_up(),
                    Event::Store => self.store(),
                    Event::RegistryBytes => {}
                    event => return Ok(event),
                }
            }
            match turn {
                Turn::Again => {}
                Turn::Wait { until, writable } => self.wait(until, writable)?,
            }
        }
    }

    /// Until a datagram is there or it is time. What happened between the turn and now may have
    /// made something due: the machine knows.
    fn wait(&mut self, until: Option<Instant>, writable: bool) -> Result<(), Box<dyn Error>> {
        let due = self.node.poll_timeout().map(|t| t.at);
        // A full socket buffer has no readiness here: it is tried again within a millisecond,
        // as the turn says anyway.
        let until = if writable { until } else { due };
        // The registry's TCP connection is looked at in between.
        let most = Duration::from_millis(if self.registry.is_some() { 5 } else { 1000 });
        let span = until.map_or(most, |at| at.since(self.clock.now()).min(most));
        if span.is_zero() {
            return Ok(());
        }
        self.udp.0.set_nonblocking(false)?;
        self.udp.0.set_read_timeout(Some(span))?;
        // A failure here is found again, and counted, by the turn that follows.
        let _ = self.udp.0.peek_from(&mut [0]);
        Ok(self.udp.0.set_nonblocking(true)?)
    }

    // ---- the registry: bytes in, bytes out ----

    fn dial(&mut self) {
        let most = Duration::from_secs(2);
        let connected = TcpStream::connect_timeout(&self.registry_at, most).and_then(|tcp| {
            tcp.set_read_timeout(Some(Duration::from_millis(1)))?;
            tcp.set_write_timeout(Some(most))?;
            Ok(tcp)
        });
        let now = self.clock.now();
        match connected {
            Ok(tcp) => {
                self.registry = Some(tcp);
                self.node.handle_registry_open(now);
            }
            Err(_) => self.node.handle_registry_close(now),
        }
    }

    fn hang_up(&mut self) {
        self.registry = None;
        self.node.handle_registry_close(self.clock.now());
    }

    fn pump_registry(&mut self) {
        let Some(tcp) = &mut self.registry else { return };
        let mut buf = [0; 4096];
        loop {
            let len = self.node.poll_bytes(self.clock.now(), &mut buf);
            if len == 0 {
                break;
            }
            if tcp.write_all(&buf[..len]).is_err() {
                return self.hang_up();
            }
        }
        match tcp.read(&mut buf) {
            Ok(len) if len > 0 => self.node.handle_bytes(self.clock.now(), &buf[..len]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => self.hang_up(),
        }
    }

    /// Here an agent that is to be found again under its address writes to its disk, and only
    /// then says so.
    fn store(&mut self) {
        let mut value = [0; pilot_core::journal::VALUE_MAX];
        while let Some(change) = self.node.poll_store(&mut value) {
            self.node.handle_stored(self.clock.now(), change.sequence);
        }
    }

    fn command(&mut self, command: Command<'_>) -> Result<Reply, Box<dyn Error>> {
        Ok(self.node.command(self.clock.now(), command)?)
    }
}

// ---- two applications ----

/// Echoes what there is; whether the stream is over. What cannot be written now stays unread,
/// so the sender is held back by its window.
fn echo(agent: &mut Agent, id: StreamId, held: &mut Vec<u8>) -> Result<bool, StreamError> {
    let now = agent.clock.now();
    let Some(mut stream) = agent.node.stream(id) else { return Ok(true) };
    let mut buf = [0; 4096];
    loop {
        while !held.is_empty() {
            let len = stream.write(now, held)?;
            held.drain(..len);
        }
        match stream.read(now, &mut buf)? {
            0 => return stream.finish(now).map(|()| true),
            len => held.extend_from_slice(&buf[..len]),
        }
    }
}

fn serve(agent: &mut Agent) -> Result<(), Box<dyn Error>> {
    agent.command(Command::Listen { port: ECHO })?;
    let mut streams: Vec<(StreamId, Vec<u8>)> = Vec::new();
    loop {
        match agent.next()? {
            Event::Registered(address) => println!("address {address}"),
            Event::TrustRequested(from) => drop(agent.command(Command::ApproveTrust { from })?),
            Event::Acceptable(port) => {
                while let Some(id) = agent.node.accept(port) {
                    streams.push((id, Vec::new()));
                }
            }
            _ => {}
        }
        // After any event: several may have been coalesced into one.
        let now = agent.clock.now();
        streams.retain_mut(|(id, held)| match echo(agent, *id, held) {
            Ok(false) | Err(StreamError::WouldBlock) => true,
            Ok(true) | Err(_) => {
                agent.node.release(now, *id);
                false
            }
        });
    }
}

fn call(agent: &mut Agent, to: Address, text: &str) -> Result<String, Box<dyn Error>> {
    let (mut sent, mut answer) = (0, Vec::new());
    loop {
        match agent.next()? {
            Event::Registered(_) => {
                let justification = Justification::cleaned("to hear an echo");
                agent.command(Command::RequestTrust { to, justification })?;
            }
            Event::TrustRefused(_) => return Err("they do not trust us".into()),
            Event::TrustGranted(_) => drop(agent.command(Command::Connect { to, port: ECHO })?),
            Event::StreamClosed(_, end) => return Err(format!("the stream ended: {end}").into()),
            Event::StreamOpened(id) | Event::StreamReadable(id) | Event::StreamWritable(id) => {
                let now = agent.clock.now();
                let Some(mut stream) = agent.node.stream(id) else { continue };
                while sent < text.len() {
                    match stream.write(now, &text.as_bytes()[sent..]) {
                        Ok(len) => sent += len,
                        Err(StreamError::WouldBlock) => break,
                        Err(error) => return Err(error.into()),
                    }
                    if sent == text.len() {
                        stream.finish(now)?;
                    }
                }
                let mut buf = [0; 4096];
                loop {
                    match stream.read(now, &mut buf) {
                        Ok(0) => return Ok(String::from_utf8(answer)?),
                        Ok(len) => answer.extend_from_slice(&buf[..len]),
                        Err(StreamError::WouldBlock) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            _ => {}
        }
    }
}

/// The program with these arguments.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", registry, beacon] => {
            serve(&mut Agent::start(registry.parse()?, beacon.parse()?)?)
        }
        ["call", registry, beacon, to, text] => {
            let mut agent = Agent::start(registry.parse()?, beacon.parse()?)?;
            let answer = call(&mut agent, to.parse()?, text)?;
            println!("answer {answer}");
            agent.command(Command::Shutdown)?;
            // The goodbyes that this queued.
            let Agent { driver, clock, node, udp, events, .. } = &mut agent;
            while driver.turn(clock, node, udp, events) == Turn::Again {}
            Ok(())
        }
        _ => Err("udp_loop serve REGISTRY BEACON | call REGISTRY BEACON ADDRESS TEXT".into()),
    }
}

#[allow(dead_code, reason = "the test that runs this program calls `run`")]
fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
