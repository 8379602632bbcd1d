//! What the application asks for: opening, reading, writing, ending; and what it may know.

use super::congestion::CongestionControl;
use super::entry::{ACCEPT, EVENT, OF_PEER, Stream, event};
use super::send::{Control, SendHalf};
use super::state::{State, Step};
use super::{
    ConnectError, DatagramError, PathInfo, ReadError, ResetCode, StreamEnd, StreamId, StreamInfo,
    Transport, WriteError,
};
use crate::addr::{NetworkId, Port};
use crate::limits::{DATAGRAM_DEFAULT, ORPHAN_LINGER, OVERHEAD};
use crate::path::{PathId, PeerIndex};
use crate::port::{ListenError, ephemeral};
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::header::{Flags, Header};

impl Transport<'_> {
    // ---- opening ----

    /// Asks for a stream to `remote` at the peer. It is usable at once: what is written waits.
    /// The SYN goes out with the next frame, or in early data by [`Transport::syn_for_early`].
    ///
    /// # Errors
    /// [`ConnectError`]: unknown peer, or a table, the pool or the port range is exhausted.
    pub fn connect(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        remote: Port,
        network: NetworkId,
    ) -> Result<StreamId, ConnectError> {
        let now = self.see(now);
        if self.peers.get(peer).is_none() {
            return Err(ConnectError::UnknownPeer);
        }
        let mut draw = self.rng.fork("ephemeral port");
        let local = ephemeral(&mut draw, |port| {
            self.ports.is_listening(port) || self.find(peer, port, remote).is_some()
        })
        .ok_or(ConnectError::NoPort)?;
        let isn = self.rng.u32();
        let stream = Stream::new(now, peer, network, local, remote, isn, true);
        let key = self.insert_stream(stream).map_err(|table| {
            if table { ConnectError::TooManyStreams } else { ConnectError::NoMemory }
        })?;
        self.update_stream(now, key);
        Ok(StreamId(key))
    }

    /// The SYN of a stream that was just asked for, to ride in a handshake's early data
    /// (`wire.md` 4.7). It is sent in the session too unless the SYN-ACK comes before that.
    pub fn syn_for_early(&mut self, id: StreamId) -> Option<[u8; Header::LEN]> {
        let stream = self.streams.get(id.0)?;
        (stream.state == State::SynSent && !stream.released)
            .then(|| self.header(id.0, Flags::SYN, 0).to_bytes())
    }

    /// A stream of this peer whose SYN was never answered, for a handshake about to start.
    pub fn unanswered_syn(&self, peer: PeerIndex) -> Option<StreamId> {
        let record = self.peers.get(peer)?;
        let mut at = record.streams.front();
        while let Some(slot) = at {
            let key = self.streams.key_at(slot as usize)?;
            if self.streams[key].state == State::SynSent {
                return Some(StreamId(key));
            }
            at = record.streams.next(&self.streams, OF_PEER, slot);
        }
        None
    }

    /// Opens a port for streams.
    ///
    /// # Errors
    /// [`ListenError`]: in use, or `Limits::listeners` ports are open.
    pub fn listen(&mut self, port: Port) -> Result<(), ListenError> {
        self.ports.listen(port)
    }

    /// Closes a port for streams; what waits in its queue is reset.
    pub fn unlisten(&mut self, now: Instant, port: Port) {
        let now = self.see(now);
        while let Some(open) = self.ports.get_mut(port)
            && let Some(slot) = open.queue.pop_front(&mut self.streams, ACCEPT)
        {
            if let Some(key) = self.streams.key_at(slot as usize) {
                self.abort(now, key, ResetCode::Closed);
            }
        }
        self.ports.unlisten(port);
    }

    /// Opens a port for datagrams.
    ///
    /// # Errors
    /// [`ListenError`]: in use, or `Limits::listeners` ports are open.
    pub fn bind_datagram(&mut self, port: Port) -> Result<(), ListenError> {
        self.ports.bind(port)
    }

    /// Closes a port for datagrams.
    pub fn unbind_datagram(&mut self, port: Port) {
        self.ports.unbind(port);
    }

    /// The next stream that a peer has opened to this port.
    pub fn accept(&mut self, port: Port) -> Option<StreamId> {
        let slot = self.ports.get_mut(port)?.queue.pop_front(&mut self.streams, ACCEPT)?;
        let key = self.streams.key_at(slot as usize)?;
        self.leave_backlog(key);
        let stream = &mut self.streams[key];
        stream.released = false;
        if stream.rcv.available() > 0 || stream.rcv.finished {
            self.stream_event(key, event::READABLE);
        }
        Some(StreamId(key))
    }

    // ---- bytes ----

    /// Reads what has arrived in order; 0 is the end of the stream.
    ///
    /// # Errors
    /// [`ReadError::WouldBlock`] if nothing has arrived, otherwise how the stream ended.
    pub fn read(&mut self, now: Instant, id: StreamId, out: &mut [u8]) -> Result<usize, ReadError> {
        let now = self.see(now);
        let stream = self.streams.get_mut(id.0).ok_or(ReadError::Unknown)?;
        if stream.rcv.available() == 0 {
            return match stream.end {
                _ if stream.rcv.finished => Ok(0),
                Some(end) => Err(ReadError::Ended(end)),
                None => Err(ReadError::WouldBlock),
            };
        }
        let rtt = self.peers.rtt_min(stream.peer);
        let rtt = rtt.unwrap_or(Duration::from_millis(100));
        let (n, opened) = stream.rcv.read(now, &mut self.pool, rtt, out);
        if opened && stream.state.may_receive() {
            if stream.rcv.is_told_closed() && stream.reopened == 0 {
                self.repeat_window(now, id.0);
            } else {
                self.tell(now, id.0, true);
            }
        }
        Ok(n)
    }

    /// Writes what there is room for, at least one byte.
    ///
    /// # Errors
    /// [`WriteError::WouldBlock`] if there is no room, otherwise why there never will be.
    pub fn write(&mut self, now: Instant, id: StreamId, bytes: &[u8]) -> Result<usize, WriteError> {
        let now = self.see(now);
        let stream = self.streams.get_mut(id.0).ok_or(WriteError::Unknown)?;
        if let Some(end) = stream.end {
            return Err(WriteError::Ended(end));
        }
        if stream.snd.fin != Control::None {
            return Err(WriteError::Finished);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let path = self.peers.active_path(stream.peer);
        let blocks = SendHalf::blocks_for(path.map_or(0, |path| path.window()));
        let n = stream.snd.write(&mut self.pool, blocks, bytes);
        stream.snd.writer_waits = n < bytes.len();
        if n == 0 {
            return Err(WriteError::WouldBlock);
        }
        if !stream.links[super::entry::SEND].is_linked() {
            self.update_stream(now, id.0);
        }
        Ok(n)
    }

    /// Finishes our direction: a FIN follows the last byte.
    ///
    /// # Errors
    /// [`WriteError::Unknown`], or `Ended`; a second finish does nothing.
    pub fn finish(&mut self, now: Instant, id: StreamId) -> Result<(), WriteError> {
        let now = self.see(now);
        let stream = self.streams.get_mut(id.0).ok_or(WriteError::Unknown)?;
        if stream.snd.fin != Control::None {
            return Ok(());
        }
        if let Some(end) = stream.end {
            return Err(WriteError::Ended(end));
        }
        stream.snd.fin = Control::Due;
        self.step(now, id.0, Step::Finish);
        Ok(())
    }

    /// Gives the stream up: the peer gets a reset with this code.
    pub fn reset(&mut self, now: Instant, id: StreamId, code: ResetCode) {
        let now = self.see(now);
        if self.streams.get(id.0).is_some() {
            self.abort(now, id.0, code);
        }
    }

    /// The application lets go of the id. What was written is still sent and finished; if
    /// something unread has arrived or still arrives, the peer gets a reset.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        let now = self.see(now);
        let key = id.0;
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.released = true;
        stream.events = 0;
        self.drop_events(key);
        let stream = &mut self.streams[key];
        match stream.state {
            State::Closed if stream.resetting.is_some() => {
                stream.rcv.discard(&mut self.pool);
                stream.rcv.ring.close(&mut self.pool);
            }
            State::Closed => {
                stream.rcv.discard(&mut self.pool);
                stream.rcv.ring.close(&mut self.pool);
                self.streams.remove(key);
            }
            State::TimeWait => {
                stream.rcv.discard(&mut self.pool);
                stream.rcv.ring.close(&mut self.pool);
            }
            _ if stream.rcv.available() > 0 => self.abort(now, key, ResetCode::Aborted),
            State::FinWait2 => {
                stream.linger_at = Some(now + ORPHAN_LINGER);
                self.update_stream(now, key);
            }
            _ => {
                let _ = self.finish(now, id);
            }
        }
    }

    /// Ends a stream with a reset. The record stays until the reset is acknowledged.
    pub(crate) fn abort(&mut self, now: Instant, key: Key, code: ResetCode) {
        let stream = &mut self.streams[key];
        if stream.state == State::Closed || stream.state == State::TimeWait {
            return;
        }
        if stream.state == State::SynSent && stream.snd.syn == Control::Due || stream.early {
            // The peer has never heard of it, or only in a handshake that is not confirmed.
            return self.end_stream(now, key, StreamEnd::Aborted);
        }
        stream.resetting = Some(code.to_byte());
        stream.snd.reset_due = Some(code.to_byte());
        stream.state = stream.state.after(Step::Ended);
        stream.end = Some(StreamEnd::Aborted);
        (stream.persist_at, stream.reopen_at, stream.linger_at) = (None, None, None);
        stream.snd.abandon(&mut self.pool);
        if stream.released {
            stream.rcv.discard(&mut self.pool);
            stream.rcv.ring.close(&mut self.pool);
        }
        let (peer, local) = (stream.peer, stream.local);
        if let Some(record) = self.peers.get_mut(peer) {
            record.untold.remove(&mut self.streams, super::entry::UNTOLD, key.index() as u32);
        }
        self.leave_backlog(key);
        if let Some(open) = self.ports.get_mut(local) {
            open.queue.remove(&mut self.streams, ACCEPT, key.index() as u32);
        }
        self.stream_event(key, event::CLOSED);
        self.update_stream(now, key);
    }

    // ---- datagrams ----

    /// The most bytes that a datagram to this peer may have now.
    pub fn datagram_max(&self, peer: PeerIndex) -> usize {
        let path = self.peers.active_path(peer);
        usize::from(path.map_or(DATAGRAM_DEFAULT, |path| path.datagram)) - OVERHEAD
    }

    /// Queues a datagram. Of more than 64 waiting ones the oldest is dropped and counted.
    ///
    /// # Errors
    /// [`DatagramError`]: unknown peer, too large for the path, or no pool memory at all.
    pub fn send_datagram(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        to: Port,
        from: Port,
        network: NetworkId,
        payload: &[u8],
    ) -> Result<(), DatagramError> {
        self.see(now);
        let max = self.datagram_max(peer);
        let record = self.peers.get_mut(peer).ok_or(DatagramError::UnknownPeer)?;
        if payload.len() > max {
            return Err(DatagramError::TooLarge { max });
        }
        let dropped = record.datagrams.push(&mut self.pool, network, to, from, payload);
        let nothing_queued = record.datagrams.is_empty();
        for _ in 0..dropped {
            self.count(DropReason::DatagramQueue);
        }
        if nothing_queued {
            return Err(DatagramError::NoMemory);
        }
        self.touch(peer);
        Ok(())
    }

    // ---- what there is to know ----

    /// A stream's state.
    pub fn stream_info(&self, id: StreamId) -> Option<StreamInfo> {
        self.streams.get(id.0).map(|stream| StreamInfo {
            peer: stream.peer,
            network: stream.network,
            local_port: stream.local,
            remote_port: stream.remote,
            state: stream.state,
            initiator: stream.initiator,
            written: stream.snd.end,
            acknowledged: stream.snd.una,
            received: stream.rcv.nxt,
            read: stream.rcv.read,
            send_window: stream.snd.edge.saturating_sub(stream.snd.nxt),
            receive_window: stream.rcv.edge.saturating_sub(stream.rcv.nxt),
            end: stream.end,
        })
    }

    /// Whether everything written, and the finish if there was one, has arrived; so it has for
    /// a stream that is gone. If not, an event tells when it has: `Writable`, or `Finished`.
    pub fn is_acknowledged(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(id.0) else { return true };
        let finish = matches!(stream.snd.fin, Control::None | Control::Acknowledged);
        let all = finish && stream.snd.una == stream.snd.end;
        stream.snd.ack_waits = !all && stream.end.is_none();
        all
    }

    /// All streams, in slot order.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, StreamInfo)> {
        self.streams.iter().filter_map(|(key, _)| {
            let id = StreamId(key);
            self.stream_info(id).map(|info| (id, info))
        })
    }

    /// A path's state.
    pub fn path_info(&self, peer: PeerIndex, path: PathId) -> Option<PathInfo> {
        let path = self.peers.path(peer, path)?;
        Some(PathInfo {
            rtt: path.rtt.smoothed(),
            rtt_min: path.rtt.min(),
            window: path.congestion.window(),
            flight: path.flight,
            rate: path.rate,
            lost: path.lost_frames,
            datagram: path.datagram,
            suspect: path.suspect,
        })
    }

    /// Smoothed round trip of a path.
    pub fn srtt(&self, peer: PeerIndex, path: PathId) -> Option<Duration> {
        self.path_info(peer, path)?.rtt
    }

    /// How many streams with this peer are not over (lingering ones included).
    pub fn open_streams(&self, peer: PeerIndex) -> usize {
        self.peers.get(peer).map_or(0, |record| record.streams.len() as usize)
    }

    /// Whether something waits that needs a session: a segment, a datagram, a reset.
    pub fn wants_session(&self, peer: PeerIndex) -> bool {
        self.peers.get(peer).is_some_and(|record| {
            !record.send.is_empty() || !record.datagrams.is_empty() || !record.resets.is_empty()
        })
    }

    /// The path on which new frames go.
    pub fn active_path(&self, peer: PeerIndex) -> Option<PathId> {
        self.peers.get(peer)?.active
    }

    /// Blocks of the pool: in use, unreserved, all.
    pub fn pool_blocks(&self) -> (u32, u32, u32) {
        (self.pool.taken(), self.pool.unreserved(), self.pool.blocks())
    }

    pub(crate) fn drop_events(&mut self, key: Key) {
        self.stream_events.remove(&mut self.streams, EVENT, key.index() as u32);
    }
}
