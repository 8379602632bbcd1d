//! Sealing and opening packets, without anything around it.

use crate::measure::{Source, pin, quantile};
use crate::pilot::Provider;
use crate::table::{Metric, Table};
use pilot_core::crypto::{AeadKey, Suite};
use std::time::Instant;

/// A message, the bars' packet, and the content of a full 1,452-byte datagram behind its
/// header, tag not counted.
const SIZES: [usize; 3] = [64, 1200, 1436];
/// Different packets, few enough to stay in the second-level cache.
const PACKETS: usize = 64;
/// Batches, of which the median counts.
const BATCHES: usize = 400;

fn nonce(n: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(n as u64).to_be_bytes());
    nonce
}

/// Nanoseconds a packet for sealing and for opening.
fn measure(key: &AeadKey, size: usize) -> [f64; 2] {
    let mut source = Source::new();
    let plain: Vec<Vec<u8>> = (0..PACKETS).map(|_| source.next(size).to_vec()).collect();
    let mut packets = plain.clone();
    let mut tags = [[0; 16]; PACKETS];
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..BATCHES {
        let start = Instant::now();
        for (n, packet) in packets.iter_mut().enumerate() {
            tags[n] = key.seal_in_place(nonce(n), packet);
        }
        took[0].push(start.elapsed());
        assert!(packets[0] != plain[0], "not encrypted");
        let start = Instant::now();
        for (n, packet) in packets.iter_mut().enumerate() {
            key.open_in_place(nonce(n), packet, &tags[n]).expect("authentic");
        }
        took[1].push(start.elapsed());
        assert!(packets == plain, "other bytes");
    }
    took.map(|took| {
        let mut each: Vec<f64> =
            took.iter().map(|t| t.as_secs_f64() * 1e9 / PACKETS as f64).collect();
        each.sort_by(f64::total_cmp);
        quantile(&each, 0.5)
    })
}

pub fn run(rounds: usize) -> Vec<Table> {
    pin(0);
    let metrics = [
        Metric::spread("RustCrypto ns", 0),
        Metric::new("RustCrypto Gbit/s", 1),
        Metric::spread("ring ns", 0),
        Metric::new("ring Gbit/s", 1),
        Metric::new("RustCrypto ÷ ring", 2),
    ];
    let mut table = Table::new("AEAD: one packet on one core", metrics, &[]);
    for _ in 0..rounds {
        for (suite, suite_name) in
            [(Suite::Aes256Gcm, "AES-256-GCM"), (Suite::ChaCha20Poly1305, "ChaCha20-Poly1305")]
        {
            for size in SIZES {
                let [ours, rings] = [Provider::RustCrypto, Provider::Ring]
                    .map(|provider| measure(&provider.aead().key(suite, &[7; 32]), size));
                for (i, operation) in ["seal", "open"].into_iter().enumerate() {
                    let name = format!("{suite_name}, {operation} {size} bytes");
                    let rate = |ns: f64| size as f64 * 8.0 / ns;
                    let (a, b) = (ours[i], rings[i]);
                    table.add(&name, &[a, rate(a), b, rate(b), a / b]);
                }
            }
        }
    }
    vec![table]
}
