//! Attacks on where real nodes send to, with the real rendezvous machine, on virtual time; rows of
//! `docs/attacks.md`. The attacker sees every packet and sends from any address.

#[path = "support/friends.rs"]
mod friends;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/thief.rs"]
mod thief;

use friends::*;
use pair::*;
use pilot_core::crypto::RUST_CRYPTO;
use pilot_core::node::{Command, Config, Event, PathKind, PathPolicy};
use pilot_core::path::nat::Nat;
use pilot_core::stats::DropReason;
use pilot_core::wire::control::{self, Endpoint, EndpointKind, FromBeacon};
use pilot_core::wire::punch::{OFFER_MAX, Offer, Primed, encode_primed};
use pilot_core::wire::stun;
use std::net::SocketAddr;
use thief::{Thief, tunnel_key};

/// W-C13. Relay frames that the beacon did not send, on the channel of a peer: nothing in them
/// is looked at, not even what a peer made.
#[test]
fn only_the_beacon_relays() {
    let mut world = friends(14, 3, PathPolicy::Auto);
    world.cut_agents(0, 1);
    world.wire = Some(Vec::new());
    talk(&mut world, 0, 1, b"before");
    let (a, b) = (world.agents[0].socket, world.agents[1].socket);
    let wire = world.wire.replace(Vec::new()).unwrap();
    let frames: Vec<Packet> = wire.into_iter().filter(|p| p.2[0] == 0x30).collect();
    let to_b = frames.iter().rfind(|p| p.1 == b).expect("0 and 1 are relayed").clone();
    assert!(frames.iter().any(|p| p.0 == a));
    let mut member = Thief::copy(&world, 2);
    let payload = member.payload(&world, 1);
    let init = member.init(&tunnel_key(&world, 1), &payload).1;
    let before = dropped(&world, 1, DropReason::Mac);
    for source in [member.socket, beacon_socket()] {
        // The channel's number and an old MAC, or none, around an INIT that would be answered.
        world.send_udp(source, b, [&to_b.2[..12], &init].concat());
        world.send_udp(source, b, [&to_b.2[..4], &[0; 8], &init].concat());
        // Frames to the beacon, sent back; another channel.
        for (_, _, frame) in frames.iter().filter(|p| p.1 == beacon_socket()) {
            world.send_udp(source, b, frame.clone());
        }
        world.send_udp(source, b, [&[0x30, 0, 0, 77], &to_b.2[4..12], &init].concat());
    }
    world.run(secs(1));
    assert!(dropped(&world, 1, DropReason::Mac) >= before + 4);
    let sent_by_b = world.wire.take().unwrap();
    // By the relay, too, an answer would be a handshake packet.
    let first = |p: &Packet| p.2[if p.2[0] == 0x30 { 12 } else { 0 }];
    let is_answer = |p: &&Packet| p.0 == b && (0x10..0x20).contains(&first(p));
    let answers = sent_by_b.iter().filter(is_answer).count();
    assert_eq!(answers, 0, "nothing was answered");
    assert_eq!(received(&world, 1), [b"before"]);
    talk(&mut world, 0, 1, b"after");
}

/// W-C14. The attacker copies every packet of two relayed agents and is faster, from an address
/// of its own: it is asked whether it can answer, and gets nothing else.
#[test]
fn who_copies_packets_faster_gets_a_challenge_and_no_data() {
    let mut world = friends(15, 2, PathPolicy::Auto);
    world.cut_agents(0, 1);
    let id = world.connect(0, 1, 7);
    let accepted = accept(&mut world, 1);
    let thief = SocketAddr::from(([203, 0, 113, 66], 6666));
    let b = world.agents[1].socket;
    let mut stolen = Vec::new();
    let (mut got, mut back) = (Vec::new(), Vec::new());
    let bytes = pattern(3000);
    for chunk in bytes.chunks(30) {
        world.wire = Some(Vec::new());
        assert_eq!(world.write(0, id, chunk), chunk.len());
        assert_eq!(world.write(1, accepted, chunk), chunk.len());
        world.drain();
        let copies = world.wire.take().unwrap();
        for (_, to, packet) in copies {
            if to == beacon_socket() && packet[0] == 0x30 {
                world.send_udp(thief, b, packet[12..].to_vec());
            }
        }
        world.wire = Some(Vec::new());
        world.run(ms(100));
        let sent_now = world.wire.take().unwrap();
        stolen.extend(sent(&sent_now, b, thief).into_iter().map(<[u8]>::len));
        world.read(1, accepted, &mut got);
        world.read(0, id, &mut back);
    }
    world.run(secs(1));
    world.read(1, accepted, &mut got);
    world.read(0, id, &mut back);
    assert!(got == bytes && back == bytes, "{} and {} bytes", got.len(), back.len());
    // F2: 12 bytes, 9, 16.
    assert!(!stolen.is_empty() && stolen.iter().all(|len| *len == 37), "{stolen:?}");
    assert!(stolen.len() <= 40, "{} challenges in ten seconds", stolen.len());
    assert_ne!(endpoint(&world, 1, 0), Some(thief));
}

/// W-C14. A firewall keeps two agents on the relay; some time after it is gone, and before a rekey
/// looks for paths anyway, they have left the relay.
#[test]
fn the_relay_is_left_when_a_direct_path_opens() {
    let mut world = friends(22, 2, PathPolicy::Auto);
    world.cut_agents(0, 1);
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    world.run(secs(40));
    let path = |w: &World, n: usize| w.agents[n].node.peers().next().expect("a peer").path;
    assert_eq!([0, 1].map(|n| path(&world, n)), [PathKind::Relayed; 2]);
    world.cut.clear();
    let direct = |w: &mut World| [0, 1].iter().all(|n| path(w, *n) == PathKind::Direct);
    world.run_until(secs(45), direct);
    for n in [0, 1] {
        assert_eq!(endpoint(&world, n, 1 - n), Some(world.agents[1 - n].socket));
    }
}

/// W-C14. A trusted agent challenges from forged sources: each of these hears no more than three
/// times what was sent in its name, and no more than one a second is challenged back.
#[test]
fn challenges_from_forged_sources_are_not_multiplied() {
    let mut world = friends(23, 2, PathPolicy::Auto);
    let b = world.agents[1].socket;
    world.kill(0);
    let mut thief = Thief::copy(&world, 0);
    let mut session = thief.open(&mut world, 1);
    world.run(secs(5));
    world.wire = Some(Vec::new());
    let victims: Vec<_> =
        (0..40).map(|n| SocketAddr::from(([203, 0, 113, 66], 6000 + n))).collect();
    let mut asked = 0;
    for victim in &victims {
        let mut frame = [0; 12 + 9 + 16];
        frame[12] = control::PATH_CHALLENGE;
        session.seal(world.now, &RUST_CRYPTO, &mut frame, 9).unwrap();
        asked = frame.len();
        world.send_udp(*victim, b, frame.to_vec());
        world.run(ms(100));
    }
    world.run(secs(10));
    let wire = world.wire.take().unwrap();
    let back: Vec<usize> = victims.iter().map(|v| sent(&wire, b, *v).len()).collect();
    assert!(back.iter().all(|count| (1..=3).contains(count)), "{back:?}");
    let longest = wire.iter().filter(|p| victims.contains(&p.1)).map(|p| p.2.len()).max();
    assert_eq!(longest, Some(asked), "answers as long as the question");
    let challenged = back.iter().filter(|count| **count > 1).count();
    assert!((3..=5).contains(&challenged), "{challenged} in four seconds");
}

/// W-C15. Both nodes believe that they listen on some other port: what counts is where the
/// beacon sees the very socket of the tunnel.
#[test]
fn the_endpoint_told_to_peers_is_that_of_the_tunnels_socket() {
    let mut world = World::new(16, Link::CLEAN, 0);
    for n in 0..2 {
        let path_policy = PathPolicy::Direct;
        world.add(Config { limits: test_limits(), path_policy, ..Config::default() });
        let mut wrong = world.agents[n].socket;
        wrong.set_port([0, 9][n]);
        world.command(n, Command::NetworkChanged { locals: &[wrong] });
    }
    world.register();
    world.trust(0, 1);
    world.listen(1, 7);
    let took = world.transfer(0, 1, 7, &pattern(5000), secs(10));
    assert!(took <= secs(2), "{took:?}");
    for (at, of) in [(0, 1), (1, 0)] {
        assert_eq!(endpoint(&world, at, of), Some(world.agents[of].socket));
        assert_eq!(world.agents[of].node.observed(), Some(world.agents[of].socket));
    }
}

/// W-C16. Whatever looks like an answer of the STUN server or of the beacon, from its address:
/// only what decrypts in the beacon's session says where we are.
#[test]
fn nobody_else_tells_a_node_where_it_is() {
    let mut world = friends(17, 2, PathPolicy::Auto);
    let (beacon, b) = (beacon_socket(), world.agents[1].socket);
    let wrong = SocketAddr::from(([203, 0, 113, 66], 6666));
    let mut response = [0; stun::MESSAGE_MAX];
    let request = stun::Response { transaction: [7; 12], mapped: wrong, origin: None, other: None };
    let len = stun::encode_response(&request, false, &mut response).unwrap();
    world.wire = Some(Vec::new());
    let mut index = None;
    let mut forged = 0;
    // A minute holds four keepalives; the forgeries overtake each of their answers.
    for _ in 0..600 {
        world.run(ms(100));
        for (from, to, packet) in world.wire.replace(Vec::new()).unwrap() {
            if (from, to) == (beacon, b) && is_frame(&packet) {
                index = Some(packet[..4].to_vec());
            }
        }
        for source in [beacon, wrong] {
            world.send_udp(source, b, response[..len].to_vec());
        }
        let Some(index) = &index else { continue };
        for id in 0..60 {
            let ack = FromBeacon::KeepaliveAck { observed: wrong, waiting: false };
            let mut message = [0; control::MESSAGE_MAX];
            let n = control::encode(id, &ack, &mut message).unwrap();
            forged += 1;
            let counter = 1000 + forged as u64;
            let frame = [&index[..], &counter.to_be_bytes(), &message[..n], &[0; 16]].concat();
            world.send_udp(beacon, b, frame);
        }
        assert_eq!(world.agents[1].node.observed(), Some(b));
    }
    assert!(forged > 1000);
    assert!(dropped(&world, 1, DropReason::Decrypt) > 1000);
    assert!(dropped(&world, 1, DropReason::Unasked) >= 590, "answers that nobody asked for");
    talk(&mut world, 0, 1, b"after");
}

/// W-C17. No answer is answered: every packet that was captured, sent to each of the two in the
/// other's name, costs at most one packet, and then all is quiet.
#[test]
fn no_packet_makes_two_nodes_answer_each_other() {
    let mut world = friends(18, 2, PathPolicy::Direct);
    world.wire = Some(Vec::new());
    send(&mut world, 0, 1, b"before");
    world.run(secs(5));
    let captured = world.wire.replace(Vec::new()).unwrap();
    let (a, b) = (world.agents[0].socket, world.agents[1].socket);
    let handshake = captured.len();
    assert!(handshake <= 60, "{handshake} packets for one datagram");
    let mut injected = 0;
    for (_, _, packet) in &captured {
        for (from, to) in [(a, b), (b, a)] {
            world.send_udp(from, to, packet.clone());
            injected += 1;
        }
    }
    world.run(secs(60));
    let caused = world.wire.replace(Vec::new()).unwrap().len() - injected;
    // Two agents' keepalives with the beacon are among them.
    assert!(caused <= injected + 30, "{caused} packets for {injected}");
    world.run(secs(300));
    world.wire = Some(Vec::new());
    world.run(secs(60));
    let wire = world.wire.take().unwrap();
    let between = wire.iter().filter(|p| p.0 != beacon_socket() && p.1 != beacon_socket());
    assert_eq!(between.count(), 0, "all is quiet");
}

/// W-B6. A peer that is trusted and lies names a victim as its candidate, in as many offers as it
/// can send, and says each time that it is ready: what reaches the victim stays below the bound of
/// two episodes in 5 s, the peer's and our own, and no spray goes there.
#[test]
fn who_names_a_victim_makes_no_flood_of_it() {
    let mut world = friends(16, 2, PathPolicy::Auto);
    let victim = SocketAddr::from(([203, 0, 113, 99], 53));
    world.kill(1);
    let mut thief = Thief::copy(&world, 1);
    let mut session = thief.open(&mut world, 0);
    world.wire = Some(Vec::new());
    let target = world.agents[0].socket;
    let mut say = |world: &mut World, content: &[u8]| {
        let mut frame = vec![0; 12 + content.len() + 16];
        frame[12..12 + content.len()].copy_from_slice(content);
        session.seal(world.now, &RUST_CRYPTO, &mut frame, content.len()).unwrap();
        world.send_udp(thief.socket, target, frame);
    };
    let endpoint = |kind| Endpoint { kind, address: victim };
    let seconds = 20;
    for n in 0..seconds * 100_u16 {
        // Every technique's turn: the NAT byte says what our end should make of it.
        let nat = Nat::from_byte([0, 0x1D, 0x2F, 0x3F, 0x4F][usize::from(n) % 5]);
        let kinds = [EndpointKind::Predicted, EndpointKind::Observed, EndpointKind::Host];
        let offer =
            Offer { attempt: 8 + n, nat, candidates: kinds.map(endpoint).into_iter().collect() };
        let mut plain = [0; OFFER_MAX];
        let len = offer.encode(&mut plain);
        say(&mut world, &plain[..len]);
        say(&mut world, &encode_primed(8 + n, Primed::Ready));
        world.run(ms(10));
    }
    let wire = world.wire.take().unwrap();
    let hits: Vec<&Packet> = wire.iter().filter(|p| p.1.ip() == victim.ip()).collect();
    // A round: one first punch and ten more; eight rounds an episode at the very most.
    let bound = usize::from(seconds) / 5 * 2 * 8 * 11;
    assert!(!hits.is_empty(), "candidates of a trusted peer are tried");
    assert!(hits.len() <= bound, "{} packets in {seconds} s", hits.len());
    assert!(hits.iter().all(|p| p.1 == victim && p.2.len() == 37), "no port but the named one");
    println!("{} packets of 37 bytes to the victim for {} offers", hits.len(), seconds * 100);
}
