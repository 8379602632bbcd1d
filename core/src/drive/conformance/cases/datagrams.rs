//! Datagrams: whole or not at all, and what is not delivered is counted.

use super::*;
use std::vec;

/// A datagram that says which it is: its number, then the pattern of that number.
fn write_numbered(number: u64, bytes: &mut [u8]) {
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&number.to_le_bytes());
    fill(number, 0, tail);
}

fn number(bytes: &[u8]) -> u64 {
    let (head, tail) = bytes.split_at(8);
    let number = u64::from_le_bytes(head.try_into().expect("eight bytes"));
    check(number, 0, tail);
    number
}

/// Sends one datagram after the other until one arrives: a path is there.
pub(super) async fn warm_up<A: Subject, B: Subject>(
    from: &A::Datagrams,
    to: SocketAddress,
    at: &B::Datagrams,
) -> SocketAddress {
    step("the first datagram");
    let mut buf = [0; 64];
    loop {
        A::send(from, b"first", to).expect("sent");
        if let Some(received) = within(300 * MS, B::receive(at, &mut buf)).await {
            let (n, sender) = received.expect("received");
            assert_eq!(&buf[..n], b"first");
            // The path may have carried several.
            while within(50 * MS, B::receive(at, &mut buf)).await.is_some() {}
            return sender;
        }
    }
}

/// Bursts of the size of the sender's queue, while the receiver reads: each datagram arrives
/// once and whole or is counted, and almost all arrive.
pub fn a_burst_of_datagrams_is_counted_and_none_is_corrupted<
    A: Subject,
    B: Subject,
    R: Rendezvous,
>() {
    const BURSTS: u64 = 40;
    const BURST: u64 = 50;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let at_a = stage.a.datagrams(Port(0)).expect("a free port");
        let at_b = stage.b.datagrams(PORT).expect("the port is free");
        let to = SocketAddress { address: stage.b_at, port: PORT };
        let back = warm_up::<A, B>(&at_a, to, &at_b).await;
        step("bursts of datagrams");
        let sending = async {
            let mut bytes = [0; 1000];
            for burst in 0..BURSTS {
                for n in burst * BURST..(burst + 1) * BURST {
                    let len = 8 + (n as usize * 31) % 993;
                    write_numbered(n, &mut bytes[..len]);
                    A::send(&at_a, &bytes[..len], to).expect("sent");
                }
                sleep(10 * MS).await;
            }
        };
        let mut seen = vec![false; (BURSTS * BURST) as usize];
        let receiving = async {
            let mut buf = [0; 2048];
            while let Some(got) = within(1000 * MS, B::receive(&at_b, &mut buf)).await {
                let (n, from) = got.expect("received");
                assert_eq!(from, back);
                let number = number(&buf[..n]) as usize;
                assert_eq!(n, 8 + (number * 31) % 993);
                assert!(!core::mem::replace(&mut seen[number], true), "{number} came twice");
            }
        };
        both(sending, receiving).await;
        let came = seen.iter().filter(|seen| **seen).count() as u64;
        let queue = stage.a.drops().get(DropReason::DatagramQueue);
        let inbox = stage.b.drops().get(DropReason::Inbox);
        assert!(came + queue + inbox <= BURSTS * BURST, "{came}, {queue}, {inbox}");
        assert!(came >= BURSTS * BURST * 9 / 10, "{came} came; {queue} and {inbox} dropped");

        step("an answer");
        B::send(&at_b, b"answer", back).expect("sent");
        let mut buf = [0; 3];
        let (n, from) = A::receive(&at_a, &mut buf).await.expect("received");
        assert_eq!((n, &buf, from), (3, b"ans", to));
    });
}

/// An inbox holds 1024 datagrams. What comes then is dropped and counted, what was there stays,
/// and the port works on.
pub fn an_inbox_that_nobody_reads_drops_the_newest_and_counts<
    A: Subject,
    B: Subject,
    R: Rendezvous,
>() {
    const SENT: u64 = 1500;
    const HELD: u64 = 1024;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let at_a = stage.a.datagrams(Port(0)).expect("a free port");
        let at_b = stage.b.datagrams(PORT).expect("the port is free");
        let to = SocketAddress { address: stage.b_at, port: PORT };
        warm_up::<A, B>(&at_a, to, &at_b).await;
        step("filling an inbox");
        let mut bytes = [0; 24];
        for n in 0..SENT {
            write_numbered(n, &mut bytes);
            A::send(&at_a, &bytes, to).expect("sent");
            if n % 32 == 31 {
                sleep(5 * MS).await;
            }
        }
        until("waiting for drops to be counted", || {
            stage.b.drops().get(DropReason::Inbox) >= SENT * 9 / 10 - HELD
        })
        .await;
        sleep(200 * MS).await;
        let queue = stage.a.drops().get(DropReason::DatagramQueue);
        let inbox = stage.b.drops().get(DropReason::Inbox);
        assert!(HELD + queue + inbox <= SENT, "{queue} and {inbox} dropped");
        step("emptying an inbox");
        let mut last = None;
        for n in 0..HELD {
            let mut buf = [0; 64];
            let (len, _) = B::receive(&at_b, &mut buf).await.expect("received");
            let number = number(&buf[..len]);
            assert!(last < Some(number), "{number} after {last:?}");
            last = Some(number);
            assert!(number <= n + queue + SENT / 10, "the oldest went: {number} is number {n}");
        }
        let mut buf = [0; 64];
        assert!(within(50 * MS, B::receive(&at_b, &mut buf)).await.is_none());
        warm_up::<A, B>(&at_a, to, &at_b).await;
    });
}

/// The error names the largest size that fits, and that size arrives.
pub fn a_datagram_too_large_is_refused_with_the_size_that_fits<
    A: Subject,
    B: Subject,
    R: Rendezvous,
>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let at_a = stage.a.datagrams(Port(0)).expect("a free port");
        let at_b = stage.b.datagrams(PORT).expect("the port is free");
        let to = SocketAddress { address: stage.b_at, port: PORT };
        warm_up::<A, B>(&at_a, to, &at_b).await;
        let refused = A::send(&at_a, &vec![0; 60_000], to);
        let Err(Failure::Command(CommandError::TooLarge(most))) = refused else {
            panic!("{refused:?}");
        };
        let mut bytes = vec![0; most + 1];
        write_numbered(1, &mut bytes);
        let over = Failure::Command(CommandError::TooLarge(most));
        assert_eq!(A::send(&at_a, &bytes, to), Err(over));
        write_numbered(2, &mut bytes[..most]);
        step("the largest datagram");
        let mut buf = vec![0; most + 100];
        loop {
            A::send(&at_a, &bytes[..most], to).expect("sent");
            if let Some(got) = within(300 * MS, B::receive(&at_b, &mut buf)).await {
                let (n, _) = got.expect("received");
                assert_eq!((n, number(&buf[..n])), (most, 2));
                break;
            }
        }
        step("an empty datagram");
        loop {
            A::send(&at_a, &[], to).expect("sent");
            match within(300 * MS, B::receive(&at_b, &mut buf)).await {
                Some(Ok((0, _))) => break,
                Some(Ok((n, _))) => assert_eq!(n, most),
                Some(Err(failure)) => panic!("{failure:?}"),
                None => {}
            }
        }
        let nobody = SocketAddress { address: stage.b_at, port: Port(2001) };
        A::send(&at_a, b"to nobody", nobody).expect("sent");
        until("waiting for a datagram to nobody", || {
            stage.b.drops().get(DropReason::NoListener) > 0
        })
        .await;
    });
}
