//! The transport AEADs (`wire.md` 4.6, 5.1): AES-256-GCM and ChaCha20-Poly1305 with empty
//! additional data, in place, behind a provider, so that an adapter with `std` may bring a
//! faster implementation.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;

#[cfg(feature = "alloc")]
use alloc::boxed::Box;

/// A negotiated transport suite; its number is its byte in P2 and in the key schedule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM, where both ends have AES instructions.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 otherwise.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// The byte in P2.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// The suite of a byte in P2.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Suite::Aes256Gcm),
            2 => Some(Suite::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// The tag does not belong to these bytes under this key and nonce.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the frame is not authentic")]
pub struct NotAuthentic;

/// A keyed cipher of a provider outside this crate.
pub trait AeadCipher {
    /// Encrypts `buf` in place; returns the tag. Additional data is empty.
    fn seal_in_place(&self, nonce: &[u8; 12], buf: &mut [u8]) -> [u8; 16];

    /// Decrypts `buf` in place if `tag` is right; otherwise its content is unspecified.
    fn open_in_place(
        &self,
        nonce: &[u8; 12],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotAuthentic>;
}

/// Makes keyed ciphers.
pub trait AeadProvider: Sync {
    /// Expands `key` for `suite`.
    fn key(&self, suite: Suite, key: &[u8; 32]) -> AeadKey;

    /// Whether AES runs on instructions of its own here; decides the negotiation
    /// (`wire.md` 4.6).
    fn has_aes_hardware(&self) -> bool;
}

/// An expanded key. Zeroed when dropped (an external one is its provider's business).
#[expect(
    clippy::large_enum_variant,
    reason = "the common case is the large one, and it must not cost a pointer on the packet path"
)]
pub enum AeadKey {
    /// AES-256-GCM of this crate's provider.
    Aes256Gcm(Aes256Gcm),
    /// ChaCha20-Poly1305 of this crate's provider.
    ChaCha20Poly1305(ChaCha20Poly1305),
    /// Another provider's.
    #[cfg(feature = "alloc")]
    External(Box<dyn AeadCipher + Send + Sync>),
}

impl AeadKey {
    /// Encrypts `buf` in place; returns the tag.
    pub fn seal_in_place(&self, nonce: [u8; 12], buf: &mut [u8]) -> [u8; 16] {
        let tag = match self {
            AeadKey::Aes256Gcm(k) => k.encrypt_inout_detached(&nonce.into(), &[], buf.into()),
            AeadKey::ChaCha20Poly1305(k) => {
                k.encrypt_inout_detached(&nonce.into(), &[], buf.into())
            }
            #[cfg(feature = "alloc")]
            AeadKey::External(k) => return k.seal_in_place(&nonce, buf),
        };
        tag.expect("a datagram is far below the suites' 64 GiB").into()
    }

    /// Decrypts `buf` in place if `tag` is right; otherwise its content is unspecified.
    pub fn open_in_place(
        &self,
        nonce: [u8; 12],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotAuthentic> {
        let tag = &(*tag).into();
        match self {
            AeadKey::Aes256Gcm(k) => k.decrypt_inout_detached(&nonce.into(), &[], buf.into(), tag),
            AeadKey::ChaCha20Poly1305(k) => {
                k.decrypt_inout_detached(&nonce.into(), &[], buf.into(), tag)
            }
            #[cfg(feature = "alloc")]
            AeadKey::External(k) => return k.open_in_place(&nonce, buf, &(*tag).into()),
        }
        .map_err(|_| NotAuthentic)
    }
}

/// The provider of this crate: RustCrypto's ciphers.
#[derive(Debug)]
pub struct RustCrypto {
    aes_hardware: Option<bool>,
}

/// This crate's provider with the machine's own answer about AES instructions: asked of the
/// processor with the feature `std`, of the compiler's target otherwise.
pub static RUST_CRYPTO: RustCrypto = RustCrypto { aes_hardware: None };

impl RustCrypto {
    /// This crate's provider where the caller knows whether there are AES instructions.
    pub const fn with_aes_hardware(present: bool) -> Self {
        RustCrypto { aes_hardware: Some(present) }
    }
}

impl AeadProvider for RustCrypto {
    fn key(&self, suite: Suite, key: &[u8; 32]) -> AeadKey {
        match suite {
            Suite::Aes256Gcm => AeadKey::Aes256Gcm(Aes256Gcm::new(key.into())),
            Suite::ChaCha20Poly1305 => AeadKey::ChaCha20Poly1305(ChaCha20Poly1305::new(key.into())),
        }
    }

    fn has_aes_hardware(&self) -> bool {
        self.aes_hardware.unwrap_or_else(detect_aes)
    }
}

fn detect_aes() -> bool {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(all(feature = "std", target_arch = "aarch64"))]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code, reason = "the lines above return where they are compiled in")]
    {
        cfg!(target_feature = "aes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn hex(s: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(s.as_bytes()).unwrap()
    }

    /// McGrew and Viega's GCM test case 14: 256-bit zero key, 16 zero bytes.
    #[test]
    fn published_aes_gcm_case() {
        let key = RUST_CRYPTO.key(Suite::Aes256Gcm, &[0; 32]);
        let mut buf = [0; 16];
        let tag = key.seal_in_place([0; 12], &mut buf);
        assert_eq!(&buf[..], hex("cea7403d4d606b6e074ec5d3baf39d18"));
        assert_eq!(&tag[..], hex("d0d1c8a799996bf0265b98b5d48ab919"));
    }

    /// The empty-AAD form of ChaCha20-Poly1305 agrees with its parts: RFC 8439 2.6.2 and 2.8
    /// are covered by the Noise vectors; here only that the two suites differ and reject.
    fn round_trip(suite: Suite, nonce: [u8; 12], plain: &[u8], flip: usize) {
        let key = RUST_CRYPTO.key(suite, &[9; 32]);
        let mut buf = plain.to_vec();
        let tag = key.seal_in_place(nonce, &mut buf);
        let sealed = buf.clone();
        let bits = (buf.len() + 16 + 12) * 8;
        let bit = flip % bits;
        let (mut nonce2, mut tag2) = (nonce, tag);
        match bit / 8 {
            n if n < buf.len() => buf[n] ^= 1 << (bit % 8),
            n if n < buf.len() + 16 => tag2[n - buf.len()] ^= 1 << (bit % 8),
            n => nonce2[n - buf.len() - 16] ^= 1 << (bit % 8),
        }
        let forged = buf.clone();
        assert_eq!(key.open_in_place(nonce2, &mut buf, &tag2), Err(NotAuthentic));
        assert_eq!(buf, forged);
        let mut buf = sealed;
        assert_eq!(key.open_in_place(nonce, &mut buf, &tag), Ok(()));
        assert_eq!(buf, plain);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_rejected(
            nonce: [u8; 12],
            plain in prop::collection::vec(any::<u8>(), 0..200),
            flip: usize,
        ) {
            round_trip(Suite::Aes256Gcm, nonce, &plain, flip);
            round_trip(Suite::ChaCha20Poly1305, nonce, &plain, flip);
        }
    }

    #[test]
    fn suites_have_the_bytes_of_the_wire() {
        for byte in 0..=255 {
            if let Some(suite) = Suite::from_byte(byte) {
                assert_eq!(suite.to_byte(), byte);
            }
        }
        assert_eq!(Suite::from_byte(0), None);
        assert_eq!(Suite::from_byte(3), None);
    }
}
