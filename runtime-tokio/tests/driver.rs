//! The driver with machines that need no protocol, over real sockets.

use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Clock as _, Outlet};
use pilot_core::machine::{Ecn, Ingress, Machine, Path, Reason, SocketId, Timeout, Transmit};
use pilot_core::time::{Duration, Instant};
use pilot_tokio::{BindOptions, Clock, Owner, Sockets, Tokio, UdpDriver};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::task::Waker;

const SEGMENT: usize = 1200;

/// Sends what it is given as trains, counts what it receives, fires one timer.
#[derive(Default)]
struct Toy {
    output: VecDeque<(Path, usize)>,
    echo: bool,
    received: usize,
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

impl Outlet<Toy, Sockets> for Notes {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, _: Instant, _: &mut Toy, io: &mut Sockets, note: Note) {
        if let Note::Open(id) = note {
            pilot_core::drive::Datagrams::open(io, id).unwrap();
        }
        self.notes.push(note);
    }
}

impl Owner<Toy, Tokio> for Notes {
    fn take_woken(&mut self, out: &mut Vec<Waker>) {
        if self.ended || !self.notes.is_empty() {
            out.extend(self.waker.take());
        }
    }

    fn handle_end(&mut self) {
        self.ended = true;
    }
}

type ToyDriver = UdpDriver<Toy, Notes>;

fn spawn(toy: impl FnOnce(Instant) -> Toy) -> (ToyDriver, SocketAddr) {
    let listen = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    let sockets = Sockets::bind(&BindOptions { listen, ..Default::default() }).unwrap();
    let address = sockets.local_addresses().next().unwrap();
    let clock = Clock::start();
    (UdpDriver::spawn(toy(clock.now()), Notes::default(), sockets, clock), address)
}

/// Waits for the next notes.
async fn notes(driver: &ToyDriver) -> Vec<Note> {
    std::future::poll_fn(|cx| {
        driver.peek(|access| {
            let notes = std::mem::take(&mut access.owner.notes);
            if notes.is_empty() && !access.owner.ended {
                access.owner.waker = Some(cx.waker().clone());
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(notes)
        })
    })
    .await
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), future).await.expect("took five seconds")
}

fn send(driver: &ToyDriver, to: SocketAddr, bytes: usize) {
    driver.with(|access| {
        access.machine.last = Some(access.now);
        access.machine.output.push_back((Path::to(to), bytes));
    });
}

async fn round_trip() {
    let (a, _) = spawn(|_| Toy::default());
    let (b, to) = spawn(|_| Toy { echo: true, ..Toy::default() });
    for _ in 0..100 {
        send(&a, to, 64);
        assert_eq!(within(notes(&a)).await, [Note::Received]);
    }
    assert_eq!(b.peek(|access| access.machine.received), 100);
    assert_eq!(a.io_stats().datagrams_out, 100);
}

#[tokio::test]
async fn a_call_from_outside_wakes_the_driver_and_its_answer_wakes_the_caller() {
    round_trip().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_with_several_threads() {
    round_trip().await;
}

#[tokio::test]
async fn a_timer_fires_by_the_clock_and_not_before() {
    let (a, _) =
        spawn(|now| Toy { deadline: Some(now + Duration::from_millis(30)), ..Toy::default() });
    assert_eq!(within(notes(&a)).await, [Note::Fired]);
    // A nearer deadline set from outside is noticed, even by a call that wakes nobody else.
    let at = a.peek(|access| {
        let at = access.now + Duration::from_millis(20);
        access.machine.deadline = Some(at);
        at
    });
    assert_eq!(within(notes(&a)).await, [Note::Fired]);
    let fired = a.peek(|access| access.machine.fired).unwrap();
    assert!(fired >= at);
}

#[tokio::test]
async fn a_deadline_that_moves_back_and_forth_is_kept() {
    let (a, _) =
        spawn(|now| Toy { deadline: Some(now + Duration::from_secs(3600)), ..Toy::default() });
    tokio::task::yield_now().await;
    let set = |ms| {
        a.with(|access| {
            let at = access.now + Duration::from_millis(ms);
            access.machine.deadline = Some(at);
            at
        })
    };
    set(10);
    tokio::task::yield_now().await;
    let at = set(60);
    assert_eq!(within(notes(&a)).await, [Note::Fired]);
    assert!(a.peek(|access| access.machine.fired).unwrap() >= at);
}

/// More than any budget of a turn and any socket buffer: the sender blocks or the receiver
/// lags, and everybody else still runs.
#[tokio::test]
async fn bulk_leaves_in_trains_and_does_not_starve_others() {
    let (a, _) = spawn(|_| Toy::default());
    let (_b, to) = spawn(|_| Toy::default());
    let total = 64 << 20;
    send(&a, to, total);
    let sender = a.clone();
    let other = tokio::spawn(async move {
        let mut turns = 0;
        while sender.io_stats().bytes_out < total as u64 {
            tokio::task::yield_now().await;
            turns += 1;
        }
        turns
    });
    let turns = within(other).await.unwrap();
    assert!(turns > 10, "{turns}");
    let stats = a.io_stats();
    assert_eq!((stats.send_errors, stats.too_large, stats.stalls), (0, 0, 0));
    assert!(stats.sends * 10 < stats.datagrams_out, "{stats:?}");
}

#[tokio::test]
async fn auxiliary_sockets_are_waited_for() {
    let (a, _) = spawn(|_| Toy::default());
    let (b, to) = spawn(|_| Toy { echo: true, ..Toy::default() });
    a.with(|access| {
        access.machine.events.push_back(Note::Open(SocketId(3)));
        access.machine.last = Some(access.now);
    });
    assert_eq!(within(notes(&a)).await, [Note::Open(SocketId(3))]);
    a.with(|access| {
        access.machine.last = Some(access.now);
        let path = Path { socket: SocketId(3), ..Path::to(to) };
        access.machine.output.push_back((path, 10));
    });
    assert_eq!(within(notes(&a)).await, [Note::Received]);
    assert_eq!(b.io_stats().datagrams_in, 1);
}

#[tokio::test]
async fn stopping_sends_what_is_queued_and_frees_the_port() {
    let (a, address) = spawn(|_| Toy::default());
    let (b, to) = spawn(|_| Toy::default());
    a.with(|access| {
        access.machine.last = Some(access.now);
        access.machine.output.extend((0..100).map(|_| (Path::to(to), 100)));
    });
    a.stop(Duration::from_secs(5));
    within(a.ended()).await;
    assert_eq!(a.io_stats().datagrams_out, 100);
    assert!(a.peek(|access| access.owner.ended));
    assert!(a.local_addresses().is_empty());
    std::net::UdpSocket::bind(address).unwrap();
    while within(notes(&b)).await.len() < 100 && b.peek(|access| access.machine.received) < 100 {}
    // Calls after the end find the machine and wake nobody.
    send(&a, to, 1);
    assert_eq!(a.io_stats().datagrams_out, 100);
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let (a, _) = spawn(|_| Toy::default());
    // A machine that never has sent everything.
    let endless = usize::MAX;
    send(&a, a.local_addresses()[0], endless);
    a.stop(Duration::from_millis(50));
    within(a.ended()).await;
    assert!(a.io_stats().datagrams_out > 0);
}
