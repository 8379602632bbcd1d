//! The session with the beacon over UDP (`wire.md` 7, 9): handshake with a cookie, `Hello`,
//! keepalive, mailbox notices and relay channels.
//!
//! | State | Input | Next |
//! |---|---|---|
//! | idle | address, key and registration known | trying: INIT as in 4.9, without end |
//! | trying | COOKIE | the same INIT again at once with mac2, once per cookie |
//! | trying | STALE | a new INIT with a higher number |
//! | trying | RESP | greeting: `Hello` on the new session |
//! | greeting | HelloAck | up |
//! | up | 15 s ± 10 %; 2 s ± 10 % while a peer is only relayed | `Keepalive` |
//! | greeting, up | a request unanswered at 0, 0.5 and 1.5 s | trying; the old session goes on |
//! | up | 1 h | trying (rekey); up on the new session after its `Hello` |
//! | any | new boot id of the beacon | channels are gone; ours are bound again |
//! | up | F7 | trying: the beacon went down or forgot us |
//! | any | asked and silent for 20 s, 40 s, ... | the owner is told: see `silence.rs` |
//!
//! F0 and F2 (the beacon validates our path, `wire.md` 5.5) are answered on the path on which
//! they came.
//!
//! Requests carry an id and are idempotent; each is repeated until answered. Nothing here is
//! believed before it decrypts under the beacon's key, which the registry has signed.

mod channels;
mod output;
mod silence;

pub(crate) use channels::ChannelEvent;
pub use channels::{Channel, ChannelSlot};

use super::own::Own;
use crate::addr::Address;
use crate::crypto::{AeadProvider, TunnelKey, TunnelSecret};
use crate::limits::{
    BEACON_REJECT, BEACON_REKEY, BEACON_REPEAT, FRAME_HEADER, NAT_KEEPALIVE, RELAYED_KEEPALIVE, TAG,
};
use crate::machine::Path;
use crate::path::{ChannelId, PeerIndex};
use crate::rng::Rng;
use crate::session::attempt::{Action, Schedule};
use crate::session::cookie::HeldCookie;
use crate::session::handshake::{INDEX_BIT, check_envelope, write_mac2};
use crate::session::handshake::{INIT_MAX, Initiator, TYPE_COOKIE, TYPE_RESP, TYPE_STALE};
use crate::session::keys::{SmallSession, frame_index};
use crate::session::payload::{BootId, Caps, InitPayload};
use crate::stats::DropReason;
use crate::time::{Duration, Instant, UnixTime};
use crate::wire::GrantBytes;
use crate::wire::control::{self, BeaconError, Candidates, ChannelInfo, FromBeacon, ToBeacon};
use crate::wire::frame::{self, Direction};
use channels::Channels;
use core::net::SocketAddr;
use silence::Silence;

/// A request to the beacon that has no answer yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    id: u16,
    sent: u8,
    first: Instant,
    next: Instant,
}

impl Pending {
    /// To be sent at once.
    pub(super) fn new() -> Self {
        Pending { id: 0, sent: 0, first: Instant::START, next: Instant::START }
    }

    /// To be sent from `next` on.
    fn at(next: Instant) -> Self {
        Pending { next, ..Pending::new() }
    }

    /// Marks a sending. True if the last repetition was used up with it.
    fn sent(&mut self, now: Instant, id: u16) -> bool {
        if self.sent == 0 {
            self.first = now;
        }
        self.id = id;
        self.next = match BEACON_REPEAT.get(usize::from(self.sent)) {
            Some(after) => self.first + *after,
            None => now + BEACON_REPEAT[1],
        };
        self.sent = self.sent.saturating_add(1);
        usize::from(self.sent) > BEACON_REPEAT.len()
    }
}

/// Pings and challenges that wait for their answer; the oldest goes when there is one more.
const REPLIES: usize = 4;

/// What a frame of the beacon means to the owner.
pub(super) enum Heard {
    Nothing,
    /// Something is in the mailbox.
    Waiting,
    /// Answer to the `Bind` of this entry.
    Channel(usize, ChannelInfo),
    /// A peer bound a channel; the id of the message for its acknowledgement.
    Bound(ChannelInfo, u16),
    Fenced,
    /// The beacon does not know our registration.
    Unknown,
}

struct Attempt {
    initiator: Initiator,
    bytes: [u8; INIT_MAX],
    len: usize,
    /// The tunnel key it was made with.
    with: TunnelKey,
    /// To be sent at the next poll.
    due: bool,
}

/// What the functions below need from their owner.
pub(super) struct Context<'c> {
    pub(super) now: Instant,
    pub(super) unix: UnixTime,
    pub(super) own: &'c Own,
    pub(super) aead: &'static dyn AeadProvider,
    pub(super) rng: &'c mut Rng,
    /// Whether everything is durable that a `Bind` may depend on.
    pub(super) quiet: bool,
}

pub(super) struct Beacon<'s> {
    address: Option<SocketAddr>,
    tunnel: Option<TunnelKey>,
    schedule: Option<Schedule>,
    attempt: Option<Attempt>,
    cookie: HeldCookie,
    current: Option<SmallSession>,
    previous: Option<SmallSession>,
    rekey_at: Instant,
    boot: Option<BootId>,
    generation: u32,
    last_seq: u64,
    hello: Option<Pending>,
    keepalive: Option<Pending>,
    keepalive_at: Instant,
    /// A peer's data goes over the relay: a beacon that forgot the channel is noticed soon.
    relaying: bool,
    up: bool,
    /// Since when it has not been up.
    down_since: Instant,
    candidates: Candidates,
    nat: u8,
    /// Candidates or NAT behaviour that no acknowledged message has told.
    report: bool,
    observed: Option<SocketAddr>,
    alternates: heapless::Vec<SocketAddr, { control::ALTERNATES_MAX }>,
    /// What it tells of us has changed, or whether it is up.
    news: bool,
    next_id: u16,
    channels: Channels<'s>,
    /// F1 and F3, and where they go.
    replies: heapless::Deque<(Path, [u8; 9]), REPLIES>,
    /// F7 to be sent, and nothing after it.
    goodbye: Option<u8>,
    silence: Silence,
    /// Silent for too long, and the owner was not told.
    silent: bool,
    /// When [`Beacon::poll_transmit`] or [`Beacon::handle_timeout`] has something to do.
    due: Instant,
}

impl<'s> Beacon<'s> {
    pub(super) fn new(
        slots: crate::slab::Store<'s, ChannelSlot>,
        cells: crate::slab::Store<'s, crate::session::index::IndexCell>,
    ) -> Self {
        Beacon {
            address: None,
            tunnel: None,
            schedule: None,
            attempt: None,
            cookie: HeldCookie::default(),
            current: None,
            previous: None,
            rekey_at: Instant::NEVER,
            boot: None,
            generation: 0,
            last_seq: 0,
            hello: None,
            keepalive: None,
            keepalive_at: Instant::NEVER,
            relaying: false,
            up: false,
            down_since: Instant::START,
            candidates: Candidates::new(),
            nat: 0,
            report: false,
            observed: None,
            alternates: heapless::Vec::new(),
            news: false,
            next_id: 0,
            channels: Channels::new(slots, cells),
            replies: heapless::Deque::new(),
            goodbye: None,
            silence: Silence::new(),
            silent: false,
            due: Instant::NEVER,
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// Since when there is no answer; `None` while it is up.
    pub(super) fn down_since(&self) -> Option<Instant> {
        (!self.up).then_some(self.down_since)
    }

    fn go_down(&mut self, now: Instant) {
        if core::mem::take(&mut self.up) {
            self.news = true;
            self.down_since = now;
        }
    }

    pub(super) fn observed(&self) -> Option<SocketAddr> {
        self.observed
    }

    pub(super) fn alternates(&self) -> &[SocketAddr] {
        &self.alternates
    }

    /// Whether there is something new to see here since this was last asked.
    pub(super) fn has_news(&self) -> bool {
        self.news
    }

    pub(super) fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.news)
    }

    pub(super) fn note_news(&mut self) {
        self.news = true;
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    // ---- wishes of the owner ----

    /// Where the beacon is, and what its key is; both known, and we registered: tries to get a
    /// session, unless there is one with just these.
    pub(super) fn connect(&mut self, now: Instant, address: SocketAddr, tunnel: TunnelKey) {
        let same = self.address == Some(address) && self.tunnel == Some(tunnel);
        if same && (self.schedule.is_some() || self.current.is_some()) {
            return;
        }
        if self.tunnel != Some(tunnel) {
            (self.current, self.previous) = (None, None);
            self.go_down(now);
        }
        if self.address.is_none() {
            self.down_since = now;
        }
        (self.address, self.tunnel) = (Some(address), Some(tunnel));
        self.cookie = HeldCookie::default();
        self.try_again(now);
    }

    /// The counter of the session may have been rolled back with a suspended machine: it hears
    /// on and sends nothing more, and a handshake begins at once (`wire.md` 8).
    pub(super) fn start_over(&mut self, now: Instant) {
        if let Some(session) = self.current.take() {
            self.previous = Some(session);
            self.replies.clear();
            self.go_down(now);
        }
        self.try_again(now);
    }

    /// Starts a handshake at once, also when a session lives.
    pub(super) fn try_again(&mut self, now: Instant) {
        if self.tunnel.is_some() {
            self.attempt = None;
            self.schedule = Some(Schedule::new(now, true));
            self.look();
        }
    }

    /// Ends the session without a word: this identity is fenced, or the node shuts down.
    pub(super) fn stop(&mut self) {
        (self.schedule, self.attempt, self.tunnel) = (None, None, None);
        (self.current, self.previous) = (None, None);
        (self.hello, self.keepalive, self.up) = (None, None, false);
        self.silence.end();
        self.replies.clear();
        self.channels.forget_all();
        self.look();
    }

    /// Says F7 with this code, and nothing any more.
    pub(super) fn say_goodbye(&mut self, code: u8) {
        if self.current.is_some() {
            self.goodbye = Some(code);
        }
        (self.schedule, self.attempt, self.tunnel) = (None, None, None);
        self.up = false;
        self.silence.end();
        self.look();
    }

    pub(super) fn set_candidates(&mut self, candidates: Candidates, nat: u8) {
        if self.candidates != candidates || self.nat != nat {
            (self.candidates, self.nat, self.report) = (candidates, nat, true);
            self.keepalive_now();
        }
    }

    /// Asks now whether the beacon still hears us.
    pub(super) fn keepalive_now(&mut self) {
        if self.up && self.keepalive.is_none() {
            self.keepalive = Some(Pending::new());
            self.look();
        }
    }

    /// Whether a peer's data goes over the relay now.
    pub(super) fn set_relaying(&mut self, now: Instant, relaying: bool) {
        self.relaying = relaying;
        if relaying {
            self.keepalive_at = self.keepalive_at.min(now + RELAYED_KEEPALIVE);
            self.look();
        }
    }

    pub(super) fn bind(&mut self, peer: PeerIndex) -> bool {
        self.look();
        self.channels.bind(peer)
    }

    /// The attempt to reach `peer` has ended: no more asking for a channel that is refused.
    pub(super) fn stop_binding(&mut self, peer: PeerIndex) {
        self.look();
        self.channels.stop_binding(peer);
    }

    pub(super) fn unbind(&mut self, peer: PeerIndex) {
        self.look();
        self.channels.unbind(peer);
    }

    pub(super) fn channel(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.get(id)
    }

    pub(super) fn channel_of(&self, peer: PeerIndex) -> Option<&Channel> {
        self.channels.of_peer(peer)
    }

    /// The answer to `Channel` or `Bound`: the peer is known and is who the beacon says.
    pub(super) fn set_up(&mut self, peer: PeerIndex, info: &ChannelInfo, ack: Option<u16>) -> bool {
        self.look();
        self.channels.set_up(peer, info, ack)
    }

    /// The peer that this entry is for, while the owner wants it.
    pub(super) fn asked(&mut self, entry: usize) -> Option<PeerIndex> {
        self.channels.entry(entry).filter(|e| e.wanted).map(|e| e.peer)
    }

    /// A `Channel` that names another peer than the one we asked for.
    pub(super) fn refuse_channel(&mut self, now: Instant, entry: usize) {
        self.look();
        self.channels.refused(entry, now, BeaconError::NotPermitted);
    }

    pub(super) fn has_event(&self) -> bool {
        self.channels.has_edge()
    }

    /// Its silence says nothing at present of our socket.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.silence.excuse(now);
        self.look();
    }

    /// Whether it has been silent for too long, and [`Beacon::take_silent`] was not asked.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// The same; once for each time.
    pub(super) fn take_silent(&mut self) -> bool {
        core::mem::take(&mut self.silent)
    }

    pub(super) fn poll_event(&mut self) -> Option<ChannelEvent> {
        self.channels.poll_event()
    }

    // ---- input ----

    /// Takes a packet from the beacon's address that is neither STUN nor a relay frame.
    pub(super) fn handle_packet(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        packet: &mut [u8],
    ) -> Result<Heard, DropReason> {
        let heard = self.take_packet(ctx, path, packet);
        if heard.is_ok() {
            self.silence.end();
        }
        heard
    }

    fn take_packet(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        packet: &mut [u8],
    ) -> Result<Heard, DropReason> {
        let first = *packet.first().ok_or(DropReason::Malformed)?;
        if first >= 0x80 {
            return self.handle_frame(ctx, path, packet);
        }
        check_envelope(packet)?;
        match first {
            TYPE_RESP => self.handle_resp(ctx, packet).map(|()| Heard::Nothing),
            TYPE_COOKIE => {
                let attempt = self.attempt.as_mut().ok_or(DropReason::UnknownIndex)?;
                own_index(attempt, packet, 4)?;
                let cookie = attempt.initiator.read_cookie(packet)?;
                if self.cookie.take(ctx.now, cookie) {
                    let init = &mut attempt.bytes[..attempt.len];
                    write_mac2(init, Some(&cookie));
                    attempt.due = true;
                    self.look();
                }
                Ok(Heard::Nothing)
            }
            TYPE_STALE => {
                let attempt = self.attempt.as_ref().ok_or(DropReason::UnknownIndex)?;
                own_index(attempt, packet, 4)?;
                let highest = attempt.initiator.read_stale(packet)?;
                if highest < crate::limits::HS_SEQ_MAX {
                    self.last_seq = self.last_seq.max(highest);
                    if let Some(schedule) = &mut self.schedule {
                        schedule.restart(ctx.now);
                    }
                    self.look();
                }
                Ok(Heard::Nothing)
            }
            _ => Err(DropReason::UnknownType),
        }
    }

    fn handle_resp(&mut self, ctx: &mut Context<'_>, packet: &mut [u8]) -> Result<(), DropReason> {
        let attempt = self.attempt.as_ref().ok_or(DropReason::UnknownIndex)?;
        own_index(attempt, packet, 8)?;
        let secret = secret_of(ctx.own, &attempt.with).ok_or(DropReason::UnknownIndex)?;
        let accepted =
            attempt.initiator.read_resp(secret, packet)?.map_err(|_| DropReason::Handshake)?;
        let local = attempt.initiator.index();
        let expires = ctx.now + BEACON_REJECT;
        let session = SmallSession::new(accepted.keys, local, accepted.remote_index, expires);
        (self.attempt, self.schedule) = (None, None);
        if let Some(replaced) = self.current.replace(session) {
            self.previous = Some(replaced);
        }
        self.rekey_at = ctx.now + BEACON_REKEY;
        // A new boot id: the beacon has forgotten channels and who we are.
        if self.boot.replace(accepted.payload.boot_id) != Some(accepted.payload.boot_id) {
            self.channels.forget_all();
        }
        self.hello = Some(Pending::new());
        self.keepalive = None;
        self.channels.restart_pending();
        self.look();
        Ok(())
    }

    fn handle_frame(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        packet: &mut [u8],
    ) -> Result<Heard, DropReason> {
        let index = frame_index(packet).ok_or(DropReason::Malformed)?;
        let session = [&mut self.current, &mut self.previous]
            .into_iter()
            .flatten()
            .find(|session| session.session().local_index() == index)
            .ok_or(DropReason::UnknownIndex)?;
        session.open(ctx.now, ctx.aead, packet)?;
        let content = &packet[FRAME_HEADER..packet.len() - TAG];
        match *content {
            [] | [control::PONG | control::PATH_RESPONSE | control::PADDING, ..] => {
                return Ok(Heard::Nothing);
            }
            [first @ (control::PING | control::PATH_CHALLENGE), ref echo @ ..]
                if echo.len() == 8 =>
            {
                let mut reply = [first + 1; 9];
                reply[1..].copy_from_slice(echo);
                if self.replies.is_full() {
                    self.replies.pop_front();
                }
                let _ = self.replies.push_back((path, reply));
                self.look();
                return Ok(Heard::Nothing);
            }
            [control::CLOSE, _] => {
                let closed = |s: &SmallSession| s.session().local_index() == index;
                if self.current.as_ref().is_some_and(closed) {
                    self.current = None;
                    self.go_down(ctx.now);
                    self.try_again(ctx.now);
                }
                return Ok(Heard::Nothing);
            }
            [control::BEACON, ..] => {}
            _ => return Err(DropReason::UnknownControl),
        }
        let (id, message) =
            control::decode::<FromBeacon>(content).map_err(|_| DropReason::Malformed)?;
        self.look();
        self.handle_message(ctx, id, message)
    }

    fn handle_message(
        &mut self,
        ctx: &mut Context<'_>,
        id: u16,
        message: FromBeacon,
    ) -> Result<Heard, DropReason> {
        match message {
            FromBeacon::HelloAck { observed, alternates, waiting } => {
                answers(&mut self.hello, id)?;
                (self.observed, self.alternates) = (Some(observed), alternates);
                self.news = true;
                (self.up, self.report) = (true, false);
                self.schedule_keepalive(ctx);
                Ok(if waiting { Heard::Waiting } else { Heard::Nothing })
            }
            FromBeacon::KeepaliveAck { observed, waiting } => {
                answers(&mut self.keepalive, id)?;
                self.report = false;
                self.news |= self.observed.replace(observed) != Some(observed);
                self.schedule_keepalive(ctx);
                Ok(if waiting { Heard::Waiting } else { Heard::Nothing })
            }
            FromBeacon::Waiting => Ok(Heard::Waiting),
            FromBeacon::Channel(info) => {
                let entry = self.entry_of(id).ok_or(DropReason::Unasked)?;
                Ok(Heard::Channel(entry, info))
            }
            FromBeacon::Bound(info) => Ok(Heard::Bound(info, id)),
            FromBeacon::Unbound { channel } => {
                self.channels.unbound(channel);
                Ok(Heard::Nothing)
            }
            FromBeacon::Fenced => Ok(Heard::Fenced),
            FromBeacon::Error { error, .. } => self.handle_error(ctx, id, error),
        }
    }

    fn handle_error(
        &mut self,
        ctx: &mut Context<'_>,
        id: u16,
        error: BeaconError,
    ) -> Result<Heard, DropReason> {
        if error == BeaconError::NotRegistered {
            // The owner registers again; the next Hello gives it time to.
            self.go_down(ctx.now);
            self.hello = Some(Pending::at(ctx.now + BEACON_REPEAT[1]));
            return Ok(Heard::Unknown);
        }
        if answers(&mut self.keepalive, id).is_ok() {
            self.schedule_keepalive(ctx);
            return Ok(Heard::Nothing);
        }
        let entry = self.entry_of(id).ok_or(DropReason::Unasked)?;
        let leaving = self.channels.entry(entry).is_some_and(|e| e.leaving.is_some());
        if leaving {
            self.channels.released(entry);
        } else {
            self.channels.refused(entry, ctx.now, error);
        }
        Ok(Heard::Nothing)
    }

    /// The entry whose request has this id.
    fn entry_of(&mut self, id: u16) -> Option<usize> {
        (0..self.channels.len()).find(|&i| {
            self.channels.entry(i).and_then(|e| e.pending).is_some_and(|p| p.sent > 0 && p.id == id)
        })
    }

    fn schedule_keepalive(&mut self, ctx: &mut Context<'_>) {
        let span = if self.relaying { RELAYED_KEEPALIVE } else { NAT_KEEPALIVE };
        let tenth = span / 10;
        let jitter = Duration::from_nanos(ctx.rng.below(2 * tenth.as_nanos() as u64));
        self.keepalive_at = ctx.now + (span - tenth) + jitter;
        if self.report {
            self.keepalive = Some(Pending::new());
        }
    }

    /// Checks a relay frame and gives the packet in it (`wire.md` 7).
    pub(super) fn unwrap<'b>(
        &self,
        packet: &'b mut [u8],
    ) -> Result<(ChannelId, PeerIndex, &'b mut [u8]), DropReason> {
        let id = frame::relay_channel(packet).ok_or(DropReason::Malformed)?;
        let channel = self.channels.get(id).ok_or(DropReason::UnknownChannel)?;
        let inner = frame::unwrap(&channel.key, Direction::FromBeacon, packet)?;
        frame::classify_relayed(inner)?;
        Ok((id, channel.peer, inner))
    }

    /// Makes a relay frame of a packet that lies behind the first 12 bytes of `packet`.
    pub(super) fn wrap(&self, id: ChannelId, packet: &mut [u8]) -> bool {
        match self.channels.get(id) {
            Some(channel) => {
                frame::wrap(&channel.key, Direction::ToBeacon, id, packet);
                true
            }
            None => false,
        }
    }

    // ---- time and output ----

    /// There may be something to do now.
    pub(super) fn look(&mut self) {
        self.due = Instant::START;
    }

    /// Starts what time demands. Output is left to [`Beacon::poll_transmit`].
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        if ctx.now < self.due {
            return;
        }
        let dead =
            |s: &Option<SmallSession>| s.as_ref().is_some_and(|s| !s.session().is_alive(ctx.now));
        if dead(&self.previous) {
            self.previous = None;
        }
        if dead(&self.current) {
            self.current = None;
            self.go_down(ctx.now);
        }
        let rekey = self.current.is_some() && self.rekey_at <= ctx.now;
        if self.schedule.is_none() && self.tunnel.is_some() && (self.current.is_none() || rekey) {
            self.rekey_at = Instant::NEVER;
            self.try_again(ctx.now);
        }
        if self.up && self.keepalive.is_none() && self.keepalive_at <= ctx.now {
            self.keepalive = Some(Pending::new());
        }
        if let Some(schedule) = &mut self.schedule {
            match schedule.fire(ctx.now, ctx.rng) {
                Action::Repeat => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.due = true;
                    }
                }
                Action::Renew => self.attempt = self.new_attempt(ctx),
                Action::Wait | Action::GiveUp => {}
            }
        }
        self.silent |= self.silence.take(ctx.now);
        self.due = self.next_due(ctx.quiet);
    }

    fn new_attempt(&mut self, ctx: &mut Context<'_>) -> Option<Attempt> {
        let tunnel = self.tunnel?;
        let record = ctx.own.keys.record?;
        let secret = &ctx.own.keys.current;
        let fresh = self.last_seq.saturating_add(1);
        self.last_seq = ctx.unix.as_millis().max(fresh).min(crate::limits::HS_SEQ_MAX - 1);
        self.generation = self.generation.wrapping_add(1);
        let payload = InitPayload {
            caps: Caps::of(ctx.aead),
            rekey: self.current.is_some(),
            max_datagram: crate::limits::DATAGRAM_DEFAULT,
            src: record.fields.addr,
            dst: Address::BEACON,
            hs_seq: self.last_seq,
            known_peer_serial: 0,
            generation: self.generation,
            boot_id: ctx.own.boot_id,
            record: Some(record.to_short()),
            early: None,
        };
        let e = TunnelSecret::from_secret(ctx.rng.bytes());
        let index = self.new_index(ctx.rng);
        let mut bytes = [0; INIT_MAX];
        let (initiator, len) =
            Initiator::start(secret, &tunnel, e, index, &payload, &mut bytes).ok()?;
        if let Some(cookie) = self.cookie.get(ctx.now) {
            write_mac2(&mut bytes[..len], Some(&cookie));
        }
        Some(Attempt { initiator, bytes, len, with: secret.public(), due: true })
    }

    fn new_index(&self, rng: &mut Rng) -> u32 {
        loop {
            let index = rng.u32() | INDEX_BIT;
            let taken = |s: &Option<SmallSession>| {
                s.as_ref().is_some_and(|s| s.session().local_index() == index)
            };
            if !taken(&self.current) && !taken(&self.previous) {
                return index;
            }
        }
    }

    fn next_due(&self, quiet: bool) -> Instant {
        self.output_due(quiet).min(self.silence.over())
    }

    fn output_due(&self, quiet: bool) -> Instant {
        let mut due = self.schedule.as_ref().map_or(Instant::NEVER, Schedule::next_at);
        if self.attempt.as_ref().is_some_and(|attempt| attempt.due) {
            return Instant::START;
        }
        let Some(session) = &self.current else {
            return due;
        };
        if self.goodbye.is_some() || !self.replies.is_empty() {
            return Instant::START;
        }
        due = due.min(session.session().expires());
        if self.schedule.is_none() {
            due = due.min(self.rekey_at);
        }
        if let Some(hello) = self.hello {
            return due.min(hello.next);
        }
        if !self.up {
            return due;
        }
        due = due.min(match self.keepalive {
            Some(keepalive) => keepalive.next,
            None => self.keepalive_at,
        });
        for entry in self.channels.entries() {
            if entry.ack.is_some() {
                return Instant::START;
            }
            // A Bind waits for the journal; its quiet moment is a mutation of its own.
            if let Some(pending) = entry.pending
                && (quiet || entry.leaving.is_some())
            {
                due = due.min(pending.next.max(entry.hold));
            }
        }
        due
    }
}

/// Clears the request that `id` answers.
fn answers(pending: &mut Option<Pending>, id: u16) -> Result<(), DropReason> {
    match pending {
        Some(p) if p.sent > 0 && p.id == id => {
            *pending = None;
            Ok(())
        }
        _ => Err(DropReason::Unasked),
    }
}

/// Whether the packet is for this attempt.
fn own_index(attempt: &Attempt, packet: &[u8], at: usize) -> Result<(), DropReason> {
    let index = u32::from_be_bytes(core::array::from_fn(|i| packet[at + i]));
    if index == attempt.initiator.index() { Ok(()) } else { Err(DropReason::UnknownIndex) }
}

fn secret_of<'o>(own: &'o Own, public: &TunnelKey) -> Option<&'o TunnelSecret> {
    let previous = own.keys.previous.as_ref();
    [Some(&own.keys.current), previous].into_iter().flatten().find(|s| s.public() == *public)
}
