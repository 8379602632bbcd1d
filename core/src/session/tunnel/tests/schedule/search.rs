//! Depth-first search over everything that a network and two owners may do within a budget.
//!
//! A state is two local states, two clocks, the packets in flight as a set, and what is left of
//! the budget. Memory: eight bytes and the tree's overhead per state seen, one trail, and the
//! local states.

use super::super::*;
use super::machine::{Input, Local, Machines, Note};
use core::hash::{Hash, Hasher};
use siphasher::sip::SipHasher13;
use std::collections::{BTreeSet, VecDeque};
use std::string::String;
use std::vec::Vec;

/// What may happen, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Budget {
    /// Attempts that the owner of either end starts.
    pub(super) opens: [u8; 2],
    /// Packets lost.
    pub(super) losses: u8,
    /// Packets delivered twice.
    pub(super) copies: u8,
    /// Starts of either end anew; the owner of one that did opens once more.
    pub(super) restarts: u8,
    /// Deadlines that come before the network is good.
    pub(super) timeouts: u8,
    /// Data that either owner sends.
    pub(super) sends: u8,
}

/// How far one end's clock may be ahead: the timers of both ends that are closer together than
/// this fire in any order.
const SLACK: Duration = Duration::from_millis(500);
/// No packet is in flight for longer.
const LIFETIME: Duration = Duration::from_secs(3);
/// A restart takes so long.
const RESTART: Duration = Duration::from_millis(10);
/// How long what is under way may take to end once the network is good.
const HORIZON: Duration = Duration::from_secs(12);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    locals: [u32; 2],
    clocks: [Instant; 2],
    /// Receiver and packet, sorted: every one may be the next.
    net: Vec<(u8, u32)>,
    budget: Budget,
    restarted: bool,
}

impl State {
    fn digest(&self) -> u64 {
        let mut hash = SipHasher13::new();
        self.hash(&mut hash);
        hash.finish()
    }

    fn send(&mut self, to: u8, packets: &[u32]) {
        for &packet in packets {
            let item = (to, packet);
            let at = self.net.partition_point(|other| *other <= item);
            self.net.insert(at, item);
        }
    }
}

/// One choice of the scheduler.
#[derive(Clone, Copy)]
enum Choice {
    Start,
    Open(u8),
    Timeout(u8),
    Send(u8),
    Restart(u8),
    Deliver(u8, u32),
    Copy(u8, u32),
    Lose(u8, u32),
}

/// What was found.
#[derive(Default, Debug)]
pub(super) struct Report {
    pub(super) states: usize,
    /// States in which nothing is in flight any more.
    pub(super) ends: usize,
    /// Of these: both directions usable, and the same session current at both ends.
    pub(super) agreed: usize,
    /// Both directions usable, in two sessions.
    pub(super) split: usize,
    /// What one end sends, the other does not take.
    pub(super) unusable: usize,
    /// Ends at which somebody had to be told by silence that its peer had restarted.
    pub(super) healed: usize,
    /// Steps in which a frame met no session, though both processes that had it live.
    pub(super) forgotten: usize,
    /// Steps in which a frame met no session because a process that had it is gone.
    pub(super) orphans: usize,
    /// The choices that led to the first thing that must not be.
    pub(super) example: Option<String>,
}

/// The most states that one search may see: a search that would need more fails.
const STATES_MAX: usize = 20_000_000;

pub(super) struct Search<'m> {
    machines: &'m mut Machines,
    seen: BTreeSet<u64>,
    report: Report,
    trail: Vec<Choice>,
}

impl<'m> Search<'m> {
    /// Explores everything; with `established`, from a session that both ends confirmed.
    pub(super) fn run(machines: &'m mut Machines, budget: Budget, established: bool) -> Report {
        let now = Instant::START + Duration::from_secs(1000);
        let locals = [machines.born(0, 1, now), machines.born(1, 1, now)];
        let mut start =
            State { locals, clocks: [now; 2], net: Vec::new(), budget, restarted: false };
        let mut search = Search {
            machines,
            seen: BTreeSet::new(),
            report: Report::default(),
            trail: Vec::new(),
        };
        if established {
            let packets = search.input(&mut start, 0, Input::Open).0;
            assert!(search.carry(&mut start, 0, packets) == [false; 2]);
            assert!(search.agrees(&start));
        }
        search.explore(start);
        search.report
    }

    fn explore(&mut self, start: State) {
        let mut stack = std::vec![(0, Choice::Start, start)];
        let mut next = Vec::new();
        while let Some((depth, choice, state)) = stack.pop() {
            if !self.seen.insert(state.digest()) {
                continue;
            }
            assert!(self.seen.len() <= STATES_MAX, "more states than the search may hold");
            self.trail.truncate(depth);
            self.trail.push(choice);
            self.report.states += 1;
            // Nobody has begun if neither end has or wants a session.
            let begun = (0..2).any(|n| {
                let local = self.local(&state, n);
                local.attempting || local.current.is_some()
            });
            if state.net.is_empty() && begun {
                self.judge(&state);
            }
            self.choices(&state, &mut next);
            stack.extend(next.drain(..).map(|(choice, state)| (depth + 1, choice, state)));
        }
    }

    /// Every state one choice away.
    fn choices(&mut self, state: &State, next: &mut Vec<(Choice, State)>) {
        for end in 0..2u8 {
            let n = usize::from(end);
            if state.budget.opens[n] > 0 && !self.local(state, n).attempting {
                let mut after = state.clone();
                after.budget.opens[n] -= 1;
                self.input_and_send(&mut after, end, Input::Open);
                next.push((Choice::Open(end), after));
            }
            if state.budget.restarts > 0 {
                let mut after = state.clone();
                after.budget.restarts -= 1;
                after.budget.opens[n] += 1;
                after.clocks[n] += RESTART;
                after.restarted = true;
                let boot = self.local(state, n).boot + 1;
                after.locals[n] = self.machines.born(end, boot, after.clocks[n]);
                next.push((Choice::Restart(end), after));
            }
            if state.budget.sends > 0 && self.local(state, n).current.is_some() {
                let mut after = state.clone();
                after.budget.sends -= 1;
                self.input_and_send(&mut after, end, Input::Send);
                next.push((Choice::Send(end), after));
            }
            if state.budget.timeouts > 0 && self.may_time_out(state, n) {
                let mut after = state.clone();
                after.budget.timeouts -= 1;
                self.time_out(&mut after, end, SLACK);
                next.push((Choice::Timeout(end), after));
            }
        }
        for i in 0..state.net.len() {
            let (to, packet) = state.net[i];
            if i > 0 && state.net[i - 1] == (to, packet) {
                continue;
            }
            let mut after = state.clone();
            after.net.remove(i);
            if state.budget.losses > 0 {
                let mut lost = after.clone();
                lost.budget.losses -= 1;
                next.push((Choice::Lose(to, packet), lost));
            }
            self.input_and_send(&mut after, to, Input::Deliver(packet));
            if state.budget.copies > 0 {
                let mut copied = after.clone();
                copied.budget.copies -= 1;
                copied.send(to, &[packet]);
                next.push((Choice::Copy(to, packet), copied));
            }
            next.push((Choice::Deliver(to, packet), after));
        }
    }

    fn local(&self, state: &State, n: usize) -> &Local {
        &self.machines.locals[state.locals[n] as usize]
    }

    /// Whether the end's next deadline may be what happens next.
    fn may_time_out(&self, state: &State, n: usize) -> bool {
        let Some(at) = self.local(state, n).deadline else { return false };
        let other = self.local(state, 1 - n).deadline;
        other.is_none_or(|other| at <= other + SLACK)
            && (state.net.is_empty() || at.since(state.clocks[n]) <= LIFETIME)
    }

    fn time_out(&mut self, state: &mut State, end: u8, slack: Duration) -> [bool; 2] {
        let n = usize::from(end);
        let at = self.local(state, n).deadline.expect("it has one");
        state.clocks[n] = state.clocks[n].max(at);
        state.clocks[1 - n] = state.clocks[1 - n].max(at.minus(slack));
        self.input_and_send(state, end, Input::Timeout)
    }

    /// Gives an end an input; what it sends is in flight. Returns what [`Search::input`] noted.
    fn input_and_send(&mut self, state: &mut State, end: u8, input: Input) -> [bool; 2] {
        let (packets, note) = self.input(state, end, input);
        state.send(1 - end, &packets);
        note
    }

    fn input(&mut self, state: &mut State, end: u8, input: Input) -> (Vec<u32>, [bool; 2]) {
        let n = usize::from(end);
        let step = self.machines.step(state.locals[n], state.clocks[n], input);
        state.locals[n] = step.to;
        let mut received = [false; 2];
        match step.note {
            Note::Nothing => {}
            Note::Data => received[n] = true,
            Note::Forgotten(index) if self.machines.is_living(index, state.locals) => {
                self.report.forgotten += 1;
                self.example(&std::format!("forgotten at {end}: {input:?}, index {index:08x}"));
            }
            Note::Forgotten(_) => self.report.orphans += 1,
        }
        (step.packets, received)
    }

    /// Carries packets from `end`, and what they cause, in order and without loss. Returns
    /// which ends received data.
    fn carry(&mut self, state: &mut State, end: u8, packets: Vec<u32>) -> [bool; 2] {
        let mut queue: VecDeque<(u8, u32)> =
            packets.into_iter().map(|packet| (1 - end, packet)).collect();
        let mut received = [false; 2];
        while let Some((to, packet)) = queue.pop_front() {
            let (packets, data) = self.input(state, to, Input::Deliver(packet));
            queue.extend(packets.into_iter().map(|packet| (1 - to, packet)));
            received = [received[0] | data[0], received[1] | data[1]];
        }
        received
    }

    fn agrees(&self, state: &State) -> bool {
        let [a, b] = [0, 1].map(|n| self.local(state, n).current);
        a.is_some() && a.map(|(ours, theirs)| (theirs, ours)) == b
    }

    /// From here on the network is good. Attempts come to their end; then both owners send
    /// three times, and the last two times everything must arrive.
    fn judge(&mut self, state: &State) {
        self.report.ends += 1;
        let mut state = state.clone();
        self.finish_attempts(&mut state);
        let mut usable = self.converse(&mut state);
        if usable != [true; 2] && state.restarted {
            self.report.healed += 1;
            for _ in 0..3 {
                // Whoever is not answered asks for a new session (4.9, dead peer).
                for end in 0..2u8 {
                    let n = usize::from(end);
                    if !usable[1 - n] && !self.local(&state, n).attempting {
                        let packets = self.input(&mut state, end, Input::Open).0;
                        self.carry(&mut state, end, packets);
                    }
                }
                self.finish_attempts(&mut state);
                usable = self.converse(&mut state);
            }
        }
        if usable != [true; 2] {
            self.report.unusable += 1;
            self.example(&std::format!("unusable: {usable:?}, restarted {}", state.restarted));
        } else if self.agrees(&state) {
            self.report.agreed += 1;
        } else {
            self.report.split += 1;
            self.example("split");
        }
    }

    fn converse(&mut self, state: &mut State) -> [bool; 2] {
        let mut usable = [true; 2];
        for round in 0..3 {
            for end in 0..2u8 {
                let packets = self.input(state, end, Input::Send).0;
                let received = self.carry(state, end, packets);
                usable[usize::from(1 - end)] &= received[usize::from(1 - end)] || round == 0;
            }
        }
        usable
    }

    /// Time passes until no attempt is under way, and every end has a session.
    fn finish_attempts(&mut self, state: &mut State) {
        let until = state.clocks[0].max(state.clocks[1]) + HORIZON;
        loop {
            let locals = [0, 1].map(|n| self.local(state, n));
            let idle = |n: usize| !locals[n].attempting && locals[n].current.is_some();
            let next = (0..2).filter_map(|n| Some((locals[n].deadline?, n))).min();
            let Some((at, n)) = next.filter(|(at, _)| *at <= until) else { return };
            if idle(0) && idle(1) {
                return;
            }
            let end = n as u8;
            state.clocks = state.clocks.map(|clock| clock.max(at));
            let packets = self.input(state, end, Input::Timeout).0;
            self.carry(state, end, packets);
        }
    }

    /// Keeps the first trail to something that must not be.
    fn example(&mut self, what: &str) {
        if self.report.example.is_some() {
            return;
        }
        let mut text = String::from(what);
        for choice in &self.trail {
            text += &match *choice {
                Choice::Start => String::from("\n  start"),
                Choice::Open(end) => std::format!("\n  {end} opens"),
                Choice::Timeout(end) => std::format!("\n  {end} times out"),
                Choice::Send(end) => std::format!("\n  {end} sends data"),
                Choice::Restart(end) => std::format!("\n  {end} restarts"),
                Choice::Deliver(to, p) => {
                    std::format!("\n  {to} gets {}", self.machines.describe(p))
                }
                Choice::Copy(to, p) => {
                    std::format!("\n  {to} gets a copy of {}", self.machines.describe(p))
                }
                Choice::Lose(to, p) => {
                    std::format!("\n  {to} never gets {}", self.machines.describe(p))
                }
            };
        }
        self.report.example = Some(text);
    }
}
