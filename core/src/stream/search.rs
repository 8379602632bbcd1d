//! The search for the path MTU in the traffic: its probes are FA frames that fill a datagram, and
//! what becomes of them, and of other long frames, is told to [`crate::path::mtu`].
//!
//! A probe is in the path's list of frames, so that it is acknowledged and found lost as all
//! others are, but not in flight: it takes no room in the window, its loss is no congestion, and
//! no suspicion is raised when it stays unanswered.

use super::Transport;
use super::congestion::CongestionControl;
use super::egress::PADDING;
use super::frame::{Content, FrameList, FrameTable};
use super::recovery::{PathState, TailProbe};
use crate::limits::{FRAME_HEADER, TAG};
use crate::path::mtu::Need;
use crate::path::{PathId, PeerIndex};
use crate::time::Instant;

/// What a frame's plaintext is shorter than its datagram, a relay's header not counted.
const SEALED: usize = FRAME_HEADER + TAG;

impl PathState {
    /// When the next probe may go: not while the path is suspect, nor before a tail probe.
    pub(crate) fn search_at(&self, need: Need) -> Option<Instant> {
        let at = self.mtu.probe_at(need)?;
        (!self.suspect && self.tail_probe != TailProbe::Due).then_some(at)
    }

    /// Data is cut to what the search has found.
    pub(crate) fn follow_search(&mut self) {
        let datagram = self.mtu.datagram();
        if datagram != self.datagram {
            self.datagram = datagram;
            self.congestion.set_datagram(u64::from(datagram));
        }
    }

    /// How much of `limit` bytes of plaintext a segment may use: no more than the base while only
    /// silence has answered longer ones. Otherwise nothing would pass when the path has become
    /// narrower, and there would be no sign that it has.
    pub(crate) fn stream_limit(&self, limit: usize) -> usize {
        if self.rtt.is_backed_off() || self.tail_probe == TailProbe::Due {
            limit.min(usize::from(self.mtu.base_datagram()) - SEALED)
        } else {
            limit
        }
    }

    /// Tells the search what was lost. After a timeout nothing is known of a probe that was not
    /// lost alone, and nothing of long frames: perhaps the path carries none at all.
    pub(crate) fn search_lost(
        &mut self,
        now: Instant,
        table: &FrameTable<'_>,
        lost: &FrameList,
        timeout: bool,
    ) {
        if lost.is_empty() {
            return;
        }
        let (mut at, mut probe, mut others) = (lost.front(), None, false);
        let mut long = None;
        while let Some(current) = at {
            let record = table.get(current);
            if record.content == Content::PathProbe {
                probe = Some(record.bytes as u16);
            } else {
                others = true;
                if record.bytes > u32::from(self.mtu.base()) {
                    long = long.max(Some(record.sent));
                }
            }
            at = lost.next(table, current);
        }
        match probe {
            Some(_) if timeout && others => self.mtu.on_probe_void(),
            Some(size) => self.mtu.on_probe_lost(now, size),
            None => {}
        }
        if let Some(sent) = long
            && !timeout
        {
            self.mtu.on_frame_lost(now, sent);
        }
        self.follow_search();
    }
}

impl Transport<'_> {
    /// Whether bulk may go by this path: it has carried a datagram of 1,232 bytes (`wire.md` 5.8).
    /// [`super::TransportEvent::PathWide`] tells when it becomes so. `false` for an unknown path.
    pub fn is_wide(&self, peer: PeerIndex, path: PathId) -> bool {
        self.peers.path(peer, path).is_some_and(|path| path.mtu.is_wide())
    }

    /// A path on which a probe is due and has a place in the table of frames.
    pub(crate) fn search_path(&self, peer: PeerIndex) -> Option<PathId> {
        let path = self.peers.search_path(self.now, peer)?;
        let full = self.frames.is_full_for(|| self.peers.frames_in_flight(peer));
        (!full).then_some(path)
    }

    /// Writes the probe that is due on `path`, as far as it fits `out`.
    pub(crate) fn write_search(
        &self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        out: &mut [u8],
    ) -> Option<(usize, Option<Content>)> {
        let record = self.peers.get(peer).filter(|record| record.search_at <= now)?;
        let need = record.need(path);
        let state = self.peers.path(peer, path)?;
        state.search_at(need).filter(|at| *at <= now)?;
        if self.frames.is_full_for(|| self.peers.frames_in_flight(peer)) {
            return None;
        }
        let size = state.mtu.probe(now, need)?;
        let len = usize::from(size - state.mtu.header()) - SEALED;
        let len = len.min(out.len());
        let frame = &mut out[..len];
        frame.fill(0);
        *frame.first_mut()? = PADDING;
        Some((len, Some(Content::PathProbe)))
    }

    /// What was last sent is not known: the next thing refused is somebody else's.
    pub(crate) fn forget_last_sent(&mut self) {
        self.last_sent = None;
    }

    /// The host refused to send the frames written last: `size` bytes of UDP payload are more than
    /// its interface carries. Whoever asked for that size takes a smaller one; what was in the
    /// frames is lost, and found so as always.
    pub fn too_large(&mut self, now: Instant, size: u16) {
        let now = self.see(now);
        let Some((peer, at)) = self.last_sent.take() else { return };
        let Some(path) = self.peers.path_mut(peer, at) else { return };
        if path.mtu.on_refused(now, size) {
            path.follow_search();
            self.peers.follow_search(peer, at);
            self.touch(peer);
        }
    }
}
