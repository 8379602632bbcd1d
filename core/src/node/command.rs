//! What the owner of a node asks of it, and how each request can fail at once.

use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::crypto::task::Receipt;
use crate::directory::{RequestId, Target};
use crate::machine::SocketId;
use crate::name::{Hostname, Justification, Tags};
use crate::stream::StreamId;
use crate::time::UnixTime;
use crate::trust::Permissions;
use core::net::SocketAddr;

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Target::Address(address)
    }
}

impl From<Hostname> for Target {
    fn from(name: Hostname) -> Self {
        Target::Hostname(name)
    }
}

/// Which paths to peers may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathPolicy {
    /// Direct where possible, else the relay.
    #[default]
    Auto,
    /// Never the relay.
    Direct,
    /// Nothing but the relay.
    Relay,
}

/// A request of the owner.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Command<'a> {
    /// The local interface addresses, each with the UDP port of the main socket: the host
    /// candidates. Given at the start and whenever they change.
    NetworkChanged {
        /// At most 16 are used.
        locals: &'a [SocketAddr],
    },
    /// The beacon's UDP address, as the adapter resolved it; again whenever it changes.
    SetBeacon {
        /// Where the beacon is.
        address: SocketAddr,
    },
    /// The socket of an [`super::Event::OpenSocket`] cannot be had. Its id is free again.
    SocketFailed {
        /// Which.
        socket: SocketId,
    },
    /// The wall clock was stepped, or the machine was suspended and has resumed: every session
    /// does a fresh handshake before it sends again (`wire.md` 8).
    ClockChanged {
        /// What the wall clock shows now.
        unix: UnixTime,
    },
    /// Mixes fresh entropy of the operating system into the generator, from which ephemeral
    /// keys come (`wire.md` 8): often while the node runs, and before [`Command::ClockChanged`],
    /// since of a machine that was copied there are two with the same generator.
    Reseed {
        /// Random.
        entropy: [u8; 32],
    },
    /// Opens a stream. Fails with [`CommandError::NotTrusted`] without asking anybody if we
    /// hold no grant. Yields [`Reply::Stream`]; [`super::Event::StreamOpened`] or
    /// [`super::Event::StreamClosed`] follows.
    Connect {
        /// Which agent; its network is the one the stream speaks in.
        to: Address,
        /// Its port.
        port: Port,
    },
    /// Accepts streams on a port.
    Listen {
        /// The port; 0 lets the node choose a free registered one.
        port: Port,
    },
    /// No longer accepts streams on a port; queued ones are reset.
    Unlisten {
        /// The port.
        port: Port,
    },
    /// Accepts datagrams on a port; they come out of `handle_datagram`.
    BindDatagrams {
        /// The port; 0 lets the node choose an ephemeral one.
        port: Port,
    },
    /// No longer accepts datagrams on a port.
    UnbindDatagrams {
        /// The port.
        port: Port,
    },
    /// Sends one unreliable datagram.
    SendDatagram {
        /// The receiver.
        to: SocketAddress,
        /// Our port.
        from: Port,
        /// At most the path's datagram size less 62 bytes.
        payload: &'a [u8],
    },
    /// Joins a network (`wire.md` 1). Yields [`Reply::Request`].
    Join {
        /// 1 to 65535.
        network: NetworkId,
    },
    /// Leaves a network. Yields [`Reply::Request`].
    Leave {
        /// 1 to 65535.
        network: NetworkId,
    },
    /// Takes a hostname in a network. Yields [`Reply::Request`].
    SetHostname {
        /// The name.
        name: Hostname,
        /// Default: the lowest joined non-zero network, else 0.
        network: Option<NetworkId>,
    },
    /// Gives the hostname back. Yields [`Reply::Request`].
    ClearHostname {
        /// Default as for [`Command::SetHostname`].
        network: Option<NetworkId>,
    },
    /// Whether strangers may find us. Yields [`Reply::Request`].
    SetVisibility {
        /// Public, or (the default) private.
        public: bool,
    },
    /// Replaces our tags. Yields [`Reply::Request`].
    SetTags {
        /// At most 16.
        tags: Tags,
    },
    /// Asks for an agent's address, names and tags; presents a grant if we hold one. Yields
    /// [`Reply::Request`].
    Resolve {
        /// Whom.
        target: Target,
        /// Default as for [`Command::SetHostname`].
        network: Option<NetworkId>,
    },
    /// Asks for public agents with all of these tags. Yields [`Reply::Request`].
    Discover {
        /// All of which an agent must have.
        tags: Tags,
        /// Default as for [`Command::SetHostname`].
        network: Option<NetworkId>,
        /// From the page before, 0 at first.
        cursor: u64,
    },
    /// Hands in the receipt of a finished task of ours, as submitter or worker. It may be
    /// repeated, and counts once. Yields [`Reply::Request`].
    SubmitReceipt {
        /// Signed by both sides.
        receipt: &'a Receipt,
    },
    /// Asks for an agent's reputation; presents a grant if we hold one. Yields
    /// [`Reply::Request`].
    Reputation {
        /// Whose; our own address is allowed.
        of: Address,
    },
    /// Asks an agent for trust. Yields [`Reply::Done`]: the request is pending; an answer comes
    /// as [`super::Event::TrustGranted`] or [`super::Event::TrustRefused`].
    RequestTrust {
        /// Any well-formed address.
        to: Address,
        /// Shown to the other side as quoted, hostile text.
        justification: Justification,
    },
    /// Grants a pending request.
    ApproveTrust {
        /// Who asked.
        from: Address,
        /// What it may do here.
        permissions: Permissions,
    },
    /// Changes what a trusted agent may do here, at once: streams that it has opened to ports
    /// which it may reach no more are reset, and it is told its new rights.
    SetPermissions {
        /// Whose.
        peer: Address,
        /// All that it may do from now on.
        permissions: Permissions,
    },
    /// Refuses a pending request.
    RefuseTrust {
        /// Who asked.
        from: Address,
    },
    /// Ends trust in an agent: its sessions, streams, grants and channel.
    RevokeTrust {
        /// Who is no longer trusted.
        peer: Address,
    },
    /// Where a trusted peer can be reached, as the owner knows it: from a configuration, a
    /// cable, a discovery of its own. So trusted agents meet without a rendezvous. It is tried
    /// first and not stored; of more than four the last one goes, and the registry's next word
    /// on the peer replaces them all. An address that no peer can have is never tried.
    SetPeerEndpoint {
        /// Whose.
        peer: Address,
        /// Its UDP address.
        endpoint: SocketAddr,
    },
    /// Says goodbye to peers and beacon (F7 code 0); queued output still wants polling.
    Shutdown,
}

/// What a command yields at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done, or under way.
    Done,
    /// The new stream, not yet open.
    Stream(StreamId),
    /// The port taken.
    Port(Port),
    /// The answer will come.
    Request(RequestId),
}

/// Why a command failed at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// We hold no grant from this agent.
    #[error("no trust: this agent has not granted us access")]
    NotTrusted,
    /// No agent can have this address.
    #[error("not an agent's address")]
    BadAddress,
    /// We have no address yet.
    #[error("not registered yet")]
    NotRegistered,
    /// The port is in use, or is not one that may be used so.
    #[error("the port is in use")]
    PortInUse,
    /// A table is full; try again later.
    #[error("too many at once")]
    Full,
    /// The datagram exceeds what fits; the number is what would.
    #[error("at most {0} bytes fit into a datagram on this path")]
    TooLarge(usize),
    /// There is no such request, peer or port.
    #[error("there is no such thing")]
    NotFound,
    /// This identity runs elsewhere now.
    #[error("another home has taken this identity over")]
    Fenced,
}
