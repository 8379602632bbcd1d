//! Bytes that show which stream and which position they belong to.

/// The byte of stream `key` at position `at`: any shift, swap, loss or repetition shows.
fn byte(key: u64, at: u64) -> u8 {
    // The output function of SplitMix64: a mere multiplication nearly repeats at some distances.
    let word = at ^ key.rotate_left(40);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) as u8
}

/// Fills `bytes` with what belongs at position `from` of stream `key`.
pub fn fill(key: u64, from: usize, bytes: &mut [u8]) {
    for (at, place) in (from as u64..).zip(bytes) {
        *place = byte(key, at);
    }
}

/// Panics unless `bytes` are what belongs at position `from` of stream `key`.
#[track_caller]
pub fn check(key: u64, from: usize, bytes: &[u8]) {
    for (at, found) in (from as u64..).zip(bytes) {
        assert!(*found == byte(key, at), "stream {key}: a wrong byte at position {at}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_by_any_distance_shows() {
        let (mut own, mut other) = ([0; 4096], [0; 4096]);
        fill(3, 0, &mut own);
        check(3, 100, &own[100..]);
        for distance in 1..2048 {
            let same = own.iter().zip(&own[distance..]).filter(|(a, b)| a == b).count();
            assert!(same < (own.len() - distance) / 8, "{distance}: {same}");
        }
        fill(4, 0, &mut other);
        assert!(own.iter().zip(&other).filter(|(a, b)| a == b).count() < own.len() / 8);
    }
}
