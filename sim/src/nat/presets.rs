//! Named combinations: the lab's seven types and a few more, and the clouds as far as their
//! documentation and others' measurements tell (`nat.md` 5).

use super::{
    Allocation, BoxConfig, Filtering, FirewallConfig, Hairpin, Mapping, NatConfig, OnClash,
    PortReuse, Refresh, TcpPorts, Udp, Unsolicited,
};
use crate::span::Span;
use clap::ValueEnum;
use core::fmt;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// What stands between a host and the internet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// Nothing.
    Public,
    /// A stateful firewall around a public address.
    Firewall,
    /// EIM, EIF, preserving.
    FullCone,
    /// A full cone that hairpins with the external source.
    FullConeHairpin,
    /// EIM, ADF, preserving.
    Restricted,
    /// EIM, APDF, preserving: most homes.
    PortRestricted,
    /// APDM, APDF, each port one above the last.
    SymSeq,
    /// APDM, APDF, random ports.
    SymRandom,
    /// ADM, APDF, random ports.
    Adm,
    /// Port-restricted, and tracks what nobody asked for: Linux masquerade without a drop rule.
    Leaky,
    /// Port-restricted, and forgets after 30 s.
    ThirtySeconds,
    /// AWS NAT gateway.
    Aws,
    /// Google Cloud NAT as it comes.
    Gcp,
    /// Google Cloud NAT with endpoint-independent mapping.
    GcpEim,
    /// Azure NAT gateway.
    Azure,
    /// An EC2 instance with a public address and a default security group.
    Ec2Sg,
    /// A pod on EKS: the VPC CNI randomises ports even on a public node.
    Eks,
    /// A port-restricted home behind an endpoint-independent carrier-grade NAT.
    Cgnat,
    /// UDP does not pass; TCP does to port 443 alone.
    UdpBlocked,
}

impl Preset {
    /// All of them.
    pub const ALL: &'static [Preset] = &[
        Preset::Public,
        Preset::Firewall,
        Preset::FullCone,
        Preset::FullConeHairpin,
        Preset::Restricted,
        Preset::PortRestricted,
        Preset::SymSeq,
        Preset::SymRandom,
        Preset::Adm,
        Preset::Leaky,
        Preset::ThirtySeconds,
        Preset::Aws,
        Preset::Gcp,
        Preset::GcpEim,
        Preset::Azure,
        Preset::Ec2Sg,
        Preset::Eks,
        Preset::Cgnat,
        Preset::UdpBlocked,
    ];

    /// The seven of the goal table (`nat.md` 4), in its order.
    pub const SEVEN: [Preset; 7] = [
        Preset::Public,
        Preset::Firewall,
        Preset::FullCone,
        Preset::Restricted,
        Preset::PortRestricted,
        Preset::SymSeq,
        Preset::SymRandom,
    ];

    /// The name in scenario files and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Preset::Public => "public",
            Preset::Firewall => "firewall",
            Preset::FullCone => "full-cone",
            Preset::FullConeHairpin => "full-cone-hairpin",
            Preset::Restricted => "restricted",
            Preset::PortRestricted => "port-restricted",
            Preset::SymSeq => "sym-seq",
            Preset::SymRandom => "sym-random",
            Preset::Adm => "adm",
            Preset::Leaky => "leaky",
            Preset::ThirtySeconds => "thirty-seconds",
            Preset::Aws => "aws",
            Preset::Gcp => "gcp",
            Preset::GcpEim => "gcp-eim",
            Preset::Azure => "azure",
            Preset::Ec2Sg => "ec2-sg",
            Preset::Eks => "eks",
            Preset::Cgnat => "cgnat",
            Preset::UdpBlocked => "udp-blocked",
        }
    }

    /// The boxes, the one nearest to the host first. The outermost NAT has the given address;
    /// one inside it an address of the shared space (RFC 6598).
    pub fn boxes(self, address: IpAddr) -> Vec<BoxConfig> {
        use Filtering as F;
        use Mapping as M;
        let dependent = M::AddressAndPortDependent;
        let preserve = Allocation::Preserve { on_clash: OnClash::Random };
        let home = |filtering| NatConfig::new(M::EndpointIndependent, filtering, preserve, address);
        let closed = F::AddressAndPortDependent;
        let symmetric = |allocation| NatConfig::new(dependent, closed, allocation, address);
        let nat = match self {
            Preset::Public => return Vec::new(),
            Preset::Firewall => return vec![BoxConfig::Firewall(FirewallConfig::default())],
            Preset::FullCone => home(F::EndpointIndependent),
            Preset::FullConeHairpin => {
                NatConfig { hairpin: Hairpin::ExternalSource, ..home(F::EndpointIndependent) }
            }
            Preset::Restricted => home(F::AddressDependent),
            Preset::PortRestricted => home(closed),
            Preset::Leaky => NatConfig { unsolicited: Unsolicited::Track, ..home(closed) },
            Preset::ThirtySeconds => NatConfig { life: Span::secs(30), ..home(closed) },
            Preset::SymSeq => NatConfig {
                range: (40_000, 48_191),
                ..symmetric(Allocation::Sequential { step: 1, noise: 0 })
            },
            Preset::SymRandom => symmetric(Allocation::Random),
            Preset::Adm => {
                NatConfig { mapping: M::AddressDependent, ..symmetric(Allocation::Random) }
            }
            Preset::Eks => symmetric(Allocation::Random),
            Preset::Aws | Preset::Gcp | Preset::GcpEim | Preset::Azure | Preset::Ec2Sg => {
                self.cloud(address)
            }
            Preset::Cgnat => {
                let inner = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 10));
                let home = NatConfig { pool: vec![inner], ..home(closed) };
                return vec![BoxConfig::Nat(home), BoxConfig::Nat(carrier(address))];
            }
            Preset::UdpBlocked => {
                NatConfig { udp: Udp::Block, tcp_ports: TcpPorts::Only(vec![443]), ..home(closed) }
            }
        };
        vec![BoxConfig::Nat(nat)]
    }

    fn cloud(self, address: IpAddr) -> NatConfig {
        let (dependent, closed) =
            (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
        let new = |allocation| NatConfig {
            reuse: PortReuse::PerDestination,
            ..NatConfig::new(dependent, closed, allocation, address)
        };
        let lasting = |seconds| {
            let span = Span::secs(seconds);
            (span, span)
        };
        let mut config = match self {
            Preset::Gcp => new(Allocation::Block { size: 64, per_host: true }),
            Preset::GcpEim => NatConfig {
                reuse: PortReuse::Exclusive,
                mapping: Mapping::EndpointIndependent,
                ..new(Allocation::Block { size: 64, per_host: true })
            },
            Preset::Ec2Sg => NatConfig::port_restricted(address),
            _ => new(Allocation::Random),
        };
        (config.life, config.life_unreplied) = match self {
            Preset::Aws => lasting(350),
            Preset::Azure => lasting(240),
            // A flow that was not answered, and one that was: "stream".
            Preset::Ec2Sg => (Span::secs(180), Span::secs(30)),
            _ => lasting(30),
        };
        match self {
            Preset::Aws => config.max_total = 55_000,
            Preset::Azure => {
                // Its documentation asks for keepalives from both sides.
                config.refresh = Refresh::OutboundOnly;
                config.hold_down = Span::secs(65);
            }
            _ => {}
        }
        config
    }
}

/// A carrier's NAT: endpoint-independent, a thousand ports to each subscriber.
fn carrier(address: IpAddr) -> NatConfig {
    NatConfig {
        max_per_host: 1024,
        ..NatConfig::new(
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent,
            Allocation::Block { size: 1024, per_host: true },
            address,
        )
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
