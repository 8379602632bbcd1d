//! The registry: who has which address, under which keys and names, and what waits in whose
//! mailbox (`wire.md` 6 and 10).
//!
//! [`Directory`] is the state. It changes only by whole rows, through [`Directory::put`] and
//! [`Directory::remove`], which also hand the row to the commit queue; loading a store goes
//! through the same two inner functions. So what is stored and what is in memory cannot
//! differ. The rules of each operation are in [`rules`] (records, names, networks, resolving),
//! [`mailbox`] (trust), [`find`] (discovery) and [`ledger`] (receipts). `connection` carries
//! them over TCP.

pub(crate) mod commit;

pub(crate) mod connection;
pub(crate) mod find;
pub(crate) mod ledger;
pub(crate) mod mailbox;
pub(crate) mod rows;
pub(crate) mod rules;
pub(crate) mod service;

use crate::addr::{Address, NetworkId, NodeId};
use crate::crypto::{Grant, Identity, IdentityKey, Record};
use crate::name::Tags;
use crate::time::{Instant, UnixTime};
use crate::wire::registry::Visibility;
use crate::wire::{Bytes, RecordBytes};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use commit::CommitQueue;
use rows::{Change, LetterKind, Published, Row, RowError, RowKey, parse_key};

/// A node in memory. Measured with all indexes on x86-64: 750 bytes for a public node with
/// two tags, a name and a network, of which 304 are its record and the registry's signature.
pub(crate) struct Node {
    pub(crate) identity: IdentityKey,
    reserved: u64,
    stored: Option<Box<Stored>>,
}

/// What [`Published`] is, in less memory.
struct Stored {
    record: RecordBytes,
    assign: Bytes<80>,
    boot_id: u64,
    visibility: Visibility,
    /// Joined by commas, which no tag contains: one allocation instead of one per tag.
    tags: Box<str>,
}

/// A million nodes must fit one small server.
const _: () = assert!(size_of::<Node>() <= 48 && size_of::<Stored>() <= 304);

/// Something that the beacon is to do about a change, once the change is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// There is mail for this node.
    Mail(NodeId),
    /// Another process took the identity over; the one with this boot id is fenced.
    Fence(NodeId, u64),
}

/// What every operation needs to know about here and now.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) unix: UnixTime,
    pub(crate) registry: &'a Identity,
    pub(crate) limits: &'a super::RendezvousLimits,
}

/// Who asks, as the channel has proven it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    pub(crate) node: NodeId,
    pub(crate) identity: IdentityKey,
}

pub(crate) struct Directory {
    nodes: BTreeMap<NodeId, Node>,
    by_identity: BTreeMap<[u8; 32], NodeId>,
    published: usize,
    names: BTreeMap<(NetworkId, Box<str>), NodeId>,
    names_of: BTreeMap<(NodeId, NetworkId), Box<str>>,
    memberships: BTreeSet<(NodeId, NetworkId)>,
    members: BTreeSet<(NetworkId, NodeId)>,
    public: BTreeSet<NodeId>,
    tagged: BTreeMap<Box<str>, BTreeSet<NodeId>>,
    mail: BTreeMap<u64, mailbox::Mail>,
    mail_of: BTreeMap<(NodeId, u64), (NodeId, LetterKind)>,
    asked: BTreeMap<(NodeId, NodeId), u64>,
    asked_by_age: BTreeSet<(u64, NodeId, NodeId)>,
    senders: mailbox::Senders,
    revocations: BTreeMap<(NodeId, Bytes<32>, Bytes<8>), u64>,
    ledger: ledger::Ledger,
    next_node: NodeId,
    next_item: u64,
    pub(crate) commits: CommitQueue,
    /// Taken by the machine after each operation.
    pub(crate) effects: Vec<Effect>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Directory {
            nodes: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            published: 0,
            names: BTreeMap::new(),
            names_of: BTreeMap::new(),
            memberships: BTreeSet::new(),
            members: BTreeSet::new(),
            public: BTreeSet::new(),
            tagged: BTreeMap::new(),
            mail: BTreeMap::new(),
            mail_of: BTreeMap::new(),
            asked: BTreeMap::new(),
            asked_by_age: BTreeSet::new(),
            senders: mailbox::Senders::default(),
            revocations: BTreeMap::new(),
            ledger: ledger::Ledger::default(),
            next_node: NodeId::FIRST_AGENT,
            next_item: 1,
            commits: CommitQueue::new(),
            effects: Vec::new(),
        }
    }

    /// Nodes that have an address, and those of them that have published a record.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.nodes.len(), self.published)
    }

    /// Mailbox items over all nodes.
    pub(crate) fn mail_count(&self) -> usize {
        self.mail.len()
    }

    /// Receipts over all identities.
    pub(crate) fn receipt_count(&self) -> usize {
        self.ledger.len()
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    pub(crate) fn by_identity(&self, identity: &IdentityKey) -> Option<NodeId> {
        self.by_identity.get(&identity.0).copied()
    }

    /// Changes a row, in memory and with the next commit.
    fn put(&mut self, row: Row) {
        self.commits.add(row.change());
        self.set(row);
    }

    /// Removes a row, in memory and with the next commit.
    fn remove(&mut self, key: &RowKey) {
        let (table, bytes) = rows::key_bytes(key);
        self.commits.add(Change { table, key: bytes, value: None });
        self.unset(key);
    }

    /// Takes a row from storage, or from another server of the same registry.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), RowError> {
        match &change.value {
            Some(value) => self.set(Row::decode(change.table, &change.key, value)?),
            None => match parse_key(change.table, &change.key)? {
                Some(key) => self.unset(&key),
                None => return Err(RowError::Damaged),
            },
        }
        Ok(())
    }

    fn set(&mut self, row: Row) {
        match row {
            Row::Meta { next_node, next_item } => {
                self.next_node = next_node;
                self.next_item = next_item;
            }
            Row::Node { node, identity, reserved, published } => {
                self.set_node(node, IdentityKey(identity.0), reserved, published);
            }
            Row::Name { network, hostname, node } => {
                self.unset(&RowKey::Name(network, hostname.clone()));
                let name: Box<str> = hostname.as_str().into();
                self.names.insert((network, name.clone()), node);
                self.names_of.insert((node, network), name);
            }
            Row::Membership { node, network } => {
                self.memberships.insert((node, network));
                self.members.insert((network, node));
            }
            Row::Mail { id, to, from, received, letter } => {
                self.unset(&RowKey::Mail(id));
                self.mail_of.insert((to, id), (from, letter.kind()));
                self.mail.insert(id, mailbox::Mail { to, from, received, letter });
            }
            Row::Asked { from, to, at } => {
                self.unset(&RowKey::Asked(from, to));
                self.asked.insert((from, to), at);
                self.asked_by_age.insert((at, from, to));
            }
            Row::Revocation { grantor, grantee, hash, at } => {
                self.revocations.insert((grantor, grantee, hash), at);
            }
            Row::Receipt { received, receipt } => self.ledger.set(receipt, received),
        }
    }

    fn unset(&mut self, key: &RowKey) {
        match key {
            RowKey::Name(network, hostname) => {
                let key = (*network, Box::<str>::from(hostname.as_str()));
                if let Some(node) = self.names.remove(&key)
                    && self.names_of.get(&(node, *network)) == Some(&key.1)
                {
                    self.names_of.remove(&(node, *network));
                }
            }
            RowKey::Membership(node, network) => {
                self.memberships.remove(&(*node, *network));
                self.members.remove(&(*network, *node));
            }
            RowKey::Mail(id) => {
                if let Some(mail) = self.mail.remove(id) {
                    self.mail_of.remove(&(mail.to, *id));
                }
            }
            RowKey::Asked(from, to) => {
                if let Some(at) = self.asked.remove(&(*from, *to)) {
                    self.asked_by_age.remove(&(at, *from, *to));
                }
            }
            RowKey::Revocation(grantor, grantee, hash) => {
                self.revocations.remove(&(*grantor, *grantee, *hash));
            }
            RowKey::Receipt(key) => self.ledger.unset(key),
        }
    }

    fn set_node(
        &mut self,
        node: NodeId,
        identity: IdentityKey,
        reserved: u64,
        published: Option<Published>,
    ) {
        if let Some(old) = self.nodes.remove(&node) {
            self.by_identity.remove(&old.identity.0);
            if let Some(stored) = &old.stored {
                self.published -= 1;
                self.unlist(node, stored);
            }
        }
        let stored = published.map(|published| {
            Box::new(Stored {
                record: published.record,
                assign: published.assign,
                boot_id: published.boot_id,
                visibility: published.visibility,
                tags: join(&published.tags),
            })
        });
        if let Some(stored) = &stored {
            self.published += 1;
            if stored.visibility == Visibility::Public {
                self.public.insert(node);
                for tag in stored.each_tag() {
                    self.tagged.entry(tag.into()).or_default().insert(node);
                }
            }
        }
        self.by_identity.insert(identity.0, node);
        self.nodes.insert(node, Node { identity, reserved, stored });
    }

    fn unlist(&mut self, node: NodeId, stored: &Stored) {
        self.public.remove(&node);
        for tag in stored.each_tag() {
            if let Some(nodes) = self.tagged.get_mut(tag) {
                nodes.remove(&node);
                if nodes.is_empty() {
                    self.tagged.remove(tag);
                }
            }
        }
    }

    /// All rows, in the order of tables and keys: for exports and for tests.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        let meta = Row::Meta { next_node: self.next_node, next_item: self.next_item };
        let nodes = self.nodes.iter().map(|(id, node)| self.node_row(*id, node));
        let names = self.names.iter().map(|((network, name), node)| Row::Name {
            network: *network,
            hostname: name.parse().expect("names were validated when they came in"),
            node: *node,
        });
        let memberships =
            self.memberships.iter().map(|&(node, network)| Row::Membership { node, network });
        let mail = self.mail.iter().map(|(&id, mail)| Row::Mail {
            id,
            to: mail.to,
            from: mail.from,
            received: mail.received,
            letter: mail.letter.clone(),
        });
        let asked = self.asked.iter().map(|(&(from, to), &at)| Row::Asked { from, to, at });
        let revocations = self
            .revocations
            .iter()
            .map(|(&(grantor, grantee, hash), &at)| Row::Revocation { grantor, grantee, hash, at });
        let receipts = self
            .ledger
            .iter()
            .map(|(receipt, received)| Row::Receipt { received, receipt: *receipt });
        // A directory that never changed has no rows.
        let meta = (self.next_node != NodeId::FIRST_AGENT || self.next_item != 1).then_some(meta);
        meta.into_iter()
            .chain(nodes)
            .chain(names)
            .chain(memberships)
            .chain(mail)
            .chain(asked)
            .chain(revocations)
            .chain(receipts)
    }

    fn node_row(&self, id: NodeId, node: &Node) -> Row {
        Row::Node {
            node: id,
            identity: Bytes(node.identity.0),
            reserved: node.reserved,
            published: node.stored.as_ref().map(|stored| stored.to_published()),
        }
    }

    /// Numbers change together with what they were given to.
    fn put_meta(&mut self) {
        let row = Row::Meta { next_node: self.next_node, next_item: self.next_item };
        self.put(row);
    }

    /// Networks that `node` has joined, ascending.
    pub(crate) fn networks(&self, node: NodeId) -> impl Iterator<Item = NetworkId> {
        let all = (node, NetworkId(0))..=(node, NetworkId(u16::MAX));
        self.memberships.range(all).map(|(_, network)| *network)
    }

    fn is_member(&self, node: NodeId, network: NetworkId) -> bool {
        network == NetworkId::BACKBONE || self.memberships.contains(&(node, network))
    }

    /// The lowest joined network, else the backbone (`wire.md` 1).
    fn default_network(&self, node: NodeId) -> NetworkId {
        self.networks(node).next().unwrap_or(NetworkId::BACKBONE)
    }

    /// Whether `grant`, whose signature was found good, opens `grantor` to `grantee` now.
    fn grant_counts(&self, grantor: NodeId, grant: &Grant, unix: UnixTime) -> bool {
        let Some((node, stored)) = self.nodes.get(&grantor).and_then(Node::stored) else {
            return false;
        };
        let epoch = Record::decode(&stored.record.0).map_or(u32::MAX, |r| r.fields.grant_epoch);
        let hash = *grant.hash().first_chunk().expect("32 bytes have 8");
        let revoked = (grantor, Bytes(grant.grantee.0), Bytes(hash));
        grant.grantor_addr == Address::backbone(grantor)
            && grant.grantor == node.identity
            && grant.epoch >= epoch
            && (grant.not_after == 0 || unix.as_secs() <= grant.not_after.saturating_add(3600))
            && !self.revocations.contains_key(&revoked)
    }

    /// Whether `grant` lets `asker` reach somebody, and whom (`wire.md` 6.5, 10).
    pub(crate) fn grantor_of(
        &self,
        ctx: &Context<'_>,
        asker: &IdentityKey,
        grant: &Grant,
    ) -> Option<NodeId> {
        // The signature is checked first and always, so that an unknown grantor costs as much
        // as a known one.
        grant.verify(&ctx.registry.public()).ok()?;
        let grantor = grant.grantor_addr.node;
        (grant.grantee == *asker && self.grant_counts(grantor, grant, ctx.unix)).then_some(grantor)
    }
}

impl Node {
    fn stored(&self) -> Option<(&Node, &Stored)> {
        self.stored.as_deref().map(|stored| (self, stored))
    }

    /// The record that counts.
    pub(crate) fn record(&self) -> Option<Record> {
        let stored = self.stored.as_ref()?;
        Some(Record::decode(&stored.record.0).expect("records were decoded when they came in"))
    }

    /// The boot id that is current.
    pub(crate) fn boot_id(&self) -> Option<u64> {
        self.stored.as_ref().map(|stored| stored.boot_id)
    }
}

impl Stored {
    fn each_tag(&self) -> impl Iterator<Item = &str> {
        self.tags.split(',').filter(|tag| !tag.is_empty())
    }

    fn tags(&self) -> Tags {
        self.each_tag().filter_map(|tag| tag.parse().ok()).collect()
    }

    fn to_published(&self) -> Published {
        Published {
            record: self.record,
            assign: self.assign,
            boot_id: self.boot_id,
            visibility: self.visibility,
            tags: self.tags(),
        }
    }
}

fn join(tags: &Tags) -> Box<str> {
    let mut all = alloc::string::String::new();
    for (n, tag) in tags.iter().enumerate() {
        if n > 0 {
            all.push(',');
        }
        all.push_str(tag.as_str());
    }
    all.into_boxed_str()
}
