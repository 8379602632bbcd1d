//! The futures of runtimes that have some.

use super::broker::{Broker, BrokerConnection};
use super::echo::{Echo, EchoServer};
use super::error::{EventsFailure, TransferError};
use super::events::{EventsClient, Heard};
use super::incoming::{Incoming, Received};
use super::messages::{Messages, Receipt};
use super::served::{EchoService, ExchangeService, Served, Service};
use super::upload::{Accepted, Upload};
use crate::addr::Port;
use crate::drive::agent::{Agent, ConnectError, ListenError, Place, StreamHandle};
use crate::drive::runtime::{AsyncRuntime, Runtime, Timer as _};
use crate::node::Target;
use crate::service::events::{BrokerLimits, Request};
use crate::service::exchange::{Digest, Kind, Misuse, Note, Offer, TransferId};
use crate::time::{Duration, Instant};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use std::io;

/// Polls `step`, also when the time that it names has come. Where that is past once more, others
/// of its thread are let run first: nothing here may keep a thread for itself.
pub(super) async fn timed<R: AsyncRuntime, T>(
    host: R::Host,
    mut step: impl FnMut(&Waker) -> (Poll<T>, Instant),
) -> T {
    let mut timer = None;
    poll_fn(|cx| {
        for _ in 0..2 {
            let (poll, due) = step(cx.waker());
            if poll.is_ready() {
                return poll;
            }
            let timer = timer.get_or_insert_with(|| R::timer(&host));
            timer.set(due);
            if timer.poll_fired(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

impl<R: AsyncRuntime> Agent<R> {
    async fn open(&self, to: Target, port: Port) -> Result<StreamHandle<R>, ConnectError> {
        let mut connecting = self.keep_alive().begin_connect_to(to, port)?;
        poll_fn(|cx| connecting.poll(cx.waker())).await
    }

    /// Opens a stream of messages to an agent.
    pub async fn connect_messages(
        &self,
        to: impl Into<Target>,
    ) -> Result<Messages<R>, TransferError> {
        let incarnation = self.incarnation()?;
        let stream = self.open(to.into(), Port::DATA_EXCHANGE).await?;
        Ok(Messages::new(stream, incarnation))
    }

    /// Sends one message of at most 1 MiB, and waits until the receiver has acknowledged it. For
    /// more than one, [`connect_messages`](Self::connect_messages) once is cheaper.
    pub async fn send_message(
        &self,
        to: impl Into<Target>,
        kind: Kind,
        content: &[u8],
    ) -> Result<TransferId, TransferError> {
        self.connect_messages(to).await?.send(kind, content).await
    }

    /// Offers a file to an agent, and waits for the answer; [`Upload::accepted`] tells it.
    pub async fn upload(
        &self,
        to: impl Into<Target>,
        offer: &Offer,
    ) -> Result<Upload<R>, TransferError> {
        let stream = self.open(to.into(), Port::DATA_EXCHANGE).await?;
        let mut upload = Upload::new(stream, offer)?;
        upload.accepted().await?;
        Ok(upload)
    }

    /// Connects to an agent's broker of events.
    pub async fn connect_events(
        &self,
        to: impl Into<Target>,
    ) -> Result<EventsClient<R>, EventsFailure> {
        Ok(EventsClient::new(self.open(to.into(), Port::EVENTS).await?))
    }

    /// Opens a stream for measuring round trips to an agent.
    pub async fn connect_echo(&self, to: impl Into<Target>) -> Result<Echo<R>, ConnectError> {
        Ok(Echo::new(self.open(to.into(), Port::ECHO).await?))
    }

    /// Receives messages and files.
    pub fn listen_exchange(&self) -> Result<Served<R, ExchangeService>, ListenError> {
        self.keep_alive().listen_exchange()
    }

    /// Is a broker of events.
    pub fn listen_events(&self, limits: BrokerLimits) -> Result<Served<R, Broker<R>>, ListenError> {
        self.keep_alive().listen_events(limits)
    }

    /// Sends back what peers send.
    pub fn listen_echo(&self) -> Result<Served<R, EchoService>, ListenError> {
        self.keep_alive().listen_echo()
    }
}

impl<R: AsyncRuntime, S: Service<R>> Served<R, S> {
    /// The next stream. Any number of tasks may wait; dropping the future loses no stream.
    pub async fn accept(&self) -> Result<S::Connection, ListenError> {
        let mut place = Place::new(&self.agent);
        poll_fn(|cx| self.poll_accept(&mut place.ticket, cx.waker())).await
    }
}

impl<R: AsyncRuntime> Messages<R> {
    /// Sends a message, and waits until the receiver has acknowledged it. What becomes of messages
    /// that were queued before is passed over: who wants to know asks for their
    /// [receipts](Self::receipt) first. Dropping the future leaves it queued.
    pub async fn send(&mut self, kind: Kind, content: &[u8]) -> Result<TransferId, TransferError> {
        while !self.has_room() {
            self.receipt().await?;
        }
        let id = self.queue(kind, Note::default(), content)?;
        loop {
            match self.receipt().await? {
                Some(receipt) if receipt.id == id => return receipt.delivered(),
                Some(_) => {}
                None => return Err(Misuse::State.into()),
            }
        }
    }

    /// Sends what was queued, and waits for the next receipt; `None` when no message is without.
    pub async fn receipt(&mut self) -> Result<Option<Receipt>, TransferError> {
        poll_fn(|cx| self.poll_receipt(cx.waker())).await
    }
}

impl<R: AsyncRuntime> Upload<R> {
    /// Waits for the answer to the offer.
    pub async fn accepted(&mut self) -> Result<Accepted, TransferError> {
        poll_fn(|cx| self.poll_accepted(cx.waker())).await
    }

    /// Takes the next bytes of the content; how many.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, TransferError> {
        poll_fn(|cx| self.poll_write(cx.waker(), bytes)).await
    }

    /// Takes all of these.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), TransferError> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes).await?..];
        }
        Ok(())
    }

    /// Waits until the receiver has acknowledged the whole content; its hash, unless the receiver
    /// [had](Accepted::Already) it all.
    pub async fn receipt(&mut self) -> Result<Option<Digest>, TransferError> {
        poll_fn(|cx| self.poll_receipt(cx.waker())).await
    }
}

impl<R: AsyncRuntime> Incoming<R> {
    /// The next message, or a file that is offered; `None` when the sender has said its last.
    pub async fn next(&mut self) -> Result<Option<Received>, TransferError> {
        poll_fn(|cx| self.poll_next(cx.waker())).await
    }

    /// The same, or `None` if there is none at present: what is here can be made durable together.
    pub async fn next_here(&mut self) -> Result<Option<Received>, TransferError> {
        poll_fn(|cx| match self.poll_next(cx.waker()) {
            Poll::Ready(next) => Poll::Ready(next),
            Poll::Pending => Poll::Ready(Ok(None)),
        })
        .await
    }

    /// Reads the content of the file that was accepted; 0 bytes at its end.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<usize, TransferError> {
        poll_fn(|cx| self.poll_read(cx.waker(), buf)).await
    }

    /// Waits until the stream has taken all acknowledgements.
    pub async fn flush(&mut self) -> Result<(), TransferError> {
        poll_fn(|cx| self.poll_flush(cx.waker())).await
    }
}

impl<R: AsyncRuntime> EventsClient<R> {
    /// Subscribes to all topics that match; see [`begin_subscribe`](Self::begin_subscribe).
    pub async fn subscribe(&mut self, pattern: &str, retained: bool) -> Result<(), EventsFailure> {
        let request = self.begin_subscribe(pattern, retained)?;
        self.answered(request).await.map(drop)
    }

    /// Publishes; into how many queues it went. See [`begin_publish`](Self::begin_publish).
    pub async fn publish(
        &mut self,
        topic: &str,
        data: &[u8],
        retain: bool,
    ) -> Result<u32, EventsFailure> {
        let request = self.begin_publish(topic, data, retain)?;
        self.answered(request).await
    }

    /// The answer to a request that nobody else knows of: dropped, it is passed over.
    async fn answered(&mut self, request: Request) -> Result<u32, EventsFailure> {
        let mut wanted = Wanted { client: self, request: Some(request) };
        let answer = wanted.client.done(request).await;
        wanted.request = None;
        answer
    }

    /// Waits for the answer to a request.
    pub async fn done(&mut self, request: Request) -> Result<u32, EventsFailure> {
        let host = self.host();
        timed::<R, _>(host, |waker| (self.poll_done(waker, request), self.due())).await
    }

    /// Waits for the next event, and keeps the connection alive meanwhile.
    pub async fn next(&mut self) -> Result<Heard, EventsFailure> {
        let host = self.host();
        timed::<R, _>(host, |waker| (self.poll_next(waker), self.due())).await
    }
}

/// A request that somebody waits for.
struct Wanted<'c, R: Runtime> {
    client: &'c mut EventsClient<R>,
    request: Option<Request>,
}

impl<R: Runtime> Drop for Wanted<'_, R> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.client.disregard(request);
        }
    }
}

impl<R: AsyncRuntime> BrokerConnection<R> {
    /// Serves until the peer has ended and has all answers.
    pub async fn serve(&mut self) -> Result<(), EventsFailure> {
        let host = self.host();
        timed::<R, _>(host, |waker| (self.poll_serve(waker), self.due())).await
    }
}

impl<R: AsyncRuntime> EchoServer<R> {
    /// Serves until the peer has ended and has everything back.
    pub async fn serve(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_serve(cx.waker())).await
    }
}

impl<R: AsyncRuntime> Echo<R> {
    /// How long 64 bytes need there and back.
    pub async fn round_trip(&mut self) -> io::Result<Duration> {
        poll_fn(|cx| self.poll_round_trip(cx.waker())).await
    }
}
