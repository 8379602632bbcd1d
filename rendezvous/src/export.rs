//! The readable copy of a registry (`P.json`): JSON, one row a line, addresses as text, bytes
//! as hex. Written beside the store and read only to found a new one.
//!
//! Both directions stream: neither holds more than a row in memory. Secret keys are not in it.
//! Receipts are verified again, so that an export that was edited gives nobody a reputation.
//! What an import finds is older than what the registry had last promised, so numbers handed
//! out meanwhile must not be handed out again: the counters start [`NUMBERS_SKIPPED`] later.

use crate::files;
use crate::json::{self, AnyEntry, Entry};
use crate::store::{Snapshot, StoreError};
use pilot_core::addr::NodeId;
use pilot_core::crypto::identity::IdentityKey;
use pilot_core::rendezvous::{Change, Row, RowError, Table};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use std::fmt;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

/// How many numbers an import leaves out: more than are handed out between two exports.
pub const NUMBERS_SKIPPED: u32 = 65_536;
const FORMAT: &str = "pilot-rendezvous";
const VERSION: u32 = 1;

/// Why an export could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The export.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The store holds a row that this program cannot read.
    #[error("table {table}: {source}")]
    Row {
        /// The table.
        table: &'static str,
        /// Why not.
        source: RowError,
    },
    /// The file is not an export that this program knows.
    #[error("{path} is not a registry's export: {what}")]
    Malformed {
        /// The export.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
}

/// The arrays of the file, each with its table.
const SECTIONS: [(&str, Table); 7] = [
    ("nodes", Table::Nodes),
    ("names", Table::Names),
    ("memberships", Table::Memberships),
    ("mailboxes", Table::Mailbox),
    ("asked", Table::Asked),
    ("revocations", Table::Revocations),
    ("receipts", Table::Receipts),
];

/// Writes a store to `path`, in the place of an older export.
pub(crate) fn write(
    path: &Path,
    snapshot: &Snapshot,
    registry: &IdentityKey,
    unix_s: u64,
) -> Result<(), ExportError> {
    let mut failure = None;
    let written = files::replace_private(path, |out| {
        write_all(out, snapshot, registry, unix_s).map_err(|error| match error {
            ExportError::Io { source, .. } => source,
            other => {
                failure = Some(other);
                io::Error::other("no export")
            }
        })
    });
    match (failure, written) {
        (Some(failure), _) => Err(failure),
        (None, written) => {
            written.map_err(|source| ExportError::Io { path: path.to_owned(), source })
        }
    }
}

fn write_all(
    out: &mut impl Write,
    snapshot: &Snapshot,
    registry: &IdentityKey,
    unix_s: u64,
) -> Result<(), ExportError> {
    let io = |source| ExportError::Io { path: PathBuf::new(), source };
    let (mut next_node, mut next_item) = (NodeId::FIRST_AGENT, 1);
    scan(snapshot, Table::Meta, |row| {
        if let Row::Meta { next_node: node, next_item: item } = row {
            (next_node, next_item) = (node, item);
        }
        Ok(())
    })?;
    writeln!(out, "{{\n\"format\": \"{FORMAT}\", \"version\": {VERSION},").map_err(io)?;
    let registry = json::hex(&registry.0);
    writeln!(out, "\"written\": {unix_s}, \"registry\": \"{registry}\",").map_err(io)?;
    let next_node = next_node.0;
    write!(out, "\"next_node\": {next_node}, \"next_item\": {next_item}").map_err(io)?;
    for (name, table) in SECTIONS {
        write!(out, ",\n\"{name}\": [").map_err(io)?;
        let mut first = true;
        scan(snapshot, table, |row| {
            let entry = AnyEntry::of(row)
                .ok_or(ExportError::Row { table: table.as_str(), source: RowError::Damaged })?;
            out.write_all(if first { b"\n" } else { b",\n" }).map_err(io)?;
            first = false;
            serde_json::to_writer(&mut *out, &entry).map_err(|error| io(error.into()))
        })?;
        out.write_all(b"\n]").map_err(io)?;
    }
    out.write_all(b"\n}\n").map_err(io)
}

fn scan(
    snapshot: &Snapshot,
    table: Table,
    mut take: impl FnMut(Row) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    snapshot.scan(&[table], |table, key, value| {
        let row = Row::decode(table, key, value);
        take(row.map_err(|source| ExportError::Row { table: table.as_str(), source })?)
    })
}

// ---- reading ----

/// Where imported rows go.
type Take<'a> = &'a mut dyn FnMut(Change) -> Result<(), ExportError>;

/// Reads an export, row by row. The caller throws everything away if this fails.
pub(crate) fn read(path: &Path, take: Take<'_>) -> Result<(), ExportError> {
    let io = |source| ExportError::Io { path: path.to_owned(), source };
    let open = || std::fs::File::open(path).map(BufReader::new).map_err(io);
    let malformed = |error: serde_json::Error| match error.is_io() {
        true => io(error.into()),
        false => ExportError::Malformed { path: path.to_owned(), what: error.to_string() },
    };
    // It may stand behind the receipts that were signed for it.
    let signer: Signer = serde_json::from_reader(open()?).map_err(malformed)?;
    let registry = signer.registry.map(|key| json::bytes::<32>(&key)).transpose();
    let registry = registry.map_err(|what| malformed(serde::de::Error::custom(what)))?;
    let registry = registry.map(|key| IdentityKey(key.0));
    let mut import = Import { take, registry, failure: None, head: Head::default() };
    let mut json = serde_json::Deserializer::from_reader(open()?);
    let result = json.deserialize_map(&mut import).and_then(|()| json.end());
    match (import.failure, result) {
        (Some(failure), _) => Err(failure),
        (None, result) => result.map_err(malformed),
    }
}

/// The key of the registry whose export it is.
#[derive(serde::Deserialize)]
struct Signer {
    registry: Option<String>,
}

/// What is not in a list.
#[derive(Default)]
struct Head {
    format: Option<String>,
    version: Option<u32>,
    next_node: Option<u32>,
    next_item: Option<u64>,
    /// The highest numbers seen in rows.
    nodes: u32,
    items: u64,
}

impl Head {
    /// The counters to go on with, or what is missing.
    fn meta(&self) -> Result<Row, String> {
        if self.format.as_deref() != Some(FORMAT) || self.version.is_none() {
            return Err(format!("no \"format\": \"{FORMAT}\" or no version"));
        }
        let (Some(node), Some(item)) = (self.next_node, self.next_item) else {
            return Err("no next_node or no next_item".into());
        };
        let node = node.max(self.nodes.saturating_add(1)).max(NodeId::FIRST_AGENT.0);
        let item = item.max(self.items.saturating_add(1));
        match node.checked_add(NUMBERS_SKIPPED).map(NodeId).filter(|node| node.is_agent()) {
            Some(next_node) => {
                let next_item = item.saturating_add(u64::from(NUMBERS_SKIPPED));
                Ok(Row::Meta { next_node, next_item })
            }
            None => Err("the node numbers are used up".into()),
        }
    }
}

struct Import<'a> {
    take: Take<'a>,
    /// What receipts are verified for.
    registry: Option<IdentityKey>,
    /// Of the store, which serde cannot carry.
    failure: Option<ExportError>,
    head: Head,
}

impl Import<'_> {
    fn put<E: serde::de::Error>(&mut self, row: &Row) -> Result<(), E> {
        match row {
            Row::Node { node, .. } => self.head.nodes = self.head.nodes.max(node.0),
            Row::Mail { id, .. } => self.head.items = self.head.items.max(*id),
            Row::Receipt { receipt, .. } => {
                let registry = self.registry.ok_or_else(|| E::custom("no \"registry\""))?;
                let verified = receipt.verify(&registry);
                verified.map_err(|error| E::custom(format!("a receipt: {error}")))?;
            }
            _ => {}
        }
        (self.take)(row.change()).map_err(|failure| {
            self.failure = Some(failure);
            E::custom("the store failed")
        })
    }
}

impl<'de> Visitor<'de> for &mut Import<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a registry's export")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "format" => self.head.format = Some(map.next_value()?),
                "version" => match map.next_value::<u32>()? {
                    VERSION => self.head.version = Some(VERSION),
                    newer => {
                        let text = format!("version {newer}; this program reads {VERSION}");
                        return Err(A::Error::custom(text));
                    }
                },
                "next_node" => self.head.next_node = Some(map.next_value()?),
                "next_item" => self.head.next_item = Some(map.next_value()?),
                "nodes" => map.next_value_seed(List::<json::Node>::of(self))?,
                "names" => map.next_value_seed(List::<json::Name>::of(self))?,
                "memberships" => map.next_value_seed(List::<json::Membership>::of(self))?,
                "mailboxes" => map.next_value_seed(List::<json::Mail>::of(self))?,
                "asked" => map.next_value_seed(List::<json::Asked>::of(self))?,
                "revocations" => map.next_value_seed(List::<json::Revocation>::of(self))?,
                "receipts" => map.next_value_seed(List::<json::Receipt>::of(self))?,
                "written" | "registry" => drop(map.next_value::<IgnoredAny>()?),
                other => return Err(A::Error::custom(format!("what is {other:?}?"))),
            }
        }
        let meta = self.head.meta().map_err(A::Error::custom)?;
        self.put(&meta)
    }
}

/// One array, read element by element.
struct List<'i, 'a, T> {
    import: &'i mut Import<'a>,
    entry: std::marker::PhantomData<T>,
}

impl<'i, 'a, T> List<'i, 'a, T> {
    fn of(import: &'i mut Import<'a>) -> Self {
        List { import, entry: std::marker::PhantomData }
    }
}

impl<'de, T: Entry> DeserializeSeed<'de> for List<'_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Entry> Visitor<'de> for List<'_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(entry) = seq.next_element::<T>()? {
            let row = entry.row().map_err(A::Error::custom)?;
            self.import.put(&row)?;
        }
        Ok(())
    }
}
