//! The beacon.
