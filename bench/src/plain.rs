//! Kernel TCP, and UDP datagrams, neither encrypted: what loopback can do.

use crate::contest::{Cores, Exchange, run_ends};
use crate::latency::{COUNT, LEN, Trips, WARM_UP};
use crate::measure::{Checker, Source, Stopwatch, on_core};
use crate::pilot::loopback;
use pilot_tokio::Tokio;
use std::io;
use std::net::UdpSocket as StdSocket;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

pub fn tcp<E: Exchange>(cores: Cores, exchange: E) -> E::Output {
    let (tell, told) = oneshot::channel();
    let passive = move || async move {
        let listener = TcpListener::bind(loopback()).await.expect("a port");
        tell.send(listener.local_addr().expect("bound")).expect("awaited");
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a TCP socket");
        exchange.passive(&mut stream).await;
    };
    let active = move || async move {
        let at = told.await.expect("bound");
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        stream.set_nodelay(true).expect("a TCP socket");
        exchange.active(&mut stream).await
    };
    run_ends::<Tokio, _, _, _>(cores, active, passive)
}

/// A connected UDP socket that is written and read a datagram at a time. Good for exchanges in
/// which one message is under way.
struct Datagrams(UdpSocket);

impl AsyncRead for Datagrams {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_recv(cx, buf)
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(ready!(self.0.poll_send(cx, bytes))?))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub fn udp<E: Exchange>(cores: Cores, exchange: E) -> E::Output {
    let (tell, told) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    let passive = move || async move {
        let socket = UdpSocket::bind(loopback()).await.expect("a port");
        tell.send(socket.local_addr().expect("bound")).expect("awaited");
        socket.connect(answered.await.expect("bound")).await.expect("connected");
        exchange.passive(&mut Datagrams(socket)).await;
    };
    let active = move || async move {
        let socket = UdpSocket::bind(loopback()).await.expect("a port");
        answer.send(socket.local_addr().expect("bound")).expect("awaited");
        socket.connect(told.await.expect("bound")).await.expect("connected");
        exchange.active(&mut Datagrams(socket)).await
    };
    run_ends::<Tokio, _, _, _>(cores, active, passive)
}

/// What no program gets below: 64 bytes there and back between two sockets of one thread that
/// waits for nothing, two sends and two receives and nothing else.
pub fn system_calls() -> Trips {
    let both = on_core(0, || {
        let sockets = [(); 2].map(|()| StdSocket::bind(loopback()).expect("a port"));
        let at = sockets.each_ref().map(|socket| socket.local_addr().expect("bound"));
        let (mut source, mut checker) = (Source::new(), Checker::new());
        let mut trips = Vec::with_capacity(COUNT);
        let mut watch = Stopwatch::start();
        let mut message = [0; LEN];
        for n in 0..WARM_UP + COUNT {
            if n == WARM_UP {
                watch = Stopwatch::start();
            }
            let start = Instant::now();
            message.copy_from_slice(source.next(LEN));
            for (from, to) in [(0, 1), (1, 0)] {
                assert_eq!(sockets[from].send_to(&message, at[to]).expect("room"), LEN);
                let (len, sender) = sockets[to].recv_from(&mut message).expect("a datagram");
                assert_eq!((len, sender), (LEN, at[from]));
            }
            let took = start.elapsed();
            checker.check(&message);
            if n >= WARM_UP {
                trips.push(took.as_secs_f64() * 1e6);
            }
        }
        Trips::new(trips, watch)
    });
    both.join().expect("the exchange has panicked")
}
