//! `Noise_IK_25519_ChaChaPoly_SHA256` and `Noise_X_25519_ChaChaPoly_SHA256`, unmodified
//! (Noise specification revision 34), composed from the RustCrypto and dalek crates without an
//! allocator (`wire.md` 0 D2).
//!
//! ```text
//! IK: <- s   -> e, es, s, ss, payload   <- e, ee, se, payload
//! X:  <- s   -> e, es, s, ss, payload
//! ```
//!
//! The first message of both is the same but for the protocol's name. Each AEAD key is used
//! once, so every nonce is 0. Messages are built and opened in the caller's buffer. Secrets
//! are zeroed when dropped.

use super::identity::{TunnelKey, TunnelSecret};
use super::kdf::{self, SecretKey};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What message 1 costs over its payload: e, s and its tag, the payload's tag.
pub const MESSAGE1_OVERHEAD: usize = 32 + 48 + 16;
/// Where message 1's payload starts.
pub const MESSAGE1_PAYLOAD: usize = 80;
/// What message 2 costs over its payload: e, the payload's tag.
pub const MESSAGE2_OVERHEAD: usize = 32 + 16;
/// Where message 2's payload starts.
pub const MESSAGE2_PAYLOAD: usize = 32;

/// The handshake message does not authenticate, or a key in it is unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the handshake message is not authentic")]
pub struct ExchangeError;

/// The two patterns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Interactive, initiator's static key sent encrypted.
    Ik,
    /// One way, for sealed trust requests.
    X,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Symmetric {
    ck: [u8; 32],
    h: [u8; 32],
    k: [u8; 32],
}

impl Symmetric {
    fn new(pattern: Pattern, prologue: &[&[u8]], responder: &TunnelKey) -> Self {
        let mut h = [0; 32];
        // Names of at most 32 bytes are padded with zeros, not hashed (Noise 5.2).
        let name: &[u8] = match pattern {
            Pattern::Ik => b"Noise_IK_25519_ChaChaPoly_SHA256",
            Pattern::X => b"Noise_X_25519_ChaChaPoly_SHA256",
        };
        h[..name.len()].copy_from_slice(name);
        let mut sym = Symmetric { ck: h, h, k: [0; 32] };
        let mut text = [&[][..]; 8];
        text[0] = &sym.h;
        text[1..=prologue.len()].copy_from_slice(prologue);
        sym.h = kdf::sha256(&text[..=prologue.len()]);
        sym.mix_hash(&responder.0);
        sym
    }

    /// For trying a message that may be forged without giving up the state.
    fn copy(&self) -> Self {
        Symmetric { ck: self.ck, h: self.h, k: self.k }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.h = kdf::sha256(&[&self.h, data]);
    }

    fn mix_dh(&mut self, ours: &TunnelSecret, theirs: &TunnelKey) -> Result<(), ExchangeError> {
        let shared = ours.agree(theirs).ok_or(ExchangeError)?;
        let (ck, k) = kdf::noise_hkdf(&self.ck, shared.as_bytes());
        (self.ck, self.k) = (*ck.as_bytes(), *k.as_bytes());
        Ok(())
    }

    /// Encrypts all of `buf` but its last 16 bytes, which take the tag.
    fn seal(&mut self, buf: &mut [u8]) {
        let (text, tag) = buf.split_last_chunk_mut::<16>().expect("room for the tag");
        let cipher = ChaCha20Poly1305::new((&self.k).into());
        *tag = cipher
            .encrypt_inout_detached(&[0; 12].into(), &self.h, (&mut *text).into())
            .expect("a handshake message is short")
            .into();
        self.mix_hash(buf);
    }

    /// Decrypts in place if the last 16 bytes are the right tag; else `buf` is as it was.
    fn open(&mut self, buf: &mut [u8]) -> Result<(), ExchangeError> {
        let h = kdf::sha256(&[&self.h, buf]);
        let (text, tag) = buf.split_last_chunk_mut::<16>().ok_or(ExchangeError)?;
        let cipher = ChaCha20Poly1305::new((&self.k).into());
        cipher
            .decrypt_inout_detached(&[0; 12].into(), &self.h, text.into(), &(*tag).into())
            .map_err(|_| ExchangeError)?;
        self.h = h;
        Ok(())
    }

    fn stale_key(&self) -> SecretKey {
        kdf::expand(&SecretKey(self.ck), &[super::CONTEXT, b"stale", &self.h])
    }
}

/// An initiator that has sent message 1.
pub struct Initiator {
    sym: Symmetric,
    e: TunnelSecret,
}

impl Initiator {
    /// Writes message 1 into `buf`: the payload lies at [`MESSAGE1_PAYLOAD`] already, and `buf`
    /// is [`MESSAGE1_OVERHEAD`] longer than it. The prologue has at most 7 parts.
    pub fn write_message1(
        pattern: Pattern,
        prologue: &[&[u8]],
        s: &TunnelSecret,
        responder: &TunnelKey,
        e: TunnelSecret,
        buf: &mut [u8],
    ) -> Result<Self, ExchangeError> {
        if buf.len() < MESSAGE1_OVERHEAD {
            return Err(ExchangeError);
        }
        let mut sym = Symmetric::new(pattern, prologue, responder);
        buf[..32].copy_from_slice(&e.public().0);
        sym.mix_hash(&e.public().0);
        sym.mix_dh(&e, responder)?;
        buf[32..64].copy_from_slice(&s.public().0);
        sym.seal(&mut buf[32..MESSAGE1_PAYLOAD]);
        sym.mix_dh(s, responder)?;
        sym.seal(&mut buf[MESSAGE1_PAYLOAD..]);
        Ok(Initiator { sym, e })
    }

    /// Opens message 2 in place; `s` is the secret that message 1 was written with. The payload
    /// is then at [`MESSAGE2_PAYLOAD`], 16 bytes short of the end. A forged message changes
    /// nothing.
    pub fn read_message2(
        &self,
        s: &TunnelSecret,
        buf: &mut [u8],
    ) -> Result<Finished, ExchangeError> {
        if buf.len() < MESSAGE2_OVERHEAD {
            return Err(ExchangeError);
        }
        let mut sym = self.sym.copy();
        let (re, rest) = buf.split_first_chunk_mut::<32>().ok_or(ExchangeError)?;
        let re = TunnelKey(*re);
        sym.mix_hash(&re.0);
        sym.mix_dh(&self.e, &re)?;
        sym.mix_dh(s, &re)?;
        sym.open(rest)?;
        Ok(Finished(sym))
    }

    /// The key of an HS_STALE that answers message 1 (`wire.md` 4.5).
    pub fn stale_key(&self) -> SecretKey {
        self.sym.stale_key()
    }
}

/// A responder that has opened message 1.
pub struct Responder {
    sym: Symmetric,
    re: TunnelKey,
    rs: TunnelKey,
}

impl Responder {
    /// Opens message 1 in place; the payload is then at [`MESSAGE1_PAYLOAD`], 16 bytes short of
    /// the end. If the initiator's static key does not decrypt, `buf` is as it was, so another
    /// secret of ours can be tried.
    pub fn read_message1(
        pattern: Pattern,
        prologue: &[&[u8]],
        s: &TunnelSecret,
        buf: &mut [u8],
    ) -> Result<Self, ExchangeError> {
        if buf.len() < MESSAGE1_OVERHEAD {
            return Err(ExchangeError);
        }
        let mut sym = Symmetric::new(pattern, prologue, &s.public());
        let re = TunnelKey(*buf.first_chunk().expect("longer than 32"));
        sym.mix_hash(&re.0);
        sym.mix_dh(s, &re)?;
        sym.open(&mut buf[32..MESSAGE1_PAYLOAD])?;
        let rs = TunnelKey(*buf[32..].first_chunk().expect("longer than 64"));
        sym.mix_dh(s, &rs)?;
        sym.open(&mut buf[MESSAGE1_PAYLOAD..])?;
        Ok(Responder { sym, re, rs })
    }

    /// The initiator's static key, proven by message 1 (up to replay).
    pub fn remote_static(&self) -> TunnelKey {
        self.rs
    }

    /// The handshake hash so far.
    pub fn hash(&self) -> &[u8; 32] {
        &self.sym.h
    }

    /// The key of an HS_STALE that answers message 1 (`wire.md` 4.5).
    pub fn stale_key(&self) -> SecretKey {
        self.sym.stale_key()
    }

    /// Writes message 2 into `buf`: the payload lies at [`MESSAGE2_PAYLOAD`] already, and `buf`
    /// is [`MESSAGE2_OVERHEAD`] longer than it.
    pub fn write_message2(
        mut self,
        e: TunnelSecret,
        buf: &mut [u8],
    ) -> Result<Finished, ExchangeError> {
        if buf.len() < MESSAGE2_OVERHEAD {
            return Err(ExchangeError);
        }
        buf[..32].copy_from_slice(&e.public().0);
        self.sym.mix_hash(&e.public().0);
        self.sym.mix_dh(&e, &self.re)?;
        self.sym.mix_dh(&e, &self.rs)?;
        self.sym.seal(&mut buf[MESSAGE2_PAYLOAD..]);
        Ok(Finished(self.sym))
    }
}

/// A completed IK handshake: chaining key and transcript hash.
pub struct Finished(Symmetric);

impl Finished {
    /// The transcript hash: names this very handshake on both ends.
    pub fn hash(&self) -> &[u8; 32] {
        &self.0.h
    }

    /// HKDF-Extract(salt = ck, ikm = "") (`wire.md` 4.4).
    pub fn prk(&self) -> SecretKey {
        kdf::extract(&self.0.ck, &[])
    }
}

/// Seals `buf` to `responder` with Noise X, one way. The payload lies at [`MESSAGE1_PAYLOAD`].
pub fn seal_x(
    prologue: &[&[u8]],
    s: &TunnelSecret,
    responder: &TunnelKey,
    e: TunnelSecret,
    buf: &mut [u8],
) -> Result<(), ExchangeError> {
    Initiator::write_message1(Pattern::X, prologue, s, responder, e, buf).map(drop)
}

/// Opens what [`seal_x`] made, in place; returns the sender's static key and the payload.
pub fn open_x<'b>(
    prologue: &[&[u8]],
    s: &TunnelSecret,
    buf: &'b mut [u8],
) -> Result<(TunnelKey, &'b [u8]), ExchangeError> {
    let from = Responder::read_message1(Pattern::X, prologue, s, buf)?.remote_static();
    let end = buf.len() - 16;
    Ok((from, &buf[MESSAGE1_PAYLOAD..end]))
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
