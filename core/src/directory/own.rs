//! What this agent is: identity, tunnel keys, record, boot id, networks and names, and which
//! registry it trusts. All of it but the identity is durable here.

use crate::addr::{Address, NetworkId};
use crate::crypto::record::RecordFields;
use crate::crypto::{Assign, BeaconEntry, Identity, IdentityKey, Record, TunnelKey, TunnelSecret};
use crate::journal::{Fact, Journal, LoadError, StoreChange, decode, encode, key};
use crate::limits::TUNNEL_KEY_LIFE;
use crate::name::{Hostname, Tags};
use crate::rng::Rng;
use crate::time::UnixTime;
use crate::wire::Bytes;
use crate::wire::registry::{BeaconInfo, EARLIER_MAX, NETWORKS_MAX, Registration, Visibility};
use core::net::SocketAddr;
use heapless::Vec;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// A network, and our name there.
pub type Membership = (NetworkId, Option<Hostname>);

/// Everything about ourselves that is durable, one field per fact.
pub(super) struct Own {
    pub(super) identity: Identity,
    pub(super) public: IdentityKey,
    /// Of this process start.
    pub(super) boot_id: [u8; 8],
    pub(super) keys: Keys,
    boots: Boots,
    pub(super) names: Names,
    pub(super) tags: TagsFact,
    pub(super) registry: RegistryFact,
    facts: [Fact; 5],
    /// Whether `Register` was answered in this process, for the present record.
    pub(super) registered: bool,
}

/// Address, tunnel keys and record.
pub(super) struct Keys {
    pub(super) address: Option<Address>,
    /// Whether the registry has ever taken our record: only then does a channel show it.
    pub(super) published: bool,
    pub(super) current: TunnelSecret,
    pub(super) previous: Option<TunnelSecret>,
    /// When the current tunnel key was drawn, Unix seconds.
    since: u64,
    pub(super) record: Option<Record>,
    pub(super) assigned: u64,
    loaded: bool,
}

#[derive(Serialize, Deserialize, Zeroize)]
struct StoredKeys {
    #[zeroize(skip)]
    address: Option<Address>,
    #[zeroize(skip)]
    published: bool,
    current: [u8; 32],
    previous: Option<[u8; 32]>,
    since: u64,
    #[zeroize(skip)]
    record: Option<Record>,
    assigned: u64,
}

/// Boot ids since the last acknowledged `Register`, that one included, the oldest first.
#[derive(Default, Serialize, Deserialize)]
struct Boots {
    earlier: Vec<u64, { EARLIER_MAX + 1 }>,
}

/// Networks joined, the backbone included, in ascending order.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Names {
    pub(super) memberships: Vec<Membership, { NETWORKS_MAX + 1 }>,
}

/// Tags and visibility as last set.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct TagsFact {
    pub(super) tags: Tags,
    pub(super) visibility: Visibility,
}

/// The registry's pinned key, and what it last told of its tunnel key and beacons.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct RegistryFact {
    pub(super) pinned: Option<IdentityKey>,
    pub(super) tunnel: Option<TunnelKey>,
    pub(super) beacon: Option<BeaconEntry>,
    pub(super) beacon_at: Option<SocketAddr>,
}

/// Which fact changed.
#[derive(Clone, Copy)]
pub(super) enum OwnFact {
    Keys = 0,
    Boots = 1,
    Names = 2,
    Tags = 3,
    Registry = 4,
}

const KINDS: [&[u8; 4]; 5] = [b"keys", b"boot", b"name", b"tags", b"rgst"];

/// What a record from the registry's `Registered` answer means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is ours, as sent.
    Current,
    /// A later one of ours counts: ours was signed anew after it.
    Renewed,
    /// Not signed as it should be.
    Forged,
}

impl Own {
    pub(super) fn new(identity: Identity, rng: &mut Rng) -> Self {
        let public = identity.public();
        let current = TunnelSecret::from_secret(rng.bytes());
        let keys = Keys {
            address: None,
            published: false,
            current,
            previous: None,
            since: 0,
            record: None,
            assigned: 0,
            loaded: false,
        };
        Own {
            identity,
            public,
            boot_id: rng.bytes(),
            keys,
            boots: Boots::default(),
            names: Names::default(),
            tags: TagsFact::default(),
            registry: RegistryFact::default(),
            facts: [Fact::clean(); 5],
            registered: false,
        }
    }

    pub(super) fn touch(&mut self, fact: OwnFact, journal: &mut Journal) {
        self.facts[fact as usize].touch(journal);
    }

    /// After loading: this start's boot id is written before anything is registered, and a
    /// first start writes its tunnel key.
    pub(super) fn start(&mut self, unix: UnixTime, journal: &mut Journal) {
        let boot = u64::from_be_bytes(self.boot_id);
        if !self.boots.earlier.contains(&boot) {
            if self.boots.earlier.is_full() {
                // The first was acknowledged; of the others the oldest matters least.
                self.boots.earlier.remove(1);
            }
            let _ = self.boots.earlier.push(boot);
            self.touch(OwnFact::Boots, journal);
        }
        if !self.keys.loaded {
            self.keys.since = unix.as_secs();
            self.touch(OwnFact::Keys, journal);
        }
    }

    /// The owner gives a registry's key that is not the one we have pinned: nothing that the
    /// other told is believed any more.
    pub(super) fn change_registry(&mut self, journal: &mut Journal) {
        self.registry = RegistryFact::default();
        self.touch(OwnFact::Registry, journal);
        self.keys.published = false;
        self.touch(OwnFact::Keys, journal);
    }

    // ---- record ----

    pub(super) fn epoch(&self) -> u32 {
        self.keys.record.as_ref().map_or(0, |r| r.fields.grant_epoch)
    }

    /// Signs a record for the address, after `base` (ours, or a later one the registry has).
    fn sign_record(&mut self, registry: &IdentityKey, base: Option<Record>, epoch: u32) {
        let Some(addr) = self.keys.address else {
            return;
        };
        let fields = RecordFields {
            addr,
            tunnel: self.keys.current.public(),
            serial: base.map_or(1, |r| r.fields.serial.saturating_add(1)),
            not_after: 0,
            flags: 0,
            grant_epoch: epoch.max(base.map_or(0, |r| r.fields.grant_epoch)),
            prev: base.map_or([0; 32], |r| r.hash()),
        };
        self.keys.record = Some(Record::sign(&self.identity, registry, fields));
        self.registered = false;
    }

    /// Makes the record say what is so; whether it had to be signed.
    pub(super) fn renew_record(&mut self, registry: &IdentityKey, journal: &mut Journal) {
        let Some(address) = self.keys.address else {
            return;
        };
        let fresh = self.keys.record.as_ref().is_some_and(|r| {
            r.fields.addr == address
                && r.identity == self.public
                && r.fields.tunnel == self.keys.current.public()
                // Not of a registry that had another key.
                && r.verify(registry).is_ok()
        });
        if !fresh {
            let base = self.keys.record.filter(|r| r.fields.addr == address);
            self.sign_record(registry, base, self.epoch());
            self.touch(OwnFact::Keys, journal);
        }
    }

    /// Voids all grants given so far (`wire.md` 6.5).
    pub(super) fn raise_epoch(&mut self, registry: &IdentityKey, journal: &mut Journal) {
        let epoch = self.epoch().saturating_add(1);
        self.sign_record(registry, self.keys.record, epoch);
        self.touch(OwnFact::Keys, journal);
    }

    /// When the tunnel key is to be replaced.
    pub(super) fn rotates_at(&self) -> UnixTime {
        UnixTime::from_secs(self.keys.since) + TUNNEL_KEY_LIFE
    }

    /// Replaces a tunnel key that is 30 days old; whether it did.
    pub(super) fn rotate(
        &mut self,
        unix: UnixTime,
        registry: &IdentityKey,
        rng: &mut Rng,
        journal: &mut Journal,
    ) -> bool {
        if unix < self.rotates_at() || self.keys.record.is_none() {
            return false;
        }
        let fresh = TunnelSecret::from_secret(rng.bytes());
        self.keys.previous = Some(core::mem::replace(&mut self.keys.current, fresh));
        self.keys.since = unix.as_secs();
        self.renew_record(registry, journal);
        true
    }

    /// The body of `Register`.
    pub(super) fn registration(&self, takeover: bool) -> Option<Registration> {
        let boot_id = u64::from_be_bytes(self.boot_id);
        let record = self.keys.record.as_ref()?.encode();
        let mut bytes = [0; 188];
        bytes.copy_from_slice(record.get(..188)?);
        let earlier = self.boots.earlier.iter().copied().filter(|b| *b != boot_id);
        Some(Registration {
            record: Bytes(bytes),
            boot_id,
            earlier: earlier.take(EARLIER_MAX).collect(),
            takeover,
            hostname: None,
            tags: None,
            visibility: None,
        })
    }

    /// Judges the record and Assign of a `Registered` answer.
    pub(super) fn handle_registered(
        &mut self,
        record: &[u8; 188],
        assign: &[u8; 80],
        registry: &IdentityKey,
        journal: &mut Journal,
    ) -> Verdict {
        let (Ok(record), Ok(assign)) = (Record::decode(record), Assign::decode(assign)) else {
            return Verdict::Forged;
        };
        let genuine = record.identity == self.public
            && Some(record.fields.addr) == self.keys.address
            && record.verify(registry).is_ok()
            && assign.verify(registry, &record).is_ok();
        if !genuine {
            return Verdict::Forged;
        }
        if Some(record) == self.keys.record {
            let boot = u64::from_be_bytes(self.boot_id);
            if self.boots.earlier[..] != [boot] {
                self.boots.earlier = core::iter::once(boot).collect();
                self.touch(OwnFact::Boots, journal);
            }
            if !self.keys.published || self.keys.assigned != assign.time {
                self.keys.published = true;
                self.keys.assigned = assign.time;
                self.touch(OwnFact::Keys, journal);
            }
            self.registered = true;
            return Verdict::Current;
        }
        // Our home is older than what we once published: go on from there.
        let epoch = self.epoch();
        self.sign_record(registry, Some(record), epoch);
        self.touch(OwnFact::Keys, journal);
        Verdict::Renewed
    }

    // ---- registry ----

    /// Keeps the best beacon of an answer; whether its key or place changed.
    pub(super) fn handle_beacons(
        &mut self,
        beacons: &[BeaconInfo],
        registry: &IdentityKey,
        journal: &mut Journal,
    ) -> bool {
        let known = self.registry.beacon;
        let found = beacons.iter().find_map(|info| {
            let entry = BeaconEntry::decode(&info.entry.0).ok()?;
            let newer = known.is_none_or(|k| entry.serial >= k.serial);
            let genuine = newer && (Some(entry) == known || entry.verify(registry).is_ok());
            genuine.then_some((entry, info.addresses.first().copied()))
        });
        let Some((entry, at)) = found else {
            return false;
        };
        let changed = known != Some(entry) || self.registry.beacon_at != at;
        if changed {
            self.registry.beacon = Some(entry);
            self.registry.beacon_at = at;
            self.touch(OwnFact::Registry, journal);
        }
        changed
    }

    // ---- networks ----

    /// The lowest joined non-zero network, else 0.
    pub(super) fn default_network(&self) -> NetworkId {
        self.names
            .memberships
            .iter()
            .map(|(network, _)| *network)
            .find(|n| *n != NetworkId::BACKBONE)
            .unwrap_or_default()
    }

    /// Enters a network, or changes our name there.
    pub(super) fn set_membership(
        &mut self,
        network: NetworkId,
        name: Option<Hostname>,
        journal: &mut Journal,
    ) {
        let list = &mut self.names.memberships;
        match list.binary_search_by_key(&network, |(n, _)| *n) {
            Ok(i) if list[i].1 == name => return,
            Ok(i) => list[i].1 = name,
            // Never full: the registry takes no more than 16 networks beside the backbone.
            Err(i) => drop(list.insert(i, (network, name))),
        }
        self.touch(OwnFact::Names, journal);
    }

    /// Leaves a network.
    pub(super) fn drop_membership(&mut self, network: NetworkId, journal: &mut Journal) {
        if let Some(i) = self.names.memberships.iter().position(|(n, _)| *n == network) {
            self.names.memberships.remove(i);
            self.touch(OwnFact::Names, journal);
        }
    }

    /// Our name in a network.
    pub(super) fn hostname(&self, network: NetworkId) -> Option<&Hostname> {
        self.names.memberships.iter().find(|(n, _)| *n == network)?.1.as_ref()
    }

    // ---- durable state ----

    /// Takes one stored fact; `None` if the key is not one of these.
    pub(super) fn load(
        &mut self,
        kind: [u8; 4],
        number: u32,
        value: &[u8],
    ) -> Option<Result<(), LoadError>> {
        let fact = KINDS.iter().position(|k| **k == kind)?;
        if number != 0 {
            return Some(Err(LoadError::Malformed));
        }
        Some(match fact {
            0 => decode::<StoredKeys>(value).and_then(|stored| self.load_keys(stored)),
            1 => decode(value).map(|boots| self.boots = boots),
            2 => decode(value).map(|names| self.names = names),
            3 => decode(value).map(|tags| self.tags = tags),
            _ => decode(value).map(|registry| self.registry = registry),
        })
    }

    fn load_keys(&mut self, stored: StoredKeys) -> Result<(), LoadError> {
        let stored = Zeroizing::new(stored);
        // State of another identity would make us sign for an address that is not ours.
        if stored.record.as_ref().is_some_and(|r| r.identity != self.public) {
            return Err(LoadError::Malformed);
        }
        self.keys = Keys {
            address: stored.address,
            published: stored.published,
            current: TunnelSecret::from_secret(stored.current),
            previous: stored.previous.map(TunnelSecret::from_secret),
            since: stored.since,
            record: stored.record,
            assigned: stored.assigned,
            loaded: true,
        };
        Ok(())
    }

    /// The next changed fact, its value in `out`.
    pub(super) fn poll_store(
        &mut self,
        journal: &mut Journal,
        out: &mut [u8],
    ) -> Option<StoreChange> {
        let i = self.facts.iter().position(|fact| fact.is_dirty())?;
        let len = match i {
            0 => {
                let k = &self.keys;
                let stored = Zeroizing::new(StoredKeys {
                    address: k.address,
                    published: k.published,
                    current: *k.current.secret(),
                    previous: k.previous.as_ref().map(|s| *s.secret()),
                    since: k.since,
                    record: k.record,
                    assigned: k.assigned,
                });
                encode(&*stored, out)
            }
            1 => encode(&self.boots, out),
            2 => encode(&self.names, out),
            3 => encode(&self.tags, out),
            _ => encode(&self.registry, out),
        };
        let sequence = self.facts[i].hand_out(journal);
        Some(StoreChange { key: key(KINDS[i], 0), len: Some(len), sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NodeId;

    fn own() -> (Own, Journal, IdentityKey, Identity) {
        let registry = Identity::from_secret([9; 32]);
        let mut own = Own::new(Identity::from_secret([1; 32]), &mut Rng::new([2; 32]));
        let mut journal = Journal::new();
        own.start(UnixTime::from_secs(1000), &mut journal);
        own.keys.address = Some(Address::backbone(NodeId(16)));
        own.renew_record(&registry.public(), &mut journal);
        (own, journal, registry.public(), registry)
    }

    fn bytes(record: &Record) -> [u8; 188] {
        *record.encode().first_chunk().unwrap()
    }

    #[test]
    fn only_our_record_with_the_registrys_assign_counts() {
        let (mut own, mut journal, key, registry) = own();
        let record = own.keys.record.unwrap();
        let mut judge = |record: &Record, signer: &Identity| {
            let assign = Assign::sign(signer, record, 0, 5).encode();
            own.handle_registered(&bytes(record), &assign, &key, &mut journal)
        };
        let stranger = Identity::from_secret([3; 32]);
        assert_eq!(judge(&record, &stranger), Verdict::Forged);
        assert_eq!(
            judge(&Record::sign(&stranger, &key, record.fields), &registry),
            Verdict::Forged
        );
        let elsewhere = RecordFields { addr: Address::backbone(NodeId(17)), ..record.fields };
        let me = Identity::from_secret([1; 32]);
        assert_eq!(judge(&Record::sign(&me, &key, elsewhere), &registry), Verdict::Forged);
        // A later record under our name that we signed for another registry.
        let later = RecordFields { serial: 40, ..record.fields };
        let foreign = Record::sign(&me, &stranger.public(), later);
        assert_eq!(judge(&foreign, &registry), Verdict::Forged);
        assert_eq!(judge(&record, &registry), Verdict::Current);
        assert_eq!(judge(&Record::sign(&me, &key, later), &registry), Verdict::Renewed);
        assert_eq!(own.keys.record.unwrap().fields.serial, 41);
        assert!(!own.registered);
    }

    #[test]
    fn beacons_are_believed_only_signed_and_newer() {
        let (mut own, mut journal, key, registry) = own();
        let mut told = |signer: &Identity, tunnel: u8, serial: u64| {
            let entry = BeaconEntry::sign(signer, NodeId::BEACON, TunnelKey([tunnel; 32]), serial);
            let info = BeaconInfo { entry: Bytes(entry.encode()), addresses: Vec::new() };
            own.handle_beacons(&[info], &key, &mut journal);
            own.registry.beacon.map(|b| b.tunnel.0[0])
        };
        assert_eq!(told(&Identity::from_secret([3; 32]), 1, 1), None);
        assert_eq!(told(&registry, 2, 5), Some(2));
        assert_eq!(told(&Identity::from_secret([3; 32]), 3, 6), Some(2));
        assert_eq!(told(&registry, 4, 4), Some(2));
        assert_eq!(told(&registry, 5, 6), Some(5));
    }

    #[test]
    fn the_acknowledged_boot_id_is_never_forgotten() {
        let (mut own, mut journal, ..) = own();
        let first = u64::from_be_bytes(own.boot_id);
        for n in 0..20u64 {
            own.boot_id = n.to_be_bytes();
            own.start(UnixTime::from_secs(1000), &mut journal);
            let sent = own.registration(false).unwrap();
            assert!(sent.earlier.contains(&first) && !sent.earlier.contains(&n));
            assert_eq!(sent.earlier.contains(&n.wrapping_sub(1)), n > 0);
        }
    }
}
