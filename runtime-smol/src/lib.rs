//! Pilot Protocol on smol.
//!
//! # Agents
//!
//! An [`Agent`] is one identity on the network. It registers, finds others by address or
//! hostname, asks them for trust and is asked, and opens and accepts streams, which are
//! [`AsyncRead`](smol::io::AsyncRead) and [`AsyncWrite`](smol::io::AsyncWrite) of futures-io:
//!
//! ```no_run
//! use pilot_smol::{Agent, Identity, Port};
//! use smol::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example(secret: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::builder(Identity::from_secret(secret))
//!     .registry("registry.example:9000")
//!     .beacon("registry.example:9001")
//!     .bind()
//!     .await?;
//! println!("I am {}", agent.ready().await?);
//!
//! let mut stream = agent.connect("research-aws".parse::<pilot_smol::Hostname>()?, Port(2000)).await?;
//! stream.write_all(b"hello").await?;
//! stream.close().await?;
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
//! # Executors
//!
//! An agent has two tasks. [`Builder::bind`] gives them to smol's global executor
//! ([`smol::spawn`]), which runs them on a thread of its own (or as many as the environment
//! variable `SMOL_THREADS` says). [`Builder::bind_with`] gives them to whoever you choose: an
//! [`Executor`](smol::Executor) or a [`LocalExecutor`](smol::LocalExecutor) of your own, or
//! another library's. Sockets and timers are async-io's, which needs no runtime to be entered.
//!
//! ```
//! # use pilot_smol::{Agent, Identity};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let executor = smol::LocalExecutor::new();
//! smol::block_on(executor.run(async {
//!     let builder = Agent::builder(Identity::from_secret([7; 32]));
//!     let builder = builder.registry("localhost:9000").listen(([127, 0, 0, 1], 0).into());
//!     let agent = builder.bind_with(|task| executor.spawn(task).detach()).await?;
//!     println!("bound to {:?}", agent.info().local);
//!     agent.shutdown().await;
//!     Ok(())
//! }))
//! # }
//! ```
//!
//! An executor that is dropped drops the agent's tasks. The agent has ended then, as after
//! [`Agent::shutdown`], but its peers were not told.
//!
//! # Services
//!
//! Above streams there are messages, files, events and echo ([`services`]), as every agent and
//! `pilotctl` has them. What a receiver acknowledges is its own promise: here, that a message is on
//! its disk.
//!
//! ```no_run
//! use pilot_smol::services::{ContentHash, HashAlgorithm, Heard, Kind, Note, Offer, Received};
//! use pilot_smol::{Address, Agent};
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
//! that drives agents: [`UdpDriver::spawn`] on the global executor, [`UdpDriver::spawn_with`]
//! where you choose. A server brings an [`Owner`], which receives the machine's events.
#![forbid(unsafe_code)]

mod runtime;
mod stream;

pub use runtime::{Line, Smol, Socket, Timer};
pub use stream::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, Stream, WriteHalf};

#[cfg(feature = "ring")]
pub use pilot_core::crypto::ring::RING;
pub use pilot_udp::Clock;

/// The sockets of a machine on smol.
pub type Sockets = pilot_udp::UdpSockets<Socket>;

pilot_core::adapter_types!(Smol, "smol");
