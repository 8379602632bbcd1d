//! The one source of randomness: ChaCha20 from a seed the caller injects (`wire.md` 8).
//!
//! Sub-streams are labelled, so that one more draw in one place does not change what another
//! place draws for the same seed.

use chacha20::ChaCha20Rng;
use core::convert::Infallible;
use rand_core::{Rng as _, SeedableRng, TryCryptoRng, TryRng};
use sha2::{Digest, Sha256};
use zeroize::ZeroizeOnDrop;

/// A deterministic, cryptographically strong generator. No `Clone`: two copies would draw
/// the same keys.
pub struct Rng(ChaCha20Rng);

impl ZeroizeOnDrop for Rng {}

impl Rng {
    /// A generator that yields the same bytes for the same seed, always.
    pub fn new(seed: [u8; 32]) -> Self {
        Rng(ChaCha20Rng::from_seed(seed))
    }

    /// An independent sub-stream. Draws 32 bytes from `self`.
    pub fn fork(&mut self, label: &str) -> Rng {
        let digest = Sha256::new().chain_update(self.bytes::<32>()).chain_update(label.as_bytes());
        Rng::new(digest.finalize().into())
    }

    /// Mixes fresh entropy in: what is drawn from now on cannot be told without it, nor
    /// without what was there before.
    pub fn mix(&mut self, entropy: &[u8; 32]) {
        let digest = Sha256::new().chain_update(self.bytes::<32>()).chain_update(entropy);
        *self = Rng::new(digest.finalize().into());
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill_bytes(&mut out);
        out
    }

    /// 32 random bits.
    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound` (0 for a bound of 0). The bias of the multiply-shift reduction
    /// is below 2^-32, harmless for jitter and port choice, which is all it is for.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }
}

impl TryRng for Rng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(dst);
        Ok(())
    }
}

impl TryCryptoRng for Rng {}

impl core::fmt::Debug for Rng {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Rng")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_bytes_and_labels_separate() {
        let (mut a, mut b) = (Rng::new([7; 32]), Rng::new([7; 32]));
        assert_eq!(a.bytes::<64>(), b.bytes::<64>());
        let (mut x, mut y) = (a.fork("x"), b.fork("y"));
        assert_ne!(x.bytes::<32>(), y.bytes::<32>());
        assert_eq!(a.u64(), b.u64());
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::new([1; 32]);
        assert_eq!(rng.below(0), 0);
        assert!((0..1000).all(|_| rng.below(10) < 10));
    }
}
