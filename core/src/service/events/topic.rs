//! Topics, and the patterns that choose among them.

use super::EventsError;
use crate::name::is_hostile;
use core::fmt;

/// Most bytes of a topic or pattern.
pub const TOPIC_MAX: usize = 255;

/// Most tokens of a topic or pattern: matching one is short, whoever chose both.
pub const TOKENS_MAX: usize = 32;

/// Why a text is no topic or pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Nothing, or nothing between two dots.
    #[error("a topic is of tokens with dots between them, none of them empty")]
    Empty,
    /// More than [`TOPIC_MAX`] bytes.
    #[error("a topic has at most 255 bytes")]
    TooLong,
    /// More than [`TOKENS_MAX`] tokens.
    #[error("a topic has at most 32 tokens")]
    TooManyTokens,
    /// Not UTF-8.
    #[error("a topic is UTF-8")]
    NotUtf8,
    /// A blank, control or invisible character, or a wildcard in a topic or within a token.
    #[error("{0:?} is not allowed there")]
    Character(char),
    /// `>` before the end of a pattern.
    #[error("`>` stands for the rest of a topic: only at the end of a pattern")]
    Rest,
}

impl From<TopicError> for EventsError {
    fn from(error: TopicError) -> Self {
        EventsError::Topic(error)
    }
}

/// What an event is about: 1 to 255 bytes of UTF-8, at most 32 tokens with dots between them,
/// without blanks, control or invisible characters, `*` and `>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic<'a>(&'a str);

/// Which topics are wanted: a topic itself, or one in which `*` stands for any one token and a
/// `>` at the end for any one or more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern<'a>(&'a str);

fn check(text: &str, is_pattern: bool) -> Result<(), TopicError> {
    if text.len() > TOPIC_MAX {
        return Err(TopicError::TooLong);
    }
    if text.split('.').count() > TOKENS_MAX {
        return Err(TopicError::TooManyTokens);
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Err(TopicError::Empty),
            "*" if is_pattern => continue,
            ">" if is_pattern && tokens.peek().is_none() => continue,
            ">" if is_pattern => return Err(TopicError::Rest),
            _ => {}
        }
        let banned = |c: &char| c.is_whitespace() || is_hostile(*c) || matches!(c, '*' | '>');
        if let Some(c) = token.chars().find(banned) {
            return Err(TopicError::Character(c));
        }
    }
    Ok(())
}

impl<'a> Topic<'a> {
    /// The topic of this text.
    pub fn new(text: &'a str) -> Result<Self, TopicError> {
        check(text, false).map(|()| Topic(text))
    }

    pub(super) fn from_bytes(bytes: &'a [u8]) -> Result<Self, TopicError> {
        Topic::new(core::str::from_utf8(bytes).map_err(|_| TopicError::NotUtf8)?)
    }

    /// The text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

impl<'a> Pattern<'a> {
    /// The pattern of this text.
    pub fn new(text: &'a str) -> Result<Self, TopicError> {
        check(text, true).map(|()| Pattern(text))
    }

    pub(super) fn from_bytes(bytes: &'a [u8]) -> Result<Self, TopicError> {
        Pattern::new(core::str::from_utf8(bytes).map_err(|_| TopicError::NotUtf8)?)
    }

    /// The text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether more than one topic could match.
    pub fn is_wild(self) -> bool {
        self.0.split('.').any(|token| token == "*" || token == ">")
    }

    /// Whether a topic is among those wanted.
    pub fn matches(self, topic: Topic<'_>) -> bool {
        matches(self.0, topic.0)
    }
}

/// Both texts were checked.
pub(super) fn matches(pattern: &str, topic: &str) -> bool {
    let mut tokens = topic.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

macro_rules! shown {
    ($name:ident) => {
        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.0, f)
            }
        }
    };
}

shown!(Topic);
shown!(Pattern);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn patterns_match_token_by_token() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a.b.c", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("*", "a", true),
            ("*", "a.b", false),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.>", "ab.c", false),
            (">", "a", true),
            (">", "a.b.c", true),
            ("a.*.c.>", "a.b.c.d.e", true),
            ("a.*.c.>", "a.b.d.d.e", false),
            ("t/1", "t/1", true),
        ];
        for (pattern, topic, expected) in table {
            let matched = Pattern::new(pattern).unwrap().matches(Topic::new(topic).unwrap());
            assert_eq!(matched, expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn what_is_no_topic_or_pattern_is_refused() {
        use TopicError::{Character, Empty, Rest, TooLong};
        let long = "a".repeat(TOPIC_MAX + 1);
        let cases = [
            ("", Empty),
            (".", Empty),
            ("a.", Empty),
            (".a", Empty),
            ("a..b", Empty),
            ("a b", Character(' ')),
            ("a\n", Character('\n')),
            ("a\u{202e}", Character('\u{202e}')),
            ("a*", Character('*')),
            ("a.b>", Character('>')),
            (long.as_str(), TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(Topic::new(text), Err(error), "{text:?}");
            assert_eq!(Pattern::new(text), Err(error), "{text:?}");
        }
        let most = vec!["a"; TOKENS_MAX].join(".");
        assert!(Topic::new(&most).is_ok());
        assert_eq!(Pattern::new(&(most + ".>")), Err(TopicError::TooManyTokens));
        assert_eq!(Topic::new("a.*"), Err(Character('*')));
        assert_eq!(Topic::new(">"), Err(Character('>')));
        assert_eq!(Pattern::new("a.>.b"), Err(Rest));
        assert!(Topic::new(&long[1..]).is_ok());
        assert_eq!(Topic::from_bytes(&[0xFF]), Err(TopicError::NotUtf8));
    }

    /// What the words of the definition say, by recursion.
    fn expected(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            (["*", p @ ..], [_, t @ ..]) => expected(p, t),
            ([a, p @ ..], [b, t @ ..]) => a == b && expected(p, t),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(
            pattern in proptest::collection::vec("[ab*]", 1..5),
            rest in any::<bool>(),
            topic in proptest::collection::vec("[ab]", 1..6),
        ) {
            let mut pattern: Vec<String> = pattern;
            if rest {
                pattern.push(">".into());
            }
            let words: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let tokens: Vec<&str> = topic.iter().map(String::as_str).collect();
            let (text, about) = (pattern.join("."), topic.join("."));
            let pattern = Pattern::new(&text).unwrap();
            prop_assert_eq!(pattern.matches(Topic::new(&about).unwrap()), expected(&words, &tokens));
            prop_assert_eq!(pattern.is_wild(), text.contains(['*', '>']));
        }

        #[test]
        fn a_topic_is_a_pattern_that_matches_itself(text in "\\PC{0,40}") {
            if let Ok(topic) = Topic::new(&text) {
                let pattern = Pattern::new(&text).unwrap();
                prop_assert!(pattern.matches(topic) && !pattern.is_wild());
            }
        }
    }
}
