//! HKDF-SHA256 (RFC 5869) and the truncated MACs of the envelope (`wire.md` 4.4, 4.5).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 32 secret bytes. Zeroed when dropped; neither printable nor `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey(pub(crate) [u8; 32]);

impl SecretKey {
    /// Wraps 32 bytes that are to be kept secret.
    pub fn new(bytes: [u8; 32]) -> Self {
        SecretKey(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// HKDF-Extract.
pub fn extract(salt: &[u8], ikm: &[u8]) -> SecretKey {
    SecretKey(hmac(salt, &[ikm]))
}

/// HKDF-Expand to 32 bytes, with `info` in parts.
pub fn expand(prk: &SecretKey, info: &[&[u8]]) -> SecretKey {
    let mut mac = Hmac::<Sha256>::new_from_slice(&prk.0).expect("HMAC takes keys of any length");
    for part in info {
        mac.update(part);
    }
    mac.update(&[1]);
    SecretKey(mac.finalize().into_bytes().into())
}

/// Noise's HKDF with two outputs (Noise specification 4.3).
pub fn noise_hkdf(chaining_key: &[u8; 32], input: &[u8]) -> (SecretKey, SecretKey) {
    let temp = extract(chaining_key, input);
    let first = SecretKey(hmac(&temp.0, &[&[1]]));
    let second = SecretKey(hmac(&temp.0, &[&first.0, &[2]]));
    (first, second)
}

/// HMAC-SHA256 truncated to 16 bytes: mac1, mac2 and cookies.
pub fn mac16(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let full = Zeroizing::new(hmac(key, parts));
    *full.first_chunk().expect("32 bytes have 16")
}

/// Compares MACs in time that does not depend on where they differ.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// SHA-256 over parts.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869 A.1, first 32 bytes of the output.
    #[test]
    fn published_hkdf_case() {
        let salt: [u8; 13] = core::array::from_fn(|i| i as u8);
        let info: [u8; 10] = core::array::from_fn(|i| 0xF0 + i as u8);
        let prk = extract(&salt, &[0x0B; 22]);
        let okm = expand(&prk, &[&info[..4], &info[4..]]);
        assert_eq!(
            data_encoding::HEXLOWER.encode(okm.as_bytes()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
    }

    #[test]
    fn macs_compare_whole() {
        assert!(equal(&[1, 2], &[1, 2]));
        assert!(!equal(&[1, 2], &[1, 3]));
        assert!(!equal(&[1, 2], &[1]));
    }
}
