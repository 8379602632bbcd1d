//! Events out, and counters.

use super::entry::{EVENT, event};
use super::peer::{PEER_EVENT, Peer};
use super::{StreamEnd, Transport, TransportEvent};
use crate::path::{PathId, PeerIndex};
use crate::slab::Key;
use crate::stats::{DropReason, Drops};

impl Transport<'_> {
    pub(crate) fn peer_event(&mut self, peer: PeerIndex, set: impl FnOnce(&mut Peer)) {
        if let Some(record) = self.peers.get_mut(peer) {
            set(record);
            self.peer_events.push_back(&mut self.peers, PEER_EVENT, peer.0);
        }
    }

    pub(crate) fn stream_event(&mut self, key: Key, bits: u8) {
        let stream = &mut self.streams[key];
        if !stream.released {
            stream.events |= bits;
            self.stream_events.push_back(&mut self.streams, EVENT, key.index() as u32);
        }
    }

    /// The next event. Call until `None`.
    pub fn poll_event(&mut self) -> Option<TransportEvent> {
        self.poll_peer_event()
            .or_else(|| self.poll_stream_event())
            .or_else(|| self.ports.poll().map(TransportEvent::Acceptable))
    }

    /// Whether the application has something to be told.
    pub fn has_event(&self) -> bool {
        self.stream_events.front().is_some() || self.ports.has_news()
    }

    /// Whether [`Transport::poll_peer_event`] has something.
    pub(crate) fn has_peer_event(&self) -> bool {
        self.peer_events.front().is_some()
    }

    /// The next event about a peer's paths and control frames; these come first in
    /// [`Transport::poll_event`].
    pub fn poll_peer_event(&mut self) -> Option<TransportEvent> {
        let slot = self.peer_events.front()?;
        let peer = PeerIndex(slot);
        let record = self.peers.get_mut(peer)?;
        let first = |bits: u32| bits.trailing_zeros() as u8;
        let event = if record.suspects != 0 {
            let path = first(record.suspects.into());
            record.suspects &= record.suspects - 1;
            TransportEvent::PathSuspect(peer, PathId(path))
        } else if record.alives != 0 {
            let path = first(record.alives.into());
            record.alives &= record.alives - 1;
            TransportEvent::PathAlive(peer, PathId(path))
        } else if record.wides != 0 {
            let path = first(record.wides.into());
            record.wides &= record.wides - 1;
            TransportEvent::PathWide(peer, PathId(path))
        } else if record.control_acknowledged != 0 {
            let tag = first(record.control_acknowledged);
            record.control_acknowledged &= record.control_acknowledged - 1;
            TransportEvent::ControlAcknowledged(peer, tag)
        } else {
            let tag = first(record.control_lost);
            record.control_lost &= record.control_lost.wrapping_sub(1);
            TransportEvent::ControlLost(peer, tag)
        };
        if !record.has_events() {
            self.peer_events.remove(&mut self.peers, PEER_EVENT, slot);
        }
        Some(event)
    }

    fn poll_stream_event(&mut self) -> Option<TransportEvent> {
        let slot = self.stream_events.front()?;
        let key = self.streams.key_at(slot as usize)?;
        let stream = &mut self.streams[key];
        let id = super::StreamId(key);
        let bit = stream.events & stream.events.wrapping_neg();
        stream.events &= !bit;
        let event = match bit {
            event::OPENED => TransportEvent::Opened(id),
            event::READABLE => TransportEvent::Readable(id),
            event::WRITABLE => TransportEvent::Writable(id),
            event::FINISHED => TransportEvent::Finished(id),
            _ => TransportEvent::Closed(id, stream.end.unwrap_or(StreamEnd::Finished)),
        };
        if stream.events == 0 {
            self.stream_events.remove(&mut self.streams, EVENT, slot);
        }
        Some(event)
    }

    /// Counters of what this machine itself dropped: datagrams whose queue was full.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }
}
