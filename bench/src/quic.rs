//! quinn, as it comes and tuned: 8 MB windows, 4 MB socket buffers, an ACK for 10 packets.

use crate::contest::{Cores, Exchange, run_ends};
use crate::pilot::loopback;
use pilot_tokio::Tokio;
use quinn::congestion::CubicConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use quinn::{ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A self-signed certificate and its key.
pub struct Certified {
    pub certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Certified {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a key");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Certified { certificate: made.cert.der().clone(), key }
    }
}

/// How an endpoint is set up.
#[derive(Clone, Copy)]
pub struct Options {
    pub tuned: bool,
    /// UDP payload bytes of a datagram.
    pub payload: u16,
    /// Whether a connection may rest for ever.
    pub idle: bool,
}

fn transport(options: Options) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let payload = options.payload;
    config.initial_mtu(payload).min_mtu(payload).mtu_discovery_config(None);
    // RFC 9002, 7.2; quinn's own does not grow with the datagrams, and below two of them
    // nothing is ever sent.
    let mut congestion = CubicConfig::default();
    congestion.initial_window(14_720.max(u64::from(payload) * 2));
    config.congestion_controller_factory(Arc::new(congestion));
    if options.idle {
        config.max_idle_timeout(None);
    }
    if options.tuned {
        let window = 8 * 1024 * 1024u32;
        config.stream_receive_window(window.into()).receive_window(window.into());
        config.send_window(window.into());
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(10));
        config.ack_frequency_config(Some(acks));
    }
    Arc::new(config)
}

fn socket(tuned: bool) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    if tuned {
        socket.set_send_buffer_size(4 << 20).expect("a send buffer");
        socket.set_recv_buffer_size(4 << 20).expect("a receive buffer");
    }
    socket.bind(&loopback().into()).expect("a port");
    socket.into()
}

/// A socket that sends no more datagrams at once than Linux takes: quinn would hand over ten of
/// any size, and those above 64 KiB in all are lost.
#[derive(Debug)]
struct Capped {
    socket: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl AsyncUdpSocket for Capped {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(self.segments)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

fn endpoint(options: Options, server: Option<ServerConfig>) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(options.payload.max(1472)).expect("not too small");
    let runtime = Arc::new(TokioRuntime);
    let socket = runtime.wrap_udp_socket(socket(options.tuned)).expect("a runtime");
    let segments = usize::from(u16::MAX / options.payload).max(1);
    let socket = Arc::new(Capped { socket, segments });
    Endpoint::new_with_abstract_socket(config, server, socket, runtime).expect("an endpoint")
}

/// An endpoint that accepts connections.
pub fn server(options: Options, certified: Certified) -> Endpoint {
    let chain = vec![certified.certificate];
    let mut config =
        ServerConfig::with_single_cert(chain, certified.key.into()).expect("a certificate");
    config.transport_config(transport(options));
    endpoint(options, Some(config))
}

/// An endpoint that connects to those with this certificate, as `localhost`. Without `resume`
/// every connection is a full handshake.
pub fn client(options: Options, trusted: CertificateDer<'static>, resume: bool) -> Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resume {
        tls.resumption = Resumption::disabled();
    }
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a QUIC suite");
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(transport(options));
    let mut endpoint = endpoint(options, None);
    endpoint.set_default_client_config(config);
    endpoint
}

/// Runs an exchange over a bidirectional stream of a connection.
pub fn run<E: Exchange>(tuned: bool, cores: Cores, payload: u16, exchange: E) -> E::Output {
    let options = Options { tuned, payload, idle: false };
    let certified = Certified::new();
    let trusted = certified.certificate.clone();
    let (tell, told) = oneshot::channel();
    let passive = move || async move {
        let endpoint = server(options, certified);
        tell.send(endpoint.local_addr().expect("bound")).expect("awaited");
        let connection = endpoint.accept().await.expect("somebody").await.expect("connected");
        let (send, receive) = connection.accept_bi().await.expect("a stream");
        exchange.passive(&mut tokio::io::join(receive, send)).await;
        connection.closed().await;
    };
    let active = move || async move {
        let endpoint = client(options, trusted, false);
        let at = told.await.expect("bound");
        let connecting = endpoint.connect(at, "localhost").expect("a name");
        let connection = connecting.await.expect("connected");
        let (send, receive) = connection.open_bi().await.expect("a stream");
        let output = exchange.active(&mut tokio::io::join(receive, send)).await;
        connection.close(VarInt::from_u32(0), b"");
        endpoint.wait_idle().await;
        output
    };
    run_ends::<Tokio, _, _, _>(cores, active, passive)
}
