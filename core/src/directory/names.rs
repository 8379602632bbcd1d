//! The search for a hostname that the registry tells nobody without a grant (`wire.md` 10): a
//! trusted peer may have taken it since we last asked about that peer. Each of up to
//! [`NAME_SEARCH_PEERS`] is asked about with its grant; then the question is asked anew, with the
//! address and the grant of the one that has the name, or has failed.

use super::answer::{RequestError, RequestId, Target};
use super::*;
use crate::limits::{NAME_SEARCH_DISTANCE, NAME_SEARCH_PEERS};
use crate::wire::registry::Request;

impl Core<'_> {
    /// Begins a search for what this request asked for in vain, and sets it aside; false if there
    /// is nothing to search, or nothing that a search just before has not found out.
    pub(super) fn search_name(&mut self, id: RequestId) -> bool {
        let Some(Request::Resolve { target: Target::Hostname(_), network, grant: None }) =
            self.requests.request(id)
        else {
            return false;
        };
        // What we ask of peers is their name in this network.
        if network != Some(self.own.default_network())
            || self.names_at > self.now
            || !self.trust.resolve_names(NAME_SEARCH_PEERS)
        {
            return false;
        }
        self.names_at = self.now + NAME_SEARCH_DISTANCE;
        self.requests.hold(id);
        true
    }

    /// Asks anew what was set aside, once nothing more about peers is to be asked now.
    pub(super) fn end_name_search(&mut self) {
        if self.requests.held().is_none() || self.is_resolving() {
            return;
        }
        while let Some((id, request)) = self.requests.held() {
            let Request::Resolve { target: Target::Hostname(name), network, .. } = request else {
                self.requests.resume(id, Err(RequestError::NotFound));
                continue;
            };
            let known = self.trust.find_hostname(network.unwrap_or_default(), &name);
            let request = known.and_then(|i| self.trust.peer(i)).map(|peer| Request::Resolve {
                target: Target::Address(peer.address),
                network,
                grant: peer.held().map(|grant| Bytes(grant.encode())),
            });
            self.requests.resume(id, request.as_ref().ok_or(RequestError::NotFound));
        }
    }
}
