//! The fixed layouts of data exchange: frames in and out of a buffer of one frame.

use super::{
    Digest, ExchangeError, FRAME_MAX, Failure, FileName, HashAlgorithm, Kind, NAME_MAX, NOTE_MAX,
    Note, Offer, PLAIN_MAX, PUSH_MAX, Refusal, TransferId,
};

pub(super) const OFFER: u32 = 16;
pub(super) const ANSWER: u32 = 17;
pub(super) const END: u32 = 18;
pub(super) const RECEIPT: u32 = 19;
pub(super) const PUSH: u32 = 20;

/// `type ‖ length`.
pub(super) const HEADER: usize = 8;
/// id 16, kind 1, size 8, name len 1, note len 2.
const OFFER_MIN: usize = 28;
const OFFER_MAX: usize = OFFER_MIN + NAME_MAX + NOTE_MAX;
const ANSWER_LEN: usize = 25;
const END_LEN: usize = 49;
/// A whole END frame.
pub(super) const END_FRAME: usize = HEADER + END_LEN;
/// Where the octet of kind and hash algorithm is in an OFFER and a PUSH.
const KIND_AT: usize = HEADER + 16;

/// A frame as far as a machine gathers it. Of a plain frame that is the header, for a file
/// also the name; its content passes by.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator; it lives for one call")]
pub(super) enum Frame {
    /// An offer whose name or kind may be unusable, which concerns this transfer only.
    Offer(Result<Offer, (TransferId, Refusal)>),
    Answer {
        id: TransferId,
        code: u8,
        offset: u64,
    },
    /// Of which hash algorithm is for the owner of the transfer to judge.
    End {
        id: TransferId,
        algorithm: u8,
        hash: [u8; 32],
    },
    Receipt {
        id: TransferId,
        code: u8,
        hash: [u8; 32],
    },
    /// An offer whose content and END follow at once; one of an unknown kind or hash algorithm is
    /// refused.
    Push {
        id: TransferId,
        size: u64,
        offer: Result<Offer, Refusal>,
    },
    /// `size` bytes of content follow; a file with an unusable name has none.
    Plain {
        kind: Kind,
        size: u64,
        name: Option<FileName>,
    },
}

/// Gathers one frame at a time, never more than its own bytes.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    buf: [u8; FRAME_MAX],
    len: usize,
}

impl Gather {
    pub(super) const fn new() -> Self {
        Gather { buf: [0; FRAME_MAX], len: 0 }
    }

    /// Whether a frame has begun and is not complete.
    pub(super) fn is_partial(&self) -> bool {
        self.len > 0
    }

    /// Takes bytes of `input` until a frame is complete or `input` is used up; how many, and
    /// the frame. Lengths are checked as soon as they are known, so a peer that announces
    /// much costs nothing.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), ExchangeError> {
        let mut used = 0;
        loop {
            let want = self.want()?;
            if self.len == want && self.len >= HEADER {
                let frame = self.parse()?;
                self.len = 0;
                return Ok((used, Some(frame)));
            }
            let n = (want - self.len).min(input.len() - used);
            if n == 0 {
                return Ok((used, None));
            }
            self.buf[self.len..self.len + n].copy_from_slice(&input[used..used + n]);
            self.len += n;
            used += n;
        }
    }

    /// Bytes that are needed before it can go on, given those that are there.
    fn want(&self) -> Result<usize, ExchangeError> {
        if self.len < HEADER {
            return Ok(HEADER);
        }
        let (kind, len) = self.header();
        let malformed = Err(ExchangeError::Malformed(kind));
        match kind {
            1..=4 if len > PLAIN_MAX as usize => malformed,
            1..=3 => Ok(HEADER),
            4 if len < 2 => malformed,
            4 if self.len < HEADER + 2 => Ok(HEADER + 2),
            4 => {
                let name = usize::from(u16::from_be_bytes(array(&self.buf[HEADER..])));
                if 2 + name > len {
                    return malformed;
                }
                // A name that is too long is skipped with the content.
                Ok(HEADER + 2 + if name > NAME_MAX { 0 } else { name })
            }
            OFFER | PUSH if (OFFER_MIN..=OFFER_MAX).contains(&len) => Ok(HEADER + len),
            ANSWER if len == ANSWER_LEN => Ok(HEADER + len),
            END | RECEIPT if len == END_LEN => Ok(HEADER + len),
            OFFER | PUSH | ANSWER | END | RECEIPT => malformed,
            other => Err(ExchangeError::Unexpected(other)),
        }
    }

    fn header(&self) -> (u32, usize) {
        let len = u32::from_be_bytes(array(&self.buf[4..]));
        (u32::from_be_bytes(array(&self.buf)), len as usize)
    }

    fn parse(&self) -> Result<Frame, ExchangeError> {
        let (kind, len) = self.header();
        let body = &self.buf[HEADER..self.len];
        match kind {
            OFFER => parse_offer(body).map(Frame::Offer).ok_or(ExchangeError::Malformed(kind)),
            PUSH => parse_push(body).ok_or(ExchangeError::Malformed(kind)),
            ANSWER => Ok(Frame::Answer {
                id: TransferId(array(body)),
                code: body[16],
                offset: u64::from_be_bytes(array(&body[17..])),
            }),
            END => Ok(Frame::End {
                id: TransferId(array(body)),
                algorithm: body[16],
                hash: array(&body[17..]),
            }),
            RECEIPT => Ok(Frame::Receipt {
                id: TransferId(array(body)),
                code: body[16],
                hash: array(&body[17..]),
            }),
            _ => {
                let kind = u8::try_from(kind).ok().and_then(Kind::from_u8).unwrap_or(Kind::Binary);
                let name = body.get(2..).and_then(|name| FileName::from_bytes(name).ok());
                Ok(Frame::Plain { kind, size: (len - body.len()) as u64, name })
            }
        }
    }
}

/// `None`: the lengths do not add up, or it is no message, or too long for one that nobody asked
/// for.
fn parse_push(body: &[u8]) -> Option<Frame> {
    let (id, offer) = match parse_offer(body)? {
        Ok(offer) => (offer.id, Ok(offer)),
        Err((id, refusal @ (Refusal::UnknownKind | Refusal::UnknownHash))) => (id, Err(refusal)),
        Err(_) => return None,
    };
    let size = u64::from_be_bytes(array(&body[17..]));
    let is_file = offer.as_ref().is_ok_and(|offer| !offer.kind.is_message());
    (!is_file && size <= PUSH_MAX as u64).then_some(Frame::Push { id, size, offer })
}

/// `None`: the lengths do not add up.
fn parse_offer(body: &[u8]) -> Option<Result<Offer, (TransferId, Refusal)>> {
    let id = TransferId(array(body));
    let (kind, hash) = (Kind::from_u8(body[16] & 0x0f), offered_hash(body[16]));
    let size = u64::from_be_bytes(array(&body[17..]));
    let name_len = usize::from(body[25]);
    let name = body.get(26..26 + name_len)?;
    let note = body.get(26 + name_len..)?;
    let (note_len, note) = note.split_at_checked(2)?;
    if note.len() != usize::from(u16::from_be_bytes(array(note_len))) || note.len() > NOTE_MAX {
        return None;
    }
    let Some(kind) = kind else { return Some(Err((id, Refusal::UnknownKind))) };
    let Some(hash) = hash else { return Some(Err((id, Refusal::UnknownHash))) };
    let name = match (kind.is_message(), name.is_empty()) {
        (true, true) => None,
        (true, false) => return Some(Err((id, Refusal::BadName))),
        (false, _) => match FileName::from_bytes(name) {
            Ok(name) => Some(name),
            Err(_) => return Some(Err((id, Refusal::BadName))),
        },
    };
    Some(Ok(Offer { id, kind, size, hash, name, note: Note::cleaned(note) }))
}

/// The upper half of the octet: nothing for algorithm 1, so that it is the kind alone.
fn offered_hash(octet: u8) -> Option<HashAlgorithm> {
    match octet >> 4 {
        0 => Some(HashAlgorithm::Sha256),
        1 => None,
        other => HashAlgorithm::from_u8(other),
    }
}

fn kind_and_hash(kind: Kind, hash: HashAlgorithm) -> u8 {
    match hash {
        HashAlgorithm::Sha256 => kind as u8,
        other => (other as u8) << 4 | kind as u8,
    }
}

/// The first `N` bytes; the callers have checked the lengths.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// At most one frame that waits to be written.
#[derive(Clone, Debug)]
pub(super) struct Output {
    buf: [u8; FRAME_MAX],
    start: usize,
    end: usize,
}

impl Output {
    pub(super) const fn new() -> Self {
        Output { buf: [0; FRAME_MAX], start: 0, end: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }

    /// Begins a frame; whatever was there is gone.
    fn begin(&mut self, kind: u32) -> &mut Self {
        (self.start, self.end) = (0, HEADER);
        self.buf[..4].copy_from_slice(&kind.to_be_bytes());
        self
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let end = (self.end + bytes.len()).min(FRAME_MAX);
        let n = end - self.end;
        self.buf[self.end..end].copy_from_slice(&bytes[..n]);
        self.end = end;
        self.buf[4..HEADER].copy_from_slice(&((self.end - HEADER) as u32).to_be_bytes());
        self
    }

    pub(super) fn offer(&mut self, offer: &Offer) {
        self.offered(OFFER, offer);
    }

    pub(super) fn push(&mut self, offer: &Offer) {
        self.offered(PUSH, offer);
    }

    fn offered(&mut self, frame: u32, offer: &Offer) {
        let name = offer.name.as_ref().map_or("", FileName::as_str).as_bytes();
        let note = offer.note.as_str().as_bytes();
        // Both lengths fit by their types.
        self.begin(frame)
            .put(&offer.id.0)
            .put(&[kind_and_hash(offer.kind, offer.hash)])
            .put(&offer.size.to_be_bytes())
            .put(&[name.len() as u8])
            .put(name)
            .put(&(note.len() as u16).to_be_bytes())
            .put(note);
    }

    /// The OFFER that was written last, once more, with algorithm 1; only while nothing else was.
    pub(super) fn offer_sha256(&mut self) {
        self.buf[KIND_AT] &= 0x0f;
        self.start = 0;
    }

    pub(super) fn answer(&mut self, id: TransferId, code: u8, offset: u64) {
        self.begin(ANSWER).put(&id.0).put(&[code]).put(&offset.to_be_bytes());
    }

    pub(super) fn end(&mut self, id: TransferId, hash: Digest) {
        self.begin(END).put(&id.0).put(&[hash.algorithm() as u8]).put(hash.bytes());
    }

    pub(super) fn receipt(&mut self, id: TransferId, result: Result<(), Failure>, hash: Digest) {
        let code = result.map_or_else(Failure::code, |()| 0);
        self.begin(RECEIPT).put(&id.0).put(&[code]).put(hash.bytes());
    }

    /// The answer to a plain frame, itself a plain text frame.
    pub(super) fn plain(&mut self, kind: Kind, size: u64, stored: bool) {
        let mut digits = [0; 20];
        let word = match kind {
            Kind::Text => "TEXT ",
            Kind::Binary => "BINARY ",
            Kind::Json => "JSON ",
            // There is no plain frame of a directory.
            Kind::File | Kind::Directory => "FILE ",
        };
        self.begin(Kind::Text as u32)
            .put(if stored { b"ACK " } else { b"ERR " })
            .put(word.as_bytes())
            .put(decimal(size, &mut digits))
            .put(b" bytes");
    }
}

fn decimal(mut n: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &digits[at..];
        }
    }
}
