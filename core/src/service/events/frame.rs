//! The frames: written into a buffer that is lent, and parsed where they lie.

use super::{DATA_MAX, EventsError, Pattern, TOPIC_MAX, Topic};
use crate::addr::Address;

/// Kind and length.
pub(super) const HEADER: usize = 4;
/// Bytes of an EVENT beside topic and data; a PUBLISH has one less.
pub(super) const EVENT_FIXED: usize = 8;

pub(super) const SUBSCRIBE: u8 = 16;
pub(super) const UNSUBSCRIBE: u8 = 17;
pub(super) const PUBLISH: u8 = 18;
pub(super) const DONE: u8 = 19;
pub(super) const EVENT: u8 = 20;
pub(super) const DROPPED: u8 = 21;
pub(super) const PING: u8 = 22;

const PUBLISH_FIXED: usize = 6;
const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// One frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame<'a> {
    Subscribe {
        request: u32,
        /// The values retained for topics that match, too.
        retained: bool,
        pattern: Pattern<'a>,
    },
    Unsubscribe {
        request: u32,
        pattern: Pattern<'a>,
    },
    Publish {
        request: u32,
        acknowledge: bool,
        retain: bool,
        topic: Topic<'a>,
        data: &'a [u8],
    },
    Done {
        request: u32,
        code: u8,
        count: u32,
    },
    Event {
        retained: bool,
        from: Address,
        topic: Topic<'a>,
        data: &'a [u8],
    },
    Dropped(u64),
    Ping {
        request: u32,
    },
}

/// Writes one behind the other and notices when there is no room.
struct Put<'b> {
    out: &'b mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<&mut Self> {
        let end = self.at + bytes.len();
        self.out.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(self)
    }
}

fn flags(first: bool, second: bool) -> [u8; 1] {
    [if first { FIRST } else { 0 } | if second { SECOND } else { 0 }]
}

impl<'a> Frame<'a> {
    fn kind(&self) -> u8 {
        match self {
            Frame::Subscribe { .. } => SUBSCRIBE,
            Frame::Unsubscribe { .. } => UNSUBSCRIBE,
            Frame::Publish { .. } => PUBLISH,
            Frame::Done { .. } => DONE,
            Frame::Event { .. } => EVENT,
            Frame::Dropped(_) => DROPPED,
            Frame::Ping { .. } => PING,
        }
    }

    /// Writes the frame to the front of `out`: its length, or `None` if there is no room for it
    /// or its data is longer than [`DATA_MAX`].
    pub(super) fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut put = Put { out, at: HEADER };
        match *self {
            Frame::Subscribe { request, retained, pattern } => put
                .bytes(&request.to_be_bytes())?
                .bytes(&flags(retained, false))?
                .bytes(pattern.as_str().as_bytes())?,
            Frame::Unsubscribe { request, pattern } => {
                put.bytes(&request.to_be_bytes())?.bytes(pattern.as_str().as_bytes())?
            }
            Frame::Publish { request, acknowledge, retain, topic, data } => {
                put.bytes(&request.to_be_bytes())?.bytes(&flags(acknowledge, retain))?;
                about(&mut put, topic, data)?
            }
            Frame::Done { request, code, count } => {
                put.bytes(&request.to_be_bytes())?.bytes(&[code])?.bytes(&count.to_be_bytes())?
            }
            Frame::Event { retained, from, topic, data } => {
                put.bytes(&flags(retained, false))?.bytes(&from.to_bytes())?;
                about(&mut put, topic, data)?
            }
            Frame::Dropped(count) => put.bytes(&count.to_be_bytes())?,
            Frame::Ping { request } => put.bytes(&request.to_be_bytes())?,
        };
        let end = put.at;
        // The longest frame is far below 2^24 bytes.
        let header = ((end - HEADER) as u32).to_be_bytes();
        out[..HEADER].copy_from_slice(&[self.kind(), header[1], header[2], header[3]]);
        Some(end)
    }

    /// The frame at the front of `input` and its length; `None` as long as it is not all there.
    pub(super) fn decode(input: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, EventsError> {
        let Some(&kind) = input.first() else { return Ok(None) };
        let (least, most) = match kind {
            SUBSCRIBE => (6, 5 + TOPIC_MAX),
            UNSUBSCRIBE => (5, 4 + TOPIC_MAX),
            PUBLISH => (PUBLISH_FIXED + 1, PUBLISH_FIXED + TOPIC_MAX + DATA_MAX),
            DONE => (9, 9),
            EVENT => (EVENT_FIXED + 1, EVENT_FIXED + TOPIC_MAX + DATA_MAX),
            DROPPED => (8, 8),
            PING => (4, 4),
            other => return Err(EventsError::Unexpected(other)),
        };
        let Some(&[_, a, b, c]) = input.first_chunk() else { return Ok(None) };
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        if !(least..=most).contains(&len) {
            return Err(EventsError::Malformed(kind));
        }
        let Some(body) = input.get(HEADER..HEADER + len) else { return Ok(None) };
        Frame::parse(kind, body).map(|frame| Some((frame, HEADER + len)))
    }

    /// The length was checked.
    fn parse(kind: u8, body: &'a [u8]) -> Result<Frame<'a>, EventsError> {
        Ok(match kind {
            SUBSCRIBE => Frame::Subscribe {
                request: u32::from_be_bytes(array(body)),
                retained: body[4] & FIRST != 0,
                pattern: Pattern::from_bytes(&body[5..])?,
            },
            UNSUBSCRIBE => Frame::Unsubscribe {
                request: u32::from_be_bytes(array(body)),
                pattern: Pattern::from_bytes(&body[4..])?,
            },
            PUBLISH => {
                let (topic, data) = split(kind, &body[5..])?;
                Frame::Publish {
                    request: u32::from_be_bytes(array(body)),
                    acknowledge: body[4] & FIRST != 0,
                    retain: body[4] & SECOND != 0,
                    topic,
                    data,
                }
            }
            DONE => Frame::Done {
                request: u32::from_be_bytes(array(body)),
                code: body[4],
                count: u32::from_be_bytes(array(&body[5..])),
            },
            EVENT => {
                let (topic, data) = split(kind, &body[7..])?;
                Frame::Event {
                    retained: body[0] & FIRST != 0,
                    from: Address::from_bytes(array(&body[1..])),
                    topic,
                    data,
                }
            }
            DROPPED => Frame::Dropped(u64::from_be_bytes(array(body))),
            _ => Frame::Ping { request: u32::from_be_bytes(array(body)) },
        })
    }
}

/// Topic and data, as PUBLISH and EVENT end.
fn about<'p, 'b>(put: &'p mut Put<'b>, topic: Topic<'_>, data: &[u8]) -> Option<&'p mut Put<'b>> {
    let topic = topic.as_str().as_bytes();
    (data.len() <= DATA_MAX).then_some(())?;
    // A topic is no longer than a byte can say.
    put.bytes(&[topic.len() as u8])?.bytes(topic)?.bytes(data)
}

fn split(kind: u8, bytes: &[u8]) -> Result<(Topic<'_>, &[u8]), EventsError> {
    let malformed = EventsError::Malformed(kind);
    let (&len, rest) = bytes.split_first().ok_or(malformed)?;
    let (topic, data) = rest.split_at_checked(usize::from(len)).ok_or(malformed)?;
    // With a short topic the limit of the frame's length leaves room for too much data.
    if data.len() > DATA_MAX {
        return Err(malformed);
    }
    Ok((Topic::from_bytes(topic)?, data))
}

/// The first `N` bytes; the callers have checked the lengths.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::events::FRAME_MAX;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn from() -> Address {
        "1:0001.0000.0042".parse().unwrap()
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let (topic, pattern) = (Topic::new("a.b").unwrap(), Pattern::new("a.*").unwrap());
        let cases: [(Frame<'_>, &[u8]); 7] = [
            (
                Frame::Subscribe { request: 1, retained: true, pattern },
                b"\x10\0\0\x08\0\0\0\x01\x01a.*",
            ),
            (Frame::Unsubscribe { request: 2, pattern }, b"\x11\0\0\x07\0\0\0\x02a.*"),
            (
                Frame::Publish { request: 3, acknowledge: true, retain: true, topic, data: b"hi" },
                b"\x12\0\0\x0b\0\0\0\x03\x03\x03a.bhi",
            ),
            (
                Frame::Done { request: 3, code: 1, count: 7 },
                b"\x13\0\0\x09\0\0\0\x03\x01\0\0\0\x07",
            ),
            (
                Frame::Event { retained: true, from: from(), topic, data: b"" },
                b"\x14\0\0\x0b\x01\0\x01\0\x00\x00\x42\x03a.b",
            ),
            (Frame::Dropped(258), b"\x15\0\0\x08\0\0\0\0\0\0\x01\x02"),
            (Frame::Ping { request: 9 }, b"\x16\0\0\x04\0\0\0\x09"),
        ];
        for (frame, bytes) in cases {
            let mut out = [0; 64];
            let len = frame.encode(&mut out).unwrap();
            assert_eq!(&out[..len], bytes, "{frame:?}");
            assert_eq!(Frame::decode(&out[..len]), Ok(Some((frame, len))));
            for cut in 0..len {
                assert_eq!(Frame::decode(&out[..cut]), Ok(None), "{frame:?} {cut}");
                assert_eq!(frame.encode(&mut out[..cut].to_vec()), None, "{frame:?} {cut}");
            }
        }
    }

    #[test]
    fn the_longest_frame_fits_and_longer_ones_are_refused_at_their_header() {
        let topic = "t".repeat(TOPIC_MAX);
        let topic = Topic::new(&topic).unwrap();
        let data = vec![7; DATA_MAX];
        let mut out = vec![0; FRAME_MAX];
        let frame = Frame::Event { retained: false, from: from(), topic, data: &data };
        assert_eq!(frame.encode(&mut out), Some(FRAME_MAX));
        assert_eq!(Frame::decode(&out), Ok(Some((frame, FRAME_MAX))));
        let more = vec![7; DATA_MAX + 1];
        let short = Topic::new("t").unwrap();
        let frame = Frame::Event { retained: false, from: from(), topic: short, data: &more };
        assert_eq!(frame.encode(&mut vec![0; FRAME_MAX]), None);

        for kind in SUBSCRIBE..=PING {
            for header in [[kind, 0xFF, 0xFF, 0xFF], [kind, 0, 0, 0]] {
                assert_eq!(Frame::decode(&header), Err(EventsError::Malformed(kind)));
            }
        }
        // With a short topic: too much data within a frame that is not too long.
        let len = PUBLISH_FIXED + 1 + DATA_MAX + 1;
        let mut bytes = vec![PUBLISH, (len >> 16) as u8, (len >> 8) as u8, len as u8];
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 1, b't']);
        bytes.extend_from_slice(&more);
        assert_eq!(Frame::decode(&bytes), Err(EventsError::Malformed(PUBLISH)));
        // The published plain frame of topic `t/1`, and kinds that there are not.
        let plain = [0, 3, b't', b'/', b'1', 0, 0, 0, 2, b'h', b'i'];
        assert_eq!(Frame::decode(&plain), Err(EventsError::Unexpected(0)));
        assert_eq!(Frame::decode(&[23]), Err(EventsError::Unexpected(23)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_an_error_or_too_few(
            kind in 15u8..=23,
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            right_length in any::<bool>(),
        ) {
            let mut input: Vec<u8> = vec![kind];
            if right_length {
                input.extend_from_slice(&(bytes.len() as u32).to_be_bytes()[1..]);
            }
            input.extend_from_slice(&bytes);
            if let Ok(Some((frame, len))) = Frame::decode(&input) {
                prop_assert!(len <= input.len());
                // Undefined flags are the only bits that mean nothing.
                let mut out = vec![0; len];
                prop_assert_eq!(frame.encode(&mut out), Some(len));
                prop_assert_eq!(Frame::decode(&out), Ok(Some((frame, len))));
            }
        }
    }
}
