//! Bulk throughput of one stream over loopback, beside quinn and kernel TCP, in one interleaved
//! run: one core a side, UDP payloads of 1,452 bytes, everything encrypted but TCP, every byte
//! checked. Only the ratios mean anything; the figures drift with the machine.

mod pilot;
mod quic;
mod tcp;

use std::time::{Duration, Instant};

/// Bytes of one transfer.
pub const BYTES: usize = 400_000_000;
/// UDP payload of every contestant's datagrams.
pub const PAYLOAD: u16 = 1452;
const ROUNDS: usize = 5;

/// What one transfer took.
#[derive(Clone, Copy)]
pub struct Took {
    pub wall: Duration,
    pub cpu: Duration,
}

/// A block whose bytes depend on their position; its length divides nothing else.
pub fn pattern() -> Vec<u8> {
    (0..65_521u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Compares received bytes with the pattern.
pub struct Checker {
    pattern: Vec<u8>,
    at: usize,
}

impl Checker {
    pub fn new() -> Self {
        Checker { pattern: pattern(), at: 0 }
    }

    pub fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let from = self.at % self.pattern.len();
            let n = bytes.len().min(self.pattern.len() - from);
            assert!(bytes[..n] == self.pattern[from..from + n], "wrong bytes at {}", self.at);
            self.at += n;
            bytes = &bytes[n..];
        }
    }

    pub fn received(&self) -> usize {
        self.at
    }
}

/// CPU time of this process, both ends of a transfer.
pub fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs `future` on a thread of its own, on one core, with a single-threaded runtime.
pub fn on_core<F, T>(core: usize, future: F) -> std::thread::JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::spawn(move || {
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(core);
        // Without the right to pin, the figures say less, but they are still figures.
        let _ = rustix::thread::sched_setaffinity(None, &cores);
        future()
    })
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Measures from the first byte written to the last byte checked.
pub struct Stopwatch(Instant, Duration);

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch(Instant::now(), cpu())
    }

    pub fn stop(self) -> Took {
        Took { wall: self.0.elapsed(), cpu: cpu() - self.1 }
    }
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn main() {
    let contestants: [(&str, fn() -> Took); 4] = [
        ("pilot", pilot::bulk),
        ("quinn default", || quic::bulk(false)),
        ("quinn tuned", || quic::bulk(true)),
        ("kernel TCP", tcp::bulk),
    ];
    let mut results = vec![Vec::new(); contestants.len()];
    for round in 0..ROUNDS {
        for (i, (name, run)) in contestants.iter().enumerate() {
            let took = run();
            eprintln!("round {round}: {name}: {:?}", took.wall);
            results[i].push(took);
        }
    }
    println!("{BYTES} bytes, {ROUNDS} interleaved rounds, {PAYLOAD}-byte UDP payloads");
    println!("{:<14} {:>9} {:>17} {:>9} {:>7}", "", "MB/s", "spread", "CPU s/GB", "ratio");
    let rate = |t: &Took| BYTES as f64 / 1e6 / t.wall.as_secs_f64();
    let (pilot, ..) = median(results[0].iter().map(rate).collect());
    for ((name, _), results) in contestants.iter().zip(&results) {
        let (middle, least, most) = median(results.iter().map(rate).collect());
        let cost = |t: &Took| t.cpu.as_secs_f64() / (BYTES as f64 / 1e9);
        let (cpu, ..) = median(results.iter().map(cost).collect());
        let spread = format!("{least:.0} to {most:.0}");
        println!("{name:<14} {middle:>9.0} {spread:>17} {cpu:>9.2} {:>6.2}x", pilot / middle);
    }
}
