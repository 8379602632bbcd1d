//! The NAT: what happens to a packet, in which order.

use super::allocate::{Cursor, Request};
use super::config::{
    Allocation, ConfigError, Hairpin, Mapping, NatConfig, OnFull, StaleFlows, Udp, Unsolicited,
};
use super::table::{Id, Key, Table};
use super::{Blocked, Entropy, Packet, Verdict};
use pilot_core::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// How much a NAT holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatStats {
    /// Mappings.
    pub mappings: usize,
    /// External endpoints that rest.
    pub held: usize,
    /// Pairs that unsolicited packets have taken, ended ones included.
    pub tracked: usize,
}

/// A NAT. See the module and [`NatConfig`].
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    table: Table,
    cursor: Cursor,
    /// External endpoint and remote of unsolicited packets, and the last of them.
    tracked: BTreeMap<(SocketAddr, SocketAddr), Instant>,
}

impl Nat {
    /// A NAT without mappings.
    ///
    /// # Errors
    /// If `config` describes none.
    pub fn new(config: NatConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let (table, cursor) = (Table::default(), Cursor::default());
        Ok(Nat { config, table, cursor, tracked: BTreeMap::new() })
    }

    /// What it does at present.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// How much it holds.
    pub fn stats(&self) -> NatStats {
        NatStats {
            mappings: self.table.len(),
            held: self.table.held(),
            tracked: self.tracked.len(),
        }
    }

    /// A packet from inside.
    pub fn handle_outbound(
        &mut self,
        now: Instant,
        random: &mut dyn Entropy,
        packet: Packet,
    ) -> Verdict {
        self.outbound(now, random, packet).unwrap_or_else(Verdict::Drop)
    }

    /// A packet from outside.
    pub fn handle_inbound(
        &mut self,
        now: Instant,
        _random: &mut dyn Entropy,
        packet: Packet,
    ) -> Verdict {
        let verdict = self.admit(packet).and_then(|()| {
            self.table.expire(&self.config, now);
            let inside = self.inbound(now, packet, true)?;
            let forwarded = packet.hop().ok_or(Blocked::Ttl)?;
            Ok(Verdict::Forward(Packet { destination: inside, ..forwarded }))
        });
        verdict.unwrap_or_else(Verdict::Drop)
    }

    /// Loses all state, as a restart does; keeps addresses and configuration.
    pub fn handle_reboot(&mut self) {
        self.table = Table::default();
        self.cursor = Cursor::default();
        self.tracked.clear();
    }

    /// The outside addresses have changed.
    ///
    /// # Errors
    /// If `pool` is empty or mixes families; nothing is changed then.
    pub fn handle_renumber(
        &mut self,
        pool: Vec<IpAddr>,
        stale: StaleFlows,
    ) -> Result<(), ConfigError> {
        let config = NatConfig { pool, ..self.config.clone() };
        config.check()?;
        self.config = config;
        self.tracked.clear();
        if stale == StaleFlows::Drop {
            self.table = Table::default();
        }
        Ok(())
    }

    /// New mappings get their ports in another way.
    ///
    /// # Errors
    /// If it does not fit the range; nothing is changed then.
    pub fn set_allocation(&mut self, allocation: Allocation) -> Result<(), ConfigError> {
        self.config.check_allocation(allocation)?;
        self.config.allocation = allocation;
        self.cursor = Cursor::default();
        Ok(())
    }

    fn admit(&self, packet: Packet) -> Result<(), Blocked> {
        if self.config.udp == Udp::Block {
            return Err(Blocked::Udp);
        }
        let family = self.config.pool[0].is_ipv4();
        if packet.source.is_ipv4() != family || packet.destination.is_ipv4() != family {
            return Err(Blocked::Family);
        }
        Ok(())
    }

    fn outbound(
        &mut self,
        now: Instant,
        random: &mut dyn Entropy,
        packet: Packet,
    ) -> Result<Verdict, Blocked> {
        self.admit(packet)?;
        self.table.expire(&self.config, now);
        let forwarded = packet.hop().ok_or(Blocked::Ttl)?;
        if !self.config.pool.contains(&packet.destination.ip()) {
            let source = self.translate(now, random, packet.source, packet.destination)?;
            return Ok(Verdict::Forward(Packet { source, ..forwarded }));
        }
        let source = match self.config.hairpin {
            Hairpin::None => return Err(Blocked::Hairpin),
            Hairpin::InternalSource => packet.source,
            Hairpin::ExternalSource => {
                self.translate(now, random, packet.source, packet.destination)?
            }
        };
        let turned = Packet { source, ..forwarded };
        let destination = self.inbound(now, turned, false)?;
        Ok(Verdict::Hairpin(Packet { destination, ..turned }))
    }

    /// The inside endpoint that a packet from outside is for.
    fn inbound(
        &mut self,
        now: Instant,
        packet: Packet,
        is_from_outside: bool,
    ) -> Result<SocketAddr, Blocked> {
        let (external, remote) = (packet.destination, packet.source);
        let admitted = match self.is_tracked(now, external, remote) {
            true => None,
            false => self.table.admitting(&self.config, now, external, remote),
        };
        let Some(id) = admitted else {
            if is_from_outside {
                self.track(now, external, remote);
            }
            let mapped = self.table.is_mapped(external);
            return Err(if mapped { Blocked::Filtered } else { Blocked::NoMapping });
        };
        if packet.ttl > 1 || !is_from_outside {
            self.table.received(&self.config, now, id, remote);
        }
        self.table.get(id).map(|entry| entry.inside).ok_or(Blocked::NoMapping)
    }

    fn is_tracked(&self, now: Instant, external: SocketAddr, remote: SocketAddr) -> bool {
        let last = self.tracked.get(&(external, remote));
        last.is_some_and(|last| now.since(*last) < self.config.life_unreplied.0)
    }

    /// Full: pairs that have ended give way, else the new one is not remembered.
    fn track(&mut self, now: Instant, external: SocketAddr, remote: SocketAddr) {
        let most = self.config.max_total as usize;
        if self.config.unsolicited == Unsolicited::Drop {
            return;
        }
        if self.tracked.len() >= most {
            let life = self.config.life_unreplied.0;
            self.tracked.retain(|_, last| now.since(*last) < life);
        }
        if self.tracked.len() < most || self.tracked.contains_key(&(external, remote)) {
            self.tracked.insert((external, remote), now);
        }
    }

    /// The external endpoint of a packet from inside; makes the mapping if there is none.
    fn translate(
        &mut self,
        now: Instant,
        random: &mut dyn Entropy,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, Blocked> {
        let own = Key::Endpoint(remote);
        let shared = match self.config.mapping {
            Mapping::EndpointIndependent => Key::Any,
            Mapping::AddressDependent => Key::Address(remote.ip()),
            Mapping::AddressAndPortDependent => own,
        };
        // One of its own although others are shared: the shared one was poisoned.
        let found = self.table.find(inside, own).or_else(|| self.table.find(inside, shared));
        let id = match found {
            Some(id) if !self.is_poisoned(now, id, remote) => id,
            Some(_) => self.map(now, random, (inside, own), remote)?,
            None => self.map(now, random, (inside, shared), remote)?,
        };
        self.table.sent(&self.config, now, id, remote);
        self.table.get(id).map(|entry| entry.external).ok_or(Blocked::Exhausted)
    }

    /// Whether an unsolicited packet of this remote came before ours.
    fn is_poisoned(&self, now: Instant, id: Id, remote: SocketAddr) -> bool {
        self.table.get(id).is_some_and(|entry| {
            !entry.knows(&self.config, now, remote) && self.is_tracked(now, entry.external, remote)
        })
    }

    fn map(
        &mut self,
        now: Instant,
        random: &mut dyn Entropy,
        (inside, key): (SocketAddr, Key),
        remote: SocketAddr,
    ) -> Result<Id, Blocked> {
        let host = inside.ip();
        let full_host = self.table.of_host(host) >= self.config.max_per_host;
        let full = self.table.len() >= self.config.max_total as usize;
        if full_host || full {
            match self.config.on_full {
                OnFull::Drop => return Err(Blocked::Exhausted),
                OnFull::EvictOldest => {
                    self.table.evict(&self.config, now, full_host.then_some(host));
                }
            }
        }
        let mut cursor = core::mem::take(&mut self.cursor);
        let is_taken = |external| self.is_tracked(now, external, remote);
        let (config, table) = (&self.config, &self.table);
        let request = Request { config, table, inside, key, is_taken: &is_taken };
        let external = cursor.allocate(random, &request);
        self.cursor = cursor;
        let external = external.ok_or(Blocked::Exhausted)?;
        Ok(self.table.insert(&self.config, now, (inside, key), external))
    }
}
