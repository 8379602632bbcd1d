//! Trust requests in both directions, one slot each.

use crate::addr::Address;
use crate::crypto::{Grant, IdentityKey, Record, Rights};
use crate::journal::{Fact, Journal};
use crate::name::Justification;
use crate::time::{Instant, UnixTime};
use serde::{Deserialize, Serialize};

/// How far an outgoing request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum OutgoingState {
    /// Whether the target is public is still to be asked.
    Unresolved,
    /// To be sent.
    Ready,
    /// The registry has it.
    Sent,
}

/// A request of ours.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outgoing {
    /// Whom we ask.
    pub to: Address,
    /// What the answer must name.
    pub(super) nonce: [u8; 16],
    /// When, in Unix seconds.
    pub(super) issued: u64,
    pub(super) rights: Rights,
    /// What we say.
    pub justification: Justification,
    /// Its identity, where the registry told us; pinned from then on.
    pub identity: Option<IdentityKey>,
    /// The grant in the request.
    pub(super) grant: Option<Grant>,
    pub(super) state: OutgoingState,
    /// For sealing; asked again after a restart.
    #[serde(skip)]
    pub(super) record: Option<Record>,
}

impl Outgoing {
    /// When it was made, by our clock.
    pub fn issued(&self) -> UnixTime {
        UnixTime::from_secs(self.issued)
    }

    /// Whether the registry has taken it.
    pub fn is_sent(&self) -> bool {
        self.state == OutgoingState::Sent
    }
}

/// One place of the table of outgoing requests.
pub struct OutgoingSlot {
    pub(super) fact: Fact,
    pub(super) stamp: u32,
    pub(super) hold: Instant,
    /// An event that was not taken.
    pub(super) refused: Option<Address>,
    request: Option<Outgoing>,
}

impl OutgoingSlot {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        OutgoingSlot {
            fact: Fact::clean(),
            stamp: 0,
            hold: Instant::START,
            refused: None,
            request: None,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.request.is_none() && self.refused.is_none()
    }

    pub(super) fn live(&self) -> Option<&Outgoing> {
        self.request.as_ref()
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Outgoing> {
        self.request.as_mut()
    }

    pub(super) fn fill(&mut self, request: Outgoing, stamp: u32, journal: &mut Journal) {
        self.restore(request, stamp);
        self.fact.touch(journal);
    }

    /// As stored. What was ready is resolved again: the record for sealing was not stored.
    pub(super) fn restore(&mut self, mut request: Outgoing, stamp: u32) {
        if request.state == OutgoingState::Ready {
            request.state = OutgoingState::Unresolved;
        }
        self.stamp = stamp;
        self.hold = Instant::START;
        self.request = Some(request);
    }

    pub(super) fn clear(&mut self, journal: &mut Journal) {
        self.request = None;
        self.fact.touch(journal);
    }
}

impl core::fmt::Debug for OutgoingSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("OutgoingSlot").field(&self.request.as_ref().map(|r| r.to)).finish()
    }
}

/// Somebody else's request that waits for a decision.
#[derive(Debug, Serialize, Deserialize)]
pub struct Incoming {
    /// Who asks, as the registry attests it.
    pub record: Record,
    pub(super) nonce: [u8; 16],
    pub(super) issued: u64,
    pub(super) rights: Rights,
    /// **Hostile text**, cleaned of control and bidirectional characters.
    pub justification: Justification,
    /// Their grant to us, if they knew our identity.
    pub(super) grant: Option<Grant>,
    /// Order of arrival.
    pub(super) order: u32,
}

impl Incoming {
    /// The backbone address of who asks.
    pub fn from(&self) -> Address {
        self.record.fields.addr
    }

    /// The identity of who asks.
    pub fn identity(&self) -> IdentityKey {
        self.record.identity
    }

    /// When it was signed, by the sender's clock.
    pub fn issued(&self) -> UnixTime {
        UnixTime::from_secs(self.issued)
    }
}

#[expect(clippy::large_enum_variant, reason = "the slot is as large as its largest content")]
pub(super) enum IncomingState {
    Empty,
    Waiting(Incoming),
    /// The refusal is to be sent.
    Refused {
        to: Address,
        nonce: [u8; 16],
    },
}

/// One place of the table of incoming requests.
pub struct IncomingSlot {
    pub(super) fact: Fact,
    pub(super) stamp: u32,
    pub(super) hold: Instant,
    /// An event that was not taken.
    pub(super) requested: bool,
    pub(super) state: IncomingState,
}

impl IncomingSlot {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        IncomingSlot {
            fact: Fact::clean(),
            stamp: 0,
            hold: Instant::START,
            requested: false,
            state: IncomingState::Empty,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.state, IncomingState::Empty)
    }

    pub(super) fn clear(&mut self, journal: &mut Journal) {
        self.state = IncomingState::Empty;
        self.fact.touch(journal);
    }
}

impl core::fmt::Debug for IncomingSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.is_free() { "IncomingSlot(free)" } else { "IncomingSlot" })
    }
}
