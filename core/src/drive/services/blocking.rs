//! Calls that wait on their thread, each at most for a time (`None`: for ever). What was waited
//! for may still come after that, and nothing of it is lost.

use super::broker::{Broker, BrokerConnection};
use super::echo::{Echo, EchoServer};
use super::error::{EventsFailure, TransferError};
use super::events::{EventsClient, Heard};
use super::incoming::{Incoming, Received};
use super::messages::{Messages, Receipt};
use super::served::{EchoService, ExchangeService, Served, Service};
use super::upload::{Accepted, Upload};
use crate::addr::Port;
use crate::drive::agent::{ConnectError, ListenError, StreamHandle};
use crate::drive::blocking::{Agent, WaitError, wait, wait_in_line};
use crate::drive::io::Clock as _;
use crate::drive::ready::{ReadyRuntime, Waker, block};
use crate::node::Target;
use crate::service::events::{BrokerLimits, Request};
use crate::service::exchange::{Digest, Kind, Misuse, Note, Offer, TransferId};
use crate::time::{Duration, Instant};
use core::task::Poll;
use std::io;

pub(super) type Wait = Option<Duration>;

/// What is left of a time for several steps.
fn left<R: ReadyRuntime>(host: R::Host, until: Option<Instant>) -> Wait {
    until.map(|until| until.since(host.now()))
}

/// Polls `step`, also when the time that it names has come.
pub(super) fn timed<R: ReadyRuntime, T, E>(
    host: R::Host,
    timeout: Wait,
    mut step: impl FnMut(&Waker) -> (Poll<Result<T, E>>, Instant),
) -> Result<T, WaitError<E>> {
    let until = timeout.map(|timeout| host.now() + timeout);
    let mut due = host.now();
    loop {
        let slice = until.map_or(due, |until| until.min(due)).since(host.now());
        let done = block(&host, Some(slice), |waker| {
            let (poll, next) = step(waker);
            due = next;
            poll
        });
        match done {
            Some(result) => return result.map_err(WaitError::Failed),
            None if until.is_some_and(|until| host.now() >= until) => {
                return Err(WaitError::TimedOut);
            }
            None => {}
        }
    }
}

impl<R: ReadyRuntime> Agent<R> {
    fn open(
        &self,
        to: Target,
        port: Port,
        timeout: Wait,
    ) -> Result<StreamHandle<R>, WaitError<ConnectError>> {
        let mut connecting = self.keep_alive().begin_connect_to(to, port)?;
        wait(self, timeout, |waker| connecting.poll(waker))
    }

    /// Opens a stream of messages to an agent.
    pub fn connect_messages(
        &self,
        to: impl Into<Target>,
        timeout: Wait,
    ) -> Result<Messages<R>, WaitError<TransferError>> {
        let incarnation = self.incarnation()?;
        let stream = self.open(to.into(), Port::DATA_EXCHANGE, timeout).map_err(WaitError::into)?;
        Ok(Messages::new(stream, incarnation))
    }

    /// Sends one message of at most 1 MiB, and waits until the receiver has acknowledged it.
    pub fn send_message(
        &self,
        to: impl Into<Target>,
        kind: Kind,
        content: &[u8],
        timeout: Wait,
    ) -> Result<TransferId, WaitError<TransferError>> {
        let host = self.shared().host();
        let until = timeout.map(|timeout| host.now() + timeout);
        let mut messages = self.connect_messages(to, timeout)?;
        messages.wait_send(kind, content, left::<R>(host, until))
    }

    /// Offers a file to an agent, and waits for the answer; [`Upload::wait_accepted`] tells it.
    pub fn upload(
        &self,
        to: impl Into<Target>,
        offer: &Offer,
        timeout: Wait,
    ) -> Result<Upload<R>, WaitError<TransferError>> {
        let host = self.shared().host();
        let until = timeout.map(|timeout| host.now() + timeout);
        let stream = self.open(to.into(), Port::DATA_EXCHANGE, timeout).map_err(WaitError::into)?;
        let mut upload = Upload::new(stream, offer)?;
        upload.wait_accepted(left::<R>(host, until))?;
        Ok(upload)
    }

    /// Connects to an agent's broker of events.
    pub fn connect_events(
        &self,
        to: impl Into<Target>,
        timeout: Wait,
    ) -> Result<EventsClient<R>, WaitError<EventsFailure>> {
        let stream = self.open(to.into(), Port::EVENTS, timeout).map_err(WaitError::into)?;
        Ok(EventsClient::new(stream))
    }

    /// Opens a stream for measuring round trips to an agent.
    pub fn connect_echo(
        &self,
        to: impl Into<Target>,
        timeout: Wait,
    ) -> Result<Echo<R>, WaitError<ConnectError>> {
        Ok(Echo::new(self.open(to.into(), Port::ECHO, timeout)?))
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

impl<R: ReadyRuntime, S: Service<R>> Served<R, S> {
    /// Waits for the next stream. Any number of threads may wait.
    pub fn wait_accept(&self, timeout: Wait) -> Result<S::Connection, WaitError<ListenError>> {
        wait_in_line(&self.agent, timeout, |ticket, waker| self.poll_accept(ticket, waker))
    }
}

impl<R: ReadyRuntime> Messages<R> {
    /// Sends a message, and waits until the receiver has acknowledged it. What becomes of messages
    /// that were queued before is passed over: who wants to know asks for their
    /// [receipts](Self::wait_receipt) first. After the timeout it may still be delivered.
    pub fn wait_send(
        &mut self,
        kind: Kind,
        content: &[u8],
        timeout: Wait,
    ) -> Result<TransferId, WaitError<TransferError>> {
        let host = self.host();
        let until = timeout.map(|timeout| host.now() + timeout);
        while !self.has_room() {
            self.wait_receipt(left::<R>(host, until))?;
        }
        let id = self.queue(kind, Note::default(), content)?;
        loop {
            match self.wait_receipt(left::<R>(host, until))? {
                Some(receipt) if receipt.id == id => return Ok(receipt.delivered()?),
                Some(_) => {}
                None => return Err(TransferError::from(Misuse::State).into()),
            }
        }
    }

    /// Sends what was queued, and waits for the next receipt; `None` when no message is without.
    pub fn wait_receipt(
        &mut self,
        timeout: Wait,
    ) -> Result<Option<Receipt>, WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_receipt(waker))
    }
}

/// See [`wait`].
pub(super) fn wait_at<R: ReadyRuntime, T, E>(
    host: R::Host,
    timeout: Wait,
    poll: impl FnMut(&Waker) -> Poll<Result<T, E>>,
) -> Result<T, WaitError<E>> {
    block(&host, timeout, poll).ok_or(WaitError::TimedOut)?.map_err(WaitError::Failed)
}

impl<R: ReadyRuntime> Upload<R> {
    /// Waits for the answer to the offer.
    pub fn wait_accepted(&mut self, timeout: Wait) -> Result<Accepted, WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_accepted(waker))
    }

    /// Takes the next bytes of the content; how many.
    pub fn wait_write(
        &mut self,
        bytes: &[u8],
        timeout: Wait,
    ) -> Result<usize, WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_write(waker, bytes))
    }

    /// Waits until the receiver has acknowledged the whole content; its hash, unless the receiver
    /// [had](Accepted::Already) it all.
    pub fn wait_receipt(
        &mut self,
        timeout: Wait,
    ) -> Result<Option<Digest>, WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_receipt(waker))
    }
}

/// As [`Upload::wait_write`], without a limit of time.
impl<R: ReadyRuntime> io::Write for Upload<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_write(bytes, None).map_err(io::Error::other)
    }

    /// Nothing waits to be asked for.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: ReadyRuntime> Incoming<R> {
    /// Waits for the next message, or a file that is offered; `None` when the sender has said its
    /// last. With a timeout of zero: what is here already can be made durable together.
    pub fn wait_next(
        &mut self,
        timeout: Wait,
    ) -> Result<Option<Received>, WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_next(waker))
    }

    /// Reads the content of the file that was accepted; 0 bytes at its end.
    pub fn wait_read(
        &mut self,
        buf: &mut [u8],
        timeout: Wait,
    ) -> Result<usize, WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_read(waker, buf))
    }

    /// Waits until the stream has taken all acknowledgements.
    pub fn wait_flush(&mut self, timeout: Wait) -> Result<(), WaitError<TransferError>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_flush(waker))
    }
}

/// As [`Incoming::wait_read`], without a limit of time.
impl<R: ReadyRuntime> io::Read for Incoming<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait_read(buf, None).map_err(io::Error::other)
    }
}

impl<R: ReadyRuntime> EventsClient<R> {
    /// Subscribes to all topics that match; see [`begin_subscribe`](Self::begin_subscribe).
    pub fn wait_subscribe(
        &mut self,
        pattern: &str,
        retained: bool,
        timeout: Wait,
    ) -> Result<(), WaitError<EventsFailure>> {
        let request = self.begin_subscribe(pattern, retained)?;
        self.wait_answered(request, timeout).map(drop)
    }

    /// Publishes; into how many queues it went. See [`begin_publish`](Self::begin_publish).
    pub fn wait_publish(
        &mut self,
        topic: &str,
        data: &[u8],
        retain: bool,
        timeout: Wait,
    ) -> Result<u32, WaitError<EventsFailure>> {
        let request = self.begin_publish(topic, data, retain)?;
        self.wait_answered(request, timeout)
    }

    /// The answer to a request that nobody else knows of: after the timeout it is passed over.
    fn wait_answered(
        &mut self,
        request: Request,
        timeout: Wait,
    ) -> Result<u32, WaitError<EventsFailure>> {
        let answer = self.wait_done(request, timeout);
        if let Err(WaitError::TimedOut) = answer {
            self.disregard(request);
        }
        answer
    }

    /// Waits for the answer to a request.
    pub fn wait_done(
        &mut self,
        request: Request,
        timeout: Wait,
    ) -> Result<u32, WaitError<EventsFailure>> {
        let host = self.host();
        timed::<R, _, _>(host, timeout, |waker| (self.poll_done(waker, request), self.due()))
    }

    /// Waits for the next event, and keeps the connection alive meanwhile.
    pub fn wait_next(&mut self, timeout: Wait) -> Result<Heard, WaitError<EventsFailure>> {
        let host = self.host();
        timed::<R, _, _>(host, timeout, |waker| (self.poll_next(waker), self.due()))
    }
}

impl<R: ReadyRuntime> BrokerConnection<R> {
    /// Serves until the peer has ended and has all answers.
    pub fn wait_serve(&mut self, timeout: Wait) -> Result<(), WaitError<EventsFailure>> {
        let host = self.host();
        timed::<R, _, _>(host, timeout, |waker| (self.poll_serve(waker), self.due()))
    }
}

impl<R: ReadyRuntime> EchoServer<R> {
    /// Serves until the peer has ended and has everything back.
    pub fn wait_serve(&mut self, timeout: Wait) -> Result<(), WaitError<io::Error>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_serve(waker))
    }
}

impl<R: ReadyRuntime> Echo<R> {
    /// How long 64 bytes need there and back.
    pub fn wait_round_trip(&mut self, timeout: Wait) -> Result<Duration, WaitError<io::Error>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_round_trip(waker))
    }
}
