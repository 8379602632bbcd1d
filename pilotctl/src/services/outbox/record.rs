//! What the outbox writes: a line per waiting item, before the content of a message, and a line per
//! settled one.

use super::{Item, ItemState, Reason};
use crate::services::inbox::parse_digest;
use crate::services::segments::Record;
use pilot_core::service::exchange::{Digest, Kind, Note, TransferId};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

/// Longest first line of an item's file that is read.
const HEADER_MAX: u64 = 16 * 1024;

/// The line of an item; the content of a message follows as it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    id: String,
    to: String,
    kind: u8,
    created_us: u64,
    size: u64,
    /// Formerly of SHA-256 alone.
    #[serde(alias = "sha256")]
    hash: String,
    /// Of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
}

/// A line of the file of settled items.
#[derive(Serialize, Deserialize)]
struct Line {
    message: Header,
    state: String,
    settled_us: u64,
    attempts: u32,
    #[serde(default)]
    may_have_arrived: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

pub(super) fn file_name(item: &Item) -> String {
    format!("{:017}-{}.out", item.created_us, item.id)
}

fn header(item: &Item) -> Header {
    Header {
        id: item.id.to_string(),
        to: item.to.to_string(),
        kind: item.kind as u8,
        created_us: item.created_us,
        size: item.size,
        hash: item.hash.to_string(),
        name: item.name.as_ref().map(ToString::to_string),
        note: item.note.to_string(),
    }
}

fn item(header: &Header) -> io::Result<Item> {
    let kind = Kind::from_u8(header.kind).ok_or_else(bad)?;
    let name = header.name.as_ref().map(|name| name.parse().map_err(|_| bad())).transpose()?;
    if kind.is_message() != name.is_none() {
        return Err(bad());
    }
    Ok(Item {
        id: header.id.parse::<TransferId>().map_err(|_| bad())?,
        to: header.to.parse().map_err(|_| bad())?,
        kind,
        name,
        note: Note::cleaned(header.note.as_bytes()),
        created_us: header.created_us,
        size: header.size,
        hash: parse_digest(&header.hash).ok_or_else(bad)?,
        state: ItemState::Queued,
        attempts: 0,
        sent: 0,
        // An earlier process may have offered it.
        may_have_arrived: true,
        settled_us: None,
        reason: None,
    })
}

/// The line of an item.
pub(super) fn head(item: &Item) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&header(item))?;
    line.push(b'\n');
    Ok(line)
}

impl Record for Item {
    fn read(line: &[u8]) -> Option<Self> {
        let item = item(&serde_json::from_slice(line).ok()?).ok()?;
        item.kind.is_message().then_some(item)
    }

    fn order(&self) -> u64 {
        self.created_us
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn hash(&self) -> Digest {
        self.hash
    }
}

/// The item that a file begins with.
pub(super) fn read_head(path: &Path) -> io::Result<Item> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    reader.by_ref().take(HEADER_MAX).read_until(b'\n', &mut line)?;
    item(&serde_json::from_slice(&line)?)
}

/// What the line of a file says of it, if its content is as long as it must be.
pub(super) fn read_file(path: &Path) -> io::Result<Item> {
    let item = read_head(path)?;
    let is_whole = path.metadata()?.len() == head(&item)?.len() as u64
        && path.with_extension("data").metadata()?.len() == item.size;
    if is_whole { Ok(item) } else { Err(bad()) }
}

/// The line of a settled item.
pub(super) fn settled_line(item: &Item) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Line {
        message: header(item),
        state: item.state.as_str().to_owned(),
        settled_us: item.settled_us.unwrap_or_default(),
        attempts: item.attempts,
        may_have_arrived: item.may_have_arrived,
        reason: item.reason.clone(),
    })?;
    line.push(b'\n');
    Ok(line)
}

/// Reads such a line; `None` for one that a crash has cut.
pub(super) fn read_settled(line: &[u8]) -> Option<Item> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let state = ItemState::settled(&line.state)?;
    let Line { message, settled_us, attempts, may_have_arrived, reason, .. } = line;
    let settled_us = Some(settled_us);
    Some(Item { state, settled_us, attempts, may_have_arrived, reason, ..item(&message).ok()? })
}
