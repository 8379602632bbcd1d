//! What must hold of every datagram, whatever the world does (`docs/architecture.md` 7).

use crate::HostId;
use crate::app::MARK;
use memchr::memmem;
use pilot_core::addr::Address;
use pilot_core::limits::{FRAME_HEADER, RELAY_HEADER};
use pilot_core::wire::frame::{Kind, classify, classify_relayed};
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::SocketAddr;

/// Bytes sent for each received, towards an address that has proven nothing (`wire.md` 5.5).
const AMPLIFICATION_MAX: u64 = 3;
/// Relayed packets that are remembered; a world that has more is not checked for them any more.
const RELAYED_MAX: usize = 1 << 18;

/// A process: a host, or the server, and its how-manieth start.
type Process = (Option<HostId>, u8);

/// What was seen on the wire, and what owners have decided.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The last counter of each key: the process and the receiver's index.
    counters: BTreeMap<(Process, [u8; 4]), u64>,
    /// Addresses that somebody has forged, at which nobody is.
    forged: BTreeSet<SocketAddr>,
    /// Bytes from and to them, by host; the server is nobody.
    spoofed: BTreeMap<(Option<HostId>, SocketAddr), (u64, u64)>,
    /// Hashes of the packets that hosts have given to the relay.
    relayed: BTreeSet<u64>,
    /// Whom owners trust.
    trust: BTreeSet<(HostId, Address)>,
    /// Application datagrams that have arrived: receiver, sender, number.
    datagrams: BTreeSet<(HostId, u16, u32)>,
}

/// Of what the relay's MAC covers: the length and the first 32 bytes (`wire.md` 7).
fn hash(packet: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_usize(packet.len());
    hasher.write(&packet[..packet.len().min(32)]);
    hasher.finish()
}

impl Checks {
    /// A packet with this source, at which nobody is, is about to be forged.
    pub(crate) fn spoof(&mut self, source: SocketAddr) {
        self.forged.insert(source);
    }

    /// Somebody has got a datagram; the server is nobody.
    pub(crate) fn received(&mut self, by: Option<HostId>, from: SocketAddr, len: usize) {
        if self.forged.contains(&from) {
            self.spoofed.entry((by, from)).or_default().0 += len as u64;
        }
    }

    /// A host sends; what is wrong with it, if something is.
    pub(crate) fn sent(
        &mut self,
        (host, starts): (HostId, u8),
        to: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), String> {
        let wrong = |why| format!("host {} sent {why} to {to}", host.0);
        let (kind, inner) = match classify(bytes) {
            Ok(Kind::Relay) => {
                let inner = &bytes[RELAY_HEADER..];
                if self.relayed.len() < RELAYED_MAX {
                    self.relayed.insert(hash(inner));
                }
                (classify_relayed(inner), inner)
            }
            kind => (kind, bytes),
        };
        let kind = kind.map_err(|why| wrong(format!("what nobody takes ({why:?})")))?;
        if kind == Kind::Data {
            self.counter((Some(host), starts), inner).map_err(wrong)?;
        }
        if memmem::find(bytes, &MARK).is_some() {
            return Err(wrong("plaintext of a stream".to_string()));
        }
        self.amplification(Some(host), to, bytes.len()).map_err(wrong)
    }

    /// The same for the server, which also passes on what hosts have sent, and nothing else.
    pub(crate) fn server_sent(
        &mut self,
        starts: u8,
        to: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), String> {
        let wrong = |why| format!("the server sent {why} to {to}");
        let kind = classify(bytes).map_err(|why| wrong(format!("what nobody takes ({why:?})")))?;
        match kind {
            Kind::Data => self.counter((None, starts), bytes).map_err(wrong)?,
            Kind::Relay
                if self.relayed.len() < RELAYED_MAX
                    && !self.relayed.contains(&hash(&bytes[RELAY_HEADER..])) =>
            {
                return Err(wrong("a packet on a channel that no host has sent".to_string()));
            }
            _ => {}
        }
        self.amplification(None, to, bytes.len()).map_err(wrong)
    }

    /// No counter repeats under a key, on whichever path.
    fn counter(&mut self, process: Process, frame: &[u8]) -> Result<(), String> {
        let mut index = [0; 4];
        index.copy_from_slice(&frame[..4]);
        let counter = frame[4..FRAME_HEADER].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let last = self.counters.insert((process, index), counter);
        match last.filter(|last| counter <= *last) {
            Some(last) => Err(format!("counter {counter} after {last} with one key")),
            None => Ok(()),
        }
    }

    fn amplification(
        &mut self,
        by: Option<HostId>,
        to: SocketAddr,
        len: usize,
    ) -> Result<(), String> {
        if !self.forged.contains(&to) {
            return Ok(());
        }
        let (received, sent) = self.spoofed.entry((by, to)).or_default();
        *sent += len as u64;
        if *sent > *received * AMPLIFICATION_MAX {
            return Err(format!("{sent} bytes for {received}"));
        }
        Ok(())
    }

    /// What an owner has decided.
    pub(crate) fn set_trust(&mut self, host: HostId, peer: Address, trusts: bool) {
        let entry = (host, peer.on_backbone());
        if trusts {
            self.trust.insert(entry);
        } else {
            self.trust.remove(&entry);
        }
    }

    /// The host has lost its disk.
    pub(crate) fn forget_trust(&mut self, host: HostId) {
        self.trust.retain(|(truster, _)| *truster != host);
    }

    /// Whether the host's owner trusts the peer.
    pub(crate) fn trusts(&self, host: HostId, peer: Address) -> bool {
        self.trust.contains(&(host, peer.on_backbone()))
    }

    /// Whether an application datagram has not arrived before.
    pub(crate) fn is_first(&mut self, at: HostId, from: u16, number: u32) -> bool {
        self.datagrams.insert((at, from, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(index: u8, counter: u8) -> Vec<u8> {
        let mut frame = vec![0x80, 0, 0, index, 0, 0, 0, 0, 0, 0, 0, counter];
        frame.extend([7; 32]);
        frame
    }

    fn relayed(channel: u8, inner: Vec<u8>) -> Vec<u8> {
        let mut frame = vec![0x30; RELAY_HEADER];
        frame[3] = channel;
        frame.extend(inner);
        frame
    }

    #[test]
    fn each_check_sees_its_fault() {
        let to = SocketAddr::from(([198, 51, 100, 1], 1));
        let mut checks = Checks::default();
        let mut sent = |bytes: &[u8]| checks.sent((HostId(0), 1), to, bytes);
        assert_eq!(sent(&frame(1, 1)), Ok(()));
        assert_eq!(sent(&frame(2, 1)), Ok(()), "another key");
        assert_eq!(sent(&frame(1, 2)), Ok(()));
        assert!(sent(&relayed(1, frame(1, 2))).unwrap_err().contains("counter 2 after 2"));
        let mut plain = frame(1, 3);
        plain.extend(MARK);
        assert!(sent(&plain).unwrap_err().contains("plaintext"));
        assert!(sent(&[0x70; 100]).unwrap_err().contains("nobody takes"));
        checks.spoof(to);
        checks.received(Some(HostId(0)), to, 30);
        assert_eq!(checks.sent((HostId(0), 1), to, &frame(3, 1)), Ok(()));
        assert_eq!(checks.sent((HostId(0), 1), to, &frame(3, 2)), Ok(()));
        let third = checks.sent((HostId(0), 1), to, &frame(3, 3));
        assert!(third.unwrap_err().contains("132 bytes for 30"));
    }

    #[test]
    fn the_server_passes_on_what_was_sent_and_says_nothing_twice() {
        let to = SocketAddr::from(([198, 51, 100, 1], 1));
        let mut checks = Checks::default();
        assert_eq!(checks.sent((HostId(0), 1), to, &relayed(1, frame(1, 1))), Ok(()));
        assert_eq!(checks.server_sent(1, to, &relayed(2, frame(1, 1))), Ok(()));
        let other = checks.server_sent(1, to, &relayed(2, frame(1, 2)));
        assert!(other.unwrap_err().contains("no host has sent"));
        assert_eq!(checks.server_sent(1, to, &frame(9, 4)), Ok(()));
        assert!(checks.server_sent(1, to, &frame(9, 4)).unwrap_err().contains("one key"));
        assert_eq!(checks.server_sent(2, to, &frame(9, 4)), Ok(()), "another process");
        checks.spoof(to);
        assert!(checks.server_sent(2, to, &frame(9, 5)).unwrap_err().contains("44 bytes for 0"));
    }

    #[test]
    fn trust_is_what_the_owner_said_last() {
        let (mut checks, peer) = (Checks::default(), Address::BEACON);
        assert!(!checks.trusts(HostId(1), peer));
        checks.set_trust(HostId(1), peer, true);
        assert!(checks.trusts(HostId(1), peer) && !checks.trusts(HostId(2), peer));
        checks.set_trust(HostId(1), peer, false);
        assert!(!checks.trusts(HostId(1), peer));
        checks.set_trust(HostId(1), peer, true);
        checks.forget_trust(HostId(1));
        assert!(!checks.trusts(HostId(1), peer));
        assert!(checks.is_first(HostId(1), 0, 7) && !checks.is_first(HostId(1), 0, 7));
    }
}
