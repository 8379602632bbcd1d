//! `pilotctl demo`: a rendezvous server and two agents as processes of their own on this
//! machine, and the whole story between them, told by the commands that a user would type.
//!
//! Every command is this program again; nothing is simulated. It needs no root, no network
//! but loopback, and no second terminal. Its processes die with it (see [`bind`]), and its
//! directory goes, unless it is kept.

mod bind;
mod exchange;
mod stage;

pub(crate) use bind::bind_to_parent;

use crate::error::{Code, Failure};
use crate::output::{Output, time, to_line, write_line};
use serde::Serialize;
use serde_json::Value;
use stage::{Answer, Stage};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

const SERVER: &str = "rendezvous";
const RESEARCH: &str = "research";
const ANALYSIS: &str = "analysis";

/// How long the demo waits for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
const MESSAGE: &str = "Analyze this dataset";
const TASK: &str = "Name the hottest sample of dataset.csv";
const RESULT: &str = "sample 3999, 39.99";
const JUSTIFICATION: &str = "Cross-cloud research collaboration";

/// A step as `--json` tells it, one a line.
#[derive(Serialize)]
struct Step<'a> {
    step: u32,
    title: &'a str,
    commands: &'a [String],
    output: &'a [String],
    ms: f64,
    ok: bool,
}

/// What the whole demo has come to.
#[derive(Serialize)]
struct Summary {
    steps: u32,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

/// Plays the demo. An error tells which step failed.
pub(crate) async fn run(out: Output, is_kept: bool) -> Result<(), Failure> {
    let mut stop = Interrupts::new().map_err(|e| Failure::io("watch for signals", e))?;
    let program = std::env::current_exe().map_err(|e| Failure::io("find this program", e))?;
    let stage = Stage::open(program, &std::env::temp_dir(), is_kept)
        .map_err(|e| Failure::io("create a temporary directory", e))?;
    let start = Instant::now();
    let mut play = Play { stage, out, step: 0, title: "", start, commands: vec![], output: vec![] };
    play.say("Two agents and a rendezvous server on this machine, as processes of their own.");
    let result = tokio::select! {
        result = play.story() => result,
        name = stop.next() => {
            Err(Failure::new(Code::Internal, format!("stopped by {name}")).hint("run it again"))
        }
    };
    if let Err(failure) = result {
        play.fail();
        play.stage.stop().await;
        return Err(failure);
    }
    let kept = is_kept.then(|| play.stage.dir().display().to_string());
    let summary = Summary { steps: play.step, ms: ms(start.elapsed()), kept };
    drop(play);
    out.show(&summary, closing);
    Ok(())
}

/// Ctrl-C and its like.
struct Interrupts([(Signal, &'static str); 3]);

impl Interrupts {
    fn new() -> std::io::Result<Interrupts> {
        Ok(Interrupts([
            (signal(SignalKind::interrupt())?, "Ctrl-C"),
            (signal(SignalKind::terminate())?, "SIGTERM"),
            (signal(SignalKind::hangup())?, "the end of the terminal"),
        ]))
    }

    async fn next(&mut self) -> &'static str {
        let [(a, first), (b, second), (c, third)] = &mut self.0;
        tokio::select! {
            _ = a.recv() => first,
            _ = b.recv() => second,
            _ = c.recv() => third,
        }
    }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

struct Play {
    stage: Stage,
    out: Output,
    step: u32,
    title: &'static str,
    start: Instant,
    commands: Vec<String>,
    output: Vec<String>,
}

impl Play {
    fn say(&self, text: &str) {
        if !self.out.json {
            // Its processes are to end in good order, whoever looks on.
            let _ = write_line(text);
        }
    }

    fn begin(&mut self, title: &'static str) {
        self.step += 1;
        self.title = title;
        self.start = Instant::now();
        self.commands.clear();
        self.output.clear();
        self.say(&format!("\n{:2}  {title}", self.step));
    }

    /// Ends the step well.
    fn done(&mut self) {
        self.tell(true);
        self.say(&format!("    done in {}", time(self.start.elapsed())));
        self.title = "";
    }

    /// Ends the step badly: shows what the servers say.
    fn fail(&mut self) {
        self.output.extend(self.stage.logs());
        self.tell(false);
        for line in self.stage.logs() {
            self.say(&format!("    {line}"));
        }
    }

    fn tell(&self, ok: bool) {
        if self.out.json && !self.title.is_empty() {
            let (step, title) = (self.step, self.title);
            let (commands, output) = (&self.commands, &self.output);
            let ms = ms(self.start.elapsed());
            let _ = write_line(&to_line(&Step { step, title, commands, output, ms, ok }));
        }
    }

    fn show_command(&mut self, who: &str, args: &[&str]) {
        let line = format!("{who}$ pilotctl {}", typed(args));
        self.say(&format!("    {line}"));
        self.commands.push(line);
    }

    fn show_output(&mut self, text: &str) {
        for line in text.lines() {
            self.say(&format!("    | {line}"));
            self.output.push(line.to_owned());
        }
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Failure {
        let message = format!("step {} ({}): {what}", self.step, self.title);
        Failure::new(Code::Internal, message)
            .hint("run `pilotctl demo --keep` and look into the logs of the directory it names")
    }

    /// Runs a command without showing it.
    async fn quiet(&self, who: &str, args: &[&str]) -> Result<Answer, Failure> {
        let asked = self.stage.ask(who, args).await;
        asked.map_err(|e| self.wrong(format_args!("cannot run pilotctl {}: {e}", typed(args))))
    }

    /// Runs a command as a user would type it, shows it and what it prints, and wants it to
    /// end with `code`.
    async fn expect(&mut self, who: &str, args: &[&str], code: i32) -> Result<String, Failure> {
        self.show_command(who, args);
        let answer = self.quiet(who, args).await?;
        self.show_output(&answer.stdout);
        if answer.code != Some(code) || code != 0 {
            self.show_output(&answer.stderr);
        }
        if answer.code == Some(code) {
            return Ok(answer.stdout);
        }
        let ended = answer.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
        let first = answer.stderr.lines().next().unwrap_or_default();
        Err(self.wrong(format_args!("`pilotctl {}` ended with {ended}: {first}", typed(args))))
    }

    async fn ok(&mut self, who: &str, args: &[&str]) -> Result<String, Failure> {
        self.expect(who, args, 0).await
    }

    /// The data of a command's envelope; `None` if it failed.
    async fn data(&self, who: &str, args: &[&str]) -> Result<Option<Value>, Failure> {
        let args = [args, &["--json"]].concat();
        let answer = self.quiet(who, &args).await?;
        let envelope: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        let is_ok = answer.code == Some(0) && envelope["status"] == "ok";
        Ok(is_ok.then(|| envelope["data"].clone()))
    }

    /// Asks until the answer is as wanted.
    async fn until(
        &mut self,
        who: &str,
        args: &[&str],
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(data) = self.data(who, args).await?.filter(|data| wanted(data)) {
                return Ok(data);
            }
            if let Some(server) = self.stage.ended() {
                return Err(self.wrong(format_args!("the process of {server} has ended")));
            }
            if Instant::now() >= deadline {
                return Err(self.wrong(format_args!("{what} did not come in {PATIENCE:?}")));
            }
            sleep(LOOK).await;
        }
    }

    async fn story(&mut self) -> Result<(), Failure> {
        let (registry, beacon) = self.rendezvous().await?;
        let mut addresses = Vec::new();
        for who in [RESEARCH, ANALYSIS] {
            addresses.push(self.agent(who, &registry, &beacon).await?);
        }
        self.profiles().await?;
        let (research, analysis) = (self.address(RESEARCH).await?, self.address(ANALYSIS).await?);
        self.find(&analysis).await?;
        self.trust(&research, &analysis).await?;
        self.message(&analysis).await?;
        self.file(&analysis).await?;
        self.cut(&analysis, &registry, &beacon).await?;
        self.event(&analysis).await?;
        self.task(&analysis).await?;

        self.begin("Measure the tunnel");
        let text = self.ok(RESEARCH, &["echo", &analysis]).await?;
        if !text.contains("direct") {
            return Err(self.wrong("two agents on one machine should reach each other directly"));
        }
        self.done();

        self.begin("Stop everything");
        if !self.stage.stop().await {
            return Err(self.wrong("a process did not stop well within its time"));
        }
        self.done();
        Ok(())
    }

    async fn rendezvous(&mut self) -> Result<(String, String), Failure> {
        self.begin("Start a rendezvous server, where agents find each other");
        let store = self.stage.dir().join("registry.json").display().to_string();
        let any = "127.0.0.1:0";
        let args = ["rendezvous", "start", "--foreground", "--registry-addr", any, "--beacon-addr"];
        let args = [&args[..], &[any, "--persist", &store]].concat();
        self.serve(SERVER, &args)?;
        let status = ["rendezvous", "status"];
        let is_ready = |data: &Value| data["ready"] == true;
        let status = self.until(SERVER, &status, "the server", is_ready).await?;
        let registry = status["registry"].as_str().unwrap_or_default().to_owned();
        let beacon = status["beacon"].as_str().unwrap_or_default().to_owned();
        self.show_output(&format!("registry {registry} (TCP), beacon {beacon} (UDP)"));
        self.done();
        Ok((registry, beacon))
    }

    async fn agent(
        &mut self,
        who: &'static str,
        registry: &str,
        beacon: &str,
    ) -> Result<String, Failure> {
        self.begin(match who {
            RESEARCH => "Start an agent: it makes itself an identity and gets an address for life",
            _ => "Start another agent",
        });
        let address = self.up(who, registry, beacon).await?;
        self.show_output(&format!("this agent is {address}"));
        self.done();
        Ok(address)
    }

    /// Starts a daemon; its address.
    async fn up(
        &mut self,
        who: &'static str,
        registry: &str,
        beacon: &str,
    ) -> Result<String, Failure> {
        let args = ["daemon", "start", "--foreground", "--registry", registry, "--beacon", beacon];
        let args = [&args[..], &["--listen", "127.0.0.1:0"]].concat();
        self.serve(who, &args)?;
        let is_ready = |data: &Value| data["ready"] == true && data["online"] == true;
        let status = self.until(who, &["daemon", "status"], "the agent", is_ready).await?;
        Ok(status["address"].as_str().unwrap_or_default().to_owned())
    }

    fn serve(&mut self, who: &'static str, args: &[&str]) -> Result<(), Failure> {
        self.show_command(who, args);
        let started = self.stage.serve(who, args);
        started.map_err(|e| self.wrong(format_args!("cannot start a process: {e}")))
    }

    async fn profiles(&mut self) -> Result<(), Failure> {
        let agents = [
            (RESEARCH, "research-aws", "cloud=aws,region=us-east-1,role=research"),
            (ANALYSIS, "analysis-gcp", "cloud=gcp,region=europe-west4,role=analysis"),
        ];
        self.begin("Both join the public network, take names and say what they do");
        for (who, name, tags) in agents {
            self.ok(who, &["join", "1"]).await?;
            self.ok(who, &["set-hostname", name]).await?;
            self.ok(who, &["set-visibility", "public"]).await?;
            self.ok(who, &["tags", "set", tags]).await?;
        }
        self.done();
        Ok(())
    }

    /// An agent's own word on its address in the network it has joined.
    async fn address(&self, who: &str) -> Result<String, Failure> {
        let info = self.data(who, &["info"]).await?;
        let address = info.as_ref().and_then(|info| info["address"].as_str());
        address.map(str::to_owned).ok_or_else(|| self.wrong("an agent does not know its address"))
    }

    async fn find(&mut self, analysis: &str) -> Result<(), Failure> {
        self.begin("Find an agent by its name");
        let resolved = self.ok(RESEARCH, &["resolve", "analysis-gcp"]).await?;
        if resolved != analysis {
            return Err(self.wrong(format_args!("that is not {analysis}")));
        }
        self.done();

        self.begin("Find agents by what they do");
        let found = self.ok(RESEARCH, &["discover", "--tag", "role=analysis"]).await?;
        if !found.lines().any(|line| line.starts_with(analysis) && line.contains("analysis-gcp")) {
            return Err(self.wrong("it was not found"));
        }
        self.done();
        Ok(())
    }

    async fn trust(&mut self, research: &str, analysis: &str) -> Result<(), Failure> {
        self.begin("Without trust nothing passes: exit code 4, and nothing is sent");
        self.expect(RESEARCH, &["send-message", analysis, MESSAGE], 4).await?;
        self.done();

        self.begin("Ask for trust, with a reason");
        let ask = ["trust", "request", analysis, "--justification", JUSTIFICATION];
        self.ok(RESEARCH, &ask).await?;
        let has_come =
            |data: &Value| data["requests"].as_array().is_some_and(|requests| !requests.is_empty());
        let pending = ["trust", "pending"];
        let data = self.until(ANALYSIS, &pending, "the request", has_come).await?;
        let request = &data["requests"][0];
        if request["justification"] != JUSTIFICATION {
            return Err(self.wrong("the request does not give the reason"));
        }
        self.ok(ANALYSIS, &pending).await?;
        self.done();

        self.begin("Its owner approves; from now on both may reach each other");
        // As `trust pending` prints it: on the backbone or in the network.
        let from = request["address"].as_str().unwrap_or(research).to_owned();
        self.ok(ANALYSIS, &["trust", "approve", &from]).await?;
        let is_mutual = |data: &Value| {
            data["peers"].as_array().is_some_and(|peers| peers.iter().any(|p| p["mutual"] == true))
        };
        self.until(RESEARCH, &["trust", "list"], "the grant", is_mutual).await?;
        self.ok(RESEARCH, &["trust", "list"]).await?;
        self.done();
        Ok(())
    }

    async fn task(&mut self, analysis: &str) -> Result<(), Failure> {
        self.begin("Hand over work: it is accepted, done, and its result comes back");
        let submit = ["task", "submit", analysis, "--description", TASK, "--wait", "20s"];
        let id = self.ok(RESEARCH, &submit).await?;
        self.ok(ANALYSIS, &["task", "list", "--open"]).await?;
        self.ok(ANALYSIS, &["task", "accept", &id]).await?;
        self.ok(ANALYSIS, &["task", "start", &id]).await?;
        self.ok(ANALYSIS, &["task", "complete", &id, "--result", RESULT]).await?;
        let over = self.ok(RESEARCH, &["task", "wait", &id, "--timeout", "20s"]).await?;
        if !over.contains(RESULT) {
            return Err(self.wrong("that is not its result"));
        }
        self.done();

        self.begin("Both have signed a receipt: the registry counts it, and the worker has earned");
        let is_counted = |task: &Value| task["receipt"]["counted"] == true;
        self.until(ANALYSIS, &["task", "show", &id], "the receipt", is_counted).await?;
        self.ok(ANALYSIS, &["task", "show", &id]).await?;
        for who in [ANALYSIS, RESEARCH] {
            self.ok(who, &["reputation"]).await?;
        }
        let counted = self.data(ANALYSIS, &["reputation"]).await?.unwrap_or_default();
        if counted["completed"] != 1 || counted["earned"].as_u64().unwrap_or(0) < 1 {
            return Err(self.wrong("the reputation has not moved"));
        }
        self.done();
        Ok(())
    }
}

/// Arguments as one types them in a shell.
fn typed(args: &[&str]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%#".contains(c);
    let word = |arg: &&str| match !arg.is_empty() && arg.chars().all(plain) {
        true => (*arg).to_owned(),
        false => format!("\"{}\"", arg.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// How to do it for real.
fn closing(summary: &Summary) -> String {
    let took = time(Duration::from_secs_f64(summary.ms / 1e3));
    let kept = match &summary.kept {
        Some(dir) => format!("Everything is kept in {dir}\n"),
        None => "Nothing of it is left on this machine (--keep would have kept it).\n".to_owned(),
    };
    format!(
        "
All {} steps worked, in {took}. {kept}
For real, on three machines. On one that both others reach (TCP 9000, UDP 9001):
    pilotctl rendezvous start --registry-addr 0.0.0.0:9000 --beacon-addr 0.0.0.0:9001 --persist /var/lib/pilot/registry.json

On the first agent's machine (IP is the one above; behind a NAT leave --endpoint out):
    pilotctl daemon start --registry IP:9000 --beacon IP:9001 --endpoint OWN_IP:4000
    pilotctl join 1
    pilotctl set-hostname research-aws
    pilotctl set-visibility public
    pilotctl tags set cloud=aws,region=us-east-1,role=research

The same on the second, as analysis-gcp. Then on the first:
    pilotctl trust request $(pilotctl resolve analysis-gcp) --justification \"{JUSTIFICATION}\"
on the second:
    pilotctl trust pending
    pilotctl trust approve ADDR
and on the first again:
    pilotctl send-message analysis-gcp \"{MESSAGE}\"
    pilotctl send-file analysis-gcp dataset.csv
    pilotctl task submit analysis-gcp --description \"{TASK}\"
    pilotctl echo analysis-gcp
",
        summary.steps
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let args = ["trust", "request", "1:0001.0000.0042", "--justification", "a \"b\" $c", ""];
        let expected = r#"trust request 1:0001.0000.0042 --justification "a \"b\" $c" """#;
        assert_eq!(typed(&args), expected);
    }
}
