//! Makes a tape that fails smaller: bytes are cut out, then set to zero, which is the quiet choice,
//! in ever smaller pieces, as long as the world still fails.

/// The smallest tape found with at most `runs` calls of `fails`. What it gives fails, if `tape`
/// does.
pub fn shrink(tape: &[u8], runs: usize, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let (mut best, mut left) = (tape.to_vec(), runs);
    loop {
        let before = best.clone();
        let mut size = best.len().next_power_of_two() / 2;
        while size > 0 {
            for edit in [cut, quiet] {
                best = sweep(best, size, edit, &mut left, &mut fails);
            }
            size /= 2;
        }
        // What is behind the last choice that is not quiet, nobody misses.
        while best.last() == Some(&0) {
            best.pop();
        }
        if left == 0 || best == before {
            return best;
        }
    }
}

type Edit = fn(&[u8], core::ops::Range<usize>) -> Vec<u8>;

fn cut(tape: &[u8], range: core::ops::Range<usize>) -> Vec<u8> {
    [&tape[..range.start], &tape[range.end..]].concat()
}

fn quiet(tape: &[u8], range: core::ops::Range<usize>) -> Vec<u8> {
    let mut tape = tape.to_vec();
    tape[range].fill(0);
    tape
}

/// Tries the edit on each piece of this size, from the end on: what comes later depends on what
/// comes before.
fn sweep(
    mut best: Vec<u8>,
    size: usize,
    edit: Edit,
    left: &mut usize,
    fails: &mut impl FnMut(&[u8]) -> bool,
) -> Vec<u8> {
    let mut end = best.len();
    while end > 0 && *left > 0 {
        let start = end.saturating_sub(size);
        let tried = edit(&best, start..end.min(best.len()));
        if tried != best {
            *left -= 1;
            if fails(&tried) {
                best = tried;
            }
        }
        end = start.min(best.len());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;

    #[test]
    fn what_does_not_matter_goes_and_what_does_stays() {
        let mut tape = Tape::from_seed(1);
        let noise: Vec<u8> = (0..1000).map(|_| tape.array::<1>()[0] | 1).collect();
        // Fails if a 2 comes somewhere before a 4.
        let fails = |tape: &[u8]| {
            let first = tape.iter().position(|b| *b == 2);
            first.is_some_and(|at| tape[at..].contains(&4))
        };
        let mut bad = noise.clone();
        (bad[300], bad[800]) = (2, 4);
        assert_eq!(shrink(&bad, 10_000, fails), [2, 4]);
        let some = shrink(&bad, 30, fails);
        assert!(fails(&some) && some.len() < 700, "{} bytes after 30 runs", some.len());
        let mut runs = 0;
        let _ = shrink(&bad, 30, |tape| {
            runs += 1;
            fails(tape)
        });
        assert!(runs <= 30);
        // Positions that matter are kept by bytes that do not.
        let shrunk = shrink(&bad, 10_000, |tape| tape.get(300) == Some(&2));
        assert_eq!((shrunk.len(), shrunk[300]), (301, 2));
        assert!(shrunk[..300].iter().all(|b| *b == 0));
    }
}
