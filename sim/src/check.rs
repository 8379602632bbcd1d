//! What must hold of every datagram, whatever the world does (`docs/architecture.md` 7).

use crate::HostId;
use crate::app::MARK;
use pilot_core::limits::{FRAME_HEADER, RELAY_HEADER};
use pilot_core::wire::frame::{Kind, classify, classify_relayed};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Bytes sent for each received, towards an address that has proven nothing (`wire.md` 5.5).
const AMPLIFICATION_MAX: u64 = 3;

/// What was seen on the wire.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The last counter of each key: host, its process, the receiver's index.
    counters: BTreeMap<(HostId, u8, [u8; 4]), u64>,
    /// Bytes from and to addresses at which nobody is, by host.
    spoofed: BTreeMap<(HostId, SocketAddr), (u64, u64)>,
}

impl Checks {
    /// A packet with this source is about to be forged.
    pub(crate) fn spoof(&mut self, host: HostId, source: SocketAddr) {
        self.spoofed.entry((host, source)).or_default();
    }

    pub(crate) fn received(&mut self, host: HostId, from: SocketAddr, len: usize) {
        if let Some((received, _)) = self.spoofed.get_mut(&(host, from)) {
            *received += len as u64;
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
                (classify_relayed(inner), inner)
            }
            kind => (kind, bytes),
        };
        let kind = kind.map_err(|why| wrong(format!("what nobody takes ({why:?})")))?;
        if kind == Kind::Data {
            let mut index = [0; 4];
            index.copy_from_slice(&inner[..4]);
            let counter = inner[4..FRAME_HEADER].iter().fold(0, |n, b| n << 8 | u64::from(*b));
            let last = self.counters.insert((host, starts, index), counter);
            if last.is_some_and(|last| counter <= last) {
                return Err(wrong(format!("counter {counter} after {last:?} with one key")));
            }
        }
        if bytes.windows(MARK.len()).any(|window| window == MARK) {
            return Err(wrong("plaintext of a stream".to_string()));
        }
        if let Some((received, sent)) = self.spoofed.get_mut(&(host, to)) {
            *sent += bytes.len() as u64;
            if *sent > *received * AMPLIFICATION_MAX {
                let amplified = format!("{sent} bytes for {received}");
                return Err(wrong(amplified));
            }
        }
        Ok(())
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

    #[test]
    fn each_check_sees_its_fault() {
        let to = SocketAddr::from(([198, 51, 100, 1], 1));
        let mut checks = Checks::default();
        let mut sent = |bytes: &[u8]| checks.sent((HostId(0), 1), to, bytes);
        assert_eq!(sent(&frame(1, 1)), Ok(()));
        assert_eq!(sent(&frame(2, 1)), Ok(()), "another key");
        assert_eq!(sent(&frame(1, 2)), Ok(()));
        let mut relayed = vec![0x30; RELAY_HEADER];
        relayed.extend(frame(1, 2));
        assert!(sent(&relayed).unwrap_err().contains("counter 2 after Some(2)"));
        let mut plain = frame(1, 3);
        plain.extend(MARK);
        assert!(sent(&plain).unwrap_err().contains("plaintext"));
        assert!(sent(&[0x70; 100]).unwrap_err().contains("nobody takes"));
        checks.spoof(HostId(0), to);
        checks.received(HostId(0), to, 30);
        assert_eq!(checks.sent((HostId(0), 1), to, &frame(3, 1)), Ok(()));
        assert_eq!(checks.sent((HostId(0), 1), to, &frame(3, 2)), Ok(()));
        let third = checks.sent((HostId(0), 1), to, &frame(3, 3));
        assert!(third.unwrap_err().contains("132 bytes for 30"));
    }
}
