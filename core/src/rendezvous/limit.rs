//! Rate limits per source or node that cost no memory per source (`wire.md` 7): 4096 cells of 8 bytes,
//! chosen by SipHash under a random key, each a virtual scheduling time (GCRA, ITU-T I.371).
//!
//! Two sources in one cell share its rate: a collision makes somebody wait, never lets
//! somebody through.

use crate::addr::NodeId;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use core::net::IpAddr;
use siphasher::sip::SipHasher24;

const CELLS: usize = 4096;

/// The network a source is counted under: an IPv4 address, or an IPv6 /64, since one host has
/// a whole /64 to choose from. IPv4-mapped addresses count as IPv4.
pub(crate) fn prefix(ip: IpAddr) -> [u8; 9] {
    let mut bytes = [0; 9];
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            bytes[0] = 4;
            bytes[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[0] = 6;
            bytes[1..].copy_from_slice(&ip.octets()[..8]);
        }
    }
    bytes
}

pub(crate) struct TokenTable {
    cells: Box<[u64; CELLS]>,
    key: SipHasher24,
    interval: Duration,
    burst: Duration,
}

impl TokenTable {
    /// `count` events per `period` in the long run, all of them at once if they like.
    pub(crate) fn new(key: [u8; 16], count: u32, period: Duration) -> Self {
        let interval = period / count.max(1);
        TokenTable {
            cells: Box::new([0; CELLS]),
            key: SipHasher24::new_with_key(&key),
            interval,
            burst: interval * count.max(1).saturating_sub(1),
        }
    }

    /// Takes a token of `ip`'s cell; else, how long until there is one.
    pub(crate) fn take(&mut self, now: Instant, ip: IpAddr) -> Result<(), Duration> {
        self.take_of(now, &prefix(ip))
    }

    /// The same for a node.
    pub(crate) fn take_for(&mut self, now: Instant, node: NodeId) -> Result<(), Duration> {
        self.take_of(now, &node.0.to_be_bytes())
    }

    fn take_of(&mut self, now: Instant, source: &[u8]) -> Result<(), Duration> {
        let cell = &mut self.cells[self.key.hash(source) as usize % CELLS];
        let scheduled = Instant::from_nanos(*cell).max(now);
        let ahead = scheduled.since(now);
        if ahead > self.burst {
            return Err(ahead - self.burst);
        }
        *cell = (scheduled + self.interval).as_nanos();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_burst_hold_per_source() {
        let mut table = TokenTable::new([1; 16], 10, Duration::from_secs(1));
        let mut now = Instant::from_nanos(1_000_000_000);
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let b: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!((0..100).filter(|_| table.take(now, a).is_ok()).count(), 10);
        assert!(table.take(now, b).is_ok());
        assert!(table.take(now, "::ffff:192.0.2.1".parse().unwrap()).is_err());
        let wait = table.take(now, a).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        now += wait;
        assert!(table.take(now, a).is_ok());
        assert!(table.take(now, a).is_err());
        now += Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| table.take(now, a).is_ok()).count(), 10);
    }

    #[test]
    fn an_ipv6_host_cannot_hop_within_its_64() {
        let mut table = TokenTable::new([1; 16], 2, Duration::from_secs(60));
        let now = Instant::from_nanos(1_000_000_000);
        let taken = (0..100u16)
            .filter(|i| {
                let ip = IpAddr::V6(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, *i));
                table.take(now, ip).is_ok()
            })
            .count();
        assert_eq!(taken, 2);
        assert_eq!(size_of_val(&*table.cells), 4096 * 8);
    }
}
