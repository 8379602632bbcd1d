//! Relay channels (`wire.md` 7): two ends with an id and a key each; the beacon rewrites.
//!
//! | State | Event | Next |
//! |---|---|---|
//! | none | `Bind` with a grant that counts, other end online | bound: `Channel` to the binder, `Bound` to the other at 0, 0.3, 0.9, 2.1 s and after its next `Hello`s and `Keepalive`s until `BoundAck` |
//! | bound | `Bind` again, by either end | `Channel` with the present observed endpoint |
//! | bound | `Hello` with a new boot id | all `Bound` of that agent again |
//! | bound | frame with the right MAC | forwarded, idle time restarts |
//! | bound | `Revoke` by either end, `Release`, idle | none: `Unbound` to both |

use crate::addr::NodeId;
use crate::limits::BOUND_REPEAT;
use crate::path::ChannelId;
use crate::planted::{self, Defect};
use crate::rendezvous::slots::Slots;
use crate::rng::Rng;
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::frame::{self, Direction, RelayKey};
use alloc::collections::{BTreeMap, BTreeSet};

/// When an unacknowledged `Bound` goes out again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Repeat {
    pub(crate) first: Instant,
    pub(crate) sent: u8,
}

impl Repeat {
    /// When the next one is due; `None` after the last.
    pub(crate) fn due(&self) -> Option<Instant> {
        BOUND_REPEAT.get(usize::from(self.sent)).map(|after| self.first + *after)
    }
}

pub(crate) struct End {
    pub(crate) id: ChannelId,
    pub(crate) key: RelayKey,
    pub(crate) node: NodeId,
    /// The agent's slot while it has one.
    pub(crate) agent: Option<u32>,
    /// Set until the end has acknowledged its `Bound`.
    pub(crate) bound: Option<Repeat>,
}

pub(crate) struct Channel {
    pub(crate) ends: [End; 2],
    used: Instant,
    /// Where it stands in [`Channels::idle`].
    check: Instant,
}

/// The number of one end: channel slot and side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EndRef {
    pub(crate) slot: u32,
    pub(crate) side: usize,
}

pub(crate) struct Channels {
    channels: Slots<Channel>,
    ids: BTreeMap<ChannelId, EndRef>,
    pairs: BTreeMap<(NodeId, NodeId), u32>,
    of_node: BTreeSet<(NodeId, u32)>,
    /// When to look whether a channel is idle; not moved by traffic.
    idle: BTreeSet<(Instant, u32)>,
    idle_after: Duration,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Channels {
    pub(crate) fn new(max: usize, idle_after: Duration) -> Self {
        Channels {
            // Ids have 24 bits; half of them in use keeps drawing a free one quick.
            channels: Slots::new(max.min(1 << 22)),
            ids: BTreeMap::new(),
            pairs: BTreeMap::new(),
            of_node: BTreeSet::new(),
            idle: BTreeSet::new(),
            idle_after,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    pub(crate) fn find(&self, a: NodeId, b: NodeId) -> Option<u32> {
        self.pairs.get(&pair(a, b)).copied()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Channel> {
        self.channels.get(slot)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Channel> {
        self.channels.get_mut(slot)
    }

    /// The end with this id, if it is `node`'s.
    pub(crate) fn own_end(&self, node: NodeId, id: ChannelId) -> Option<EndRef> {
        let end = *self.ids.get(&id)?;
        (self.channels.get(end.slot)?.ends[end.side].node == node).then_some(end)
    }

    /// All ends of a node.
    pub(crate) fn of(&self, node: NodeId) -> impl Iterator<Item = EndRef> {
        self.of_node.range((node, 0)..=(node, u32::MAX)).filter_map(move |(_, slot)| {
            let side = self.channels.get(*slot)?.ends.iter().position(|end| end.node == node)?;
            Some(EndRef { slot: *slot, side })
        })
    }

    /// Makes a channel from a binder (side 0) to another (side 1); `None` if the table is full.
    pub(crate) fn bind(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        binder: (NodeId, u32),
        other: (NodeId, u32),
    ) -> Option<u32> {
        let mut end = |(node, agent): (NodeId, u32), bound| {
            let id = loop {
                let id = ChannelId(rng.u32() >> 8);
                // 0 is "direct" in cookies.
                if id.0 != 0 && !self.ids.contains_key(&id) {
                    break id;
                }
            };
            // Reserved at once, so that the other end cannot draw it too.
            self.ids.insert(id, EndRef { slot: u32::MAX, side: 0 });
            End { id, key: RelayKey(rng.bytes()), node, agent: Some(agent), bound }
        };
        let repeat = Some(Repeat { first: now, sent: 0 });
        let ends = [end(binder, None), end(other, repeat)];
        let ids = [ends[0].id, ends[1].id];
        let check = now + self.idle_after;
        let Some(slot) = self.channels.insert(Channel { ends, used: now, check }) else {
            ids.iter().for_each(|id| {
                self.ids.remove(id);
            });
            return None;
        };
        for (side, id) in ids.into_iter().enumerate() {
            self.ids.insert(id, EndRef { slot, side });
        }
        self.pairs.insert(pair(binder.0, other.0), slot);
        self.of_node.extend([(binder.0, slot), (other.0, slot)]);
        self.idle.insert((check, slot));
        Some(slot)
    }

    pub(crate) fn unbind(&mut self, slot: u32) -> Option<Channel> {
        let channel = self.channels.remove(slot)?;
        self.idle.remove(&(channel.check, slot));
        let [a, b] = &channel.ends;
        self.pairs.remove(&pair(a.node, b.node));
        for end in [a, b] {
            self.ids.remove(&end.id);
            self.of_node.remove(&(end.node, slot));
        }
        Some(channel)
    }

    /// Tells all ends of a node where its agent is now.
    pub(crate) fn set_agent(&mut self, node: NodeId, agent: Option<u32>) {
        let ends: alloc::vec::Vec<_> = self.of(node).collect();
        for end in ends {
            if let Some(channel) = self.channels.get_mut(end.slot) {
                channel.ends[end.side].agent = agent;
            }
        }
    }

    /// Checks a frame from one end and rewrites it in place for the other; gives the sender's
    /// and the receiver's agent.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        datagram: &mut [u8],
    ) -> Result<(Option<u32>, u32), DropReason> {
        let id = frame::relay_channel(datagram).ok_or(DropReason::Malformed)?;
        let end = *self.ids.get(&id).ok_or(DropReason::UnknownChannel)?;
        let channel = self.channels.get_mut(end.slot).ok_or(DropReason::UnknownChannel)?;
        let (from, to) = (&channel.ends[end.side], &channel.ends[1 - end.side]);
        if !planted::has(Defect::RelayUnchecked) {
            frame::verify(&from.key, Direction::ToBeacon, datagram)?;
        }
        frame::classify_relayed(&datagram[crate::limits::RELAY_HEADER..])?;
        let agent = to.agent.ok_or(DropReason::Offline)?;
        frame::wrap(&to.key, Direction::FromBeacon, to.id, datagram);
        let sender = from.agent;
        channel.used = channel.used.max(now);
        Ok((sender, agent))
    }

    /// A channel that nobody has used for the idle time, if there is one.
    pub(crate) fn pop_idle(&mut self, now: Instant) -> Option<u32> {
        while let Some(&(at, slot)) = self.idle.first() {
            if at > now {
                return None;
            }
            let channel = self.channels.get_mut(slot).expect("listed channels live");
            let end = channel.used + self.idle_after;
            if end <= now {
                return Some(slot); // The caller unbinds it, which takes it off the list.
            }
            channel.check = end;
            self.idle.remove(&(at, slot));
            self.idle.insert((end, slot));
        }
        None
    }

    pub(crate) fn next_idle(&self) -> Option<Instant> {
        self.idle.first().map(|(at, _)| *at)
    }
}
