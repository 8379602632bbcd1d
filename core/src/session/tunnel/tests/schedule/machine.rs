//! The two real tunnels as a transition system: local states and packets are numbered, and each
//! pair of a local state and an input is run once.
//!
//! A tunnel is a function of its inputs, its clock and its randomness. Randomness is set before
//! every input from what the input is, so equal histories of one end give equal bytes whatever
//! the other end did meanwhile. Two local states are the same if [`digest`] says so: it covers
//! whatever a later step depends on, and names keys by the session's two indices.
//!
//! Tunnels hold secrets and are no `Clone`, not even here: one that is needed again is run again
//! from its birth ([`Machines::revive`]).

use super::super::*;
use crate::crypto::kdf;
use crate::session::slots::{Fault, Slot};
use core::hash::{Hash, Hasher};
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

/// What happens to one end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Input {
    /// A packet of this number arrives.
    Deliver(u32),
    /// Its owner wants a session, or a new one.
    Open,
    /// Its next deadline has come.
    Timeout,
    /// Its owner sends data in the current session.
    Send,
}

/// What is remarkable about a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    Nothing,
    /// A frame for a session that the end does not hold, by its index.
    Forgotten(u32),
    /// Data of the other end's owner arrived.
    Data,
}

/// The effect of an input on a local state.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) to: u32,
    /// Packets to the other end.
    pub(super) packets: Vec<u32>,
    pub(super) note: Note,
}

/// What the scheduler may know of a local state.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) end: u8,
    pub(super) boot: u8,
    pub(super) deadline: Option<Instant>,
    pub(super) attempting: bool,
    /// The indices of the current session: ours, the other's.
    pub(super) current: Option<(u32, u32)>,
    /// The INITs that it answered, each as often as it made a new session of it.
    answered: Rc<[u32]>,
    origin: Origin,
}

#[derive(Clone, Copy, Debug)]
enum Origin {
    Born(Instant),
    From(u32, Instant, Input),
}

/// Tunnels kept as they are, by local state; more are run again from their birth.
const KEPT: usize = 512;

/// All local states and packets seen so far.
pub(super) struct Machines {
    records: [Record; 2],
    keys: [PeerKeys; 2],
    limits: Limits,
    pub(super) locals: Vec<Local>,
    by_digest: BTreeMap<u64, u32>,
    packets: Vec<Vec<u8>>,
    by_bytes: BTreeMap<[u8; 32], u32>,
    steps: BTreeMap<(u32, Instant, Input), Step>,
    kept: BTreeMap<u32, Tunnel<'static>>,
    /// Whose a session's index is: its end and process, and the other end's process.
    owners: BTreeMap<u32, (u8, u8, u8)>,
    fault: Fault,
    /// The wall clock of a process that is not the first is an hour behind.
    clock_set_back: bool,
    /// Inputs that tunnels took, repeated ones included.
    pub(super) runs: usize,
}

impl Machines {
    pub(super) fn new(fault: Fault, clock_set_back: bool) -> Self {
        let mut limits = Limits::small();
        limits.peers = 1;
        // The gate's budget is not under test: no schedule reaches half of it.
        limits.handshakes_per_second = 1000;
        Machines {
            records: [0, 1].map(|n| record(n, secret(n).public(), 1)),
            keys: [keys(0), keys(1)],
            limits,
            locals: Vec::new(),
            by_digest: BTreeMap::new(),
            packets: Vec::new(),
            by_bytes: BTreeMap::new(),
            steps: BTreeMap::new(),
            kept: BTreeMap::new(),
            owners: BTreeMap::new(),
            fault,
            clock_set_back,
            runs: 0,
        }
    }

    /// The local state of an end that has just started.
    pub(super) fn born(&mut self, end: u8, boot: u8, now: Instant) -> u32 {
        let tunnel = self.birth(end, boot, now);
        self.enter(end, boot, now, Rc::from([]), Origin::Born(now), tunnel)
    }

    /// Makes the step, or remembers it.
    pub(super) fn step(&mut self, from: u32, now: Instant, input: Input) -> Step {
        if let Some(step) = self.steps.get(&(from, now, input)) {
            return step.clone();
        }
        let mut tunnel = self.revive(from);
        let before = answers(&tunnel);
        let (sent, note) = self.run(&mut tunnel, from, now, input);
        let packets = sent.into_iter().map(|bytes| self.number(bytes)).collect();
        let Local { end, boot, mut answered, .. } = self.locals[from as usize].clone();
        if let Input::Deliver(packet) = input
            && answers(&tunnel).iter().any(|hash| !before.contains(hash))
        {
            let mut more = answered.to_vec();
            more.insert(more.partition_point(|other| *other < packet), packet);
            answered = more.into();
        }
        let to = self.enter(end, boot, now, answered, Origin::From(from, now, input), tunnel);
        let step = Step { to, packets, note };
        self.steps.insert((from, now, input), step.clone());
        step
    }

    /// Whether both processes that had this session live in these local states.
    pub(super) fn is_living(&self, index: u32, locals: [u32; 2]) -> bool {
        let boots = locals.map(|local| self.locals[local as usize].boot);
        self.owners.get(&index).is_some_and(|&(end, boot, peer_boot)| {
            let n = usize::from(end);
            (boots[n], boots[1 - n]) == (boot, peer_boot)
        })
    }

    /// How many local states and steps of them there are.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.locals.len(), self.steps.len())
    }

    /// What kind of packet it is, for a trace.
    pub(super) fn describe(&self, packet: u32) -> std::string::String {
        let bytes = &self.packets[packet as usize];
        let kind = match bytes[0] {
            0x10 => "INIT",
            0x11 => "RESP",
            0x12 => "COOKIE",
            0x13 => "STALE",
            _ => "frame",
        };
        let index = u32::from_be_bytes(core::array::from_fn(|i| bytes[i]));
        std::format!("{kind} #{packet} of {} bytes, index {index:08x}", bytes.len())
    }

    fn number(&mut self, bytes: Vec<u8>) -> u32 {
        let next = self.packets.len() as u32;
        let number = *self.by_bytes.entry(kdf::sha256(&[&bytes])).or_insert(next);
        if number == next {
            self.packets.push(bytes);
        }
        number
    }

    fn enter(
        &mut self,
        end: u8,
        boot: u8,
        now: Instant,
        answered: Rc<[u32]>,
        origin: Origin,
        tunnel: Tunnel<'static>,
    ) -> u32 {
        let next = self.locals.len() as u32;
        let digest = digest(&tunnel, end, boot, now, &answered);
        let number = *self.by_digest.entry(digest).or_insert(next);
        if number == next {
            let slots = &tunnel.peer(PEER).expect("it was added").slots;
            for (_, entry) in slots.iter() {
                let index = tunnel.links[entry.id].session.local_index();
                self.owners.insert(index, (end, boot, entry.boot[0]));
            }
            let current = tunnel.sessions(PEER).first().copied();
            let current = current.filter(|session| session.slot == Slot::Current);
            self.locals.push(Local {
                end,
                boot,
                deadline: tunnel.poll_timeout().map(|timeout| timeout.at),
                attempting: tunnel.is_attempting(PEER),
                current: current.map(|session| (session.received_index, session.sent_index)),
                answered,
                origin,
            });
        }
        if self.kept.len() >= KEPT {
            self.kept.pop_first();
        }
        self.kept.insert(number, tunnel);
        number
    }

    /// The tunnel of a local state: the one that is kept, or the same inputs again.
    fn revive(&mut self, number: u32) -> Tunnel<'static> {
        if let Some(tunnel) = self.kept.remove(&number) {
            return tunnel;
        }
        let Local { end, boot, origin, .. } = self.locals[number as usize];
        match origin {
            Origin::Born(now) => self.birth(end, boot, now),
            Origin::From(from, now, input) => {
                let mut tunnel = self.revive(from);
                let _ = self.run(&mut tunnel, from, now, input);
                tunnel
            }
        }
    }

    fn birth(&self, end: u8, boot: u8, now: Instant) -> Tunnel<'static> {
        let n = usize::from(end);
        let mut unix = UnixTime::from_secs(1_800_000_000) + now.since(Instant::START);
        if self.clock_set_back && boot > 1 {
            unix = UnixTime::from_secs(1_800_000_000 - 3600);
        }
        let config = TunnelConfig {
            address: self.keys[n].address,
            identity: self.keys[n].identity,
            registry: IdentityKey::ZERO,
            record: Some(self.records[n]),
            secret: secret(end),
            previous_secret: None,
            boot_id: [boot; 8],
            max_datagram: 1400,
            caps: Caps::of(&RUST_CRYPTO),
            wall: WallClock::new(now, unix),
        };
        let storage = TunnelStorage::boxed(&self.limits);
        let rng = Rng::new([end * 16 + boot; 32]);
        let mut tunnel = Tunnel::new(now, config, &self.limits, &RUST_CRYPTO, rng, storage);
        tunnel.add_peer(PEER, self.keys[1 - n]).expect("the first peer");
        tunnel.peer_mut(PEER).expect("it was added").slots.fault = self.fault;
        tunnel
    }

    /// Gives the tunnel one input, does what its owner does, and takes all that it sends.
    fn run(
        &mut self,
        tunnel: &mut Tunnel<'static>,
        from: u32,
        now: Instant,
        input: Input,
    ) -> (Vec<Vec<u8>>, Note) {
        self.runs += 1;
        let local = &self.locals[from as usize];
        let packet = match input {
            Input::Deliver(number) => &self.packets[number as usize][..],
            _ => &[],
        };
        tunnel.rng = randomness(tunnel, local, now, input, packet);
        let mut note = Note::Nothing;
        let mut sent = Vec::new();
        match input {
            Input::Deliver(_) => {
                let mut packet = packet.to_vec();
                let index = u32::from_be_bytes(core::array::from_fn(|i| packet[i]));
                let is_frame = index >= INDEX_BIT;
                let mut pong = None;
                match tunnel.handle(now, route(1 - local.end), &mut packet) {
                    TunnelIn::Dropped(DropReason::UnknownIndex) if is_frame => {
                        note = Note::Forgotten(index);
                    }
                    TunnelIn::Frame(frame) => match *frame.plaintext {
                        [0x10, ..] => note = Note::Data,
                        [0xF0, ..] => pong = Some([0xF1; 9]),
                        _ => {}
                    },
                    TunnelIn::Handled | TunnelIn::Dropped(_) => {}
                }
                // The node answers a ping in its current session.
                sent.extend(pong.and_then(|pong| seal(tunnel, now, &pong)));
            }
            Input::Open => assert!(tunnel.initiate(now, PEER, None)),
            Input::Timeout => tunnel.handle_timeout(now),
            Input::Send => {
                sent.extend(seal(tunnel, now, b"\x10data"));
                tunnel.note_data(now, PEER);
            }
        }
        while tunnel.poll_event().is_some() {}
        let mut out = [0; OUTPUT_MIN];
        while let Some(output) = tunnel.poll_output(now, &mut out) {
            sent.push(out[..output.len].to_vec());
        }
        (sent, note)
    }
}

fn seal(tunnel: &mut Tunnel<'static>, now: Instant, content: &[u8]) -> Option<Vec<u8>> {
    let mut buf = std::vec![0; 12];
    buf.extend(content);
    buf.extend([0; 16]);
    tunnel.seal(now, PEER, &mut buf, content.len())?;
    Some(buf)
}

/// The INITs that the tunnel remembers to have answered.
fn answers(tunnel: &Tunnel<'static>) -> Vec<[u8; 16]> {
    tunnel.answers.iter().map(|(_, answer)| answer.hash).collect()
}

/// Randomness that is different for everything that draws, and the same for the same: a packet
/// and how often it made a session before; a number of our own; a deadline.
fn randomness(
    tunnel: &Tunnel<'static>,
    local: &Local,
    now: Instant,
    input: Input,
    packet: &[u8],
) -> Rng {
    let last = tunnel.peer(PEER).expect("it was added").hs_last;
    let (kind, a, b) = match input {
        Input::Deliver(number) => {
            (0, local.answered.iter().filter(|other| **other == number).count() as u64, 0)
        }
        Input::Open => (1, last, 0),
        Input::Timeout => (2, last, now.as_nanos()),
        Input::Send => (3, 0, 0),
    };
    let parts = [&[local.end, local.boot, kind][..], &a.to_be_bytes(), &b.to_be_bytes(), packet];
    Rng::new(kdf::sha256(&parts))
}

/// All that later steps depend on.
fn digest(tunnel: &Tunnel<'static>, end: u8, boot: u8, now: Instant, answered: &[u32]) -> u64 {
    let mut hash = SipHasher13::new();
    let p = tunnel.peer(PEER).expect("it was added");
    (end, boot, answered).hash(&mut hash);
    (p.slots.confirmed_seq(), p.slots.next_generation()).hash(&mut hash);
    (p.hs_last, p.boot, p.stale_at, p.rekey_failed, p.unanswered_since).hash(&mut hash);
    (p.cookie.get(now), tunnel.deadlines.first()).hash(&mut hash);
    let mut ords: Vec<u64> = p.slots.iter().map(|(_, entry)| entry.ord).collect();
    ords.sort_unstable();
    for (slot, entry) in p.slots.iter() {
        let rank = ords.iter().position(|ord| *ord == entry.ord);
        (slot as u8, rank, entry.generation, entry.ours, entry.boot).hash(&mut hash);
        (entry.heard, entry.hs_seq).hash(&mut hash);
        let link = &tunnel.links[entry.id];
        (link.session.local_index(), link.session.remote_index()).hash(&mut hash);
        (link.session.counters(), link.born, link.probe_at, link.data).hash(&mut hash);
        (link.probes, link.answer.is_some()).hash(&mut hash);
        tunnel.replay[entry.id.index() * tunnel.words..][..tunnel.words].hash(&mut hash);
    }
    if let Some(key) = p.attempt {
        let attempt = &tunnel.attempts[key];
        let message = attempt.message.as_ref();
        std::format!("{:?}", attempt.schedule).hash(&mut hash);
        message.map(|m| (m.initiator.index(), m.generation, m.hs_seq)).hash(&mut hash);
    }
    let mut answers: Vec<_> =
        tunnel.answers.iter().map(|(_, a)| (a.hash, a.index, a.confirmed, a.born)).collect();
    answers.sort_unstable();
    answers.hash(&mut hash);
    hash.finish()
}
