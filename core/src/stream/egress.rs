//! Frames out: which one is next, and its bytes.
//!
//! A train is a run of frames of one length that leave in one system call. Data goes first and
//! a due acknowledgement, or one that soon will be, rides as the train's last, shorter frame;
//! without data a due one goes alone.

use super::ack::{Entry, FD_MIN};
use super::entry::{SEND, UNTOLD};
use super::frame::{Content, Marks, Record, ResetNotice};
use super::recovery::TailProbe;
use super::send::{Control, Segment};
use super::state::State;
use super::transport::Unsent;
use super::{Transport, ack};
use crate::addr::Address;
use crate::limits::{FRAME_HEADER, TAG};
use crate::path::{PathId, PeerIndex};
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::Instant;
use crate::wire::header::{Flags, Header, Protocol};

/// First byte of a padding frame, which asks for nothing but an acknowledgement.
pub(super) const PADDING: u8 = 0xFA;
/// How many frames a tail probe looks back for something worth repeating.
const PROBE_LOOKBACK: usize = 8;

/// One train in the making: equal frames, then perhaps one shorter.
#[derive(Clone, Copy, Debug)]
pub struct TrainState {
    most: usize,
    len: usize,
    count: usize,
    over: bool,
}

impl TrainState {
    /// A train of at most `segments` frames. The caller also ends it when its buffer is full.
    pub const fn new(segments: usize) -> Self {
        TrainState { most: segments, len: 0, count: 0, over: false }
    }

    /// Frames written.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Plaintext length of all frames but perhaps the last.
    pub const fn frame_len(&self) -> usize {
        self.len
    }

    /// No further frame fits this train.
    pub const fn is_over(&self) -> bool {
        self.over || self.count >= self.most
    }
}

/// Ties [`Transport::frame_sent`] to the frame that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameToken(u32);

/// A frame's plaintext is in the buffer.
#[must_use = "seal it and call frame_sent"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes of plaintext.
    pub len: usize,
    /// For [`Transport::frame_sent`].
    pub token: FrameToken,
}

impl Transport<'_> {
    /// The path for the peer's next train.
    pub fn next_path(&self, peer: PeerIndex) -> Option<PathId> {
        let active = self.peers.get(peer)?.active;
        self.peers.probe_path(peer).or_else(|| self.search_path(peer)).or(active)
    }

    /// Writes the plaintext of one frame into `out`, which has room for all that the path's
    /// datagram carries without index, counter and tag. `None` ends the train.
    ///
    /// A frame that is not reported by [`Transport::frame_sent`] before the next call of this,
    /// of `poll_ready` or `session_down` counts as lost, without a congestion signal.
    pub fn write_frame(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        out: &mut [u8],
        train: &mut TrainState,
    ) -> Option<Written> {
        let now = self.see(now);
        self.abandon_unsent(now);
        if train.is_over() {
            return None;
        }
        self.peers.get(peer).filter(|record| record.session)?;
        let probe = if train.count == 0 { self.write_search(now, peer, path, out) } else { None };
        let is_probe = probe.is_some();
        let limit = usize::from(self.peers.path(peer, path)?.datagram) - FRAME_HEADER - TAG;
        let limit = limit.min(out.len());
        let cap = if train.count == 0 { limit } else { limit.min(train.len) };
        let next = || self.next_frame(now, peer, path, limit, &mut out[..cap], train);
        let Some((len, content)) = probe.or_else(next) else {
            train.over = true;
            if train.count == 0 {
                self.unready(peer);
            }
            return None;
        };
        if train.count == 0 {
            train.len = len;
        }
        train.count += 1;
        // A path probe goes alone: what is with it would share its fate.
        train.over = len < train.len || is_probe;
        self.serial = self.serial.wrapping_add(1);
        self.unsent = Some(Unsent { peer, content, serial: self.serial });
        Some(Written { len, token: FrameToken(self.serial) })
    }

    /// What was written and not reported as sent is sent again.
    pub(crate) fn abandon_unsent(&mut self, now: Instant) {
        match self.unsent.take() {
            Some(Unsent { peer, content: Some(content), .. }) => {
                self.requeue(now, peer, content);
            }
            Some(Unsent { peer, content: None, .. }) => {
                if let Some(space) = self.peers.ack_space(peer) {
                    space.expedite(now);
                }
                self.touch(peer);
            }
            None => {}
        }
    }

    /// The frame written last was sealed under this index and counter, and is `wire_len` bytes
    /// of UDP payload.
    pub fn frame_sent(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        index: u32,
        counter: u64,
        wire_len: usize,
        token: FrameToken,
    ) {
        let now = self.see(now);
        let Some(unsent) = self.unsent.take_if(|unsent| unsent.serial == token.0) else { return };
        self.last_sent = Some((peer, path));
        if let Some(content) = unsent.content {
            self.track(now, peer, path, index, counter, wire_len, content);
        }
    }

    /// The node sent a frame of its own that elicits an acknowledgement; `tag` (below 32) names
    /// it in [`super::TransportEvent::ControlAcknowledged`] and `ControlLost`. `silent`: its
    /// loss says nothing about congestion (an MTU probe). `false` if the table of frames is
    /// full, and nothing will be reported.
    pub fn control_sent(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        index: u32,
        counter: u64,
        wire_len: usize,
        tag: u8,
        silent: bool,
    ) -> bool {
        let now = self.see(now);
        let Some(state) = self.peers.path_mut(peer, path) else {
            return false;
        };
        let mut record = Record::new(now, Content::Control(tag % 32));
        (record.index, record.counter, record.bytes) = (index, counter, wire_len as u32);
        record.silent = silent;
        let tracked = state.on_sent(now, &mut self.frames, record);
        self.touch(peer);
        tracked
    }

    fn track(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        index: u32,
        counter: u64,
        wire_len: usize,
        content: Content,
    ) {
        let Some(state) = self.peers.path_mut(peer, path) else {
            return self.requeue(now, peer, content);
        };
        let mut record = Record::new(now, content);
        (record.index, record.counter, record.bytes) = (index, counter, wire_len as u32);
        if !state.on_sent(now, &mut self.frames, record) {
            self.requeue(now, peer, content);
        }
    }

    /// Chooses and writes the next frame: its length, and what to remember (an FD: nothing).
    fn next_frame(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        limit: usize,
        out: &mut [u8],
        train: &TrainState,
    ) -> Option<(usize, Option<Content>)> {
        let full = self.frames.is_full_for(|| self.peers.frames_in_flight(peer));
        let probing = self.peers.path(peer, path)?.tail_probe == TailProbe::Due;
        let due = self.peers.ack_due(peer).is_some_and(|due| due <= now);
        let record = self.peers.get_mut(peer)?;
        let active = record.active == Some(path);
        if probing && !full {
            let limit = self.peers.path(peer, path)?.stream_limit(limit);
            return self.write_probe(now, peer, path, active, limit, out);
        }
        if !active {
            return None;
        }
        if !full && let Some(notice) = record.resets.front().copied() {
            let (local, remote) = (record.local, record.remote);
            let len = write_reset(out, &notice, local, remote)?;
            record.resets.pop_front();
            return Some((len, Some(Content::Reset(notice))));
        }
        if due && train.count + 1 >= train.most {
            return self.write_acknowledgement(now, peer, out).map(|len| (len, None));
        }
        let state = self.peers.path_mut(peer, path)?;
        let segments = state.stream_limit(limit);
        let may = if train.count == 0 { state.may_start(now) } else { state.may_send(now) };
        if !full && may.is_ok() {
            let data = self.write_data(now, peer, limit, segments, out, train);
            if let Some((len, content)) = data {
                return Some((len, Some(content)));
            }
        }
        if due || train.count > 0 && self.peers.ack_may_ride(peer, out.len()) {
            return self.write_acknowledgement(now, peer, out).map(|len| (len, None));
        }
        None
    }

    fn write_data(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        limit: usize,
        segments: usize,
        out: &mut [u8],
        train: &TrainState,
    ) -> Option<(usize, Content)> {
        let record = self.peers.get_mut(peer)?;
        let both = !record.send.is_empty() && !record.datagrams.is_empty();
        if train.count == 0 {
            record.datagrams_first =
                if both { !record.datagrams_first } else { record.send.is_empty() };
        }
        if record.datagrams_first {
            self.write_datagram(peer, limit, out)
                .or_else(|| self.write_stream(now, peer, segments, out, train.count == 0))
        } else {
            self.write_stream(now, peer, segments, out, train.count == 0)
                .or_else(|| self.write_datagram(peer, limit, out))
        }
    }

    fn write_datagram(
        &mut self,
        peer: PeerIndex,
        limit: usize,
        out: &mut [u8],
    ) -> Option<(usize, Content)> {
        loop {
            let record = self.peers.get_mut(peer)?;
            let queued = record.datagrams.front(&mut self.pool)?;
            let len = Header::LEN + queued.len;
            if len > limit {
                // The path has become narrower since it was queued.
                record.datagrams.pop(&mut self.pool);
                self.count(DropReason::DatagramQueue);
                continue;
            }
            let (head, body) = out.get_mut(..len)?.split_at_mut(Header::LEN);
            let header = Header {
                flags: Flags::NONE,
                protocol: Protocol::Datagram,
                length: queued.len as u16,
                source: Address::new(queued.network, record.local.node),
                destination: Address::new(queued.network, record.remote.node),
                source_port: queued.from,
                destination_port: queued.to,
                sequence: 0,
                acknowledgement: 0,
                window: 0,
                checksum: 0,
            };
            head.copy_from_slice(&header.to_bytes());
            record.datagrams.copy(&mut self.pool, &queued, body);
            record.datagrams.pop(&mut self.pool);
            return Some((len, Content::Datagram));
        }
    }

    /// The next segment of the stream whose turn it is; each train starts with another one.
    fn write_stream(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        limit: usize,
        out: &mut [u8],
        new_train: bool,
    ) -> Option<(usize, Content)> {
        let record = self.peers.get_mut(peer)?;
        if new_train && record.send.front() == record.served {
            record.send.rotate(&mut self.streams, SEND);
        }
        let slot = record.send.front()?;
        record.served = Some(slot);
        let key = self.streams.key_at(slot as usize)?;
        let stream = &self.streams[key];
        let open = stream.state.is_synchronized();
        let Some(segment) = stream.snd.next(open, limit.checked_sub(Header::LEN)?) else {
            // It had something for larger datagrams only.
            record.send.remove(&mut self.streams, SEND, slot);
            return None;
        };
        let written = self.write_segment(key, &segment, out)?;
        self.streams[key].snd.on_sent(&segment);
        self.wake_writer(key);
        self.update_stream(now, key);
        Some(written)
    }

    /// Header and bytes of a segment; `None` if it is longer than `out`.
    fn write_segment(
        &mut self,
        key: Key,
        segment: &Segment,
        out: &mut [u8],
    ) -> Option<(usize, Content)> {
        let Segment { offset, len, marks, .. } = *segment;
        let reset = marks.has(Marks::RST);
        let body_len = if reset { 1 } else { len };
        let (head, body) = out.get_mut(..Header::LEN + body_len)?.split_at_mut(Header::LEN);
        let stream = &self.streams[key];
        let known = stream.state.is_synchronized() || !stream.initiator;
        let mut flags = Flags::NONE;
        for (on, flag) in [
            (marks.has(Marks::SYN), Flags::SYN),
            (marks.has(Marks::FIN), Flags::FIN),
            (reset, Flags::RST),
            (known, Flags::ACK),
        ] {
            if on {
                flags = flags | flag;
            }
        }
        let mut header = self.header(key, flags, body_len);
        if reset {
            body[0] = self.streams[key].resetting.unwrap_or_default();
        } else {
            if !marks.has(Marks::SYN) {
                header.sequence = self.streams[key].snd.sequence(offset);
            }
            self.streams[key].snd.copy(&mut self.pool, segment, body);
        }
        head.copy_from_slice(&header.to_bytes());
        let content = Content::Stream { key, offset, len: len as u32, marks };
        Some((Header::LEN + body_len, content))
    }

    /// A header of this stream. SYN has the initial number, everything else the next one.
    pub(crate) fn header(&mut self, key: Key, flags: Flags, len: usize) -> Header {
        let stream = &mut self.streams[key];
        let acks = flags.has(Flags::ACK);
        let (local, remote) = match self.peers.get(stream.peer) {
            Some(record) => (record.local, record.remote),
            None => (Address::UNSPECIFIED, Address::UNSPECIFIED),
        };
        Header {
            flags,
            protocol: Protocol::Stream,
            length: len as u16,
            source: Address::new(stream.network, local.node),
            destination: Address::new(stream.network, remote.node),
            source_port: stream.local,
            destination_port: stream.remote,
            sequence: if flags.has(Flags::SYN) {
                stream.snd.isn
            } else {
                stream.snd.next_sequence()
            },
            acknowledgement: if acks { stream.rcv.acknowledgement() } else { 0 },
            window: if stream.state == State::Closed { 0 } else { stream.rcv.advertise() },
            checksum: 0,
        }
    }

    /// RFC 8985 7.3: new data if there is any, else the newest bytes again, else padding.
    fn write_probe(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        active: bool,
        limit: usize,
        out: &mut [u8],
    ) -> Option<(usize, Option<Content>)> {
        if active && let Some((len, content)) = self.write_stream(now, peer, limit, out, true) {
            return Some((len, Some(content)));
        }
        if active && let Some((key, segment)) = self.newest_in_flight(peer, path, limit) {
            let (len, content) = self.write_segment(key, &segment, out)?;
            return Some((len, Some(content)));
        }
        *out.first_mut()? = PADDING;
        Some((1, Some(Content::Padding)))
    }

    fn newest_in_flight(
        &mut self,
        peer: PeerIndex,
        path: PathId,
        limit: usize,
    ) -> Option<(Key, Segment)> {
        let frames = self.peers.path(peer, path)?.frames;
        let mut at = frames.back();
        for _ in 0..PROBE_LOOKBACK {
            let current = at?;
            at = frames.prev(&self.frames, current);
            let Content::Stream { key, offset, len, marks } = self.frames.get(current).content
            else {
                continue;
            };
            let Some(stream) = self.streams.get(key) else { continue };
            let snd = &stream.snd;
            let end = offset + u64::from(len);
            let start = offset.max(snd.una);
            let useful = marks.has(Marks::SYN) && snd.syn == Control::Sent
                || marks.has(Marks::FIN) && snd.fin == Control::Sent
                || start < end;
            if marks.has(Marks::PROBE) || marks.has(Marks::RST) || !useful || snd.abandoned {
                continue;
            }
            let whole = end.saturating_sub(start) as usize;
            let len = whole.min(limit - Header::LEN);
            // Cut short, it does not reach the FIN.
            let marks = if len < whole { Marks::default() } else { marks };
            return Some((key, Segment { offset: start.min(end), len, marks, repeat: true }));
        }
        None
    }

    fn write_acknowledgement(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        out: &mut [u8],
    ) -> Option<usize> {
        if out.len() < FD_MIN {
            return None;
        }
        let mut encoder = self.peers.ack_space(peer)?.encode(now, out)?;
        let record = self.peers.get_mut(peer)?;
        while encoder.has_room()
            && let Some(slot) = record.untold.pop_front(&mut self.streams, UNTOLD)
        {
            if let Some(key) = self.streams.key_at(slot as usize) {
                let stream = &mut self.streams[key];
                encoder.entry(Entry {
                    sender_port: stream.local,
                    receiver_port: stream.remote,
                    ack: stream.rcv.acknowledgement(),
                    window: stream.rcv.advertise(),
                });
            }
        }
        let len = encoder.finish();
        debug_assert_eq!(out[0], ack::ACKNOWLEDGEMENT);
        if !record.untold.is_empty()
            && let Some(space) = self.peers.ack_space(peer)
        {
            space.expedite(now);
        }
        Some(len)
    }
}

fn write_reset(
    out: &mut [u8],
    notice: &ResetNotice,
    local: Address,
    remote: Address,
) -> Option<usize> {
    let len = Header::LEN + 1;
    let (head, body) = out.get_mut(..len)?.split_at_mut(Header::LEN);
    let header = Header {
        flags: Flags::RST | Flags::ACK,
        protocol: Protocol::Stream,
        length: 1,
        source: Address::new(notice.network, local.node),
        destination: Address::new(notice.network, remote.node),
        source_port: notice.local,
        destination_port: notice.remote,
        sequence: notice.sequence,
        acknowledgement: notice.acknowledgement,
        window: 0,
        checksum: 0,
    };
    head.copy_from_slice(&header.to_bytes());
    body[0] = notice.code;
    Some(len)
}
