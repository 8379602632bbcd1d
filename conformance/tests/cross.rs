//! Agents of different adapters meet.

// Each adapter's subject is the one of its own suite.
#[path = "../../runtime-mio/tests/support/subject.rs"]
mod mio_subject;
#[path = "../../runtime-smol/tests/support/subject.rs"]
mod smol_subject;
#[path = "../../runtime-tokio/tests/support/subject.rs"]
mod tokio_subject;

use mio_subject::Mio;
use pilot_rendezvous::conformance::TestServer;
use smol_subject::Smol;
use tokio_subject::Tokio;

/// With itself: two agents of one adapter in two processes' stead.
mod tokio_and_tokio {
    use super::{TestServer, Tokio};

    pilot_core::cross!(Tokio, Tokio, TestServer);
}

mod tokio_and_smol {
    use super::{Smol, TestServer, Tokio};

    pilot_core::cross!(Tokio, Smol, TestServer);
}

mod smol_and_mio {
    use super::{Mio, Smol, TestServer};

    pilot_core::cross!(Smol, Mio, TestServer);
}

mod mio_and_tokio {
    use super::{Mio, TestServer, Tokio};

    pilot_core::cross!(Mio, Tokio, TestServer);
}
