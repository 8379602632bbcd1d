//! `start`: this program again, in the foreground of a session of its own. Its standard output
//! is a pipe to us on which it says once how its start went; after that it writes to its log.
//! If we are gone by then, it stops: nobody would know that it runs.

use crate::client::Client;
use crate::config::{DaemonSettings, RendezvousSettings, Settings};
use crate::error::{Code, Envelope, Failure};
use crate::home::Home;
use crate::{api, log};
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

/// Longer than the limits which the process sets itself for its start.
const START_MAX: Duration = Duration::from_secs(30);
/// Longest report.
const REPORT_MAX: u64 = 1024 * 1024;
/// How long another process may take to start or to stop before we give up on it.
const OTHER_MAX: Duration = Duration::from_secs(20);
/// How many bytes of the log's end an error message shows.
const LOG_TAIL: u64 = 300;

/// A kind of process.
pub(crate) trait Role {
    /// What it says about itself.
    type Report: DeserializeOwned;
    /// How it is set up.
    type Settings: Settings;
    /// `daemon` or `rendezvous`.
    const COMMAND: &'static str;
    /// In messages.
    const WHO: &'static str;

    fn client(home: &Home) -> Client;
    /// Where it has its lock, log and configuration.
    fn home(home: &Home) -> Home;
    fn is_ready(report: &Self::Report) -> bool;
    fn settings(report: &Self::Report) -> &Self::Settings;
    /// The settings as flags.
    fn flags(settings: &Self::Settings) -> Vec<OsString>;
}

/// The daemon.
pub(crate) struct Daemon;

impl Role for Daemon {
    type Report = api::DaemonStatus;
    type Settings = DaemonSettings;
    const COMMAND: &'static str = "daemon";
    const WHO: &'static str = "the daemon";

    fn client(home: &Home) -> Client {
        Client::daemon(home)
    }

    fn home(home: &Home) -> Home {
        home.clone()
    }

    fn is_ready(report: &Self::Report) -> bool {
        report.ready
    }

    fn settings(report: &Self::Report) -> &DaemonSettings {
        &report.settings
    }

    fn flags(settings: &DaemonSettings) -> Vec<OsString> {
        let mut flags = Vec::new();
        push(&mut flags, "--registry", &settings.registry);
        push(&mut flags, "--registry-key", &settings.registry_key);
        push(&mut flags, "--beacon", &settings.beacon);
        push(&mut flags, "--endpoint", &settings.endpoint);
        push(&mut flags, "--listen", &settings.listen);
        push(&mut flags, "--path", &settings.path);
        push(&mut flags, "--no-spray", &settings.no_spray);
        push(&mut flags, "--min-reputation", &settings.min_reputation);
        flags
    }
}

/// The rendezvous server.
pub(crate) struct Rendezvous;

impl Role for Rendezvous {
    type Report = api::RendezvousStatus;
    type Settings = RendezvousSettings;
    const COMMAND: &'static str = "rendezvous";
    const WHO: &'static str = "the rendezvous server";

    fn client(home: &Home) -> Client {
        Client::rendezvous(home)
    }

    fn home(home: &Home) -> Home {
        home.rendezvous()
    }

    fn is_ready(report: &Self::Report) -> bool {
        report.ready
    }

    fn settings(report: &Self::Report) -> &RendezvousSettings {
        &report.settings
    }

    fn flags(settings: &RendezvousSettings) -> Vec<OsString> {
        let mut flags = Vec::new();
        push(&mut flags, "--registry-addr", &settings.registry_addr);
        push(&mut flags, "--beacon-addr", &settings.beacon_addr);
        push(&mut flags, "--beacon-alt-addr", &settings.beacon_alt_addr);
        if let Some(persist) = &settings.persist {
            flags.extend([OsString::from("--persist"), persist.into()]);
        }
        flags
    }
}

fn push<T: ToString>(flags: &mut Vec<OsString>, name: &str, value: &Option<T>) {
    if let Some(value) = value {
        flags.extend([name.into(), value.to_string().into()]);
    }
}

/// How a start went well.
pub(crate) enum Started<R> {
    /// A process was started and is ready.
    Now(R),
    /// One runs already, with the same settings.
    Already(R),
}

/// Starts a process unless one runs; `extra` are flags that are no settings.
pub(crate) async fn start<R: Role>(
    home: &Home,
    settings: &R::Settings,
    extra: &[&str],
) -> Result<Started<R::Report>, Failure> {
    // Two starts at once: one child finds the home locked; the second look finds the other's.
    for _ in 0..3 {
        if let Some(report) = running::<R>(home).await? {
            if *R::settings(&report) != *settings {
                let message = format!("{} runs already, with other settings", R::WHO);
                return Err(Failure::new(Code::AlreadyRunning, message).hint(format!(
                    "run `pilotctl {} stop` first, then start it with these",
                    R::COMMAND
                )));
            }
            return Ok(Started::Already(report));
        }
        match spawn::<R>(home, settings, extra).await {
            Err(failure) if failure.code == Code::AlreadyRunning => {}
            other => return other.map(Started::Now),
        }
    }
    let message = format!("{} is started and stopped by somebody else all the time", R::WHO);
    Err(Failure::new(Code::AlreadyRunning, message).hint("see who does, and try again"))
}

/// The process that runs in this home, once it is ready; `None` if there is none.
async fn running<R: Role>(home: &Home) -> Result<Option<R::Report>, Failure> {
    let look = async {
        loop {
            match R::client(home).get::<R::Report>("/v1/status").await {
                Ok(report) if R::is_ready(&report) => return Ok(Some(report)),
                Ok(_) => {}
                // Nobody answers: there is none, or it is about to start or to stop.
                Err(failure) if matches!(failure.code, Code::NotRunning | Code::Io) => {
                    if !R::home(home).is_locked()? {
                        return Ok(None);
                    }
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(OTHER_MAX, look).await.unwrap_or_else(|_| {
        let message = format!("{} runs here but does not become ready", R::WHO);
        Err(Failure::new(Code::Timeout, message)
            .hint(format!("see `pilotctl logs`, or run `pilotctl {} stop`", R::COMMAND)))
    })
}

async fn spawn<R: Role>(
    home: &Home,
    settings: &R::Settings,
    extra: &[&str],
) -> Result<R::Report, Failure> {
    let own = R::home(home);
    home.prepare()?;
    own.prepare()?;
    let program = std::env::current_exe().map_err(|e| Failure::io("find this program", e))?;
    let log = log::open_append(&own.log()).map_err(|e| Failure::io("open the log", e))?;
    let mut command = Command::new(program);
    command
        .arg("--json")
        .arg("--home")
        .arg(home.path())
        .args([R::COMMAND, "start", "--foreground", "--detached"])
        .args(R::flags(settings))
        .args(extra)
        // It shall not keep a directory busy that somebody wants to unmount, nor tell the
        // service manager of whoever calls us that it is the service.
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = tokio::process::Command::from(command)
        .spawn()
        .map_err(|e| Failure::io(format!("start {}", R::WHO), e))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout.take(REPORT_MAX));
        let read = tokio::time::timeout(START_MAX, reader.read_line(&mut line)).await;
        if read.is_err() {
            let _ = child.kill().await;
            let message = format!("{} was not ready after {START_MAX:?}", R::WHO);
            return Err(Failure::new(Code::Timeout, message).hint("see `pilotctl logs`"));
        }
    }
    let Ok(envelope) = serde_json::from_str::<Envelope<R::Report>>(&line) else {
        // It died without a word on the pipe: its last words are in the log.
        let _ = child.kill().await;
        let message = format!("{} ended at its start: {}", R::WHO, tail(&own.log()));
        return Err(Failure::new(Code::Internal, message));
    };
    let result = envelope.into_result();
    if result.is_err() {
        // Nothing is left running when we say so.
        let _ = tokio::time::timeout(OTHER_MAX, child.wait()).await;
    }
    result
}

fn tail(path: &Path) -> String {
    use std::io::{Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The other side of [`start`]: a process in the foreground, perhaps with a starter who waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreground {
    /// A starter reads our standard output, and we have a session of our own.
    detached: bool,
    json: bool,
}

impl Foreground {
    /// Leaves the starter's session, if there is one.
    pub(crate) fn enter(detached: bool, json: bool) -> Result<Self, Failure> {
        if detached {
            rustix::process::setsid().map_err(|e| Failure::io("begin a session", e))?;
        }
        Ok(Foreground { detached, json })
    }

    /// Starts the log: a file of the home in the background, else standard error.
    pub(crate) fn start_log(self, home: &Home) -> Result<Option<std::path::PathBuf>, Failure> {
        if !self.detached {
            log::start(None);
            return Ok(None);
        }
        let path = home.log();
        let file =
            log::RotatedLog::open(&path, true).map_err(|e| Failure::io("open the log", e))?;
        log::start(Some(file));
        Ok(Some(path))
    }

    /// Says that we are ready; an error if the starter has gone away meanwhile.
    pub(crate) fn announce<T: serde::Serialize>(
        self,
        report: &T,
        plain: &str,
    ) -> Result<(), Failure> {
        let line = if self.json {
            crate::output::to_line(&Envelope::from_result(Ok(report)))
        } else {
            plain.trim_end().to_owned()
        };
        let mut out = std::io::stdout().lock();
        let told = writeln!(out, "{line}").and_then(|()| out.flush());
        if !self.detached {
            // Whoever runs us in the foreground may not care for our output.
            return Ok(());
        }
        told.map_err(|e| Failure::io("tell the starter (has it been stopped?)", e))?;
        rustix::stdio::dup2_stdout(std::io::stderr())
            .map_err(|e| Failure::io("let go of the starter's pipe", e))
    }
}
