//! Rows as they look in JSON: addresses as text, bytes as lower-case hex.

use pilot_core::addr::{Address, NetworkId, NodeId};
use pilot_core::crypto::task;
use pilot_core::name::Tags;
use pilot_core::rendezvous::{Letter, Published, Row};
use pilot_core::wire::Bytes;
use pilot_core::wire::registry::Visibility;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    address: String,
    identity: String,
    reserved: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published: Option<Publication>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publication {
    visibility: Visible,
    tags: Vec<String>,
    boot_id: String,
    record: String,
    assign: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Visible {
    Private,
    Public,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Name {
    network: u16,
    hostname: String,
    node: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Membership {
    address: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mail {
    id: u64,
    to: String,
    from: String,
    received: u64,
    letter: Content,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Content {
    Request { sealed: bool, body: String },
    Answer { nonce: String, grant: Option<String> },
    Confirm { grant: String, held: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    from: String,
    to: String,
    at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    grantor: String,
    grantee: String,
    hash: String,
    at: u64,
}

/// Whose it is stands in the receipt itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receipt {
    received: u64,
    receipt: String,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let nibble = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> =
        pairs.map(|p| Some(nibble(p[0])? << 4 | nibble(*p.get(1)?)?)).collect();
    bytes.ok_or_else(|| "not an even number of hex digits".into())
}

pub(crate) fn bytes<const N: usize>(text: &str) -> Result<Bytes<N>, String> {
    let bytes: Result<[u8; N], _> = unhex(text)?.try_into();
    bytes.map(Bytes).map_err(|_| format!("not {N} bytes of hex"))
}

fn text(node: NodeId) -> String {
    Address::backbone(node).to_string()
}

fn node(text: &str) -> Result<NodeId, String> {
    let address: Address = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    match address.network == NetworkId::BACKBONE && address.node.is_agent() {
        true => Ok(address.node),
        false => Err(format!("{text:?} is not an agent's backbone address")),
    }
}

impl From<Published> for Publication {
    fn from(published: Published) -> Self {
        Publication {
            visibility: match published.visibility {
                Visibility::Private => Visible::Private,
                Visibility::Public => Visible::Public,
            },
            tags: published.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
            boot_id: format!("{:016x}", published.boot_id),
            record: hex(&published.record.0),
            assign: hex(&published.assign.0),
        }
    }
}

impl Publication {
    fn published(&self) -> Result<Published, String> {
        let mut tags = Tags::new();
        for tag in &self.tags {
            let tag = tag.parse().map_err(|error| format!("tag {tag:?}: {error}"))?;
            tags.push(tag).map_err(|_| "too many tags")?;
        }
        Ok(Published {
            record: bytes(&self.record)?,
            assign: bytes(&self.assign)?,
            boot_id: u64::from_be_bytes(bytes::<8>(&self.boot_id)?.0),
            visibility: match self.visibility {
                Visible::Private => Visibility::Private,
                Visible::Public => Visibility::Public,
            },
            tags,
        })
    }
}

impl From<Letter> for Content {
    fn from(letter: Letter) -> Self {
        match letter {
            Letter::Request { sealed, body } => Content::Request { sealed, body: hex(&body) },
            Letter::Answer { nonce, grant } => {
                Content::Answer { nonce: hex(&nonce.0), grant: grant.map(|grant| hex(&grant.0)) }
            }
            Letter::Confirm { grant, held } => {
                Content::Confirm { grant: hex(&grant.0), held: hex(&held.0) }
            }
        }
    }
}

/// A row of JSON that is a row of the store.
pub(crate) trait Entry: for<'de> Deserialize<'de> {
    /// The row, or what is wrong with it.
    fn row(&self) -> Result<Row, String>;
}

impl Entry for Node {
    fn row(&self) -> Result<Row, String> {
        let published = self.published.as_ref().map(Publication::published).transpose()?;
        let identity = bytes(&self.identity)?;
        Ok(Row::Node { node: node(&self.address)?, identity, reserved: self.reserved, published })
    }
}

impl Entry for Name {
    fn row(&self) -> Result<Row, String> {
        let hostname = self.hostname.parse().map_err(|e| format!("{:?}: {e}", self.hostname))?;
        Ok(Row::Name { network: NetworkId(self.network), hostname, node: node(&self.node)? })
    }
}

impl Entry for Membership {
    fn row(&self) -> Result<Row, String> {
        let address: Address =
            self.address.parse().map_err(|error| format!("{:?}: {error}", self.address))?;
        Ok(Row::Membership { node: address.node, network: address.network })
    }
}

impl Entry for Mail {
    fn row(&self) -> Result<Row, String> {
        let letter = match &self.letter {
            Content::Request { sealed, body } => {
                Letter::Request { sealed: *sealed, body: unhex(body)?.into() }
            }
            Content::Answer { nonce, grant } => {
                let grant = grant.as_deref().map(bytes).transpose()?;
                Letter::Answer { nonce: bytes(nonce)?, grant }
            }
            Content::Confirm { grant, held } => {
                Letter::Confirm { grant: bytes(grant)?, held: bytes(held)? }
            }
        };
        let (to, from) = (node(&self.to)?, node(&self.from)?);
        Ok(Row::Mail { id: self.id, to, from, received: self.received, letter })
    }
}

impl Entry for Asked {
    fn row(&self) -> Result<Row, String> {
        Ok(Row::Asked { from: node(&self.from)?, to: node(&self.to)?, at: self.at })
    }
}

impl Entry for Revocation {
    fn row(&self) -> Result<Row, String> {
        let (grantee, hash) = (bytes(&self.grantee)?, bytes(&self.hash)?);
        Ok(Row::Revocation { grantor: node(&self.grantor)?, grantee, hash, at: self.at })
    }
}

impl Entry for Receipt {
    fn row(&self) -> Result<Row, String> {
        let receipt = task::Receipt::decode(&unhex(&self.receipt)?)
            .map_err(|error| format!("a receipt: {error}"))?;
        Ok(Row::Receipt { received: self.received, receipt })
    }
}

/// Any row, for writing.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum AnyEntry {
    Node(Node),
    Name(Name),
    Membership(Membership),
    Mail(Mail),
    Asked(Asked),
    Revocation(Revocation),
    Receipt(Receipt),
}

impl AnyEntry {
    /// The row in JSON; `None` for the counters, which are no list.
    pub(crate) fn of(row: Row) -> Option<Self> {
        Some(match row {
            Row::Node { node, identity, reserved, published } => AnyEntry::Node(Node {
                address: text(node),
                identity: hex(&identity.0),
                reserved,
                published: published.map(Publication::from),
            }),
            Row::Name { network, hostname, node } => AnyEntry::Name(Name {
                network: network.0,
                hostname: hostname.as_str().to_owned(),
                node: text(node),
            }),
            Row::Membership { node, network } => {
                let address = Address::new(network, node).to_string();
                AnyEntry::Membership(Membership { address })
            }
            Row::Mail { id, to, from, received, letter } => AnyEntry::Mail(Mail {
                id,
                to: text(to),
                from: text(from),
                received,
                letter: letter.into(),
            }),
            Row::Asked { from, to, at } => {
                AnyEntry::Asked(Asked { from: text(from), to: text(to), at })
            }
            Row::Revocation { grantor, grantee, hash, at } => AnyEntry::Revocation(Revocation {
                grantor: text(grantor),
                grantee: hex(&grantee.0),
                hash: hex(&hash.0),
                at,
            }),
            Row::Receipt { received, receipt } => {
                AnyEntry::Receipt(Receipt { received, receipt: hex(&receipt.encode()) })
            }
            _ => return None,
        })
    }
}
