//! How agents meet: trust, names, tags, refusals, events.

use super::*;
use crate::addr::{Address, NetworkId, NodeId};
use crate::name::{Hostname, parse_tags};
use std::vec::Vec;

/// Each refusal of a connection says what was refused.
pub fn who_cannot_be_connected_to_says_why<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::strangers().await;
        let (a, b_at) = (&stage.a, stage.b_at);
        let connect = async |to: Target, port| a.connect(to, port).await.err().expect("refused");
        step("connecting to a stranger");
        let untrusted = Failure::Command(CommandError::NotTrusted);
        assert_eq!(connect(Target::Address(b_at), PORT).await, untrusted);
        step("connecting to nobody's name");
        let unknown: Hostname = "nobody".parse().expect("a hostname");
        let not_found = Failure::Request(RequestError::NotFound);
        assert_eq!(connect(Target::Hostname(unknown), PORT).await, not_found);
        step("connecting to no agent's address");
        let nobody = Address::backbone(NodeId(0));
        let bad = connect(Target::Address(nobody), PORT).await;
        assert!(matches!(bad, Failure::Command(_)), "{bad:?}");
        befriend(&stage.a, &stage.b).await;
        step("connecting to a port where nobody listens");
        let refused = Failure::ended(StreamEnd::Refused);
        assert_eq!(connect(Target::Address(b_at), PORT).await, refused);
        let listener = stage.b.listen(PORT).expect("the port is free");
        let in_use = stage.b.listen(PORT).err();
        assert_eq!(in_use, Some(Failure::Command(CommandError::PortInUse)));
        drop(stage.stream_to(&listener).await);
        drop(listener);
        assert_eq!(connect(Target::Address(b_at), PORT).await, refused);
        stage.expect_no_handles().await;
    });
}

/// Asked and refused, asked and granted, revoked: both sides hear of each.
pub fn trust_is_asked_for_granted_refused_and_revoked<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::strangers().await;
        let (a, b, a_at, b_at) = (&stage.a, &stage.b, stage.a_at, stage.b_at);
        let (mut at_a, mut at_b) = (a.events(), b.events());
        step("trust is refused");
        a.request_trust(b_at, "first").expect("asked");
        hear::<B>(&mut at_b, News::TrustRequested(a_at)).await;
        assert_eq!(b.trust_requests().len(), 1);
        b.refuse_trust(a_at).expect("refused");
        hear::<A>(&mut at_a, News::TrustRefused(b_at)).await;
        assert!(b.trust_requests().is_empty() && b.trusted().is_empty());
        assert!(a.trusted().iter().all(|peer| !peer.grants_us));
        let nobody = b.approve_trust(a_at);
        assert_eq!(nobody, Err(Failure::Command(CommandError::NotFound)));

        step("trust is granted");
        // By the other one this time, so that both directions have been asked.
        befriend(b, a).await;
        let (mut left, mut right) = stage.stream().await;
        both(left.put(1, 0, 1000), right.take(1, 0, 1000)).await.0.expect("written");

        step("trust is revoked");
        b.revoke_trust(a_at).expect("revoked");
        hear::<A>(&mut at_a, News::TrustRevoked(b_at)).await;
        let own = B::read(&mut right.reader, &mut [0]).await;
        assert_eq!(own, Err(Failure::ended(StreamEnd::Revoked)));
        let theirs = A::read(&mut left.reader, &mut [0]).await;
        assert_eq!(theirs, Err(Failure::ended(StreamEnd::Revoked)));
        until("waiting for trust to be gone", || {
            b.trusted().is_empty() && a.trusted().iter().all(|peer| !peer.grants_us)
        })
        .await;
        let refused = a.connect(Target::Address(b_at), PORT).await.err();
        assert_eq!(refused, Some(Failure::Command(CommandError::NotTrusted)));
    });
}

/// In a network of their own: by its name, by its tags, and not once it hides.
pub fn agents_are_found_by_hostname_and_by_tags<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (a, b) = (&stage.a, &stage.b);
        let network = NetworkId(1);
        step("joining a network");
        let (joined_a, joined_b) = both(a.join(network), b.join(network)).await;
        joined_a.and(joined_b).expect("joined");
        let name: Hostname = "research-aws".parse().expect("a hostname");
        let tags = |text: &str| parse_tags(text).expect("tags");
        step("names and tags");
        b.set_hostname(name.clone()).await.expect("named");
        b.set_tags(tags("gpu,role=worker")).await.expect("tagged");
        b.set_visibility(true).await.expect("visible");
        let taken = a.set_hostname(name.clone()).await;
        assert!(matches!(taken, Err(Failure::Request(_))), "{taken:?}");
        step("finding by name");
        let found = a.resolve(Target::Hostname(name.clone())).await.expect("found");
        assert_eq!((found.address.node, found.address.network), (stage.b_at.node, network));
        let listener = b.listen(PORT).expect("the port is free");
        let connect = a.connect(Target::Hostname(name.clone()), PORT);
        let (opened, accepted) = both(connect, B::accept(&listener)).await;
        let (accepted, from) = accepted.expect("accepted");
        assert_eq!(from.address.node, stage.a_at.node);
        let (mut left, mut right) =
            (Pipe::<A>::from(opened.expect("opened")), Pipe::<B>::from(accepted));
        both(left.put(1, 0, 1000), right.take(1, 0, 1000)).await.0.expect("written");
        step("finding by tags");
        let found = a.discover(tags("gpu")).await.expect("answered");
        let found: Vec<_> = found.iter().map(|agent| agent.address.node).collect();
        assert_eq!(found, [stage.b_at.node]);
        assert_eq!(a.discover(tags("gpu,role=worker")).await.expect("answered").len(), 1);
        assert!(a.discover(tags("gpu,role=boss")).await.expect("answered").is_empty());
        step("hiding");
        b.set_visibility(false).await.expect("hidden");
        assert!(a.discover(tags("gpu")).await.expect("answered").is_empty());
    });
}

/// Events that nobody fetches are dropped, the oldest first; the receiver is told how many, and
/// goes on with those that are left. What happens are paths that come and go with peers.
pub fn a_receiver_of_events_that_lags_is_told<A: Subject, B: Subject, R: Rendezvous>() {
    /// More than any adapter keeps.
    const EVENTS: usize = 300;
    /// As each of them may shake hands twice a second.
    const PEERS: u8 = 12;
    block_on(async {
        let world = R::start();
        let a = A::start(Setup::new(&world, 11));
        let a_at = a.ready().await.expect("registered");
        let setups: Vec<_> = (0..PEERS).map(|n| Setup::new(&world, 20 + n)).collect();
        for setup in &setups {
            let peer = B::start(setup.clone());
            peer.ready().await.expect("registered");
            befriend(&peer, &a).await;
            peer.shutdown().await;
        }
        // Whoever asks first gets older events, too.
        drop(a.events());
        let (mut lagging, mut keeping_up) = (a.events(), a.events());
        let come_and_go = async |setup: &Setup| {
            let peer = B::start(setup.clone());
            let at = peer.ready().await.expect("registered");
            let refused = peer.connect(Target::Address(a_at), PORT).await.err();
            assert_eq!(refused, Some(Failure::ended(StreamEnd::Refused)));
            peer.shutdown().await;
            at
        };
        let (mut events, mut rounds) = (0, 0);
        step("more events than are kept");
        while events <= EVENTS {
            all(setups.iter().map(&come_and_go)).await;
            while let Some(news) = within(50 * MS, A::next(&mut keeping_up)).await {
                assert!(!matches!(news, News::Missed(_) | News::End), "{news:?}");
                events += 1;
            }
            rounds += 1;
            assert!(events >= rounds * usize::from(PEERS), "{events} in {rounds} rounds");
        }
        step("a last event");
        let at = come_and_go(&setups[0]).await;
        step("hearing that some were missed");
        let News::Missed(missed) = A::next(&mut lagging).await else {
            panic!("nothing was missed of {events} events");
        };
        assert!(missed as usize <= events, "{missed} of {events}");
        let mut left = 0;
        loop {
            let news = A::next(&mut lagging).await;
            left += 1;
            if left + missed as usize > events && matches!(news, News::Path(of, _) if of == at) {
                break;
            }
        }
    });
}
