//! Congestion control of one path, behind one trait (`wire.md` 11).
//!
//! A controller sees bytes of whole datagrams. It is told what was sent, acknowledged and
//! lost; it answers with a window and a pacing rate. Which frames count as lost is decided in
//! `recovery`, and only losses that speak of congestion are reported: a lost MTU probe, a
//! zero-window probe or a frame whose session ended are not.

mod cubic;

pub(crate) use cubic::Cubic;

use crate::time::{Duration, Instant};

/// A delivery-rate sample (draft-cheng-iccrg-delivery-rate-estimation 3.3): what was delivered
/// between the sending of the newest acknowledged frame and its acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateSample {
    /// Bytes delivered in `interval`.
    pub(crate) delivered: u64,
    /// The longer of the send and the acknowledge phase.
    pub(crate) interval: Duration,
    /// The sender had nothing to send at some point in between.
    pub(crate) app_limited: bool,
}

impl RateSample {
    /// Bytes a second; 0 without an interval.
    pub(crate) fn rate(&self) -> u64 {
        let nanos = self.interval.as_nanos();
        if nanos == 0 {
            return 0;
        }
        (u128::from(self.delivered) * 1_000_000_000 / nanos) as u64
    }
}

/// What one acknowledgement said about a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckSample {
    /// Bytes newly acknowledged.
    pub(crate) acked: u64,
    /// A new round-trip sample, if this acknowledgement gave one.
    pub(crate) rtt: Option<Duration>,
    /// Smoothed round trip.
    pub(crate) smoothed: Duration,
    /// The window kept the sender back in this round or the one before.
    pub(crate) limited: bool,
    /// The first acknowledgement of a new round trip.
    pub(crate) round_start: bool,
    /// Frames sent before the last reduction are still being acknowledged.
    pub(crate) in_recovery: bool,
    /// Delivery rate.
    pub(crate) rate: RateSample,
}

/// A congestion controller.
pub(crate) trait CongestionControl {
    /// An acknowledgement arrived.
    fn on_ack(&mut self, now: Instant, sample: &AckSample);
    /// Frames were lost, for the first time in this round trip; `flight` is what was
    /// outstanding before.
    fn on_congestion(&mut self, now: Instant, flight: u64);
    /// The retransmission timeout fired.
    fn on_timeout(&mut self, now: Instant, flight: u64);
    /// The last reduction was for frames that arrived after all.
    fn on_spurious(&mut self);
    /// The path's datagrams have another size now.
    fn set_datagram(&mut self, bytes: u64);
    /// Bytes that may be in flight.
    fn window(&self) -> u64;
    /// Bytes a second for the pacer.
    fn pacing_rate(&self, smoothed: Duration) -> u64;
}
