//! `Discover`: public agents that have all of the tags, oldest first (`wire.md` 10).
//!
//! An intersection of sorted sets by leaps: the candidate rises to the next member of each set
//! in turn until all agree, so the cost follows the smallest set, not the directory. A page
//! that would need more than [`LEAPS`] leaps ends early, with a cursor to go on from.

use super::{Caller, Directory, Node};
use crate::addr::{Address, NetworkId, NodeId};
use crate::name::Tags;
use crate::wire::Bytes;
use crate::wire::registry::{Discovered, ErrorCode, PAGE_MAX, Refusal, append};
use alloc::collections::BTreeSet;

/// Most set look-ups of one page.
const LEAPS: usize = 8192;

enum Set<'a> {
    Nodes(&'a BTreeSet<NodeId>),
    Members(&'a BTreeSet<(NetworkId, NodeId)>, NetworkId),
}

impl Set<'_> {
    /// The first member that is not below `from`.
    fn next(&self, from: NodeId) -> Option<NodeId> {
        match self {
            Set::Nodes(nodes) => nodes.range(from..).next().copied(),
            Set::Members(members, network) => {
                let all = (*network, from)..=(*network, NodeId(u32::MAX));
                members.range(all).next().map(|(_, node)| *node)
            }
        }
    }
}

impl Directory {
    /// Writes the page's entries into `out`; gives their bytes and the next cursor.
    pub(crate) fn discover(
        &self,
        caller: Caller,
        tags: &Tags,
        network: Option<NetworkId>,
        cursor: u64,
        out: &mut [u8],
    ) -> Result<(usize, u64), Refusal> {
        let network = network.unwrap_or_else(|| self.default_network(caller.node));
        let mut sets = heapless::Vec::<Set<'_>, { crate::name::TAGS_MAX + 2 }>::new();
        let mut add = |set| sets.push(set).is_ok();
        for tag in tags {
            match self.tagged.get(tag.as_str()) {
                Some(nodes) => add(Set::Nodes(nodes)),
                None => return Ok((0, 0)),
            };
        }
        if network != NetworkId::BACKBONE {
            add(Set::Members(&self.members, network));
        }
        if tags.is_empty() {
            add(Set::Nodes(&self.public));
        }

        let mut from = u32::try_from(cursor).map(NodeId).map_err(|_| ErrorCode::Malformed)?;
        let (mut used, mut entries) = (0, 0);
        for _ in 0..LEAPS {
            let mut candidate = from;
            for set in &sets {
                match set.next(candidate) {
                    Some(node) => candidate = node,
                    None => return Ok((used, 0)),
                }
            }
            if candidate == from && self.public.contains(&candidate) {
                if entries == PAGE_MAX {
                    return Ok((used, u64::from(candidate.0)));
                }
                match append(&self.discovered(candidate, network), out, used) {
                    Ok(longer) => (used, entries) = (longer, entries + 1),
                    Err(_) => return Ok((used, u64::from(candidate.0))),
                }
            }
            // Either `from` was looked at, or it is in none of what lies below the candidate.
            from = NodeId(if candidate == from { from.0.saturating_add(1) } else { candidate.0 });
        }
        Ok((used, u64::from(from.0)))
    }

    fn discovered(&self, node: NodeId, network: NetworkId) -> Discovered {
        let (entry, stored) =
            self.nodes.get(&node).and_then(Node::stored).expect("public nodes have published");
        Discovered {
            address: Address::new(network, node),
            identity: Bytes(entry.identity.0),
            hostname: self.hostname(node, network),
            tags: stored.tags(),
        }
    }
}
