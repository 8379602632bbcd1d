//! The tunnel of one node: sessions with all its peers (`wire.md` 4, 5.1–5.4).
//!
//! A sans-IO machine without sockets, paths or streams. Handshake packets and data frames come
//! in by [`Tunnel::handle`]; the owner seals its own frames with [`Tunnel::seal`]; what the
//! tunnel itself has to say is built in [`Tunnel::poll_output`]; edges come from
//! [`Tunnel::poll_event`]. Time passes by [`Tunnel::handle_timeout`].
//!
//! ```text
//! initiate ──► attempt ──INIT──►                 ──INIT──► 4.5 steps 1–6 ──► answer
//!                 ▲  └ 0.3, 0.9, 2.1 s; renewed at 4.5 s, then each 5 s        │
//!        STALE ───┤  COOKIE: again, with mac2                                  ▼
//!                 └──────── RESP ◄─────────────────────────────────── pending (15 s)
//!                            │ install                                         │
//!                            ▼                                                 │ first frame:
//!                    cur or prev ──F0──►  until something is heard             ▼ install
//!                                                                       cur or prev ──empty──►
//! ```
//!
//! Which session is current is [`super::slots`]'s to say. A session stops at 180 s or 2^35
//! blocks and is dropped then, so every key is gone 180 s after the last handshake: sooner than
//! the 540 s of `wire.md` 4.9.
//!
//! | Timer of a peer | Effect |
//! |---|---|
//! | attempt's schedule | INIT again, a new INIT, or GaveUp |
//! | 0.3, 0.9, 2.1 s without a frame on a session of ours | F0 on it |
//! | 15 s in pending | forgotten |
//! | 120 s − U(0, 12 s) (ours) or 165 s, if data flowed or a stream is open | attempt |
//! | 180 s | session dropped; Down if it was current |
//! | 10 s after data without sending | empty frame |

mod egress;
mod events;
mod frames;
mod ingress;
mod peers;
mod state;
mod storage;
mod timers;

#[cfg(test)]
mod tests;

pub use egress::{OUTPUT_MIN, Output, To};
pub use events::{SessionUp, TunnelEvent};
pub use frames::Frame;
pub use ingress::TunnelIn;
pub use peers::{PeerError, SessionInfo};
pub use state::{PeerKeys, Policy};
pub use storage::{AnswerSlot, AttemptSlot, LinkSlot, PeerCell, TunnelStorage};

use crate::addr::Address;
use crate::crypto::{AeadProvider, IdentityKey, Record, TunnelSecret};
use crate::limits::{HANDSHAKE_REPLIES, Limits, SKIP_MIN, SKIP_SPAN};
use crate::path::PeerIndex;
use crate::rng::Rng;
use crate::session::gate::Gate;
use crate::session::handshake::{COOKIE, INDEX_BIT, Mac1Key};
use crate::session::index::IndexTable;
use crate::session::keys::Sealed;
use crate::session::payload::{BootId, Caps};
use crate::slab::{Key, Slab, Store};
use crate::stats::{DropReason, Drops};
use crate::time::{Instant, WallClock};
use crate::timer::Deadlines;
use state::{Answer, Attempt, Link, Peer};
use storage::Queue;

/// Who we are, and how much we take on.
pub struct TunnelConfig {
    /// Our backbone address; [`Address::UNSPECIFIED`] until the registry gave one.
    pub address: Address,
    /// Our identity's public key; the secret is not needed here.
    pub identity: IdentityKey,
    /// The registry's identity: records are signed for it.
    pub registry: IdentityKey,
    /// Our record, once there is one. Without it nothing is initiated or answered.
    pub record: Option<Record>,
    /// Our tunnel secret; the record names its public key.
    pub secret: TunnelSecret,
    /// The one before the last rotation.
    pub previous_secret: Option<TunnelSecret>,
    /// 8 random bytes of this process start.
    pub boot_id: BootId,
    /// The largest UDP payload that we accept.
    pub max_datagram: u16,
    /// What we offer and accept; [`Caps::of`] the provider unless there is a reason.
    pub caps: Caps,
    /// The wall clock, for handshake numbers.
    pub wall: WallClock,
}

struct Us {
    config: TunnelConfig,
    mac1: Mac1Key,
    previous_mac1: Option<Mac1Key>,
}

/// A short answer to somebody who holds no slot: HS_COOKIE or HS_STALE.
struct Reply {
    route: crate::path::Route,
    len: usize,
    packet: [u8; COOKIE],
}

/// See the module's documentation.
pub struct Tunnel<'s> {
    us: Us,
    aead: &'static dyn AeadProvider,
    rng: Rng,
    /// The last time that we were told.
    now: Instant,
    gate: Gate<'s>,
    peers: Store<'s, PeerCell>,
    by_address: Store<'s, u32>,
    peer_count: usize,
    links: Slab<'s, Link>,
    replay: Store<'s, u64>,
    words: usize,
    attempts: Slab<'s, Attempt>,
    answers: Slab<'s, Answer>,
    /// Values: places of `links`, or of `attempts` with [`ATTEMPT`] set.
    indices: IndexTable<'s>,
    /// First word of the INIT's hash → place in `answers`.
    hashes: IndexTable<'s>,
    deadlines: Deadlines<'s>,
    ready: Queue<'s>,
    eventful: Queue<'s>,
    replies: heapless::Deque<Reply, HANDSHAKE_REPLIES>,
    records: heapless::Deque<(PeerIndex, Record), 8>,
    /// Generations reached with peers that were removed last: should one come back in this
    /// process's life, its side may still hold a session of the old generation.
    removed: heapless::Deque<(IdentityKey, u32), 8>,
    drops: Drops,
}

/// Marks places of `attempts` in the table of indices.
const ATTEMPT: u32 = 1 << 30;

impl<'s> Tunnel<'s> {
    /// A tunnel without peers. Rates are those of `limits`, sizes those of `storage`.
    pub fn new(
        now: Instant,
        config: TunnelConfig,
        limits: &Limits,
        aead: &'static dyn AeadProvider,
        mut rng: Rng,
        storage: TunnelStorage<'s>,
    ) -> Self {
        let words = storage.replay.len() / storage.sessions.capacity().max(1);
        assert!(words >= 2, "a replay window has at least two words");
        let n = storage.peers.capacity();
        assert!(
            [storage.by_address.len(), storage.ready.len(), storage.eventful.len()] == [n; 3]
                && storage.deadlines.len() == n,
            "the tables of peers are of one size"
        );
        let gate = Gate::new(now, &mut rng, limits, storage.sources, false);
        let mut peers = storage.peers;
        peers.iter_mut().for_each(|cell| cell.0 = None);
        Tunnel {
            us: Us::new(config),
            aead,
            rng,
            now,
            gate,
            peers,
            by_address: storage.by_address,
            peer_count: 0,
            links: Slab::new(storage.sessions),
            replay: storage.replay,
            words,
            attempts: Slab::new(storage.attempts),
            answers: Slab::new(storage.answers),
            indices: IndexTable::new(storage.indices),
            hashes: IndexTable::new(storage.hashes),
            deadlines: Deadlines::new(storage.deadlines),
            ready: Queue::new(storage.ready),
            eventful: Queue::new(storage.eventful),
            replies: heapless::Deque::new(),
            records: heapless::Deque::new(),
            removed: heapless::Deque::new(),
            drops: Drops::new(),
        }
    }

    /// Our address and record as they are now.
    pub fn set_identity(&mut self, address: Address, record: Option<Record>) {
        self.us.config.address = address;
        self.us.config.record = record;
    }

    /// Everything about us anew: at start, when the registry has confirmed us, and when our
    /// record or tunnel key has changed. Sessions and peers stay.
    pub fn configure(&mut self, config: TunnelConfig) {
        self.us = Us::new(config);
    }

    /// The registry's identity, learned at first contact.
    pub fn set_registry(&mut self, registry: IdentityKey) {
        self.us.config.registry = registry;
    }

    /// Mixes entropy into the generator.
    pub fn reseed(&mut self, entropy: &[u8; 32]) {
        self.rng.mix(entropy);
    }

    /// The wall clock was set.
    pub fn set_wall_clock(&mut self, wall: WallClock) {
        self.us.config.wall = wall;
    }

    /// A new tunnel secret, of the record given at the same time; the present one stays valid
    /// for incoming handshakes until the next rotation (`wire.md` 6.4).
    pub fn rotate_secret(&mut self, secret: TunnelSecret, record: Record) {
        self.us.rotate(secret);
        self.us.config.record = Some(record);
    }

    /// Our present tunnel secret, for Noise X and the registry channel.
    pub fn secret(&self) -> &TunnelSecret {
        &self.us.config.secret
    }

    /// The tunnel secret before the last rotation.
    pub fn previous_secret(&self) -> Option<&TunnelSecret> {
        self.us.config.previous_secret.as_ref()
    }

    /// What was dropped, and why.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Seals a frame for `peer` in its current session: the content lies at 12.. of `buf`,
    /// which has room for 16 bytes behind it. `None` without a living current session.
    pub fn seal(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        buf: &mut [u8],
        plaintext_len: usize,
    ) -> Option<Sealed> {
        let p = self.peers.get_mut(peer.index())?.0.as_mut()?;
        let key = p.slots.current()?.id;
        let link = self.links.get_mut(key)?;
        let sealed = link.session.seal(now, self.aead, buf, plaintext_len)?;
        if sealed.counter >= link.skip_at {
            link.session.skip();
            link.skip_at = sealed.counter + SKIP_MIN + self.rng.below(SKIP_SPAN);
        }
        p.unanswered_since = None;
        p.keepalive_due = false;
        link.probe_due &= plaintext_len == 0;
        link.empty_due = false;
        if link.session.is_worn() && link.rekey_at > now {
            link.rekey_at = now;
            link.data = true;
            self.reschedule(now, peer);
        }
        Some(sealed)
    }

    /// For an acknowledgement of frames under `index`, the peer's: the next counter of that
    /// session, and the one that was left out last. `None` if there is no such session.
    pub fn counters(&self, peer: PeerIndex, index: u32) -> Option<(u64, Option<u64>)> {
        let entries = self.peer(peer)?.slots.iter();
        let mut links = entries.filter_map(|(_, entry)| self.links.get(entry.id));
        let link = links.find(|link| link.session.remote_index() == index)?;
        Some((link.session.next_counter(), link.session.skipped()))
    }

    fn peer(&self, peer: PeerIndex) -> Option<&Peer> {
        self.peers.get(peer.index())?.0.as_ref()
    }

    fn peer_mut(&mut self, peer: PeerIndex) -> Option<&mut Peer> {
        self.peers.get_mut(peer.index())?.0.as_mut()
    }

    /// Counts a drop.
    fn dropped(&mut self, reason: DropReason) -> DropReason {
        self.drops.count(reason);
        reason
    }

    /// Queues `peer` for output.
    fn wake(&mut self, peer: PeerIndex) {
        let Some(p) = self.peers[peer.index()].0.as_mut() else { return };
        if !core::mem::replace(&mut p.is_ready, true) {
            self.ready.push(peer.0);
        }
    }

    /// An index that nothing uses: the top bit and 31 random ones.
    fn draw_index(&mut self) -> u32 {
        loop {
            let index = self.rng.u32() | INDEX_BIT;
            if self.indices.find(index, |_| true).is_none() {
                return index;
            }
        }
    }

    /// The replay window of the session at this place.
    fn window<'w>(replay: &'w mut Store<'s, u64>, words: usize, key: Key) -> &'w mut [u64] {
        &mut replay[key.index() * words..][..words]
    }

    /// Our present Unix time in milliseconds.
    fn unix_ms(&self, now: Instant) -> u64 {
        self.us.config.wall.unix(now).as_millis()
    }
}

impl Us {
    fn new(config: TunnelConfig) -> Self {
        let mac1 = Mac1Key::new(&config.secret.public());
        let previous_mac1 = config.previous_secret.as_ref().map(|s| Mac1Key::new(&s.public()));
        Us { config, mac1, previous_mac1 }
    }

    fn rotate(&mut self, secret: TunnelSecret) {
        self.previous_mac1 = Some(self.mac1);
        self.mac1 = Mac1Key::new(&secret.public());
        let previous = core::mem::replace(&mut self.config.secret, secret);
        self.config.previous_secret = Some(previous);
    }

    /// The secret that a packet's mac1 was made for, and whether it is the previous one.
    fn recipient(&self, packet: &[u8]) -> Option<(&TunnelSecret, bool)> {
        if self.mac1.check(packet) {
            return Some((&self.config.secret, false));
        }
        let previous = self.config.previous_secret.as_ref()?;
        self.previous_mac1.as_ref()?.check(packet).then_some((previous, true))
    }

    /// Our secret with this public key.
    fn secret_of(&self, public: &crate::crypto::TunnelKey) -> Option<&TunnelSecret> {
        [Some(&self.config.secret), self.config.previous_secret.as_ref()]
            .into_iter()
            .flatten()
            .find(|secret| secret.public() == *public)
    }
}

impl TunnelConfig {
    /// Whether this is the public key of a secret of ours: an INIT reflected to its sender.
    fn secret_of_own(&self, public: &crate::crypto::TunnelKey) -> bool {
        let previous = self.previous_secret.as_ref().map(TunnelSecret::public);
        self.secret.public() == *public || previous == Some(*public)
    }
}
