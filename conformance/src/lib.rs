//! The conformance suite over pairs of *different* adapters; everything is in `tests/`.
//!
//! The cases stand in `pilot_core::drive::conformance` (feature `conformance`), where an adapter
//! runs all of them against itself. Here an agent of one adapter meets one of another: the same
//! cases, as far as they concern both ends, each once in either direction, with the real
//! rendezvous.
#![forbid(unsafe_code)]
