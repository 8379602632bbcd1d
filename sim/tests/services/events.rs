//! Events: a broker, one who publishes, and one who subscribes and at times does not read.

use crate::trouble::{Counts, Service, Troubled};
use pilot_core::addr::{Address, Port};
use pilot_core::node::{Command, Reply, StreamError, StreamId};
use pilot_core::service::events::{
    Broker, BrokerLimits, Client, ClientEvent, ConnId, FRAME_MAX, Pattern, Request, Taken, Topic,
};
use pilot_core::time::Duration;
use pilot_sim::{HostId, Tape, World};
use std::collections::BTreeMap;

const PORT: Port = Port::EVENTS;
const TOPIC: &str = "weather.bern";
const PATTERN: &str = "weather.*";
/// The first byte of a SUBSCRIBE.
const SUBSCRIBE: u8 = 16;
/// Until the subscriber has everything after the troubles; as for data exchange.
const SETTLED: Duration = Duration::from_secs(300);
/// Before a broken connection is followed by another.
const RETRY: Duration = Duration::from_millis(500);

/// A connection, at either end.
struct Conn {
    stream: StreamId,
    received: Vec<u8>,
    to_write: Vec<u8>,
}

impl Conn {
    fn new(stream: StreamId) -> Self {
        Conn { stream, received: Vec::new(), to_write: Vec::new() }
    }

    /// An error: the stream is over.
    fn write(&mut self, world: &mut World, host: HostId) -> Result<(), ()> {
        while !self.to_write.is_empty() {
            match world.write_stream(host, self.stream, &self.to_write) {
                Ok(n) => drop(self.to_write.drain(..n)),
                Err(StreamError::Ended(_)) => return Err(()),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// An error: the stream is over.
    fn read(&mut self, world: &mut World, host: HostId) -> Result<(), ()> {
        let mut buf = [0; 4096];
        while self.received.len() < FRAME_MAX {
            match world.read_stream(host, self.stream, &mut buf) {
                Ok(0) | Err(StreamError::Ended(_)) => return Err(()),
                Ok(n) => self.received.extend_from_slice(&buf[..n]),
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// Where a subscription began: in which process of the broker, after how many events.
type Start = (usize, usize);

/// The agent that publishes or subscribes.
struct Agent {
    host: HostId,
    retry: Duration,
    conn: Option<(Conn, Client)>,
    /// What was published without an answer yet.
    open: BTreeMap<Request, u64>,
    /// The last number that was published.
    last: u64,
    subscribed: bool,
    /// What comes next, once the subscription is answered.
    at: Option<Start>,
    retained_due: bool,
    asleep_until: Duration,
}

struct Events {
    broker: Broker,
    host: HostId,
    listens: bool,
    conns: Vec<(Conn, ConnId)>,
    /// What was published, by process of the broker.
    logs: Vec<Vec<u64>>,
    /// By the client's address and port.
    starts: BTreeMap<(Address, Port), Start>,
    publisher: Agent,
    subscriber: Agent,
    publishes: bool,
    counts: Counts,
}

fn fresh_broker() -> Broker {
    let mut limits = BrokerLimits::default();
    limits.queue_events = 6;
    Broker::new(limits)
}

fn number(data: &[u8]) -> u64 {
    u64::from_be_bytes(*data.last_chunk().expect("eight bytes at the end"))
}

impl Agent {
    fn new(host: HostId) -> Self {
        Agent {
            host,
            retry: Duration::ZERO,
            conn: None,
            open: BTreeMap::new(),
            last: 0,
            subscribed: false,
            at: None,
            retained_due: false,
            asleep_until: Duration::ZERO,
        }
    }

    fn disconnect(&mut self, now: Duration) {
        self.conn = None;
        self.open.clear();
        (self.at, self.subscribed, self.retained_due) = (None, false, false);
        self.retry = now + RETRY;
    }

    fn connect(&mut self, world: &mut World, broker: HostId) {
        if self.conn.is_some() || world.elapsed() < self.retry {
            return;
        }
        let Some(to) = world.address(broker) else { return };
        let reply = world.command(self.host, Command::Connect { to, port: PORT });
        if let Ok(Reply::Stream(stream)) = reply {
            self.conn = Some((Conn::new(stream), Client::new()));
        }
    }
}

impl Events {
    fn count(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    // ---- the broker ----

    fn poll_broker(&mut self, world: &mut World) {
        if !self.listens {
            self.listens = world.command(self.host, Command::Listen { port: PORT }).is_ok();
        }
        while let Some(stream) = world.accept(self.host, PORT) {
            let peer = world.stream_ends(self.host, stream).0.address;
            match self.broker.handle_open(peer) {
                Some(id) => self.conns.push((Conn::new(stream), id)),
                None => panic!("there are few connections"),
            }
        }
        for (mut conn, id) in core::mem::take(&mut self.conns) {
            match self.serve(world, &mut conn, id) {
                Ok(()) => self.conns.push((conn, id)),
                Err(()) => {
                    self.broker.handle_close(id);
                    world.abort_stream(self.host, conn.stream);
                }
            }
        }
    }

    fn serve(&mut self, world: &mut World, conn: &mut Conn, id: ConnId) -> Result<(), ()> {
        let ended = conn.read(world, self.host);
        loop {
            let published = self.broker.stats().published;
            match self.broker.handle_bytes(id, &conn.received).expect("an honest peer") {
                Taken::Frame(len) => {
                    let frame: Vec<u8> = conn.received.drain(..len).collect();
                    let log = self.logs.last_mut().expect("there is one");
                    if self.broker.stats().published > published {
                        log.push(number(&frame));
                    }
                    if frame[0] == SUBSCRIBE {
                        let events = log.len();
                        let peer = world.stream_ends(self.host, conn.stream).0;
                        self.starts
                            .insert((peer.address, peer.port), (self.logs.len() - 1, events));
                    }
                }
                Taken::More | Taken::Blocked => break,
            }
        }
        ended?;
        if conn.to_write.is_empty() {
            self.broker.poll_bytes(id, &mut conn.to_write, 1);
        }
        conn.write(world, self.host)
    }

    // ---- who publishes ----

    fn poll_publisher(&mut self, world: &mut World, tape: &mut Tape) {
        self.publisher.connect(world, self.host);
        let Some((mut conn, mut client)) = self.publisher.conn.take() else { return };
        if self.publishes && tape.below(6) == 5 && conn.to_write.is_empty() {
            self.publish(&mut conn, &mut client, tape);
        }
        let host = self.publisher.host;
        let mut alive = conn.write(world, host).and_then(|()| conn.read(world, host));
        loop {
            let (used, event) = client.handle_bytes(&conn.received).expect("an honest broker");
            match event {
                Some(ClientEvent::Done(request, result)) => {
                    result.expect("nothing is refused");
                    let number = self.publisher.open.remove(&request).expect("it was asked");
                    let known = self.logs.iter().any(|log| log.contains(&number));
                    assert!(known, "{number} was acknowledged and not published");
                    *self.counts.entry("publication").or_default() += 1;
                }
                Some(other) => panic!("{other:?}"),
                None if used == 0 => break,
                None => {}
            }
            conn.received.drain(..used);
        }
        if alive.is_ok() && tape.below(2000) == 1999 {
            alive = Err(());
        }
        match alive {
            Ok(()) => self.publisher.conn = Some((conn, client)),
            Err(()) => {
                world.abort_stream(host, conn.stream);
                self.publisher.disconnect(world.elapsed());
            }
        }
    }

    fn publish(&mut self, conn: &mut Conn, client: &mut Client, tape: &mut Tape) {
        for _ in 0..1 + tape.below(4) {
            let number = self.publisher.last + 1;
            let mut data = vec![7; tape.below(30_000) as usize];
            data.extend(number.to_be_bytes());
            let topic = Topic::new(TOPIC).expect("a topic");
            let mut frame = vec![0; FRAME_MAX];
            let Ok((len, request)) = client.publish(topic, &data, true, &mut frame) else { return };
            conn.to_write.extend_from_slice(&frame[..len]);
            self.publisher.open.insert(request, number);
            self.publisher.last = number;
        }
    }

    // ---- who subscribes ----

    fn poll_subscriber(&mut self, world: &mut World, tape: &mut Tape) {
        self.subscriber.connect(world, self.host);
        let Some((mut conn, mut client)) = self.subscriber.conn.take() else { return };
        if !self.subscriber.subscribed {
            let mut frame = [0; 512];
            let pattern = Pattern::new(PATTERN).expect("a pattern");
            let (len, _) = client.subscribe(pattern, true, &mut frame).expect("the first request");
            conn.to_write.extend_from_slice(&frame[..len]);
            self.subscriber.subscribed = true;
        }
        let host = self.subscriber.host;
        let mut alive = conn.write(world, host);
        let now = world.elapsed();
        if self.publishes && tape.below(200) == 199 {
            self.subscriber.asleep_until = now + Duration::from_millis(tape.below(12_000));
        }
        if self.subscriber.asleep_until <= now {
            alive = alive.and_then(|()| conn.read(world, host));
            self.hear(world, &mut conn, &mut client);
        }
        match alive {
            Ok(()) => self.subscriber.conn = Some((conn, client)),
            Err(()) => {
                world.abort_stream(host, conn.stream);
                self.subscriber.disconnect(now);
            }
        }
    }

    fn hear(&mut self, world: &mut World, conn: &mut Conn, client: &mut Client) {
        loop {
            let (used, event) = client.handle_bytes(&conn.received).expect("an honest broker");
            match event {
                Some(ClientEvent::Done(_, result)) => {
                    result.expect("nothing is refused");
                    let ours = world.address(self.subscriber.host).expect("it has connected");
                    let port = world.stream_ends(self.subscriber.host, conn.stream).1;
                    let start = self.starts[&(ours, port)];
                    self.subscriber.retained_due = start.1 > 0;
                    self.subscriber.at = Some(start);
                }
                Some(ClientEvent::Event { retained, topic, data, .. }) => {
                    assert_eq!(topic.as_str(), TOPIC);
                    let number = number(data);
                    self.check_event(number, retained);
                }
                Some(ClientEvent::Dropped(count)) => {
                    // The retained value was the first in the queue.
                    let retained = core::mem::take(&mut self.subscriber.retained_due);
                    let at = self.subscriber.at.as_mut().expect("the answer comes first");
                    at.1 += count as usize - usize::from(retained);
                    self.count("loss that was told", count);
                }
                None if used == 0 => break,
                None => {}
            }
            conn.received.drain(..used);
        }
    }

    fn check_event(&mut self, number: u64, retained: bool) {
        let at = self.subscriber.at.as_mut().expect("the answer comes first");
        let log = &self.logs[at.0];
        if retained {
            assert!(core::mem::take(&mut self.subscriber.retained_due), "{number} is retained");
            assert_eq!(log[at.1 - 1], number, "the last value");
            self.count("retained value", 1);
        } else {
            assert!(!self.subscriber.retained_due, "{number} before the retained value");
            assert_eq!(log.get(at.1), Some(&number), "the next value");
            at.1 += 1;
            self.count("event", 1);
        }
    }
}

impl Service for Events {
    fn poll(&mut self, world: &mut World, tape: &mut Tape) {
        self.poll_broker(world);
        self.poll_publisher(world, tape);
        self.poll_subscriber(world, tape);
    }

    fn crashed(&mut self, host: HostId, _tape: &mut Tape) {
        if host == self.host {
            (self.listens, self.broker) = (false, fresh_broker());
            self.conns.clear();
            self.logs.push(Vec::new());
        }
        for agent in [&mut self.publisher, &mut self.subscriber] {
            if host == agent.host {
                agent.disconnect(Duration::ZERO);
            }
        }
    }
}

pub(crate) fn run(seed: u64) -> Counts {
    let mut troubled = Troubled::new(seed, 3);
    let mut events = Events {
        broker: fresh_broker(),
        host: troubled.hosts[0],
        listens: false,
        conns: Vec::new(),
        logs: vec![Vec::new()],
        starts: BTreeMap::new(),
        publisher: Agent::new(troubled.hosts[1]),
        subscriber: Agent::new(troubled.hosts[2]),
        publishes: true,
        counts: Counts::new(),
    };
    let mut counts = Counts::new();
    troubled.befall(&mut events, &mut counts);
    troubled.heal();
    // Something is published at the broker's last process, too.
    let published =
        |_: &mut World, events: &Events| events.logs.last().is_some_and(|log| log.len() > 3);
    assert!(troubled.run_until(&mut events, SETTLED, published), "seed {seed}: nothing published");
    events.publishes = false;
    let settled = |_: &mut World, events: &Events| {
        let end = (events.logs.len() - 1, events.logs.last().map_or(0, Vec::len));
        let unanswered = events.publisher.open.len();
        events.subscriber.at == Some(end) && !events.subscriber.retained_due && unanswered == 0
    };
    let is_settled = troubled.run_until(&mut events, SETTLED, settled);
    assert!(is_settled, "seed {seed}: {:?}{}", events.subscriber.at, troubled.world.describe());
    for log in &events.logs {
        assert!(
            log.windows(2).all(|pair| pair[0] < pair[1]),
            "seed {seed}: not in order, or twice"
        );
    }
    // Whoever comes late has the last value at once, and nothing else.
    let conn = events.subscriber.conn.take().expect("it is connected");
    troubled.world.abort_stream(events.subscriber.host, conn.0.stream);
    events.subscriber.disconnect(Duration::ZERO);
    let before = events.counts.get("retained value").copied().unwrap_or_default();
    assert!(troubled.run_until(&mut events, SETTLED, settled), "seed {seed}: late");
    assert_eq!(events.counts["retained value"], before + 1, "seed {seed}");
    let stats = events.broker.stats();
    assert_eq!(stats.published, events.logs.last().map_or(0, |log| log.len() as u64));
    counts.append(&mut events.counts);
    counts
}
