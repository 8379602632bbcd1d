//! A scripted machine and scripted sockets, on virtual time.

use super::*;
use crate::drive::Received;
use crate::machine::{Ecn, Path, Reason, SocketId, Timeout};
use crate::stats::DropReason;
use core::cell::Cell;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::num::NonZeroU16;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

const SECOND: Duration = Duration::from_secs(1);

fn at(ns: u64) -> Instant {
    Instant::from_nanos(ns)
}

fn path() -> Path {
    Path::to(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9))
}

/// What happened, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Did {
    Datagram(Vec<u8>),
    BatchEnd,
    Timeout,
    Event(u32),
    TooLarge(usize),
    Payload(Vec<u8>),
}

#[derive(Default)]
struct Fake {
    log: Vec<Did>,
    output: VecDeque<Vec<u8>>,
    segment: Option<NonZeroU16>,
    deadline: Option<Instant>,
    /// What `handle_timeout` does to the deadline.
    rearm: Option<Instant>,
    events: VecDeque<u32>,
    last: Option<Instant>,
    stuck: bool,
}

impl Machine for Fake {
    type Event = u32;

    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        _: Path,
        _: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        self.last = Some(now);
        self.log.push(Did::Datagram(datagram.to_vec()));
        match datagram.first() {
            Some(b'!') => Ingress::Datagram {
                from: SocketAddress::default(),
                to: Port(5),
                payload: &datagram[1..],
            },
            Some(b'?') => Ingress::Dropped(DropReason::Full),
            _ => Ingress::Handled,
        }
    }

    fn handle_batch_end(&mut self, _: Instant) {
        self.log.push(Did::BatchEnd);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.last = Some(now);
        if self.deadline.is_some_and(|at| at <= now) {
            self.log.push(Did::Timeout);
            self.deadline = self.rearm.take();
        }
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.last = Some(now);
        let bytes = self.output.pop_front()?;
        assert!(max_segments.get() <= TRAIN_SEGMENTS_MAX);
        out[..bytes.len()].copy_from_slice(&bytes);
        Some(Transmit {
            path: path(),
            len: bytes.len(),
            segment: self.segment,
            ecn: Ecn::Ect0,
            hop_limit: None,
        })
    }

    fn handle_too_large(&mut self, _: Instant, transmit: &Transmit) {
        self.log.push(Did::TooLarge(transmit.len));
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        if self.stuck {
            return Some(Timeout { at: Instant::START, reason: Reason::Sweep });
        }
        let output = (!self.output.is_empty())
            .then(|| Timeout { at: self.last.unwrap_or(Instant::START), reason: Reason::Output });
        let timer = self.deadline.map(|at| Timeout { at, reason: Reason::Recovery });
        output.or(timer)
    }

    fn poll_event(&mut self) -> Option<u32> {
        self.events.pop_front()
    }
}

#[derive(Default)]
struct FakeIo {
    incoming: VecDeque<Result<(Vec<u8>, usize), IoError>>,
    /// Answers to send calls; `Ok` once it is empty.
    answers: VecDeque<Result<(), IoError>>,
    sent: Vec<(Transmit, Vec<u8>)>,
    refused: Vec<Vec<u8>>,
    /// Never dry.
    flood: bool,
}

impl Datagrams for FakeIo {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        assert_eq!(buf.len(), RECEIVE_BUFFER);
        let (bytes, stride) = match self.incoming.pop_front() {
            Some(next) => next?,
            None if self.flood => (vec![b'f'], 1),
            None => return Err(IoError::WouldBlock),
        };
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(Received { path: path(), ecn: Ecn::NotEct, len: bytes.len(), stride })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        assert_eq!(transmit.len, bytes.len());
        let answer = self.answers.pop_front().unwrap_or(Ok(()));
        match answer {
            Ok(()) => self.sent.push((*transmit, bytes.to_vec())),
            Err(_) => self.refused.push(bytes.to_vec()),
        }
        answer
    }

    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(1000).unwrap()
    }

    fn open(&mut self, _: SocketId) -> Result<(), IoError> {
        Err(IoError::Full)
    }

    fn close(&mut self, _: SocketId) {}
}

#[derive(Default)]
struct FakeOutlet {
    log: Vec<Did>,
    /// Queued in the machine when an event is handled.
    reply: Option<Vec<u8>>,
}

impl Outlet<Fake, FakeIo> for FakeOutlet {
    fn handle_payload(&mut self, _: SocketAddress, to: Port, payload: &[u8]) {
        assert_eq!(to, Port(5));
        self.log.push(Did::Payload(payload.to_vec()));
    }

    fn handle_event(&mut self, _: Instant, machine: &mut Fake, _: &mut FakeIo, event: u32) {
        self.log.push(Did::Event(event));
        machine.output.extend(self.reply.take());
    }
}

struct World {
    driver: Driver<'static>,
    clock: Cell<u64>,
    machine: Fake,
    io: FakeIo,
    outlet: FakeOutlet,
}

impl World {
    fn new() -> World {
        World {
            driver: Driver::boxed(Budget::DEFAULT),
            clock: Cell::new(1000),
            machine: Fake::default(),
            io: FakeIo::default(),
            outlet: FakeOutlet::default(),
        }
    }

    fn turn(&mut self) -> Turn {
        let clock = || at(self.clock.get());
        self.driver.turn(&clock, &mut self.machine, &mut self.io, &mut self.outlet)
    }
}

const IDLE: Turn = Turn::Wait { until: None, writable: false };

#[test]
fn a_train_is_split_and_the_batch_ends_once() {
    let mut w = World::new();
    w.io.incoming.push_back(Ok((b"aaabbbc".to_vec(), 3)));
    w.io.incoming.push_back(Ok((b"!hi".to_vec(), 3)));
    w.io.incoming.push_back(Ok((Vec::new(), 0)));
    assert_eq!(w.turn(), IDLE);
    let datagrams = ["aaa", "bbb", "c", "!hi"].map(|d| Did::Datagram(d.into()));
    assert_eq!(w.machine.log[..4], datagrams);
    assert_eq!(w.machine.log[4..], [Did::BatchEnd]);
    assert_eq!(w.outlet.log, [Did::Payload(b"hi".to_vec())]);
    let stats = w.driver.stats();
    assert_eq!((stats.receives, stats.datagrams_in, stats.bytes_in), (3, 4, 10));
    // Nothing received: no batch has ended.
    w.machine.log.clear();
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.machine.log, []);
}

#[test]
fn receiving_comes_before_timers() {
    let mut w = World::new();
    w.machine.deadline = Some(at(500));
    w.io.incoming.push_back(Ok((b"a".to_vec(), 1)));
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.machine.log, [Did::Datagram(b"a".to_vec()), Did::BatchEnd, Did::Timeout]);
}

#[test]
fn a_flood_delays_timers_by_four_batches_at_most() {
    let mut w = World::new();
    w.machine.deadline = Some(at(500));
    w.machine.rearm = Some(at(500));
    w.io.flood = true;
    for round in 0..2 {
        for batch in 1..=4 {
            assert_eq!(w.turn(), Turn::Again);
            let fired = w.machine.log.iter().filter(|d| **d == Did::Timeout).count();
            assert_eq!(fired, usize::from(batch == 4), "round {round}, batch {batch}");
        }
        let datagrams = w.machine.log.iter().filter(|d| matches!(d, Did::Datagram(_))).count();
        let Budget { receives, receives_first, .. } = Budget::DEFAULT;
        let first = if round == 0 { receives_first } else { receives };
        assert_eq!(datagrams as u32, first + 3 * receives);
        w.machine.log.clear();
    }
}

#[test]
fn the_clock_decides_what_has_expired() {
    let mut w = World::new();
    w.machine.deadline = Some(at(2000));
    assert_eq!(w.turn(), Turn::Wait { until: Some(at(2000)), writable: false });
    assert_eq!(w.machine.log, []);
    // Woken too early by a coarse timer: the same answer again.
    w.clock.set(1999);
    assert_eq!(w.turn(), Turn::Wait { until: Some(at(2000)), writable: false });
    w.clock.set(2000);
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.machine.log, [Did::Timeout]);
}

#[test]
fn a_refused_packet_goes_first_and_whole() {
    let mut w = World::new();
    w.machine.output.extend([b"one".to_vec(), b"two".to_vec()]);
    w.io.answers.push_back(Err(IoError::WouldBlock));
    w.io.answers.push_back(Err(IoError::WouldBlock));
    let Turn::Wait { until, writable: true } = w.turn() else { panic!("must wait") };
    assert_eq!(until, Some(at(1000) + BLOCKED_TICK));
    assert!(w.driver.is_blocked());
    // What is received and built meanwhile does not overwrite it.
    w.io.incoming.push_back(Ok((b"xxxxxx".to_vec(), 6)));
    let Turn::Wait { writable: true, .. } = w.turn() else { panic!("must wait") };
    assert_eq!(w.turn(), IDLE);
    let sent: Vec<_> = w.io.sent.iter().map(|(_, bytes)| &bytes[..]).collect();
    assert_eq!(sent, [b"one", b"two"]);
    assert_eq!(w.io.refused, [b"one", b"one"]);
    assert_eq!((w.driver.stats().blocked, w.driver.stats().sends), (2, 2));
}

#[test]
fn a_blocked_socket_hides_neither_events_nor_timers_nor_input() {
    let mut w = World::new();
    w.machine.output.extend([b"one".to_vec(), b"two".to_vec()]);
    w.io.answers.extend([Err(IoError::WouldBlock); 10]);
    let _ = w.turn();
    w.machine.events.push_back(7);
    w.io.incoming.push_back(Ok((b"in".to_vec(), 2)));
    // The fake, as a machine should, reports queued output first: its timer is hidden.
    w.machine.deadline = Some(at(1000) + BLOCKED_TICK);
    assert_eq!(w.machine.poll_timeout().map(|t| t.reason), Some(Reason::Output));
    w.clock.set(1000 + BLOCKED_TICK.as_nanos() as u64);
    let Turn::Wait { until: Some(until), writable: true } = w.turn() else { panic!("must wait") };
    assert!(until > at(w.clock.get()));
    assert_eq!(w.outlet.log, [Did::Event(7)]);
    assert_eq!(w.machine.log, [Did::Datagram(b"in".to_vec()), Did::BatchEnd, Did::Timeout]);
    assert!(w.io.sent.is_empty());
}

#[test]
fn a_blocked_socket_without_more_output_waits_for_the_timer() {
    let mut w = World::new();
    w.machine.output.push_back(b"one".to_vec());
    w.machine.deadline = Some(at(1000) + SECOND);
    w.io.answers.push_back(Err(IoError::WouldBlock));
    assert_eq!(w.turn(), Turn::Wait { until: Some(at(1000) + SECOND), writable: true });
}

#[test]
fn other_errors_drop_the_packet_and_are_counted() {
    let mut w = World::new();
    w.machine.output.extend((0..4u8).map(|n| vec![n]));
    w.io.answers.extend([
        Err(IoError::TooLarge),
        Err(IoError::Unreachable),
        Err(IoError::Denied),
        Ok(()),
    ]);
    assert_eq!(w.turn(), IDLE);
    let s = w.driver.stats();
    assert_eq!((s.too_large, s.unreachable, s.send_errors, s.sends), (1, 1, 1, 1));
    assert_eq!(w.machine.log, [Did::TooLarge(1)], "the machine is told how long it was");
    assert_eq!(w.io.sent[0].1, [3]);
}

#[test]
fn a_failing_socket_does_not_spin() {
    let mut w = World::new();
    w.io.incoming.extend((0..100).map(|_| Err(IoError::Os(5))));
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.driver.stats().receive_errors, u64::from(RECEIVE_ERRORS));
}

#[test]
fn budgets_end_a_turn() {
    let mut w = World::new();
    w.machine.output.extend((0..9u8).map(|n| vec![n]));
    assert_eq!(w.turn(), Turn::Again);
    assert_eq!(w.io.sent.len() as u32, Budget::DEFAULT.sends);
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.io.sent.len(), 9);
    w.machine.events.extend(0..300);
    assert_eq!(w.turn(), Turn::Again);
    assert_eq!(w.outlet.log.len() as u32, Budget::DEFAULT.events);
    assert_eq!(w.turn(), IDLE);
}

#[test]
fn what_an_event_handler_queues_is_sent_without_waiting() {
    let mut w = World::new();
    w.machine.events.push_back(1);
    w.outlet.reply = Some(b"reply".to_vec());
    assert_eq!(w.turn(), Turn::Again);
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.io.sent[0].1, b"reply");
}

#[test]
fn a_machine_that_breaks_the_contract_does_not_spin() {
    let mut w = World::new();
    w.machine.stuck = true;
    for stalls in 1..4 {
        assert_eq!(w.turn(), Turn::Wait { until: Some(at(1000) + BLOCKED_TICK), writable: false });
        assert_eq!(w.driver.stats().stalls, stalls);
    }
}

#[test]
fn a_train_counts_as_its_datagrams() {
    let mut w = World::new();
    w.machine.segment = NonZeroU16::new(4);
    w.machine.output.push_back(vec![0; 10]);
    assert_eq!(w.turn(), IDLE);
    assert_eq!((w.driver.stats().sends, w.driver.stats().datagrams_out), (1, 3));
    assert_eq!(w.io.sent[0].0.segment, NonZeroU16::new(4));
}

#[test]
fn a_deadline_that_never_comes_is_no_deadline() {
    let mut w = World::new();
    w.machine.deadline = Some(Instant::NEVER);
    assert_eq!(w.turn(), IDLE);
}

/// One answer to each batch that came in, and only what is little; the rest is the next turn's.
#[test]
fn an_answer_is_sent_without_a_turn_once_for_each_batch() {
    let mut w = World::new();
    let answer = |w: &mut World| w.driver.answer(at(1000), &mut w.machine, &mut w.io);
    w.machine.output.push_back(b"unasked".to_vec());
    assert!(!answer(&mut w) && w.io.sent.is_empty());
    w.io.incoming.push_back(Ok((b"a".to_vec(), 1)));
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.io.sent.len(), 1);
    w.machine.output.push_back(b"answer".to_vec());
    assert!(answer(&mut w));
    assert_eq!(w.io.sent[1].1, b"answer");
    w.machine.output.push_back(b"more".to_vec());
    assert!(!answer(&mut w), "nothing has come in since");
    assert_eq!(w.turn(), IDLE);
    // Too much for an answer.
    w.io.incoming.push_back(Ok((b"b".to_vec(), 1)));
    assert_eq!(w.turn(), IDLE);
    w.machine.output.extend((0..9).map(|n| vec![n]));
    assert!(!answer(&mut w));
    assert_eq!((w.io.sent.len(), w.machine.output.len()), (3 + 4, 5));
    assert_eq!(w.turn(), IDLE);
    // Refused: it is parked, and whoever makes the turns has to wait for the socket.
    w.io.incoming.push_back(Ok((b"c".to_vec(), 1)));
    assert_eq!(w.turn(), IDLE);
    w.machine.output.push_back(b"refused".to_vec());
    w.io.answers.push_back(Err(IoError::WouldBlock));
    assert!(!answer(&mut w) && w.driver.is_blocked());
    assert!(!answer(&mut w));
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.io.sent.last().unwrap().1, b"refused");
}

#[test]
fn a_flush_sends_and_does_nothing_else() {
    let mut w = World::new();
    w.machine.deadline = Some(at(500));
    w.machine.events.push_back(1);
    w.machine.output.extend([b"one".to_vec(), b"two".to_vec()]);
    w.io.incoming.push_back(Ok((b"a".to_vec(), 1)));
    w.io.answers.extend([Ok(()), Err(IoError::WouldBlock)]);
    let clock = || at(1000);
    w.driver.flush(&clock, &mut w.machine, &mut w.io);
    assert_eq!((w.io.sent.len(), w.io.incoming.len()), (1, 1));
    assert_eq!((&w.machine.log[..], &w.outlet.log[..]), (&[][..], &[][..]));
    // What was refused is parked whole, and the next turn does all the rest.
    assert!(w.driver.is_blocked());
    assert_eq!(w.turn(), IDLE);
    assert_eq!(w.io.sent[1].1, b"two");
    assert_eq!(w.machine.log.last(), Some(&Did::Timeout));
    assert_eq!(w.outlet.log, [Did::Event(1)]);
}

#[test]
fn a_small_first_batch_gives_way_and_grows() {
    let mut w = World::new();
    w.driver = Driver::boxed(Budget { receives_first: 1, ..Budget::DEFAULT });
    w.io.flood = true;
    let batches = |w: &mut World, n: usize| {
        let batch = |w: &mut World| {
            w.machine.log.clear();
            assert_eq!(w.turn(), Turn::Again);
            w.machine.log.iter().filter(|d| matches!(d, Did::Datagram(_))).count()
        };
        (0..n).map(|_| batch(w)).collect::<Vec<_>>()
    };
    assert_eq!(batches(&mut w, 4), [1, 8, 64, 64]);
    // An application has answered: its peer's answer comes first again.
    let clock = || at(1000);
    w.driver.flush(&clock, &mut w.machine, &mut w.io);
    assert_eq!(batches(&mut w, 2), [1, 8]);
    w.machine.output.push_back(b"an answer that needs no flush".to_vec());
    assert!(w.driver.answer(at(1000), &mut w.machine, &mut w.io));
    assert_eq!(batches(&mut w, 2), [1, 8]);
    w.io.flood = false;
    assert_eq!(w.turn(), IDLE);
    w.io.flood = true;
    assert_eq!(batches(&mut w, 2), [1, 8]);
}

/// A sender of trains whose receiver acknowledges each of them, in a packet of its own.
#[test]
fn a_queue_of_acknowledgements_gets_shorter_while_data_is_handed_on_soon() {
    let mut w = World::new();
    w.io.incoming.extend((0..200).map(|_| Ok((b"ack".to_vec(), 3))));
    let mut queues = Vec::new();
    while !w.io.incoming.is_empty() {
        w.machine.output.extend((0..10).map(|n| vec![n]));
        assert_eq!(w.turn(), Turn::Again);
        let sent = core::mem::take(&mut w.io.sent).len();
        assert_eq!(sent, 8, "what is to be sent is sent meanwhile");
        w.io.incoming.extend((0..sent).map(|_| Ok((b"ack".to_vec(), 3))));
        queues.push(w.io.incoming.len());
        if queues.len() == 5 {
            break;
        }
    }
    assert_eq!(queues, [200, 144, 88, 32, 8]);
    // Data: no more at a time than the first batch had.
    let mut w = World::new();
    let train = || Ok((vec![0; RECEIVE_BUFFER], RECEIVE_BUFFER));
    w.io.incoming.extend((0..20).map(|_| train()));
    let turns: Vec<usize> = (0..3)
        .map(|_| {
            let before = w.io.incoming.len();
            let _ = w.turn();
            before - w.io.incoming.len()
        })
        .collect();
    assert_eq!(turns, [8, 8, 4]);
}

#[test]
fn whoever_has_sent_a_turns_worth_expects_answers() {
    let mut w = World::new();
    w.machine.output.extend((0..20).map(|n| vec![n]));
    assert!(!w.driver.expects_answers());
    assert_eq!(w.turn(), Turn::Again);
    assert!(w.driver.expects_answers());
    assert_eq!(w.turn(), Turn::Again);
    assert_eq!(w.turn(), IDLE);
    assert!(!w.driver.expects_answers(), "4 are no reason");
    let clock = || at(1000);
    w.machine.output.extend((0..4).map(|n| vec![n]));
    w.driver.flush(&clock, &mut w.machine, &mut w.io);
    assert!(w.driver.expects_answers(), "with the 4 before");
    assert_eq!(w.turn(), IDLE);
    assert!(!w.driver.expects_answers());
}
