//! What an agent holds: at its start, and for each idle peer, session and stream. Prints the
//! tables of `docs/operations.md`.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/pair.rs"]
mod pair;

use allocations::{Counting, held};
use pair::*;
use pilot_core::crypto::{AeadKey, Identity, RUST_CRYPTO};
use pilot_core::limits::Limits;
use pilot_core::machine::Machine as _;
use pilot_core::node::{Config, Event, Node, Storage};
use pilot_core::session::keys::{Expanded, Session};
use pilot_core::slab::{Slab, Slot, Store};
use pilot_core::time::Instant;
use pilot_core::timer::{Cell, Deadlines};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An idle peer with its current session; the project's bound is 16 KiB.
const PEER_MAX: usize = 7_000;
const STREAM_MAX: usize = 1_536;
/// Of a peer that there is not: queue places, deadlines and index cells, which are set up.
const PLACE_RESIDENT_MAX: usize = 192;
/// Of the 8 MB that an idle daemon may have resident, the node's part.
const NODE_RESIDENT_MAX: usize = 3 * 1024 * 1024;

/// The resident memory is the process's, so the tests of this binary take turns.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bytes of one place of a table.
fn place<T>(_: &Store<'_, T>) -> usize {
    size_of::<T>()
}

fn slab_place<T>(_: &Slab<'_, T>) -> usize {
    size_of::<Slot<T>>()
}

/// Bytes of one deadline: an owner's cell in the heap.
fn deadline(_: &Deadlines<'_>) -> usize {
    size_of::<Cell>()
}

fn print(title: &str, rows: &[(&str, usize)]) -> usize {
    println!("{title}");
    for (what, bytes) in rows {
        println!("  {bytes:>6}  {what}");
    }
    let sum = rows.iter().map(|(_, bytes)| bytes).sum();
    println!("  {sum:>6}  in all");
    sum
}

#[test]
fn an_idle_peer_and_an_idle_stream_are_small() {
    let _alone = alone();
    let limits = Limits::desktop();
    let storage = Storage::boxed(&limits);
    let (d, t, s) = (&storage.directory, &storage.tunnel, &storage.transport);
    let session = [
        ("two expanded keys", 2 * size_of::<AeadKey>()),
        (
            "counters, indices and window position",
            size_of::<Session<Expanded>>() - 2 * size_of::<AeadKey>(),
        ),
        ("slot: route, timers, boot id", place(&t.sessions) - size_of::<Session<Expanded>>()),
        ("replay window", limits.replay_words * 8),
        ("index of received frames (2 cells)", 2 * place(&t.indices)),
    ];
    let session = print("a session", &session);
    let peer = [
        ("one session", session),
        ("tunnel: peer, session slots, generations, events", place(&t.peers)),
        ("tunnel: order, queues, deadline", 3 * place(&t.ready) + place(&t.deadlines)),
        (
            "routes: proven ones, sessions, timers",
            place(&storage.links) + deadline(&storage.deadlines),
        ),
        ("trust: record, grants, name", place(&d.peers) + place(&d.nodes)),
        ("transport: queues, lists, resets", place(&s.peers) + deadline(&s.peer_timers)),
        ("one path: loss recovery, congestion control, pacing", slab_place(&s.paths)),
        ("arrivals in one session", slab_place(&s.spaces)),
    ];
    let peer = print("an idle peer", &peer);
    let stream = [
        ("entry: both halves, lists", slab_place(&s.streams)),
        ("bucket and deadline", place(&s.buckets) + deadline(&s.stream_timers)),
    ];
    let stream = print("an idle stream", &stream);
    print(
        "while it lasts",
        &[
            ("a further path of a peer", slab_place(&s.paths)),
            ("arrivals in a further session", slab_place(&s.spaces)),
            ("path challenges and answers to a peer", slab_place(&storage.probes)),
            ("an attempt of ours", place(&t.attempts)),
            ("an answer to an attempt", place(&t.answers) + 2 * place(&t.hashes)),
            ("a frame in flight", place(&s.frames)),
            ("a relay channel", place(&d.channels)),
        ],
    );
    assert!(peer <= PEER_MAX, "{peer}");
    assert!(stream <= STREAM_MAX, "{stream}");
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
fn touched_at_start(limits: Limits) -> (usize, i64) {
    let before = (resident(), held());
    let identity = Identity::from_secret([1; 32]);
    let now = Instant::START;
    let config = Config { limits, ..Config::default() };
    let mut node = Node::boxed(config, identity, &RUST_CRYPTO, [1; 32], now, UNIX);
    node.start(now);
    while node.poll_event().is_some() {}
    (resident().saturating_sub(before.0), held() - before.1)
}

/// Neither at all, nor for each peer that there could be.
#[cfg(target_os = "linux")]
#[test]
fn a_node_that_does_nothing_touches_little() {
    let _alone = alone();
    let (touched, reserved) = touched_at_start(Limits::desktop());
    println!(
        "a node at its start: {} KiB touched of {} KiB reserved",
        touched / 1024,
        reserved / 1024
    );
    assert!(touched <= NODE_RESIDENT_MAX, "{touched}");
    let limits = |peers: usize| Limits { peers, sessions: 2 * peers + 64, ..Limits::desktop() };
    let (few, _) = touched_at_start(limits(1_000));
    let (many, _) = touched_at_start(limits(21_000));
    let each = many.saturating_sub(few) / 20_000;
    println!("a peer that there could be: {each} bytes touched");
    assert!(each <= PLACE_RESIDENT_MAX, "{each}");
}

/// Peers, sessions, streams, a transfer and its end: all of it in what was there at the start.
#[test]
fn nothing_is_allocated_after_the_start() {
    let _alone = alone();
    let mut world = World::new(1, Link::CLEAN, 2);
    let mut allocated = 0;
    world.register();
    world.trust(0, 1);
    world.listen(1, 7);
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    let bytes = pattern(100_000);
    let (mut sent, mut out) = (0, vec![0; 65_536]);
    for _ in 0..200 {
        world.run(ms(10));
        let now = world.now;
        let node = &mut world.agents[0].node;
        let before = allocations::count();
        if let Some(mut stream) = node.stream(id) {
            sent += stream.write(now, &bytes[sent..]).unwrap_or(0);
        }
        node.handle_timeout(now);
        let segments = std::num::NonZeroUsize::MIN;
        let transmit = node.poll_transmit(now, &mut out, segments);
        allocated += allocations::count() - before;
        if let Some(transmit) = transmit {
            let (from, to) = (world.agents[0].socket, transmit.path.remote);
            world.send_udp(from, to, out[..transmit.len].to_vec());
        }
    }
    assert!(sent > 50_000, "{sent}");
    assert_eq!(allocated, 0);
}
