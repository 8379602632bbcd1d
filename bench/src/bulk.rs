//! Bytes of one stream in one direction.

use crate::contest::{Contestant, Cores, Duplex, Exchange};
use crate::contest::{OURS, PILOTS, QUINN, QUINN_TUNED, RING, is_chosen};
use crate::measure::{Checker, Source, Stopwatch, Took};
use crate::mio;
use crate::pilot::Provider;
use crate::table::{Metric, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// UDP payload bytes that every path of the Internet's usual 1,500-byte packets carries.
pub const PAYLOAD: u16 = 1452;
/// Of a 9,000-byte packet, and of what only loopback carries.
const LARGER: [u16; 2] = [8952, 16_384];

#[derive(Clone, Copy)]
pub struct Bulk {
    pub bytes: usize,
}

impl Exchange for Bulk {
    type Output = Took;

    /// From the first byte written until the other end says that it has checked the last one.
    async fn active<S: Duplex>(self, stream: &mut S) -> Took {
        let mut source = Source::new();
        let watch = Stopwatch::start();
        let mut left = self.bytes;
        while left > 0 {
            let len = left.min(Source::MOST);
            stream.write_all(source.next(len)).await.expect("room");
            left -= len;
        }
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.expect("done");
        watch.stop()
    }

    async fn passive<S: Duplex>(self, stream: &mut S) {
        let (mut buf, mut checker) = (vec![0; 256 * 1024], Checker::new());
        while checker.received() < self.bytes {
            let n = stream.read(&mut buf).await.expect("bytes");
            assert!(n > 0, "the end after {}", checker.received());
            checker.check(&buf[..n]);
        }
        stream.write_all(b"done").await.expect("room");
    }
}

pub fn run(rounds: usize, bytes: usize, only: &[String]) -> Vec<Table> {
    let all = [&PILOTS[..], &[QUINN, QUINN_TUNED, Contestant::Tcp]].concat();
    let mut tables = vec![compare(rounds, bytes, PAYLOAD, &all, only)];
    let two = [RING, QUINN_TUNED];
    if only.is_empty() {
        tables.extend(LARGER.map(|payload| compare(rounds, bytes, payload, &two, only)));
    }
    tables
}

fn compare(
    rounds: usize,
    bytes: usize,
    payload: u16,
    contestants: &[Contestant],
    only: &[String],
) -> Table {
    let title =
        format!("Bulk: {} MB, {payload}-byte UDP payloads, a core an end", bytes / 1_000_000);
    let mut table =
        Table::new(title, [Metric::spread("MB/s", 0), Metric::new("CPU s/GB", 2)], OURS);
    let mut add = |name, took: Took| {
        let rate = bytes as f64 / 1e6 / took.seconds();
        table.add(name, &[rate, took.cpu_seconds() / (bytes as f64 / 1e9)]);
    };
    for _ in 0..rounds {
        for contestant in contestants.iter().filter(|c| is_chosen(c.name(), only)) {
            add(contestant.name(), contestant.run(Cores::Split, payload, Bulk { bytes }));
        }
        if is_chosen(mio::NAME, only) {
            add(mio::NAME, mio::bulk(Provider::Ring, payload, bytes));
        }
    }
    table
}
