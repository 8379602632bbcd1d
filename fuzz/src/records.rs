//! What is signed: records, grants, assigns, beacon entries, trust requests, as codecs, and the
//! handshake's payloads P1 and P2.
//!
//! Oracle: whatever decodes encodes to the very bytes it came from (one meaning, one encoding,
//! `wire.md` 2.1), so a hash over the bytes names the object; what was signed verifies after a
//! round trip, under its registry only, and no longer with one bit flipped; a stranger's bytes
//! never verify.

use crate::tape::Tape;
use pilot_core::addr::{Address, NodeId};
use pilot_core::crypto::record::{RECORD_SHORT, RecordFields, ShortRecord};
use pilot_core::crypto::{
    Assign, BeaconEntry, Grant, Identity, IdentityKey, Record, Rights, TrustRequest, TunnelKey,
};
use pilot_core::name::{Justification, is_hostile};
use pilot_core::session::payload::{InitPayload, P1_MAX, P2_MAX, RespPayload};

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.below(9) {
        0 => record_bytes(tape.rest()),
        1 => grant_bytes(tape.rest()),
        2 => request_bytes(tape.rest()),
        3 => registry_bytes(tape.rest()),
        4 => payload_bytes(tape.rest()),
        5 => signed_record(&mut tape),
        6 => signed_grant(&mut tape),
        7 => signed_request(&mut tape),
        _ => signed_by_registry(&mut tape),
    }
}

fn registry() -> Identity {
    Identity::from_secret([7; 32])
}

fn record_bytes(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    assert_eq!(record.encode(), bytes, "one encoding");
    let short = record.to_short().expand(record.fields.addr, record.fields.tunnel);
    assert_eq!(short.fields, record.fields);
    assert_eq!(short.encode()[..188], bytes[..188]);
}

fn grant_bytes(bytes: &[u8]) {
    let Ok(grant) = Grant::decode(bytes) else { return };
    assert_eq!(grant.encode(), bytes, "one encoding");
}

fn request_bytes(bytes: &[u8]) {
    let Ok(request) = TrustRequest::decode(bytes) else { return };
    assert_eq!(request.encode(), bytes, "one encoding");
    assert!(request.text().as_str().chars().all(|c| !is_hostile(c)));
}

fn registry_bytes(bytes: &[u8]) {
    if let Ok(assign) = Assign::decode(bytes) {
        assert_eq!(assign.encode(), bytes, "one encoding");
    }
    if let Ok(entry) = BeaconEntry::decode(bytes) {
        assert_eq!(entry.encode(), bytes, "one encoding");
    }
}

/// Undefined bits of caps and flags are ignored (`wire.md` 4.2), so a payload may lose them;
/// what is understood of it stays.
fn payload_bytes(bytes: &[u8]) {
    if let Ok(p1) = InitPayload::decode(bytes) {
        let mut out = [0; P1_MAX];
        let n = p1.encode(&mut out);
        assert_eq!(n, bytes.len());
        assert_eq!(InitPayload::decode(&out[..n]), Ok(p1));
    }
    if let Ok(p2) = RespPayload::decode(bytes) {
        let mut out = [0; P2_MAX];
        let n = p2.encode(&mut out);
        assert_eq!((n, p2.encoded_len()), (bytes.len(), bytes.len()));
        assert_eq!(RespPayload::decode(&out[..n]), Ok(p2));
    }
}

/// Another bit of `bytes`, chosen by the tape.
fn flip(tape: &mut Tape<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut forged = bytes.to_vec();
    let bit = usize::from(tape.word()) % (8 * bytes.len());
    forged[bit / 8] ^= 1 << (bit % 8);
    forged
}

fn signed_record(tape: &mut Tape<'_>) {
    let (registry, stranger) = (registry().public(), IdentityKey(tape.array()));
    let identity = Identity::from_secret(tape.array());
    let fields = RecordFields {
        addr: Address::from_bytes(tape.array()),
        tunnel: TunnelKey(tape.array()),
        serial: tape.quad(),
        not_after: tape.quad(),
        flags: tape.word(),
        grant_epoch: tape.long(),
        prev: tape.array(),
    };
    let mut record = Record::sign(&identity, &registry, fields);
    let previous = Identity::from_secret([9; 32]);
    if tape.flag() {
        record = record.with_previous(&previous, &registry);
        assert_eq!(record.verify_previous(&previous.public(), &registry), Ok(()));
    }
    let bytes = record.encode();
    assert_eq!(Record::decode(&bytes), Ok(record));
    assert_eq!(record.verify(&registry), Ok(()));
    assert!(stranger == registry || record.verify(&stranger).is_err());
    let forged = flip(tape, &bytes);
    if let Ok(forged) = Record::decode(&forged) {
        let previous = &previous.public();
        let whole = forged.verify(&registry).is_ok()
            && (bytes.len() == 188 || forged.verify_previous(previous, &registry).is_ok());
        assert!(!whole, "a flipped bit verifies");
    }
    let short = ShortRecord(tape.array::<RECORD_SHORT>());
    assert!(short.expand(record.fields.addr, record.fields.tunnel).verify(&registry).is_err());
}

fn signed_grant(tape: &mut Tape<'_>) {
    let registry = registry().public();
    let grantor = Identity::from_secret(tape.array());
    let grantee = IdentityKey(tape.array());
    let (address, rights) = (Address::from_bytes(tape.array()), Rights::from_bits(tape.word()));
    let (epoch, nonce) = (tape.long(), tape.array());
    let grant = Grant::sign(&grantor, &registry, address, grantee, rights, epoch, nonce);
    assert_eq!(Grant::decode(&grant.encode()), Ok(grant));
    assert_eq!(grant.verify(&registry), Ok(()));
    if let Ok(forged) = Grant::decode(&flip(tape, &grant.encode())) {
        assert!(forged.verify(&registry).is_err(), "a flipped bit verifies");
        assert_ne!(forged.hash(), grant.hash());
    }
}

fn signed_request(tape: &mut Tape<'_>) {
    let registry = registry().public();
    let from = Identity::from_secret(tape.array());
    let (from_addr, to_addr) =
        (Address::from_bytes(tape.array()), Address::from_bytes(tape.array()));
    let to = tape.flag().then(|| IdentityKey(tape.array()));
    let (nonce, issued, rights) = (tape.array(), tape.quad(), Rights::from_bits(tape.word()));
    let text = Justification::cleaned(&String::from_utf8_lossy(tape.chunk()));
    let grant = tape.flag().then(|| {
        let grantee = to.unwrap_or(IdentityKey::ZERO);
        Grant::sign(&from, &registry, from_addr, grantee, rights, tape.long(), tape.array())
    });
    let target = (to_addr, to);
    let request = TrustRequest::sign(
        &from, &registry, from_addr, target, nonce, issued, rights, &text, grant,
    );
    let bytes = request.encode();
    assert_eq!(TrustRequest::decode(&bytes).as_ref(), Ok(&request));
    assert_eq!(request.verify(&registry), Ok(()));
    assert_eq!(request.text(), text, "clean text stays as it is");
    if let Ok(forged) = TrustRequest::decode(&flip(tape, &bytes)) {
        assert!(forged.verify(&registry).is_err(), "a flipped bit verifies");
    }
}

fn signed_by_registry(tape: &mut Tape<'_>) {
    let registry = registry();
    let key = registry.public();
    let fields = RecordFields {
        addr: Address::backbone(NodeId(tape.long())),
        tunnel: TunnelKey(tape.array()),
        serial: tape.quad(),
        not_after: 0,
        flags: 0,
        grant_epoch: 0,
        prev: [0; 32],
    };
    let record = Record::sign(&Identity::from_secret([1; 32]), &key, fields);
    let assign = Assign::sign(&registry, &record, tape.quad(), tape.quad());
    assert_eq!(Assign::decode(&assign.encode()), Ok(assign));
    assert_eq!(assign.verify(&key, &record), Ok(()));
    if let Ok(forged) = Assign::decode(&flip(tape, &assign.encode())) {
        assert!(forged.verify(&key, &record).is_err());
    }
    let entry =
        BeaconEntry::sign(&registry, NodeId(tape.long()), TunnelKey(tape.array()), tape.quad());
    assert_eq!(BeaconEntry::decode(&entry.encode()), Ok(entry));
    assert_eq!(entry.verify(&key), Ok(()));
    if let Ok(forged) = BeaconEntry::decode(&flip(tape, &entry.encode())) {
        assert!(forged.verify(&key).is_err());
    }
}
