//! Contestants, and the one way in which each of them runs an exchange over one stream.

use crate::adapter::Adapter;
use crate::measure::on_core;
use crate::{pilot, plain, quic};
use pilot_smol::Smol;
use pilot_tokio::Tokio;
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

/// What agents run on.
#[derive(Clone, Copy)]
pub enum Runtime {
    Tokio,
    Smol,
}

#[derive(Clone, Copy)]
pub enum Contestant {
    Pilot(Runtime, pilot::Provider),
    Quinn { tuned: bool },
    Tcp,
    Udp,
}

/// The rows that everything is compared with.
pub const OURS: &[&str] = &["pilot, tokio, ring", "pilot, smol, ring", "pilot, tokio, RustCrypto"];
/// The same as contestants: where one runtime is to be compared with another. A new runtime
/// goes in here, above, and into the two functions below.
pub const PILOTS: [Contestant; 3] = [RING, SMOL, RUST_CRYPTO];

pub const RING: Contestant = Contestant::Pilot(Runtime::Tokio, pilot::Provider::Ring);
pub const SMOL: Contestant = Contestant::Pilot(Runtime::Smol, pilot::Provider::Ring);
pub const RUST_CRYPTO: Contestant = Contestant::Pilot(Runtime::Tokio, pilot::Provider::RustCrypto);
pub const QUINN: Contestant = Contestant::Quinn { tuned: false };
pub const QUINN_TUNED: Contestant = Contestant::Quinn { tuned: true };

/// Whether a contestant is among those asked for; nobody asked for is everybody.
pub fn is_chosen(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
}

impl Contestant {
    pub fn name(self) -> &'static str {
        use pilot::Provider;
        match self {
            Contestant::Pilot(Runtime::Tokio, Provider::Ring) => "pilot, tokio, ring",
            Contestant::Pilot(Runtime::Tokio, Provider::RustCrypto) => "pilot, tokio, RustCrypto",
            Contestant::Pilot(Runtime::Smol, Provider::Ring) => "pilot, smol, ring",
            Contestant::Pilot(Runtime::Smol, Provider::RustCrypto) => "pilot, smol, RustCrypto",
            Contestant::Quinn { tuned: false } => "quinn, default",
            Contestant::Quinn { tuned: true } => "quinn, tuned",
            Contestant::Tcp => "TCP, not encrypted",
            Contestant::Udp => "UDP, not encrypted",
        }
    }

    /// Runs an exchange between two new ends, with UDP datagrams of `payload` bytes.
    pub fn run<E: Exchange>(self, cores: Cores, payload: u16, exchange: E) -> E::Output {
        match self {
            Contestant::Pilot(Runtime::Tokio, provider) => {
                pilot::run::<Tokio, E>(provider, cores, payload, exchange)
            }
            Contestant::Pilot(Runtime::Smol, provider) => {
                pilot::run::<Smol, E>(provider, cores, payload, exchange)
            }
            Contestant::Quinn { tuned } => quic::run(tuned, cores, payload, exchange),
            Contestant::Tcp => plain::tcp(cores, exchange),
            Contestant::Udp => plain::udp(cores, exchange),
        }
    }
}

/// Runs the two ends of one contestant, each as a task, as it would be in a program.
pub fn run_ends<R: Adapter, A, P, T>(
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
    match cores {
        Cores::Split => {
            let passive = on_core(1, || R::block_on(async { R::spawn_here(passive()).await }));
            let active = on_core(0, || R::block_on(async { R::spawn_here(active()).await }));
            let output = active.join().expect(ENDED);
            passive.join().expect(ENDED);
            output
        }
        Cores::One => {
            let both = on_core(0, || {
                R::block_on(async {
                    let passive = R::spawn_here(passive());
                    let output = R::spawn_here(active()).await;
                    passive.await;
                    output
                })
            });
            both.join().expect(ENDED)
        }
    }
}
