//! The record of one stream.

use super::StreamEnd;
use super::list::{Link, Linked};
use super::receive::ReceiveHalf;
use super::send::SendHalf;
use super::state::State;
use crate::addr::{NetworkId, Port};
use crate::path::PeerIndex;
use crate::slab::Slab;
use crate::time::Instant;

/// Lists through streams.
pub(crate) const SEND: usize = 0;
pub(crate) const OF_PEER: usize = 1;
/// Acknowledgement number or window are to be told.
pub(crate) const UNTOLD: usize = 2;
pub(crate) const EVENT: usize = 3;
pub(crate) const ACCEPT: usize = 4;
const LISTS: usize = 5;

/// Events that wait for [`super::Transport::poll_event`], as bits.
pub(crate) mod event {
    pub(crate) const OPENED: u8 = 1;
    pub(crate) const READABLE: u8 = 2;
    pub(crate) const WRITABLE: u8 = 4;
    pub(crate) const FINISHED: u8 = 8;
    pub(crate) const CLOSED: u8 = 16;
}

/// One stream. Opaque: a table of these is part of [`super::TransportStorage`].
#[derive(Debug)]
pub struct Stream {
    pub(crate) peer: PeerIndex,
    pub(crate) network: NetworkId,
    pub(crate) local: Port,
    pub(crate) remote: Port,
    pub(crate) state: State,
    pub(crate) end: Option<StreamEnd>,
    pub(crate) initiator: bool,
    /// Opened by a handshake that is not confirmed yet (`wire.md` 4.7).
    pub(crate) early: bool,
    /// It counts against the backlog of its local port.
    pub(crate) in_backlog: bool,
    /// The application has let go of it (or never had it).
    pub(crate) released: bool,
    /// A reset with this code is on its way; the record lives until it is acknowledged.
    pub(crate) resetting: Option<u8>,
    /// The finish was acknowledged, and the application told.
    pub(crate) told_finished: bool,
    pub(crate) snd: SendHalf,
    pub(crate) rcv: ReceiveHalf,
    pub(crate) events: u8,
    /// Next zero-window probe.
    pub(crate) persist_at: Option<Instant>,
    /// Next repetition of a reopened window, and how many there were.
    pub(crate) reopen_at: Option<Instant>,
    pub(crate) reopened: u8,
    /// End of TIME_WAIT, or of waiting: for the peer's FIN after the application left, for the
    /// acknowledgement of a SYN-ACK that rode in a RESP.
    pub(crate) linger_at: Option<Instant>,
    /// Next in the same hash bucket.
    pub(crate) hash_next: u32,
    pub(crate) links: [Link; LISTS],
}

impl Stream {
    pub(crate) fn new(
        now: Instant,
        peer: PeerIndex,
        network: NetworkId,
        local: Port,
        remote: Port,
        isn: u32,
        initiator: bool,
    ) -> Self {
        Stream {
            peer,
            network,
            local,
            remote,
            state: if initiator { State::SynSent } else { State::SynReceived },
            end: None,
            initiator,
            early: false,
            in_backlog: false,
            released: false,
            resetting: None,
            told_finished: false,
            snd: SendHalf::new(isn),
            rcv: ReceiveHalf::new(now),
            events: 0,
            persist_at: None,
            reopen_at: None,
            reopened: 0,
            linger_at: None,
            hash_next: u32::MAX,
            links: [Link::NONE; LISTS],
        }
    }

    /// The stream's own next timer.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        [self.persist_at, self.reopen_at, self.linger_at].into_iter().flatten().min()
    }

    /// Unsent or unacknowledged data, or a SYN or FIN that is.
    pub(crate) fn is_unanswered(&self) -> bool {
        use super::send::Control;
        self.resetting.is_some()
            || self.state != State::Closed
                && (self.snd.una < self.snd.end
                    || matches!(self.snd.syn, Control::Due | Control::Sent)
                    || matches!(self.snd.fin, Control::Due | Control::Sent))
    }
}

impl Linked for Slab<'_, Stream> {
    fn link(&mut self, slot: u32, which: usize) -> &mut Link {
        let key = self.key_at(slot as usize).expect("only living streams are in lists");
        &mut self[key].links[which]
    }

    fn link_ref(&self, slot: u32, which: usize) -> &Link {
        let key = self.key_at(slot as usize).expect("only living streams are in lists");
        &self[key].links[which]
    }
}
