//! NATs and firewalls as sans-IO types: a packet, the time and randomness go in, a verdict comes
//! out. Usable without the simulator, over TUN devices for instance.
//!
//! A NAT is described on two axes plus allocation, never by a classical name alone
//! (RFC 4787 4, RFC 5780 4):
//!
//! | | values |
//! |---|---|
//! | [`Mapping`] | endpoint-independent, address-dependent, address-and-port-dependent |
//! | [`Filtering`] | the same three |
//! | [`Allocation`] | preserving, sequential, random, from a block |
//!
//! What is easy to get wrong, and is right here:
//!
//! * Filter entries belong to a *mapping*: a NAT with dependent mapping that sends to a new
//!   destination does so from a new port, so what it lets in there is only for that port.
//! * An inbound packet keeps a mapping alive with [`Refresh::Both`] (Linux) and does not with
//!   [`Refresh::OutboundOnly`].
//! * A mapping whose first packet was never answered has a life of its own (Linux: 30 s).
//! * With [`Unsolicited::Track`] a packet that nobody asked for *takes* the pair of endpoints: the
//!   host's later packet to that remote leaves from another port, for as long as either side
//!   keeps trying (*poisoning*).
//! * A restart keeps preserved ports and changes random ones, because there is no state left.
//! * A packet that arrives with a TTL of 1 is not forwarded and leaves no trace, except where it
//!   is not to be forwarded at all: one that nobody asked for is tracked at any TTL.
//!
//! ```
//! use pilot_core::{rng::Rng, time::Instant};
//! use pilot_sim::nat::{Nat, NatConfig, Packet, Verdict};
//!
//! let mut nat = Nat::new(NatConfig::port_restricted("203.0.113.1".parse()?))?;
//! let (mut random, now) = (Rng::new([7; 32]), Instant::START);
//! let ask = Packet::new("192.168.0.2:4000".parse()?, "198.51.100.9:3478".parse()?);
//! let Verdict::Forward(sent) = nat.handle_outbound(now, &mut random, ask) else { panic!() };
//! assert_eq!(sent.source, "203.0.113.1:4000".parse()?);
//! assert_eq!(sent.ttl, ask.ttl - 1);
//! let answer = Packet::new(sent.destination, sent.source);
//! let Verdict::Forward(received) = nat.handle_inbound(now, &mut random, answer) else { panic!() };
//! assert_eq!(received.destination, ask.source);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allocate;
mod classify;
mod config;
mod firewall;
mod presets;
mod table;
#[cfg(test)]
mod tests;
mod translate;

pub use classify::{AllocationClass, Class, MappingClass, classify};
pub use config::{
    Allocation, ConfigError, FilterLife, Filtering, Hairpin, Mapping, NatConfig, OnClash, OnFull,
    Pairing, PortReuse, Refresh, StaleFlows, TcpPorts, Udp, Unsolicited,
};
pub use firewall::{Firewall, FirewallConfig};
pub use presets::Preset;
pub use translate::{Nat, NatStats};

use pilot_core::rng::Rng;
use pilot_core::time::Instant;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The TTL that hosts give to their packets.
pub const TTL: u8 = 64;

/// Where a middlebox takes its random choices from.
pub trait Entropy {
    /// A number in `0..bound`; 0 for a bound of 0.
    fn below(&mut self, bound: u64) -> u64;
}

impl Entropy for Rng {
    fn below(&mut self, bound: u64) -> u64 {
        Rng::below(self, bound)
    }
}

/// What a middlebox looks at in a UDP packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Packet {
    /// Who sends, as the packet says.
    pub source: SocketAddr,
    /// Whom to.
    pub destination: SocketAddr,
    /// Hops that it may still make.
    pub ttl: u8,
}

impl Packet {
    /// A packet as a host sends it, with a TTL of [`TTL`].
    pub const fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Packet { source, destination, ttl: TTL }
    }

    /// After one more hop; `None` if it dies there.
    pub const fn hop(self) -> Option<Packet> {
        match self.ttl {
            0 | 1 => None,
            ttl => Some(Packet { ttl: ttl - 1, ..self }),
        }
    }
}

/// Why a middlebox did not pass a packet on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Blocked {
    /// UDP is blocked altogether.
    Udp,
    /// The TTL is used up.
    Ttl,
    /// Nobody inside has this endpoint.
    NoMapping,
    /// The mapping's filter does not admit this remote.
    Filtered,
    /// No port is left, or a limit is reached.
    Exhausted,
    /// Sent to the NAT's own address from inside, and it does not hairpin.
    Hairpin,
    /// The address family is not the pool's.
    Family,
}

/// What becomes of a packet.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on in its direction, translated.
    Forward(Packet),
    /// It came from inside and goes back inside, translated.
    Hairpin(Packet),
    /// It ends here.
    Drop(Blocked),
}

impl Verdict {
    /// The packet that goes on in its direction.
    pub const fn forwarded(self) -> Option<Packet> {
        match self {
            Verdict::Forward(packet) => Some(packet),
            _ => None,
        }
    }
}

/// A NAT or a firewall, as a scenario describes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoxConfig {
    /// Translates.
    Nat(NatConfig),
    /// Filters and does not translate.
    Firewall(FirewallConfig),
}

/// A NAT or a firewall.
#[derive(Clone, Debug)]
pub enum Middlebox {
    /// Translates.
    Nat(Box<Nat>),
    /// Filters and does not translate.
    Firewall(Firewall),
}

impl Middlebox {
    /// The box that `config` describes.
    ///
    /// # Errors
    /// If the configuration describes none.
    pub fn new(config: BoxConfig) -> Result<Self, ConfigError> {
        Ok(match config {
            BoxConfig::Nat(config) => Middlebox::Nat(Box::new(Nat::new(config)?)),
            BoxConfig::Firewall(config) => Middlebox::Firewall(Firewall::new(config)),
        })
    }

    /// A packet from inside.
    pub fn handle_outbound(
        &mut self,
        now: Instant,
        random: &mut dyn Entropy,
        packet: Packet,
    ) -> Verdict {
        match self {
            Middlebox::Nat(nat) => nat.handle_outbound(now, random, packet),
            Middlebox::Firewall(wall) => wall.handle_outbound(now, packet),
        }
    }

    /// A packet from outside.
    pub fn handle_inbound(
        &mut self,
        now: Instant,
        random: &mut dyn Entropy,
        packet: Packet,
    ) -> Verdict {
        match self {
            Middlebox::Nat(nat) => nat.handle_inbound(now, random, packet),
            Middlebox::Firewall(wall) => wall.handle_inbound(now, packet),
        }
    }

    /// Whether a TCP connection from inside to this port passes.
    pub fn is_tcp_open(&self, port: u16) -> bool {
        match self {
            Middlebox::Nat(nat) => nat.config().tcp_ports.admits(port),
            Middlebox::Firewall(wall) => wall.config().tcp_ports.admits(port),
        }
    }

    /// Loses all state, as a restart does.
    pub fn handle_reboot(&mut self) {
        match self {
            Middlebox::Nat(nat) => nat.handle_reboot(),
            Middlebox::Firewall(wall) => wall.handle_reboot(),
        }
    }
}
