//! The client's end of the registry channel (`wire.md` 6.1): the tunnel's Noise IK over TCP.
//!
//! ```text
//! "AOR1" | length 2 | message 1          length 2 | message 2          length 2 | AEAD frame
//! ```
//!
//! TCP keeps order, so the nonce is a counter that is not sent.

use crate::crypto::exchange::{
    self, ExchangeError, MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, MESSAGE2_PAYLOAD, Pattern,
};
use crate::crypto::{AeadKey, AeadProvider, CONTEXT, Suite, TunnelKey, TunnelSecret};
use crate::limits::TAG;
use crate::rng::Rng;
use crate::session::handshake::key_schedule;
use crate::session::payload::{Caps, InitPayload, RespPayload};

/// First bytes of a client that knows the registry's tunnel key.
pub(super) const KNOWN: &[u8; 4] = b"AOR1";
/// First bytes of one that does not.
pub(super) const UNKNOWN: &[u8; 4] = b"AOR0";
const HEAD: usize = 6;

/// Not the registry, or not what it sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChannelError;

impl From<ExchangeError> for ChannelError {
    fn from(_: ExchangeError) -> Self {
        ChannelError
    }
}

/// Message 1 was sent.
pub(super) struct Greeting {
    exchange: exchange::Initiator,

    /// Our own, with which message 2 is read.
    with: TunnelKey,
    offer: Caps,
}

impl Greeting {
    /// Writes `AOR1` and message 1 to the start of `out`; gives their length.
    pub(super) fn start(
        s: &TunnelSecret,
        tunnel: &TunnelKey,
        rng: &mut Rng,
        payload: &InitPayload,
        out: &mut [u8],
    ) -> Result<(Self, usize), ChannelError> {
        let n = payload.encode(&mut out[HEAD + MESSAGE1_PAYLOAD..]);
        let len = MESSAGE1_OVERHEAD + n;
        out[..4].copy_from_slice(KNOWN);
        out[4..HEAD].copy_from_slice(&(len as u16).to_be_bytes());
        let message = &mut out[HEAD..HEAD + len];
        let prologue = [&CONTEXT[..], KNOWN];
        let e = TunnelSecret::from_secret(rng.bytes());
        let exchange = exchange::Initiator::write_message1(
            Pattern::Ik,
            &prologue,
            s,
            tunnel,
            e,
            message,
        )?;
        let greeting =
            Greeting { exchange, with: s.public(), offer: payload.caps };
        Ok((greeting, HEAD + len))
    }

    /// Opens message 2 in place; `secrets` are our tunnel secrets, one of which it was
    /// started with.
    pub(super) fn finish<'o>(
        &self,
        mut secrets: impl Iterator<Item = &'o TunnelSecret>,
        aead: &dyn AeadProvider,
        message: &mut [u8],
    ) -> Result<Channel, ChannelError> {
        let s = secrets.find(|s| s.public() == self.with).ok_or(ChannelError)?;
        let finished = self.exchange.read_message2(s, message)?;
        let payload = &message[MESSAGE2_PAYLOAD..message.len() - TAG];
        let payload = RespPayload::decode(payload).map_err(|_| ChannelError)?;
        let suite = Suite::from_byte(payload.suite)
            .filter(|suite| self.offer.offers(*suite))
            .ok_or(ChannelError)?;
        let keys = key_schedule(&finished, suite, 0, 0, true);
        Ok(Channel {
            send: aead.key(suite, keys.send.as_bytes()),
            receive: aead.key(suite, keys.receive.as_bytes()),
            sent: 0,
            received: 0,
            hash: keys.hash,
        })
    }
}

/// An open channel.
pub(super) struct Channel {
    send: AeadKey,
    receive: AeadKey,
    sent: u64,
    received: u64,
    hash: [u8; 32],
}

impl Channel {
    /// The transcript hash, which names this very channel.
    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Encrypts the first `len` bytes of `buf` in place and puts the tag behind them; gives
    /// the length of both.
    pub(super) fn seal(&mut self, buf: &mut [u8], len: usize) -> Result<usize, ChannelError> {
        let (text, rest) = buf.split_at_mut_checked(len).ok_or(ChannelError)?;
        let tag = rest.get_mut(..TAG).ok_or(ChannelError)?;
        tag.copy_from_slice(&self.send.seal_in_place(nonce(&mut self.sent), text));
        Ok(len + TAG)
    }

    /// Decrypts a frame in place; gives the length of its plaintext.
    pub(super) fn open(&mut self, frame: &mut [u8]) -> Result<usize, ChannelError> {
        let (text, tag) = frame.split_last_chunk_mut::<TAG>().ok_or(ChannelError)?;
        self.receive
            .open_in_place(nonce(&mut self.received), text, tag)
            .map_err(|_| ChannelError)?;
        Ok(text.len())
    }
}

fn nonce(counter: &mut u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    *counter += 1;
    nonce
}
