//! What a NAT is told at construction. All of it can be written in a scenario file.

use crate::span::{self, Span};
use pilot_core::time::Duration;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Which packets of an inside endpoint share a mapping (RFC 4787 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// All of them (EIM).
    EndpointIndependent,
    /// Those to one remote address (ADM).
    AddressDependent,
    /// Those to one remote address and port (APDM).
    AddressAndPortDependent,
}

/// Who may send to a mapping (RFC 4787 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Everybody (EIF).
    EndpointIndependent,
    /// Addresses that the mapping has sent to (ADF).
    AddressDependent,
    /// Addresses and ports that the mapping has sent to (APDF).
    AddressAndPortDependent,
}

/// What a preserving NAT does when the port is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnClash {
    /// Takes a random one.
    Random,
    /// Takes the next free one.
    Next,
    /// Uses the port for both (RFC 4787 4.2.1: port overloading). What comes in goes to whoever
    /// has sent to its sender, most recently if several have.
    Overload,
}

/// Which external port a new mapping gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// The inside port, if it is free and in the range.
    Preserve {
        /// What if it is not.
        on_clash: OnClash,
    },
    /// The last one plus a step, from the range's start.
    Sequential {
        /// May be negative, not 0.
        step: i32,
        /// Of 1,000 ports how many other users of the NAT take, between ours.
        #[serde(default)]
        noise: u16,
    },
    /// Any free one.
    Random,
    /// Any free one of a block; when the block is used up there is no other.
    Block {
        /// Ports of a block.
        size: u16,
        /// Each inside host has a block of its own; else all share the first.
        per_host: bool,
    },
}

/// Whether mappings with different destinations may have the same external endpoint. Only with
/// dependent mapping; clouds do it, and have as many ports for every destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortReuse {
    /// Each external endpoint has one mapping.
    #[default]
    Exclusive,
    /// One mapping a destination.
    PerDestination,
}

/// Which address of the pool a mapping gets (RFC 4787 4.1, REQ-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// A host always has the same one.
    #[default]
    Paired,
    /// Any.
    Arbitrary,
}

/// What keeps a mapping alive (RFC 4787 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Packets in both directions.
    #[default]
    Both,
    /// Packets from inside alone.
    OutboundOnly,
}

/// How long a filter entry lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterLife {
    /// As long as its mapping.
    #[default]
    SameAsMapping,
    /// So long after the last packet to that remote (or from it, with [`Refresh::Both`]).
    Own(Span),
}

/// At a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The packet that wants a new mapping is dropped.
    #[default]
    Drop,
    /// The mapping that was used least recently gives way: of that host, or of all.
    EvictOldest,
}

/// What happens to packets from inside to the NAT's own outside address (RFC 4787 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpin {
    /// They are dropped.
    #[default]
    None,
    /// They go to the inside host and show the sender's inside endpoint.
    InternalSource,
    /// They show the sender's outside endpoint (REQ-9).
    ExternalSource,
}

/// What happens to a packet that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// It is dropped without a trace.
    #[default]
    Drop,
    /// It is dropped, and its pair of endpoints is taken: poisoning.
    Track,
}

/// Whether UDP passes at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// It does.
    #[default]
    Pass,
    /// It does not.
    Block,
}

/// Which TCP connections pass from inside.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpPorts {
    /// All.
    #[default]
    Any,
    /// Those to these ports.
    Only(Vec<u16>),
}

impl TcpPorts {
    pub(crate) fn admits(&self, port: u16) -> bool {
        match self {
            TcpPorts::Any => true,
            TcpPorts::Only(ports) => ports.contains(&port),
        }
    }
}

/// What becomes of running mappings when a NAT's outside address changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StaleFlows {
    /// They are forgotten.
    #[default]
    Drop,
    /// They go on with the old source address, to which nothing comes back (static SNAT).
    KeepOldSource,
}

/// A NAT. Units are seconds in scenario files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatConfig {
    /// Which packets share a mapping.
    pub mapping: Mapping,
    /// Who may send to one.
    pub filtering: Filtering,
    /// Which port it gets.
    pub allocation: Allocation,
    /// First and last port.
    #[serde(default = "all_ports")]
    pub range: (u16, u16),
    /// Whether destinations share ports.
    #[serde(default)]
    pub reuse: PortReuse,
    /// Outside addresses; not empty. A world fills in what a scenario leaves out.
    #[serde(default)]
    pub pool: Vec<IpAddr>,
    /// Which of them a mapping gets.
    #[serde(default)]
    pub pairing: Pairing,
    /// After the last packet of a mapping that was answered (Linux: 120 s).
    #[serde(default = "linux_life")]
    pub life: Span,
    /// After the last packet of one that was not (Linux: 30 s).
    #[serde(default = "linux_life_unreplied")]
    pub life_unreplied: Span,
    /// After the first packet, whatever keeps it alive.
    #[serde(default)]
    pub absolute_life: Option<Span>,
    /// What keeps it alive.
    #[serde(default)]
    pub refresh: Refresh,
    /// How long a filter entry lives.
    #[serde(default)]
    pub filter_life: FilterLife,
    /// Mappings of one inside host.
    #[serde(default = "max_total")]
    pub max_per_host: u32,
    /// Mappings, and as many tracked unsolicited pairs.
    #[serde(default = "max_total")]
    pub max_total: u32,
    /// What at these limits.
    #[serde(default)]
    pub on_full: OnFull,
    /// How long an external endpoint rests after its mapping.
    #[serde(default)]
    pub hold_down: Span,
    /// Packets to the NAT's own address.
    #[serde(default)]
    pub hairpin: Hairpin,
    /// Packets that nobody asked for.
    #[serde(default)]
    pub unsolicited: Unsolicited,
    /// Whether UDP passes.
    #[serde(default)]
    pub udp: Udp,
    /// Which TCP connections pass.
    #[serde(default)]
    pub tcp_ports: TcpPorts,
}

/// Most mappings of one NAT: what 2^16 ports carry.
pub(super) const MAPPINGS_MAX: u32 = 65_536;

const fn all_ports() -> (u16, u16) {
    (1024, u16::MAX)
}

const fn linux_life() -> Span {
    Span(Duration::from_secs(120))
}

const fn linux_life_unreplied() -> Span {
    Span(Duration::from_secs(30))
}

const fn max_total() -> u32 {
    MAPPINGS_MAX
}

/// Why a configuration describes no NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The pool is empty or mixes address families.
    #[error("a NAT needs outside addresses, of one family")]
    Pool,
    /// The range is empty or has port 0.
    #[error("the port range is empty or has port 0 in it")]
    Range,
    /// A step of 0, or a noise of 1,000 or more.
    #[error("a sequential allocation needs a step, and noise below 1,000")]
    Sequential,
    /// A block is empty or larger than the range.
    #[error("a block has between one port and those of the range")]
    Block,
    /// A limit is 0 or above 65,536.
    #[error("limits are between 1 and 65,536")]
    Limit,
    /// A lifetime is 0.
    #[error("a lifetime of 0")]
    Life,
}

impl NatConfig {
    /// With these axes on one address; the rest is as Linux has it.
    pub fn new(
        mapping: Mapping,
        filtering: Filtering,
        allocation: Allocation,
        address: IpAddr,
    ) -> Self {
        NatConfig {
            mapping,
            filtering,
            allocation,
            range: all_ports(),
            reuse: PortReuse::Exclusive,
            pool: vec![address],
            pairing: Pairing::Paired,
            life: linux_life(),
            life_unreplied: linux_life_unreplied(),
            absolute_life: None,
            refresh: Refresh::Both,
            filter_life: FilterLife::SameAsMapping,
            max_per_host: MAPPINGS_MAX,
            max_total: MAPPINGS_MAX,
            on_full: OnFull::Drop,
            hold_down: Span(span::ZERO),
            hairpin: Hairpin::None,
            unsolicited: Unsolicited::Drop,
            udp: Udp::Pass,
            tcp_ports: TcpPorts::Any,
        }
    }

    /// EIM, APDF, preserving: most homes, and Linux with a closed outside.
    pub fn port_restricted(address: IpAddr) -> Self {
        NatConfig::new(
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
            Allocation::Preserve { on_clash: OnClash::Random },
            address,
        )
    }

    /// Ports of the range.
    pub(super) fn ports(&self) -> u32 {
        u32::from(self.range.1) - u32::from(self.range.0) + 1
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let family = self.pool.first().map(IpAddr::is_ipv4).ok_or(ConfigError::Pool)?;
        if self.pool.iter().any(|ip| ip.is_ipv4() != family) {
            return Err(ConfigError::Pool);
        }
        if self.range.0 == 0 || self.range.0 > self.range.1 {
            return Err(ConfigError::Range);
        }
        self.check_allocation(self.allocation)?;
        let limits = [self.max_per_host, self.max_total];
        if limits.iter().any(|&n| n == 0 || n > MAPPINGS_MAX) {
            return Err(ConfigError::Limit);
        }
        let own = match self.filter_life {
            FilterLife::Own(life) => Some(life),
            FilterLife::SameAsMapping => None,
        };
        let lives = [Some(self.life), Some(self.life_unreplied), self.absolute_life, own];
        if lives.into_iter().flatten().any(|life| life.0.is_zero()) {
            return Err(ConfigError::Life);
        }
        Ok(())
    }

    pub(super) fn check_allocation(&self, allocation: Allocation) -> Result<(), ConfigError> {
        match allocation {
            Allocation::Sequential { step, noise } if step == 0 || noise >= 1000 => {
                Err(ConfigError::Sequential)
            }
            Allocation::Block { size, .. } if size == 0 || u32::from(size) > self.ports() => {
                Err(ConfigError::Block)
            }
            _ => Ok(()),
        }
    }
}
