//! One pass through the tests: which question is next, and what the answers mean.

use super::super::nat::{Allocation, Filtering, Mapping, Nat};
use super::super::stun_client::{Ask, Mapped};
use super::{Found, Server, Test};
use crate::machine::SocketId;
use crate::time::{Duration, Instant};
use crate::wire::stun::Change;
use core::net::SocketAddr;
use heapless::Vec;

/// Fresh sockets that the allocation is told from. Of eight random ports one in 20,000 series
/// rises or falls throughout.
const SAMPLES: usize = 8;
/// Fresh sockets of a run.
const SOCKETS: usize = 1 + SAMPLES;
/// Samples scattered over less are of one block; eight random ones are once in 3 · 10^7.
const BLOCK_SPAN: u16 = 4096;
/// Distance of neighbouring samples that still counts as a step: other users of the NAT take
/// ports between.
const STEP_MAX: i32 = 256;
/// Least distance of questions: half of what the beacon answers one source (`wire.md` 7), since
/// others may be behind the same address.
const PACE: Duration = Duration::from_millis(200);
/// How often a question that stays unanswered is asked, each time with its repetitions: at 10 %
/// loss one answer in 20,000 is missed.
const ATTEMPTS: u8 = 2;

pub(super) const MAIN: Test = 0;
const ADDRESS: Test = 1;
const BOTH: Test = 2;
const FRESH: Test = 3;
const STRANGER: Test = 4;
const PORT: Test = 5;
const SAMPLE: Test = 6;
const SECOND_ADDRESS: Test = SAMPLE + SAMPLES as Test;
const SECOND_BOTH: Test = SECOND_ADDRESS + 1;
const TESTS: usize = SECOND_BOTH as usize + 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Idle,
    Asked,
    Seen(SocketAddr),
    Failed,
}

impl State {
    fn is_over(self) -> bool {
        matches!(self, State::Seen(_) | State::Failed)
    }

    fn seen(self) -> Option<SocketAddr> {
        match self {
            State::Seen(endpoint) => Some(endpoint),
            _ => None,
        }
    }
}

/// One pass through the tests.
#[derive(Debug)]
pub(super) struct Run {
    server: Server,
    tests: [State; TESTS],
    attempts: [u8; TESTS],
    /// For the test [`FRESH`] and the samples, in this order.
    sockets: Vec<SocketId, SOCKETS>,
    /// No more sockets are to be had.
    is_short: bool,
    is_translated: bool,
    is_preserving: bool,
    /// No question before this.
    pace: Instant,
}

/// What a run needs next.
pub(super) enum Need {
    Ask(Test),
    Socket,
    /// An answer.
    Wait,
    Nothing,
}

impl Run {
    pub(super) fn new(now: Instant, server: Server) -> Self {
        Run {
            server,
            tests: [State::Idle; TESTS],
            attempts: [0; TESTS],
            sockets: Vec::new(),
            is_short: false,
            is_translated: false,
            is_preserving: false,
            pace: now,
        }
    }

    fn test(&self, test: Test) -> State {
        self.tests[usize::from(test)]
    }

    /// A beacon that is not there is asked once: silence is what is expected.
    fn attempts_of(&self) -> u8 {
        if self.server.is_up { ATTEMPTS } else { 1 }
    }

    /// The socket of a test, if there is one yet.
    fn socket(&self, test: Test) -> Option<SocketId> {
        let fresh = match test {
            MAIN | ADDRESS | BOTH => return Some(SocketId(0)),
            FRESH | STRANGER | PORT => 0,
            // By the first sample's socket.
            SECOND_ADDRESS | SECOND_BOTH => return self.socket(SAMPLE),
            // Without other addresses there is no test of filters.
            sample => usize::from(sample - SAMPLE) + usize::from(self.server.alternates.is_some()),
        };
        self.sockets.get(fresh).copied()
    }

    /// No question before this.
    pub(super) fn pace(&self) -> Instant {
        self.pace
    }

    /// The socket that was wished for, or that there is none.
    pub(super) fn set_socket(&mut self, socket: Option<SocketId>) {
        let taken = socket.is_some_and(|socket| self.sockets.push(socket).is_ok());
        self.is_short |= !taken;
    }

    /// The tests by that socket end; the others tell what they can.
    pub(super) fn handle_no_socket(&mut self, socket: SocketId) {
        self.is_short |= self.sockets.contains(&socket);
        for test in FRESH..TESTS as Test {
            if self.socket(test) == Some(socket) && !self.test(test).is_over() {
                self.tests[usize::from(test)] = State::Failed;
            }
        }
    }

    /// A question has ended; see [`super::Discover::handle_answer`].
    pub(super) fn handle_answer(
        &mut self,
        test: Test,
        answer: Option<&Mapped>,
        locals: &[SocketAddr],
    ) {
        let place = usize::from(test);
        if self.tests.get(place) != Some(&State::Asked) {
            return;
        }
        self.tests[place] = match answer {
            Some(mapped) => State::Seen(mapped.observed),
            None if self.attempts[place] < self.attempts_of() => State::Idle,
            None => State::Failed,
        };
        if test == MAIN
            && let Some(endpoint) = self.test(MAIN).seen()
        {
            // Nobody translates on the way to one's own host.
            self.is_translated = !locals.contains(&endpoint) && !endpoint.ip().is_loopback();
            let same_port = locals.iter().any(|local| local.port() == endpoint.port());
            self.is_preserving = same_port || !self.is_translated;
        }
    }

    /// The question of a test, which is asked now.
    pub(super) fn ask(&mut self, now: Instant, test: Test) -> Option<Ask<Test>> {
        let ask = self.question(test)?;
        self.pace = now + PACE;
        self.tests[usize::from(test)] = State::Asked;
        self.attempts[usize::from(test)] += 1;
        Some(ask)
    }

    fn question(&self, test: Test) -> Option<Ask<Test>> {
        let (socket, beacon) = (self.socket(test)?, self.server.address?);
        let plain = Ask::plain(socket, beacon, test);
        let Some([port, ip, both]) = self.server.alternates else { return Some(plain) };
        Some(match test {
            ADDRESS | SECOND_ADDRESS => Ask::plain(socket, ip, test),
            BOTH | SECOND_BOTH => Ask::plain(socket, both, test),
            STRANGER => Ask { change: Change { ip: true, port: true }, from: both, ..plain },
            PORT => Ask { change: Change { ip: false, port: true }, from: port, ..plain },
            _ => plain,
        })
    }

    /// The tests in their order, as far as what came before makes them worth asking.
    pub(super) fn need(&self) -> Need {
        let main = self.test(MAIN);
        if main == State::Idle {
            return Need::Ask(MAIN);
        }
        if main.seen().is_none() || !self.server.is_up {
            return if main.is_over() { Need::Nothing } else { Need::Wait };
        }
        let mut is_waiting = false;
        if self.server.alternates.is_some() {
            for test in [ADDRESS, BOTH, FRESH, STRANGER, PORT] {
                if !self.is_worth_asking(test) {
                    continue;
                }
                match self.test(test) {
                    State::Idle if self.socket(test).is_none() => return Need::Socket,
                    State::Idle => return Need::Ask(test),
                    State::Asked => is_waiting = true,
                    State::Seen(_) | State::Failed => {}
                }
            }
            // What opens mappings is over before samples are taken, or they would be noise.
            let over = |test| !self.is_worth_asking(test) || self.test(test).is_over();
            if ![ADDRESS, BOTH, FRESH].into_iter().all(over) {
                return Need::Wait;
            }
        }
        let need = match self.need_sample() {
            Need::Nothing => self.need_second(),
            need => need,
        };
        if is_waiting && matches!(need, Need::Nothing) { Need::Wait } else { need }
    }

    fn is_worth_asking(&self, test: Test) -> bool {
        match test {
            FRESH => self.socket(FRESH).is_some() || !self.is_short,
            STRANGER => self.test(FRESH).seen().is_some(),
            // Who lets strangers in lets in acquaintances.
            PORT => self.test(FRESH).seen().is_some() && self.test(STRANGER).seen().is_none(),
            _ => true,
        }
    }

    /// Samples follow each other, or the network could change their order.
    fn need_sample(&self) -> Need {
        if self.is_preserving {
            return Need::Nothing;
        }
        for test in SAMPLE..SECOND_ADDRESS {
            match self.test(test) {
                State::Seen(_) => {}
                State::Asked => return Need::Wait,
                State::Failed => return Need::Nothing,
                State::Idle if self.socket(test).is_some() => return Need::Ask(test),
                State::Idle if self.is_short => return Need::Nothing,
                State::Idle => return Need::Socket,
            }
        }
        Need::Nothing
    }

    /// The mapping once more, where ports are not preserved.
    fn need_second(&self) -> Need {
        let is_worth = !self.is_preserving && self.server.alternates.is_some();
        if is_worth && self.test(SAMPLE).seen().is_some() {
            for test in [SECOND_ADDRESS, SECOND_BOTH] {
                match self.test(test) {
                    State::Idle => return Need::Ask(test),
                    State::Asked => return Need::Wait,
                    State::Seen(_) | State::Failed => {}
                }
            }
        }
        Need::Nothing
    }

    /// A NAT with a block of 64 ports, of which each destination has all, gives a mapping the port
    /// of another one every 64th time: so three mappings are compared, and on two sockets.
    fn mapping(&self) -> Mapping {
        let seen = |tests: [Test; 3]| {
            let [main, address, both] = tests.map(|test| self.test(test).seen());
            Some((main?, address?, both?))
        };
        let Some(first) = seen([MAIN, ADDRESS, BOTH]) else { return Mapping::Unknown };
        let second = seen([SAMPLE, SECOND_ADDRESS, SECOND_BOTH]).unwrap_or(first);
        let both = [first, second];
        if both.iter().all(|(main, address, both)| main == address && address == both) {
            Mapping::EndpointIndependent
        } else if both.iter().all(|(_, address, both)| address == both) {
            Mapping::AddressDependent
        } else {
            Mapping::AddressAndPortDependent
        }
    }

    fn filtering(&self) -> Filtering {
        match (self.test(FRESH), self.test(STRANGER), self.test(PORT)) {
            (State::Seen(_), State::Seen(_), _) => Filtering::EndpointIndependent,
            (State::Seen(_), State::Failed, State::Seen(_)) => Filtering::AddressDependent,
            (State::Seen(_), State::Failed, State::Failed) => Filtering::AddressAndPortDependent,
            _ => Filtering::Unknown,
        }
    }

    fn allocation(&self) -> Allocation {
        if self.test(MAIN).seen().is_none() {
            return Allocation::Unknown;
        }
        if self.is_preserving {
            return Allocation::Preserving;
        }
        let samples = &self.tests[usize::from(SAMPLE)..usize::from(SECOND_ADDRESS)];
        let samples = samples.iter().filter_map(|test| test.seen());
        let ports: Vec<u16, SAMPLES> = samples.map(|endpoint| endpoint.port()).collect();
        if ports.is_full() { allocation_of(&ports) } else { Allocation::Unknown }
    }

    pub(super) fn is_mapping_known(&self) -> bool {
        matches!(self.need_sample(), Need::Nothing)
            && matches!(self.need_second(), Need::Nothing)
            && self.mapping() != Mapping::Unknown
            && self.allocation() != Allocation::Unknown
    }

    /// What this run says; where it says nothing, what was known before.
    pub(super) fn found(&self, before: &Found) -> Found {
        let Some(endpoint) = self.test(MAIN).seen() else {
            return if self.server.is_up {
                // The beacon is there: its STUN answers were lost, or are rationed.
                Found { is_blocked: false, ..*before }
            } else {
                Found { is_blocked: true, ..*before }
            };
        };
        fn or<T: PartialEq + Default>(new: T, old: T) -> T {
            if new == T::default() { old } else { new }
        }
        // Behind another address there may be another NAT.
        let is_same = before.endpoint.is_some_and(|before| before.ip() == endpoint.ip());
        let old = if is_same { before.nat } else { Nat::default() };
        Found {
            nat: Nat {
                mapping: or(self.mapping(), old.mapping),
                filtering: or(self.filtering(), old.filtering),
                allocation: or(self.allocation(), old.allocation),
            },
            is_translated: Some(self.is_translated),
            is_blocked: false,
            endpoint: Some(endpoint),
        }
    }

    /// Everything that this server can tell was told.
    pub(super) fn is_complete(&self) -> bool {
        let alternates = self.server.alternates.is_none()
            || self.mapping() != Mapping::Unknown && self.filtering() != Filtering::Unknown;
        self.server.is_up && alternates && self.allocation() != Allocation::Unknown
    }
}

/// How the ports of fresh sockets, in the order of their opening, follow each other.
fn allocation_of(ports: &[u16]) -> Allocation {
    let steps = || ports.windows(2).map(|w| i32::from(w[1]) - i32::from(w[0]));
    for sign in [1, -1] {
        // One of them may be the wrap at the range's end, which is a long way back.
        let other = steps().filter(|step| !(1..=STEP_MAX).contains(&(step * sign)));
        let mut wraps = 0;
        let is_sequence = other.fold(true, |so_far, step| {
            wraps += 1;
            so_far && wraps == 1 && step * sign < -STEP_MAX
        });
        if is_sequence {
            return Allocation::Sequential;
        }
    }
    let least = ports.iter().min().copied().unwrap_or(0);
    let most = ports.iter().max().copied().unwrap_or(0);
    if most - least < BLOCK_SPAN { Allocation::Block } else { Allocation::Random }
}
