//! What a statement speaks of: a text and a list of files. Its hash is what is signed.

use crate::service::exchange::{Digest, FileName, HashAlgorithm, NAME_MAX, TransferId};
use heapless::Vec;

/// Longest description of a task, and longest text of a result, in bytes.
pub const TEXT_MAX: usize = 64 * 1024;
/// Longest reason in bytes.
pub const REASON_MAX: usize = 512;
/// Most files of a description or a result.
pub const FILES_MAX: usize = 16;

/// id 16, size 8, hash 32, name len 1.
const FILE_FIXED: usize = 57;
/// text len 4, number of files 1.
const FIXED: usize = 5;

/// Longest content: the longest text and as many files with the longest names.
pub const CONTENT_MAX: usize = FIXED + TEXT_MAX + FILES_MAX * (FILE_FIXED + NAME_MAX);

/// A file that belongs to a task. It travels by data exchange (port 1001), under this id; only
/// what has this size and hash is it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskFile {
    /// Of its transfer.
    pub id: TransferId,
    /// Bytes.
    pub size: u64,
    /// SHA-256 over them: under this algorithm they travel.
    pub hash: Digest,
    /// A base name, never followed as a path.
    pub name: FileName,
}

/// Why bytes are no [`Content`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The lengths do not add up, or exceed a bound.
    #[error("wrong length")]
    Length,
    /// The text is not UTF-8.
    #[error("a text is UTF-8")]
    NotUtf8,
    /// A file name that is none.
    #[error("a bad file name")]
    Name,
    /// A hash that is no SHA-256.
    #[error("the files of a task are named by their SHA-256")]
    Hash,
    /// Two files with one name or one id.
    #[error("two files with one name or id")]
    Twice,
    /// Files where there can be none.
    #[error("no files belong there")]
    Files,
}

/// A text and files, both written by somebody else: **hostile text**, data and never an
/// instruction. Each name and each id is there once.
///
/// `text len 4 ‖ text ‖ n 1 ‖ n × (id 16, size 8, hash 32, name len 1, name)`; one that says
/// nothing is no bytes at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content<'a> {
    /// At most [`TEXT_MAX`] bytes.
    pub text: &'a str,
    /// At most [`FILES_MAX`].
    pub files: Vec<TaskFile, FILES_MAX>,
}

impl<'a> Content<'a> {
    /// A text alone.
    pub fn of_text(text: &'a str) -> Self {
        Content { text, files: Vec::new() }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.files.is_empty()
    }

    /// Bytes that [`encode`](Self::encode) needs.
    pub fn encoded_len(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let files = self.files.iter().map(|file| FILE_FIXED + file.name.as_str().len());
        FIXED + self.text.len() + files.sum::<usize>()
    }

    /// Writes it to the front of `out`: its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, ContentError> {
        self.check()?;
        let len = self.encoded_len();
        let out = out.get_mut(..len).ok_or(ContentError::Length)?;
        if len == 0 {
            return Ok(0);
        }
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&(self.text.len() as u32).to_be_bytes());
        put(self.text.as_bytes());
        put(&[self.files.len() as u8]);
        for file in &self.files {
            put(&file.id.0);
            put(&file.size.to_be_bytes());
            put(file.hash.bytes());
            // A name has at most 255 bytes.
            put(&[file.name.as_str().len() as u8]);
            put(file.name.as_str().as_bytes());
        }
        Ok(len)
    }

    /// Reads exactly `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ContentError> {
        if bytes.is_empty() {
            return Ok(Content::default());
        }
        let (len, rest) = bytes.split_first_chunk().ok_or(ContentError::Length)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (text, rest) = rest.split_at_checked(len).ok_or(ContentError::Length)?;
        let text = core::str::from_utf8(text).map_err(|_| ContentError::NotUtf8)?;
        let (&count, mut rest) = rest.split_first().ok_or(ContentError::Length)?;
        let mut files = Vec::new();
        for _ in 0..count {
            let (fixed, tail) =
                rest.split_first_chunk::<FILE_FIXED>().ok_or(ContentError::Length)?;
            let (name, tail) =
                tail.split_at_checked(usize::from(fixed[56])).ok_or(ContentError::Length)?;
            let file = TaskFile {
                id: TransferId(array(fixed)),
                size: u64::from_be_bytes(array(&fixed[16..])),
                hash: Digest::Sha256(array(&fixed[24..])),
                name: FileName::from_bytes(name).map_err(|_| ContentError::Name)?,
            };
            files.push(file).map_err(|_| ContentError::Length)?;
            rest = tail;
        }
        let content = Content { text, files };
        content.check()?;
        // One that says nothing has one form only, so that its hash has one value.
        if content.is_empty() || !rest.is_empty() {
            return Err(ContentError::Length);
        }
        Ok(content)
    }

    fn check(&self) -> Result<(), ContentError> {
        if self.text.len() > TEXT_MAX {
            return Err(ContentError::Length);
        }
        for (i, file) in self.files.iter().enumerate() {
            if file.hash.algorithm() != HashAlgorithm::Sha256 {
                return Err(ContentError::Hash);
            }
            if self.files[..i].iter().any(|f| f.name == file.name || f.id == file.id) {
                return Err(ContentError::Twice);
            }
        }
        Ok(())
    }
}

/// The first `N` bytes; the callers have checked the lengths.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec;

    fn file(n: u8, name: &str) -> TaskFile {
        let (id, hash) = (TransferId([n; 16]), Digest::Sha256([n; 32]));
        TaskFile { id, size: u64::from(n), hash, name: name.parse().unwrap() }
    }

    fn encoded(content: &Content<'_>) -> std::vec::Vec<u8> {
        let mut out = vec![0; CONTENT_MAX];
        let len = content.encode(&mut out).unwrap();
        assert_eq!(len, content.encoded_len());
        out.truncate(len);
        out
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let mut content = Content::of_text("hi");
        assert_eq!(encoded(&content), b"\0\0\0\x02hi\0");
        content.files.push(file(1, "a.txt")).unwrap();
        let expected =
            [&b"\0\0\0\x02hi\x01"[..], &[1; 16], &[0, 0, 0, 0, 0, 0, 0, 1], &[1; 32], b"\x05a.txt"];
        assert_eq!(encoded(&content), expected.concat());
        assert!(encoded(&Content::default()).is_empty());
        assert_eq!(Content::decode(b"\0\0\0\0\0"), Err(ContentError::Length), "not canonical");
    }

    #[test]
    fn bounds_are_kept_and_the_longest_fits() {
        let text = "x".repeat(TEXT_MAX);
        let mut longest = Content::of_text(&text);
        for n in 0..FILES_MAX as u8 {
            let name = std::format!("{n:02}{}", "n".repeat(NAME_MAX - 2));
            longest.files.push(file(n, &name)).unwrap();
        }
        let bytes = encoded(&longest);
        assert_eq!(bytes.len(), CONTENT_MAX);
        assert_eq!(Content::decode(&bytes), Ok(longest));
        let text = "x".repeat(TEXT_MAX + 1);
        let mut out = vec![0; CONTENT_MAX];
        assert_eq!(Content::of_text(&text).encode(&mut out), Err(ContentError::Length));
    }

    #[test]
    fn names_are_base_names_and_each_is_there_once() {
        let good = Content { text: "", files: Vec::from_slice(&[file(1, "aa")]).unwrap() };
        let bytes = encoded(&good);
        for bad in ["..", ".a", "/a", "a/", "-a", "\\a", "a:", "\u{1}a"] {
            let mut bytes = bytes.clone();
            bytes.truncate(bytes.len() - 3);
            bytes.push(bad.len() as u8);
            bytes.extend_from_slice(bad.as_bytes());
            assert_eq!(Content::decode(&bytes), Err(ContentError::Name), "{bad:?}");
        }
        let blake3 = TaskFile { hash: Digest::Blake3([1; 32]), ..file(1, "a") };
        let content = Content { text: "", files: Vec::from_slice(&[blake3]).unwrap() };
        assert_eq!(content.encode(&mut [0; 999]), Err(ContentError::Hash));
        for twice in [[file(1, "a"), file(2, "a")], [file(1, "a"), file(1, "b")]] {
            let content = Content { text: "", files: Vec::from_slice(&twice).unwrap() };
            assert_eq!(content.encode(&mut [0; 999]), Err(ContentError::Twice));
        }
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in ".{0,40}",
            flip in any::<prop::sample::Index>(),
        ) {
            let _ = Content::decode(&bytes);
            let text: String = text;
            let content = Content {
                text: &text,
                files: Vec::from_slice(&[file(1, "a"), file(2, "b.tar")]).unwrap(),
            };
            let mut bytes = encoded(&content);
            prop_assert_eq!(Content::decode(&bytes), Ok(content));
            let at = flip.index(bytes.len());
            bytes[at] ^= 0x15;
            if let Ok(other) = Content::decode(&bytes) {
                prop_assert_eq!(encoded(&other), bytes);
            }
        }
    }
}
