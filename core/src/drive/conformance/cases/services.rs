//! Messages, files, events and echo between two agents.

use super::*;
use crate::drive::Runtime;
use crate::drive::agent::StreamHandle;
use crate::drive::services::{
    Accepted, Broker, BrokerConnection, Echo, EchoService, Event, EventsClient, Heard, Incoming,
    Message, Messages, Received, Served, Service, TransferError, Upload,
};
use crate::drive::waiters::Ticket;
use crate::service::events::BrokerLimits;
use crate::service::exchange::{
    ContentHash, Digest, Failure as NotStored, HashAlgorithm, Kind, Note, Offer, PUSH_MAX,
    PUSHES_MAX, Pushed, Refusal, TransferId,
};
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::task::Poll;
use std::borrow::ToOwned as _;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

pub(super) type WakerOf<S> = <<S as Subject>::Runtime as Runtime>::Waker;

/// What waits by polls, as a future.
pub(super) fn poll<S: Subject, T>(
    mut poll: impl FnMut(&WakerOf<S>) -> Poll<T>,
) -> impl Future<Output = T> {
    poll_fn(move |cx| poll(&S::waker(cx.waker())))
}

impl<A: Subject, B: Subject, R: Rendezvous> Stage<A, B, R> {
    async fn open(&self, port: Port) -> StreamHandle<A::Runtime> {
        let to = Target::Address(self.b_at);
        let mut connecting = self.a.keep_alive().begin_connect_to(to, port).expect("trusted");
        poll::<A, _>(|waker| connecting.poll(waker)).await.expect("opened")
    }

    /// A stream to a service of `b`, and how that has it.
    pub(super) async fn serve<S: Service<B::Runtime>>(
        &self,
        service: &Served<B::Runtime, S>,
        port: Port,
    ) -> (StreamHandle<A::Runtime>, S::Connection) {
        let mut ticket = Ticket::NONE;
        let accepting = poll::<B, _>(|waker| service.poll_accept(&mut ticket, waker));
        let (stream, accepted) = both(self.open(port), accepting).await;
        (stream, accepted.expect("accepted"))
    }
}

async fn receipt<S: Subject>(messages: &mut Messages<S::Runtime>) -> Option<(TransferId, Pushed)> {
    let receipt = poll::<S, _>(|waker| messages.poll_receipt(waker)).await.expect("a receipt");
    receipt.map(|receipt| (receipt.id, receipt.outcome))
}

/// The next message, if there is one at present.
async fn here<S: Subject>(incoming: &mut Incoming<S::Runtime>) -> Option<Message> {
    let next = poll::<S, _>(|waker| match incoming.poll_next(waker) {
        Poll::Ready(next) => Poll::Ready(next),
        Poll::Pending => Poll::Ready(Ok(None)),
    });
    match next.await.expect("received") {
        Some(Received::Message(message)) => Some(message),
        Some(Received::File(offer)) => panic!("{offer:?}"),
        None => None,
    }
}

fn content(n: usize) -> Vec<u8> {
    let mut content = vec![0; n * 7919 % 5000];
    fill(n as u64, 0, &mut content);
    content
}

/// 1,000 messages without waiting between them, stored and acknowledged in groups: in order, each
/// once, and none before it was stored. Then a large one, one too large, and one not stored.
pub fn messages_are_acknowledged_together_once_they_are_stored<
    A: Subject,
    B: Subject,
    R: Rendezvous,
>() {
    const ALL: usize = 1000;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let exchange = stage.b.keep_alive().listen_exchange().expect("the port is free");
        let (stream, mut incoming) = stage.serve(&exchange, Port::DATA_EXCHANGE).await;
        let mut messages = Messages::new(stream, *b"12345678");
        assert_eq!(incoming.peer().address.node, stage.a_at.node);
        step("a thousand messages");
        let stored = Cell::new(0);
        let sending = async {
            let (mut ids, mut sent) = (VecDeque::new(), 0);
            for n in 0..ALL {
                while sent < ALL && messages.has_room() {
                    let note = Note::cleaned(b"a word");
                    ids.push_back(
                        messages.queue(Kind::Binary, note, &content(sent)).expect("room"),
                    );
                    sent += 1;
                }
                assert!(messages.outstanding() <= PUSHES_MAX);
                let receipt = receipt::<A>(&mut messages).await;
                assert_eq!(receipt, ids.pop_front().map(|id| (id, Pushed::Stored)), "{n}");
                assert!(n < stored.get(), "{n} is acknowledged, {} are stored", stored.get());
            }
            assert_eq!(receipt::<A>(&mut messages).await, None, "none is without a receipt");
        };
        let receiving = async {
            let (mut taken, mut groups) = (0, 0);
            while taken < ALL {
                let mut next = poll::<B, _>(|waker| incoming.poll_next(waker)).await;
                while let Ok(Some(Received::Message(message))) = next {
                    assert_eq!((message.kind, message.note.as_str()), (Kind::Binary, "a word"));
                    assert_eq!(message.content, content(taken), "{taken}");
                    taken += 1;
                    next = Ok(here::<B>(&mut incoming).await.map(Received::Message));
                }
                stored.set(taken);
                groups += 1;
                incoming.acknowledge(incoming.unacknowledged()).expect("they were received");
                poll::<B, _>(|waker| incoming.poll_flush(waker)).await.expect("flushed");
            }
            groups
        };
        let ((), groups) = both(sending, receiving).await;
        assert!(groups < ALL, "each was acknowledged alone");

        step("a large message, and one that is not stored");
        let large = vec![7; PUSH_MAX];
        let sending = async {
            let too_large =
                messages.queue(Kind::Text, Note::default(), &[&large[..], b"x"].concat());
            assert!(matches!(too_large, Err(TransferError::Misuse(_))), "{too_large:?}");
            let first = messages.queue(Kind::Text, Note::default(), &large).expect("room");
            assert_eq!(receipt::<A>(&mut messages).await, Some((first, Pushed::Stored)));
            let second = messages.queue(Kind::Json, Note::default(), b"{}").expect("room");
            let refused = Pushed::NotStored(NotStored::Full);
            assert_eq!(receipt::<A>(&mut messages).await, Some((second, refused)));
            drop(messages);
        };
        let receiving = async {
            let next = poll::<B, _>(|waker| incoming.poll_next(waker)).await;
            let Ok(Some(Received::Message(message))) = next else { panic!("{next:?}") };
            assert_eq!(message.content, large);
            incoming.acknowledge(1).expect("it was received");
            assert!(incoming.acknowledge(1).is_err(), "there is no other");
            let next = poll::<B, _>(|waker| incoming.poll_next(waker)).await;
            assert!(matches!(next, Ok(Some(_))), "{next:?}");
            incoming.reject(NotStored::Full).expect("it was received");
            let end = poll::<B, _>(|waker| incoming.poll_next(waker)).await;
            assert!(matches!(end, Ok(None)), "{end:?}");
        };
        both(sending, receiving).await;
        drop(incoming);
        stage.expect_no_handles().await;
    });
}

const FILE: usize = 1_000_000;

async fn offered<S: Subject>(incoming: &mut Incoming<S::Runtime>, expected: &Offer) {
    let next = poll::<S, _>(|waker| incoming.poll_next(waker)).await;
    let Ok(Some(Received::File(offer))) = next else { panic!("{next:?}") };
    assert_eq!(&offer, expected);
}

/// Writes the content until all is taken, or the stream is over.
async fn write<S: Subject>(
    upload: &mut Upload<S::Runtime>,
    content: &[u8],
) -> Result<Option<Digest>, TransferError> {
    let mut left = content;
    while !left.is_empty() {
        left = &left[poll::<S, _>(|waker| upload.poll_write(waker, left)).await?..];
    }
    poll::<S, _>(|waker| upload.poll_receipt(waker)).await
}

/// A file that breaks off is continued from what was stored, acknowledged once, and then known;
/// another one is refused. By each algorithm of its hash.
pub fn a_file_goes_on_where_it_was_stored<A: Subject, B: Subject, R: Rendezvous>() {
    for hash in [HashAlgorithm::Blake3, HashAlgorithm::Sha256] {
        goes_on_where_it_was_stored::<A, B, R>(hash);
    }
}

fn goes_on_where_it_was_stored<A: Subject, B: Subject, R: Rendezvous>(algorithm: HashAlgorithm) {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let exchange = stage.b.keep_alive().listen_exchange().expect("the port is free");
        let id = stage.a.keep_alive().transfer_id().expect("randomness");
        assert_ne!(Ok(id), stage.a.keep_alive().transfer_id().map_err(drop), "ids are random");
        let name = Some("data.bin".parse().expect("a name"));
        let (kind, note) = (Kind::File, Note::cleaned(b"a word"));
        let offer = Offer { id, kind, size: FILE as u64, hash: algorithm, name, note };
        let mut content = vec![0; FILE];
        fill(1, 0, &mut content);
        let mut stored = Vec::new();
        let mut chunk = vec![0; 50_000];

        step("a file that breaks off");
        let (stream, mut incoming) = stage.serve(&exchange, Port::DATA_EXCHANGE).await;
        let mut upload = Upload::new(stream, &offer).expect("a file");
        let sending = async { write::<A>(&mut upload, &content).await.map_err(drop) };
        let receiving = async {
            offered::<B>(&mut incoming, &offer).await;
            incoming.accept(ContentHash::new(algorithm)).expect("it was offered");
            while stored.len() < 300_000 {
                let n = poll::<B, _>(|waker| incoming.poll_read(waker, &mut chunk)).await;
                stored.extend_from_slice(&chunk[..n.expect("read")]);
            }
            // As by a crash.
            drop(incoming);
        };
        let (broken, ()) = both(sending, receiving).await;
        assert_eq!(broken, Err(()));
        assert_eq!(stored, content[..stored.len()]);

        step("the same again");
        let (stream, mut incoming) = stage.serve(&exchange, Port::DATA_EXCHANGE).await;
        let mut upload = Upload::new(stream, &offer).expect("a file");
        let mut hash = ContentHash::new(algorithm);
        hash.update(&stored);
        let had = hash.len();
        let sending = async {
            let accepted = poll::<A, _>(|waker| upload.poll_accepted(waker)).await;
            assert_eq!(accepted.expect("accepted"), Accepted::From(had));
            write::<A>(&mut upload, &content).await.expect("delivered")
        };
        let receiving = async {
            offered::<B>(&mut incoming, &offer).await;
            incoming.accept(hash).expect("it was offered");
            loop {
                let none = poll::<B, _>(|waker| incoming.poll_read(waker, &mut [])).await;
                assert_eq!(none.expect("read"), 0, "nothing fits, and nothing piles up");
                let n = poll::<B, _>(|waker| incoming.poll_read(waker, &mut chunk)).await;
                match n.expect("read") {
                    0 => break,
                    n => stored.extend_from_slice(&chunk[..n]),
                }
            }
            incoming.acknowledge(1).expect("it was received");
            let end = poll::<B, _>(|waker| incoming.poll_next(waker));
            assert!(within(500 * MS, end).await.is_none(), "the stream goes on");
        };
        let (delivered, ()) = both(sending, receiving).await;
        assert!(stored == content, "what was stored is what was sent");
        assert_eq!(delivered, Some(ContentHash::of(algorithm, &content)));

        step("once more, and another");
        let (stream, mut incoming) = stage.serve(&exchange, Port::DATA_EXCHANGE).await;
        let mut upload = Upload::new(stream, &offer).expect("a file");
        let knowing = async {
            offered::<B>(&mut incoming, &offer).await;
            incoming.have().expect("it was offered");
            poll::<B, _>(|waker| incoming.poll_flush(waker)).await.expect("flushed");
        };
        let (known, ()) = both(poll::<A, _>(|waker| upload.poll_accepted(waker)), knowing).await;
        assert_eq!(known.expect("known"), Accepted::Already);
        let (stream, mut incoming) = stage.serve(&exchange, Port::DATA_EXCHANGE).await;
        let mut upload = Upload::new(stream, &offer).expect("a file");
        let refusing = async {
            offered::<B>(&mut incoming, &offer).await;
            incoming.refuse(Refusal::Full).expect("it was offered");
            poll::<B, _>(|waker| incoming.poll_flush(waker)).await.expect("flushed");
        };
        let (refused, ()) = both(poll::<A, _>(|waker| upload.poll_accepted(waker)), refusing).await;
        assert!(matches!(refused, Err(TransferError::Refused(Refusal::Full))), "{refused:?}");
    });
}

async fn done<S: Subject>(
    client: &mut EventsClient<S::Runtime>,
    request: crate::service::events::Request,
) -> u32 {
    poll::<S, _>(|waker| client.poll_done(waker, request)).await.expect("done")
}

async fn heard<S: Subject>(client: &mut EventsClient<S::Runtime>) -> Event {
    match poll::<S, _>(|waker| client.poll_next(waker)).await.expect("an event") {
        Heard::Event(event) => event,
        Heard::Dropped(count) => panic!("{count} events were lost"),
    }
}

/// Two connections at a broker: patterns, retained values, the broker's own events, and the count
/// of those who get one.
pub fn events_reach_those_who_subscribe<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let limits = BrokerLimits::default();
        let service = stage.b.keep_alive().listen_events(limits).expect("the port is free");
        let (stream, mut first) = stage.serve(&service, Port::EVENTS).await;
        let mut publisher = EventsClient::new(stream);
        let (stream, mut second) = stage.serve(&service, Port::EVENTS).await;
        let mut subscriber = EventsClient::new(stream);
        let broker: Broker<B::Runtime> = service.service().clone();
        async fn served<S: Subject>(connection: &mut BrokerConnection<S::Runtime>) {
            poll::<S, _>(|waker| connection.poll_serve(waker)).await.expect("served");
        }
        let serving = both(served::<B>(&mut first), served::<B>(&mut second));
        let (a_at, b_at) = (stage.a_at, stage.b_at);
        let working = async {
            step("subscribing");
            let kept = publisher.begin_publish("a.kept", b"old", true).expect("a topic");
            assert_eq!(done::<A>(&mut publisher, kept).await, 0);
            assert!(subscriber.begin_subscribe("a..b", false).is_err());
            let pattern = subscriber.begin_subscribe("a.*", true).expect("a pattern");
            done::<A>(&mut subscriber, pattern).await;
            let event = heard::<A>(&mut subscriber).await;
            let kept = (event.topic.as_str(), &event.data[..], event.retained, event.from.node);
            assert_eq!(kept, ("a.kept", &b"old"[..], true, a_at.node));
            step("publishing");
            for n in 0..300u16 {
                let topic = if n % 3 == 0 { "b.c" } else { "a.b" };
                let data = n.to_be_bytes();
                if n % 2 == 0 {
                    let asked = publisher.begin_publish(topic, &data, false).expect("a topic");
                    let count = u32::from(topic == "a.b");
                    assert_eq!(done::<A>(&mut publisher, asked).await, count, "{n}");
                } else {
                    publisher.publish_unacknowledged(topic, &data, false).expect("a topic");
                    poll::<A, _>(|waker| publisher.poll_flush(waker)).await.expect("flushed");
                }
            }
            for n in (0..300u16).filter(|n| n % 3 != 0) {
                assert_eq!(heard::<A>(&mut subscriber).await.data, n.to_be_bytes());
            }
            step("the broker's own");
            assert_eq!(broker.publish(b_at, "a.own", b"mine", false).expect("a topic"), 1);
            let event = heard::<A>(&mut subscriber).await;
            assert_eq!((event.topic, event.from), ("a.own".to_owned(), b_at));
            let gone = subscriber.begin_unsubscribe("a.*").expect("a pattern");
            done::<A>(&mut subscriber, gone).await;
            let silent = publisher.begin_publish("a.b", b"", false).expect("a topic");
            assert_eq!(done::<A>(&mut publisher, silent).await, 0);
            drop((publisher, subscriber));
        };
        both(serving, working).await;
        drop((first, second));
        assert_eq!(service.service().stats().connections, 0);
    });
}

/// Round trips over an echo.
pub fn an_echo_comes_back<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let service: Served<_, EchoService> =
            stage.b.keep_alive().listen_echo().expect("the port is free");
        let (stream, mut server) = stage.serve(&service, Port::ECHO).await;
        let mut echo = Echo::new(stream);
        let measuring = async {
            for _ in 0..20 {
                let took = poll::<A, _>(|waker| echo.poll_round_trip(waker)).await;
                assert!(!took.expect("a round trip").is_zero());
            }
            drop(echo);
        };
        let serving = async {
            poll::<B, _>(|waker| server.poll_serve(waker)).await.expect("served");
        };
        both(measuring, serving).await;
        drop(server);
        stage.expect_no_handles().await;
    });
}
