//! Results of the two costly functions of public keys, kept for a program that computes both ends
//! of everything: the simulator.
//!
//! Both ends of a handshake agree on the same secrets, and whoever gets a record verifies it, so
//! most results of a simulated world have been computed before. With the feature `memo` a thread
//! that has called [`remember`] keeps the last of them; every result is the one that would have
//! been computed, so no byte depends on it. In every other thread, and without the feature,
//! nothing is kept.
//!
//! Not for programs that people run: what is kept are secrets, and they outlive their owners.

use super::identity::TunnelKey;

/// With the feature: the functions are pure, and their results are looked up first.
#[cfg(feature = "memo")]
mod kept {
    use super::TunnelKey;
    use core::cell::RefCell;
    use core::hash::Hasher;
    use siphasher::sip128::{Hasher128, SipHasher13};
    use std::boxed::Box;
    use std::vec;

    /// Agreements that are kept; a newer one takes the place of another.
    const AGREEMENTS: usize = 2048;
    /// Signatures likewise.
    const VERDICTS: usize = 2048;

    /// Two public keys, the lower first, and what their owners agree on.
    type Agreement = (TunnelKey, TunnelKey, Option<[u8; 32]>);

    /// Tables in which the hash of a question is its place.
    struct Memo {
        agreements: Box<[Option<Agreement>]>,
        verdicts: Box<[Option<(u128, bool)>]>,
    }

    std::thread_local! {
        static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
    }

    /// From now on this thread keeps results.
    pub fn remember() {
        MEMO.with_borrow_mut(|memo| {
            memo.get_or_insert_with(|| Memo {
                agreements: vec![None; AGREEMENTS].into(),
                verdicts: vec![None; VERDICTS].into(),
            });
        });
    }

    fn place(of: u128, table: usize) -> usize {
        (of % table as u128) as usize
    }

    fn hash(parts: &[&[u8]]) -> u128 {
        let mut hasher = SipHasher13::new();
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    }

    /// What the owners of two keys agree on: `compute`, by one of them, unless the thread has it.
    pub(in crate::crypto) fn agreement(
        ours: TunnelKey,
        theirs: TunnelKey,
        compute: impl FnOnce() -> Option<[u8; 32]>,
    ) -> Option<[u8; 32]> {
        // Either end computes the same, so their order does not matter.
        let (a, b) = (ours.min(theirs), ours.max(theirs));
        let place = place(hash(&[&a.0, &b.0]), AGREEMENTS);
        let kept = |memo: &Option<Memo>| memo.as_ref().and_then(|memo| memo.agreements[place]);
        if let Some((.., shared)) = MEMO.with_borrow(kept).filter(|kept| (kept.0, kept.1) == (a, b))
        {
            return shared;
        }
        let shared = compute();
        MEMO.with_borrow_mut(|memo| {
            if let Some(memo) = memo {
                memo.agreements[place] = Some((a, b, shared));
            }
        });
        shared
    }

    /// Whether a signature is right: `compute`, unless the thread has it.
    pub(in crate::crypto) fn verdict(
        key: &[u8; 32],
        text: &[u8],
        signature: &[u8; 64],
        compute: impl FnOnce() -> bool,
    ) -> bool {
        if MEMO.with_borrow(Option::is_none) {
            return compute();
        }
        let question = hash(&[key, text, signature]);
        let place = place(question, VERDICTS);
        let kept = |memo: &Option<Memo>| memo.as_ref().and_then(|memo| memo.verdicts[place]);
        if let Some((_, right)) = MEMO.with_borrow(kept).filter(|(other, _)| *other == question) {
            return right;
        }
        let right = compute();
        MEMO.with_borrow_mut(|memo| {
            if let Some(memo) = memo {
                memo.verdicts[place] = Some((question, right));
            }
        });
        right
    }
}

#[cfg(feature = "memo")]
pub use kept::remember;
#[cfg(feature = "memo")]
pub(super) use kept::{agreement, verdict};

/// What the owners of two keys agree on: `compute`.
#[cfg(not(feature = "memo"))]
pub(super) fn agreement(
    _ours: TunnelKey,
    _theirs: TunnelKey,
    compute: impl FnOnce() -> Option<[u8; 32]>,
) -> Option<[u8; 32]> {
    compute()
}

/// Whether a signature is right: `compute`.
#[cfg(not(feature = "memo"))]
pub(super) fn verdict(
    _key: &[u8; 32],
    _text: &[u8],
    _signature: &[u8; 64],
    compute: impl FnOnce() -> bool,
) -> bool {
    compute()
}

#[cfg(all(test, feature = "memo"))]
mod tests {
    use super::*;
    use crate::crypto::{Identity, TunnelSecret, purpose};
    use std::thread;

    fn calls(times: usize, result: Option<[u8; 32]>) -> usize {
        let mut calls = 0;
        for n in 0..times {
            let (a, b) = (TunnelKey([1; 32]), TunnelKey([2; 32]));
            let (ours, theirs) = if n % 2 == 0 { (a, b) } else { (b, a) };
            let got = agreement(ours, theirs, || {
                calls += 1;
                result
            });
            assert_eq!(got, result);
        }
        calls
    }

    #[test]
    fn a_thread_that_remembers_computes_once_for_both_ends_and_others_always() {
        assert_eq!(calls(4, Some([3; 32])), 4, "not switched on here");
        let other = thread::spawn(|| {
            remember();
            assert_eq!(calls(4, None), 1, "what cannot be agreed on is kept, too");
            remember();
            assert_eq!(calls(4, None), 0, "what is kept stays");
        });
        other.join().expect("no assertion fails");
        assert_eq!(calls(2, Some([4; 32])), 2, "threads do not share");
    }

    /// Whoever remembers gets the same.
    #[test]
    fn what_is_kept_is_what_would_have_been_computed() {
        let run = || {
            let secret = |n: u16| {
                let mut bytes = [7; 32];
                bytes[..2].copy_from_slice(&n.to_be_bytes());
                TunnelSecret::from_secret(bytes)
            };
            let hub = secret(60_000);
            let mut out = std::vec::Vec::new();
            for _ in 0..2 {
                for n in 0..400 {
                    let spoke = secret(n);
                    let there = *spoke.agree(&hub.public()).expect("both are good").as_bytes();
                    let here = *hub.agree(&spoke.public()).expect("both are good").as_bytes();
                    assert_eq!(here, there);
                    out.push(here);
                }
            }
            let (identity, other) =
                (Identity::from_secret([1; 32]).public(), Identity::from_secret([2; 32]));
            let signature = other.sign(purpose::GRANT, &[b"text"]);
            for _ in 0..2 {
                assert!(other.public().verify(purpose::GRANT, &[b"text"], &signature).is_ok());
                assert!(other.public().verify(purpose::GRANT, &[b"other"], &signature).is_err());
                assert!(other.public().verify(purpose::TRUST, &[b"text"], &signature).is_err());
                assert!(identity.verify(purpose::GRANT, &[b"text"], &signature).is_err());
            }
            out
        };
        let plain = run();
        let kept = thread::spawn(move || {
            remember();
            run()
        });
        assert_eq!(kept.join().expect("no assertion fails"), plain);
    }
}
