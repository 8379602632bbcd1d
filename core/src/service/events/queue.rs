//! What waits for one connection to read it.

use super::BrokerLimits;
use super::frame::{EVENT_FIXED, Frame};
use super::topic::Topic;
use crate::addr::Address;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

/// One event, shared by all queues that it is in.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) from: Address,
    pub(super) topic: Box<str>,
    pub(super) data: Box<[u8]>,
}

impl Event {
    /// What it counts against a limit.
    pub(super) fn size(&self) -> usize {
        EVENT_FIXED + self.topic.len() + self.data.len()
    }

    pub(super) fn frame(&self, retained: bool) -> Option<Frame<'_>> {
        // It was one when it came.
        let topic = Topic::new(&self.topic).ok()?;
        Some(Frame::Event { retained, from: self.from, topic, data: &self.data })
    }
}

/// Events in order; when there are too many, the oldest are lost and counted.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: VecDeque<(Arc<Event>, bool)>,
    bytes: usize,
    /// Lost since the owner was last told.
    dropped: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }

    /// Adds an event: how many were lost for it. At least the newest stays.
    pub(super) fn push(&mut self, event: Arc<Event>, retained: bool, limits: &BrokerLimits) -> u64 {
        self.bytes += event.size();
        self.events.push_back((event, retained));
        let mut lost = 0;
        while self.events.len() > 1
            && (self.events.len() > limits.queue_events || self.bytes > limits.queue_bytes)
        {
            self.pop();
            lost += 1;
        }
        self.dropped = self.dropped.saturating_add(lost);
        lost
    }

    /// How many were lost in front of what comes next; told once.
    pub(super) fn take_dropped(&mut self) -> Option<u64> {
        Some(core::mem::take(&mut self.dropped)).filter(|&dropped| dropped > 0)
    }

    /// The oldest event, and whether it is a retained value.
    pub(super) fn pop(&mut self) -> Option<(Arc<Event>, bool)> {
        let (event, retained) = self.events.pop_front()?;
        self.bytes -= event.size();
        Some((event, retained))
    }

    pub(super) fn clear(&mut self) {
        *self = Queue::default();
    }
}
