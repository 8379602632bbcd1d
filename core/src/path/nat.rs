//! What a NAT does to an agent's packets, in the terms of RFC 4787 (`nat.md` 1).
//!
//! Three separate facts, not four names: "symmetric" hides what matters for traversal. The
//! classical name is derived from them, for people.

use core::fmt;

/// Which external port a packet leaves from (RFC 4787 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mapping {
    /// Not known: one beacon address cannot tell.
    #[default]
    Unknown,
    /// The same one for every destination (EIM), or there is no translation at all.
    EndpointIndependent,
    /// Another one for each destination address (ADM).
    AddressDependent,
    /// Another one for each destination address and port (APDM).
    AddressAndPortDependent,
}

/// Whose packets are let in (RFC 4787 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Filtering {
    /// Not known.
    #[default]
    Unknown,
    /// Anybody's, once there is a mapping (EIF).
    EndpointIndependent,
    /// Those from an address that we have sent to (ADF).
    AddressDependent,
    /// Those from an address and port that we have sent to (APDF).
    AddressAndPortDependent,
}

/// How external ports are chosen (RFC 4787 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Allocation {
    /// Not known.
    #[default]
    Unknown,
    /// The local port, where it is free.
    Preserving,
    /// The next one, or the next but a fixed step.
    Sequential,
    /// No pattern.
    Random,
    /// No pattern within a small block.
    Block,
}

/// What is known of the NATs, if any, between an agent and the core of the network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Nat {
    /// Mapping.
    pub mapping: Mapping,
    /// Filtering.
    pub filtering: Filtering,
    /// Port allocation.
    pub allocation: Allocation,
}

impl Nat {
    /// The byte of F9 and `Hello`: mapping + 4·filtering + 16·allocation (`wire.md` 5.8).
    pub const fn to_byte(self) -> u8 {
        self.mapping as u8 + 4 * self.filtering as u8 + 16 * self.allocation as u8
    }

    /// The facts in such a byte. Codes that do not exist count as unknown: another version's.
    pub const fn from_byte(byte: u8) -> Self {
        Nat {
            mapping: match byte & 3 {
                1 => Mapping::EndpointIndependent,
                2 => Mapping::AddressDependent,
                3 => Mapping::AddressAndPortDependent,
                _ => Mapping::Unknown,
            },
            filtering: match byte >> 2 & 3 {
                1 => Filtering::EndpointIndependent,
                2 => Filtering::AddressDependent,
                3 => Filtering::AddressAndPortDependent,
                _ => Filtering::Unknown,
            },
            allocation: match byte >> 4 {
                1 => Allocation::Preserving,
                2 => Allocation::Sequential,
                3 => Allocation::Random,
                4 => Allocation::Block,
                _ => Allocation::Unknown,
            },
        }
    }

    /// Whether one external endpoint serves every destination. Unknown counts as yes: it is what
    /// most NATs do, and a wrong guess costs an attempt (`nat.md` 1).
    pub const fn is_stable(self) -> bool {
        matches!(self.mapping, Mapping::Unknown | Mapping::EndpointIndependent)
    }
}

/// The name that such behaviour goes by (RFC 3489 5, and two that have no NAT). For people:
/// it says less than [`Nat`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Classical {
    /// One beacon address cannot tell, or it was not measured yet.
    #[default]
    Unknown,
    /// No translation, and everybody gets through.
    Public,
    /// No translation, but a stateful filter. A 1:1 NAT behind a security group looks like a
    /// port-restricted cone from inside.
    Firewall,
    /// EIM and EIF.
    FullCone,
    /// EIM and ADF.
    RestrictedCone,
    /// EIM and APDF.
    PortRestrictedCone,
    /// Dependent mapping, whatever the filter.
    Symmetric,
    /// No UDP packet is answered.
    Blocked,
}

impl Classical {
    /// The name of what was measured; `is_translated` is unknown before the first answer.
    pub const fn new(nat: Nat, is_translated: Option<bool>) -> Self {
        use Filtering as F;
        match (is_translated, nat.mapping, nat.filtering) {
            (Some(false), _, F::EndpointIndependent) => Classical::Public,
            (Some(false), _, F::AddressDependent | F::AddressAndPortDependent) => {
                Classical::Firewall
            }
            (_, Mapping::AddressDependent | Mapping::AddressAndPortDependent, _) => {
                Classical::Symmetric
            }
            (_, Mapping::Unknown, _) | (_, _, F::Unknown) => Classical::Unknown,
            (_, _, F::EndpointIndependent) => Classical::FullCone,
            (_, _, F::AddressDependent) => Classical::RestrictedCone,
            (_, _, F::AddressAndPortDependent) => Classical::PortRestrictedCone,
        }
    }

    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Classical::Unknown => "unknown",
            Classical::Public => "public",
            Classical::Firewall => "firewall",
            Classical::FullCone => "full cone",
            Classical::RestrictedCone => "restricted cone",
            Classical::PortRestrictedCone => "port-restricted cone",
            Classical::Symmetric => "symmetric",
            Classical::Blocked => "blocked",
        }
    }
}

impl fmt::Display for Classical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mapping::Unknown => "unknown",
            Mapping::EndpointIndependent => "endpoint-independent",
            Mapping::AddressDependent => "address-dependent",
            Mapping::AddressAndPortDependent => "address- and port-dependent",
        })
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Filtering::Unknown => "unknown",
            Filtering::EndpointIndependent => "endpoint-independent",
            Filtering::AddressDependent => "address-dependent",
            Filtering::AddressAndPortDependent => "address- and port-dependent",
        })
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Allocation::Unknown => "unknown",
            Allocation::Preserving => "preserving",
            Allocation::Sequential => "sequential",
            Allocation::Random => "random",
            Allocation::Block => "within a block",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classical_names() {
        use Filtering as F;
        use Mapping as M;
        let name = |translated, mapping, filtering| {
            let nat = Nat { mapping, filtering, allocation: Allocation::Unknown };
            Classical::new(nat, translated).as_str()
        };
        // `nat.md` 1.
        let (eim, apdm) = (M::EndpointIndependent, M::AddressAndPortDependent);
        assert_eq!(name(Some(true), eim, F::EndpointIndependent), "full cone");
        assert_eq!(name(Some(true), eim, F::AddressDependent), "restricted cone");
        assert_eq!(name(Some(true), eim, F::AddressAndPortDependent), "port-restricted cone");
        assert_eq!(name(Some(true), apdm, F::AddressAndPortDependent), "symmetric");
        assert_eq!(name(Some(true), M::AddressDependent, F::Unknown), "symmetric");
        assert_eq!(name(Some(false), eim, F::AddressAndPortDependent), "firewall");
        assert_eq!(name(Some(false), eim, F::EndpointIndependent), "public");
        assert_eq!(name(Some(false), M::Unknown, F::Unknown), "unknown");
        assert_eq!(name(Some(true), eim, F::Unknown), "unknown");
        assert_eq!(name(None, M::Unknown, F::EndpointIndependent), "unknown");
    }

    #[test]
    fn each_byte_is_read_back_as_what_it_says() {
        for byte in 0..=u8::MAX {
            let nat = Nat::from_byte(byte);
            assert_eq!(Nat::from_byte(nat.to_byte()), nat);
            if byte < 80 {
                assert_eq!(nat.to_byte(), byte);
            }
        }
    }
}
