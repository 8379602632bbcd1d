//! The addresses at which this host may be reached, best first.

use if_addrs::{IfOperStatus, Interface};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Most addresses that [`local_candidates`] returns; the core uses no more.
pub const CANDIDATES_MAX: usize = 16;

/// How good an interface's address is as a host candidate; `None`: it is none at all. Smaller
/// is better.
///
/// | rank | address |
/// |---|---|
/// | 0 | any other |
/// | 1 | IPv4 link-local (169.254/16): on-link peers only |
/// | 2 | of a bridge for containers or virtual machines: reached by nobody outside, and often the same on every host, so that a peer may reach itself |
/// | 3 | loopback: used only if there is nothing else, by agents on one host without a network |
/// | — | interface down, unspecified, multicast, IPv6 link-local (needs a scope) |
fn rank(name: &str, ip: IpAddr, is_up: bool) -> Option<u8> {
    let excluded = match ip {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local(),
    };
    if excluded || !is_up {
        return None;
    }
    let is_link_local = matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    Some(if ip.is_loopback() {
        3
    } else if is_bridge(name) {
        2
    } else if is_link_local {
        1
    } else {
        0
    })
}

/// Names that container and virtual machine software gives its bridges and their ports.
fn is_bridge(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "docker", "br-", "veth", "cni", "cali", "flannel", "virbr", "vnet", "lxc", "lxdbr",
        "podman", "kube",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A loopback interface's state is "unknown" on Linux, as is that of tunnels.
fn is_up(interface: &Interface) -> bool {
    matches!(interface.oper_status, IfOperStatus::Up | IfOperStatus::Unknown)
}

/// The host candidates of sockets bound to `bound`: the addresses of this host with their
/// ports, best first, at most [`CANDIDATES_MAX`]. A socket that is bound to one address has
/// that one alone; one that is bound to `[::]` has IPv4, too, unless another socket has it.
pub fn host_candidates(bound: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    #[cfg(feature = "faults")]
    if let Some(found) = crate::faults::candidates(bound) {
        return Ok(found);
    }
    let hosts = local_candidates()?;
    let mut found: Vec<SocketAddr> =
        bound.iter().copied().filter(|address| !address.ip().is_unspecified()).collect();
    let port_for = |ip: &IpAddr| {
        let wildcards = || bound.iter().filter(|address| address.ip().is_unspecified());
        let own = wildcards().find(|address| address.is_ipv4() == ip.is_ipv4());
        let dual = || wildcards().find(|address| address.is_ipv6() && ip.is_ipv4());
        own.or_else(dual).map(SocketAddr::port)
    };
    found.extend(hosts.iter().filter_map(|ip| Some(SocketAddr::new(*ip, port_for(ip)?))));
    found.truncate(CANDIDATES_MAX);
    Ok(found)
}

/// The addresses of this host's interfaces, best first, each once, at most
/// [`CANDIDATES_MAX`]. Loopback addresses only if there are no others.
pub fn local_candidates() -> io::Result<Vec<IpAddr>> {
    let mut ranked: Vec<(u8, IpAddr)> = if_addrs::get_if_addrs()?
        .iter()
        .filter_map(|i| Some((rank(&i.name, i.ip(), is_up(i))?, i.ip())))
        .collect();
    // Sorted by address, too: the order in which the system lists them is no change.
    ranked.sort();
    if ranked.first().is_some_and(|(best, _)| *best < 3) {
        ranked.retain(|(rank, _)| *rank < 3);
    }
    let mut best = Vec::new();
    for (_, ip) in ranked {
        if best.len() < CANDIDATES_MAX && !best.contains(&ip) {
            best.push(ip);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranks() {
        assert_eq!(rank("eth0", ip("192.0.2.1"), true), Some(0));
        assert_eq!(rank("eth0", ip("2001:db8::1"), true), Some(0));
        assert_eq!(rank("eth0", ip("fd00::1"), true), Some(0));
        assert_eq!(rank("eth0", ip("192.0.2.1"), false), None);
        assert_eq!(rank("eth0", ip("169.254.3.4"), true), Some(1));
        for bridge in ["docker0", "br-3fa0", "veth12", "cni0", "virbr0"] {
            assert_eq!(rank(bridge, ip("172.17.0.1"), true), Some(2), "{bridge}");
        }
        assert_eq!(rank("bridge100", ip("192.0.2.1"), true), Some(0));
        assert_eq!(rank("lo", ip("127.0.0.1"), true), Some(3));
        assert_eq!(rank("lo", ip("::1"), true), Some(3));
        for none in ["0.0.0.0", "::", "fe80::1", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert_eq!(rank("eth0", ip(none), true), None, "{none}");
        }
    }

    #[test]
    fn candidates_have_the_port_of_their_family() {
        let hosts = local_candidates().unwrap();
        let bound: [SocketAddr; 2] =
            ["0.0.0.0:1000".parse().unwrap(), "[::]:2000".parse().unwrap()];
        let found = host_candidates(&bound).unwrap();
        assert_eq!(found.iter().map(SocketAddr::ip).collect::<Vec<_>>(), hosts);
        assert!(found.iter().all(|c| c.port() == if c.is_ipv4() { 1000 } else { 2000 }));
        let dual = host_candidates(&bound[1..]).unwrap();
        assert_eq!(dual.iter().map(SocketAddr::ip).collect::<Vec<_>>(), hosts);
        assert!(dual.iter().all(|c| c.port() == 2000));
        let one = ["192.0.2.5:7".parse().unwrap()];
        assert_eq!(host_candidates(&one).unwrap(), one);
        assert!(host_candidates(&bound[..1]).unwrap().iter().all(SocketAddr::is_ipv4));
    }

    #[test]
    fn this_host_has_an_address_and_loopback_is_only_a_last_resort() {
        let found = local_candidates().unwrap();
        assert!(!found.is_empty() && found.len() <= CANDIDATES_MAX);
        let loopback = found.iter().filter(|ip| ip.is_loopback()).count();
        assert!(loopback == 0 || loopback == found.len(), "{found:?}");
        let mut once = found.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), found.len());
        assert_eq!(found, local_candidates().unwrap());
    }
}
