//! An agent on that loop: its start, its TCP connection to the registry, its stored facts.

use super::drive::{Loop, Monotonic, Udp};
use pilot_core::crypto::{Identity, RUST_CRYPTO};
use pilot_core::drive::{Clock as _, Turn};
use pilot_core::limits::{DATAGRAM_DEFAULT, Limits};
use pilot_core::node::{Command, Config, Event, Node, Reply};
use pilot_core::time::{Duration, UnixTime};
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

pub struct Agent {
    pub core: Loop,
    registry_at: SocketAddr,
    /// It exists only while there is something to ask, so that a read may take a millisecond.
    registry: Option<TcpStream>,
}

impl Agent {
    #[allow(clippy::disallowed_methods, reason = "this is where an adapter reads its clocks")]
    pub fn start(registry_at: SocketAddr, beacon: SocketAddr) -> Result<Self, Box<dyn Error>> {
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
        // A `std::net` socket sends long datagrams in fragments.
        let limits = Limits { datagram: DATAGRAM_DEFAULT, ..Limits::desktop() };
        let config = Config { limits, ..Config::default() };
        let mut node = Node::boxed(config, identity, &RUST_CRYPTO, seed, now, unix);
        // An agent that was here before would `load` what it has stored, now.
        node.start(now);
        node.command(now, Command::NetworkChanged { locals: &[udp.local_addr()?] })?;
        node.command(now, Command::SetBeacon { address: beacon })?;
        Ok(Agent { core: Loop::new(clock, node, Udp(udp)), registry_at, registry: None })
    }

    /// Runs until there is an event for the application.
    pub fn next(&mut self) -> Result<Event, Box<dyn Error>> {
        loop {
            let turn = self.core.turn();
            self.pump_registry();
            while let Some(event) = self.core.events.0.pop_front() {
                match event {
                    Event::DialRegistry => self.dial(),
                    Event::CloseRegistry => self.hang_up(),
                    Event::Store => self.store(),
                    Event::RegistryBytes => {}
                    event => return Ok(event),
                }
            }
            // The registry's TCP connection is looked at in between.
            let most = Duration::from_millis(if self.registry.is_some() { 5 } else { 1000 });
            self.core.wait(turn, most)?;
        }
    }

    /// Sends the goodbyes.
    pub fn shutdown(mut self) -> Result<(), Box<dyn Error>> {
        self.command(Command::Shutdown)?;
        while self.core.turn() == Turn::Again {}
        Ok(())
    }

    // ---- the registry: bytes in, bytes out ----

    fn dial(&mut self) {
        let most = Duration::from_secs(2);
        let connected = TcpStream::connect_timeout(&self.registry_at, most).and_then(|tcp| {
            tcp.set_read_timeout(Some(Duration::from_millis(1)))?;
            tcp.set_write_timeout(Some(most))?;
            Ok(tcp)
        });
        let now = self.core.now();
        match connected {
            Ok(tcp) => {
                self.registry = Some(tcp);
                self.core.node.handle_registry_open(now);
            }
            Err(_) => self.core.node.handle_registry_close(now),
        }
    }

    fn hang_up(&mut self) {
        self.registry = None;
        self.core.node.handle_registry_close(self.core.now());
    }

    fn pump_registry(&mut self) {
        let Some(tcp) = &mut self.registry else { return };
        let mut buf = [0; 4096];
        loop {
            let len = self.core.node.poll_bytes(self.core.now(), &mut buf);
            if len == 0 {
                break;
            }
            if tcp.write_all(&buf[..len]).is_err() {
                return self.hang_up();
            }
        }
        match tcp.read(&mut buf) {
            Ok(len) if len > 0 => self.core.node.handle_bytes(self.core.now(), &buf[..len]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => self.hang_up(),
        }
    }

    /// Here an agent that is to be found again under its address writes to its disk, and only
    /// then says so.
    fn store(&mut self) {
        let mut value = [0; pilot_core::journal::VALUE_MAX];
        while let Some(change) = self.core.node.poll_store(&mut value) {
            self.core.node.handle_stored(self.core.now(), change.sequence);
        }
    }

    pub fn command(&mut self, command: Command<'_>) -> Result<Reply, Box<dyn Error>> {
        Ok(self.core.node.command(self.core.now(), command)?)
    }
}
