//! The runtimes that agents run on, each with one thread an end.

use crate::contest::Duplex;
use crate::measure::runtime;
use pilot_core::drive::AsyncRuntime;
use pilot_core::drive::agent::{Agent, Builder, StartError};
use pilot_smol::Smol;
use pilot_tokio::Tokio;
use smol::LocalExecutor;
use smol::io::{AsyncRead as _, AsyncWrite as _};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An adapter, and how its programs run.
pub trait Adapter: AsyncRuntime<Host: Default, Stream: Send> {
    /// The stream with the traits by which exchanges read and write.
    type Duplex: Duplex;

    fn duplex(stream: Self::Stream) -> Self::Duplex;

    /// Binds an agent whose tasks run on this thread.
    fn bind(builder: Builder<Self>)
    -> impl Future<Output = Result<Agent<Self>, StartError>> + Send;

    fn sleep(time: Duration) -> impl Future<Output = ()> + Send;

    /// Starts a task on this thread.
    fn spawn_here<T: Send + 'static>(
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static;

    /// Runs a future, and the tasks that it starts, on this thread.
    fn block_on<F: Future>(future: F) -> F::Output;
}

/// A current-thread runtime.
impl Adapter for Tokio {
    type Duplex = pilot_tokio::Stream;

    fn duplex(stream: pilot_tokio::Stream) -> pilot_tokio::Stream {
        stream
    }

    fn bind(
        builder: Builder<Self>,
    ) -> impl Future<Output = Result<Agent<Self>, StartError>> + Send {
        builder.bind()
    }

    fn sleep(time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }

    fn spawn_here<T: Send + 'static>(
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let task = tokio::spawn(task);
        async { task.await.expect("an end has panicked") }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        runtime().block_on(future)
    }
}

thread_local! {
    static EXECUTOR: LocalExecutor<'static> = const { LocalExecutor::new() };
}

/// A local executor, driven by async-io. The event queue is one of the process, though: two
/// ends on two cores share it.
impl Adapter for Smol {
    type Duplex = Tokioed;

    fn duplex(stream: pilot_smol::Stream) -> Tokioed {
        Tokioed(stream)
    }

    fn bind(
        builder: Builder<Self>,
    ) -> impl Future<Output = Result<Agent<Self>, StartError>> + Send {
        builder.bind_with(|task| EXECUTOR.with(|executor| executor.spawn(task).detach()))
    }

    async fn sleep(time: Duration) {
        smol::Timer::after(time).await;
    }

    fn spawn_here<T: Send + 'static>(
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        EXECUTOR.with(|executor| executor.spawn(task))
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        EXECUTOR.with(|executor| smol::block_on(executor.run(future)))
    }
}

/// A stream of futures-io with tokio's traits.
pub struct Tokioed(pilot_smol::Stream);

impl AsyncRead for Tokioed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(cx, buf.initialize_unfilled());
        buf.advance(ready!(read)?);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tokioed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
