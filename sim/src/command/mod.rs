//! Commands. Exit code 0: all went as it should; 1: something did not; 2: it could not be run.

mod explore;
mod matrix;
mod scenario;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use pilot_sim::nat::Preset;
use std::path::PathBuf;
use std::process::ExitCode;

/// Real agents and the real rendezvous in a deterministic world of NATs, links and faults.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario.
    Run {
        /// A TOML file; its schema is in sim/README.md.
        scenario: PathBuf,
        /// Which world.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write all events here, a JSON object a line.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Write the packets that cross the core here, for tshark.
        #[arg(long)]
        pcap: Option<PathBuf>,
    },
    /// Which path each two of the presets find, and how soon.
    Matrix {
        /// The first world.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How many worlds for each pair.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Which presets.
        #[arg(long, value_delimiter = ',', default_values_t = Preset::SEVEN)]
        presets: Vec<Preset>,
    },
    /// Run random worlds with faults, which must heal.
    Explore {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// How many at once; default: as many as there are processors.
        #[arg(long)]
        jobs: Option<usize>,
        /// Write a tape of each world that fails, made as small as may be, into this directory.
        #[arg(long)]
        tapes: Option<PathBuf>,
    },
    /// Run the random world of a tape.
    Replay {
        /// As `explore --tapes` wrote it, or any bytes.
        tape: PathBuf,
        /// Write all events here, a JSON object a line.
        #[arg(long)]
        trace: Option<PathBuf>,
    },
}

/// Why nothing could be run.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    #[error("{0}: {1}")]
    Toml(PathBuf, toml::de::Error),
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    #[error("cannot write: {0}")]
    Json(#[from] serde_json::Error),
}

impl Trouble {
    fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Trouble {
        let path = path.to_path_buf();
        |error| Trouble::File(path, error)
    }
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let json = arguments.json;
    let result = match arguments.command {
        Command::Run { scenario, seed, trace, pcap } => {
            scenario::run(&scenario, seed, trace.as_deref(), pcap.as_deref(), json)
        }
        Command::Matrix { first, seeds, presets } => matrix::run(first, seeds, &presets, json),
        Command::Explore { first, seeds, jobs, tapes } => {
            explore::run(first, seeds, jobs, tapes.as_deref(), json)
        }
        Command::Replay { tape, trace } => explore::replay(&tape, trace.as_deref(), json),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("pilot-sim: {trouble}");
            ExitCode::from(2)
        }
    }
}

/// On standard error, where that is a terminal.
fn progress(count: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(count).with_message(what.to_string());
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
