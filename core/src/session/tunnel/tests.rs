//! Two tunnels over an in-memory network on virtual time.

mod attacks;
mod flows;
mod schedule;

use super::*;
use crate::addr::NodeId;
use crate::crypto::record::RecordFields;
use crate::crypto::{Identity, RUST_CRYPTO, TunnelKey};
use crate::machine::Path;
use crate::path::Route;
use crate::session::payload::EARLY;
use crate::time::{Duration, UnixTime};
use std::collections::VecDeque;
use std::vec::Vec;

pub(super) const PEER: PeerIndex = PeerIndex(0);

pub(super) fn registry() -> Identity {
    Identity::from_secret([250; 32])
}

pub(super) fn secret(n: u8) -> TunnelSecret {
    TunnelSecret::from_secret([100 + n; 32])
}

pub(super) fn address(n: u8) -> Address {
    Address::backbone(NodeId(16 + u32::from(n)))
}

pub(super) fn record(n: u8, tunnel: TunnelKey, serial: u64) -> Record {
    let fields = RecordFields {
        addr: address(n),
        tunnel,
        serial,
        not_after: 0,
        flags: 0,
        grant_epoch: 0,
        prev: [0; 32],
    };
    Record::sign(&Identity::from_secret([n; 32]), &registry().public(), fields)
}

pub(super) fn route(n: u8) -> Route {
    let port = 4000 + u16::from(n);
    Route::Direct(Path::to(std::net::SocketAddr::from(([192, 0, 2, n + 1], port))))
}

/// One end: a tunnel, what it was told, and what it sent.
pub(super) struct End {
    pub(super) n: u8,
    pub(super) tunnel: Tunnel<'static>,
    pub(super) events: Vec<TunnelEvent>,
    /// Contents of frames received, with their slots.
    pub(super) received: Vec<(Vec<u8>, crate::session::slots::Slot, bool)>,
    pub(super) answer_early: Option<[u8; EARLY]>,
}

impl End {
    pub(super) fn new(n: u8, now: Instant, boot: u8) -> Self {
        Self::with(n, now, boot, &Limits::small(), |_| {})
    }

    pub(super) fn with(
        n: u8,
        now: Instant,
        boot: u8,
        limits: &Limits,
        adjust: impl FnOnce(&mut TunnelConfig),
    ) -> Self {
        let secret = secret(n);
        let mut config = TunnelConfig {
            address: address(n),
            identity: Identity::from_secret([n; 32]).public(),
            registry: registry().public(),
            record: Some(record(n, secret.public(), 1)),
            secret,
            previous_secret: None,
            boot_id: [boot; 8],
            max_datagram: 1400 + u16::from(n),
            caps: Caps::of(&RUST_CRYPTO),
            wall: WallClock::new(
                now,
                UnixTime::from_secs(1_800_000_000) + now.since(Instant::START),
            ),
        };
        adjust(&mut config);
        let rng = Rng::new([n * 16 + boot; 32]);
        let storage = TunnelStorage::boxed(limits);
        let tunnel = Tunnel::new(now, config, limits, &RUST_CRYPTO, rng, storage);
        End { n, tunnel, events: Vec::new(), received: Vec::new(), answer_early: None }
    }

    pub(super) fn pin(&mut self, other: u8) {
        let keys = keys(other);
        self.tunnel.add_peer(PEER, keys).unwrap();
    }

    /// Feeds one datagram.
    pub(super) fn take(
        &mut self,
        now: Instant,
        from: Route,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        let mut packet = packet.to_vec();
        let result = match self.tunnel.handle(now, from, &mut packet) {
            TunnelIn::Handled => Ok(()),
            TunnelIn::Dropped(reason) => Err(reason),
            TunnelIn::Frame(frame) => {
                let content = frame.plaintext.to_vec();
                self.received.push((content, frame.slot, frame.streams_ok));
                Ok(())
            }
        };
        self.pump_events();
        result
    }

    pub(super) fn pump_events(&mut self) {
        while let Some(event) = self.tunnel.poll_event() {
            if let (TunnelEvent::EarlyOffer { peer, ticket, .. }, Some(syn_ack)) =
                (&event, self.answer_early)
            {
                assert!(self.tunnel.answer_early(*peer, *ticket, syn_ack));
            }
            self.events.push(event);
        }
    }

    /// All that it wants to send now, with the route if it named one.
    pub(super) fn drain(&mut self, now: Instant) -> Vec<(To, Vec<u8>)> {
        let mut packets = Vec::new();
        let mut out = [0; 1500];
        while let Some(output) = self.tunnel.poll_output(now, &mut out) {
            packets.push((output.to, out[..output.len].to_vec()));
        }
        let next = self.tunnel.poll_timeout();
        assert!(next.is_none_or(|t| t.at > now), "a drained tunnel waits");
        packets
    }

    pub(super) fn seal(&mut self, now: Instant, content: &[u8]) -> Option<Vec<u8>> {
        let mut buf = std::vec![0; 12];
        buf.extend(content);
        buf.extend([0; 16]);
        let sealed = self.tunnel.seal(now, PEER, &mut buf, content.len())?;
        assert_eq!(sealed.len, buf.len());
        self.tunnel.note_data(now, PEER);
        Some(buf)
    }

    pub(super) fn count(&self, matches: impl Fn(&TunnelEvent) -> bool) -> usize {
        self.events.iter().filter(|e| matches(e)).count()
    }

    pub(super) fn has(&self, matches: impl Fn(&TunnelEvent) -> bool) -> bool {
        self.count(matches) > 0
    }
}

pub(super) fn keys(other: u8) -> PeerKeys {
    PeerKeys {
        address: address(other),
        identity: Identity::from_secret([other; 32]).public(),
        tunnel_key: secret(other).public(),
        record_serial: 1,
        policy: Policy::Peer,
    }
}

/// How the network treats packets, in permille.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) duplicate: u64,
    /// Each copy takes 10 ms and up to so much more.
    pub(super) jitter_ms: u64,
}

struct InFlight {
    at: Instant,
    to: usize,
    from: Route,
    packet: Vec<u8>,
}

/// Two ends and the packets between them.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) weather: Weather,
    rng: Rng,
    flying: VecDeque<InFlight>,
    /// Every packet that was sent, with its sender.
    pub(super) captured: Vec<(usize, Vec<u8>)>,
}

impl World {
    pub(super) fn new(seed: u8) -> Self {
        let now = Instant::START + Duration::from_secs(1000);
        let mut ends = [End::new(0, now, 1), End::new(1, now, 1)];
        ends[0].pin(1);
        ends[1].pin(0);
        World {
            now,
            ends,
            weather: Weather::default(),
            rng: Rng::new([seed; 32]),
            flying: VecDeque::new(),
            captured: Vec::new(),
        }
    }

    /// The end starts anew, with nothing but its identity and its pins.
    pub(super) fn restart(&mut self, end: usize, boot: u8) {
        let n = self.ends[end].n;
        self.ends[end] = End::new(n, self.now, boot);
        self.ends[end].pin(1 - n);
    }

    pub(super) fn launch(&mut self, from: usize, packet: Vec<u8>) {
        self.captured.push((from, packet.clone()));
        let copies = if self.rng.below(1000) < self.weather.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.below(1000) < self.weather.loss {
                continue;
            }
            let jitter = self.rng.below(self.weather.jitter_ms * 1000 + 1);
            let at = self.now + Duration::from_millis(10) + Duration::from_micros(jitter);
            let from = route(self.ends[from].n);
            let to = usize::from(from == route(self.ends[0].n));
            self.flying.push_back(InFlight { at, to, from, packet: packet.clone() });
        }
    }

    pub(super) fn send(&mut self, end: usize, content: &[u8]) -> bool {
        let now = self.now;
        match self.ends[end].seal(now, content) {
            Some(packet) => {
                self.launch(end, packet);
                true
            }
            None => false,
        }
    }

    fn flush(&mut self) {
        for end in 0..2 {
            self.ends[end].pump_events();
            for (_, packet) in self.ends[end].drain(self.now) {
                self.launch(end, packet);
            }
            self.ends[end].pump_events();
        }
    }

    /// Runs until `until`, calling `each` whenever time has moved.
    pub(super) fn run_with(&mut self, until: Instant, mut each: impl FnMut(&mut World)) {
        loop {
            self.flush();
            let arrival = self.flying.iter().map(|p| p.at).min();
            let timers = self.ends.iter().filter_map(|e| e.tunnel.poll_timeout().map(|t| t.at));
            let next = timers.chain(arrival).min().unwrap_or(until).min(until);
            assert!(next >= self.now);
            self.now = next;
            for end in &mut self.ends {
                end.tunnel.handle_timeout(next);
                end.pump_events();
            }
            while let Some(place) = self.flying.iter().position(|p| p.at <= next) {
                let p = self.flying.remove(place).unwrap();
                let _ = self.ends[p.to].take(next, p.from, &p.packet);
            }
            each(self);
            if next >= until {
                self.flush();
                return;
            }
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        self.run_with(self.now + span, |_| {});
    }

    pub(super) fn initiate(&mut self, end: usize) {
        assert!(self.ends[end].tunnel.initiate(self.now, PEER, None));
    }

    /// Whether what either end sends now is received by the other.
    pub(super) fn works(&mut self) -> bool {
        let weather = core::mem::take(&mut self.weather);
        let mut works = true;
        for end in 0..2 {
            let before = self.ends[1 - end].received.len();
            works &= self.send(end, b"\x10works?");
            self.run(Duration::from_millis(100));
            let news = &self.ends[1 - end].received[before..];
            works &= news.iter().any(|(content, ..)| content == b"\x10works?");
        }
        self.weather = weather;
        works
    }

    /// Both ends send in the same session.
    pub(super) fn agrees(&self) -> bool {
        let of = |end: usize| {
            let sessions = self.ends[end].tunnel.sessions(PEER);
            sessions.first().copied().filter(|s| s.slot == crate::session::slots::Slot::Current)
        };
        match (of(0), of(1)) {
            (Some(a), Some(b)) => {
                a.sent_index == b.received_index && b.sent_index == a.received_index
            }
            _ => false,
        }
    }
}
