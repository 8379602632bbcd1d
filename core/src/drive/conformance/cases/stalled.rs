//! Peers that ask and do not read, brokers that do not answer: what they cost is bounded, in
//! memory and in time.

use super::services::poll;
use super::*;
use crate::drive::agent::StreamHandle;
use crate::drive::io::Clock as _;
use crate::drive::services::{BrokerConnection, EventsClient, EventsFailure, Messages, Upload};
use crate::service::events::{BrokerLimits, OUTSTANDING_MAX};
use crate::service::exchange::{ContentHash, HashAlgorithm, Kind, Note, Offer, TransferId};
use core::cell::{Cell, RefCell};
use std::vec::Vec;

/// No stream takes so much of which nothing is read.
const FLOOD_MAX: usize = 16 << 20;

/// Writes what repeats, without reading, until neither that nor `serve` gets on. What is left of
/// the last frame.
async fn flood<'f, S: Subject>(
    stream: &StreamHandle<S::Runtime>,
    frame: &'f [u8],
    serve: impl AsyncFn(),
) -> &'f [u8] {
    let frames = frame.repeat(4096);
    let asked = Cell::new(0);
    let asking = async || {
        loop {
            let at = asked.get() % frame.len();
            let written = poll::<S, _>(|waker| stream.poll_write(waker, &frames[at..])).await;
            asked.set(asked.get() + written.expect("an open stream"));
            assert!(asked.get() < FLOOD_MAX, "everything is taken");
        }
    };
    loop {
        let before = asked.get();
        let none = within(300 * MS, both(asking(), serve())).await;
        assert!(none.is_none(), "it has ended");
        if asked.get() == before {
            break;
        }
    }
    assert!(asked.get() > 1000, "it has begun");
    match asked.get() % frame.len() {
        0 => &[],
        written => &frame[written..],
    }
}

/// In place of a minute.
const SILENCE: Duration = Duration::from_millis(700);

/// Who asks a broker and never reads the answers is not read from any more, and given up after a
/// minute; so is who has ended and does not read what is left. Meanwhile nobody is busy with it.
pub fn who_does_not_read_its_answers_is_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    const PING: [u8; 8] = [22, 0, 0, 4, 0, 0, 0, 1];
    /// All topics; and one event of 60 KiB.
    const SUBSCRIBE: [u8; 10] = [16, 0, 0, 6, 0, 0, 0, 1, 0, b'>'];
    const PUBLISH: [u8; 11] = [18, 0, 0xF0, 7, 0, 0, 0, 0, 0, 1, b't'];
    const EVENTS: usize = 400;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let limits = BrokerLimits::default();
        let service = stage.b.keep_alive().listen_events(limits).expect("the port is free");
        step("asking without reading");
        let (stream, connection) = stage.serve(&service, Port::EVENTS).await;
        let connection = RefCell::new(connection);
        flood::<A>(&stream, &PING, async || {
            let serving = poll::<B, _>(|waker| connection.borrow_mut().poll_serve(waker));
            serving.await.expect("served");
        })
        .await;
        expect_given_up::<B>(&stage.b, connection.into_inner()).await;
        drop(stream);

        step("ending without reading");
        let (stream, mut connection) = stage.serve(&service, Port::EVENTS).await;
        let event = [&PUBLISH[..], &[0; 0xF000]].concat();
        let writing = async {
            let frames = core::iter::once(&SUBSCRIBE[..]);
            for mut frame in frames.chain(core::iter::repeat_n(&event[..], EVENTS)) {
                while !frame.is_empty() {
                    let n = poll::<A, _>(|waker| stream.poll_write(waker, frame)).await;
                    frame = &frame[n.expect("an open stream")..];
                }
            }
            stream.finish().expect("an open stream");
            sleep(300 * MS).await;
        };
        race(poll::<B, _>(|waker| connection.poll_serve(waker)), writing).await;
        expect_given_up::<B>(&stage.b, connection).await;
        drop(stream);
        assert_eq!(service.service().stats().connections, 0);
    });
}

async fn expect_given_up<S: Subject>(agent: &S, mut connection: BrokerConnection<S::Runtime>) {
    step("its time passes");
    connection.set_silence(SILENCE);
    let due = connection.due();
    loop {
        let serving = poll::<S, _>(|waker| connection.poll_serve(waker));
        match within(100 * MS, serving).await {
            // It was polled up to 100 ms ago.
            None => assert!(connection.due() + 200 * MS > now(agent), "it has nothing to do"),
            Some(given_up) => {
                assert!(matches!(given_up, Err(EventsFailure::Silent)), "{given_up:?}");
                assert!(now(agent) >= due);
                return;
            }
        }
    }
}

fn now<S: Subject>(agent: &S) -> crate::time::Instant {
    agent.keep_alive().shared().host().now()
}

/// Messages that are refused, without end, by who does not read the refusals: nothing more is
/// taken until it does, and then everything is answered.
pub fn refusals_that_nobody_reads_stop_the_sender<A: Subject, B: Subject, R: Rendezvous>() {
    /// Text without an id, and of no length.
    const EMPTY: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 0];
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let service = stage.b.keep_alive().listen_exchange().expect("the port is free");
        let (stream, incoming) = stage.serve(&service, Port::DATA_EXCHANGE).await;
        let incoming = RefCell::new(incoming);
        step("sending without reading");
        let mut rest = flood::<A>(&stream, &EMPTY, async || {
            let next = poll::<B, _>(|waker| incoming.borrow_mut().poll_next(waker));
            panic!("{:?}", next.await);
        })
        .await;
        step("reading");
        let mut incoming = incoming.into_inner();
        let receiving = async {
            let next = poll::<B, _>(|waker| incoming.poll_next(waker)).await.expect("received");
            assert_eq!(next, None);
            poll::<B, _>(|waker| incoming.poll_flush(waker)).await.expect("flushed");
            drop(incoming);
        };
        let ending = async {
            while !rest.is_empty() {
                let n = poll::<A, _>(|waker| stream.poll_write(waker, rest)).await;
                rest = &rest[n.expect("an open stream")..];
            }
            stream.finish().expect("an open stream");
        };
        let reading = async {
            let (mut buf, mut got) = (std::vec![0; 64 << 10], 0);
            loop {
                match poll::<A, _>(|waker| stream.poll_read(waker, &mut buf)).await {
                    Ok(0) => break got,
                    Ok(n) => got += n,
                    Err(error) => panic!("{error} after {got} bytes"),
                }
            }
        };
        let (got, _) = both(reading, both(ending, receiving)).await;
        assert!(got > 256 << 10, "{got} bytes of refusals");
    });
}

/// A client of a broker that is away: it asks once whether somebody is there, has nothing to do
/// until it gives up, and goes on if the broker comes back before, also with as many open
/// requests as there may be.
pub fn a_broker_that_is_away_is_waited_for_in_peace<A: Subject, B: Subject, R: Rendezvous>() {
    const PING: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(20);
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let limits = BrokerLimits::default();
        let service = stage.b.keep_alive().listen_events(limits).expect("the port is free");
        for requests in [0, OUTSTANDING_MAX] {
            let (stream, mut connection) = stage.serve(&service, Port::EVENTS).await;
            let mut client = EventsClient::new(stream);
            let asked: Vec<_> = (0..requests)
                .map(|_| client.begin_publish("a", b"b", false).expect("room"))
                .collect();
            client.set_patience(PING, PATIENCE);
            step("the broker is away");
            for _ in 0..3 {
                let none = within(2 * PING, poll::<A, _>(|waker| client.poll_next(waker))).await;
                assert!(none.is_none(), "{none:?}");
            }
            let none = within(MS, poll::<A, _>(|waker| client.poll_next(waker))).await;
            assert!(none.is_none(), "{none:?}");
            assert!(client.due() > now::<A>(&stage.a), "it has nothing to do");
            step("the broker is back");
            let answers = async {
                for request in asked {
                    let done = poll::<A, _>(|waker| client.poll_done(waker, request)).await;
                    assert_eq!(done.expect("an answer"), 0);
                }
                let last = client.begin_publish("a", b"b", false).expect("room");
                let done = poll::<A, _>(|waker| client.poll_done(waker, last)).await;
                assert_eq!(done.expect("an answer"), 0);
                drop(client);
            };
            let serving = async |connection: &mut BrokerConnection<B::Runtime>| {
                poll::<B, _>(|waker| connection.poll_serve(waker)).await.expect("served");
            };
            both(answers, serving(&mut connection)).await;
        }
    });
}

/// A sender that has said its last before its receipts came: its end is an end, however often it
/// is asked for. And a file of no bytes, into which somebody writes nothing, has its receipt.
pub fn an_end_is_an_end_and_a_receipt_is_kept<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let service = stage.b.keep_alive().listen_exchange().expect("the port is free");
        step("messages");
        let (stream, mut incoming) = stage.serve(&service, Port::DATA_EXCHANGE).await;
        let mut messages = Messages::new(stream, [7; 8]);
        for text in ["one", "two", "three"] {
            messages.queue(Kind::Text, Note::default(), text.as_bytes()).expect("room");
        }
        // Written, and no receipt is there.
        let none = within(100 * MS, poll::<A, _>(|waker| messages.poll_receipt(waker))).await;
        assert!(none.is_none(), "{none:?}");
        drop(messages);
        let mut next = async || poll::<B, _>(|waker| incoming.poll_next(waker)).await;
        for _ in 0..3 {
            assert!(next().await.expect("received").is_some());
        }
        for _ in 0..3 {
            assert_eq!(next().await.expect("a good end"), None);
        }
        incoming.acknowledge(3).expect("three");
        drop(incoming);

        step("a file of no bytes");
        let (stream, mut incoming) = stage.serve(&service, Port::DATA_EXCHANGE).await;
        let (id, name) = (TransferId([1; 16]), Some("empty".parse().expect("a name")));
        let hash = HashAlgorithm::Blake3;
        let note = Note::default();
        let offer = Offer { id, kind: Kind::File, size: 0, hash, name, note };
        let mut upload = Upload::new(stream, &offer).expect("an offer");
        let receiving = async {
            let next = poll::<B, _>(|waker| incoming.poll_next(waker)).await;
            assert!(next.expect("an offer").is_some());
            incoming.accept(ContentHash::new(hash)).expect("an answer");
            let n = poll::<B, _>(|waker| incoming.poll_read(waker, &mut [0; 16])).await;
            assert_eq!(n.expect("its end"), 0);
            incoming.acknowledge(1).expect("one");
            let last = poll::<B, _>(|waker| incoming.poll_next(waker)).await;
            assert_eq!(last.expect("a good end"), None);
        };
        let sending = async {
            for _ in 0..20 {
                let n = poll::<A, _>(|waker| upload.poll_write(waker, &[])).await;
                assert_eq!(n.expect("nothing"), 0);
                sleep(10 * MS).await;
            }
            let receipt = poll::<A, _>(|waker| upload.poll_receipt(waker)).await;
            assert_eq!(receipt.expect("a receipt"), Some(ContentHash::of(hash, b"")));
            drop(upload);
        };
        both(receiving, sending).await;
    });
}
