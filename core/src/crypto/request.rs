//! Trust requests and the proof of a reservation (`wire.md` 6.1, 6.5).

use super::codec::{DecodeError, Reader};
use super::grant::GRANT;
use super::identity::{BadSignature, Identity, IdentityKey};
use super::{Grant, Rights, purpose};
use crate::addr::{Address, NetworkId};
use crate::name::Justification;

/// The longest text of a justification, in bytes.
pub const JUSTIFICATION_MAX: usize = 512;
/// Bytes of the longest [`TrustRequest`].
pub const TRUST_REQUEST_MAX: usize = FIXED + 2 + JUSTIFICATION_MAX + 64 + 1 + GRANT;
const FIXED: usize = 6 + 32 + 6 + 32 + 16 + 8 + 2;

/// A signed request for trust, as it lies (sealed or not) in the registry's mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustRequest {
    /// Who asks.
    pub from_addr: Address,
    /// The identity that signed it.
    pub from: IdentityKey,
    /// Who is asked.
    pub to_addr: Address,
    /// Its identity; [`IdentityKey::ZERO`] where the asker does not know it.
    pub to: IdentityKey,
    /// Names the request in its answer.
    pub nonce: [u8; 16],
    /// When, in Unix seconds by the asker's clock.
    pub issued: u64,
    /// What is asked for.
    pub rights: Rights,
    /// The bytes as signed: **hostile text**. See [`TrustRequest::text`].
    justification: heapless::Vec<u8, JUSTIFICATION_MAX>,
    sig: [u8; 64],
    /// The asker's own grant, where it knows the other's identity.
    pub grant: Option<Grant>,
}

impl TrustRequest {
    /// Signs a request for use with the registry of this key.
    pub fn sign(
        from: &Identity,
        registry: &IdentityKey,
        from_addr: Address,
        (to_addr, to): (Address, Option<IdentityKey>),
        nonce: [u8; 16],
        issued: u64,
        rights: Rights,
        justification: &Justification,
        grant: Option<Grant>,
    ) -> Self {
        let mut request = TrustRequest {
            from_addr: from_addr.on_backbone(),
            from: from.public(),
            to_addr: to_addr.on_backbone(),
            to: to.unwrap_or(IdentityKey::ZERO),
            nonce,
            issued,
            rights,
            justification: heapless::Vec::from_slice(justification.as_str().as_bytes())
                .expect("a justification has at most 512 bytes"),
            sig: [0; 64],
            grant,
        };
        let (head, len) = request.head();
        request.sig =
            from.sign(purpose::TRUST, &[&registry.0, &head, &len, &request.justification]);
        request
    }

    /// Checks the asker's signature for the registry of this key, and that the grant, if any,
    /// is the asker's to the one it asks.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        let (head, len) = self.head();
        let parts = [&registry.0[..], &head, &len, &self.justification];
        self.from.verify(purpose::TRUST, &parts, &self.sig)?;
        match &self.grant {
            None => Ok(()),
            Some(g)
                if g.grantor == self.from
                    && g.grantor_addr == self.from_addr
                    && g.grantee == self.to =>
            {
                g.verify(registry)
            }
            Some(_) => Err(BadSignature),
        }
    }

    /// The justification, cleaned of control and bidirectional characters; what is not UTF-8
    /// ends it. Still hostile text.
    pub fn text(&self) -> Justification {
        let text = match core::str::from_utf8(&self.justification) {
            Ok(text) => text,
            Err(e) => core::str::from_utf8(&self.justification[..e.valid_up_to()])
                .expect("valid up to there"),
        };
        Justification::cleaned(text)
    }

    fn head(&self) -> ([u8; FIXED], [u8; 2]) {
        let mut head = [0; FIXED];
        super::codec::Writer::new(&mut head)
            .put(&self.from_addr.to_bytes())
            .put(&self.from.0)
            .put(&self.to_addr.to_bytes())
            .put(&self.to.0)
            .put(&self.nonce)
            .put(&self.issued.to_be_bytes())
            .put(&self.rights.bits().to_be_bytes());
        (head, (self.justification.len() as u16).to_be_bytes())
    }

    /// The bytes, at most [`TRUST_REQUEST_MAX`].
    pub fn encode(&self) -> heapless::Vec<u8, TRUST_REQUEST_MAX> {
        let (head, len) = self.head();
        let grant = self.grant.as_ref().map(Grant::encode);
        let (flag, grant) = grant.as_ref().map_or(([0], &[][..]), |g| ([1], g));
        let mut out = heapless::Vec::new();
        for part in [&head[..], &len, &self.justification, &self.sig, &flag, grant] {
            out.extend_from_slice(part).expect("TRUST_REQUEST_MAX is the sum of the parts");
        }
        out
    }

    /// Reads one request and nothing behind it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let backbone = |b| match Address::from_bytes(b) {
            a if a.network == NetworkId::BACKBONE => Ok(a),
            _ => Err(DecodeError::Field),
        };
        let from_addr = backbone(r.array()?)?;
        let from = IdentityKey(r.array()?);
        let to_addr = backbone(r.array()?)?;
        let to = IdentityKey(r.array()?);
        let nonce = r.array()?;
        let issued = r.u64()?;
        let rights = Rights::from_bits(r.u16()?);
        let len = usize::from(r.u16()?);
        let justification =
            heapless::Vec::from_slice(r.slice(len)?).map_err(|_| DecodeError::Length)?;
        let sig = r.array()?;
        let grant = match r.u8()? {
            0 => None,
            1 => Some(Grant::decode(r.slice(GRANT)?)?),
            _ => return Err(DecodeError::Field),
        };
        r.finish()?;
        let request = TrustRequest {
            from_addr,
            from,
            to_addr,
            to,
            nonce,
            issued,
            rights,
            justification,
            sig,
            grant,
        };
        Ok(request)
    }
}

/// Proves, over the handshake hash of this very channel, that the asker for an address holds
/// `identity`.
pub fn sign_reserve(identity: &Identity, channel_hash: &[u8; 32]) -> [u8; 64] {
    identity.sign(purpose::RESERVE, &[channel_hash])
}

/// Checks [`sign_reserve`].
pub fn verify_reserve(
    identity: &IdentityKey,
    channel_hash: &[u8; 32],
    sig: &[u8; 64],
) -> Result<(), BadSignature> {
    identity.verify(purpose::RESERVE, &[channel_hash], sig)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NodeId;

    fn request(grant: bool, text: &str) -> (TrustRequest, IdentityKey) {
        let (me, registry) = (Identity::from_secret([1; 32]), IdentityKey([2; 32]));
        let (from, to) = (Address::backbone(NodeId(16)), Address::backbone(NodeId(17)));
        let to_id = IdentityKey([8; 32]);
        let grant = grant.then(|| Grant::sign(&me, &registry, from, to_id, Rights::ALL, 0, [1; 8]));
        let why: Justification = text.parse().unwrap();
        let asked = (to, Some(to_id));
        let request =
            TrustRequest::sign(&me, &registry, from, asked, [4; 16], 99, Rights::ALL, &why, grant);
        (request, registry)
    }

    #[test]
    fn requests_round_trip_at_every_size() {
        for (grant, len) in [(false, 0), (false, 512), (true, 0), (true, 512), (true, 100)] {
            let text = "x".repeat(len);
            let (request, registry) = request(grant, &text);
            let bytes = request.encode();
            assert_eq!(bytes.len(), 102 + 2 + len + 64 + 1 + if grant { GRANT } else { 0 });
            let back = TrustRequest::decode(&bytes).unwrap();
            assert_eq!(back, request);
            assert_eq!(back.verify(&registry), Ok(()));
            assert_eq!(back.text().as_str(), text);
            assert_eq!(TrustRequest::decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Length));
        }
    }

    #[test]
    fn forgeries_are_rejected() {
        let (request, registry) = request(true, "we met");
        let bytes = request.encode();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let accepted = TrustRequest::decode(&forged).is_ok_and(|r| r.verify(&registry).is_ok());
            assert!(!accepted, "bit {bit}");
        }
        // A grant of somebody else, attached to a genuine request.
        let other = Identity::from_secret([9; 32]);
        let stolen =
            Grant::sign(&other, &registry, request.from_addr, request.to, Rights::ALL, 0, [1; 8]);
        let forged = TrustRequest { grant: Some(stolen), ..request };
        assert_eq!(forged.verify(&registry), Err(BadSignature));
    }

    #[test]
    fn a_justification_that_is_not_text_is_cut() {
        let (mut request, _) = request(false, "abc");
        request.justification[1] = 0xFF;
        assert_eq!(request.text().as_str(), "a");
    }

    #[test]
    fn a_reservation_is_for_one_channel() {
        let me = Identity::from_secret([1; 32]);
        let sig = sign_reserve(&me, &[1; 32]);
        assert_eq!(verify_reserve(&me.public(), &[1; 32], &sig), Ok(()));
        assert_eq!(verify_reserve(&me.public(), &[2; 32], &sig), Err(BadSignature));
    }
}
