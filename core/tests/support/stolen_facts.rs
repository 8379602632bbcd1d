//! Somebody who has read an agent's stored facts, and speaks as it by hand: with its keys, and
//! without its manners.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use pilot_core::crypto::record::RECORD;
use pilot_core::crypto::{IdentityKey, RUST_CRYPTO, Record, TunnelKey, TunnelSecret};
use pilot_core::limits::{FRAME_HEADER, TAG};
use pilot_core::session::handshake::{INIT_MAX, Initiator, TYPE_RESP};
use pilot_core::session::keys::SmallSession;
use pilot_core::session::payload::{Caps, InitPayload};
use pilot_core::time::Instant;

/// The records in stored facts, whoever's they are.
pub fn records<'f>(
    facts: impl IntoIterator<Item = &'f Vec<u8>>,
    registry: &IdentityKey,
) -> Vec<Record> {
    let windows = facts.into_iter().flat_map(|fact| fact.windows(RECORD));
    let decoded = windows.filter_map(|bytes| Record::decode(bytes).ok());
    decoded.filter(|record| record.verify(registry).is_ok()).collect()
}

pub struct Thief {
    pub secret: TunnelSecret,
    pub record: Record,
    pub victim: Record,
    /// The number of the next INIT.
    pub hs_seq: u64,
    draws: u64,
}

impl Thief {
    /// Of the agent `own`, whose facts these are; `victim` is among its peers.
    pub fn of(
        facts: &[Vec<u8>],
        registry: &IdentityKey,
        own: &IdentityKey,
        victim: &IdentityKey,
        hs_seq: u64,
    ) -> Thief {
        let all = records(facts, registry);
        let newest = |identity: &IdentityKey| {
            let of = all.iter().filter(|record| record.identity == *identity);
            *of.max_by_key(|record| record.fields.serial).expect("its record is among the facts")
        };
        let (record, victim) = (newest(own), newest(victim));
        let windows = facts.iter().flat_map(|fact| fact.windows(32));
        let mut secrets = windows.map(|w| TunnelSecret::from_secret(w.try_into().unwrap()));
        let secret = secrets.find(|secret| secret.public() == record.fields.tunnel);
        Thief { secret: secret.expect("its secret, too"), record, victim, hs_seq, draws: 0 }
    }

    pub fn payload(&mut self) -> InitPayload {
        self.hs_seq += 1;
        InitPayload {
            caps: Caps::of(&RUST_CRYPTO),
            rekey: false,
            max_datagram: 1400,
            src: self.record.fields.addr,
            dst: self.victim.fields.addr,
            hs_seq: self.hs_seq,
            known_peer_serial: self.victim.fields.serial,
            generation: 1000,
            boot_id: [9; 8],
            record: Some(self.record.to_short()),
            early: None,
        }
    }

    /// An INIT that its owner could have written.
    pub fn init(&mut self) -> (Initiator, Vec<u8>) {
        let payload = self.payload();
        let secret = TunnelSecret::from_secret(*self.secret.secret());
        self.init_by(&secret, &payload)
    }

    /// An INIT to the victim by whoever holds `secret`, saying whatever it likes.
    pub fn init_by(
        &mut self,
        secret: &TunnelSecret,
        payload: &InitPayload,
    ) -> (Initiator, Vec<u8>) {
        let victim = self.victim.fields.tunnel;
        self.init_to(&victim, secret, payload)
    }

    /// The same, to whoever has this tunnel key.
    pub fn init_to(
        &mut self,
        to: &TunnelKey,
        secret: &TunnelSecret,
        payload: &InitPayload,
    ) -> (Initiator, Vec<u8>) {
        self.draws += 1;
        let mut ephemeral = [77; 32];
        ephemeral[..8].copy_from_slice(&self.draws.to_be_bytes());
        let e = TunnelSecret::from_secret(ephemeral);
        let index = 0x8000_0000 | self.draws as u32;
        let mut out = [0; INIT_MAX];
        let (initiator, n) = Initiator::start(secret, to, e, index, payload, &mut out).unwrap();
        (initiator, out[..n].to_vec())
    }

    /// The session that a RESP gives.
    pub fn session(&self, now: Instant, initiator: &Initiator, resp: &[u8]) -> SmallSession {
        assert_eq!(resp[0], TYPE_RESP);
        let mut resp = resp.to_vec();
        let accepted = initiator.read_resp(&self.secret, &mut resp).unwrap().ok().unwrap();
        let end = now + pilot_core::limits::REJECT_AFTER * 2;
        SmallSession::new(accepted.keys, initiator.index(), accepted.remote_index, end)
    }
}

/// A data frame with this content.
pub fn seal(session: &mut SmallSession, now: Instant, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER + content.len() + TAG];
    frame[FRAME_HEADER..][..content.len()].copy_from_slice(content);
    let sealed = session.seal(now, &RUST_CRYPTO, &mut frame, content.len());
    assert_eq!(sealed.map(|sealed| sealed.len), Some(frame.len()));
    frame
}
