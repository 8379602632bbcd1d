//! What happens to an agent without being asked for.

use crate::addr::Address;
use crate::crypto::identity::IdentityKey;
use crate::node::{Event, Link, PathKind};

/// News about an agent; see [`super::Handle::events`].
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
    /// The registry's key is neither given nor pinned, and first use is forbidden.
    RegistryUnknown(IdentityKey),
    /// Our clock and the registry's differ by more than an hour: seconds, theirs less ours.
    ClockSkew(i64),
    /// This identity runs elsewhere: stop.
    Fenced,
    /// The path to a peer changed.
    PathChanged(Address, PathKind),
    /// Somebody asks for trust; see [`super::Handle::trust_requests`].
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
    pub fn from_node(event: Event) -> Option<Self> {
        Some(match event {
            Event::Registered(address) => AgentEvent::Registered(address),
            Event::LinkChanged(link) => AgentEvent::LinkChanged(link),
            Event::RegistryPinned(key) => AgentEvent::RegistryPinned(key),
            Event::RegistryKeyChanged { pinned, shown } => {
                AgentEvent::RegistryKeyChanged { pinned, shown }
            }
            Event::RegistryUnknown(key) => AgentEvent::RegistryUnknown(key),
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
