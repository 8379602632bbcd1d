//! The hash of a content, computed as its bytes pass.

use super::Kind;
use core::fmt;
use core::str::FromStr;
use sha2::{Digest as _, Sha256};

/// What hashes a content (`wire.md` 13). Both give 32 bytes and are as hard to deceive; they differ
/// in speed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum HashAlgorithm {
    /// 1: SHA-256 (FIPS 180-4), the faster one of up to some KiB where the processor has
    /// instructions for it.
    Sha256 = 1,
    /// 2: BLAKE3 without a key, several times as fast over much.
    Blake3 = 2,
}

impl HashAlgorithm {
    /// The algorithm with this number.
    pub const fn from_u8(n: u8) -> Option<HashAlgorithm> {
        match n {
            1 => Some(HashAlgorithm::Sha256),
            2 => Some(HashAlgorithm::Blake3),
            _ => None,
        }
    }

    /// Its name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Blake3 => "blake3",
        }
    }

    /// What suits contents of this kind: messages are short, files and directories are not.
    pub const fn of(kind: Kind) -> HashAlgorithm {
        if kind.is_message() { HashAlgorithm::Sha256 } else { HashAlgorithm::Blake3 }
    }

    pub(super) const fn digest(self, bytes: [u8; 32]) -> Digest {
        match self {
            HashAlgorithm::Sha256 => Digest::Sha256(bytes),
            HashAlgorithm::Blake3 => Digest::Blake3(bytes),
        }
    }
}

/// Neither the name of a hash algorithm, nor a hash with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a hash is sha256: or blake3: and 64 hexadecimal digits")]
pub struct BadDigest;

impl FromStr for HashAlgorithm {
    type Err = BadDigest;

    fn from_str(name: &str) -> Result<Self, BadDigest> {
        match name {
            "sha256" => Ok(HashAlgorithm::Sha256),
            "blake3" => Ok(HashAlgorithm::Blake3),
            _ => Err(BadDigest),
        }
    }
}

/// The hash of a content. Those of different algorithms are different.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// By algorithm 1 of END.
    Sha256([u8; 32]),
    /// By algorithm 2.
    Blake3([u8; 32]),
}

impl Digest {
    /// What has computed it.
    pub const fn algorithm(&self) -> HashAlgorithm {
        match self {
            Digest::Sha256(_) => HashAlgorithm::Sha256,
            Digest::Blake3(_) => HashAlgorithm::Blake3,
        }
    }

    /// The value.
    pub const fn bytes(&self) -> &[u8; 32] {
        match self {
            Digest::Sha256(bytes) | Digest::Blake3(bytes) => bytes,
        }
    }
}

impl fmt::Display for Digest {
    /// The algorithm's name, a colon, and 64 lower-case digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm().as_str())?;
        hex(self.bytes(), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    /// Parses what `Display` prints; the digits may be upper-case.
    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let (name, digits) = text.split_once(':').ok_or(BadDigest)?;
        let algorithm: HashAlgorithm = name.parse()?;
        let digits = digits.as_bytes();
        if digits.len() != 64 {
            return Err(BadDigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| (digit as char).to_digit(16).ok_or(BadDigest);
            *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
        }
        Ok(algorithm.digest(bytes))
    }
}

pub(super) fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

#[derive(Clone)]
#[cfg_attr(
    not(feature = "alloc"),
    allow(clippy::large_enum_variant, reason = "there is no allocator")
)]
enum State {
    Sha256(Sha256),
    #[cfg(feature = "alloc")]
    Blake3(alloc::boxed::Box<Gathered>),
    #[cfg(not(feature = "alloc"))]
    Blake3(blake3::Hasher),
}

/// BLAKE3 hashes 16 KiB at once where the processor has vectors for it, if they begin at a multiple
/// of that; what comes in other pieces is gathered.
#[cfg(feature = "alloc")]
#[derive(Clone)]
struct Gathered {
    hasher: blake3::Hasher,
    rest: [u8; GATHER],
    len: usize,
}

#[cfg(feature = "alloc")]
const GATHER: usize = 16 * 1024;

#[cfg(feature = "alloc")]
impl Gathered {
    fn new() -> Self {
        Gathered { hasher: blake3::Hasher::new(), rest: [0; GATHER], len: 0 }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        if self.len > 0 {
            let (first, others) = bytes.split_at(bytes.len().min(GATHER - self.len));
            self.rest[self.len..self.len + first.len()].copy_from_slice(first);
            self.len += first.len();
            if self.len < GATHER {
                return;
            }
            self.hasher.update(&self.rest);
            bytes = others;
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % GATHER);
        self.hasher.update(whole);
        self.rest[..rest.len()].copy_from_slice(rest);
        self.len = rest.len();
    }

    fn finalize(&self) -> blake3::Hash {
        self.hasher.clone().update(&self.rest[..self.len]).finalize()
    }
}

/// The hash over the bytes of a content so far, and their number. That of BLAKE3 takes 18 KiB of
/// memory; without an allocator 2 KiB in place, and it is then the slower the smaller the pieces are
/// that come.
#[derive(Clone)]
pub struct ContentHash {
    state: State,
    len: u64,
}

impl ContentHash {
    /// Over nothing.
    pub fn new(algorithm: HashAlgorithm) -> Self {
        let state = match algorithm {
            HashAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            #[cfg(feature = "alloc")]
            HashAlgorithm::Blake3 => State::Blake3(alloc::boxed::Box::new(Gathered::new())),
            #[cfg(not(feature = "alloc"))]
            HashAlgorithm::Blake3 => State::Blake3(blake3::Hasher::new()),
        };
        ContentHash { state, len: 0 }
    }

    /// The hash of a content that is all there.
    pub fn of(algorithm: HashAlgorithm, content: &[u8]) -> Digest {
        match algorithm {
            HashAlgorithm::Sha256 => Digest::Sha256(Sha256::digest(content).into()),
            HashAlgorithm::Blake3 => Digest::Blake3(blake3::hash(content).into()),
        }
    }

    /// What it is computed by.
    pub fn algorithm(&self) -> HashAlgorithm {
        match self.state {
            State::Sha256(_) => HashAlgorithm::Sha256,
            State::Blake3(_) => HashAlgorithm::Blake3,
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
        self.len = self.len.saturating_add(bytes.len() as u64);
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hash of the bytes so far.
    pub fn digest(&self) -> Digest {
        match &self.state {
            State::Sha256(state) => Digest::Sha256(state.clone().finalize().into()),
            State::Blake3(state) => Digest::Blake3(state.finalize().into()),
        }
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({}, {} bytes)", self.algorithm().as_str(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString as _;
    use std::vec::Vec;

    #[test]
    fn the_published_vectors() {
        let sha256 = |content: &[u8]| ContentHash::of(HashAlgorithm::Sha256, content).to_string();
        assert_eq!(
            sha256(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // `test_vectors.json` of the BLAKE3 team; its inputs count to 250, over and over.
        for (len, hex) in [
            (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
            (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
            (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
            (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
            (31_744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47"),
            (102_400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"),
        ] {
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let hash = ContentHash::of(HashAlgorithm::Blake3, &content);
            assert_eq!(hash.to_string(), std::format!("blake3:{hex}"));
            assert_eq!(hash.to_string().parse(), Ok(hash));
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let digits = "ab".repeat(32);
        for good in ["sha256:", "blake3:"] {
            assert!(std::format!("{good}{digits}").parse::<Digest>().is_ok());
            assert!(std::format!("{good}{digits}0").parse::<Digest>().is_err());
            assert!(std::format!("{good}+{}", &digits[1..]).parse::<Digest>().is_err());
        }
        for bad in ["", ":", "md5:", "SHA256:"] {
            assert!(std::format!("{bad}{digits}").parse::<Digest>().is_err(), "{bad}");
        }
        assert_eq!(HashAlgorithm::from_u8(0), None);
        assert_eq!(HashAlgorithm::from_u8(3), None);
    }

    proptest! {
        #[test]
        fn how_a_content_is_cut_changes_nothing(
            len in prop_oneof![0usize..3000, 16_000usize..17_000, 0usize..70_000],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let content: Vec<u8> = (0..len).map(|n| (n * 31 + (n >> 8)) as u8).collect();
            for algorithm in [HashAlgorithm::Sha256, HashAlgorithm::Blake3] {
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(content.len() + 1)).collect();
                cuts.sort_unstable();
                let (mut hash, mut at) = (ContentHash::new(algorithm), 0);
                for cut in cuts.into_iter().chain([content.len()]) {
                    hash.update(&content[at..cut]);
                    at = cut;
                    prop_assert_eq!(hash.digest(), ContentHash::of(algorithm, &content[..at]));
                }
                prop_assert_eq!(hash.len(), content.len() as u64);
            }
        }
    }
}
