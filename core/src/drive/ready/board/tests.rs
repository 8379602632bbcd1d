//! What is listed, and who is roused.

use super::*;
use std::sync::mpsc;
use std::thread;
use std::vec::Vec;

/// A board and how often its loop was roused.
fn board() -> (Board, Arc<AtomicUsize>) {
    let roused = Arc::<AtomicUsize>::default();
    let counts = Arc::clone(&roused);
    let board = Board::new(move || {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    assert!(board.take_turn() && board.take_chores());
    (board, roused)
}

fn listed(board: &Board) -> Vec<Ready> {
    core::iter::from_fn(|| board.next_ready()).collect()
}

#[test]
fn a_readiness_is_listed_once_and_in_order() {
    let (board, _) = board();
    let a = Waker::listed(&board, bit::READABLE);
    let b = Waker::listed(&board, bit::ACCEPTABLE);
    assert_ne!(a.id(), b.id());
    let write = a.with(bit::WRITABLE);
    for waker in [&a, &b, &a, &write, &a] {
        waker.clone().wake();
    }
    let all = [Ready::Readable(a.id()), Ready::Writable(a.id()), Ready::Acceptable(b.id())];
    assert_eq!(listed(&board), all);
    assert!(!board.has_ready());
    // Taken means that it can come again, also while the source is still listed.
    a.clone().wake();
    write.clone().wake();
    assert_eq!(board.next_ready(), Some(Ready::Readable(a.id())));
    a.clone().wake();
    assert_eq!(listed(&board), [Ready::Readable(a.id()), Ready::Writable(a.id())]);
}

#[test]
fn nothing_is_told_of_a_handle_that_is_gone() {
    let (board, _) = board();
    let (a, b) = (Waker::listed(&board, bit::DATAGRAM), Waker::listed(&board, bit::EVENT));
    a.clone().wake();
    b.clone().wake();
    a.close();
    assert_eq!(listed(&board), [Ready::Event(b.id())]);
}

#[test]
fn the_same_waker_is_known_as_such() {
    let (board, _) = board();
    let a = Waker::listed(&board, bit::READABLE);
    assert!(a.is_same(&a.with(bit::READABLE)));
    assert!(!a.is_same(&a.with(bit::WRITABLE)));
    assert!(!a.is_same(&Waker::listed(&board, bit::READABLE)));
}

#[test]
fn a_loop_is_roused_by_others_once_and_only_when_it_sleeps() {
    let (board, roused) = board();
    let (turns, chores) = board.wakers();
    let stream = Waker::listed(&board, bit::READABLE);
    let from_elsewhere = |waker: &Waker| {
        let waker = waker.clone();
        thread::spawn(move || waker.wake()).join().unwrap();
        roused.load(Ordering::SeqCst)
    };
    assert_eq!(from_elsewhere(&turns), 0);
    assert!(!board.fall_asleep(), "a turn is due");
    assert!(board.is_turn_due() && board.take_turn() && !board.take_turn());
    assert_eq!(from_elsewhere(&stream), 0);
    assert!(!board.fall_asleep(), "something is ready");
    assert_eq!(listed(&board).len(), 1);
    assert!(board.fall_asleep());
    assert_eq!(from_elsewhere(&chores), 1);
    assert_eq!(from_elsewhere(&stream), 1);
    assert_eq!(from_elsewhere(&turns), 1);
    board.wake_up();
    assert!(board.take_turn() && board.take_chores());
    assert_eq!(listed(&board).len(), 1);
    // The loop's own thread does not rouse it.
    assert!(board.fall_asleep());
    turns.clone().wake();
    assert_eq!(roused.load(Ordering::SeqCst), 1);
    board.wake_up();
    assert!(!board.fall_asleep());
}

/// Whatever is woken while a loop falls asleep is seen before, or rouses.
#[test]
fn no_wake_up_is_lost_while_falling_asleep() {
    const WAKES: usize = 2000;
    let (rouse, roused) = mpsc::channel();
    let board = Board::new(move || rouse.send(()).unwrap());
    board.take_turn();
    board.take_chores();
    let (seen, is_seen) = mpsc::channel();
    let waker = Waker::listed(&board, bit::READABLE);
    let waking = thread::spawn(move || {
        for _ in 0..WAKES {
            waker.clone().wake();
            is_seen.recv_timeout(Duration::from_secs(20)).expect("seen");
        }
    });
    let mut count = 0;
    while count < WAKES {
        board.wake_up();
        while board.next_ready().is_some() {
            count += 1;
            seen.send(()).unwrap();
        }
        if count < WAKES && board.fall_asleep() {
            roused.recv_timeout(Duration::from_secs(20)).expect("roused");
        }
    }
    waking.join().unwrap();
}

#[test]
fn a_thread_waits_for_its_waker_and_no_longer_than_it_may() {
    // Three milliseconds pass between two looks at it.
    let looks = AtomicU64::new(1);
    let clock = move || Instant::from_nanos(looks.fetch_add(1, Ordering::Relaxed) * 3_000_000);
    let short = Some(Duration::from_millis(5));
    assert_eq!(block(&clock, short, |_| Poll::<()>::Pending), None);
    assert_eq!(block(&clock, short, |_| Poll::Ready(7)), Some(7));
    let mut polls = 0;
    let result = block(&clock, Some(Duration::from_secs(20)), |waker| {
        polls += 1;
        if polls == 3 {
            return Poll::Ready(polls);
        }
        let waker = waker.clone();
        thread::spawn(move || waker.wake());
        Poll::Pending
    });
    assert_eq!(result, Some(3));
}
