//! Cookies (`wire.md` 4.5): proof, without state, that a source receives what is sent to it.

use super::handshake::check_mac2;
use crate::crypto::kdf::{self, SecretKey};
use crate::limits::COOKIE_ROTATE;
use crate::path::Route;
use crate::rng::Rng;
use crate::time::Instant;
use core::net::IpAddr;

/// Where an INIT came from, as a cookie names it: 16 bytes of IP (IPv4 as ::ffff:a.b.c.d), the
/// port, and our own relay channel (0: direct).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    ip: [u8; 16],
    port: u16,
    channel: u32,
}

impl Source {
    /// The source behind a route. All of a channel is one source: the beacon's own address
    /// says nothing about who sends.
    pub fn of(route: &Route) -> Self {
        match route {
            Route::Direct(path) => {
                let ip = match path.remote.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                Source { ip: ip.octets(), port: path.remote.port(), channel: 0 }
            }
            Route::Relay(channel) => Source { ip: [0; 16], port: 0, channel: channel.0 },
        }
    }

    /// What shares one token bucket: an IPv4 /32, an IPv6 /64, or a channel.
    pub(crate) fn bucket(&self) -> ([u8; 16], u32) {
        let mut ip = self.ip;
        let mapped = ip[..10] == [0; 10] && ip[10..12] == [0xFF; 2];
        if !mapped {
            ip[8..].fill(0);
        }
        (ip, self.channel)
    }
}

/// A responder's rotating secret.
pub struct CookieJar {
    current: SecretKey,
    previous: SecretKey,
    rotated: Instant,
}

impl CookieJar {
    /// A jar with fresh secrets.
    pub fn new(now: Instant, rng: &mut Rng) -> Self {
        CookieJar {
            current: SecretKey::new(rng.bytes()),
            previous: SecretKey::new(rng.bytes()),
            rotated: now,
        }
    }

    fn rotate(&mut self, now: Instant, rng: &mut Rng) {
        let age = now.since(self.rotated);
        if age < COOKIE_ROTATE {
            return;
        }
        let fresh = SecretKey::new(rng.bytes());
        self.previous = core::mem::replace(&mut self.current, fresh);
        if age >= 2 * COOKIE_ROTATE {
            self.previous = SecretKey::new(rng.bytes());
        }
        self.rotated = now;
    }

    /// The cookie of a source, for an HS_COOKIE.
    pub fn cookie(&mut self, now: Instant, rng: &mut Rng, source: &Source) -> [u8; 16] {
        self.rotate(now, rng);
        Self::derive(&self.current, source)
    }

    /// Whether an INIT's mac2 shows a present or previous cookie of this source.
    pub fn accepts(&mut self, now: Instant, rng: &mut Rng, source: &Source, init: &[u8]) -> bool {
        self.rotate(now, rng);
        [&self.current, &self.previous]
            .iter()
            .any(|secret| check_mac2(init, &Self::derive(secret, source)))
    }

    fn derive(secret: &SecretKey, s: &Source) -> [u8; 16] {
        let parts = [&s.ip[..], &s.port.to_be_bytes(), &s.channel.to_be_bytes()];
        kdf::mac16(secret.as_bytes(), &parts)
    }
}

/// An initiator's cookie. Forgotten after 120 s.
#[derive(Clone, Copy, Default)]
pub struct HeldCookie(Option<([u8; 16], Instant)>);

impl HeldCookie {
    /// Takes a cookie; false if it is the one already held (then there is nothing to answer).
    pub fn take(&mut self, now: Instant, cookie: [u8; 16]) -> bool {
        let new = self.get(now) != Some(cookie);
        if new {
            self.0 = Some((cookie, now));
        }
        new
    }

    /// The cookie, while it is fresh.
    pub fn get(&self, now: Instant) -> Option<[u8; 16]> {
        let (cookie, at) = self.0?;
        (now.since(at) < COOKIE_ROTATE).then_some(cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Path;
    use crate::path::ChannelId;
    use crate::session::handshake::write_mac2;
    use crate::time::Duration;

    fn at(s: u64) -> Instant {
        Instant::START + Duration::from_secs(s)
    }

    #[test]
    fn a_cookie_is_for_one_source_and_two_periods() {
        let mut rng = Rng::new([1; 32]);
        let mut jar = CookieJar::new(at(0), &mut rng);
        let source = Source::of(&Route::Direct(Path::to("192.0.2.1:4000".parse().unwrap())));
        let port = Source::of(&Route::Direct(Path::to("192.0.2.1:4001".parse().unwrap())));
        let relayed = Source::of(&Route::Relay(ChannelId(7)));
        let mut init = [3; 200];
        write_mac2(&mut init, Some(&jar.cookie(at(0), &mut rng, &source)));
        assert!(jar.accepts(at(119), &mut rng, &source, &init));
        assert!(!jar.accepts(at(119), &mut rng, &port, &init));
        assert!(!jar.accepts(at(119), &mut rng, &relayed, &init));
        assert!(jar.accepts(at(121), &mut rng, &source, &init));
        assert!(!jar.accepts(at(250), &mut rng, &source, &init));
        let mut jar = CookieJar::new(at(0), &mut rng);
        write_mac2(&mut init, Some(&jar.cookie(at(0), &mut rng, &source)));
        assert!(!jar.accepts(at(241), &mut rng, &source, &init));
    }

    #[test]
    fn buckets_join_ports_and_ipv6_hosts() {
        let of = |s: &str| Source::of(&Route::Direct(Path::to(s.parse().unwrap()))).bucket();
        assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        let channel = |n| Source::of(&Route::Relay(ChannelId(n))).bucket();
        assert_ne!(channel(1), channel(2));
    }

    #[test]
    fn a_held_cookie_is_answered_once_and_forgotten() {
        let mut held = HeldCookie::default();
        assert!(held.take(at(0), [1; 16]));
        assert!(!held.take(at(1), [1; 16]));
        assert!(held.take(at(1), [2; 16]));
        assert_eq!(held.get(at(120)), Some([2; 16]));
        assert_eq!(held.get(at(121)), None);
        assert!(held.take(at(122), [2; 16]));
    }
}
