//! The registry channel over TCP (`wire.md` 6.1), both ends, as bytes in and bytes out.
//!
//! ```text
//! client                                          server
//! "AOR0" | nonce 32                       ──►                     only if the tunnel key is
//!                       ◄── ed25519 32 | tunnel 32 | sig 64       unknown or did not answer
//! "AOR1" | len 2 | msg1                   ──►
//!                                         ◄── len 2 | msg2
//! len 2 | AEAD                            ◄─►   nonce 0^4 | counter, indices 0 in 4.4
//! ```
//!
//! | State of the client | Input | Next |
//! |---|---|---|
//! | Keys | 128 bytes, rightly signed, by the pinned key if there is one | Answer |
//! | Answer | msg2 authenticates | Open |
//! | Open | a frame authenticates | Open |
//!
//! | State of the server | Input | Next |
//! |---|---|---|
//! | Hello | AOR0, once | Hello |
//! | Hello | AOR1 and a msg1 for node 1 that authenticates | Open |
//! | Open | a frame authenticates | Open |
//!
//! Anything else is an error, after which the connection is closed. There are no macs, cookies,
//! numbers or slots here: TCP has shown that the client receives, and a channel lives no longer
//! than its connection. Time limits are the owner's.

use super::handshake::{SessionKeys, key_schedule};
use super::payload::{BootId, Caps, InitPayload, P1_FIXED, P1_MAX, P2_FIXED, P2_MAX, RespPayload};
use crate::addr::Address;
use crate::crypto::assign::{sign_keys, verify_keys};
use crate::crypto::exchange::{
    Initiator, MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, MESSAGE2_OVERHEAD, MESSAGE2_PAYLOAD, Pattern,
    Responder,
};
use crate::crypto::{
    AeadKey, AeadProvider, CONTEXT, Identity, IdentityKey, Record, Suite, TunnelKey, TunnelSecret,
};
use crate::limits::{REGISTRY_FRAME_MAX, REGISTRY_PRE_AUTH_BYTES, TAG};
use crate::rng::Rng;
use crate::slab::Store;

const HELLO: &[u8; 4] = b"AOR1";
const ASK_KEYS: &[u8; 4] = b"AOR0";
const NONCE: usize = 32;
const KEYS: usize = 32 + 32 + 64;

/// Bytes that each of a channel's two buffers should have: one longest frame.
pub const BUFFER: usize = 2 + REGISTRY_FRAME_MAX;
/// Bytes that suffice a server for each buffer until its client has authenticated: all that it
/// may send, and the keys with msg2 in answer.
pub const HELLO_BUFFER: usize = REGISTRY_PRE_AUTH_BYTES;
const _: () = assert!(KEYS + 2 + MESSAGE2_OVERHEAD + P2_MAX <= HELLO_BUFFER);

/// Why a channel ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// Bytes that are no message of this protocol.
    #[error("the other end does not speak this protocol")]
    Malformed,
    /// A message that does not authenticate.
    #[error("the other end is not who it should be")]
    NotAuthentic,
    /// The registry shows another identity than the pinned one.
    #[error("the registry's key has changed")]
    KeyChanged {
        /// The key that was pinned.
        pinned: IdentityKey,
        /// The key that it shows now.
        shown: IdentityKey,
    },
    /// No common suite, or one that was not offered.
    #[error("no common cipher suite")]
    Suite,
    /// More bytes before authentication than allowed.
    #[error("too much before authentication")]
    TooLong,
}

/// Bytes that came and bytes that are to go.
struct Pipe<'s> {
    input: Store<'s, u8>,
    start: usize,
    end: usize,
    output: Store<'s, u8>,
    out_start: usize,
    out_end: usize,
}

impl<'s> Pipe<'s> {
    fn new(input: Store<'s, u8>, output: Store<'s, u8>, room: usize) -> Self {
        assert!(input.len() >= room && output.len() >= room, "room for a message each way");
        Pipe { input, start: 0, end: 0, output, out_start: 0, out_end: 0 }
    }

    /// Goes on in other buffers, with the bytes that are here.
    fn move_to(&mut self, mut input: Store<'s, u8>, mut output: Store<'s, u8>) {
        assert!(input.len() >= BUFFER && output.len() >= BUFFER, "room for a frame each way");
        let (came, goes) = (self.waiting(), &self.output[self.out_start..self.out_end]);
        let (end, out_end) = (came.len(), goes.len());
        input[..end].copy_from_slice(came);
        output[..out_end].copy_from_slice(goes);
        *self = Pipe { input, start: 0, end, output, out_start: 0, out_end };
    }

    fn fill(&mut self, bytes: &[u8]) -> usize {
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let n = bytes.len().min(self.input.len() - self.end);
        self.input[self.end..][..n].copy_from_slice(&bytes[..n]);
        self.end += n;
        n
    }

    fn waiting(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Takes `n` bytes if they are there.
    fn take(&mut self, n: usize) -> Option<&mut [u8]> {
        let at = self.start;
        (self.end - at >= n).then(|| {
            self.start += n;
            &mut self.input[at..at + n]
        })
    }

    /// Takes `len 2 ‖ bytes` if all of it is there; the length must lie in `range`.
    fn take_message(
        &mut self,
        range: core::ops::RangeInclusive<usize>,
    ) -> Result<Option<&mut [u8]>, ChannelError> {
        let Some(head) = self.waiting().first_chunk::<2>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(*head));
        if !range.contains(&len) {
            return Err(ChannelError::Malformed);
        }
        Ok(self.take(2 + len).map(|message| &mut message[2..]))
    }

    /// The free end of the output, at least `n` bytes.
    fn room(&mut self, n: usize) -> Option<&mut [u8]> {
        if self.output.len() - self.out_end < n {
            self.output.copy_within(self.out_start..self.out_end, 0);
            (self.out_start, self.out_end) = (0, self.out_end - self.out_start);
        }
        let at = self.out_end;
        (self.output.len() - at >= n).then(|| &mut self.output[at..])
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.room(bytes.len())?[..bytes.len()].copy_from_slice(bytes);
        self.out_end += bytes.len();
        Some(())
    }

    fn sent(&mut self, n: usize) {
        self.out_start = (self.out_start + n).min(self.out_end);
        if self.out_start == self.out_end {
            (self.out_start, self.out_end) = (0, 0);
        }
    }
}

/// The keys and counters of an open channel.
struct Frames {
    send: AeadKey,
    receive: AeadKey,
    sent: u64,
    received: u64,
    hash: [u8; 32],
}

impl Frames {
    fn new(aead: &dyn AeadProvider, keys: &SessionKeys) -> Self {
        Frames {
            send: aead.key(keys.suite, keys.send.as_bytes()),
            receive: aead.key(keys.suite, keys.receive.as_bytes()),
            sent: 0,
            received: 0,
            hash: keys.hash,
        }
    }

    fn seal(
        &mut self,
        pipe: &mut Pipe<'_>,
        build: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let free = pipe.room(2 + TAG)?;
        let room = free.len().min(2 + REGISTRY_FRAME_MAX);
        let n = build(&mut free[2..room - TAG])?;
        let frame = free.get_mut(..2 + n + TAG)?;
        frame[..2].copy_from_slice(&((n + TAG) as u16).to_be_bytes());
        let (text, tag) = frame[2..].split_last_chunk_mut::<TAG>()?;
        *tag = self.send.seal_in_place(nonce(self.sent), text);
        self.sent += 1;
        pipe.out_end += 2 + n + TAG;
        Some(n)
    }

    fn open<'p>(&mut self, pipe: &'p mut Pipe<'_>) -> Result<Option<&'p mut [u8]>, ChannelError> {
        let Some(frame) = pipe.take_message(TAG..=REGISTRY_FRAME_MAX)? else { return Ok(None) };
        let (text, tag) = frame.split_last_chunk_mut::<TAG>().ok_or(ChannelError::Malformed)?;
        self.receive
            .open_in_place(nonce(self.received), text, tag)
            .map_err(|_| ChannelError::NotAuthentic)?;
        self.received += 1;
        Ok(Some(text))
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// What either end of a channel says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Introduction {
    /// Our address; unspecified before the first `Register`.
    pub address: Address,
    /// Our record, once it is registered.
    pub record: Option<Record>,
    /// This process start.
    pub boot_id: BootId,
    /// The largest UDP payload that we accept.
    pub max_datagram: u16,
    /// The suites that we offer.
    pub caps: Caps,
}

/// What a client's channel yields.
#[derive(Debug)]
pub enum ClientEvent<'b> {
    /// The registry showed its keys: pin `identity` if nothing was pinned, remember `tunnel`.
    Keys {
        /// Its identity.
        identity: IdentityKey,
        /// Its present tunnel key.
        tunnel: TunnelKey,
    },
    /// The channel is open; `hash` is what `Reserve` signs.
    Open {
        /// The handshake's transcript hash.
        hash: [u8; 32],
    },
    /// A frame's plaintext.
    Frame(&'b mut [u8]),
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is no allocator, and one state per connection"
)]
enum ClientState {
    Keys { nonce: [u8; NONCE] },
    Answer { initiator: Initiator, offer: Caps },
    Open(Frames),
    Failed,
}

/// An agent's end.
pub struct ClientChannel<'s> {
    pipe: Pipe<'s>,
    state: ClientState,
    pin: Option<IdentityKey>,
    us: Introduction,
}

impl<'s> ClientChannel<'s> {
    /// Begins on a fresh connection: with AOR1 if the registry's tunnel key is remembered, by
    /// asking for it otherwise (also after an AOR1 that was closed without an answer). Both
    /// buffers have at least [`BUFFER`] bytes.
    pub fn new(
        us: Introduction,
        secret: &TunnelSecret,
        pin: Option<IdentityKey>,
        remembered: Option<TunnelKey>,
        rng: &mut Rng,
        input: Store<'s, u8>,
        output: Store<'s, u8>,
    ) -> Self {
        let pipe = Pipe::new(input, output, BUFFER);
        let mut channel = ClientChannel { pipe, state: ClientState::Failed, pin, us };
        let hello = remembered.and_then(|key| channel.hello(secret, &key, rng).ok());
        if hello.is_none() {
            let nonce = rng.bytes();
            let asked = channel.pipe.put(ASK_KEYS).and_then(|()| channel.pipe.put(&nonce));
            if asked.is_some() {
                channel.state = ClientState::Keys { nonce };
            }
        }
        channel
    }

    fn hello(
        &mut self,
        secret: &TunnelSecret,
        registry: &TunnelKey,
        rng: &mut Rng,
    ) -> Result<(), ChannelError> {
        let payload = InitPayload {
            caps: self.us.caps,
            rekey: false,
            max_datagram: self.us.max_datagram,
            src: self.us.address,
            dst: Address::REGISTRY,
            hs_seq: 0,
            known_peer_serial: 0,
            generation: 0,
            boot_id: self.us.boot_id,
            record: self.us.record.as_ref().map(Record::to_short),
            early: None,
        };
        let mut message = [0; MESSAGE1_OVERHEAD + P1_MAX];
        let n = payload.encode(&mut message[MESSAGE1_PAYLOAD..]) + MESSAGE1_OVERHEAD;
        let e = TunnelSecret::from_secret(rng.bytes());
        let prologue: [&[u8]; 2] = [CONTEXT, HELLO];
        let initiator = Initiator::write_message1(
            Pattern::Ik,
            &prologue,
            secret,
            registry,
            e,
            &mut message[..n],
        )
        .map_err(|_| ChannelError::NotAuthentic)?;
        for part in [&HELLO[..], &(n as u16).to_be_bytes(), &message[..n]] {
            self.pipe.put(part).ok_or(ChannelError::TooLong)?;
        }
        self.state = ClientState::Answer { initiator, offer: self.us.caps };
        Ok(())
    }

    /// Takes bytes from the connection; returns how many. Fewer than given: call
    /// [`ClientChannel::poll`] until `None` first.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        self.pipe.fill(bytes)
    }

    /// The next event; `secret` is the one that the channel was made with. After an error the
    /// connection is to be closed.
    pub fn poll(
        &mut self,
        secret: &TunnelSecret,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) -> Result<Option<ClientEvent<'_>>, ChannelError> {
        if let ClientState::Open(frames) = &mut self.state {
            let frame = frames.open(&mut self.pipe).inspect_err(|_| {
                self.state = ClientState::Failed;
            })?;
            return Ok(frame.map(ClientEvent::Frame));
        }
        match core::mem::replace(&mut self.state, ClientState::Failed) {
            ClientState::Failed | ClientState::Open(_) => Err(ChannelError::Malformed),
            ClientState::Keys { nonce } => {
                let Some(answer) = self.pipe.take(KEYS) else {
                    self.state = ClientState::Keys { nonce };
                    return Ok(None);
                };
                let part = |at: usize| core::array::from_fn::<u8, 32, _>(|i| answer[at + i]);
                let (identity, tunnel) = (IdentityKey(part(0)), TunnelKey(part(32)));
                let sig: [u8; 64] = core::array::from_fn(|i| answer[64 + i]);
                if let Some(pinned) = self.pin.filter(|pin| *pin != identity) {
                    return Err(ChannelError::KeyChanged { pinned, shown: identity });
                }
                verify_keys(&identity, &nonce, &tunnel, &sig)
                    .map_err(|_| ChannelError::NotAuthentic)?;
                self.pin = Some(identity);
                self.hello(secret, &tunnel, rng)?;
                Ok(Some(ClientEvent::Keys { identity, tunnel }))
            }
            ClientState::Answer { initiator, offer } => {
                let range = MESSAGE2_OVERHEAD + P2_FIXED..=MESSAGE2_OVERHEAD + P2_MAX;
                let Some(message) = self.pipe.take_message(range)? else {
                    self.state = ClientState::Answer { initiator, offer };
                    return Ok(None);
                };
                let finished = initiator
                    .read_message2(secret, message)
                    .map_err(|_| ChannelError::NotAuthentic)?;
                let payload = &message[MESSAGE2_PAYLOAD..message.len() - 16];
                let payload = RespPayload::decode(payload).map_err(|_| ChannelError::Malformed)?;
                let suite = Suite::from_byte(payload.suite)
                    .filter(|suite| offer.offers(*suite))
                    .ok_or(ChannelError::Suite)?;
                let keys = key_schedule(&finished, suite, 0, 0, true);
                self.state = ClientState::Open(Frames::new(aead, &keys));
                Ok(Some(ClientEvent::Open { hash: keys.hash }))
            }
        }
    }

    /// Whether frames can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, ClientState::Open(_))
    }

    /// Gives the two buffers back, for the next connection.
    pub fn into_buffers(self) -> (Store<'s, u8>, Store<'s, u8>) {
        (self.pipe.input, self.pipe.output)
    }

    /// Sends one frame, which `build` writes and returns the length of; at most
    /// [`REGISTRY_FRAME_MAX`] less the tag. `None` if the channel is not open, the buffer is
    /// full, or `build` gave up.
    pub fn send(&mut self, build: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<usize> {
        let ClientState::Open(frames) = &mut self.state else { return None };
        frames.seal(&mut self.pipe, build)
    }

    /// Bytes for the connection.
    pub fn output(&self) -> &[u8] {
        &self.pipe.output[self.pipe.out_start..self.pipe.out_end]
    }

    /// `n` of these bytes were sent.
    pub fn sent(&mut self, n: usize) {
        self.pipe.sent(n);
    }
}

/// A registry's keys, for all its channels.
#[derive(Clone, Copy)]
pub struct ServerKeys<'k> {
    /// Signs the tunnel key for AOR0.
    pub identity: &'k Identity,
    /// The present tunnel secret.
    pub secret: &'k TunnelSecret,
    /// The one before, which remembered keys may still name.
    pub previous: Option<&'k TunnelSecret>,
}

/// What a server's channel yields.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is no allocator, and it is not stored")]
pub enum ServerEvent<'b> {
    /// A client has authenticated; who it is says its record, or `Reserve`.
    Open {
        /// The handshake's transcript hash, which `Reserve` signs.
        hash: [u8; 32],
        /// Its tunnel key.
        tunnel: TunnelKey,
        /// The address that it claims; unspecified before its first `Register`.
        address: Address,
        /// Its record: not verified yet.
        record: Option<Record>,
        /// Its process start.
        boot_id: BootId,
    },
    /// A frame's plaintext.
    Frame(&'b mut [u8]),
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is no allocator, and one state per connection"
)]
enum ServerState {
    Hello { asked: bool },
    Open(Frames),
    Failed,
}

/// A registry's end.
pub struct ServerChannel<'s> {
    pipe: Pipe<'s>,
    state: ServerState,
    pre_auth: usize,
    us: Introduction,
}

impl<'s> ServerChannel<'s> {
    /// A connection that was accepted. Both buffers have at least [`HELLO_BUFFER`] bytes: a
    /// stranger is worth no more. Once the channel is open it needs [`ServerChannel::grow`].
    pub fn new(us: Introduction, input: Store<'s, u8>, output: Store<'s, u8>) -> Self {
        let state = ServerState::Hello { asked: false };
        let pipe = Pipe::new(input, output, HELLO_BUFFER);
        ServerChannel { pipe, state, pre_auth: 0, us }
    }

    /// Goes on in buffers of at least [`BUFFER`] bytes, as [`ServerEvent::Open`] asks for.
    pub fn grow(&mut self, input: Store<'s, u8>, output: Store<'s, u8>) {
        self.pipe.move_to(input, output);
    }

    /// Whether the next [`ServerChannel::poll`] computes for a stranger: a signature, or
    /// Diffie–Hellmans.
    pub fn is_costly(&self) -> bool {
        let ServerState::Hello { .. } = self.state else { return false };
        let waiting = self.pipe.waiting();
        match waiting.first_chunk::<6>() {
            Some([b'A', b'O', b'R', b'0', ..]) => waiting.len() >= ASK_KEYS.len() + NONCE,
            Some([b'A', b'O', b'R', b'1', high, low]) => {
                waiting.len() - 6 >= usize::from(u16::from_be_bytes([*high, *low]))
            }
            _ => false,
        }
    }

    /// Takes bytes from the connection; returns how many. Before the client has authenticated
    /// that is 512 in all.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        if self.is_open() {
            return self.pipe.fill(bytes);
        }
        let n = bytes.len().min(REGISTRY_PRE_AUTH_BYTES - self.pre_auth);
        self.pre_auth += n;
        self.pipe.fill(&bytes[..n])
    }

    /// The next event. After an error the connection is to be closed.
    pub fn poll(
        &mut self,
        keys: ServerKeys<'_>,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) -> Result<Option<ServerEvent<'_>>, ChannelError> {
        match &mut self.state {
            ServerState::Failed => Err(ChannelError::Malformed),
            ServerState::Hello { asked } => {
                let asked = *asked;
                self.poll_hello(keys, aead, rng, asked)
            }
            ServerState::Open(frames) => {
                let frame = frames.open(&mut self.pipe).inspect_err(|_| {
                    self.state = ServerState::Failed;
                })?;
                Ok(frame.map(ServerEvent::Frame))
            }
        }
    }

    fn poll_hello(
        &mut self,
        keys: ServerKeys<'_>,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
        mut asked: bool,
    ) -> Result<Option<ServerEvent<'_>>, ChannelError> {
        self.state = ServerState::Failed;
        loop {
            let waiting = self.pipe.waiting();
            let known = waiting.len().min(4);
            if waiting[..known] != ASK_KEYS[..known] && waiting[..known] != HELLO[..known] {
                return Err(ChannelError::Malformed);
            }
            let Some(magic) = waiting.first_chunk::<4>() else {
                return self.wait(asked);
            };
            if magic == HELLO {
                break;
            }
            if asked {
                return Err(ChannelError::Malformed);
            }
            let Some(question) = self.pipe.take(4 + NONCE) else { return self.wait(asked) };
            let nonce = core::array::from_fn(|i| question[4 + i]);
            let tunnel = keys.secret.public();
            let sig = sign_keys(keys.identity, &nonce, &tunnel);
            for part in [&keys.identity.public().0[..], &tunnel.0, &sig] {
                self.pipe.put(part).ok_or(ChannelError::TooLong)?;
            }
            asked = true;
        }
        // The magic stays until the whole message is there.
        let Some(head) = self.pipe.waiting().first_chunk::<6>() else { return self.wait(asked) };
        let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
        if !(MESSAGE1_OVERHEAD + P1_FIXED..=MESSAGE1_OVERHEAD + P1_MAX).contains(&len) {
            return Err(ChannelError::Malformed);
        }
        let Some(message) = self.pipe.take(6 + len) else { return self.wait(asked) };
        let message = &mut message[6..];
        let prologue: [&[u8]; 2] = [CONTEXT, HELLO];
        let mut read = |s| Responder::read_message1(Pattern::Ik, &prologue, s, message);
        let responder = read(keys.secret)
            .or_else(|error| keys.previous.map_or(Err(error), read))
            .map_err(|_| ChannelError::NotAuthentic)?;
        let payload = InitPayload::decode(&message[MESSAGE1_PAYLOAD..len - 16])
            .map_err(|_| ChannelError::Malformed)?;
        self.answer(responder, &payload, aead, rng)
    }

    fn wait(&mut self, asked: bool) -> Result<Option<ServerEvent<'_>>, ChannelError> {
        self.state = ServerState::Hello { asked };
        if self.pre_auth >= REGISTRY_PRE_AUTH_BYTES {
            return Err(ChannelError::TooLong);
        }
        Ok(None)
    }

    fn answer(
        &mut self,
        responder: Responder,
        p1: &InitPayload,
        aead: &dyn AeadProvider,
        rng: &mut Rng,
    ) -> Result<Option<ServerEvent<'_>>, ChannelError> {
        if p1.dst != Address::REGISTRY {
            return Err(ChannelError::NotAuthentic);
        }
        let suite = self.us.caps.choose(p1.caps).ok_or(ChannelError::Suite)?;
        let p2 = RespPayload {
            suite: suite.to_byte(),
            caps: self.us.caps,
            max_datagram: self.us.max_datagram,
            observed: None,
            boot_id: self.us.boot_id,
            record: None,
            early: None,
        };
        let tunnel = responder.remote_static();
        let mut message = [0; MESSAGE2_OVERHEAD + P2_MAX];
        let n = p2.encode(&mut message[MESSAGE2_PAYLOAD..]) + MESSAGE2_OVERHEAD;
        let e = TunnelSecret::from_secret(rng.bytes());
        let finished = responder
            .write_message2(e, &mut message[..n])
            .map_err(|_| ChannelError::NotAuthentic)?;
        for part in [&(n as u16).to_be_bytes()[..], &message[..n]] {
            self.pipe.put(part).ok_or(ChannelError::TooLong)?;
        }
        let keys = key_schedule(&finished, suite, 0, 0, false);
        self.state = ServerState::Open(Frames::new(aead, &keys));
        Ok(Some(ServerEvent::Open {
            hash: keys.hash,
            tunnel,
            address: p1.src,
            record: p1.record.map(|short| short.expand(p1.src, tunnel)),
            boot_id: p1.boot_id,
        }))
    }

    /// Whether the client has authenticated.
    pub fn is_open(&self) -> bool {
        matches!(self.state, ServerState::Open(_))
    }

    /// The transcript hash of an open channel.
    pub fn hash(&self) -> Option<&[u8; 32]> {
        match &self.state {
            ServerState::Open(frames) => Some(&frames.hash),
            _ => None,
        }
    }

    /// See [`ClientChannel::send`].
    pub fn send(&mut self, build: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<usize> {
        let ServerState::Open(frames) = &mut self.state else { return None };
        frames.seal(&mut self.pipe, build)
    }

    /// Bytes for the connection.
    pub fn output(&self) -> &[u8] {
        &self.pipe.output[self.pipe.out_start..self.pipe.out_end]
    }

    /// `n` of these bytes were sent.
    pub fn sent(&mut self, n: usize) {
        self.pipe.sent(n);
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
