//! The names of an adapter's surface that follow from its runtime.

/// Defines an asynchronous adapter's names for the types of [`super`], and shows what its users
/// need of this crate. `$name` is the runtime's, as in "an agent on tokio".
#[doc(hidden)]
#[macro_export]
macro_rules! adapter_types {
    ($runtime:ty, $name:literal) => {
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
