//! What the tunnel keeps of peers, sessions, attempts and answers.

use crate::addr::Address;
use crate::crypto::{IdentityKey, TunnelKey};
use crate::limits::INIT_REPEAT;
use crate::path::{PeerIndex, Route};
use crate::session::attempt::Schedule;
use crate::session::cookie::HeldCookie;
use crate::session::handshake::{INIT_MAX, Initiator, RESP_MAX, Received};
use crate::session::keys::{Expanded, Session};
use crate::session::payload::{BootId, EARLY};
use crate::session::slots::Slots;
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::Instant;

use super::events::PeerEvents;

/// How sessions with a peer are kept (`wire.md` 4.9, 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// An agent: rekey at 120 s, reject at 180 s, passive keepalive, attempts end after 90 s,
    /// both ends initiate.
    Peer,
    /// The beacon: rekey at 1 h whatever flowed, reject at 65 min, no passive keepalive,
    /// attempts never end; it never initiates and sends no record.
    Beacon,
}

/// A peer as pinned: who it is and how it is reached cryptographically.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerKeys {
    /// Its backbone address.
    pub address: Address,
    /// Its identity; [`IdentityKey::ZERO`] for the beacon.
    pub identity: IdentityKey,
    /// Its tunnel key.
    pub tunnel_key: TunnelKey,
    /// The serial of the record that says so.
    pub record_serial: u64,
    /// How sessions with it are kept.
    pub policy: Policy,
}

pub(super) struct Peer {
    pub(super) keys: PeerKeys,
    /// Our identity key is smaller than the peer's.
    pub(super) we_are_smaller: bool,
    pub(super) slots: Slots<Key>,
    pub(super) attempt: Option<Key>,
    /// An accepted INIT whose RESP is not built yet.
    pub(super) accepting: Option<Key>,
    /// The last number that we used, or that the peer told us of.
    pub(super) hs_last: u64,
    /// The peer's boot id in the last current session.
    pub(super) boot: Option<BootId>,
    pub(super) verify_full_at: u64,
    pub(super) stale_at: Option<Instant>,
    pub(super) cookie: HeldCookie,
    /// A stream is open.
    pub(super) busy: bool,
    /// The current session was to be replaced, and nobody answered.
    pub(super) rekey_failed: bool,
    /// When data came that nothing was sent after.
    pub(super) unanswered_since: Option<Instant>,
    pub(super) keepalive_due: bool,
    /// Bytes received on current sessions, for the rule about stream segments in `prev`.
    pub(super) current_bytes: u64,
    pub(super) is_ready: bool,
    pub(super) is_eventful: bool,
    pub(super) events: PeerEvents,
}

impl Peer {
    pub(super) fn new(keys: PeerKeys, us: &IdentityKey, generation: u32) -> Self {
        Peer {
            keys,
            we_are_smaller: *us < keys.identity,
            slots: Slots::resumed(generation),
            attempt: None,
            accepting: None,
            hs_last: 0,
            boot: None,
            verify_full_at: 0,
            stale_at: None,
            cookie: HeldCookie::default(),
            busy: false,
            rekey_failed: false,
            unanswered_since: None,
            keepalive_due: false,
            current_bytes: 0,
            is_ready: false,
            is_eventful: false,
            events: PeerEvents::default(),
        }
    }
}

/// A session in its peer's slots.
pub struct Link {
    pub(super) session: Session<Expanded>,
    /// The frame after which a counter is left out.
    pub(super) skip_at: u64,
    pub(super) peer: PeerIndex,
    pub(super) ours: bool,
    pub(super) born: Instant,
    /// Where the handshake's last message came from: the path that it proves.
    pub(super) route: Route,
    /// What came from there shows that it receives.
    pub(super) proven: bool,
    pub(super) boot: BootId,
    pub(super) observed: Option<core::net::SocketAddr>,
    pub(super) max_datagram: u16,
    pub(super) rekey_at: Instant,
    /// Stream data or datagrams flowed.
    pub(super) data: bool,
    /// The next F0 while nothing was heard, and how many there were.
    pub(super) probe_at: Option<Instant>,
    pub(super) probes: u8,
    pub(super) probe_due: bool,
    pub(super) empty_due: bool,
    /// Since when it has been in `prev`, and the peer's `current_bytes` then.
    pub(super) superseded: Option<(Instant, u64)>,
    pub(super) answer: Option<Key>,
    /// The peer made its INIT for our previous tunnel key, so it has an old record.
    pub(super) needs_record: bool,
    /// The SYN-ACK in the RESP; told once the session is current, because a restarted peer's
    /// is not at first, and what came before it belongs to streams that are gone.
    pub(super) syn_ack: Option<[u8; EARLY]>,
}

/// Where one handshake message goes besides a first flight, and has gone.
#[derive(Default)]
pub(super) struct Destinations {
    routes: heapless::Vec<Route, 4>,
    /// Bit n: it is still to go to `routes[n]`.
    due: u8,
}

impl Destinations {
    /// The message is to go there (again); whether it was not about to already. Where there
    /// are too many, one to which it has gone is forgotten, but never the first.
    pub(super) fn add(&mut self, route: Route) -> Result<bool, DropReason> {
        let known = self.routes.iter().position(|known| *known == route);
        let place = match known {
            Some(place) => place,
            None if self.routes.push(route).is_ok() => self.routes.len() - 1,
            None => {
                let gone = (1..self.routes.len()).find(|n| self.due & 1 << n == 0);
                let place = gone.ok_or(DropReason::Full)?;
                self.routes[place] = route;
                place
            }
        };
        let fresh = self.due & 1 << place == 0;
        self.due |= 1 << place;
        Ok(fresh)
    }

    /// The next one that it is to go to.
    pub(super) fn pop(&mut self) -> Option<Route> {
        let route = self.routes.get(self.due.trailing_zeros() as usize).copied();
        self.due &= self.due.wrapping_sub(1);
        route
    }

    pub(super) fn is_due(&self) -> bool {
        self.due != 0
    }

    pub(super) fn first(&self) -> Option<Route> {
        self.routes.first().copied()
    }

    /// Whether there has been one place only.
    pub(super) fn is_single(&self) -> bool {
        self.routes.len() == 1
    }

    /// Whether it has gone or is to go there.
    pub(super) fn contains(&self, route: Route) -> bool {
        self.routes.contains(&route)
    }
}

/// Our own attempt.
pub struct Attempt {
    pub(super) peer: PeerIndex,
    pub(super) schedule: Schedule,
    pub(super) early: Option<[u8; EARLY]>,
    /// The INIT in flight; none before the first was built.
    pub(super) message: Option<Message>,
    /// A new message is to be built.
    pub(super) renew: bool,
    /// The message is to go out to the first flight.
    pub(super) flight_due: bool,
    /// The message is to go out to these routes: each showed a cookie, or that it is open.
    pub(super) resend_to: Destinations,
}

/// An INIT that may be sent again.
pub(super) struct Message {
    pub(super) initiator: Initiator,
    pub(super) packet: [u8; INIT_MAX],
    pub(super) len: usize,
    pub(super) generation: u32,
    pub(super) hs_seq: u64,
    /// The tunnel key of ours that it names.
    pub(super) with: TunnelKey,
    /// HS_COOKIEs answered; their source may be forged by who sees the path.
    pub(super) cookies: u8,
}

/// Most HS_COOKIEs that one message answers: a first flight's four, twice.
pub(super) const COOKIES_ANSWERED: u8 = 8;

impl Attempt {
    pub(super) fn new(
        now: Instant,
        peer: PeerIndex,
        early: Option<[u8; EARLY]>,
        endless: bool,
    ) -> Self {
        Attempt {
            peer,
            schedule: Schedule::new(now, endless),
            early,
            message: None,
            renew: false,
            flight_due: false,
            resend_to: Destinations::default(),
        }
    }

    /// Two INITs went unanswered: the peer's record may be old (`wire.md` 6.4).
    pub(super) fn is_unanswered(&self) -> bool {
        usize::from(self.schedule.sent()) >= INIT_REPEAT.len()
    }
}

/// An INIT that we accepted, and the RESP to it.
pub struct Answer {
    pub(super) peer: PeerIndex,
    /// The first 16 bytes of SHA-256 over the INIT without mac2.
    pub(super) hash: [u8; 16],
    /// Until the RESP is built.
    pub(super) received: Option<Received>,
    pub(super) index: u32,
    pub(super) born: Instant,
    pub(super) observed: Option<core::net::SocketAddr>,
    pub(super) for_previous_key: bool,
    pub(super) syn: Option<[u8; EARLY]>,
    pub(super) syn_ack: Option<[u8; EARLY]>,
    pub(super) packet: [u8; RESP_MAX],
    pub(super) len: usize,
    pub(super) resends: u8,
    /// Where the RESP goes, the INIT's own source first: one of these is what the session's
    /// first frame proves.
    pub(super) routes: Destinations,
    pub(super) link: Option<Key>,
    pub(super) confirmed: bool,
}
