//! The part of the story in which data passes: a message, files, an event.

use super::{ANALYSIS, MESSAGE, Play, RESEARCH};
use crate::error::Failure;
use pilot_core::service::exchange::{ContentHash, HashAlgorithm};
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::sleep;

/// Bytes of the file that is sent, about.
const DATASET: usize = 10_000_000;
/// How often it stands in the file that is cut.
const COPIES: usize = 8;
/// How often a file that was there before the cut is tried again.
const TRIES: usize = 5;
const ROWS: &str = "120000 rows";

impl Play {
    pub(super) async fn message(&mut self, analysis: &str) -> Result<(), Failure> {
        self.begin("Send a message through the encrypted tunnel");
        self.ok(RESEARCH, &["send-message", analysis, MESSAGE]).await?;
        self.ok(ANALYSIS, &["inbox"]).await?;
        let inbox = self.data(ANALYSIS, &["inbox"]).await?.unwrap_or_default();
        let messages = inbox["messages"].as_array().map_or(&[][..], Vec::as_slice);
        if messages.len() != 1 || messages[0]["text"] != MESSAGE {
            return Err(self.wrong("the inbox should hold this one message"));
        }
        self.done();
        Ok(())
    }

    pub(super) async fn file(&mut self, analysis: &str) -> Result<(), Failure> {
        self.begin("Send a file: its hash is checked on arrival");
        let dataset = dataset();
        let hash = hash_of(&dataset);
        std::fs::write(self.stage.dir().join("dataset.csv"), &dataset)
            .map_err(|e| self.wrong(format_args!("cannot write dataset.csv: {e}")))?;
        self.ok(RESEARCH, &["send-file", analysis, "dataset.csv"]).await?;
        self.ok(ANALYSIS, &["received"]).await?;
        let received = self.data(ANALYSIS, &["received"]).await?.unwrap_or_default();
        let file = &received["files"][0];
        let content = std::fs::read(file["path"].as_str().unwrap_or_default());
        let content = content.map_err(|e| self.wrong(format_args!("it is not there: {e}")))?;
        if file["hash"] != hash.as_str() || hash_of(&content) != hash {
            return Err(self.wrong("it is not the file that was sent"));
        }
        self.show_output(&format!("here and there {hash}"));
        self.done();
        Ok(())
    }

    /// The receiver is stopped in the middle of a file and started again.
    pub(super) async fn cut(
        &mut self,
        analysis: &str,
        registry: &str,
        beacon: &str,
    ) -> Result<(), Failure> {
        self.begin("Stop the receiver in the middle of a file: back again, it goes on from there");
        let content = dataset().repeat(COPIES);
        let hash = hash_of(&content);
        for n in 1..=TRIES {
            let name = format!("archive-{n}.csv");
            std::fs::write(self.stage.dir().join(&name), &content)
                .map_err(|e| self.wrong(format_args!("cannot write {name}: {e}")))?;
            let args = ["send-file", analysis, &name, "--json"];
            self.show_command(RESEARCH, &args);
            let (mut sending, mut told) = self.start(&args)?;
            let enough = content.len() as u64 / 4;
            let there = tokio::select! {
                there = self.part(enough) => there,
                _ = sending.wait() => 0,
            };
            if !self.stage.stop_one(ANALYSIS).await {
                return Err(self.wrong("the receiver did not stop well within its time"));
            }
            self.show_output(&format!(
                "stopped when {there} of {} bytes were there",
                content.len()
            ));
            let rest = tokio::spawn(async move { while next(&mut told).await.is_some() {} });
            self.up(ANALYSIS, registry, beacon).await?;
            let printed = self.printed(&mut sending).await?;
            let _ = rest.await;
            let data = &serde_json::from_str::<Value>(&printed).unwrap_or_default()["data"];
            let file = self.arrived(&name).await?;
            if file["hash"] != hash.as_str() {
                return Err(self.wrong("it is not the file that was sent"));
            }
            if let Some(at) = data["resumed_at"].as_u64().filter(|at| *at > 0) {
                self.show_output(&format!("went on at {at}; here and there {hash}"));
                self.done();
                return Ok(());
            }
            self.show_output("it was there before the cut, or nothing of it; once more");
        }
        Err(self.wrong("no file went on from where it was cut"))
    }

    /// Waits until so many bytes of a file are at the receiver, in part; how many there are.
    async fn part(&self, enough: u64) -> u64 {
        let partial = self.stage.dir().join(ANALYSIS).join("received/.partial");
        loop {
            let entries = std::fs::read_dir(&partial).into_iter().flatten().flatten();
            let there = entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).max();
            match there {
                Some(there) if there >= enough => return there,
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// A file, once it has been received.
    async fn arrived(&mut self, name: &str) -> Result<Value, Failure> {
        let files = |data: &Value| data["files"].as_array().cloned().unwrap_or_default();
        let named = |file: &Value| file["name"] == name;
        let has_come = |data: &Value| files(data).iter().any(named);
        let all = self.until(ANALYSIS, &["received"], "the file", has_come).await?;
        Ok(files(&all).into_iter().find(named).unwrap_or_default())
    }

    pub(super) async fn event(&mut self, analysis: &str) -> Result<(), Failure> {
        self.begin("Subscribe to what the other publishes");
        let args = ["subscribe", analysis, "results.>", "--count", "1", "--timeout", "20s"];
        self.show_command(RESEARCH, &args);
        let (mut hearing, mut told) = self.start(&args)?;
        // It says when it is subscribed; what was published before is not for it.
        if next(&mut told).await.is_none() {
            return Err(self.wrong("it is not subscribed"));
        }
        self.ok(ANALYSIS, &["publish", analysis, "results.rows", ROWS]).await?;
        let printed = self.printed(&mut hearing).await?;
        self.show_output(&printed);
        if !printed.contains(ROWS) {
            return Err(self.wrong("that is not the event"));
        }
        self.done();
        Ok(())
    }

    /// Starts a command; it, and the lines that it tells on standard error.
    fn start(&self, args: &[&str]) -> Result<(Child, impl AsyncBufRead + Unpin + use<>), Failure> {
        let started = self.stage.begin(RESEARCH, args);
        let mut child =
            started.map_err(|e| self.wrong(format_args!("cannot start a process: {e}")))?;
        let told = child.stderr.take().ok_or_else(|| self.wrong("it cannot be heard"))?;
        Ok((child, BufReader::new(told)))
    }

    /// What a command has printed, once it has ended well.
    async fn printed(&self, child: &mut Child) -> Result<String, Failure> {
        let mut text = String::new();
        let read = async {
            if let Some(mut output) = child.stdout.take() {
                tokio::io::AsyncReadExt::read_to_string(&mut output, &mut text).await?;
            }
            child.wait().await
        };
        match tokio::time::timeout(super::stage::COMMAND_MAX, read).await {
            Ok(Ok(status)) if status.success() => Ok(text.trim_end().to_owned()),
            Ok(Ok(status)) => Err(self.wrong(format_args!("it ended with {status}: {text}"))),
            Ok(Err(error)) => Err(self.wrong(format_args!("it cannot be heard: {error}"))),
            Err(_) => Err(self.wrong("it has not ended in time")),
        }
    }
}

async fn next(told: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    let read = told.read_line(&mut line).await.ok()?;
    (read > 0).then_some(line)
}

/// A table of numbers; the same each time.
fn dataset() -> Vec<u8> {
    let mut text = String::with_capacity(DATASET + 64);
    text.push_str("sample,temperature,pressure\n");
    let mut n: u64 = 0;
    while text.len() < DATASET {
        let mixed = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (t, p) = ((mixed >> 40) % 4000, (mixed >> 20) % 100_000);
        let _ = writeln!(text, "{n},{}.{:02},{p}", t / 100, t % 100);
        n += 1;
    }
    text.into_bytes()
}

fn hash_of(bytes: &[u8]) -> String {
    ContentHash::of(HashAlgorithm::Blake3, bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dataset_is_a_table() {
        let text = String::from_utf8(dataset()).unwrap();
        assert!(text.len() >= DATASET && text.ends_with('\n'));
        assert!(text.lines().all(|line| line.split(',').count() == 3));
    }
}
