//! The byte tape that every choice of a world is drawn from.
//!
//! A seed expands to a tape, a fuzzer supplies one, a file stores one. What is missing at the end
//! reads as zero ([`arbitrary::Unstructured`]), and every choice is made so that zero is the quiet
//! one: no loss, no fault, no delay. A shorter tape is a quieter world.

use crate::nat::Entropy;
use arbitrary::Unstructured;
use core::panic::Location;
use pilot_core::rng::Rng;
use std::collections::{BTreeMap, VecDeque};

/// Most bytes that a seed expands to; behind them all is quiet.
pub const TAPE_MAX: usize = 4 << 20;
/// Most bytes of one choice.
const DRAW_MAX: usize = 64;
/// Expanded at a time.
const CHUNK: usize = 4096;

/// What was drawn at each place of the program, in order: the same choices as on a tape, but those
/// of one place can change without moving those of all others.
pub(crate) type Lanes = BTreeMap<&'static Location<'static>, Vec<Vec<u8>>>;

/// Where choices come from.
#[derive(Debug)]
enum Source {
    /// The bytes that are there.
    Bytes,
    /// Expanded as they are needed.
    Seed(Box<Rng>),
    /// What is left in each lane.
    Lanes(BTreeMap<&'static Location<'static>, VecDeque<Vec<u8>>>),
}

/// A sequence of choices.
#[derive(Debug)]
pub struct Tape {
    bytes: Vec<u8>,
    at: usize,
    source: Source,
    seed: Option<u64>,
    /// What was drawn, if that is kept.
    drawn: Option<Lanes>,
}

impl Tape {
    /// The tape of a seed: the same for the same seed, always.
    pub fn from_seed(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes[8..12].copy_from_slice(b"tape");
        let source = Source::Seed(Box::new(Rng::new(bytes)));
        Tape { bytes: Vec::new(), at: 0, source, seed: Some(seed), drawn: None }
    }

    /// These choices, then quiet.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Tape { bytes, at: 0, source: Source::Bytes, seed: None, drawn: None }
    }

    /// These choices, then quiet; keeps what was drawn.
    pub(crate) fn from_lanes(lanes: Lanes) -> Self {
        let lanes = lanes.into_iter().map(|(place, draws)| (place, draws.into())).collect();
        Tape { source: Source::Lanes(lanes), ..Tape::from_bytes(Vec::new()) }.keep_drawn()
    }

    /// Keeps what was drawn, from now on.
    pub(crate) fn keep_drawn(mut self) -> Self {
        self.drawn.get_or_insert_default();
        self
    }

    /// What was drawn, if that was kept.
    pub(crate) fn into_drawn(self) -> Lanes {
        self.drawn.unwrap_or_default()
    }

    /// The seed that it expands.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// What was read so far: [`Tape::from_bytes`] of it makes the same choices again.
    pub fn used(&self) -> &[u8] {
        &self.bytes[..self.at]
    }

    #[track_caller]
    fn draw<T: Default>(&mut self, draw: impl FnOnce(&mut Unstructured<'_>) -> T) -> T {
        let place = Location::caller();
        if let Source::Lanes(lanes) = &mut self.source {
            // On a tape this would be the next piece.
            let mut piece = lanes.get_mut(place).and_then(VecDeque::pop_front).unwrap_or_default();
            piece.resize(DRAW_MAX, 0);
            self.bytes.truncate(self.at);
            self.bytes.extend(piece);
        }
        if let Source::Seed(source) = &mut self.source
            && self.bytes.len() - self.at < DRAW_MAX
            && self.bytes.len() < TAPE_MAX
        {
            for _ in 0..CHUNK / 32 {
                self.bytes.extend(source.bytes::<32>());
            }
        }
        let left = &self.bytes[self.at..];
        // A number whose last bytes are missing is the one with zeros there.
        let mut padded = [0; 2 * DRAW_MAX];
        let mut rest = match left.len() < DRAW_MAX {
            true => {
                padded[..left.len()].copy_from_slice(left);
                Unstructured::new(&padded)
            }
            false => Unstructured::new(left),
        };
        let before = rest.len();
        let value = draw(&mut rest);
        let drawn = (before - rest.len()).min(left.len());
        if let Some(kept) = &mut self.drawn {
            kept.entry(place).or_default().push(left[..drawn].to_vec());
        }
        self.at += drawn;
        value
    }

    /// A number in `0..bound`; 0 for a bound of 0.
    #[track_caller]
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound <= 1 {
            return 0;
        }
        self.draw(|u| u.int_in_range(0..=bound - 1).unwrap_or(0))
    }

    /// True for so many of 1,000. Draws nothing if it cannot be.
    #[track_caller]
    pub fn chance(&mut self, of_1000: u16) -> bool {
        of_1000 > 0 && self.below(1000) >= 1000_u64.saturating_sub(of_1000.into())
    }

    /// `N` bytes, at most 64.
    #[track_caller]
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.draw(|u| {
            let _ = u.fill_buffer(&mut out);
        });
        out
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

impl Entropy for Tape {
    fn below(&mut self, bound: u64) -> u64 {
        Tape::below(self, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_tape_makes_the_same_choices_again_and_an_empty_one_is_quiet() {
        let mut tape = Tape::from_seed(5);
        let draw = |tape: &mut Tape| -> Vec<u64> {
            (0..3000)
                .flat_map(|n| {
                    [tape.below(n), u64::from(tape.chance(300)), tape.array::<2>()[1].into()]
                })
                .collect()
        };
        let first = draw(&mut tape);
        let mut again = Tape::from_bytes(tape.used().to_vec());
        assert_eq!(draw(&mut again), first);
        assert_eq!(again.used().len(), tape.used().len());
        let [mut cut, mut whole] = [vec![1], vec![1, 0, 0, 0]].map(Tape::from_bytes);
        assert_eq!(cut.below(1 << 20), whole.below(1 << 20), "missing bytes are zeros");
        assert!(!again.chance(999));
        assert_eq!((again.below(1000), again.array()), (0, [0; 8]));
        let share = first.iter().skip(1).step_by(3).sum::<u64>();
        assert!((800..1000).contains(&share), "{share} of 3,000");
    }
}
