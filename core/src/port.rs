//! Listeners, ephemeral ports and accept queues.
