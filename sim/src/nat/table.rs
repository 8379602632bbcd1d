//! Mappings, found by inside endpoint, by external endpoint and by deadline.

use super::config::{FilterLife, Filtering, NatConfig, PortReuse, Refresh};
use pilot_core::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Filter entries of one mapping; of more, the one that was used least recently gives way. More
/// than twice the longest spray of one socket (`nat.md` 2).
pub(super) const FILTERS_MAX: usize = 4096;

/// Which remotes a mapping is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

/// In the order of creation.
pub(super) type Id = u64;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) inside: SocketAddr,
    pub(super) external: SocketAddr,
    pub(super) key: Key,
    created: Instant,
    /// The last packet that keeps it alive.
    used: Instant,
    /// The last packet from inside.
    sent: Instant,
    replied: bool,
    /// Its place among the deadlines; not after its end.
    noted: Instant,
    /// By remote (port 0 with address-dependent filtering), the last packet that keeps it alive.
    filters: BTreeMap<SocketAddr, Instant>,
}

impl Entry {
    fn deadline(&self, config: &NatConfig) -> Instant {
        let life = if self.replied { config.life } else { config.life_unreplied };
        let end = self.used + life.0;
        config.absolute_life.map_or(end, |life| end.min(self.created + life.0))
    }

    /// Whether it has sent to this remote and remembers.
    pub(super) fn knows(&self, config: &NatConfig, now: Instant, remote: SocketAddr) -> bool {
        let Some(&last) = self.filters.get(&filter_key(config.filtering, remote)) else {
            return false;
        };
        match config.filter_life {
            FilterLife::SameAsMapping => true,
            FilterLife::Own(life) => now.since(last) < life.0,
        }
    }

    fn admits(&self, config: &NatConfig, now: Instant, remote: SocketAddr) -> bool {
        config.filtering == Filtering::EndpointIndependent || self.knows(config, now, remote)
    }
}

fn filter_key(filtering: Filtering, remote: SocketAddr) -> SocketAddr {
    match filtering {
        Filtering::AddressDependent => SocketAddr::new(remote.ip(), 0),
        _ => remote,
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Id, Entry>,
    by_inside: BTreeMap<(SocketAddr, Key), Id>,
    by_external: BTreeSet<(SocketAddr, Id)>,
    /// One of each entry, not after its end.
    deadlines: BTreeSet<(Instant, Id)>,
    /// External endpoints that rest, and until when; the same in the order of time.
    held: BTreeMap<SocketAddr, Instant>,
    held_order: BTreeSet<(Instant, SocketAddr)>,
    per_host: BTreeMap<IpAddr, u32>,
    next: Id,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn of_host(&self, host: IpAddr) -> u32 {
        self.per_host.get(&host).copied().unwrap_or(0)
    }

    /// Removes what has ended.
    pub(super) fn expire(&mut self, config: &NatConfig, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            let Some(end) = self.entries.get(&id).map(|entry| entry.deadline(config)) else {
                continue;
            };
            if end > now {
                self.note(id, end);
            } else {
                self.remove(config, end, id);
            }
        }
        while let Some(&(at, endpoint)) = self.held_order.first().filter(|(at, _)| *at <= now) {
            self.held_order.remove(&(at, endpoint));
            self.held.remove(&endpoint);
        }
    }

    fn remove(&mut self, config: &NatConfig, end: Instant, id: Id) {
        let Some(entry) = self.entries.remove(&id) else { return };
        // Another may have taken its place there.
        if self.by_inside.get(&(entry.inside, entry.key)) == Some(&id) {
            self.by_inside.remove(&(entry.inside, entry.key));
        }
        self.by_external.remove(&(entry.external, id));
        self.deadlines.remove(&(entry.noted, id));
        if let Some(count) = self.per_host.get_mut(&entry.inside.ip()) {
            *count -= 1;
            if *count == 0 {
                self.per_host.remove(&entry.inside.ip());
            }
        }
        if !config.hold_down.0.is_zero() {
            let until = end + config.hold_down.0;
            if let Some(before) = self.held.insert(entry.external, until) {
                self.held_order.remove(&(before, entry.external));
            }
            self.held_order.insert((until, entry.external));
        }
    }

    pub(super) fn find(&self, inside: SocketAddr, key: Key) -> Option<Id> {
        self.by_inside.get(&(inside, key)).copied()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Whether a new mapping with this key may have this external endpoint.
    pub(super) fn is_free(&self, reuse: PortReuse, external: SocketAddr, key: Key) -> bool {
        if self.held.contains_key(&external) {
            return false;
        }
        self.at(external).all(|(_, entry)| match reuse {
            PortReuse::Exclusive => false,
            PortReuse::PerDestination => {
                entry.key != key && entry.key != Key::Any && key != Key::Any
            }
        })
    }

    pub(super) fn is_held(&self, external: SocketAddr) -> bool {
        self.held.contains_key(&external)
    }

    fn at(&self, external: SocketAddr) -> impl Iterator<Item = (Id, &Entry)> {
        let range = (external, Id::MIN)..=(external, Id::MAX);
        self.by_external.range(range).filter_map(|(_, id)| Some((*id, self.entries.get(id)?)))
    }

    pub(super) fn is_mapped(&self, external: SocketAddr) -> bool {
        self.at(external).next().is_some()
    }

    /// The mapping that lets this remote in; the one with the latest packet from inside, if
    /// several share the endpoint.
    pub(super) fn admitting(
        &self,
        config: &NatConfig,
        now: Instant,
        external: SocketAddr,
        remote: SocketAddr,
    ) -> Option<Id> {
        self.at(external)
            .filter(|(_, entry)| entry.admits(config, now, remote))
            .max_by_key(|(id, entry)| (entry.sent, *id))
            .map(|(id, _)| id)
    }

    pub(super) fn insert(
        &mut self,
        config: &NatConfig,
        now: Instant,
        (inside, key): (SocketAddr, Key),
        external: SocketAddr,
    ) -> Id {
        let id = self.next;
        self.next += 1;
        let filters = BTreeMap::new();
        let entry = Entry {
            inside,
            external,
            key,
            created: now,
            used: now,
            sent: now,
            replied: false,
            noted: now,
            filters,
        };
        let end = entry.deadline(config);
        self.by_inside.insert((inside, key), id);
        self.by_external.insert((external, id));
        *self.per_host.entry(inside.ip()).or_insert(0) += 1;
        self.entries.insert(id, entry);
        self.note(id, end);
        id
    }

    /// Looks at the mapping again at `end`.
    fn note(&mut self, id: Id, end: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.deadlines.remove(&(entry.noted, id));
        entry.noted = end;
        self.deadlines.insert((end, id));
    }

    /// A packet from inside to `remote` uses the mapping.
    pub(super) fn sent(&mut self, config: &NatConfig, now: Instant, id: Id, remote: SocketAddr) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.used, entry.sent) = (now, now);
        if config.filtering == Filtering::EndpointIndependent {
            return;
        }
        let key = filter_key(config.filtering, remote);
        if entry.filters.len() >= FILTERS_MAX && !entry.filters.contains_key(&key) {
            let oldest = entry.filters.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            oldest.and_then(|oldest| entry.filters.remove(&oldest));
        }
        entry.filters.insert(key, now);
    }

    /// A packet from `remote` was let in.
    pub(super) fn received(
        &mut self,
        config: &NatConfig,
        now: Instant,
        id: Id,
        remote: SocketAddr,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.replied = true;
        if config.refresh == Refresh::Both {
            entry.used = now;
            if let Some(last) = entry.filters.get_mut(&filter_key(config.filtering, remote)) {
                *last = now;
            }
        }
        // A life of unanswered mappings that is longer than that of answered ones ends earlier
        // now than was noted.
        let end = entry.deadline(config);
        if end < entry.noted {
            self.note(id, end);
        }
    }

    /// Removes the mapping used least recently, of `host` or of all.
    pub(super) fn evict(&mut self, config: &NatConfig, now: Instant, host: Option<IpAddr>) {
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| host.is_none_or(|host| entry.inside.ip() == host))
            .min_by_key(|(id, entry)| (entry.used, **id))
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.remove(config, now, id);
        }
    }
}
