//! Pilot Protocol on tokio.
//!
//! # Agents
//!
//! An [`Agent`] is one identity on the network. It registers, finds others by address or
//! hostname, asks them for trust and is asked, and opens and accepts streams, which are
//! [`tokio::io::AsyncRead`] and [`tokio::io::AsyncWrite`]:
//!
//! ```no_run
//! use pilot_tokio::{Agent, Identity, Port};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example(secret: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::builder(Identity::from_secret(secret))
//!     .registry("registry.example:9000")
//!     .beacon("registry.example:9001")
//!     .bind()
//!     .await?;
//! println!("I am {}", agent.ready().await?);
//!
//! let mut stream = agent.connect("research-aws".parse::<pilot_tokio::Hostname>()?, Port(2000)).await?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).await?;
//! agent.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Every future of this crate may be dropped at any time without losing data or leaking a
//! place in a table; what each drop means is said at the type.
//!
//! # Features
//!
//! | Feature | Adds |
//! |---|---|
//! | `ring` | `RING` for [`Builder::aead`]: faster encryption; needs a C compiler |
//!
//! # Other machines
//!
//! [`UdpDriver`] drives any [`Machine`](pilot_core::machine::Machine) over UDP with the code
//! that drives agents; the rendezvous server's UDP side is one. A server brings an [`Owner`],
//! which receives the machine's events, and calls the machine from its own tasks:
//!
//! ```no_run
//! # use pilot_core::machine::Machine;
//! # use pilot_core::time::{Duration, Instant};
//! use pilot_tokio::{BindOptions, Clock, Owner, Sockets, UdpDriver};
//!
//! # async fn serve<M, O>(make: impl FnOnce(Instant) -> M, owner: O)
//! # -> Result<(), Box<dyn std::error::Error>>
//! # where M: Machine + Send + 'static, O: Owner<M> {
//! let clock = Clock::start();
//! let sockets = Sockets::bind(&BindOptions { port: 9001, is_port_fixed: true, ..Default::default() })?;
//! let machine = make(pilot_core::drive::Clock::now(&clock));
//! let driver = UdpDriver::spawn(machine, owner, sockets, clock);
//! // From any task: call the machine; what that queues for the network is sent soon after.
//! driver.with(|access| access.machine.handle_timeout(access.now));
//! // At the end: send what is queued, for a second at most.
//! driver.stop(Duration::from_secs(1));
//! driver.ended().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod agent;
mod builder;
mod clock;
mod datagrams;
mod driver;
mod error;
mod event;
mod generation;
mod household;
mod listener;
mod owner;
mod store;
mod stream;

pub use agent::{Agent, Connection, Info};
pub use builder::Builder;
pub use clock::Clock;
pub use datagrams::Datagrams;
pub use driver::{Access, Owner, Socket, Sockets, UdpDriver};
pub use error::{
    ConnectError, DatagramsError, DirectoryError, ListenError, ReadyError, SendError, StartError,
    StreamFailure, TrustError,
};
pub use event::AgentEvent;
pub use listener::Listener;
pub use store::{Change, MemoryStore, Store};
pub use stream::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, Stream, WriteHalf};

pub use pilot_core::addr::{Address, NetworkId, NodeId, Port, SocketAddress};
pub use pilot_core::crypto::identity::{Fingerprint, Identity, IdentityKey};
#[cfg(feature = "ring")]
pub use pilot_core::crypto::ring::RING;
pub use pilot_core::limits::Limits;
pub use pilot_core::name::{Hostname, Justification, Tag, Tags};
pub use pilot_core::node::{
    AgentInfo, Link, PathKind, PathPolicy, PeerInfo, RequestError, StreamEnd, Target,
    TrustRequestInfo,
};
pub use pilot_udp::{BindError, BindOptions};
