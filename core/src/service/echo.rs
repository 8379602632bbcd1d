//! Echo, port 7 (`wire.md` 12): bytes back. There is no framing; a client measures with bytes
//! that both ends can tell from any others.
//!
//! A round-trip probe is [`PROBE`] bytes written at once and read back. A throughput burst is a
//! run of [`fill`]ed bytes that the client [`check`]s as they return, so that a wrong, missing
//! or repeated byte is noticed and not measured.

/// Bytes of one round-trip probe: small enough for one datagram on every path.
pub const PROBE: usize = 64;

/// Bytes that a client writes at a time in a throughput burst: a datagram train's worth.
pub const CHUNK: usize = 64 * 1024;

/// The byte at `offset` of a burst. Neighbouring offsets, and those a power of two apart,
/// differ often enough that a shifted or repeated block does not pass for the right one.
const fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// Fills `out` with the bytes that stand at `offset` and behind it.
pub fn fill(offset: u64, out: &mut [u8]) {
    for (at, byte) in (offset..).zip(out) {
        *byte = byte_at(at);
    }
}

/// Whether `bytes` are those at `offset`.
pub fn check(offset: u64, bytes: &[u8]) -> bool {
    (offset..).zip(bytes).all(|(at, &byte)| byte == byte_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn the_pattern_tells_positions_apart() {
        let mut bytes = vec![0; 4096];
        fill(1000, &mut bytes);
        assert!(check(1000, &bytes));
        assert!(check(1100, &bytes[100..]));
        for shift in [1, 2, 64, 256, 1024, 16 * 1024, 65_536] {
            assert!(!check(1000 + shift, &bytes), "a shift by {shift} goes unnoticed");
        }
        bytes[4095] ^= 1;
        assert!(!check(1000, &bytes));
    }
}
