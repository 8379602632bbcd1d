//! An agent of this adapter as the conformance suite wants it: on an executor and thread of its
//! own.

use pilot_smol::{Agent, Builder, OwnedReadHalf, OwnedWriteHalf};
use smol::channel::{self, Sender};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Executor, Timer};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The longest that an agent may need for its end after its last handle is gone.
const LINGER: Duration = Duration::from_secs(3);

/// An agent on an executor that one thread runs.
pub(crate) struct Smol {
    agent: Agent,
    executor: Arc<Executor<'static>>,
    /// Dropped with this: the thread ends some time later.
    _runs: Sender<()>,
}

impl Smol {
    fn host(builder: Builder) -> Self {
        let executor = Arc::new(Executor::new());
        let (runs, over) = channel::bounded::<()>(1);
        let run = Arc::clone(&executor);
        std::thread::spawn(move || {
            smol::block_on(run.run(async {
                let _ = over.recv().await;
                Timer::after(LINGER).await;
            }));
        });
        let bind = builder.bind_with(|task| executor.spawn(task).detach());
        let agent = smol::block_on(bind).expect("the agent starts");
        Smol { agent, executor, _runs: runs }
    }

    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn hold_up(&self, time: Duration) {
        self.executor.spawn(async move { std::thread::sleep(time) }).detach();
    }

    async fn read(half: &mut OwnedReadHalf, buf: &mut [u8]) -> io::Result<usize> {
        half.read(buf).await
    }

    async fn write(half: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<usize> {
        half.write(bytes).await
    }

    async fn close(half: &mut OwnedWriteHalf) -> io::Result<()> {
        half.close().await
    }
}

pilot_core::async_subject!(Smol, pilot_smol, Smol);
