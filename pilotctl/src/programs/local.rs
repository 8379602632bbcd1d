//! TCP ports of this host: each connection becomes a stream to a peer.

use super::entry::Entry;
use super::join::{Fragile, FragileTcp, join};
use crate::cli::values::AgentPort;
use crate::daemon::node::Node;
use crate::error::{Code, Failure};
use pilot_core::addr::{NetworkId, Port};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A pause where the system has no descriptor or memory for one more connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a forward leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) to: AgentPort,
    pub(super) network: Option<u16>,
}

/// Listens on a TCP address.
pub(super) fn bind(at: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = std::net::TcpListener::bind(at).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            Failure::new(Code::Conflict, format!("TCP {at} is in use by another program"))
                .hint("choose another port, or stop that program")
        }
        _ => Failure::io(format!("listen on TCP {at}"), e),
    })
}

/// Serves each connection by a task of its own, until it is dropped. A connection for which
/// there is no place is reset.
pub(super) async fn accept_all<T, H, F>(
    listener: TcpListener,
    entry: Arc<Entry<T>>,
    places: Arc<Semaphore>,
    handle: H,
) where
    T: Clone + Send + 'static,
    H: Fn(TcpStream) -> F,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while tasks.try_join_next().is_some() {}
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                entry.failed(&Failure::io("accept a connection", error));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            entry.failed(&Failure::new(Code::Full, "too many connections are open"));
            drop(FragileTcp::new(tcp));
            continue;
        };
        let connection = entry.begin();
        let served = handle(tcp);
        let entry = Arc::clone(&entry);
        tasks.spawn(async move {
            if let Err(failure) = served.await {
                entry.failed(&failure);
            }
            drop((place, connection));
        });
    }
}

/// Carries a connection to where its forward leads. It is reset if that cannot be reached.
pub(super) async fn forward(node: Node, target: Target, tcp: TcpStream) -> Result<(), Failure> {
    let tcp = FragileTcp::new(tcp)?;
    let agent = node.target(&target.to.agent, target.network.map(NetworkId)).await?;
    let stream = node.connect(agent, Port(target.to.port), None).await?;
    join(tcp, Fragile::from(stream)).await
}
