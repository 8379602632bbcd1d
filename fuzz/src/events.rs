//! Events: hostile bytes at a broker and at a client, and honest peers of one broker.
//!
//! Oracle: how the bytes are cut into pieces changes nothing; the tables stay within their
//! limits; whatever one peer sends, another gets what is published for it; each honest subscriber
//! hears of every event that it wants in order, or is told where how many are missing.

use crate::tape::Tape;
use pilot_core::addr::Address;
use pilot_core::service::events::{
    Broker, BrokerLimits, Client, ClientEvent, ConnId, EventsError, FRAME_MAX, OUTSTANDING_MAX,
    Pattern, Taken, Topic,
};

/// Small, so that inputs reach them.
fn limits() -> BrokerLimits {
    let mut limits = BrokerLimits::default();
    (limits.connections, limits.patterns) = (4, 4);
    (limits.queue_events, limits.queue_bytes) = (6, 512);
    (limits.retained_topics, limits.retained_bytes) = (3, 256);
    limits
}

fn address(n: u8) -> Address {
    Address::from_bytes([0, 0, 0, 0, 0, n])
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.below(3) {
        0 => {
            let (cuts, reads) = (tape.array(), tape.byte());
            let input = tape.rest();
            let whole = broker(input, &[u8::MAX; 8], reads);
            assert_eq!(broker(input, &cuts, reads), whole, "cutting changes nothing");
        }
        1 => {
            let (cuts, requests) = (tape.array(), tape.byte());
            let input = tape.rest();
            let whole = client(input, &[u8::MAX; 8], requests);
            assert_eq!(client(input, &cuts, requests), whole, "cutting changes nothing");
        }
        _ => honest(&mut tape),
    }
}

/// Hands out the input in pieces, over and over of these sizes; the largest one means all.
fn pieces<'a>(mut input: &'a [u8], cuts: &'a [u8; 8]) -> impl Iterator<Item = &'a [u8]> {
    let mut turn = 0;
    std::iter::from_fn(move || {
        let cut = cuts[turn % 8];
        turn += 1;
        let n = if cut == u8::MAX { input.len() } else { 1 + usize::from(cut) };
        let (piece, rest) = input.split_at(n.min(input.len()));
        input = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn output(broker: &mut Broker, id: ConnId) -> Vec<u8> {
    let mut out = Vec::new();
    broker.poll_bytes(id, &mut out, 1);
    assert!(out.len() <= FRAME_MAX);
    out
}

/// All that a broker makes of one peer's bytes: what it writes to it, and how it ends.
fn broker(input: &[u8], cuts: &[u8; 8], reads: u8) -> (Vec<u8>, Option<EventsError>) {
    let mut broker = Broker::new(limits());
    let hostile = broker.handle_open(address(1)).expect("a place");
    let mut friend = Peer::join(&mut broker, 2);
    let own = Topic::new("own.topic").expect("a topic");
    friend.ask(&mut broker, |c, out| {
        let pattern = Pattern::new("own.topic").expect("a pattern");
        c.subscribe(pattern, false, out).map_or(0, |(len, _)| len)
    });
    let (mut held, mut written, mut error, mut frames) = (Vec::new(), Vec::new(), None, 0);
    'input: for piece in pieces(input, cuts) {
        held.extend_from_slice(piece);
        loop {
            match broker.handle_bytes(hostile, &held) {
                Ok(Taken::Frame(used)) => {
                    held.drain(..used);
                    frames += 1;
                    // It reads now and then.
                    if reads > 0 && frames % u32::from(reads) == 0 {
                        written.extend(output(&mut broker, hostile));
                    }
                }
                Ok(Taken::More) => break,
                Ok(Taken::Blocked) => written.extend(output(&mut broker, hostile)),
                Err(e) => {
                    error = Some(e);
                    break 'input;
                }
            }
            assert!(broker.stats().retained <= limits().retained_topics);
        }
        assert!(held.len() < FRAME_MAX);
    }
    loop {
        let out = output(&mut broker, hostile);
        if out.is_empty() {
            break;
        }
        written.extend(out);
    }
    if error.is_some() {
        broker.handle_close(hostile);
    }
    let mut last = Peer::join(&mut broker, 3);
    last.ask(&mut broker, |c, out| c.publish(own, b"last", false, out).map_or(0, |(len, _)| len));
    friend.read(&mut broker);
    assert_eq!(friend.heard.last().map(|(from, data)| (*from, &data[..])), Some((3, &b"last"[..])));
    (written, error)
}

/// All that a client makes of a broker's bytes.
fn client(input: &[u8], cuts: &[u8; 8], requests: u8) -> (Vec<String>, Option<EventsError>) {
    let (mut client, mut told) = (Client::new(), Vec::new());
    for _ in 0..requests {
        client.ping(&mut [0; 16]).expect("fewer than may be open");
    }
    let mut held = Vec::new();
    for piece in pieces(input, cuts) {
        held.extend_from_slice(piece);
        loop {
            match client.handle_bytes(&held) {
                Ok((used, Some(event))) => {
                    told.push(format!("{event:?}"));
                    held.drain(..used);
                }
                Ok((used, None)) => {
                    assert_eq!(used, 0);
                    break;
                }
                Err(e) => return (told, Some(e)),
            }
            assert!(client.outstanding() <= OUTSTANDING_MAX);
        }
        assert!(held.len() < FRAME_MAX);
    }
    (told, None)
}

/// An honest client of a broker, and what it has heard: publishers with data.
struct Peer {
    id: ConnId,
    client: Client,
    heard: Vec<(u8, Vec<u8>)>,
    lost: u64,
}

impl Peer {
    fn join(broker: &mut Broker, n: u8) -> Peer {
        let id = broker.handle_open(address(n)).expect("a place");
        Peer { id, client: Client::new(), heard: Vec::new(), lost: 0 }
    }

    fn ask(&mut self, broker: &mut Broker, write: impl FnOnce(&mut Client, &mut [u8]) -> usize) {
        let mut out = [0; 512];
        let len = write(&mut self.client, &mut out);
        if len > 0 {
            assert_eq!(broker.handle_bytes(self.id, &out[..len]), Ok(Taken::Frame(len)));
        }
    }

    /// Reads all that there is.
    fn read(&mut self, broker: &mut Broker) {
        loop {
            let out = output(broker, self.id);
            if out.is_empty() {
                return;
            }
            let mut start = 0;
            while start < out.len() {
                let (used, event) = self.client.handle_bytes(&out[start..]).expect("genuine");
                start += used;
                match event.expect("whole frames") {
                    ClientEvent::Event { from, data, .. } => {
                        self.heard.push((from.to_bytes()[5], data.to_vec()));
                    }
                    ClientEvent::Dropped(count) => {
                        assert!(count > 0);
                        self.lost += count;
                    }
                    ClientEvent::Done(..) => {}
                }
            }
        }
    }
}

/// Three peers of one broker do as the tape says; the third only publishes.
fn honest(tape: &mut Tape<'_>) {
    const TOPICS: [&str; 4] = ["a", "b", "b.c", "b.c.d"];
    const PATTERNS: [&str; 5] = ["a", "*", "b.*", "b.>", ">"];
    let mut broker = Broker::new(limits());
    let mut peers = [1, 2].map(|n| Peer::join(&mut broker, n));
    let mut source = Peer::join(&mut broker, 3);
    let patterns = [0, 1].map(|_| PATTERNS[usize::from(tape.below(5))]);
    for (peer, pattern) in peers.iter_mut().zip(patterns) {
        let pattern = Pattern::new(pattern).expect("a pattern");
        peer.ask(&mut broker, |c, out| c.subscribe(pattern, false, out).map_or(0, |(len, _)| len));
    }
    let mut sent = Vec::new();
    while !tape.is_empty() && sent.len() < 500 {
        match tape.below(4) {
            0 => peers[0].read(&mut broker),
            1 => peers[1].read(&mut broker),
            _ => {
                let topic = Topic::new(TOPICS[usize::from(tape.below(4))]).expect("a topic");
                let data = vec![sent.len() as u8; usize::from(tape.byte())];
                source.ask(&mut broker, |c, out| {
                    c.publish(topic, &data, false, out).map_or(0, |(len, _)| len)
                });
                source.read(&mut broker);
                sent.push((topic, data));
            }
        }
    }
    for (peer, pattern) in peers.iter_mut().zip(patterns) {
        peer.read(&mut broker);
        let pattern = Pattern::new(pattern).expect("a pattern");
        let mut wanted = sent.iter().filter(|(topic, _)| pattern.matches(*topic));
        for heard in &peer.heard {
            assert!(wanted.any(|(_, data)| (3, data) == (heard.0, &heard.1)), "in order");
        }
        let all = sent.iter().filter(|(topic, _)| pattern.matches(*topic)).count();
        assert_eq!(peer.heard.len() as u64 + peer.lost, all as u64, "heard or counted");
    }
}
