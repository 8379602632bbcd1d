//! The TCP connection to the registry (`wire.md` 6.1): dialling, key pinning, the channel's
//! handshake and its frames. What the frames say is [`super::flow`]'s business.
//!
//! | State | Input | Next |
//! |---|---|---|
//! | Down | something to ask | Dialing, edge Dial |
//! | Dialing | open, tunnel key remembered | Greeting: AOR1 sent |
//! | Dialing | open, none remembered | Asking: AOR0 sent |
//! | Asking | keys signed by the pinned (or given, or first) identity | Keyed |
//! | Asking | keys of another identity | Closing, event; the next attempt is slow |
//! | Keyed | pin durable | Greeting: AOR1 sent |
//! | Greeting | message 2 | Open |
//! | Greeting | closed, key was remembered | Down at once, key forgotten |
//! | Greeting | closed, key was fresh, record shown | BackOff; the next greeting shows none |
//! | Open | idle 60 s, frame that does not open, request unanswered 10 s | Closing, edge Close |
//! | any but Down, BackOff | closed | BackOff: 0.5 s doubling to 30 s, ± 50 % |
//! | BackOff | time | Down |
//!
//! Only the registry's Ed25519 key is pinned; its tunnel key rotates. Nothing is sent to a
//! registry that shows another identity but the 36 bytes that ask for its keys.

use super::channel::{Channel, Greeting, UNKNOWN};
use super::own::Own;
use crate::addr::Address;
use crate::crypto::assign::verify_keys;
use crate::crypto::{AeadProvider, IdentityKey, TunnelKey};
use crate::limits::{
    DIRECTORY_BACKOFF_MAX, DIRECTORY_BACKOFF_MIN, REGISTRY_ANSWER, REGISTRY_FRAME_MAX,
    REGISTRY_IDLE, TAG,
};
use crate::rng::Rng;
use crate::session::payload::{Caps, InitPayload};
use crate::slab::Store;
use crate::time::{Duration, Instant};

/// Bytes that the receive and the send buffer of a link need, each: one frame and its length.
pub const LINK_BYTES: usize = REGISTRY_FRAME_MAX + 2;
const KEYS: usize = 32 + 32 + 64;

#[expect(clippy::large_enum_variant, reason = "there is one link in a node")]
enum State {
    Down,
    BackOff(Instant),
    Dialing,
    Asking { nonce: [u8; 32], since: Instant },
    Keyed { tunnel: TunnelKey },
    Greeting { greeting: Greeting, remembered: bool, since: Instant },
    Open(Channel),
    Closing,
}

/// What bytes from the connection came to.
pub(super) enum Received {
    /// Nothing yet.
    More,
    /// The registry showed its keys.
    Keys { shown: IdentityKey, tunnel: TunnelKey },
    /// The channel is open.
    Opened,
    /// A plaintext of this length lies at the start of [`Link::plaintext`].
    Frame(usize),
    /// Not the registry, or not its protocol.
    Broken,
}

pub(super) struct Link<'s> {
    state: State,
    rx: Store<'s, u8>,
    rx_len: usize,
    tx: Store<'s, u8>,
    tx_from: usize,
    tx_to: usize,
    failures: u32,
    active: Instant,
    /// The present greeting shows no record, nor is an address of ours believed.
    anonymous: bool,
    /// The registry refused our record: the next greeting shows none.
    forgotten: bool,
    /// The registry's tunnel key of the present channel.
    tunnel: Option<TunnelKey>,
    pub(super) dial: bool,
    pub(super) close: bool,
    pub(super) bytes: bool,
}

impl<'s> Link<'s> {
    pub(super) fn new(rx: Store<'s, u8>, tx: Store<'s, u8>) -> Self {
        assert!(rx.len() >= LINK_BYTES && tx.len() >= LINK_BYTES, "link buffers are too small");
        Link {
            state: State::Down,
            rx,
            rx_len: 0,
            tx,
            tx_from: 0,
            tx_to: 0,
            failures: 0,
            active: Instant::START,
            anonymous: true,
            forgotten: false,
            tunnel: None,
            dial: false,
            close: false,
            bytes: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether the owner was asked to close the connection and has not reported it.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    /// Whether the registry has not seen our record on this channel.
    pub(super) fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    /// The registry's tunnel key, proven by the channel.
    pub(super) fn tunnel(&self) -> Option<TunnelKey> {
        self.tunnel
    }

    /// The hash that names the open channel.
    pub(super) fn hash(&self) -> Option<&[u8; 32]> {
        match &self.state {
            State::Open(channel) => Some(channel.hash()),
            _ => None,
        }
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

    /// The connection is up: asks for the keys, or greets with a remembered one.
    pub(super) fn handle_open(
        &mut self,
        now: Instant,
        own: &Own,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) {
        if !matches!(self.state, State::Dialing) {
            return;
        }
        (self.rx_len, self.tx_from, self.tx_to) = (0, 0, 0);
        self.active = now;
        match own.registry.tunnel {
            Some(tunnel) => self.greet(now, own, aead, rng, tunnel, true),
            None => {
                let nonce: [u8; 32] = rng.bytes();
                self.tx[..4].copy_from_slice(UNKNOWN);
                self.tx[4..36].copy_from_slice(&nonce);
                self.tx_to = 36;
                self.bytes = true;
                self.state = State::Asking { nonce, since: now };
            }
        }
    }

    /// The keys that the registry showed are to be used.
    pub(super) fn accept_keys(&mut self, tunnel: TunnelKey) {
        self.state = State::Keyed { tunnel };
    }

    /// The pin is durable: goes on with AOR1.
    pub(super) fn proceed(
        &mut self,
        now: Instant,
        own: &Own,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) {
        if let State::Keyed { tunnel } = self.state {
            self.greet(now, own, aead, rng, tunnel, false);
        }
    }

    fn greet(
        &mut self,
        now: Instant,
        own: &Own,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
        tunnel: TunnelKey,
        remembered: bool,
    ) {
        // Only a record that the registry has taken is shown; before, `Reserve` proves us.
        let record = own.keys.record.filter(|_| own.keys.published && !self.forgotten);
        self.anonymous = record.is_none();
        self.tunnel = Some(tunnel);
        let payload = InitPayload {
            caps: Caps::of(aead),
            rekey: false,
            max_datagram: 0,
            src: record.map_or(Address::UNSPECIFIED, |r| r.fields.addr),
            dst: Address::REGISTRY,
            hs_seq: 0,
            known_peer_serial: 0,
            generation: 0,
            boot_id: own.boot_id,
            record: record.map(|r| r.to_short()),
            early: None,
        };
        match Greeting::start(&own.keys.current, &tunnel, rng, &payload, &mut self.tx) {
            Ok((greeting, len)) => {
                (self.tx_from, self.tx_to) = (0, len);
                self.bytes = true;
                self.state = State::Greeting { greeting, remembered, since: now };
            }
            Err(_) => self.hang_up(),
        }
    }

    /// Takes bytes off the front of `bytes` until they come to something.
    pub(super) fn handle_bytes(
        &mut self,
        now: Instant,
        own: &Own,
        aead: &dyn AeadProvider,
        bytes: &mut &[u8],
    ) -> Received {
        loop {
            let wanted = match self.state {
                State::Asking { .. } => KEYS,
                State::Greeting { .. } | State::Open(_) => self.frame_len(),
                _ => {
                    *bytes = &[];
                    return Received::More;
                }
            };
            if wanted > self.rx.len() {
                return Received::Broken;
            }
            let n = bytes.len().min(wanted - self.rx_len);
            let (head, tail) = bytes.split_at(n);
            self.rx[self.rx_len..][..n].copy_from_slice(head);
            self.rx_len += n;
            *bytes = tail;
            if self.rx_len < wanted {
                return Received::More;
            }
            // The length itself was complete: now its frame is wanted.
            let is_unit = matches!(self.state, State::Asking { .. }) || self.frame_len() == wanted;
            if is_unit && (wanted > 2 || matches!(self.state, State::Asking { .. })) {
                self.rx_len = 0;
                self.active = now;
                return self.handle_unit(own, aead, wanted);
            }
            if is_unit {
                return Received::Broken;
            }
        }
    }

    /// Bytes of the frame that begins in the receive buffer, its length included; 2 until that
    /// length is known.
    fn frame_len(&self) -> usize {
        match self.rx_len {
            0 | 1 => 2,
            _ => 2 + usize::from(u16::from_be_bytes([self.rx[0], self.rx[1]])),
        }
    }

    fn handle_unit(&mut self, own: &Own, aead: &dyn AeadProvider, len: usize) -> Received {
        let unit = &mut self.rx[..len];
        match core::mem::replace(&mut self.state, State::Closing) {
            State::Asking { nonce, since } => {
                let shown = IdentityKey(core::array::from_fn(|i| unit[i]));
                let tunnel = TunnelKey(core::array::from_fn(|i| unit[32 + i]));
                let sig = core::array::from_fn(|i| unit[64 + i]);
                self.state = State::Asking { nonce, since };
                match verify_keys(&shown, &nonce, &tunnel, &sig) {
                    Ok(()) => Received::Keys { shown, tunnel },
                    Err(_) => Received::Broken,
                }
            }
            State::Greeting { greeting, remembered, since } => {
                let secrets = [Some(&own.keys.current), own.keys.previous.as_ref()];
                match greeting.finish(secrets.into_iter().flatten(), aead, &mut unit[2..]) {
                    Ok(channel) => {
                        self.state = State::Open(channel);
                        self.forgotten = false;
                        Received::Opened
                    }
                    Err(_) => {
                        self.state = State::Greeting { greeting, remembered, since };
                        Received::Broken
                    }
                }
            }
            State::Open(mut channel) => {
                let opened = channel.open(&mut unit[2..]);
                self.state = State::Open(channel);
                match opened {
                    Ok(n) => Received::Frame(n),
                    Err(_) => Received::Broken,
                }
            }
            other => {
                self.state = other;
                Received::Broken
            }
        }
    }

    /// The plaintext of the frame that [`Received::Frame`] told of.
    pub(super) fn plaintext(&self, len: usize) -> &[u8] {
        &self.rx[2..][..len]
    }

    /// An answer came: the registry is there.
    pub(super) fn handle_answer(&mut self) {
        self.failures = 0;
    }

    /// Whether there is room for a frame; one is built at a time.
    pub(super) fn can_send(&self) -> bool {
        self.is_open() && self.tx_from == self.tx_to
    }

    /// Seals the plaintext that `write` puts into a buffer, if it puts any.
    pub(super) fn send(&mut self, now: Instant, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let State::Open(channel) = &mut self.state else {
            return false;
        };
        let room = self.tx.len() - TAG;
        let len = write(&mut self.tx[2..room]);
        if len == 0 {
            return false;
        }
        let Ok(sealed) = channel.seal(&mut self.tx[2..], len) else {
            self.hang_up();
            return false;
        };
        self.tx[..2].copy_from_slice(&(sealed as u16).to_be_bytes());
        (self.tx_from, self.tx_to) = (0, 2 + sealed);
        self.active = now;
        true
    }

    pub(super) fn has_output(&self) -> bool {
        self.tx_from < self.tx_to
    }

    /// Bytes for the connection.
    pub(super) fn poll_bytes(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.tx_to - self.tx_from);
        out[..n].copy_from_slice(&self.tx[self.tx_from..][..n]);
        self.tx_from += n;
        n
    }

    /// Asks the owner to close the connection.
    pub(super) fn hang_up(&mut self) {
        if !matches!(self.state, State::Down | State::BackOff(_) | State::Closing) {
            self.state = State::Closing;
            self.close = true;
            (self.tx_from, self.tx_to) = (0, 0);
        }
    }

    /// The next attempts are as slow as they get: the registry is not the one we trust.
    pub(super) fn slow_down(&mut self) {
        self.failures = u32::from(u8::MAX);
    }

    /// The connection is gone. True if a remembered tunnel key was not answered and is to be
    /// forgotten.
    pub(super) fn handle_close(&mut self, now: Instant, rng: &mut Rng) -> bool {
        let state = core::mem::replace(&mut self.state, State::Down);
        (self.rx_len, self.tx_from, self.tx_to) = (0, 0, 0);
        self.bytes = false;
        self.dial = false;
        self.close = false;
        match state {
            State::Down => {}
            State::BackOff(until) => self.state = State::BackOff(until),
            State::Greeting { remembered: true, .. } => return true,
            State::Greeting { .. } => {
                self.forgotten = !self.anonymous;
                self.back_off(now, rng);
            }
            // An idle channel that ends is no failure.
            State::Open(_) | State::Closing if self.failures == 0 => {}
            _ => self.back_off(now, rng),
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
            State::Asking { since, .. } | State::Greeting { since, .. } => *since + REGISTRY_ANSWER,
            State::Open(_) if !busy => self.active + REGISTRY_IDLE,
            _ => Instant::NEVER,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, busy: bool) {
        if now < self.deadline(busy) {
            return;
        }
        match self.state {
            State::BackOff(_) => self.state = State::Down,
            State::Asking { .. } | State::Greeting { .. } => {
                self.note_failure();
                self.hang_up();
            }
            _ => self.hang_up(),
        }
    }
}
