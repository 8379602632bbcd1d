//! A STUN client (RFC 8489 6) without sockets or clock: Binding requests go out, are repeated,
//! and end in an answer or a failure.
//!
//! An answer is believed only if it repeats 96 unpredictable bits on the socket that asked, and
//! comes from where it was wanted: nobody off the path can tell us a wrong endpoint, and a
//! middlebox that turns one of the server's addresses into another does not pass for a filter
//! that lets strangers in.

use crate::machine::{Ecn, Path, SocketId, Transmit};
use crate::rng::Rng;
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::stun::{self, Change, StunError, Transaction};
use core::net::SocketAddr;
use heapless::{Deque, Vec};

/// Requests under way and answers that wait to be taken, together. One more is refused.
pub const PENDING_MAX: usize = 24;
/// When a request is sent again, after the first sending.
const REPEAT: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// When it has failed, after the first sending.
const GIVE_UP: Duration = Duration::from_secs(2);

/// One question to a STUN server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask<P> {
    /// The socket that asks; its address is what is asked for.
    pub socket: SocketId,
    /// The server's address.
    pub to: SocketAddr,
    /// From which of its addresses the answer should come (RFC 5780 7.2).
    pub change: Change,
    /// Which one that is: `to`, unless there is something to change. From elsewhere no answer
    /// is taken.
    pub from: SocketAddr,
    /// What the answer is for; given back with it.
    pub purpose: P,
}

impl<P> Ask<P> {
    /// The plain question: how does `to` see `socket`?
    pub const fn plain(socket: SocketId, to: SocketAddr, purpose: P) -> Self {
        Ask { socket, to, change: Change { ip: false, port: false }, from: to, purpose }
    }
}

/// What a server told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Where it saw the request come from. Never an IPv4-mapped IPv6 address.
    pub observed: SocketAddr,
    /// RESPONSE-ORIGIN, if it has two addresses (RFC 5780 7.3).
    pub origin: Option<SocketAddr>,
    /// OTHER-ADDRESS, likewise (RFC 5780 7.4).
    pub other: Option<SocketAddr>,
}

/// Why there is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failed {
    /// Nothing came within two seconds.
    #[error("no answer")]
    Timeout,
    /// The server refused with this STUN error code.
    #[error("the server refused with STUN error {0}")]
    Refused(u16),
}

/// How a question ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StunAnswer<P> {
    /// What was asked.
    pub ask: Ask<P>,
    /// What came of it.
    pub result: Result<Mapped, Failed>,
}

#[derive(Debug)]
struct Pending<P> {
    ask: Ask<P>,
    transaction: Transaction,
    sent: u8,
    /// When it was first sent, or asked.
    first: Instant,
}

impl<P> Pending<P> {
    /// When it is sent again, or has failed; at once if it was not sent yet.
    fn next(&self) -> Instant {
        match self.sent {
            0 => self.first,
            n => self.first + REPEAT.get(usize::from(n) - 1).copied().unwrap_or(GIVE_UP),
        }
    }

    fn is_exhausted(&self) -> bool {
        usize::from(self.sent) > REPEAT.len()
    }
}

/// The questions of one agent. `P` says what a question is for.
#[derive(Debug)]
pub struct StunClient<P> {
    pending: Vec<Pending<P>, PENDING_MAX>,
    answers: Deque<StunAnswer<P>, PENDING_MAX>,
}

impl<P> Default for StunClient<P> {
    fn default() -> Self {
        StunClient { pending: Vec::new(), answers: Deque::new() }
    }
}

impl<P: Copy> StunClient<P> {
    /// Asks; `false` if there are [`PENDING_MAX`] questions and answers already, or the two
    /// addresses are not of one family.
    pub fn ask(&mut self, now: Instant, rng: &mut Rng, ask: Ask<P>) -> bool {
        if self.pending.len() + self.answers.len() >= PENDING_MAX
            || ask.to.is_ipv4() != ask.from.is_ipv4()
        {
            return false;
        }
        let transaction = rng.bytes();
        self.pending.push(Pending { ask, transaction, sent: 0, first: now }).is_ok()
    }

    /// Takes a datagram that [`crate::wire::frame::classify`] called STUN.
    ///
    /// # Errors
    /// [`DropReason::Unasked`] for a request or an answer to none of ours,
    /// [`DropReason::WrongSource`] for one from elsewhere than it was wanted from,
    /// [`DropReason::Malformed`] for one that cannot be read. The question stays.
    pub fn handle(&mut self, path: Path, datagram: &[u8]) -> Result<(), DropReason> {
        let transaction = stun::transaction(datagram).ok_or(DropReason::Malformed)?;
        let asked = |p: &Pending<P>| {
            p.sent > 0 && p.ask.socket == path.socket && p.transaction == transaction
        };
        let index = self.pending.iter().position(asked).ok_or(DropReason::Unasked)?;
        let ask = self.pending[index].ask;
        let result = match stun::decode_response(datagram) {
            Ok(response) => {
                if path.remote != ask.from {
                    return Err(DropReason::WrongSource);
                }
                let observed = response.mapped;
                let observed = SocketAddr::new(observed.ip().to_canonical(), observed.port());
                Ok(Mapped { observed, origin: response.origin, other: response.other })
            }
            // A refusal comes from where the question went.
            Err(StunError::Refused(code)) if path.remote == ask.to => Err(Failed::Refused(code)),
            Err(StunError::Refused(_)) => return Err(DropReason::WrongSource),
            Err(StunError::Kind) => return Err(DropReason::Unasked),
            Err(_) => return Err(DropReason::Malformed),
        };
        self.end(index, result);
        Ok(())
    }

    /// Questions whose time is over fail.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(pending) = self.pending.get(index) {
            if pending.is_exhausted() && pending.next() <= now {
                self.end(index, Err(Failed::Timeout));
            } else {
                index += 1;
            }
        }
    }

    /// Writes the next request that is due into `out`, which holds [`stun::REQUEST_MAX`] bytes.
    /// Questions of a socket that is not `ready` wait: their time has not begun.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        ready: impl Fn(SocketId) -> bool,
    ) -> Option<Transmit> {
        let due = |p: &&mut Pending<P>| !p.is_exhausted() && p.next() <= now && ready(p.ask.socket);
        let Some(pending) = self.pending.iter_mut().find(due) else {
            // After a drain nothing is due, also if nobody called `handle_timeout`.
            self.handle_timeout(now);
            return None;
        };
        let Ask { socket, to, change, .. } = pending.ask;
        let len = stun::encode_request(pending.transaction, change, out)?;
        if pending.sent == 0 {
            pending.first = now;
        }
        pending.sent += 1;
        let path = Path { socket, local: None, remote: to };
        Some(Transmit { path, len, segment: None, ecn: Ecn::NotEct, hop_limit: None })
    }

    /// The next moment at which something is to be sent or has failed; of sockets that are
    /// `ready` alone.
    pub fn next_at(&self, ready: impl Fn(SocketId) -> bool) -> Option<Instant> {
        self.pending.iter().filter(|p| ready(p.ask.socket)).map(Pending::next).min()
    }

    /// Whether [`StunClient::poll_answer`] has something.
    pub(crate) fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The next question that has ended.
    pub fn poll_answer(&mut self) -> Option<StunAnswer<P>> {
        self.answers.pop_front()
    }

    /// Forgets the questions and answers of a socket, which is gone.
    pub fn forget_socket(&mut self, socket: SocketId) {
        self.retain(|ask| ask.socket != socket);
    }

    /// Forgets all questions and answers but those.
    pub fn retain(&mut self, keep: impl Fn(&Ask<P>) -> bool) {
        self.pending.retain(|pending| keep(&pending.ask));
        for _ in 0..self.answers.len() {
            if let Some(answer) = self.answers.pop_front().filter(|answer| keep(&answer.ask)) {
                // It has just come out of there.
                let _ = self.answers.push_back(answer);
            }
        }
    }

    fn end(&mut self, index: usize, result: Result<Mapped, Failed>) {
        let ask = self.pending.remove(index).ask;
        // There is room: questions and answers are counted together.
        let _ = self.answers.push_back(StunAnswer { ask, result });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::{MESSAGE_MAX, REQUEST_MAX, Response};

    const SERVER: ([u8; 4], u16) = ([203, 0, 113, 1], 9001);
    const OTHER: ([u8; 4], u16) = ([203, 0, 113, 2], 9002);
    const SEEN: ([u8; 4], u16) = ([198, 51, 100, 7], 40_000);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn from(remote: ([u8; 4], u16)) -> Path {
        Path::to(remote.into())
    }

    fn client(asks: &[Ask<u8>]) -> StunClient<u8> {
        let (mut client, mut rng) = (StunClient::default(), Rng::new([5; 32]));
        for &ask in asks {
            assert!(client.ask(at(0), &mut rng, ask));
        }
        client
    }

    fn plain(purpose: u8) -> Ask<u8> {
        Ask::plain(SocketId(0), SERVER.into(), purpose)
    }

    /// What is sent now: where, and the transaction.
    fn sent(client: &mut StunClient<u8>, now: Instant) -> Option<(SocketAddr, Transaction)> {
        let mut out = [0; REQUEST_MAX];
        let transmit = client.poll_transmit(now, &mut out, |_| true)?;
        let request = stun::decode_request(&out[..transmit.len]).unwrap();
        Some((transmit.path.remote, request.transaction))
    }

    fn answer(client: &mut StunClient<u8>, path: Path, to: Transaction) -> Result<(), DropReason> {
        let mapped = SEEN.into();
        let response = Response { transaction: to, mapped, origin: None, other: None };
        let mut out = [0; MESSAGE_MAX];
        let len = stun::encode_response(&response, false, &mut out).unwrap();
        client.handle(path, &out[..len])
    }

    #[test]
    fn a_request_is_sent_three_times_and_fails_at_two_seconds() {
        let mut client = client(&[plain(7)]);
        let mut transactions = Vec::<_, 3>::new();
        for ms in [0, 300, 900] {
            assert_eq!(client.next_at(|_| true), Some(at(ms)));
            let (to, transaction) = sent(&mut client, at(ms)).unwrap();
            assert_eq!(to, SERVER.into());
            transactions.push(transaction).unwrap();
            client.handle_timeout(at(ms));
            assert_eq!(sent(&mut client, at(ms)), None);
        }
        assert!(transactions.iter().all(|t| *t == transactions[0]), "one transaction (6.2.1)");
        assert_eq!(client.next_at(|_| true), Some(at(2000)));
        client.handle_timeout(at(1999));
        assert_eq!(client.poll_answer(), None);
        client.handle_timeout(at(2000));
        let expected = StunAnswer { ask: plain(7), result: Err(Failed::Timeout) };
        assert_eq!(client.poll_answer(), Some(expected));
        assert_eq!(client.next_at(|_| true), None);
        // Too late.
        assert_eq!(answer(&mut client, from(SERVER), transactions[0]), Err(DropReason::Unasked));
    }

    #[test]
    fn an_answer_counts_only_from_the_right_place_on_the_right_socket() {
        let changed =
            Ask { change: Change { ip: true, port: true }, from: OTHER.into(), ..plain(2) };
        let mut client = client(&[plain(1), changed]);
        let (_, first) = sent(&mut client, at(0)).unwrap();
        let (to, second) = sent(&mut client, at(0)).unwrap();
        assert_eq!(to, SERVER.into(), "the change is the server's to make");
        assert_ne!(first, second);
        assert_eq!(answer(&mut client, from(OTHER), first), Err(DropReason::WrongSource));
        assert_eq!(answer(&mut client, from(SERVER), second), Err(DropReason::WrongSource));
        let elsewhere = Path { socket: SocketId(1), ..from(SERVER) };
        assert_eq!(answer(&mut client, elsewhere, first), Err(DropReason::Unasked));
        assert_eq!(answer(&mut client, from(SERVER), [9; 12]), Err(DropReason::Unasked));
        assert_eq!(client.poll_answer(), None);

        assert_eq!(answer(&mut client, from(OTHER), second), Ok(()));
        assert_eq!(answer(&mut client, from(SERVER), first), Ok(()));
        assert_eq!(answer(&mut client, from(SERVER), first), Err(DropReason::Unasked), "twice");
        for ask in [changed, plain(1)] {
            let mapped = Mapped { observed: SEEN.into(), origin: None, other: None };
            assert_eq!(client.poll_answer(), Some(StunAnswer { ask, result: Ok(mapped) }));
        }
        assert_eq!(client.next_at(|_| true), None);
    }

    #[test]
    fn requests_refusals_and_rubbish() {
        let mut client = client(&[plain(1)]);
        let (_, transaction) = sent(&mut client, at(0)).unwrap();
        let mut out = [0; MESSAGE_MAX];
        let len = stun::encode_request(transaction, Change::default(), &mut out).unwrap();
        assert_eq!(client.handle(from(SERVER), &out[..len]), Err(DropReason::Unasked));
        let len = stun::encode_no_change(transaction, &mut out).unwrap();
        assert_eq!(client.handle(from(OTHER), &out[..len]), Err(DropReason::WrongSource));
        assert_eq!(client.handle(from(SERVER), &out[..len - 4]), Err(DropReason::Malformed));
        assert_eq!(client.handle(from(SERVER), &[]), Err(DropReason::Malformed));
        assert_eq!(client.handle(from(SERVER), &out[..len]), Ok(()));
        assert_eq!(client.poll_answer().unwrap().result, Err(Failed::Refused(420)));
    }

    #[test]
    fn the_table_is_bounded_with_its_answers() {
        let (mut client, mut rng) = (StunClient::default(), Rng::new([6; 32]));
        for n in 0..PENDING_MAX as u8 {
            assert!(client.ask(at(0), &mut rng, plain(n)));
        }
        assert!(!client.ask(at(0), &mut rng, plain(99)));
        for ms in [0, 300, 900] {
            while sent(&mut client, at(ms)).is_some() {}
        }
        client.handle_timeout(at(2000));
        assert!(!client.ask(at(2000), &mut rng, plain(99)), "answers hold their places");
        client.retain(|ask| ask.purpose % 2 == 0);
        let left: std::vec::Vec<u8> =
            core::iter::from_fn(|| client.poll_answer()).map(|a| a.ask.purpose).collect();
        assert_eq!(left, (0..24).step_by(2).collect::<std::vec::Vec<u8>>());
        assert!(client.ask(at(2000), &mut rng, plain(99)));
    }

    #[test]
    fn a_socket_that_is_not_open_is_waited_for_and_one_that_is_gone_is_forgotten() {
        let asks = [Ask::plain(SocketId(3), SERVER.into(), 1), plain(2)];
        let mut client = client(&asks);
        let open = |socket| socket == SocketId(0);
        let mut out = [0; REQUEST_MAX];
        let first = client.poll_transmit(at(0), &mut out, open).unwrap();
        assert_eq!(first.path, from(SERVER));
        assert_eq!(client.poll_transmit(at(0), &mut out, open), None);
        assert_eq!(client.next_at(open), Some(at(300)));
        // Its two seconds begin when it is there.
        assert_eq!(client.next_at(|_| true), Some(at(0)));
        let late = client.poll_transmit(at(5000), &mut out, |s| s == SocketId(3)).unwrap();
        assert_eq!(late.path.socket, SocketId(3));
        client.handle_timeout(at(5000));
        assert_eq!(client.next_at(|s| s == SocketId(3)), Some(at(5300)));
        client.forget_socket(SocketId(3));
        assert_eq!(client.next_at(|s| s == SocketId(3)), None);
    }
}
