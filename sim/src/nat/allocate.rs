//! Which external endpoint a new mapping gets.

use super::Entropy;
use super::config::{Allocation, NatConfig, OnClash, Pairing};
use super::table::{Key, Table};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Random ports that are tried before the range is searched from a random one on.
const TRIES: u32 = 16;
/// Ports in a row that other users take at most.
const NOISE_MAX: u32 = 64;

/// What allocation remembers beside the mappings.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    /// Sequential: the next port, counted from the range's start.
    next: u32,
    /// Blocks by host.
    blocks: BTreeMap<IpAddr, u32>,
}

/// What is asked for.
pub(super) struct Request<'a> {
    pub(super) config: &'a NatConfig,
    pub(super) table: &'a Table,
    pub(super) inside: SocketAddr,
    pub(super) key: Key,
    /// Whether an unsolicited packet has taken the endpoint towards the destination.
    pub(super) is_taken: &'a dyn Fn(SocketAddr) -> bool,
}

impl Request<'_> {
    fn is_free(&self, external: SocketAddr) -> bool {
        self.table.is_free(self.config.reuse, external, self.key) && !(self.is_taken)(external)
    }

    /// The addresses that it may get, best first.
    fn addresses(&self, random: &mut dyn Entropy) -> impl Iterator<Item = IpAddr> + use<'_> {
        let pool = &self.config.pool;
        let (first, most) = match self.config.pairing {
            Pairing::Paired => (fold(self.inside.ip()) as usize % pool.len(), 1),
            Pairing::Arbitrary => (random.below(pool.len() as u64) as usize, pool.len()),
        };
        (0..most).map(move |n| pool[(first + n) % pool.len()])
    }

    /// A free port among `count` from `first` on.
    fn any(
        &self,
        random: &mut dyn Entropy,
        ip: IpAddr,
        first: u32,
        count: u32,
    ) -> Option<SocketAddr> {
        for _ in 0..TRIES {
            let port = first + random.below(u64::from(count)) as u32;
            let external = SocketAddr::new(ip, port as u16);
            if self.is_free(external) {
                return Some(external);
            }
        }
        let start = random.below(u64::from(count)) as u32;
        (0..count)
            .map(|n| SocketAddr::new(ip, (first + (start + n) % count) as u16))
            .find(|external| self.is_free(*external))
    }

    fn preserve(
        &self,
        random: &mut dyn Entropy,
        ip: IpAddr,
        on_clash: OnClash,
    ) -> Option<SocketAddr> {
        let (low, high) = self.config.range;
        let port = self.inside.port();
        let same = SocketAddr::new(ip, port);
        let in_range = (low..=high).contains(&port);
        if in_range && self.is_free(same) {
            return Some(same);
        }
        let (first, count) = (u32::from(low), self.config.ports());
        match on_clash {
            OnClash::Overload if in_range => {
                let usable = !self.table.is_held(same) && !(self.is_taken)(same);
                usable.then_some(same).or_else(|| self.any(random, ip, first, count))
            }
            OnClash::Next => {
                let start = if in_range { u32::from(port) - first } else { 0 };
                (1..=count)
                    .map(|n| SocketAddr::new(ip, (first + (start + n) % count) as u16))
                    .find(|external| self.is_free(*external))
            }
            OnClash::Random | OnClash::Overload => self.any(random, ip, first, count),
        }
    }
}

impl Cursor {
    /// An external endpoint; `None` if none is left.
    pub(super) fn allocate(
        &mut self,
        random: &mut dyn Entropy,
        request: &Request<'_>,
    ) -> Option<SocketAddr> {
        let (first, count) = (u32::from(request.config.range.0), request.config.ports());
        let mut addresses = request.addresses(random);
        addresses.find_map(|ip| match request.config.allocation {
            Allocation::Preserve { on_clash } => request.preserve(random, ip, on_clash),
            Allocation::Random => request.any(random, ip, first, count),
            Allocation::Sequential { step, noise } => {
                self.in_sequence(random, request, ip, (step, noise))
            }
            Allocation::Block { size, per_host } => {
                let size = u32::from(size);
                let block = if per_host { self.block(request, count / size)? } else { 0 };
                request.any(random, ip, first + block * size, size)
            }
        })
    }

    fn in_sequence(
        &mut self,
        random: &mut dyn Entropy,
        request: &Request<'_>,
        ip: IpAddr,
        (step, noise): (i32, u16),
    ) -> Option<SocketAddr> {
        let (first, count) = (u32::from(request.config.range.0), request.config.ports());
        let advance = |at: u32| (i64::from(at) + i64::from(step)).rem_euclid(i64::from(count));
        self.next %= count;
        for _ in 0..NOISE_MAX {
            // The upper end, so that a tape that has run out means quiet.
            if random.below(1000) < 1000 - u64::from(noise) {
                break;
            }
            self.next = advance(self.next) as u32;
        }
        for _ in 0..count {
            let external = SocketAddr::new(ip, (first + self.next) as u16);
            self.next = advance(self.next) as u32;
            if request.is_free(external) {
                return Some(external);
            }
        }
        None
    }

    /// The host's block: the one it has, a free one, or that of a host without mappings.
    fn block(&mut self, request: &Request<'_>, blocks: u32) -> Option<u32> {
        let host = request.inside.ip();
        if let Some(block) = self.blocks.get(&host) {
            return Some(*block);
        }
        if self.blocks.len() >= blocks as usize {
            let idle =
                self.blocks.keys().find(|host| request.table.of_host(**host) == 0).copied()?;
            self.blocks.remove(&idle);
        }
        let free = (0..blocks).find(|n| self.blocks.values().all(|taken| taken != n))?;
        self.blocks.insert(host, free);
        Some(free)
    }
}

/// A number that is the same for the same host, and differs between neighbours.
fn fold(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(ip) => ip
            .octets()
            .chunks(4)
            .fold(0, |sum, part| sum ^ u32::from_be_bytes([part[0], part[1], part[2], part[3]])),
    }
}
