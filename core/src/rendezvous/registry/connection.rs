//! TCP connections of the registry: from bytes to requests and back (`wire.md` 6.1).
//!
//! | State | Input | Next |
//! |---|---|---|
//! | stranger | `AOR1` with a message 1 that authenticates; a record in it is its owner's | open |
//! | stranger | anything else, 512 bytes in all, or 3 s | closed |
//! | open | a frame | a request; its answer goes out at once or after a commit |
//! | open | a frame that does not open, 60 s of silence, or 256 KiB of unread answers | closed |
//!
//! A connection counts for its source until it is known whose it is: it has shown a record, or
//! reserved an address. Anybody can authenticate with a fresh key, which proves nothing. A full
//! table closes the oldest stranger: an honest one is none for longer than a round trip. The
//! handshake budget, and first the share of it that its source has, is spent where it is needed,
//! when a stranger's message is complete, so that connections that say nothing cost nobody a
//! handshake.
//!
//! The bytes are [`crate::session::channel`]'s business; what a record and a boot id are worth
//! here is this module's.

use super::service::Standing;
use super::{Caller, Context, Directory};
use crate::addr::{Address, NodeId};
use crate::crypto::{AeadProvider, TunnelSecret};
use crate::limits::{REGISTRY_IDLE, REGISTRY_PRE_AUTH};
use crate::rendezvous::limit::{TokenTable, prefix};
use crate::rendezvous::slots::Keyed;
use crate::rendezvous::{Event, RendezvousLimits};
use crate::rng::Rng;
use crate::session::channel::{
    BUFFER, ChannelError, HELLO_BUFFER, Introduction, ServerChannel, ServerEvent, ServerKeys,
};
use crate::session::gate::Bucket;
use crate::session::payload::Caps;
use crate::slab::Store;
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;

/// Answers that a client has not read; above it the connection is closed.
const UNREAD_MAX: usize = 256 * 1024;

/// A TCP connection as the adapter numbers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

struct Conn {
    remote: SocketAddr,
    heard: Instant,
    /// Where it stands among the timers.
    check: Instant,
    channel: ServerChannel<'static>,
    /// Its handshake was paid for from the budget.
    paid: bool,
    /// Set once the channel is open.
    standing: Option<Standing>,
    /// The node under which it is counted.
    counted: Option<NodeId>,
    /// Answers for which the channel's buffer has no room yet, and their bytes.
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
    /// Requests that wait for a commit.
    waiting: usize,
    /// [`Event::ConnectionWritable`] is out and the bytes are not.
    told: bool,
}

pub(crate) struct Connections {
    conns: Keyed<ConnId, Conn>,
    timers: BTreeSet<(Instant, ConnId)>,
    /// Connections of nobody we know, per source.
    strangers: BTreeMap<[u8; 9], usize>,
    /// The same, the oldest first: ids rise.
    by_age: BTreeSet<ConnId>,
    of_node: BTreeSet<(NodeId, ConnId)>,
    events: VecDeque<Event>,
    aead: &'static dyn AeadProvider,
    secret: TunnelSecret,
    us: Introduction,
    rng: Rng,
    budget: Bucket,
    budget_full_at: u64,
    /// Of each source's handshakes.
    sources: TokenTable,
    limits: RendezvousLimits,
}

impl Connections {
    pub(crate) fn new(
        limits: &RendezvousLimits,
        aead: &'static dyn AeadProvider,
        secret: TunnelSecret,
        mut rng: Rng,
    ) -> Self {
        let us = Introduction {
            address: Address::REGISTRY,
            record: None,
            boot_id: rng.bytes(),
            max_datagram: 0,
            caps: Caps::of(aead),
        };
        let rate = limits.channel_handshakes_per_second;
        let of_source = limits.channel_handshakes_per_source;
        let sources = TokenTable::new(rng.bytes(), of_source, Duration::from_secs(1));
        Connections {
            conns: Keyed::new(limits.connections),
            timers: BTreeSet::new(),
            strangers: BTreeMap::new(),
            by_age: BTreeSet::new(),
            of_node: BTreeSet::new(),
            events: VecDeque::new(),
            aead,
            secret,
            us,
            rng,
            budget: Bucket::new(rate, rate),
            budget_full_at: 0,
            sources,
            limits: limits.clone(),
        }
    }

    /// Mixes entropy into the generator.
    pub(crate) fn reseed(&mut self, entropy: &[u8; 32]) {
        self.rng.mix(entropy);
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// Takes a connection that was accepted. An error is a counted drop: of this one, or of
    /// the one that it displaced.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        conn: ConnId,
        remote: SocketAddr,
    ) -> Result<(), DropReason> {
        let source = prefix(remote.ip());
        let strangers = self.strangers.get(&source).copied().unwrap_or(0);
        if strangers >= self.limits.unauthenticated_per_source || self.conns.contains_key(conn) {
            self.events.push_back(Event::CloseConnection(conn));
            return Err(DropReason::Full);
        }
        let mut evicted = Ok(());
        if self.conns.len() >= self.limits.connections {
            evicted = Err(DropReason::Full);
            let Some(oldest) = self.by_age.first().copied() else {
                self.events.push_back(Event::CloseConnection(conn));
                return evicted;
            };
            self.close(oldest);
        }
        let strangers = self.strangers.get(&source).copied().unwrap_or(0);
        self.strangers.insert(source, strangers + 1);
        let check = now + REGISTRY_PRE_AUTH;
        self.timers.insert((check, conn));
        let buffer = || Store::<u8>::boxed_zeroed(HELLO_BUFFER);
        let state = Conn {
            remote,
            heard: now,
            check,
            channel: ServerChannel::new(self.us, buffer(), buffer()),
            paid: false,
            standing: None,
            counted: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            waiting: 0,
            told: false,
        };
        let has_room = self.conns.insert(conn, state);
        debug_assert!(has_room, "one was closed for it");
        self.by_age.insert(conn);
        evicted
    }

    /// Takes bytes until a request is complete (`Some(Ok(plaintext))`) or all are taken
    /// (`None`). On an error the connection is closed.
    pub(crate) fn receive(
        &mut self,
        ctx: &Context<'_>,
        conn: ConnId,
        bytes: &mut &[u8],
        directory: &Directory,
    ) -> Option<Result<Vec<u8>, DropReason>> {
        loop {
            let state = self.conns.get_mut(conn)?;
            if !state.paid && state.channel.is_costly() {
                let has_share = self.sources.take(ctx.now, state.remote.ip()).is_ok();
                if !has_share || !self.budget.take(&mut self.budget_full_at, ctx.now) {
                    return Some(self.fail(conn, DropReason::RateLimited));
                }
                state.paid = true;
            }
            let keys = ServerKeys { identity: ctx.registry, secret: &self.secret, previous: None };
            let event = match state.channel.poll(keys, self.aead, &mut self.rng) {
                Ok(event) => event,
                Err(error) => return Some(self.fail(conn, reason(error))),
            };
            match event {
                Some(ServerEvent::Frame(plaintext)) => {
                    state.heard = state.heard.max(ctx.now);
                    return Some(Ok(plaintext.to_vec()));
                }
                Some(ServerEvent::Open { hash, tunnel, address, record, boot_id }) => {
                    let standing = Standing {
                        from: state.remote.ip(),
                        hash,
                        boot_id: u64::from_be_bytes(boot_id),
                        caller: None,
                        registered: false,
                        was_current: false,
                    };
                    let own = tunnel == self.secret.public();
                    let bare = record.is_none() && !address.is_unspecified();
                    if own || bare {
                        return Some(self.fail(conn, DropReason::WrongAddress));
                    }
                    let standing = match record {
                        None => standing,
                        Some(record) => match introduce(standing, &record, ctx, directory) {
                            Ok(standing) => standing,
                            Err(reason) => return Some(self.fail(conn, reason)),
                        },
                    };
                    self.admit(ctx.now, conn, standing);
                }
                None => {
                    let n = state.channel.handle_bytes(bytes);
                    *bytes = &bytes[n..];
                    if !state.channel.output().is_empty() {
                        self.tell(conn); // The answer to AOR0.
                    }
                    if n == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// The channel is open.
    fn admit(&mut self, now: Instant, conn: ConnId, standing: Standing) {
        let Some(state) = self.conns.get_mut(conn) else { return };
        let buffer = || Store::<u8>::boxed_zeroed(BUFFER);
        state.channel.grow(buffer(), buffer());
        state.heard = now;
        state.standing = Some(standing);
        self.follow(conn);
        self.tell(conn);
    }

    fn less_strange(&mut self, source: [u8; 9]) {
        if let Some(count) = self.strangers.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.strangers.remove(&source);
            }
        }
    }

    pub(crate) fn standing(&mut self, conn: ConnId) -> Option<&mut Standing> {
        self.conns.get_mut(conn)?.standing.as_mut()
    }

    /// Counts the connection under the node it has proven to be, and no longer under its
    /// source; above the limit the node's oldest connection is closed.
    pub(crate) fn follow(&mut self, conn: ConnId) {
        let Some(state) = self.conns.get_mut(conn) else { return };
        let caller = state.standing.and_then(|standing| standing.caller);
        let Some(caller) = caller.filter(|_| state.counted.is_none()) else { return };
        state.counted = Some(caller.node);
        let source = prefix(state.remote.ip());
        self.less_strange(source);
        self.by_age.remove(&conn);
        self.of_node.insert((caller.node, conn));
        let all = (caller.node, ConnId(0))..=(caller.node, ConnId(u64::MAX));
        if self.of_node.range(all.clone()).count() > self.limits.connections_per_node.max(1) {
            let oldest = self.of_node.range(all).map(|(_, id)| *id).find(|id| *id != conn);
            if let Some(oldest) = oldest {
                self.close(oldest);
            }
        }
    }

    /// Whether so many requests wait for storage that the next is refused.
    pub(crate) fn is_busy(&self, conn: ConnId) -> bool {
        let limit = self.limits.waiting_per_connection;
        self.conns.get(conn).is_some_and(|state| state.waiting >= limit)
    }

    pub(crate) fn wait(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.waiting += 1;
        }
    }

    pub(crate) fn waited(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.waiting -= 1;
        }
    }

    /// Seals an answer and tells the adapter that there is something to write.
    pub(crate) fn answer(&mut self, now: Instant, conn: ConnId, plaintext: &[u8]) {
        let Some(state) = self.conns.get_mut(conn) else { return };
        state.heard = state.heard.max(now);
        if !state.backlog.is_empty() || !state.send(plaintext) {
            state.backlog_bytes += plaintext.len();
            state.backlog.push_back(plaintext.into());
            if state.backlog_bytes > UNREAD_MAX {
                self.close(conn);
                return;
            }
        }
        self.tell(conn);
    }

    fn tell(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(conn)
            && !state.told
        {
            state.told = true;
            self.events.push_back(Event::ConnectionWritable(conn));
        }
    }

    pub(crate) fn poll_bytes(&mut self, conn: ConnId, out: &mut [u8]) -> usize {
        let Some(state) = self.conns.get_mut(conn) else { return 0 };
        let mut len = 0;
        loop {
            let ready = state.channel.output();
            let n = ready.len().min(out.len() - len);
            if n == 0 {
                break;
            }
            out[len..len + n].copy_from_slice(&ready[..n]);
            state.channel.sent(n);
            len += n;
            while let Some(plaintext) = state.backlog.pop_front() {
                if !state.send(&plaintext) {
                    state.backlog.push_front(plaintext);
                    break;
                }
                state.backlog_bytes -= plaintext.len();
            }
        }
        if state.channel.output().is_empty() {
            state.told = false;
        }
        len
    }

    fn fail<T>(&mut self, conn: ConnId, reason: DropReason) -> Result<T, DropReason> {
        self.close(conn);
        Err(reason)
    }

    /// Forgets a connection and has the adapter close it.
    pub(crate) fn close(&mut self, conn: ConnId) {
        if self.forget(conn) {
            self.events.push_back(Event::CloseConnection(conn));
        }
    }

    /// Forgets a connection; whether it was there.
    pub(crate) fn forget(&mut self, conn: ConnId) -> bool {
        let Some(state) = self.conns.remove(conn) else { return false };
        self.timers.remove(&(state.check, conn));
        self.by_age.remove(&conn);
        match state.counted {
            Some(node) => drop(self.of_node.remove(&(node, conn))),
            None => self.less_strange(prefix(state.remote.ip())),
        }
        true
    }

    /// Closes what is late; gives a reason for each.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<DropReason> {
        let mut dropped = Vec::new();
        while let Some(&(at, conn)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(state) = self.conns.get_mut(conn) else { continue };
            let end = match state.standing {
                None => at,
                Some(_) => state.heard + REGISTRY_IDLE,
            };
            if end <= now {
                self.close(conn);
                dropped.push(DropReason::Expired);
            } else {
                state.check = end;
                self.timers.insert((end, conn));
            }
        }
        dropped
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

impl Conn {
    /// Seals an answer into the channel's buffer, if there is room.
    fn send(&mut self, plaintext: &[u8]) -> bool {
        let build = |frame: &mut [u8]| {
            frame.get_mut(..plaintext.len())?.copy_from_slice(plaintext);
            Some(plaintext.len())
        };
        self.channel.send(build).is_some()
    }
}

/// What the record in message 1 is worth: the registry's own one, a newer or older one of the
/// same identity, or nothing.
fn introduce(
    mut standing: Standing,
    record: &crate::crypto::Record,
    ctx: &Context<'_>,
    directory: &Directory,
) -> Result<Standing, DropReason> {
    let node = directory.owner(record).ok_or(DropReason::Untrusted)?;
    standing.registered = node.record().as_ref() == Some(record);
    if !standing.registered {
        record.verify(&ctx.registry.public()).map_err(|_| DropReason::Untrusted)?;
    }
    standing.was_current = node.boot_id() == Some(standing.boot_id);
    let node = record.fields.addr.node;
    standing.caller = Some(Caller { node, identity: record.identity });
    Ok(standing)
}

const fn reason(error: ChannelError) -> DropReason {
    match error {
        ChannelError::NotAuthentic => DropReason::Handshake,
        _ => DropReason::Malformed,
    }
}
