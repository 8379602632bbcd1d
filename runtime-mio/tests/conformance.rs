//! The suite that every adapter passes, over real sockets and with the real rendezvous.

#[path = "support/subject.rs"]
mod subject;

use pilot_rendezvous::conformance::TestServer;
use subject::Mio;

pilot_core::conformance!(Mio, TestServer);
