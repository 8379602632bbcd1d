//! `pilotctl`: the command line of Pilot Protocol, its daemon, its rendezvous server and the
//! demo, in one binary. It holds no protocol decisions: those are in `pilot-core`.

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("pilotctl needs Unix sockets; the libraries below it do not");

mod api;
mod background;
mod cli;
mod client;
mod commands;
mod config;
mod daemon;
mod demo;
mod error;
mod home;
mod http;
mod limits;
mod log;
mod openapi;
mod output;
mod programs;
mod rendezvous;
mod services;
mod socket;
mod tasks;

use clap::Parser as _;
use clap::error::ErrorKind;
use cli::Cli;
use cli::run::{DaemonCommand, RendezvousCommand};
use commands::Context;
use error::{Code, Failure};
use home::Home;
use output::Output;
use std::io::Write as _;

fn main() {
    demo::bind_to_parent();
    let code = match Cli::try_parse() {
        Ok(cli) => start(cli),
        Err(error) => usage(&error),
    };
    // Not a return: a thread that still waits for standard input must not hold us.
    let _ = std::io::stdout().flush();
    std::process::exit(code.into());
}

/// What clap has to say: help and version are results, the rest is a usage error.
fn usage(error: &clap::Error) -> u8 {
    let json = std::env::args_os().any(|argument| argument == "--json");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            0
        }
        _ if json => {
            let text = error.render().to_string();
            let message = text.lines().next().unwrap_or_default();
            let message = message.strip_prefix("error: ").unwrap_or(message);
            Output { json }.fail(&Failure::new(Code::Usage, message));
            Code::Usage.exit()
        }
        _ => {
            let _ = error.print();
            Code::Usage.exit()
        }
    }
}

fn start(cli: Cli) -> u8 {
    let out = Output { json: cli.common.json };
    let piped = matches!(cli.command, cli::Command::Connect(_) | cli::Command::Listen(_));
    let result = Home::find(cli.common.home.as_deref()).and_then(|home| {
        let cx = Context { home, out };
        match &cli.command {
            cli::Command::Daemon(DaemonCommand::Start(args)) if args.foreground => {
                daemon::run(&cx, args)
            }
            cli::Command::Rendezvous(RendezvousCommand::Start(args)) if args.foreground => {
                rendezvous::run(&cx, args)
            }
            _ => {
                let runtime = runtime()?;
                let result = runtime.block_on(commands::run(&cx, cli));
                // Dropping it would wait for whoever still reads from standard input.
                runtime.shutdown_background();
                result
            }
        }
    });
    match result {
        Ok(()) => 0,
        Err(failure) => {
            match out.json && piped {
                // Standard output carries the stream.
                true => out.note(&out.failure_line(&failure)),
                false => out.fail(&failure),
            }
            failure.code.exit()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("start the runtime", e))
}
