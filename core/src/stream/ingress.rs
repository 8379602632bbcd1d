//! Inner packets in: segments and datagrams.

use super::entry::{ACCEPT, Stream, event};
use super::frame::ResetNotice;
use super::send::Control;
use super::state::{State, Step};
use super::{PacketOutcome, ResetCode, StreamEnd, Transport};
use crate::addr::SocketAddress;
use crate::limits::BLOCKS_GUARANTEED;
use crate::path::PeerIndex;
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::Instant;
use crate::wire::header::{Flags, Header, Protocol};

impl PacketOutcome {
    const ACCEPTED: PacketOutcome =
        PacketOutcome { accepted: true, immediate: false, datagram: None, dropped: None };

    /// Nothing became of it, and nothing would if it came again.
    const fn ignored(reason: DropReason) -> Self {
        PacketOutcome { dropped: Some(reason), ..PacketOutcome::ACCEPTED }
    }

    /// There was no room for it: it is not acknowledged, so it comes again.
    const fn refused(reason: DropReason) -> Self {
        PacketOutcome { accepted: false, ..PacketOutcome::ignored(reason) }
    }
}

impl Transport<'_> {
    /// Takes an inner packet from a frame whose tag was good. `permitted`: the grant's rights
    /// cover the destination port (asked only for a SYN and a datagram). `streams_ok`: the
    /// session may still carry segments (`wire.md` 4.9, `prev`).
    pub fn handle_packet(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        header: &Header,
        payload: &[u8],
        permitted: bool,
        streams_ok: bool,
    ) -> PacketOutcome {
        let now = self.see(now);
        let Some(record) = self.peers.get(peer) else {
            return PacketOutcome::refused(DropReason::WrongAddress);
        };
        if header.source.node != record.remote.node
            || header.destination.node != record.local.node
            || header.source.network != header.destination.network
        {
            return PacketOutcome::ignored(DropReason::WrongAddress);
        }
        match header.protocol {
            Protocol::Stream if streams_ok => {
                self.handle_segment(now, peer, header, payload, permitted)
            }
            Protocol::Stream => PacketOutcome::refused(DropReason::Expired),
            Protocol::Datagram => self.handle_datagram_packet(header, permitted),
            Protocol::Control => PacketOutcome::ignored(DropReason::UnknownControl),
        }
    }

    fn handle_datagram_packet(&self, header: &Header, permitted: bool) -> PacketOutcome {
        if !permitted {
            return PacketOutcome::ignored(DropReason::NotPermitted);
        }
        if !self.ports.takes_datagrams(header.destination_port) {
            return PacketOutcome::ignored(DropReason::NoListener);
        }
        let from = SocketAddress { address: header.source, port: header.source_port };
        PacketOutcome { datagram: Some((from, header.destination_port)), ..PacketOutcome::ACCEPTED }
    }

    fn handle_segment(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        header: &Header,
        payload: &[u8],
        permitted: bool,
    ) -> PacketOutcome {
        let (local, remote) = (header.destination_port, header.source_port);
        let Some(record) = self.peers.get_mut(peer) else {
            return PacketOutcome::refused(DropReason::WrongAddress);
        };
        let key = match record.last {
            Some((l, r, key)) if l == local && r == remote => Some(key),
            _ => {
                let key = self.find(peer, local, remote);
                if let Some(record) = self.peers.get_mut(peer) {
                    record.last = key.map(|key| (local, remote, key));
                }
                key
            }
        };
        let Some(key) = key else {
            return self.handle_stray(now, peer, header, permitted);
        };
        if header.flags.has(Flags::SYN) {
            return self.handle_syn_again(now, key, header, payload, permitted);
        }
        match self.streams[key].state {
            State::SynSent => self.handle_unsynchronized(now, key, header, payload),
            // Both ends have reset it: neither has to be told, and refusing the other's reset
            // would have both repeat theirs for ever.
            State::Closed if header.flags.has(Flags::RST) => {
                self.end_stream(now, key, StreamEnd::Aborted);
                PacketOutcome { immediate: true, ..PacketOutcome::ACCEPTED }
            }
            // We have reset it, and the reset is on its way.
            State::Closed => PacketOutcome::refused(DropReason::OutOfWindow),
            _ => self.handle_established(now, key, header, payload),
        }
    }

    // ---- no such stream ----

    fn handle_stray(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        header: &Header,
        permitted: bool,
    ) -> PacketOutcome {
        if header.flags.has(Flags::RST) {
            return PacketOutcome::ignored(DropReason::OutOfWindow);
        }
        if header.flags.has(Flags::SYN) && header.flags.has(Flags::ACK) {
            return self.refuse_answer(peer, header);
        }
        if !header.flags.has(Flags::SYN) {
            return self.answer_reset(peer, header, ResetCode::Closed, DropReason::OutOfWindow);
        }
        let refusal = match self.open_inbound(now, peer, header, permitted, false) {
            Ok(key) => {
                self.update_stream(now, key);
                return PacketOutcome::ACCEPTED;
            }
            Err(refusal) => refusal,
        };
        let reason = match refusal {
            ResetCode::NotPermitted => DropReason::NotPermitted,
            ResetCode::Busy => DropReason::Full,
            _ => DropReason::NoListener,
        };
        self.answer_reset(peer, header, refusal, reason)
    }

    /// Half-open: nothing of it is visible before our SYN is acknowledged.
    fn open_inbound(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        header: &Header,
        permitted: bool,
        early: bool,
    ) -> Result<Key, ResetCode> {
        let (local, remote) = (header.destination_port, header.source_port);
        if !permitted {
            return Err(ResetCode::NotPermitted);
        }
        if !self.ports.is_listening(local) {
            return Err(ResetCode::Closed);
        }
        let Some(record) = self.peers.get(peer) else { return Err(ResetCode::Closed) };
        let (opened, waiting) = (record.opened as usize, record.waiting);
        // What a peer opens may not be more than it leaves to all others: streams, memory, and
        // places in the queue.
        let places = self.streams.capacity() - self.streams.len();
        let memory = self.pool.share_left(Some(peer.0)) >= BLOCKS_GUARANTEED as u32;
        if opened > 0 && (opened + 2 > places || !memory) || !self.ports.admit(local, waiting) {
            return Err(ResetCode::Busy);
        }
        let isn = self.rng.u32();
        let network = header.destination.network;
        let mut stream = Stream::new(now, peer, network, local, remote, isn, false);
        stream.early = early;
        stream.in_backlog = true;
        stream.released = true;
        stream.rcv.irs = header.sequence;
        stream.snd.on_window(0, header.window);
        (stream.rcv.ring.account, stream.snd.ring.account) = (Some(peer.0), Some(peer.0));
        let key = self.insert_stream(stream).map_err(|_| {
            self.ports.leave(local);
            ResetCode::Busy
        })?;
        if let Some(record) = self.peers.get_mut(peer) {
            record.opened += 1;
            record.waiting += 1;
        }
        Ok(key)
    }

    /// Queues a reset for a segment that belongs to no stream.
    fn answer_reset(
        &mut self,
        peer: PeerIndex,
        header: &Header,
        code: ResetCode,
        reason: DropReason,
    ) -> PacketOutcome {
        let span = u32::from(header.length)
            + u32::from(header.flags.has(Flags::SYN))
            + u32::from(header.flags.has(Flags::FIN));
        let notice = ResetNotice {
            network: header.destination.network,
            local: header.destination_port,
            remote: header.source_port,
            sequence: if header.flags.has(Flags::ACK) { header.acknowledgement } else { 0 },
            acknowledgement: header.sequence.wrapping_add(span),
            code: code.to_byte(),
        };
        let Some(record) = self.peers.get_mut(peer) else {
            return PacketOutcome::refused(reason);
        };
        if record.resets.push_back(notice).is_err() {
            return PacketOutcome::refused(DropReason::Full);
        }
        self.touch(peer);
        PacketOutcome::ignored(reason)
    }

    /// Resets a SYN-ACK that answers nothing of ours. Its frame is not acknowledged: that would
    /// say that the SYN is.
    fn refuse_answer(&mut self, peer: PeerIndex, header: &Header) -> PacketOutcome {
        let reason = DropReason::OutOfWindow;
        PacketOutcome {
            accepted: false,
            ..self.answer_reset(peer, header, ResetCode::Closed, reason)
        }
    }

    // ---- early data (wire.md 4.7) ----

    /// The SYN that rode in an INIT: makes a half-open stream that stays invisible until
    /// [`Transport::early_confirmed`], and returns the SYN-ACK for the RESP. `None` if there is
    /// to be none; the peer's SYN then comes again in the session and is answered there.
    pub fn handle_early_syn(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        header: &Header,
        permitted: bool,
    ) -> Option<[u8; Header::LEN]> {
        let now = self.see(now);
        let record = self.peers.get(peer)?;
        let well_formed = header.protocol == Protocol::Stream
            && header.flags == Flags::SYN
            && header.length == 0
            && header.source.node == record.remote.node
            && header.destination.node == record.local.node
            && header.source.network == header.destination.network;
        if !well_formed {
            return None;
        }
        let key = match self.find(peer, header.destination_port, header.source_port) {
            Some(key) => {
                let stream = &self.streams[key];
                (stream.early && stream.rcv.irs == header.sequence).then_some(key)?
            }
            None => self.open_inbound(now, peer, header, permitted, true).ok()?,
        };
        Some(self.header(key, Flags::SYN | Flags::ACK, 0).to_bytes())
    }

    /// The SYN-ACK that rode in a RESP. No frame brought it, so a segment acknowledges it.
    pub fn handle_early_syn_ack(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        header: &Header,
    ) -> PacketOutcome {
        let outcome = self.handle_packet(now, peer, header, b"", true, true);
        if let Some(key) = self.find(peer, header.destination_port, header.source_port) {
            let stream = &mut self.streams[key];
            if stream.initiator && stream.rcv.irs == header.sequence {
                stream.snd.ack_due = true;
                self.update_stream(self.now, key);
            }
        }
        outcome
    }

    /// The session whose INIT carried early data is confirmed: the peer has our SYN-ACK. Whether
    /// it wants the stream, its acknowledgement says: a late INIT may ask for one that is over.
    pub fn early_confirmed(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        let wait = self.peers.get(peer).map(|_| self.peers.rto(peer));
        self.for_each_stream(peer, |this, key| {
            let stream = &mut this.streams[key];
            if core::mem::take(&mut stream.early) {
                stream.snd.syn = Control::Sent;
                stream.linger_at = wait.map(|wait| now + wait);
                this.update_stream(now, key);
            }
        });
    }

    /// The handshake came to nothing: so do the streams that its INIT asked for.
    pub fn early_discarded(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        self.for_each_stream(peer, |this, key| {
            if this.streams[key].early {
                this.end_stream(now, key, StreamEnd::Removed);
            }
        });
    }

    // ---- a stream that is known ----

    /// Our SYN is acknowledged and we have the peer's.
    pub(crate) fn establish(&mut self, now: Instant, key: Key) {
        let stream = &mut self.streams[key];
        stream.snd.syn = Control::Acknowledged;
        (stream.early, stream.linger_at) = (false, None);
        let (initiator, local) = (stream.initiator, stream.local);
        if initiator {
            self.stream_event(key, event::OPENED);
        } else if let Some(open) = self.ports.get_mut(local) {
            open.queue.push_back(&mut self.streams, ACCEPT, key.index() as u32);
            self.ports.announce(local);
        } else {
            // Nobody listens any more: it would wait for its accept for ever.
            self.step(now, key, Step::SynAcknowledged);
            return self.abort(now, key, ResetCode::Closed);
        }
        self.step(now, key, Step::SynAcknowledged);
        if self.streams[key].snd.fin != Control::None {
            self.step(now, key, Step::Finish);
        }
    }

    fn handle_syn_again(
        &mut self,
        now: Instant,
        key: Key,
        header: &Header,
        payload: &[u8],
        permitted: bool,
    ) -> PacketOutcome {
        let stream = &mut self.streams[key];
        let peer = stream.peer;
        if header.flags.has(Flags::ACK) {
            if stream.state == State::SynSent {
                return self.handle_unsynchronized(now, key, header, payload);
            }
            if !stream.initiator || stream.rcv.irs != header.sequence {
                return self.refuse_answer(peer, header);
            }
            // Our answer to it was lost, or it is a copy: the acknowledgement says so again.
            self.tell(now, key, true);
            return PacketOutcome { immediate: true, ..PacketOutcome::ACCEPTED };
        }
        let same = stream.rcv.irs == header.sequence && !stream.initiator;
        match stream.state {
            // It asks again: our answer went another way (early data), or was lost.
            State::SynReceived | State::Established
                if same && stream.rcv.nxt == 0 && stream.snd.una == 0 =>
            {
                stream.early = false;
                stream.snd.syn = Control::Due;
                self.update_stream(now, key);
                PacketOutcome::ACCEPTED
            }
            State::Closed => PacketOutcome::refused(DropReason::OutOfWindow),
            // A new stream between the same ports; the old one only lingered (RFC 9293 3.10.7.4).
            State::TimeWait if !same => {
                self.end_stream(now, key, StreamEnd::Finished);
                self.handle_stray(now, peer, header, permitted)
            }
            State::SynSent => {
                self.answer_reset(peer, header, ResetCode::Closed, DropReason::OutOfWindow)
            }
            // A stale copy (W-T12): our numbers tell it.
            _ if same => {
                self.tell(now, key, true);
                PacketOutcome::ignored(DropReason::OutOfWindow)
            }
            // The peer has forgotten our stream: it resets a segment with our numbers, and its
            // SYN comes again (RFC 9293 3.5.1).
            _ => {
                stream.snd.ack_due = true;
                stream.snd.restart_syn();
                self.update_stream(now, key);
                PacketOutcome::refused(DropReason::OutOfWindow)
            }
        }
    }

    /// We have asked, and this may be the answer.
    fn handle_unsynchronized(
        &mut self,
        now: Instant,
        key: Key,
        header: &Header,
        payload: &[u8],
    ) -> PacketOutcome {
        let stream = &mut self.streams[key];
        let peer = stream.peer;
        let ours = header.flags.has(Flags::ACK) && header.acknowledgement == stream.snd.sequence(0);
        if header.flags.has(Flags::RST) {
            if !ours {
                return PacketOutcome::ignored(DropReason::OutOfWindow);
            }
            let code =
                payload.first().map_or(ResetCode::Closed, |code| ResetCode::from_byte(*code));
            return self.handle_reset(now, key, code);
        }
        if !header.flags.has(Flags::ACK) {
            return PacketOutcome::refused(DropReason::OutOfWindow);
        }
        if !ours {
            if header.flags.has(Flags::SYN) {
                // A stale one (W-T12).
                return self.refuse_answer(peer, header);
            }
            return self.answer_reset(peer, header, ResetCode::Closed, DropReason::OutOfWindow);
        }
        if !header.flags.has(Flags::SYN) {
            // Overtook the SYN-ACK: comes again.
            return PacketOutcome::refused(DropReason::OutOfWindow);
        }
        stream.rcv.irs = header.sequence;
        stream.snd.on_window(0, header.window);
        self.establish(now, key);
        self.tell(now, key, false);
        PacketOutcome { immediate: true, ..PacketOutcome::ACCEPTED }
    }

    fn handle_reset(&mut self, now: Instant, key: Key, code: ResetCode) -> PacketOutcome {
        self.end_stream(now, key, StreamEnd::Reset(code));
        PacketOutcome { immediate: true, ..PacketOutcome::ACCEPTED }
    }

    fn handle_established(
        &mut self,
        now: Instant,
        key: Key,
        header: &Header,
        payload: &[u8],
    ) -> PacketOutcome {
        if header.flags.has(Flags::RST) {
            if !self.streams[key].rcv.is_in_window(header.sequence) {
                return PacketOutcome::ignored(DropReason::OutOfWindow);
            }
            let code =
                payload.first().map_or(ResetCode::Aborted, |code| ResetCode::from_byte(*code));
            let stream = &self.streams[key];
            let ended = matches!(stream.state, State::Closing | State::LastAck | State::TimeWait);
            if code == ResetCode::Closed && ended && stream.snd.una == stream.snd.end {
                // Both directions had ended and all data had arrived: the peer has forgotten the
                // stream, and only what acknowledged our FIN was lost.
                self.end_stream(now, key, StreamEnd::Finished);
                return PacketOutcome { immediate: true, ..PacketOutcome::ACCEPTED };
            }
            return self.handle_reset(now, key, code);
        }
        if !header.flags.has(Flags::ACK) {
            return PacketOutcome::ignored(DropReason::Malformed);
        }
        let Some(acked) = self.streams[key].snd.offset_of_ack(header.acknowledgement) else {
            // It acknowledges what was never sent (W-T9): nothing of it is believed.
            return PacketOutcome::refused(DropReason::OutOfWindow);
        };
        let stream = &mut self.streams[key];
        if stream.state == State::SynReceived {
            if stream.early {
                // The confirmation may also tell that the peer has restarted, which comes first.
                return PacketOutcome::refused(DropReason::OutOfWindow);
            }
            let known = header.acknowledgement == stream.snd.sequence(0);
            if !known {
                // Of a stream that is over here (RFC 9293 3.10.7.4).
                let peer = stream.peer;
                return self.answer_reset(peer, header, ResetCode::Closed, DropReason::OutOfWindow);
            }
            self.establish(now, key);
        }
        self.handle_stream_ack(now, key, acked, header.window);
        // The acknowledgement may have ended the stream.
        if self.streams.get(key).is_none_or(|stream| stream.state == State::Closed) {
            return PacketOutcome::ACCEPTED;
        }
        let fin = header.flags.has(Flags::FIN);
        if payload.is_empty() && !fin {
            return PacketOutcome { immediate: true, ..PacketOutcome::ACCEPTED };
        }
        self.handle_content(now, key, header, payload, fin)
    }

    fn handle_content(
        &mut self,
        now: Instant,
        key: Key,
        header: &Header,
        payload: &[u8],
        fin: bool,
    ) -> PacketOutcome {
        let stream = &mut self.streams[key];
        if stream.released
            && !stream.in_backlog
            && !payload.is_empty()
            && stream.state.may_receive()
        {
            // Nobody will read it.
            self.abort(now, key, ResetCode::Aborted);
            return PacketOutcome::ACCEPTED;
        }
        let taken = stream.rcv.take(&mut self.pool, header.sequence, payload, fin);
        if !taken.accepted {
            return PacketOutcome::refused(DropReason::OutOfWindow);
        }
        if taken.readable {
            // Data arrived after a reopened window: no need to repeat it.
            if stream.reopened > 0 {
                (stream.reopened, stream.reopen_at) = (0, None);
            }
            self.stream_event(key, event::READABLE);
        }
        if taken.finished {
            self.step(now, key, Step::FinReceived);
        }
        if self.streams.get(key).is_some_and(|stream| stream.state != State::Closed) {
            self.tell(now, key, false);
        }
        PacketOutcome { immediate: taken.immediate, ..PacketOutcome::ACCEPTED }
    }
}
