//! What adapters with futures offer beside what every adapter does.

use super::run::both;
use crate::drive::agent::Agent;
use crate::drive::runtime::AsyncRuntime;
use crate::drive::services::{Accepted, Event, EventsFailure, Heard, Received, TransferError};
use crate::service::events::BrokerLimits;
use crate::service::exchange::{ContentHash, HashAlgorithm, Kind, Note, Offer};
use std::vec;
use std::vec::Vec;

const FILE: usize = 300_000;

/// Each service once, from `a` to `b`, who trust each other, by the futures of both.
pub async fn services<R: AsyncRuntime>(a: &Agent<R>, b: &Agent<R>) {
    let exchange = b.listen_exchange().expect("the port is free");
    let echo = b.listen_echo().expect("the port is free");
    let events = b.listen_events(BrokerLimits::default()).expect("the port is free");
    let to = b.address().expect("registered");
    let mut content = vec![0; FILE];
    super::fill(1, 0, &mut content);
    let content = &content;
    let serving = async {
        let mut incoming = exchange.accept().await.expect("a stream");
        let next = incoming.next().await.expect("received");
        let Some(Received::Message(message)) = next else { panic!("{next:?}") };
        assert_eq!((message.kind, &message.content[..]), (Kind::Json, &b"{}"[..]));
        assert_eq!(incoming.next_here().await.expect("nothing is wrong"), None);
        incoming.acknowledge(incoming.unacknowledged()).expect("it was received");
        assert_eq!(incoming.next().await.expect("the end"), None);

        let mut incoming = exchange.accept().await.expect("a stream");
        let next = incoming.next().await.expect("received");
        let Some(Received::File(offer)) = next else { panic!("{next:?}") };
        let early = incoming.next().await;
        assert!(matches!(early, Err(TransferError::Misuse(_))), "it awaits its answer");
        incoming.accept(ContentHash::new(offer.hash)).expect("it was offered");
        let (mut found, mut chunk) = (Vec::new(), vec![0; 7000]);
        while let n @ 1.. = incoming.read(&mut chunk).await.expect("read") {
            found.extend_from_slice(&chunk[..n]);
        }
        assert!(found == *content, "what was read is what was written");
        incoming.acknowledge(1).expect("it was received");
        incoming.flush().await.expect("flushed");
        assert_eq!(incoming.next().await.expect("the end"), None);

        echo.accept().await.expect("a stream").serve().await.expect("served");
        events.accept().await.expect("a stream").serve().await.expect("served");
    };
    let working = async {
        a.send_message(to, Kind::Json, b"{}").await.expect("delivered");
        let (id, size) = (a.transfer_id().expect("randomness"), FILE as u64);
        let (name, note) = (Some("data.bin".parse().expect("a name")), Note::default());
        let hash = HashAlgorithm::Blake3;
        let offer = Offer { id, kind: Kind::File, size, hash, name, note };
        let mut upload = a.upload(to, &offer).await.expect("accepted");
        assert_eq!(upload.accepted().await.expect("accepted"), Accepted::From(0));
        upload.write_all(content).await.expect("taken");
        let digest = ContentHash::of(hash, content);
        assert_eq!(upload.receipt().await.expect("acknowledged"), Some(digest));
        drop(upload);

        let mut echo = a.connect_echo(to).await.expect("connected");
        assert!(!echo.round_trip().await.expect("an echo").is_zero());
        drop(echo);

        let mut client = a.connect_events(to).await.expect("connected");
        client.subscribe("a.>", false).await.expect("subscribed");
        assert_eq!(client.publish("a.b", b"data", false).await.expect("published"), 1);
        let heard = client.next().await.expect("heard");
        let Heard::Event(Event { topic, data, .. }) = heard else { panic!("{heard:?}") };
        assert_eq!((topic.as_str(), &data[..]), ("a.b", &b"data"[..]));
        let none = client.publish("a..b", b"", false).await;
        assert!(matches!(none, Err(EventsFailure::Topic(_))), "{none:?}");
    };
    both(serving, working).await;
}
