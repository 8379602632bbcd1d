//! Accepts streams within limits: one peer cannot take all places, and all peers together
//! cannot take more than there are. A stream beyond the limits is closed at once.

use super::Accept;
use pilot_core::addr::Address;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

/// Streams of one service at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptLimits {
    /// Over all peers.
    pub(crate) streams: usize,
    /// Of one peer.
    pub(crate) per_peer: usize,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        AcceptLimits { streams: 256, per_peer: 16 }
    }
}

#[derive(Default)]
struct Places(Mutex<BTreeMap<Address, usize>>);

/// One stream's place; free again when dropped.
struct Place {
    places: Arc<Places>,
    peer: Address,
}

impl Places {
    fn take(self: &Arc<Self>, peer: Address, limits: AcceptLimits) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if taken.values().sum::<usize>() >= limits.streams {
            return None;
        }
        let of_peer = taken.entry(peer).or_default();
        if *of_peer >= limits.per_peer {
            return None;
        }
        *of_peer += 1;
        Some(Place { places: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(of_peer) = taken.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Accepts until there are no more streams, or it is dropped; each stream is served by a task
/// of its own, and all of them end when this does.
pub(crate) async fn accept_all<A, H, F>(mut from: A, limits: AcceptLimits, handle: H)
where
    A: Accept,
    H: Fn(A::Stream, Address) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Places::default());
    let mut tasks = tokio::task::JoinSet::new();
    while let Some((stream, peer)) = from.accept().await {
        while tasks.try_join_next().is_some() {}
        let Some(place) = places.take(peer.address.on_backbone(), limits) else {
            tracing::debug!(peer = %peer.address, "too many streams");
            continue;
        };
        let served = handle(stream, peer.address);
        tasks.spawn(async move {
            served.await;
            drop(place);
        });
    }
}
