//! The server's side of SOCKS5 (RFC 1928): no authentication, CONNECT, and names under `.pilot`
//! alone. It leads to agents and nowhere else, so it is no way into the internet.

use super::join::{Fragile, FragileTcp, join};
use crate::cli::values::Agent;
use crate::daemon::node::{Node, Stream};
use crate::error::{Code, Failure};
use crate::output::quoted;
use pilot_core::addr::{NetworkId, Port};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A client has so long for its whole request.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A client that was refused has so long to take the reply before the connection closes.
const REFUSED_TIME: Duration = Duration::from_secs(1);
/// What it may still send meanwhile is thrown away, up to so much.
const REFUSED_BYTES: u64 = 64 * 1024;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xFF;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN_NAME: u8 = 3;
const IPV6: u8 = 4;

/// RFC 1928 section 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The reply with the bound address `0.0.0.0:0`: there is no IP address to tell.
    fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]
    }

    fn of(code: Code) -> Reply {
        match code {
            Code::NotTrusted | Code::NotPermitted | Code::TrustRefused => Reply::NotAllowed,
            Code::RegistryUnreachable | Code::NotRegistered => Reply::NetworkUnreachable,
            Code::NotFound | Code::NoAnswer | Code::Timeout | Code::BadAddress => {
                Reply::HostUnreachable
            }
            Code::Refused => Reply::ConnectionRefused,
            _ => Reply::GeneralFailure,
        }
    }
}

/// Where a client wants to go.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    agent: Agent,
    network: Option<NetworkId>,
    port: Port,
}

/// Why there will be no connection: what the client is told, if anything, and the log.
#[derive(Debug)]
struct Refusal {
    told: Option<Reply>,
    failure: Failure,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let message = format!("the client went away in the handshake: {error}");
        Refusal { told: None, failure: Failure::new(Code::Ended, message) }
    }
}

fn refusal(told: impl Into<Option<Reply>>, code: Code, message: impl Into<String>) -> Refusal {
    Refusal { told: told.into(), failure: Failure::new(code, message) }
}

/// Serves one client.
pub(super) async fn serve(node: Node, mut tcp: TcpStream) -> Result<(), Failure> {
    match open(&node, &mut tcp).await {
        Ok(stream) => {
            let stream = Fragile::from(stream);
            let tcp_said = tcp.write_all(&Reply::Succeeded.bytes()).await;
            tcp_said.map_err(|e| Refusal::from(e).failure)?;
            join(FragileTcp::new(tcp)?, stream).await
        }
        Err(Refusal { told, failure }) => {
            if let Some(reply) = told {
                refuse(&mut tcp, reply).await;
            }
            Err(failure)
        }
    }
}

async fn open(node: &Node, tcp: &mut TcpStream) -> Result<Stream, Refusal> {
    let asked = tokio::time::timeout(HANDSHAKE_TIME, request(tcp)).await;
    let wanted = asked.unwrap_or_else(|_| {
        let message = format!("no request within {HANDSHAKE_TIME:?}");
        Err(refusal(None, Code::Timeout, message))
    })?;
    let opened = async {
        let agent = node.target(&wanted.agent, wanted.network).await?;
        node.connect(agent, wanted.port, None).await
    };
    opened.await.map_err(|failure| {
        let message = format!("{}:{}: {failure}", wanted.agent, wanted.port);
        refusal(Reply::of(failure.code), failure.code, message)
    })
}

/// Says no, and closes so that the client can hear it: unread bytes would make a reset of it.
async fn refuse(tcp: &mut TcpStream, reply: Reply) {
    let said = async {
        tcp.write_all(&reply.bytes()).await?;
        tcp.shutdown().await?;
        let mut rest = tcp.take(REFUSED_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Whether it was heard or not, the connection ends.
    let _ = tokio::time::timeout(REFUSED_TIME, said).await;
}

/// Reads a request to its end; at most 518 bytes are taken.
async fn request(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Wanted, Refusal> {
    let [version, methods] = read(client).await?;
    if version != VERSION {
        let message = format!("version {version} is not SOCKS5");
        return Err(refusal(None, Code::Unsupported, message));
    }
    let mut offered = [0; 255];
    let offered = &mut offered[..usize::from(methods)];
    client.read_exact(offered).await?;
    if !offered.contains(&NO_AUTHENTICATION) {
        client.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        let message = "the client wants a password; this proxy has none";
        return Err(refusal(None, Code::Unsupported, message));
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;

    let [version, command, _, kind] = read(client).await?;
    if version != VERSION {
        let message = format!("version {version} is not SOCKS5");
        return Err(refusal(Reply::GeneralFailure, Code::Unsupported, message));
    }
    let mut name = [0; 255];
    let host = match kind {
        IPV4 => std::net::Ipv4Addr::from(read::<4>(client).await?).to_string(),
        IPV6 => std::net::Ipv6Addr::from(read::<16>(client).await?).to_string(),
        DOMAIN_NAME => {
            let [len] = read(client).await?;
            let name = &mut name[..usize::from(len)];
            client.read_exact(name).await?;
            String::from_utf8_lossy(name).into_owned()
        }
        kind => {
            let message = format!("{kind} is no type of address");
            return Err(refusal(Reply::AddressTypeNotSupported, Code::Unsupported, message));
        }
    };
    let port = Port(u16::from_be_bytes(read(client).await?));
    if command != CONNECT {
        let message = format!("command {command}: there is nothing but CONNECT");
        return Err(refusal(Reply::CommandNotSupported, Code::Unsupported, message));
    }
    let (agent, network) =
        (kind == DOMAIN_NAME).then(|| named(&host)).flatten().ok_or_else(|| {
            let message = format!("{} is no agent: names end in .pilot here", quoted(&host));
            refusal(Reply::NotAllowed, Code::NotPermitted, message)
        })?;
    Ok(Wanted { agent, network, port })
}

async fn read<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The agent that a name means, and its network if that is named:
///
/// | Name | Agent |
/// |---|---|
/// | `HOSTNAME.pilot` | a hostname in the default network |
/// | `HOSTNAME.N.pilot` | a hostname in network N |
/// | `N.NNNN.HHHH.LLLL.pilot` | the address `N:NNNN.HHHH.LLLL`: a URL's host has no colon |
/// | `N:NNNN.HHHH.LLLL`, with or without `.pilot` | the same, from clients that pass it on |
fn named(host: &str) -> Option<(Agent, Option<NetworkId>)> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let under = host.len().checked_sub(".pilot".len()).and_then(|at| host.split_at_checked(at));
    let name = match under {
        Some((name, suffix)) if suffix.eq_ignore_ascii_case(".pilot") => name,
        _ if host.contains(':') => host,
        _ => return None,
    };
    if name.contains(':') {
        return Some((Agent::Address(name.parse().ok()?), None));
    }
    let mut labels = name.split('.');
    match (labels.next(), labels.next(), labels.next(), labels.next(), labels.next()) {
        (Some(hostname), None, ..) => Some((Agent::Hostname(hostname.parse().ok()?), None)),
        (Some(hostname), Some(network), None, ..) => {
            let digits = network.bytes().all(|b| b.is_ascii_digit());
            let network = network.parse().ok().filter(|_| digits)?;
            Some((Agent::Hostname(hostname.parse().ok()?), Some(NetworkId(network))))
        }
        (Some(network), Some(a), Some(b), Some(c), None) => {
            Some((Agent::Address(format!("{network}:{a}.{b}.{c}").parse().ok()?), None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_under_pilot_are_agents_and_others_are_not() {
        let address = Some((Agent::Address("1:0001.0000.0042".parse().unwrap()), None));
        for name in [
            "1.0001.0000.0042.pilot",
            "1.0001.0000.0042.PILOT.",
            "1:0001.0000.0042.pilot",
            "1:0001.0000.0042",
        ] {
            assert_eq!(named(name), address, "{name}");
        }
        let hostname = |network: Option<u16>| {
            Some((Agent::Hostname("analysis-gcp".parse().unwrap()), network.map(NetworkId)))
        };
        assert_eq!(named("analysis-gcp.pilot"), hostname(None));
        assert_eq!(named("Analysis-GCP.Pilot."), hostname(None));
        assert_eq!(named("analysis-gcp.1.pilot"), hostname(Some(1)));
        for name in [
            "",
            ".",
            ".pilot",
            "pilot",
            "analysis-gcp",
            "example.com",
            "localhost",
            "127.0.0.1",
            "pilot.example.com",
            "a.b.pilot",
            "a.+1.pilot",
            "a.70000.pilot",
            "a.b.c.pilot",
            "1.0002.0000.0042.pilot",
            "1.0001.0000.0042.5.pilot",
            "::1",
            "evilpilot",
            "a..pilot",
            "under_score.pilot",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
    }

    /// What the server makes of bytes, and what it writes before the reply.
    async fn heard(bytes: &[u8]) -> (Result<Wanted, Refusal>, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(2048);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let wanted = request(&mut server).await;
        drop(server);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        (wanted, said)
    }

    fn connect_to(name: &str, port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, name.len() as u8];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes
    }

    #[tokio::test]
    async fn a_request_is_read_whole() {
        let (wanted, said) = heard(&connect_to("analysis-gcp.pilot", 8080)).await;
        let agent = Agent::Hostname("analysis-gcp".parse().unwrap());
        assert_eq!(wanted.unwrap(), Wanted { agent, network: None, port: Port(8080) });
        assert_eq!(said, [5, 0]);
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused_with_its_code() {
        let udp = [5, 1, 0, 5, 3, 0, 1, 127, 0, 0, 1, 0, 80];
        let ipv4 = [5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80];
        let mut ipv6 = vec![5, 1, 0, 5, 1, 0, 4];
        ipv6.extend([0; 18]);
        let odd = [5, 1, 0, 5, 1, 0, 9];
        let internet = connect_to("example.com", 443);
        for (bytes, reply) in [
            (&udp[..], Reply::CommandNotSupported),
            (&ipv4, Reply::NotAllowed),
            (&ipv6, Reply::NotAllowed),
            (&odd, Reply::AddressTypeNotSupported),
            (&internet, Reply::NotAllowed),
            (&[5, 1, 0, 4, 1, 0, 1], Reply::GeneralFailure),
        ] {
            let (wanted, said) = heard(bytes).await;
            assert_eq!(wanted.unwrap_err().told, Some(reply), "{bytes:?}");
            assert_eq!(said, [5, 0]);
        }
        // Only a password: told so by the method, and no more.
        let (wanted, said) = heard(&[5, 1, 2]).await;
        assert_eq!((wanted.unwrap_err().told, said), (None, vec![5, 0xFF]));
        // Another protocol is told nothing.
        let (wanted, said) = heard(b"GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!((wanted.unwrap_err().told, said), (None, vec![]));
    }

    #[test]
    fn failures_have_the_replies_of_the_rfc() {
        for (code, reply) in [
            (Code::NotTrusted, 2),
            (Code::RegistryUnreachable, 3),
            (Code::NotFound, 4),
            (Code::NoAnswer, 4),
            (Code::Refused, 5),
            (Code::Internal, 1),
        ] {
            assert_eq!(Reply::of(code) as u8, reply, "{code:?}");
        }
    }

    proptest! {
        /// Whatever a client sends, the request ends.
        #[test]
        fn any_bytes_are_a_request_or_a_refusal(
            head in proptest::sample::select(vec![&[][..], &[5, 1, 0], &[5, 1, 0, 5, 1, 0, 3]]),
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (wanted, said) = runtime.block_on(heard(&[head, &bytes].concat()));
            prop_assert!(wanted.is_err() || said == [5, 0]);
        }
    }
}
