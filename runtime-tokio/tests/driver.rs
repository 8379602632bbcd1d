//! What every adapter's driver does, on either kind of tokio's runtimes.

use pilot_tokio::Tokio;
use tokio::runtime::Builder;

mod one_thread {
    use super::{Builder, Tokio};

    fn run(future: impl Future<Output = ()>) {
        Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future);
    }

    pilot_core::driver_conformance!(Tokio, run);
}

mod several_threads {
    use super::{Builder, Tokio};

    fn run(future: impl Future<Output = ()>) {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime").block_on(future);
    }

    pilot_core::driver_conformance!(Tokio, run);
}
