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
//! use pilot_tokio::{BindOptions, Clock, Owner, Sockets, Tokio, UdpDriver};
//!
//! # async fn serve<M, O>(make: impl FnOnce(Instant) -> M, owner: O)
//! # -> Result<(), Box<dyn std::error::Error>>
//! # where M: Machine + Send + 'static, O: Owner<M, Tokio> {
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

mod runtime;
mod stream;

pub use runtime::{Line, Socket, Timer, Tokio};
pub use stream::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, Stream, WriteHalf};

#[cfg(feature = "ring")]
pub use pilot_core::crypto::ring::RING;
pub use pilot_udp::Clock;

/// The sockets of a machine on tokio.
pub type Sockets = pilot_udp::UdpSockets<Socket>;

pilot_core::adapter_types!(Tokio, "tokio");
