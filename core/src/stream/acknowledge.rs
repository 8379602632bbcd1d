//! Acknowledgements in, and what arrives being noted for ours.

use super::ack::Acknowledgement;
use super::entry::event;
use super::frame::{Content, Marks};
use super::send::{Control, SendHalf};
use super::state::{State, Step};
use super::{StreamEnd, Transport};
use crate::path::{PATHS, PathId, PeerIndex};
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::Instant;

impl Transport<'_> {
    /// A frame was opened under this (our) index and counter and its content accepted.
    /// `eliciting`: it asks for an acknowledgement; `immediate`: at once.
    pub fn frame_received(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        index: u32,
        counter: u64,
        eliciting: bool,
        immediate: bool,
    ) {
        let now = self.see(now);
        let rtt = self.peers.path(peer, path).and_then(|path| path.rtt.smoothed());
        let rtt = rtt.or_else(|| self.peers.rtt(peer));
        let Some(space) = self.peers.space(now, peer, index) else { return };
        space.on_frame(now, counter, eliciting, immediate, rtt);
        if eliciting {
            self.touch(peer);
        }
    }

    /// The receive batch that brought this peer's frames has ended.
    pub fn batch_end(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        self.peers.each_space(peer, |space| space.batch_end(now));
        self.touch(peer);
    }

    /// Takes an `FD` frame. `sent` gives what was sent under an index of the peer's: the next
    /// counter, and the one that was left out last; `None` if no session has it, so no frame.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if it is none; [`DropReason::Unasked`] if it acknowledges what
    /// was never sent: nothing of it is believed.
    pub fn handle_ack(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        frame: &[u8],
        sent: impl FnOnce(u32) -> Option<(u64, Option<u64>)>,
    ) -> Result<(), DropReason> {
        let now = self.see(now);
        let ack = Acknowledgement::decode(frame).ok_or(DropReason::Malformed)?;
        let lies = |(next, skipped): (u64, Option<u64>)| {
            ack.largest >= next || skipped.is_some_and(|counter| ack.covers(counter))
        };
        if sent(ack.index).is_some_and(lies) {
            return Err(DropReason::Unasked);
        }
        for at in 0..PATHS {
            self.handle_path_ack(now, peer, at, &ack);
        }
        for entry in ack.entries() {
            let Some(key) = self.find(peer, entry.receiver_port, entry.sender_port) else {
                continue;
            };
            let stream = &self.streams[key];
            let Some(acked) = stream.snd.offset_of_ack(entry.ack) else { continue };
            let half_open = matches!(stream.state, State::SynSent | State::Closed) || stream.early;
            let known = entry.ack == stream.snd.sequence(0);
            if half_open || stream.state == State::SynReceived && !known {
                continue;
            }
            if stream.state == State::SynReceived {
                self.establish(now, key);
            }
            self.handle_stream_ack(now, key, acked, entry.window);
        }
        self.feed_starved();
        self.touch(peer);
        Ok(())
    }

    fn handle_path_ack(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        at: usize,
        ack: &Acknowledgement<'_>,
    ) {
        let Some(path) = self.peers.path_mut(peer, PathId(at as u8)) else { return };
        path.note_spurious(ack);
        let mut taken = path.take_acknowledged(&mut self.frames, ack);
        if taken.is_empty() {
            return;
        }
        let alive = path.on_acknowledged(now, &self.frames, &taken, ack);
        let mut lost = path.detect_losses(now, &mut self.frames);
        let widens = path.mtu.take_news();
        self.peers.follow_search(peer, PathId(at as u8));
        if alive {
            self.peer_event(peer, |record| record.alives |= 1 << at);
        }
        if widens {
            self.peer_event(peer, |record| record.wides |= 1 << at);
        }
        // One stream's frames come in runs: what they change is worked out once a run.
        let mut run: Option<Key> = None;
        while let Some(record) = taken.pop(&mut self.frames) {
            let key = match record.content {
                Content::Stream { key, .. } => Some(key),
                _ => None,
            };
            if run != key
                && let Some(ended) = run.take()
            {
                self.after_ack(now, ended);
            }
            self.handle_delivered(now, peer, record.content);
            run = key;
        }
        if let Some(ended) = run {
            self.after_ack(now, ended);
        }
        self.requeue_list(now, peer, &mut lost);
    }

    fn handle_delivered(&mut self, now: Instant, peer: PeerIndex, content: Content) {
        match content {
            Content::Stream { key, offset, len, marks } => {
                let Some(stream) = self.streams.get_mut(key) else { return };
                if marks.has(Marks::RST) {
                    return self.end_stream(now, key, StreamEnd::Aborted);
                }
                stream.snd.on_delivered(offset, len, marks);
                if marks.has(Marks::SYN) {
                    if stream.state == State::SynReceived {
                        self.establish(now, key);
                    } else if stream.state.is_synchronized() {
                        stream.snd.syn = Control::Acknowledged;
                    }
                }
            }
            Content::Control(tag) => {
                self.peer_event(peer, |record| record.control_acknowledged |= 1 << tag);
            }
            Content::Reset(_) | Content::Datagram | Content::Padding | Content::PathProbe => {}
        }
    }

    /// The peer has everything below `acked` and gave this window.
    pub(crate) fn handle_stream_ack(&mut self, now: Instant, key: Key, acked: u64, window: u16) {
        let snd = &mut self.streams[key].snd;
        let before = (snd.una, snd.edge, snd.fin, snd.nxt);
        let data = acked.min(snd.end);
        snd.on_window(data, window);
        snd.on_cumulative(acked);
        if before != (snd.una, snd.edge, snd.fin, snd.nxt) {
            self.after_ack(now, key);
        }
    }

    /// Tells a writer that waits if it is worth writing again.
    pub(crate) fn wake_writer(&mut self, key: Key) {
        let stream = &mut self.streams[key];
        if !stream.snd.writer_waits {
            return;
        }
        let window = self.peers.active_path(stream.peer).map_or(0, |path| path.window());
        if stream.snd.has_room(SendHalf::blocks_for(window)) {
            stream.snd.writer_waits = false;
            self.stream_event(key, event::WRITABLE);
        }
    }

    /// Something was acknowledged: room for the writer, the FIN, what goes next.
    fn after_ack(&mut self, now: Instant, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.state == State::Closed {
            return;
        }
        stream.snd.free(&mut self.pool);
        self.wake_writer(key);
        let stream = &mut self.streams[key];
        // The FIN's frame may be acknowledged before the data in front of it.
        let finished = stream.snd.fin == Control::Acknowledged && stream.snd.una == stream.snd.end;
        if finished && !stream.told_finished {
            stream.told_finished = true;
            self.stream_event(key, event::FINISHED);
            return self.step(now, key, Step::FinAcknowledged);
        }
        // Of a finish that waits for its own acknowledgement FINISHED tells.
        if stream.snd.ack_waits
            && stream.snd.fin == Control::None
            && stream.snd.una == stream.snd.end
        {
            stream.snd.ack_waits = false;
            self.stream_event(key, event::WRITABLE);
        }
        self.update_stream(now, key);
    }
}
