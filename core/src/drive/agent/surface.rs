//! The names of an adapter's surface that follow from its runtime.

/// The module of an adapter with its names for the types of [`crate::drive::services`].
#[doc(hidden)]
#[macro_export]
macro_rules! service_types {
    ($runtime:ident) => {
        /// Messages, files, events and echo between agents; an example stands at the
        /// [crate's root](crate#services).
        pub mod services {
            /// A stream of messages to one agent.
            pub type Messages = $crate::drive::services::Messages<super::$runtime>;
            /// A file on its way to one agent.
            pub type Upload = $crate::drive::services::Upload<super::$runtime>;
            /// Messages and files of one peer.
            pub type Incoming = $crate::drive::services::Incoming<super::$runtime>;
            /// A connection to a broker of events.
            pub type EventsClient = $crate::drive::services::EventsClient<super::$runtime>;
            /// A broker of events.
            pub type Broker = $crate::drive::services::Broker<super::$runtime>;
            /// One peer at a broker.
            pub type BrokerConnection = $crate::drive::services::BrokerConnection<super::$runtime>;
            /// Measures round trips to one peer.
            pub type Echo = $crate::drive::services::Echo<super::$runtime>;
            /// Sends back what one peer sends.
            pub type EchoServer = $crate::drive::services::EchoServer<super::$runtime>;
            /// A port of a service.
            pub type Served<S> = $crate::drive::services::Served<super::$runtime, S>;

            pub use $crate::drive::services::{
                Accepted, EchoService, Event, EventsFailure, ExchangeService, Heard, Message,
                Receipt, Received, Service, TransferError,
            };
            pub use $crate::service::events::{BrokerLimits, BrokerStats, Request};
            pub use $crate::service::exchange::{
                ContentHash, Digest, Failure, FileName, HashAlgorithm, Kind, Note, Offer, Pushed,
                Refusal, TransferId,
            };
        }
    };
}

/// Defines an asynchronous adapter's names for the types of [`super`], and shows what its users
/// need of this crate. `$name` is the runtime's, as in "an agent on tokio".
#[doc(hidden)]
#[macro_export]
macro_rules! adapter_types {
    ($runtime:ident, $name:literal) => {
        #[doc = concat!("An agent on ", $name, ". What does not wait stands at [`Handle`].")]
        pub type Agent = $crate::drive::agent::Agent<$runtime>;
        /// An agent that is not running yet.
        pub type Builder = $crate::drive::agent::Builder<$runtime>;
        /// What one can do with an agent without waiting; every [`Agent`] derefs to it.
        pub type Handle = $crate::drive::agent::Handle<$runtime>;
        /// Receives an agent's news.
        pub type Events = $crate::drive::agent::Events<$runtime>;
        /// Accepts streams on a port.
        pub type Listener = $crate::drive::agent::Listener<$runtime>;
        /// A port for datagrams.
        pub type Datagrams = $crate::drive::agent::Datagrams<$runtime>;
        #[doc = concat!("A running machine on ", $name, ".")]
        pub type UdpDriver<M, O> = $crate::drive::UdpDriver<M, O, $runtime>;

        $crate::service_types!($runtime);

        pub use $crate::drive::agent::{
            AgentEvent, Change, ConnectError, Connection, DatagramsError, DirectoryError, Info,
            ListenError, MemoryStore, ReadyError, RecvError, SendError, StartError, Store,
            StreamFailure, TrustError,
        };
        pub use $crate::drive::{Access, BindError, BindOptions, Owner, Task};

        pub use $crate::addr::{Address, NetworkId, NodeId, Port, SocketAddress};
        pub use $crate::crypto::identity::{Fingerprint, Identity, IdentityKey};
        pub use $crate::limits::Limits;
        pub use $crate::name::{Hostname, Justification, Tag, Tags};
        pub use $crate::node::{
            AgentInfo, Link, NatInfo, PathKind, PathPolicy, PathReport, PeerInfo, Reputation,
            RequestError, SignError, StreamEnd, Target, TrustRequestInfo,
        };
        pub use $crate::path::nat::{Allocation, Classical, Filtering, Mapping, Nat};
    };
}
