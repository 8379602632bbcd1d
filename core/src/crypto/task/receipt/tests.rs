use super::*;
use crate::crypto::task::statement::tests::{REGISTRY, chain, submitter, worker};
use crate::crypto::task::{Side, Step};
use proptest::prelude::*;
use std::string::String;

const DAY: u64 = 1_700_000_000_000;

fn done() -> Head {
    chain(&[Step::Accept, Step::Start, Step::Complete])
}

/// Ten minutes of work, three seconds of waiting for each.
fn times(offset: u64) -> Times {
    Times::from_millis([3000, 6000, 9000, 609_000].map(|t| DAY + offset + t))
}

pub(crate) fn claim() -> Claim {
    Claim::sign(&worker(), &REGISTRY, &done(), times(0)).unwrap()
}

pub(crate) fn receipt() -> Receipt {
    Receipt::sign(&submitter(), &REGISTRY, &done(), &claim(), times(50)).unwrap()
}

#[test]
fn round_trips_in_305_bytes() {
    let receipt = receipt();
    let bytes = receipt.encode();
    assert_eq!((bytes.len(), receipt.claim.encode().len()), (305, 209));
    assert_eq!(Receipt::decode(&bytes), Ok(receipt));
    assert_eq!(Receipt::decode(&bytes[..304]), Err(DecodeError::Length));
    assert_eq!(Receipt::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Length));
    assert_eq!(Claim::decode(&bytes[..209]), Ok(receipt.claim));
    assert_eq!(receipt.verify(&REGISTRY), Ok(()));
    assert_eq!(receipt.verify(&IdentityKey([3; 32])), Err(BadSignature));
    assert!(receipt.claim.is_of(&done()));
    let mut text = [0; 400];
    let text = postcard::to_slice(&receipt, &mut text).unwrap();
    assert_eq!(postcard::from_bytes::<Receipt>(text), Ok(receipt));
}

#[test]
fn the_bytes_are_frozen() {
    let hex: String = data_encoding::HEXLOWER.encode(&receipt().encode());
    let expected: String = include_str!("frozen.txt").split_whitespace().collect();
    assert_eq!(hex, expected);
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = receipt().encode();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let taken = Receipt::decode(&bytes).is_ok_and(|r| r.verify(&REGISTRY).is_ok());
        assert!(!taken, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn decoding_is_strict() {
    let good = receipt().encode();
    for outcome in [0, 3, 255] {
        let mut copy = good;
        copy[80] = outcome;
        assert_eq!(Receipt::decode(&copy), Err(DecodeError::Field));
    }
    let mut copy = good;
    copy.copy_within(16..48, 48);
    assert_eq!(Receipt::decode(&copy), Err(DecodeError::Field), "with itself");
}

#[test]
fn each_side_signs_its_own_part_only() {
    let head = done();
    assert_eq!(Claim::sign(&submitter(), &REGISTRY, &head, times(0)), Err(NotSigned::WrongSide));
    let claim = claim();
    let refused = Receipt::sign(&worker(), &REGISTRY, &head, &claim, times(0));
    assert_eq!(refused, Err(NotSigned::WrongSide));
    // Signed all the same, past the check: the worker alone makes no receipt.
    let mut forged = Receipt { claim, times: times(0), sig: [0; 64] };
    let text = forged.encode();
    forged.sig = worker().sign(purpose::RECEIPT, &[&REGISTRY.0, &text[..COUNTERSIGNED]]);
    assert_eq!(forged.verify(&REGISTRY), Err(BadSignature));
    // Nor the submitter alone.
    let mut claim = Claim { times: times(9), ..claim };
    let text = claim.encode();
    claim.sig = submitter().sign(purpose::CLAIM, &[&REGISTRY.0, &text[..CLAIMED]]);
    let refused = Receipt::sign(&submitter(), &REGISTRY, &head, &claim, times(0));
    assert_eq!(refused, Err(NotSigned::BadClaim));
    let mut forged = Receipt { claim, times: times(0), sig: [0; 64] };
    let text = forged.encode();
    forged.sig = submitter().sign(purpose::RECEIPT, &[&REGISTRY.0, &text[..COUNTERSIGNED]]);
    assert_eq!(forged.verify(&REGISTRY), Err(BadSignature));
}

#[test]
fn only_finished_work_has_a_receipt() {
    let unfinished: [&[Step]; 6] = [
        &[],
        &[Step::Accept],
        &[Step::Accept, Step::Start],
        &[Step::Decline],
        &[Step::Cancel],
        &[Step::Accept, Step::Expire],
    ];
    for steps in unfinished {
        assert_eq!(
            Claim::sign(&worker(), &REGISTRY, &chain(steps), times(0)),
            Err(NotSigned::Unfinished)
        );
    }
    let failed = chain(&[Step::Accept, Step::Fail]);
    let claim = Claim::sign(&worker(), &REGISTRY, &failed, times(0)).unwrap();
    assert_eq!(claim.outcome, Outcome::Failed);
    assert!(!claim.is_of(&done()));
    let receipt = Receipt::sign(&submitter(), &REGISTRY, &failed, &claim, times(0)).unwrap();
    assert_eq!((receipt.reward(), receipt.cost()), (0, 0));
}

#[test]
fn a_claim_is_of_one_end_of_one_chain() {
    let claim = claim();
    let mut other = chain(&[Step::Accept, Step::Start, Step::Progress, Step::Complete]);
    assert!(!claim.is_of(&other));
    other = chain(&[Step::Accept, Step::Start]);
    assert!(!claim.is_of(&other));
    assert_eq!(other.next(Step::Complete, Side::Submitter, UnixTime::default(), b"").ok(), None);
    let boast = Claim { outcome: Outcome::Failed, ..claim };
    assert!(!boast.is_of(&done()));
    let other = chain(&[Step::Accept, Step::Start, Step::Progress, Step::Complete]);
    let refused = Receipt::sign(&submitter(), &REGISTRY, &other, &claim, times(0));
    assert_eq!(refused, Err(NotSigned::BadClaim));
}

#[test]
fn what_a_receipt_is_worth() {
    let receipt = receipt();
    // (1 + log2(11)) · (1 − 0.015 − 0.0015) = 4.39
    assert_eq!((receipt.reward(), receipt.cost()), (4, 1));
    assert_eq!(receipt.finished(), receipt.claim.times.finished, "50 ms before the submitter's");
    let late = Receipt { times: Times::from_millis([DAY; 4]), ..receipt };
    assert_eq!(late.reward(), 1, "a submitter that saw it all at once");
}

proptest! {
    #[test]
    fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(receipt) = Receipt::decode(&bytes) {
            prop_assert_eq!(&receipt.encode()[..], &bytes[..]);
            prop_assert!(receipt.reward() <= 16);
        }
        if let Ok(claim) = Claim::decode(&bytes) {
            prop_assert_eq!(&claim.encode()[..], &bytes[..]);
        }
    }
}
