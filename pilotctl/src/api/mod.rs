//! The local API: what travels as JSON under `/v1/` over the Unix socket, in the envelope of
//! [`crate::error`]. The command line is one client of it, curl another; `docs/pilotctl.md`
//! describes it. Texts that others chose are cleaned of control and bidirectional characters
//! by the daemon already.

mod agent;
mod events;
mod exchange;
mod process;
mod programs;
mod tasks;

pub(crate) use agent::*;
pub(crate) use events::*;
pub(crate) use exchange::*;
pub(crate) use process::*;
pub(crate) use programs::*;
pub(crate) use tasks::*;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The `Upgrade` token of the routes whose body is a raw stream in both directions.
pub(crate) const STREAM_PROTOCOL: &str = "pilot-stream";

/// A line of an answer that tells how things go before it tells how they ended: newline
/// separated JSON, asked for with `Accept: application/x-ndjson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Line_{P}_{T}")]
pub(crate) enum Line<P, T> {
    /// `{"progress":...}`
    Progress {
        /// How far it is.
        progress: P,
    },
    /// The envelope, last.
    End(crate::error::Envelope<T>),
}

/// The media type of such an answer.
pub(crate) const LINES: &str = "application/x-ndjson";

/// An empty object, for requests and answers that say nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// Drop counters by their stable names, zeros included: who watches one sees it from the start.
pub(crate) fn drops(drops: &pilot_core::stats::Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
}

#[cfg(test)]
mod tests {
    use pilot_core::stats::{DropReason, Drops};

    #[test]
    fn each_reason_to_drop_is_shown_and_documented() {
        let shown = super::drops(&Drops::new());
        let manual = include_str!("../../../docs/pilotctl.md");
        let (_, section) = manual.split_once("\n## What is dropped\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        for reason in DropReason::ALL {
            assert_eq!(shown.get(reason.as_str()), Some(&0), "{reason:?}");
            let row = format!("\n| `{}` | ", reason.as_str());
            assert_eq!(section.matches(&row).count(), 1, "{reason:?}");
        }
        assert_eq!(shown.len(), DropReason::ALL.len());
    }
}
