//! An agent or beacon that speaks the protocol by hand: it signs and seals correctly, and says
//! whatever the fuzzer wants. It keeps to nobody's rules but the envelope's.

use crate::stage;
use pilot_core::addr::Address;
use pilot_core::crypto::exchange::{
    Initiator as Noise, MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, MESSAGE2_OVERHEAD, MESSAGE2_PAYLOAD,
    Pattern, Responder,
};
use pilot_core::crypto::kdf::{mac16, sha256};
use pilot_core::crypto::{CONTEXT, RUST_CRYPTO, Record, Suite, TunnelKey, TunnelSecret};
use pilot_core::rng::Rng;
use pilot_core::session::handshake::{
    self, INIT_MAX, Initiator, RESP_MAX, Received, TYPE_INIT, TYPE_RESP, VERSION, key_schedule,
};
use pilot_core::session::keys::{SmallSession, frame_index};
use pilot_core::session::payload::{BootId, Caps, InitPayload, P1_MAX, P2_MAX, RespPayload};
use pilot_core::time::{Duration, Instant};

/// Bytes of the two macs.
const MACS: usize = 32;

/// One end of tunnels, without any table or timer.
pub struct Actor {
    /// Its address.
    pub address: Address,
    /// The other end's address.
    pub other: Address,
    /// What it shows in P1.
    pub record: Option<Record>,
    /// Of this start.
    pub boot_id: BootId,
    /// The last number it used.
    pub hs_seq: u64,
    /// The generation it claims.
    pub generation: u32,
    /// The sessions that were derived, newest last.
    pub sessions: Vec<SmallSession>,
    /// The INIT under way.
    pub initiator: Option<Initiator>,
    /// The other end's INIT, as it was when it came.
    pub received: Option<Vec<u8>>,
    secret: TunnelSecret,
    theirs: TunnelKey,
    rng: Rng,
    next_index: u32,
}

impl Actor {
    /// Agent `n` of the stage towards an owner of `theirs` at address `other`.
    pub fn agent(n: usize, other: Address, theirs: TunnelKey) -> Self {
        let agent = &stage::Stage::get().agents[n];
        Actor::new(agent.address, Some(agent.record), agent.secret(), other, theirs)
    }

    /// The stage's beacon towards agent `n`.
    pub fn beacon(n: usize) -> Self {
        let agent = &stage::Stage::get().agents[n];
        let theirs = agent.record.fields.tunnel;
        Actor::new(Address::BEACON, None, stage::registry_secret(), agent.address, theirs)
    }

    /// Agent `n` of the stage towards the stage's beacon.
    pub fn at_beacon(n: usize) -> Self {
        let theirs = stage::registry_secret().public();
        let mut actor = Actor::agent(n, Address::BEACON, theirs);
        actor.boot_id = stage::Stage::get().agents[n].boot_id.to_be_bytes();
        actor
    }

    fn new(
        address: Address,
        record: Option<Record>,
        secret: TunnelSecret,
        other: Address,
        theirs: TunnelKey,
    ) -> Self {
        Actor {
            address,
            other,
            record,
            boot_id: [3; 8],
            hs_seq: stage::unix().as_millis() + 1_000_000,
            generation: 1,
            sessions: Vec::new(),
            initiator: None,
            received: None,
            secret,
            theirs,
            rng: Rng::new([77; 32]),
            // No two actors hand out the same index: with the counter it names a nonce.
            next_index: 0x8000_0000 | address.node.0 << 16,
        }
    }

    fn ephemeral(&mut self) -> TunnelSecret {
        TunnelSecret::from_secret(self.rng.bytes())
    }

    fn index(&mut self) -> u32 {
        self.next_index += 1;
        self.next_index
    }

    /// What an honest P1 would say now.
    pub fn p1(&mut self) -> InitPayload {
        self.hs_seq += 1;
        InitPayload {
            caps: Caps::of(&RUST_CRYPTO),
            rekey: false,
            max_datagram: 65_507,
            src: self.address,
            dst: self.other,
            hs_seq: self.hs_seq,
            known_peer_serial: 0,
            generation: self.generation,
            boot_id: self.boot_id,
            record: self.record.as_ref().map(Record::to_short),
            early: None,
        }
    }

    /// An INIT with this P1, remembered so that its RESP can be read.
    pub fn init(&mut self, p1: &InitPayload) -> Vec<u8> {
        let (e, index) = (self.ephemeral(), self.index());
        let mut out = [0; INIT_MAX];
        let (initiator, n) = Initiator::start(&self.secret, &self.theirs, e, index, p1, &mut out)
            .expect("their key is a key");
        self.initiator = Some(initiator);
        out[..n].to_vec()
    }

    /// An INIT whose plaintext is whatever the fuzzer wants, rightly sealed and with mac1.
    pub fn init_raw(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let plaintext = &plaintext[..plaintext.len().min(P1_MAX + 64)];
        let (e, index) = (self.ephemeral(), self.index());
        let mut packet = vec![0; 8 + MESSAGE1_OVERHEAD + plaintext.len() + MACS];
        packet[..4].copy_from_slice(&[TYPE_INIT, VERSION, 0, 0]);
        packet[4..8].copy_from_slice(&index.to_be_bytes());
        let end = packet.len() - MACS;
        packet[8 + MESSAGE1_PAYLOAD..][..plaintext.len()].copy_from_slice(plaintext);
        let (head, message) = packet[..end].split_at_mut(8);
        let prologue = [&CONTEXT[..], head];
        Noise::write_message1(Pattern::Ik, &prologue, &self.secret, &self.theirs, e, message)
            .expect("their key is a key");
        self.mac1(&mut packet);
        packet
    }

    /// Writes the mac1 of a packet to the other end anew.
    pub fn mac1(&self, packet: &mut [u8]) {
        let Some(end) = packet.len().checked_sub(MACS) else { return };
        let key = sha256(&[CONTEXT, b"mac1", &self.theirs.0]);
        let mac = mac16(&key, &[&packet[..end]]);
        packet[end..][..16].copy_from_slice(&mac);
    }

    /// Answers the other end's last INIT as an honest responder would. `false` without one.
    pub fn resp(&mut self, now: Instant, p2: impl FnOnce(&mut RespPayload)) -> Option<Vec<u8>> {
        let mut init = self.received.clone()?;
        let received = Received::read(&self.secret, &mut init).ok()?;
        let mut payload = RespPayload {
            suite: Suite::ChaCha20Poly1305.to_byte(),
            caps: Caps::of(&RUST_CRYPTO),
            max_datagram: 65_507,
            observed: None,
            boot_id: self.boot_id,
            record: None,
            early: None,
        };
        p2(&mut payload);
        let (e, index) = (self.ephemeral(), self.index());
        let remote = received.remote_index;
        let suite = Suite::from_byte(payload.suite).unwrap_or(Suite::ChaCha20Poly1305);
        let mut out = [0; RESP_MAX];
        let (n, keys) = received.write_resp(e, index, suite, &payload, &mut out).ok()?;
        let end = now + Duration::from_secs(3900);
        self.sessions.push(SmallSession::new(keys, index, remote, end));
        Some(out[..n].to_vec())
    }

    /// A RESP to the other end's last INIT whose plaintext is whatever the fuzzer wants; if it
    /// happens to be accepted with `suite`, the session is there.
    pub fn resp_raw(&mut self, now: Instant, suite: Suite, plaintext: &[u8]) -> Option<Vec<u8>> {
        let plaintext = &plaintext[..plaintext.len().min(P2_MAX + 64)];
        let mut init = self.received.clone()?;
        let end = init.len().checked_sub(MACS)?;
        let (head, message) = init[..end].split_at_mut(8);
        let prologue = [&CONTEXT[..], head];
        let responder =
            Responder::read_message1(Pattern::Ik, &prologue, &self.secret, message).ok()?;
        let remote = u32::from_be_bytes(*head[4..].first_chunk()?);
        let (e, index) = (self.ephemeral(), self.index());
        let mut packet = vec![0; 12 + MESSAGE2_OVERHEAD + plaintext.len() + MACS];
        packet[..4].copy_from_slice(&[TYPE_RESP, VERSION, 0, 0]);
        packet[4..8].copy_from_slice(&index.to_be_bytes());
        packet[8..12].copy_from_slice(&remote.to_be_bytes());
        packet[12 + MESSAGE2_PAYLOAD..][..plaintext.len()].copy_from_slice(plaintext);
        let end = packet.len() - MACS;
        let finished = responder.write_message2(e, &mut packet[12..end]).ok()?;
        self.mac1(&mut packet);
        let keys = key_schedule(&finished, suite, remote, index, false);
        let end = now + Duration::from_secs(3900);
        self.sessions.push(SmallSession::new(keys, index, remote, end));
        Some(packet)
    }

    /// A STALE with this number to the other end's last INIT.
    pub fn stale(&mut self, highest: u64) -> Option<Vec<u8>> {
        let mut init = self.received.clone()?;
        let received = Received::read(&self.secret, &mut init).ok()?;
        let mut out = [0; handshake::STALE];
        received.write_stale(highest, self.rng.bytes(), &mut out);
        Some(out.to_vec())
    }

    /// A COOKIE to the other end's last INIT.
    pub fn cookie(&mut self, cookie: [u8; 16]) -> Option<Vec<u8>> {
        let init = self.received.clone()?;
        let mut out = [0; handshake::COOKIE];
        let nonce = self.rng.bytes();
        handshake::write_cookie(&init, &self.secret.public(), &cookie, nonce, &mut out);
        Some(out.to_vec())
    }

    /// Reads what the other end sent: remembers an INIT, completes a handshake of ours (sending
    /// a cookie back is the caller's), or gives a frame's plaintext.
    pub fn hear(&mut self, now: Instant, packet: &[u8]) -> Heard {
        let mut packet = packet.to_vec();
        match packet.first() {
            Some(&TYPE_INIT) => {
                self.received = Some(packet);
                Heard::Init
            }
            Some(&TYPE_RESP) => {
                let Some(initiator) = &self.initiator else { return Heard::Nothing };
                let Ok(Ok(accepted)) = initiator.read_resp(&self.secret, &mut packet) else {
                    return Heard::Nothing;
                };
                let (index, remote) = (initiator.index(), accepted.remote_index);
                let end = now + Duration::from_secs(3900);
                self.sessions.push(SmallSession::new(accepted.keys, index, remote, end));
                self.initiator = None;
                Heard::Session
            }
            Some(&handshake::TYPE_COOKIE) => match &self.initiator {
                Some(initiator) => match initiator.read_cookie(&packet) {
                    Ok(cookie) => Heard::Cookie(cookie),
                    Err(_) => Heard::Nothing,
                },
                None => Heard::Nothing,
            },
            _ => {
                let Some(index) = frame_index(&packet) else { return Heard::Nothing };
                let mut sessions = self.sessions.iter_mut();
                let Some(session) = sessions.find(|s| s.session().local_index() == index) else {
                    return Heard::Nothing;
                };
                match session.open(now, &RUST_CRYPTO, &mut packet) {
                    Ok(_) => Heard::Frame(packet[12..packet.len() - 16].to_vec()),
                    Err(_) => Heard::Nothing,
                }
            }
        }
    }

    /// Seals a plaintext under the newest session, or an earlier one.
    pub fn seal(&mut self, now: Instant, back: usize, plaintext: &[u8]) -> Option<Vec<u8>> {
        let at = self.sessions.len().checked_sub(1 + back)?;
        let mut buf = vec![0; 12 + plaintext.len() + 16];
        buf[12..12 + plaintext.len()].copy_from_slice(plaintext);
        self.sessions[at].seal(now, &RUST_CRYPTO, &mut buf, plaintext.len())?;
        Some(buf)
    }

    /// The index in front of what the other end sends us under the newest session.
    pub fn local_index(&self) -> u32 {
        self.sessions.last().map_or(0, |s| s.session().local_index())
    }

    /// The index in front of what we send under the newest session.
    pub fn remote_index(&self) -> u32 {
        self.sessions.last().map_or(0, |s| s.session().remote_index())
    }
}

/// What [`Actor::hear`] made of a packet.
#[derive(PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing that it could read.
    Nothing,
    /// An INIT, kept in `received`.
    Init,
    /// The RESP to our INIT: a new session.
    Session,
    /// The cookie that our INIT needs.
    Cookie([u8; 16]),
    /// A frame's plaintext.
    Frame(Vec<u8>),
}
