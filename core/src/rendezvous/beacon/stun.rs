//! STUN (RFC 8489) and NAT behaviour discovery (RFC 5780): unauthenticated and stateless, so
//! limited per source and never more than 3 times the request.

use super::Beacon;
use crate::machine::{Ecn, Path};
use crate::stats::DropReason;
use crate::time::Instant;
use crate::wire::stun::{self, Response, StunError};

impl Beacon {
    pub(super) fn handle_stun(
        &mut self,
        now: Instant,
        path: Path,
        message: &[u8],
    ) -> Result<(), DropReason> {
        if !stun::is_request(message) {
            return Err(DropReason::Unasked);
        }
        let request = stun::decode_request(message);
        if matches!(request, Err(StunError::Malformed | StunError::Fingerprint)) {
            return Err(DropReason::Malformed);
        }
        self.stun.take(now, path.remote.ip()).map_err(|_| DropReason::RateLimited)?;

        let corners = self.alternate.map(|alternate| alternate.corners());
        let here = corners
            .and_then(|corners| corners.iter().position(|(socket, _)| *socket == path.socket));
        let transaction = stun::transaction(message).ok_or(DropReason::Malformed)?;
        let mut out = [0; stun::MESSAGE_MAX];
        let mut from = path;
        let len = match (request, corners, here) {
            (Err(StunError::Unknown(attribute)), ..) => {
                stun::encode_unknown(transaction, attribute, &mut out)
            }
            (Err(_), ..) => return Err(DropReason::Malformed),
            (Ok(request), Some(corners), Some(here)) => {
                let change = usize::from(request.change.port) | usize::from(request.change.ip) << 1;
                let (socket, origin) = corners[here ^ change];
                if change != 0 {
                    from = Path { socket, local: None, remote: path.remote };
                }
                let (mapped, other) = (path.remote, Some(corners[here ^ 3].1));
                let response = Response { transaction, mapped, origin: Some(origin), other };
                stun::encode_response(&response, request.fingerprint, &mut out)
            }
            (Ok(request), ..) if request.change.is_none() => {
                let (mapped, origin, other) = (path.remote, None, None);
                let response = Response { transaction, mapped, origin, other };
                stun::encode_response(&response, request.fingerprint, &mut out)
            }
            (Ok(_), ..) => stun::encode_no_change(transaction, &mut out),
        };
        let len = len.ok_or(DropReason::Malformed)?;
        if !self.queue.push(from, Ecn::NotEct, &out[..len]) {
            return Err(DropReason::Full);
        }
        self.counts.stun += 1;
        Ok(())
    }
}
