use super::*;
use crate::crypto::task::RECEIPT;
use proptest::prelude::*;
use std::vec::Vec;

const NOW: u64 = 1_800_000_000;

/// Ten minutes of work that ended at `finished` (Unix seconds), not signed by anybody: whoever
/// puts a receipt in here has checked it.
fn receipt(submitter: u8, worker: u8, task: u16, finished: u64) -> Receipt {
    let mut bytes = Vec::from([0; 14]);
    bytes.extend(task.to_be_bytes());
    bytes.extend([submitter; 32]);
    bytes.extend([worker; 32]);
    // Every fifth one failed.
    bytes.push(if task % 5 == 4 { 2 } else { 1 });
    bytes.extend([0; 32]);
    let times = [finished - 600, finished - 600, finished - 600, finished];
    let times: Vec<u8> = times.iter().flat_map(|t| (t * 1000).to_be_bytes()).collect();
    for part in [&times[..], &[0; 64], &times, &[0; 64]] {
        bytes.extend(part);
    }
    assert_eq!(bytes.len(), RECEIPT);
    Receipt::decode(&bytes).unwrap()
}

fn account(ledger: &Ledger, of: u8) -> Reputation {
    ledger.reputation(&IdentityKey([of; 32]))
}

#[test]
fn sums_are_those_of_the_receipts() {
    let mut ledger = Ledger::default();
    for task in 0..10 {
        ledger.set(receipt(1, 2, task, NOW), NOW);
    }
    // (1 + log2(11)) is 4.46: eight times 4 points, and two that failed.
    let worker = Reputation { earned: 32, completed: 8, failed: 2, ..Reputation::default() };
    assert_eq!(account(&ledger, 2), worker);
    let submitter = Reputation { spent: 8, submitted: 10, ..Reputation::default() };
    assert_eq!((account(&ledger, 1), submitter.score()), (submitter, -8));
    assert_eq!(account(&ledger, 3), Reputation::default());
    for task in 0..10 {
        ledger.unset(&key(&receipt(1, 2, task, NOW)));
    }
    assert_eq!((ledger.len(), ledger.accounts.len(), ledger.by_count.len()), (0, 0, 0));
    let dealt = &ledger.dealt[&pair(&receipt(1, 2, 0, NOW))];
    assert_eq!((dealt.receipts, dealt.points), (0, 0));
}

#[test]
fn a_worker_keeps_the_receipts_of_its_latest_work() {
    let mut ledger = Ledger::default();
    let most = 1 << 20;
    for task in 0..RECEIPTS_PER_WORKER as u16 {
        let receipt = receipt(1, 2, task, NOW + 2 * u64::from(task));
        assert_eq!(ledger.in_its_place(&receipt, most), Ok(None));
        ledger.set(receipt, NOW);
    }
    let older = receipt(1, 2, 5000, NOW - 1);
    assert_eq!(ledger.in_its_place(&older, most), Err(ErrorCode::Full.into()));
    let newer = receipt(1, 2, 5000, NOW + 1);
    let oldest = key(&receipt(1, 2, 0, NOW));
    assert_eq!(ledger.in_its_place(&newer, most), Ok(Some(oldest)));
    // Its own work as a submitter is nobody's list but the other's.
    assert_eq!(ledger.in_its_place(&receipt(2, 1, 0, NOW), most), Ok(None));
}

#[test]
fn at_the_limit_of_all_who_has_the_most_gives_way() {
    let mut ledger = Ledger::default();
    for task in 0..6 {
        ledger.set(receipt(1, 2, task, NOW + u64::from(task)), NOW);
    }
    ledger.set(receipt(8, 3, 0, NOW - 1000), NOW);
    let oldest = key(&receipt(1, 2, 0, NOW));
    // Whoever else it is of: never the one that worker 3 has.
    for new in [receipt(9, 4, 0, NOW), receipt(9, 3, 1, NOW - 2000), receipt(9, 2, 9, NOW + 100)] {
        assert_eq!(ledger.in_its_place(&new, 7), Ok(Some(oldest)), "{new:?}");
    }
    let own_older = receipt(9, 2, 9, NOW - 1);
    assert_eq!(ledger.in_its_place(&own_older, 7), Err(ErrorCode::Full.into()));
}

#[test]
fn a_pair_has_so_many_receipts_and_points_a_day() {
    let midnight = UnixTime::from_secs(NOW / 86_400 * 86_400);
    let at = |hours: u64| midnight + Duration::from_secs(3600 * hours);
    let mut ledger = Ledger::default();
    // 4 points each.
    for task in (0..40).filter(|task| task % 5 != 4).take(16) {
        let receipt = receipt(1, 2, task, NOW);
        assert_eq!(ledger.check_pair(&receipt, at(1)), Ok(()));
        ledger.set(receipt, at(1).as_secs());
    }
    // Whichever of them works.
    for receipt in [receipt(1, 2, 50, NOW), receipt(2, 1, 50, NOW)] {
        let refused = ledger.check_pair(&receipt, at(21)).unwrap_err();
        assert_eq!((refused.code, refused.retry_ms), (ErrorCode::RateLimited, 3 * 3_600_000));
        assert_eq!(ledger.check_pair(&receipt, at(24)), Ok(()));
    }
    assert_eq!(ledger.check_pair(&receipt(1, 3, 50, NOW), at(21)), Ok(()));
    // Failed ones are worth nothing and count as receipts.
    for n in 0..16 {
        let receipt = receipt(1, 2, 104 + 5 * n, NOW);
        assert_eq!((receipt.reward(), ledger.check_pair(&receipt, at(2))), (0, Ok(())));
        ledger.set(receipt, at(2).as_secs());
    }
    assert!(ledger.check_pair(&receipt(1, 2, 4, NOW), at(2)).is_err());
    ledger.sweep(at(23));
    assert!(ledger.check_pair(&receipt(1, 2, 4, NOW), at(23)).is_err());
    ledger.sweep(at(24));
    assert_eq!(ledger.dealt.len(), 0);
}

/// The operator's clock is set back over midnight after the day's counts were forgotten.
#[test]
fn a_clock_that_is_set_back_breaks_nothing() {
    let mut ledger = Ledger::default();
    for task in 0..4 {
        ledger.set(receipt(1, 2, task, NOW), NOW);
    }
    ledger.sweep(UnixTime::from_secs(NOW + 86_400));
    ledger.set(receipt(1, 2, 5, NOW), NOW);
    for task in 0..6 {
        ledger.unset(&key(&receipt(1, 2, task, NOW)));
    }
    assert_eq!((ledger.len(), ledger.accounts.len()), (0, 0));
    assert_eq!(ledger.check_pair(&receipt(1, 2, 0, NOW), UnixTime::from_secs(NOW)), Ok(()));
}

/// What the receipts are worth, from scratch.
fn recomputed(receipts: &[Receipt], of: u8) -> Reputation {
    let mut sum = Reputation::default();
    for receipt in receipts {
        let succeeded = receipt.claim.outcome == Outcome::Succeeded;
        if receipt.claim.worker.0[0] == of {
            sum.earned += receipt.reward();
            sum.completed += u32::from(succeeded);
            sum.failed += u32::from(!succeeded);
        }
        if receipt.claim.submitter.0[0] == of {
            sum.spent += receipt.cost();
            sum.submitted += 1;
        }
    }
    sum
}

proptest! {
    /// After any changes, and after loading what is left in another order.
    #[test]
    fn whatever_comes_and_goes_the_sums_are_right(
        steps in prop::collection::vec((1u8..5, 1u8..5, 0u16..6, 0u64..4, any::<bool>()), 0..60),
    ) {
        let mut ledger = Ledger::default();
        for (submitter, worker, task, days, keep) in steps {
            if submitter == worker {
                continue;
            }
            let at = NOW + 86_400 * days;
            let receipt = receipt(submitter, worker, task, at);
            if keep {
                ledger.set(receipt, at);
            } else {
                ledger.unset(&key(&receipt));
            }
        }
        let mut held: Vec<(Receipt, u64)> = ledger.iter().map(|(r, at)| (*r, at)).collect();
        held.reverse();
        let mut loaded = Ledger::default();
        for &(receipt, received) in &held {
            loaded.set(receipt, received);
        }
        let receipts: Vec<Receipt> = held.iter().map(|(receipt, _)| *receipt).collect();
        for of in 1..5 {
            let expected = recomputed(&receipts, of);
            prop_assert_eq!(account(&ledger, of), expected);
            prop_assert_eq!(account(&loaded, of), expected);
        }
        prop_assert_eq!(&ledger.by_count, &loaded.by_count);
        let counted: usize = loaded.by_count.iter().map(|(n, _)| n).sum();
        prop_assert_eq!(counted, receipts.len());
        for probe in receipts {
            let later = UnixTime::from_secs(NOW + 86_400 * 3);
            prop_assert_eq!(ledger.check_pair(&probe, later), loaded.check_pair(&probe, later));
        }
    }
}
