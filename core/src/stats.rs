//! Counters, one per drop reason: what the network sent and nobody wanted is visible.

use core::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a datagram, frame or packet was dropped. Each has a counter in [`Drops`].
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// All of them, in a fixed order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The name under which `info --json` and metrics show the counter.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(DropReason::$name => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// The first byte names no packet (`wire.md` 4.1).
    UnknownType = "unknown_type",
    /// Shorter or longer than its type allows, or a field that does not parse.
    Malformed = "malformed",
    /// A version we do not speak.
    Version = "version",
    /// mac1, mac2 or a relay frame's MAC is wrong.
    Mac = "mac",
    /// A handshake message did not decrypt or authenticate.
    Handshake = "handshake",
    /// A handshake from an identity that we do not trust, or that does not match the pin.
    Untrusted = "untrusted",
    /// A handshake with an old number (`wire.md` 4.5 step 6).
    Stale = "stale",
    /// The handshake budget is used up (`wire.md` 4.5 step 3).
    RateLimited = "rate_limited",
    /// No session has this index.
    UnknownIndex = "unknown_index",
    /// A data frame did not decrypt.
    Decrypt = "decrypt",
    /// A counter seen before, or too old (`wire.md` 5.2).
    Replay = "replay",
    /// A session beyond its age or block limit.
    Expired = "expired",
    /// An inner packet whose addresses are not the session's (`wire.md` 1, W-C8).
    WrongAddress = "wrong_address",
    /// The grant's rights do not cover the port.
    NotPermitted = "not_permitted",
    /// Nobody listens for datagrams on the port.
    NoListener = "no_listener",
    /// An inner packet that belongs to no stream, or lies outside its window.
    OutOfWindow = "out_of_window",
    /// A table, queue or pool is full.
    Full = "full",
    /// From an address that may not send this: a relay frame not from the beacon, say.
    WrongSource = "wrong_source",
    /// A relay frame on no channel of ours, or on a channel of another peer.
    UnknownChannel = "unknown_channel",
    /// An answer to a question we did not ask.
    Unasked = "unasked",
    /// A control frame of a kind we do not know.
    UnknownControl = "unknown_control",
    /// The queue of outgoing datagrams was full; the oldest went.
    DatagramQueue = "datagram_queue",
    /// The other end of a relay channel has no session with the beacon.
    Offline = "offline",
    /// The application reads a datagram port too slowly; the newest went.
    Inbox = "inbox",
}

/// A counter per [`DropReason`]; wraps after 2^64.
#[derive(Clone, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// All zero.
    pub const fn new() -> Self {
        Drops([0; DropReason::ALL.len()])
    }

    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        let n = &mut self.0[reason as usize];
        *n = n.wrapping_add(1);
    }

    /// Adds the counts of another place.
    pub fn add(&mut self, other: &Drops) {
        for (n, more) in self.0.iter_mut().zip(other.0) {
            *n = n.wrapping_add(more);
        }
    }

    /// How many there were for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

impl Default for Drops {
    fn default() -> Self {
        Drops::new()
    }
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, n)| *n > 0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let mut drops = Drops::new();
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, i);
            drops.count(reason);
            assert_eq!(drops.get(reason), 1);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.as_str() == reason.as_str()).count(), 1);
        }
        assert_eq!(drops.total(), DropReason::ALL.len() as u64);
    }
}
