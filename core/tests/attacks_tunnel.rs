//! Attacks on the handshakes and sessions of real nodes, with the real rendezvous machine, on
//! virtual time; rows of `docs/attacks.md`. The attacker sees every packet, sends from any
//! address, and may have somebody's home in its hands.

#[path = "support/friends.rs"]
mod friends;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/thief.rs"]
mod thief;

use friends::*;
use pair::*;
use pilot_core::crypto::record::RecordFields;
use pilot_core::crypto::{Identity, Record, TunnelSecret};
use pilot_core::node::{Command, Config, Event, PathKind, PathPolicy, StreamEnd};
use pilot_core::session::payload::InitPayload;
use pilot_core::stats::DropReason;
use pilot_core::time::UnixTime;
use pilot_core::wire::control;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use thief::{Thief, datagram, registry_key, tunnel_key};

/// W-C1. A member who is trusted himself shows a peer's address and record, or one that he
/// signed in its name, after that peer has authenticated.
#[test]
fn nobody_passes_for_a_peer_that_has_authenticated() {
    let mut world = friends(1, 3, PathPolicy::Auto);
    talk(&mut world, 0, 1, b"before");
    let registry = registry_key(&world, 1);
    let genuine = Thief::copy(&world, 0);
    let mut member = Thief::copy(&world, 2);
    let mine = member.payload(&world, 1);
    let peers_record = InitPayload {
        src: genuine.address,
        record: Some(genuine.record.to_short()),
        ..mine.clone()
    };
    let stolen_address = InitPayload { src: genuine.address, ..mine.clone() };
    let fields =
        RecordFields { tunnel: member.secret.public(), serial: 9, ..genuine.record.fields };
    let mut signed = Record::sign(&member.identity, &registry, fields).to_short();
    signed.0[..32].copy_from_slice(&genuine.identity.public().0);
    let forged = InitPayload { record: Some(signed), ..peers_record.clone() };
    let bare = InitPayload { record: None, ..peers_record.clone() };
    for (what, payload) in [
        ("the peer's address", stolen_address),
        ("the peer's record", peers_record),
        ("a record in its name", forged),
        ("no record", bare),
    ] {
        let before = dropped(&world, 1, DropReason::Untrusted);
        let (_, back) = member.knock(&mut world, 1, &payload);
        assert!(back.is_empty(), "{what}");
        assert_eq!(dropped(&world, 1, DropReason::Untrusted), before + 1, "{what}");
        assert_eq!(endpoint(&world, 1, 0), Some(world.agents[0].socket), "{what}");
    }
    talk(&mut world, 0, 1, b"after");
    // He is let in as himself, so all of that failed for its own reasons.
    let own = member.payload(&world, 1);
    assert_eq!(member.knock(&mut world, 1, &own).1.len(), 1);
}

/// W-C2. Published packets, bare inner packets, and inner packets in the clothes of a data frame
/// with the right index, all in cleartext.
#[test]
fn cleartext_is_taken_from_nobody() {
    let mut world = friends(2, 2, PathPolicy::Auto);
    world.wire = Some(Vec::new());
    talk(&mut world, 0, 1, b"before");
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    world.run(secs(1));
    let (a, b) = (world.agents[0].socket, world.agents[1].socket);
    let wire = world.wire.take().unwrap();
    let last = sent(&wire, a, b).into_iter().rfind(|p| is_frame(p)).unwrap().to_vec();
    let inner = datagram(world.address(0), world.address(1), PORT, b"injected");
    let close = vec![control::CLOSE, 2];
    let events = world.agents[1].events.len();
    for content in [&inner, &close] {
        let published = [b"PILT", &content[..]].concat();
        for packet in [content.clone(), published] {
            world.send_udp(a, b, packet);
        }
        for counter in [1_u64, 100, 1000] {
            let frame = [&last[..4], &counter.to_be_bytes(), content, &[0; 16]].concat();
            world.send_udp(a, b, frame);
        }
    }
    world.run(secs(2));
    assert_eq!(received(&world, 1), [b"before"]);
    assert_eq!(world.agents[1].events.len(), events, "{:?}", world.agents[1].events);
    assert!(dropped(&world, 1, DropReason::Decrypt) >= 4);
    assert!(world.agents[0].node.streams().any(|s| s.id == id), "the stream is there");
    talk(&mut world, 0, 1, b"after");
}

const SECRET: &[u8] = b"nobody but the other end reads this";

fn shows(wire: &[Packet]) -> bool {
    wire.iter().any(|(_, _, packet)| packet.windows(SECRET.len()).any(|w| w == SECRET))
}

/// W-C3. The attacker loses every answer to a handshake: nothing but INITs leaves, however long
/// it lasts, and the application is told.
#[test]
fn without_keys_nothing_is_sent_and_the_owner_is_told() {
    let mut world = friends(3, 2, PathPolicy::Direct);
    world.run(secs(1));
    world.wire = Some(Vec::new());
    let (a, b) = (world.agents[0].socket, world.agents[1].socket);
    world.cut.insert((b, a));
    let id = world.connect(0, 1, 7);
    assert_eq!(world.write(0, id, SECRET), SECRET.len());
    send(&mut world, 0, 1, SECRET);
    let told = |w: &mut World| w.saw(0, Event::StreamClosed(id, StreamEnd::Unreachable));
    let took = world.run_until(secs(200), told);
    assert!(took >= secs(80), "it tried: {took:?}");
    world.run(secs(60));
    let wire = world.wire.take().unwrap();
    let sent = sent(&wire, a, b);
    assert!(sent.len() > 20 && sent.iter().all(|p| p[0] == 0x10), "only INITs");
    assert!(!shows(&wire));
}

/// W-C3. Only the RESP comes through, so data is sent in a session that nobody confirms.
#[test]
fn what_is_sent_with_keys_is_encrypted_from_the_first_byte() {
    let mut world = friends(4, 2, PathPolicy::Direct);
    world.run(secs(1));
    world.wire = Some(Vec::new());
    let (a, b) = (world.agents[0].socket, world.agents[1].socket);
    world.lose =
        Some(|from, _, packet| from.ip().to_string() == "198.51.100.2" && is_frame(packet));
    let id = world.connect(0, 1, 7);
    assert_eq!(world.write(0, id, SECRET), SECRET.len());
    send(&mut world, 0, 1, SECRET);
    world.run(secs(20));
    let wire = world.wire.take().unwrap();
    let frames = sent(&wire, a, b).into_iter().filter(|p| is_frame(p) && p.len() > 80).count();
    assert!(frames > 0, "data was sent");
    assert!(!shows(&wire));
}

/// W-C4. Everything that was ever captured is sent again, to its addressee, to its sender and
/// from elsewhere: while the session lives, when it is over, after a restart of either.
#[test]
fn what_was_captured_means_nothing_later() {
    let mut world = friends(5, 2, PathPolicy::Auto);
    world.wire = Some(Vec::new());
    talk(&mut world, 0, 1, b"one");
    let id = world.connect(0, 1, 7);
    let accepted = accept(&mut world, 1);
    world.run(secs(300));
    let captured = world.wire.take().unwrap();
    assert!(captured.iter().filter(|p| p.2[0] == 0x10).count() >= 3, "rekeys are among them");
    let now = world.now;
    world.agents[0].node.release(now, id);
    world.agents[1].node.release(now, accepted);
    let elsewhere = SocketAddr::from(([203, 0, 113, 66], 6666));
    for (round, what) in ["alive", "idle", "1 restarted", "0 restarted"].iter().enumerate() {
        match round {
            1 => world.run(secs(400)),
            2 | 3 => restart(&mut world, 3 - round),
            _ => {}
        }
        let before = [0, 1].map(|n| received(&world, n).len());
        world.wire = Some(Vec::new());
        for (from, to, packet) in &captured {
            for source in [*from, elsewhere] {
                world.send_udp(source, *to, packet.clone());
            }
            world.send_udp(*to, *from, packet.clone());
            world.run(ms(1));
        }
        world.run(secs(1));
        let wire = world.wire.take().unwrap();
        for n in [0, 1] {
            assert_eq!(received(&world, n).len(), before[n], "{what}");
            let answers = sent(&wire, world.agents[n].socket, elsewhere);
            // A process that has not forgotten answers with the number that it knows, at most.
            let opened = answers.iter().filter(|p| p[0] == 0x11).count();
            assert!(round >= 2 || opened == 0, "{what}: {opened} old handshakes were answered");
            assert!(answers.iter().all(|p| !is_frame(p)), "{what}");
            assert_ne!(endpoint(&world, n, 1 - n), Some(elsewhere), "{what}");
        }
        world.transfer(0, 1, 7, b"there", secs(5));
        world.transfer(1, 0, 7, b"and back", secs(5));
        talk(&mut world, 0, 1, what.as_bytes());
    }
}

fn restart(world: &mut World, n: usize) {
    world.kill(n);
    world.run(secs(1));
    world.revive(n);
    world.run(secs(5));
    world.listen(n, 7);
    world.command(n, Command::BindDatagrams { port: PORT });
}

/// W-C5. The network doubles and reorders every packet of a fresh pair: one handshake, and each
/// datagram arrives once.
#[test]
fn doubled_handshakes_lose_nothing_and_make_nothing_twice() {
    for seed in 0..8 {
        let mut world = friends(50 + seed, 2, PathPolicy::Direct);
        world.run(secs(1));
        world.link = Link { jitter: ms(15), duplicates: 1000, ..Link::CLEAN };
        world.wire = Some(Vec::new());
        let numbered: Vec<Vec<u8>> = (0..30_u8).map(|n| vec![n; 20]).collect();
        for payload in &numbered {
            send(&mut world, 0, 1, payload);
        }
        world.run(secs(5));
        let mut got: Vec<&[u8]> = received(&world, 1);
        got.sort_unstable();
        assert_eq!(got, numbered, "seed {seed}");
        let wire = world.wire.take().unwrap();
        let (a, b) = (world.agents[0].socket, world.agents[1].socket);
        let of_kind = |from, to, kind| {
            let own = sent(&wire, from, to).into_iter().filter(|p| p[0] == kind);
            own.collect::<BTreeSet<_>>().len()
        };
        assert_eq!((of_kind(a, b, 0x10), of_kind(b, a, 0x11)), (1, 1), "seed {seed}");
        // No nonce was used for two contents.
        let mut frames = BTreeMap::new();
        for (_, _, packet) in wire.iter().filter(|p| is_frame(&p.2)) {
            let before = frames.insert(&packet[..12], packet);
            assert!(before.is_none_or(|before| before == packet), "seed {seed}");
        }
    }
}

/// W-C6. Frames with genuine indices and any counter, but no right tag, move no window; and the
/// first frame of all cannot be repeated.
#[test]
fn forged_counters_shut_nobody_out() {
    let mut world = friends(6, 2, PathPolicy::Auto);
    world.wire = Some(Vec::new());
    talk(&mut world, 0, 1, b"before");
    let wire = world.wire.take().unwrap();
    let frames: Vec<&Packet> = wire.iter().filter(|p| is_frame(&p.2)).collect();
    let before = dropped(&world, 1, DropReason::Decrypt);
    for (from, to, frame) in &frames {
        for counter in [0, 1, 5, 100, 1 << 20, 1 << 34, 1 << 63, u64::MAX - 1, u64::MAX] {
            let mut forged = frame.clone();
            forged[4..12].copy_from_slice(&u64::to_be_bytes(counter));
            *forged.last_mut().unwrap() ^= 1;
            world.send_udp(*from, *to, forged);
        }
        world.send_udp(*from, *to, frame.clone());
    }
    world.run(secs(1));
    assert!(dropped(&world, 1, DropReason::Decrypt) > before);
    assert_eq!(received(&world, 1), [b"before"], "and nothing twice");
    talk(&mut world, 0, 1, b"after");
}

/// W-C8. A peer with a session speaks in another peer's name, or to somebody else.
#[test]
fn a_peer_speaks_for_itself_alone() {
    let mut world = friends(8, 3, PathPolicy::Auto);
    let (peer, victim, other) = (world.address(0), world.address(1), world.address(2));
    world.kill(0);
    let mut peer_home = Thief::copy(&world, 0);
    let mut session = peer_home.open(&mut world, 1);
    for (source, destination) in [(other, victim), (victim, victim), (peer, other)] {
        let before = dropped(&world, 1, DropReason::WrongAddress);
        let inner = datagram(source, destination, PORT, b"in another's name");
        peer_home.send(&mut world, &mut session, 1, &inner);
        assert_eq!(dropped(&world, 1, DropReason::WrongAddress), before + 1);
    }
    let elsewhere = pilot_core::addr::Address { network: pilot_core::addr::NetworkId(9), ..peer };
    let there = pilot_core::addr::Address { network: pilot_core::addr::NetworkId(9), ..victim };
    peer_home.send(&mut world, &mut session, 1, &datagram(elsewhere, there, PORT, b"not a member"));
    assert!(received(&world, 1).is_empty());
    peer_home.send(&mut world, &mut session, 1, &datagram(peer, victim, PORT, b"in its own"));
    assert_eq!(received(&world, 1), [b"in its own"]);
}

/// W-C9. All keys are new each two minutes; who loses every later handshake message keeps the
/// old ones in use for 180 s and no longer.
#[test]
fn keys_are_used_for_three_minutes_at_most() {
    for blocked in [false, true] {
        let mut world = friends(9, 2, PathPolicy::Direct);
        let id = world.connect(0, 1, 7);
        world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
        if blocked {
            world.lose = Some(|from, to, packet| {
                let beacon = beacon_socket();
                from != beacon && to != beacon && !is_frame(packet)
            });
        }
        let mut used: BTreeMap<Vec<u8>, (u64, u64)> = BTreeMap::new();
        for second in 0..600_u64 {
            world.wire = Some(Vec::new());
            send(&mut world, 0, 1, SECRET);
            send(&mut world, 1, 0, SECRET);
            world.run(secs(1));
            for (from, to, packet) in world.wire.take().unwrap() {
                if is_frame(&packet) && from != beacon_socket() && to != beacon_socket() {
                    let (_, last) = used.entry(packet[..4].to_vec()).or_insert((second, 0));
                    *last = second;
                }
            }
        }
        let spans: Vec<u64> = used.values().map(|(first, last)| last - first).collect();
        assert!(spans.iter().all(|span| *span <= 180), "blocked {blocked}: {spans:?}");
        assert_eq!(used.len() >= 10, !blocked, "blocked {blocked}: {spans:?}");
    }
}

/// W-C9. A frame belongs to one session and one direction: under any other index that is in use,
/// at any host, it is nothing.
#[test]
fn frames_cannot_be_spliced_or_reflected() {
    let mut world = friends(10, 3, PathPolicy::Auto);
    world.wire = Some(Vec::new());
    for text in [b"one", b"two"] {
        talk(&mut world, 0, 1, text);
        talk(&mut world, 2, 1, text);
    }
    let wire = world.wire.take().unwrap();
    let between = |p: &&Packet| is_frame(&p.2) && p.0 != beacon_socket() && p.1 != beacon_socket();
    let frames: Vec<&Packet> = wire.iter().filter(between).collect();
    let indices: BTreeSet<&[u8]> = frames.iter().map(|p| &p.2[..4]).collect();
    assert!(indices.len() >= 4, "two sessions, two directions each");
    let counts = [0, 1, 2].map(|n| received(&world, n).len());
    for (_, _, frame) in &frames {
        for index in &indices {
            // Also a counter that was not seen yet.
            for ahead in [0, 1000] {
                let counter = u64::from_be_bytes(frame[4..12].try_into().unwrap()) + ahead;
                let spliced = [index, &counter.to_be_bytes()[..], &frame[12..]].concat();
                for from in 0..3 {
                    for to in 0..3 {
                        let (from, to) = (world.agents[from].socket, world.agents[to].socket);
                        world.send_udp(from, to, spliced.clone());
                    }
                }
            }
        }
    }
    world.run(secs(1));
    assert_eq!([0, 1, 2].map(|n| received(&world, n).len()), counts);
    assert!((0..3).all(|n| dropped(&world, n, DropReason::Decrypt) > 0));
    talk(&mut world, 0, 1, b"three");
    talk(&mut world, 2, 1, b"three");
}

/// W-C10. The registry cannot be asked: a stranger is no more welcome than before.
#[test]
fn without_a_registry_no_stranger_gets_in() {
    let mut world = friends(11, 2, PathPolicy::Auto);
    let stranger = world.add(Config { limits: test_limits(), ..Config::default() });
    world.register();
    talk(&mut world, 0, 1, b"before");
    let mut stranger = Thief::copy(&world, stranger);
    let registry = registry_key(&world, 1);
    world.kill_server();
    world.run(secs(60));
    let fields = RecordFields { serial: 1000, ..stranger.record.fields };
    stranger.record = Record::sign(&stranger.identity, &registry, fields);
    for _ in 0..3 {
        let payload = stranger.payload(&world, 1);
        assert!(stranger.knock(&mut world, 1, &payload).1.is_empty());
    }
    assert_eq!(dropped(&world, 1, DropReason::Untrusted), 3);
    talk(&mut world, 0, 1, b"after");
}

/// W-C11. A peer's tunnel key is replaced while we are away and the registry is, too: the peer
/// is known by its identity at once, and the old key opens nothing any more.
#[test]
fn a_rotated_key_is_taken_at_once_and_the_old_one_refused() {
    let mut world = friends(12, 2, PathPolicy::Auto);
    talk(&mut world, 0, 1, b"before");
    let mut old = Thief::copy(&world, 0);
    for n in [0, 1] {
        world.kill(n);
    }
    world.kill_server();
    world.run(secs(31 * 86_400));
    world.revive_server();
    world.revive(0);
    world.run(secs(60));
    let mut new = Thief::copy(&world, 0);
    assert_ne!(new.secret.public(), old.secret.public(), "it was rotated");
    assert!(new.record.fields.serial > old.record.fields.serial);
    world.kill_server();
    world.kill(0);
    world.revive(1);
    world.run(secs(5));
    let payload = new.payload(&world, 1);
    let (_, back) = new.knock(&mut world, 1, &payload);
    assert_eq!(back.iter().filter(|p| p[0] == 0x11).count(), 1, "the new key");
    world.run(secs(30));
    for (what, record) in [("with its record", Some(old.record.to_short())), ("alone", None)] {
        let payload = InitPayload { record, ..old.payload(&world, 1) };
        assert!(old.knock(&mut world, 1, &payload).1.is_empty(), "the old key {what}");
    }
}

/// W-C12. 20,000 INITs a second from as many addresses, all by unknown ids with a right mac1,
/// while the registry is away: streams go on, and a peer gets in within a second.
#[test]
fn a_flood_of_unknown_ids_stalls_nobody() {
    let mut world = friends(13, 3, PathPolicy::Auto);
    let stranger = world.add(Config { limits: test_limits(), ..Config::default() });
    world.register();
    talk(&mut world, 2, 1, b"before");
    world.run(secs(400));
    let id = world.connect(0, 1, 7);
    let accepted = accept(&mut world, 1);
    world.kill_server();
    world.run(secs(1));
    let mut nobody = Thief::copy(&world, stranger);
    let key = tunnel_key(&world, 1);
    let payload = nobody.payload(&world, 1);
    let inits: Vec<Vec<u8>> = (0..64_u8)
        .map(|n| {
            nobody.secret = TunnelSecret::from_secret([n + 1; 32]);
            nobody.init(&key, &payload).1
        })
        .collect();
    let target = world.agents[1].socket;
    let (mut n, mut opened, mut got) = (0_u32, None, Vec::new());
    let begin = world.now;
    let late = begin + ms(500);
    let mut honest = None;
    while world.now < begin + secs(2) {
        for _ in 0..100 {
            n += 1;
            let source = SocketAddr::from((std::net::Ipv4Addr::from(0x0B00_0000 + n), 9));
            world.send_udp(source, target, inits[n as usize % inits.len()].clone());
        }
        if world.now >= late && honest.is_none() {
            honest = Some(world.connect(2, 1, 7));
        }
        world.write(0, id, b"more");
        world.run(ms(5));
        world.read(1, accepted, &mut got);
        if opened.is_none() && honest.is_some_and(|h| world.saw(2, Event::StreamOpened(h))) {
            opened = Some(world.now);
        }
    }
    let opened = opened.expect("the honest peer is let in").since(late);
    assert!(opened <= secs(1), "{opened:?}");
    assert!(got.len() > 4 * 380, "the stream went on: {} bytes", got.len());
}

/// Key-compromise impersonation: with agent 1's tunnel secret stolen, anybody can make a first
/// message in agent 0's name. Nothing of it is believed, and the real agent 0 gets in.
#[test]
fn a_stolen_responder_key_makes_nobody_a_peer() {
    let mut world = friends(19, 2, PathPolicy::Auto);
    world.run(secs(1));
    let stolen = Thief::copy(&world, 1);
    let mut forger = Thief::copy(&world, 0);
    let key0 = forger.secret.public();
    // The forger does not know agent 0's secret; ss is the same computed with agent 1's.
    assert_eq!(
        forger.secret.agree(&stolen.secret.public()).unwrap().as_bytes(),
        stolen.secret.agree(&key0).unwrap().as_bytes()
    );
    let events = world.agents[1].events.len();
    for ahead in [0, 1 << 40] {
        let mut payload = forger.payload(&world, 1);
        payload.hs_seq += ahead;
        let (initiator, back) = forger.knock(&mut world, 1, &payload);
        // The answer needs agent 0's own secret: with another one it does not open.
        let mut resp = back.into_iter().find(|p| p[0] == 0x11).expect("it is answered");
        let other = Identity::from_secret([9; 32]).secret();
        let other = TunnelSecret::from_secret(*other);
        assert!(initiator.read_resp(&other, &mut resp).is_err());
    }
    assert_eq!(world.agents[1].events.len(), events);
    assert!(world.agents[1].node.peers().all(|p| p.path == PathKind::None));
    world.run(secs(6));
    talk(&mut world, 0, 1, b"after");
}

/// Somebody who rules over our time source sets the clock back a year or ahead ten, before we
/// start and so remember no number: a handshake costs a round trip more, at most, and after the
/// clock is right again, too.
#[test]
fn a_clock_that_is_years_off_shuts_nobody_out() {
    const YEAR: i64 = 365 * 86_400;
    for (seed, years) in [(20, -1), (21, 10)] {
        for n in [0, 1] {
            let mut world = friends(seed, 2, PathPolicy::Auto);
            talk(&mut world, 0, 1, b"before");
            for wrong in [true, false, true] {
                let right = world.unix().as_secs();
                let shifted = right.checked_add_signed(years * YEAR).expect("in range");
                let unix = UnixTime::from_secs(if wrong { shifted } else { right });
                world.kill(n);
                world.run(secs(400));
                world.revive(n);
                world.command(n, Command::ClockChanged { unix });
                world.listen(n, 7);
                // It opens, with a number that the other has long passed or never will.
                for (from, to) in [(n, 1 - n), (1 - n, n)] {
                    world.run(secs(200));
                    let took = world.transfer(from, to, 7, b"in spite of it", secs(10));
                    assert!(took <= ms(500), "{n} is {years} years off, {from} opens: {took:?}");
                }
            }
        }
    }
}
