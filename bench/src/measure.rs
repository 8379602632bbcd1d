//! What every benchmark needs: clocks, pinned threads, and bytes that can be checked.

use std::time::{Duration, Instant};

/// Length of the pattern: a prime, so that it divides nothing that a transport counts in.
const PATTERN: usize = 65_521;

/// Bytes that depend on their position.
pub struct Source {
    twice: Vec<u8>,
    at: usize,
}

impl Source {
    /// Most bytes of one piece.
    pub const MOST: usize = PATTERN;

    pub fn new() -> Self {
        let byte = |i: usize| ((i % PATTERN) as u32).wrapping_mul(2_654_435_761) >> 24;
        Source { twice: (0..2 * PATTERN).map(|i| byte(i) as u8).collect(), at: 0 }
    }

    /// The next `len` bytes.
    pub fn next(&mut self, len: usize) -> &[u8] {
        let from = self.at;
        self.at = (self.at + len) % PATTERN;
        &self.twice[from..from + len]
    }
}

/// Compares received bytes with what a [`Source`] gives.
pub struct Checker {
    source: Source,
    received: usize,
}

impl Checker {
    pub fn new() -> Self {
        Checker { source: Source::new(), received: 0 }
    }

    pub fn check(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(Source::MOST) {
            assert!(piece == self.source.next(piece.len()), "wrong bytes after {}", self.received);
            self.received += piece.len();
        }
    }

    pub fn received(&self) -> usize {
        self.received
    }
}

/// What something took: time, and the processor time of both ends.
#[derive(Clone, Copy)]
pub struct Took {
    pub wall: Duration,
    pub cpu: Duration,
}

impl Took {
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu.as_secs_f64()
    }

    pub fn seconds(&self) -> f64 {
        self.wall.as_secs_f64()
    }
}

/// Measures wall time and the processor time of this process.
pub struct Stopwatch(Instant, Duration);

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch(Instant::now(), cpu())
    }

    pub fn stop(self) -> Took {
        Took { wall: self.0.elapsed(), cpu: cpu() - self.1 }
    }
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs `work` on a thread of its own that stays on one core.
pub fn on_core<F, T>(core: usize, work: F) -> std::thread::JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::spawn(move || {
        pin(core);
        work()
    })
}

/// Keeps this thread on one core.
pub fn pin(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // Without the right to pin, the figures say less, but they are still figures.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}

/// A single-threaded runtime.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The value that this share of `sorted` is not above.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
