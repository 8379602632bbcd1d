//! The rules of 4.8 by themselves, and an exhaustive search of two ends that run them.

use super::*;
use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

fn entry(id: u32, generation: u32, ours: bool, by_smaller: bool, boot: u8, ord: u64) -> Entry<u32> {
    let boot = [boot; 8];
    Entry { id, generation, ours, by_smaller, boot, ord, heard: false, hs_seq: u64::from(id) }
}

#[test]
fn a_higher_generation_wins_and_the_displaced_still_receives() {
    let mut slots = Slots::default();
    assert!(slots.accepted(entry(1, 1, true, true, 1, 1)).current_changed);
    assert!(slots.accepted(entry(2, 2, true, true, 1, 2)).current_changed);
    assert!(!slots.accepted(entry(3, 1, true, true, 1, 3)).current_changed);
    assert_eq!(slots.current().unwrap().id, 2);
    assert_eq!(slots.heard(1).unwrap().0, Slot::Previous);
    let change = slots.accepted(entry(4, 3, true, true, 1, 4));
    assert_eq!(change.dropped.unwrap().id, 1, "the oldest of prev");
    assert!(slots.heard(1).is_none());
    assert_eq!(slots.next_generation(), 4);
}

#[test]
fn of_equal_generations_the_smaller_identitys_wins() {
    for first in [true, false] {
        let mut slots = Slots::default();
        slots.accepted(entry(1, 1, first, first, 1, 1));
        slots.answered(entry(2, 1, !first, !first, 1, 2));
        assert_eq!(slots.heard(2).unwrap().0, Slot::Pending);
        assert!(slots.current().unwrap().by_smaller);
    }
}

#[test]
fn another_boot_wins_only_once_it_was_heard() {
    let mut slots = Slots::default();
    slots.accepted(entry(1, 5, true, true, 1, 1));
    slots.heard(1);
    assert!(!slots.accepted(entry(2, 1, true, true, 2, 2)).current_changed);
    let (slot, change) = slots.heard(2).unwrap();
    assert_eq!(
        (slot, change.current_changed, change.boot_before),
        (Slot::Previous, true, Some([1; 8]))
    );
    // A late frame of the earlier life does not win back: it is older.
    let (_, change) = slots.heard(1).unwrap();
    assert!(!change.current_changed);
    assert_eq!(slots.current().unwrap().id, 2);
}

#[test]
fn of_two_sessions_behind_an_earlier_boot_the_better_wins_though_heard_last() {
    let mut slots = Slots::default();
    slots.accepted(entry(1, 5, true, true, 1, 1));
    slots.heard(1);
    slots.accepted(entry(2, 2, true, true, 2, 2));
    slots.answered(entry(3, 1, false, false, 2, 3));
    assert!(slots.heard(3).unwrap().1.current_changed);
    assert_eq!(slots.current().unwrap().id, 3);
    let (slot, change) = slots.heard(2).unwrap();
    assert_eq!((slot, change.current_changed), (Slot::Previous, true));
    assert_eq!((slots.current().unwrap().id, change.dropped), (2, None));
    // The lesser one stays where it is, however often it is heard.
    assert!(!slots.heard(3).unwrap().1.current_changed);
    assert_eq!(slots.current().unwrap().id, 2);
}

#[test]
fn a_session_with_a_process_that_is_gone_is_dropped_before_a_living_one() {
    let mut slots = Slots::default();
    slots.accepted(entry(1, 5, true, true, 1, 1));
    slots.heard(1);
    slots.accepted(entry(2, 2, true, true, 2, 2));
    for (id, ord) in [(3, 3), (4, 4)] {
        slots.answered(entry(id, 1, false, false, 2, ord));
    }
    assert_eq!(slots.heard(4).unwrap().1.dropped, None);
    assert_eq!(slots.heard(3).unwrap().1.dropped.unwrap().id, 1, "not the unheard 2");
    assert!(slots.heard(2).unwrap().1.current_changed);
}

#[test]
fn pending_keeps_the_two_highest_numbers() {
    let mut slots = Slots::default();
    assert_eq!(slots.answered(entry(5, 1, false, true, 1, 1)), None);
    assert_eq!(slots.answered(entry(6, 1, false, true, 1, 2)), None);
    assert_eq!(slots.answered(entry(7, 1, false, true, 1, 3)).unwrap().id, 5);
    assert_eq!(slots.answered(entry(8, 1, false, true, 1, 4)).unwrap().id, 6);
    assert_eq!(slots.confirmed_seq(), 0);
    slots.heard(8);
    assert_eq!(slots.confirmed_seq(), 8);
}

#[test]
fn removing_the_current_session_lets_the_next_one_in() {
    let mut slots = Slots::default();
    slots.accepted(entry(1, 4, true, true, 1, 1));
    assert!(!slots.remove(9));
    assert!(slots.remove(1));
    assert!(slots.current().is_none());
    assert!(slots.accepted(entry(2, 1, true, true, 1, 2)).current_changed);
}

// ---- exhaustive search ----
//
// Two ends, 0 (the smaller identity) and 1, run the real `Slots` over a network whose every
// message may be delivered in any order, lost or duplicated within a budget. A session is named
// by (initiator's boot and attempt, responder's boot and answer): two ends share it exactly if
// the names are equal. Both may initiate, restart and rekey within a budget.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Name {
    initiator: usize,
    attempt: u8,
    answer: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Message {
    Init { attempt: u8, generation: u32, boot: u8, seq: u8 },
    Resp { name: Name, boot: u8 },
    Frame { name: Name },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Node {
    boot: u8,
    slots: Slots<Name>,
    /// Our outstanding attempt and its generation.
    init: Option<(u8, u32)>,
    /// INITs answered: the same one again gets the same RESP.
    answered: Vec<(u8, Name)>,
    /// Attempts and answers are numbered across restarts, as random indices are.
    next_attempt: u8,
    next_answer: u8,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct World {
    nodes: [Node; 2],
    /// Kept sorted: the order of sending does not matter.
    net: Vec<(u8, Message)>,
    losses: u8,
    copies: u8,
    opens: [u8; 2],
    restarts: [u8; 2],
}

fn node(boot: u8) -> Node {
    Node {
        boot,
        slots: Slots::default(),
        init: None,
        answered: Vec::new(),
        next_attempt: 0,
        next_answer: 0,
    }
}

impl World {
    fn send(&mut self, to: usize, message: Message) {
        let item = (to as u8, message);
        let at = self.net.partition_point(|m| *m <= item);
        self.net.insert(at, item);
    }

    fn open(&mut self, end: usize) {
        let me = &mut self.nodes[end];
        me.next_attempt += 1;
        let (attempt, generation) = (me.next_attempt, me.slots.next_generation());
        me.init = Some((attempt, generation));
        let boot = me.boot;
        self.send(1 - end, Message::Init { attempt, generation, boot, seq: attempt });
    }

    fn deliver(&mut self, end: usize, message: Message) -> Result<(), &'static str> {
        match message {
            Message::Init { attempt, generation, boot, seq } => {
                self.init(end, attempt, generation, boot, seq);
            }
            Message::Resp { name, boot } => {
                let me = &mut self.nodes[end];
                let Some((_, generation)) = me.init.filter(|i| i.0 == name.attempt) else {
                    return Ok(());
                };
                me.init = None;
                let entry = Entry {
                    id: name,
                    generation,
                    ours: true,
                    by_smaller: end == 0,
                    boot: [boot; 8],
                    ord: me.slots.next_ord(),
                    heard: false,
                    hs_seq: u64::from(name.attempt),
                };
                me.slots.accepted(entry);
                self.send(1 - end, Message::Frame { name });
            }
            Message::Frame { name } => {
                let me = &mut self.nodes[end];
                let Some((slot, change)) = me.slots.heard(name) else {
                    return Err("a frame for a forgotten session");
                };
                if let Some(confirmed) = change.confirmed
                    && me.init.is_some_and(|(_, generation)| generation <= confirmed.generation)
                {
                    me.init = None;
                }
                if slot == Slot::Pending {
                    self.send(1 - end, Message::Frame { name });
                }
            }
        }
        Ok(())
    }

    fn init(&mut self, end: usize, attempt: u8, generation: u32, boot: u8, seq: u8) {
        let me = &mut self.nodes[end];
        if let Some((_, name)) = me.answered.iter().find(|(a, _)| *a == attempt) {
            let (name, boot) = (*name, me.boot);
            self.send(1 - end, Message::Resp { name, boot });
            return;
        }
        let fresh = me.slots.pending().map(|e| e.hs_seq).max().unwrap_or(0);
        if u64::from(seq) <= me.slots.confirmed_seq() || u64::from(seq) < fresh {
            return;
        }
        me.next_answer += 1;
        let name = Name { initiator: 1 - end, attempt, answer: me.next_answer };
        me.answered.push((attempt, name));
        let entry = Entry {
            id: name,
            generation,
            ours: false,
            by_smaller: end == 1,
            boot: [boot; 8],
            ord: me.slots.next_ord(),
            heard: false,
            hs_seq: u64::from(seq),
        };
        me.slots.answered(entry);
        let boot = me.boot;
        self.send(1 - end, Message::Resp { name, boot });
    }

    /// Every world one step away.
    fn steps(&self) -> Result<Vec<World>, &'static str> {
        let mut next = Vec::new();
        for i in 0..self.net.len() {
            if i > 0 && self.net[i] == self.net[i - 1] {
                continue;
            }
            let mut delivered = self.clone();
            let (to, message) = delivered.net.remove(i);
            let mut copied = (self.copies > 0).then(|| self.clone());
            delivered.deliver(usize::from(to), message)?;
            next.push(delivered);
            if let Some(world) = &mut copied {
                world.copies -= 1;
                world.deliver(usize::from(to), message)?;
            }
            next.extend(copied);
            if self.losses > 0 {
                let mut lost = self.clone();
                lost.net.remove(i);
                lost.losses -= 1;
                next.push(lost);
            }
        }
        for end in 0..2 {
            if self.opens[end] > 0 && self.nodes[end].init.is_none() {
                let mut world = self.clone();
                world.opens[end] -= 1;
                world.open(end);
                next.push(world);
            }
            if self.restarts[end] > 0 {
                let mut world = self.clone();
                world.restarts[end] -= 1;
                let old = &self.nodes[end];
                let (attempt, answer) = (old.next_attempt, old.next_answer);
                world.nodes[end] = node(old.boot + 1);
                world.nodes[end].next_attempt = attempt;
                world.nodes[end].next_answer = answer;
                next.push(world);
            }
        }
        Ok(next)
    }

    fn currents(&self) -> [Option<Name>; 2] {
        [0, 1].map(|end| self.nodes[end].slots.current().map(|e| e.id))
    }

    fn receives(&self, end: usize, name: Name) -> bool {
        self.nodes[end].slots.iter().any(|(_, e)| e.id == name)
    }
}

struct Found {
    states: usize,
    ends: usize,
    agreed: usize,
}

/// Explores everything within the budgets; `check` judges each state in which nothing is under
/// way any more.
fn explore(mut start: World, strict: bool, mut check: impl FnMut(&World)) -> Found {
    start.net.clear();
    let mut seen = BTreeSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    let mut found = Found { states: 0, ends: 0, agreed: 0 };
    while let Some(world) = queue.pop_front() {
        found.states += 1;
        let quiet = world.net.is_empty();
        if quiet && world.opens == [0, 0] {
            found.ends += 1;
            let [a, b] = world.currents();
            found.agreed += usize::from(a.is_some() && a == b);
            check(&world);
        }
        let steps = match world.steps() {
            Ok(steps) => steps,
            Err(what) if strict => panic!("{what}: {world:?}"),
            Err(_) => continue,
        };
        for step in steps {
            if seen.insert(step.clone()) {
                queue.push_back(step);
            }
        }
    }
    found
}

fn start(losses: u8, copies: u8, opens: [u8; 2], restarts: [u8; 2]) -> World {
    World { nodes: [node(1), node(1)], net: Vec::new(), losses, copies, opens, restarts }
}

#[test]
fn without_loss_every_end_agrees_on_one_session() {
    for (copies, opens) in [(0, [1, 0]), (2, [1, 0]), (0, [1, 1]), (2, [1, 1]), (1, [2, 1])] {
        let found = explore(start(0, copies, opens, [0, 0]), false, |world| {
            let [a, b] = world.currents();
            assert!(a.is_some() && a == b, "{world:?}");
        });
        assert!(found.ends > 0 && found.agreed == found.ends);
    }
}

#[test]
fn with_losses_what_one_end_sends_the_other_receives() {
    for (losses, copies, opens) in [(1, 1, [1, 1]), (2, 0, [1, 1]), (1, 0, [2, 1]), (1, 0, [1, 2])]
    {
        let found = explore(start(losses, copies, opens, [0, 0]), true, |world| {
            let [a, b] = world.currents();
            for (end, current) in [(1, a), (0, b)] {
                // Whoever has a session that was ever confirmed, or that the other answered,
                // finds the other end receiving on it.
                if let Some(name) = current {
                    assert!(world.receives(end, name), "{world:?}");
                }
            }
        });
        assert!(found.states > 100);
    }
}

#[test]
fn after_a_restart_the_newest_attempt_makes_both_ends_usable() {
    for (restarts, opens) in
        [([1, 0], [1, 1]), ([0, 1], [1, 1]), ([1, 0], [2, 0]), ([0, 1], [2, 0])]
    {
        let found = explore(start(0, 0, opens, restarts), false, |world| {
            // One more attempt by either end, undisturbed, must leave a session that both use:
            // that is what a dead-peer timer does.
            for end in 0..2 {
                let mut healed = world.clone();
                healed.nodes[end].init = None;
                healed.open(end);
                while let Some((to, message)) = healed.net.first().copied() {
                    healed.net.remove(0);
                    let _ = healed.deliver(usize::from(to), message);
                }
                let [a, b] = healed.currents();
                let usable = |end: usize, name: Option<Name>| {
                    name.is_some_and(|name| healed.receives(end, name))
                };
                assert!(usable(1, a) && usable(0, b), "{world:?}\n{healed:?}");
            }
        });
        assert!(found.states > 50);
    }
}
