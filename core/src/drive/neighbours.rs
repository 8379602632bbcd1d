//! Machines whose tasks share a thread, and perhaps talk to each other.
//!
//! What one of them sends is in the other's socket when the call returns. The event queue would
//! say so after the wait, which costs some system calls on any runtime and a dozen on some. So a
//! task that rests leaves its waker here, and whoever has sent something on this thread wakes it.
//! If it then receives nothing, [`Eagerness`](super::Eagerness) keeps it from being here for a
//! while: those who do not talk to each other do not disturb each other either.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Waker;

/// Tasks that rest on one thread; of more, the first ones wait for their events alone.
const RESTING: usize = 16;

/// Names a machine for as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Name(pub(super) usize);

std::thread_local! {
    static HERE: RefCell<Vec<(Name, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// The task of this machine rests: `waker` is called when another one sends.
pub(super) fn rest(name: Name, waker: &Waker) {
    // Without a list the events wake it.
    let _ = HERE.try_with(|here| {
        let mut here = here.borrow_mut();
        here.retain(|(other, _)| *other != name);
        if here.len() == RESTING {
            here.remove(0);
        }
        here.push((name, waker.clone()));
    });
}

/// This task does not rest any more. `false` if it was woken because of another one (or had to
/// make room).
pub(super) fn leave(name: Name) -> bool {
    // At the end of the thread there may be no list any more.
    HERE.try_with(|here| {
        let mut here = here.borrow_mut();
        let before = here.len();
        here.retain(|(other, _)| *other != name);
        here.len() < before
    })
    .unwrap_or(false)
}

/// This machine has sent something: wakes the others.
pub(super) fn nudge(name: Name) {
    let next = |here: &RefCell<Vec<(Name, Waker)>>| {
        let mut here = here.borrow_mut();
        let other = here.iter().position(|(other, _)| *other != name)?;
        Some(here.remove(other))
    };
    // Handles are dropped at the end of a thread, too, when the list is gone.
    while let Ok(Some((_, waker))) = HERE.try_with(next) {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::sync::Arc;
    use std::task::Wake;

    #[derive(Default)]
    struct Bell(AtomicU32);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn others_are_woken_once_and_whoever_sends_is_not() {
        let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::default()).collect();
        let rung = || bells.iter().map(|b| b.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        for (n, bell) in bells.iter().enumerate() {
            rest(Name(n), &Waker::from(Arc::clone(bell)));
        }
        assert!(leave(Name(2)));
        nudge(Name(0));
        nudge(Name(0));
        assert_eq!(rung(), [0, 1, 0]);
        assert!(!leave(Name(1)));
        nudge(Name(9));
        assert_eq!(rung(), [1, 1, 0]);
        assert!(!leave(Name(0)));
    }

    #[test]
    fn the_list_is_bounded() {
        let bell = Arc::<Bell>::default();
        for n in 0..100 {
            rest(Name(n), &Waker::from(Arc::clone(&bell)));
        }
        assert!(!leave(Name(83)) && leave(Name(84)));
        nudge(Name(99));
        assert_eq!(bell.0.load(Ordering::Relaxed) as usize, RESTING - 2);
        assert!(leave(Name(99)));
    }

    /// What is dropped at the end of a thread may send, when there is no list any more.
    #[test]
    fn the_end_of_a_thread_is_survived() {
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                let _ = leave(Name(1));
                nudge(Name(1));
                rest(Name(1), Waker::noop());
            }
        }
        std::thread_local! {
            static LATE: Late = const { Late };
            static EARLY: Late = const { Late };
        }
        let thread = std::thread::spawn(|| {
            // On either side of the list, whichever goes first.
            EARLY.with(|_| ());
            rest(Name(2), Waker::noop());
            LATE.with(|_| ());
        });
        assert!(thread.join().is_ok());
    }
}
