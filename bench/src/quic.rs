//! quinn, as it comes and tuned: 8 MB windows, 4 MB socket buffers, an ACK for 10 packets.

use crate::{BYTES, Checker, PAYLOAD, Stopwatch, Took, on_core, pattern, runtime};
use quinn::{AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig};
use quinn::{ServerConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};

fn transport(tuned: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.initial_mtu(PAYLOAD).min_mtu(PAYLOAD).mtu_discovery_config(None::<MtuDiscoveryConfig>);
    if tuned {
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
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    socket.into()
}

pub fn bulk(tuned: bool) -> Took {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a key");
    let certificate = certified.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let (tell, told) = mpsc::channel();
    let trusted = certificate.clone();
    let receiver = on_core(1, move || {
        runtime().block_on(async move {
            let mut config = ServerConfig::with_single_cert(vec![certificate], key.into())
                .expect("a certificate");
            config.transport_config(transport(tuned));
            let endpoint = Endpoint::new(
                EndpointConfig::default(),
                Some(config),
                socket(tuned),
                Arc::new(TokioRuntime),
            )
            .expect("an endpoint");
            tell.send(endpoint.local_addr().expect("bound")).expect("awaited");
            let connection = endpoint.accept().await.expect("somebody").await.expect("connected");
            let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
            let (mut buf, mut checker) = (vec![0; 256 * 1024], Checker::new());
            while checker.received() < BYTES {
                let n = receive.read(&mut buf).await.expect("bytes").expect("more");
                checker.check(&buf[..n]);
            }
            send.write_all(b"done").await.expect("room");
            send.finish().expect("open");
            connection.closed().await;
        });
    });
    let at: SocketAddr = told.recv().expect("bound");
    let sender = on_core(0, move || {
        runtime().block_on(async move {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(trusted).expect("a certificate");
            let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).expect("roots");
            config.transport_config(transport(tuned));
            let endpoint = Endpoint::new(
                EndpointConfig::default(),
                None,
                socket(tuned),
                Arc::new(TokioRuntime),
            )
            .expect("an endpoint");
            let connection = endpoint
                .connect_with(config, at, "localhost")
                .expect("a name")
                .await
                .expect("connected");
            let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
            let block = pattern();
            let watch = Stopwatch::start();
            let mut left = BYTES;
            while left > 0 {
                let n = left.min(block.len());
                send.write_all(&block[..n]).await.expect("room");
                left -= n;
            }
            receive.read_to_end(16).await.expect("done");
            let took = watch.stop();
            connection.close(VarInt::from_u32(0), b"");
            endpoint.wait_idle().await;
            took
        })
    });
    let took = sender.join().expect("sent");
    receiver.join().expect("received");
    took
}
