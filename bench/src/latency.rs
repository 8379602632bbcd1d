//! Round trips of 64 bytes, both ends in one runtime on one core.

use crate::bulk::PAYLOAD;
use crate::contest::{Contestant, Cores, Duplex, Exchange, OURS, PILOTS, QUINN, is_chosen};
use crate::measure::{Checker, Source, Stopwatch, quantile};
use crate::pilot::Provider;
use crate::table::{Metric, Table};
use crate::{mio, plain};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const LEN: usize = 64;
/// Before anything is measured: windows, estimates of the round trip and caches settle.
pub const WARM_UP: usize = 1000;
pub const COUNT: usize = 20_000;

/// The row of [`plain::system_calls`].
const SYSTEM: &str = "UDP, system calls alone";

#[derive(Clone, Copy)]
struct PingPong;

/// Microseconds.
pub struct Trips {
    p50: f64,
    p99: f64,
    cpu: f64,
}

impl Trips {
    /// Of [`COUNT`] round trips in microseconds, during which `watch` has run.
    pub fn new(mut trips: Vec<f64>, watch: Stopwatch) -> Self {
        let cpu = watch.stop().cpu_seconds() * 1e6 / COUNT as f64;
        trips.sort_by(f64::total_cmp);
        Trips { p50: quantile(&trips, 0.5), p99: quantile(&trips, 0.99), cpu }
    }
}

impl Exchange for PingPong {
    type Output = Trips;

    async fn active<S: Duplex>(self, stream: &mut S) -> Trips {
        let (mut source, mut checker) = (Source::new(), Checker::new());
        let mut answer = [0; LEN];
        let mut trips = Vec::with_capacity(COUNT);
        let mut watch = Stopwatch::start();
        for n in 0..WARM_UP + COUNT {
            if n == WARM_UP {
                watch = Stopwatch::start();
            }
            let start = Instant::now();
            stream.write_all(source.next(LEN)).await.expect("room");
            stream.read_exact(&mut answer).await.expect("an answer");
            let took = start.elapsed();
            checker.check(&answer);
            if n >= WARM_UP {
                trips.push(took.as_secs_f64() * 1e6);
            }
        }
        Trips::new(trips, watch)
    }

    async fn passive<S: Duplex>(self, stream: &mut S) {
        let (mut message, mut checker) = ([0; LEN], Checker::new());
        for _ in 0..WARM_UP + COUNT {
            stream.read_exact(&mut message).await.expect("a message");
            checker.check(&message);
            stream.write_all(&message).await.expect("room");
        }
    }
}

pub fn run(rounds: usize, only: &[String]) -> Vec<Table> {
    let title = format!("Latency: {COUNT} round trips of {LEN} bytes, both ends on one core");
    let metrics =
        [Metric::spread("p50 µs", 1), Metric::new("p99 µs", 1), Metric::new("CPU µs each", 1)];
    let mut table = Table::new(title, metrics, OURS);
    let all = [&PILOTS[..], &[QUINN, Contestant::Tcp, Contestant::Udp]].concat();
    for _ in 0..rounds {
        for contestant in all.iter().filter(|c| is_chosen(c.name(), only)) {
            let trips = contestant.run(Cores::One, PAYLOAD, PingPong);
            table.add(contestant.name(), &[trips.p50, trips.p99, trips.cpu]);
        }
        if is_chosen(mio::NAME, only) {
            let trips = mio::latency(Provider::Ring);
            table.add(mio::NAME, &[trips.p50, trips.p99, trips.cpu]);
        }
        if is_chosen(SYSTEM, only) {
            let trips = plain::system_calls();
            table.add(SYSTEM, &[trips.p50, trips.p99, trips.cpu]);
        }
    }
    vec![table]
}
