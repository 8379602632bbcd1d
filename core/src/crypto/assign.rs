//! What the registry signs (`wire.md` 6.1, 6.2, 7): that an address is a record's, what a
//! beacon's tunnel key is, and what its own tunnel key is.

use super::codec::{DecodeError, Reader, Writer, serde_as_bytes};
use super::identity::{BadSignature, Identity, IdentityKey, TunnelKey};
use super::{Record, purpose};
use crate::addr::NodeId;

/// Bytes of an [`Assign`] as sent.
pub const ASSIGN: usize = 80;
/// Bytes of a [`BeaconEntry`] as sent.
pub const BEACON_ENTRY: usize = 108;

/// The registry's word that a record's address is its identity's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assign {
    /// Place in the transparency log; 0 in this version.
    pub log_index: u64,
    /// When, in Unix seconds by the registry's clock.
    pub time: u64,
    sig: [u8; 64],
}

impl Assign {
    /// Assigns `record`'s address to its identity.
    pub fn sign(registry: &Identity, record: &Record, log_index: u64, time: u64) -> Self {
        let parts: [&[u8]; 3] = [&record.hash(), &log_index.to_be_bytes(), &time.to_be_bytes()];
        Assign { log_index, time, sig: registry.sign(purpose::ASSIGN, &parts) }
    }

    /// Checks that it is the registry's and about exactly this record (whose own signature is
    /// checked by [`Record::verify`]).
    pub fn verify(&self, registry: &IdentityKey, record: &Record) -> Result<(), BadSignature> {
        let parts: [&[u8]; 3] =
            [&record.hash(), &self.log_index.to_be_bytes(), &self.time.to_be_bytes()];
        registry.verify(purpose::ASSIGN, &parts, &self.sig)
    }

    /// The 80 bytes.
    pub fn encode(&self) -> [u8; ASSIGN] {
        let mut out = [0; ASSIGN];
        Writer::new(&mut out)
            .put(&self.log_index.to_be_bytes())
            .put(&self.time.to_be_bytes())
            .put(&self.sig);
        out
    }

    /// Reads exactly 80 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let assign = Assign { log_index: r.u64()?, time: r.u64()?, sig: r.array()? };
        r.finish()?;
        Ok(assign)
    }
}

serde_as_bytes!(Assign);

/// A beacon's tunnel key, signed by the registry; its socket address is configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeaconEntry {
    /// The beacon's node number (2 in this version).
    pub node: NodeId,
    /// Its X25519 key.
    pub tunnel: TunnelKey,
    /// Strictly increasing.
    pub serial: u64,
    sig: [u8; 64],
}

impl BeaconEntry {
    /// Signs an entry.
    pub fn sign(registry: &Identity, node: NodeId, tunnel: TunnelKey, serial: u64) -> Self {
        let mut entry = BeaconEntry { node, tunnel, serial, sig: [0; 64] };
        entry.sig = registry.sign(purpose::BEACON, &[&entry.encode()[..44]]);
        entry
    }

    /// Checks that it is the registry's.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        registry.verify(purpose::BEACON, &[&self.encode()[..44]], &self.sig)
    }

    /// The 108 bytes.
    pub fn encode(&self) -> [u8; BEACON_ENTRY] {
        let mut out = [0; BEACON_ENTRY];
        Writer::new(&mut out)
            .put(&self.node.0.to_be_bytes())
            .put(&self.tunnel.0)
            .put(&self.serial.to_be_bytes())
            .put(&self.sig);
        out
    }

    /// Reads exactly 108 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let node = NodeId(r.u32()?);
        let entry =
            BeaconEntry { node, tunnel: TunnelKey(r.array()?), serial: r.u64()?, sig: r.array()? };
        r.finish()?;
        Ok(entry)
    }
}

serde_as_bytes!(BeaconEntry);

/// Signs the registry's present tunnel key for one client's nonce (answer to AOR0).
pub fn sign_keys(registry: &Identity, nonce: &[u8; 32], tunnel: &TunnelKey) -> [u8; 64] {
    registry.sign(purpose::KEYS, &[nonce, &tunnel.0])
}

/// Checks the answer to AOR0.
pub fn verify_keys(
    registry: &IdentityKey,
    nonce: &[u8; 32],
    tunnel: &TunnelKey,
    sig: &[u8; 64],
) -> Result<(), BadSignature> {
    registry.verify(purpose::KEYS, &[nonce, &tunnel.0], sig)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::record::tests::sample;

    #[test]
    fn assign_binds_the_record() {
        let (me, registry) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let (a, b) = (sample(&me, &registry.public(), 1), sample(&me, &registry.public(), 2));
        let assign = Assign::sign(&registry, &a, 0, 77);
        assert_eq!(Assign::decode(&assign.encode()), Ok(assign));
        assert_eq!(assign.verify(&registry.public(), &a), Ok(()));
        assert_eq!(assign.verify(&registry.public(), &b), Err(BadSignature));
        assert_eq!(assign.verify(&me.public(), &a), Err(BadSignature));
        assert_eq!(Assign { time: 78, ..assign }.verify(&registry.public(), &a), Err(BadSignature));
        assert_eq!(Assign::decode(&[0; 79]), Err(DecodeError::Length));
    }

    #[test]
    fn beacon_entries_and_keys() {
        let registry = Identity::from_secret([2; 32]);
        let entry = BeaconEntry::sign(&registry, NodeId::BEACON, TunnelKey([5; 32]), 4);
        assert_eq!(BeaconEntry::decode(&entry.encode()), Ok(entry));
        assert_eq!(entry.verify(&registry.public()), Ok(()));
        let forged = BeaconEntry { tunnel: TunnelKey([6; 32]), ..entry };
        assert_eq!(forged.verify(&registry.public()), Err(BadSignature));
        let sig = sign_keys(&registry, &[1; 32], &TunnelKey([5; 32]));
        let key = registry.public();
        assert_eq!(verify_keys(&key, &[1; 32], &TunnelKey([5; 32]), &sig), Ok(()));
        assert_eq!(verify_keys(&key, &[2; 32], &TunnelKey([5; 32]), &sig), Err(BadSignature));
        assert_eq!(verify_keys(&key, &[1; 32], &TunnelKey([6; 32]), &sig), Err(BadSignature));
    }
}
