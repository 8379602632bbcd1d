//! Data exchange, port 1001 (`wire.md` 12): messages, files and directories, one after another on a stream,
//! each with an identifier, so that an interrupted one is resumed or recognised.
//!
//! Every frame is `type u32 ‖ length u32 ‖ payload`, integers big-endian:
//!
//! | Type | Frame | Payload |
//! |---|---|---|
//! | 16 | OFFER | id 16, alg and kind 1, size 8, name len 1, name, note len 2, note |
//! | 17 | ANSWER | id 16, code 1, offset 8 |
//! | | | then, after code 0, `size - offset` raw bytes |
//! | 18 | END | id 16, alg 1 (1: SHA-256, 2: BLAKE3), hash 32 |
//! | 19 | RECEIPT | id 16, code 1, hash 32 |
//! | 20 | PUSH | as OFFER, of a message; its content and END follow at once |
//! | 1–4 | plain text, binary, JSON, file | the published frames: received, never sent |
//!
//! ```text
//! Sender                                    Receiver
//! Idle      --offer()-->                    Frame
//! Offered   --OFFER-------------------->    Offered   the owner answers
//! Sending   <-ANSWER 0, offset----------    Data      the owner stores what comes out
//! Ending    --bytes, END hash---------->    Ended     hash verified; the owner syncs
//! Idle      <-RECEIPT 0, hash-----------    Frame
//!
//! Offered   <-ANSWER 1 (have it)--------    Frame     done, nothing follows
//! Offered   <-ANSWER >= 2 (refused)-----    Frame     the next offer may follow
//! Ending    <-RECEIPT >= 1--------------    Frame     not stored; the next offer may follow
//! Sending   <-RECEIPT >= 1--------------    Closed    bytes are under way that nobody wants:
//!                                                     both ends close the stream
//! ```
//!
//! A sender of small messages needs no answer before each: it pushes up to [`PUSHES_MAX`] of them
//! ([`Pipeline`]) and gets, in their order, for each a RECEIPT, or an ANSWER of 1 or more. So the
//! receiver may sync many at once ([`Receiver::defer`]). An OFFER comes on such a stream only
//! when every PUSH has its answer.
//!
//! The octet of an offer's kind has in its upper half the hash algorithm of its END, or 0 for
//! algorithm 1. A receiver that does not know it refuses the offer ([`Refusal::UnknownHash`], or
//! [`Refusal::UnknownKind`] if it takes the octet for a kind), and is offered the same with
//! algorithm 1.
//!
//! The hash covers the whole content, also what lies before the offset: the sender feeds the
//! content from its first byte and is told what of it to write; the receiver hands in the
//! state of the hash over what it has stored. Any offset up to the size is legal, the size
//! itself included. Anything out of order, of a wrong length, for another transfer or of an
//! unknown type is an [`ExchangeError`] and ends the stream; no bytes make a machine panic,
//! and neither holds more than one frame.

mod frame;
mod hash;
mod name;
mod numbered;
mod pipeline;
mod receiver;
mod sender;
mod tree;

#[cfg(test)]
mod algorithm_tests;
#[cfg(test)]
mod pipeline_tests;
#[cfg(test)]
mod tests;

pub use hash::{BadDigest, ContentHash, Digest, HashAlgorithm};
pub use name::{FileName, FileNameError, NAME_MAX, NOTE_MAX, Note};
pub use numbered::{NUMBER_LIMIT, NumberSet, RANGES_MAX};
pub use pipeline::{Pipeline, Pushed};
pub use receiver::{Answer, PlainOffer, Receiver, ReceiverEvent};
pub use sender::{Sender, SenderEvent};
pub use tree::{
    EntryHead, TREE_DEPTH_MAX, TREE_ENTRIES_MAX, TREE_PATH_MAX, TreeError, TreeItem, TreeReader,
    TreeWriter,
};

use crate::crypto::Rights;
use core::fmt;
use core::str::FromStr;

/// Longest payload of a published plain frame (`published-wire.md`).
pub const PLAIN_MAX: u32 = 1 << 24;

/// Longest frame that a machine writes or gathers: an OFFER with the longest name and note.
pub const FRAME_MAX: usize = 8 + 28 + NAME_MAX + NOTE_MAX;

/// Longest content of a PUSH: it comes unasked. Nobody takes longer messages otherwise.
pub const PUSH_MAX: usize = 1 << 20;

/// Most bytes of a pushed message on the wire beside its content: PUSH and END.
pub const PUSH_OVERHEAD: usize = FRAME_MAX + frame::END_FRAME;

/// Most transfers of a stream without their RECEIPT or refusal.
pub const PUSHES_MAX: usize = 256;

/// Names one transfer; chosen by the sender, at random or [numbered](TransferId::numbered).
/// Unique per sender only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub [u8; 16]);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hash::hex(&self.0, f)
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a transfer id is 32 hexadecimal digits")]
pub struct BadTransferId;

impl FromStr for TransferId {
    type Err = BadTransferId;

    /// Parses the 32 lower- or upper-case digits that `Display` prints.
    fn from_str(text: &str) -> Result<Self, BadTransferId> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BadTransferId);
        }
        u128::from_str_radix(text, 16)
            .map(|n| TransferId(n.to_be_bytes()))
            .map_err(|_| BadTransferId)
    }
}

/// What is transferred; the numbers up to 4 are those of the published plain frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A message of UTF-8 text.
    Text = 1,
    /// A message of bytes.
    Binary = 2,
    /// A message of JSON text.
    Json = 3,
    /// A file.
    File = 4,
    /// A directory; its content is that of a [`TreeWriter`].
    Directory = 5,
}

impl Kind {
    /// The right that a grant must carry for its holder to send this kind (`wire.md` 12).
    pub const fn right(self) -> Rights {
        match self {
            Kind::Text | Kind::Binary | Kind::Json => Rights::MESSAGES,
            Kind::File | Kind::Directory => Rights::FILES,
        }
    }

    /// The kind with this number.
    pub const fn from_u8(n: u8) -> Option<Kind> {
        match n {
            1 => Some(Kind::Text),
            2 => Some(Kind::Binary),
            3 => Some(Kind::Json),
            4 => Some(Kind::File),
            5 => Some(Kind::Directory),
            _ => None,
        }
    }

    /// The lower-case word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Binary => "binary",
            Kind::Json => "json",
            Kind::File => "file",
            Kind::Directory => "directory",
        }
    }

    /// Whether it is a message and not a file or directory. Messages need bit 1 of the grant's rights,
    /// files bit 2 (`wire.md` 12).
    pub const fn is_message(self) -> bool {
        !matches!(self, Kind::File | Kind::Directory)
    }
}

/// What a sender offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Which transfer; the same id again continues or repeats it.
    pub id: TransferId,
    /// What it is.
    pub kind: Kind,
    /// Bytes of the whole content.
    pub size: u64,
    /// What both ends hash it with; usually [`HashAlgorithm::of`] its kind.
    pub hash: HashAlgorithm,
    /// The base name of a file or directory; `None` exactly for messages.
    pub name: Option<FileName>,
    /// A remark of the sender: **hostile text**, cleaned.
    pub note: Note,
}

/// Why a receiver does not take an offer (codes of ANSWER from 2 on).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// 2: the receiver's grant to the sender does not cover this kind.
    #[error("the receiver's grant does not allow this kind of transfer")]
    NotPermitted,
    /// 3: larger than the receiver takes at all.
    #[error("too large for the receiver")]
    TooLarge,
    /// 4: the receiver's quota (of bytes, messages or files, over all or of this sender) is
    /// used up.
    #[error("the receiver's quota is used up")]
    Full,
    /// 5: the name is not a plain base name.
    #[error("the receiver does not accept this file name")]
    BadName,
    /// 6: too many transfers at once; try again later.
    #[error("the receiver is busy")]
    Busy,
    /// 7: the receiver's storage failed.
    #[error("the receiver's storage failed")]
    Failed,
    /// 8: a kind that the receiver does not know.
    #[error("the receiver does not know this kind of transfer")]
    UnknownKind,
    /// 9: a hash algorithm that the receiver does not know.
    #[error("the receiver does not know the hash algorithm")]
    UnknownHash,
    /// Any other code.
    #[error("refused by the receiver with code {0}")]
    Other(u8),
}

impl Refusal {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Refusal::NotPermitted => 2,
            Refusal::TooLarge => 3,
            Refusal::Full => 4,
            Refusal::BadName => 5,
            Refusal::Busy => 6,
            Refusal::Failed => 7,
            Refusal::UnknownKind => 8,
            Refusal::UnknownHash => 9,
            Refusal::Other(code) => code,
        }
    }

    /// The refusal with this code; 0 and 1 are none.
    pub const fn from_code(code: u8) -> Option<Refusal> {
        Some(match code {
            0 | 1 => return None,
            2 => Refusal::NotPermitted,
            3 => Refusal::TooLarge,
            4 => Refusal::Full,
            5 => Refusal::BadName,
            6 => Refusal::Busy,
            7 => Refusal::Failed,
            8 => Refusal::UnknownKind,
            9 => Refusal::UnknownHash,
            other => Refusal::Other(other),
        })
    }
}

/// Why a transfer was not stored although it was accepted (codes of RECEIPT from 1 on).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// 1: the content does not have the announced hash; what was stored of it is discarded.
    #[error("the content arrived with another hash")]
    HashMismatch,
    /// 2: the receiver's storage failed.
    #[error("the receiver's storage failed")]
    Failed,
    /// 3: the receiver's quota or disk is full.
    #[error("the receiver's storage is full")]
    Full,
    /// 4: the transfer goes on over another stream.
    #[error("the transfer was taken over by another stream")]
    Superseded,
    /// 5: the content is not of the kind that was offered; the same again does not help.
    #[error("the content is not what its kind says")]
    BadContent,
    /// Any other code.
    #[error("not stored, code {0}")]
    Other(u8),
}

impl Failure {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Failure::HashMismatch => 1,
            Failure::Failed => 2,
            Failure::Full => 3,
            Failure::Superseded => 4,
            Failure::BadContent => 5,
            Failure::Other(code) => code,
        }
    }

    /// The failure with this code; 0 is none.
    pub const fn from_code(code: u8) -> Option<Failure> {
        Some(match code {
            0 => return None,
            1 => Failure::HashMismatch,
            2 => Failure::Failed,
            3 => Failure::Full,
            4 => Failure::Superseded,
            5 => Failure::BadContent,
            other => Failure::Other(other),
        })
    }
}

/// Why a stream of data exchange cannot go on: its peer does not keep to the protocol. The
/// owner closes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// A frame of a type that means nothing here or now.
    #[error("unexpected frame of type {0}")]
    Unexpected(u32),
    /// A frame longer or shorter than its type allows, or whose fields do not add up.
    #[error("malformed frame of type {0}")]
    Malformed(u32),
    /// A frame for a transfer that is not under way.
    #[error("frame for another transfer")]
    WrongTransfer,
    /// An END with another hash algorithm than was offered.
    #[error("hash algorithm {0} was not offered")]
    WrongHash(u8),
    /// An offset beyond the size, or a receipt for another content.
    #[error("the answer does not fit the offer")]
    BadAnswer,
    /// The stream ended within a frame or transfer.
    #[error("the stream ended too early")]
    Truncated,
    /// The machine was closed before.
    #[error("closed")]
    Closed,
}

/// The owner's call does not fit the machine's state; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Not now.
    #[error("not in this state")]
    State,
    /// A file without a name, or a message with one.
    #[error("exactly files have names")]
    Name,
    /// More content than was offered, or a longer prefix.
    #[error("more content than was offered")]
    TooMuch,
    /// A hash over what is stored that is of another algorithm than was offered.
    #[error("the hash is not of the algorithm that was offered")]
    Hash,
}
