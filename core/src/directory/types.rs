//! What goes into a [`Directory`](super::Directory) and comes out of it.

use super::answer::RequestId;
use super::beacon::ChannelSlot;
use super::requests::RequestSlot;
use crate::addr::Address;
use crate::crypto::IdentityKey;
use crate::crypto::task::NotSigned;
use crate::path::{ChannelId, PeerIndex};
use crate::session::index::IndexCell;
use crate::slab::Store;
use crate::stats::DropReason;
use crate::trust::{IncomingSlot, OutgoingSlot, PeerSlot, TrustEvent};
use crate::wire::control::BeaconError;

/// How the link to the registry and beacon stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Registered, and the beacon answers.
    Online,
    /// One of them does not.
    Offline,
}

/// What a directory is told at construction besides its stored state.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The registry's Ed25519 key, if it was given with its address.
    pub registry_key: Option<IdentityKey>,
    /// Refuse a registry whose key is neither given nor pinned.
    pub forbid_first_use: bool,
    /// Take the identity over from another home (`wire.md` 10).
    pub takeover: bool,
}

/// Why the directory did not take a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// No agent can have this address, or it is our own.
    #[error("not another agent's address")]
    BadAddress,
    /// We have no address yet.
    #[error("not registered yet")]
    NotRegistered,
    /// A table is full; try again later.
    #[error("too many at once")]
    Full,
    /// There is no such request or peer.
    #[error("there is no such thing")]
    NotFound,
    /// This identity runs elsewhere now.
    #[error("another home has taken this identity over")]
    Fenced,
}

/// Why nothing of a task was signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// No registry is known yet for which it would count.
    #[error("not registered yet")]
    NotRegistered,
    /// This identity runs elsewhere now.
    #[error("another home has taken this identity over")]
    Fenced,
    /// It is not ours to sign.
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
}

/// An edge. After each, look at the object it names; several may have been coalesced. What
/// concerns node and owner alike is told to each of them, by
/// [`Directory::poll_change`](super::Directory::poll_change) and
/// [`Directory::poll_event`](super::Directory::poll_event).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirectoryEvent {
    /// Connect to the registry (TCP), then `handle_open`, or `handle_close` if that failed.
    Dial,
    /// Close the registry connection, then `handle_close`.
    Close,
    /// The registry connection has bytes to send: `poll_bytes`.
    Bytes,
    /// Durable state changed: `poll_store`.
    Store,
    /// First contact: this registry key was taken and pinned. Show its fingerprint once.
    RegistryPinned(IdentityKey),
    /// The registry shows another key than the pinned one. Nothing is sent to it.
    RegistryKeyChanged {
        /// What we trust.
        pinned: IdentityKey,
        /// What it shows.
        shown: IdentityKey,
    },
    /// The registry's key is neither given nor pinned, and first use is forbidden.
    RegistryUnknown(IdentityKey),
    /// The registry gave or confirmed our address; see [`Directory::record`](super::Directory::record). Again when the
    /// record changed (tunnel key rotated, grant epoch raised).
    Registered(Address),
    /// The link to the rendezvous server changed.
    LinkChanged(LinkState),
    /// Our clock and the registry's differ by more than an hour (seconds, theirs less ours).
    ClockSkew(i64),
    /// What the beacon tells about us has changed, or whether it answers. For the node alone.
    BeaconChanged,
    /// This identity runs elsewhere: nothing is sent any more.
    Fenced,
    /// A request was answered or failed: [`Directory::answer`](super::Directory::answer).
    Answered(RequestId),
    /// A relay channel is up, or its observed endpoint was told anew:
    /// [`Directory::channel`](super::Directory::channel).
    ChannelUp(PeerIndex),
    /// A relay channel is gone.
    ChannelDown {
        /// Its id was this.
        channel: ChannelId,
        /// And its other end this; perhaps removed meanwhile.
        peer: PeerIndex,
    },
    /// The beacon refused a channel; `Offline` and `Quota` are tried again until
    /// [`Directory::unbind`](super::Directory::unbind).
    ChannelRefused(PeerIndex, BeaconError),
    /// The beacon has answered nothing for 20 s although it was asked, or again for twice as
    /// long as before, up to 5 min: perhaps it is our socket that is dead.
    BeaconSilent,
    /// A change of trust.
    Trust(TrustEvent),
}

/// What became of a datagram from the beacon's address.
#[must_use = "a relayed packet is in here"]
#[derive(Debug)]
pub enum Inbound<'b> {
    /// It was for the directory itself.
    Handled,
    /// It was not accepted, and was counted.
    Dropped(DropReason),
    /// A packet of the tunnel that came over a relay channel of ours.
    Relayed {
        /// The channel.
        channel: ChannelId,
        /// The peer at its other end; only its handshakes are accepted on it.
        peer: PeerIndex,
        /// The packet, in place.
        packet: &'b mut [u8],
    },
}

/// The memory of a [`Directory`](super::Directory); every bound of it is a length here.
#[derive(Debug)]
pub struct Storage<'s> {
    /// Trusted and leaving peers.
    pub peers: Store<'s, PeerSlot>,
    /// As many numbers as `peers`.
    pub nodes: Store<'s, u32>,
    /// Our requests for trust.
    pub outgoing: Store<'s, OutgoingSlot>,
    /// Requests of others.
    pub incoming: Store<'s, IncomingSlot>,
    /// Requests to the registry.
    pub requests: Store<'s, RequestSlot>,
    /// [`REQUEST_BYTES_MIN`](super::REQUEST_BYTES_MIN) for each request at least; [`ANSWER_BYTES`](super::ANSWER_BYTES) hold every answer.
    pub answers: Store<'s, u8>,
    /// Relay channels.
    pub channels: Store<'s, ChannelSlot>,
    /// `IndexTable::cells_for` the channels.
    pub channel_index: Store<'s, IndexCell>,
    /// [`LINK_BYTES`](super::LINK_BYTES).
    pub receive: Store<'s, u8>,
    /// [`LINK_BYTES`](super::LINK_BYTES).
    pub send: Store<'s, u8>,
}

#[cfg(feature = "alloc")]
impl Storage<'static> {
    /// Boxed storage of these limits.
    pub fn boxed(limits: &crate::limits::Limits) -> Self {
        use super::{ANSWER_BYTES, LINK_BYTES};
        use crate::session::index::IndexTable;
        let cells = IndexTable::cells_for(limits.channels);
        Storage {
            peers: Store::<PeerSlot>::growing(limits.peers),
            nodes: Store::<u32>::boxed_with(limits.peers, || 0),
            outgoing: Store::<OutgoingSlot>::boxed_with(limits.trust_requests, OutgoingSlot::empty),
            incoming: Store::<IncomingSlot>::boxed_with(limits.trust_requests, IncomingSlot::empty),
            requests: Store::<RequestSlot>::boxed_with(limits.requests, RequestSlot::empty),
            answers: Store::boxed_zeroed(limits.requests * ANSWER_BYTES),
            channels: Store::<ChannelSlot>::boxed_with(limits.channels, ChannelSlot::empty),
            channel_index: Store::<IndexCell>::boxed_with(cells, IndexCell::empty),
            receive: Store::boxed_zeroed(LINK_BYTES),
            send: Store::boxed_zeroed(LINK_BYTES),
        }
    }
}
