//! Pilot beside its peers, over loopback. Contestants take turns, and every byte is checked.
//! Only ratios of one run mean anything; the figures drift with the machine.

mod adapter;
mod aead;
mod bulk;
mod contest;
mod latency;
mod measure;
mod memory;
mod messages;
mod mio;
mod pilot;
mod plain;
mod quic;
mod services;
mod setup;
mod table;

use clap::{Parser, Subcommand};
use table::Table;

/// Measures Pilot beside quinn, TCP and UDP
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Rounds in which the contestants take turns [default: 5, of memory 1]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Bytes of a transfer, in bulk, messages and services
    #[arg(long, global = true, default_value_t = 400_000_000)]
    bytes: usize,
    /// Peers of the node whose memory is measured
    #[arg(long, global = true, default_value_t = 1000)]
    peers: usize,
    /// In bulk and latency, only contestants whose names contain one of these, as in "mio,quinn"
    #[arg(long, global = true, value_delimiter = ',')]
    only: Vec<String>,
    /// Print every sample as JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Subcommand)]
enum What {
    /// One stream, as fast as it goes
    Bulk,
    /// Round trips of 64 bytes on one core
    Latency,
    /// No session to the first echo
    Setup,
    /// Messages of 1 KiB on one stream
    Messages,
    /// Acknowledged messages and files, beside the raw stream
    Services,
    /// Resident memory for each idle peer and stream
    Memory,
    /// Sealing and opening by each provider
    Aead,
    /// Everything, one after another (the default)
    All,
    /// The process whose memory is measured
    #[command(hide = true, subcommand)]
    MemoryNode(memory::Node),
}

fn main() {
    let arguments = Arguments::parse();
    let rounds = arguments.rounds.map(|rounds| rounds as usize);
    let (several, bytes) = (rounds.unwrap_or(5), arguments.bytes);
    let once = rounds.unwrap_or(1);
    let run = |what| match what {
        What::Bulk => bulk::run(several, bytes, &arguments.only),
        What::Latency => latency::run(several, &arguments.only),
        What::Setup => setup::run(several),
        What::Messages => messages::run(several, bytes),
        What::Services => services::run(several, bytes),
        What::Memory => memory::run(once, arguments.peers),
        What::Aead => aead::run(several),
        What::All | What::MemoryNode(_) => Vec::new(),
    };
    let tables: Vec<Table> = match arguments.what.unwrap_or(What::All) {
        What::MemoryNode(node) => return memory::node(node),
        What::All => {
            let all = [
                What::Bulk,
                What::Latency,
                What::Setup,
                What::Messages,
                What::Services,
                What::Memory,
                What::Aead,
            ];
            all.into_iter().flat_map(run).collect()
        }
        what => run(what),
    };
    if arguments.json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!("{:#}", serde_json::Value::from(tables));
    } else {
        tables.iter().for_each(|table| print!("{}", table.markdown()));
    }
}
