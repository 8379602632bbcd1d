//! TCP services of this host, or of one that it reaches, offered to trusted peers on virtual
//! ports. Who may reach a port is decided before a stream gets here.

use super::entry::Entry;
use super::join::{Fragile, FragileTcp, join};
use crate::cli::values::HostPort;
use crate::daemon::node::Listener;
use crate::error::{Code, Failure};
use crate::services::Accept;
use crate::services::accept::{AcceptLimits, accept_all};
use pilot_core::addr::{Port, SocketAddress};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A service has so long to take a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Streams of one port at a time; one too many is reset.
const LIMITS: AcceptLimits = AcceptLimits { streams: 512, per_peer: 256 };

/// Refuses the ports that services of this program have on every agent.
pub(super) fn check_port(port: Port) -> Result<(), Failure> {
    let whose = match port {
        Port(0) => return Err(Failure::new(Code::Usage, "a port to expose is 1 to 65535")),
        Port::ECHO => "echo",
        Port::TRUST => "trust",
        Port::DATA_EXCHANGE => "messages and files",
        Port::EVENTS => "events",
        Port::TASKS => "tasks",
        _ => return Ok(()),
    };
    let message = format!("port {port} is reserved: it is that of {whose} on every agent");
    Err(Failure::new(Code::Conflict, message).hint("choose another port, as 8080"))
}

struct Listening(Listener);

impl Accept for Listening {
    type Stream = Fragile;

    async fn accept(&mut self) -> Option<(Fragile, SocketAddress)> {
        let (stream, peer) = self.0.accept().await.ok()?;
        Some((stream.into(), peer))
    }
}

/// Connects each stream to the service until it is dropped, or the agent ends.
pub(super) async fn serve(listener: Listener, entry: Arc<Entry<HostPort>>) {
    accept_all(Listening(listener), LIMITS, |stream, peer| {
        let entry = Arc::clone(&entry);
        async move {
            let connection = entry.begin();
            let served = async {
                let tcp = connect(&entry.target()).await?;
                join(tcp, stream).await
            };
            if let Err(failure) = served.await {
                let message = format!("{peer}: {failure}");
                entry.failed(&Failure::new(failure.code, message));
            }
            drop(connection);
        }
    })
    .await;
}

async fn connect(to: &HostPort) -> Result<FragileTcp, Failure> {
    let connected = TcpStream::connect((to.host.as_str(), to.port));
    match tokio::time::timeout(CONNECT_TIME, connected).await {
        Ok(Ok(tcp)) => FragileTcp::new(tcp),
        Ok(Err(e)) => Err(Failure::io(format!("connect to the service at {to}"), e)),
        Err(_) => {
            let message = format!("the service at {to} has not answered for {CONNECT_TIME:?}");
            Err(Failure::new(Code::Timeout, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_services_are_refused_by_name() {
        for port in [7, 444, 1001, 1002, 1003] {
            let failure = check_port(Port(port)).unwrap_err();
            assert_eq!(failure.code, Code::Conflict);
            assert!(failure.message.contains("reserved"), "{}", failure.message);
        }
        assert_eq!(check_port(Port(0)).unwrap_err().code, Code::Usage);
        for port in [1, 80, 1000, 1004, 65_535] {
            check_port(Port(port)).unwrap();
        }
    }
}
