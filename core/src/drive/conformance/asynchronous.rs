//! The part of [`Subject`](super::Subject) that adapters with futures share.

/// Implements [`Subject`](crate::drive::conformance::Subject) for a host of an asynchronous
/// adapter's agent: `async_subject!(Host, adapter, Runtime)`, where `adapter` is the adapter's crate
/// and `Runtime` its marker type.
///
/// The macro writes what follows from the names of the adapter's surface, which all asynchronous
/// adapters have in common. Its futures are polled by the suite, outside of the runtime. What
/// depends on the runtime are functions of `Host`:
///
/// ```text
/// fn host(builder: adapter::Builder) -> Host         // bind it on a runtime with its own thread
/// fn agent(&self) -> &adapter::Agent
/// fn hold_up(&self, time: Duration)                  // block the runtime's thread
/// async fn read(&mut OwnedReadHalf, &mut [u8]) -> io::Result<usize>
/// async fn write(&mut OwnedWriteHalf, &[u8]) -> io::Result<usize>
/// async fn close(&mut OwnedWriteHalf) -> io::Result<()>
/// ```
///
/// The crate that uses it depends on `pilot-udp` with its feature `faults`, too.
#[macro_export]
macro_rules! async_subject {
    ($host:ident, $adapter:ident, $runtime:ident) => {
        /// The suite's facts as this adapter's store.
        struct StoredFacts($crate::drive::conformance::Facts);

        impl $adapter::Store for StoredFacts {
            fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> std::io::Result<()> {
                self.0.load(each);
                Ok(())
            }

            fn commit(&mut self, changes: &[$adapter::Change]) -> std::io::Result<()> {
                self.0.commit(changes);
                Ok(())
            }
        }

        const _: () = {
            use $crate::addr::{Address, NetworkId, Port, SocketAddress};
            use $crate::drive::IoStats;
            use $crate::drive::conformance::{Calls, Failure, Fault, News, Setup, Subject};
            use $crate::name::{Hostname, Tags};
            use $crate::node::{AgentInfo, Link, PeerInfo, Target, TrustRequestInfo};

            impl Subject for $host {
                type Runtime = $adapter::$runtime;
                type Reader = $adapter::OwnedReadHalf;
                type Writer = $adapter::OwnedWriteHalf;
                type Listener = $adapter::Listener;
                type Datagrams = $adapter::Datagrams;
                type Receiver = $adapter::Events;

                fn start(setup: Setup) -> Self {
                    let identity = $adapter::Identity::from_secret(setup.secret);
                    let builder = $adapter::Agent::builder(identity)
                        .registry(setup.registry)
                        .beacon(setup.beacon)
                        .listen(setup.listen)
                        .limits(setup.limits)
                        .store(StoredFacts(setup.facts));
                    $host::host(builder)
                }

                fn keep_alive(&self) -> &$crate::drive::agent::KeepAlive<Self::Runtime> {
                    self.agent().keep_alive()
                }

                fn waker(waker: &std::task::Waker) -> std::task::Waker {
                    waker.clone()
                }

                fn local(&self) -> Vec<std::net::SocketAddr> {
                    self.agent().info().local
                }

                fn candidates(&self) -> Vec<std::net::SocketAddr> {
                    self.agent().info().candidates
                }

                fn address(&self) -> Option<Address> {
                    self.agent().address()
                }

                fn link(&self) -> Link {
                    self.agent().info().link
                }

                fn connections(&self) -> usize {
                    self.agent().connections().len()
                }

                fn drops(&self) -> $crate::stats::Drops {
                    self.agent().drops()
                }

                fn io_stats(&self) -> IoStats {
                    self.agent().io_stats()
                }

                fn trusted(&self) -> Vec<PeerInfo> {
                    self.agent().trusted()
                }

                fn trust_requests(&self) -> Vec<TrustRequestInfo> {
                    self.agent().trust_requests()
                }

                fn events(&self) -> Self::Receiver {
                    self.agent().events()
                }

                async fn next(receiver: &mut Self::Receiver) -> News {
                    receiver.recv().await.into()
                }

                async fn ready(&self) -> Result<Address, Failure> {
                    self.agent().ready().await.map_err(Failure::Refused)
                }

                async fn connect(
                    &self,
                    to: Target,
                    port: Port,
                ) -> Result<(Self::Reader, Self::Writer), Failure> {
                    let stream = self.agent().connect(to, port).await.map_err(Failure::from)?;
                    Ok(stream.into_split())
                }

                fn listen(&self, port: Port) -> Result<Self::Listener, Failure> {
                    self.agent().listen(port).map_err(Failure::from)
                }

                async fn accept(
                    listener: &Self::Listener,
                ) -> Result<((Self::Reader, Self::Writer), SocketAddress), Failure> {
                    let (stream, from) = listener.accept().await.map_err(Failure::from)?;
                    Ok((stream.into_split(), from))
                }

                async fn read(reader: &mut Self::Reader, buf: &mut [u8]) -> Result<usize, Failure> {
                    $host::read(reader, buf).await.map_err(Failure::from)
                }

                async fn write(writer: &mut Self::Writer, bytes: &[u8]) -> Result<usize, Failure> {
                    $host::write(writer, bytes).await.map_err(Failure::from)
                }

                async fn finish(writer: &mut Self::Writer) -> Result<(), Failure> {
                    $host::close(writer).await.map_err(Failure::from)
                }

                async fn acknowledged(writer: &mut Self::Writer) -> Result<(), Failure> {
                    writer.acknowledged().await.map_err(Failure::from)
                }

                fn reset(writer: &mut Self::Writer) {
                    writer.reset();
                }

                fn datagrams(&self, port: Port) -> Result<Self::Datagrams, Failure> {
                    self.agent().datagrams(port).map_err(Failure::from)
                }

                fn send(
                    from: &Self::Datagrams,
                    payload: &[u8],
                    to: SocketAddress,
                ) -> Result<(), Failure> {
                    from.send_to(payload, to).map_err(Failure::from)
                }

                async fn receive(
                    at: &Self::Datagrams,
                    buf: &mut [u8],
                ) -> Result<(usize, SocketAddress), Failure> {
                    at.recv_from(buf).await.map_err(Failure::from)
                }

                async fn join(&self, network: NetworkId) -> Result<(), Failure> {
                    self.agent().join(network).await.map_err(Failure::from)
                }

                async fn set_hostname(&self, name: Hostname) -> Result<(), Failure> {
                    self.agent().set_hostname(name, None).await.map_err(Failure::from)
                }

                async fn set_visibility(&self, public: bool) -> Result<(), Failure> {
                    self.agent().set_visibility(public).await.map_err(Failure::from)
                }

                async fn set_tags(&self, tags: Tags) -> Result<(), Failure> {
                    self.agent().set_tags(tags).await.map_err(Failure::from)
                }

                async fn resolve(&self, target: Target) -> Result<AgentInfo, Failure> {
                    self.agent().resolve(target, None).await.map_err(Failure::from)
                }

                async fn discover(&self, tags: Tags) -> Result<Vec<AgentInfo>, Failure> {
                    let page = self.agent().discover(tags, None, 0).await;
                    page.map(|(agents, _)| agents).map_err(Failure::from)
                }

                fn request_trust(&self, to: Address, justification: &str) -> Result<(), Failure> {
                    self.agent().request_trust(to, justification).map_err(Failure::from)
                }

                fn approve_trust(&self, from: Address) -> Result<(), Failure> {
                    self.agent().approve_trust(from).map_err(Failure::from)
                }

                fn refuse_trust(&self, from: Address) -> Result<(), Failure> {
                    self.agent().refuse_trust(from).map_err(Failure::from)
                }

                fn revoke_trust(&self, peer: Address) -> Result<(), Failure> {
                    self.agent().revoke_trust(peer).map_err(Failure::from)
                }

                async fn shutdown(&self) {
                    self.agent().shutdown().await;
                }

                fn hold_up(&self, time: std::time::Duration) {
                    $host::hold_up(self, time);
                }

                fn inject(
                    local: std::net::SocketAddr,
                    calls: Calls,
                    fault: Option<Fault>,
                    times: u32,
                ) {
                    pilot_udp::faults::inject(local, calls, fault, times);
                }

                fn set_candidates(
                    local: std::net::SocketAddr,
                    found: Option<Vec<std::net::SocketAddr>>,
                ) {
                    pilot_udp::faults::set_candidates(local, found);
                }

                fn displace_clocks(asleep: std::time::Duration, step_ms: i64) {
                    pilot_udp::faults::displace_clocks(asleep, step_ms);
                }
            }
        };
    };
}
