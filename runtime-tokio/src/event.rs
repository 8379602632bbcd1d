//! What happens to an agent without being asked for.

use pilot_core::addr::Address;
use pilot_core::crypto::identity::IdentityKey;
use pilot_core::node::{Event, Link, PathKind};

/// News about an agent; see [`crate::Agent::events`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AgentEvent {
    /// The registry gave or confirmed our address.
    Registered(Address),
    /// The link to the rendezvous server changed.
    LinkChanged(Link),
    /// First contact: this registry key was taken and pinned. Show its fingerprint once.
    RegistryPinned(IdentityKey),
    /// The registry shows another key than the pinned one. Nothing is sent to it.
    RegistryKeyChanged {
        /// What we trust.
        pinned: IdentityKey,
        /// What it shows.
        shown: IdentityKey,
    },
    /// Our clock and the registry's differ by more than an hour: seconds, theirs less ours.
    ClockSkew(i64),
    /// This identity runs elsewhere: stop.
    Fenced,
    /// The path to a peer changed.
    PathChanged(Address, PathKind),
    /// Somebody asks for trust; see [`crate::Agent::trust_requests`].
    TrustRequested(Address),
    /// Trust is mutual now.
    TrustGranted(Address),
    /// Our request was refused.
    TrustRefused(Address),
    /// A peer has ended trust in us.
    TrustRevoked(Address),
}

impl AgentEvent {
    /// The event of a node, if it is one for people.
    pub(crate) fn from_node(event: Event) -> Option<Self> {
        Some(match event {
            Event::Registered(address) => AgentEvent::Registered(address),
            Event::LinkChanged(link) => AgentEvent::LinkChanged(link),
            Event::RegistryPinned(key) => AgentEvent::RegistryPinned(key),
            Event::RegistryKeyChanged { pinned, shown } => {
                AgentEvent::RegistryKeyChanged { pinned, shown }
            }
            Event::ClockSkew(seconds) => AgentEvent::ClockSkew(seconds),
            Event::Fenced => AgentEvent::Fenced,
            Event::PathChanged(peer, kind) => AgentEvent::PathChanged(peer, kind),
            Event::TrustRequested(from) => AgentEvent::TrustRequested(from),
            Event::TrustGranted(by) => AgentEvent::TrustGranted(by),
            Event::TrustRefused(by) => AgentEvent::TrustRefused(by),
            Event::TrustRevoked(by) => AgentEvent::TrustRevoked(by),
            _ => return None,
        })
    }
}
