//! A deterministic world for Pilot Protocol.
#![forbid(unsafe_code)]

pub mod nat;
mod span;

pub use span::Span;
