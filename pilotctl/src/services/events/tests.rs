//! Clients and a broker over pipes, on virtual time where time matters.

use super::client::{ClientError, News, Publication, Subscription, publish};
use super::*;
use pilot_core::addr::NodeId;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const ME: Address = Address::backbone(NodeId(16));
const PIPE: usize = 4096;

/// A broker with few places, and streams to it.
struct Net(Arc<Events>);

impl Net {
    fn new() -> Net {
        let mut limits = BrokerLimits::default();
        (limits.queue_events, limits.connections) = (16, 4);
        Net(Arc::new(Events::new(limits)))
    }

    fn stream(&self) -> (DuplexStream, JoinHandle<Result<(), ServeError>>) {
        let (ours, theirs) = duplex(PIPE);
        let events = self.0.clone();
        (ours, tokio::spawn(async move { events.serve(ME, theirs).await }))
    }

    async fn publish(&self, topic: &str, retain: bool, events: &[&str]) -> u64 {
        let how = Publication { topic, retain, acknowledge: true };
        let events: Vec<_> = events.iter().map(|text| text.as_bytes().to_vec()).collect();
        publish(self.stream().0, how, &events).await.unwrap()
    }

    async fn subscribe(&self, pattern: &str, retained: bool) -> mpsc::Receiver<News> {
        let patterns = [pattern.to_owned()];
        let opened = Subscription::open(self.stream().0, &patterns, retained).await.unwrap();
        let (to, heard) = mpsc::channel(1);
        tokio::spawn(opened.run(to));
        heard
    }
}

fn event(retained: bool, topic: &str, text: &str) -> Option<News> {
    let (topic, data) = (topic.to_owned(), text.as_bytes().to_vec());
    Some(News::Event { from: ME, retained, topic, data })
}

#[tokio::test]
async fn what_is_published_is_heard_by_those_who_subscribe() {
    let net = Net::new();
    assert_eq!(net.publish("t.0", true, &["old", "kept"]).await, 0);
    let mut a = net.subscribe("t.*", false).await;
    let mut b = net.subscribe("t.>", true).await;
    assert_eq!(net.publish("t.1", false, &["x", "y"]).await, 4);
    assert_eq!(b.recv().await, event(true, "t.0", "kept"));
    for heard in [&mut a, &mut b] {
        assert_eq!(heard.recv().await, event(false, "t.1", "x"));
        assert_eq!(heard.recv().await, event(false, "t.1", "y"));
    }
    // Without an answer it arrives, too, as long as the stream holds.
    let how = Publication { topic: "t.1", retain: false, acknowledge: false };
    let data = vec![vec![b'z'; 3 * PIPE]];
    assert_eq!(publish(net.stream().0, how, &data).await.unwrap(), 0);
    let z = "z".repeat(3 * PIPE);
    assert_eq!(a.recv().await, event(false, "t.1", &z));
}

#[tokio::test]
async fn more_events_than_may_be_open_are_published_in_order() {
    let net = Net::new();
    let all: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(net.publish("n", true, &all).await, 0);
    let mut heard = net.subscribe("n", true).await;
    assert_eq!(heard.recv().await, event(true, "n", "1999"));
    assert_eq!(net.0.stats().published, 2000);
}

#[tokio::test]
async fn a_stalled_subscriber_delays_nobody_and_is_told_what_it_lost() {
    let net = Net::new();
    let mut slow = net.subscribe(">", false).await;
    let mut quick = net.subscribe(">", false).await;
    let text = "x".repeat(1000);
    for n in 0..500 {
        let topic = format!("n.{n}");
        assert_eq!(net.publish(&topic, false, &[&text]).await, 2);
        assert_eq!(quick.recv().await, event(false, &topic, &text));
    }
    let (mut heard, mut lost, mut next) = (0, 0, 0);
    while next < 500 {
        match slow.recv().await.unwrap() {
            News::Dropped(count) => {
                lost += count;
                next += count;
            }
            News::Event { topic, .. } => {
                assert_eq!(topic, format!("n.{next}"));
                (heard, next) = (heard + 1, next + 1);
            }
        }
    }
    assert!(heard >= 16 && lost > 300, "{heard} {lost}");
    assert_eq!(heard + lost, 500);
    assert_eq!(net.0.stats().dropped, lost);
}

#[tokio::test]
async fn whoever_breaks_the_rules_is_closed_alone() {
    let net = Net::new();
    let mut good = net.subscribe("t", false).await;
    let (mut bad, served) = net.stream();
    bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(served.await.unwrap(), Err(ServeError::Protocol(_))));
    let (mut cut, served) = net.stream();
    cut.write_all(&[16, 0, 0, 9, 0]).await.unwrap();
    drop(cut);
    assert!(matches!(served.await.unwrap(), Err(ServeError::Truncated)));
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(net.subscribe("t", false).await);
    }
    let (stream, served) = net.stream();
    assert!(matches!(served.await.unwrap(), Err(ServeError::Full)));
    let refused = Subscription::open(stream, &["t".to_owned()], false).await;
    assert!(matches!(refused.err(), Some(ClientError::Ended | ClientError::Stream(_))));
    others.pop();
    while net.0.stats().connections > 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(net.publish("t", false, &["x"]).await, 3);
    assert_eq!(good.recv().await, event(false, "t", "x"));
    let bad_topic = Publication { topic: "a b", retain: false, acknowledge: true };
    let refused = publish(net.stream().0, bad_topic, &[]).await;
    assert!(matches!(refused, Err(ClientError::Topic(_))));
}

#[tokio::test(start_paused = true)]
async fn pings_keep_a_quiet_subscription_and_silence_ends_it() {
    let net = Net::new();
    let mut quiet = net.subscribe("t", false).await;
    let (_held, served) = net.stream();
    let started = tokio::time::Instant::now();
    // One that says nothing is closed.
    assert!(matches!(served.await.unwrap(), Err(ServeError::Idle)));
    assert!(started.elapsed() >= IDLE);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(net.publish("t", false, &["x"]).await, 1);
    assert_eq!(quiet.recv().await, event(false, "t", "x"));

    // A broker that answers the subscription and then nothing more.
    let (ours, mut theirs) = duplex(PIPE);
    let broker = tokio::spawn(async move {
        theirs.write_all(&[19, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0]).await.unwrap();
        let mut sink = tokio::io::sink();
        tokio::io::copy(&mut theirs, &mut sink).await
    });
    let opened = Subscription::open(ours, &["t".to_owned()], false).await.unwrap();
    let (to, _heard) = mpsc::channel(1);
    let started = tokio::time::Instant::now();
    assert!(matches!(opened.run(to).await, Err(ClientError::Silent)));
    assert!(started.elapsed() < Duration::from_secs(60));
    broker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_and_never_reads_loses_its_place() {
    let net = Net::new();
    let ping = [22, 0, 0, 4, 0, 0, 0, 1];
    let (mut deaf, served) = net.stream();
    let flood = tokio::spawn(async move { while deaf.write_all(&ping).await.is_ok() {} });
    let ended = timeout(3 * IDLE, served).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(ServeError::Idle)), "{ended:?}");
    flood.await.unwrap();

    // One that has said its last, and does not take its answers: more than the pipe holds.
    let (mut deaf, served) = net.stream();
    for _ in 0..600 {
        deaf.write_all(&ping).await.unwrap();
    }
    deaf.shutdown().await.unwrap();
    let ended = timeout(2 * FAREWELL, served).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(ServeError::Idle)), "{ended:?}");
    assert_eq!(net.0.stats().connections, 0);
}
