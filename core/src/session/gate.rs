//! The gate in front of the handshake's Diffie–Hellmans (`wire.md` 4.5 step 3).
//!
//! | Budget left | mac2 | Verdict |
//! |---|---|---|
//! | half or more | any | admitted, costs a token |
//! | less than half | right, source within its rate | admitted, costs a token |
//! | less than half | right, source over its rate | refused |
//! | less than half | missing or wrong | a cookie is demanded |
//! | none | right | refused |
//!
//! So a flood from forged sources leaves half of the budget to those who can receive, and no
//! source among these takes more than its rate. Nothing is kept per source that has not shown
//! a cookie, and for the others a fixed table.

use super::cookie::{CookieJar, Source};
use crate::limits::{HANDSHAKE_BURST_MIN, Limits, SOURCE_BURST};
use crate::rng::Rng;
use crate::slab::Store;
use crate::time::Instant;
use core::hash::Hasher;
use siphasher::sip::SipHasher13;

/// What becomes of an INIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Go on to the Diffie–Hellmans.
    Admit,
    /// Answer with this cookie in an HS_COOKIE.
    DemandCookie([u8; 16]),
    /// Drop.
    Refuse,
}

/// A token bucket as one number: the time at which it is full again (the generic cell rate
/// algorithm of ITU-T I.371).
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Nanoseconds that one token takes to come back.
    interval: u64,
    burst: u64,
}

impl Bucket {
    /// `rate` tokens a second, `burst` at once.
    pub const fn new(rate: u32, burst: u32) -> Self {
        let rate = if rate == 0 { 1 } else { rate };
        Bucket { interval: 1_000_000_000 / rate as u64, burst: burst as u64 }
    }

    /// Whole tokens left.
    pub fn left(&self, full_at: u64, now: Instant) -> u64 {
        let used = full_at.saturating_sub(now.as_nanos()).div_ceil(self.interval);
        self.burst.saturating_sub(used)
    }

    /// Takes a token if there is one.
    pub fn take(&self, full_at: &mut u64, now: Instant) -> bool {
        let left = self.left(*full_at, now) > 0;
        if left {
            *full_at = (*full_at).max(now.as_nanos()).saturating_add(self.interval);
        }
        left
    }
}

/// Budget, cookies and per-source rates of one responder.
pub struct Gate<'s> {
    budget: Bucket,
    full_at: u64,
    per_source: Bucket,
    sources: Store<'s, u64>,
    key: [u64; 2],
    jar: CookieJar,
    always_cookie: bool,
}

impl<'s> Gate<'s> {
    /// A gate with the rates of `limits`; `sources` is the table of buckets (not empty). With
    /// `always_cookie` (the beacon) a cookie is demanded at any budget.
    pub fn new(
        now: Instant,
        rng: &mut Rng,
        limits: &Limits,
        mut sources: Store<'s, u64>,
        always_cookie: bool,
    ) -> Self {
        let (rate, per_source) = (limits.handshakes_per_second, limits.handshakes_per_source);
        sources.fill(0);
        Gate {
            budget: Bucket::new(rate, (rate / 5).max(HANDSHAKE_BURST_MIN)),
            full_at: 0,
            per_source: Bucket::new(per_source, (per_source / 4).max(SOURCE_BURST)),
            sources,
            key: [rng.u64(), rng.u64()],
            jar: CookieJar::new(now, rng),
            always_cookie,
        }
    }

    /// Judges an INIT whose mac1 is right.
    pub fn judge(&mut self, now: Instant, rng: &mut Rng, source: &Source, init: &[u8]) -> Verdict {
        let low = self.budget.left(self.full_at, now) < self.budget.burst.div_ceil(2);
        if low || self.always_cookie {
            if !self.jar.accepts(now, rng, source, init) {
                return Verdict::DemandCookie(self.jar.cookie(now, rng, source));
            }
            let place = self.place(source);
            if !self.per_source.take(&mut self.sources[place], now) {
                return Verdict::Refuse;
            }
        }
        if self.budget.take(&mut self.full_at, now) { Verdict::Admit } else { Verdict::Refuse }
    }

    fn place(&self, source: &Source) -> usize {
        let (ip, channel) = source.bucket();
        let mut hash = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hash.write(&ip);
        hash.write_u32(channel);
        (hash.finish() % self.sources.len().max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Path;
    use crate::path::Route;
    use crate::session::handshake::write_mac2;
    use crate::time::Duration;
    use core::net::{Ipv4Addr, SocketAddr};

    fn source(n: u32) -> Source {
        let ip = Ipv4Addr::from_bits(n);
        Source::of(&Route::Direct(Path::to(SocketAddr::new(ip.into(), 4000))))
    }

    #[test]
    fn a_bucket_refills_at_its_rate() {
        let bucket = Bucket::new(10, 5);
        let mut full_at = 0;
        let now = Instant::START + Duration::from_secs(1);
        assert_eq!((0..9).filter(|_| bucket.take(&mut full_at, now)).count(), 5);
        let later = now + Duration::from_millis(200);
        assert_eq!(bucket.left(full_at, later), 2);
        assert_eq!((0..9).filter(|_| bucket.take(&mut full_at, later)).count(), 2);
        assert_eq!(bucket.left(full_at, later + Duration::from_secs(9)), 5);
    }

    #[test]
    fn forged_sources_leave_half_of_the_budget() {
        let mut rng = Rng::new([1; 32]);
        let limits = Limits::desktop();
        let now = Instant::START + Duration::from_secs(1);
        let sources = Store::<u64>::boxed_with(4096, || 0);
        let mut gate = Gate::new(now, &mut rng, &limits, sources, false);
        let init = [9; 330];
        let mut admitted = 0;
        for n in 0..10_000 {
            match gate.judge(now, &mut rng, &source(n), &init) {
                Verdict::Admit => admitted += 1,
                Verdict::DemandCookie(_) => {}
                Verdict::Refuse => panic!("a stranger is told, not refused"),
            }
        }
        assert_eq!(admitted, 101);
        // One honest source with its cookie: 5 at once, then 20 a second.
        let me = source(77);
        let Verdict::DemandCookie(cookie) = gate.judge(now, &mut rng, &me, &init) else { panic!() };
        let mut init = init;
        write_mac2(&mut init, Some(&cookie));
        let got = (0..50).filter(|_| gate.judge(now, &mut rng, &me, &init) == Verdict::Admit);
        assert_eq!(got.count(), 5);
        // The cookie of one source does not open the gate for another.
        assert!(matches!(gate.judge(now, &mut rng, &source(78), &init), Verdict::DemandCookie(_)));
    }

    #[test]
    fn the_beacon_always_demands_a_cookie() {
        let mut rng = Rng::new([1; 32]);
        let now = Instant::START;
        let mut words = [0; 4];
        let mut gate =
            Gate::new(now, &mut rng, &Limits::desktop(), Store::from(&mut words[..]), true);
        let mut init = [9; 330];
        let Verdict::DemandCookie(cookie) = gate.judge(now, &mut rng, &source(1), &init) else {
            panic!()
        };
        write_mac2(&mut init, Some(&cookie));
        assert_eq!(gate.judge(now, &mut rng, &source(1), &init), Verdict::Admit);
    }
}
