//! What is asked over the registry channel, in which order, and what the answers change.
//!
//! | Condition | Request |
//! |---|---|
//! | the journal is not quiet | none |
//! | not registered, no record shown in the handshake | Reserve, then Register |
//! | not registered | Register |
//! | items were taken from the mailbox | TrustAck |
//! | the beacon said Waiting, or just registered | TrustFetch |
//! | a trust job is due | TrustAnswer, TrustConfirm, Revoke, Resolve, TrustRequest |
//! | the owner asked | its request |
//! | the beacon has been silent for 4.5 s | Beacons, every 30 s ± 50 %: its key may be another |

use super::own::{OwnFact, Verdict};
use super::*;
use crate::crypto::TunnelKey;
use crate::crypto::request::sign_reserve;
use crate::limits::{CLOCK_TOLERANCE, DIRECTORY_BACKOFF_MAX, INIT_RENEW};
use crate::trust::{Job, Outcome, Ticket};
use crate::wire::control::ChannelInfo;
use crate::wire::registry::{
    self, ACK_MAX, Answer as WireAnswer, Envelope, ErrorCode, List, MailboxItem, Refusal, Request,
    Visibility,
};
use beacon::Heard;

/// A request under way.
pub(super) struct InFlight {
    id: u32,
    what: What,
    pub(super) sent: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Reserve,
    Register,
    Beacons,
    Fetch,
    Ack,
    Owner(RequestId),
    Trust(Ticket),
}

/// What we know of our mailbox.
#[derive(Default)]
pub(super) struct Mailbox {
    /// Something is or may be in it.
    wanted: bool,
    /// Items that were taken and are still to be acknowledged.
    acks: heapless::Vec<u64, ACK_MAX>,
}

impl<'s> Core<'s> {
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    pub(super) fn unix(&self) -> UnixTime {
        self.clock.unix(self.now)
    }

    /// The registry whose signatures count.
    pub(super) fn registry_key(&self) -> Option<IdentityKey> {
        self.config.registry_key.or(self.own.registry.pinned)
    }

    /// The trust table and what it needs of the rest; `None` before we have an address.
    pub(super) fn trust_parts(&mut self) -> Option<(&mut Trust<'s>, trust::Context<'_>)> {
        let registry = self.registry_key()?;
        let address = self.own.keys.address?;
        let (epoch, network) = (self.own.epoch(), self.own.default_network());
        let ctx = trust::Context {
            identity: &self.own.identity,
            registry,
            address,
            secrets: (&self.own.keys.current, self.own.keys.previous.as_ref()),
            epoch,
            network,
            now: self.now,
            unix: self.clock.unix(self.now),
            rng: &mut self.rng,
            journal: &mut self.journal,
            drops: &mut self.drops,
        };
        Some((&mut self.trust, ctx))
    }

    // ---- registry keys ----

    pub(super) fn pin(&mut self, shown: IdentityKey) {
        if self.own.registry.pinned != Some(shown) {
            // Beacons of another registry mean nothing.
            self.own.registry =
                own::RegistryFact { pinned: Some(shown), ..own::RegistryFact::default() };
            self.own.touch(OwnFact::Registry, &mut self.journal);
        }
    }

    /// The channel opened under this tunnel key: next time it is tried first.
    pub(super) fn learn_tunnel(&mut self, tunnel: Option<TunnelKey>) {
        if tunnel.is_some() && self.own.registry.tunnel != tunnel {
            self.own.registry.tunnel = tunnel;
            self.own.touch(OwnFact::Registry, &mut self.journal);
        }
    }

    pub(super) fn forget_tunnel(&mut self) {
        self.own.registry.tunnel = None;
        self.own.touch(OwnFact::Registry, &mut self.journal);
    }

    // ---- what to ask ----

    /// Whether requests are under way or acknowledgements outstanding.
    pub(super) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether anything may be asked now at all.
    pub(super) fn can_ask(&self) -> bool {
        self.journal.is_quiet() && !self.in_flight.is_full()
    }

    fn is_under_way(&self, what: impl Fn(&What) -> bool) -> bool {
        self.in_flight.iter().any(|f| what(&f.what))
    }

    /// Whether there is something to ask that is not under way.
    pub(super) fn has_work(&mut self) -> bool {
        if !self.started || self.fenced {
            return false;
        }
        if !self.own.registered {
            return self.register_at <= self.now
                && !self.is_under_way(|w| matches!(w, What::Reserve | What::Register));
        }
        let mail = self.mailbox.wanted || !self.mailbox.acks.is_empty();
        (mail && !self.is_under_way(|w| matches!(w, What::Fetch | What::Ack)))
            || self.wants_beacons()
            || self.requests.has_queued()
            || self.next_trust_job().is_some()
    }

    fn wants_beacons(&self) -> bool {
        self.beacons_due() <= self.now && !self.is_under_way(|w| *w == What::Beacons)
    }

    /// When the registry is to be asked whether the beacon is another one now.
    pub(super) fn beacons_due(&self) -> Instant {
        match self.beacon.down_since() {
            Some(since) if self.own.registered => self.beacons_at.max(since + INIT_RENEW),
            _ => Instant::NEVER,
        }
    }

    fn next_trust_job(&mut self) -> Option<Ticket> {
        let (in_flight, now) = (&self.in_flight, self.now);
        self.trust.next_job(now, |job| {
            in_flight.iter().any(|f| matches!(f.what, What::Trust(t) if t.job == job))
        })
    }

    /// Whether the registry is being asked about peers, or is to be now.
    pub(super) fn is_resolving(&mut self) -> bool {
        let is = |ticket: Ticket| matches!(ticket.job, Job::Resolve(_));
        self.is_under_way(|what| matches!(what, What::Trust(ticket) if is(*ticket)))
            || self.next_trust_job().is_some_and(is)
    }

    /// Writes the next request's plaintext; gives its length, 0 if there is none.
    pub(super) fn next_request(
        &mut self,
        hash: &[u8; 32],
        anonymous: bool,
        out: &mut [u8],
    ) -> usize {
        if !self.started || self.fenced || !self.can_ask() {
            return 0;
        }
        let id = self.next_id.wrapping_add(1);
        let written = if self.own.registered {
            self.next_served(id, out)
        } else {
            self.next_registration(id, hash, anonymous, out)
        };
        let Some((what, len)) = written else {
            return 0;
        };
        self.next_id = id;
        // Not full: `can_ask` said so.
        let _ = self.in_flight.push(InFlight { id, what, sent: self.now });
        len
    }

    fn next_registration(
        &mut self,
        id: u32,
        hash: &[u8; 32],
        anonymous: bool,
        out: &mut [u8],
    ) -> Option<(What, usize)> {
        let waiting = self.register_at > self.now
            || self.is_under_way(|w| matches!(w, What::Reserve | What::Register));
        if waiting {
            return None;
        }
        if anonymous && !self.reserved {
            let proof = sign_reserve(&self.own.identity, hash);
            let identity = Bytes(self.own.public.0);
            let request = Request::Reserve { identity, proof: Bytes(proof) };
            return Some((What::Reserve, registry::encode_request(id, &request, out).ok()?));
        }
        // The record is signed and stored by now, or is about to be.
        let registry = self.registry_key()?;
        self.own.renew_record(&registry, &mut self.journal);
        if !self.journal.is_quiet() {
            return None;
        }
        let request = Request::Register(self.own.registration(self.config.takeover)?);
        Some((What::Register, registry::encode_request(id, &request, out).ok()?))
    }

    fn next_served(&mut self, id: u32, out: &mut [u8]) -> Option<(What, usize)> {
        if !self.is_under_way(|w| matches!(w, What::Fetch | What::Ack)) {
            if !self.mailbox.acks.is_empty() {
                let request = Request::TrustAck { ids: self.mailbox.acks.clone() };
                return Some((What::Ack, registry::encode_request(id, &request, out).ok()?));
            }
            if self.mailbox.wanted {
                let request = Request::TrustFetch { after: 0 };
                return Some((What::Fetch, registry::encode_request(id, &request, out).ok()?));
            }
        }
        if self.wants_beacons() {
            let len = registry::encode_request(id, &Request::Beacons, out).ok()?;
            return Some((What::Beacons, len));
        }
        while let Some(ticket) = self.next_trust_job() {
            let (trust, mut ctx) = self.trust_parts()?;
            match trust.encode_job(&mut ctx, ticket, id, out) {
                Some(Ok(len)) => return Some((What::Trust(ticket), len)),
                // Cannot be said, now or later: as if the registry had refused it.
                Some(Err(_)) | None => {
                    let refusal = Refusal::from(ErrorCode::Malformed);
                    let _ = trust.handle_answer(&mut ctx, ticket, Err(refusal));
                }
            }
            if !self.journal.is_quiet() {
                return None;
            }
        }
        self.end_name_search();
        let (request, len) = self.requests.send(id, out)?;
        Some((What::Owner(request), len))
    }

    /// The connection is gone: everything under way is asked again on the next one.
    pub(super) fn connection_lost(&mut self) {
        self.in_flight.clear();
        self.reserved = false;
        self.requests.requeue();
        self.trust.restart_jobs();
    }

    // ---- answers ----

    /// Takes one plaintext of the channel; false if it makes no sense.
    pub(super) fn handle_plaintext(&mut self, plaintext: &[u8]) -> bool {
        let Ok(envelope) = Envelope::parse(plaintext) else {
            return false;
        };
        let Some(i) = self.in_flight.iter().position(|f| f.id == envelope.id) else {
            self.drops.count(DropReason::Unasked);
            return true;
        };
        let Ok(answer) = envelope.answer() else {
            return false;
        };
        let what = self.in_flight.swap_remove(i).what;
        match &answer {
            Err(Refusal { code: ErrorCode::Fenced, .. }) => {
                self.fence();
                return true;
            }
            Err(Refusal { code: ErrorCode::NotRegistered, .. }) => return self.unregistered(what),
            _ => {}
        }
        match what {
            What::Reserve => self.handle_reserved(&answer),
            What::Register => self.handle_registered(&answer),
            What::Beacons => {
                self.beacons_at = self.now + self.half_to_one_and_a_half(DIRECTORY_BACKOFF_MAX);
                if let (Ok(WireAnswer::Beacons(beacons)), Some(key)) =
                    (&answer, self.registry_key())
                {
                    self.own.handle_beacons(beacons, &key, &mut self.journal);
                    self.connect_beacon();
                }
                true
            }
            What::Fetch => self.handle_mailbox(&answer),
            What::Ack => {
                if answer.is_ok() {
                    self.mailbox.acks.clear();
                }
                true
            }
            What::Owner(id) => {
                self.handle_owners(id, plaintext, &answer);
                true
            }
            What::Trust(ticket) => {
                self.handle_trust(ticket, answer.as_ref().map_err(|refusal| *refusal));
                true
            }
        }
    }

    /// The registry does not know us (any more): registers again, then asks again.
    fn unregistered(&mut self, what: What) -> bool {
        self.own.registered = false;
        match what {
            What::Owner(_) => self.requests.requeue(),
            What::Trust(_) => self.trust.restart_jobs(),
            What::Reserve | What::Register => {
                self.retry_registration(None);
                // On a channel that shows no record, Reserve comes first.
                self.own.keys.published = false;
                return false;
            }
            _ => {}
        }
        true
    }

    fn retry_registration(&mut self, refusal: Option<Refusal>) {
        let wait = match refusal {
            Some(Refusal { code: ErrorCode::RateLimited, retry_ms }) => {
                Duration::from_millis(u64::from(retry_ms)).max(Duration::from_secs(1))
            }
            _ => self.half_to_one_and_a_half(DIRECTORY_BACKOFF_MAX),
        };
        self.register_at = self.now + wait;
    }

    /// `span` ± 50 %.
    fn half_to_one_and_a_half(&mut self, span: Duration) -> Duration {
        span / 2 + Duration::from_nanos(self.rng.below(span.as_nanos() as u64))
    }

    fn handle_reserved(&mut self, answer: &Result<WireAnswer<'_>, Refusal>) -> bool {
        match answer {
            Ok(WireAnswer::Reserved { address }) if address.node.is_agent() => {
                let address = address.on_backbone();
                match self.own.keys.address {
                    None => {
                        self.own.keys.address = Some(address);
                        self.own.touch(OwnFact::Keys, &mut self.journal);
                    }
                    // Peers have pinned our address: a registry that lost it cannot give
                    // another one.
                    Some(known) if known != address => {
                        self.retry_registration(None);
                        return false;
                    }
                    Some(_) => {}
                }
                self.reserved = true;
                if let Some(registry) = self.registry_key() {
                    self.own.renew_record(&registry, &mut self.journal);
                }
                true
            }
            Ok(_) => false,
            Err(refusal) => {
                self.retry_registration(Some(*refusal));
                true
            }
        }
    }

    fn handle_registered(&mut self, answer: &Result<WireAnswer<'_>, Refusal>) -> bool {
        let Some(registry) = self.registry_key() else {
            return false;
        };
        let (record, assign, beacons) = match answer {
            Ok(WireAnswer::Registered { record, assign, beacons }) => (record, assign, beacons),
            Ok(_) => return false,
            Err(refusal) => {
                self.retry_registration(Some(*refusal));
                return true;
            }
        };
        let assigned = self.own.keys.assigned;
        let journal = &mut self.journal;
        match self.own.handle_registered(&record.0, &assign.0, &registry, journal) {
            Verdict::Forged => {
                self.retry_registration(None);
                return false;
            }
            Verdict::Renewed => return true,
            Verdict::Current => {}
        }
        self.check_clock(assigned);
        self.own.handle_beacons(beacons, &registry, &mut self.journal);
        self.config.takeover = false;
        self.edges.registered = true;
        self.changes.registered = true;
        self.mailbox.wanted = true;
        self.trust.restart_jobs();
        self.connect_beacon();
        true
    }

    /// Compares clocks (`wire.md` 8): an Assign that is new was made just now; an older one
    /// only proves that our clock is behind.
    fn check_clock(&mut self, before: u64) {
        let (theirs, ours) = (self.own.keys.assigned, self.unix().as_secs());
        let skew = i64::try_from(theirs).unwrap_or(i64::MAX) - i64::try_from(ours).unwrap_or(0);
        let telling = theirs != before || skew > 0;
        if telling && skew.unsigned_abs() > CLOCK_TOLERANCE.as_secs() {
            self.edges.skew = Some(skew);
        }
    }

    fn handle_mailbox(&mut self, answer: &Result<WireAnswer<'_>, Refusal>) -> bool {
        let (items, more) = match answer {
            Ok(WireAnswer::Mailbox { items, more }) => (items, *more),
            Ok(_) => return false,
            // What cannot be fetched now is announced again by the beacon.
            Err(_) => {
                self.mailbox.wanted = false;
                return true;
            }
        };
        let items: &List<'_, MailboxItem<'_>> = items;
        self.mailbox.wanted = more;
        for item in items.iter() {
            // An item that does not decode ends the list; what follows comes after it is
            // acknowledged, which it is by the registry's age limit.
            let Ok(item) = item else {
                self.drops.count(DropReason::Malformed);
                self.mailbox.wanted = false;
                break;
            };
            if self.mailbox.acks.push(item.id).is_err() {
                self.mailbox.wanted = true;
                break;
            }
            let Some((trust, mut ctx)) = self.trust_parts() else {
                break;
            };
            trust.handle_item(&mut ctx, &item);
        }
        true
    }

    fn handle_trust(&mut self, ticket: Ticket, answer: Result<&WireAnswer<'_>, Refusal>) {
        let Some((trust, mut ctx)) = self.trust_parts() else {
            return;
        };
        if trust.handle_answer(&mut ctx, ticket, answer) == Outcome::RaiseEpoch {
            self.raise_epoch();
        }
        self.end_name_search();
    }

    /// All grants become void; those who stay trusted get new ones (`wire.md` 6.5).
    fn raise_epoch(&mut self) {
        let Some(registry) = self.registry_key() else {
            return;
        };
        self.own.raise_epoch(&registry, &mut self.journal);
        if let Some((trust, mut ctx)) = self.trust_parts() {
            trust.reissue(&mut ctx);
        }
    }

    /// Applies what an owner's request changed, and keeps its answer.
    fn handle_owners(
        &mut self,
        id: RequestId,
        plaintext: &[u8],
        answer: &Result<WireAnswer<'_>, Refusal>,
    ) {
        let mut failure = None;
        match answer {
            Ok(WireAnswer::Resolved(resolved)) => {
                let genuine = match self.trust_parts() {
                    Some((trust, mut ctx)) => trust.check_resolved(&mut ctx, resolved),
                    None => false,
                };
                failure = (!genuine).then_some(RequestError::NotAuthentic);
            }
            Ok(_) => self.apply_owners(id),
            Err(Refusal { code: ErrorCode::NotFound, .. }) if self.search_name(id) => return,
            Err(_) => {}
        }
        match failure {
            Some(error) => self.requests.answer(id, Err(error)),
            None => self.requests.answer(id, Ok(plaintext)),
        }
    }

    fn apply_owners(&mut self, id: RequestId) {
        let (own, journal) = (&mut self.own, &mut self.journal);
        match self.requests.request(id) {
            Some(Request::Join { network }) => {
                let name = own.hostname(network).cloned();
                own.set_membership(network, name, journal);
            }
            Some(Request::Leave { network }) => own.drop_membership(network, journal),
            Some(Request::SetHostname { hostname, network }) => {
                let network = network.unwrap_or(own.default_network());
                own.set_membership(network, Some(hostname), journal);
            }
            Some(Request::ClearHostname { network }) => {
                let network = network.unwrap_or(own.default_network());
                own.set_membership(network, None, journal);
            }
            Some(Request::SetVisibility { visibility }) => {
                own.tags.visibility = visibility;
                own.touch(OwnFact::Tags, journal);
            }
            Some(Request::SetTags { tags }) => {
                own.tags.tags = tags;
                own.touch(OwnFact::Tags, journal);
            }
            _ => {}
        }
    }

    // ---- beacon ----

    pub(super) fn connect_beacon(&mut self) {
        let at = self.beacon_address.or(self.own.registry.beacon_at);
        if let (true, Some(at), Some(entry)) = (self.own.registered, at, self.own.registry.beacon) {
            self.beacon.connect(self.now, at, entry.tunnel);
        }
    }

    fn beacon_parts(&mut self) -> (&mut Beacon<'s>, &Trust<'s>, beacon::Context<'_>) {
        let unix = self.clock.unix(self.now);
        let ctx = beacon::Context {
            now: self.now,
            unix,
            own: &self.own,
            aead: self.aead,
            rng: &mut self.rng,
            quiet: self.journal.is_quiet(),
        };
        (&mut self.beacon, &self.trust, ctx)
    }

    pub(super) fn beacon_output(&mut self, out: &mut [u8]) -> Option<(usize, Option<Path>)> {
        let (beacon, trust, mut ctx) = self.beacon_parts();
        let grant = |peer| Some(Bytes(trust.peer(peer)?.held()?.encode()));
        beacon.poll_transmit(&mut ctx, grant, out)
    }

    pub(super) fn beacon_timeout(&mut self) {
        if !self.fenced {
            let (beacon, _, mut ctx) = self.beacon_parts();
            beacon.handle_timeout(&mut ctx);
        }
    }

    pub(super) fn handle_beacon(
        &mut self,
        path: Path,
        packet: &mut [u8],
    ) -> Result<(), DropReason> {
        let (beacon, _, mut ctx) = self.beacon_parts();
        let heard = beacon.handle_packet(&mut ctx, path, packet)?;
        self.handle_heard(heard)
    }

    /// The peer that a channel is with: who we have pinned, by address and identity.
    fn other_end(&self, info: &ChannelInfo) -> Option<PeerIndex> {
        let index = self.trust.find(info.peer)?;
        let peer = self.trust.peer(index)?;
        (peer.identity.0 == info.identity.0).then_some(index)
    }

    pub(super) fn handle_heard(&mut self, heard: Heard) -> Result<(), DropReason> {
        match heard {
            Heard::Nothing => {}
            Heard::Waiting => self.mailbox.wanted = true,
            Heard::Channel(entry, info) => {
                let asked = self.beacon.asked(entry);
                match self.other_end(&info).filter(|peer| asked == Some(*peer)) {
                    Some(peer) => return room(self.beacon.set_up(peer, &info, None)),
                    None => {
                        self.beacon.refuse_channel(self.now, entry);
                        return Err(DropReason::UnknownChannel);
                    }
                }
            }
            // A stranger's channel is not acknowledged; it ends by itself.
            Heard::Bound(info, id) => {
                let peer = self.other_end(&info).ok_or(DropReason::Untrusted)?;
                return room(self.beacon.set_up(peer, &info, Some(id)));
            }
            Heard::Fenced => self.fence(),
            Heard::Unknown => self.own.registered = false,
        }
        Ok(())
    }

    // ---- state ----

    fn fence(&mut self) {
        if !self.fenced {
            self.fenced = true;
            self.edges.fenced = true;
            self.changes.fenced = true;
            self.own.registered = false;
            self.beacon.stop();
        }
    }

    pub(super) fn plan_rotation(&mut self) {
        let left = self.own.rotates_at().as_millis().saturating_sub(self.unix().as_millis());
        self.rotate_at = self.now + Duration::from_millis(left);
    }

    /// Replaces a tunnel key that is 30 days old.
    pub(super) fn rotate(&mut self) {
        if self.now < self.rotate_at || !self.started {
            return;
        }
        let unix = self.unix();
        if let Some(registry) = self.registry_key()
            && self.own.rotate(unix, &registry, &mut self.rng, &mut self.journal)
        {
            self.plan_rotation();
        } else {
            self.rotate_at = self.now + DIRECTORY_BACKOFF_MAX;
        }
    }

    /// Ends requests for trust that nobody answers, once an hour.
    pub(super) fn sweep(&mut self) {
        if self.now < self.sweep_at {
            return;
        }
        self.sweep_at = self.now + Duration::from_secs(3600);
        if let Some((trust, mut ctx)) = self.trust_parts() {
            trust.expire(&mut ctx);
        }
    }

    pub(super) fn update_link_state(&mut self) {
        let online = self.own.registered && self.beacon.is_up() && !self.fenced;
        let state = if online { LinkState::Online } else { LinkState::Offline };
        if self.link_state != state {
            self.link_state = state;
            self.edges.link = true;
        }
    }

    pub(super) fn visibility(&self) -> Visibility {
        self.own.tags.visibility
    }
}

fn room(taken: bool) -> Result<(), DropReason> {
    if taken { Ok(()) } else { Err(DropReason::Full) }
}
