//! An outbox of small messages, which are pushed without waiting for the one before.

use crate::exchange::{Item, drain, fill};
use crate::trouble::Counts;
use pilot_core::node::{Command, Reply, StreamId};
use pilot_core::service::exchange::{
    FRAME_MAX, Failure, PUSH_OVERHEAD, PUSHES_MAX, Pipeline, Pushed, Refusal, TransferId,
};
use pilot_core::time::Duration;
use pilot_sim::{HostId, Tape, World};

/// Of the numbers of what is pushed.
pub(crate) const INCARNATION: [u8; 8] = *b"outbox 2";
/// Before a broken stream is followed by another.
const RETRY: Duration = Duration::from_millis(500);

/// One stream.
struct Out {
    stream: StreamId,
    pipeline: Pipeline,
    to_write: Vec<u8>,
    received: Vec<u8>,
    /// What is to be pushed on it, the next one last.
    queue: Vec<usize>,
}

pub(crate) struct Pushes {
    pub(crate) host: HostId,
    items: Vec<Item>,
    /// Whether each is acknowledged, as the process knows it and as its disk does.
    done: [Vec<bool>; 2],
    out: Option<Out>,
    retry: Duration,
}

impl Pushes {
    pub(crate) fn new(host: HostId, tape: &mut Tape) -> Self {
        let count = tape.below(60);
        let items: Vec<_> =
            (1..=count).map(|n| Item::new(INCARNATION, n, tape.below(3000), false)).collect();
        let done = vec![false; items.len()];
        Pushes { host, items, done: [done.clone(), done], out: None, retry: Duration::ZERO }
    }

    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done[0].iter().all(|done| *done)
    }

    pub(crate) fn crashed(&mut self) {
        self.out = None;
        self.done[0] = self.done[1].clone();
    }

    /// Goes on; `stored` says whether a message is on the receiver's disk.
    pub(crate) fn poll(
        &mut self,
        world: &mut World,
        to: HostId,
        tape: &mut Tape,
        stored: &dyn Fn(TransferId) -> bool,
        counts: &mut Counts,
    ) {
        let Some(mut out) = self.out.take().or_else(|| self.connect(world, to)) else { return };
        match self.push(world, &mut out, tape, stored, counts) {
            Ok(()) => self.out = Some(out),
            Err(()) => {
                world.abort_stream(self.host, out.stream);
                self.retry = world.elapsed() + RETRY;
            }
        }
    }

    fn connect(&mut self, world: &mut World, to: HostId) -> Option<Out> {
        if world.elapsed() < self.retry || self.is_done() {
            return None;
        }
        let to = world.address(to)?;
        let reply = world.command(self.host, Command::Connect { to, port: crate::exchange::PORT });
        let Ok(Reply::Stream(stream)) = reply else { return None };
        let queue = (0..self.items.len()).rev().filter(|n| !self.done[0][*n]).collect();
        let (to_write, received) = (Vec::new(), Vec::new());
        Some(Out { stream, pipeline: Pipeline::new(), to_write, received, queue })
    }

    fn push(
        &mut self,
        world: &mut World,
        out: &mut Out,
        tape: &mut Tape,
        stored: &dyn Fn(TransferId) -> bool,
        counts: &mut Counts,
    ) -> Result<(), ()> {
        fill(world, self.host, out.stream, &mut out.received)?;
        loop {
            let (used, answer) = out.pipeline.handle_bytes(&out.received).expect("an honest peer");
            out.received.drain(..used);
            match answer {
                Some((id, answer)) => self.heard(id, answer, tape, stored, counts)?,
                None if used == 0 => break,
                None => {}
            }
        }
        while drain(world, self.host, out.stream, &mut out.to_write)? {
            if out.pipeline.outstanding() == PUSHES_MAX {
                return Ok(());
            }
            let Some(n) = out.queue.pop() else { return Ok(()) };
            let Item { offer, content, .. } = &self.items[n];
            let mut frame = vec![0; content.len() + PUSH_OVERHEAD.max(FRAME_MAX)];
            let pushed =
                out.pipeline.push(offer.id, offer.kind, offer.note.clone(), content, &mut frame);
            out.to_write.extend_from_slice(&frame[..pushed.expect("there is room")]);
        }
        Ok(())
    }

    fn heard(
        &mut self,
        id: TransferId,
        answer: Pushed,
        tape: &mut Tape,
        stored: &dyn Fn(TransferId) -> bool,
        counts: &mut Counts,
    ) -> Result<(), ()> {
        let n = self.items.iter().position(|item| item.offer.id == id).expect("it was pushed");
        let what = match answer {
            Pushed::Stored => "receipt of a push",
            Pushed::AlreadyThere => "repetition of a push",
            // It is still being synced, or is just being taken from another stream.
            Pushed::Refused(Refusal::Busy) | Pushed::NotStored(Failure::Superseded) => {
                return Err(());
            }
            other => panic!("{id}: {other:?}"),
        };
        *counts.entry(what).or_default() += 1;
        assert!(stored(id), "{id} is acknowledged and not synced");
        self.done[0][n] = true;
        if tape.below(2) == 1 {
            self.done[1][n] = true;
        }
        Ok(())
    }
}
