//! An agent of this adapter as the conformance suite wants it: on a runtime and thread of its
//! own.

use pilot_tokio::{Agent, Builder, OwnedReadHalf, OwnedWriteHalf};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// The longest that an agent may need for its end after its last handle is gone.
const LINGER: Duration = Duration::from_secs(3);

/// An agent on a current-thread runtime.
pub(crate) struct Tokio {
    agent: Agent,
    runtime: Handle,
    /// Dropped with this: the thread ends some time later.
    _runs: oneshot::Sender<()>,
}

impl Tokio {
    fn host(builder: Builder) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (runs, over) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let bound = builder.bind().await.expect("the agent starts");
                let _ = sender.send((bound, Handle::current()));
                let _ = over.await;
                tokio::time::sleep(LINGER).await;
            });
        });
        let (agent, runtime) = receiver.recv().expect("the agent starts");
        Tokio { agent, runtime, _runs: runs }
    }

    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn hold_up(&self, time: Duration) {
        self.runtime.spawn(async move { std::thread::sleep(time) });
    }

    async fn read(half: &mut OwnedReadHalf, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        poll_fn(|cx| Pin::new(&mut *half).poll_read(cx, &mut buf)).await?;
        Ok(buf.filled().len())
    }

    async fn write(half: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *half).poll_write(cx, bytes)).await
    }

    async fn close(half: &mut OwnedWriteHalf) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *half).poll_shutdown(cx)).await
    }
}

pilot_core::async_subject!(Tokio, pilot_tokio, Tokio);
