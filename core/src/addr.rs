//! Virtual addresses and ports: the published text and byte forms
//! (`published-wire.md`, Address).

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// A 16-bit network number; 0 is the backbone on which every node is.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct NetworkId(pub u16);

impl NetworkId {
    /// Network 0: every node is a member.
    pub const BACKBONE: NetworkId = NetworkId(0);
}

/// A 32-bit node number: the agent, the same in every network it joins.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The registry.
    pub const REGISTRY: NodeId = NodeId(1);
    /// The beacon.
    pub const BEACON: NodeId = NodeId(2);
    /// The first number handed out to an agent (1 to 15 are reserved).
    pub const FIRST_AGENT: NodeId = NodeId(16);
    /// Every node of a network; dropped here (`wire.md` 1).
    pub const BROADCAST: NodeId = NodeId(u32::MAX);

    /// Whether an agent may have this number.
    pub const fn is_agent(self) -> bool {
        self.0 >= Self::FIRST_AGENT.0 && self.0 != Self::BROADCAST.0
    }
}

/// A 48-bit virtual address: 6 bytes on the wire, big-endian, `N:NNNN.HHHH.LLLL` in text.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Address {
    /// The network in which the node is meant.
    pub network: NetworkId,
    /// The node.
    pub node: NodeId,
}

impl Address {
    /// `0:0000.0000.0000`: no address.
    pub const UNSPECIFIED: Address = Address::backbone(NodeId(0));
    /// The registry, node 1 of the backbone.
    pub const REGISTRY: Address = Address::backbone(NodeId::REGISTRY);
    /// The beacon, node 2 of the backbone.
    pub const BEACON: Address = Address::backbone(NodeId::BEACON);

    /// The address of `node` in `network`.
    pub const fn new(network: NetworkId, node: NodeId) -> Self {
        Address { network, node }
    }

    /// The address that records, handshakes, grants and trust requests name.
    pub const fn backbone(node: NodeId) -> Self {
        Address { network: NetworkId::BACKBONE, node }
    }

    /// The same node on the backbone.
    pub const fn on_backbone(self) -> Self {
        Address::backbone(self.node)
    }

    /// Whether this is `0:0000.0000.0000`.
    pub const fn is_unspecified(self) -> bool {
        self.network.0 == 0 && self.node.0 == 0
    }

    /// The 6 bytes on the wire.
    pub const fn to_bytes(self) -> [u8; 6] {
        let n = self.network.0.to_be_bytes();
        let h = self.node.0.to_be_bytes();
        [n[0], n[1], h[0], h[1], h[2], h[3]]
    }

    /// The address in 6 bytes from the wire.
    pub const fn from_bytes(b: [u8; 6]) -> Self {
        Address {
            network: NetworkId(u16::from_be_bytes([b[0], b[1]])),
            node: NodeId(u32::from_be_bytes([b[2], b[3], b[4], b[5]])),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, node) = (self.network.0, self.node.0);
        write!(f, "{n}:{n:04X}.{:04X}.{:04X}", node >> 16, node & 0xFFFF)
    }
}

/// Why a text is not an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not of the form `N:NNNN.HHHH.LLLL`.
    #[error("an address looks like 1:0001.0000.0017")]
    Form,
    /// The decimal and the hexadecimal network differ.
    #[error("the network is written twice, in decimal and in hex, and both must agree")]
    NetworkMismatch,
    /// The part behind the last colon is not a port.
    #[error("a port is a number from 0 to 65535")]
    Port,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (decimal, groups) = text.split_once(':').ok_or(AddressError::Form)?;
        let network = decimal_u16(decimal).ok_or(AddressError::Form)?;
        let mut words = [0u16; 3];
        let mut parts = groups.split('.');
        for word in &mut words {
            *word = parts.next().and_then(hex4).ok_or(AddressError::Form)?;
        }
        if parts.next().is_some() {
            return Err(AddressError::Form);
        }
        if words[0] != network {
            return Err(AddressError::NetworkMismatch);
        }
        let node = u32::from(words[1]) << 16 | u32::from(words[2]);
        Ok(Address::new(NetworkId(network), NodeId(node)))
    }
}

/// Digits only, leading zeros allowed, no sign, no blanks.
fn decimal_u16(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.bytes().try_fold(0u16, |n, b| n.checked_mul(10)?.checked_add(u16::from(b - b'0')))
}

/// Exactly four hex digits of either case.
fn hex4(text: &str) -> Option<u16> {
    if text.len() != 4 {
        return None;
    }
    text.bytes().try_fold(0u16, |n, b| {
        let digit = char::from(b).to_digit(16)?;
        Some(n << 4 | digit as u16)
    })
}

/// A virtual port.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Port(pub u16);

impl Port {
    /// Bytes come back.
    pub const ECHO: Port = Port(7);
    /// Trust by handshake; ours goes through the mailbox and answers RST here.
    pub const TRUST: Port = Port(444);
    /// Messages and files.
    pub const DATA_EXCHANGE: Port = Port(1001);
    /// Publish and subscribe.
    pub const EVENTS: Port = Port(1002);
    /// Tasks.
    pub const TASKS: Port = Port(1003);
    /// The first ephemeral port; the last is 65535.
    pub const FIRST_EPHEMERAL: Port = Port(49152);

    /// Whether this port is in the range that the core draws source ports from.
    pub const fn is_ephemeral(self) -> bool {
        self.0 >= Self::FIRST_EPHEMERAL.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address and a port: `1:0001.0000.0017:1001`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct SocketAddress {
    /// The node.
    pub address: Address,
    /// The port on it.
    pub port: Port,
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

impl FromStr for SocketAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (address, port) = text.rsplit_once(':').ok_or(AddressError::Form)?;
        Ok(SocketAddress {
            address: address.parse()?,
            port: Port(decimal_u16(port).ok_or(AddressError::Port)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn published_examples() {
        let a: Address = "00000:0000.ffff.FFFF".parse().unwrap();
        assert_eq!(a.to_string(), "0:0000.FFFF.FFFF");
        assert_eq!(a.node, NodeId::BROADCAST);
        assert_eq!("1:0001.0000.0017".parse::<Address>().unwrap().node, NodeId(0x17));
        assert_eq!("1:00A3.F291.0004".parse::<Address>(), Err(AddressError::NetworkMismatch));
        assert_eq!(
            "1:0001.0000.0017:1001".parse::<SocketAddress>().unwrap().to_string(),
            "1:0001.0000.0017:1001"
        );
        for bad in [
            "",
            ":",
            "1",
            "1:",
            "1:0001.0000",
            "1:0001.0000.0017 ",
            " 1:0001.0000.0017",
            "+1:0001.0000.0017",
            "1:0001.0000.0017.0000",
            "1:1.0.17",
            "65536:0000.0000.0000",
            "1:0001.00000.017",
            "1:0001.0000.00G7",
            "-0:0000.0000.0000",
            "1:0001:0000.0017",
        ] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError::Form), "{bad:?}");
        }
        assert_eq!("1:0001.0000.0017:".parse::<SocketAddress>(), Err(AddressError::Port));
        assert_eq!("1:0001.0000.0017:65536".parse::<SocketAddress>(), Err(AddressError::Port));
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(network: u16, node: u32, port: u16) {
            let address = Address::new(NetworkId(network), NodeId(node));
            prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            prop_assert_eq!(Address::from_bytes(address.to_bytes()), address);
            let socket = SocketAddress { address, port: Port(port) };
            prop_assert_eq!(socket.to_string().parse::<SocketAddress>().unwrap(), socket);
        }

        #[test]
        fn any_text_parses_or_errs(text in "\\PC{0,40}") {
            let _ = text.parse::<SocketAddress>();
        }
    }
}
