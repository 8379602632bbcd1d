//! When the sockets are asked although nothing has told that something came.

/// Tries in vain, one after another, until there are no more ...
const TRIES: u32 = 4;
/// ... and after how many turns that received what an event had told of there are again.
const TOLD_PER_TRIES: u32 = 64;

/// Asking a socket costs a system call; waiting for an event costs several: the wait, a call that
/// ends in vain afterwards, with some event queues also registrations and a timer. Where what is
/// waited for is there already, as it is if its sender shares the thread, asking first spares
/// them. Whether that is so shows by trying: each success allows the next tries, and without any,
/// tries are at most a sixteenth of what events tell of.
#[derive(Clone, Copy, Debug)]
pub struct Eagerness {
    most: u32,
    tries: u32,
    told: u32,
    is_trying: bool,
}

impl Eagerness {
    /// Tries from now on.
    pub const fn new() -> Self {
        Eagerness { most: TRIES, tries: TRIES, told: 0, is_trying: false }
    }

    /// Never tries.
    pub const fn none() -> Self {
        Eagerness { most: 0, tries: 0, told: 0, is_trying: false }
    }

    /// Whether [`Eagerness::take_try`] would say so.
    pub const fn may_try(&self) -> bool {
        self.tries > 0
    }

    /// Whether the next turn, for which there is no other reason, is made at once and asks the
    /// sockets; if not, an event is waited for.
    pub fn take_try(&mut self) -> bool {
        self.is_trying = self.tries > 0;
        self.tries = self.tries.saturating_sub(1);
        self.is_trying
    }

    /// A turn is over, and has received something or not.
    pub fn handle_turn(&mut self, has_received: bool) {
        let was_try = core::mem::take(&mut self.is_trying);
        if !has_received {
            return;
        }
        self.told += u32::from(!was_try);
        if was_try || self.told >= TOLD_PER_TRIES {
            self.told = 0;
            self.tries = self.most;
        }
    }
}

impl Default for Eagerness {
    fn default() -> Self {
        Eagerness::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries made until an event has to be waited for, all in vain.
    fn vain(eagerness: &mut Eagerness) -> u32 {
        let mut tries = 0;
        while eagerness.take_try() {
            tries += 1;
            eagerness.handle_turn(false);
        }
        tries
    }

    #[test]
    fn success_allows_more_and_failure_ends_it_for_a_while() {
        let mut eagerness = Eagerness::new();
        assert_eq!(vain(&mut eagerness), TRIES);
        let mut tries = 0;
        for _ in 0..10 * TOLD_PER_TRIES {
            eagerness.handle_turn(true);
            tries += vain(&mut eagerness);
        }
        assert_eq!(tries, 10 * TRIES, "a sixteenth");
        for _ in 0..TOLD_PER_TRIES {
            eagerness.handle_turn(true);
        }
        for _ in 0..1000 {
            assert!(eagerness.take_try());
            eagerness.handle_turn(true);
        }
        assert_eq!(vain(&mut eagerness), TRIES);
    }

    #[test]
    fn none_is_none() {
        let mut eagerness = Eagerness::none();
        for _ in 0..1000 {
            eagerness.handle_turn(true);
            assert!(!eagerness.take_try());
        }
    }
}
