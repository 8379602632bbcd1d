//! Seeds of the services' streams: tasks, events, files, directories.

use super::s;
use crate::tape::Script;
use pilot_core::crypto::task::Step;
use pilot_core::service::exchange::{ContentHash, HashAlgorithm};

/// Seeds of a stream of tasks: see the choices in `talk::World::step`.
pub(super) fn talks() -> Vec<Script> {
    let stored = || s().byte(7).byte(8).word(9999);
    // As who is admitted, and tells.
    let work = || s().byte(9).byte(1).byte(2).byte(1).then(stored());
    let state = |task: u8, step: Step| s().byte(1).byte(task).byte(step as u8 - 1);
    let say = |task, step| state(task, step).byte(2).byte(0);
    let quiet = |task, step| state(task, step).byte(0).byte(0);
    let act = |task: u8, step: Step| s().byte(5).byte(task).byte(step as u8 - 1);
    let answer = |task: u8, verdict: u8| s().byte(4).byte(task).byte(verdict);
    let pass = |ms: u16| s().byte(6).word(ms);
    let lie = |task, step, lie: u8| state(task, step).byte(2).byte(lie).byte(3);
    let submitted = || s().byte(1).then(work()).then(answer(0, 0)).then(work());
    let accepted = || submitted().then(quiet(0, Step::Accept)).then(work());
    let begun = || accepted().then(quiet(0, Step::Start)).then(work());
    let taken = || s().byte(0).then(say(1, Step::Submit)).then(work());
    let working = || taken().then(act(1, Step::Accept)).then(act(1, Step::Start)).then(work());
    vec![
        submitted(),
        begun().then(say(0, Step::Progress)).then(say(0, Step::Complete)).then(work()),
        begun()
            .then(say(0, Step::Complete))
            .then(work())
            .then(s().byte(3).byte(0).quad(9).byte(1))
            .then(work()),
        accepted()
            .then(act(0, Step::Cancel))
            .then(work())
            .then(answer(0, 2))
            .then(quiet(0, Step::Start))
            .then(work()),
        submitted().then(say(0, Step::Decline)).then(work()),
        s().byte(1).then(work()).then(answer(0, 5)).then(work()).then(pass(5001)).then(work()),
        s().byte(1).then(work()).then(answer(0, 9)).then(work()).then(answer(0, 0)).then(work()),
        working()
            .then(answer(1, 0))
            .then(act(1, Step::Complete))
            .then(work())
            .then(answer(1, 0))
            .then(work())
            .then(s().byte(3).byte(1).quad(9).byte(0))
            .then(work()),
        working().then(quiet(1, Step::Cancel)).then(work()),
        taken()
            .then(say(2, Step::Submit))
            .then(say(3, Step::Submit))
            .then(say(4, Step::Submit))
            .then(work()),
        taken().then(pass(60_001)).then(work()),
        lie(1, Step::Submit, 8).then(work()),
        s().byte(1)
            .then(lie(9, Step::Cancel, 64))
            .then(work())
            .then(lie(9, Step::Cancel, 0))
            .then(work()),
        begun()
            .then(lie(0, Step::Complete, 1))
            .then(work())
            .then(lie(0, Step::Complete, 16))
            .then(work()),
        s().byte(1).then(s().byte(0).chunk(&[0, 0, 0, 20, 0, 0, 0, 4, 0, 0, 0, 1])).then(work()),
        s().byte(1)
            .then(say(1, Step::Submit))
            .then(s().byte(9).byte(1).byte(0).byte(1))
            .then(s().byte(9).byte(0)),
    ]
}

fn event_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

pub(super) fn trees() -> Vec<Script> {
    let entry = |kind: u8, name: &str| [&[kind, name.len() as u8], name.as_bytes()].concat();
    let file = |name: &str, data: &[u8]| {
        [&entry(2, name)[..], &(data.len() as u64).to_be_bytes(), data].concat()
    };
    let inner = [entry(1, "b"), file("empty", b""), vec![0], file("c", b"hello")].concat();
    let contents = [
        vec![0],
        [file("a", b"content"), inner.clone(), vec![0]].concat(),
        [entry(1, "d").repeat(33), vec![0; 34]].concat(),
        [file("a", b""), file("a", b""), vec![0]].concat(),
        [entry(1, "a"), vec![0], file("a", b""), vec![0]].concat(),
        [file("../a", b""), vec![0]].concat(),
        [inner, vec![0, 0]].concat(),
        [entry(1, &"n".repeat(255)).repeat(5), vec![0; 6]].concat(),
    ];
    let mut seeds: Vec<Script> =
        contents.iter().map(|content| s().byte(1).raw(&[3; 8]).raw(content)).collect();
    let entries = s().byte(1).chunk(b"a").chunk(b"data").byte(2).chunk(b"b");
    let entries = entries.byte(1).chunk(b"c").chunk(b"").byte(0).byte(1).chunk(b"z").chunk(b"z");
    seeds.push(s().byte(0).then(entries));
    seeds
}

pub(super) fn events() -> Vec<Script> {
    let subscribe = |flags: u8, pattern: &str| {
        event_frame(16, &[&[0, 0, 0, 1, flags], pattern.as_bytes()].concat())
    };
    let publish = |flags: u8, topic: &str, data: &[u8]| {
        let (len, topic) = (topic.len() as u8, topic.as_bytes());
        event_frame(18, &[&[0, 0, 0, 2, flags, len], topic, data].concat())
    };
    let event = |flags: u8, topic: &str, data: &[u8]| {
        let (len, topic) = (topic.len() as u8, topic.as_bytes());
        event_frame(20, &[&[flags, 0, 0, 0, 0, 0, 9, len], topic, data].concat())
    };
    let unsubscribe = event_frame(17, b"\0\0\0\x03a.*");
    let ping = event_frame(22, &[0, 0, 0, 4]);
    let patterns = ["a", "a.*", "b.>", "*", ">"].map(|pattern| subscribe(1, pattern)).concat();
    let kept = ["a.1", "a.2", "b.1", "b.2", "a.1"].map(|topic| publish(3, topic, b"kept")).concat();
    let many = publish(1, "a.b", &[7; 100]).repeat(12);
    let inputs = [
        [patterns.clone(), many.clone(), ping.clone()].concat(),
        [kept.clone(), patterns.clone(), publish(2, "a.1", b""), subscribe(1, "a.1")].concat(),
        [subscribe(0, "a.*"), unsubscribe.clone(), unsubscribe, publish(0, "a.b", b"x")].concat(),
        [patterns, ping.repeat(300)].concat(),
        [subscribe(0, "own.>"), publish(3, "own.topic", b"mine"), many].concat(),
        [kept, b"\0\x03t/1\0\0\0\x02hi".to_vec()].concat(),
    ];
    let mut seeds = Vec::new();
    for (n, input) in inputs.iter().enumerate() {
        seeds.push(s().byte(0).raw(&[2; 8]).byte(n as u8 % 3).raw(input));
    }
    let done = |request: u8, code: u8| event_frame(19, &[0, 0, 0, request, code, 0, 0, 0, 3]);
    let dropped = event_frame(21, &[0, 0, 0, 0, 0, 0, 1, 0]);
    let told = [done(1, 0), event(1, "a.b", b"kept"), dropped, event(0, "a", b""), done(2, 1)];
    seeds.push(s().byte(1).raw(&[1; 8]).byte(2).raw(&told.concat()));
    seeds.push(s().byte(1).raw(&[1; 8]).byte(1).raw(&[done(1, 0), done(2, 0)].concat()));
    seeds.push(s().byte(1).raw(&[1; 8]).byte(0).raw(&event(0, "a b", b"x")));
    for patterns in [[0, 4], [2, 3], [1, 4]] {
        let steps = [2, 0, 9, 2, 2, 30, 0, 3, 3, 200, 2, 1, 255, 2, 2, 255, 1].repeat(6);
        seeds.push(s().byte(2).raw(&patterns).raw(&steps));
    }
    seeds
}

fn exchange_frame(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), body].concat()
}

pub(super) fn exchanges() -> Vec<Script> {
    let hash = |content: &[u8]| pilot_core::crypto::kdf::sha256(&[content]);
    let end = |content: &[u8]| exchange_frame(18, &[&[1; 16][..], &[1], &hash(content)].concat());
    let offered = |kind: u8, size: u64, name: &str| {
        let body = [
            &[1; 16][..],
            &[kind],
            &size.to_be_bytes(),
            &[name.len() as u8],
            name.as_bytes(),
            &[0, 2],
            b"hi",
        ];
        body.concat()
    };
    let push = |kind: u8, content: &[u8]| {
        let head = exchange_frame(20, &offered(kind, content.len() as u64, ""));
        [head, content.to_vec(), end(content)].concat()
    };
    let offer = |kind: u8, size: u64, name: &str| exchange_frame(16, &offered(kind, size, name));
    let whole = [offer(1, 5, ""), b"hello".to_vec(), end(b"hello")].concat();
    let file =
        [offer(4, 3, "a.txt"), b"abc".to_vec(), end(b"abc"), offer(4, 0, "con.txt")].concat();
    let blake3 = ContentHash::of(HashAlgorithm::Blake3, b"abc");
    let blake3 = exchange_frame(18, &[&[1; 16][..], &[2], blake3.bytes()].concat());
    let blake3 = [offer(0x24, 3, "b.txt"), b"abc".to_vec(), blake3].concat();
    let wrong = [offer(2, 2, ""), b"xy".to_vec(), end(b"yx")].concat();
    let plain = [
        exchange_frame(1, b"text"),
        exchange_frame(4, &[&[0, 5][..], b"a.txt", b"content"].concat()),
        exchange_frame(4, &[&[0, 2][..], b"..", b"content"].concat()),
    ];
    let receiver =
        |choices: u8, input: &[u8]| s().byte(0).raw(&[2; 8]).raw(&[choices; 4]).raw(input);
    let mut seeds = Vec::new();
    let pushed = [push(1, b"one"), push(3, b""), push(9, b"?"), push(2, b"two")].concat();
    for choices in [0, 1, 2, 3, 8, 16] {
        seeds.push(receiver(choices, &whole));
        seeds.push(receiver(choices, &plain.concat()));
        seeds.push(receiver(choices, &pushed));
    }
    seeds.extend([receiver(0, &file), receiver(0, &wrong)]);
    let answer = |id: u8, code: u8, offset: u64| {
        exchange_frame(17, &[&[id; 16][..], &[code], &offset.to_be_bytes()].concat())
    };
    let receipt = |id: u8, code: u8, content: &[u8]| {
        exchange_frame(19, &[&[id; 16][..], &[code], &hash(content)].concat())
    };
    let sender = |input: &[u8]| s().byte(1).raw(&[3; 8]).word(2).raw(input);
    seeds.push(sender(&[answer(0, 0, 0), receipt(0, 0, &[5; 2]), answer(1, 1, 0)].concat()));
    seeds.push(sender(&[answer(0, 0, 1), receipt(0, 1, &[5; 2]), answer(1, 4, 0)].concat()));
    seeds.push(sender(&answer(0, 0, 9)));
    seeds.push(s().byte(2).word(0).byte(7).chunk(b"a.txt").chunk(b"note").raw(b"content"));
    seeds.push(s().byte(2).word(3).byte(0).chunk(b"").chunk(b"").raw(b"some text"));
    seeds.push(s().byte(2).word(9).byte(255).chunk(b"b").chunk(b"").raw(b""));
    seeds.push(receiver(0, &blake3));
    seeds
}
