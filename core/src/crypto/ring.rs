//! The transport AEADs of the `ring` library (feature `ring`): about twice as fast as
//! [`RUST_CRYPTO`] on x86-64, for the price of a C compiler at build time.
//! Its expanded keys are not zeroed when they are dropped; those of [`super::RUST_CRYPTO`] are.

use super::aead::{AeadCipher, AeadKey, AeadProvider, NotAuthentic, RUST_CRYPTO, Suite};
use alloc::boxed::Box;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

/// The provider that hands out `ring`'s ciphers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring;

/// [`Ring`] where a `&'static` is wanted.
pub static RING: Ring = Ring;

impl AeadProvider for Ring {
    fn key(&self, suite: Suite, key: &[u8; 32]) -> AeadKey {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).expect("both suites have keys of 32 bytes");
        AeadKey::External(Box::new(RingKey(LessSafeKey::new(key))))
    }

    fn has_aes_hardware(&self) -> bool {
        RUST_CRYPTO.has_aes_hardware()
    }
}

/// "Less safe" because nonces are ours: a session's counter is never used twice.
struct RingKey(LessSafeKey);

impl AeadCipher for RingKey {
    fn seal_in_place(&self, nonce: &[u8; 12], buf: &mut [u8]) -> [u8; 16] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), buf);
        let tag = tag.expect("a datagram is far below the suites' 64 GiB");
        tag.as_ref().try_into().expect("both suites have tags of 16 bytes")
    }

    fn open_in_place(
        &self,
        nonce: &[u8; 12],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotAuthentic> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::empty(), Tag::from(*tag), buf, 0..)
            .map(|_| ())
            .map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn both_providers_make_the_same_bytes() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let (ours, rings) = (RUST_CRYPTO.key(suite, &[7; 32]), RING.key(suite, &[7; 32]));
            // Around the block sizes of vectorised code, and a whole datagram.
            for len in (0..300).chain([1390, 1436, 65_479]) {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                let nonce = [len as u8; 12];
                let (mut a, mut b) = (plain.clone(), plain.clone());
                let tag = ours.seal_in_place(nonce, &mut a);
                assert_eq!(tag, rings.seal_in_place(nonce, &mut b), "{suite:?} {len}");
                assert_eq!(a, b, "{suite:?} {len}");
                assert_eq!(rings.open_in_place(nonce, &mut a, &tag), Ok(()));
                assert_eq!(a, plain);
                let forged = core::array::from_fn(|i| tag[i] ^ u8::from(i == 15));
                assert_eq!(rings.open_in_place(nonce, &mut b, &forged), Err(NotAuthentic));
            }
        }
    }
}
