//! An agent without any runtime: a UDP socket and a TCP connection of the standard library, and
//! a loop. `docs/drive-it-yourself.md` walks through it.
//!
//! ```text
//! pilotctl rendezvous …                                  # or anybody else's
//! cargo run -p pilot-core --example udp_loop -- serve REGISTRY BEACON
//! cargo run -p pilot-core --example udp_loop -- call REGISTRY BEACON ADDRESS TEXT
//! ```
//!
//! `serve` prints its address, trusts whoever asks and echoes on port 7; `call` asks for trust,
//! opens a stream, sends the text and prints what comes back. REGISTRY and BEACON are `IP:PORT`.
//! What an agent has to store is kept in memory: each run is another agent.

//!
//! [`drive`] is all that an adapter is; [`agent`] adds the registry, and here are two
//! applications.

#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod agent;
mod drive;

use agent::Agent;
use pilot_core::addr::{Address, Port};
use pilot_core::name::Justification;
use pilot_core::node::{Command, Event, StreamError, StreamId};
use pilot_core::trust::Permissions;
use std::error::Error;

const ECHO: Port = Port(7);

/// Echoes what there is; whether the stream is over. What cannot be written now stays unread,
/// so the sender is held back by its window.
fn echo(agent: &mut Agent, id: StreamId, held: &mut Vec<u8>) -> Result<bool, StreamError> {
    let now = agent.core.now();
    let Some(mut stream) = agent.core.node.stream(id) else { return Ok(true) };
    let mut buf = [0; 4096];
    loop {
        while !held.is_empty() {
            let len = stream.write(now, held)?;
            held.drain(..len);
        }
        match stream.read(now, &mut buf)? {
            0 => return stream.finish(now).map(|()| true),
            len => held.extend_from_slice(&buf[..len]),
        }
    }
}

fn serve(agent: &mut Agent) -> Result<(), Box<dyn Error>> {
    agent.command(Command::Listen { port: ECHO })?;
    let mut streams: Vec<(StreamId, Vec<u8>)> = Vec::new();
    loop {
        match agent.next()? {
            Event::Registered(address) => println!("address {address}"),
            Event::TrustRequested(from) => {
                agent.command(Command::ApproveTrust { from, permissions: Permissions::ALL })?;
            }
            Event::Acceptable(port) => {
                while let Some(id) = agent.core.node.accept(port) {
                    streams.push((id, Vec::new()));
                }
            }
            _ => {}
        }
        // After any event: several may have been coalesced into one.
        let now = agent.core.now();
        streams.retain_mut(|(id, held)| match echo(agent, *id, held) {
            Ok(false) | Err(StreamError::WouldBlock) => true,
            Ok(true) | Err(_) => {
                agent.core.node.release(now, *id);
                false
            }
        });
    }
}

fn call(agent: &mut Agent, to: Address, text: &str) -> Result<String, Box<dyn Error>> {
    let (mut sent, mut is_finished, mut answer) = (0, false, Vec::new());
    loop {
        match agent.next()? {
            Event::Registered(_) => {
                let justification = Justification::cleaned("to hear an echo");
                agent.command(Command::RequestTrust { to, justification })?;
            }
            Event::TrustRefused(_) => return Err("they do not trust us".into()),
            Event::TrustGranted(_) => drop(agent.command(Command::Connect { to, port: ECHO })?),
            Event::StreamClosed(_, end) => return Err(format!("the stream ended: {end}").into()),
            Event::StreamOpened(id) | Event::StreamReadable(id) | Event::StreamWritable(id) => {
                let now = agent.core.now();
                let Some(mut stream) = agent.core.node.stream(id) else { continue };
                while sent < text.len() {
                    match stream.write(now, &text.as_bytes()[sent..]) {
                        Ok(len) => sent += len,
                        Err(StreamError::WouldBlock) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                if sent == text.len() && !is_finished {
                    stream.finish(now)?;
                    is_finished = true;
                }
                let mut buf = [0; 4096];
                loop {
                    match stream.read(now, &mut buf) {
                        Ok(0) => return Ok(String::from_utf8(answer)?),
                        Ok(len) => answer.extend_from_slice(&buf[..len]),
                        Err(StreamError::WouldBlock) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            _ => {}
        }
    }
}

/// The program with these arguments.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", registry, beacon] => {
            serve(&mut Agent::start(registry.parse()?, beacon.parse()?)?)
        }
        ["call", registry, beacon, to, text] => {
            let mut agent = Agent::start(registry.parse()?, beacon.parse()?)?;
            let answer = call(&mut agent, to.parse()?, text)?;
            println!("answer {answer}");
            agent.shutdown()
        }
        _ => Err("udp_loop serve REGISTRY BEACON | call REGISTRY BEACON ADDRESS TEXT".into()),
    }
}

#[allow(dead_code, reason = "the test that runs this program calls `run`")]
fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
