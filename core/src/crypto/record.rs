//! The record of an address (`wire.md` 2.1): one meaning, one encoding, no serde inside.
//!
//! 48 bits cannot commit to a key, so a record alone proves only that its identity claims the
//! address; the registry's [`super::Assign`] over its hash says that the claim was granted.

use super::codec::{DecodeError, Reader, Writer, serde_as_bytes};
use super::identity::{BadSignature, Identity, IdentityKey, TunnelKey};
use super::{kdf, purpose};
use crate::addr::{Address, NetworkId};
use crate::time::UnixTime;

/// Bytes of a record.
pub const RECORD: usize = 188;
/// Bytes of a record that changes the identity, signed by the old one too.
pub const RECORD_ROTATED: usize = 252;
/// Bytes of the form in handshakes, without address and tunnel key.
pub const RECORD_SHORT: usize = 150;
const SIGNED: usize = 124;

/// Bits of a record's `flags`. Undefined bits are kept as they are: they are signed.
pub mod flag {
    /// The identity is given up for good.
    pub const TOMBSTONE: u16 = 1;
    /// The agent may be listed.
    pub const LISTED: u16 = 1 << 1;
    /// The agent takes ML-KEM upgrades.
    pub const ML_KEM: u16 = 1 << 2;
    /// The agent may relay.
    pub const MAY_RELAY: u16 = 1 << 3;
}

/// What an agent says of itself, before it is signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordFields {
    /// The backbone address.
    pub addr: Address,
    /// The X25519 key for handshakes.
    pub tunnel: TunnelKey,
    /// Strictly increasing per address.
    pub serial: u64,
    /// End of validity in Unix seconds, 0 for none; checked coarsely.
    pub not_after: u64,
    /// See [`flag`].
    pub flags: u16,
    /// Grants of a lower epoch are void.
    pub grant_epoch: u32,
    /// SHA-256 of the previous record; zero for the first.
    pub prev: [u8; 32],
}

/// A signed record. Decoding checks the form only; call [`Record::verify`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What is said.
    pub fields: RecordFields,
    /// Who says it.
    pub identity: IdentityKey,
    self_sig: [u8; 64],
    prev_sig: Option<[u8; 64]>,
}

impl Record {
    /// Signs `fields` for use with the registry of this key.
    pub fn sign(identity: &Identity, registry: &IdentityKey, fields: RecordFields) -> Self {
        let mut record = Record {
            fields: RecordFields { addr: fields.addr.on_backbone(), ..fields },
            identity: identity.public(),
            self_sig: [0; 64],
            prev_sig: None,
        };
        record.self_sig = identity.sign(purpose::RECORD, &[&registry.0, &record.signed()]);
        record
    }

    /// The same record, signed by the address's previous identity too (`wire.md` 6.4).
    pub fn with_previous(mut self, previous: &Identity, registry: &IdentityKey) -> Self {
        let text = self.signed();
        self.prev_sig = Some(previous.sign(purpose::RECORD, &[&registry.0, &text, b"rotate"]));
        self
    }

    fn signed(&self) -> [u8; SIGNED] {
        let f = &self.fields;
        let mut out = [0; SIGNED];
        Writer::new(&mut out)
            .put(&f.addr.to_bytes())
            .put(&self.identity.0)
            .put(&f.tunnel.0)
            .put(&f.serial.to_be_bytes())
            .put(&f.not_after.to_be_bytes())
            .put(&f.flags.to_be_bytes())
            .put(&f.grant_epoch.to_be_bytes())
            .put(&f.prev);
        out
    }

    /// The 188 or 252 bytes.
    pub fn encode(&self) -> heapless::Vec<u8, RECORD_ROTATED> {
        let mut out = heapless::Vec::new();
        let prev_sig = self.prev_sig.as_ref().map_or(&[][..], |sig| sig);
        for part in [&self.signed()[..], &self.self_sig, prev_sig] {
            out.extend_from_slice(part).expect("the parts are 252 bytes at most");
        }
        out
    }

    /// Reads exactly 188 or 252 bytes; the address must be a backbone address.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let addr = Address::from_bytes(r.array()?);
        if addr.network != NetworkId::BACKBONE {
            return Err(DecodeError::Field);
        }
        let identity = IdentityKey(r.array()?);
        let fields = RecordFields {
            addr,
            tunnel: TunnelKey(r.array()?),
            serial: r.u64()?,
            not_after: r.u64()?,
            flags: r.u16()?,
            grant_epoch: r.u32()?,
            prev: r.array()?,
        };
        let self_sig = r.array()?;
        let prev_sig = if r.remaining() > 0 { Some(r.array()?) } else { None };
        r.finish()?;
        Ok(Record { fields, identity, self_sig, prev_sig })
    }

    /// Checks the identity's signature for the registry of this key.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        self.identity.verify(purpose::RECORD, &[&registry.0, &self.signed()], &self.self_sig)
    }

    /// Checks that `previous`, the address's identity so far, agrees to the change.
    pub fn verify_previous(
        &self,
        previous: &IdentityKey,
        registry: &IdentityKey,
    ) -> Result<(), BadSignature> {
        let sig = self.prev_sig.as_ref().ok_or(BadSignature)?;
        let text = self.signed();
        previous.verify(purpose::RECORD, &[&registry.0, &text, b"rotate"], sig)
    }

    /// SHA-256 over the bytes as sent, signatures included.
    pub fn hash(&self) -> [u8; 32] {
        kdf::sha256(&[&self.encode()])
    }

    /// Whether `not_after` has passed by more than the hour of tolerance (`wire.md` 8).
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.fields.not_after != 0 && now.as_secs() > self.fields.not_after.saturating_add(3600)
    }

    /// The form for handshakes.
    pub fn to_short(&self) -> ShortRecord {
        let f = &self.fields;
        let mut out = [0; RECORD_SHORT];
        Writer::new(&mut out)
            .put(&self.identity.0)
            .put(&f.serial.to_be_bytes())
            .put(&f.not_after.to_be_bytes())
            .put(&f.flags.to_be_bytes())
            .put(&f.grant_epoch.to_be_bytes())
            .put(&f.prev)
            .put(&self.self_sig);
        ShortRecord(out)
    }
}

serde_as_bytes!(Record);

/// A record without address and tunnel key, 150 bytes: both are known inside a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShortRecord(pub [u8; RECORD_SHORT]);

impl ShortRecord {
    /// Who it is of.
    pub fn identity(&self) -> IdentityKey {
        IdentityKey(*self.0.first_chunk().expect("150 bytes have 32"))
    }

    /// Its serial.
    pub fn serial(&self) -> u64 {
        u64::from_be_bytes(core::array::from_fn(|i| self.0[32 + i]))
    }

    /// The whole record, for the address that was claimed and the static key that was proven.
    pub fn expand(&self, addr: Address, tunnel: TunnelKey) -> Record {
        let mut r = Reader::new(&self.0);
        let mut read = || {
            let identity = IdentityKey(r.array()?);
            let fields = RecordFields {
                addr,
                tunnel,
                serial: r.u64()?,
                not_after: r.u64()?,
                flags: r.u16()?,
                grant_epoch: r.u32()?,
                prev: r.array()?,
            };
            let self_sig = r.array()?;
            Ok::<_, DecodeError>(Record { fields, identity, self_sig, prev_sig: None })
        };
        read().expect("150 bytes hold exactly these fields")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::addr::NodeId;
    use proptest::prelude::*;

    pub(crate) fn sample(identity: &Identity, registry: &IdentityKey, serial: u64) -> Record {
        Record::sign(
            identity,
            registry,
            RecordFields {
                addr: Address::backbone(NodeId(0x17)),
                tunnel: TunnelKey([7; 32]),
                serial,
                not_after: 0,
                flags: flag::LISTED,
                grant_epoch: 3,
                prev: [9; 32],
            },
        )
    }

    #[test]
    fn sizes_and_round_trips() {
        let (me, registry) = (Identity::from_secret([1; 32]), IdentityKey([2; 32]));
        let record = sample(&me, &registry, 5);
        let bytes = record.encode();
        assert_eq!(bytes.len(), RECORD);
        assert_eq!(Record::decode(&bytes), Ok(record));
        assert_eq!(record.verify(&registry), Ok(()));
        assert_eq!(record.verify(&IdentityKey([3; 32])), Err(BadSignature));
        let short = record.to_short();
        assert_eq!(short.expand(record.fields.addr, record.fields.tunnel), record);
        assert_eq!((short.identity(), short.serial()), (me.public(), 5));
        assert_eq!(short.expand(record.fields.addr, TunnelKey([8; 32])).verify(&registry), {
            Err(BadSignature)
        });
        let old = Identity::from_secret([4; 32]);
        let rotated = record.with_previous(&old, &registry);
        let bytes = rotated.encode();
        assert_eq!(bytes.len(), RECORD_ROTATED);
        assert_eq!(Record::decode(&bytes), Ok(rotated));
        assert_eq!(rotated.verify_previous(&old.public(), &registry), Ok(()));
        assert_eq!(rotated.verify_previous(&me.public(), &registry), Err(BadSignature));
        assert_eq!(record.verify_previous(&old.public(), &registry), Err(BadSignature));
        let mut text = [0; 300];
        let text = postcard::to_slice(&rotated, &mut text).unwrap();
        assert_eq!(postcard::from_bytes::<Record>(text), Ok(rotated));
    }

    #[test]
    fn expiry_is_coarse() {
        let (me, registry) = (Identity::from_secret([1; 32]), IdentityKey([2; 32]));
        let mut record = sample(&me, &registry, 5);
        assert!(!record.is_expired(UnixTime::from_secs(u64::MAX / 1000)));
        record.fields.not_after = 1000;
        assert!(!record.is_expired(UnixTime::from_secs(4600)));
        assert!(record.is_expired(UnixTime::from_secs(4601)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_flipped_bit_is_rejected(bit in 0usize..RECORD * 8) {
            let (me, registry) = (Identity::from_secret([1; 32]), IdentityKey([2; 32]));
            let mut bytes = sample(&me, &registry, 5).encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let accepted = Record::decode(&bytes).is_ok_and(|r| r.verify(&registry).is_ok());
            prop_assert!(!accepted);
        }

        #[test]
        fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(&record.encode()[..], &bytes[..]);
            }
        }
    }
}
