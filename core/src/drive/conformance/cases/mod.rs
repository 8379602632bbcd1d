//! The cases. Each is a function over the agent that connects, the one that accepts, and the
//! rendezvous; it returns, or panics with what is wrong.

mod cancel;
mod datagrams;
mod end;
mod host;
mod meeting;
mod recovery;
mod services;
mod stalled;
mod streams;
mod tasks;

pub use super::list::CASES;
pub use cancel::*;
pub use datagrams::*;
pub use end::*;
pub use host::*;
pub use meeting::*;
pub use recovery::*;
pub use services::*;
pub use stalled::*;
pub use streams::*;
pub use tasks::*;

use super::run::{abandon, all, block_on, both, race, sleep, step, until, within};
use super::stage::{PORT, Pipe, Stage, befriend, hear, kill, put, take};
use super::{Calls, Failure, Fault, News, Rendezvous, Setup, Subject, check, fill};
use crate::addr::{Port, SocketAddress};
use crate::node::{CommandError, Link, RequestError, StreamEnd, StreamError, Target};
use crate::stats::DropReason;
use core::time::Duration;

const MS: Duration = Duration::from_millis(1);
