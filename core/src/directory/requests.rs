//! The owner's requests to the registry: kept, as they were encoded, until they are answered,
//! and their answers until they are taken.
//!
//! | State | Input | Next |
//! |---|---|---|
//! | free | submit | queued |
//! | queued | sent | under way |
//! | under way | answer | answered or failed, edge |
//! | under way | connection lost | queued |
//! | under way | held: something else is asked first | held |
//! | held | sent anew, or failed | queued, or failed, edge |
//! | queued, under way, held | 30 s since submission | failed: unreachable, edge |
//! | any | forget | free |
//!
//! Every request of an owner may be repeated without harm (`wire.md` 10), so one that was
//! under way when the connection broke is simply sent again. Bounds: as many requests as
//! slots, then `Full`; an answer longer than a slot's share of the buffer fails the request.

use super::answer::{Answer, RequestError, RequestId, owners_view};
use crate::limits::REQUEST_GIVE_UP;
use crate::slab::Store;
use crate::time::Instant;
use crate::wire::registry::{self, Envelope, PLAINTEXT_MAX, Request};

/// Bytes of buffer that each request needs for the longest answer there is.
pub const ANSWER_BYTES: usize = PLAINTEXT_MAX;
/// Bytes of buffer that each request needs at least, for the longest request (tags).
pub const REQUEST_BYTES_MIN: usize = 1280;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Free,
    Queued,
    UnderWay,
    /// Answered, and to be asked otherwise once more is known.
    Held,
    Answered,
    Failed(RequestError),
}

/// One place of the request table.
#[derive(Clone, Copy, Debug)]
pub struct RequestSlot {
    id: RequestId,
    state: State,
    /// Bytes of this slot's share that the request, later its answer, takes.
    len: usize,
    expires: Instant,
    /// The owner has not been told yet.
    edge: bool,
}

impl RequestSlot {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        RequestSlot {
            id: RequestId(0),
            state: State::Free,
            len: 0,
            expires: Instant::NEVER,
            edge: false,
        }
    }

    /// Whether an answer is still to come.
    const fn is_open(&self) -> bool {
        matches!(self.state, State::Queued | State::UnderWay | State::Held)
    }
}

pub(super) struct Requests<'s> {
    slots: Store<'s, RequestSlot>,
    bytes: Store<'s, u8>,
    last: u32,
    edges: u32,
}

impl<'s> Requests<'s> {
    pub(super) fn new(mut slots: Store<'s, RequestSlot>, bytes: Store<'s, u8>) -> Self {
        slots.fill(RequestSlot::empty());
        let share = bytes.len().checked_div(slots.len()).unwrap_or(usize::MAX);
        assert!(share >= REQUEST_BYTES_MIN, "the answer buffer is too small for the requests");
        Requests { slots, bytes, last: 0, edges: 0 }
    }

    fn share(&self) -> usize {
        self.bytes.len() / self.slots.len()
    }

    fn find(&self, id: RequestId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id == id && slot.state != State::Free)
    }

    /// Keeps a request; `None` if the table is full.
    pub(super) fn submit(&mut self, now: Instant, request: &Request<'_>) -> Option<RequestId> {
        let i = self.slots.iter().position(|slot| slot.state == State::Free)?;
        let share = self.share();
        let buf = &mut self.bytes[i * share..][..share];
        // Cannot fail: REQUEST_BYTES_MIN holds every request of an owner.
        let len = registry::encode_request(0, request, buf).ok()?;
        self.last = self.last.wrapping_add(1);
        let id = RequestId(self.last);
        let expires = now + REQUEST_GIVE_UP;
        self.slots[i] = RequestSlot { id, state: State::Queued, len, expires, edge: false };
        Some(id)
    }

    /// Whether a request waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        self.slots.iter().any(|slot| slot.state == State::Queued)
    }

    /// Copies the oldest queued request into `out` under the channel's `id`.
    pub(super) fn send(&mut self, id: u32, out: &mut [u8]) -> Option<(RequestId, usize)> {
        let queued = self.slots.iter().enumerate().filter(|(_, s)| s.state == State::Queued);
        let i = queued.min_by_key(|(_, slot)| slot.expires).map(|(i, _)| i)?;
        let share = self.share();
        let slot = &mut self.slots[i];
        let bytes = &self.bytes[i * share..][..slot.len];
        let out = out.get_mut(..bytes.len())?;
        out.copy_from_slice(bytes);
        out[..4].copy_from_slice(&id.to_be_bytes());
        slot.state = State::UnderWay;
        Some((slot.id, bytes.len()))
    }

    /// What is under way was lost with its connection.
    pub(super) fn requeue(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state == State::UnderWay) {
            slot.state = State::Queued;
        }
    }

    /// The request under way, for what its answer changes here.
    pub(super) fn request(&self, id: RequestId) -> Option<Request<'_>> {
        let i = self.find(id).filter(|&i| self.slots[i].state == State::UnderWay)?;
        let bytes = &self.bytes[i * self.share()..][..self.slots[i].len];
        Envelope::parse(bytes).ok()?.request().ok()
    }

    /// Sets a request under way aside; it expires as before.
    pub(super) fn hold(&mut self, id: RequestId) {
        if let Some(i) = self.find(id).filter(|&i| self.slots[i].state == State::UnderWay) {
            self.slots[i].state = State::Held;
        }
    }

    /// A request that was set aside.
    pub(super) fn held(&self) -> Option<(RequestId, Request<'_>)> {
        let held = |(_, slot): &(usize, &RequestSlot)| slot.state == State::Held;
        let (i, slot) = self.slots.iter().enumerate().find(held)?;
        let bytes = &self.bytes[i * self.share()..][..slot.len];
        Some((slot.id, Envelope::parse(bytes).ok()?.request().ok()?))
    }

    /// Asks this instead of a request that was set aside, or ends it with an error.
    pub(super) fn resume(&mut self, id: RequestId, instead: Result<&Request<'_>, RequestError>) {
        let Some(i) = self.find(id).filter(|&i| self.slots[i].state == State::Held) else {
            return;
        };
        let share = self.share();
        let buf = &mut self.bytes[i * share..][..share];
        let encoded = instead.and_then(|request| {
            registry::encode_request(0, request, buf).map_err(|_| RequestError::TooLarge)
        });
        let slot = &mut self.slots[i];
        match encoded {
            Ok(len) => (slot.state, slot.len) = (State::Queued, len),
            Err(error) => {
                (slot.state, slot.expires) = (State::Failed(error), Instant::NEVER);
                slot.edge = true;
                self.edges += 1;
            }
        }
    }

    /// Keeps the answer (the plaintext of its envelope) of a request under way.
    pub(super) fn answer(&mut self, id: RequestId, answer: Result<&[u8], RequestError>) {
        let Some(i) = self.find(id).filter(|&i| self.slots[i].state == State::UnderWay) else {
            return;
        };
        let share = self.share();
        let place = &mut self.bytes[i * share..][..share];
        let slot = &mut self.slots[i];
        slot.state = match answer {
            Ok(plaintext) => match place.get_mut(..plaintext.len()) {
                Some(place) => {
                    place.copy_from_slice(plaintext);
                    slot.len = plaintext.len();
                    State::Answered
                }
                None => State::Failed(RequestError::TooLarge),
            },
            Err(error) => State::Failed(error),
        };
        slot.expires = Instant::NEVER;
        slot.edge = true;
        self.edges += 1;
    }

    /// Fails what has waited too long; gives the next such moment.
    pub(super) fn expire(&mut self, now: Instant) {
        for slot in self.slots.iter_mut() {
            if slot.is_open() && slot.expires <= now {
                slot.state = State::Failed(RequestError::Unreachable);
                slot.expires = Instant::NEVER;
                slot.edge = true;
                self.edges += 1;
            }
        }
    }

    /// When [`Requests::expire`] has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let open = self.slots.iter().filter(|slot| slot.is_open());
        open.map(|slot| slot.expires).min().unwrap_or(Instant::NEVER)
    }

    pub(super) fn has_edge(&self) -> bool {
        self.edges > 0
    }

    /// A request whose end the owner has not heard of.
    pub(super) fn poll_edge(&mut self) -> Option<RequestId> {
        if self.edges == 0 {
            return None;
        }
        let slot = self.slots.iter_mut().find(|slot| slot.edge)?;
        slot.edge = false;
        self.edges -= 1;
        Some(slot.id)
    }

    /// The answer, as often as asked for, until the request is forgotten.
    pub(super) fn get(&self, id: RequestId) -> Option<Result<Answer<'_>, RequestError>> {
        let i = self.find(id)?;
        match self.slots[i].state {
            State::Failed(error) => Some(Err(error)),
            State::Answered => {
                let bytes = &self.bytes[i * self.share()..][..self.slots[i].len];
                let answer = Envelope::parse(bytes).and_then(|envelope| envelope.answer());
                Some(match answer {
                    Ok(Ok(answer)) => owners_view(answer).ok_or(RequestError::NotAuthentic),
                    Ok(Err(refusal)) => Err(refusal.into()),
                    Err(_) => Err(RequestError::NotAuthentic),
                })
            }
            _ => None,
        }
    }

    /// Frees the place of a request.
    pub(super) fn forget(&mut self, id: RequestId) {
        if let Some(i) = self.find(id) {
            self.edges -= u32::from(self.slots[i].edge);
            self.slots[i] = RequestSlot::empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Address, NetworkId};
    use crate::time::Duration;
    use crate::wire::registry::{Answer as WireAnswer, ErrorCode, Refusal, encode_answer};

    fn join(n: u16) -> Request<'static> {
        Request::Join { network: NetworkId(n) }
    }

    #[test]
    fn a_request_lives_through_reconnects_until_it_is_taken() {
        let slots = Store::<RequestSlot>::boxed_with(2, RequestSlot::empty);
        let mut table = Requests::new(slots, Store::boxed_zeroed(2 * REQUEST_BYTES_MIN));
        let now = Instant::START;
        let a = table.submit(now, &join(1)).unwrap();
        let b = table.submit(now + Duration::from_secs(1), &join(2)).unwrap();
        assert_eq!(table.submit(now, &join(3)), None, "full");
        let mut out = [0; 2000];
        assert_eq!(table.send(70, &mut out).unwrap().0, a);
        assert_eq!(table.send(71, &mut out).unwrap().0, b);
        assert_eq!(Envelope::parse(&out[..8]).unwrap().id, 71);
        assert_eq!(table.send(72, &mut out), None);
        table.requeue();
        let (id, len) = table.send(73, &mut out).unwrap();
        assert_eq!((id, Envelope::parse(&out[..len]).unwrap().request()), (a, Ok(join(1))));
        let at = WireAnswer::At { address: Address::REGISTRY };
        let len = encode_answer(73, &Ok(at), &mut out).unwrap();
        assert!(table.get(a).is_none());
        table.answer(a, Ok(&out[..len]));
        table.answer(a, Err(RequestError::Full));
        assert_eq!((table.poll_edge(), table.poll_edge()), (Some(a), None));
        assert!(matches!(table.get(a), Some(Ok(Answer::Done))));
        table.forget(a);
        assert!(table.get(a).is_none());
        table.expire(table.deadline());
        assert!(matches!(table.get(b), Some(Err(RequestError::Unreachable))));
        assert_eq!(table.poll_edge(), Some(b));
    }

    #[test]
    fn refusals_are_typed_and_long_answers_fail_alone() {
        let slots = Store::<RequestSlot>::boxed_with(1, RequestSlot::empty);
        let mut table = Requests::new(slots, Store::boxed_zeroed(REQUEST_BYTES_MIN));
        let mut out = [0; 2000];
        let a = table.submit(Instant::START, &join(1)).unwrap();
        table.send(1, &mut out);
        let refusal = Refusal { code: ErrorCode::RateLimited, retry_ms: 77 };
        let len = encode_answer(1, &Err(refusal), &mut out).unwrap();
        table.answer(a, Ok(&out[..len]));
        assert!(matches!(table.get(a), Some(Err(RequestError::RateLimited(77)))));
        table.forget(a);
        assert!(!table.has_edge());
        let b = table.submit(Instant::START, &join(1)).unwrap();
        table.send(2, &mut out);
        table.answer(b, Ok(&[0; REQUEST_BYTES_MIN + 1]));
        assert!(matches!(table.get(b), Some(Err(RequestError::TooLarge))));
    }
}
