//! Adding hosts and boxes, and what can happen to them.

use crate::host::{Access, Disk, Host, Power, Sockets, Told};
use crate::hostile::LIAR;
use crate::link::{Link, LinkConfig};
use crate::nat::{
    BoxConfig, ConfigError, Firewall, FirewallConfig, Middlebox, Packet, Preset, StaleFlows,
};
use crate::net::{BoxId, HostId, Place, Site};
use crate::trace::Note;
use crate::world::{World, unix_at};
use pilot_core::crypto::ring::RING;
use pilot_core::crypto::{AeadKey, AeadProvider, Identity, Suite};
use pilot_core::limits::Limits;
use pilot_core::node::{Command, Config, Event, Node};
use pilot_core::time::{Instant, UnixTime};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;

/// The port of agents' main sockets.
const PORT: u16 = 4000;
/// Hosts of one world: their identities are numbered by a byte.
pub const HOSTS_MAX: usize = 180;
/// Segments of a train, as far as a world's sockets take them.
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// What hosts encrypt with: everywhere the same suite, whatever the machine that the world runs on
/// can do, by the library that is fastest at short datagrams.
pub(crate) static CRYPTO: Crypto = Crypto;

pub(crate) struct Crypto;

impl AeadProvider for Crypto {
    fn key(&self, suite: Suite, key: &[u8; 32]) -> AeadKey {
        RING.key(suite, key)
    }

    fn has_aes_hardware(&self) -> bool {
        false
    }
}

/// A desktop's limits with less memory: a world has many nodes.
pub fn node_config() -> Config {
    let limits = Limits {
        peers: 16,
        sessions: 96,
        streams: 64,
        buffer_bytes: 4 << 20,
        frames: 2048,
        ..Limits::desktop()
    };
    Config { limits, ..Config::default() }
}

impl World {
    /// Adds an agent behind what the preset says, with a site of its own.
    ///
    /// # Panics
    /// If there are [`HOSTS_MAX`] hosts.
    pub fn add_agent(&mut self, preset: Preset) -> HostId {
        let place = self.add_preset(preset);
        self.add_host(place, node_config())
    }

    /// Adds a preset's boxes at the core and gives the place behind them.
    pub fn add_preset(&mut self, preset: Preset) -> Place {
        let boxes = preset.boxes(self.next_public());
        self.add_boxes(boxes).expect("presets are NATs")
    }

    /// Adds boxes, the one nearest to the hosts first, and gives the place behind them. NATs
    /// without addresses get one each.
    ///
    /// # Errors
    /// If one of them is none; those outside of it are there then.
    pub fn add_boxes(&mut self, boxes: Vec<BoxConfig>) -> Result<Place, ConfigError> {
        let mut place = Place::Core;
        for mut config in boxes.into_iter().rev() {
            if let BoxConfig::Nat(nat) = &mut config
                && nat.pool.is_empty()
            {
                nat.pool.push(match place {
                    Place::Core => self.next_public(),
                    Place::Inside(outer) => IpAddr::V4(Ipv4Addr::new(100, 64, outer.0 as u8, 10)),
                });
            }
            place = Place::Inside(self.add_box(place, config)?);
        }
        Ok(place)
    }

    /// Adds one box at a place.
    ///
    /// # Errors
    /// If it is none.
    pub fn add_box(&mut self, place: Place, config: BoxConfig) -> Result<BoxId, ConfigError> {
        let middlebox = Middlebox::new(config)?;
        let (six, access) = (FirewallConfig::default(), access(LinkConfig::default()));
        self.sites.push(Site { middlebox, six: Firewall::new(six), place, access });
        Ok(BoxId(self.sites.len() - 1))
    }

    /// An address that nobody in the core has.
    fn next_public(&mut self) -> IpAddr {
        self.next_address += 1;
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, self.next_address))
    }

    /// Whether it has ever been given to somebody.
    pub(crate) fn was_public(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        let [a, b, c, last] = ip.octets();
        [a, b, c] == [198, 51, 100] && last <= self.next_address
    }

    /// An address that nobody at the place has: private behind a NAT. All homes use the same
    /// range, as in life, but no two hosts of a world have the same address.
    fn next_at(&mut self, place: Place) -> IpAddr {
        let boxes = self.boxes_to_core(place);
        let private =
            boxes.iter().any(|id| matches!(self.sites[id.0].middlebox, Middlebox::Nat(_)));
        match private {
            true => {
                self.next_address += 1;
                IpAddr::V4(Ipv4Addr::new(192, 168, 1, self.next_address))
            }
            false => self.next_public(),
        }
    }

    /// Adds a host with an agent at a place.
    ///
    /// # Panics
    /// If there are [`HOSTS_MAX`] hosts.
    pub fn add_host(&mut self, place: Place, config: Config) -> HostId {
        self.add(place, config, false)
    }

    /// Adds a host whose agent lies: it registers, asks for trust and shakes hands as it should,
    /// and of the frames that it encrypts one in eight says what is not so: acknowledges what was
    /// never sent, closes windows, jumps in its sequence, or is a control frame of random bytes.
    ///
    /// What it sends in streams is not checked, nor that its streams end well.
    ///
    /// # Panics
    /// If there are [`HOSTS_MAX`] hosts.
    pub fn add_liar(&mut self, place: Place, config: Config) -> HostId {
        self.add(place, config, true)
    }

    fn add(&mut self, place: Place, config: Config, lies: bool) -> HostId {
        let id = HostId(self.hosts.len());
        assert!(id.0 < HOSTS_MAX, "a world has {HOSTS_MAX} hosts");
        let identity = [id.0 as u8 + 1; 32];
        let address = self.next_at(place);
        let node = self.make_node(id, 1, &config, identity, &Disk::new(), 0, lies);
        self.hosts.push(Host {
            node,
            driver: Host::fresh_driver(),
            io: Sockets::new(PORT, SEGMENTS),
            told: Told::default(),
            disk: Disk::new(),
            identity,
            config,
            address,
            six: None,
            place,
            access: access(LinkConfig::default()),
            power: Power::Running,
            starts: 1,
            conn: None,
            missed_close: false,
            wake: self.now,
            skew_ms: 0,
            retakes: false,
            lies,
        });
        self.begin(id);
        id
    }

    fn make_node(
        &mut self,
        id: HostId,
        starts: u8,
        config: &Config,
        identity: [u8; 32],
        disk: &Disk,
        skew_ms: i64,
        lies: bool,
    ) -> Node<'static> {
        // Different for every process even on an empty tape.
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.tape.array::<8>());
        (seed[8], seed[9]) = (id.0 as u8, starts);
        let identity = Identity::from_secret(identity);
        let unix = skewed(self.now, skew_ms);
        let aead: &'static dyn AeadProvider = if lies { &LIAR } else { &CRYPTO };
        let mut node = Node::boxed(config.clone(), identity, aead, seed, self.now, unix);
        for (key, value) in disk {
            node.load(*key, value).expect("what was stored loads");
        }
        node
    }

    fn begin(&mut self, id: HostId) {
        let (now, locals) = (self.now, self.hosts[id.0].locals());
        let node = &mut self.hosts[id.0].node;
        node.start(now);
        node.command(now, Command::NetworkChanged { locals: &locals }).expect("accepted");
        let address = self.server.address();
        node.command(now, Command::SetBeacon { address }).expect("accepted");
        self.due.insert(id);
    }

    /// Gives a host a global IPv6 address beside the one it has. No box translates it; NATs let in
    /// what answers, as home gateways do (RFC 6092), and firewalls what they always do.
    pub fn add_ipv6(&mut self, host: HostId) {
        self.hosts[host.0].six = Some(self.next_six());
        let locals = self.hosts[host.0].locals();
        let _ = self.command(host, Command::NetworkChanged { locals: &locals });
    }

    /// An IPv6 address that nobody has.
    fn next_six(&mut self) -> Ipv6Addr {
        self.next_address += 1;
        Ipv6Addr::new(0x2001, 0xdb8, u16::from(self.next_address), 0, 0, 0, 0, 1)
    }

    /// The boxes in front of a host, nearest first.
    pub fn boxes_of(&self, host: HostId) -> Vec<BoxId> {
        self.boxes_to_core(self.place_of(host))
    }

    /// A box, as it is now.
    pub fn middlebox(&self, id: BoxId) -> &Middlebox {
        &self.sites[id.0].middlebox
    }

    /// How many routers the core has on every way; at least one.
    pub fn set_core_hops(&mut self, hops: u8) {
        self.core_hops = hops.max(1);
    }

    /// Of 1,000 turns of hosts, in how many the socket refuses the first packet.
    pub fn set_refusals(&mut self, of_1000: u16) {
        self.refuse = of_1000;
    }

    // ---- links ----

    /// Changes the link between a host's site and the core, in both directions.
    pub fn set_link(&mut self, host: HostId, config: LinkConfig) {
        for link in self.access_of(host).each() {
            link.config = config;
        }
    }

    /// The core carries no IP packet longer than `mtu` between these two, in both directions, and
    /// says nothing of those that it drops. Only for hosts at [`Place::Core`].
    pub fn set_path_mtu(&mut self, a: HostId, b: HostId, mtu: u16) {
        let (a, b) = (self.local_address(a), self.local_address(b));
        self.narrow.insert((a, b), mtu);
        self.narrow.insert((b, a), mtu);
    }

    /// Cuts a host's site off, or mends it.
    pub fn set_cut(&mut self, host: HostId, is_cut: bool) {
        self.fault(format!("host {} cut: {is_cut}", host.0));
        for link in self.access_of(host).each() {
            link.is_cut = is_cut;
        }
    }

    // ---- other programs ----

    /// Opens a UDP socket for a program of your own on a host, beside its agent. `false` if the
    /// port is taken.
    pub fn open_socket(&mut self, host: HostId, port: u16) -> bool {
        let io = &mut self.hosts[host.0].io;
        let free = io.bound(port).is_none() && !io.raw.contains_key(&port);
        if free {
            io.raw.insert(port, VecDeque::new());
        }
        free
    }

    /// Sends a datagram from a port of a host; it goes the way of all others.
    pub fn send(&mut self, host: HostId, port: u16, to: SocketAddr, ttl: u8, bytes: Vec<u8>) {
        let from = SocketAddr::new(self.hosts[host.0].address, port);
        let note = Note::Sent { host: host.0, to, len: bytes.len(), ttl: Some(ttl) };
        self.note(note, &bytes);
        self.launch(host, Packet { ttl, ..Packet::new(from, to) }, bytes);
    }

    /// The oldest datagram that has arrived at a socket of [`World::open_socket`], and its sender.
    pub fn receive(&mut self, host: HostId, port: u16) -> Option<(SocketAddr, Vec<u8>)> {
        self.hosts[host.0].io.raw.get_mut(&port)?.pop_front()
    }

    /// The address of a host at its place.
    pub fn local_address(&self, host: HostId) -> IpAddr {
        self.hosts[host.0].address
    }

    /// The port of a host's main socket.
    pub fn main_port(&self, host: HostId) -> u16 {
        self.socket(host).port()
    }

    /// The beacon's four sockets (RFC 5780): first address and port; other port; other address;
    /// both others.
    pub fn beacon(&self) -> [SocketAddr; 4] {
        crate::server::corners()
    }

    // ---- processes and machines ----

    /// The process dies without a word; its disk stays.
    pub fn crash(&mut self, host: HostId) {
        if self.hosts[host.0].power == Power::Down {
            return;
        }
        self.fault(format!("host {} crashes", host.0));
        self.close_by_host(host);
        self.abandon_transfers(host);
        // An address alone is not enough: the takeover counts once the registry has said so.
        let is_registered = self.events(host).any(|(_, e)| matches!(e, Event::Registered(_)));
        let entry = &mut self.hosts[host.0];
        entry.power = Power::Down;
        entry.retakes &= !is_registered;
        entry.io.clear();
        entry.wake = Instant::NEVER;
    }

    /// Everything but its identity is lost; only while the process is down.
    pub fn wipe(&mut self, host: HostId) {
        if self.hosts[host.0].power == Power::Down {
            self.fault(format!("host {} loses its disk", host.0));
            self.hosts[host.0].disk.clear();
            self.hosts[host.0].retakes = true;
            self.checks.forget_trust(host);
        }
    }

    /// The process starts again with what is on its disk. After a loss of that it takes its
    /// identity over until the registry knows it again, as its owner would have it (`wire.md` 10).
    pub fn restart(&mut self, host: HostId) {
        if self.hosts[host.0].power != Power::Down {
            return;
        }
        self.fault(format!("host {} starts", host.0));
        let entry = &self.hosts[host.0];
        let (starts, identity, skew) = (entry.starts + 1, entry.identity, entry.skew_ms);
        let (mut config, disk, lies) = (entry.config.clone(), entry.disk.clone(), entry.lies);
        config.takeover |= entry.retakes;
        let node = self.make_node(host, starts, &config, identity, &disk, skew, lies);
        let entry = &mut self.hosts[host.0];
        entry.node = node;
        entry.driver = Host::fresh_driver();
        entry.told = Told::default();
        entry.missed_close = false;
        entry.starts = starts;
        entry.power = Power::Running;
        self.begin(host);
    }

    /// The machine sleeps: nothing is received and no time is seen.
    pub fn suspend(&mut self, host: HostId) {
        if self.hosts[host.0].power == Power::Running {
            self.fault(format!("host {} sleeps", host.0));
            self.hosts[host.0].power = Power::Suspended;
        }
    }

    /// It wakes up: the connection is gone and the wall clock has gone on, as an adapter tells.
    pub fn resume(&mut self, host: HostId) {
        if self.hosts[host.0].power != Power::Suspended {
            return;
        }
        self.fault(format!("host {} wakes up", host.0));
        let conn = self.hosts[host.0].conn;
        self.hosts[host.0].power = Power::Running;
        if let Some(conn) = conn {
            self.close_at_host(conn);
        }
        if core::mem::take(&mut self.hosts[host.0].missed_close) {
            self.hosts[host.0].node.handle_registry_close(self.now);
        }
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.tape.array::<8>());
        entropy[8] = host.0 as u8;
        let _ = self.command(host, Command::Reseed { entropy });
        self.tell_clock(host);
    }

    /// From now on its wall clock shows so many milliseconds more than the world's.
    pub fn set_skew(&mut self, host: HostId, ms: i64) {
        self.fault(format!("host {}'s clock is set {ms} ms ahead", host.0));
        self.hosts[host.0].skew_ms = ms;
        if self.hosts[host.0].power == Power::Running {
            self.tell_clock(host);
        }
    }

    fn tell_clock(&mut self, host: HostId) {
        let unix = skewed(self.now, self.hosts[host.0].skew_ms);
        let _ = self.command(host, Command::ClockChanged { unix });
    }

    /// The host is at another place now, with an address there. Its connections do not come
    /// along.
    pub fn roam(&mut self, host: HostId, place: Place) {
        let address = self.next_at(place);
        self.fault(format!("host {} moves to {address}", host.0));
        let conn = self.hosts[host.0].conn;
        (self.hosts[host.0].place, self.hosts[host.0].address) = (place, address);
        self.hosts[host.0].six = self.hosts[host.0].six.map(|_| self.next_six());
        if self.hosts[host.0].power == Power::Running {
            if let Some(conn) = conn {
                self.close_at_host(conn);
            }
            let locals = self.hosts[host.0].locals();
            let _ = self.command(host, Command::NetworkChanged { locals: &locals });
        }
    }

    /// A box loses its state; the connections through it break.
    pub fn reboot(&mut self, id: BoxId) {
        self.fault(format!("box {} restarts", id.0));
        self.sites[id.0].middlebox.handle_reboot();
        self.sites[id.0].six.handle_reboot();
        self.break_connections(id);
    }

    /// A NAT in the core gets another address; nothing for a firewall.
    pub fn renumber(&mut self, id: BoxId, stale: StaleFlows) {
        let address = self.next_public();
        if let Middlebox::Nat(nat) = &mut self.sites[id.0].middlebox {
            nat.handle_renumber(vec![address], stale).expect("one address");
            self.fault(format!("box {} is renumbered to {address}", id.0));
            self.break_connections(id);
        }
    }

    fn break_connections(&mut self, id: BoxId) {
        for host in self.hosts() {
            if self.boxes_of(host).contains(&id)
                && let Some(conn) = self.hosts[host.0].conn
            {
                self.close_at_host(conn);
            }
        }
    }
}

fn access(config: LinkConfig) -> Access {
    Access { up: Link::new(config), down: Link::new(config) }
}

fn skewed(now: Instant, ms: i64) -> UnixTime {
    UnixTime::from_millis(unix_at(now).as_millis().saturating_add_signed(ms))
}
