//! Kernel TCP, unencrypted: what loopback can do.

use crate::{BYTES, Checker, Stopwatch, Took, on_core, pattern};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

pub fn bulk() -> Took {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("bound");
    let receiver = on_core(1, move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let (mut buf, mut checker) = (vec![0; 256 * 1024], Checker::new());
        while checker.received() < BYTES {
            let n = stream.read(&mut buf).expect("bytes");
            checker.check(&buf[..n]);
        }
    });
    let sender = on_core(0, move || {
        let mut stream = TcpStream::connect(at).expect("a connection");
        let block = pattern();
        let watch = Stopwatch::start();
        let mut left = BYTES;
        while left > 0 {
            let n = left.min(block.len());
            stream.write_all(&block[..n]).expect("room");
            left -= n;
        }
        watch
    });
    let watch = sender.join().expect("sent");
    receiver.join().expect("received");
    watch.stop()
}
