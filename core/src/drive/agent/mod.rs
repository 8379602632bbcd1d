//! Agents in any runtime: one identity on the network, its streams, ports and news.
//!
//! | for | there is |
//! |---|---|
//! | preparing one | [`Builder`], [`Store`] |
//! | what does not wait | [`Handle`], and [`KeepAlive`] which keeps the agent alive |
//! | waiting by polls, any waker | [`StreamHandle`], [`Listener`], [`Datagrams`], [`Question`], [`Events`] |
//! | waiting by futures | [`Agent`] and the `async` methods of the same types |
//!
//! An adapter of a runtime with tasks implements [`super::AsyncRuntime`] and gives its users
//! `Agent<ItsRuntime>`; it adds the stream type with its runtime's traits. An adapter without
//! tasks implements [`super::Runtime`] with the wakers of [`super::ready`], begins with
//! [`Builder::start`], and has its handles there and in [`super::blocking`].

mod builder;
mod client;
mod connecting;
mod datagrams;
mod error;
mod event;
mod events;
mod handle;
mod listener;
mod owner;
mod question;
mod store;
mod stream;
mod surface;

pub use builder::{Builder, Started, load};
pub use client::Agent;
pub use connecting::Connecting;
pub use datagrams::Datagrams;
pub use error::{
    ConnectError, DatagramsError, DirectoryError, ListenError, ReadyError, SendError, StartError,
    StreamFailure, TrustError, io_error,
};
pub use event::AgentEvent;
pub use events::{EVENTS, Events, RecvError};
pub(crate) use handle::LINGER;
pub use handle::{Connection, Handle, Info, KeepAlive};
pub use listener::Listener;
pub(crate) use listener::Place;
pub use owner::{AgentNode, AgentOwner};
pub use question::{Answer, Question};
pub use store::{Change, MemoryStore, Store};
pub use stream::StreamHandle;
