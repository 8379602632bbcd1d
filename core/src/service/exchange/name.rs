//! Text that a peer hands us: file names that may become names in a folder, and notes.

use crate::name::is_hostile;
use core::fmt;
use core::str::FromStr;
use heapless::String;

/// Longest file name in bytes: what common file systems hold.
pub const NAME_MAX: usize = 255;
/// Longest note in bytes.
pub const NOTE_MAX: usize = 512;

/// A file's base name that is safe to create in a folder of ours: 1 to 255 bytes of UTF-8,
/// no separator, no `:`, no control, bidirectional or invisible character, not hidden, not a
/// name that a shell takes for an option or Windows for a device. It is never followed as a
/// path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String<NAME_MAX>);

/// Why a text is not a [`FileName`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileNameError {
    /// Empty.
    #[error("a file name must not be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a file name has at most 255 bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("a file name is UTF-8")]
    NotUtf8,
    /// A separator, control or invisible character.
    #[error("{0:?} is not allowed in a file name")]
    Character(char),
    /// A leading dot, dash or blank, or a trailing dot or blank.
    #[error("a file name starts with no dot, dash or blank and ends with no dot or blank")]
    Edge,
    /// A device name of Windows.
    #[error("a device name is no file name")]
    Device,
}

impl FileName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name from bytes of the wire.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileNameError> {
        core::str::from_utf8(bytes).map_err(|_| FileNameError::NotUtf8)?.parse()
    }

    /// The name with ` (n)` in front of its extension, shortened where it would exceed 255
    /// bytes: what a second file of the same name is called.
    pub fn numbered(&self, n: u32) -> FileName {
        let text = self.as_str();
        // An extension of more than 32 bytes is none, so that the stem always has room.
        let dot = text.rfind('.').filter(|&at| at > 0 && text.len() - at <= 32);
        let (stem, extension) = text.split_at(dot.unwrap_or(text.len()));
        let mut number: String<16> = String::new();
        // 2 + 10 digits + 1 fit.
        let _ = fmt::write(&mut number, format_args!(" ({n})"));
        let mut room = stem.len().min(NAME_MAX - extension.len() - number.len());
        while !stem.is_char_boundary(room) {
            room -= 1;
        }
        let stem = &stem[..room];
        let mut name = String::new();
        let whole = [stem, &number, extension].iter().try_for_each(|part| name.push_str(part));
        debug_assert!(whole.is_ok());
        FileName(name)
    }
}

/// Device names are devices with any extension, and in either case.
fn is_device(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or_default().trim_end();
    let is = |name: &str| stem.eq_ignore_ascii_case(name);
    let numbered = |name: &str| {
        stem.len() == 4
            && stem.as_bytes()[..3].eq_ignore_ascii_case(name.as_bytes())
            && stem.as_bytes()[3].is_ascii_digit()
    };
    ["con", "prn", "aux", "nul"].into_iter().any(is) || numbered("com") || numbered("lpt")
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(text: &str) -> Result<Self, FileNameError> {
        if text.is_empty() {
            return Err(FileNameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(FileNameError::TooLong);
        }
        let banned = |c: &char| {
            matches!(c, '/' | '\\' | ':') || is_hostile(*c) || (c.is_whitespace() && *c != ' ')
        };
        if let Some(c) = text.chars().find(banned) {
            return Err(FileNameError::Character(c));
        }
        if text.starts_with(['.', '-', ' ']) || text.ends_with(['.', ' ']) {
            return Err(FileNameError::Edge);
        }
        if is_device(text) {
            return Err(FileNameError::Device);
        }
        String::try_from(text).map(FileName).map_err(|_| FileNameError::TooLong)
    }
}

/// A remark beside a transfer: at most 512 bytes of **hostile text**, shown as quoted data.
/// Control and bidirectional characters are stripped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Note(String<NOTE_MAX>);

impl Note {
    /// The cleaned text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Cleans `bytes` and cuts the text at 512 bytes, on a character's edge. What is not UTF-8
    /// becomes U+FFFD.
    pub fn cleaned(bytes: &[u8]) -> Self {
        let mut note = String::new();
        for chunk in bytes.utf8_chunks() {
            let bad = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            for c in chunk.valid().chars().chain(bad) {
                let c = if c == '\n' || c == '\t' { ' ' } else { c };
                if !is_hostile(c) && note.push(c).is_err() {
                    return Note(note);
                }
            }
        }
        Note(note)
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
    };
}

text!(FileName);
text!(Note);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base_names_and_nothing_else() {
        let long = "ä".repeat(127);
        for good in
            ["dataset.csv", "a", "a b (2).tar.gz", "..a".trim_start_matches('.'), "ключ", &long]
        {
            assert_eq!(good.parse::<FileName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:a",
            ".bashrc",
            "-rf",
            " a",
            "a ",
            "a.",
            "a\0b",
            "a\nb",
            "a\u{202E}gpj.exe",
            "a\u{a0}b",
            "NUL",
            "com1.txt",
            "aux .c",
            &too_long,
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?}");
        }
        assert_eq!(FileName::from_bytes(&[b'a', 0xFF]), Err(FileNameError::NotUtf8));
    }

    #[test]
    fn a_second_file_gets_a_number() {
        let numbered = |text: &str, n| text.parse::<FileName>().unwrap().numbered(n);
        assert_eq!(numbered("dataset.csv", 2).as_str(), "dataset (2).csv");
        assert_eq!(numbered("README", 11).as_str(), "README (11)");
        let long = numbered(&std::format!("{}.csv", "ä".repeat(125)), u32::MAX);
        assert!(long.as_str().ends_with(" (4294967295).csv") && long.as_str().len() <= NAME_MAX);
    }

    #[test]
    fn notes_lose_what_could_deceive() {
        assert_eq!(Note::cleaned(b"a\x1b[31mb\nc\xFFd").as_str(), "a[31mb c\u{FFFD}d");
        assert!(Note::cleaned("ä".repeat(400).as_bytes()).as_str().len() <= NOTE_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), n in any::<u32>()) {
            let note = Note::cleaned(&bytes);
            prop_assert!(!note.as_str().chars().any(is_hostile));
            let _ = FileName::from_bytes(&bytes);
            let text: std::string::String = note.as_str().chars().take(300).collect();
            if let Ok(name) = text.parse::<FileName>() {
                let numbered = name.numbered(n);
                prop_assert_eq!(numbered.as_str().parse::<FileName>(), Ok(numbered.clone()));
            }
        }
    }
}
