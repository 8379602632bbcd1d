//! Clients against a broker, cut in every way, too slow, too many, and any bytes.

use super::*;
use crate::addr::Address;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::string::{String, ToString as _};
use std::vec::Vec;
use std::{format, vec};

fn address(n: u8) -> Address {
    format!("0:0000.0000.00{n:02X}").parse().unwrap()
}

#[derive(Clone, PartialEq, Debug)]
enum Heard {
    Done(Result<u32, Refusal>),
    Event(Address, bool, String, Vec<u8>),
    Dropped(u64),
}

/// A client and the bytes on their way to it.
struct Peer {
    id: ConnId,
    client: Client,
    down: Vec<u8>,
    heard: Vec<Heard>,
}

impl Peer {
    fn join(broker: &mut Broker, n: u8) -> Peer {
        let id = broker.handle_open(address(n)).unwrap();
        Peer { id, client: Client::new(), down: Vec::new(), heard: Vec::new() }
    }

    /// Writes a request and lets the broker take it, `cut` bytes at a time.
    fn ask(
        &mut self,
        broker: &mut Broker,
        cut: usize,
        write: impl FnOnce(&mut Client, &mut [u8]) -> usize,
    ) {
        let mut out = vec![0; FRAME_MAX];
        let len = write(&mut self.client, &mut out);
        let mut held = Vec::new();
        for chunk in out[..len].chunks(cut) {
            held.extend_from_slice(chunk);
            match broker.handle_bytes(self.id, &held).unwrap() {
                Taken::Frame(used) => drop(held.drain(..used)),
                Taken::More => {}
                Taken::Blocked => panic!("blocked"),
            }
        }
        assert!(held.is_empty());
    }

    fn subscribe(&mut self, broker: &mut Broker, pattern: &str, retained: bool) {
        let pattern = Pattern::new(pattern).unwrap();
        self.ask(broker, 3, |c, out| c.subscribe(pattern, retained, out).unwrap().0);
    }

    fn unsubscribe(&mut self, broker: &mut Broker, pattern: &str) {
        let pattern = Pattern::new(pattern).unwrap();
        self.ask(broker, 64, |c, out| c.unsubscribe(pattern, out).unwrap().0);
    }

    fn publish(&mut self, broker: &mut Broker, topic: &str, data: &[u8], retain: bool) {
        let topic = Topic::new(topic).unwrap();
        self.ask(broker, 1000, |c, out| c.publish(topic, data, retain, out).unwrap().0);
    }

    /// Reads all that there is for it; what it has heard.
    fn read(&mut self, broker: &mut Broker) -> Vec<Heard> {
        loop {
            let before = self.down.len();
            broker.poll_bytes(self.id, &mut self.down, before + 1);
            if self.down.len() == before {
                break;
            }
        }
        let mut start = 0;
        while let (used, Some(event)) = self.client.handle_bytes(&self.down[start..]).unwrap() {
            start += used;
            self.heard.push(match event {
                ClientEvent::Done(_, result) => Heard::Done(result),
                ClientEvent::Event { from, retained, topic, data } => {
                    Heard::Event(from, retained, topic.to_string(), data.to_vec())
                }
                ClientEvent::Dropped(count) => Heard::Dropped(count),
            });
        }
        assert_eq!(start, self.down.len(), "whole frames");
        self.down.clear();
        std::mem::take(&mut self.heard)
    }
}

fn event(from: u8, topic: &str, data: &[u8]) -> Heard {
    Heard::Event(address(from), false, topic.into(), data.into())
}

fn retained(from: u8, topic: &str, data: &[u8]) -> Heard {
    Heard::Event(address(from), true, topic.into(), data.into())
}

const DONE: Heard = Heard::Done(Ok(0));

#[test]
fn events_reach_those_who_subscribe_once_and_in_order() {
    let mut broker = Broker::new(BrokerLimits::default());
    let [mut a, mut b, mut c] = [1, 2, 3].map(|n| Peer::join(&mut broker, n));
    for pattern in ["x.*", "x.>", "y"] {
        a.subscribe(&mut broker, pattern, false);
    }
    b.subscribe(&mut broker, "x.1.2", false);
    assert_eq!(a.read(&mut broker), [DONE; 3]);
    c.publish(&mut broker, "x.1", b"one", false);
    c.publish(&mut broker, "x.1.2", b"two", false);
    c.publish(&mut broker, "z", b"three", false);
    b.publish(&mut broker, "y", b"", false);
    let done = |count| Heard::Done(Ok(count));
    assert_eq!(c.read(&mut broker), [done(1), done(2), done(0)]);
    let expected = [event(3, "x.1", b"one"), event(3, "x.1.2", b"two"), event(2, "y", b"")];
    assert_eq!(a.read(&mut broker), expected);
    // The answers go first.
    assert_eq!(b.read(&mut broker), [DONE, done(1), event(3, "x.1.2", b"two")]);

    a.unsubscribe(&mut broker, "x.>");
    a.unsubscribe(&mut broker, "x.>");
    c.publish(&mut broker, "x.1.2", b"four", false);
    c.publish(&mut broker, "x.9", b"five", false);
    let not = Heard::Done(Err(Refusal::NotSubscribed));
    assert_eq!(a.read(&mut broker), [DONE, not, event(3, "x.9", b"five")]);
    let stats = broker.stats();
    assert_eq!((stats.connections, stats.published, stats.queued, stats.dropped), (3, 6, 6, 0));
}

#[test]
fn who_does_not_read_loses_its_oldest_and_delays_nobody() {
    let limits = BrokerLimits { queue_events: 10, ..BrokerLimits::default() };
    let mut broker = Broker::new(limits);
    let [mut slow, mut quick, mut source] = [1, 2, 3].map(|n| Peer::join(&mut broker, n));
    slow.subscribe(&mut broker, ">", false);
    quick.subscribe(&mut broker, ">", false);
    quick.read(&mut broker);
    for n in 0..1000_u32 {
        let data = n.to_be_bytes();
        source.publish(&mut broker, "n", &data, false);
        assert_eq!(source.read(&mut broker), [Heard::Done(Ok(2))]);
        assert_eq!(quick.read(&mut broker), [event(3, "n", &data)]);
    }
    let heard = slow.read(&mut broker);
    assert_eq!(heard[..2], [DONE, Heard::Dropped(990)]);
    let last: Vec<Heard> = (990..1000_u32).map(|n| event(3, "n", &n.to_be_bytes())).collect();
    assert_eq!(heard[2..], last);
    assert_eq!(broker.stats().dropped, 990);

    // Bytes count, too, but one event always fits.
    let limits = BrokerLimits { queue_bytes: 100, ..BrokerLimits::default() };
    let mut broker = Broker::new(limits);
    let [mut slow, mut source] = [1, 3].map(|n| Peer::join(&mut broker, n));
    slow.subscribe(&mut broker, ">", false);
    for len in [20, 20, 20, 60, 200] {
        source.publish(&mut broker, "n", &vec![0; len], false);
    }
    let expected = [DONE, Heard::Dropped(4), event(3, "n", &[0; 200])];
    assert_eq!(slow.read(&mut broker), expected);
    source.publish(&mut broker, "n", b"x", false);
    broker.handle_close(slow.id);
    assert_eq!((broker.stats().dropped, broker.stats().connections), (5, 1));
}

#[test]
fn retained_values_come_to_those_who_ask() {
    let limits = BrokerLimits { retained_topics: 2, ..BrokerLimits::default() };
    let mut broker = Broker::new(limits);
    let [mut source, mut a, mut b] = [1, 2, 3].map(|n| Peer::join(&mut broker, n));
    source.publish(&mut broker, "t.a", b"old", true);
    source.publish(&mut broker, "t.a", b"new", true);
    source.publish(&mut broker, "t.b", b"b", true);
    source.publish(&mut broker, "t.c", b"not retained", false);
    a.subscribe(&mut broker, "t.*", false);
    assert_eq!(a.read(&mut broker), [DONE]);
    b.subscribe(&mut broker, "t.>", true);
    assert_eq!(b.read(&mut broker), [DONE, retained(1, "t.a", b"new"), retained(1, "t.b", b"b")]);
    // `t.a` was asked for last: `t.b` goes.
    b.subscribe(&mut broker, "t.a", true);
    assert_eq!(b.read(&mut broker), [DONE, retained(1, "t.a", b"new")]);
    source.publish(&mut broker, "t.d", b"d", true);
    assert_eq!((broker.stats().retained, broker.stats().evicted), (2, 1));
    source.publish(&mut broker, "t.a", b"", true);
    assert_eq!(broker.stats().retained, 1);
    a.read(&mut broker);
    a.subscribe(&mut broker, "t.*", true);
    assert_eq!(a.read(&mut broker), [DONE, retained(1, "t.d", b"d")]);

    let limits = BrokerLimits { retained_bytes: 60, ..BrokerLimits::default() };
    let mut broker = Broker::new(limits);
    let mut source = Peer::join(&mut broker, 1);
    for (topic, len) in [("a", 20), ("b", 20), ("c", 20), ("a", 100)] {
        source.publish(&mut broker, topic, &vec![1; len], true);
    }
    // `a` went for `c`; and a value that can never fit leaves none behind.
    assert_eq!((broker.stats().retained, broker.stats().evicted), (2, 1));
}

#[test]
fn one_peer_leaves_places_to_others() {
    let limits = BrokerLimits { of_peer: 2, connections: 5, ..BrokerLimits::default() };
    let mut broker = Broker::new(limits);
    let first = broker.handle_open(address(1)).unwrap();
    broker.handle_open(address(1)).unwrap();
    assert_eq!(broker.handle_open(address(1)), None);
    broker.handle_open(address(2)).unwrap();
    broker.handle_close(first);
    broker.handle_open(address(1)).unwrap();
    assert_eq!((broker.handle_open(address(1)), broker.stats().connections), (None, 3));
}

#[test]
fn there_are_limits_to_connections_patterns_and_answers() {
    let limits = BrokerLimits { connections: 2, patterns: 3, ..BrokerLimits::default() };
    let mut broker = Broker::new(limits);
    let mut a = Peer::join(&mut broker, 1);
    let b = Peer::join(&mut broker, 2);
    assert_eq!(broker.handle_open(address(3)), None);
    broker.handle_close(b.id);
    assert!(broker.handle_open(address(3)).is_some());
    assert_eq!(broker.handle_bytes(b.id, b""), Err(EventsError::Closed));
    for pattern in ["a", "b.*", "c", "b.*", "d"] {
        a.subscribe(&mut broker, pattern, false);
    }
    let too_many = Heard::Done(Err(Refusal::TooManyPatterns));
    assert_eq!(a.read(&mut broker), [DONE, DONE, DONE, DONE, too_many]);

    // Its own client cannot have more requests open; another one's stays unread.
    let mut out = [0; 64];
    for _ in 0..OUTSTANDING_MAX {
        a.ask(&mut broker, 64, |c, out| c.ping(out).unwrap().0);
    }
    assert_eq!(a.client.ping(&mut out), Err(Misuse::Outstanding));
    let len = Client::new().ping(&mut out).unwrap().0;
    assert_eq!(broker.handle_bytes(a.id, &out[..len]), Ok(Taken::Blocked));
    assert_eq!(a.read(&mut broker).len(), OUTSTANDING_MAX);
    assert_eq!(broker.handle_bytes(a.id, &out[..len]), Ok(Taken::Frame(len)));
}

#[test]
fn those_with_output_are_named_once() {
    let mut broker = Broker::new(BrokerLimits::default());
    let [mut a, mut b] = [1, 2].map(|n| Peer::join(&mut broker, n));
    assert_eq!(broker.poll_ready(), None);
    a.subscribe(&mut broker, "t", true);
    b.publish(&mut broker, "t", b"1", false);
    b.publish(&mut broker, "t", b"2", false);
    assert_eq!(broker.poll_ready(), Some(a.id));
    assert_eq!(broker.poll_ready(), Some(b.id));
    assert_eq!(broker.poll_ready(), None);
    b.publish(&mut broker, "t", b"3", false);
    assert_eq!(broker.poll_ready(), Some(a.id));
    broker.handle_close(b.id);
    assert_eq!(broker.poll_ready(), None);
    // Whoever has said its last gets its answers and no more events.
    broker.handle_end(a.id);
    assert_eq!(a.read(&mut broker), [DONE]);
    assert_eq!(broker.stats().dropped, 3);
}

#[test]
fn an_unacknowledged_publication_is_not_answered() {
    let mut broker = Broker::new(BrokerLimits::default());
    let mut a = Peer::join(&mut broker, 1);
    let topic = Topic::new("t").unwrap();
    a.subscribe(&mut broker, "t", false);
    a.ask(&mut broker, 4, |c, out| c.publish_unacknowledged(topic, b"x", false, out).unwrap());
    assert_eq!(a.read(&mut broker), [DONE, event(1, "t", b"x")]);
    assert_eq!(a.client.outstanding(), 0);
    let long = vec![0; DATA_MAX + 1];
    let mut out = vec![0; FRAME_MAX + 8];
    assert_eq!(a.client.publish(topic, &long, false, &mut out), Err(Misuse::Room));
    assert_eq!(a.client.outstanding(), 0);
}

#[test]
fn a_client_takes_only_what_a_broker_says() {
    let mut broker = Broker::new(BrokerLimits::default());
    let mut out = [0; 64];
    let mut client = Client::new();
    let (len, _) = client.ping(&mut out).unwrap();
    assert_eq!(client.handle_bytes(&out[..len]), Err(EventsError::Unexpected(22)));
    assert_eq!(client.handle_bytes(&out[..len]), Err(EventsError::Closed));
    let done = [19, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    assert_eq!(Client::new().handle_bytes(&done), Err(EventsError::WrongRequest));
    let id = broker.handle_open(address(1)).unwrap();
    assert_eq!(broker.handle_bytes(id, &done), Err(EventsError::Unexpected(19)));
}

proptest! {
    /// Whatever a peer sends: the broker takes it or refuses it, holds no more than its limits
    /// allow, and the other connections get what is published.
    #[test]
    fn any_bytes_leave_the_others_alone(
        frames in proptest::collection::vec(
            (15u8..=23, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..40),
    ) {
        let limits = BrokerLimits { queue_events: 4, retained_topics: 2, ..Default::default() };
        let mut broker = Broker::new(limits);
        let [mut a, b, mut c] = [1, 2, 3].map(|n| Peer::join(&mut broker, n));
        a.subscribe(&mut broker, "own.topic", false);
        a.read(&mut broker);
        let mut client = Client::new();
        let mut input = VecDeque::new();
        for (kind, right_length, body) in frames {
            input.push_back(kind);
            let len = if right_length { body.len() as u32 } else { 0x0001_0203 };
            input.extend(&len.to_be_bytes()[1..]);
            input.extend(body);
        }
        let bytes = input.make_contiguous();
        let _ = client.handle_bytes(bytes);
        let mut start = 0;
        while let Ok(Taken::Frame(used)) = broker.handle_bytes(b.id, &bytes[start..]) {
            prop_assert!(used > 0 && start + used <= bytes.len());
            start += used;
        }
        prop_assert!(broker.stats().retained <= 2);
        let mut out = Vec::new();
        broker.poll_bytes(b.id, &mut out, 1);
        prop_assert!(out.len() <= 1 + FRAME_MAX);
        c.publish(&mut broker, "own.topic", b"x", false);
        let heard = a.read(&mut broker);
        prop_assert_eq!(heard.last(), Some(&event(3, "own.topic", b"x")));
    }

    /// Against a model: each subscriber hears of every event that matches, in order, and what is
    /// missing is what it was told that it lost.
    #[test]
    fn what_is_heard_and_what_is_lost_is_all(
        steps in proptest::collection::vec((0usize..3, 0u8..4, 0u8..3), 1..120),
        depth in 1usize..6,
    ) {
        let limits = BrokerLimits { queue_events: depth, ..Default::default() };
        let mut broker = Broker::new(limits);
        let mut source = Peer::join(&mut broker, 9);
        let mut peers: Vec<Peer> = (0..3).map(|n| Peer::join(&mut broker, n + 1)).collect();
        let patterns = ["a", "*", "b.>"];
        let topics = ["a", "b", "b.c"];
        for (peer, pattern) in peers.iter_mut().zip(patterns) {
            peer.subscribe(&mut broker, pattern, false);
            prop_assert_eq!(peer.read(&mut broker), vec![DONE]);
        }
        let mut sent: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut heard: Vec<Vec<Heard>> = vec![Vec::new(); 3];
        for (n, (who, what, topic)) in steps.into_iter().enumerate() {
            if what == 0 {
                let read = peers[who].read(&mut broker);
                heard[who].extend(read);
            } else {
                let data = (n as u32).to_be_bytes().to_vec();
                source.publish(&mut broker, topics[usize::from(topic)], &data, false);
                source.read(&mut broker);
                sent.push((usize::from(topic), data));
            }
        }
        for (n, peer) in peers.iter_mut().enumerate() {
            heard[n].extend(peer.read(&mut broker));
            let pattern = Pattern::new(patterns[n]).unwrap();
            let mut expected = sent
                .iter()
                .filter(|(t, _)| pattern.matches(Topic::new(topics[*t]).unwrap()))
                .map(|(t, data)| event(9, topics[*t], data));
            for heard in &heard[n] {
                match heard {
                    Heard::Dropped(count) => {
                        for _ in 0..*count {
                            prop_assert!(expected.next().is_some());
                        }
                    }
                    heard => {
                        let next = expected.next();
                        prop_assert_eq!(Some(heard), next.as_ref());
                    }
                }
            }
            prop_assert_eq!(expected.next(), None);
        }
    }
}
