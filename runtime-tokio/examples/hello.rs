//! Two agents meet, trust each other and talk.
//!
//! Start a rendezvous server first, then:
//!
//! ```text
//! cargo run -p pilot-tokio --example hello -- localhost:9000 localhost:9001
//! ```
//!
//! Both agents live in this process to keep the example short; apart from that they know
//! nothing of each other but an address.

use pilot_tokio::{Agent, AgentEvent, Identity, Port};
use std::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Any port that no service has: below 1024 are the well-known ones.
const GREETING: Port = Port(2000);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let registry = args.next().unwrap_or("localhost:9000".into());
    let beacon = args.next().unwrap_or("localhost:9001".into());

    // A real agent keeps its secret in a file, and its state in a `Store`.
    let alice = start(&registry, &beacon).await?;
    let bob = start(&registry, &beacon).await?;
    let (alice_at, bob_at) = (alice.ready().await?, bob.ready().await?);
    println!("alice is {alice_at}, bob is {bob_at}");

    // Nobody reaches anybody without trust: Alice asks, Bob decides.
    let mut asked = bob.events();
    let mut granted = alice.events();
    alice.request_trust(bob_at, "I would like to say hello")?;
    while asked.recv().await? != AgentEvent::TrustRequested(alice_at) {}
    for request in bob.trust_requests() {
        println!("{} asks for trust: {}", request.from, request.justification);
    }
    bob.approve_trust(alice_at)?;
    while granted.recv().await? != AgentEvent::TrustGranted(bob_at) {}

    // Bob answers one stream.
    let listener = bob.listen(GREETING)?;
    let server = tokio::spawn(async move {
        let (mut stream, from) = listener.accept().await?;
        let mut name = String::new();
        stream.read_to_string(&mut name).await?;
        stream.write_all(format!("Hello {name}, you are {from}").as_bytes()).await?;
        stream.shutdown().await?;
        stream.acknowledged().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });

    let mut stream = alice.connect(bob_at, GREETING).await?;
    stream.write_all(b"Alice").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("{answer}");

    server.await?.map_err(|error| error.to_string())?;
    alice.shutdown().await;
    bob.shutdown().await;
    Ok(())
}

async fn start(registry: &str, beacon: &str) -> Result<Agent, Box<dyn Error>> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let builder = Agent::builder(Identity::from_secret(secret));
    Ok(builder.registry(registry).beacon(beacon).bind().await?)
}
