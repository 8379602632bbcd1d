//! Two agents in one static library: no operating system, no allocator, no unwinding. They do a
//! handshake over a cable in memory, send a stream there and back and a datagram each, on
//! virtual time, and report what memory that took.
//!
//! That this links at all is the point: with `alloc` anywhere below, rustc asks for a global
//! allocator, and with `std` for much more. `docs/drive-it-yourself.md` walks through it.

#![no_std]
#![warn(rust_2018_idioms)]

mod agent;
mod memory;
mod wire;

mod facts {
    use crate::agent::Agent;
    include!(concat!(env!("OUT_DIR"), "/facts.rs"));
}

use agent::Running;
use core::net::SocketAddr;
use memory::{Buffers, DirectoryTables, LinkTables, Tables, TransportTables, TunnelTables};
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Driver, Turn};
use pilot_core::node::{Command, Node, Reply, StreamError, StreamId};
use pilot_core::time::{Duration, Instant, UnixTime};
use static_cell::{ConstStaticCell, StaticCell};
use wire::{Socket, Wire};

const PORT: Port = Port(7);
pub(crate) const DATAGRAM: &[u8] = b"a datagram";
/// Bytes that go there and back.
const ECHOED: usize = 256 * 1024;
/// Virtual time that everything may take.
const PATIENCE: Duration = Duration::from_secs(60);

static TABLES: [ConstStaticCell<Tables>; 2] = [const { ConstStaticCell::new(Tables::new()) }; 2];
static BUFFERS: [ConstStaticCell<Buffers>; 2] = [const { ConstStaticCell::new(Buffers::new()) }; 2];
static AGENTS: [StaticCell<Running>; 2] = [const { StaticCell::new() }; 2];
static WIRES: [ConstStaticCell<Wire>; 2] = [const { ConstStaticCell::new(Wire::new()) }; 2];

/// What came of it. Bytes are those of one agent.
#[repr(C)]
#[derive(Default)]
pub struct Report {
    /// `Node`: state of which there is one.
    pub node: u32,
    /// `Driver` with its two buffers of a datagram.
    pub driver: u32,
    /// Registry, beacon and trust, without the connection's buffers.
    pub directory: u32,
    /// Buffers of the registry connection, and for answers.
    pub registry: u32,
    /// Sessions, with their replay windows.
    pub tunnel: u32,
    /// Streams, paths and frames in flight.
    pub transport: u32,
    /// Paths to peers.
    pub links: u32,
    /// Stream data.
    pub pool: u32,
    /// Virtual milliseconds from the first datagram to the open stream.
    pub handshake_ms: u32,
    /// Bytes that went there and back.
    pub echoed: u32,
    /// Virtual milliseconds that they took.
    pub echo_ms: u32,
    /// Datagrams that arrived.
    pub datagrams: u32,
    /// Times that the cable was full and a packet was parked.
    pub parked: u32,
}

/// How it ended.
#[repr(u32)]
pub enum Outcome {
    /// All bytes came back.
    Done = 0,
    /// The static memory is lent out already.
    Running = 1,
    /// An agent's facts do not load.
    BadFacts = 2,
    /// A command was refused.
    Refused = 3,
    /// Not within 60 virtual seconds.
    Late = 4,
    /// Other bytes came back.
    OtherBytes = 5,
    /// A stream ended early.
    Ended = 6,
}

/// Runs it. For C: `uint32_t pilot_bare_run(struct pilot_bare_report *)`; the report is a
/// valid pointer and the result 0 if all went well.
#[unsafe(no_mangle)]
pub extern "C" fn pilot_bare_run(report: &mut Report) -> Outcome {
    match run(report) {
        Ok(()) => Outcome::Done,
        Err(outcome) => outcome,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(target_os = "none")]
    loop {
        core::hint::spin_loop();
    }
    #[cfg(not(target_os = "none"))]
    {
        // The host's C library: a loop would keep whoever builds this waiting.
        unsafe extern "C" {
            safe fn abort() -> !;
        }
        abort()
    }
}

/// The host's own `core` was compiled with tables for unwinding, which name this function; a
/// bare target's was not. Nothing unwinds here, so nobody calls it.
#[cfg(not(target_os = "none"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

fn socket(n: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n as u8 + 1], 4000))
}

fn measure(report: &mut Report) {
    let sizes = memory::sizes();
    report.node = size_of::<Node<'_>>() as u32;
    report.driver = (size_of::<Driver<'_>>() + 2 * memory::DATAGRAM_BYTES) as u32;
    report.directory = size_of::<DirectoryTables>() as u32;
    report.registry = sizes.registry as u32;
    report.tunnel = (size_of::<TunnelTables>() + sizes.replay) as u32;
    report.transport = size_of::<TransportTables>() as u32;
    report.links = size_of::<LinkTables>() as u32;
    report.pool = sizes.pool as u32;
}

struct Pair {
    now: Instant,
    agents: [&'static mut Running; 2],
    wires: [&'static mut Wire; 2],
}

fn run(report: &mut Report) -> Result<(), Outcome> {
    measure(report);
    let mut pair = Pair::start()?;
    let begin = pair.now;
    let stream = pair.meet()?;
    report.handshake_ms = pair.now.since(begin).as_millis() as u32;
    let begin = pair.now;
    report.echoed = pair.echo(stream)? as u32;
    report.echo_ms = pair.now.since(begin).as_millis() as u32;
    pair.datagrams()?;
    report.datagrams = pair.agents.iter().map(|a| a.ears.datagrams).sum();
    report.parked = pair.agents.iter().map(|a| a.driver.stats().blocked as u32).sum();
    Ok(())
}

impl Pair {
    fn start() -> Result<Pair, Outcome> {
        let now = Instant::START + Duration::from_secs(1);
        let unix = UnixTime::from_secs(facts::UNIX_SECS + 3600);
        let start = |n: usize| {
            let tables = TABLES[n].try_take().ok_or(Outcome::Running)?;
            let buffers = BUFFERS[n].try_take().ok_or(Outcome::Running)?;
            // From a hardware generator in earnest: keys are drawn from it.
            let seed = [n as u8 + 1; 32];
            let agent = &facts::AGENTS[n];
            let running = Running::start(agent, tables, buffers, seed, now, unix);
            AGENTS[n].try_init(running.ok_or(Outcome::BadFacts)?).ok_or(Outcome::Running)
        };
        let agents = [start(0)?, start(1)?];
        let wire = |n: usize| WIRES[n].try_take().ok_or(Outcome::Running);
        Ok(Pair { now, agents, wires: [wire(0)?, wire(1)?] })
    }

    fn command(&mut self, n: usize, command: Command<'_>) -> Result<Reply, Outcome> {
        self.agents[n].node.command(self.now, command).map_err(|_| Outcome::Refused)
    }

    /// The first opens a stream to the second, which needs a handshake before.
    fn meet(&mut self) -> Result<[StreamId; 2], Outcome> {
        let address = |a: &Running| a.node.address().ok_or(Outcome::BadFacts);
        let to = address(self.agents[1])?;
        for n in 0..2 {
            self.command(n, Command::NetworkChanged { locals: &[socket(n)] })?;
            self.command(n, Command::BindDatagrams { port: PORT })?;
        }
        self.command(1, Command::Listen { port: PORT })?;
        // Nobody else could tell it.
        self.command(0, Command::SetPeerEndpoint { peer: to, endpoint: socket(1) })?;
        let Reply::Stream(ours) = self.command(0, Command::Connect { to, port: PORT })? else {
            return Err(Outcome::Refused);
        };
        let mut theirs = None;
        self.run_until(|pair| {
            let [a, b] = &mut pair.agents;
            theirs = theirs.or_else(|| b.node.accept(PORT));
            let is_open = a.node.stream(ours).ok_or(Outcome::Ended)?.is_open();
            Ok((is_open && theirs.is_some(), false))
        })?;
        Ok([ours, theirs.ok_or(Outcome::Ended)?])
    }

    /// The first sends and finishes, the second sends everything back and finishes; how much
    /// came back.
    fn echo(&mut self, [ours, theirs]: [StreamId; 2]) -> Result<usize, Outcome> {
        let (mut sent, mut got, mut is_over) = (0, 0, false);
        let (mut buf, mut held, mut at) = ([0; 512], 0, 0);
        let (mut is_sent, mut is_echoed) = (false, false);
        self.run_until(|pair| {
            let now = pair.now;
            let [a, b] = &mut pair.agents;
            let mut did = false;
            // The second: nothing is read before what was read has gone back.
            let mut stream = b.node.stream(theirs).ok_or(Outcome::Ended)?;
            while !is_echoed {
                if at < held {
                    match ok(stream.write(now, &buf[at..held]))? {
                        None => break,
                        Some(len) => at += len,
                    }
                } else {
                    match ok(stream.read(now, &mut buf))? {
                        None => break,
                        Some(0) => {
                            ok(stream.finish(now))?;
                            is_echoed = true;
                        }
                        Some(len) => (at, held) = (0, len),
                    }
                }
                did = true;
            }
            // The first.
            let mut chunk = [0; 512];
            let mut stream = a.node.stream(ours).ok_or(Outcome::Ended)?;
            while sent < ECHOED {
                let len = chunk.len().min(ECHOED - sent);
                chunk[..len].iter_mut().zip(sent..).for_each(|(byte, i)| *byte = pattern(i));
                let Some(len) = ok(stream.write(now, &chunk[..len]))? else { break };
                (sent, did) = (sent + len, true);
            }
            if sent == ECHOED && !is_sent {
                ok(stream.finish(now))?;
                (is_sent, did) = (true, true);
            }
            while !is_over {
                let Some(len) = ok(stream.read(now, &mut chunk))? else { break };
                if chunk[..len].iter().zip(got..).any(|(byte, i)| *byte != pattern(i)) {
                    return Err(Outcome::OtherBytes);
                }
                (got, is_over, did) = (got + len, len == 0, true);
            }
            Ok((is_over, did))
        })?;
        if got == ECHOED { Ok(got) } else { Err(Outcome::Ended) }
    }

    fn datagrams(&mut self) -> Result<(), Outcome> {
        for n in 0..2 {
            let address = self.agents[1 - n].node.address().ok_or(Outcome::BadFacts)?;
            let to = SocketAddress { address, port: PORT };
            self.command(n, Command::SendDatagram { to, from: PORT, payload: DATAGRAM })?;
        }
        self.run_until(|pair| Ok((pair.agents.iter().all(|a| a.ears.datagrams == 1), false)))
    }

    /// Lets time pass until `work` says that all is done; it also says whether it did anything,
    /// which may have queued output.
    fn run_until(
        &mut self,
        mut work: impl FnMut(&mut Pair) -> Result<(bool, bool), Outcome>,
    ) -> Result<(), Outcome> {
        let end = self.now + PATIENCE;
        while self.now < end {
            let next = self.turn(0).min(self.turn(1));
            let (done, did) = work(self)?;
            if done {
                return Ok(());
            }
            if !did {
                let arrivals = self.wires.iter().filter_map(|wire| wire.next());
                self.now = arrivals.fold(next, Instant::min).min(end);
            }
        }
        Err(Outcome::Late)
    }

    /// Lets an agent do all that it can now; when it wants to be called again.
    fn turn(&mut self, n: usize) -> Instant {
        let now = self.now;
        let [a, b] = &mut self.wires;
        let (out, arriving) = if n == 0 { (a, b) } else { (b, a) };
        let mut socket = Socket { now, peer: socket(1 - n), out, arriving };
        let Running { node, driver, ears } = &mut *self.agents[n];
        loop {
            if let Turn::Wait { until, .. } = driver.turn(&|| now, node, &mut socket, ears) {
                return until.unwrap_or(Instant::NEVER);
            }
        }
    }
}

/// What can be done now; `None` if nothing.
fn ok<T>(result: Result<T, StreamError>) -> Result<Option<T>, Outcome> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StreamError::WouldBlock) => Ok(None),
        Err(_) => Err(Outcome::Ended),
    }
}

fn pattern(i: usize) -> u8 {
    ((i as u32).wrapping_mul(0x9E37_79B1) >> 24) as u8
}
