//! Which of a peer's sessions sends (`wire.md` 4.8), as a pure machine over names of sessions.
//!
//! A peer has `pending[2]` (we answered, unconfirmed), `cur` (sends and receives) and `prev[2]`
//! (receive only). Both ends may open at once, restart, and lose any message; still both must
//! end with the same `cur`, or with ones that the other end receives on.
//!
//! | Event | Effect |
//! |---|---|
//! | RESP for our INIT | `install` |
//! | INIT accepted | into `pending`; a full one replaces the lower hs_seq |
//! | frame on pending | heard; confirmed_seq rises; `install` |
//! | frame on prev | heard; `install` if its boot id is not cur's, or if it wins over cur |
//! | frame on cur | heard |
//!
//! `install(s)` makes `s` current if there is no current session; if the boot ids differ, if
//! `s` was heard and cur was not or is older; with equal generations of different initiators,
//! if the smaller identity initiated `s`; or if its generation is higher. Else `s` goes to
//! `prev`. Whoever is displaced goes to `prev`, which drops one whose process cur has outlived
//! (another boot id, derived before cur), else its oldest.
//!
//! That a frame on `prev` is judged again matters after a restart: two sessions with the new
//! process may both wait in `prev` behind one of the old, and the lesser may be heard first.

/// What the rules need to know of a session; `S` names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry<S> {
    /// The session.
    pub id: S,
    /// The generation that its initiator gave it.
    pub generation: u32,
    /// Whether we initiated it.
    pub ours: bool,
    /// Whether the smaller identity key initiated it.
    pub by_smaller: bool,
    /// The boot id of the peer in it.
    pub boot: [u8; 8],
    /// Local order of derivation.
    pub ord: u64,
    /// A valid frame arrived on it.
    pub heard: bool,
    /// The initiator's number, of sessions that we answered.
    pub hs_seq: u64,
}

/// Which slot a session is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// We answered; its first frame confirms it.
    Pending,
    /// It sends and receives.
    Current,
    /// It only receives.
    Previous,
}

/// What a step changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<S> {
    /// The session that fell out of the slots.
    pub dropped: Option<Entry<S>>,
    /// Whether another session is current now.
    pub current_changed: bool,
    /// The boot id of the current session before, if there was one.
    pub boot_before: Option<[u8; 8]>,
    /// The frame was the first on its session.
    pub first_heard: bool,
    /// The session left pending; our own attempt of a generation not above this ends.
    pub confirmed: Option<Entry<S>>,
}

impl<S> Change<S> {
    const fn none() -> Self {
        Change {
            dropped: None,
            current_changed: false,
            boot_before: None,
            first_heard: false,
            confirmed: None,
        }
    }
}

/// Wrong rules, for searches that must find what they lead to.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// As in WireGuard: the session that was confirmed last sends.
    LastConfirmedWins,
    /// One pending slot.
    OnePending,
    /// A session in `prev` with cur's boot id stays there.
    PreviousIsFinal,
    /// `prev` drops its oldest, though another is of a process that is gone.
    OldestGoesFirst,
}

/// The slots of one peer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slots<S> {
    pending: [Option<Entry<S>>; 2],
    cur: Option<Entry<S>>,
    /// The newest first.
    prev: [Option<Entry<S>>; 2],
    confirmed_seq: u64,
    generation: u32,
    next_ord: u64,
    #[cfg(test)]
    pub(crate) fault: Fault,
}

impl<S> Default for Slots<S> {
    fn default() -> Self {
        Slots {
            pending: [None, None],
            cur: None,
            prev: [None, None],
            confirmed_seq: 0,
            generation: 0,
            next_ord: 0,
            #[cfg(test)]
            fault: Fault::None,
        }
    }
}

impl<S: Copy + PartialEq> Slots<S> {
    /// The current session.
    pub fn current(&self) -> Option<&Entry<S>> {
        self.cur.as_ref()
    }

    /// The sessions that we answered and that nobody confirmed yet.
    pub fn pending(&self) -> impl Iterator<Item = &Entry<S>> {
        self.pending.iter().flatten()
    }

    /// All sessions with their slots, the current one first.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Entry<S>)> {
        let cur = self.cur.iter().map(|e| (Slot::Current, e));
        let prev = self.prev.iter().flatten().map(|e| (Slot::Previous, e));
        cur.chain(prev).chain(self.pending().map(|e| (Slot::Pending, e)))
    }

    /// The highest number that a confirmed handshake of the peer had.
    pub fn confirmed_seq(&self) -> u64 {
        self.confirmed_seq
    }

    /// Slots of a peer that we had before, with the generation reached then.
    pub fn resumed(generation: u32) -> Self {
        Slots { generation, ..Slots::default() }
    }

    /// The generation of our next attempt: 1 + the highest of a session that both ends have.
    pub fn next_generation(&self) -> u32 {
        self.generation.saturating_add(1)
    }

    /// The next value of `ord`.
    pub fn next_ord(&mut self) -> u64 {
        self.next_ord += 1;
        self.next_ord
    }

    /// We answered an INIT: `s` waits for its first frame. Returns what it replaced.
    pub fn answered(&mut self, s: Entry<S>) -> Option<Entry<S>> {
        let place = match self.pending {
            #[cfg(test)]
            _ if self.fault == Fault::OnePending => 0,
            [None, _] => 0,
            [_, None] => 1,
            [Some(a), Some(b)] => usize::from(b.hs_seq < a.hs_seq),
        };
        self.pending[place].replace(s)
    }

    /// A RESP to our INIT made `s`.
    pub fn accepted(&mut self, s: Entry<S>) -> Change<S> {
        self.generation = self.generation.max(s.generation);
        let mut change = Change::none();
        self.install(s, &mut change);
        change
    }

    /// A valid frame arrived on `id`; `None` if no slot holds it.
    pub fn heard(&mut self, id: S) -> Option<(Slot, Change<S>)> {
        let mut change = Change::none();
        if let Some(cur) = self.cur.as_mut().filter(|e| e.id == id) {
            change.first_heard = !core::mem::replace(&mut cur.heard, true);
            return Some((Slot::Current, change));
        }
        if let Some(place) = Self::place(&self.pending, id) {
            let mut s = self.pending[place].take()?;
            s.heard = true;
            change.first_heard = true;
            self.confirmed_seq = self.confirmed_seq.max(s.hs_seq);
            self.generation = self.generation.max(s.generation);
            change.confirmed = Some(s);
            self.install(s, &mut change);
            return Some((Slot::Pending, change));
        }
        let place = Self::place(&self.prev, id)?;
        let s = self.prev[place].as_mut()?;
        change.first_heard = !core::mem::replace(&mut s.heard, true);
        let s = *s;
        if self.cur.is_none_or(|cur| cur.boot != s.boot || self.overtakes(&s, &cur)) {
            self.prev[place] = None;
            self.install(s, &mut change);
        }
        Some((Slot::Previous, change))
    }

    /// Forgets a session, wherever it is; true if it was current.
    pub fn remove(&mut self, id: S) -> bool {
        for place in self.pending.iter_mut().chain(&mut self.prev) {
            if place.is_some_and(|e| e.id == id) {
                *place = None;
            }
        }
        let current = self.cur.is_some_and(|e| e.id == id);
        if current {
            self.cur = None;
        }
        current
    }

    fn place(entries: &[Option<Entry<S>>; 2], id: S) -> Option<usize> {
        entries.iter().position(|e| e.is_some_and(|e| e.id == id))
    }

    fn install(&mut self, s: Entry<S>, change: &mut Change<S>) {
        let Some(cur) = self.cur else {
            self.cur = Some(s);
            change.current_changed = true;
            return;
        };
        if self.wins(&s, &cur) {
            self.cur = Some(s);
            change.current_changed = true;
            change.boot_before = Some(cur.boot);
            self.push_previous(cur, change);
        } else {
            self.push_previous(s, change);
        }
    }

    fn wins(&self, s: &Entry<S>, cur: &Entry<S>) -> bool {
        #[cfg(test)]
        if self.fault == Fault::LastConfirmedWins {
            return true;
        }
        if s.boot != cur.boot {
            s.heard && (!cur.heard || s.ord > cur.ord)
        } else if s.generation == cur.generation && s.ours != cur.ours {
            s.by_smaller
        } else {
            s.generation > cur.generation
        }
    }

    /// Whether a session in `prev` belongs to cur after all.
    fn overtakes(&self, s: &Entry<S>, cur: &Entry<S>) -> bool {
        #[cfg(test)]
        if matches!(self.fault, Fault::PreviousIsFinal | Fault::LastConfirmedWins) {
            return false;
        }
        self.wins(s, cur)
    }

    fn push_previous(&mut self, s: Entry<S>, change: &mut Change<S>) {
        // A gap, left by a session that moved to cur, is filled before anything is dropped.
        let [first, second] = match self.prev {
            [None, second] => [Some(s), second],
            [first, None] => [Some(s), first],
            [Some(first), Some(second)] => {
                let gone = [s, first, second].iter().rposition(|e| self.is_over(e));
                let (keep, dropped) = match gone {
                    Some(0) => ([first, second], s),
                    Some(1) => ([s, second], first),
                    _ => ([s, first], second),
                };
                change.dropped = Some(dropped);
                keep.map(Some)
            }
        };
        self.prev = [first, second];
    }

    /// Whether the process that had this session ended before cur was derived.
    fn is_over(&self, s: &Entry<S>) -> bool {
        #[cfg(test)]
        if self.fault == Fault::OldestGoesFirst {
            return false;
        }
        self.cur.is_some_and(|cur| cur.boot != s.boot && s.ord < cur.ord)
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
