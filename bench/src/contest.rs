//! Contestants, and the one way in which each of them runs an exchange over one stream.

use crate::measure::{on_core, runtime};
use crate::{pilot, plain, quic};
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of any contestant.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Duplex for S {}

/// What the two ends of a stream do. The active end speaks first.
pub trait Exchange: Copy + Send + 'static {
    type Output: Send + 'static;

    /// The end that opened the stream; it measures.
    fn active<S: Duplex>(self, stream: &mut S) -> impl Future<Output = Self::Output> + Send;

    /// The end that accepted it.
    fn passive<S: Duplex>(self, stream: &mut S) -> impl Future<Output = ()> + Send;
}

/// Where the two ends run.
#[derive(Clone, Copy)]
pub enum Cores {
    /// One core and one runtime an end.
    Split,
    /// Both on one core, in one runtime.
    One,
}

#[derive(Clone, Copy)]
pub enum Contestant {
    Pilot(pilot::Provider),
    Quinn { tuned: bool },
    Tcp,
    Udp,
}

/// The rows that everything is compared with.
pub const OURS: &[&str] = &["pilot, ring", "pilot, RustCrypto"];

pub const RING: Contestant = Contestant::Pilot(pilot::Provider::Ring);
pub const RUST_CRYPTO: Contestant = Contestant::Pilot(pilot::Provider::RustCrypto);
pub const QUINN: Contestant = Contestant::Quinn { tuned: false };
pub const QUINN_TUNED: Contestant = Contestant::Quinn { tuned: true };

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Contestant::Pilot(provider) => provider.name(),
            Contestant::Quinn { tuned: false } => "quinn, default",
            Contestant::Quinn { tuned: true } => "quinn, tuned",
            Contestant::Tcp => "TCP, not encrypted",
            Contestant::Udp => "UDP, not encrypted",
        }
    }

    /// Runs an exchange between two new ends, with UDP datagrams of `payload` bytes.
    pub fn run<E: Exchange>(self, cores: Cores, payload: u16, exchange: E) -> E::Output {
        match self {
            Contestant::Pilot(provider) => pilot::run(provider, cores, payload, exchange),
            Contestant::Quinn { tuned } => quic::run(tuned, cores, payload, exchange),
            Contestant::Tcp => plain::tcp(cores, exchange),
            Contestant::Udp => plain::udp(cores, exchange),
        }
    }
}

/// Runs the two ends of one contestant.
pub fn run_ends<A, P, T>(
    cores: Cores,
    active: impl FnOnce() -> A + Send + 'static,
    passive: impl FnOnce() -> P + Send + 'static,
) -> T
where
    A: Future<Output = T> + Send + 'static,
    P: Future<Output = ()> + Send + 'static,
    T: Send + 'static,
{
    const ENDED: &str = "an end has panicked";
    // Everything is a task, as it would be in a program.
    match cores {
        Cores::Split => {
            let passive = on_core(1, || {
                runtime().block_on(async { tokio::spawn(passive()).await.expect(ENDED) });
            });
            let active = on_core(0, || {
                runtime().block_on(async { tokio::spawn(active()).await.expect(ENDED) })
            });
            let output = active.join().expect(ENDED);
            passive.join().expect(ENDED);
            output
        }
        Cores::One => {
            let both = on_core(0, || {
                runtime().block_on(async {
                    let passive = tokio::spawn(passive());
                    let output = tokio::spawn(active()).await.expect(ENDED);
                    passive.await.expect(ENDED);
                    output
                })
            });
            both.join().expect(ENDED)
        }
    }
}
