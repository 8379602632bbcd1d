//! Messages of 1 KiB on one stream, each written and read by a call of its own.

use crate::bulk::PAYLOAD;
use crate::contest::{Contestant, Cores, Duplex, Exchange, OURS};
use crate::contest::{QUINN, QUINN_TUNED, RING, RUST_CRYPTO};
use crate::measure::{Checker, Source, Stopwatch, Took};
use crate::table::{Metric, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MESSAGE: usize = 1024;

#[derive(Clone, Copy)]
pub struct Messages {
    pub count: usize,
}

impl Exchange for Messages {
    type Output = Took;

    async fn active<S: Duplex>(self, stream: &mut S) -> Took {
        let mut source = Source::new();
        let watch = Stopwatch::start();
        for _ in 0..self.count {
            stream.write_all(source.next(MESSAGE)).await.expect("room");
        }
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.expect("done");
        watch.stop()
    }

    async fn passive<S: Duplex>(self, stream: &mut S) {
        let (mut message, mut checker) = ([0; MESSAGE], Checker::new());
        for _ in 0..self.count {
            stream.read_exact(&mut message).await.expect("a message");
            checker.check(&message);
        }
        stream.write_all(b"done").await.expect("room");
    }
}

pub fn run(rounds: usize, bytes: usize) -> Vec<Table> {
    let count = bytes / MESSAGE;
    let title = format!("Messages: {count} of 1 KiB on one stream, a core an end");
    let metrics = [Metric::spread("messages/s", 0), Metric::new("CPU ns each", 0)];
    let mut table = Table::new(title, metrics, OURS);
    for _ in 0..rounds {
        for contestant in [RING, RUST_CRYPTO, QUINN, QUINN_TUNED, Contestant::Tcp] {
            let took = contestant.run(Cores::Split, PAYLOAD, Messages { count });
            let count = count as f64;
            let sample = [count / took.seconds(), took.cpu_seconds() * 1e9 / count];
            table.add(contestant.name(), &sample);
        }
    }
    vec![table]
}
