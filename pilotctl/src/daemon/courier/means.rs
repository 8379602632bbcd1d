//! What the courier carries with, and what keeps it from sending what was taken back.

use super::{ATTEMPT, Courier};
use crate::daemon::Shared;
use crate::daemon::node::Stream;
use crate::daemon::offer::Net;
use crate::error::Failure;
use crate::services::Connect;
use crate::services::outbox::Outbox;
use crate::services::send::Source;
use crate::services::unfinished::Unfinished;
use pilot_core::addr::{Address, Port};
use pilot_core::node::PathKind;
use pilot_core::service::exchange::TransferId;
use std::io;
use std::sync::Arc;

/// What it takes to carry: the daemon, or in tests pipes.
pub(crate) trait Means: Connect<Error = Failure> + Send + 'static {
    fn courier(&self) -> &Courier;
    fn outbox(&self) -> &Arc<Outbox>;
    fn unfinished(&self) -> &Arc<Unfinished>;
}

impl Means for Shared {
    fn courier(&self) -> &Courier {
        &self.courier
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.offer.outbox
    }

    fn unfinished(&self) -> &Arc<Unfinished> {
        &self.offer.unfinished
    }
}

impl Connect for Shared {
    type Stream = Stream;
    type Error = Failure;

    async fn connect(&self, to: Address, port: Port) -> Result<Stream, Failure> {
        Net::new(self, Some(ATTEMPT)).connect(to, port).await
    }

    fn is_final(error: &Failure) -> bool {
        <Net<'_> as Connect>::is_final(error)
    }

    async fn path(&self, peer: Address) -> PathKind {
        self.node.path(peer)
    }
}

/// The content of an item, of which nothing is given out once it is taken back.
pub(super) struct Guarded<'o, S> {
    source: S,
    outbox: &'o Outbox,
    id: TransferId,
    pub(super) is_taken_back: bool,
}

impl<'o, S> Guarded<'o, S> {
    pub(super) fn new(source: S, outbox: &'o Outbox, id: TransferId) -> Self {
        Guarded { source, outbox, id, is_taken_back: false }
    }
}

impl<S: Source> Source for Guarded<'_, S> {
    fn begin(&mut self) -> bool {
        self.is_taken_back = !self.outbox.offered(self.id);
        !self.is_taken_back
    }

    async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read(buf).await
    }

    fn rewind(&mut self) -> bool {
        self.source.rewind()
    }
}
