//! Which technique gets two agents through their NATs, and in which order they are tried
//! (`nat.md` 2).
//!
//! Both ends compute this from the same two facts, so they need not agree on it by message: the
//! NATs of both, told by F9, and the round, which is part of the attempt's number.
//!
//! | A | B | round 0 | then |
//! |---|---|---|---|
//! | one endpoint for all | the same | plain punch | fresh sockets, twice: the old ones may be poisoned |
//! | one endpoint for all | changes in steps | plain punch | predicted ports, four rounds, then a spray |
//! | one endpoint for all | changes at random | plain punch | spray |
//! | changes in steps | the same | plain punch | both ends predict, four rounds |
//! | changes at random | changes | plain punch | – (the relay stays) |
//!
//! The plain punch covers all pairs of the strategy table in which one end lets the other in:
//! public, full cone, restricted cone against anything. A classification orders attempts and
//! forbids none: unknown counts as one endpoint for all, which is what most NATs have.

use super::nat::{Allocation, Nat};
use core::fmt;

/// Rounds of one episode: attempts are numbered `episode × ROUNDS + round`.
pub const ROUNDS: u16 = 8;
/// Rounds of port prediction; each is a fresh guess (`nat.md` 2: give up after four).
const PREDICTIONS: u16 = 4;
/// Rounds with fresh sockets.
const FRESH: u16 = 2;

/// How one round of a punch goes about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Technique {
    /// Prime, then punch what both ends have announced.
    Plain,
    /// The same from a new socket at both ends: an entry that a stranger's packet made in a
    /// NAT's table does not concern it (`nat.md` 2).
    Fresh,
    /// An end whose NAT counts its ports says which will be next.
    Predict,
    /// The end whose ports are random opens many, the other one looks for one of them.
    Spray,
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Technique::Plain => "hole punching",
            Technique::Fresh => "hole punching from fresh sockets",
            Technique::Predict => "port prediction",
            Technique::Spray => "birthday spray",
        })
    }
}

fn counts(nat: Nat) -> bool {
    nat.allocation == Allocation::Sequential
}

/// What both ends do in this round; `None` when there is nothing left to try.
pub fn technique(a: Nat, b: Nat, round: u16) -> Option<Technique> {
    if round == 0 {
        return Some(Technique::Plain);
    }
    match (a.is_stable(), b.is_stable()) {
        (true, true) => (round <= FRESH).then_some(Technique::Fresh),
        (false, false) => {
            (round <= PREDICTIONS && counts(a) && counts(b)).then_some(Technique::Predict)
        }
        (stable, _) => {
            let changing = if stable { b } else { a };
            let spray_at = if counts(changing) { PREDICTIONS + 1 } else { 1 };
            if round < spray_at {
                return Some(Technique::Predict);
            }
            (round == spray_at).then_some(Technique::Spray)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::nat::{Filtering, Mapping};
    use super::*;
    use std::vec::Vec;

    fn nat(mapping: Mapping, allocation: Allocation) -> Nat {
        Nat { mapping, filtering: Filtering::AddressAndPortDependent, allocation }
    }

    #[test]
    fn both_ends_agree_and_every_episode_ends() {
        for a in 0..=0x4F {
            for b in 0..=0x4F {
                let (a, b) = (Nat::from_byte(a), Nat::from_byte(b));
                let rounds = |a, b| (0..ROUNDS).map(|r| technique(a, b, r)).collect::<Vec<_>>();
                assert_eq!(rounds(a, b), rounds(b, a));
                assert_eq!(technique(a, b, 0), Some(Technique::Plain));
                let tried = rounds(a, b);
                let end = tried.iter().position(Option::is_none).expect("ends within the rounds");
                assert!(tried[end..].iter().all(Option::is_none));
            }
        }
    }

    #[test]
    fn the_pairs_of_the_goal_table_get_their_technique() {
        use Allocation::{Preserving, Random, Sequential};
        use Technique::{Fresh, Predict, Spray};
        let cone = nat(Mapping::EndpointIndependent, Preserving);
        let counting = nat(Mapping::AddressAndPortDependent, Sequential);
        let random = nat(Mapping::AddressAndPortDependent, Random);
        assert_eq!(technique(cone, cone, 1), Some(Fresh));
        assert_eq!(technique(cone, counting, 1), Some(Predict));
        assert_eq!(technique(cone, counting, 5), Some(Spray));
        assert_eq!(technique(cone, random, 1), Some(Spray));
        assert_eq!(technique(cone, random, 2), None);
        assert_eq!(technique(counting, counting, 4), Some(Predict));
        assert_eq!(technique(counting, counting, 5), None);
        assert_eq!(technique(counting, random, 1), None);
        assert_eq!(technique(random, random, 1), None);
    }
}
