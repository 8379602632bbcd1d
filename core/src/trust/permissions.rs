//! What a trusted peer may do here: the rights that its grant names, and port ranges that are
//! our own rule and in no grant (`wire.md` 12).

use super::peer::{self, PeerState};
use super::{Context, Trust, TrustError};
use crate::addr::Port;
use crate::crypto::Rights;
use crate::path::PeerIndex;
use crate::time::Instant;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Why a text names no permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PermissionsError {
    /// A word that names no right.
    #[error(
        "rights are echo, message, file, events, tasks, ports or ports=8000-8100+9000, with \
         commas between them; or all, or none"
    )]
    UnknownRight,
    /// Not a port, or a range that ends before it begins.
    #[error("a range of ports is FIRST-LAST or a single port, and more of them follow after a +")]
    BadRange,
    /// More ranges than [`PortRanges::MAX`].
    #[error("at most 8 ranges of ports")]
    TooManyRanges,
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: PortRange = PortRange { first: 0, last: u16::MAX };

    /// From `first` to `last`; `None` if it ends before it begins.
    pub const fn new(first: Port, last: Port) -> Option<Self> {
        if first.0 > last.0 {
            return None;
        }
        Some(PortRange { first: first.0, last: last.0 })
    }

    /// Whether `port` is in it.
    pub const fn contains(self, port: Port) -> bool {
        self.first <= port.0 && port.0 <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if self.last == self.first { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

impl FromStr for PortRange {
    type Err = PermissionsError;

    fn from_str(text: &str) -> Result<Self, PermissionsError> {
        let port = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain).map(Port).ok_or(PermissionsError::BadRange)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        PortRange::new(port(first)?, port(last)?).ok_or(PermissionsError::BadRange)
    }
}

/// At most [`PortRanges::MAX`] ranges; a port in one of them is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRanges {
    ranges: [PortRange; PortRanges::MAX],
    len: u8,
}

impl PortRanges {
    /// Most ranges: what an owner lists by hand, in 33 bytes a peer.
    pub const MAX: usize = 8;
    /// No port.
    pub const NONE: PortRanges =
        PortRanges { ranges: [PortRange { first: 0, last: 0 }; PortRanges::MAX], len: 0 };
    /// Every port, the default.
    pub const ALL: PortRanges = {
        let mut all = PortRanges::NONE;
        all.ranges[0] = PortRange::ALL;
        all.len = 1;
        all
    };

    /// These ranges together.
    ///
    /// # Errors
    /// [`PermissionsError::TooManyRanges`].
    pub fn new(ranges: &[PortRange]) -> Result<Self, PermissionsError> {
        let mut these = PortRanges::NONE;
        ranges.iter().try_for_each(|range| these.push(*range))?;
        Ok(these)
    }

    fn push(&mut self, range: PortRange) -> Result<(), PermissionsError> {
        let place =
            self.ranges.get_mut(usize::from(self.len)).ok_or(PermissionsError::TooManyRanges)?;
        *place = range;
        self.len += 1;
        Ok(())
    }

    /// The ranges, as they were given.
    pub fn as_slice(&self) -> &[PortRange] {
        // A length that was never written by us names nothing: closed, not open.
        self.ranges.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether `port` is in one of them.
    pub fn contains(&self, port: Port) -> bool {
        self.as_slice().iter().any(|range| range.contains(port))
    }
}

impl Default for PortRanges {
    fn default() -> Self {
        PortRanges::ALL
    }
}

impl fmt::Debug for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortRanges({self})")
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.as_slice().iter().enumerate() {
            if i > 0 {
                f.write_str("+")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

/// What a peer may do here. As a text: `message,file,ports=8000-8100+9000`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Permissions {
    rights: Rights,
    ports: PortRanges,
}

impl Permissions {
    /// Everything, the default.
    pub const ALL: Permissions = Permissions { rights: Rights::ALL, ports: PortRanges::ALL };
    /// Nothing: trusted, with a session, and no port to reach.
    pub const NONE: Permissions = Permissions { rights: Rights::NONE, ports: PortRanges::ALL };

    /// These rights; `ports` limits [`Rights::OTHER`] and means nothing without it.
    pub fn new(rights: Rights, ports: PortRanges) -> Self {
        let rights = Rights::from_bits(rights.bits() & Rights::ALL.bits());
        let ports = if rights.contains(Rights::OTHER) { ports } else { PortRanges::ALL };
        Permissions { rights, ports }
    }

    /// What the grant says.
    pub const fn rights(self) -> Rights {
        self.rights
    }

    /// Which of the ports that are no service's own it covers; our own rule.
    pub const fn ports(self) -> PortRanges {
        self.ports
    }

    /// Whether the peer may reach `port`. For port 1001 messages or files suffice; which of the
    /// two, the service asks for each offer.
    pub fn allows(self, port: Port) -> bool {
        let is_service = Rights::of_port(port) != Rights::OTHER;
        self.rights.allows(port) && (is_service || self.ports.contains(port))
    }

    /// No more than `rights` of it.
    pub(super) fn within(self, rights: Rights) -> Self {
        Permissions::new(Rights::from_bits(self.rights.bits() & rights.bits()), self.ports)
    }
}

/// The words, in the order of the bits.
const WORDS: [(&str, Rights); 6] = [
    ("echo", Rights::ECHO),
    ("message", Rights::MESSAGES),
    ("file", Rights::FILES),
    ("events", Rights::EVENTS),
    ("tasks", Rights::TASKS),
    ("ports", Rights::OTHER),
];

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = WORDS.iter().filter(|(_, right)| self.rights.contains(*right)).peekable();
        if words.peek().is_none() {
            return f.write_str("none");
        }
        for (i, (word, _)) in words.enumerate() {
            write!(f, "{}{word}", if i > 0 { "," } else { "" })?;
        }
        if self.ports == PortRanges::ALL { Ok(()) } else { write!(f, "={}", self.ports) }
    }
}

impl FromStr for Permissions {
    type Err = PermissionsError;

    fn from_str(text: &str) -> Result<Self, PermissionsError> {
        match text {
            "all" => return Ok(Permissions::ALL),
            "none" => return Ok(Permissions::NONE),
            _ => {}
        }
        let (mut rights, mut ports, mut any) = (Rights::NONE, PortRanges::NONE, false);
        for word in text.split(',').map(str::trim) {
            if let Some(ranges) = word.strip_prefix("ports=") {
                rights = rights.union(Rights::OTHER);
                ranges.split('+').try_for_each(|range| ports.push(range.parse()?))?;
                continue;
            }
            // The plural, too: both are said.
            let is = |(known, _): &&(&str, Rights)| *known == word || word == plural(known);
            let (_, right) = WORDS.iter().find(is).ok_or(PermissionsError::UnknownRight)?;
            rights = rights.union(*right);
            any |= *right == Rights::OTHER;
        }
        Ok(Permissions::new(rights, if any { PortRanges::ALL } else { ports }))
    }
}

fn plural(word: &str) -> &str {
    match word {
        "message" => "messages",
        "file" => "files",
        other => other,
    }
}

impl Trust<'_> {
    /// Changes what a peer may do here. Rights that change are a new grant, which it gets by
    /// `TrustConfirm`; ranges of ports concern nobody else. Whether anything changed.
    pub(crate) fn set_permissions(
        &mut self,
        ctx: &mut Context<'_>,
        index: PeerIndex,
        permissions: Permissions,
    ) -> Result<bool, TrustError> {
        let stamp = self.stamps.wrapping_add(1);
        let Some(slot) = self.peers.get_mut(index.index()) else {
            return Err(TrustError::NotFound);
        };
        let PeerState::Trusted(entry) = &mut slot.state else {
            return Err(TrustError::NotFound);
        };
        if entry.permissions() == permissions {
            return Ok(false);
        }
        if entry.given.rights != permissions.rights() {
            entry.given = ctx.grant_to(entry.identity, permissions.rights());
            entry.superseded = true;
            entry.confirm_due = true;
            // An answer to a job that carried the grant before must not end this one.
            self.stamps = stamp;
            slot.stamp = stamp;
            slot.hold = Instant::START;
        }
        entry.ports = permissions.ports();
        slot.fact.touch(ctx.journal);
        self.raise(index, peer::UPDATED);
        self.look();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn rights_name_services_and_ranges_the_other_ports() {
        let permissions: Permissions = "message,ports=8000-8100+9000".parse().unwrap();
        for (port, allowed) in [
            (1001, true),
            (7, false),
            (1002, false),
            (1003, false),
            (7999, false),
            (8000, true),
            (8100, true),
            (8101, false),
            (9000, true),
            (0, false),
            (65535, false),
        ] {
            assert_eq!(permissions.allows(Port(port)), allowed, "{port}");
        }
        // A range gives no service, and no range limits one.
        let around: Permissions = "echo,ports=0-2000".parse().unwrap();
        assert!(around.allows(Port::ECHO) && !around.allows(Port::DATA_EXCHANGE));
        assert!(around.allows(Port::TRUST) && !around.allows(Port(2001)));
        assert!(
            Permissions::default().allows(Port(65535))
                && Permissions::default().allows(Port::TASKS)
        );
        assert!(!Permissions::NONE.allows(Port(65535)) && !Permissions::NONE.allows(Port::ECHO));
    }

    #[test]
    fn texts_are_read_and_written() {
        for text in ["echo", "message,file", "none", "echo,tasks,ports", "ports=1+2-3+65535"] {
            assert_eq!(text.parse::<Permissions>().unwrap().to_string(), text);
        }
        assert_eq!("all".parse(), Ok(Permissions::ALL));
        assert_eq!(Permissions::ALL.to_string(), "echo,message,file,events,tasks,ports");
        assert_eq!("files, messages".parse::<Permissions>().unwrap().to_string(), "message,file");
        assert_eq!("ports=1,ports".parse::<Permissions>().unwrap().to_string(), "ports");
        for (text, error) in [
            ("", PermissionsError::UnknownRight),
            ("echo,", PermissionsError::UnknownRight),
            ("all,echo", PermissionsError::UnknownRight),
            ("Echo", PermissionsError::UnknownRight),
            ("ports=", PermissionsError::BadRange),
            ("ports=2-1", PermissionsError::BadRange),
            ("ports=1-2-3", PermissionsError::BadRange),
            ("ports=+1", PermissionsError::BadRange),
            ("ports=65536", PermissionsError::BadRange),
            ("ports=1+2+3+4+5+6+7+8+9", PermissionsError::TooManyRanges),
        ] {
            assert_eq!(text.parse::<Permissions>(), Err(error), "{text}");
        }
        let eight = [PortRange::ALL; 9];
        assert_eq!(PortRanges::new(&eight), Err(PermissionsError::TooManyRanges));
        assert!(PortRanges::new(&eight[1..]).is_ok());
    }

    #[test]
    fn a_length_that_cannot_be_is_no_port() {
        let mut ranges = PortRanges::ALL;
        ranges.len = 200;
        assert!(ranges.as_slice().is_empty() && !ranges.contains(Port(80)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            bits in any::<u16>(),
            ranges in prop::collection::vec(any::<(u16, u16)>(), 1..=8),
            ports in prop::collection::vec(any::<u16>(), 16),
        ) {
            let range = |(a, b): (u16, u16)| PortRange::new(Port(a.min(b)), Port(a.max(b)));
            let ranges: Vec<_> = ranges.into_iter().filter_map(range).collect();
            let permissions = Permissions::new(Rights::from_bits(bits), PortRanges::new(&ranges).unwrap());
            let again: Permissions = permissions.to_string().parse().unwrap();
            prop_assert_eq!(again.rights(), permissions.rights());
            for port in ports.into_iter().map(Port) {
                prop_assert_eq!(again.allows(port), permissions.allows(port));
                let named = ranges.iter().any(|r| r.contains(port));
                let other = !matches!(port.0, 7 | 1001..=1003);
                prop_assert!(!other || permissions.allows(port) == (named && bits & 32 != 0));
            }
        }
    }
}
