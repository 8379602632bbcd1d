//! The tunnel: handshakes, session slots, keys and timers (`wire.md` 4, 5.1–5.4).

pub mod attempt;
pub mod cookie;
pub mod gate;
pub mod handshake;
pub mod index;
pub mod keys;
pub mod payload;
pub mod slots;
pub mod tunnel;

pub use tunnel::{Tunnel, TunnelConfig, TunnelEvent, TunnelIn, TunnelStorage};
