//! Where the rendezvous server is, as people write it.

use crate::crypto::identity::IdentityKey;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// The registry's TCP port, if none is written.
pub const REGISTRY_PORT: u16 = 9000;
/// The beacon's UDP port, if none is written.
pub const BEACON_PORT: u16 = 9001;
/// Longest name in the DNS (RFC 1035 2.3.4), in text.
const HOST_MAX: usize = 253;

/// A host, by name or address, and a port: `registry.example:9000`, `192.0.2.1`, `[::1]:9000`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort {
    /// A name of the DNS or an address, without brackets.
    pub host: String,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// Where the registry is and, optionally, who it is:
/// `registry.example:9000#<base32 of its Ed25519 key>` (`wire.md` 6.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryLocation {
    /// Where to connect by TCP.
    pub at: HostPort,
    /// Its key; without one the first key shown is pinned.
    pub key: Option<IdentityKey>,
}

/// Why a text is no location.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// No host, a character that no host has, or more than 253 of them.
    #[error("a location looks like registry.example:9000 or [2001:db8::1]:9000")]
    Host,
    /// The part behind the last colon is not a port.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// The part behind `#` is not a key.
    #[error("a registry's key is 52 letters and digits of base32")]
    Key,
}

impl FromStr for HostPort {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(LocationError::Host)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(LocationError::Host),
                }
            }
            // Several colons without brackets are an IPv6 address without a port.
            None if text.matches(':').count() > 1 => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let is_fitting = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
        if host.is_empty() || host.len() > HOST_MAX || !host.chars().all(is_fitting) {
            return Err(LocationError::Host);
        }
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                let port = digits.parse().ok().filter(|port| *port != 0);
                Some(port.ok_or(LocationError::Port)?)
            }
            Some(_) => return Err(LocationError::Port),
            None => None,
        };
        Ok(HostPort { host: host.into(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_v6 = self.host.contains(':');
        match (is_v6, self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (_, None) => f.write_str(&self.host),
        }
    }
}

impl FromStr for RegistryLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let (at, key) = match text.split_once('#') {
            Some((at, key)) => (at, Some(parse_key(key).ok_or(LocationError::Key)?)),
            None => (text, None),
        };
        Ok(RegistryLocation { at: at.parse()?, key })
    }
}

impl fmt::Display for RegistryLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)?;
        match &self.key {
            Some(key) => write!(f, "#{}", KeyText(key)),
            None => Ok(()),
        }
    }
}

/// A key in base32 (RFC 4648, lower case, no padding), as it stands behind `#`.
#[derive(Clone, Copy, Debug)]
pub struct KeyText<'k>(pub &'k IdentityKey);

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let (mut bits, mut n) = (0u32, 0);
        for byte in self.0.0 {
            bits = bits << 8 | u32::from(byte);
            n += 8;
            while n >= 5 {
                n -= 5;
                f.write_char(char::from(BASE32[(bits >> n & 31) as usize]))?;
            }
        }
        // 256 bits are 51 digits and one bit more.
        f.write_char(char::from(BASE32[(bits << (5 - n) & 31) as usize]))
    }
}

/// 52 digits of either case; the four bits beyond the key are zero.
fn parse_key(text: &str) -> Option<IdentityKey> {
    if text.len() != 52 {
        return None;
    }
    let mut key = [0; 32];
    let (mut bits, mut n, mut at) = (0u32, 0, 0);
    for c in text.bytes() {
        let digit = BASE32.iter().position(|d| *d == c.to_ascii_lowercase())?;
        bits = bits << 5 | digit as u32;
        n += 5;
        if n >= 8 {
            n -= 8;
            *key.get_mut(at)? = (bits >> n) as u8;
            at += 1;
        }
    }
    (bits & 0xF == 0 && at == 32).then_some(IdentityKey(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in [
            ("registry.example:9000", "registry.example", Some(9000)),
            ("registry.example", "registry.example", None),
            ("192.0.2.1:1", "192.0.2.1", Some(1)),
            ("[2001:db8::1]:65535", "2001:db8::1", Some(65535)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
        ] {
            assert_eq!(text.parse(), Ok(HostPort { host: host.into(), port }), "{text}");
        }
        for (text, error) in [
            ("", LocationError::Host),
            (":9000", LocationError::Host),
            ("a b:1", LocationError::Host),
            ("[::1", LocationError::Host),
            ("[::1]9000", LocationError::Host),
            ("host:", LocationError::Port),
            ("host:0", LocationError::Port),
            ("host:65536", LocationError::Port),
            ("host:+1", LocationError::Port),
            ("host:1#abc", LocationError::Key),
        ] {
            assert_eq!(text.parse::<RegistryLocation>(), Err(error), "{text}");
        }
    }

    #[test]
    fn base32_is_that_of_the_rfc() {
        let mut key = [0; 32];
        key[..6].copy_from_slice(b"foobar");
        // RFC 4648 section 10: "foobar" is MZXW6YTBOI======.
        let text = KeyText(&IdentityKey(key)).to_string();
        assert!(text.starts_with("mzxw6ytboi"), "{text}");
        assert_eq!(text.len(), 52);
        assert_eq!(parse_key(&text.to_ascii_uppercase()), Some(IdentityKey(key)));
        // Bits beyond the key must be zero, or one key would have many texts.
        let mut loose = text;
        loose.replace_range(51.., "b");
        assert_eq!(parse_key(&loose), None);
    }

    proptest! {
        #[test]
        fn locations_round_trip(key: [u8; 32], port in 1u16.., v6: bool) {
            let host = if v6 { "2001:db8::7" } else { "registry.example" };
            let at = HostPort { host: host.into(), port: Some(port) };
            let location = RegistryLocation { at, key: Some(IdentityKey(key)) };
            prop_assert_eq!(location.to_string().parse(), Ok(location));
        }

        #[test]
        fn any_text_parses_or_errs(text in "\\PC{0,80}") {
            let _ = text.parse::<RegistryLocation>();
        }
    }
}
