//! Identities (Ed25519), tunnel keys (X25519) and fingerprints (`wire.md` 2, 6.3).

use super::{CONTEXT, memo};
use core::fmt;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// The longest text that is signed: a trust request with 512 bytes of justification.
const SIGNED_MAX: usize = 768;

/// A signature is wrong, or its key is unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

fn signed_text(purpose: &[u8], parts: &[&[u8]]) -> heapless::Vec<u8, SIGNED_MAX> {
    let mut text = heapless::Vec::new();
    for part in [&CONTEXT[..], purpose].iter().chain(parts) {
        text.extend_from_slice(part).expect("every signed layout is shorter than SIGNED_MAX");
    }
    text
}

/// An agent's long-lived Ed25519 secret. Signs; never used in Diffie–Hellman.
pub struct Identity(SigningKey);

impl ZeroizeOnDrop for Identity {}

impl Identity {
    /// The identity of a 32-byte secret, which should be random.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        Identity(SigningKey::from_bytes(&secret))
    }

    /// The secret, to be stored in a file of mode 0600 (`wire.md` 8).
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> IdentityKey {
        IdentityKey(self.0.verifying_key().to_bytes())
    }

    /// Signs [`CONTEXT`] ‖ `purpose` ‖ `parts` (at most 768 bytes together).
    pub fn sign(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; 64] {
        self.0.sign(&signed_text(purpose, parts)).to_bytes()
    }
}

/// A public Ed25519 key: who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdentityKey(pub [u8; 32]);

impl IdentityKey {
    /// No identity: 32 zero bytes, which no signature verifies under.
    pub const ZERO: IdentityKey = IdentityKey([0; 32]);

    /// Checks a signature over [`CONTEXT`] ‖ `purpose` ‖ `parts`, strictly: weak keys,
    /// non-canonical points and scalars are refused (`wire.md` 2).
    pub fn verify(
        &self,
        purpose: &[u8],
        parts: &[&[u8]],
        signature: &[u8; 64],
    ) -> Result<(), BadSignature> {
        self.verify_text(&signed_text(purpose, parts), signature)
    }

    pub(super) fn verify_text(
        &self,
        text: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), BadSignature> {
        let right = memo::verdict(&self.0, text, signature, || {
            VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
                !key.is_weak() && key.verify_strict(text, &Signature::from_bytes(signature)).is_ok()
            })
        });
        right.then_some(()).ok_or(BadSignature)
    }
}

/// The first four bytes, enough to tell keys apart in logs.
impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({:08x}…)", u32::from_be_bytes([0, 1, 2, 3].map(|i| self.0[i])))
    }
}

/// A public X25519 key, certified by a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelKey(pub [u8; 32]);

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelKey({:08x}…)", u32::from_be_bytes([0, 1, 2, 3].map(|i| self.0[i])))
    }
}

/// An X25519 secret, static or ephemeral, with its public key. Zeroed when dropped.
pub struct TunnelSecret {
    secret: StaticSecret,
    public: TunnelKey,
}

impl ZeroizeOnDrop for TunnelSecret {}

impl TunnelSecret {
    /// The key pair of 32 random bytes.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(*Zeroizing::new(secret));
        let public = TunnelKey(PublicKey::from(&secret).to_bytes());
        TunnelSecret { secret, public }
    }

    /// The secret, to be stored in a file of mode 0600.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> TunnelKey {
        self.public
    }

    /// The shared secret with `theirs`; `None` if `theirs` is a point of small order, which
    /// would make the result independent of our secret (`wire.md` 2).
    pub fn agree(&self, theirs: &TunnelKey) -> Option<Shared> {
        let shared = memo::agreement(self.public, *theirs, || {
            let shared = self.secret.diffie_hellman(&PublicKey::from(theirs.0));
            shared.was_contributory().then(|| shared.to_bytes())
        });
        shared.map(|shared| Shared(Zeroizing::new(shared)))
    }

    /// The same pair once more.
    pub(crate) fn duplicate(&self) -> Self {
        TunnelSecret { secret: self.secret.clone(), public: self.public }
    }
}

/// The result of a Diffie–Hellman. Zeroed when dropped.
pub struct Shared(Zeroizing<[u8; 32]>);

impl ZeroizeOnDrop for Shared {}

impl Shared {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Six pronounceable words of 16 bits each for people to compare aloud (`wire.md` 6.3 (c)).
///
/// The words are proquints (consonant, vowel, consonant, vowel, consonant; draft-rayner-proquint)
/// of the first 96 bits of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u16; 6]);

impl Fingerprint {
    /// Of one key: a registry's, say.
    pub fn of(key: &IdentityKey) -> Self {
        Fingerprint::from_parts(&[&key.0])
    }

    /// Of two identities, the same whoever comes first.
    pub fn of_pair(a: &IdentityKey, b: &IdentityKey) -> Self {
        let (first, second) = if a <= b { (a, b) } else { (b, a) };
        Fingerprint::from_parts(&[&first.0, &second.0])
    }

    fn from_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new().chain_update(CONTEXT).chain_update(b"fingerprint\0");
        for part in parts {
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut words = [0; 6];
        for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(2)) {
            *word = u16::from_be_bytes([bytes[0], bytes[1]]);
        }
        Fingerprint(words)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
        const VOWELS: &[u8; 4] = b"aiou";
        for (i, word) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("-")?;
            }
            for (shift, bits) in [(12, 4), (10, 2), (6, 4), (4, 2), (0, 4)] {
                let value = usize::from(word >> shift & ((1 << bits) - 1));
                let letter = if bits == 4 { CONSONANTS[value] } else { VOWELS[value] };
                fmt::Write::write_char(f, char::from(letter))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn signatures_bind_purpose_and_content() {
        let me = Identity::from_secret([1; 32]);
        let sig = me.sign(b"a\0", &[b"x", b"y"]);
        assert_eq!(me.public().verify(b"a\0", &[b"xy"], &sig), Ok(()));
        assert_eq!(me.public().verify(b"b\0", &[b"xy"], &sig), Err(BadSignature));
        assert_eq!(me.public().verify(b"a\0", &[b"xz"], &sig), Err(BadSignature));
        let other = Identity::from_secret([2; 32]).public();
        assert_eq!(other.verify(b"a\0", &[b"xy"], &sig), Err(BadSignature));
        assert_eq!(Identity::from_secret(*me.secret()).public(), me.public());
    }

    #[test]
    fn weak_identities_verify_nothing() {
        // All encodings of small-order points that decompress, and the neutral element, for
        // which the all-zero scalar would satisfy the plain verification equation.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut sig = [0; 64];
        sig[0] = 1;
        assert_eq!(IdentityKey(neutral).verify(b"a\0", &[], &sig), Err(BadSignature));
        assert_eq!(IdentityKey::ZERO.verify(b"a\0", &[], &sig), Err(BadSignature));
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let me = TunnelSecret::from_secret([3; 32]);
        let mut one = [0; 32];
        one[0] = 1;
        assert!(me.agree(&TunnelKey([0; 32])).is_none());
        assert!(me.agree(&TunnelKey(one)).is_none());
        let you = TunnelSecret::from_secret([4; 32]);
        let (a, b) = (me.agree(&you.public()).unwrap(), you.agree(&me.public()).unwrap());
        assert_eq!(a.as_bytes(), b.as_bytes());
    }

    /// RFC 7748 section 6.1.
    #[test]
    fn published_x25519_exchange() {
        let hex = |s: &str| -> [u8; 32] {
            data_encoding::HEXLOWER.decode(s.as_bytes()).unwrap().try_into().unwrap()
        };
        let alice = TunnelSecret::from_secret(hex(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        ));
        let bob =
            TunnelKey(hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        assert_eq!(
            alice.agree(&bob).unwrap().as_bytes(),
            &hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
    }

    #[test]
    fn fingerprints_are_symmetric_and_distinct() {
        let (a, b) = (IdentityKey([1; 32]), IdentityKey([2; 32]));
        assert_eq!(Fingerprint::of_pair(&a, &b), Fingerprint::of_pair(&b, &a));
        assert_ne!(Fingerprint::of(&a), Fingerprint::of(&b));
        assert_ne!(Fingerprint::of_pair(&a, &a), Fingerprint::of(&a));
        let text = Fingerprint::of_pair(&a, &b).to_string();
        assert_eq!(text.split('-').count(), 6);
        assert!(text.split('-').all(|w| w.len() == 5));
        // draft-rayner-proquint: 127.0.0.1 is lusab-babad.
        assert_eq!(
            Fingerprint([0x7F00, 1, 0, 0, 0, 0]).to_string(),
            "lusab-babad-babab-babab-babab-babab"
        );
    }
}
