//! Many agents ask the registry at once.
//!
//! `PILOT_TEST_LOOKUPS` is how many lookups there are in all; with a release build and a million
//! of them, what is printed is a figure.

#![allow(clippy::disallowed_methods, reason = "a figure of real time")]

use crate::server::{Server, ServerConfig};
use crate::test_client::{Client, Home};
use pilot_core::rendezvous::RendezvousLimits;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Agents that ask, each one request after the other; all of them on one thread.
const AGENTS: u8 = 32;
/// Lookups in all, unless the environment says otherwise.
const LOOKUPS: usize = 3_200;
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_lookup_of_many_agents_is_answered() {
    let lookups = std::env::var("PILOT_TEST_LOOKUPS").ok().and_then(|n| n.parse().ok());
    let each = lookups.unwrap_or(LOOKUPS) / usize::from(AGENTS);
    let directory = tempfile::tempdir().unwrap();
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut limits = RendezvousLimits::server();
    // All of them come from one source.
    limits.reserves_per_minute = u32::from(AGENTS);
    let server = Server::start(ServerConfig {
        limits,
        registry_addr: any_port,
        beacon_addr: any_port,
        ..ServerConfig::new(directory.path().join("registry.json"))
    })
    .await
    .unwrap();
    let mut clients = Vec::new();
    for n in 0..AGENTS {
        let mut home = Home::new(n);
        let mut client = Client::connect(server.registry_addr(), &home).await.unwrap();
        let address = client.reserve(&home).await.unwrap();
        client.register(&mut home, address, &format!("agent-{n}")).await.unwrap();
        clients.push((client, home.identity.public()));
    }
    let keys: Vec<_> = clients.iter().map(|(_, key)| *key).collect();
    let begin = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(n, (mut client, _))| {
            let keys = keys.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(each);
                for round in 0..each {
                    let other = (n + round) % keys.len();
                    let asked = Instant::now();
                    let found = client.resolve(&format!("agent-{other}")).await;
                    times.push(asked.elapsed());
                    assert_eq!(found, Ok(keys[other]));
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap());
    }
    let took = begin.elapsed();
    times.sort();
    let per_second = times.len() as f64 / took.as_secs_f64();
    let p99 = times[times.len() * 99 / 100];
    println!("{} lookups in {took:.2?}: {per_second:.0} a second, p99 {p99:.2?}", times.len());
    assert_eq!(times.len(), each * usize::from(AGENTS));
    server.shutdown().await.unwrap();
}
