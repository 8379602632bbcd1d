//! The birthday spray (`nat.md` 2): the end whose NAT gives every destination a random port opens
//! [`OPENED`] of them towards the other end's one endpoint; that end looks for one of them.
//!
//! With k of N ports open, n distinct probes find one with 1 − C(N−k, n) ⁄ C(N, n): 98.35 % at
//! 1,024 probes, 99.97 % at 2,048, mean 251.
//!
//! Manners: it looks like a port scan to whoever watches, so it goes only to the address that
//! the beacon itself observed for a peer that trusts us, once plain punching has failed, at no
//! more than 100 probes a second and [`PROBES`] in all, and again only after minutes. An attempt
//! is over before the 30 s that a NAT keeps an unanswered mapping, so nothing is refreshed.

use crate::time::Duration;

/// Ports that the end with random ports opens, each on a socket of its own.
pub const OPENED: usize = 256;
/// Most probes of one attempt.
pub const PROBES: u16 = 2048;
/// Distance of probes.
pub const PROBE_EVERY: Duration = Duration::from_millis(10);
/// Distance of the first packets of the opened ports: all are open within about half a second.
pub const OPEN_EVERY: Duration = Duration::from_millis(2);
/// How long the end that opened waits for the other's probes.
pub const LISTEN: Duration = Duration::from_millis(PROBES as u64 * 10 + 3000);
/// Least distance of two sprays towards one peer; doubles up to [`BACK_OFF_MAX`].
pub const BACK_OFF: Duration = Duration::from_secs(300);
/// See [`BACK_OFF`].
pub const BACK_OFF_MAX: Duration = Duration::from_secs(3600);

/// The first port that is probed; below are those that NATs do not hand out.
const FIRST: u32 = 1024;
/// How many ports are probed.
pub const PORTS: u32 = 65_536 - FIRST;
/// Ports of a block, where a NAT gives each host one (GCP: 64).
const BLOCK: u16 = 64;

/// Distinct ports in an order that nobody can foresee, without a list of them.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    start: u32,
    step: u32,
    next: u32,
    /// The block that comes first, and how much of it has come.
    block: Option<(u16, u16)>,
}

impl Ports {
    /// All ports from 1,024 on, by two random numbers. A linear congruence visits each once:
    /// a step without a common factor with 64,512 = 2¹⁰ · 3² · 7.
    pub fn new(random: (u32, u32)) -> Self {
        let mut step = (random.1 % PORTS) | 1;
        while step.is_multiple_of(3) || step.is_multiple_of(7) {
            step = (step + 2) % PORTS;
        }
        Ports { start: random.0 % PORTS, step, next: 0, block: None }
    }

    /// The same with the block of `observed` first: where a NAT draws from a small block, the
    /// peer's next ports are there.
    pub fn with_block(random: (u32, u32), observed: u16) -> Self {
        Ports { block: Some((observed & !(BLOCK - 1), 0)), ..Ports::new(random) }
    }

    /// The next port.
    pub fn next_port(&mut self) -> u16 {
        if let Some((first, done)) = &mut self.block {
            let port = *first + *done;
            *done += 1;
            if *done == BLOCK {
                self.block = None;
            }
            return port.max(1);
        }
        let place = u64::from(self.start) + u64::from(self.step) * u64::from(self.next);
        self.next = (self.next + 1) % PORTS;
        (FIRST + (place % u64::from(PORTS)) as u32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_port_comes_once(a: u32, b: u32) {
            let mut ports = Ports::new((a, b));
            let seen: BTreeSet<u16> = (0..PORTS).map(|_| ports.next_port()).collect();
            prop_assert_eq!(seen.len(), PORTS as usize);
            prop_assert_eq!(seen.first(), Some(&1024));
        }
    }

    #[test]
    fn a_block_comes_first() {
        let mut ports = Ports::with_block((7, 9), 40_070);
        let first: BTreeSet<u16> = (0..64).map(|_| ports.next_port()).collect();
        assert_eq!(first, (40_064..40_128).collect());
        assert!(ports.next_port() >= 1024);
    }
}
