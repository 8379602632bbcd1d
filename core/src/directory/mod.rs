//! The client side of the rendezvous (`wire.md` 6, 7, 9, 10): [`Directory`] composes the
//! registry channel, the beacon session, the trust table and the durable facts of one agent.
//!
//! | Part | Over | What |
//! |---|---|---|
//! | [`link`](self) | TCP 9000 | dialling, key pinning, the channel's frames |
//! | `flow` | the channel | reserve, register, mailbox, trust jobs, the owner's requests |
//! | `beacon` | UDP 9001 | handshake, hello, keepalive, relay channels |
//! | [`crate::trust`] | – | peers, requests, grants |
//! | `names` | – | the search for a private hostname among trusted peers |
//! | `own` | – | identity, tunnel keys, record, boot id, networks, the registry's pin |
//!
//! # From start to online
//!
//! 1. The owner hands in what was stored ([`Directory::load`]) and calls
//!    [`Directory::start`]: a boot id is drawn and written before anything is registered.
//! 2. [`DirectoryEvent::Dial`]: the owner connects and reports
//!    [`Directory::handle_open`]. The registry's identity is checked against the key that was
//!    given, else the pinned one, else it is pinned now (unless that is forbidden).
//! 3. Without an address: `Reserve`. Then `Register`, at every start, with a record that is
//!    signed and written before it is sent. A later record in the registry (this home is an
//!    old copy) is followed by one after it. Another home that runs now fences us.
//! 4. With the answer come the beacons; the session with the best one starts at once, and the
//!    mailbox is fetched.
//! 5. From then on the TCP connection exists only while there is something to ask; the
//!    beacon tells when something is in the mailbox.
//!
//! # Store before send
//!
//! While [`crate::journal::Journal`] is not quiet (a changed fact is not on disk yet), no
//! request goes to the registry and no `Bind` to the beacon. So a crash at any moment leaves
//! a stored state that nobody outside can contradict: a nonce exists before its request, a
//! boot id before `Register`, a pin before its answer, and an item of the mailbox is
//! acknowledged only when what it changed is on disk.

mod answer;
mod beacon;
mod commands;
mod flow;
mod link;
mod names;
mod own;
mod requests;
#[cfg(test)]
mod tests;
mod types;

pub use answer::{AgentInfo, Answer, Page, Reputation, RequestError, RequestId, Target};
pub use beacon::{Channel, ChannelSlot};
pub use link::LINK_BYTES;
pub use own::Membership;
pub use requests::{ANSWER_BYTES, REQUEST_BYTES_MIN, RequestSlot};
pub use types::{Config, DirectoryError, DirectoryEvent, Inbound, LinkState, SignError, Storage};

use crate::addr::{Address, NetworkId};
use crate::crypto::{AeadProvider, Identity, IdentityKey, Record, TunnelSecret};
use crate::journal::{Journal, LoadError, StoreChange, split_key};
use crate::limits::{REGISTRY_ANSWER, REQUESTS_IN_FLIGHT};
use crate::machine::{Ecn, Path, Reason, Timeout, Transmit};
use crate::path::{ChannelId, PeerIndex};
use crate::rng::Rng;
use crate::session::payload::BootId;
use crate::stats::{DropReason, Drops};
use crate::time::{Duration, Instant, UnixTime, WallClock};
use crate::trust::{self, Trust};
use crate::wire::Bytes;
use crate::wire::control::Candidates;
use beacon::{Beacon, ChannelEvent};
use core::net::SocketAddr;
use flow::{InFlight, Mailbox};
use link::{Link, Received};
use own::Own;
use requests::Requests;

/// Edges of things of which there is one.
#[derive(Default)]
struct Edges {
    pinned: Option<IdentityKey>,
    changed: Option<(IdentityKey, IdentityKey)>,
    unknown: Option<IdentityKey>,
    registered: bool,
    link: bool,
    skew: Option<i64>,
    fenced: bool,
}

impl Edges {
    fn any(&self) -> bool {
        self.pinned.is_some()
            || self.changed.is_some()
            || self.unknown.is_some()
            || self.registered
            || self.link
            || self.skew.is_some()
            || self.fenced
    }
}

/// What the node has to follow, whether or not its owner was told.
#[derive(Default)]
struct Changes {
    registered: bool,
    fenced: bool,
}

/// Everything but the connection's buffers, so that a frame can be read where it lies.
struct Core<'s> {
    config: Config,
    aead: &'static dyn AeadProvider,
    rng: Rng,
    clock: WallClock,
    own: Own,
    journal: Journal,
    drops: Drops,
    requests: Requests<'s>,
    trust: Trust<'s>,
    beacon: Beacon<'s>,
    beacon_address: Option<SocketAddr>,
    in_flight: heapless::Vec<InFlight, REQUESTS_IN_FLIGHT>,
    next_id: u32,
    mailbox: Mailbox,
    /// No attempt to register before.
    register_at: Instant,
    /// No `Beacons` before.
    beacons_at: Instant,
    /// The earliest next search for a name among peers.
    names_at: Instant,
    /// Whether `Reserve` was answered on the present channel.
    reserved: bool,
    rotate_at: Instant,
    /// When old requests for trust are looked for.
    sweep_at: Instant,
    changes: Changes,
    edges: Edges,
    link_state: LinkState,
    started: bool,
    fenced: bool,
    /// The registry's key was pinned since the start.
    first_contact: bool,
    /// The latest time we were told.
    now: Instant,
}

/// The client side of the rendezvous; see the module's documentation.
pub struct Directory<'s> {
    link: Link<'s>,
    core: Core<'s>,
    /// The next moment of [`Directory::handle_timeout`], edges apart.
    deadline: Instant,
}

impl core::fmt::Debug for Directory<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Directory")
            .field("address", &self.core.own.keys.address)
            .field("link", &self.core.link_state)
            .field("trust", &self.core.trust)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "alloc")]
impl Directory<'static> {
    /// A directory with boxed storage.
    pub fn boxed(
        config: Config,
        limits: &crate::limits::Limits,
        identity: Identity,
        aead: &'static dyn AeadProvider,
        rng: Rng,
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        Directory::new(config, identity, aead, rng, now, unix, Storage::boxed(limits))
    }
}

impl<'s> Directory<'s> {
    /// A directory that knows nothing yet: [`Directory::load`], then [`Directory::start`].
    pub fn new(
        config: Config,
        identity: Identity,
        aead: &'static dyn AeadProvider,
        mut rng: Rng,
        now: Instant,
        unix: UnixTime,
        storage: Storage<'s>,
    ) -> Self {
        let own = Own::new(identity, &mut rng.fork("own"));
        let s = storage;
        Directory {
            link: Link::new(s.receive, s.send),
            core: Core {
                config,
                aead,
                rng,
                clock: WallClock::new(now, unix),
                own,
                journal: Journal::new(),
                drops: Drops::new(),
                requests: Requests::new(s.requests, s.answers),
                trust: Trust::new(s.peers, s.nodes, s.outgoing, s.incoming),
                beacon: Beacon::new(s.channels, s.channel_index),
                beacon_address: None,
                in_flight: heapless::Vec::new(),
                next_id: 0,
                mailbox: Mailbox::default(),
                register_at: Instant::START,
                beacons_at: Instant::START,
                names_at: Instant::START,
                reserved: false,
                rotate_at: Instant::NEVER,
                sweep_at: Instant::START,
                changes: Changes::default(),
                edges: Edges::default(),
                link_state: LinkState::Offline,
                started: false,
                fenced: false,
                first_contact: false,
                now,
            },
            deadline: Instant::NEVER,
        }
    }

    // ---- durable state ----

    /// Takes one stored fact; before [`Directory::start`].
    pub fn load(&mut self, key: [u8; 8], value: &[u8]) -> Result<(), LoadError> {
        let (kind, number) = split_key(&key);
        let own = self.core.own.load(kind, number, value);
        let result = own.or_else(|| self.core.trust.load(kind, number, value));
        result.unwrap_or(Err(LoadError::Malformed))
    }

    /// Everything stored is loaded: begins to connect.
    pub fn start(&mut self, now: Instant) {
        let core = &mut self.core;
        core.tick(now);
        let unix = core.clock.unix(now);
        core.own.start(unix, &mut core.journal);
        let (given, pinned) = (core.config.registry_key, core.own.registry.pinned);
        if given.is_some() && pinned.is_some() && given != pinned {
            core.own.change_registry(&mut core.journal);
        }
        core.trust.reconcile(&mut core.journal);
        core.started = true;
        core.plan_rotation();
        core.rotate();
        self.update();
    }

    /// The next change of durable state, its value in `out`
    /// ([`VALUE_MAX`](crate::journal::VALUE_MAX) bytes suffice).
    pub fn poll_store(&mut self, out: &mut [u8]) -> Option<StoreChange> {
        let core = &mut self.core;
        if !core.journal.is_dirty() {
            return None;
        }
        let own = core.own.poll_store(&mut core.journal, out);
        own.or_else(|| core.trust.poll_store(&mut core.journal, out))
    }

    /// All changes up to `sequence` are on disk; what waited for them goes out.
    pub fn handle_stored(&mut self, now: Instant, sequence: u64) {
        self.core.tick(now);
        self.core.journal.handle_stored(sequence);
        if self.core.journal.is_quiet() {
            let core = &mut self.core;
            self.link.proceed();
            core.beacon.look();
        }
        self.update();
    }

    // ---- registry connection ----

    /// The registry connection is up.
    pub fn handle_open(&mut self, now: Instant) {
        let core = &mut self.core;
        core.tick(now);
        core.reserved = false;
        let pin = core.registry_key();
        self.link.handle_open(now, &core.own, pin, core.aead, &mut core.rng);
        self.update();
    }

    /// Bytes from the registry connection.
    pub fn handle_bytes(&mut self, now: Instant, mut bytes: &[u8]) {
        self.core.tick(now);
        loop {
            let core = &mut self.core;
            match self.link.poll(now, &core.own, core.aead, &mut core.rng) {
                Received::More if bytes.is_empty() => break,
                Received::More => {
                    let taken = self.link.handle_bytes(bytes);
                    bytes = &bytes[taken..];
                    // A full buffer that holds nothing whole never will.
                    if taken == 0 {
                        self.link.note_failure();
                        self.link.hang_up();
                    }
                }
                Received::Keys(shown) => self.handle_keys(shown),
                Received::Changed { pinned, shown } => {
                    core.edges.changed = Some((pinned, shown));
                    self.refuse_registry();
                }
                Received::Opened(tunnel) => core.learn_tunnel(tunnel),
                Received::Frame(plaintext) => {
                    if core.handle_plaintext(plaintext) {
                        self.link.handle_answer();
                    } else {
                        self.link.note_failure();
                        self.link.hang_up();
                    }
                }
                Received::Broken => {
                    self.link.note_failure();
                    self.link.hang_up();
                }
            }
        }
        self.update();
    }

    /// Bytes for the registry connection; 0 when there are none.
    pub fn poll_bytes(&mut self, now: Instant, out: &mut [u8]) -> usize {
        self.core.tick(now);
        let mut n = 0;
        while n < out.len() {
            if !self.link.has_output() && !self.pump() {
                break;
            }
            n += self.link.poll_bytes(&mut out[n..]);
        }
        self.settle();
        n
    }

    /// Builds the next frame of the channel, if there is something to ask.
    fn pump(&mut self) -> bool {
        let Some(hash) = self.link.hash() else {
            return false;
        };
        let anonymous = self.link.is_anonymous();
        let core = &mut self.core;
        self.link.can_send()
            && self.link.send(core.now, |out| core.next_request(&hash, anonymous, out))
    }

    /// The registry connection was closed, or could not be opened.
    pub fn handle_close(&mut self, now: Instant) {
        let core = &mut self.core;
        core.tick(now);
        if self.link.is_open() {
            // We did not hang up: the rendezvous may have restarted.
            core.beacon.keepalive_now();
        }
        if self.link.handle_close(now, &mut core.rng) {
            core.forget_tunnel();
        }
        core.connection_lost();
        self.update();
    }

    /// The registry shows the identity that we trust, or the first one that we see.
    fn handle_keys(&mut self, shown: IdentityKey) {
        let core = &mut self.core;
        if core.registry_key().is_none() {
            if core.config.forbid_first_use {
                core.edges.unknown = Some(shown);
                return self.refuse_registry();
            }
            core.edges.pinned = Some(shown);
            core.first_contact = true;
        }
        core.pin(shown);
        if core.journal.is_quiet() {
            self.link.proceed();
        }
    }

    fn refuse_registry(&mut self) {
        self.link.slow_down();
        self.link.hang_up();
    }

    // ---- beacon ----

    /// The beacon's UDP address, as the adapter resolved it; again whenever it changes.
    pub fn set_beacon(&mut self, now: Instant, address: SocketAddr) {
        self.core.tick(now);
        self.core.beacon_address = Some(address);
        self.core.beacon.note_news();
        self.core.connect_beacon();
        self.update();
    }

    /// Where we may be reached besides what the beacon observes, and our NAT's behaviour
    /// (mapping + 4·filtering + 16·allocation, 0 unknown); told to the beacon.
    pub fn set_candidates(&mut self, now: Instant, candidates: Candidates, nat: u8) {
        self.core.tick(now);
        self.core.beacon.set_candidates(candidates, nat);
        self.update();
    }

    /// Where the beacon is, as far as we know.
    pub fn beacon_address(&self) -> Option<SocketAddr> {
        self.core.beacon.address()
    }

    /// Where the beacon should be, also before there is a key for it: its STUN needs none.
    pub fn stun_server(&self) -> Option<SocketAddr> {
        self.core.beacon_address
    }

    /// Whether there is a session with the beacon.
    pub fn is_beacon_up(&self) -> bool {
        self.core.beacon.is_up()
    }

    /// Whether a datagram from `remote` is to be handed to [`Directory::handle_datagram`].
    pub fn is_beacon(&self, remote: SocketAddr) -> bool {
        self.core.beacon.address() == Some(remote)
    }

    /// Takes a datagram from the beacon's address, STUN excepted. A relayed packet costs one
    /// index probe and one SipHash, and is given back in place.
    pub fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &'b mut [u8],
    ) -> Inbound<'b> {
        let core = &mut self.core;
        core.tick(now);
        if core.beacon.address() != Some(path.remote) {
            core.drops.count(DropReason::WrongSource);
            return Inbound::Dropped(DropReason::WrongSource);
        }
        if datagram.first() == Some(&crate::wire::frame::RELAY) {
            return match core.beacon.unwrap(datagram) {
                Ok((channel, peer, packet)) => Inbound::Relayed { channel, peer, packet },
                Err(reason) => {
                    core.drops.count(reason);
                    Inbound::Dropped(reason)
                }
            };
        }
        let result = core.handle_beacon(path, datagram);
        self.update();
        match result {
            Ok(()) => Inbound::Handled,
            Err(reason) => {
                self.core.drops.count(reason);
                Inbound::Dropped(reason)
            }
        }
    }

    /// The next datagram to the beacon, in `out`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        let core = &mut self.core;
        core.tick(now);
        if core.fenced || core.now < core.beacon.due() {
            return None;
        }
        let output = core.beacon_output(out);
        let Some(((len, path), remote)) = output.zip(core.beacon.address()) else {
            self.settle();
            return None;
        };
        let transmit = Transmit {
            path: path.unwrap_or(Path::to(remote)),
            len,
            segment: None,
            ecn: Ecn::NotEct,
            hop_limit: None,
        };
        self.update();
        Some(transmit)
    }

    /// Asks the beacon now whether it still hears us (a suspect path, `wire.md` 4.9).
    pub fn keepalive_now(&mut self, now: Instant) {
        self.core.tick(now);
        self.core.beacon.keepalive_now();
        self.settle();
    }

    /// A fresh handshake with the beacon at once: what went out before did so by a socket that
    /// is gone.
    pub fn renew_beacon(&mut self, now: Instant) {
        self.core.tick(now);
        self.core.beacon.try_again(now);
        self.update();
    }

    /// The beacon is silent, but our socket is not dead: [`DirectoryEvent::BeaconSilent`] again
    /// after 5 s, if it is still silent then.
    pub fn excuse_beacon(&mut self, now: Instant) {
        self.core.tick(now);
        self.core.beacon.excuse(now);
        self.settle();
    }

    /// Whether a peer's data goes over the relay now: then a beacon that has forgotten the
    /// channel is noticed within seconds.
    pub fn set_relaying(&mut self, now: Instant, relaying: bool) {
        self.core.tick(now);
        self.core.beacon.set_relaying(now, relaying);
        self.settle();
    }

    /// A fresh handshake with the beacon at once: the machine was suspended or its clock
    /// stepped (`wire.md` 8). `unix` is what the wall clock shows now.
    pub fn handle_clock_change(&mut self, now: Instant, unix: UnixTime) {
        let core = &mut self.core;
        core.tick(now);
        core.clock = WallClock::new(now, unix);
        core.plan_rotation();
        core.rotate();
        core.beacon.start_over(now);
        self.update();
    }

    /// Mixes entropy into the generator.
    pub fn reseed(&mut self, entropy: &[u8; 32]) {
        self.core.rng.mix(entropy);
    }

    /// Says goodbye to the beacon (F7, `wire.md` 4.9) and stops: nothing but that frame leaves
    /// any more.
    pub fn shutdown(&mut self, now: Instant, code: crate::wire::control::CloseCode) {
        let core = &mut self.core;
        core.tick(now);
        core.started = false;
        core.beacon.say_goodbye(code as u8);
        self.link.hang_up();
        self.update();
    }

    /// Wants a relay channel to a peer; tried until it is there or [`Directory::unbind`]. Of
    /// one that is there, the peer's present endpoint is asked again.
    pub fn bind(&mut self, now: Instant, peer: PeerIndex) -> Result<(), DirectoryError> {
        self.core.tick(now);
        if self.core.trust.peer(peer).is_none() {
            return Err(DirectoryError::NotFound);
        }
        let result = self.core.beacon.bind(peer);
        self.update();
        if result { Ok(()) } else { Err(DirectoryError::Full) }
    }

    /// Asks no more for a channel that there is not; one that is up stays.
    pub fn stop_binding(&mut self, now: Instant, peer: PeerIndex) {
        self.core.tick(now);
        self.core.beacon.stop_binding(peer);
        self.settle();
    }

    /// Wants no relay channel to a peer any more.
    pub fn unbind(&mut self, now: Instant, peer: PeerIndex) {
        self.core.tick(now);
        self.core.beacon.unbind(peer);
        self.update();
    }

    /// The open relay channel to a peer.
    pub fn channel(&self, peer: PeerIndex) -> Option<&Channel> {
        self.core.beacon.channel_of(peer)
    }

    /// The open relay channel of an id.
    pub fn channel_by_id(&self, channel: ChannelId) -> Option<&Channel> {
        self.core.beacon.channel(channel)
    }

    /// Makes a relay frame, in place: the packet lies behind the first 12 bytes of `frame`.
    /// False if there is no such channel.
    pub fn wrap(&self, channel: ChannelId, frame: &mut [u8]) -> bool {
        self.core.beacon.wrap(channel, frame)
    }

    // ---- time and events ----

    /// The next moment at which [`Directory::handle_timeout`] has something to do; not after
    /// the last `now` if there is output.
    pub fn poll_timeout(&self) -> Option<Timeout> {
        if self.has_edge() {
            return Some(Timeout { at: Instant::START, reason: Reason::Output });
        }
        let at = self.deadline;
        (at != Instant::NEVER).then_some(Timeout { at, reason: Reason::Directory })
    }

    fn next_deadline(&self) -> Instant {
        let core = &self.core;
        let mut at = self.link.deadline(core.is_busy()).min(core.requests.deadline());
        if !core.fenced {
            at = at.min(core.beacon.due());
        }
        if let Some(oldest) = core.in_flight.iter().map(|f| f.sent).min() {
            at = at.min(oldest + REGISTRY_ANSWER);
        }
        // What is due and could not be done waits for something else than time.
        let later =
            [core.trust.due(), core.register_at, core.beacons_due(), core.rotate_at, core.sweep_at];
        for later in later {
            if later > core.now {
                at = at.min(later);
            }
        }
        at
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        let core = &mut self.core;
        core.tick(now);
        if now < self.deadline {
            return;
        }
        self.link.handle_timeout(now, core.is_busy());
        if core.in_flight.iter().any(|f| f.sent + REGISTRY_ANSWER <= now) {
            self.link.note_failure();
            self.link.hang_up();
        }
        core.requests.expire(now);
        core.rotate();
        core.sweep();
        core.beacon_timeout();
        self.update();
    }

    /// Whether [`Directory::poll_event`] or [`Directory::poll_change`] may have something.
    pub(crate) fn has_edge(&self) -> bool {
        let core = &self.core;
        core.journal.has_edge()
            || self.link.dial
            || self.link.close
            || self.link.bytes
            || core.changes.registered
            || core.changes.fenced
            || core.edges.any()
            || core.requests.has_edge()
            || core.beacon.has_event()
            || core.beacon.is_silent()
            || core.trust.has_event()
    }

    /// Whether [`Directory::poll_change`] may have something.
    pub(crate) fn has_change(&self) -> bool {
        let core = &self.core;
        core.changes.registered
            || core.changes.fenced
            || core.beacon.has_event()
            || core.beacon.is_silent()
            || core.beacon.has_news()
            || core.trust.has_event()
    }

    /// The next change that the node follows: who we are, channels, peers. Call until `None`
    /// after every mutation, so that nobody finds a peer here which the node does not know.
    pub fn poll_change(&mut self) -> Option<DirectoryEvent> {
        use DirectoryEvent as E;
        let core = &mut self.core;
        if core::mem::take(&mut core.changes.fenced) {
            return Some(E::Fenced);
        }
        if core::mem::take(&mut core.changes.registered)
            && let Some(address) = core.own.keys.address
        {
            return Some(E::Registered(address));
        }
        if core.beacon.take_silent() {
            return Some(E::BeaconSilent);
        }
        if core.beacon.take_news() {
            return Some(E::BeaconChanged);
        }
        // Channels before trust: a removed peer's number is free once its events were taken.
        if let Some(event) = core.beacon.poll_event() {
            return Some(match event {
                ChannelEvent::Up(peer) => E::ChannelUp(peer),
                ChannelEvent::Down(channel, peer) => E::ChannelDown { channel, peer },
                ChannelEvent::Refused(peer, error) => E::ChannelRefused(peer, error),
            });
        }
        core.trust.poll_change().map(E::Trust)
    }

    /// The next event for the owner. Call until `None`.
    pub fn poll_event(&mut self) -> Option<DirectoryEvent> {
        use DirectoryEvent as E;
        let (core, link) = (&mut self.core, &mut self.link);
        if core.journal.take_edge() {
            return Some(E::Store);
        }
        let take = |flag: &mut bool, event: E| core::mem::take(flag).then_some(event);
        let event = take(&mut link.close, E::Close)
            .or_else(|| take(&mut link.dial, E::Dial))
            .or_else(|| take(&mut link.bytes, E::Bytes))
            .or_else(|| take(&mut core.edges.fenced, E::Fenced))
            .or_else(|| core.edges.pinned.take().map(E::RegistryPinned))
            .or_else(|| {
                let (pinned, shown) = core.edges.changed.take()?;
                Some(E::RegistryKeyChanged { pinned, shown })
            })
            .or_else(|| core.edges.unknown.take().map(E::RegistryUnknown));
        if event.is_some() {
            return event;
        }
        if core::mem::take(&mut core.edges.registered)
            && let Some(address) = core.own.keys.address
        {
            return Some(E::Registered(address));
        }
        if core::mem::take(&mut core.edges.link) {
            return Some(E::LinkChanged(core.link_state));
        }
        if let Some(skew) = core.edges.skew.take() {
            return Some(E::ClockSkew(skew));
        }
        if let Some(id) = core.requests.poll_edge() {
            return Some(E::Answered(id));
        }
        core.trust.poll_event().map(E::Trust)
    }

    /// After every mutation: dials if there is something to ask, tells of bytes to send.
    fn update(&mut self) {
        if self.core.fenced {
            self.link.hang_up();
        }
        if self.link.is_closing() {
            // Its answers would not be read any more.
            self.core.connection_lost();
        }
        let core = &mut self.core;
        let work = core.has_work();
        if work && !self.link.is_open() {
            self.link.want(core.now);
        }
        let sendable = work && core.can_ask() && self.link.can_send();
        if sendable || self.link.has_output() {
            self.link.bytes = true;
        }
        core.update_link_state();
        self.settle();
    }

    fn settle(&mut self) {
        self.deadline = self.next_deadline();
    }
}
