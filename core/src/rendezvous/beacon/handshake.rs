//! The responder's pipeline (`wire.md` 4.5) as the beacon has it: a cookie always, and only
//! registered records.

use super::Beacon;
use super::agent::{Agent, Pending};
use crate::addr::Address;
use crate::crypto::{TunnelSecret, kdf};
use crate::limits::{BEACON_REJECT, DATAGRAM_DEFAULT, PENDING_FRESH, RESP_RESENDS, STALE_INTERVAL};
use crate::machine::{Ecn, Path};
use crate::path::Route;
use crate::rendezvous::registry::Directory;
use crate::session::cookie::Source;
use crate::session::gate::Verdict;
use crate::session::handshake::{
    COOKIE, INDEX_BIT, RESP_MAX, Received, STALE, check_envelope, write_cookie,
};
use crate::session::keys::SmallSession;
use crate::session::payload::{Caps, RespPayload};
use crate::stats::DropReason;
use crate::time::Instant;

impl Beacon {
    pub(super) fn handle_init(
        &mut self,
        now: Instant,
        path: Path,
        init: &mut [u8],
        directory: &Directory,
    ) -> Result<(), DropReason> {
        check_envelope(init)?;
        if !self.mac1.check(init) {
            return Err(DropReason::Mac);
        }
        let hash = *kdf::sha256(&[&init[..init.len() - 16]]).first_chunk().expect("32 have 16");
        if let Some(&slot) = self.answered.get(&hash) {
            return self.answer_again(slot);
        }
        let source = Source::of(&Route::Direct(path));
        match self.gate.judge(now, &mut self.rng, &source, init) {
            Verdict::Admit => {}
            Verdict::Refuse => return Err(DropReason::RateLimited),
            Verdict::DemandCookie(cookie) => {
                let mut out = [0; COOKIE];
                let nonce = self.rng.bytes();
                write_cookie(init, &self.secret.public(), &cookie, nonce, &mut out);
                self.queue.push(path, Ecn::NotEct, &out);
                return Ok(());
            }
        }
        let received = Received::read(&self.secret, init)?;
        let payload = &received.payload;
        let remote = received.remote_static();
        if payload.dst != Address::BEACON || remote == self.secret.public() {
            return Err(DropReason::WrongAddress);
        }
        let record = payload.record.ok_or(DropReason::Untrusted)?.expand(payload.src, remote);
        // Equal to the stored record, whose signature was verified when it came in.
        let node = directory.owner(&record).ok_or(DropReason::Untrusted)?;
        if node.record() != Some(record) {
            return Err(DropReason::Untrusted);
        }
        let slot = self.by_node.get(&record.fields.addr.node).copied();
        if let Some(agent) = slot.and_then(|slot| self.agents.get_mut(slot)) {
            let highest = agent.stale_against(now, payload.hs_seq);
            if let Some(highest) = highest {
                let early = agent.stale_at.is_some_and(|at| now.since(at) < STALE_INTERVAL);
                if !early {
                    agent.stale_at = Some(now);
                    let mut out = [0; STALE];
                    received.write_stale(highest, self.rng.bytes(), &mut out);
                    self.queue.push(path, Ecn::NotEct, &out);
                }
                return Err(DropReason::Stale);
            }
        }
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let node = record.fields.addr.node;
                let slot =
                    self.agents.insert(Agent::new(now, node, path)).ok_or(DropReason::Full)?;
                self.by_node.insert(node, slot);
                slot
            }
        };
        let answered = self.answer_init(now, slot, path, received, hash);
        if answered.is_err() && self.agents.get(slot).is_some_and(|a| a.current.is_none()) {
            self.remove_agent(slot);
        }
        answered
    }

    fn answer_init(
        &mut self,
        now: Instant,
        slot: u32,
        path: Path,
        received: Received,
        hash: [u8; 16],
    ) -> Result<(), DropReason> {
        let caps = Caps::of(self.aead);
        let suite = caps.choose(received.payload.caps).ok_or(DropReason::Handshake)?;
        let hs_seq = received.payload.hs_seq;
        let remote_index = received.remote_index;
        let index = loop {
            let index = self.rng.u32() | INDEX_BIT;
            if !self.by_index.contains_key(&index) {
                break index;
            }
        };
        let payload = RespPayload {
            suite: suite.to_byte(),
            caps,
            max_datagram: DATAGRAM_DEFAULT,
            observed: Some(path.remote),
            boot_id: self.boot_id,
            record: None,
            early: None,
        };
        let ephemeral = TunnelSecret::from_secret(self.rng.bytes());
        let mut out = [0; RESP_MAX];
        let (len, keys) = received
            .write_resp(ephemeral, index, suite, &payload, &mut out)
            .map_err(|_| DropReason::Handshake)?;
        let link = SmallSession::new(keys, index, remote_index, now + BEACON_REJECT);
        self.drop_pending(slot);
        let agent = self.agents.get_mut(slot).ok_or(DropReason::Full)?;
        agent.pending = Some(alloc::boxed::Box::new(Pending {
            link,
            at: now,
            path,
            hs_seq,
            hash,
            resp: out[..len].into(),
            resends: 0,
        }));
        self.by_index.insert(index, slot);
        self.answered.insert(hash, slot);
        self.counts.handshakes += 1;
        self.queue.push(path, Ecn::NotEct, &out[..len]);
        self.schedule(slot);
        Ok(())
    }

    /// The same INIT again: the same RESP, to where the first one came from.
    fn answer_again(&mut self, slot: u32) -> Result<(), DropReason> {
        let pending = self.agents.get_mut(slot).and_then(|agent| agent.pending.as_deref_mut());
        let pending = pending.ok_or(DropReason::Stale)?;
        if pending.resends >= RESP_RESENDS {
            return Err(DropReason::RateLimited);
        }
        pending.resends += 1;
        self.queue.push(pending.path, Ecn::NotEct, &pending.resp);
        Ok(())
    }
}

impl Agent {
    /// If a handshake of this number is old (`wire.md` 4.5 step 6): the highest number known.
    fn stale_against(&self, now: Instant, hs_seq: u64) -> Option<u64> {
        let fresh = self.pending.as_ref().filter(|p| now.since(p.at) < PENDING_FRESH);
        let pending = fresh.map_or(0, |pending| pending.hs_seq);
        let stale = hs_seq <= self.confirmed_seq || hs_seq < pending;
        stale.then(|| self.confirmed_seq.max(pending))
    }
}
