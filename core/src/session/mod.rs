//! The tunnel: handshakes, session slots, keys and timers (`wire.md` 4, 5.1–5.4).
//!
//! Parts that tunnel, beacon and registry channel share, from the bytes upwards:
//!
//! | Module | What |
//! |---|---|
//! | [`payload`] | P1 and P2, the choice of the suite |
//! | [`handshake`] | INIT, RESP, COOKIE, STALE; the key schedule |
//! | [`cookie`], [`gate`] | proof of a source's address; budgets before Diffie–Hellman |
//! | [`keys`] | one session's data frames, with expanded keys or not |
//! | [`slots`] | which session of a peer sends, as a pure machine |
//! | [`attempt`] | when an INIT is sent |
//! | [`index`] | session indices to table places |
//!
//! What is composed of them:
//!
//! | Module | What |
//! |---|---|
//! | [`tunnel`] | a node's sessions with all its peers, and with the beacon |
//! | [`channel`] | the registry channel over TCP, both ends |
//!
//! The beacon composes its own of [`gate::Gate`] (cookie always), [`handshake::Received`] and
//! [`keys::SmallSession`].

pub mod attempt;
pub mod channel;
pub mod cookie;
pub mod gate;
pub mod handshake;
pub mod index;
pub mod keys;
pub mod payload;
pub mod slots;
pub mod tunnel;

pub use tunnel::{Tunnel, TunnelConfig, TunnelEvent, TunnelIn, TunnelStorage};
