//! Starting, stopping and looking after processes and files of this machine.

use super::Context;
use super::show::{Facts, online};
use crate::api::{DaemonStatus, Exported, Nothing, RendezvousStatus};
use crate::background::{Daemon, Rendezvous, Role, Started, start};
use crate::cli::Cli;
use crate::cli::run::{Completions, DaemonStart, Demo, Logs, RendezvousStart, Reset};
use crate::client::Client;
use crate::config::{self, Settings as _};
use crate::error::{Code, Failure};
use crate::home::{Home, create_private_file};
use crate::log::rotated;
use crate::output::{Output, cleaned, print_line, to_line};
use clap::CommandFactory as _;
use hyper::Method;
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a process may take to stop: 5 s for itself, the rest for a busy machine.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How often `logs -f` looks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Longest tail of a log.
const LINES_MAX: usize = 100_000;

/// Warnings go to standard error, also where the result is for programs.
fn warn(out: Output, warnings: &[String]) {
    if !out.json {
        for warning in warnings {
            out.note(&format!("warning: {warning}"));
        }
    }
}

pub(super) async fn daemon_start(cx: &Context, args: DaemonStart) -> Result<(), Failure> {
    cx.home.prepare()?;
    let settings = args.settings().or(config::load(&cx.home.config())?);
    crate::daemon::check_settings(&settings)?;
    let extra: &[&str] = if args.takeover { &["--takeover"] } else { &[] };
    let (report, verb) = match start::<Daemon>(&cx.home, &settings, extra).await? {
        Started::Now(report) => (report, "started"),
        Started::Already(report) => (report, "runs already"),
    };
    warn(cx.out, &report.warnings);
    cx.out.show(&report, |report| started_text(report, verb));
    Ok(())
}

/// What a start says to people.
pub(crate) fn started_text(report: &DaemonStatus, verb: &str) -> String {
    let address = report.network_address.as_deref().or(report.address.as_deref());
    let mut text = format!(
        "daemon {verb} (pid {}): this agent is {}\n",
        report.pid,
        address.unwrap_or("not registered yet")
    );
    if let Some(fingerprint) = report.registry_fingerprint.as_ref().filter(|_| report.first_contact)
    {
        text += &format!(
            "first contact: the registry's key is pinned from now on\n  fingerprint {fingerprint}\n  compare it with `pilotctl rendezvous status` on the server\n"
        );
    }
    text
}

pub(super) async fn daemon_status(cx: &Context) -> Result<(), Failure> {
    let status: DaemonStatus = cx.client().get("/v1/status").await?;
    warn(cx.out, &status.warnings);
    cx.out.show(&status, |s| {
        let mut facts = Facts::new();
        let state = if s.ready { online(s.online) } else { "starting" };
        facts.line("daemon", format!("running (pid {}), {state}", s.pid));
        facts.line("address", s.address.as_deref().unwrap_or("none yet"));
        facts.line("registry", &s.registry);
        facts.maybe("registry fingerprint", s.registry_fingerprint.as_ref());
        facts.line("beacon", &s.beacon);
        let sockets: Vec<String> = s.sockets.iter().map(ToString::to_string).collect();
        facts.line("UDP sockets", sockets.join(", "));
        facts.maybe("seen from outside as", s.observed);
        facts.line("home", s.home.display());
        facts.maybe("log", s.log.as_ref().map(|path| path.display()));
        facts.line("up for", format!("{} s", s.uptime_s));
        facts.text()
    });
    Ok(())
}

/// Asks a process to stop and waits until it has.
async fn stop(client: &Client, home: &Home, who: &str) -> Result<(), Failure> {
    let _: Nothing = client.send(Method::POST, "/v1/stop", &Nothing {}).await?;
    let home = home.clone();
    let gone = tokio::task::spawn_blocking(move || home.wait_unlocked(STOP_MAX)).await;
    match gone {
        Ok(Ok(true)) => Ok(()),
        Ok(Err(failure)) => Err(failure),
        Ok(Ok(false)) | Err(_) => {
            let message = format!("{who} has been asked to stop and still runs after {STOP_MAX:?}");
            Err(Failure::new(Code::Timeout, message).hint("see its log"))
        }
    }
}

#[derive(Serialize)]
struct Stopped {
    stopped: bool,
}

pub(super) async fn daemon_stop(cx: &Context) -> Result<(), Failure> {
    stop(&cx.client(), &cx.home, Daemon::WHO).await?;
    cx.out.show(&Stopped { stopped: true }, |_| "daemon stopped".to_owned());
    Ok(())
}

pub(super) async fn rendezvous_start(cx: &Context, args: RendezvousStart) -> Result<(), Failure> {
    let home = cx.home.rendezvous();
    cx.home.prepare()?;
    home.prepare()?;
    let settings = crate::rendezvous::absolute(args.settings())?.or(config::load(&home.config())?);
    let extra: &[&str] = if args.new_key { &["--new-key"] } else { &[] };
    let (report, verb) = match start::<Rendezvous>(&cx.home, &settings, extra).await? {
        Started::Now(report) => (report, "started"),
        Started::Already(report) => (report, "runs already"),
    };
    warn(cx.out, &report.warnings);
    cx.out.show(&report, |report| rendezvous_text(report, verb));
    Ok(())
}

/// What a start of the rendezvous server says to people.
pub(crate) fn rendezvous_text(report: &RendezvousStatus, verb: &str) -> String {
    let (registry, beacon) = (report.registry, report.beacon);
    let host = |ip: std::net::IpAddr| match ip {
        ip if ip.is_unspecified() => "HOST".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        std::net::IpAddr::V4(ip) => ip.to_string(),
    };
    format!(
        "rendezvous {verb} (pid {}): registry on TCP {registry}, beacon on UDP {beacon}\nkey fingerprint {}\nagents join with\n  pilotctl daemon start --registry {}:{}#{} --beacon {}:{}\n",
        report.pid,
        report.fingerprint,
        host(registry.ip()),
        registry.port(),
        report.key,
        host(beacon.ip()),
        beacon.port(),
    )
}

pub(super) async fn rendezvous_status(cx: &Context) -> Result<(), Failure> {
    let status: RendezvousStatus = Client::rendezvous(&cx.home).get("/v1/status").await?;
    warn(cx.out, &status.warnings);
    cx.out.show(&status, |s| {
        let mut facts = Facts::new();
        facts.line("rendezvous", format!("running (pid {})", s.pid));
        facts.line("registry", format!("TCP {}", s.registry));
        facts.line("beacon", format!("UDP {}", s.beacon));
        facts.line("key", &s.key);
        facts.line("fingerprint", &s.fingerprint);
        facts.line("store", s.store.display());
        facts.line("export", s.export.display());
        facts.maybe("log", s.log.as_ref().map(|path| path.display()));
        facts.line("up for", format!("{} s", s.uptime_s));
        for (name, count) in &s.counters {
            facts.line(name, count);
        }
        facts.drops(&s.drops);
        facts.text()
    });
    Ok(())
}

pub(super) async fn rendezvous_stop(cx: &Context) -> Result<(), Failure> {
    stop(&Client::rendezvous(&cx.home), &cx.home.rendezvous(), Rendezvous::WHO).await?;
    cx.out.show(&Stopped { stopped: true }, |_| "rendezvous stopped".to_owned());
    Ok(())
}

pub(super) async fn rendezvous_export(cx: &Context) -> Result<(), Failure> {
    let exported: Exported =
        Client::rendezvous(&cx.home).send(Method::POST, "/v1/export", &Nothing {}).await?;
    cx.out.show(&exported, |e| e.file.display().to_string());
    Ok(())
}

pub(super) async fn logs(cx: &Context, args: Logs) -> Result<(), Failure> {
    let home = if args.rendezvous { cx.home.rendezvous() } else { cx.home.clone() };
    let path = home.log();
    if !path.exists() {
        let message = format!("there is no log at {}", path.display());
        return Err(Failure::new(Code::Io, message).hint(
            "a process in the foreground logs to standard error (under systemd: journalctl)",
        ));
    }
    let wanted = args.lines.min(LINES_MAX);
    let doing = |e| Failure::io(format!("read {}", path.display()), e);
    let (lines, mut file) = last_lines(&path, wanted).map_err(doing)?;
    #[derive(Serialize)]
    struct Lines {
        lines: Vec<String>,
    }
    let lines = Lines { lines };
    if !(args.follow && lines.lines.is_empty()) {
        cx.out.show(&lines, |l| l.lines.join("\n"));
    }
    if !args.follow {
        return Ok(());
    }
    let mut rest = Vec::new();
    loop {
        let moved = File::open(&path).ok().filter(|now| !is_same(now, &file));
        // After that look nothing more is written to a file that was moved aside.
        let read = file.read_to_end(&mut rest).map_err(doing)?;
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = cleaned(String::from_utf8_lossy(&line).trim_end());
            if cx.out.json {
                let data = Lines { lines: vec![line] };
                print_line(&to_line(&crate::error::Envelope::from_result(Ok(data))));
            } else {
                print_line(&line);
            }
        }
        match moved {
            Some(now) => file = now,
            None if read == 0 => tokio::time::sleep(FOLLOW_EVERY).await,
            None => {}
        }
    }
}

fn is_same(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The last lines of a log, reaching into the one moved aside last, and the file at its end.
fn last_lines(path: &Path, wanted: usize) -> std::io::Result<(Vec<String>, File)> {
    let mut lines = VecDeque::new();
    let mut keep = |file: &File| -> std::io::Result<()> {
        for line in BufReader::new(file).split(b'\n') {
            if lines.len() == wanted.max(1) {
                lines.pop_front();
            }
            lines.push_back(cleaned(&String::from_utf8_lossy(&line?)));
        }
        Ok(())
    };
    if let Ok(older) = File::open(rotated(path, 1)) {
        keep(&older)?;
    }
    let mut file = File::open(path)?;
    keep(&file)?;
    file.seek(SeekFrom::End(0))?;
    if wanted == 0 {
        lines.clear();
    }
    Ok((lines.into(), file))
}

pub(super) fn completions(cx: &Context, args: Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pilotctl", &mut script);
    #[derive(Serialize)]
    struct Script {
        shell: String,
        script: String,
    }
    let script = String::from_utf8_lossy(&script).into_owned();
    cx.out.show(&Script { shell: args.shell.to_string(), script }, |s| s.script.clone());
    Ok(())
}

pub(super) fn reset(cx: &Context, args: Reset) -> Result<(), Failure> {
    let home = &cx.home;
    #[derive(Serialize)]
    struct Deleted {
        deleted: Vec<PathBuf>,
    }
    let mut deleted = Vec::new();
    if home.path().exists() {
        home.prepare()?;
        let Some(_lock) = home.try_lock()? else {
            return Err(Failure::new(Code::Conflict, "the daemon runs")
                .hint("run `pilotctl daemon stop` first"));
        };
        let mut doomed = vec![home.state(), home.socket(), home.config(), home.takeover()];
        doomed.extend([home.inbox(), home.outbox(), home.received()]);
        doomed.extend([home.unfinished(), home.log()]);
        doomed.extend([home.programs(), home.tasks()]);
        doomed.extend((1..=9).map(|i| rotated(&home.log(), i)));
        if !args.keep_identity {
            // An identity that runs elsewhere stays known as such for as long as it is here.
            doomed.extend([home.identity(), home.fenced()]);
        }
        let serving = home.serving();
        let is_dir = std::fs::symlink_metadata(serving.path()).is_ok_and(|meta| meta.is_dir());
        // One that still runs works in there.
        let is_free = if is_dir { serving.try_lock()? } else { None };
        if is_free.is_some() || !is_dir {
            doomed.push(serving.path().to_owned());
        }
        for path in doomed {
            // Never through a link: what it points to is not ours.
            let removed = match std::fs::symlink_metadata(&path) {
                Err(_) => continue,
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
                Ok(_) => std::fs::remove_file(&path),
            };
            removed.map_err(|e| Failure::io(format!("delete {}", path.display()), e))?;
            deleted.push(path);
        }
        if home.identity().exists() && !home.fenced().exists() {
            create_private_file(&home.takeover(), b"after a reset\n")?;
        }
    }
    cx.out.show(&Deleted { deleted }, |d| match (d.deleted.is_empty(), args.keep_identity) {
        (true, _) => "there was nothing to delete".to_owned(),
        (false, true) => {
            "deleted all but the identity: the next start gets the same address back".to_owned()
        }
        (false, false) => "deleted: the next start makes a new agent".to_owned(),
    });
    Ok(())
}

pub(super) async fn demo(cx: &Context, args: Demo) -> Result<(), Failure> {
    crate::demo::run(cx.out, args.keep).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_reach_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        std::fs::write(rotated(&path, 1), "a\nb\u{1b}[31m\n").unwrap();
        std::fs::write(&path, "c\nd\n").unwrap();
        assert_eq!(last_lines(&path, 3).unwrap().0, ["b[31m", "c", "d"]);
        assert_eq!(last_lines(&path, 0).unwrap().0, [""; 0]);
        assert_eq!(last_lines(&path, 99).unwrap().0.len(), 4);
    }
}
