//! Behaviour discovery between the beacon, the sockets and whoever asks what our NAT does; and
//! what follows when the beacon is not heard at all.

use super::Node;
use super::auxiliary::{Purpose, Use};
use crate::limits::ROTATE_AFTER;
use crate::machine::Transmit;
use crate::path::discover::{Server, Test, Wish};
use crate::path::stun_client::{Ask, StunAnswer};
use crate::time::Instant;
use core::net::SocketAddr;

impl Node<'_> {
    /// Tells discovery what the beacon is and sees.
    pub(super) fn beacon_changed(&mut self, now: Instant) {
        let address = self.directory.stun_server();
        let same_family = |other: &SocketAddr| {
            address.is_some_and(|address| address.is_ipv4() == other.is_ipv4())
        };
        let alternates = <[SocketAddr; 3]>::try_from(self.directory.alternates()).ok();
        let server = Server {
            address,
            alternates: alternates.filter(|all| all.iter().all(same_family)),
            is_up: self.directory.is_beacon_up(),
            observed: self.directory.observed().map(canonical),
        };
        self.discover.set_server(now, server);
    }

    /// The beacon is gone, or our socket is dead (`nat.md` 3). If no peer was heard by it
    /// either, another one is tried, on another port, unless the owner has chosen the port (then
    /// others were told of it, or a router forwards it), or the beacon saw us where we are: then
    /// nothing on the way keeps a flow that could be dead.
    pub(super) fn beacon_silent(&mut self, now: Instant) {
        let observed = self.directory.observed();
        let is_seen = observed.is_some_and(|observed| self.locals.as_slice().contains(&observed));
        let is_kept = self.config.keep_port || self.config.endpoint.is_some() || is_seen;
        let works = self.heard_at.is_some_and(|at| now.since(at) < ROTATE_AFTER);
        if works {
            self.directory.excuse_beacon(now);
        } else {
            self.rotate |= !is_kept;
        }
    }

    /// The next question to a STUN server. After `None` none is due.
    pub(super) fn stun_output(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        loop {
            self.carry_out_discovery(now);
            let ready = |socket| self.auxiliary.is_open(socket);
            if let Some(transmit) = self.stun.poll_transmit(now, out, ready) {
                return Some(transmit);
            }
            // What has failed just now may be asked again.
            let answer = self.stun.poll_answer()?;
            self.stun_answer(now, &answer);
        }
    }

    fn carry_out_discovery(&mut self, now: Instant) {
        if self.discover.next_at().is_none_or(|at| at > now) {
            return;
        }
        while let Some(wish) = self.discover.poll(now, &mut self.rng) {
            match wish {
                Wish::Open => {
                    let socket = self.open_socket(Use::Discovery);
                    self.discover.set_socket(socket);
                }
                Wish::Ask(Ask { socket, to, change, from, purpose }) => {
                    let ask =
                        Ask { socket, to, change, from, purpose: Purpose::Discovery(purpose) };
                    if !self.stun.ask(now, &mut self.rng, ask) {
                        self.discover.handle_answer(purpose, None, self.locals.as_slice());
                    }
                }
                Wish::Close => self.close_sockets_of(Use::Discovery),
            }
        }
        self.tell_nat(now);
    }

    /// A question of discovery has ended.
    pub(super) fn discovery_answer(
        &mut self,
        now: Instant,
        test: Test,
        answer: &StunAnswer<Purpose>,
    ) {
        let mapped = answer.result.as_ref().ok();
        self.discover.handle_answer(test, mapped, self.locals.as_slice());
        self.tell_nat(now);
    }

    /// The beacon hears what was found.
    fn tell_nat(&mut self, now: Instant) {
        if self.discover.take_news() {
            self.tell_candidates(now, self.config.endpoint);
        }
    }
}

/// As the STUN client gives it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
