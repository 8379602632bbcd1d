//! The beacon: tells agents where they are seen, introduces them, and relays what they cannot
//! send each other directly (`wire.md` 7 and 9).
//!
//! An agent runs the tunnel's handshake with it, always with a cookie, so a source that cannot
//! receive costs nothing but a cell of a fixed table. The beacon never initiates. A node has
//! one agent here; the agent has a *current* session and perhaps a *pending* one:
//!
//! | State | Event | Next |
//! |---|---|---|
//! | none | INIT of a registered record with a good cookie | pending (RESP) |
//! | pending | any authentic frame | confirmed: its handshake number counts; requests other than `Hello` are answered NotRegistered |
//! | pending | `Hello` with the node's current boot id | current, on the INIT's path; the former current session is gone; `HelloAck` |
//! | pending | `Hello` with another boot id | stays; answered NotRegistered (the agent must `Register`) |
//! | pending | 15 s | gone |
//! | current | authentic newest frame from another path | F2 to that path at 0, 0.3, 0.9 s; one validation a second |
//! | current | F3 with those bytes, from that path | the path is the agent's |
//! | current | takeover of the identity by another boot id | `Fenced`; every request is answered `Fenced` |
//! | current | F7, 65 min, or [`SILENT`] without a frame | gone |
//!
//! A stale copy of a home thus never displaces the process that has registered, although both
//! hold the same keys. Answers and relayed packets go to the validated path only; F3 answers
//! F2 on its own path, byte for byte.

mod agent;
mod handshake;
mod message;
pub(crate) mod queue;
mod relay;
mod stun;

use super::config::RendezvousConfig;
use super::limit::TokenTable;
use super::registry::{Context, Directory, Effect};
use super::slots::Slots;
use crate::addr::NodeId;
use crate::crypto::{AeadProvider, TunnelSecret};
use crate::limits::Limits;
use crate::machine::{Ecn, Path, Transmit};
use crate::path::ChannelId;
use crate::rng::Rng;
use crate::session::gate::Gate;
use crate::session::handshake::Mac1Key;
use crate::session::payload::BootId;
use crate::slab::Store;
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::Bytes;
use crate::wire::control::{self, ChannelInfo, Endpoint, EndpointKind, Endpoints, FromBeacon};
use crate::wire::frame::{self, Kind};
use agent::{Agent, LinkKind};
use alloc::collections::{BTreeMap, BTreeSet};
use core::num::NonZeroUsize;
use queue::PacketQueue;
use relay::{Channels, EndRef};

/// An agent silent for this long counts as offline: four keepalives missed.
const OFFLINE: Duration = Duration::from_secs(60);
/// An agent silent for this long is forgotten; its next frame makes it start anew.
const SILENT: Duration = Duration::from_secs(300);
/// Cells of the handshake gate's table of sources.
const SOURCES: usize = 4096;
/// How long the relay's budget may be overdrawn; half of it is for everyone's fair share.
const RELAY_BURST: Duration = Duration::from_millis(250);

/// What the beacon counted since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BeaconCounts {
    pub(crate) stun: u64,
    pub(crate) handshakes: u64,
    pub(crate) relayed_packets: u64,
    pub(crate) relayed_bytes: u64,
}

pub(crate) struct Beacon {
    aead: &'static dyn AeadProvider,
    secret: TunnelSecret,
    mac1: Mac1Key,
    boot_id: BootId,
    rng: Rng,
    gate: Gate<'static>,
    agents: Slots<Agent>,
    by_node: BTreeMap<NodeId, u32>,
    by_index: BTreeMap<u32, u32>,
    /// INITs answered and not yet confirmed, by their hash without mac2.
    answered: BTreeMap<[u8; 16], u32>,
    timers: BTreeSet<(Instant, u32)>,
    channels: Channels,
    channels_per_node: usize,
    queue: PacketQueue,
    stun: TokenTable,
    alternate: Option<super::config::Alternate>,
    share: FairShare,
    pub(crate) counts: BeaconCounts,
}

impl Beacon {
    pub(crate) fn new(
        config: &RendezvousConfig,
        aead: &'static dyn AeadProvider,
        secret: TunnelSecret,
        mut rng: Rng,
        now: Instant,
    ) -> Self {
        let limits = &config.limits;
        let gate_limits = Limits {
            handshakes_per_second: limits.beacon_handshakes_per_second,
            handshakes_per_source: limits.beacon_handshakes_per_source,
            ..Limits::desktop()
        };
        let sources = Store::<u64>::boxed_with(SOURCES, || 0);
        Beacon {
            aead,
            mac1: Mac1Key::new(&secret.public()),
            secret,
            boot_id: rng.bytes(),
            gate: Gate::new(now, &mut rng, &gate_limits, sources, true),
            agents: Slots::new(limits.sessions),
            by_node: BTreeMap::new(),
            by_index: BTreeMap::new(),
            answered: BTreeMap::new(),
            timers: BTreeSet::new(),
            channels: Channels::new(limits.channels, limits.channel_idle),
            channels_per_node: limits.channels_per_node,
            queue: PacketQueue::new(limits.relay_queue_bytes),
            stun: TokenTable::new(rng.bytes(), limits.stun_per_second, Duration::from_secs(1)),
            alternate: config.alternate,
            share: FairShare::new(limits.relay_bytes_per_second),
            counts: BeaconCounts::default(),
            rng,
        }
    }

    /// Agents with a session, and channels.
    pub(crate) fn counts_now(&self) -> (usize, usize) {
        (self.agents.len(), self.channels.len())
    }

    /// Mixes entropy into the generator.
    pub(crate) fn reseed(&mut self, entropy: &[u8; 32]) {
        self.rng.mix(entropy);
    }

    /// Takes a datagram; an error is a counted drop.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Ecn,
        datagram: &mut [u8],
        directory: &Directory,
        ctx: &Context<'_>,
    ) -> Result<(), DropReason> {
        match frame::classify(datagram)? {
            Kind::Relay => self.relay(now, ecn, datagram),
            Kind::Data => self.handle_frame(now, path, datagram, directory, ctx),
            Kind::Stun => self.handle_stun(now, path, datagram),
            Kind::Init => self.handle_init(now, path, datagram, directory),
            // The beacon asks nobody for anything.
            Kind::Response | Kind::Cookie | Kind::Stale => Err(DropReason::Unasked),
        }
    }

    /// Forwards a relay frame: rewritten where it lies, copied once, into the queue.
    fn relay(&mut self, now: Instant, ecn: Ecn, datagram: &mut [u8]) -> Result<(), DropReason> {
        let (sender, receiver) = self.channels.forward(now, datagram)?;
        let receiver = self.agents.get(receiver).ok_or(DropReason::Offline)?;
        if receiver.current.is_none() {
            return Err(DropReason::Offline);
        }
        let path = receiver.path;
        if let Some(sender) = sender.and_then(|slot| self.agents.get_mut(slot)) {
            let admitted = self.share.take(now, &mut sender.share, datagram.len());
            if !admitted {
                return Err(DropReason::RateLimited);
            }
        }
        if !self.queue.push(path, ecn, datagram) {
            return Err(DropReason::Full);
        }
        self.counts.relayed_packets += 1;
        self.counts.relayed_bytes += datagram.len() as u64;
        Ok(())
    }

    pub(crate) fn poll_transmit(
        &mut self,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.queue.pop(out, max_segments)
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let agents = self.timers.first().map(|(at, _)| *at);
        [agents, self.channels.next_idle()].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, directory: &Directory) {
        while let Some(&(at, slot)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(agent) = self.agents.get_mut(slot) {
                agent.timer = None;
            }
            self.fire(now, slot, directory);
        }
        while let Some(slot) = self.channels.pop_idle(now) {
            self.unbind(now, slot);
        }
    }

    /// Does what a durable change asks for.
    pub(crate) fn apply(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Mail(node) => self.notify(now, node),
            Effect::Fence(node, boot_id) => {
                let Some(&slot) = self.by_node.get(&node) else { return };
                let Some(agent) = self.agents.get_mut(slot) else { return };
                if agent.boot_id == Some(boot_id) {
                    agent.fenced = true;
                    self.tell(now, slot, &FromBeacon::Fenced);
                }
            }
        }
    }

    /// Mail of this node up to this number has been fetched.
    pub(crate) fn fetched(&mut self, node: NodeId, last: u64) {
        let slot = self.by_node.get(&node);
        if let Some(agent) = slot.and_then(|slot| self.agents.get_mut(*slot)) {
            agent.fetched = agent.fetched.max(last);
        }
    }

    /// Where a node is now, and whether it is there at all.
    pub(crate) fn endpoints(&self, now: Instant, node: NodeId) -> Endpoints {
        let mut endpoints = Endpoints::new();
        let Some(agent) = self.online(now, node) else { return endpoints };
        let observed = Endpoint { kind: EndpointKind::Observed, address: agent.path.remote };
        let candidates = agent.candidates.iter().filter(|c| c.address != observed.address);
        endpoints.extend(core::iter::once(observed).chain(candidates.copied()));
        endpoints
    }

    fn online(&self, now: Instant, node: NodeId) -> Option<&Agent> {
        let agent = self.agents.get(*self.by_node.get(&node)?)?;
        agent.is_online(now).then_some(agent)
    }

    /// A grant between these two was withdrawn: their channel is unbound, whoever bound it.
    pub(crate) fn unbind_pair(&mut self, now: Instant, a: NodeId, b: NodeId) {
        if let Some(slot) = self.channels.find(a, b) {
            self.unbind(now, slot);
        }
    }

    fn unbind(&mut self, now: Instant, slot: u32) {
        let Some(channel) = self.channels.unbind(slot) else { return };
        for end in &channel.ends {
            if let Some(agent) = end.agent {
                self.tell(now, agent, &FromBeacon::Unbound { channel: end.id });
            }
        }
    }

    /// One end's view of a channel; `None` while the other end is unknown here.
    fn info(&self, end: EndRef, directory: &Directory) -> Option<ChannelInfo> {
        let channel = self.channels.get(end.slot)?;
        let (own, other) = (&channel.ends[end.side], &channel.ends[1 - end.side]);
        let agent = self.agents.get(other.agent?)?;
        Some(ChannelInfo {
            channel: own.id,
            peer: crate::addr::Address::backbone(other.node),
            identity: Bytes(directory.node(other.node)?.identity.0),
            observed: agent.path.remote,
            key: Bytes(own.key.0),
        })
    }

    /// Seals a message on the agent's current session, with an id of our own.
    fn tell(&mut self, now: Instant, slot: u32, message: &FromBeacon) {
        let Some(agent) = self.agents.get_mut(slot) else { return };
        let id = agent.next_id;
        agent.next_id = agent.next_id.wrapping_add(1);
        self.send_message(now, slot, LinkKind::Current, id, message);
    }

    fn send_message(
        &mut self,
        now: Instant,
        slot: u32,
        link: LinkKind,
        id: u16,
        message: &FromBeacon,
    ) {
        let mut content = [0; control::MESSAGE_MAX];
        let len = control::encode(id, message, &mut content)
            .expect("every message is shorter than MESSAGE_MAX");
        self.send(now, slot, link, None, &content[..len]);
    }

    /// Seals `content` and queues it for the link's own path, or for `to`.
    fn send(&mut self, now: Instant, slot: u32, link: LinkKind, to: Option<Path>, content: &[u8]) {
        let mut frame =
            [0; crate::limits::FRAME_HEADER + control::MESSAGE_MAX + crate::limits::TAG];
        let Some(agent) = self.agents.get_mut(slot) else { return };
        let Some((path, link)) = agent.link(link) else { return };
        frame[crate::limits::FRAME_HEADER..][..content.len()].copy_from_slice(content);
        if let Some(sealed) = link.seal(now, self.aead, &mut frame, content.len()) {
            // No room is as good as lost on the way; every request is repeated.
            self.queue.push(to.unwrap_or(path), Ecn::NotEct, &frame[..sealed.len]);
        }
    }

    /// The id of a channel that is this agent's.
    fn own_channel(&self, slot: u32, id: ChannelId) -> Option<EndRef> {
        self.channels.own_end(self.agents.get(slot)?.node, id)
    }
}

/// The configured relay capacity and how it is shared: while less than half of the burst is
/// used anyone may send; beyond that, each sender has an equal part.
struct FairShare {
    /// Nanoseconds that a byte takes at the configured rate, times 2^16; 0: no limit.
    byte: u64,
    /// When the whole budget will be free again.
    busy_until: Instant,
    /// Senders in the running second, and in the one before.
    second: u64,
    counting: u64,
    active: u64,
}

/// One sender's part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    busy_until: Instant,
    second: u64,
}

impl Default for Share {
    fn default() -> Self {
        Share { busy_until: Instant::START, second: 0 }
    }
}

impl FairShare {
    fn new(bytes_per_second: Option<u64>) -> Self {
        let byte = bytes_per_second.map_or(0, |rate| (1_000_000_000u64 << 16) / rate.max(1));
        FairShare { byte, busy_until: Instant::START, second: 0, counting: 0, active: 1 }
    }

    fn take(&mut self, now: Instant, share: &mut Share, bytes: usize) -> bool {
        if self.byte == 0 {
            return true;
        }
        let second = now.as_nanos() / 1_000_000_000 + 1;
        if self.second != second {
            self.active = self.counting.max(1);
            (self.second, self.counting) = (second, 0);
        }
        if share.second != second {
            share.second = second;
            self.counting += 1;
        }
        let cost = self.byte.saturating_mul(bytes as u64) >> 16;
        let active = self.active.max(self.counting);
        let ahead = self.busy_until.since(now);
        let own = share.busy_until.max(now) + Duration::from_nanos(cost.saturating_mul(active));
        let fair = own.since(now) <= RELAY_BURST;
        if ahead > RELAY_BURST || (ahead > RELAY_BURST / 2 && !fair) {
            return false;
        }
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(cost);
        // Above its share a sender does not fall ever further behind.
        share.busy_until = own.min(now + RELAY_BURST * 2);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One greedy and one modest sender on a relay of 1 MB/s.
    #[test]
    fn the_relay_is_shared_fairly() {
        let mut fair = FairShare::new(Some(1_000_000));
        let (mut greedy, mut modest) = (Share::default(), Share::default());
        let (mut sent, mut wanted) = ([0u64; 2], 0u64);
        let start = Instant::from_nanos(1_000_000_000);
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            for _ in 0..10 {
                if fair.take(now, &mut greedy, 1000) {
                    sent[0] += 1000;
                }
            }
            if ms % 4 == 0 {
                wanted += 1000;
                if fair.take(now, &mut modest, 1000) {
                    sent[1] += 1000;
                }
            }
        }
        let total = sent[0] + sent[1];
        assert!((9_000_000..11_500_000).contains(&total), "{sent:?}");
        assert!(sent[1] * 100 >= wanted * 95, "{sent:?} of {wanted}");
    }
}
