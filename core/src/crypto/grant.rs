//! Grants (`wire.md` 6.5): the grantor's signed word that one identity may find and reach it,
//! and what for. A grant names one grantee, so trust cannot be passed on.

use super::codec::{DecodeError, Reader, Writer, serde_as_bytes};
use super::identity::{BadSignature, Identity, IdentityKey};
use super::{kdf, purpose};
use crate::addr::{Address, NetworkId, Port};
use serde::{Deserialize, Serialize};

/// Bytes of a [`Grant`] as sent.
pub const GRANT: usize = 156;
const SIGNED: usize = 92;

/// Which ports of the grantor the grantee may reach (`wire.md` 12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Rights(u16);

impl Rights {
    /// None.
    pub const NONE: Rights = Rights(0);
    /// Port 7.
    pub const ECHO: Rights = Rights(1);
    /// Messages over port 1001.
    pub const MESSAGES: Rights = Rights(1 << 1);
    /// Files over port 1001.
    pub const FILES: Rights = Rights(1 << 2);
    /// Port 1002.
    pub const EVENTS: Rights = Rights(1 << 3);
    /// Port 1003.
    pub const TASKS: Rights = Rights(1 << 4);
    /// Any other port with a listener.
    pub const OTHER: Rights = Rights(1 << 5);
    /// All six, the default.
    pub const ALL: Rights = Rights(0x3F);

    const NAMES: [(&'static str, Rights); 6] = [
        ("echo", Rights::ECHO),
        ("messages", Rights::MESSAGES),
        ("files", Rights::FILES),
        ("events", Rights::EVENTS),
        ("tasks", Rights::TASKS),
        ("other", Rights::OTHER),
    ];

    /// The two bytes on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Undefined bits are kept (they are signed) and mean nothing.
    pub const fn from_bits(bits: u16) -> Self {
        Rights(bits)
    }

    /// Both sets together.
    pub const fn union(self, other: Rights) -> Self {
        Rights(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights of which one is needed for `port`. For port 1001 these are messages and files.
    pub const fn of_port(port: Port) -> Self {
        match port {
            Port::ECHO => Rights::ECHO,
            Port::DATA_EXCHANGE => Rights::MESSAGES.union(Rights::FILES),
            Port::EVENTS => Rights::EVENTS,
            Port::TASKS => Rights::TASKS,
            _ => Rights::OTHER,
        }
    }

    /// Whether any right to `port` is in it. Port 1001 needs messages or files; which of the
    /// two, the service asks itself.
    pub const fn allows(self, port: Port) -> bool {
        self.0 & Rights::of_port(port).0 != 0
    }

    /// The right of a name: echo, messages, files, events, tasks or other.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, right)| *right)
    }

    /// The names of the rights in it, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(_, right)| self.contains(*right)).map(|(name, _)| *name)
    }
}

impl Default for Rights {
    fn default() -> Self {
        Rights::ALL
    }
}

/// A signed grant. Decoding checks the form only; call [`Grant::verify`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Whose ports it opens.
    pub grantor_addr: Address,
    /// The identity that signed it.
    pub grantor: IdentityKey,
    /// The one identity that may use it.
    pub grantee: IdentityKey,
    /// What it allows.
    pub rights: Rights,
    /// Void once the grantor's record has a higher one.
    pub epoch: u32,
    /// End of validity in Unix seconds; 0 (none) in this version.
    pub not_after: u64,
    /// Random; tells two grants to the same identity apart.
    pub nonce: [u8; 8],
    sig: [u8; 64],
}

impl Grant {
    /// Grants `rights` to `grantee` for use with the registry of this key.
    pub fn sign(
        grantor: &Identity,
        registry: &IdentityKey,
        grantor_addr: Address,
        grantee: IdentityKey,
        rights: Rights,
        epoch: u32,
        nonce: [u8; 8],
    ) -> Self {
        let mut grant = Grant {
            grantor_addr: grantor_addr.on_backbone(),
            grantor: grantor.public(),
            grantee,
            rights,
            epoch,
            not_after: 0,
            nonce,
            sig: [0; 64],
        };
        grant.sig = grantor.sign(purpose::GRANT, &[&registry.0, &grant.encode()[..SIGNED]]);
        grant
    }

    /// Checks the grantor's signature for the registry of this key. Epoch, grantee and
    /// revocation are the caller's to compare.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        self.grantor.verify(purpose::GRANT, &[&registry.0, &self.encode()[..SIGNED]], &self.sig)
    }

    /// SHA-256 over the 156 bytes; its first 8 name the grant in `Revoke`.
    pub fn hash(&self) -> [u8; 32] {
        kdf::sha256(&[&self.encode()])
    }

    /// The 156 bytes.
    pub fn encode(&self) -> [u8; GRANT] {
        let mut out = [0; GRANT];
        Writer::new(&mut out)
            .put(&self.grantor_addr.to_bytes())
            .put(&self.grantor.0)
            .put(&self.grantee.0)
            .put(&self.rights.0.to_be_bytes())
            .put(&self.epoch.to_be_bytes())
            .put(&self.not_after.to_be_bytes())
            .put(&self.nonce)
            .put(&self.sig);
        out
    }

    /// Reads exactly 156 bytes; the address must be a backbone address.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let grantor_addr = Address::from_bytes(r.array()?);
        if grantor_addr.network != NetworkId::BACKBONE {
            return Err(DecodeError::Field);
        }
        let grant = Grant {
            grantor_addr,
            grantor: IdentityKey(r.array()?),
            grantee: IdentityKey(r.array()?),
            rights: Rights(r.u16()?),
            epoch: r.u32()?,
            not_after: r.u64()?,
            nonce: r.array()?,
            sig: r.array()?,
        };
        r.finish()?;
        Ok(grant)
    }
}

serde_as_bytes!(Grant);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::addr::NodeId;
    use proptest::prelude::*;

    pub(crate) fn sample(grantor: &Identity, registry: &IdentityKey) -> Grant {
        let to = IdentityKey([8; 32]);
        let addr = Address::backbone(NodeId(0x20));
        Grant::sign(grantor, registry, addr, to, Rights::ALL, 1, [5; 8])
    }

    #[test]
    fn rights_name_ports() {
        assert!(Rights::default().allows(Port(5000)));
        assert!(!Rights::ECHO.allows(Port(5000)));
        assert!(Rights::FILES.allows(Port::DATA_EXCHANGE));
        assert!(!Rights::FILES.allows(Port::ECHO));
        assert!(!Rights::from_bits(0xFFC0).allows(Port::ECHO));
        assert_eq!(Rights::from_name("tasks"), Some(Rights::TASKS));
        assert_eq!(Rights::from_name("all"), None);
        let all = Rights::ALL.names().filter_map(Rights::from_name);
        assert_eq!(all.fold(Rights::NONE, Rights::union), Rights::ALL);
    }

    #[test]
    fn grants_round_trip_and_bind_the_registry() {
        let (me, registry) = (Identity::from_secret([1; 32]), IdentityKey([2; 32]));
        let grant = sample(&me, &registry);
        assert_eq!(Grant::decode(&grant.encode()), Ok(grant));
        assert_eq!(grant.verify(&registry), Ok(()));
        assert_eq!(grant.verify(&IdentityKey([3; 32])), Err(BadSignature));
        let mut text = [0; 200];
        let text = postcard::to_slice(&grant, &mut text).unwrap();
        assert_eq!(postcard::from_bytes::<Grant>(text), Ok(grant));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_flipped_bit_is_rejected(bit in 0usize..GRANT * 8) {
            let (me, registry) = (Identity::from_secret([1; 32]), IdentityKey([2; 32]));
            let mut bytes = sample(&me, &registry).encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let accepted = Grant::decode(&bytes).is_ok_and(|g| g.verify(&registry).is_ok());
            prop_assert!(!accepted);
        }
    }
}
