//! The TCP connection to the registry (`wire.md` 6.1): when it is dialled and closed, which
//! keys are asked for and shown. Its bytes are [`crate::session::channel`]'s business. What the frames say is [`super::flow`]'s business.
//!
//! | State | Input | Next |
//! |---|---|---|
//! | Down | something to ask | Dialing, edge Dial |
//! | Dialing | open, tunnel key remembered | Greeting: AOR1 sent |
//! | Dialing | open, none remembered | Asking: AOR0 sent |
//! | Asking | keys signed by the pinned (or given, or first) identity | Greeting: AOR1 sent once the pin is durable |
//! | Asking | keys of another identity | Closing, event; the next attempt is slow |
//! | Greeting | message 2 | Open |
//! | Greeting | closed, key was remembered | Down at once, key forgotten |
//! | Greeting | closed, key was fresh, record shown | BackOff; the next greeting shows none |
//! | Open | idle 60 s, frame that does not open, request unanswered 10 s | Closing, edge Close |
//! | any but Down, BackOff | closed | BackOff: 0.5 s doubling to 30 s, ± 50 % |
//! | BackOff | time | Down |
//!
//! Only the registry's Ed25519 key is pinned; its tunnel key rotates. Nothing is sent to a
//! registry that shows another identity but the 36 bytes that ask for its keys.

use super::own::Own;
use crate::addr::Address;
use crate::crypto::{AeadProvider, IdentityKey, TunnelKey};
use crate::limits::{DIRECTORY_BACKOFF_MAX, DIRECTORY_BACKOFF_MIN, REGISTRY_ANSWER, REGISTRY_IDLE};
use crate::rng::Rng;
use crate::session::channel::{BUFFER, ChannelError, ClientChannel, ClientEvent, Introduction};
use crate::session::payload::Caps;
use crate::slab::Store;
use crate::time::{Duration, Instant};

/// Bytes that the receive and the send buffer of a link need, each: one frame and its length.
pub const LINK_BYTES: usize = BUFFER;

#[expect(clippy::large_enum_variant, reason = "there is one link in a node")]
enum State<'s> {
    Down,
    BackOff(Instant),
    Dialing,
    Connected(Connected<'s>),
    Closing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking,
    Greeting { remembered: bool },
    Open { hash: [u8; 32] },
}

struct Connected<'s> {
    channel: ClientChannel<'s>,
    phase: Phase,
    /// Our tunnel key in its handshake.
    with: TunnelKey,
    /// The registry's, once known.
    tunnel: Option<TunnelKey>,
    /// The handshake does not show our record.
    anonymous: bool,
    /// What it has to send waits for the pin to be durable.
    held: bool,
    /// The start, later the last frame.
    active: Instant,
}

/// What bytes from the connection came to.
pub(super) enum Received<'b> {
    /// Nothing yet.
    More,
    /// The registry showed its identity, which is not another than the pinned one.
    Keys(IdentityKey),
    /// It showed another one.
    Changed { pinned: IdentityKey, shown: IdentityKey },
    /// The channel is open; this is the tunnel key to remember.
    Opened(Option<TunnelKey>),
    /// The plaintext of a frame.
    Frame(&'b [u8]),
    /// Not the registry, or not its protocol.
    Broken,
}

pub(super) struct Link<'s> {
    state: State<'s>,
    /// While there is no channel that has them.
    buffers: Option<(Store<'s, u8>, Store<'s, u8>)>,
    failures: u32,
    /// The registry refused our record: the next handshake shows none.
    forgotten: bool,
    pub(super) dial: bool,
    pub(super) close: bool,
    pub(super) bytes: bool,
}

impl<'s> Link<'s> {
    pub(super) fn new(rx: Store<'s, u8>, tx: Store<'s, u8>) -> Self {
        assert!(rx.len() >= LINK_BYTES && tx.len() >= LINK_BYTES, "link buffers are too small");
        Link {
            state: State::Down,
            buffers: Some((rx, tx)),
            failures: 0,
            forgotten: false,
            dial: false,
            close: false,
            bytes: false,
        }
    }

    fn connected(&self) -> Option<&Connected<'s>> {
        match &self.state {
            State::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    /// Whether the owner was asked to close the connection and has not reported it.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    /// The hash that names the open channel.
    pub(super) fn hash(&self) -> Option<[u8; 32]> {
        match self.connected()?.phase {
            Phase::Open { hash } => Some(hash),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.hash().is_some()
    }

    /// Whether the registry has not seen our record on this channel.
    pub(super) fn is_anonymous(&self) -> bool {
        self.connected().is_none_or(|c| c.anonymous)
    }

    /// There is something to ask.
    pub(super) fn want(&mut self, now: Instant) {
        if let State::BackOff(until) = self.state
            && until <= now
        {
            self.state = State::Down;
        }
        if matches!(self.state, State::Down) {
            self.state = State::Dialing;
            self.dial = true;
        }
    }

    /// The connection is up: greets with a remembered key, or asks for it.
    pub(super) fn handle_open(
        &mut self,
        now: Instant,
        own: &Own,
        pin: Option<IdentityKey>,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) {
        if !matches!(self.state, State::Dialing) {
            return;
        }
        let Some((input, output)) = self.buffers.take() else {
            return;
        };
        // Only a record that the registry has taken is shown; before, `Reserve` proves us.
        let record = own.keys.record.filter(|_| own.keys.published && !self.forgotten);
        let us = Introduction {
            address: record.map_or(Address::UNSPECIFIED, |r| r.fields.addr),
            record,
            boot_id: own.boot_id,
            max_datagram: 0,
            caps: Caps::of(aead),
        };
        let (secret, tunnel) = (&own.keys.current, own.registry.tunnel);
        self.state = State::Connected(Connected {
            channel: ClientChannel::new(us, secret, pin, tunnel, rng, input, output),
            phase: match tunnel {
                Some(_) => Phase::Greeting { remembered: true },
                None => Phase::Asking,
            },
            with: secret.public(),
            tunnel,
            anonymous: record.is_none(),
            held: false,
            active: now,
        });
        self.bytes = true;
    }

    /// Takes bytes from the connection; gives how many. Fewer than given: [`Link::poll`] first.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            State::Connected(connected) => connected.channel.handle_bytes(bytes),
            _ => bytes.len(),
        }
    }

    /// What the bytes came to.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        own: &Own,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) -> Received<'_> {
        let State::Connected(connected) = &mut self.state else {
            return Received::More;
        };
        let Connected { channel, phase, with, tunnel, held, active, .. } = connected;
        let secrets = [Some(&own.keys.current), own.keys.previous.as_ref()];
        let Some(secret) = secrets.into_iter().flatten().find(|s| s.public() == *with) else {
            return Received::Broken;
        };
        match channel.poll(secret, aead, rng) {
            Ok(None) => Received::More,
            Ok(Some(ClientEvent::Keys { identity, tunnel: shown })) => {
                (*tunnel, *held) = (Some(shown), true);
                *phase = Phase::Greeting { remembered: false };
                Received::Keys(identity)
            }
            Ok(Some(ClientEvent::Open { hash })) => {
                *phase = Phase::Open { hash };
                *active = now;
                self.forgotten = false;
                Received::Opened(*tunnel)
            }
            Ok(Some(ClientEvent::Frame(plaintext))) => {
                *active = now;
                Received::Frame(plaintext)
            }
            Err(ChannelError::KeyChanged { pinned, shown }) => Received::Changed { pinned, shown },
            Err(_) => Received::Broken,
        }
    }

    /// The pin is durable: the greeting may go out.
    pub(super) fn proceed(&mut self) {
        if let State::Connected(connected) = &mut self.state
            && core::mem::take(&mut connected.held)
        {
            self.bytes = true;
        }
    }

    /// An answer came: the registry is there.
    pub(super) fn handle_answer(&mut self) {
        self.failures = 0;
    }

    /// Whether there is room for a frame; one is built at a time.
    pub(super) fn can_send(&self) -> bool {
        self.is_open() && !self.has_output()
    }

    /// Seals the plaintext that `write` puts into a buffer, if it puts any.
    pub(super) fn send(&mut self, now: Instant, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let State::Connected(connected) = &mut self.state else {
            return false;
        };
        let sent = connected.channel.send(|out| Some(write(out)).filter(|len| *len > 0));
        if sent.is_some() {
            connected.active = now;
        }
        sent.is_some()
    }

    pub(super) fn has_output(&self) -> bool {
        self.connected().is_some_and(|c| !c.held && !c.channel.output().is_empty())
    }

    /// Bytes for the connection.
    pub(super) fn poll_bytes(&mut self, out: &mut [u8]) -> usize {
        match &mut self.state {
            State::Connected(Connected { channel, held: false, .. }) => {
                let n = out.len().min(channel.output().len());
                out[..n].copy_from_slice(&channel.output()[..n]);
                channel.sent(n);
                n
            }
            _ => 0,
        }
    }

    /// Leaves the present state; buffers of a channel are kept for the next.
    fn leave(&mut self, next: State<'s>) -> Option<(Phase, bool)> {
        match core::mem::replace(&mut self.state, next) {
            State::Connected(connected) => {
                let left = (connected.phase, connected.anonymous);
                self.buffers = Some(connected.channel.into_buffers());
                Some(left)
            }
            _ => None,
        }
    }

    /// Asks the owner to close the connection.
    pub(super) fn hang_up(&mut self) {
        if matches!(self.state, State::Dialing | State::Connected(_)) {
            let _ = self.leave(State::Closing);
            self.close = true;
        }
    }

    /// The next attempts are as slow as they get: the registry is not the one we trust.
    pub(super) fn slow_down(&mut self) {
        self.failures = u32::from(u8::MAX);
    }

    /// The connection is gone. True if a remembered tunnel key was not answered and is to be
    /// forgotten.
    pub(super) fn handle_close(&mut self, now: Instant, rng: &mut Rng) -> bool {
        (self.bytes, self.dial, self.close) = (false, false, false);
        if matches!(self.state, State::Down | State::BackOff(_)) {
            return false;
        }
        let dialing = matches!(self.state, State::Dialing);
        match self.leave(State::Down) {
            Some((Phase::Greeting { remembered: true }, _)) => return true,
            Some((Phase::Greeting { .. }, anonymous)) => {
                self.forgotten = !anonymous;
                self.back_off(now, rng);
            }
            Some((Phase::Asking, _)) => self.back_off(now, rng),
            // An idle channel that ends is no failure.
            Some((Phase::Open { .. }, _)) | None => {
                if dialing || self.failures > 0 {
                    self.back_off(now, rng);
                }
            }
        }
        false
    }

    fn back_off(&mut self, now: Instant, rng: &mut Rng) {
        let doublings = self.failures.min(8);
        let span = (DIRECTORY_BACKOFF_MIN * (1 << doublings)).min(DIRECTORY_BACKOFF_MAX);
        let jitter = Duration::from_nanos(rng.below(span.as_nanos() as u64));
        self.failures = self.failures.saturating_add(1);
        self.state = State::BackOff(now + span / 2 + jitter);
    }

    /// A connection that made no progress counts as failed from now on.
    pub(super) fn note_failure(&mut self) {
        self.failures = self.failures.max(1);
    }

    /// When [`Link::handle_timeout`] has something to do.
    pub(super) fn deadline(&self, busy: bool) -> Instant {
        match &self.state {
            State::BackOff(until) => *until,
            State::Connected(c) => match c.phase {
                Phase::Asking | Phase::Greeting { .. } => c.active + REGISTRY_ANSWER,
                Phase::Open { .. } if !busy => c.active + REGISTRY_IDLE,
                Phase::Open { .. } => Instant::NEVER,
            },
            State::Down | State::Dialing | State::Closing => Instant::NEVER,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, busy: bool) {
        if now < self.deadline(busy) {
            return;
        }
        match &self.state {
            State::BackOff(_) => self.state = State::Down,
            State::Connected(Connected { phase: Phase::Open { .. }, .. }) => self.hang_up(),
            _ => {
                self.note_failure();
                self.hang_up();
            }
        }
    }
}
