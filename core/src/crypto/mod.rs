//! Keys, signatures, the handshake's cryptography and the AEAD provider (`wire.md` 2, 4).
//!
//! | Module | What |
//! |---|---|
//! | [`identity`] | Ed25519 identities, X25519 tunnel keys, fingerprints |
//! | [`record`] | the signed record of an address, 188 or 252 bytes |
//! | [`assign`] | what the registry signs: Assign, beacon entry, its tunnel key |
//! | [`grant`] | grants and the rights in them |
//! | [`request`] | trust requests and the proof of a reservation |
//! | [`task`] | statements and receipts of tasks, and what a receipt is worth |
//! | [`exchange`] | Noise IK and X |
//! | [`aead`], `ring` | the two transport suites behind a provider; another provider (feature `ring`) |
//! | [`kdf`] | HKDF and MACs |
//! | [`replay`] | the replay window |
//! | `memo` | results that a simulator keeps (feature `memo`) |
//!
//! Every signature is over [`CONTEXT`] ‖ purpose ‖ content; all purposes are in [`purpose`],
//! so that no two of them can be confused.

pub mod aead;
pub mod assign;
pub(crate) mod codec;
pub mod exchange;
pub mod grant;
pub mod identity;
pub mod kdf;
#[cfg(feature = "memo")]
pub mod memo;
#[cfg(not(feature = "memo"))]
mod memo;
pub mod record;
pub mod replay;
pub mod request;
#[cfg(feature = "ring")]
pub mod ring;
pub mod task;
#[cfg(test)]
mod wycheproof_tests;

pub use aead::{AeadCipher, AeadKey, AeadProvider, NotAuthentic, RUST_CRYPTO, RustCrypto, Suite};
pub use assign::{Assign, BeaconEntry};
pub use codec::DecodeError;
pub use grant::{Grant, Rights};
pub use identity::{BadSignature, Fingerprint, Identity, IdentityKey, TunnelKey, TunnelSecret};
pub use record::Record;
pub use request::TrustRequest;

/// `L` of `wire.md`: starts every signed text, prologue and key derivation.
pub const CONTEXT: &[u8; 16] = b"agent-overlay-v1";

/// What signatures are for; each ends in a zero byte, so none is another's prefix.
pub mod purpose {
    /// A record, by its identity (`wire.md` 2.1).
    pub const RECORD: &[u8] = b"record\0";
    /// An assignment of an address, by the registry (`wire.md` 6.2).
    pub const ASSIGN: &[u8] = b"assign\0";
    /// A beacon's tunnel key, by the registry (`wire.md` 7).
    pub const BEACON: &[u8] = b"beacon\0";
    /// The registry's own tunnel key, by the registry (`wire.md` 6.1).
    pub const KEYS: &[u8] = b"keys\0";
    /// Who asks for an address, over the channel's hash (`wire.md` 6.1).
    pub const RESERVE: &[u8] = b"reserve\0";
    /// A grant, by its grantor (`wire.md` 6.5).
    pub const GRANT: &[u8] = b"grant\0";
    /// A trust request, by who asks (`wire.md` 6.5).
    pub const TRUST: &[u8] = b"trust\0";
    /// A step of a task, by the side whose step it is (`wire.md` 12).
    pub const TASK: &[u8] = b"task\0";
    /// A worker's half of a receipt (`wire.md` 12).
    pub const CLAIM: &[u8] = b"claim\0";
    /// A receipt, by the submitter (`wire.md` 12).
    pub const RECEIPT: &[u8] = b"receipt\0";
}
