//! Where packets go: hosts behind boxes behind boxes, and a core between them.
//!
//! ```text
//! host ─ [box] ─ [box] ═ access ═ core (routed hops) ═ access ═ [box] ─ host
//! ```
//!
//! A *place* is a network of its own: the core, or the inside of a box. Addresses mean something
//! only within one. A packet whose destination is not at its place goes out through the place's
//! box; from the core it goes nowhere. What happens to it beyond its own boxes happens when it
//! gets there: two first punches really cross each other.

use crate::host::{Access, Host, Power};
use crate::link::{HEADERS, Passage};
use crate::nat::{Firewall, Middlebox, Packet, Verdict};
use crate::tape::Tape;
use crate::trace::{Lost, Note};
use crate::world::{Item, World};
use pilot_core::time::{Duration, Instant};
use std::net::IpAddr;

/// Between hosts and boxes of one place that is not the core.
const LAN_DELAY: Duration = Duration::from_micros(200);

/// A NAT or firewall of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BoxId(pub usize);

/// A host of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(pub usize);

/// A network in which addresses are unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The internet.
    Core,
    /// The inside of a box.
    Inside(BoxId),
}

/// Whom a packet is for, at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Host(HostId),
    Box(BoxId),
    Server,
}

/// A box, where it stands, and its access if that is the core.
pub(crate) struct Site {
    pub(crate) middlebox: Middlebox,
    /// What a NAT is for IPv6, which it does not translate.
    pub(crate) six: Firewall,
    pub(crate) place: Place,
    pub(crate) access: Access,
}

impl Site {
    fn handle_outbound(&mut self, now: Instant, tape: &mut Tape, packet: Packet) -> Verdict {
        match &self.middlebox {
            Middlebox::Nat(_) if packet.destination.is_ipv6() => {
                self.six.handle_outbound(now, packet)
            }
            _ => self.middlebox.handle_outbound(now, tape, packet),
        }
    }

    fn handle_inbound(&mut self, now: Instant, tape: &mut Tape, packet: Packet) -> Verdict {
        match &self.middlebox {
            Middlebox::Nat(_) if packet.destination.is_ipv6() => {
                self.six.handle_inbound(now, packet)
            }
            _ => self.middlebox.handle_inbound(now, tape, packet),
        }
    }
}

impl World {
    /// Who has the address at this place. A firewall stands before whoever has it behind it.
    fn locate(&self, place: Place, ip: IpAddr) -> Option<Target> {
        if place == Place::Core && self.server.has(ip) {
            return Some(Target::Server);
        }
        let host = self.hosts.iter().position(|h| h.place == place && h.has(ip));
        let site = || {
            self.sites.iter().enumerate().position(|(n, site)| {
                site.place == place
                    && match &site.middlebox {
                        Middlebox::Nat(nat) if ip.is_ipv4() => nat.config().pool.contains(&ip),
                        _ => self.locate(Place::Inside(BoxId(n)), ip).is_some(),
                    }
            })
        };
        let host = host.map(|n| Target::Host(HostId(n)));
        host.or_else(|| site().map(|n| Target::Box(BoxId(n))))
    }

    /// Whether the address is, or was, anybody's in the core: who has heard of somebody there may
    /// well send there.
    pub(crate) fn was_somebody(&self, ip: IpAddr) -> bool {
        self.was_public(ip) || self.locate(Place::Core, ip).is_some()
    }

    /// What a host sends, from its network interface on.
    pub(crate) fn launch(&mut self, host: HostId, packet: Packet, bytes: Vec<u8>) {
        let place = self.hosts[host.0].place;
        match place {
            Place::Core => {
                let Host { access, .. } = &mut self.hosts[host.0];
                let passage = access.up.carry(self.now, &mut self.tape, bytes.len());
                self.pass(passage, packet, bytes, |packet, bytes| Item::Core { packet, bytes });
            }
            place => self.climb(place, packet, bytes),
        }
    }

    /// A packet at a place, sent from within it.
    fn climb(&mut self, mut place: Place, mut packet: Packet, bytes: Vec<u8>) {
        loop {
            if let Some(target) = self.locate(place, packet.destination.ip()) {
                self.descend(place, target, packet, bytes);
                return;
            }
            let Place::Inside(id) = place else {
                self.lose(packet, Lost::NoRoute);
                return;
            };
            let site = &mut self.sites[id.0];
            match site.handle_outbound(self.now, &mut self.tape, packet) {
                Verdict::Drop(why) => {
                    self.lose(packet, Lost::Blocked(why));
                    return;
                }
                // It is at the same place, for a host there.
                Verdict::Hairpin(turned) => packet = turned,
                Verdict::Forward(sent) if site.place == Place::Core => {
                    let passage = site.access.up.carry(self.now, &mut self.tape, bytes.len());
                    self.pass(passage, sent, bytes, |packet, bytes| Item::Core { packet, bytes });
                    return;
                }
                Verdict::Forward(sent) => (packet, place) = (sent, site.place),
            }
        }
    }

    /// A packet that has crossed somebody's access and is routed.
    pub(crate) fn route(&mut self, packet: Packet, bytes: Vec<u8>) {
        self.trace.capture(self.now, packet, &bytes);
        let between = (packet.source.ip(), packet.destination.ip());
        if self.narrow.get(&between).is_some_and(|mtu| bytes.len() + HEADERS > usize::from(*mtu)) {
            self.lose(packet, Lost::Link);
            return;
        }
        let mut routed = Some(packet);
        for _ in 0..self.core_hops {
            routed = routed.and_then(Packet::hop);
        }
        let Some(routed) = routed else {
            self.lose(packet, Lost::Ttl);
            return;
        };
        match self.locate(Place::Core, routed.destination.ip()) {
            Some(target) => self.descend(Place::Core, target, routed, bytes),
            None => self.lose(routed, Lost::NoRoute),
        }
    }

    /// On the way to somebody at this place.
    fn descend(&mut self, place: Place, target: Target, packet: Packet, bytes: Vec<u8>) {
        let arrive = move |packet, bytes| Item::Arrive { target, packet, bytes };
        if place != Place::Core {
            self.later(LAN_DELAY, arrive(packet, bytes));
            return;
        }
        let access = match target {
            Target::Host(id) => &mut self.hosts[id.0].access,
            Target::Box(id) => &mut self.sites[id.0].access,
            Target::Server => &mut self.server.access,
        };
        let passage = access.down.carry(self.now, &mut self.tape, bytes.len());
        self.pass(passage, packet, bytes, arrive);
    }

    fn pass(
        &mut self,
        passage: Passage,
        packet: Packet,
        mut bytes: Vec<u8>,
        item: impl Fn(Packet, Vec<u8>) -> Item,
    ) {
        if passage.copies == [None; 2] {
            self.lose(packet, Lost::Link);
            return;
        }
        if let Some(bit) = passage.flip {
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        for at in passage.copies.into_iter().flatten() {
            self.at(at, item(packet, bytes.clone()));
        }
    }

    /// It has arrived at a host, a box or the server.
    pub(crate) fn arrive(&mut self, target: Target, packet: Packet, bytes: Vec<u8>) {
        match target {
            Target::Server => {
                self.note(Note::ToServer { from: packet.source, len: bytes.len() }, &bytes);
                self.checks.received(None, packet.source, bytes.len());
                self.server.deliver(packet, bytes);
            }
            Target::Host(id) => self.reach_host(id, packet, bytes),
            Target::Box(id) => {
                let site = &mut self.sites[id.0];
                match site.handle_inbound(self.now, &mut self.tape, packet) {
                    Verdict::Drop(why) => self.lose(packet, Lost::Blocked(why)),
                    Verdict::Forward(inner) | Verdict::Hairpin(inner) => {
                        let place = Place::Inside(id);
                        match self.locate(place, inner.destination.ip()) {
                            Some(target) => self.descend(place, target, inner, bytes),
                            None => self.lose(inner, Lost::NoRoute),
                        }
                    }
                }
            }
        }
    }

    fn reach_host(&mut self, id: HostId, packet: Packet, bytes: Vec<u8>) {
        let host = &mut self.hosts[id.0];
        let here = host.power == Power::Running && host.has(packet.destination.ip());
        let port = packet.destination.port();
        if here && host.io.raw.contains_key(&port) {
            let (from, len) = (packet.source, bytes.len());
            self.note(Note::ToHost { host: id.0, from, len }, &bytes);
            if !self.hosts[id.0].io.deliver_raw(port, from, bytes) {
                self.lose(packet, Lost::Buffer);
            }
            return;
        }
        let socket = host.io.bound(port).filter(|_| here);
        let Some(socket) = socket else {
            self.lose(packet, Lost::Nobody);
            return;
        };
        self.checks.received(Some(id), packet.source, bytes.len());
        self.note(Note::ToHost { host: id.0, from: packet.source, len: bytes.len() }, &bytes);
        if !self.hosts[id.0].io.deliver(socket, packet.source, bytes) {
            self.lose(packet, Lost::Buffer);
        }
        self.due.insert(id);
    }

    fn lose(&mut self, packet: Packet, why: Lost) {
        let (from, to) = (packet.source, packet.destination);
        self.note(Note::Lost { from, to, why }, &[]);
        self.stats.lost(why);
    }

    /// The boxes between a place and the core, nearest first.
    pub(crate) fn boxes_to_core(&self, mut place: Place) -> Vec<BoxId> {
        let mut boxes = Vec::new();
        while let Place::Inside(id) = place {
            boxes.push(id);
            place = self.sites[id.0].place;
        }
        boxes
    }

    /// The access by which a host reaches the core.
    pub(crate) fn access_of(&mut self, host: HostId) -> &mut Access {
        match self.boxes_to_core(self.hosts[host.0].place).last() {
            Some(id) => &mut self.sites[id.0].access,
            None => &mut self.hosts[host.0].access,
        }
    }
}
