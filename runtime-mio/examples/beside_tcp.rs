//! A gateway in one mio loop: a TCP listener and an agent share the event queue. Whoever
//! connects by TCP is carried to a port of a trusted agent, and back.
//!
//! ```text
//! beside_tcp SECRET REGISTRY BEACON PEER [TCP]
//! ```
//!
//! `SECRET` is 64 hexadecimal digits, `PEER` the address of the agent, which is asked for trust,
//! and `TCP` where to listen, by default a free port of the loopback interface. The streams go
//! to port 2000.

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use pilot_mio::{
    Address, Agent, Connecting, Driver, Events as News, Id, Identity, Port, Ready, Stream, TOKENS,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
/// The agent's; TCP connections have those behind.
const AGENT: Token = Token(2);
const CONNECTIONS: usize = AGENT.0 + TOKENS;

const PORT: Port = Port(2000);
/// Connections at once; further ones wait in the system's queue.
const MOST: usize = 64;

/// Bytes on their way from one side to the other: no more are read than were written.
struct Flow {
    buf: Box<[u8]>,
    held: Range<usize>,
    /// The end was read, and passed on.
    read_end: bool,
    ended: bool,
}

impl Default for Flow {
    fn default() -> Self {
        let buf = vec![0; 64 * 1024].into();
        Flow { buf, held: 0..0, read_end: false, ended: false }
    }
}

impl Flow {
    /// Carries what it can; both directions are edges, so it goes on until one would block.
    fn carry(
        &mut self,
        from: &mut impl Read,
        to: &mut impl Write,
        finish: impl FnOnce(),
    ) -> io::Result<()> {
        let result = loop {
            if !self.held.is_empty() {
                match to.write(&self.buf[self.held.clone()]) {
                    Ok(n) => self.held.start += n,
                    Err(error) => break Err(error),
                }
            } else if self.read_end {
                if !self.ended {
                    self.ended = true;
                    finish();
                }
                return Ok(());
            } else {
                match from.read(&mut self.buf) {
                    Ok(0) => self.read_end = true,
                    Ok(n) => self.held = 0..n,
                    Err(error) => break Err(error),
                }
            }
        };
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }
}

/// The agent's side of a connection.
enum Far {
    Opening(Connecting),
    Open(Stream),
}

struct Pipe {
    tcp: TcpStream,
    far: Far,
    there: Flow,
    back: Flow,
}

impl Pipe {
    /// Goes on; whether that is over, well or not.
    fn is_over(&mut self) -> Result<bool, Box<dyn Error>> {
        if let Far::Opening(connecting) = &mut self.far {
            let Some(stream) = connecting.try_stream()? else { return Ok(false) };
            self.far = Far::Open(stream);
        }
        let Far::Open(stream) = &self.far else { return Ok(false) };
        let (mut read, mut write) = (stream, stream);
        self.there.carry(&mut self.tcp, &mut write, || {
            let _ = stream.finish();
        })?;
        let tcp = &self.tcp;
        self.back.carry(&mut read, &mut &*tcp, || {
            let _ = tcp.shutdown(Shutdown::Write);
        })?;
        Ok(self.there.ended && self.back.ended)
    }

    fn id(&self) -> Id {
        match &self.far {
            Far::Opening(connecting) => connecting.id(),
            Far::Open(stream) => stream.id(),
        }
    }
}

struct Gateway {
    poll: Poll,
    agent: Agent,
    driver: Driver,
    news: News,
    listener: TcpListener,
    peer: Address,
    pipes: BTreeMap<usize, Pipe>,
}

impl Gateway {
    fn accept(&mut self) -> io::Result<()> {
        while self.pipes.len() < MOST {
            let mut tcp = match self.listener.accept() {
                Ok((tcp, _)) => tcp,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let connecting = match self.agent.connect(self.peer, PORT) {
                Ok(connecting) => connecting,
                Err(error) => {
                    eprintln!("{error}");
                    continue; // Closes the connection.
                }
            };
            let token = (CONNECTIONS..).find(|token| !self.pipes.contains_key(token));
            let token = token.expect("fewer than numbers");
            let interests = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut tcp, Token(token), interests)?;
            let far = Far::Opening(connecting);
            let pipe = Pipe { tcp, far, there: Flow::default(), back: Flow::default() };
            self.pipes.insert(token, pipe);
            self.go_on(token)?;
        }
        Ok(())
    }

    /// Goes on with a connection.
    fn go_on(&mut self, token: usize) -> io::Result<()> {
        let Some(pipe) = self.pipes.get_mut(&token) else { return Ok(()) };
        match pipe.is_over() {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => eprintln!("{error}"),
        }
        self.pipes.remove(&token);
        if self.pipes.len() == MOST - 1 { self.accept() } else { Ok(()) }
    }

    fn handle_event(&mut self, event: &Event) -> io::Result<()> {
        match event.token() {
            WAKE => Ok(()),
            LISTENER => self.accept(),
            Token(token) => self.go_on(token),
        }
    }

    fn handle_ready(&mut self, ready: Ready) -> Result<(), Box<dyn Error>> {
        match ready {
            Ready::Registered => self.introduce(),
            Ready::Event(_) => {
                self.report();
                Ok(())
            }
            Ready::Connected(id) | Ready::Readable(id) | Ready::Writable(id) => {
                let found = self.pipes.iter().find(|(_, pipe)| pipe.id() == id);
                if let Some(token) = found.map(|(token, _)| *token) {
                    self.go_on(token)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks for trust once there is somebody to ask for it.
    fn introduce(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some(address) = self.agent.try_ready()? {
            eprintln!("registered as {address}");
            self.agent.request_trust(self.peer, "to carry TCP connections to you")?;
        }
        Ok(())
    }

    fn report(&mut self) {
        while let Ok(Some(news)) = self.news.try_next() {
            eprintln!("{news:?}");
        }
    }

    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        // What would block now is told of later.
        self.introduce()?;
        self.report();
        let mut events = Events::with_capacity(256);
        while !self.driver.is_ended() {
            let wait = self.driver.prepare_wait(None);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                if !self.driver.handle_event(event) {
                    self.handle_event(event)?;
                }
            }
            self.driver.turn();
            while let Some(ready) = self.driver.next_ready() {
                self.handle_ready(ready)?;
            }
        }
        Ok(())
    }
}

fn secret(text: &str) -> Result<[u8; 32], Box<dyn Error>> {
    let mut secret = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err("a secret is 64 hexadecimal digits".into());
    }
    for (n, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16)?;
    }
    Ok(secret)
}

/// Runs the gateway; `tell` is told where it listens.
pub(crate) fn gateway(
    arguments: &[String],
    tell: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let [own, registry, beacon, peer, tcp @ ..] = arguments else {
        return Err("beside_tcp SECRET REGISTRY BEACON PEER [TCP]".into());
    };
    let tcp: SocketAddr = tcp.first().map_or("127.0.0.1:0", String::as_str).parse()?;
    let poll = Poll::new()?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE)?);
    let mut listener = TcpListener::bind(tcp)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    tell(listener.local_addr()?);
    let builder =
        Agent::builder(Identity::from_secret(secret(own)?)).registry(registry).beacon(beacon);
    let (agent, driver) = Driver::join(builder, poll.registry(), AGENT, &waker)?;
    let (news, peer, pipes) = (agent.events(), peer.parse()?, BTreeMap::new());
    Gateway { poll, agent, driver, news, listener, peer, pipes }.run()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    gateway(&arguments, |address| println!("{address}"))
}
