//! Secrets (`wire.md` 8): zeroed when dropped, neither printable nor copied. All of it is
//! checked by the compiler; this file compiles or it does not.

use pilot_core::crypto::aead::AeadKey;
use pilot_core::crypto::exchange::{Finished, Initiator};
use pilot_core::crypto::identity::Shared;
use pilot_core::crypto::kdf::SecretKey;
use pilot_core::crypto::{Identity, TunnelSecret};
use pilot_core::rng::Rng;
use pilot_core::session::cookie::CookieJar;
use pilot_core::session::handshake::SessionKeys;
use pilot_core::wire::frame::RelayKey;
use zeroize::ZeroizeOnDrop;

/// Ambiguous, and so an error, where the type has the trait.
macro_rules! lacks {
    ($trait:path: $($type:ty),* $(,)?) => {
        $(const _: fn() = || {
            trait Lacks<Marker> {
                fn it() {}
            }
            impl<T: ?Sized> Lacks<()> for T {}
            struct Has;
            impl<T: ?Sized + $trait> Lacks<Has> for T {}
            let _ = <$type as Lacks<_>>::it;
        };)*
    };
}

macro_rules! none_of_these {
    ($($trait:path),*) => {
        $(lacks!($trait: Identity, TunnelSecret, Shared, SecretKey, RelayKey, SessionKeys, AeadKey,
            Initiator, Finished, CookieJar);)*
    };
}

none_of_these!(Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize);
lacks!(Clone: Rng);
lacks!(serde::Serialize: Rng);

fn is_zeroed<T: ZeroizeOnDrop>() {}

#[test]
fn secrets_are_zeroed_when_dropped() {
    is_zeroed::<Identity>();
    is_zeroed::<TunnelSecret>();
    is_zeroed::<Shared>();
    is_zeroed::<SecretKey>();
    is_zeroed::<RelayKey>();
    is_zeroed::<Rng>();
    // What they are made of: the feature `zeroize` is on in every crate that holds a key.
    is_zeroed::<ed25519_dalek::SigningKey>();
    is_zeroed::<x25519_dalek::StaticSecret>();
    is_zeroed::<x25519_dalek::SharedSecret>();
    is_zeroed::<aes_gcm::Aes256Gcm>();
    is_zeroed::<chacha20poly1305::ChaCha20Poly1305>();
    is_zeroed::<chacha20::ChaCha20Rng>();
}

#[test]
fn a_generator_prints_nothing_of_itself() {
    assert_eq!(format!("{:?}", Rng::new([7; 32])), format!("{:?}", Rng::new([8; 32])));
}

#[test]
fn the_workspace_asks_for_it() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let crates = ["aes-gcm", "chacha20", "chacha20poly1305", "ed25519-dalek", "hmac", "sha2"];
    for name in crates.into_iter().chain(["x25519-dalek"]) {
        let start = format!("{name} = ");
        let line = manifest.lines().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.contains("\"zeroize\"")), "{name}: {line:?}");
    }
    // A panic must not unwind past half of a state, nor print it.
    let release = manifest.split("[profile.release]").nth(1).unwrap();
    let release = release.split("\n[").next().unwrap();
    assert!(release.contains("panic = \"abort\""), "{release}");
}
