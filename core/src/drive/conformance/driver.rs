//! The driver of an adapter with machines that need no protocol, over real sockets.

use crate::addr::{Port, SocketAddress};
use crate::drive::{AsyncRuntime, BindOptions, Clock as _, Datagrams, Outlet, Owner, Runtime};
use crate::drive::{Sockets as _, UdpDriver};
use crate::machine::{Ecn, Ingress, Machine, Path, Reason, SocketId, Timeout, Transmit};
use crate::time::{Duration, Instant};
use core::future::poll_fn;
use core::mem;
use core::net::{Ipv4Addr, SocketAddr};
use core::num::{NonZeroU16, NonZeroUsize};
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::Arc;
use std::vec::Vec;

const SEGMENT: usize = 1200;

/// Sends what it is given as trains, counts what it receives, fires one timer.
#[derive(Default)]
struct Toy {
    output: VecDeque<(Path, usize)>,
    echo: bool,
    received: usize,
    /// What had been received when each train was sent.
    heard: Vec<usize>,
    bytes: usize,
    deadline: Option<Instant>,
    fired: Option<Instant>,
    last: Option<Instant>,
    events: VecDeque<Note>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Note {
    Received,
    Fired,
    Open(SocketId),
}

impl Machine for Toy {
    type Event = Note;

    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        _: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        self.last = Some(now);
        self.received += 1;
        self.bytes += datagram.len();
        self.events.push_back(Note::Received);
        if self.echo {
            self.output.push_back((path, datagram.len()));
        }
        Ingress::Handled
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.last = Some(now);
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.fired = Some(now);
            self.events.push_back(Note::Fired);
        }
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.last = Some(now);
        let (path, left) = self.output.front_mut()?;
        let path = *path;
        self.heard.push(self.received);
        let len = (*left).min(SEGMENT * max_segments.get().min(50));
        *left -= len;
        if *left == 0 {
            self.output.pop_front();
        }
        out[..len].fill(7);
        let segment = if len > SEGMENT { NonZeroU16::new(SEGMENT as u16) } else { None };
        Some(Transmit { path, len, segment, ecn: Ecn::NotEct, hop_limit: None })
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        if !self.output.is_empty() {
            return Some(Timeout { at: self.last?, reason: Reason::Output });
        }
        self.deadline.map(|at| Timeout { at, reason: Reason::Sweep })
    }

    fn poll_event(&mut self) -> Option<Note> {
        self.events.pop_front()
    }
}

/// Keeps what was noted, and one waker.
#[derive(Default)]
struct Notes {
    notes: Vec<Note>,
    waker: Option<Waker>,
    ended: bool,
}

impl<D: Datagrams> Outlet<Toy, D> for Notes {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, _: Instant, _: &mut Toy, io: &mut D, note: Note) {
        if let Note::Open(id) = note {
            io.open(id).unwrap();
        }
        self.notes.push(note);
    }
}

impl<R: Runtime<Waker = Waker>> Owner<Toy, R> for Notes {
    fn take_woken(&mut self, out: &mut Vec<Waker>) {
        if self.ended || !self.notes.is_empty() {
            out.extend(self.waker.take());
        }
    }

    fn handle_end(&mut self) {
        self.ended = true;
    }
}

type ToyDriver<R> = UdpDriver<Toy, Notes, R>;

fn spawn<R>(toy: impl FnOnce(Instant) -> Toy) -> (ToyDriver<R>, SocketAddr)
where
    R: AsyncRuntime<Host: Default>,
{
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let sockets = R::Sockets::bind(&BindOptions { listen, ..Default::default() }).unwrap();
    let address = sockets.local_addresses()[0];
    let clock = R::Host::default();
    (UdpDriver::spawn(toy(clock.now()), Notes::default(), sockets, clock), address)
}

/// Lets others run.
async fn give_way<R: AsyncRuntime>() {
    let mut is_given = false;
    poll_fn(|cx| {
        if mem::replace(&mut is_given, true) {
            return Poll::Ready(());
        }
        R::give_way(cx);
        Poll::Pending
    })
    .await;
}

/// Waits for the next notes.
async fn notes<R: AsyncRuntime>(driver: &ToyDriver<R>) -> Vec<Note> {
    poll_fn(|cx| {
        driver.peek(|access| {
            let notes = mem::take(&mut access.owner.notes);
            if notes.is_empty() && !access.owner.ended {
                access.owner.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(notes)
        })
    })
    .await
}

fn send<R: AsyncRuntime>(driver: &ToyDriver<R>, to: SocketAddr, bytes: usize) {
    driver.with(|access| {
        access.machine.last = Some(access.now);
        access.machine.output.push_back((Path::to(to), bytes));
    });
}

/// A packet there and back, a hundred times, each begun by a call of the machine.
pub async fn a_call_from_outside_wakes_the_driver_and_its_answer_wakes_the_caller<
    R: AsyncRuntime<Host: Default>,
>() {
    let (a, _) = spawn::<R>(|_| Toy::default());
    let (b, to) = spawn::<R>(|_| Toy { echo: true, ..Toy::default() });
    for _ in 0..100 {
        send(&a, to, 64);
        assert_eq!(notes(&a).await, [Note::Received]);
    }
    assert_eq!(b.peek(|access| access.machine.received), 100);
    assert_eq!(a.io_stats().datagrams_out, 100);
}

/// The clock, and not the timer, decides.
pub async fn a_timer_fires_by_the_clock_and_not_before<R: AsyncRuntime<Host: Default>>() {
    let (a, _) =
        spawn::<R>(|now| Toy { deadline: Some(now + Duration::from_millis(30)), ..Toy::default() });
    assert_eq!(notes(&a).await, [Note::Fired]);
    // A nearer deadline set from outside is noticed, even by a call that wakes nobody else.
    let at = a.peek(|access| {
        let at = access.now + Duration::from_millis(20);
        access.machine.deadline = Some(at);
        at
    });
    assert_eq!(notes(&a).await, [Note::Fired]);
    let fired = a.peek(|access| access.machine.fired).unwrap();
    assert!(fired >= at);
}

/// Of several deadlines the last one counts.
pub async fn a_deadline_that_moves_back_and_forth_is_kept<R: AsyncRuntime<Host: Default>>() {
    let (a, _) =
        spawn::<R>(|now| Toy { deadline: Some(now + Duration::from_secs(3600)), ..Toy::default() });
    give_way::<R>().await;
    let set = |ms| {
        a.with(|access| {
            let at = access.now + Duration::from_millis(ms);
            access.machine.deadline = Some(at);
            at
        })
    };
    set(10);
    give_way::<R>().await;
    let at = set(60);
    assert_eq!(notes(&a).await, [Note::Fired]);
    assert!(a.peek(|access| access.machine.fired).unwrap() >= at);
}

/// More than any budget of a turn and any socket buffer: the sender blocks or the receiver
/// lags, and everybody else still runs.
pub async fn bulk_leaves_in_trains_and_does_not_starve_others<R: AsyncRuntime<Host: Default>>() {
    let (a, _) = spawn::<R>(|_| Toy::default());
    let (_b, to) = spawn::<R>(|_| Toy::default());
    let total = 64 << 20;
    send(&a, to, total);
    let (sender, turns) = (a.clone(), Arc::<AtomicU32>::default());
    let counter = Arc::clone(&turns);
    R::spawn(async move {
        while sender.io_stats().bytes_out < total as u64 {
            give_way::<R>().await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        sender.stop(Duration::ZERO);
    });
    a.ended().await;
    assert!(turns.load(Ordering::Relaxed) > 10, "{turns:?}");
    let stats = a.io_stats();
    assert_eq!((stats.send_errors, stats.too_large, stats.stalls), (0, 0, 0));
    assert!(stats.sends * 10 < stats.datagrams_out, "{stats:?}");
}

/// Acknowledgements that are there are read after two turns' worth of trains at the latest: who
/// always has something to send does not ask an event queue for long.
pub async fn who_sends_all_the_time_hears_meanwhile<R: AsyncRuntime<Host: Default>>() {
    const ANSWERS: usize = 8;
    let (a, address) = spawn::<R>(|_| Toy::default());
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let answer = || assert_eq!(peer.send_to(b"answer", address).unwrap(), 6);
    answer();
    assert_eq!(notes(&a).await, [Note::Received]);
    (0..ANSWERS).for_each(|_| answer());
    // Nobody reads them: the system drops what has no room.
    let total = 64 * 50 * SEGMENT;
    send(&a, peer.local_addr().unwrap(), total);
    while a.io_stats().bytes_out < total as u64 {
        give_way::<R>().await;
    }
    let heard = a.peek(|access| access.machine.heard.clone());
    let most = 2 * R::BUDGET.sends as usize;
    assert!(heard.len() > most);
    assert_eq!(heard[most..].iter().find(|n| **n < 1 + ANSWERS), None, "{heard:?}");
}

/// What comes in by a socket that the machine has opened wakes the driver, too.
pub async fn auxiliary_sockets_are_waited_for<R: AsyncRuntime<Host: Default>>() {
    let (a, _) = spawn::<R>(|_| Toy::default());
    let (b, to) = spawn::<R>(|_| Toy { echo: true, ..Toy::default() });
    a.with(|access| {
        access.machine.events.push_back(Note::Open(SocketId(3)));
        access.machine.last = Some(access.now);
    });
    assert_eq!(notes(&a).await, [Note::Open(SocketId(3))]);
    a.with(|access| {
        access.machine.last = Some(access.now);
        let path = Path { socket: SocketId(3), ..Path::to(to) };
        access.machine.output.push_back((path, 10));
    });
    assert_eq!(notes(&a).await, [Note::Received]);
    assert_eq!(b.io_stats().datagrams_in, 1);
}

/// The end is orderly, and nothing happens after it.
pub async fn stopping_sends_what_is_queued_and_frees_the_port<R: AsyncRuntime<Host: Default>>() {
    let (a, address) = spawn::<R>(|_| Toy::default());
    let (b, to) = spawn::<R>(|_| Toy::default());
    a.with(|access| {
        access.machine.last = Some(access.now);
        access.machine.output.extend((0..100).map(|_| (Path::to(to), 100)));
    });
    a.stop(Duration::from_secs(5));
    a.ended().await;
    assert_eq!(a.io_stats().datagrams_out, 100);
    assert!(a.peek(|access| access.owner.ended));
    assert!(a.local_addresses().is_empty());
    std::net::UdpSocket::bind(address).unwrap();
    while b.peek(|access| access.machine.received) < 100 {
        notes(&b).await;
    }
    // Calls after the end find the machine and wake nobody.
    send(&a, to, 1);
    assert_eq!(a.io_stats().datagrams_out, 100);
}

/// Not even for a machine that always has something to send.
pub async fn stopping_does_not_wait_for_ever<R: AsyncRuntime<Host: Default>>() {
    let (a, _) = spawn::<R>(|_| Toy::default());
    // A machine that never has sent everything.
    let endless = usize::MAX;
    send(&a, a.local_addresses()[0], endless);
    a.stop(Duration::from_millis(50));
    a.ended().await;
    assert!(a.io_stats().datagrams_out > 0);
}

/// Makes a test of each case for the driver of an adapter with tasks:
/// `driver_conformance!(Runtime, run)`, where `run` runs a future, and with it what the runtime
/// starts meanwhile.
#[macro_export]
macro_rules! driver_conformance {
    ({ $runtime:ty, $run:path } $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::drive::conformance::run::case::<
                    <$runtime as $crate::drive::Runtime>::Host,
                >(stringify!($case), || {
                    $run($crate::drive::conformance::driver::$case::<$runtime>());
                });
            }
        )*
    };
    ($runtime:ty, $run:path) => {
        $crate::driver_conformance! {
            { $runtime, $run }
            a_call_from_outside_wakes_the_driver_and_its_answer_wakes_the_caller
            a_timer_fires_by_the_clock_and_not_before
            a_deadline_that_moves_back_and_forth_is_kept
            bulk_leaves_in_trains_and_does_not_starve_others
            who_sends_all_the_time_hears_meanwhile
            auxiliary_sockets_are_waited_for
            stopping_sends_what_is_queued_and_frees_the_port
            stopping_does_not_wait_for_ever
        }
    };
}
