//! What a probe sees of the boxes in front of a host: RFC 5780's tests for mapping and filtering,
//! fresh sockets for allocation, and one unsolicited packet for poisoning.

use super::{Entropy, Middlebox, Packet};
use core::fmt;
use pilot_core::path::nat::Nat;
use pilot_core::time::{Duration, Instant};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How external endpoints depend on the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingClass {
    /// The host's own endpoint is seen.
    Identity,
    /// EIM.
    EndpointIndependent,
    /// ADM.
    AddressDependent,
    /// APDM.
    AddressAndPortDependent,
}

/// How external ports of fresh sockets follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllocationClass {
    /// As inside.
    Preserving,
    /// In steps of this or, where others take ports between, multiples of it.
    Sequential(i32),
    /// Scattered over at most this many ports, a power of two.
    Block(u32),
    /// Scattered.
    Random,
}

/// What the probe found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Class {
    /// Mapping.
    pub mapping: MappingClass,
    /// Filtering.
    pub filtering: super::Filtering,
    /// Allocation.
    pub allocation: AllocationClass,
    /// An unsolicited packet moves the mapping towards its sender.
    pub is_poisonable: bool,
    /// Two hosts inside reach each other by their outside endpoints.
    pub hairpins: bool,
}

impl Class {
    /// The classical name (RFC 3489 5).
    pub const fn name(&self) -> &'static str {
        use super::Filtering as F;
        match (self.mapping, self.filtering) {
            (MappingClass::Identity, F::EndpointIndependent) => "public",
            (MappingClass::Identity, _) => "firewall",
            (MappingClass::EndpointIndependent, F::EndpointIndependent) => "full cone",
            (MappingClass::EndpointIndependent, F::AddressDependent) => "restricted cone",
            (MappingClass::EndpointIndependent, _) => "port-restricted cone",
            _ => "symmetric",
        }
    }
}

/// The same in the agent's words.
impl From<Class> for Nat {
    fn from(class: Class) -> Nat {
        use pilot_core::path::nat::{Allocation, Filtering, Mapping};
        Nat {
            mapping: match class.mapping {
                MappingClass::Identity | MappingClass::EndpointIndependent => {
                    Mapping::EndpointIndependent
                }
                MappingClass::AddressDependent => Mapping::AddressDependent,
                MappingClass::AddressAndPortDependent => Mapping::AddressAndPortDependent,
            },
            filtering: match class.filtering {
                super::Filtering::EndpointIndependent => Filtering::EndpointIndependent,
                super::Filtering::AddressDependent => Filtering::AddressDependent,
                super::Filtering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
            },
            allocation: match class.allocation {
                AllocationClass::Preserving => Allocation::Preserving,
                AllocationClass::Sequential(_) => Allocation::Sequential,
                AllocationClass::Block(_) => Allocation::Block,
                AllocationClass::Random => Allocation::Random,
            },
        }
    }
}

/// In the order mapping, filtering, allocation.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use super::Filtering as F;
        let mapping = match self.mapping {
            MappingClass::Identity => "identity",
            MappingClass::EndpointIndependent => "EIM",
            MappingClass::AddressDependent => "ADM",
            MappingClass::AddressAndPortDependent => "APDM",
        };
        let filtering = match self.filtering {
            F::EndpointIndependent => "EIF",
            F::AddressDependent => "ADF",
            F::AddressAndPortDependent => "APDF",
        };
        write!(f, "{mapping} {filtering} ")?;
        match self.allocation {
            AllocationClass::Preserving => write!(f, "preserving")?,
            AllocationClass::Sequential(step) => write!(f, "sequential {step:+}")?,
            AllocationClass::Block(size) => write!(f, "block of {size}")?,
            AllocationClass::Random => write!(f, "random")?,
        }
        if self.is_poisonable {
            write!(f, ", poisonable")?;
        }
        if self.hairpins { write!(f, ", hairpins") } else { Ok(()) }
    }
}

/// Fresh sockets that allocation is told from.
const SOCKETS: u16 = 24;
/// Scattered wider than this is not a block.
const BLOCK_MAX: u32 = 4096;
/// Distance of ports that still counts as a sequence.
const STEP_MAX: i64 = 256;

/// The server of RFC 5780: `(address, port)`, first or other.
fn corner(other_address: bool, other_port: bool) -> SocketAddr {
    let ip = if other_address { [198, 18, 0, 2] } else { [198, 18, 0, 1] };
    SocketAddr::from((ip, if other_port { 3479 } else { 3478 }))
}

struct Probe<'p> {
    path: &'p mut [Middlebox],
    random: &'p mut dyn Entropy,
    now: Instant,
    host: IpAddr,
}

impl Probe<'_> {
    /// The source that the server sees; `None` if the packet does not arrive.
    fn ask(&mut self, port: u16, server: SocketAddr) -> Option<SocketAddr> {
        self.now += Duration::from_millis(1);
        let mut packet = Packet::new(SocketAddr::new(self.host, port), server);
        for hop in self.path.iter_mut() {
            packet = hop.handle_outbound(self.now, self.random, packet).forwarded()?;
        }
        Some(packet.source)
    }

    /// Whether a packet of the server to that endpoint arrives at the socket.
    fn answer(&mut self, server: SocketAddr, to: SocketAddr, port: u16) -> bool {
        self.now += Duration::from_millis(1);
        let mut packet = Packet::new(server, to);
        for hop in self.path.iter_mut().rev() {
            let verdict = hop.handle_inbound(self.now, self.random, packet);
            let Some(next) = verdict.forwarded() else { return false };
            packet = next;
        }
        packet.destination == SocketAddr::new(self.host, port)
    }

    fn mapping(&mut self) -> Option<MappingClass> {
        const PORT: u16 = 40_001;
        let first = self.ask(PORT, corner(false, false))?;
        let address = self.ask(PORT, corner(true, false))?;
        let both = self.ask(PORT, corner(true, true))?;
        Some(if first == SocketAddr::new(self.host, PORT) && first == address {
            MappingClass::Identity
        } else if first == address && address == both {
            MappingClass::EndpointIndependent
        } else if address == both {
            MappingClass::AddressDependent
        } else {
            MappingClass::AddressAndPortDependent
        })
    }

    fn filtering(&mut self) -> Option<super::Filtering> {
        const PORT: u16 = 40_003;
        let seen = self.ask(PORT, corner(false, false))?;
        Some(if self.answer(corner(true, true), seen, PORT) {
            super::Filtering::EndpointIndependent
        } else if self.answer(corner(false, true), seen, PORT) {
            super::Filtering::AddressDependent
        } else {
            super::Filtering::AddressAndPortDependent
        })
    }

    fn allocation(&mut self) -> Option<AllocationClass> {
        // Irregular inside, so that preserving does not look like a sequence.
        let ports = (0..SOCKETS).map(|n| 41_000 + n * 37 + n * n % 11);
        let pairs: Vec<(u16, u16)> = ports
            .map(|port| Some((port, self.ask(port, corner(false, false))?.port())))
            .collect::<Option<_>>()?;
        if pairs.iter().all(|(inside, seen)| inside == seen) {
            return Some(AllocationClass::Preserving);
        }
        let seen: Vec<i64> = pairs.iter().map(|(_, seen)| i64::from(*seen)).collect();
        let steps: Vec<i64> = seen.windows(2).map(|w| w[1] - w[0]).collect();
        let near = |sign: i64| steps.iter().filter(move |d| (1..=STEP_MAX).contains(&(**d * sign)));
        for sign in [1, -1] {
            // One of them may be the wrap at the range's end.
            if near(sign).count() + 1 >= steps.len()
                && let Some(least) = near(sign).min_by_key(|d| d.abs())
            {
                return Some(AllocationClass::Sequential(*least as i32));
            }
        }
        let span = seen.iter().max()? - seen.iter().min()? + 1;
        let span = u32::try_from(span).ok()?.next_power_of_two();
        Some(if span <= BLOCK_MAX { AllocationClass::Block(span) } else { AllocationClass::Random })
    }

    fn is_poisonable(&mut self) -> Option<bool> {
        const PORT: u16 = 40_007;
        let seen = self.ask(PORT, corner(false, false))?;
        if self.answer(corner(true, true), seen, PORT) {
            return Some(false);
        }
        let towards = self.ask(PORT, corner(true, true))?;
        Some(self.mapping_is_stable() && towards != seen)
    }

    /// Whether a clean socket shows the same endpoint to both.
    fn mapping_is_stable(&mut self) -> bool {
        const PORT: u16 = 40_009;
        let first = self.ask(PORT, corner(false, false));
        first.is_some() && first == self.ask(PORT, corner(true, true))
    }

    fn hairpins(&mut self) -> Option<bool> {
        const PORT: u16 = 40_011;
        let target = self.ask(PORT, corner(false, false))?;
        let other = SocketAddr::new(self.host, PORT + 2);
        let first = self.path.first_mut()?;
        let seen = first.handle_outbound(self.now, self.random, Packet::new(other, target));
        Some(matches!(seen, super::Verdict::Hairpin(packet)
            if packet.destination == SocketAddr::new(self.host, PORT)))
    }
}

/// Classifies the boxes between a host (the first is nearest to it) and the internet. `None` if
/// nothing gets through. Leaves its traces in the boxes, as probes do.
///
/// Whether hairpinning works is told for one box with a filter that admits it.
pub fn classify(
    path: &mut [Middlebox],
    random: &mut dyn Entropy,
    now: Instant,
    host: Ipv4Addr,
) -> Option<Class> {
    let mut probe = Probe { path, random, now, host: IpAddr::V4(host) };
    Some(Class {
        mapping: probe.mapping()?,
        filtering: probe.filtering()?,
        allocation: probe.allocation()?,
        is_poisonable: probe.is_poisonable()?,
        hairpins: probe.hairpins().unwrap_or(false),
    })
}
