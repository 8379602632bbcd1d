//! The suite that every adapter passes, over real sockets and with the real rendezvous.

#[path = "support/subject.rs"]
mod subject;

use pilot_rendezvous::conformance::TestServer;
use subject::Tokio;

pilot_core::conformance!(Tokio, TestServer);
