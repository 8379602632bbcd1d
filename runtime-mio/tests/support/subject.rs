//! An agent of this adapter as the conformance suite wants it: its loop runs on a thread of its
//! own, and tells whoever asked in vain that asking again is worth while.

use pilot_core::drive::agent::KeepAlive;
use pilot_core::drive::conformance::{Calls, Facts, Failure, Fault, News, Setup, Subject};
use pilot_core::drive::{IoStats, ready};
use pilot_core::stats::Drops;
use pilot_mio::{
    Address, Agent, AgentInfo, Answer, Change, Command, Datagrams, Events, Hostname, Id, Identity,
    Link, Listener, Loop, NetworkId, PeerInfo, Port, Question, Ready, SocketAddress, Store, Stream,
    Tags, Target, TrustRequestInfo,
};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Who is told of a readiness: all that asked in vain since the one before.
#[derive(Default)]
struct Calling {
    waiting: Mutex<BTreeMap<Key, Vec<Waker>>>,
    /// The loop's thread sleeps for so many milliseconds at its next turn.
    pause: AtomicU64,
}

/// A readiness without its name, and a number for those of the agent itself.
type Key = (u8, u64);

fn key(ready: Ready) -> Key {
    match ready {
        Ready::Readable(Id(id)) => (0, id),
        Ready::Writable(Id(id)) => (1, id),
        Ready::Connected(Id(id)) => (2, id),
        Ready::Acceptable(Id(id)) => (3, id),
        Ready::Datagram(Id(id)) => (4, id),
        Ready::Answered(Id(id)) => (5, id),
        Ready::Event(Id(id)) => (6, id),
        Ready::Registered => (7, 0),
        Ready::Ended => (8, 0),
        other => panic!("{other:?}"),
    }
}

impl Calling {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<Waker>>> {
        self.waiting.lock().unwrap()
    }

    /// Runs until the agent has ended.
    fn run(&self, mut events: Loop) {
        while !events.is_ended() {
            let pause = self.pause.swap(0, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(pause));
            // The thread also looks for pauses now and then.
            events.poll(Some(Duration::from_millis(20))).expect("the event queue");
            while let Some(ready) = events.next_ready() {
                let wakers = self.waiting().remove(&key(ready));
                wakers.into_iter().flatten().for_each(Waker::wake);
            }
        }
    }

    /// One attempt; if it is to be repeated, the waker is called at its readiness. The waker is
    /// kept before the attempt, as the readiness may come at once.
    fn attempt<T>(
        &self,
        ready: Ready,
        cx: &mut Context<'_>,
        attempt: impl FnOnce() -> Option<T>,
    ) -> Poll<T> {
        self.waiting().entry(key(ready)).or_default().push(cx.waker().clone());
        match attempt() {
            Some(result) => {
                if let Some(wakers) = self.waiting().get_mut(&key(ready)) {
                    wakers.retain(|waker| !waker.will_wake(cx.waker()));
                }
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }

    async fn wait<T>(&self, ready: Ready, mut attempt: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| self.attempt(ready, cx, &mut attempt)).await
    }
}

/// A call of the adapter: nothing if it would block.
fn some<T, E>(result: Result<Option<T>, E>) -> Option<Result<T, E>> {
    result.transpose()
}

fn io_some<T>(result: io::Result<T>) -> Option<Result<T, Failure>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        result => Some(result.map_err(Failure::from)),
    }
}

/// An agent whose loop runs on a thread of its own.
pub(crate) struct Mio {
    agent: Agent,
    calling: Arc<Calling>,
}

/// A handle, and who calls when it is ready.
pub(crate) struct Called<H>(H, Arc<Calling>);

/// Finishes when dropped.
pub(crate) struct Writer(Called<Stream>);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.0.finish();
    }
}

struct StoredFacts(Facts);

impl Store for StoredFacts {
    fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> io::Result<()> {
        self.0.load(each);
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        self.0.commit(changes);
        Ok(())
    }
}

impl Mio {
    fn called<H>(&self, handle: H) -> Called<H> {
        Called(handle, Arc::clone(&self.calling))
    }

    async fn ask(&self, command: Command<'_>) -> Result<Answer, Failure> {
        let mut question: Question = self.agent.ask(command).map_err(Failure::from)?;
        let ready = Ready::Answered(question.id());
        let answer = self.calling.wait(ready, || some(question.try_answer())).await;
        answer.map_err(Failure::from)
    }
}

fn halves(stream: Stream, calling: &Arc<Calling>) -> (Called<Stream>, Writer) {
    let reader = Called(stream.clone(), Arc::clone(calling));
    (reader, Writer(Called(stream, Arc::clone(calling))))
}

impl Subject for Mio {
    type Runtime = pilot_mio::Mio;
    type Reader = Called<Stream>;
    type Writer = Writer;
    type Listener = Called<Listener>;
    type Datagrams = Called<Datagrams>;
    type Receiver = Called<Events>;

    fn start(setup: Setup) -> Self {
        let builder = Agent::builder(Identity::from_secret(setup.secret))
            .registry(setup.registry)
            .beacon(setup.beacon)
            .listen(setup.listen)
            .limits(setup.limits)
            .store(StoredFacts(setup.facts));
        let (agent, events) = Loop::start(builder).expect("the agent starts");
        let calling = Arc::<Calling>::default();
        let runs = Arc::clone(&calling);
        std::thread::spawn(move || runs.run(events));
        Mio { agent, calling }
    }

    fn keep_alive(&self) -> &KeepAlive<pilot_mio::Mio> {
        self.agent.keep_alive()
    }

    fn waker(waker: &Waker) -> ready::Waker {
        ready::Waker::task(waker)
    }

    fn local(&self) -> Vec<SocketAddr> {
        self.agent.info().local
    }

    fn candidates(&self) -> Vec<SocketAddr> {
        self.agent.info().candidates
    }

    fn address(&self) -> Option<Address> {
        self.agent.address()
    }

    fn link(&self) -> Link {
        self.agent.info().link
    }

    fn connections(&self) -> usize {
        self.agent.connections().len()
    }

    fn drops(&self) -> Drops {
        self.agent.drops()
    }

    fn io_stats(&self) -> IoStats {
        self.agent.io_stats()
    }

    fn trusted(&self) -> Vec<PeerInfo> {
        self.agent.trusted()
    }

    fn trust_requests(&self) -> Vec<TrustRequestInfo> {
        self.agent.trust_requests()
    }

    fn events(&self) -> Self::Receiver {
        self.called(self.agent.events())
    }

    async fn next(Called(events, calling): &mut Self::Receiver) -> News {
        let ready = Ready::Event(events.id());
        calling.wait(ready, || some(events.try_next())).await.into()
    }

    async fn ready(&self) -> Result<Address, Failure> {
        let ready = self.calling.wait(Ready::Registered, || some(self.agent.try_ready()));
        ready.await.map_err(Failure::Refused)
    }

    async fn connect(
        &self,
        to: Target,
        port: Port,
    ) -> Result<(Self::Reader, Self::Writer), Failure> {
        let mut connecting = self.agent.connect(to, port).map_err(Failure::from)?;
        let ready = Ready::Connected(connecting.id());
        let stream = self.calling.wait(ready, || some(connecting.try_stream())).await;
        Ok(halves(stream.map_err(Failure::from)?, &self.calling))
    }

    fn listen(&self, port: Port) -> Result<Self::Listener, Failure> {
        self.agent.listen(port).map(|listener| self.called(listener)).map_err(Failure::from)
    }

    async fn accept(
        Called(listener, calling): &Self::Listener,
    ) -> Result<((Self::Reader, Self::Writer), SocketAddress), Failure> {
        let ready = Ready::Acceptable(listener.id());
        let (stream, from) =
            calling.wait(ready, || some(listener.accept())).await.map_err(Failure::from)?;
        Ok((halves(stream, calling), from))
    }

    async fn read(
        Called(stream, calling): &mut Self::Reader,
        buf: &mut [u8],
    ) -> Result<usize, Failure> {
        let ready = Ready::Readable(stream.id());
        calling.wait(ready, || io_some(stream.read(buf))).await
    }

    async fn write(
        Writer(Called(stream, calling)): &mut Self::Writer,
        bytes: &[u8],
    ) -> Result<usize, Failure> {
        let ready = Ready::Writable(stream.id());
        calling.wait(ready, || io_some(stream.write(bytes))).await
    }

    async fn finish(Writer(Called(half, _)): &mut Self::Writer) -> Result<(), Failure> {
        half.finish().map_err(Failure::from)
    }

    async fn acknowledged(
        Writer(Called(stream, calling)): &mut Self::Writer,
    ) -> Result<(), Failure> {
        let ready = Ready::Writable(stream.id());
        calling.wait(ready, || io_some(stream.acknowledged())).await
    }

    fn reset(Writer(Called(stream, _)): &mut Self::Writer) {
        stream.reset();
    }

    fn datagrams(&self, port: Port) -> Result<Self::Datagrams, Failure> {
        self.agent.datagrams(port).map(|port| self.called(port)).map_err(Failure::from)
    }

    fn send(
        Called(from, _): &Self::Datagrams,
        payload: &[u8],
        to: SocketAddress,
    ) -> Result<(), Failure> {
        from.send_to(payload, to).map_err(Failure::from)
    }

    async fn receive(
        Called(at, calling): &Self::Datagrams,
        buf: &mut [u8],
    ) -> Result<(usize, SocketAddress), Failure> {
        let ready = Ready::Datagram(at.id());
        calling.wait(ready, || some(at.recv_from(buf))).await.map_err(Failure::from)
    }

    async fn join(&self, network: NetworkId) -> Result<(), Failure> {
        self.ask(Command::Join { network }).await.map(drop)
    }

    async fn set_hostname(&self, name: Hostname) -> Result<(), Failure> {
        self.ask(Command::SetHostname { name, network: None }).await.map(drop)
    }

    async fn set_visibility(&self, public: bool) -> Result<(), Failure> {
        self.ask(Command::SetVisibility { public }).await.map(drop)
    }

    async fn set_tags(&self, tags: Tags) -> Result<(), Failure> {
        self.ask(Command::SetTags { tags }).await.map(drop)
    }

    async fn resolve(&self, target: Target) -> Result<AgentInfo, Failure> {
        let answer = self.ask(Command::Resolve { target, network: None }).await?;
        answer.into_agent().map_err(Failure::from)
    }

    async fn discover(&self, tags: Tags) -> Result<Vec<AgentInfo>, Failure> {
        let discover = Command::Discover { tags, network: None, cursor: 0 };
        Ok(self.ask(discover).await?.into_page().0)
    }

    fn request_trust(&self, to: Address, justification: &str) -> Result<(), Failure> {
        self.agent.request_trust(to, justification).map_err(Failure::from)
    }

    fn approve_trust(&self, from: Address) -> Result<(), Failure> {
        self.agent.approve_trust(from).map_err(Failure::from)
    }

    fn refuse_trust(&self, from: Address) -> Result<(), Failure> {
        self.agent.refuse_trust(from).map_err(Failure::from)
    }

    fn revoke_trust(&self, peer: Address) -> Result<(), Failure> {
        self.agent.revoke_trust(peer).map_err(Failure::from)
    }

    async fn shutdown(&self) {
        self.agent.begin_shutdown();
        self.calling.wait(Ready::Ended, || self.agent.try_ended().then_some(())).await;
    }

    fn hold_up(&self, time: Duration) {
        self.calling.pause.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    fn inject(local: SocketAddr, calls: Calls, fault: Option<Fault>, times: u32) {
        pilot_udp::faults::inject(local, calls, fault, times);
    }

    fn set_candidates(local: SocketAddr, found: Option<Vec<SocketAddr>>) {
        pilot_udp::faults::set_candidates(local, found);
    }

    fn displace_clocks(asleep: Duration, step_ms: i64) {
        pilot_udp::faults::displace_clocks(asleep, step_ms);
    }
}
