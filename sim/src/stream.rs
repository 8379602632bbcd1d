//! Streams whose owner is outside of the world: a service that is looked after between two steps.

use crate::HostId;
use crate::host::Power;
use crate::world::World;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::node::{StreamEnd, StreamError, StreamId};

impl World {
    fn is_running(&self, host: HostId) -> bool {
        self.hosts[host.0].power == Power::Running
    }

    /// The next stream of a listener; none if the host does not run.
    pub fn accept(&mut self, host: HostId, port: Port) -> Option<StreamId> {
        let runs = self.is_running(host);
        self.due.insert(host);
        self.hosts[host.0].node.accept(port).filter(|_| runs)
    }

    /// Moves received bytes into `buf`; 0 is the end of the stream.
    ///
    /// # Errors
    /// As [`pilot_core::node::Stream::read`]; ended if the host does not run or has no such stream.
    pub fn read_stream(
        &mut self,
        host: HostId,
        stream: StreamId,
        buf: &mut [u8],
    ) -> Result<usize, StreamError> {
        let now = self.now;
        self.due.insert(host);
        let runs = self.is_running(host);
        match self.hosts[host.0].node.stream(stream).filter(|_| runs) {
            Some(mut stream) => stream.read(now, buf),
            None => Err(StreamError::Ended(StreamEnd::Closed)),
        }
    }

    /// Writes what there is room for, and says how much that was.
    ///
    /// # Errors
    /// As [`pilot_core::node::Stream::write`]; ended if the host does not run or has no such stream.
    pub fn write_stream(
        &mut self,
        host: HostId,
        stream: StreamId,
        bytes: &[u8],
    ) -> Result<usize, StreamError> {
        let now = self.now;
        self.due.insert(host);
        let runs = self.is_running(host);
        match self.hosts[host.0].node.stream(stream).filter(|_| runs) {
            Some(mut stream) => stream.write(now, bytes),
            None => Err(StreamError::Ended(StreamEnd::Closed)),
        }
    }

    /// Ends a stream in both directions, and gives its place back.
    pub fn abort_stream(&mut self, host: HostId, stream: StreamId) {
        let now = self.now;
        if self.is_running(host) {
            let node = &mut self.hosts[host.0].node;
            if let Some(mut stream) = node.stream(stream) {
                stream.reset(now);
            }
            node.release(now, stream);
            self.due.insert(host);
        }
    }

    /// The peer of a stream and the port at this end; unspecified if there is no such stream.
    pub fn stream_ends(&mut self, host: HostId, stream: StreamId) -> (SocketAddress, Port) {
        let stream = self.hosts[host.0].node.stream(stream);
        stream.map_or_else(Default::default, |stream| stream.addresses())
    }
}
