//! The tunnel: handshakes, session slots, keys and timers (`wire.md` 4, 5.1–5.4).
