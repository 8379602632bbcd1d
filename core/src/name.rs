//! Bounded, validated text: what people type and what peers may show us.

use core::fmt;
use core::str::FromStr;
use heapless::{String, Vec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most tags a node may have (`wire.md` 10).
pub const TAGS_MAX: usize = 16;

/// The tags of a node, in the order given, each key once.
pub type Tags = Vec<Tag, TAGS_MAX>;

/// Why a text is not a name, tag or justification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty where something is needed.
    #[error("must not be empty")]
    Empty,
    /// Longer than the stated bound in bytes.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// A character that is not allowed there.
    #[error("{0:?} is not allowed there")]
    Character(char),
    /// More than [`TAGS_MAX`] tags, or one key twice.
    #[error("at most 16 tags, each key once")]
    TooMany,
}

/// An RFC 1123 label: 1 to 63 letters, digits and inner hyphens, kept in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String<63>);

impl Hostname {
    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 63 {
            return Err(NameError::TooLong(63));
        }
        let last = text.chars().count() - 1;
        let mut name = String::new();
        for (i, c) in text.chars().enumerate() {
            let inner = i != 0 && i != last;
            if !(c.is_ascii_alphanumeric() || (c == '-' && inner)) {
                return Err(NameError::Character(c));
            }
            name.push(c.to_ascii_lowercase()).map_err(|_| NameError::TooLong(63))?;
        }
        Ok(Hostname(name))
    }
}

/// `key` or `key=value`, at most 64 bytes, no blanks, commas or control characters; the key
/// is of letters, digits, `-`, `_`, `.` and `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String<64>);

impl Tag {
    /// The whole tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `=`.
    pub fn key(&self) -> &str {
        self.0.split('=').next().unwrap_or_default()
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(NameError::Empty);
        }
        let key_char = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if let Some(c) = key.chars().find(|&c| !key_char(c)) {
            return Err(NameError::Character(c));
        }
        let banned = |c: &char| c.is_whitespace() || *c == ',' || is_hostile(*c);
        if let Some(c) = value.chars().find(banned) {
            return Err(NameError::Character(c));
        }
        String::try_from(text).map(Tag).map_err(|_| NameError::TooLong(64))
    }
}

/// Parses `a=b,c,d=e`.
pub fn parse_tags(text: &str) -> Result<Tags, NameError> {
    let mut tags = Tags::new();
    for part in text.split(',') {
        let tag: Tag = part.trim().parse()?;
        if tags.iter().any(|t| t.key() == tag.key()) {
            return Err(NameError::TooMany);
        }
        tags.push(tag).map_err(|_| NameError::TooMany)?;
    }
    Ok(tags)
}

/// Why somebody asks for trust: at most 512 bytes of **hostile text**, shown to people and to
/// models as quoted data (`wire.md` 6.5). Control and bidirectional characters are stripped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Justification(String<512>);

impl Justification {
    /// The cleaned text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Cleans `text` and cuts it at 512 bytes, on a character's edge.
    pub fn cleaned(text: &str) -> Self {
        let mut out = String::new();
        for c in text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { c }) {
            if !is_hostile(c) && out.push(c).is_err() {
                break;
            }
        }
        Justification(out)
    }
}

impl FromStr for Justification {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > 512 {
            return Err(NameError::TooLong(512));
        }
        Ok(Justification::cleaned(text))
    }
}

/// Characters that change how text around them looks or what a terminal does.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}')
}

macro_rules! text_type {
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

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        // Validation is part of decoding: nothing from the network skips it.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <&str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_type!(Hostname);
text_type!(Tag);
text_type!(Justification);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostnames() {
        let long = "a".repeat(63);
        for good in ["a", "research-aws", "0", "X1", &long] {
            assert_eq!(good.parse::<Hostname>().unwrap().as_str(), good.to_ascii_lowercase());
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "a-", "a.b", "a_b", "ä", "a b", &too_long] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tags() {
        let tags = parse_tags("cloud=aws,region=us-east-1, role=research").unwrap();
        assert_eq!(
            tags.iter().map(Tag::key).collect::<std::vec::Vec<_>>(),
            ["cloud", "region", "role"]
        );
        for bad in ["", "=x", "a b", "a=b c", "a,,b", "a=1,a=2", "a=\u{202E}"] {
            assert!(parse_tags(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_justification_loses_what_could_deceive() {
        let j: Justification = "a\u{1b}[31mb\u{202E}c\nd\u{E0041}".parse().unwrap();
        assert_eq!(j.as_str(), "a[31mbc d");
        assert!("x".repeat(513).parse::<Justification>().is_err());
        assert!(Justification::cleaned(&"ä".repeat(300)).as_str().len() <= 512);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,600}") {
            let _ = text.parse::<Hostname>();
            let _ = parse_tags(&text);
            let j = Justification::cleaned(&text);
            prop_assert!(!j.as_str().chars().any(is_hostile));
        }
    }
}
