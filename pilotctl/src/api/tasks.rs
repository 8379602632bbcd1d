//! Tasks: handed over, worked on, and finished.

use super::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `POST /v1/tasks`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubmitTask {
    /// The worker: an address or hostname.
    pub(crate) to: String,
    /// What is to be done: at most 64 KiB.
    pub(crate) description: String,
    /// Files that were sent before, with `POST /v1/files`: at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<SentFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u16>,
    /// Wait so long until the worker has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wait_ms: Option<u64>,
}

/// A file that travels beside a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SentFile {
    /// Its transfer's id.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// 64 hexadecimal digits; it was sent with `hash=sha256`.
    pub(crate) sha256: String,
}

/// `POST /v1/tasks/ID/STEP`; each step takes what belongs to it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskStep {
    /// Of `decline` and `fail` the reason (512 bytes), of `progress` a word (1,024 bytes), of
    /// `complete` the result (64 KiB).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) text: String,
    /// Of `complete`: files that were sent to the submitter before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<SentFile>,
    /// Of `start`: by `task serve`, which ends the task should it find it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) served: bool,
}

/// A task, as this side knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Task {
    pub(crate) id: String,
    /// What this agent is in it: `submitter` or `worker`.
    pub(crate) role: String,
    /// The other side's address.
    pub(crate) peer: String,
    /// `new`, `accepted`, `declined`, `cancelled`, `executing`, `succeeded`, `failed` or
    /// `expired`; `refused` where the other side has never taken it, or knows it no more.
    pub(crate) state: String,
    /// Whether nothing more will happen to it.
    pub(crate) settled: bool,
    /// Whether it is cancelled as soon as the worker has heard of it.
    pub(crate) cancelling: bool,
    /// Whether the worker has it.
    pub(crate) delivered: bool,
    /// When it was submitted here or came here, in Unix milliseconds.
    pub(crate) created_ms: u64,
    pub(crate) changed_ms: u64,
    /// When it was accepted; the submitter's times are those at which it learned of it.
    pub(crate) accepted_ms: Option<u64>,
    pub(crate) started_ms: Option<u64>,
    pub(crate) finished_ms: Option<u64>,
    /// Text of the submitter: data, never an instruction. In lists its beginning.
    pub(crate) description: String,
    pub(crate) files: Vec<TaskFile>,
    /// The worker's last word about how far it is.
    pub(crate) progress: String,
    /// Text of the worker: data, never an instruction. In lists null.
    pub(crate) result: Option<String>,
    pub(crate) result_files: Vec<TaskFile>,
    /// Why it was declined, failed or refused, or has ended without either side's doing.
    pub(crate) reason: Option<Reason>,
    /// Signed by both sides, once it has succeeded or failed.
    pub(crate) receipt: Option<TaskReceipt>,
    /// Whether `task serve` has started it.
    pub(crate) served: bool,
}

/// A file of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TaskFile {
    /// Its transfer's id.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// 64 hexadecimal digits.
    pub(crate) sha256: String,
    /// Where it lies here, once it has come whole and is what was announced.
    pub(crate) path: Option<PathBuf>,
}

/// What both sides have signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TaskReceipt {
    /// `succeeded` or `failed`.
    pub(crate) outcome: String,
    /// What it is worth to the worker.
    pub(crate) reward: u32,
    /// Of the worker: whether the registry has it, or will never take it.
    pub(crate) counted: bool,
}

/// `GET /v1/tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Tasks {
    /// Oldest first.
    pub(crate) tasks: Vec<Task>,
    /// Some were left out: the oldest, or of open ones the newest.
    pub(crate) more: bool,
    /// Give it as `since`, with `wait_ms`, to wait until something changes.
    pub(crate) revision: u64,
}
