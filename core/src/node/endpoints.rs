//! Which endpoints of a peer are worth a packet: ours to try, and never somebody else's to be
//! hit (`wire.md` 7, punch reflection).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use heapless::Vec;

/// Most local addresses that the node remembers.
pub(super) const LOCALS_MAX: usize = 16;

/// Our own addresses, from [`super::Command::NetworkChanged`].
#[derive(Debug, Default)]
pub(super) struct Locals(Vec<SocketAddr, LOCALS_MAX>);

impl Locals {
    pub(super) fn set(&mut self, locals: &[SocketAddr]) -> bool {
        let mut new = Vec::new();
        for &local in locals {
            if !new.contains(&local) && new.push(local).is_err() {
                break;
            }
        }
        let changed = new != self.0;
        self.0 = new;
        changed
    }

    pub(super) fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }

    /// Whether a datagram to `endpoint` may be sent at all: a real unicast address, and if it is
    /// a private one, on one of our links. `beacon` counts as a link for loopback: whoever the
    /// beacon sees on loopback is on the beacon's host, and so are we if our beacon is there.
    pub(super) fn is_worth_trying(&self, endpoint: SocketAddr, beacon: Option<SocketAddr>) -> bool {
        if endpoint.port() == 0 || self.0.contains(&endpoint) {
            return false;
        }
        match endpoint.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() => {
                false
            }
            IpAddr::V6(ip) if ip.is_unspecified() || ip.is_multicast() => false,
            ip if ip.is_loopback() => beacon.is_some_and(|b| b.ip().is_loopback()),
            ip if is_private(ip) => self.0.iter().any(|l| same_link(l.ip(), ip)),
            _ => true,
        }
    }
}

/// Whether an address is of our own links, so that no NAT is on the way to it.
pub(super) fn is_near(ip: IpAddr) -> bool {
    ip.is_loopback() || is_private(ip)
}

/// Addresses that mean another host on another link.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || is_shared(ip),
        IpAddr::V6(ip) => is_unique_local(ip) || is_link_local(ip),
    }
}

/// 100.64.0.0/10, carrier-grade NAT (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && (64..128).contains(&b)
}

/// fc00::/7 (RFC 4193).
fn is_unique_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xFE00 == 0xFC00
}

/// fe80::/10 (RFC 4291).
fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xFFC0 == 0xFE80
}

/// The prefix length of an interface is not known to the core: /24 and /64 are what nearly
/// every link has, and a wrong guess costs a packet or a relayed path, never safety.
fn same_link(ours: IpAddr, theirs: IpAddr) -> bool {
    match (ours, theirs) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_addresses_that_can_be_the_peer_are_tried() {
        let mut locals = Locals::default();
        assert!(locals.set(&[at("192.168.7.2:4000"), at("[fd00:1:2:3::9]:4000")]));
        assert!(!locals.set(&[at("192.168.7.2:4000"), at("[fd00:1:2:3::9]:4000")]));
        let public = Some(at("203.0.113.1:9001"));
        for good in
            ["198.51.100.9:4000", "192.168.7.99:1", "[2001:db8::1]:4000", "[fd00:1:2:3::8]:4000"]
        {
            assert!(locals.is_worth_trying(at(good), public), "{good}");
        }
        for bad in [
            "198.51.100.9:0",
            "192.168.8.99:1",
            "10.0.0.1:4000",
            "127.0.0.1:4000",
            "[::1]:4000",
            "0.0.0.0:4000",
            "255.255.255.255:4000",
            "224.0.0.1:4000",
            "[ff02::1]:4000",
            "100.64.1.1:4000",
            "169.254.1.1:4000",
            "[fe80::1]:4000",
            "[fd00:1:2:4::8]:4000",
            "192.168.7.2:4000",
        ] {
            assert!(!locals.is_worth_trying(at(bad), public), "{bad}");
        }
        let here = Some(at("127.0.0.1:9001"));
        assert!(locals.is_worth_trying(at("127.0.0.1:4000"), here));
        assert!(locals.is_worth_trying(at("[::1]:4000"), here));
    }

    #[test]
    fn the_seventeenth_local_address_is_ignored() {
        let mut locals = Locals::default();
        let many: std::vec::Vec<SocketAddr> =
            (0..20).map(|i| SocketAddr::from(([203, 0, 113, i], 4000))).collect();
        locals.set(&many);
        assert_eq!(locals.as_slice(), &many[..16]);
    }
}
