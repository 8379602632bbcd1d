//! `pilot-sim run`.

use super::Trouble;
use pilot_sim::Tape;
use pilot_sim::scenario::{Play, Scenario, ScenarioError, StepReport};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

#[derive(Serialize)]
struct Report<'a> {
    title: &'a str,
    seed: u64,
    ok: bool,
    error: Option<String>,
    steps: &'a [StepReport],
    virtual_secs: f64,
    sent: u64,
    streamed: u64,
    /// Hash of all that happened.
    hash: String,
}

pub(super) fn run(
    path: &Path,
    seed: u64,
    trace: Option<&Path>,
    pcap: Option<&Path>,
    json: bool,
) -> Result<bool, Trouble> {
    let text = std::fs::read_to_string(path).map_err(Trouble::file(path))?;
    let scenario: Scenario =
        toml::from_str(&text).map_err(|error| Trouble::Toml(path.to_path_buf(), error))?;
    let again = format!("pilot-sim run {} --seed {seed}", path.display());
    let mut play = match Play::new(&scenario, Tape::from_seed(seed), again) {
        Ok(play) => play,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return Ok(false);
        }
    };
    if trace.is_some() {
        play.world.trace_mut().keep_events();
    }
    if pcap.is_some() {
        play.world.trace_mut().keep_packets();
    }
    if !json {
        println!("{} (seed {seed})", scenario.title);
    }
    let mut error: Option<ScenarioError> = None;
    for step in &scenario.steps {
        if let Err(missed) = play.step(step) {
            error = Some(missed);
            break;
        }
        if let Some(done) = play.done.last().filter(|_| !json) {
            println!("{:>9.3} s  {} ({:.3} s)", done.at, describe(done), done.took);
        }
    }
    write_files(&play, trace, pcap)?;
    let world = &play.world;
    let report = Report {
        title: &scenario.title,
        seed,
        ok: error.is_none(),
        error: error.map(|error| error.to_string()),
        steps: &play.done,
        virtual_secs: world.elapsed().as_secs_f64(),
        sent: world.stats().sent,
        streamed: world.stats().streamed,
        hash: world.trace().hash(),
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        match &report.error {
            Some(error) => println!("FAILED: {error}"),
            None => println!(
                "ok: {} datagrams, {} bytes of streams; trace {}",
                report.sent, report.streamed, report.hash
            ),
        }
    }
    Ok(report.ok)
}

/// The step as its keys and values.
fn describe(report: &StepReport) -> String {
    let Ok(serde_json::Value::Object(step)) = serde_json::to_value(&report.step) else {
        return String::new();
    };
    let verb = step.get("do").and_then(|verb| verb.as_str()).unwrap_or_default().to_string();
    let rest = step.iter().filter(|(key, value)| *key != "do" && !value.is_object());
    rest.fold(verb, |text, (key, value)| format!("{text} {key}={value}"))
}

fn write_files(play: &Play, trace: Option<&Path>, pcap: Option<&Path>) -> Result<(), Trouble> {
    if let Some(path) = trace {
        let mut file = BufWriter::new(File::create(path).map_err(Trouble::file(path))?);
        play.world.trace().write_events(&mut file)?;
        file.flush()?;
    }
    if let Some(path) = pcap {
        let file = BufWriter::new(File::create(path).map_err(Trouble::file(path))?);
        play.world.trace().write_pcap(file)?;
    }
    Ok(())
}
