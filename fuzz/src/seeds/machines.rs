//! Seeds of whole machines: nodes, the rendezvous, sessions and streams.

use super::identity::{p1, p2};
use super::s;
use super::wire::{frame, from_beacon, header, requests, stun_request, to_beacon};
use crate::tape::Script;
use pilot_core::addr::{Address, NodeId};
use pilot_core::wire::control::FromBeacon;
use pilot_core::wire::header::{Flags, Protocol};
use pilot_core::wire::stun;

pub(super) fn demux_node() -> Vec<Script> {
    let raw = |from: u8, packet: &[u8]| s().byte(0).byte(from).chunk(packet);
    let mut seeds = Vec::new();
    let packets = [
        stun_request(stun::Change::default()),
        [&[0x10, 1, 0, 0, 0x80, 0, 0, 1][..], &[7; 322]].concat(),
        [&[0x11, 1, 0, 0, 0x80, 0, 0, 1, 0x80, 0, 0, 2][..], &[7; 112]].concat(),
        [&[0x12, 1, 0, 0, 0x80, 0, 0, 1][..], &[7; 56]].concat(),
        [&[0x13, 1, 0, 0, 0x80, 0, 0, 1][..], &[7; 48]].concat(),
        [0x80; 28].to_vec(),
        [0xFF; 100].to_vec(),
    ];
    for idle in [0, 1] {
        for packet in &packets {
            seeds.push(s().byte(idle).then(raw(1, packet)).then(s().byte(5).word(500)));
        }
    }
    let all = packets.iter().fold(s(), |script, packet| script.then(raw(2, packet)));
    seeds.push(s().byte(0).then(all));
    let change = |n: u8, at: u16| s().byte(2).byte(n).byte(0).word(at).byte(1).byte(0);
    for n in 0..4 {
        let script = change(n, 4).then(change(n, 13)).then(change(n, 60));
        seeds.push(s().byte(1).then(script));
    }
    seeds.push(s().byte(0).then(s().byte(3).chunk(&[0x80; 40]).raw(&[5; 11]).byte(1)));
    seeds
}

pub(super) fn demux_rendezvous() -> Vec<Script> {
    let step = |from: u8, kind: u8| s().byte(from).byte(kind);
    let mut seeds = vec![
        step(1, 0).chunk(&stun_request(stun::Change::default())),
        step(1, 0).chunk(&stun_request(stun::Change { ip: true, port: true })),
        step(1, 2).chunk(&[]).byte(0).byte(1),
        step(1, 2).chunk(&[0x80, 0x22, 0, 0]).byte(0).byte(1).then(step(1, 6).byte(31)),
        step(1, 2).chunk(&[0, 0x24, 0, 4, 0, 0, 0, 1]).byte(0).byte(1),
        step(1, 3).chunk(&p1(true, false)),
        step(1, 4).byte(0).then(step(1, 4).byte(1)).then(step(1, 6).byte(3)),
        step(1, 4).byte(0).then(step(2, 4).byte(1)),
        step(1, 4).byte(0).then(step(1, 5).word(40).byte(1).byte(1)),
        step(1, 0).chunk(&[0x80; 40]),
        step(1, 0).chunk(&[0x30; 60]),
    ];
    let burst = (0..12).fold(s(), |script, _| script.then(step(3, 2).chunk(&[]).byte(0).byte(9)));
    seeds.push(burst.then(step(0, 7).word(500)).then(step(3, 6).byte(20)));
    seeds
}

pub(super) fn handshake_init() -> Vec<Script> {
    let step = |from: u8, kind: u8| s().byte(from).byte(kind);
    let honest = |from: u8| step(from, 1).byte(0).byte(0);
    let confirm = |from: u8| step(from, 6).chunk(&[]);
    let mut seeds = vec![
        honest(1),
        honest(1).then(confirm(1)),
        honest(1).then(step(1, 4)).then(step(2, 4)).then(confirm(1)),
        honest(1).then(honest(1)).then(honest(2)).then(confirm(1)),
        honest(1).then(step(1, 3).word(100).byte(1)),
        step(1, 5).byte(127).then(honest(1)).then(step(1, 1).byte(0).byte(1)),
        // Early data, confirmed and not.
        step(1, 1).byte(1).byte(10).byte(0).word(3000).long(9).word(64).byte(0),
        step(1, 1).byte(1).byte(10).byte(0).word(3000).long(9).word(64).byte(0).then(confirm(1)),
        // Numbers from the past and from the far future.
        step(1, 1).byte(1).byte(5).quad(1).byte(0),
        step(1, 1).byte(1).byte(5).quad(1 << 62).byte(0),
        step(1, 1).byte(1).byte(5).quad((1 << 62) - 1).byte(0).then(confirm(1)).then(honest(1)),
        step(1, 1).byte(1).byte(7).long(u32::MAX).byte(0).then(confirm(1)).then(honest(1)),
        step(1, 1).byte(1).byte(0).byte(1).byte(0).then(confirm(1)),
        honest(1).then(confirm(1)).then(step(1, 7).word(40_000)).then(honest(1)).then(confirm(1)),
    ];
    for (record, early) in [(true, true), (true, false), (false, true), (false, false)] {
        seeds.push(step(1, 0).chunk(&p1(record, early)));
    }
    seeds
}

pub(super) fn handshake_resp() -> Vec<Script> {
    let step = |suite: u8, kind: u8| s().byte(suite).byte(kind);
    // Every packet is followed by where it comes from.
    let honest = || step(0, 1).byte(0).byte(0);
    let frame = |plain: &[u8]| step(0, 6).byte(0).chunk(plain).byte(0);
    let mut seeds = vec![
        honest(),
        honest().then(frame(&[])).then(frame(&[0xF0, 1, 2, 3, 4, 5, 6, 7, 8])),
        honest().then(honest()).then(frame(&[])),
        step(0, 1).byte(1).byte(0).byte(1).byte(0),
        step(0, 1).byte(1).byte(0).byte(9).byte(0),
        step(0, 1).byte(1).byte(5).byte(40).byte(1).byte(0),
        step(0, 1).byte(1).byte(6).raw(&[0x13; 34]).byte(0),
        step(0, 4).byte(0).byte(0).then(honest()),
        step(0, 4).byte(1).quad(1 << 61).byte(0).then(honest()),
        step(0, 4).byte(1).quad(u64::MAX).byte(0).then(step(0, 7).word(3000)),
        step(0, 5).raw(&[5; 16]).byte(0).then(honest()),
        step(0, 5).raw(&[5; 16]).byte(0).then(step(0, 5).raw(&[6; 16]).byte(0)),
        honest().then(step(0, 3).word(50).byte(1).byte(0)),
        step(0, 7).word(5000).then(step(0, 7).word(5000)).then(honest()),
    ];
    for payload in [p2(true, false, None), p2(false, true, None), p2(false, false, None)] {
        seeds.push(step(0, 0).chunk(&payload).byte(0));
    }
    seeds
}

/// Reads and sends of `session`'s tape.
pub(super) fn sessions() -> Vec<Script> {
    let chunk = |plain: &[u8]| s().byte(0).chunk(plain);
    // `packet`: style, flags, port, window, back, then what the style asks for.
    let syn = |port: u8| s().byte(1).byte(2).byte(1).byte(port).byte(64).byte(0).byte(0);
    let answer = |flags: u8, len: u16| {
        let script = s().byte(1).byte(0x80).byte(flags).byte(0).byte(64).byte(0).byte(0);
        script.word(len)
    };
    let bare = |flags: u8| s().byte(1).byte(0).byte(flags).byte(0).byte(64).byte(0).byte(0);
    let listen = || s().byte(14);
    let wait = |span: u16| s().byte(15).word(span).byte(0);
    let ack =
        || s().byte(5).byte(0).byte(0).byte(0).word(0).byte(0).byte(0).byte(1).byte(0).word(64);
    let app = |pick: u8, what: u8| s().byte(10).byte(pick).byte(what);
    let open = || app(0, 0).then(listen()).then(bare(3)).then(listen());
    let incoming = || syn(0).then(listen()).then(bare(2)).then(app(0, 1));
    let accept = |script: Script| script.then(app(0, 3).word(5000)).then(listen()).then(wait(500));
    let mut seeds = vec![
        incoming(),
        accept(incoming().then(answer(2, 100)).then(answer(2, 100))),
        accept(incoming().then(answer(2, 1000)).then(bare(6))),
        incoming()
            .then(app(0, 2).word(5000))
            .then(listen())
            .then(ack())
            .then(wait(2000))
            .then(ack()),
        incoming().then(app(0, 2).word(60_000)).then(listen()).then(wait(60_000)).then(listen()),
        open().then(app(0, 2).word(3000)).then(listen()).then(ack()).then(app(0, 4)),
        open().then(app(0, 5)),
        open().then(bare(8)),
        syn(0).then(syn(1)).then(syn(2)).then(syn(3)).then(app(0, 1)).then(app(0, 6)),
        s().byte(1).byte(3).byte(0).byte(0).byte(0).byte(0).byte(0),
        chunk(&header(Flags::NONE, Protocol::Datagram, (9, 2000), b"datagram")),
        s().byte(8).byte(0).byte(0).then(chunk(&[])).then(s().byte(8).byte(0).byte(0)),
        s().byte(9).byte(3).chunk(&[]).then(listen()).then(s().byte(11)),
        s().byte(12).byte(0).then(incoming()),
        s().byte(12).byte(1).byte(9).byte(2).then(incoming()),
        s().byte(12).byte(2).byte(100),
    ];
    for kind in 0..16 {
        seeds.push(s().byte(7).byte(kind).raw(&[kind; 8]).byte(1).then(wait(100)));
    }
    seeds
}

pub(super) fn streams() -> Vec<Script> {
    // Bit 7 of a choice: which node.
    let flow = |n: usize| (0..n).fold(s(), |script, _| script.byte(13).byte(141).byte(6).byte(134));
    let connect = || s().byte(8).then(flow(4));
    let write = |node: u8, pipe: u8, len: u16| s().byte(node << 7 | 9).byte(pipe).word(len);
    let read = |node: u8, pipe: u8, len: u16| s().byte(node << 7 | 11).byte(pipe).word(len);
    let finish = |node: u8, pipe: u8| s().byte(node << 7 | 12).byte(7).byte(pipe);
    let wait = |span: u8| s().byte(15).byte(span);
    let lose = || s().byte(7).byte(135);
    vec![
        s(),
        s().byte(8),
        connect(),
        connect().then(write(0, 0, 100)).then(flow(2)).then(read(1, 0, 1000)),
        connect().then(write(0, 0, 60_000)).then(flow(12)).then(read(1, 0, 65_000)).then(flow(4)),
        connect().then(write(1, 0, 5000)).then(write(0, 0, 5000)).then(flow(4)).then(finish(0, 0)),
        connect().then(finish(0, 0)).then(flow(2)).then(write(1, 0, 9000)).then(finish(1, 0)),
        connect()
            .then(write(0, 0, 30_000))
            .then(s().byte(13))
            .then(lose())
            .then(wait(20))
            .then(flow(4)),
        connect().then(write(0, 0, 9000)).then(s().byte(13).byte(130).byte(3).byte(131).byte(2)),
        connect().then(s().byte(12).byte(1)).then(flow(4)).then(write(0, 0, 500)).then(flow(4)),
        connect().then(s().byte(12).byte(0).byte(0)).then(flow(4)),
        s().byte(8).byte(136).byte(8).byte(136).then(flow(6)).then(write(0, 1, 900)).then(flow(3)),
        connect().then(write(0, 0, 60_000)).then(flow(3)).then(wait(200)).then(flow(6)),
        connect().then(s().byte(13).byte(133).byte(0).word(20).byte(4)).then(flow(3)),
    ]
}

pub(super) fn registry_open() -> Vec<Script> {
    let step = |pick: u8, kind: u8| s().byte(pick).byte(kind);
    let open = || step(0, 0).byte(1);
    // An honest P1, whole, with the agent's key.
    let hello = |style: u8| step(0, 4).byte(0).byte(style).byte(1).byte(1);
    vec![
        open(),
        open().then(hello(5)),
        open().then(step(0, 3).raw(&[4; 32])).then(hello(5)),
        open().then(step(0, 3).raw(&[4; 32])).then(step(0, 3).raw(&[4; 32])),
        open().then(hello(3)),
        open().then(step(0, 4).byte(0).byte(0).byte(2).byte(1).byte(1)),
        open().then(step(0, 4).byte(0).byte(5).byte(0).byte(1)),
        open().then(step(0, 4).byte(1).chunk(&p1(true, true)).byte(1).byte(1)),
        open().then(step(0, 4).byte(0).byte(5).byte(1).byte(0).word(100)).then(step(0, 6)),
        open().then(step(0, 2).chunk(b"GET / HTTP/1.1\r\n\r\n")),
        open().then(step(0, 2).chunk(b"AOR1\xFF\xFF")),
        open().then(step(0, 2).chunk(b"AOR")).then(step(0, 7).byte(1).word(4000)),
        (0..9).fold(s(), |script, _| script.then(open())).then(step(0, 7).byte(1).word(5000)),
        open().then(open()).then(step(1, 7).byte(0)),
    ]
}

pub(super) fn registry_session() -> Vec<Script> {
    let raw = |n: u8, plain: &[u8]| s().byte(n).byte(0).chunk(plain);
    let ask = |n: u8, id: u8, rest: Script| s().byte(n).byte(1).byte(id).then(rest).byte(0);
    // `to`, then the request and what it asks for.
    let kind = |n: u8| s().byte(2).byte(n);
    let reserve = || ask(2, 1, kind(0).byte(0));
    let register = |n: u8, serial: u8| {
        ask(n, 2, kind(1).byte(serial).byte(0).byte(1).byte(0).byte(0).byte(1).byte(0).raw(&[1; 3]))
    };
    let mut seeds = vec![
        reserve(),
        reserve().then(register(2, 2)),
        register(0, 2),
        register(0, 2).then(register(0, 1)).then(register(0, 0)),
        ask(0, 1, kind(4).byte(2)).then(ask(0, 2, kind(6).byte(0).byte(1).byte(2))),
        ask(0, 1, kind(6).byte(0).byte(0)).then(ask(
            1,
            2,
            kind(10).byte(0).byte(0).byte(0).byte(0),
        )),
        ask(0, 1, kind(8).byte(1)).then(ask(1, 2, kind(11).byte(0).byte(0).byte(0))),
        ask(0, 1, kind(12).byte(0).byte(0).byte(0)).then(ask(1, 2, kind(14).byte(0))),
        ask(0, 1, kind(12).byte(0).byte(0).byte(0)).then(ask(
            1,
            2,
            kind(15).byte(2).byte(1).byte(2),
        )),
        ask(1, 1, kind(18).byte(1)),
        s().byte(0).byte(8).byte(3).byte(1).then(register(0, 2)).then(s().byte(0).byte(8).byte(3)),
    ];
    seeds.extend(requests().iter().map(|plain| raw(0, plain)));
    seeds
}

pub(super) fn beacon_session() -> Vec<Script> {
    let step = |n: u8, kind: u8| s().byte(n).byte(kind);
    let bind = |n: u8, style: u8| step(n, 1).word(7).byte(2).byte(style).byte(1).word(0x3F).byte(0);
    let relay = |n: u8, packet: &[u8]| step(n, 5).byte(0).chunk(packet);
    let mut seeds = vec![
        bind(0, 0),
        bind(0, 0).then(relay(0, &[0x80; 40])).then(relay(1, &[0x90; 28])),
        bind(0, 1),
        bind(0, 2),
        bind(0, 0).then(step(1, 1).word(8).byte(5).byte(1)),
        bind(0, 0).then(step(0, 1).word(8).byte(6).byte(1)).then(relay(1, &[0x80; 40])),
        bind(0, 0).then(step(0, 5).byte(1).chunk(&[0x80; 40]).byte(5).byte(1)),
        step(0, 7).byte(0).raw(&[1; 8]).byte(0).byte(1).then(step(0, 8)),
        step(0, 9).then(bind(0, 0)),
        step(0, 11).word(9000).then(bind(1, 0)),
        bind(0, 0).then(step(0, 11).word(40_000)).then(relay(0, &[0x80; 40])),
    ];
    seeds.extend(to_beacon().iter().map(|message| step(0, 0).chunk(&frame(9, message))));
    seeds
}

pub(super) fn beacon_client() -> Vec<Script> {
    // id choice, observed, then the message.
    let tell = |kind: u8| s().byte(1).byte(1).raw(&[192, 0, 2, 9]).word(4000).byte(kind);
    let ack = || tell(0).byte(0);
    let channel = |id: u8| tell(3).byte(0).byte(0).byte(1).byte(0).byte(1).byte(id).byte(1).byte(0);
    let init = || s().byte(6).byte(0).byte(0);
    let data = |plain: &[u8]| s().byte(7).byte(0).chunk(plain).byte(0).byte(0);
    let wait = |span: u16| s().byte(9).word(span);
    let mut seeds = vec![
        ack(),
        ack().then(channel(0)),
        ack().then(channel(0)).then(init()).then(data(&[])),
        ack().then(channel(0)).then(init()).then(data(&[])).then(data(&[0xF7, 2])),
        ack().then(channel(0)).then(init()).then(data(&[0xF0, 1, 2, 3, 4, 5, 6, 7, 8])),
        ack().then(channel(0)).then(channel(1)).then(tell(7).byte(0)).then(init()),
        ack().then(channel(0)).then(wait(2000)).then(init()).then(data(&[])).then(wait(4000)),
        ack().then(tell(1).byte(1)).then(tell(2)),
        ack().then(tell(9).byte(1).long(1000)),
        ack().then(tell(8).byte(7)),
        wait(1000).then(wait(5000)),
    ];
    seeds.extend(from_beacon().iter().map(|message| s().byte(0).chunk(&frame(1, message))));
    let nobody = Address::backbone(NodeId(99));
    let mut stranger = from_beacon();
    for message in &mut stranger {
        if let FromBeacon::Channel(info) | FromBeacon::Bound(info) = message {
            info.peer = nobody;
            seeds.push(s().byte(0).chunk(&frame(1, message)));
        }
    }
    seeds
}
