//! One session's data frames (`wire.md` 5.1, 5.2, 5.4).
//!
//! ```text
//! | index 4 | counter 8 | ciphertext | tag 16 |      nonce = the first 12 bytes, AAD empty
//! ```
//!
//! Receive order: window check, decrypt, window commit. Nothing changes before the tag is
//! right.

use super::handshake::SessionKeys;
use crate::crypto::kdf::SecretKey;
use crate::crypto::replay::Window;
use crate::crypto::{AeadKey, AeadProvider, Suite};
use crate::limits::{BEACON_WORDS, FRAME_HEADER, REJECT_BLOCKS, REKEY_BLOCKS, TAG};
use crate::planted::{self, Defect};
use crate::stats::DropReason;
use crate::time::Instant;

/// Bytes of a frame without content.
pub const FRAME_MIN: usize = FRAME_HEADER + TAG;

/// A pair of directional keys, expanded or not.
pub trait FrameKeys {
    /// Encrypts in place; returns the tag.
    fn seal(&self, aead: &dyn AeadProvider, nonce: [u8; 12], buf: &mut [u8]) -> [u8; 16];
    /// Decrypts in place if the tag is right.
    fn open(
        &self,
        aead: &dyn AeadProvider,
        nonce: [u8; 12],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> bool;
}

/// Keys expanded once, for peers.
pub struct Expanded {
    send: AeadKey,
    receive: AeadKey,
}

impl Expanded {
    /// Expands a session's keys.
    pub fn new(aead: &dyn AeadProvider, keys: &SessionKeys) -> Self {
        Expanded {
            send: aead.key(keys.suite, keys.send.as_bytes()),
            receive: aead.key(keys.suite, keys.receive.as_bytes()),
        }
    }
}

impl FrameKeys for Expanded {
    fn seal(&self, _: &dyn AeadProvider, nonce: [u8; 12], buf: &mut [u8]) -> [u8; 16] {
        self.send.seal_in_place(nonce, buf)
    }

    fn open(&self, _: &dyn AeadProvider, nonce: [u8; 12], buf: &mut [u8], tag: &[u8; 16]) -> bool {
        self.receive.open_in_place(nonce, buf, tag).is_ok()
    }
}

/// Keys as they were derived, expanded for each frame: a tenth of the memory, for a beacon
/// with a million sessions that carry a frame each 15 seconds.
pub struct Unexpanded {
    suite: Suite,
    send: SecretKey,
    receive: SecretKey,
}

impl Unexpanded {
    /// Keeps a session's keys as they are.
    pub fn new(keys: SessionKeys) -> Self {
        Unexpanded { suite: keys.suite, send: keys.send, receive: keys.receive }
    }
}

impl FrameKeys for Unexpanded {
    fn seal(&self, aead: &dyn AeadProvider, nonce: [u8; 12], buf: &mut [u8]) -> [u8; 16] {
        aead.key(self.suite, self.send.as_bytes()).seal_in_place(nonce, buf)
    }

    fn open(
        &self,
        aead: &dyn AeadProvider,
        nonce: [u8; 12],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> bool {
        aead.key(self.suite, self.receive.as_bytes()).open_in_place(nonce, buf, tag).is_ok()
    }
}

/// One session: a key and an index for each direction, a counter, a replay window.
pub struct Session<K> {
    keys: K,
    local_index: u32,
    remote_index: u32,
    expires: Instant,
    next_counter: u64,
    skipped: Option<u64>,
    blocks_sent: u64,
    blocks_received: u64,
    window: Window,
}

/// What a sealed frame is called: the receiver's index as on the wire, and the counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The receiver's index.
    pub index: u32,
    /// The AEAD counter.
    pub counter: u64,
    /// Bytes of the frame.
    pub len: usize,
}

/// What an opened frame is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The AEAD counter.
    pub counter: u64,
    /// Whether it is the highest of this session so far.
    pub is_newest: bool,
}

/// The receiver's index of a data frame, if it is long enough to be one.
pub fn frame_index(datagram: &[u8]) -> Option<u32> {
    (datagram.len() >= FRAME_MIN).then(|| super::handshake::word(datagram, 0))
}

impl<K: FrameKeys> Session<K> {
    /// A session that neither sends nor receives from `expires` on. `words` is its replay
    /// window's memory, the same at each call.
    pub fn new(
        keys: K,
        local_index: u32,
        remote_index: u32,
        expires: Instant,
        words: &mut [u64],
    ) -> Self {
        Session {
            keys,
            local_index,
            remote_index,
            expires,
            next_counter: 0,
            skipped: None,
            blocks_sent: 0,
            blocks_received: 0,
            window: Window::new(words),
        }
    }

    /// The index in front of what we receive.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The index in front of what we send.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// When it stops.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// Whether it still sends and receives (`wire.md` 4.9, Reject).
    pub fn is_alive(&self, now: Instant) -> bool {
        now < self.expires
            && self.blocks_sent < REJECT_BLOCKS
            && self.blocks_received < REJECT_BLOCKS
    }

    /// Whether so many blocks were encrypted that a new session is due.
    pub fn is_worn(&self) -> bool {
        self.blocks_sent >= REKEY_BLOCKS || self.blocks_received >= REKEY_BLOCKS
    }

    /// Leaves one counter out, so that nobody can rightly acknowledge it.
    pub fn skip(&mut self) {
        self.skipped = Some(self.next_counter);
        self.next_counter = self.next_counter.saturating_add(1);
    }

    /// The next counter, below which all were used but [`Session::skipped`] and older ones.
    pub fn next_counter(&self) -> u64 {
        self.next_counter
    }

    /// The counter that was left out last.
    pub fn skipped(&self) -> Option<u64> {
        self.skipped
    }

    /// Encrypts a frame in place: its content lies at 12.. of `buf`, which has room for 16
    /// bytes behind it. `None` when the session is over, or `buf` too short.
    pub fn seal(
        &mut self,
        now: Instant,
        aead: &dyn AeadProvider,
        buf: &mut [u8],
        plaintext_len: usize,
    ) -> Option<Sealed> {
        let len = FRAME_MIN + plaintext_len;
        if !self.is_alive(now) || self.next_counter == u64::MAX {
            return None;
        }
        let frame = buf.get_mut(..len)?;
        let counter = self.next_counter;
        let reused = counter % 64 == 63 && planted::has(Defect::CounterReused);
        self.next_counter += u64::from(!reused);
        self.blocks_sent += blocks(plaintext_len);
        let (head, rest) = frame.split_first_chunk_mut::<FRAME_HEADER>()?;
        head[..4].copy_from_slice(&self.remote_index.to_be_bytes());
        head[4..].copy_from_slice(&counter.to_be_bytes());
        let (text, tag) = rest.split_last_chunk_mut::<TAG>()?;
        *tag = self.keys.seal(aead, *head, text);
        Some(Sealed { index: self.remote_index, counter, len })
    }

    /// Decrypts a frame in place; its content is then between header and tag.
    pub fn open(
        &mut self,
        now: Instant,
        aead: &dyn AeadProvider,
        words: &mut [u64],
        frame: &mut [u8],
    ) -> Result<Opened, DropReason> {
        if !self.is_alive(now) {
            return Err(DropReason::Expired);
        }
        let (head, rest) =
            frame.split_first_chunk_mut::<FRAME_HEADER>().ok_or(DropReason::Malformed)?;
        let (text, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(DropReason::Malformed)?;
        let counter = u64::from_be_bytes(core::array::from_fn(|i| head[4 + i]));
        if !self.window.check(words, counter) {
            return Err(DropReason::Replay);
        }
        if !self.keys.open(aead, *head, text, tag) {
            return Err(DropReason::Decrypt);
        }
        self.blocks_received += blocks(text.len());
        let is_newest = if planted::has(Defect::WindowCommitSkipped) {
            counter >= self.window.next()
        } else {
            self.window.commit(words, counter)
        };
        Ok(Opened { counter, is_newest })
    }

    #[cfg(test)]
    pub(crate) fn wear(&mut self, blocks: u64) {
        self.blocks_sent += blocks;
    }

    /// The next counter sent, and one more than the highest received.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> (u64, u64) {
        (self.next_counter, self.window.next())
    }
}

/// AES blocks of a frame: its content's and one for the tag's mask (`wire.md` 5.4).
fn blocks(plaintext_len: usize) -> u64 {
    plaintext_len.div_ceil(16) as u64 + 1
}

/// A session of at most 512 bytes with its own window of 192 counters, for the beacon.
pub struct SmallSession {
    session: Session<Unexpanded>,
    words: [u64; BEACON_WORDS],
}

impl SmallSession {
    /// See [`Session::new`].
    pub fn new(keys: SessionKeys, local_index: u32, remote_index: u32, expires: Instant) -> Self {
        let mut words = [0; BEACON_WORDS];
        let keys = Unexpanded::new(keys);
        let session = Session::new(keys, local_index, remote_index, expires, &mut words);
        SmallSession { session, words }
    }

    /// The session.
    pub fn session(&self) -> &Session<Unexpanded> {
        &self.session
    }

    /// See [`Session::seal`].
    pub fn seal(
        &mut self,
        now: Instant,
        aead: &dyn AeadProvider,
        buf: &mut [u8],
        plaintext_len: usize,
    ) -> Option<Sealed> {
        self.session.seal(now, aead, buf, plaintext_len)
    }

    /// See [`Session::open`].
    pub fn open(
        &mut self,
        now: Instant,
        aead: &dyn AeadProvider,
        frame: &mut [u8],
    ) -> Result<Opened, DropReason> {
        self.session.open(now, aead, &mut self.words, frame)
    }
}

const _: () = assert!(size_of::<SmallSession>() <= 512);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::RUST_CRYPTO;
    use crate::time::Duration;

    fn keys(suite: Suite, send: u8, receive: u8) -> SessionKeys {
        SessionKeys {
            suite,
            send: SecretKey::new([send; 32]),
            receive: SecretKey::new([receive; 32]),
            export: SecretKey::new([0; 32]),
            hash: [0; 32],
        }
    }

    fn pair(suite: Suite) -> (SmallSession, SmallSession) {
        let end = Instant::START + Duration::from_secs(180);
        let a = SmallSession::new(keys(suite, 1, 2), 0x8000_0001, 0x8000_0002, end);
        let b = SmallSession::new(keys(suite, 2, 1), 0x8000_0002, 0x8000_0001, end);
        (a, b)
    }

    #[test]
    fn a_frame_costs_28_bytes_and_is_taken_once() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let (mut a, mut b) = pair(suite);
            let mut buf = [7; 100];
            let sealed = a.seal(Instant::START, &RUST_CRYPTO, &mut buf, 50).unwrap();
            assert_eq!(sealed, Sealed { index: 0x8000_0002, counter: 0, len: 78 });
            assert_eq!(frame_index(&buf), Some(0x8000_0002));
            let mut copy = buf;
            let opened = b.open(Instant::START, &RUST_CRYPTO, &mut buf[..78]).unwrap();
            assert_eq!(opened, Opened { counter: 0, is_newest: true });
            assert_eq!(buf[12..62], [7; 50]);
            let again = b.open(Instant::START, &RUST_CRYPTO, &mut copy[..78]);
            assert_eq!(again, Err(DropReason::Replay));
            assert!(a.seal(Instant::START, &RUST_CRYPTO, &mut buf, 73).is_none());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_rejected_and_moves_nothing() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let (mut a, mut b) = pair(suite);
            let mut buf = [7; 78];
            a.seal(Instant::START, &RUST_CRYPTO, &mut buf, 50).unwrap();
            // The first four bytes are the index: it selects the session, and is in the nonce.
            for bit in 0..78 * 8 {
                let mut forged = buf;
                forged[bit / 8] ^= 1 << (bit % 8);
                let opened = b.open(Instant::START, &RUST_CRYPTO, &mut forged);
                assert_eq!(opened, Err(DropReason::Decrypt), "bit {bit}");
            }
            assert!(b.open(Instant::START, &RUST_CRYPTO, &mut buf).is_ok());
        }
    }

    #[test]
    fn age_and_blocks_end_a_session() {
        let (mut a, mut b) = pair(Suite::Aes256Gcm);
        let mut buf = [7; 78];
        a.seal(Instant::START, &RUST_CRYPTO, &mut buf, 50).unwrap();
        let end = a.session().expires();
        assert_eq!(b.open(end, &RUST_CRYPTO, &mut buf), Err(DropReason::Expired));
        assert!(a.seal(end, &RUST_CRYPTO, &mut buf, 50).is_none());
        assert!(!a.session().is_worn());
        a.session.wear(REKEY_BLOCKS);
        assert!(a.session().is_worn());
        assert!(a.seal(Instant::START, &RUST_CRYPTO, &mut buf, 50).is_some());
        a.session.wear(REJECT_BLOCKS);
        assert!(a.seal(Instant::START, &RUST_CRYPTO, &mut buf, 50).is_none());
    }
}
