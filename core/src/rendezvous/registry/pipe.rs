//! The registry's end of its channel (`wire.md` 6.1): the tunnel's Noise IK over TCP.

use crate::crypto::exchange::{
    MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, MESSAGE2_OVERHEAD, MESSAGE2_PAYLOAD, Pattern, Responder,
};
use crate::crypto::{AeadKey, AeadProvider, CONTEXT, Suite, TunnelKey, TunnelSecret};
use crate::limits::TAG;
use crate::rng::Rng;
use crate::session::handshake::key_schedule;
use crate::session::payload::{BootId, Caps, InitPayload, P1_FIXED, P1_MAX, P2_FIXED, RespPayload};
use crate::stats::DropReason;
use core::net::SocketAddr;

/// First bytes of a client that knows the registry's tunnel key.
pub(super) const KNOWN: &[u8; 4] = b"AOR1";
/// First bytes of one that does not.
pub(super) const UNKNOWN: &[u8; 4] = b"AOR0";
/// Lengths that message 1 may have.
pub(super) const MESSAGE1: core::ops::RangeInclusive<usize> =
    MESSAGE1_OVERHEAD + P1_FIXED..=MESSAGE1_OVERHEAD + P1_MAX;
/// Length of message 2.
pub(super) const MESSAGE2: usize = MESSAGE2_OVERHEAD + P2_FIXED;

/// An open channel: a key and a counter for each direction.
pub(super) struct Pipe {
    send: AeadKey,
    receive: AeadKey,
    sent: u64,
    received: u64,
}

/// What message 1 said, and who said it.
pub(super) struct Accepted {
    pub(super) payload: InitPayload,
    pub(super) remote: TunnelKey,
    pub(super) hash: [u8; 32],
    pub(super) message2: [u8; MESSAGE2],
    pub(super) pipe: Pipe,
}

pub(super) fn accept(
    secret: &TunnelSecret,
    aead: &dyn AeadProvider,
    rng: &mut Rng,
    boot_id: BootId,
    observed: SocketAddr,
    message1: &mut [u8],
) -> Result<Accepted, DropReason> {
    let prologue = [&CONTEXT[..], KNOWN];
    let exchange = Responder::read_message1(Pattern::Ik, &prologue, secret, message1)
        .map_err(|_| DropReason::Handshake)?;
    let remote = exchange.remote_static();
    let payload = &message1[MESSAGE1_PAYLOAD..message1.len() - TAG];
    let payload = InitPayload::decode(payload).map_err(|_| DropReason::Malformed)?;
    let caps = Caps::of(aead);
    let suite: Suite = caps.choose(payload.caps).ok_or(DropReason::Handshake)?;
    let answer = RespPayload {
        suite: suite.to_byte(),
        caps,
        max_datagram: 0,
        observed: Some(observed),
        boot_id,
        record: None,
        early: None,
    };
    let mut message2 = [0; MESSAGE2 + crate::session::payload::P2_MAX];
    answer.encode(&mut message2[MESSAGE2_PAYLOAD..]);
    let ephemeral = TunnelSecret::from_secret(rng.bytes());
    let finished = exchange
        .write_message2(ephemeral, &mut message2[..MESSAGE2])
        .map_err(|_| DropReason::Handshake)?;
    let keys = key_schedule(&finished, suite, 0, 0, false);
    let pipe = Pipe {
        send: aead.key(suite, keys.send.as_bytes()),
        receive: aead.key(suite, keys.receive.as_bytes()),
        sent: 0,
        received: 0,
    };
    let message2 = *message2.first_chunk().expect("the buffer is longer");
    Ok(Accepted { payload, remote, hash: keys.hash, message2, pipe })
}

fn nonce(counter: &mut u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    *counter += 1;
    nonce
}

impl Pipe {
    /// Opens a frame's content in place; gives the plaintext.
    pub(super) fn open<'f>(&mut self, frame: &'f mut [u8]) -> Result<&'f [u8], DropReason> {
        let (text, tag) = frame.split_last_chunk_mut::<TAG>().ok_or(DropReason::Malformed)?;
        self.receive
            .open_in_place(nonce(&mut self.received), text, tag)
            .map_err(|_| DropReason::Decrypt)?;
        Ok(text)
    }

    /// Appends a frame with its length.
    pub(super) fn seal(&mut self, plaintext: &[u8], out: &mut alloc::vec::Vec<u8>) {
        out.extend_from_slice(&((plaintext.len() + TAG) as u16).to_be_bytes());
        let at = out.len();
        out.extend_from_slice(plaintext);
        let tag = self.send.seal_in_place(nonce(&mut self.sent), &mut out[at..]);
        out.extend_from_slice(&tag);
    }
}
