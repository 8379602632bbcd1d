//! Makes a tape that fails smaller.
//!
//! A choice that is cut out of a tape moves all that come later: they are read as answers to other
//! questions, and the world is another one. So the choices are sorted by the place of the program
//! that has asked for them, and each such lane is made smaller for itself: emptied, cut, set to
//! zero, which is the quiet choice, or freed of single bits. Of a world that still fails, what it
//! has read in order is a tape again; it is kept if it is no longer than the best so far.
//!
//! What fails by chance, because of the one packet that is lost, does not fail any more if another
//! packet stands at that place. If nothing else helps, the longest lane, which is the chance, is
//! turned as well.

use crate::tape::{Lanes, Tape};
use std::panic::Location;

type Place = &'static Location<'static>;

/// Lanes with more choices than this are not looked at one choice after the other, but in so many
/// pieces.
const SINGLES_MAX: usize = 32;
/// Longer choices are keys and seeds, which have no bits that mean something.
const NUMBER_MAX: usize = 4;
/// So many turns of the longest lane are tried with an edit.
const TURNS: usize = 5;

/// The smallest tape found with at most `runs` worlds; it stops at one of at most `enough` bytes.
///
/// `fails` makes the world of a tape and gives what it has read of it ([`crate::World::into_tape`])
/// if the world fails as it should. What comes out fails, if `tape` does.
pub fn shrink(
    tape: &[u8],
    runs: usize,
    enough: usize,
    fails: impl FnMut(Tape) -> Option<Tape>,
) -> Vec<u8> {
    let best = tape.to_vec();
    let mut shrinker = Shrinker { fails, left: runs, enough, best, lanes: None, turns: 0 };
    if !shrinker.attempt(Tape::from_bytes(tape.to_vec()).keep_drawn()) {
        return tape.to_vec();
    }
    loop {
        let smaller = shrinker.pass();
        if shrinker.is_over() || !smaller && shrinker.turns > 0 {
            return shrinker.best;
        }
        shrinker.turns = if smaller { 0 } else { TURNS };
    }
}

struct Shrinker<F> {
    fails: F,
    left: usize,
    enough: usize,
    best: Vec<u8>,
    /// What the best has drawn.
    lanes: Option<Lanes>,
    /// Of the longest lane, that are tried if an edit alone does not do.
    turns: usize,
}

impl<F: FnMut(Tape) -> Option<Tape>> Shrinker<F> {
    fn is_over(&self) -> bool {
        self.left == 0 || self.best.len() <= self.enough
    }

    /// Whether the world of this tape fails, and is no longer than the best.
    fn attempt(&mut self, tape: Tape) -> bool {
        self.left = self.left.saturating_sub(1);
        let Some(tape) = (self.fails)(tape) else { return false };
        // What is behind the last choice that is not quiet, nobody misses.
        let used = tape.used();
        let len = used.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let better = len <= self.best.len();
        if better {
            self.best = used[..len].to_vec();
            self.lanes = Some(tape.into_drawn());
        }
        better
    }

    fn lane(&self, place: Place) -> &[Vec<u8>] {
        self.lanes.as_ref().and_then(|lanes| lanes.get(place)).map_or(&[], Vec::as_slice)
    }

    /// Tries this in place of a lane.
    fn replace(&mut self, place: Place, lane: Vec<Vec<u8>>) -> bool {
        let mut lanes = self.lanes.clone().unwrap_or_default();
        lanes.insert(place, lane);
        if self.attempt(Tape::from_lanes(lanes.clone())) {
            return true;
        }
        let Some(longest) = lanes.keys().copied().max_by_key(|place| lanes[place].len()) else {
            return false;
        };
        (0..self.turns).any(|_| {
            let lane = lanes.entry(longest).or_default();
            let turn = lane.len() / (TURNS + 1);
            lane.rotate_left(turn);
            longest != place && self.left > 0 && self.attempt(Tape::from_lanes(lanes.clone()))
        })
    }

    /// Every lane once, the longest first; whether anything has become smaller or quieter.
    fn pass(&mut self) -> bool {
        let before = self.lanes.clone();
        let mut places: Vec<Place> =
            before.iter().flat_map(|lanes| lanes.keys().copied()).collect();
        let bytes = |place: &Place| self.lane(place).iter().map(Vec::len).sum::<usize>();
        places.sort_by_cached_key(|place| core::cmp::Reverse(bytes(place)));
        for place in &places {
            if !self.is_over() && !loud(self.lane(place)).is_empty() {
                self.replace(place, Vec::new());
            }
        }
        // Switches first: one of them may be all that a long lane is there for.
        places.iter().rev().for_each(|place| self.bits(place));
        for edit in [cut, quiet] {
            places.iter().for_each(|place| self.sweep(place, edit));
        }
        self.lanes != before
    }

    /// Tries the edit on ever smaller pieces of a lane, from the end on: what comes later depends
    /// on what comes before.
    fn sweep(&mut self, place: Place, edit: Edit) {
        let mut size = self.lane(place).len().div_ceil(2);
        while size > 0 && size * SINGLES_MAX >= self.lane(place).len() {
            let mut end = self.lane(place).len();
            while end > 0 && !self.is_over() {
                let lane = self.lane(place);
                let range = end.saturating_sub(size)..end.min(lane.len());
                end = range.start;
                let edited = edit(lane, range);
                // Behind its end a lane is quiet, too.
                if loud(&edited) != loud(lane) {
                    self.replace(place, edited);
                }
                end = end.min(self.lane(place).len());
            }
            size /= 2;
        }
    }

    /// Tries to do without single bits of a short lane of numbers, the highest first.
    fn bits(&mut self, place: Place) {
        let is_short = self.lane(place).len() <= SINGLES_MAX;
        for n in 0..if is_short { self.lane(place).len() } else { 0 } {
            let bytes = self.lane(place).get(n).map_or(0, Vec::len);
            for bit in 0..if bytes <= NUMBER_MAX { 8 * bytes } else { 0 } {
                let lane = self.lane(place);
                let (byte, mask) = (bit / 8, 0x80 >> (bit % 8));
                let is_set = |choice: &Vec<u8>| choice.get(byte).is_some_and(|b| b & mask != 0);
                if self.is_over() || !lane.get(n).is_some_and(is_set) {
                    continue;
                }
                let mut edited = lane.to_vec();
                edited[n][byte] &= !mask;
                self.replace(place, edited);
            }
        }
    }
}

/// A lane up to its last choice that is not quiet.
fn loud(lane: &[Vec<u8>]) -> &[Vec<u8>] {
    let last = lane.iter().rposition(|choice| choice.iter().any(|byte| *byte != 0));
    &lane[..last.map_or(0, |last| last + 1)]
}

type Edit = fn(&[Vec<u8>], core::ops::Range<usize>) -> Vec<Vec<u8>>;

fn cut(lane: &[Vec<u8>], range: core::ops::Range<usize>) -> Vec<Vec<u8>> {
    [&lane[..range.start], &lane[range.end..]].concat()
}

fn quiet(lane: &[Vec<u8>], range: core::ops::Range<usize>) -> Vec<Vec<u8>> {
    let mut lane = lane.to_vec();
    lane[range].fill(Vec::new());
    lane
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world of up to 200 things, each with noise around it: fails if a thing of kind 3 comes
    /// somewhere before one of kind 5 while it rains.
    fn fails(mut tape: Tape) -> Option<Tape> {
        let weather = tape.below(256);
        let (mut armed, mut failed) = (false, false);
        for _ in 0..tape.below(200) {
            let kind = tape.below(8);
            if weather & 4 != 0 {
                tape.array::<4>();
            }
            armed |= kind == 3;
            failed = armed && kind == 5 && weather & 1 != 0;
            if failed {
                break;
            }
        }
        failed.then_some(tape)
    }

    fn failing() -> Vec<u8> {
        let seeds = (1..).map(Tape::from_seed);
        seeds.filter_map(fails).map(|tape| tape.used().to_vec()).find(|t| t.len() > 100).unwrap()
    }

    #[test]
    fn what_does_not_matter_goes_and_what_does_stays() {
        let bad = failing();
        let small = shrink(&bad, 10_000, 0, fails);
        assert_eq!(small.len(), 4, "weather, count, and the two: {small:?}");
        assert_eq!((small[0], &small[2..]), (1, &[3, 5][..]));
        assert!(fails(Tape::from_bytes(small)).is_some(), "it is a tape like any other");
    }

    #[test]
    fn it_stops_after_so_many_runs_and_when_it_is_small_enough() {
        let bad = failing();
        for most in [0, 1, 2, 10, 30] {
            let mut runs = 0;
            let some = shrink(&bad, most, 0, |tape| {
                runs += 1;
                fails(tape)
            });
            assert!(runs <= most.max(1) && some.len() <= bad.len());
            assert!(fails(Tape::from_bytes(some)).is_some());
        }
        let some = shrink(&bad, 10_000, bad.len() / 2, fails);
        assert!((5..=bad.len() / 2).contains(&some.len()), "{} bytes", some.len());
        assert_eq!(shrink(&[1, 2, 3], 9, 0, |_| None), [1, 2, 3], "what does not fail is left");
    }
}
