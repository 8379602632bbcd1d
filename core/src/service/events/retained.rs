//! The last values of topics, for those who subscribe later.

use super::BrokerLimits;
use super::queue::Event;
use super::topic::Pattern;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// At most so many topics and bytes as the limits say; the one least recently published or
/// asked for goes first.
#[derive(Debug, Default)]
pub(super) struct Retained {
    values: BTreeMap<Box<str>, Value>,
    bytes: usize,
    /// Rises with every use.
    uses: u64,
}

#[derive(Debug)]
struct Value {
    event: Arc<Event>,
    used: u64,
}

impl Retained {
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    fn remove(&mut self, topic: &str) {
        if let Some(value) = self.values.remove(topic) {
            self.bytes -= value.event.size();
        }
    }

    /// Keeps a value in place of the topic's last, or deletes that if the new one is empty; how
    /// many other topics had to go for it.
    pub(super) fn set(&mut self, event: &Arc<Event>, limits: &BrokerLimits) -> u64 {
        self.remove(&event.topic);
        if event.data.is_empty() || event.size() > limits.retained_bytes {
            return 0;
        }
        self.uses += 1;
        self.bytes += event.size();
        let value = Value { event: event.clone(), used: self.uses };
        self.values.insert(event.topic.clone(), value);
        let mut evicted = 0;
        while self.values.len() > limits.retained_topics || self.bytes > limits.retained_bytes {
            let oldest = self.values.values().min_by_key(|value| value.used);
            let Some(topic) = oldest.map(|value| value.event.topic.clone()) else { break };
            self.remove(&topic);
            evicted += 1;
        }
        evicted
    }

    /// The values of all topics that match, in the order of their topics.
    pub(super) fn matching(&mut self, pattern: Pattern<'_>) -> Vec<Arc<Event>> {
        self.uses += 1;
        let uses = self.uses;
        let matching = self.values.iter_mut().filter_map(|(topic, value)| {
            super::topic::matches(pattern.as_str(), topic).then(|| {
                value.used = uses;
                value.event.clone()
            })
        });
        matching.collect()
    }
}
