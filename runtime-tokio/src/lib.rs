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
//! # Services
//!
//! Above streams there are messages, files, events and echo ([`services`]), as every agent and
//! `pilotctl` has them. What a receiver acknowledges is its own promise: here, that a message is on
//! its disk.
//!
//! ```no_run
//! use pilot_tokio::services::{ContentHash, HashAlgorithm, Heard, Kind, Note, Offer, Received};
//! use pilot_tokio::{Address, Agent};
//!
//! # fn store(_: &[u8]) {}
//! # fn sync() {}
//! async fn send(agent: &Agent, to: Address) -> Result<(), Box<dyn std::error::Error>> {
//!     agent.send_message(to, Kind::Text, b"Analyze this dataset").await?;
//!
//!     // Many: up to 256 are under way at once.
//!     let mut messages = agent.connect_messages(to).await?;
//!     for n in 0..10_000u32 {
//!         while !messages.has_room() {
//!             messages.receipt().await?;
//!         }
//!         messages.queue(Kind::Binary, Note::default(), &n.to_be_bytes())?;
//!     }
//!     while let Some(receipt) = messages.receipt().await? {
//!         receipt.delivered()?;
//!     }
//!
//!     // A file. With the same id again, it goes on where it was interrupted.
//!     let content = std::fs::read("dataset.csv")?;
//!     let (id, size, note) = (agent.transfer_id()?, content.len() as u64, Note::default());
//!     let (kind, hash, name) = (Kind::File, HashAlgorithm::Blake3, Some("dataset.csv".parse()?));
//!     let mut file = agent.upload(to, &Offer { id, kind, size, hash, name, note }).await?;
//!     file.write_all(&content).await?;
//!     file.receipt().await?;
//!
//!     let mut events = agent.connect_events(to).await?;
//!     events.subscribe("weather.*", true).await?;
//!     events.publish("weather.berlin", b"12 C", true).await?;
//!     if let Heard::Event(event) = events.next().await? {
//!         println!("{} from {}", event.topic, event.from);
//!     }
//!     println!("{:?}", agent.connect_echo(to).await?.round_trip().await?);
//!     Ok(())
//! }
//!
//! async fn receive(agent: &Agent) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut from = agent.listen_exchange()?.accept().await?; // each in a task of its own
//!     while let Some(received) = from.next().await? {
//!         let mut next = Some(received);
//!         while let Some(received) = next {
//!             match received {
//!                 Received::Message(message) => store(&message.content),
//!                 Received::File(offer) => {
//!                     from.accept(ContentHash::new(offer.hash))?;
//!                     let mut chunk = vec![0; 64 * 1024];
//!                     while let n @ 1.. = from.read(&mut chunk).await? {
//!                         store(&chunk[..n]);
//!                     }
//!                 }
//!             }
//!             next = from.next_here().await?;
//!         }
//!         sync(); // all of them at once
//!         from.acknowledge(from.unacknowledged())?;
//!         from.flush().await?;
//!     }
//!     Ok(())
//! }
//! ```
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
