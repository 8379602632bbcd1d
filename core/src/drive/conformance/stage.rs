//! What most cases begin with: a server, two agents that trust each other, a stream.

use super::run::{both, step, until};
use super::{Failure, News, Rendezvous, Setup, Subject, check, fill};
use crate::addr::{Address, Port};
use crate::node::Target;
use core::net::SocketAddr;
use std::collections::BTreeSet;
use std::vec;

/// The port of a case's streams.
pub(super) const PORT: Port = Port(2000);
/// Bytes of one call.
const CHUNK: usize = 64 << 10;

/// A stream's two halves at one end.
pub(super) struct Pipe<S: Subject> {
    pub(super) reader: S::Reader,
    pub(super) writer: S::Writer,
}

impl<S: Subject> From<(S::Reader, S::Writer)> for Pipe<S> {
    fn from((reader, writer): (S::Reader, S::Writer)) -> Self {
        Pipe { reader, writer }
    }
}

impl<S: Subject> Pipe<S> {
    /// Writes `len` bytes of stream `key` from position `from`, whatever the calls accept.
    pub(super) async fn put(&mut self, key: u64, from: usize, len: usize) -> Result<(), Failure> {
        put::<S>(&mut self.writer, key, from, len).await
    }

    /// Reads exactly `len` bytes and checks each.
    pub(super) async fn take(&mut self, key: u64, from: usize, len: usize) {
        take::<S>(&mut self.reader, key, from, len).await;
    }

    pub(super) async fn finish(&mut self) -> Result<(), Failure> {
        S::finish(&mut self.writer).await
    }

    /// Nothing is left but the end.
    pub(super) async fn expect_end(&mut self) {
        assert_eq!(S::read(&mut self.reader, &mut [0; 16]).await, Ok(0));
    }
}

pub(super) async fn put<S: Subject>(
    writer: &mut S::Writer,
    key: u64,
    from: usize,
    len: usize,
) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    while sent < len {
        let n = CHUNK.min(len - sent);
        fill(key, from + sent, &mut chunk[..n]);
        let mut left = &chunk[..n];
        while !left.is_empty() {
            let accepted = S::write(writer, left).await?;
            assert!((1..=left.len()).contains(&accepted), "accepted {accepted} bytes");
            left = &left[accepted..];
        }
        sent += n;
    }
    Ok(())
}

pub(super) async fn take<S: Subject>(reader: &mut S::Reader, key: u64, from: usize, len: usize) {
    let mut chunk = vec![0; CHUNK];
    let mut got = 0;
    while got < len {
        let n = CHUNK.min(len - got);
        match S::read(reader, &mut chunk[..n]).await {
            Ok(n @ 1..) => {
                check(key, from + got, &chunk[..n]);
                got += n;
            }
            other => panic!("{other:?} after {got} of {len} bytes"),
        }
    }
}

/// Two agents of one world.
pub(super) struct Stage<A: Subject, B: Subject, R> {
    pub(super) a: A,
    pub(super) b: B,
    pub(super) a_at: Address,
    pub(super) b_at: Address,
    pub(super) world: R,
}

impl<A: Subject, B: Subject, R: Rendezvous> Stage<A, B, R> {
    /// Registered, and strangers to each other.
    pub(super) async fn strangers() -> Self {
        let world = R::start();
        let (a, b) = (Setup::new(&world, 11), Setup::new(&world, 12));
        Stage::with(world, a, b).await
    }

    pub(super) async fn with(world: R, a: Setup, b: Setup) -> Self {
        step("registering");
        let (a, b) = (A::start(a), B::start(b));
        let (a_at, b_at) = both(a.ready(), b.ready()).await;
        let (a_at, b_at) = (a_at.expect("registered"), b_at.expect("registered"));
        assert_eq!((a.address(), b.address()), (Some(a_at), Some(b_at)));
        Stage { a, b, a_at, b_at, world }
    }

    /// Who trust each other.
    pub(super) async fn friends() -> Self {
        let stage = Self::strangers().await;
        befriend(&stage.a, &stage.b).await;
        stage
    }

    /// The same with other setups.
    pub(super) async fn friends_with(change: impl Fn(&mut Setup)) -> Self {
        let world = R::start();
        let (mut a, mut b) = (Setup::new(&world, 11), Setup::new(&world, 12));
        change(&mut a);
        change(&mut b);
        let stage = Stage::with(world, a, b).await;
        befriend(&stage.a, &stage.b).await;
        stage
    }

    /// A stream from `a` to `b`.
    pub(super) async fn stream(&self) -> (Pipe<A>, Pipe<B>) {
        step("opening a stream");
        let listener = self.b.listen(PORT).expect("the port is free");
        self.stream_to(&listener).await
    }

    pub(super) async fn stream_to(&self, listener: &B::Listener) -> (Pipe<A>, Pipe<B>) {
        let connect = self.a.connect(Target::Address(self.b_at), PORT);
        let (opened, accepted) = both(connect, B::accept(listener)).await;
        let (accepted, from) = accepted.expect("accepted");
        assert_eq!(from.address.node, self.a_at.node);
        (Pipe::from(opened.expect("opened")), Pipe::from(accepted))
    }

    /// No stream has a handle any more.
    pub(super) async fn expect_no_handles(&self) {
        until("waiting for the last handles to go", || {
            self.a.connections() + self.b.connections() == 0
        })
        .await;
    }

    /// No stream has a handle any more, and none is left open at the other side.
    pub(super) async fn expect_no_streams(&self) {
        until("waiting for the last streams to go", || {
            let open = |peers: std::vec::Vec<crate::node::PeerInfo>| {
                peers.iter().map(|peer| peer.streams).sum::<usize>()
            };
            self.a.connections() + self.b.connections() == 0
                && open(self.a.trusted()) + open(self.b.trusted()) == 0
        })
        .await;
    }
}

/// Waits for one event, and returns those before it.
pub(super) async fn hear<S: Subject>(receiver: &mut S::Receiver, wanted: News) {
    loop {
        let news = S::next(receiver).await;
        if news == wanted {
            return;
        }
        assert_ne!(news, News::End, "no {wanted:?} came");
    }
}

/// `a` asks, `b` approves.
pub(super) async fn befriend<A: Subject, B: Subject>(a: &A, b: &B) {
    step("becoming friends");
    let (a_at, b_at) = (a.address().expect("registered"), b.address().expect("registered"));
    let (mut at_a, mut at_b) = (a.events(), b.events());
    a.request_trust(b_at, "to be tested with").expect("asked");
    hear::<B>(&mut at_b, News::TrustRequested(a_at)).await;
    let requests = b.trust_requests();
    let request = requests.iter().find(|request| request.from == a_at).expect("a request");
    assert_eq!(request.justification.as_str(), "to be tested with");
    b.approve_trust(a_at).expect("approved");
    hear::<A>(&mut at_a, News::TrustGranted(b_at)).await;
    until("waiting for trust to be mutual", || {
        b.trusted().iter().any(|peer| peer.address == a_at && peer.grants_us)
    })
    .await;
}

/// Ends an agent as a crash does: nobody is told.
pub(super) fn kill<S: Subject>(agent: S) {
    use super::{Calls, Fault};
    let local: BTreeSet<SocketAddr> = agent.local().into_iter().collect();
    for at in local {
        S::inject(at, Calls::Send, Some(Fault::Lost), u32::MAX);
    }
    drop(agent);
}
