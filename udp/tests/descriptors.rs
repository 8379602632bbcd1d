//! A process without descriptors. Alone in its file: the limit is the process's.
#![cfg(target_os = "linux")]

use pilot_core::drive::{BindError, BindOptions, Datagrams, IoError};
use pilot_core::machine::SocketId;
use pilot_udp::UdpSockets;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// There would be none left for IPv6, and nobody would ever try again.
#[test]
fn who_has_no_descriptor_for_both_families_keeps_the_main_sockets() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return;
    }
    let mut sockets = UdpSockets::<UdpSocket>::bind(&BindOptions::default()).unwrap();
    let before: Vec<SocketAddr> = sockets.local_addresses().collect();
    assert_eq!(before.len(), 2);

    let free = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().as_raw_fd();
    let limit = getrlimit(Resource::Nofile);
    let left = |n: u64| {
        let current = Some(u64::try_from(free).unwrap() + n);
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    };
    for n in [0, 1] {
        left(n);
        let opened = sockets.open(SocketId(0));
        let bound = UdpSockets::<UdpSocket>::bind(&BindOptions::default());
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(opened, Err(IoError::Full));
        assert_eq!(sockets.local_addresses().collect::<Vec<_>>(), before);
        assert!(matches!(bound, Err(BindError::Io { .. })), "{bound:?}");
    }
    sockets.open(SocketId(0)).unwrap();
    assert_eq!(sockets.local_addresses().count(), 2);
}
