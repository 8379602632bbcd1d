//! Durable facts as rows of tables (`wire.md` 10: records, names, tags, visibility,
//! memberships, mailboxes, revocations and receipts are committed before they are acknowledged).
//!
//! A row is a key of fixed layout and a value `SCHEMA ‖ postcard`. Rows stand alone: loading
//! them in any order gives the same directory.

use super::ledger;
use crate::addr::{NetworkId, NodeId};
use crate::crypto::IdentityKey;
use crate::crypto::task::{Receipt, TaskId};
use crate::name::{Hostname, Tags};
use crate::wire::registry::Visibility;
use crate::wire::{AssignBytes, Bytes, GrantBytes, RecordBytes};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// First byte of every value: the version of the rows' layout.
pub const SCHEMA: u8 = 1;

/// The tables of durable facts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Table {
    /// Counters of the directory itself; one row with an empty key.
    Meta,
    /// Nodes by number (4).
    Nodes,
    /// Hostnames by network (2) and name.
    Names,
    /// Memberships by node (4) and network (2).
    Memberships,
    /// Mailbox items by number (8).
    Mailbox,
    /// Who asked whom for trust: from (4), to (4).
    Asked,
    /// Withdrawn grants: grantor (4), grantee's identity (32), hash (8).
    Revocations,
    /// Receipts of finished tasks: submitter's identity (32), task (16).
    Receipts,
}

impl Table {
    /// All of them.
    pub const ALL: &'static [Table] = &[
        Table::Meta,
        Table::Nodes,
        Table::Names,
        Table::Memberships,
        Table::Mailbox,
        Table::Asked,
        Table::Revocations,
        Table::Receipts,
    ];

    /// Its name in a store and in exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Nodes => "nodes",
            Table::Names => "names",
            Table::Memberships => "memberships",
            Table::Mailbox => "mailbox",
            Table::Asked => "asked",
            Table::Revocations => "revocations",
            Table::Receipts => "receipts",
        }
    }
}

/// One fact written or removed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Change {
    /// Where.
    pub table: Table,
    /// Which.
    pub key: Vec<u8>,
    /// What it is now; `None`: gone.
    pub value: Option<Vec<u8>>,
}

/// What a node has published with its last `Register`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The record.
    pub record: RecordBytes,
    /// The registry's signature over it.
    pub assign: AssignBytes,
    /// The boot id that is current.
    pub boot_id: u64,
    /// Private or public.
    pub visibility: Visibility,
    /// Its tags.
    pub tags: Tags,
}

/// A row, typed: for exports, and the only form in which the directory changes.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack")]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Row {
    /// The next numbers to hand out.
    Meta {
        /// Next node.
        next_node: NodeId,
        /// Next mailbox item.
        next_item: u64,
    },
    /// An identity and its address.
    Node {
        /// Its number.
        node: NodeId,
        /// Its Ed25519 key.
        identity: Bytes<32>,
        /// When it was reserved, Unix seconds.
        reserved: u64,
        /// What it published, once it has.
        published: Option<Published>,
    },
    /// A hostname.
    Name {
        /// The network it is unique in.
        network: NetworkId,
        /// The name.
        hostname: Hostname,
        /// Whose it is.
        node: NodeId,
    },
    /// A node is in a network.
    Membership {
        /// The node.
        node: NodeId,
        /// The network.
        network: NetworkId,
    },
    /// A mailbox item.
    Mail {
        /// Its number; rises with age over all mailboxes.
        id: u64,
        /// Whose mailbox.
        to: NodeId,
        /// Who sent it.
        from: NodeId,
        /// When, Unix seconds.
        received: u64,
        /// What.
        letter: Letter,
    },
    /// `from` asked `to` for trust.
    Asked {
        /// Who asked.
        from: NodeId,
        /// Whom.
        to: NodeId,
        /// When last, Unix seconds.
        at: u64,
    },
    /// A withdrawn grant.
    Revocation {
        /// Who withdrew it.
        grantor: NodeId,
        /// Whose it was.
        grantee: Bytes<32>,
        /// First 8 bytes of its SHA-256.
        hash: Bytes<8>,
        /// When, Unix seconds.
        at: u64,
    },
    /// A receipt of a finished task.
    Receipt {
        /// When it was taken, Unix seconds.
        received: u64,
        /// As both sides have signed it; whoever reads it from elsewhere than the own store
        /// verifies it.
        receipt: Receipt,
    },
}

/// What lies in a mailbox (`wire.md` 6.5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Letter {
    /// A trust request.
    Request {
        /// Whether it is sealed to the receiver.
        sealed: bool,
        /// As it was sent.
        body: alloc::boxed::Box<[u8]>,
    },
    /// The answer to one.
    Answer {
        /// The request's nonce.
        nonce: Bytes<16>,
        /// `None`: refused.
        grant: Option<GrantBytes>,
    },
    /// The second half of mutual trust.
    Confirm {
        /// From sender to receiver.
        grant: GrantBytes,
        /// From receiver to sender.
        held: GrantBytes,
    },
}

/// The kinds of letters; a sender has at most one of each with one receiver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum LetterKind {
    Request,
    Answer,
    Confirm,
}

impl Letter {
    pub(crate) const fn kind(&self) -> LetterKind {
        match self {
            Letter::Request { .. } => LetterKind::Request,
            Letter::Answer { .. } => LetterKind::Answer,
            Letter::Confirm { .. } => LetterKind::Confirm,
        }
    }
}

/// Which row: table and key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RowKey {
    Name(NetworkId, Hostname),
    Membership(NodeId, NetworkId),
    Mail(u64),
    Asked(NodeId, NodeId),
    Revocation(NodeId, Bytes<32>, Bytes<8>),
    Receipt(ledger::Key),
}

/// Why a stored row cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The value's first byte is no version that this program knows.
    #[error("stored by version {0} of the layout; this program reads version 1")]
    Schema(u8),
    /// Key or value do not parse.
    #[error("a stored row is damaged")]
    Damaged,
}

/// Key bytes of a removal.
pub(crate) fn key_bytes(key: &RowKey) -> (Table, Vec<u8>) {
    let join = |parts: &[&[u8]]| parts.concat();
    match key {
        RowKey::Name(network, name) => {
            (Table::Names, join(&[&network.0.to_be_bytes(), name.as_str().as_bytes()]))
        }
        RowKey::Membership(node, network) => {
            (Table::Memberships, join(&[&node.0.to_be_bytes(), &network.0.to_be_bytes()]))
        }
        RowKey::Mail(id) => (Table::Mailbox, id.to_be_bytes().to_vec()),
        RowKey::Asked(from, to) => {
            (Table::Asked, join(&[&from.0.to_be_bytes(), &to.0.to_be_bytes()]))
        }
        RowKey::Revocation(grantor, grantee, hash) => {
            (Table::Revocations, join(&[&grantor.0.to_be_bytes(), &grantee.0, &hash.0]))
        }
        RowKey::Receipt((submitter, task)) => (Table::Receipts, join(&[&submitter.0, &task.0])),
    }
}

fn value<T: Serialize>(content: &T) -> Option<Vec<u8>> {
    let size = postcard::serialize_with_flavor(content, postcard::ser_flavors::Size::default())
        .expect("counting does not fail");
    let mut bytes = alloc::vec![0; 1 + size];
    bytes[0] = SCHEMA;
    postcard::to_slice(content, &mut bytes[1..]).expect("the size was counted");
    Some(bytes)
}

impl Row {
    /// The row as it is stored.
    pub fn change(&self) -> Change {
        let (key, value) = match self {
            Row::Meta { next_node, next_item } => {
                return Change {
                    table: Table::Meta,
                    key: Vec::new(),
                    value: value(&(next_node, next_item)),
                };
            }
            Row::Node { node, identity, reserved, published } => {
                return Change {
                    table: Table::Nodes,
                    key: node.0.to_be_bytes().to_vec(),
                    value: value(&(identity, reserved, published)),
                };
            }
            Row::Name { network, hostname, node } => {
                (RowKey::Name(*network, hostname.clone()), value(node))
            }
            Row::Membership { node, network } => (RowKey::Membership(*node, *network), value(&())),
            Row::Mail { id, to, from, received, letter } => {
                (RowKey::Mail(*id), value(&(to, from, received, letter)))
            }
            Row::Asked { from, to, at } => (RowKey::Asked(*from, *to), value(at)),
            Row::Revocation { grantor, grantee, hash, at } => {
                (RowKey::Revocation(*grantor, *grantee, *hash), value(at))
            }
            Row::Receipt { received, receipt } => {
                (RowKey::Receipt(ledger::key(receipt)), value(&(received, receipt)))
            }
        };
        let (table, key) = key_bytes(&key);
        Change { table, key, value }
    }

    /// Reads a stored row.
    pub fn decode(table: Table, key: &[u8], value: &[u8]) -> Result<Row, RowError> {
        match value.first() {
            Some(&SCHEMA) => {}
            Some(&other) => return Err(RowError::Schema(other)),
            None => return Err(RowError::Damaged),
        }
        let body = &value[1..];
        Ok(match (table, parse_key(table, key)?) {
            (Table::Meta, _) => {
                let (next_node, next_item) = content(body)?;
                Row::Meta { next_node, next_item }
            }
            (Table::Nodes, _) => {
                let node =
                    NodeId(u32::from_be_bytes(key.try_into().map_err(|_| RowError::Damaged)?));
                let (identity, reserved, published) = content(body)?;
                Row::Node { node, identity, reserved, published }
            }
            (_, Some(RowKey::Name(network, hostname))) => {
                Row::Name { network, hostname, node: content(body)? }
            }
            (_, Some(RowKey::Membership(node, network))) => {
                content::<()>(body)?;
                Row::Membership { node, network }
            }
            (_, Some(RowKey::Mail(id))) => {
                let (to, from, received, letter) = content(body)?;
                Row::Mail { id, to, from, received, letter }
            }
            (_, Some(RowKey::Asked(from, to))) => Row::Asked { from, to, at: content(body)? },
            (_, Some(RowKey::Revocation(grantor, grantee, hash))) => {
                Row::Revocation { grantor, grantee, hash, at: content(body)? }
            }
            (_, Some(RowKey::Receipt(key))) => {
                let (received, receipt) = content(body)?;
                if ledger::key(&receipt) != key {
                    return Err(RowError::Damaged);
                }
                Row::Receipt { received, receipt }
            }
            (_, None) => return Err(RowError::Damaged),
        })
    }
}

fn content<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, RowError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(RowError::Damaged),
    }
}

/// The typed key; `None` for tables whose rows are never removed.
pub(crate) fn parse_key(table: Table, key: &[u8]) -> Result<Option<RowKey>, RowError> {
    let node = |at: usize| {
        key.get(at..at + 4)
            .map(|b| NodeId(u32::from_be_bytes([b[0], b[1], b[2], b[3]])))
            .ok_or(RowError::Damaged)
    };
    let network = |at: usize| {
        key.get(at..at + 2)
            .map(|b| NetworkId(u16::from_be_bytes([b[0], b[1]])))
            .ok_or(RowError::Damaged)
    };
    let exact = |len: usize| if key.len() == len { Ok(()) } else { Err(RowError::Damaged) };
    Ok(match table {
        Table::Meta => {
            exact(0)?;
            None
        }
        Table::Nodes => {
            exact(4)?;
            None
        }
        Table::Names => {
            let name = key.get(2..).and_then(|name| core::str::from_utf8(name).ok());
            let name = name.and_then(|name| name.parse().ok()).ok_or(RowError::Damaged)?;
            Some(RowKey::Name(network(0)?, name))
        }
        Table::Memberships => {
            exact(6)?;
            Some(RowKey::Membership(node(0)?, network(4)?))
        }
        Table::Mailbox => {
            let id = key.try_into().map_err(|_| RowError::Damaged)?;
            Some(RowKey::Mail(u64::from_be_bytes(id)))
        }
        Table::Asked => {
            exact(8)?;
            Some(RowKey::Asked(node(0)?, node(4)?))
        }
        Table::Revocations => {
            exact(44)?;
            let grantee: [u8; 32] = key[4..36].try_into().map_err(|_| RowError::Damaged)?;
            let hash: [u8; 8] = key[36..].try_into().map_err(|_| RowError::Damaged)?;
            Some(RowKey::Revocation(node(0)?, Bytes(grantee), Bytes(hash)))
        }
        Table::Receipts => {
            exact(48)?;
            let submitter: [u8; 32] = key[..32].try_into().map_err(|_| RowError::Damaged)?;
            let task: [u8; 16] = key[32..].try_into().map_err(|_| RowError::Damaged)?;
            Some(RowKey::Receipt((IdentityKey(submitter), TaskId(task))))
        }
    })
}
